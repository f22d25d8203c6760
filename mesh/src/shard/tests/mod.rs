//! Shards wired back to back, with real WireGuard sessions.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use epsilon_proto::address::DEFAULT_MTU;
use epsilon_proto::clock::Instant;
use epsilon_proto::id::{BootId, NetworkId, NodeId};
use epsilon_proto::key::SecretKey;
use proptest::prelude::*;

use super::probe;
use super::*;

mod devices;
mod lanes;
mod malice;
mod narrow;
mod relay;
mod subnets;

const NETWORK: NetworkId = NetworkId([9; 32]);
const V4: [&str; 3] = ["10.77.1.1", "10.77.1.2", "10.77.1.3"];
const V6: [&str; 3] = ["fd00::1:1", "fd00::1:2", "fd00::1:3"];
const RESERVED: &str = "10.77.0.53";

/// An IP packet of a protocol that needs no header of its own.
pub(super) fn packet(source: &str, destination: &str, payload: &[u8]) -> Vec<u8> {
    let (source, destination): (IpAddr, IpAddr) =
        (source.parse().unwrap(), destination.parse().unwrap());
    let length = payload.len() as u16;
    let mut packet = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 253, 0, 0];
            header[2..4].copy_from_slice(&(length + 20).to_be_bytes());
            header.extend(source.octets());
            header.extend(destination.octets());
            header
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut header = vec![0x60, 0, 0, 0, 0, 0, 253, 64];
            header[4..6].copy_from_slice(&length.to_be_bytes());
            header.extend(source.octets());
            header.extend(destination.octets());
            header
        }
        _ => panic!("{source} and {destination} are of different families"),
    };
    packet.extend(payload);
    packet
}

/// A datagram on the wire.
#[derive(Clone, Debug, PartialEq)]
struct Wire {
    from: SocketAddr,
    to: SocketAddr,
    ecn: u8,
    bytes: Vec<u8>,
}

struct Node {
    key: SecretKey,
    at: SocketAddr,
    shard: Shard,
    /// What its host was given.
    host: Vec<Vec<u8>>,
}

/// Some nodes, of which each knows every other, and a network that carries
/// everything at once.
struct Fleet {
    nodes: Vec<Node>,
    now: Instant,
    /// Everything that ever was on the wire.
    log: Vec<Wire>,
    /// Whether the network loses everything.
    cut: bool,
}

struct RefuseEverything;

impl ReceiveFilter for RefuseEverything {
    fn admits(&self, _peer: PeerId, _packet: &[u8]) -> bool {
        false
    }
}

fn address(node: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, node as u8 + 1], 7755))
}

fn prefixes(node: usize) -> Vec<Prefix> {
    [V4[node], V6[node]].map(|text| Prefix::host(text.parse::<IpAddr>().unwrap())).to_vec()
}

/// Bytes that are the same in every run, and never twice in one.
pub(super) fn entropy() -> Entropy {
    static DRAWN: AtomicU64 = AtomicU64::new(0);
    Arc::new(|into: &mut [u8]| {
        let drawn = DRAWN.fetch_add(1, Ordering::Relaxed);
        let mut reader = blake3::Hasher::new().update(&drawn.to_le_bytes()).finalize_xof();
        reader.fill(into);
        true
    })
}

fn new_shard(key: &SecretKey, filter: Box<dyn ReceiveFilter>) -> Shard {
    new_lane(key, filter, Lane::ONLY)
}

fn new_lane(key: &SecretKey, filter: Box<dyn ReceiveFilter>, lane: Lane) -> Shard {
    // A daemon takes a moment to start.
    static STARTED: AtomicU64 = AtomicU64::new(1_800_000_000_000);
    let epoch = Duration::from_millis(STARTED.fetch_add(1, Ordering::Relaxed));
    let wireguard = WireGuard::new(key, entropy(), epoch);
    Shard::new(Config { lane, wireguard, filter, seed: 0x1234_5678 })
}

impl Fleet {
    /// Nodes without paths and without probe keys.
    fn of(count: usize) -> Self {
        let nodes = (0..count)
            .map(|node| {
                let key = SecretKey::from_seed(&[node as u8 + 1; 32]);
                let shard = new_shard(&key, Box::new(AdmitAll));
                Node { key, at: address(node), shard, host: Vec::new() }
            })
            .collect();
        let mut fleet =
            Self { nodes, now: Instant(Duration::from_secs(1000)), log: Vec::new(), cut: false };
        for node in 0..count {
            fleet.introduce(node);
        }
        fleet
    }

    /// Nodes that have a path to each other.
    fn connected(count: usize) -> Self {
        let mut fleet = Self::of(count);
        for one in 0..count {
            for other in (0..count).filter(|other| *other != one) {
                fleet.path(one, other);
            }
        }
        fleet
    }

    fn introduce(&mut self, node: usize) {
        let reserved = vec![Prefix::host(RESERVED.parse::<IpAddr>().unwrap())];
        self.command(
            node,
            Command::SetOwn { addresses: prefixes(node), reserved, mesh: Vec::new() },
        );
        for peer in (0..self.nodes.len()).filter(|peer| *peer != node) {
            let key = self.nodes[peer].key.public().agreement().unwrap();
            let command = Command::SetPeer { node: self.id(peer), key, prefixes: prefixes(peer) };
            self.command(node, command);
        }
    }

