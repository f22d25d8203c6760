#![no_main]
//! See `epsilon_fuzz::control`.

epsilon_fuzz::target!(control);
