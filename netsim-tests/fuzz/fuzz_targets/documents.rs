#![no_main]
//! See `epsilon_fuzz::documents`.

epsilon_fuzz::target!(documents);