    fn id(&self, node: usize) -> NodeId {
        self.nodes[node].key.node()
    }

    fn path(&mut self, from: usize, to: usize) {
        let path = Some(Path::Direct(address(to)));
        self.command(from, Command::SetPath { node: self.id(to), path, mtu: DEFAULT_MTU });
    }

    fn with_output(
        &mut self,
        node: usize,
        act: impl FnOnce(&mut Shard, Instant, &mut Output),
    ) -> Vec<Wire> {
        let mut out = Output::new();
        let now = self.now;
        let node = &mut self.nodes[node];
        act(&mut node.shard, now, &mut out);
        node.host.extend(out.host.iter().map(|((), packet)| packet.to_vec()));
        out.network
            .iter()
            .map(|(target, bytes)| {
                let to = target.path.address();
                Wire { from: node.at, to, ecn: target.ecn, bytes: bytes.to_vec() }
            })
            .collect()
    }

    /// Delivers datagrams, and what they bring about, until all is quiet.
    fn carry(&mut self, mut wires: Vec<Wire>) {
        for _ in 0..100 {
            let mut next = Vec::new();
            for wire in wires {
                self.log.push(wire.clone());
                if self.cut {
                    continue;
                }
                next.extend(self.deliver(&wire));
            }
            if next.is_empty() {
                return;
            }
            wires = next;
        }
        panic!("the nodes never stop talking");
    }

    fn deliver(&mut self, wire: &Wire) -> Vec<Wire> {
        let Some(to) = self.nodes.iter().position(|node| node.at == wire.to) else {
            return Vec::new();
        };
        self.with_output(to, |shard, now, out| {
            shard.handle_datagram(wire.from, wire.ecn, &wire.bytes, now, out);
        })
    }

    fn command(&mut self, node: usize, command: Command) {
        let wires = self.with_output(node, |shard, now, out| {
            shard.handle_command(command, now, out);
        });
        self.carry(wires);
    }

    fn send(&mut self, node: usize, packet: &[u8]) {
        let wires = self.with_output(node, |shard, now, out| shard.handle_packet(packet, now, out));
        self.carry(wires);
    }

    /// Lets time pass, in steps of the timers.
    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let next = self.nodes.iter().filter_map(|node| node.shard.poll_timeout()).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = next.max(self.now);
            for node in 0..self.nodes.len() {
                let wires = self.with_output(node, Shard::handle_timeout);
                self.carry(wires);
            }
        }
        self.now = end;
    }

    /// What a node reported, but for who is busy and what has no reply yet.
    fn reports(&mut self, node: usize) -> Vec<Report> {
        let mut all = self.all_reports(node);
        all.retain(|report| {
            !matches!(report, Report::Busy { .. } | Report::Idle { .. } | Report::Unanswered { .. })
        });
        all
    }

    fn all_reports(&mut self, node: usize) -> Vec<Report> {
        std::iter::from_fn(|| self.nodes[node].shard.poll_report()).collect()
    }

    fn received(&mut self, node: usize) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.nodes[node].host)
    }

    fn stats(&self, node: usize, peer: usize) -> PeerStats {
        let stats = self.nodes[node].shard.stats(self.now);
        stats.peers.into_iter().find(|stats| stats.id == PeerId::Node(self.id(peer))).unwrap()
    }

    /// Starts a node's daemon again: it knows no sessions any more.
    fn restart(&mut self, node: usize) {
        self.nodes[node].shard = new_shard(&self.nodes[node].key.clone(), Box::new(AdmitAll));
        self.introduce(node);
        for peer in (0..self.nodes.len()).filter(|peer| *peer != node) {
            self.path(node, peer);
        }
    }

    fn give_probe_keys(&mut self) {
        self.give_probe_keys_to(0, 1);
    }

    fn give_probe_keys_to(&mut self, one: usize, other: usize) {
        for (own, peer) in [(one, other), (other, one)] {
            let boots = (BootId([own as u8; 16]), BootId([peer as u8; 16]));
            let node = self.id(peer);
            let keys = probe_keys(&self.nodes[own].key, node, NETWORK, boots).unwrap();
            self.command(own, Command::SetProbeKeys { node, keys });
        }
    }

    fn last(&self, kind: u8) -> Wire {
        self.log.iter().rev().find(|wire| wire.bytes[0] == kind).unwrap().clone()
    }
}

#[test]
fn the_first_packet_makes_the_session_and_arrives_in_both_families() {
    for (from, to) in [(V4[0], V4[1]), (V6[0], V6[1])] {
        let mut fleet = Fleet::connected(2);
        let hello = packet(from, to, b"hello");
        fleet.send(0, &hello);
        assert_eq!(fleet.received(1), [hello]);
        let reply = packet(to, from, b"and to you");
        fleet.send(1, &reply);
        assert_eq!(fleet.received(0), [reply]);
        assert_eq!(fleet.log.iter().filter(|wire| wire.bytes[0] == 1).count(), 1);
    }
}

#[test]
fn packets_that_waited_for_the_session_arrive_in_order() {
    let mut fleet = Fleet::of(2);
    fleet.path(1, 0);
    let packets: Vec<_> = (0..40).map(|n| packet(V4[0], V4[1], &[n])).collect();
    for packet in &packets {
        fleet.send(0, packet);
    }
    assert!(fleet.log.is_empty());
    let node = fleet.id(1);
    assert_eq!(fleet.reports(0), [Report::NoPath { node }]);
    fleet.path(0, 1);
    assert_eq!(fleet.received(1), packets[8..]);
    assert_eq!(fleet.stats(0, 1).dropped.waiting, 8);
}

