//! A peer of the node, and in which lane its sessions are.

use epsilon_proto::key::AgreementKey;

use super::super::command::PeerId;
use super::super::peer::Peer;

/// A peer of the node.
pub(super) enum Seat {
    /// Its sessions are here.
    Here(Box<Peer>),
    /// They are in another lane.
    Away { id: PeerId, key: AgreementKey, lane: u8 },
}

impl Seat {
    pub(super) fn id(&self) -> PeerId {
        match self {
            Self::Here(peer) => peer.id,
            Self::Away { id, .. } => *id,
        }
    }

    pub(super) fn key(&self) -> AgreementKey {
        match self {
            Self::Here(peer) => peer.key,
            Self::Away { key, .. } => *key,
        }
    }

    pub(super) fn here(&mut self) -> Option<&mut Peer> {
        match self {
            Self::Here(peer) => Some(peer),
            Self::Away { .. } => None,
        }
    }
}
