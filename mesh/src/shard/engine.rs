//! The shard: takes packets, datagrams and orders, and finds the peer.

use std::collections::{BTreeMap, btree_map};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use epsilon_proto::clock::Instant;
use epsilon_proto::datagram::Kind;
use epsilon_proto::id::NodeId;
use epsilon_proto::key::AgreementKey;

use super::batch::Output;
use super::command::{Command, Path, PeerId, Report};
use super::filter::ReceiveFilter;
use super::inner::{self, Addresses};
use super::peer::{Context, Next, Peer, Refusal, Reports};
use super::probe::{self, Probe};
use super::prober::{Heard, canonical};
use super::routes::{Prefix, Routes};
use super::stats::{Dropped, Stats};
use super::unreachable;
use super::wireguard::{HANDSHAKE_LENGTH, Initiator, WireGuard};
use crate::limit::Limit;

/// Beacons handed to Control per second, from all sources together.
pub const BEACONS_PER_SECOND: u32 = 64;

/// At most so many peers, so that their indices have the highest byte in common.
const PEERS: usize = 1 << 16;

/// ICMP errors per second to the host's own programs.
const UNREACHABLE_PER_SECOND: u32 = 100;

/// Where a peer sits.
type Slot = usize;

/// Addresses of this node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Own {
    Address,
    Reserved,
}

/// What a shard is made of.
pub struct Config {
    /// This node's side of the sessions.
    pub wireguard: WireGuard,
    /// Decides which opened packets reach the host.
    pub filter: Box<dyn ReceiveFilter>,
    /// Random. The indices of sessions are mixed with it, so that one of them
    /// says nothing about the number of members. Several of them together tell
    /// how far apart their peers sit.
    pub seed: u64,
}