#[test]
fn no_packet_waits_longer_than_ten_seconds() {
    let mut fleet = Fleet::of(2);
    fleet.send(0, &packet(V4[0], V4[1], b"old"));
    fleet.pass(Duration::from_secs(11));
    fleet.path(0, 1);
    assert!(fleet.received(1).is_empty());
    assert_eq!(fleet.stats(0, 1).dropped.waiting, 1);
    // Nor is a way looked for any longer than for what is sent.
    let node = fleet.id(1);
    assert_eq!(fleet.all_reports(0), [Report::NoPath { node }]);
    fleet.pass(IDLE);
    assert_eq!(fleet.all_reports(0), [Report::Idle { node }]);
    assert_eq!(fleet.nodes[0].shard.poll_timeout(), None);
}

#[test]
fn a_peer_cannot_speak_for_another_member_or_for_this_node() {
    let mut fleet = Fleet::connected(3);
    fleet.send(0, &packet(V4[0], V4[1], b"hello"));
    fleet.received(1);
    for source in [V4[2], V4[1], RESERVED, "192.0.2.1"] {
        fleet.send(0, &packet(source, V4[1], b"trust me"));
    }
    fleet.send(0, &packet(V6[2], V6[1], b"trust me"));
    assert!(fleet.received(1).is_empty());
    assert_eq!(fleet.stats(1, 0).dropped.source, 5);
}

#[test]
fn what_lies_about_its_length_is_dropped_and_counted_and_what_follows_a_packet_is_cut_off() {
    let mut fleet = Fleet::connected(2);
    fleet.send(0, &packet(V4[0], V4[1], b"hello"));
    fleet.received(1);
    // Of whole blocks of 16 bytes, so that sealing adds nothing.
    let (v4, v6) = (packet(V4[0], V4[1], b"twelve bytes"), packet(V6[0], V6[1], b"as 8 are"));
    let changed = |packet: &[u8], changes: &[(usize, u8)]| {
        let mut bytes = packet.to_vec();
        for (at, value) in changes {
            bytes[*at] = *value;
        }
        bytes
    };
    let lies = [
        // More than there is, less than a header, and headers longer and shorter than
        // they may be.
        changed(&v4, &[(2, 0xff)]),
        changed(&v4, &[(3, v4[3] + 1)]),
        changed(&v4, &[(3, 19)]),
        changed(&v4, &[(0, 0x44)]),
        changed(&v4, &[(0, 0x4f)]),
        changed(&v6, &[(4, 0xff)]),
        changed(&v6, &[(5, v6[5] + 1)]),
    ];
    for lie in &lies {
        fleet.send(0, lie);
    }
    let dropped = fleet.nodes[0].shard.stats(fleet.now).dropped;
    assert_eq!(dropped.unsendable, lies.len() as u64);
    // A member may seal them all the same; this is its only peer.
    let seat = 0;
    for lie in &lies {
        let sealed = fleet.with_output(0, |shard, now, out| shard.send(seat, lie, now, out));
        assert_eq!(sealed.len(), 1);
        fleet.carry(sealed);
    }
    assert!(fleet.received(1).is_empty());
    assert_eq!(fleet.stats(1, 0).dropped.source, lies.len() as u64);
    for packet in [&v4, &v6] {
        let longer = [&packet[..], b"and more"].concat();
        let sealed = fleet.with_output(0, |shard, now, out| shard.send(seat, &longer, now, out));
        fleet.carry(sealed);
    }
    assert_eq!(fleet.received(1), [v4, v6]);
}

#[test]
fn a_packet_for_somebody_else_is_not_forwarded() {
    let mut fleet = Fleet::connected(2);
    // The sender believes that these are behind the peer.
    let key = fleet.nodes[1].key.public().agreement().unwrap();
    let everything = vec![Prefix::new("0.0.0.0".parse().unwrap(), 0)];
    fleet.command(0, Command::SetPeer { node: fleet.id(1), key, prefixes: everything });
    for destination in ["192.0.2.99", "10.77.0.54"] {
        fleet.send(0, &packet(V4[0], destination, b"pass it on"));
    }
    assert!(fleet.received(1).is_empty());
    assert_eq!(fleet.stats(1, 0).dropped.destination, 2);
}

#[test]
fn marks_of_congestion_go_through_the_tunnel() {
    let mut fleet = Fleet::connected(2);
    fleet.send(0, &packet(V6[0], V6[1], b"hello"));
    assert!(fleet.log.iter().all(|wire| wire.ecn == 0));
    fleet.received(1);
    let mut hello = packet(V6[0], V6[1], b"understood");
    hello[1] |= 2 << 4;
    fleet.cut = true;
    fleet.send(0, &hello);
    fleet.send(0, &packet(V6[0], V6[1], b"not understood"));
    fleet.cut = false;
    let sent: Vec<Wire> = fleet.log[fleet.log.len() - 2..].to_vec();
    assert_eq!([sent[0].ecn, sent[1].ecn], [2, 0]);
    for wire in sent {
        fleet.deliver(&Wire { ecn: 3, ..wire });
    }
    hello[1] |= 3 << 4;
    assert_eq!(fleet.received(1), [hello]);
    assert_eq!(fleet.stats(1, 0).dropped.congestion, 1);
}

