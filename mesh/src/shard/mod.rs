//! The data plane: routes, WireGuard sessions, the packet path and probes.
//!
//! A [`Shard`] belongs to one thread and shares no memory; where a node has several
//! threads, each peer's sessions are in one of their shards (see [`Lane`]). The thread hands
//! it packets of the host and datagrams of the network, and lends it the
//! batches ([`Output`]) that it writes to; Control talks to it by
//! [`Command`]s and hears from it by [`Report`]s.
//!
//! ```text
//!              Control
//!       Command │   ▲ Report
//!               ▼   │
//!  host ──► handle_packet ───► Output::network ──► UDP, each to its Path
//!  host ◄── Output::host ◄─── handle_datagram ◄── UDP
//! ```
//!
//! What it promises:
//!
//! * A packet reaches the host only if it was sealed by an admitted peer, its
//!   inner source address is that peer's or of a network beyond it, its
//!   destination is this node's or behind it, and the [`ReceiveFilter`] admits
//!   it. If its destination is another's it is forwarded, where one of the two
//!   is a device that this node serves.
//! * Nothing that arrives moves a path to a member: datagrams go where
//!   [`Command::SetPath`] said. To a device they go where it was last heard,
//!   by data that nobody can repeat. Answers to handshakes and probes go where
//!   those came from, and are no longer than they were.
//! * Whoever has no key of a member gets no answer at all, but under a flood of
//!   handshakes a cookie, which is shorter than what it sent.
//! * Packets of one flow keep their order. Once a session stands, a packet
//!   costs no allocation and no lock of ours, unless it goes in parts.
//! * No bytes make it panic, and what strangers send makes nothing grow.
//! * Without traffic it asks for no timer.

mod batch;
mod command;
mod context;
mod ecn;
mod engine;
mod filter;
mod icmp;
mod inner;
mod lane;
mod mss;
pub mod offload;
mod parts;
mod peer;
mod probe;
mod prober;
mod routes;
mod stats;
mod transit;
mod wireguard;

#[cfg(test)]
mod tests;

pub use batch::{
    Batch, HOST_HEADROOM, HostBatch, MAX_DATAGRAM, Output, PassedBatch, SendBatch, Target,
};
pub use command::{Command, Path, PeerId, Relaying, Report, SubnetRoute};
pub use engine::{BEACONS_PER_SECOND, Config, Shard, not_public};
pub use epsilon_proto::prefix::Prefix;
pub use filter::{AdmitAll, ReceiveFilter};
pub use lane::{Kind, Lane, Passed};
pub use peer::{IDLE, UNANSWERED};
pub use probe::{ProbeKey, ProbeKeys, probe_keys};
pub use prober::PROBE_TIMEOUT;
pub use stats::{Dropped, PeerDropped, PeerStats, Stats, Traffic};
pub use transit::CHANNEL_USED;
pub use wireguard::{Entropy, HANDSHAKE_LENGTH, OVERHEAD, WireGuard};
