//! What happened, for people and for whoever watches.

use std::net::Ipv4Addr;

use epsilon_proto::id::{BootId, DeviceId, Digest, NodeId, PublicKey};
use epsilon_proto::message::Refusal;
use epsilon_proto::name::NodeName;
use epsilon_proto::prefix::Prefix;

use crate::shard::Path;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A node became a member in this node's view.
    MemberJoined(NodeId),
    /// A member, of this name, left by its own will.
    MemberLeft(NodeId, Option<NodeName>),
    /// A member, of this name, was revoked: it is cut off.
    MemberRevoked(NodeId, Option<NodeName>),
    /// A member is linked.
    PeerUp(NodeId),
    /// A member is not linked any more, and did not come back at once.
    PeerDown(NodeId),
    /// A member's daemon was started again.
    PeerRestarted(NodeId),
    /// A node was not let in.
    Refused(NodeId, Refusal),
    /// This node was not let in by a member.
    RefusedBy(NodeId, Refusal),
    /// This node's record is durable, and out where somebody is linked.
    Published,
    /// This node has an address.
    AddressTaken(Ipv4Addr),
    /// This node had to give an address up to another, after a partition.
    AddressLost(Ipv4Addr),
    /// This node has a name.
    NameTaken(NodeName),
    /// This node had to give a name up to another, after a partition.
    NameLost(NodeName),
    /// A device, of this name, was added by its owner.
    DeviceAdded(DeviceId, NodeName, NodeId),
    /// A device, of this name, was removed, or its owner is no member any more.
    DeviceRemoved(DeviceId, NodeName),
    /// A device, of this name, is served by another node now.
    DeviceMoved(DeviceId, NodeName, NodeId),
    /// So many devices were added, removed, or are served by other nodes now.
    DevicesChanged(usize),
    /// This node is a fallback of more devices than it can serve.
    DevicesWithoutSeat,
    /// A device of this node lost its name or its IPv4 address to another,
    /// after a partition.
    DeviceDisplaced(DeviceId, NodeName),
    /// A document of the network is new.
    DocumentLearned(&'static str, Digest),
    /// A new gate secret is in force.
    GateChanged(u32),
    /// A network is reached through this member now, or through none.
    RouteMoved(Prefix, Option<NodeId>),
    /// The path to a peer moved.
    PathMoved(NodeId, Option<Path>),
    /// Two machines run with this identity: this node's own, or a peer's.
    Cloned {
        /// Whose identity.
        node: NodeId,
        /// The runs that were seen.
        boots: [BootId; 2],
    },
    /// This node was revoked.
    SelfRevoked,
    /// The store takes nothing any more.
    StorageFailing(String),
    /// The store works again.
    StorageRecovered,
    /// The root signed two different genesis blocks for one generation.
    ContradictoryGenesis(u32),
    /// An admin's key was revoked.
    AdminRevoked(PublicKey),
}

impl Event {
    /// Whether somebody should look at it.
    pub fn is_alarm(&self) -> bool {
        matches!(
            self,
            Self::Cloned { .. }
                | Self::SelfRevoked
                | Self::StorageFailing(_)
                | Self::ContradictoryGenesis(_)
                | Self::AddressLost(_)
                | Self::NameLost(_)
                | Self::DeviceDisplaced(..)
                | Self::DevicesWithoutSeat
        )
    }
}