#[test]
fn the_filter_has_the_last_word() {
    let mut fleet = Fleet::connected(2);
    fleet.nodes[1].shard = new_shard(&fleet.nodes[1].key.clone(), Box::new(RefuseEverything));
    fleet.introduce(1);
    fleet.path(1, 0);
    fleet.send(0, &packet(V4[0], V4[1], b"hello"));
    assert!(fleet.received(1).is_empty());
    assert_eq!(fleet.stats(1, 0).dropped.filtered, 1);
}

#[test]
fn a_repeated_datagram_is_dropped() {
    let mut fleet = Fleet::connected(2);
    let hello = packet(V4[0], V4[1], b"hello");
    fleet.send(0, &hello);
    assert_eq!(fleet.received(1), [hello]);
    let recorded = fleet.last(4);
    assert!(fleet.deliver(&recorded).is_empty());
    assert!(fleet.received(1).is_empty());
    assert_eq!(fleet.stats(1, 0).dropped.unopened, 1);
}

#[test]
fn a_removed_peer_is_cut_off_in_both_directions() {
    let mut fleet = Fleet::connected(2);
    fleet.give_probe_keys();
    fleet.send(0, &packet(V4[0], V4[1], b"hello"));
    fleet.received(1);
    fleet.command(1, Command::RemovePeer { node: fleet.id(0) });
    fleet.send(0, &packet(V4[0], V4[1], b"still there?"));
    assert!(fleet.received(1).is_empty());
    let said_so_far = fleet.log.len();
    // It is not answered, whatever it tries, and nothing is sent to it.
    fleet.restart(0);
    fleet.send(0, &packet(V4[0], V4[1], b"let me in"));
    fleet.give_probe_keys();
    let node = fleet.id(1);
    fleet.command(
        0,
        Command::SendProbe { node, to: Path::Direct(address(1)), size: None, transaction: 1 },
    );
    fleet.send(1, &packet(V4[1], V4[0], b"hello"));
    let answers: Vec<_> =
        fleet.log[said_so_far..].iter().filter(|wire| wire.from == address(1)).collect();
    assert!(answers.is_empty(), "{answers:?}");
    assert!(fleet.nodes[1].shard.stats(fleet.now).peers.is_empty());
    // Its program learns at once that the address is nobody's.
    assert_eq!(fleet.received(1).len(), 1);
}

#[test]
fn the_first_packet_after_a_restart_of_the_peer_arrives() {
    let mut fleet = Fleet::connected(2);
    fleet.send(0, &packet(V4[0], V4[1], b"before"));
    fleet.restart(1);
    fleet.received(1);
    fleet.send(0, &packet(V4[0], V4[1], b"lost"));
    assert!(fleet.received(1).is_empty());
    // There was traffic, so that the handshake does not wait for more.
    fleet.command(0, Command::ResetSession { node: fleet.id(1) });
    assert!(fleet.stats(1, 0).ready);
    let first = packet(V4[0], V4[1], b"after");
    fleet.send(0, &first);
    assert_eq!(fleet.received(1), [first]);
}

#[test]
fn an_idle_session_that_is_reset_stays_quiet_until_a_packet_comes() {
    let mut fleet = Fleet::connected(2);
    fleet.send(0, &packet(V4[0], V4[1], b"before"));
    fleet.pass(Duration::from_mins(1));
    fleet.restart(1);
    let said_so_far = fleet.log.len();
    fleet.command(0, Command::ResetSession { node: fleet.id(1) });
    assert_eq!(fleet.log.len(), said_so_far);
    fleet.received(1);
    let first = packet(V4[0], V4[1], b"after");
    fleet.send(0, &first);
    assert_eq!(fleet.received(1), [first]);
}

#[test]
fn a_recorded_handshake_from_elsewhere_moves_no_path() {
    let mut fleet = Fleet::connected(2);
    fleet.send(0, &packet(V4[0], V4[1], b"hello"));
    let elsewhere: SocketAddr = "198.51.100.1:1".parse().unwrap();
    let recorded = fleet.last(1);
    // A node that forgot the session cannot know that it is a recording.
    fleet.restart(1);
    fleet.received(1);
    let answers = fleet.deliver(&Wire { from: elsewhere, ..recorded.clone() });
    assert!(answers.iter().all(|wire| wire.bytes.len() <= recorded.bytes.len()));
    assert_eq!(fleet.stats(1, 0).path, Some(Path::Direct(address(0))));
    assert!(fleet.reports(1).is_empty());
    let hello = packet(V4[1], V4[0], b"hello");
    fleet.received(0);
    fleet.send(1, &hello);
    assert_eq!(fleet.received(0), [hello]);
    // One that did not forget does not even answer.
    let recorded = fleet.last(1);
    assert!(fleet.deliver(&Wire { from: elsewhere, ..recorded }).is_empty());
}

