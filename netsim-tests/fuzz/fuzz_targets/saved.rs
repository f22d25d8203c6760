#![no_main]
//! See `epsilon_fuzz::saved`.

epsilon_fuzz::target!(saved);
