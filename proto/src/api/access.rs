use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{NodeRef, Role, Secret, Time};

/// Until when an invite admits nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Expiry {
    /// Until it is revoked or used up.
    Never,
    /// For so many seconds from now.
    InSeconds(u64),
}

/// Whether an invite still admits nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum InviteState {
    /// It does.
    Active,
    /// Its time is over.
    Expired,
    /// It admitted as many as it may.
    UsedUp,
    /// It was revoked.
    Revoked,
}

/// An invite: the part of a token that decides who may join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Invite {
    /// The invite id.
    pub id: String,
    /// Whether it still admits nodes.
    pub state: InviteState,
    /// The roles that it may give.
    pub roles: Vec<Role>,
    /// The tags that its members get.
    #[serde(default)]
    pub tags: Vec<String>,
    /// When it was made.
    pub created_at: Time,
    /// When it ends; absent if never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
    /// How many nodes it may admit; absent if any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_uses: Option<u32>,
    /// How many nodes it has admitted, as far as this node knows.
    pub uses: u32,
    /// The admin key that signed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<String>,
}

/// A new invite.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenCreateRequest {
    /// The roles that it may give; the daemon's default when empty.
    #[serde(default)]
    pub roles: Vec<Role>,
    /// The tags that its members get.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Until when it admits nodes; the daemon's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Expiry>,
    /// How many nodes it may admit; any number when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
}

/// A token was made. It is shown this once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenCreated {
    /// The network.
    pub network: String,
    /// The invite in the token.
    pub invite: Invite,
    /// The token.
    pub token: Secret,
}

/// The invites of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenList {
    /// The network.
    pub network: String,
    /// One entry per invite.
    pub invites: Vec<Invite>,
}

/// Which invite to revoke.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRevokeRequest {
    /// The invite id, or a beginning of it that fits no other.
    pub invite: String,
    /// Cut off the members that joined by it, too.
    #[serde(default)]
    pub members: bool,
}

/// An invite was revoked, or had been before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenRevoked {
    /// The network.
    pub network: String,
    /// The invite id.
    pub invite: String,
    /// The members that were cut off with it.
    #[serde(default)]
    pub members: Vec<NodeRef>,
}

/// What a token says, read without asking anybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenFacts {
    /// The name of the network.
    pub network: String,
    /// The network id.
    pub id: String,
    /// The IPv4 range.
    pub ipv4_range: String,
    /// The DNS domain.
    pub domain: String,
    /// The invite id.
    pub invite: String,
    /// The roles that it may give.
    pub roles: Vec<Role>,
    /// The tags that its members get.
    #[serde(default)]
    pub tags: Vec<String>,
    /// When it ends; absent if never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
    /// How many nodes it may admit; absent if any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_uses: Option<u32>,
    /// The addresses where a member may be found.
    #[serde(default)]
    pub addresses: Vec<String>,
}

/// Whether an admin key counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdminState {
    /// It does.
    Active,
    /// It was revoked.
    Revoked,
}

/// An admin key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Admin {
    /// The public key as text.
    pub key: String,
    /// The node that holds it, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeRef>,
    /// Whether it counts.
    pub state: AdminState,
    /// When the root signed it.
    pub added_at: Time,
    /// Whether this node holds its private half.
    pub own: bool,
}

/// The admin keys of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdminList {
    /// The network.
    pub network: String,
    /// One entry per key.
    pub admins: Vec<Admin>,
}

/// Makes a member an admin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AdminAddRequest {
    /// Name, mesh address or id of the member.
    pub node: String,
    /// The root key, where this node does not keep it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_key: Option<Secret>,
}

/// A member is an admin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdminAdded {
    /// The network.
    pub network: String,
    /// The new key.
    pub admin: Admin,
}

/// Which admin key to revoke.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AdminRevokeRequest {
    /// The key, or name, mesh address or id of the node that holds it.
    pub admin: String,
    /// The root key, where this node does not keep it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_key: Option<Secret>,
}

/// An admin key was revoked, or had been before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdminRevoked {
    /// The network.
    pub network: String,
    /// The key.
    pub admin: Admin,
}
