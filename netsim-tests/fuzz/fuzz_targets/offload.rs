#![no_main]
//! See `epsilon_fuzz::offload`.

epsilon_fuzz::target!(offload);