#[test]
fn data_from_elsewhere_is_taken_and_reported_and_moves_no_path() {
    let mut fleet = Fleet::connected(2);
    fleet.send(0, &packet(V4[0], V4[1], b"hello"));
    fleet.received(1);
    let from: SocketAddr = "198.51.100.1:1".parse().unwrap();
    let moved = packet(V4[0], V4[1], b"moved");
    for _ in 0..3 {
        let sent = fleet.with_output(0, |shard, now, out| shard.handle_packet(&moved, now, out));
        fleet.deliver(&Wire { from, ..sent[0].clone() });
    }
    assert_eq!(fleet.received(1), [&moved[..], &moved, &moved]);
    assert_eq!(
        fleet.reports(1),
        [Report::NewSource { node: fleet.id(0), from: Path::Direct(from) }]
    );
    assert_eq!(fleet.stats(1, 0).path, Some(Path::Direct(address(0))));
}

#[test]
fn whoever_is_not_a_member_gets_no_answer() {
    let mut fleet = Fleet::connected(2);
    fleet.give_probe_keys();
    // A stranger who knows the node's key, and its address inside.
    let mut stranger = Fleet::connected(3);
    stranger.give_probe_keys();
    stranger.nodes[2].key = SecretKey::from_seed(&[77; 32]);
    stranger.nodes[2].shard = new_shard(&SecretKey::from_seed(&[77; 32]), Box::new(AdmitAll));
    stranger.introduce(2);
    stranger.path(2, 1);
    stranger.send(2, &packet(V4[2], V4[1], b"let me in"));
    let initiation = stranger.last(1);
    assert!(fleet.deliver(&initiation).is_empty());
    assert_eq!(fleet.nodes[1].shard.stats(fleet.now).dropped.unknown, 1);
    assert_eq!(fleet.nodes[1].shard.poll_timeout(), None);
}

#[test]
fn an_answered_probe_tells_the_address_seen_and_the_round_trip() {
    let mut fleet = Fleet::of(2);
    fleet.give_probe_keys();
    let (node, to) = (fleet.id(1), address(1));
    let request = fleet.with_output(0, |shard, now, out| {
        shard.handle_command(
            Command::SendProbe { node, to: Path::Direct(to), size: None, transaction: 42 },
            now,
            out,
        );
    });
    // A translator gives the request another source.
    let observed: SocketAddr = "203.0.113.9:4242".parse().unwrap();
    let answer = fleet.deliver(&Wire { from: observed, ..request[0].clone() });
    assert_eq!(answer[0].to, observed);
    assert_eq!(answer[0].bytes.len(), request[0].bytes.len());
    assert_eq!(
        fleet.reports(1),
        [Report::ProbeReceived { node: fleet.id(0), from: Path::Direct(observed) }]
    );
    fleet.now = fleet.now + Duration::from_millis(30);
    fleet.deliver(&Wire { to: address(0), ..answer[0].clone() });
    let rtt = Duration::from_millis(30);
    let answered =
        Report::ProbeAnswered { node, transaction: 42, to: Path::Direct(to), observed, rtt };
    assert_eq!(fleet.reports(0), [answered]);
    // Once is enough.
    fleet.deliver(&Wire { to: address(0), ..answer[0].clone() });
    assert!(fleet.reports(0).is_empty());
}

#[test]
fn an_answer_from_another_address_or_too_late_is_none() {
    for (from, delay) in [("198.51.100.1:1", 0), ("192.0.2.2:7755", 5)] {
        let mut fleet = Fleet::of(2);
        fleet.give_probe_keys();
        let command = Command::SendProbe {
            node: fleet.id(1),
            to: Path::Direct(address(1)),
            size: None,
            transaction: 42,
        };
        let request = fleet.with_output(0, |shard, now, out| {
            shard.handle_command(command, now, out);
        });
        let answer = fleet.deliver(&request[0]);
        fleet.now = fleet.now + Duration::from_secs(delay);
        fleet.deliver(&Wire { from: from.parse().unwrap(), ..answer[0].clone() });
        assert!(fleet.reports(0).is_empty());
    }
}

#[test]
fn forged_and_repeated_probes_are_not_answered() {
    let mut fleet = Fleet::of(2);
    fleet.give_probe_keys();
    let node = fleet.id(1);
    fleet.command(
        0,
        Command::SendProbe { node, to: Path::Direct(address(1)), size: None, transaction: 1 },
    );
    let request = fleet.log[0].clone();
    assert_eq!(fleet.log.len(), 2);
    assert!(fleet.deliver(&request).is_empty());
    // Given again, the keys have not forgotten what was used.
    fleet.command(1, Command::ClearProbeKeys { node: fleet.id(0) });
    assert!(fleet.deliver(&request).is_empty());
    fleet.give_probe_keys();
    assert!(fleet.deliver(&request).is_empty());
    let boots = (BootId([0; 16]), BootId([1; 16]));
    let other = probe_keys(&SecretKey::from_seed(&[77; 32]), node, NETWORK, boots).unwrap();
    let index = probe::index(&request.bytes).unwrap();
    let mut bytes = vec![0; probe::LENGTH];
    probe::seal(&other.send, index, 9, probe::Probe::Request { transaction: 1 }, &mut bytes);
    assert!(fleet.deliver(&Wire { bytes, ..request }).is_empty());
}

#[test]
fn without_probe_keys_none_is_sent_or_answered() {
    let mut fleet = Fleet::of(2);
    fleet.give_probe_keys();
    fleet.command(1, Command::ClearProbeKeys { node: fleet.id(0) });
    fleet.command(
        0,
        Command::SendProbe {
            node: fleet.id(1),
            to: Path::Direct(address(1)),
            size: None,
            transaction: 1,
        },
    );
    assert_eq!(fleet.log.len(), 1);
    fleet.command(
        1,
        Command::SendProbe {
            node: fleet.id(0),
            to: Path::Direct(address(0)),
            size: None,
            transaction: 1,
        },
    );
    assert_eq!(fleet.log.len(), 1);
}

