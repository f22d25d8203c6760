use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Health, Invite, MemberCounts, OwnNode, Role, Secret, Time};

/// What answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// The daemon's version.
    pub version: String,
    /// The major versions of the API that it speaks.
    #[schema(example = json!(["epsilon/v1"]))]
    pub schemas: Vec<String>,
}

/// The cluster that a network is to bring up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClusterKind {
    /// No cluster: the mesh only.
    #[default]
    None,
    /// A bare etcd cluster.
    Etcd,
    /// k3s.
    K3s,
    /// kubeadm.
    Kubeadm,
}

/// A new network, with this machine as its first member.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRequest {
    /// The name of the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The IPv4 range, 10.77.0.0/16 unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "10.77.0.0/16")]
    pub range: Option<String>,
    /// The DNS domain, `<network>.epsilon.internal` unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// `HOST:PORT` of this machine as others may reach it; goes into the token.
    #[serde(default)]
    pub advertise: Vec<String>,
    /// Make the network and its token, but do not join it.
    #[serde(default)]
    pub offline: bool,
    /// Hand the root key out in the reply and do not keep it.
    #[serde(default)]
    pub export_root_key: bool,
    /// The cluster to bring up.
    #[serde(default)]
    pub cluster: ClusterKind,
}

/// A network was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Created {
    /// The name of the network.
    pub network: String,
    /// The network id.
    pub id: String,
    /// This machine's node; absent with `offline`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<OwnNode>,
    /// The invite in the token.
    pub invite: Invite,
    /// The token for the other nodes.
    pub token: Secret,
    /// The root key, if the request asked for it; the daemon forgets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_key: Option<Secret>,
}

/// Makes this machine a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// The token.
    pub token: Secret,
    /// The name that this node claims; its host name unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The role to take, out of those that the token may give; all of them unless told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// `HOST:PORT` of this machine as others may reach it.
    #[serde(default)]
    pub advertise: Vec<String>,
    /// The site of this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// Labels of this machine.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// This machine is a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Joined {
    /// The name of the network.
    pub network: String,
    /// The network id.
    pub id: String,
    /// This machine's node.
    pub node: OwnNode,
    /// The members known so far.
    pub members: MemberCounts,
    /// Whether any other member was reached.
    pub reachable: bool,
    /// Whether this machine had joined before.
    pub already: bool,
    /// When the token expired, if it has by this machine's clock. Members go
    /// by the network's time, so it matters only while none was reached.
    pub token_expired_at: Option<Time>,
}

/// This machine left a network and its state is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Left {
    /// The name of the network.
    pub network: String,
    /// Whether another member heard of it.
    pub announced: bool,
}

/// One network that the daemon serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkSummary {
    /// The name of the network.
    pub network: String,
    /// The network id.
    pub id: String,
    /// The IPv4 range.
    pub ipv4_range: String,
    /// The mesh interface.
    pub interface: String,
    /// The port for UDP data and TCP control.
    pub port: u16,
    /// How it is doing.
    pub health: Health,
}

/// The networks that the daemon serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkList {
    /// One entry per network.
    pub networks: Vec<NetworkSummary>,
}

/// The configuration file was read again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reloaded {
    /// The settings that changed and are in force.
    pub applied: Vec<String>,
    /// The settings that changed and wait for a restart.
    pub pending: Vec<String>,
}
