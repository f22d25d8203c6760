#![no_main]
//! See `epsilon_fuzz::seals`.

epsilon_fuzz::target!(seals);