/// The data plane of one thread; see the module's page.
pub struct Shard {
    wireguard: WireGuard,
    filter: Box<dyn ReceiveFilter>,
    /// Mixed into session numbers; 24 bits.
    mask: u32,
    slots: Vec<Option<Box<Peer>>>,
    by_id: BTreeMap<PeerId, Slot>,
    by_key: BTreeMap<AgreementKey, Slot>,
    by_probe_index: BTreeMap<u32, Slot>,
    routes: Routes<Slot>,
    own: Routes<Own>,
    /// Never used twice in a run, whatever keys come and go; keys are bound
    /// to the run.
    probe_counter: u64,
    /// The packet that is being forwarded.
    forwarded: Vec<u8>,
    reports: Reports,
    beacons: Limit,
    unreachable: Limit,
    timeout: Option<Instant>,
    dropped: Dropped,
    changes: u64,
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
            wireguard: config.wireguard,
            filter: config.filter,
            mask: (config.seed & 0x00ff_ffff) as u32,
            slots: Vec::new(),
            by_id: BTreeMap::new(),
            by_key: BTreeMap::new(),
            by_probe_index: BTreeMap::new(),
            routes: Routes::new(),
            own: Routes::new(),
            probe_counter: 0,
            forwarded: Vec::new(),
            reports: Reports::default(),
            beacons: per_second(BEACONS_PER_SECOND),
            unreachable: per_second(UNREACHABLE_PER_SECOND),
            timeout: None,
            dropped: Dropped::default(),
            changes: 0,
        }
    }

    /// The highest byte of every index that peers put into what they send here.
    pub fn index_tag(&self) -> u8 {
        (self.mask >> 16) as u8
    }

    /// Calls `act` with the peer in a slot, and minds its timers.
    fn with_peer<R>(
        &mut self,
        slot: Slot,
        now: Instant,
        out: &mut Output,
        act: impl FnOnce(&mut Peer, &mut Context<'_>) -> R,
    ) -> Option<R> {
        let peer = self.slots.get_mut(slot)?.as_mut()?;
        let mut context = Context {
            now,
            network: &mut out.network,
            reports: &mut self.reports,
            wireguard: &mut self.wireguard,
        };
        let result = act(peer, &mut context);
        self.timeout = earlier(self.timeout, peer.next_timeout());
        Some(result)
    }

    /// Takes an order.
    pub fn handle_command(&mut self, command: Command, now: Instant, out: &mut Output) {
        self.changes += 1;
        match command {
            Command::SetOwn { addresses, reserved } => {
                self.own = Routes::new();
                for prefix in addresses {
                    self.own.set(prefix, Own::Address);
                }
                for prefix in reserved {
                    self.own.set(prefix, Own::Reserved);
                }
            }
            Command::SetPeer { node, key, prefixes } => {
                self.set_peer(PeerId::Node(node), key, prefixes);
            }
            Command::SetDevice { key, prefixes } => {
                self.set_peer(PeerId::Device(key), key, prefixes);
            }
            Command::RemovePeer { node } => self.remove_peer(PeerId::Node(node)),
            Command::RemoveDevice { key } => self.remove_peer(PeerId::Device(key)),
            Command::SetPath { node, path } => {
                let path = path.map(|Path::Direct(to)| Path::Direct(canonical(to)));
                self.with_node(node, now, out, |peer, context| peer.set_path(path, context));
            }
            Command::ResetSession { node } => {
                self.with_node(node, now, out, Peer::reset);
            }
            Command::SetProbeKeys { node, send, receive, local_index, remote_index } => {
                let Some(slot) = self.forget_probe_index(node) else { return };
                self.by_probe_index.insert(local_index, slot);
                if let Some(Some(peer)) = self.slots.get_mut(slot) {
                    peer.prober.set(send, receive, local_index, remote_index);
                }
            }
            Command::ClearProbeKeys { node } => {
                let Some(slot) = self.forget_probe_index(node) else { return };
                if let Some(Some(peer)) = self.slots.get_mut(slot) {
                    peer.prober.clear();
                }
            }
            Command::SendProbe { node, to, transaction } => {
                let Some(slot) = self.slot_of(node) else { return };
                let to = canonical(to);
                let request = Probe::Request { transaction };
                if self.send_probe(slot, to, probe::LENGTH, request, out)
                    && let Some(Some(peer)) = self.slots.get_mut(slot)
                {
                    peer.prober.sent(transaction, to, now);
                }
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
        if slot >= PEERS {
            return;
        }
        let Some(seat) = self.slots.get_mut(slot) else { return };
        let index = slot as u32 ^ self.mask;
        let peer = seat.get_or_insert_with(|| Box::new(Peer::new(id, key, index)));
        let former = peer.key;
        if former != key {
            peer.set_key(key, index);
            forget(&mut self.by_key, former, slot);
        }
        self.by_id.insert(id, slot);
        // The first holder of a key keeps it: a node and one with the negated
        // signing key have it in common.
        self.by_key.entry(key).or_insert(slot);
        self.routes.remove_all_of(slot);
        for prefix in prefixes {
            self.routes.set(prefix, slot);
        }
    }

    fn remove_peer(&mut self, id: PeerId) {
        if let PeerId::Node(node) = id {
            self.forget_probe_index(node);
        }
        let Some(slot) = self.by_id.remove(&id) else { return };
        self.routes.remove_all_of(slot);
        if let Some(peer) = self.slots.get_mut(slot).and_then(Option::take) {
            forget(&mut self.by_key, peer.key, slot);
        }
    }

    /// Takes the index of the peer's probes away; gives back its slot.
    fn forget_probe_index(&mut self, node: NodeId) -> Option<Slot> {
        let slot = self.slot_of(node)?;
        let peer = self.slots.get_mut(slot)?.as_mut()?;
        if let Some(index) = peer.prober.local_index() {
            forget(&mut self.by_probe_index, index, slot);
        }
        Some(slot)
    }

    /// The peer that owns an inner address, by longest prefix.
    pub fn route(&self, address: IpAddr) -> Option<PeerId> {
        let slot = self.routes.owner(address)?;
        self.slots.get(slot)?.as_ref().map(|peer| peer.id)
    }

    /// Takes a packet of the host.
    pub fn handle_packet(&mut self, packet: &[u8], now: Instant, out: &mut Output) {
        self.changes += 1;
        let destination = Addresses::of(packet).map(|addresses| addresses.destination);
        let Some(destination) = destination.filter(|to| !is_group(*to)) else {
            self.dropped.unsendable += 1;
            return;
        };
        let own = self.own.owner(destination);
        if own == Some(Own::Address) {
            self.dropped.unsendable += 1;
            return;
        }
        let owner = self.routes.owner(destination).filter(|_| own.is_none());
        let Some(slot) = owner else {
            self.dropped.unroutable += 1;
            if self.unreachable.allows(now) {
                let answer = |into: &mut [u8]| unreachable::answer(packet, into);
                out.host.push((), unreachable::MAX_LENGTH, answer);
            }
            return;
        };
        self.with_peer(slot, now, out, |peer, context| peer.send(packet, context));
    }

    /// Takes a datagram of the network; `mark` are the ECN bits of its IP header.
    pub fn handle_datagram(
        &mut self,
        from: SocketAddr,
        mark: u8,
        datagram: &[u8],
        now: Instant,
        out: &mut Output,
    ) {
        self.changes += 1;
        let from = canonical(from);
        let taken = match Kind::of(datagram) {
            Some(Kind::WireGuard) => self.handle_wireguard((from, mark), datagram, now, out),
            Some(Kind::Probe) => self.handle_probe(from, datagram, now, out),
            Some(Kind::Beacon) => {
                if self.beacons.allows(now) {
                    self.reports.push(Report::Beacon { from, datagram: datagram.to_vec() });
                } else {
                    self.dropped.beacons += 1;
                }
                Some(())
            }
            // Nobody has agreed to relay or to split with this node.
            Some(Kind::Relay | Kind::Split) | None => None,
        };
        if taken.is_none() {
            self.dropped.unknown += 1;
        }
    }

    /// `None` where there is nobody whom it could be from.
    fn handle_wireguard(
        &mut self,
        (from, mark): (SocketAddr, u8),
        datagram: &[u8],
        now: Instant,
        out: &mut Output,
    ) -> Option<()> {
        if datagram.get(1..4)? != [0; 3] {
            return None;
        }
        let receiver_at = match datagram.first()? {
            1 => return self.handle_initiation(from, datagram, now, out),
            2 => 8,
            _ => 4,
        };
        let receiver = u32::from_le_bytes(*datagram.get(receiver_at..)?.first_chunk()?);
        let slot = (receiver >> 8 ^ self.mask) as Slot;
        if datagram.first() != Some(&4) {
            return self.with_peer(slot, now, out, |peer, context| {
                peer.handshake(from, datagram, context);
            });
        }
        let peer = self.slots.get_mut(slot)?.as_mut()?;
        let mut context = Context {
            now,
            network: &mut out.network,
            reports: &mut self.reports,
            wireguard: &mut self.wireguard,
        };
        let id = peer.id;
        let (routes, own, filter) = (&self.routes, &self.own, &self.filter);
        let admit = |packet: &[u8]| {
            let addresses = Addresses::of(packet).ok_or(Refusal::Source)?;
            if routes.owner(addresses.source) != Some(slot) || own.owner(addresses.source).is_some()
            {
                return Err(Refusal::Source);
            }
            let next = match own.owner(addresses.destination) {
                Some(Own::Address) => Some(Next::Host),
                Some(Own::Reserved) => None,
                None => routes.owner(addresses.destination).map(Next::Peer),
            };
            let next = next.filter(|next| *next != Next::Peer(slot)).ok_or(Refusal::Destination)?;
            if filter.admits(id, packet) { Ok(next) } else { Err(Refusal::Filtered) }
        };
        let (host, forwarded) = (&mut out.host, &mut self.forwarded);
        let to = peer.open((from, mark), datagram, host, forwarded, admit, &mut context);
        self.timeout = earlier(self.timeout, peer.next_timeout());
        if let Some(to) = to {
            self.forward(slot, to, now, out);
        }
        Some(())
    }

    /// Sends the packet that came from one peer to another, where one of them
    /// is a device. Members reach each other by themselves.
    fn forward(&mut self, from: Slot, to: Slot, now: Instant, out: &mut Output) {
        let mut packet = std::mem::take(&mut self.forwarded);
        let is_device = |slot: Slot| {
            let peer = self.slots.get(slot).and_then(Option::as_ref);
            peer.is_some_and(|peer| peer.id.is_device())
        };
        let outcome = if !is_device(from) && !is_device(to) {
            Err(Refusal::Destination)
        } else if !inner::hop(&mut packet) {
            Err(Refusal::Hops)
        } else {
            self.with_peer(to, now, out, |peer, context| peer.send(&packet, context));
            Ok(())
        };
        if let Some(Some(peer)) = self.slots.get_mut(from) {
            peer.count(packet.len(), outcome);
        }
        self.forwarded = packet;
    }

    fn handle_initiation(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
        out: &mut Output,
    ) -> Option<()> {
        let mut initiator = Initiator::Unknown;
        out.network.push(Path::Direct(from), HANDSHAKE_LENGTH, |into| {
            initiator = self.wireguard.initiator(from, datagram, now, into);
            if let Initiator::Challenged(length) = initiator { length } else { 0 }
        });
        match initiator {
            Initiator::Key(key, opened, sender) => {
                let slot = *self.by_key.get(&key)?;
                self.with_peer(slot, now, out, |peer, context| {
                    peer.answer(from, *opened, sender, context);
                })
            }
            Initiator::Challenged(_) => Some(()),
            Initiator::Unknown => None,
        }
    }

    fn handle_probe(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
        out: &mut Output,
    ) -> Option<()> {
        let slot = *self.by_probe_index.get(&probe::index(datagram)?)?;
        let peer = self.slots.get_mut(slot)?.as_mut()?;
        let PeerId::Node(node) = peer.id else { return None };
        match peer.prober.open(from, datagram, now)? {
            Heard::Request { transaction } => {
                if peer.probe_received.allows(now) {
                    self.reports.push(Report::ProbeReceived { node, from });
                }
                let answer = Probe::Answer { transaction, observed: from };
                self.send_probe(slot, from, datagram.len(), answer, out);
            }
            Heard::Answer { transaction, observed, rtt } => {
                let report = Report::ProbeAnswered { node, transaction, to: from, observed, rtt };
                self.reports.push(report);
            }
        }
        Some(())
    }

    fn send_probe(
        &mut self,
        slot: Slot,
        to: SocketAddr,
        length: usize,
        probe: Probe,
        out: &mut Output,
    ) -> bool {
        let Some(Some(peer)) = self.slots.get_mut(slot) else { return false };
        let Some((key, index)) = peer.prober.sealing() else { return false };
        let counter = self.probe_counter;
        self.probe_counter += 1;
        out.network
            .push(Path::Direct(to), length, |into| probe::seal(key, index, counter, probe, into))
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

    /// The counters.
    pub fn stats(&self, now: Instant) -> Stats {
        let peers = self
            .by_id
            .values()
            .filter_map(|slot| self.slots.get(*slot)?.as_ref())
            .map(|peer| peer.stats(now))
            .collect();
        Stats { peers, dropped: Dropped { reports: self.reports.lost, ..self.dropped } }
    }
}

/// Whether an address is that of a group of hosts.
fn is_group(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    }
}

/// Removes an entry if it still leads to the slot.
fn forget<K: Ord>(map: &mut BTreeMap<K, Slot>, key: K, slot: Slot) {
    if let btree_map::Entry::Occupied(entry) = map.entry(key)
        && *entry.get() == slot
    {
        entry.remove();
    }
}
