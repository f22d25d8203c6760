//! What survives a restart, and how it is written down.
//!
//! The engine says which rows change; the shell makes one durable transaction
//! of each batch. Rows are values of the wire encoding, so that a damaged one
//! is noticed when it is read.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use epsilon_proto::device::DeviceList;
use epsilon_proto::document::Signed;
use epsilon_proto::gate::GateSecret;
use epsilon_proto::id::{BootId, Digest, NodeId};
use epsilon_proto::name::{NodeName, Site};
use epsilon_proto::prefix::Prefix;
use epsilon_proto::record::{Label, NodeRecord};
use epsilon_proto::token::HostPort;
use epsilon_proto::trust::{Introduction, MemberCertificate, NetworkBlock, NetworkDocument};
use epsilon_proto::wire::{self, Wire, WireError};
use epsilon_proto::wire_struct;

use crate::membership::Word;

/// The tables of a network's store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Single values, by name.
    Meta,
    /// Network documents, by digest.
    Documents,
    /// The newest record of each node, by node.
    Records,
    /// The newest list of devices of each node, by node.
    Devices,
    /// Gate secrets, by epoch and check.
    Gate,
    /// Where a node was last reached, by node.
    Contacts,
}

impl Table {
    /// Every table.
    pub const ALL: [Self; 6] =
        [Self::Meta, Self::Documents, Self::Records, Self::Devices, Self::Gate, Self::Contacts];

    /// Its name on disk.
    pub fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Documents => "documents",
            Self::Records => "records",
            Self::Devices => "devices",
            Self::Gate => "gate",
            Self::Contacts => "contacts",
        }
    }
}

/// One row to write, or to remove where there is no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Where.
    pub table: Table,
    /// Under which key.
    pub key: Vec<u8>,
    /// What; it is kept until it is durable, and need not be copied for that.
    pub value: Option<Arc<[u8]>>,
}

impl Write {
    /// Whether it is about this row.
    pub(crate) fn is_at(&self, (table, key): &(Table, Vec<u8>)) -> bool {
        self.table == *table && self.key == *key
    }
    fn put<T: Wire>(table: Table, key: &[u8], value: &T) -> Self {
        Self { table, key: key.to_vec(), value: Some(wire::encode(value).into()) }
    }
    pub(crate) fn document(document: &NetworkDocument) -> Self {
        Self::put(Table::Documents, &document.digest().0, document)
    }
    pub(crate) fn record(node: NodeId, record: &Signed<NodeRecord>) -> Self {
        Self::put(Table::Records, &node.0, record)
    }
    pub(crate) fn devices(node: NodeId, list: &Signed<DeviceList>) -> Self {
        Self::put(Table::Devices, &node.0, list)
    }
    /// A node's record and list of devices go.
    pub(crate) fn forget_member(node: NodeId) -> Vec<Self> {
        let forget = |table| Self { table, key: node.0.to_vec(), value: None };
        [Table::Records, Table::Devices].map(forget).to_vec()
    }
    pub(crate) fn gate(secret: &GateSecret) -> Self {
        Self::put(Table::Gate, &gate_key(secret.epoch, secret.check()), secret)
    }
    pub(crate) fn forget_gate(epoch: u32, check: Digest) -> Self {
        Self { table: Table::Gate, key: gate_key(epoch, check), value: None }
    }
    pub(crate) fn forget_contact(node: NodeId) -> Self {
        Self { table: Table::Contacts, key: node.0.to_vec(), value: None }
    }

    pub(crate) fn contact(node: NodeId, address: SocketAddr) -> Self {
        Self::put(Table::Contacts, &node.0, &address)
    }
    pub(crate) fn identity_state(state: &IdentityState) -> Self {
        Self::put(Table::Meta, b"identity", state)
    }
    pub(crate) fn vouched(vouched: &Vouched) -> Self {
        Self::put(Table::Meta, b"vouched", vouched)
    }
    pub(crate) fn introductions(introductions: &Introductions) -> Self {
        Self::put(Table::Meta, b"introductions", introductions)
    }
    pub(crate) fn routing(routing: &Routing) -> Self {
        Self::put(Table::Meta, b"routing", routing)
    }
    pub(crate) fn providers(providers: &Providers) -> Self {
        Self::put(Table::Meta, b"providers", providers)
    }
    /// The operator's settings.
    pub fn settings(settings: &Settings) -> Self {
        Self::put(Table::Meta, b"settings", settings)
    }
}

