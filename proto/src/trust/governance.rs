//! What admins decide, and the other documents that every member keeps for
//! ever.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{GenesisBlock, Invite, MemberCertificate};
use crate::clock::{HybridTime, Timestamp};
use crate::document::{Document, Signed};
use crate::id::{DeviceId, Digest, NodeId, PublicKey};
use crate::name::NodeName;
use crate::sealed::SealedBox;
use crate::wire::{self, WireError, wire_enum, wire_struct};

/// That a key may sign as an admin; signed by the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminGrant {
    /// The key: usually a node's, whose daemon then acts for the admin.
    pub key: PublicKey,
    /// Whose it is, for people.
    pub name: String,
    /// When.
    pub issued: Timestamp,
}
wire_struct!(AdminGrant { 0 => key, 1 => name, 2 => issued }
check |grant| if grant.name.len() <= 64 && !grant.name.chars().any(char::is_control) {
    Ok(())
} else {
    Err(WireError::Invalid("admin name"))
});
impl Document for AdminGrant {
    const TYPE: &'static str = "admin";
}

/// Everything about a network that may change; signed by an admin. The
/// highest version counts, among equals the one with the highest hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charter {
    /// Counts up.
    pub version: u64,
    /// When.
    pub issued: Timestamp,
    /// How many members the network admits.
    pub max_members: u32,
}
wire_struct!(Charter { 0 => version, 1 => issued, 2 => max_members });
impl Document for Charter {
    const TYPE: &'static str = "charter";
}

/// What is revoked for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revoked {
    /// A node: its sessions, routes and names end.
    Node(NodeId),
    /// An invite: it admits nobody new.
    Invite(PublicKey),
    /// An invite and everybody who came by it.
    InviteAndMembers(PublicKey),
    /// An admin's key: it decides nothing any more. Root-signed.
    Admin(PublicKey),
    /// A device.
    Device(DeviceId),
}
wire_enum!(Revoked { 0 => Node, 1 => Invite, 2 => InviteAndMembers, 3 => Admin, 4 => Device });

/// A revocation; signed by an admin, for an admin's key by the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// What.
    pub revoked: Revoked,
    /// When.
    pub issued: Timestamp,
    /// By which invite a revoked node came, so that its use stays used.
    pub came_by: Option<PublicKey>,
}
wire_struct!(Revocation { 0 => revoked, 1 => issued, 2 => came_by });
impl Document for Revocation {
    const TYPE: &'static str = "revocation";
}

/// That a node left by its own will; signed by the node. It outlives the
/// node's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Departure {
    /// When, by the node's clock.
    pub at: Timestamp,
    /// That it was let in: a made-up key has nothing to leave.
    pub certificate: Signed<MemberCertificate>,
}
wire_struct!(Departure { 0 => at, 1 => certificate });
impl Document for Departure {
    const TYPE: &'static str = "departure";
}

/// That an address or a name belongs to a node, whatever others claim; signed
/// by an admin. Of several for one node, the latest counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// Whose.
    pub node: NodeId,
    /// Orders the pins.
    pub at: HybridTime,
    /// The IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// The name.
    pub name: Option<NodeName>,
    /// The IPv6 addresses of nodes that this one replaces, besides its own.
    pub inherited: Vec<Ipv6Addr>,
}
wire_struct!(Pin { 0 => node, 1 => at, 2 => ipv4, 3 => name, 4 => inherited }
check |pin| if pin.inherited.len() <= Pin::MAX_INHERITED {
    Ok(())
} else {
    Err(WireError::Invalid("pin: too many inherited addresses"))
});
impl Pin {
    /// The most addresses that a node may inherit.
    pub const MAX_INHERITED: usize = 16;
}
impl Document for Pin {
    const TYPE: &'static str = "pin";
}

/// A new secret for the gate, sealed to every member that remains; signed by
/// an admin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateEpoch {
    /// Counts up.
    pub epoch: u32,
    /// The hash of the secret, by which its opener knows that it is whole.
    pub check: Digest,
    /// One box a member.
    pub boxes: Vec<(NodeId, SealedBox)>,
}
wire_struct!(GateEpoch { 0 => epoch, 1 => check, 2 => boxes });
impl Document for GateEpoch {
    const TYPE: &'static str = "gate-epoch";
    /// Some 130 bytes for each member.
    const MAX_BYTES: usize = 320 * 1024;
}

/// A document that every member keeps for ever: a grow-only set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkDocument {
    /// Who may act as an admin.
    Grant(Signed<AdminGrant>),
    /// What is revoked.
    Revocation(Signed<Revocation>),
    /// How the cluster of a generation begins.
    Genesis(Signed<GenesisBlock>),
    /// What may change.
    Charter(Signed<Charter>),
    /// Leave to admit nodes.
    Invite(Signed<Invite>),
    /// Addresses and names that do not move.
    Pin(Signed<Pin>),
    /// A new secret for the gate.
    GateEpoch(Signed<GateEpoch>),
    /// A node that left.
    Departure(Signed<Departure>),
}
wire_enum!(NetworkDocument {
    0 => Grant,
    1 => Revocation,
    2 => Genesis,
    3 => Charter,
    4 => Invite,
    5 => Pin,
    6 => GateEpoch,
    7 => Departure,
});

impl NetworkDocument {
    /// The hash by which it is known.
    pub fn digest(&self) -> Digest {
        Digest::of(&wire::encode(self))
    }

    /// Who claims to have signed it.
    pub fn signer(&self) -> PublicKey {
        match self {
            Self::Grant(signed) => signed.signer(),
            Self::Revocation(signed) => signed.signer(),
            Self::Genesis(signed) => signed.signer(),
            Self::Charter(signed) => signed.signer(),
            Self::Invite(signed) => signed.signer(),
            Self::Pin(signed) => signed.signer(),
            Self::GateEpoch(signed) => signed.signer(),
            Self::Departure(signed) => signed.signer(),
        }
    }

    /// Documents with a lower rank never depend on those with a higher one.
    pub fn rank(&self) -> u8 {
        match self {
            Self::Grant(_) => 0,
            Self::Revocation(_) => 1,
            Self::Genesis(_)
            | Self::Charter(_)
            | Self::Invite(_)
            | Self::Pin(_)
            | Self::GateEpoch(_) => 2,
            Self::Departure(_) => 3,
        }
    }
}
