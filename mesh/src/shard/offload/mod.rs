//! Packets that stand for many: the host hands over and takes up to 64 KiB at
//! a time, the network carries what fits an MTU.
//!
//! ```text
//!  host ──► split ──────► one packet after the other ──► sealed
//!  host ◄── Coalescer ◄── one packet after the other ◄── opened
//! ```
//!
//! What it promises:
//!
//! * Both keep the order within a flow. Splitting what was coalesced gives the
//!   same packets again, byte for byte; but the identification of IPv4 packets
//!   that must not be fragmented, which means nothing (RFC 6864, section 4.1),
//!   may count up where it stood still.
//! * A packet is coalesced only if it is whole and its checksum holds, so that
//!   the host may be told not to look at it again. All others reach the host as
//!   they came.
//! * No bytes make it panic.

mod checksum;
mod coalesce;
mod header;
mod split;

#[cfg(test)]
mod tests;

pub(super) use checksum::{complement, fold};
pub use coalesce::{Coalescer, MOST_PIECES, SuperPacket};
pub use header::{HEADER_LENGTH, Header, Segments};
pub use split::{Malformed, split};

/// The IP protocol numbers of TCP and UDP.
pub(super) const TCP: u8 = 6;
const UDP: u8 = 17;
/// TCP's flags (RFC 9293, section 3.1; RFC 3168).
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const CWR: u8 = 0x80;
