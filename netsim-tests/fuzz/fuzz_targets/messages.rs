#![no_main]
//! See `epsilon_fuzz::messages`.

epsilon_fuzz::target!(messages);
