use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{NodeRef, Secret, Time};

/// A device: a member that has WireGuard, but not the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Device {
    /// The device id.
    pub id: String,
    /// The name that its owner gave it.
    pub given_name: String,
    /// The name that it has: absent if another has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its WireGuard key, in base64.
    pub key: String,
    /// Its IPv4 address in the mesh: absent if another has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Ipv4)]
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address in the mesh.
    #[schema(value_type = String, format = Ipv6)]
    pub ipv6: Ipv6Addr,
    /// The node that added it.
    pub owner: NodeRef,
    /// The node that serves it.
    pub server: NodeRef,
    /// The nodes besides its owner that may serve it.
    #[serde(default)]
    pub fallbacks: Vec<NodeRef>,
    /// When it was added.
    pub added_at: Time,
    /// Whether this node serves it; only then the fields below are known.
    pub served_here: bool,
    /// Where it was last heard outside the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "192.0.2.1:51820")]
    pub endpoint: Option<SocketAddr>,
    /// When a handshake with it was last completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handshake: Option<Time>,
    /// Bytes received from it, since this daemon knows it.
    #[serde(default)]
    pub rx_bytes: u64,
    /// Bytes sent to it, since this daemon knows it.
    #[serde(default)]
    pub tx_bytes: u64,
}

/// The devices of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceList {
    /// The network.
    pub network: String,
    /// One entry per device.
    pub devices: Vec<Device>,
}

/// A new device of this node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceAddRequest {
    /// Its name: one DNS label.
    pub name: String,
    /// Its WireGuard public key in base64; a pair is made for it when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// Name, mesh address or id of the nodes that may serve it, too.
    #[serde(default)]
    pub fallbacks: Vec<String>,
    /// Where the device reaches this node, `HOST:PORT`; what this node
    /// advertises when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}

/// How a device reaches the mesh by one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceConfig {
    /// The node.
    pub server: NodeRef,
    /// Where it is, `HOST:PORT`.
    pub endpoint: String,
    /// Whether the endpoint can be reached from anywhere, by its address.
    pub public: bool,
    /// What to give the device, in the format of wg-quick(8). Shown this once
    /// where it has a private key.
    pub config: Secret,
}

/// A device was added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceAdded {
    /// The network.
    pub network: String,
    /// The device.
    pub device: Device,
    /// Whether the private key was made here and stands in the configurations.
    pub key_made: bool,
    /// One for the owner, then one for every fallback.
    pub configs: Vec<DeviceConfig>,
}

/// Which device to remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceRemoveRequest {
    /// Its name, mesh address or id, or a beginning of the id that fits no
    /// other.
    pub device: String,
}

/// A device was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceRemoved {
    /// The network.
    pub network: String,
    /// The name that its owner gave it.
    pub given_name: String,
    /// The device id.
    pub id: String,
    /// Whether an admin revoked it: then the key can never be added again.
    pub revoked: bool,
}
