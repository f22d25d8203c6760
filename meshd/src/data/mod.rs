//! The shell of the data plane: the mesh interface, the UDP sockets, and the
//! threads that carry packets between them and a [`Shard`] each.
//!
//! ```text
//!   tokio                    threads `data <interface>`, one for each lane
//!   Handle ── Command ──► ┌───────────────────────────┐
//!   Reports ◄─ Report ─── │ poll ► Shard ► send       │ ◄──► TUN, a queue
//!   Stats ◄── 1 s ─────── │                           │ ◄──► UDP v4, v6
//!   Streams ◄── queues ── │                           │
//!           ── parcels ─► └──── ▲ parcels of other ───┘
//!                               ▼ lanes
//! ```
//!
//! What it promises:
//!
//! * Packets wait for nobody: a thread takes no lock that others hold, and
//!   reports that Control does not take are dropped and counted.
//! * A full socket, a firewall, a route that is gone or an interface that is
//!   down costs packets and is counted; it does not end a thread. An
//!   interface that was deleted does.
//! * When a thread ends, for whatever reason, so do the others, the channel of
//!   reports ends, and [`Handle::stop`] says why.
//! * The interface outlives the process, with its addresses and routes, so
//!   that connections over the mesh survive a restart. Who leaves the mesh
//!   deletes it by [`epsilon_sys::netlink::Netlink::delete_link`].

mod answers;
mod carrier;
mod delivery;
mod error;
mod outlet;
mod overload;
mod parcel;
mod socket;
mod sources;
mod stats;
mod stream;
mod thread;
mod tun;

#[cfg(test)]
mod tests;

pub use error::Error;
pub use socket::Sockets;
pub use stats::{DataStats, Failures};
#[cfg(test)]
pub(crate) use stream::Taken;
pub use stream::{Queue, Streams};
pub use thread::{Handle, LaneConfig, Started, lanes_for, start};
pub use tun::Tun;

#[cfg(doc)]
use epsilon_mesh::shard::Shard;