fn gate_key(epoch: u32, check: Digest) -> Vec<u8> {
    [&epoch.to_be_bytes()[..], &check.0].concat()
}

/// What the node must never forget about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IdentityState {
    /// Counts the starts of the daemon.
    pub incarnation: u64,
    /// The address it claims.
    pub ipv4: Option<Ipv4Addr>,
    /// The name it claims.
    pub name: Option<NodeName>,
    /// The last runs of the daemon, so that a recording of one is told from
    /// another machine with the same identity.
    pub boots: Vec<BootId>,
}
wire_struct!(IdentityState { 0 => incarnation, 1 => ipv4, 2 => name, 3 => boots });

/// What the operator said when joining; the daemon's own word otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The name asked for.
    pub name: Option<NodeName>,
    /// Where the node stands.
    pub site: Option<Site>,
    /// What the operator says about it.
    pub labels: Vec<Label>,
    /// Where it can be reached from afar.
    pub advertise: Vec<HostPort>,
    /// The port for data and control.
    pub port: u16,
    /// The name of the mesh interface.
    pub interface: String,
    /// Where members may be reached, by the token.
    pub token_addresses: Vec<HostPort>,
}
wire_struct!(Settings {
    0 => name,
    1 => site,
    2 => labels,
    3 => advertise,
    4 => port,
    5 => interface,
    6 => token_addresses,
});

/// What the operator said of networks beyond the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Routing {
    /// Those behind this node.
    pub advertised: Vec<Advertised>,
    /// Blocks within which networks behind others are accepted.
    pub accepted: Vec<Accepted>,
    /// The member through which everything else is reached.
    pub exit: Option<NodeId>,
}
wire_struct!(Routing { 0 => advertised, 1 => accepted, 2 => exit });

/// Networks behind others that are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Accepted {
    /// All within this block.
    pub prefix: Prefix,
    /// Behind this member only; behind anybody when absent.
    pub from: Option<NodeId>,
}
wire_struct!(Accepted { 0 => prefix, 1 => from });

/// By whom networks were reached: connections would not outlive another one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Providers {
    pub(crate) chosen: Vec<Provider>,
}
wire_struct!(Providers { 0 => chosen });

/// By whom one network was reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Provider {
    pub(crate) prefix: Prefix,
    pub(crate) via: NodeId,
}
wire_struct!(Provider { 0 => prefix, 1 => via });

/// A network behind this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Advertised {
    /// Its addresses.
    pub prefix: Prefix,
    /// Whether its hosts see this node's address in place of those of members: they need no
    /// route to the mesh then.
    pub is_masqueraded: bool,
}
wire_struct!(Advertised { 0 => prefix, 1 => is_masqueraded });

/// The nodes whose admission this node decided itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Vouched {
    pub(crate) nodes: Vec<(NodeId, Word)>,
}
wire_struct!(Vouched { 0 => nodes });

/// Who introduced this node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Introductions {
    pub(crate) introductions: Vec<Signed<Introduction>>,
}
wire_struct!(Introductions { 0 => introductions });

/// Everything that a network's store holds.
#[derive(Debug, Clone)]
pub struct Saved {
    /// What the network is.
    pub network: Signed<NetworkBlock>,
    /// That this node is a member.
    pub certificate: Signed<MemberCertificate>,
    /// What the operator said.
    pub settings: Settings,
    pub(crate) routing: Routing,
    pub(crate) providers: Providers,
    pub(crate) identity: IdentityState,
    pub(crate) vouched: Vouched,
    pub(crate) introductions: Introductions,
    pub(crate) documents: Vec<NetworkDocument>,
    pub(crate) records: Vec<(NodeId, Signed<NodeRecord>)>,
    pub(crate) devices: Vec<Signed<DeviceList>>,
    pub(crate) gate: Vec<GateSecret>,
    pub(crate) contacts: Vec<(NodeId, SocketAddr)>,
}

/// Why a store cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SavedError {
    /// A row is not what it should be.
    #[error(
        "the row {key} of table {table} is damaged: {error}; restore the state directory from a backup, or remove it and join again"
    )]
    Damaged {
        /// The table.
        table: &'static str,
        /// The key, in hexadecimal or as text.
        key: String,
        /// What is wrong.
        error: WireError,
    },
    /// A row without which nothing works.
    #[error(
        "the row {0} is missing; restore the state directory from a backup, or remove it and join again"
    )]
    Missing(&'static str),
}

