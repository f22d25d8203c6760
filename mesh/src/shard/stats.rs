//! What a shard counts.

use std::ops::AddAssign;

use epsilon_proto::clock::Instant;
use epsilon_proto::datagram::Channel;

use super::command::{Path, PeerId};

/// Packets and their bytes, without the overhead of encryption.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// How many packets.
    pub packets: u64,
    /// How many bytes they had together.
    pub bytes: u64,
}

impl Traffic {
    pub(super) fn count(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}

/// The peers of a shard and what it dropped without knowing of whom.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// In the order of their ids.
    pub peers: Vec<PeerStats>,
    /// What is passed on for others, by channel.
    pub channels: Vec<ChannelStats>,
    /// Dropped by reason.
    pub dropped: Dropped,
}

/// The counters of a channel on which this node passes on what two others send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChannelStats {
    /// Which.
    pub channel: Channel,
    /// Datagrams that were passed on, both ways.
    pub passed: Traffic,
    /// Those that were too much.
    pub dropped: u64,
}

/// One peer's counters since it was admitted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerStats {
    /// The peer.
    pub id: PeerId,
    /// How datagrams for it travel.
    pub path: Option<Path>,
    /// Whether there are keys to seal with.
    pub ready: bool,
    /// Packets from the peer that reached the host, or another for whom they
    /// were.
    pub received: Traffic,
    /// Packets to the peer.
    pub sent: Traffic,
    /// When something authentic last came from it.
    pub last_received: Option<Instant>,
    /// When a handshake was last answered or completed.
    pub last_handshake: Option<Instant>,
    /// Dropped by reason.
    pub dropped: PeerDropped,
}

/// Packets of a peer that went nowhere, by reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PeerDropped {
    /// Waited too long, or too many waited, for a session or a path.
    pub waiting: u64,
    /// Forged, repeated, or of a session that is gone.
    pub unopened: u64,
    /// No whole IP packet, or its source address is not the peer's.
    pub source: u64,
    /// Not for an address of this node, or of whoever it forwards to.
    pub destination: u64,
    /// To be forwarded, but at the end of their hop limit.
    pub hops: u64,
    /// Refused by the filter.
    pub filtered: u64,
    /// Marked for congestion on the way, which its ends would not understand.
    pub congestion: u64,
    /// Too large for the path, which their sender was told.
    pub too_large: u64,
    /// Parts of packets that gave way to others before they were whole, and such that
    /// are none.
    pub incomplete: u64,
    /// The batch was full.
    pub no_room: u64,
}

/// What was dropped without knowing of whom, by reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Dropped {
    /// Datagrams of no kind, for no session, or by nobody who is known here.
    pub unknown: u64,
    /// Packets of the host that are no IP packets, or go to a group or to
    /// this node itself.
    pub unsendable: u64,
    /// Packets of the host to an address of no member.
    pub unroutable: u64,
    /// Beacons beyond the rate.
    pub beacons: u64,
    /// To be passed on as a relay, but more than was agreed, or than there was room
    /// for.
    pub relayed: u64,
    /// For another lane, which does not keep up.
    pub passed: u64,
    /// Reports that Control did not take in time.
    pub reports: u64,
}

impl AddAssign for Dropped {
    fn add_assign(&mut self, other: Self) {
        self.unknown += other.unknown;
        self.unsendable += other.unsendable;
        self.unroutable += other.unroutable;
        self.beacons += other.beacons;
        self.relayed += other.relayed;
        self.passed += other.passed;
        self.reports += other.reports;
    }
}
