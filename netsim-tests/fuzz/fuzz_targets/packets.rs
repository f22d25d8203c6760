#![no_main]
//! See `epsilon_fuzz::packets`.

epsilon_fuzz::target!(packets);
