#![no_main]
//! See `epsilon_fuzz::datagrams`.

epsilon_fuzz::target!(datagrams);
