//! From an invite to a member.

use std::net::Ipv4Addr;

use super::Roles;
use crate::clock::Timestamp;
use crate::document::Document;
use crate::id::{NodeId, PublicKey};
use crate::name::{NodeName, Tag};
use crate::wire::{WireError, wire_struct};

/// The most tags that an invite may give.
const MAX_TAGS: usize = 16;

/// Leave to issue member certificates; signed by an admin.
///
/// Its key pair travels in the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invite {
    /// The key that signs member certificates.
    pub key: PublicKey,
    /// The most that a certificate may allow.
    pub roles: Roles,
    /// What every member that comes by it is tagged with.
    pub tags: Vec<Tag>,
    /// When it was made.
    pub issued: Timestamp,
    /// From when on it admits nobody; `None` for never.
    pub expires: Option<Timestamp>,
    /// How many nodes it admits; `None` for as many as the network holds.
    pub uses: Option<u32>,
}
wire_struct!(Invite { 0 => key, 1 => roles, 2 => tags, 3 => issued, 4 => expires, 5 => uses }
check |invite| if invite.tags.len() <= MAX_TAGS {
    Ok(())
} else {
    Err(WireError::Invalid("invite: too many tags"))
});
impl Document for Invite {
    const TYPE: &'static str = "invite";
}

/// That a node is a member; signed with an invite's key.
///
/// It can be back-dated by whoever holds the token, so it binds only together
/// with an [`Introduction`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberCertificate {
    /// Who.
    pub node: NodeId,
    /// What it may be.
    pub roles: Roles,
    /// The tags of its invite.
    pub tags: Vec<Tag>,
    /// When, by the node's own clock: information only.
    pub issued: Timestamp,
}
wire_struct!(MemberCertificate { 0 => node, 1 => roles, 2 => tags, 3 => issued });
impl Document for MemberCertificate {
    const TYPE: &'static str = "certificate";
}

impl MemberCertificate {
    /// Whether an invite allows what the certificate says.
    pub fn is_within(&self, invite: &Invite) -> bool {
        invite.roles.contains(self.roles) && self.tags == invite.tags
    }
}

/// That a member met a node at a time, and what the node then claimed; signed
/// by the member after checking the invite's expiry, uses and revocation, and
/// that it knew of nobody else with the claimed address or name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduction {
    /// Who was met.
    pub node: NodeId,
    /// When, by the signer's trusted time.
    pub at: Timestamp,
    /// What the signer vouches for.
    pub facts: NodeFacts,
}
wire_struct!(Introduction { 0 => node, 1 => at, 2 => facts });
impl Document for Introduction {
    const TYPE: &'static str = "introduction";
}

/// What an [`Introduction`] vouches for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeFacts {
    /// That this invite admitted the node.
    pub invite: Option<PublicKey>,
    /// That it claimed this address.
    pub ipv4: Option<Ipv4Addr>,
    /// That it claimed this name.
    pub name: Option<NodeName>,
}
wire_struct!(NodeFacts { 0 => invite, 1 => ipv4, 2 => name });
