//! The shell of the data plane: the mesh interface, the UDP sockets, and the
//! thread that carries packets between them and a [`Shard`].
//!
//! ```text
//!   tokio                    thread `data <interface>`
//!   Handle ── Command ──► ┌───────────────────────────┐
//!   Reports ◄─ Report ─── │ poll ► Shard ► send       │ ◄──► TUN
//!   Stats ◄── 1 s ─────── │                           │ ◄──► UDP v4, v6
//!                         └───────────────────────────┘
//! ```
//!
//! What it promises:
//!
//! * Packets wait for nobody: the thread takes no lock that others hold, and
//!   reports that Control does not take are dropped and counted.
//! * A full socket, a firewall, a route that is gone or an interface that is
//!   down costs packets and is counted; it does not end the thread. An
//!   interface that was deleted does.
//! * When the thread ends, for whatever reason, the channel of reports ends,
//!   and [`Handle::stop`] says why.
//! * The interface outlives the process, with its addresses and routes, so
//!   that connections over the mesh survive a restart. Who leaves the mesh
//!   deletes it by [`epsilon_sys::netlink::Netlink::delete_link`].

mod carrier;
mod error;
mod outlet;
mod socket;
mod stats;
mod thread;
mod tun;

#[cfg(test)]
mod tests;

pub use error::Error;
pub use socket::Sockets;
pub use stats::{DataStats, Failures};
pub use thread::{Config, Handle, Started, start};
pub use tun::Tun;

#[cfg(doc)]
use epsilon_mesh::shard::Shard;