#[test]
fn what_has_no_reply_is_reported_as_often_as_something_is_sent_for_nothing() {
    let mut fleet = Fleet::connected(2);
    let node = fleet.id(1);
    let ask = packet(V4[0], V4[1], b"hello?");
    fleet.send(0, &ask);
    assert_eq!(fleet.all_reports(0), [Report::Busy { node }]);
    fleet.send(1, &packet(V4[1], V4[0], b"yes"));
    for _ in 0..2 {
        fleet.cut = true;
        fleet.send(0, &ask);
        fleet.pass(UNANSWERED.saturating_sub(Duration::from_millis(1)));
        assert!(fleet.all_reports(0).is_empty());
        fleet.pass(Duration::from_millis(1));
        assert_eq!(fleet.all_reports(0), [Report::Unanswered { node }]);
        fleet.pass(Duration::from_secs(5));
        assert!(fleet.all_reports(0).is_empty(), "nothing was sent");
        fleet.send(0, &ask);
        fleet.pass(UNANSWERED);
        assert_eq!(fleet.all_reports(0), [Report::Unanswered { node }]);
        fleet.cut = false;
        fleet.send(1, &packet(V4[1], V4[0], b"here I am"));
    }
}

#[test]
fn a_peer_is_idle_when_nothing_is_sent_or_heard_and_busy_when_something_is_sent() {
    let mut fleet = Fleet::connected(2);
    let (one, other) = (fleet.id(0), fleet.id(1));
    fleet.send(0, &packet(V4[0], V4[1], b"hello"));
    fleet.send(1, &packet(V4[1], V4[0], b"hello"));
    assert_eq!(fleet.all_reports(0), [Report::Busy { node: other }]);
    assert_eq!(fleet.all_reports(1), [Report::Busy { node: one }]);
    // Whoever spoke last has no reply for ten seconds.
    let unanswered = Report::Unanswered { node: one };
    for _ in 0..5 {
        fleet.pass(Duration::from_secs(14));
        fleet.send(0, &packet(V4[0], V4[1], b"still there"));
        fleet.send(1, &packet(V4[1], V4[0], b"yes"));
        assert_eq!(fleet.all_reports(1), std::slice::from_ref(&unanswered));
    }
    assert!(fleet.all_reports(0).is_empty());
    fleet.pass(IDLE + Duration::from_secs(10));
    assert_eq!(fleet.all_reports(0), [Report::Idle { node: other }]);
    assert_eq!(fleet.all_reports(1), [unanswered, Report::Idle { node: one }]);
    fleet.pass(Duration::from_mins(10));
    assert!(fleet.all_reports(0).is_empty() && fleet.all_reports(1).is_empty());
    fleet.send(1, &packet(V4[1], V4[0], b"again"));
    assert_eq!(fleet.all_reports(1), [Report::Busy { node: one }]);
}

#[test]
fn a_peer_that_only_listens_is_not_silent_and_then_nobody_asks_for_timers() {
    let mut fleet = Fleet::connected(2);
    fleet.all_reports(0);
    fleet.send(0, &packet(V4[0], V4[1], b"one way"));
    fleet.pass(Duration::from_secs(40));
    // The keepalive comes after ten seconds.
    let node = fleet.id(1);
    let said = [Report::Busy { node }, Report::Unanswered { node }, Report::Idle { node }];
    assert_eq!(fleet.all_reports(0), said);
    let said = fleet.log.len();
    fleet.pass(Duration::from_mins(10));
    assert_eq!(fleet.log.len(), said);
    assert!(!fleet.stats(0, 1).ready && !fleet.stats(1, 0).ready);
    assert!(fleet.nodes.iter().all(|node| node.shard.poll_timeout().is_none()));
    fleet.received(1);
    let again = packet(V4[0], V4[1], b"again");
    fleet.send(0, &again);
    assert_eq!(fleet.received(1), [again]);
}

#[test]
fn a_lost_first_message_is_repeated_after_a_second() {
    let mut fleet = Fleet::connected(2);
    let hello = packet(V4[0], V4[1], b"hello");
    let lost = fleet.with_output(0, |shard, now, out| shard.handle_packet(&hello, now, out));
    assert_eq!(lost.len(), 1);
    fleet.pass(Duration::from_millis(1250));
    assert_eq!(fleet.received(1), [hello]);
}

#[test]
fn two_that_begin_at_once_both_arrive() {
    let mut fleet = Fleet::connected(2);
    let (there, back) = (packet(V4[0], V4[1], b"there"), packet(V4[1], V4[0], b"back"));
    let mut wires = fleet.with_output(0, |shard, now, out| shard.handle_packet(&there, now, out));
    wires.extend(fleet.with_output(1, |shard, now, out| shard.handle_packet(&back, now, out)));
    assert_eq!(wires.len(), 2);
    fleet.carry(wires);
    assert_eq!((fleet.received(0), fleet.received(1)), (vec![back], vec![there]));
}

