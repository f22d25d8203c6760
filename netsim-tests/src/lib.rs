//! Tests of a whole fleet.
//!
//! [`sim`] is tier 1: the real engine of many nodes over a simulated network,
//! replayable from a seed. Tier 2, real daemons in lab hosts, lives in
//! `tests/`.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod sim;