impl Saved {
    /// A new member's first state.
    pub fn first(
        network: Signed<NetworkBlock>,
        certificate: Signed<MemberCertificate>,
        settings: Settings,
        documents: Vec<NetworkDocument>,
        introductions: Vec<Signed<Introduction>>,
        gate: GateSecret,
    ) -> Self {
        Self {
            network,
            certificate,
            settings,
            routing: Routing::default(),
            providers: Providers::default(),
            identity: IdentityState::default(),
            vouched: Vouched::default(),
            introductions: Introductions { introductions },
            documents,
            records: Vec::new(),
            devices: Vec::new(),
            gate: vec![gate],
            contacts: Vec::new(),
        }
    }

    /// All rows, for the first transaction.
    pub fn writes(&self) -> Vec<Write> {
        let mut writes = vec![
            Write::put(Table::Meta, b"network", &self.network),
            Write::put(Table::Meta, b"certificate", &self.certificate),
            Write::settings(&self.settings),
            Write::routing(&self.routing),
            Write::identity_state(&self.identity),
            Write::vouched(&self.vouched),
            Write::introductions(&self.introductions),
        ];
        writes.extend(self.documents.iter().map(Write::document));
        writes.extend(self.records.iter().map(|(node, record)| Write::record(*node, record)));
        writes.extend(self.devices.iter().map(|list| Write::devices(list.signer().into(), list)));
        writes.extend(self.gate.iter().map(Write::gate));
        writes.extend(self.contacts.iter().map(|(node, address)| Write::contact(*node, *address)));
        writes
    }

    /// Reads rows back.
    pub fn read(
        rows: impl IntoIterator<Item = (Table, Vec<u8>, Vec<u8>)>,
    ) -> Result<Self, SavedError> {
        let (mut network, mut certificate, mut settings) = (None, None, None);
        let (mut identity, mut vouched) = (IdentityState::default(), Vouched::default());
        let (mut routing, mut providers) = (Routing::default(), Providers::default());
        let mut introductions = Introductions::default();
        let (mut documents, mut records, mut devices) = (Vec::new(), Vec::new(), Vec::new());
        let (mut gate, mut contacts) = (Vec::new(), Vec::new());
        for (table, key, value) in rows {
            let row = Row { table, key: &key, value: &value };
            match (table, &key[..]) {
                (Table::Meta, b"network") => network = Some(row.get()?),
                (Table::Meta, b"certificate") => certificate = Some(row.get()?),
                (Table::Meta, b"settings") => settings = Some(row.get()?),
                (Table::Meta, b"identity") => identity = row.get()?,
                (Table::Meta, b"routing") => routing = row.get()?,
                (Table::Meta, b"providers") => providers = row.get()?,
                (Table::Meta, b"vouched") => vouched = row.get()?,
                (Table::Meta, b"introductions") => introductions = row.get()?,
                // A newer version's; an older one has no use for it.
                (Table::Meta, _) => {}
                (Table::Documents, _) => documents.push(row.get()?),
                (Table::Records, _) => records.push((row.node()?, row.get()?)),
                (Table::Devices, _) => devices.push(row.get()?),
                (Table::Gate, _) => gate.push(row.get()?),
                (Table::Contacts, _) => contacts.push((row.node()?, row.get()?)),
            }
        }
        Ok(Self {
            network: network.ok_or(SavedError::Missing("meta/network"))?,
            certificate: certificate.ok_or(SavedError::Missing("meta/certificate"))?,
            settings: settings.ok_or(SavedError::Missing("meta/settings"))?,
            routing,
            providers,
            identity,
            vouched,
            introductions,
            documents,
            records,
            devices,
            gate,
            contacts,
        })
    }
}

struct Row<'a> {
    table: Table,
    key: &'a [u8],
    value: &'a [u8],
}

impl Row<'_> {
    fn damaged(&self, error: WireError) -> SavedError {
        let key = match std::str::from_utf8(self.key) {
            Ok(text) if text.chars().all(|c| c.is_ascii_graphic()) => text.to_owned(),
            _ => data_encoding::HEXLOWER.encode(self.key),
        };
        SavedError::Damaged { table: self.table.name(), key, error }
    }

    fn get<T: Wire>(&self) -> Result<T, SavedError> {
        wire::decode(self.value).map_err(|error| self.damaged(error))
    }

    fn node(&self) -> Result<NodeId, SavedError> {
        self.key.try_into().map(NodeId).map_err(|_| self.damaged(WireError::Invalid("node id")))
    }
}
