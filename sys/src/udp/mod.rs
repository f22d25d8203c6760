//! Many UDP datagrams in one system call, and many in one message.
//!
//! [`Sender`] joins datagrams for one target into messages that the kernel
//! cuts up (`UDP_SEGMENT`), [`Receiver`] takes messages that the kernel joined
//! (`UDP_GRO`). Both carry the two ECN bits of the IP header (RFC 3168). Where
//! kernel or network card refuse segmentation, datagrams go one by one.

#![allow(unsafe_code, reason = "sendmmsg and recvmmsg with control messages are not in std")]

mod address;
mod control;
mod receive;
mod send;
mod steer;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::ops::AddAssign;

pub use receive::{MESSAGES, Receiver, dropped};
pub use send::Sender;
pub use steer::{MOST_SOURCES, Steering, steer};

/// The two bits of the type of service, or traffic class, that are ECN's.
const ECN: u8 = 0b11;

/// A datagram on its way.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'a> {
    /// To or from whom.
    pub address: SocketAddr,
    /// The address of this host that it came to, where the socket tells
    /// ([`Receiver::tell_own`]), or that it shall come from: otherwise the one that the
    /// kernel prefers.
    pub own: Option<IpAddr>,
    /// The ECN bits of its IP header.
    pub ecn: u8,
    /// Whether it shall be lost where it does not fit, and not be fragmented.
    pub whole: bool,
    /// What it carries.
    pub bytes: &'a [u8],
}

/// How much was carried in how few steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Carried {
    /// System calls, or other steps of which each takes what is there.
    pub calls: u64,
    /// Messages, each of which stands for one packet or for many.
    pub messages: u64,
    /// Packets.
    pub packets: u64,
}

impl AddAssign for Carried {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.messages += other.messages;
        self.packets += other.packets;
    }
}