#[test]
fn an_address_of_nobody_is_answered_at_once_and_groups_are_not() {
    let mut fleet = Fleet::connected(2);
    for (source, destination, answers) in [
        (V4[0], "10.77.9.9", 1),
        (V6[0], "fd00::9:9", 1),
        (V4[0], "224.0.0.251", 0),
        (V6[0], "ff02::2", 0),
        (V4[0], RESERVED, 1),
        (V4[0], V4[0], 0),
    ] {
        fleet.send(0, &packet(source, destination, b"anybody?"));
        assert_eq!(fleet.received(0).len(), answers, "{destination}");
    }
    assert!(fleet.log.is_empty());
    let dropped = fleet.nodes[0].shard.stats(fleet.now).dropped;
    assert_eq!((dropped.unroutable, dropped.unsendable), (3, 3));
    for _ in 0..1000 {
        fleet.send(0, &packet(V4[0], "10.77.9.9", b"anybody?"));
    }
    assert!(fleet.received(0).len() <= 100);
}

#[test]
fn beacons_are_handed_on_up_to_a_rate() {
    let mut fleet = Fleet::of(1);
    let beacon = Wire { from: address(5), to: address(0), ecn: 0, bytes: vec![0x82, 1, 2] };
    for _ in 0..1000 {
        assert!(fleet.deliver(&beacon).is_empty());
    }
    let reports = fleet.reports(0);
    assert_eq!(reports.len(), BEACONS_PER_SECOND as usize);
    assert_eq!(reports[0], Report::Beacon { from: address(5), datagram: vec![0x82, 1, 2] });
    assert_eq!(fleet.nodes[0].shard.stats(fleet.now).dropped.beacons, 1000 - 64);
}

#[test]
fn a_reused_seat_does_not_open_what_was_for_its_former_holder() {
    let mut fleet = Fleet::connected(3);
    fleet.send(0, &packet(V4[0], V4[1], b"hello"));
    let sealed = fleet.with_output(0, |shard, now, out| {
        shard.handle_packet(&packet(V4[0], V4[1], b"for the old session"), now, out);
    });
    let (former, other) = (fleet.id(0), fleet.id(2));
    let key = fleet.nodes[2].key.public().agreement().unwrap();
    fleet.received(1);
    fleet.command(1, Command::RemovePeer { node: former });
    fleet.command(1, Command::RemovePeer { node: other });
    fleet.command(1, Command::SetPeer { node: other, key, prefixes: prefixes(2) });
    fleet.path(1, 2);
    fleet.send(2, &packet(V4[2], V4[1], b"hello"));
    assert_eq!(fleet.received(1).len(), 1);
    assert!(fleet.deliver(&sealed[0]).is_empty());
    assert!(fleet.received(1).is_empty());
    assert_eq!(fleet.nodes[1].shard.route(V4[2].parse().unwrap()), Some(PeerId::Node(other)));
    assert_eq!(fleet.nodes[1].shard.route(V4[0].parse().unwrap()), None);
}

#[test]
fn another_key_for_a_peer_ends_its_session() {
    let mut fleet = Fleet::connected(2);
    fleet.send(0, &packet(V4[0], V4[1], b"hello"));
    assert!(fleet.stats(1, 0).ready);
    let key = SecretKey::from_seed(&[50; 32]).public().agreement().unwrap();
    fleet.command(1, Command::SetPeer { node: fleet.id(0), key, prefixes: prefixes(0) });
    assert!(!fleet.stats(1, 0).ready);
    fleet.received(1);
    fleet.restart(0);
    fleet.send(0, &packet(V4[0], V4[1], b"hello"));
    assert!(fleet.received(1).is_empty());
}

#[test]
fn a_session_outlives_a_path_and_packets_wait_for_the_next() {
    let mut fleet = Fleet::connected(2);
    fleet.send(0, &packet(V4[0], V4[1], b"hello"));
    fleet.received(1);
    fleet.command(0, Command::SetPath { node: fleet.id(1), path: None, mtu: DEFAULT_MTU });
    let waiting = packet(V4[0], V4[1], b"waiting");
    fleet.send(0, &waiting);
    assert_eq!(fleet.reports(0), [Report::NoPath { node: fleet.id(1) }]);
    let said_so_far = fleet.log.len();
    fleet.path(0, 1);
    assert_eq!(fleet.received(1), [waiting]);
    assert_eq!(fleet.log.len(), said_so_far + 1);
}

#[test]
fn an_ipv4_peer_on_an_ipv6_socket_is_on_its_path() {
    let mut fleet = Fleet::connected(2);
    let hello = packet(V4[0], V4[1], b"hello");
    fleet.send(0, &hello);
    fleet.received(1);
    let sent = fleet.with_output(0, |shard, now, out| shard.handle_packet(&hello, now, out));
    fleet.deliver(&Wire { from: "[::ffff:192.0.2.1]:7755".parse().unwrap(), ..sent[0].clone() });
    assert_eq!(fleet.received(1), [hello]);
    assert!(fleet.reports(1).is_empty());
}

/// Junk that looks enough like the real thing to get far.
fn junk() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![1u8..=4, 0x80u8..=0x83, any::<u8>()];
    let length = prop_oneof![Just(148usize), Just(92), Just(64), 0usize..200];
    (first, length, any::<[u8; 32]>(), any::<bool>()).prop_map(|(first, length, fill, plain)| {
        let mut bytes: Vec<u8> = fill.iter().copied().cycle().take(length).collect();
        if plain {
            bytes.iter_mut().skip(1).take(3).for_each(|byte| *byte = 0);
        }
        if let Some(byte) = bytes.first_mut() {
            *byte = first;
        }
        bytes
    })
}

