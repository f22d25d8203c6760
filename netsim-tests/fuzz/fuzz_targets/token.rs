#![no_main]
//! See `epsilon_fuzz::token`.

epsilon_fuzz::target!(token);
