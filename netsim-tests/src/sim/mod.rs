//! Tier 1: the real `epsilon_mesh::control::Control` of many nodes over a
//! simulated network, in virtual time, from one seed.
//!
//! ```text
//!   scenario ──► World ──► queue of events by (time, order)
//!                  │               │
//!      invariants ◄┤               ▼
//!                  │   Control n0, n1, … ──► dial, frames, requests, gossip,
//!                  │        ▲                probes, beacons, commits to disk
//!                  └────────┴── delay, loss, duplicates, partitions, crashes
//! ```
//!
//! The engine, its documents and signatures and what it writes to disk are
//! real. Doubles stand for the network, TCP and the order in which the daemon
//! uses it (`network`, `faults`), gossipsub (`gossip`), the disk (`store`) and the
//! data plane (`plane`); what they promise is what the daemon's own tests
//! hold the real ones to. The same seed gives the same trace; whatever must
//! hold is looked at after every step (`invariant`).

mod act;
mod check;
mod connection;
mod datagram;
mod faults;
mod fleet;
mod gossip;
mod invariant;
mod machine;
mod malice;
mod nat;
mod network;
mod plane;
mod queue;
mod random;
mod replay;
mod store;
mod stream;
mod topology;
mod trace;
mod world;

pub use datagram::Conversation;
pub use fleet::Death;
pub use machine::Traffic;
pub use nat::{Behaviour, Dependence, Nat, Protocol};
pub use random::Random;
pub use replay::{Batch, Case, cases};
pub use topology::{Arrived, INTERNET, NatId, NetworkId, Topology};
pub use world::{Options, World};