#[derive(Clone, Debug)]
enum Event {
    Packet,
    NoPath,
    Path,
    Reset,
    Restart,
    Remove,
    Introduce,
    Probe,
    Pass(u64),
    Cut(bool),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => Just(Event::Packet),
        1 => Just(Event::NoPath),
        2 => Just(Event::Path),
        1 => Just(Event::Reset),
        1 => Just(Event::Restart),
        1 => Just(Event::Remove),
        2 => Just(Event::Introduce),
        1 => Just(Event::Probe),
        2 => (0u64..200).prop_map(Event::Pass),
        1 => any::<bool>().prop_map(Event::Cut),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn junk_gets_no_answer_and_reaches_no_host(
        datagrams in proptest::collection::vec((junk(), 0u8..4, any::<u8>()), 1..40),
    ) {
        let mut fleet = Fleet::connected(2);
        fleet.give_probe_keys();
        fleet.send(0, &packet(V4[0], V4[1], b"hello"));
        fleet.received(1);
        let receiver = fleet.last(4).bytes[4..8].to_vec();
        for (mut bytes, index, flip) in datagrams {
            // Indexes that are in use, and recorded messages with a changed bit.
            if index == 1 && bytes.len() >= 12 {
                bytes[4..8].copy_from_slice(&receiver);
                bytes[8..12].copy_from_slice(&receiver);
            } else if index == 2 && bytes.len() >= 8 {
                bytes[4..8].copy_from_slice(&71u32.to_le_bytes());
            } else if index == 3 {
                let recorded = usize::from(flip) % fleet.log.len();
                bytes.clone_from(&fleet.log[recorded].bytes);
                let bit = usize::from(flip) * 7 % (bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            let wire = Wire { from: "198.51.100.1:1".parse().unwrap(), to: address(1), ecn: 0, bytes };
            let answers = fleet.deliver(&wire);
            prop_assert!(answers.is_empty(), "{:?} to {:?}", answers, wire);
        }
        prop_assert!(fleet.received(1).is_empty());
        for report in fleet.reports(1) {
            prop_assert!(matches!(report, Report::Beacon { .. }), "{:?}", report);
        }
        // And the members are not disturbed.
        let hello = packet(V4[0], V4[1], b"still here");
        fleet.send(0, &hello);
        prop_assert_eq!(fleet.received(1), [hello]);
    }

    #[test]
    fn no_packet_of_the_host_panics(
        packets in proptest::collection::vec(
            (proptest::collection::vec(any::<u8>(), 0..1600), any::<bool>()), 1..20),
    ) {
        let mut fleet = Fleet::connected(2);
        for (mut bytes, plausible) in packets {
            if plausible && bytes.len() >= 20 {
                bytes[0] = 0x45;
                let length = bytes.len() as u16;
                bytes[2..4].copy_from_slice(&length.to_be_bytes());
                bytes[16..20].copy_from_slice(&[10, 77, 1, 2]);
            }
            fleet.send(0, &bytes);
        }
        prop_assert!(fleet.received(1).iter().all(|packet| packet[12..16] == [10, 77, 1, 1]));
    }

    #[test]
    fn whatever_happened_before_the_first_packet_after_a_reset_arrives(
        events in proptest::collection::vec((event(), 0usize..2), 0..30),
    ) {
        let mut fleet = Fleet::connected(2);
        fleet.give_probe_keys();
        for (event, node) in events {
            let (peer, id) = (1 - node, fleet.id(1 - node));
            match event {
                Event::Packet => fleet.send(node, &packet(V4[node], V4[peer], b"before")),
                Event::NoPath => fleet.command(node, Command::SetPath { node: id, path: None, mtu: DEFAULT_MTU }),
                Event::Path => fleet.path(node, peer),
                Event::Reset => fleet.command(node, Command::ResetSession { node: id }),
                Event::Restart => fleet.restart(node),
                Event::Remove => fleet.command(node, Command::RemovePeer { node: id }),
                Event::Introduce => fleet.introduce(node),
                Event::Probe => {
                    let to = address(peer);
                    fleet.command(node, Command::SendProbe { node: id, to: Path::Direct(to), size: None, transaction: 1 });
                }
                Event::Pass(seconds) => fleet.pass(Duration::from_secs(seconds)),
                Event::Cut(cut) => fleet.cut = cut,
            }
        }
        fleet.cut = false;
        for node in 0..2 {
            fleet.introduce(node);
            fleet.path(node, 1 - node);
        }
        fleet.command(0, Command::ResetSession { node: fleet.id(1) });
        fleet.received(1);
        let hello = packet(V4[0], V4[1], b"after");
        fleet.send(0, &hello);
        prop_assert!(fleet.received(1).contains(&hello));
        // And then the way back is open, too.
        fleet.received(0);
        let back = packet(V6[1], V6[0], b"back");
        fleet.send(1, &back);
        prop_assert!(fleet.received(0).contains(&back));
        fleet.pass(Duration::from_mins(10));
        prop_assert!(fleet.nodes.iter().all(|node| node.shard.poll_timeout().is_none()));
    }
}
