//! What two members say to each other though they may not be linked: it goes
//! through members that are linked with both, who cannot read it.

use std::net::SocketAddr;

use crate::address::is_usable_endpoint;
use crate::id::NodeId;
use crate::wire::{Bytes, WireError, wire_enum, wire_struct};

/// The most addresses in a [`Call`].
pub const MAX_CALL: usize = 12;
/// The longest sealed part of a letter, in bytes.
pub const MAX_SEALED: usize = 1024;
/// How often a letter may be passed on.
pub const MAX_HOPS: u8 = 2;

/// A sealed letter on its way. ChaCha20-Poly1305 with a key that the two runs of
/// the daemons share, the counter as nonce, and the two nodes as associated data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Who sealed it.
    pub from: NodeId,
    /// Who can open it.
    pub to: NodeId,
    /// How often it may yet be passed on.
    pub hops: u8,
    /// Counts what the sender sealed in its run.
    pub counter: u64,
    /// [`Words`].
    pub sealed: Bytes,
}
wire_struct!(Letter {
    0 => from,
    1 => to,
    2 => hops,
    3 => counter,
    4 => sealed,
} check |letter| if letter.sealed.0.len() > MAX_SEALED || letter.hops > MAX_HOPS {
    Err(WireError::Invalid("letter: too long, or to be passed on too often"))
} else {
    Ok(())
});

/// What a letter says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Words {
    /// Probe me where I am.
    Call(Call),
    /// Be the relay between me and another.
    Ask(Ask),
    /// I am, by this channel, or I will not.
    Answer(Answer),
}
wire_enum!(Words { 0 => Call, 1 => Ask, 2 => Answer });

/// Where the sender may be reached, to be probed at once: it probes the receiver
/// at the same time, which opens the NATs between them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Call {
    /// The addresses, best first.
    pub addresses: Vec<SocketAddr>,
    /// Whether the receiver shall say the same of itself.
    pub wants_answer: bool,
}
wire_struct!(Call { 0 => addresses, 1 => wants_answer } check |call| {
    let is_usable = call.addresses.iter().all(|address| is_usable_endpoint(*address));
    if call.addresses.len() > MAX_CALL || !is_usable {
        return Err(WireError::Invalid("call: too many addresses, or one that cannot be one"));
    }
    Ok(())
});

/// The sender wants to reach somebody who named the receiver as its relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Whom.
    pub peer: NodeId,
}
wire_struct!(Ask { 0 => peer });

/// What a relay says to both ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The other end.
    pub peer: NodeId,
    /// The number of the channel; absent when there is none, or no longer.
    pub channel: Option<u32>,
}
wire_struct!(Answer { 0 => peer, 1 => channel });
