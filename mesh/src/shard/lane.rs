//! Several shards of one node: each has the sessions of a part of the peers.
//!
//! All get every order, and each keeps what concerns its own peers. What comes to
//! the wrong one is passed on, as it is: packets of the host for another's peer,
//! and datagrams whose sender only their content tells. The first shard, the
//! front, gets what has no index of a session (first messages of handshakes,
//! beacons), and alone sends and answers probes.

use super::command::{Path, PeerId};

/// Which of how many shards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lane {
    own: u8,
    count: u8,
}

/// What is passed on to another lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Passed {
    /// The number of that lane.
    pub lane: u8,
    /// What it is.
    pub kind: Kind,
}

/// What a lane can be passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A packet for one of its peers: of the host, or to be forwarded.
    Packet,
    /// A datagram of one of its peers.
    Datagram {
        /// How it came.
        from: Path,
        /// The ECN bits of its IP header.
        mark: u8,
    },
}

impl Lane {
    /// One shard for all peers.
    pub const ONLY: Self = Self { own: 0, count: 1 };

    /// The most lanes of a node.
    pub const MOST: u8 = 16;

    /// Every lane of so many, between 1 and [`Self::MOST`].
    pub fn all(count: u8) -> impl Iterator<Item = Self> + Clone {
        let count = count.clamp(1, Self::MOST);
        (0..count).map(move |own| Self { own, count })
    }

    /// Its number, from 0.
    pub fn number(self) -> u8 {
        self.own
    }

    /// How many there are.
    pub fn count(self) -> u8 {
        self.count
    }

    /// The lane that has the sessions of a peer.
    pub fn of(self, peer: PeerId) -> u8 {
        let key = match &peer {
            PeerId::Node(node) => &node.0,
            PeerId::Device(key) => &key.0,
        };
        // Keys are points of a curve: these bits are as good as random. Whoever
        // chooses them slows its own lane down.
        (u16::from_le_bytes([key[4], key[5]]) % u16::from(self.count)) as u8
    }

    pub(super) fn is_front(self) -> bool {
        self.own == 0
    }
}
