//! A fleet for real: real daemons in lab hosts, driven through `epsilon` as a
//! person would.
//!
//! Every test has a lab of its own, so that all of them may run at the same
//! time; one that fails prints what its daemons logged. Labs take root, or a
//! user namespace with /dev/net/tun; where neither is to be had,
//! `EPSILON_E2E=off` leaves these tests out. The programs under test are
//! those of the same build, or those in `EPSILON_BIN_DIR`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod support;

mod clock;
mod commands;
mod dataplane;
mod devices;
mod idle;
mod joining;
mod lifecycle;
mod links;
mod mtu;
mod nat;
mod netcheck;
mod outsider;
mod partition;
mod portmap;
mod refusal;
mod relays;
mod restart;
mod revocation;
mod routes;
mod storage;
