//! The engine of the mesh, without sockets, clocks or randomness of its own.
//!
//! Two kinds of machine that share no memory: [`control::Control`] (one:
//! membership, admission, claims, revocation, path decisions) and
//! [`shard::Shard`] (one per data thread: routes, WireGuard sessions, the
//! packet path). They talk by [`shard::Command`] and [`shard::Report`]; the
//! shell carries them, and everything else, between the engine and the world.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod control;
pub mod dial;
pub mod event;
pub mod founding;
mod limit;
pub mod membership;
mod pair;
pub mod path;
pub mod saved;
pub mod shard;
#[cfg(test)]
mod testing;
pub mod trust;
