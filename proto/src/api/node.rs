use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Time;

/// What a node may be.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Part of the mesh only.
    Member,
    /// May run workloads of the cluster.
    Worker,
    /// May run the control plane of the cluster.
    Server,
}

impl Role {
    /// The word for the role, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Worker => "worker",
            Self::Server => "server",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Member, Self::Worker, Self::Server]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| format!("{text:?} is not a role; use member, worker or server"))
    }
}

/// Enough of a node to tell a person which one is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeRef {
    /// The node id: its public key as text.
    pub id: String,
    /// Its name, if it holds one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Whether the daemon has contact with a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PeerState {
    /// It answers, or did within the liveness limits.
    Up,
    /// It is being tried.
    Connecting,
    /// It does not answer.
    Down,
}

/// How packets to a peer travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PathKind {
    /// From host to host.
    Direct,
    /// From host to host by TLS over TCP, as UDP does not get through.
    Tls,
    /// Through another member.
    Relayed,
    /// Nowhere: no way is known.
    None,
}

/// The path to a peer that is in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Path {
    /// Direct, by TLS, relayed or none.
    pub kind: PathKind,
    /// The peer's address outside the mesh, or the relay's on a relayed path; where that is
    /// reached by TLS, of the TCP connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "192.0.2.1:7755")]
    pub endpoint: Option<SocketAddr>,
    /// The relay, on a relayed path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<NodeRef>,
    /// The largest packet that it carries whole, in bytes, as far as it was found out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
}

/// Another member, and what this node sees of it now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Peer {
    /// The node id.
    pub id: String,
    /// Its name, if it holds one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its IPv4 address in the mesh, if it holds one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Ipv4)]
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address in the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Ipv6)]
    pub ipv6: Option<Ipv6Addr>,
    /// Whether there is contact.
    pub state: PeerState,
    /// How packets travel.
    pub path: Path,
    /// The round trip in microseconds, once one was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u64>,
    /// The last time that anything authenticated came from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Time>,
    /// The last handshake with it, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handshake: Option<Time>,
    /// Bytes received from it through the mesh since the daemon started.
    pub rx_bytes: u64,
    /// Bytes sent to it through the mesh since the daemon started.
    pub tx_bytes: u64,
    /// What its certificate allows it to be.
    pub roles: Vec<Role>,
    /// Its site, if it says one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether it holds an admin key.
    pub admin: bool,
}

/// The other members, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PeerList {
    /// The network they are in.
    pub network: String,
    /// One entry per member other than this node.
    pub peers: Vec<Peer>,
}

/// Where a node stands in its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Membership {
    /// Introduced and not removed.
    Active,
    /// Its certificate is valid, but no member has introduced it yet.
    Unintroduced,
    /// It left by itself.
    Left,
    /// It was revoked.
    Revoked,
    /// Its address and name were handed over to another node.
    Replaced,
}

/// A node of the network, this one included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    /// The node id.
    pub id: String,
    /// Its name, if it holds one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether it is the node that answers.
    pub own: bool,
    /// Where it stands.
    pub membership: Membership,
    /// Whether there is contact; always `up` for the own node.
    pub state: PeerState,
    /// Its IPv4 address in the mesh, if it holds one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Ipv4)]
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address in the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Ipv6)]
    pub ipv6: Option<Ipv6Addr>,
    /// What its certificate allows it to be.
    pub roles: Vec<Role>,
    /// The tags of its certificate.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Its site, if it says one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether it holds an admin key.
    pub admin: bool,
    /// The last time that anything authenticated came from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Time>,
}

/// All members that this node knows, itself included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeList {
    /// The network they are in.
    pub network: String,
    /// One entry per node.
    pub nodes: Vec<Node>,
}

/// What makes a node a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Certificate {
    /// The invite that it was issued under.
    pub invite: String,
    /// The admin key that signed that invite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<String>,
    /// When it says that it was issued.
    pub issued_at: Time,
}

/// Which member vouches for the time at which a node first appeared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Introduction {
    /// The member that introduced the node.
    pub by: NodeRef,
    /// The time of the first meeting, by that member's trusted time.
    pub at: Time,
}

/// Everything known about one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeDetail {
    /// The network it is in.
    pub network: String,
    /// The node.
    pub node: Node,
    /// Its certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Certificate>,
    /// Its introduction, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub introduction: Option<Introduction>,
    /// The path to it; absent for the own node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Path>,
    /// The addresses outside the mesh at which it may be reached.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub endpoints: Vec<SocketAddr>,
}

/// One probe to a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PingRequest {
    /// Name, mesh address or id of the peer.
    pub peer: String,
    /// How long to wait for the answer, in milliseconds; 1 to 60 000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u32>,
}

/// What became of one probe. A peer that does not answer is a result here,
/// not a problem: `rtt_us` is absent then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ping {
    /// The peer.
    pub peer: NodeRef,
    /// The peer's mesh address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// The round trip in microseconds; absent when no answer came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u64>,
    /// The path that the probe took.
    pub path: Path,
}

/// Which node to revoke.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokeRequest {
    /// Name, mesh address or id of the node.
    pub node: String,
}

/// A node was revoked, or had been before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeRemoved {
    /// The network.
    pub network: String,
    /// The node.
    pub node: NodeRef,
    /// To how many connected members it was sent.
    pub informed: u32,
}

/// Which node to rename.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenameRequest {
    /// Name, mesh address or id of the node.
    pub node: String,
    /// The new name.
    pub name: String,
}

/// A node was renamed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeRenamed {
    /// The network.
    pub network: String,
    /// The node under its new name.
    pub node: NodeRef,
    /// Its name before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
}

/// Which node takes the place of which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplaceRequest {
    /// Name, mesh address or id of the node that goes.
    pub old: String,
    /// Name, mesh address or id of the member that takes its address and name.
    pub new: String,
}

/// A node took another one's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeReplaced {
    /// The network.
    pub network: String,
    /// The node that went.
    pub old: NodeRef,
    /// The node that holds its address and name now.
    pub new: NodeRef,
    /// The IPv4 address that was handed over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Ipv4)]
    pub ipv4: Option<Ipv4Addr>,
}
