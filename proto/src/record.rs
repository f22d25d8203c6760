//! What a node says about itself.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use crate::address::is_usable_endpoint;
use crate::document::{Document, Signed};
use crate::id::{BootId, NodeId};
use crate::name::{LabelKey, LabelValue, NodeName, Site};
use crate::prefix::Prefix;
use crate::trust::{Introduction, MemberCertificate};
use crate::wire::{WireError, wire_struct, wire_unit_enum};

/// The most endpoints in a record.
pub const MAX_ENDPOINTS: usize = 8;
/// The most relays in a record.
pub const MAX_RELAYS: usize = 2;
/// The most hubs in a record.
pub const MAX_HUBS: usize = 4;
/// The most lost members in a record.
pub const MAX_LOST: usize = 128;
/// The most labels in a record.
pub const MAX_LABELS: usize = 16;

/// The most networks that a node leads to.
pub const MAX_ROUTES: usize = 64;
/// The most introductions in a record.
pub const MAX_INTRODUCTIONS: usize = 3;

/// A node's own word about itself; signed by the node, whose key is its name.
///
/// Of two records by one node, the one with the higher ([`incarnation`],
/// [`sequence`]) counts.
///
/// [`incarnation`]: NodeRecord::incarnation
/// [`sequence`]: NodeRecord::sequence
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// Counts the starts of the daemon.
    pub incarnation: u64,
    /// Counts the records of one incarnation.
    pub sequence: u64,
    /// Which run of the daemon speaks.
    pub boot: BootId,
    /// That it is a member.
    pub certificate: Signed<MemberCertificate>,
    /// By whom it was met.
    pub introductions: Vec<Signed<Introduction>>,
    /// Its claim to an IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its claim to a name.
    pub name: Option<NodeName>,
    /// Where it can be reached outside of the mesh; best first.
    pub endpoints: Vec<Endpoint>,
    /// Where it stands.
    pub site: Option<Site>,
    /// What its operator says about it.
    pub labels: Vec<Label>,
    /// The version of its daemon.
    pub version: String,
    /// Whether anybody can send it datagrams at its addresses, by what it saw.
    pub is_open: bool,
    /// Whether it passes on what others send to each other.
    pub is_relay: bool,
    /// The members that pass on to it what others send, best first.
    pub relays: Vec<NodeId>,
    /// The members that it is linked with and that others can link to, too: through
    /// these it is told things, and these say when it is gone.
    pub hubs: Vec<NodeId>,
    /// The members that named this node as their hub, and that it does not hear of any
    /// more.
    pub lost: Vec<Lost>,
    /// Another TCP port at which it can be called at its addresses, such as 443: for those
    /// whose networks let nothing else out.
    pub tcp_port: Option<u16>,
    /// The networks beyond it that it leads to; default routes where it is an exit.
    pub routes: Vec<Prefix>,
}
wire_struct!(NodeRecord {
    0 => incarnation,
    1 => sequence,
    2 => boot,
    3 => certificate,
    4 => introductions,
    5 => ipv4,
    6 => name,
    7 => endpoints,
    8 => site,
    9 => labels,
    10 => version,
    11 => is_open,
    12 => is_relay,
    13 => relays,
    14 => hubs,
    15 => lost,
    16 => tcp_port,
    17 => routes,
} check |record| record.check());

impl Document for NodeRecord {
    const TYPE: &'static str = "record";
    const MAX_BYTES: usize = 16 * 1024;
}

impl NodeRecord {
    /// What decides between two records of one node.
    pub fn stamp(&self) -> (u64, u64) {
        (self.incarnation, self.sequence)
    }

    /// The labels as a map.
    pub fn label_map(&self) -> BTreeMap<LabelKey, LabelValue> {
        self.labels.iter().map(|label| (label.key.clone(), label.value.clone())).collect()
    }

    fn check(&self) -> Result<(), WireError> {
        let refuse = |what| Err(WireError::Invalid(what));
        if self.endpoints.len() > MAX_ENDPOINTS {
            return refuse("record: too many endpoints");
        }
        if self.labels.len() > MAX_LABELS {
            return refuse("record: too many labels");
        }
        if self.introductions.len() > MAX_INTRODUCTIONS {
            return refuse("record: too many introductions");
        }
        if self.relays.len() > MAX_RELAYS || self.hubs.len() > MAX_HUBS {
            return refuse("record: too many relays or hubs");
        }
        if self.lost.len() > MAX_LOST {
            return refuse("record: too many lost members");
        }
        if self.routes.len() > MAX_ROUTES || !self.routes.iter().all(|one| one.is_routable()) {
            return refuse("record: routes");
        }
        if !self.endpoints.iter().all(|endpoint| is_usable_endpoint(endpoint.address)) {
            return refuse("record: an endpoint that cannot be one");
        }
        if self.version.len() > 64 || self.version.chars().any(char::is_control) {
            return refuse("record: version");
        }
        Ok(())
    }
}

/// A member that is gone, as one of its hubs says: it says nothing of its later records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// Who.
    pub node: NodeId,
    /// What its last record counted.
    pub incarnation: u64,
    /// The same.
    pub sequence: u64,
}
wire_struct!(Lost { 0 => node, 1 => incarnation, 2 => sequence });

/// One label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Its key.
    pub key: LabelKey,
    /// Its value.
    pub value: LabelValue,
}
wire_struct!(Label { 0 => key, 1 => value });

/// Where a node can be reached outside of the mesh: the same port serves UDP
/// (data) and TCP (control) unless [its source](EndpointSource) says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// How it is known.
    pub source: EndpointSource,
    /// The address.
    pub address: SocketAddr,
}
wire_struct!(Endpoint { 0 => source, 1 => address });

/// How an endpoint is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndpointSource {
    /// An address of one of the node's interfaces.
    Local,
    /// Said by the operator: `--advertise`.
    Configured,
    /// Where another member saw the node's datagrams come from.
    Observed,
    /// Its router passes on what comes there, by request of the node.
    Mapped,
    /// The same, for UDP alone.
    MappedUdp,
    /// The same, for TCP alone.
    MappedTcp,
}
wire_unit_enum!(EndpointSource {
    0 => Local,
    1 => Configured,
    2 => Observed,
    3 => Mapped,
    4 => MappedUdp,
    5 => MappedTcp,
});

impl EndpointSource {
    /// Whether datagrams may reach the node there.
    pub fn takes_udp(self) -> bool {
        self != Self::MappedTcp
    }

    /// Whether calls may reach the node there: what others observed is a port of UDP.
    pub fn takes_tcp(self) -> bool {
        !matches!(self, Self::Observed | Self::MappedUdp)
    }

    /// Whether the node's router made it.
    pub fn is_mapped(self) -> bool {
        matches!(self, Self::Mapped | Self::MappedUdp | Self::MappedTcp)
    }
}
