//! A machine with its disk, its clock and, while it is up, its engine.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use epsilon_mesh::control::{Control, ExchangeId, OperationError, OperationId, Outcome};
use epsilon_mesh::event::Event;
use epsilon_proto::clock::{Instant, Now, Timestamp};
use epsilon_proto::gate::GateSecret;
use epsilon_proto::id::{NodeId, PublicKey};
use epsilon_proto::key::SecretKey;
use epsilon_proto::name::NodeName;

use super::connection::{ConnectionId, Side};
use super::gossip::Heard;
use super::plane::Plane;
use super::store::Store;
use super::topology::{INTERNET, NetworkId};

/// What true clocks show when a run begins: 2026-01-01.
const EPOCH: u64 = 1_767_225_600_000;

/// Bytes and messages that a node sent on the control plane, without what TCP
/// and IP add.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// How many messages.
    pub messages: u64,
    /// How many bytes in them.
    pub bytes: u64,
}

/// A machine; the same one with another disk after it was wiped.
pub(crate) struct Machine {
    pub(crate) key: SecretKey,
    pub(crate) node: NodeId,
    pub(crate) address: SocketAddr,
    /// In which of the topology's networks that is.
    pub(crate) network: NetworkId,
    pub(crate) lan: usize,
    pub(crate) hostname: NodeName,
    /// How far its wall clock is off, in milliseconds.
    pub(crate) skew: i64,
    pub(crate) store: Option<Store>,
    pub(crate) disk_full: bool,
    pub(crate) disk_busy: Duration,
    pub(crate) powered: bool,
    pub(crate) token_addresses: Vec<SocketAddr>,
    /// The invite by which it joined.
    pub(crate) invite: Option<PublicKey>,

    /// Counts its starts.
    pub(crate) run: u64,
    pub(crate) started: Duration,
    pub(crate) control: Option<Control>,
    pub(crate) gate: Vec<GateSecret>,
    pub(crate) plane: Plane,
    pub(crate) addresses: (Option<Ipv4Addr>, Vec<Ipv6Addr>),
    pub(crate) links: BTreeMap<NodeId, Vec<ConnectionId>>,
    pub(crate) exchanges: BTreeMap<ExchangeId, (ConnectionId, Side)>,
    pub(crate) last_exchange: ExchangeId,
    pub(crate) asked: BTreeMap<u64, ConnectionId>,
    pub(crate) heard: Heard,
    /// To whom it passes gossip on, because it asked to.
    pub(crate) grafted: BTreeSet<NodeId>,
    /// Whether some of those may not be linked any more.
    pub(crate) lost_links: bool,
    pub(crate) timer: Option<Duration>,
    /// How often it woke in vain at one moment.
    pub(crate) wakes: (Duration, u32),
    /// Whom it knows to be revoked or departed.
    pub(crate) banned: BTreeSet<NodeId>,

    pub(crate) done: BTreeMap<OperationId, Result<Outcome, OperationError>>,
    pub(crate) events: Vec<(Duration, Event)>,
    pub(crate) traffic: Traffic,
}

impl Machine {
    pub(crate) fn new(key: SecretKey, lan: usize, host: usize, number: usize) -> Self {
        let address = SocketAddr::from(([198, 18 + (lan >> 8) as u8, lan as u8, host as u8], 7755));
        let hostname = format!("n{number}");
        Self {
            node: key.node(),
            key,
            address,
            network: INTERNET,
            lan,
            hostname: NodeName::from_hostname(&hostname).unwrap_or_else(|| unreachable!()),
            skew: 0,
            store: None,
            disk_full: false,
            disk_busy: Duration::ZERO,
            powered: true,
            token_addresses: Vec::new(),
            invite: None,
            run: 0,
            started: Duration::ZERO,
            control: None,
            gate: Vec::new(),
            plane: Plane::default(),
            addresses: (None, Vec::new()),
            links: BTreeMap::new(),
            exchanges: BTreeMap::new(),
            last_exchange: 0,
            asked: BTreeMap::new(),
            heard: Heard::default(),
            grafted: BTreeSet::new(),
            lost_links: false,
            timer: None,
            wakes: (Duration::ZERO, 0),
            banned: BTreeSet::new(),
            done: BTreeMap::new(),
            events: Vec::new(),
            traffic: Traffic::default(),
        }
    }

    /// What its wall clock shows.
    pub(crate) fn wall(&self, now: Duration) -> Timestamp {
        let millis = EPOCH + now.as_millis() as u64;
        Timestamp(millis.saturating_add_signed(self.skew))
    }

    /// Its clocks; the monotonic one counts from its start.
    pub(crate) fn now(&self, now: Duration) -> Now {
        Now { instant: Instant(now.saturating_sub(self.started)), wall: self.wall(now) }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.control.is_some()
    }

    /// Forgets everything that lived in memory.
    pub(crate) fn stop(&mut self) {
        self.control = None;
        self.run += 1;
        self.gate.clear();
        self.plane = Plane::default();
        self.addresses = (None, Vec::new());
        self.links.clear();
        self.exchanges.clear();
        self.asked.clear();
        self.heard = Heard::default();
        self.grafted.clear();
        self.timer = None;
        self.banned.clear();
        self.done.clear();
    }
}
