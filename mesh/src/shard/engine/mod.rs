//! The shard: takes packets, datagrams and orders, and finds the peer.

mod inbound;
mod map;
mod outbound;
mod probing;
mod seat;

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::time::Duration;

use epsilon_proto::clock::Instant;
use epsilon_proto::id::NodeId;
use epsilon_proto::key::AgreementKey;
use epsilon_proto::prefix::Prefix;

use super::batch::Output;
use super::command::{Command, Path, PeerId, Report};
use super::context::{Context, Reports};
use super::filter::ReceiveFilter;
use super::lane::Lane;
use super::peer::Peer;
use super::prober::canonical;
use super::stats::{Dropped, Stats};
use super::transit::Transit;
use super::wireguard::{Indices, SLOTS, WireGuard};
use crate::limit::Limit;
use map::Map;
pub use map::not_public;
use probing::Probed;
use seat::Seat;

/// Beacons handed to Control per second, from all sources together.
pub const BEACONS_PER_SECOND: u32 = 64;

/// The longest datagram besides data: no probe is longer.
const MAX_ASIDE: usize = 1500;

/// ICMP errors per second about packets to nobody.
const ERRORS_PER_SECOND: u32 = 100;

/// Where a peer sits.
type Slot = usize;

/// Where a message belongs.
enum Place {
    /// To the peer in this slot.
    Here(Slot),
    /// To another lane, which has it now.
    Passed,
}

/// What a shard is made of.
pub struct Config {
    /// Which part of the peers it has.
    pub lane: Lane,
    /// This node's side of the sessions.
    pub wireguard: WireGuard,
    /// Decides which opened packets reach the host.
    pub filter: Box<dyn ReceiveFilter>,
    /// Random, secret, and the same for all lanes: the indices of sessions are
    /// permuted with it, so that they say nothing about the peers.
    pub seed: u64,
}

/// The data plane of one thread; see the module's page.
pub struct Shard {
    lane: Lane,
    wireguard: WireGuard,
    filter: Box<dyn ReceiveFilter>,
    indices: Indices,
    slots: Vec<Option<Seat>>,
    by_id: BTreeMap<PeerId, Slot>,
    by_key: BTreeMap<AgreementKey, Slot>,
    /// The members, in the front alone.
    probed: BTreeMap<NodeId, Probed>,
    by_probe_index: BTreeSet<(u32, NodeId)>,
    map: Map,
    /// Never used twice in a run, whatever keys come and go; keys are bound
    /// to the run.
    probe_counter: u64,
    /// The packet that is being forwarded.
    forwarded: Vec<u8>,
    /// In the front alone.
    transit: Transit,
    reports: Reports,
    beacons: Limit,
    errors: Limit,
    timeout: Option<Instant>,
    dropped: Dropped,
    changes: u64,
    authentic: u64,
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

impl Shard {
    /// A shard without peers.
    pub fn new(config: Config) -> Self {
        let per_second = |count: u32| Limit::new(count, Duration::from_secs(1) / count);
        Self {
            lane: config.lane,
            wireguard: config.wireguard,
            filter: config.filter,
            indices: Indices::new(config.seed, config.lane),
            slots: Vec::new(),
            by_id: BTreeMap::new(),
            by_key: BTreeMap::new(),
            probed: BTreeMap::new(),
            by_probe_index: BTreeSet::new(),
            map: Map::new(),
            probe_counter: 0,
            forwarded: Vec::new(),
            transit: Transit::default(),
            reports: Reports::default(),
            beacons: per_second(BEACONS_PER_SECOND),
            errors: per_second(ERRORS_PER_SECOND),
            timeout: None,
            dropped: Dropped::default(),
            changes: 0,
            authentic: 0,
        }
    }

    /// The highest byte of every index that peers put into what they send to the
    /// first lane; those of the others follow.
    pub fn first_tag(&self) -> u8 {
        self.indices.first_tag()
    }

