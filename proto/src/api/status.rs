use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Peer, Role, Time};

/// The daemon and every network that it serves, or the one that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// The process that answers.
    pub daemon: DaemonStatus,
    /// One entry per network; empty on a machine that joined none.
    pub networks: Vec<NetworkStatus>,
    /// Networks whose state is on disk, and which cannot be served.
    #[serde(default)]
    pub broken: Vec<BrokenNetwork>,
}

/// A network that this machine joined, and that its daemon cannot serve now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BrokenNetwork {
    /// Its name.
    pub network: String,
    /// Why it cannot be served.
    pub reason: String,
}

/// The process that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DaemonStatus {
    /// Its version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// When it started.
    pub started_at: Time,
    /// The time at which the reply was made, by the daemon's clock.
    pub now: Time,
}

/// How a network is doing, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Everything works.
    Ok,
    /// The join has not ended yet.
    Joining,
    /// Something does not work: `problems` and `alarms` say what.
    Degraded,
}

/// One network, seen from this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkStatus {
    /// The name of the network.
    pub network: String,
    /// The network id: its root public key as text.
    pub id: String,
    /// The DNS domain of the network.
    pub domain: String,
    /// The IPv4 range.
    #[schema(example = "10.77.0.0/16")]
    pub ipv4_range: String,
    /// The IPv6 range.
    pub ipv6_range: String,
    /// How it is doing.
    pub health: Health,
    /// This node.
    pub node: OwnNode,
    /// Its mesh interface.
    pub interface: InterfaceStatus,
    /// The port for UDP data and TCP control.
    pub port: u16,
    /// The addresses outside the mesh at which this node may be reached.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub endpoints: Vec<SocketAddr>,
    /// The ports of the router; absent where it is not asked for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_mapping: Option<PortMapping>,
    /// The members, counted; this node included, as `up`.
    pub members: MemberCounts,
    /// Whether any other member can be reached now.
    pub reachable: bool,
    /// What does not work, and what to do about it.
    #[serde(default)]
    pub problems: Vec<Finding>,
    /// What somebody has to look at, whatever else works.
    #[serde(default)]
    pub alarms: Vec<Alarm>,
    /// The invites, counted.
    pub invites: InviteCounts,
    /// The state on disk.
    pub storage: StorageStatus,
    /// When this node joined.
    pub since: Time,
    /// The other members.
    #[serde(default)]
    pub peers: Vec<Peer>,
}

/// The node that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OwnNode {
    /// The node id.
    pub id: String,
    /// Its name, once it holds one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its IPv4 address in the mesh, once it holds one.
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
}

/// The mesh interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InterfaceStatus {
    /// Its name, such as `eps0`.
    pub name: String,
    /// Its MTU in bytes, as it was seen last.
    pub mtu: u32,
    /// Whether it exists and is up.
    pub up: bool,
}

/// The ports of the router that leads out, by which others reach this node behind its NAT.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortMapping {
    /// Who is asked; absent where this host is not behind a router of IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Ipv4)]
    pub router: Option<Ipv4Addr>,
    /// By which it gave them, while it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<PortMappingProtocol>,
    /// The outer address that leads to this node's UDP port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub udp: Option<SocketAddr>,
    /// The outer address that leads to this node's TCP port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub tcp: Option<SocketAddr>,
    /// Why there is none, or why it may be of no use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// By which protocol a router gave ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PortMappingProtocol {
    /// PCP (RFC 6887).
    Pcp,
    /// NAT-PMP (RFC 6886).
    NatPmp,
    /// UPnP (Internet Gateway Device).
    Upnp,
}

/// Members by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MemberCounts {
    /// All of them.
    pub total: u32,
    /// Those with contact.
    pub up: u32,
    /// Those being tried.
    pub connecting: u32,
    /// Those that do not answer.
    pub down: u32,
}

/// One thing that does not work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// What does not work, and on what.
    pub message: String,
    /// The next step, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// One thing that somebody has to look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Alarm {
    /// When it was first seen.
    pub since: Time,
    /// What happened, to what.
    pub message: String,
    /// The next step, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Invites by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InviteCounts {
    /// All that are known.
    pub total: u32,
    /// Those that still admit nodes.
    pub active: u32,
}

/// How the state on disk is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StorageState {
    /// Writes succeed.
    Ok,
    /// The directory cannot be written.
    ReadOnly,
    /// The disk is full.
    Full,
    /// Writes fail for another reason.
    Failing,
}

/// The state directory of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StorageStatus {
    /// How it is doing.
    pub state: StorageState,
    /// Where it is.
    pub path: String,
    /// The last error, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
