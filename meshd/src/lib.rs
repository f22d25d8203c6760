//! The node daemon: a shell around the engine.
//!
//! Sockets, timers, interfaces and disk, and no decisions: those are in
//! `epsilon_mesh`. One [`daemon::Daemon`] serves several [`network`]s; each
//! has one engine, a [`control`] plane, a [`data`] plane and a [`store`];
//! clients ask over the [`api`].
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod api;
pub mod clock;
pub mod config;
pub mod control;
pub mod daemon;
pub mod data;
mod journal;
pub mod log;
mod mark;
pub mod network;
pub mod random;
pub mod store;
pub mod stream;
