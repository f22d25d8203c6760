use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{NodeRef, Time};

/// How much an event matters.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It happened.
    Info,
    /// It does not work as it should.
    Warning,
    /// Somebody has to look at it.
    Alarm,
}

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// This node made a network.
    NetworkCreated,
    /// This node joined a network.
    Joined,
    /// This node left a network.
    Left,
    /// A member was seen for the first time.
    MemberAdded,
    /// A member left, was revoked or replaced.
    MemberRemoved,
    /// A peer came into contact.
    PeerUp,
    /// A peer fell out of contact.
    PeerDown,
    /// Packets to a peer take another path.
    PathChanged,
    /// A network beyond the mesh is reached through another node.
    RouteChanged,
    /// An address or a name was won, lost or moved.
    ClaimChanged,
    /// A device was added or removed, or another node serves it.
    DeviceChanged,
    /// A node was refused, here or by a peer.
    Refused,
    /// An invite, a node or an admin key was revoked.
    Revoked,
    /// Two machines run under one identity.
    ClonedIdentity,
    /// Two documents contradict each other that never may.
    Conflict,
    /// The state on disk stopped or resumed being written.
    Storage,
    /// The own clock is far from the trusted time.
    Clock,
    /// The configuration was read again.
    Reloaded,
    /// The reader was too slow and some events were left out.
    Skipped,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Counts up from 1 since the daemon started.
    pub sequence: u64,
    /// When it happened, by the daemon's clock.
    pub at: Time,
    /// What it is about.
    pub kind: EventKind,
    /// How much it matters.
    pub severity: Severity,
    /// The network, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// The node, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeRef>,
    /// What happened, to what.
    pub message: String,
    /// The next step, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}
