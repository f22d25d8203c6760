//! What a shard needs of WireGuard.
//!
//! `super::wireguard` is the real one. The simulator hands in a declared
//! double that keeps the same promises without reading clock or randomness.

use std::net::IpAddr;

use epsilon_proto::id::NodeId;
use epsilon_proto::key::AgreementKey;

/// How many bytes a sealed packet is longer than the packet.
pub const OVERHEAD: usize = 32;

/// The longest message of a handshake. Every buffer that a [`Session`] writes
/// to has at least this length.
pub const HANDSHAKE_LENGTH: usize = 148;

/// The session with one peer: its keys, and the handshake for the next ones.
///
/// Methods write to `into` and give back how many bytes; 0 is nothing.
pub trait Session: Send {
    /// Whether packets can be sealed now.
    fn ready(&self) -> bool;

    /// Seals a packet; an empty one is a keepalive. Nothing unless
    /// [`Self::ready`]. `into` has [`OVERHEAD`] bytes more than the packet.
    fn seal(&mut self, packet: &[u8], into: &mut [u8]) -> usize;

    /// Starts a handshake. Nothing if one is under way, unless `again`.
    fn initiate(&mut self, again: bool, into: &mut [u8]) -> usize;

    /// Takes a message of a handshake, and writes the answer to its sender.
    fn handshake(&mut self, from: IpAddr, datagram: &[u8], into: &mut [u8]) -> Handshake;

    /// Opens a data message; an empty packet is a keepalive. `None` for what
    /// is forged, repeated, or of a session that is gone. `into` is as long
    /// as the datagram.
    fn open(&mut self, datagram: &[u8], into: &mut [u8]) -> Option<usize>;

    /// Moves the timers: every 250 ms while there is traffic, and before the
    /// first use after a pause.
    fn tick(&mut self, into: &mut [u8]) -> Tick;
}

/// What became of a message of a handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Handshake {
    /// The peer began, and the answer goes back. It may be a recording: only
    /// data proves that the peer is there.
    Answered(usize),
    /// The peer answered: packets can be sealed. The answer proves to the
    /// peer that this node is there.
    Completed(usize),
    /// Too many handshakes: the sender shall first prove its address.
    Challenged(usize),
    /// The peer asks for a proof of address, which the next attempt has.
    Deferred,
    /// Forged, repeated, or an answer to nothing.
    Refused,
}

/// What the timers ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tick {
    /// Nothing.
    Quiet,
    /// To send this many bytes: a keepalive or a handshake.
    Send(usize),
    /// To drop the session: its keys are too old or nobody answered.
    Expired,
}

/// Makes sessions, and knows who begins one.
pub trait SessionFactory: Send {
    /// A session with a peer. The peer puts the low 24 bits of `index` into
    /// the upper 24 bits of the receiver index of everything it sends.
    fn create(&self, peer: AgreementKey, index: u32) -> Box<dyn Session>;

    /// Who sent the first message of a handshake.
    fn initiator(&self, from: IpAddr, datagram: &[u8], into: &mut [u8]) -> Initiator;
}

/// Who sent the first message of a handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Initiator {
    /// The holder of this key, if it is no recording.
    Key(AgreementKey),
    /// Not looked at: too many handshakes. The answer makes the sender prove
    /// its address.
    Challenged(usize),
    /// Nobody who knows this node's key.
    Unknown,
}

/// Looks at every packet that a peer sent, after it was opened and its inner
/// source address was found to belong to the peer, before it reaches the
/// host. This is where a packet filter sits.
pub trait ReceiveFilter: Send {
    /// Whether the packet may reach the host.
    fn admits(&self, peer: NodeId, packet: &[u8]) -> bool;
}

/// Admits every packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct AdmitAll;

impl ReceiveFilter for AdmitAll {
    fn admits(&self, _peer: NodeId, _packet: &[u8]) -> bool {
        true
    }
}
