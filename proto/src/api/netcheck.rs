use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{NodeRef, Path, PortMapping};

/// How this machine is connected, measured just now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Netcheck {
    /// The network.
    pub network: String,
    /// Whether UDP gets through.
    pub udp: Udp,
    /// By IPv4.
    pub ipv4: FamilyCheck,
    /// By IPv6.
    pub ipv6: FamilyCheck,
    /// How a NAT maps what goes out, in the terms of RFC 4787, section 4.1.
    pub mapping: Mapping,
    /// What a NAT or firewall lets in, in the terms of RFC 4787, section 5.
    pub filtering: Filtering,
    /// What the router at home passes on; absent where it is not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_mapping: Option<PortMapping>,
    /// Whether every member reaches this one, so that it can be a relay.
    pub open: bool,
    /// The smallest of the largest packets that get through whole to members elsewhere, in
    /// bytes inside the mesh; absent while nobody is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Members that everybody reaches, or that are linked, and how far they are; nearest
    /// first.
    pub hubs: Vec<HubCheck>,
    /// The members that pass on to this one what others send.
    #[serde(default)]
    pub relays: Vec<NodeRef>,
    /// What all that means.
    pub meaning: String,
    /// What would improve it, where something would.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// How this machine is connected by one family of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FamilyCheck {
    /// Its own addresses, outside of meshes.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// Where members elsewhere see its datagrams come from.
    #[schema(value_type = Vec<String>, example = json!(["192.0.2.1:7755"]))]
    pub seen_as: Vec<SocketAddr>,
}

/// Whether UDP gets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Udp {
    /// It does.
    Works,
    /// Members are reached by TCP alone.
    Blocked,
    /// Nobody is reached whom it would tell.
    Unknown,
}

/// How a NAT maps an inner address and port to outer ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mapping {
    /// There is no NAT.
    None,
    /// To the same for everybody.
    EndpointIndependent,
    /// To another one for everybody ("symmetric").
    EndpointDependent,
    /// Fewer than two members elsewhere have said.
    Unknown,
}

/// What is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Filtering {
    /// What comes from anybody.
    EndpointIndependent,
    /// What comes from where something was sent to.
    EndpointDependent,
    /// There was no member to which nothing was sent lately.
    Unknown,
}

/// A member that can help others, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HubCheck {
    /// Which.
    pub node: NodeRef,
    /// Whether everybody reaches it.
    pub open: bool,
    /// How it is reached.
    pub path: Path,
    /// The round trip in microseconds, if it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u64>,
}
