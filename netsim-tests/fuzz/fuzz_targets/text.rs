#![no_main]
//! See `epsilon_fuzz::text`.

epsilon_fuzz::target!(text);
