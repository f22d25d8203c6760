//! The shard: takes packets, datagrams and orders, and finds the peer.

mod probing;
mod seat;

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use epsilon_proto::clock::Instant;
use epsilon_proto::datagram::{Channel, DATA, Kind as DatagramKind};
use epsilon_proto::id::NodeId;
use epsilon_proto::key::AgreementKey;

use super::batch::{Output, Target};
use super::command::{Command, Path, PeerId, Report};
use super::filter::ReceiveFilter;
use super::icmp::{self, Fault};
use super::inner::{self, Addresses};
use super::lane::{Kind, Lane, Passed};
use super::peer::{Context, Next, Peer, Refusal, Reports};
use super::prober::canonical;
use super::routes::{Prefix, Routes};
use super::stats::{Dropped, Stats};
use super::transit::{Transit, Verdict};
use super::wireguard::{HANDSHAKE_LENGTH, Indices, Initiator, SLOTS, WireGuard};
use crate::limit::Limit;
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

/// Addresses of this node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Own {
    Address,
    Reserved,
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
    routes: Routes<Slot>,
    own: Routes<Own>,
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
            routes: Routes::new(),
            own: Routes::new(),
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
        self.routes.remove_all_of(slot);
        for prefix in prefixes {
            self.routes.set(prefix, slot);
        }
    }

    fn remove_peer(&mut self, id: PeerId) {
        if let PeerId::Node(node) = id {
            self.forget_probe_index(node);
            self.probed.remove(&node);
        }
        let Some(slot) = self.by_id.remove(&id) else { return };
        self.routes.remove_all_of(slot);
        if let Some(seat) = self.slots.get_mut(slot).and_then(Option::take) {
            forget(&mut self.by_key, seat.key(), &slot);
        }
    }

    /// The peer that owns an inner address, by longest prefix.
    pub fn route(&self, address: IpAddr) -> Option<PeerId> {
        let slot = self.routes.owner(address)?;
        self.slots.get(slot)?.as_ref().map(Seat::id)
    }

    /// For which peer a packet of the host is, if for any.
    pub fn peer_for(&self, packet: &[u8]) -> Option<PeerId> {
        self.route(inner::destination(packet)?)
    }

    /// Takes a packet of the host, or what another lane passed on as
    /// [`Kind::Packet`].
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
            if self.errors.allows(now) {
                self.tell(Fault::Unreachable, packet, now, out);
            }
            return;
        };
        self.send(slot, packet, now, out);
    }

    /// Tells the sender of a packet why it goes nowhere; `false` if there is nothing that
    /// could be said of it.
    fn tell(&mut self, fault: Fault, packet: &[u8], now: Instant, out: &mut Output) -> bool {
        let mut answer = [0; icmp::MAX_LENGTH];
        let length = fault.answer(packet, &mut answer);
        let Some(source) = Addresses::of(packet).map(|all| all.source).filter(|_| length > 0)
        else {
            return false;
        };
        let answer = &answer[..length];
        if let Some(slot) = self.routes.owner(source) {
            self.send(slot, answer, now, out);
        } else {
            let copy = |into: &mut [u8]| {
                into.copy_from_slice(answer);
                length
            };
            out.host.push((), length, copy);
        }
        true
    }

    /// Sends a packet to a peer, or passes it on.
    pub(super) fn send(&mut self, slot: Slot, packet: &[u8], now: Instant, out: &mut Output) {
        match self.slots.get_mut(slot) {
            Some(Some(Seat::Away { lane, .. })) => {
                let lane = *lane;
                self.pass(lane, Kind::Packet, packet, out);
            }
            Some(Some(Seat::Here(peer))) => {
                if let Some(mtu) = peer.too_large(packet) {
                    if !peer.refuse_large(now) || self.tell(Fault::TooLarge(mtu), packet, now, out)
                    {
                        return;
                    }
                    // Of some packets nothing may be said.
                    self.with_peer(slot, now, out, |peer, _| peer.take_back());
                }
                self.with_peer(slot, now, out, |peer, context| peer.send(packet, context));
            }
            Some(None) | None => {}
        }
    }

    fn pass(&mut self, lane: u8, kind: Kind, bytes: &[u8], out: &mut Output) {
        let copy = |into: &mut [u8]| {
            into.copy_from_slice(bytes);
            // Its path says what was over those bytes.
            Channel::unmark(into);
            bytes.len()
        };
        if !out.passed.push(Passed { lane, kind }, bytes.len(), copy) {
            self.dropped.passed += 1;
        }
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
        let Some((channel, first)) = Channel::of(datagram) else {
            return self.handle_straight(Path::Direct(from), mark, datagram, now, out);
        };
        match self.transit.next(channel, from, datagram.len(), now) {
            Verdict::To(to) => {
                let whole = Channel::carries_probe(datagram);
                let target = Target { path: Path::Direct(to), ecn: mark, whole };
                return self.pass_on(target, datagram, out);
            }
            Verdict::TooMuch => {
                self.dropped.relayed += 1;
                return;
            }
            Verdict::Unknown => {}
        }
        let from = Path::Relayed(from, channel);
        if first == DATA {
            // What is seen of it is not in its first bytes.
            let taken = self.handle_data((from, mark), datagram, now, out);
            self.dropped.unknown += u64::from(taken.is_none());
            return;
        }
        let mut whole = [0; MAX_ASIDE];
        let Some(whole) = whole.get_mut(..datagram.len()) else {
            self.dropped.unknown += 1;
            return;
        };
        whole.copy_from_slice(datagram);
        Channel::unmark(whole);
        self.handle_straight(from, mark, whole, now, out);
    }

    /// Passes a datagram on as it is.
    fn pass_on(&mut self, target: Target, datagram: &[u8], out: &mut Output) {
        let copy = |into: &mut [u8]| {
            into.copy_from_slice(datagram);
            datagram.len()
        };
        if !out.network.push(target, datagram.len(), copy) {
            self.dropped.relayed += 1;
        }
    }

    /// Takes a datagram that came straight, or as if it had.
    fn handle_straight(
        &mut self,
        from: Path,
        mark: u8,
        datagram: &[u8],
        now: Instant,
        out: &mut Output,
    ) {
        if !self.lane.is_front() && datagram.first() != Some(&DATA) {
            // The kernel does not tell what is data.
            return self.pass(0, Kind::Datagram { from, mark }, datagram, out);
        }
        let taken = match (DatagramKind::of(datagram), from) {
            (Some(DatagramKind::WireGuard), _) => {
                self.handle_wireguard((from, mark), datagram, now, out)
            }
            (Some(DatagramKind::Probe), _) => self.handle_probe(from, datagram, now, out),
            (Some(DatagramKind::Beacon), Path::Direct(from)) => {
                if self.beacons.allows(now) {
                    self.reports.push(Report::Beacon { from, datagram: datagram.to_vec() });
                } else {
                    self.dropped.beacons += 1;
                }
                Some(())
            }
            (Some(DatagramKind::Beacon) | None, _) => None,
        };
        if taken.is_none() {
            self.dropped.unknown += 1;
        }
    }

    /// Takes what another lane passed on as [`Kind::Datagram`].
    pub fn handle_passed(
        &mut self,
        from: Path,
        mark: u8,
        datagram: &[u8],
        now: Instant,
        out: &mut Output,
    ) {
        if self.lane.is_front() {
            return self.handle_straight(from, mark, datagram, now, out);
        }
        self.changes += 1;
        let taken = if datagram.first() == Some(&1) {
            // The front has judged it.
            let initiator = self.wireguard.passed_initiator(datagram);
            self.handle_initiator(initiator, from, datagram, now, out)
        } else {
            self.handle_wireguard((from, mark), datagram, now, out)
        };
        if taken.is_none() {
            self.dropped.unknown += 1;
        }
    }

    /// `None` where there is nobody whom it could be from.
    fn handle_wireguard(
        &mut self,
        (from, mark): (Path, u8),
        datagram: &[u8],
        now: Instant,
        out: &mut Output,
    ) -> Option<()> {
        if datagram.get(1..4)? != [0; 3] {
            return None;
        }
        let receiver_at = match *datagram.first()? {
            1 => return self.handle_initiation(from, datagram, now, out),
            2 => 8,
            3 => 4,
            _ => return self.handle_data((from, mark), datagram, now, out),
        };
        let slot = match self.place_of((from, mark), datagram, receiver_at, out)? {
            Place::Here(slot) => slot,
            Place::Passed => return Some(()),
        };
        self.with_peer(slot, now, out, |peer, context| {
            peer.handshake(from, datagram, context);
        })
    }

    /// Whose session a message is of, by the index in it.
    fn place_of(
        &mut self,
        (from, mark): (Path, u8),
        datagram: &[u8],
        receiver_at: usize,
        out: &mut Output,
    ) -> Option<Place> {
        let receiver = u32::from_le_bytes(*datagram.get(receiver_at..)?.first_chunk()?);
        let lane = self.indices.lane(receiver)?;
        if lane == self.lane.number() {
            return Some(Place::Here(self.indices.slot(receiver)));
        }
        if !self.wireguard.may_be(datagram) {
            return None;
        }
        self.pass(lane, Kind::Datagram { from, mark }, datagram, out);
        Some(Place::Passed)
    }

    /// Takes a data message, whose first four bytes may be a channel.
    fn handle_data(
        &mut self,
        (from, mark): (Path, u8),
        datagram: &[u8],
        now: Instant,
        out: &mut Output,
    ) -> Option<()> {
        let slot = match self.place_of((from, mark), datagram, 4, out)? {
            Place::Here(slot) => slot,
            Place::Passed => return Some(()),
        };
        let peer = self.slots.get_mut(slot)?.as_mut()?.here()?;
        let mut context = Context {
            now,
            network: &mut out.network,
            reports: &mut self.reports,
            wireguard: &mut self.wireguard,
            authentic: &mut self.authentic,
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
        let is_outside = || match from {
            Path::Direct(from) => {
                routes.owner(from.ip()).is_none() && own.owner(from.ip()).is_none()
            }
            Path::Relayed(..) => false,
        };
        let into = (&mut out.host, &mut self.forwarded);
        let to = peer.open((from, mark), datagram, into, admit, is_outside, &mut context);
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
            let seat = self.slots.get(slot).and_then(Option::as_ref);
            seat.is_some_and(|seat| seat.id().is_device())
        };
        let outcome = if !is_device(from) && !is_device(to) {
            Err(Refusal::Destination)
        } else if !inner::hop(&mut packet) {
            Err(Refusal::Hops)
        } else {
            self.send(to, &packet, now, out);
            Ok(())
        };
        if let Some(Some(Seat::Here(peer))) = self.slots.get_mut(from) {
            peer.count(packet.len(), outcome);
        }
        self.forwarded = packet;
    }

    fn handle_initiation(
        &mut self,
        from: Path,
        datagram: &[u8],
        now: Instant,
        out: &mut Output,
    ) -> Option<()> {
        let mut initiator = Initiator::Unknown;
        out.network.send(from, HANDSHAKE_LENGTH, |into| {
            initiator = self.wireguard.initiator(from.address(), datagram, now, into);
            if let Initiator::Challenged(length) = initiator { length } else { 0 }
        });
        self.handle_initiator(initiator, from, datagram, now, out)
    }

    fn handle_initiator(
        &mut self,
        initiator: Initiator,
        from: Path,
        datagram: &[u8],
        now: Instant,
        out: &mut Output,
    ) -> Option<()> {
        match initiator {
            Initiator::Key(key, opened, sender) => {
                let slot = *self.by_key.get(&key)?;
                if let Some(Some(Seat::Away { lane, .. })) = self.slots.get(slot) {
                    self.pass(*lane, Kind::Datagram { from, mark: 0 }, datagram, out);
                    return Some(());
                }
                self.with_peer(slot, now, out, |peer, context| {
                    peer.answer(from, *opened, sender, context);
                })
            }
            Initiator::Challenged(_) => Some(()),
            Initiator::Unknown => None,
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

/// Whether an address is that of a group of hosts.
fn is_group(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
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