    /// Which part of the peers it has.
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// Calls `act` with the peer in a slot, if it is here, and minds its timers.
    fn with_peer<R>(
        &mut self,
        slot: Slot,
        now: Instant,
        out: &mut Output,
        act: impl FnOnce(&mut Peer, &mut Context<'_>) -> R,
    ) -> Option<R> {
        let peer = self.slots.get_mut(slot)?.as_mut()?.here()?;
        let mut context = Context {
            now,
            network: &mut out.network,
            reports: &mut self.reports,
            wireguard: &mut self.wireguard,
            authentic: &mut self.authentic,
        };
        let result = act(peer, &mut context);
        self.timeout = earlier(self.timeout, peer.next_timeout());
        Some(result)
    }

    /// Takes an order.
    pub fn handle_command(&mut self, command: Command, now: Instant, out: &mut Output) {
        self.changes += 1;
        match command {
            Command::SetOwn { addresses, reserved, mesh } => {
                self.map.set_own(addresses, reserved, mesh);
            }
            Command::SetSubnets(subnets) => {
                let by_id = &self.by_id;
                self.map.set_subnets(subnets, |node| by_id.get(&PeerId::Node(node)).copied());
            }
            Command::SetBehind { open, closed } => self.map.set_behind(&open, &closed),
            Command::SetPeer { node, key, prefixes } => {
                self.set_peer(PeerId::Node(node), key, prefixes);
            }
            Command::SetDevice { key, prefixes } => {
                self.set_peer(PeerId::Device(key), key, prefixes);
            }
            Command::RemovePeer { node } => self.remove_peer(PeerId::Node(node)),
            Command::RemoveDevice { key } => self.remove_peer(PeerId::Device(key)),
            Command::SetPath { node, path, mtu } => {
                let path = path.map(Path::canonical);
                self.with_node(node, now, out, |peer, context| peer.set_path(path, mtu, context));
            }
            Command::ResetSession { node } => {
                self.with_node(node, now, out, Peer::reset);
            }
            Command::SetProbeKeys { node, keys } => self.set_probe_keys(node, keys),
            Command::SetChannel { channel, ends } => {
                self.transit.set(channel, ends.map(canonical));
            }
            Command::RemoveChannel { channel } => self.transit.remove(channel),
            Command::SetRelaying(relaying) => self.transit.limit(relaying),
            Command::ClearProbeKeys { node } => self.clear_probe_keys(node),
            Command::SendProbe { node, to, size, transaction } => {
                self.ask(node, to.canonical(), size, transaction, now, out);
            }
        }
    }

    fn with_node(
        &mut self,
        node: NodeId,
        now: Instant,
        out: &mut Output,
        act: impl FnOnce(&mut Peer, &mut Context<'_>),
    ) {
        if let Some(slot) = self.slot_of(node) {
            self.with_peer(slot, now, out, act);
        }
    }

    fn slot_of(&self, node: NodeId) -> Option<Slot> {
        self.by_id.get(&PeerId::Node(node)).copied()
    }

    fn set_peer(&mut self, id: PeerId, key: AgreementKey, prefixes: Vec<Prefix>) {
        let slot = match self.by_id.get(&id) {
            Some(slot) => *slot,
            None => self.slots.iter().position(Option::is_none).unwrap_or_else(|| {
                self.slots.push(None);
                self.slots.len() - 1
            }),
        };
        if slot >= SLOTS {
            return;
        }
        let Some(place) = self.slots.get_mut(slot) else { return };
        let (lane, indices) = (self.lane.of(id), self.indices);
        let seat = place.get_or_insert_with(|| {
            if lane == self.lane.number() {
                Seat::Here(Box::new(Peer::new(id, key, indices, slot)))
            } else {
                Seat::Away { id, key, lane }
            }
        });
        let former = seat.key();
        if former != key {
            match seat {
                Seat::Here(peer) => peer.set_key(key, indices, slot),
                Seat::Away { key: known, .. } => *known = key,
            }
            forget(&mut self.by_key, former, &slot);
        }
        if let PeerId::Node(node) = id
            && self.lane.is_front()
        {
            self.probed.entry(node).or_default();
        }
        self.by_id.insert(id, slot);
        // The first holder of a key keeps it: a node and one with the negated
        // signing key have it in common.
        self.by_key.entry(key).or_insert(slot);
        self.map.set_peer(slot, prefixes);
        self.find_subnets();
    }

    fn remove_peer(&mut self, id: PeerId) {
        if let PeerId::Node(node) = id {
            self.forget_probe_index(node);
            self.probed.remove(&node);
        }
        let Some(slot) = self.by_id.remove(&id) else { return };
        self.map.set_peer(slot, Vec::new());
        self.find_subnets();
        if let Some(seat) = self.slots.get_mut(slot).and_then(Option::take) {
            forget(&mut self.by_key, seat.key(), &slot);
        }
    }

    /// Peers may sit elsewhere than before.
    fn find_subnets(&mut self) {
        if self.map.has_subnets() {
            let by_id = &self.by_id;
            self.map.find_peers(|node| by_id.get(&PeerId::Node(node)).copied());
        }
    }

    /// When [`Self::handle_timeout`] is due. `None` while nothing is under
    /// way: an idle shard costs nothing.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timeout
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Output) {
        if self.timeout.is_none_or(|due| now < due) {
            return;
        }
        self.changes += 1;
        self.timeout = None;
        for slot in 0..self.slots.len() {
            if !out.has_room() {
                // The rest is still due when the batches have been emptied.
                self.timeout = Some(now);
                return;
            }
            self.with_peer(slot, now, out, Peer::handle_timeout);
        }
    }

    /// The next thing that Control should know.
    pub fn poll_report(&mut self) -> Option<Report> {
        self.reports.queue.pop_front()
    }

    /// Grows with everything that can change [`Self::stats`].
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Grows with every datagram that only a peer can have made, and made just now.
    pub fn authentic(&self) -> u64 {
        self.authentic
    }

    /// The counters.
    pub fn stats(&self, now: Instant) -> Stats {
        let peers = self
            .by_id
            .values()
            .filter_map(|slot| match self.slots.get(*slot)? {
                Some(Seat::Here(peer)) => Some(peer.stats(now)),
                _ => None,
            })
            .collect();
        let channels = self.transit.stats();
        Stats { peers, channels, dropped: Dropped { reports: self.reports.lost, ..self.dropped } }
    }
}

/// Removes an entry if it still leads there.
fn forget<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, V>, key: K, value: &V) {
    if let btree_map::Entry::Occupied(entry) = map.entry(key)
        && entry.get() == value
    {
        entry.remove();
    }
}
