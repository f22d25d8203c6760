#![no_main]
//! See `epsilon_fuzz::trust`.

epsilon_fuzz::target!(trust);
