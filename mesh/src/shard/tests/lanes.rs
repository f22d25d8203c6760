//! A node with several shards, and peers with one each.

use epsilon_proto::address::DEFAULT_MTU;
use std::collections::VecDeque;

use super::*;

const LANES: u8 = 3;
const PEERS: usize = 9;
/// The peer that is a device of the node.
const DEVICE: usize = 8;

fn inner(peer: usize) -> String {
    format!("10.77.2.{}", peer + 1)
}

fn prefixes_of(text: &str) -> Vec<Prefix> {
    vec![Prefix::host(text.parse::<IpAddr>().unwrap())]
}

fn underlay(peer: usize) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, peer as u8 + 1], 7755))
}

const OWN: &str = "10.77.1.1";
const OWN_UNDERLAY: &str = "192.0.2.1:7755";

/// To which lane the network brings what.
#[derive(Clone, Copy, PartialEq)]
enum Steering {
    /// Data by its index, the rest to the front.
    Kernel,
    /// Anything anywhere.
    None,
}

struct Node {
    lanes: Vec<Shard>,
    /// What the host got, by lane.
    host: Vec<(u8, Vec<u8>)>,
    passed: usize,
}

/// What a shard is made to do.
type Act<'a> = &'a mut dyn FnMut(&mut Shard, Instant, &mut Output);

struct World {
    node: Node,
    peers: Vec<(SecretKey, Shard, Vec<Vec<u8>>)>,
    now: Instant,
    steering: Steering,
    turn: u8,
}

impl World {
    fn new(steering: Steering) -> Self {
        let key = SecretKey::from_seed(&[200; 32]);
        let lanes = Lane::all(LANES).map(|lane| new_lane(&key, Box::new(AdmitAll), lane)).collect();
        let node = Node { lanes, host: Vec::new(), passed: 0 };
        let peers = (0..PEERS).map(|peer| {
            let key = SecretKey::from_seed(&[peer as u8 + 1; 32]);
            let shard = new_shard(&key, Box::new(AdmitAll));
            (key, shard, Vec::new())
        });
        let now = Instant(Duration::from_secs(1000));
        let mut world = Self { node, peers: peers.collect(), now, steering, turn: 0 };
        let own = key.public();
        world.order(&Command::SetOwn {
            addresses: prefixes_of(OWN),
            reserved: Vec::new(),
            mesh: Vec::new(),
        });
        for peer in 0..PEERS {
            let (id, agreement) = world.identity(peer);
            let prefixes = prefixes_of(&inner(peer));
            if peer == DEVICE {
                world.order(&Command::SetDevice { key: agreement, prefixes });
            } else {
                world.order(&Command::SetPeer { node: id, key: agreement, prefixes });
                let path = Some(Path::Direct(underlay(peer)));
                world.order(&Command::SetPath { node: id, path, mtu: DEFAULT_MTU });
            }
            let (now, shard) = (world.now, &mut world.peers[peer].1);
            let mut out = Output::new();
            let addresses = prefixes_of(&inner(peer));
            let everything = vec![Prefix::new("10.77.0.0".parse().unwrap(), 16)];
            let agreement = own.agreement().unwrap();
            let path = Some(Path::Direct(OWN_UNDERLAY.parse().unwrap()));
            for command in [
                Command::SetOwn { addresses, reserved: Vec::new(), mesh: Vec::new() },
                Command::SetPeer { node: own.into(), key: agreement, prefixes: everything },
                Command::SetPath { node: own.into(), path, mtu: DEFAULT_MTU },
            ] {
                shard.handle_command(command, now, &mut out);
            }
        }
        world
    }

    fn identity(&self, peer: usize) -> (NodeId, epsilon_proto::key::AgreementKey) {
        let key = self.peers[peer].0.public();
        (key.into(), key.agreement().unwrap())
    }

    fn home(&self, peer: usize) -> u8 {
        let (node, key) = self.identity(peer);
        let id = if peer == DEVICE { PeerId::Device(key) } else { PeerId::Node(node) };
        self.node.lanes[0].lane().of(id)
    }

    /// Every lane gets every order.
    fn order(&mut self, command: &Command) {
        for lane in 0..LANES {
            self.at(lane, &mut |shard, now, out| shard.handle_command(command.clone(), now, out));
        }
    }

    /// A lane does something, and others what comes of it.
    fn at(&mut self, lane: u8, act: Act<'_>) {
        let mut due: VecDeque<(u8, Kind, Vec<u8>)> = VecDeque::new();
        let mut sent = Vec::new();
        let now = self.now;
        let mut take = |node: &mut Node, lane: u8, out: &Output, due: &mut VecDeque<_>| {
            node.host.extend(out.host.iter().map(|((), packet)| (lane, packet.to_vec())));
            for (passed, bytes) in out.passed.iter() {
                assert_ne!(passed.lane, lane);
                node.passed += 1;
                due.push_back((passed.lane, passed.kind, bytes.to_vec()));
            }
            sent.extend(out.network.iter().map(|(target, bytes)| (target.path, bytes.to_vec())));
        };
        let new_output = |node: &Node, lane: u8| Output::of(node.lanes[usize::from(lane)].lane());
        let mut out = new_output(&self.node, lane);
        act(&mut self.node.lanes[usize::from(lane)], now, &mut out);
        take(&mut self.node, lane, &out, &mut due);
        let mut hops = 0;
        while let Some((lane, kind, bytes)) = due.pop_front() {
            hops += 1;
            assert!(hops < 100, "lanes pass something around for ever");
            let mut out = new_output(&self.node, lane);
            let shard = &mut self.node.lanes[usize::from(lane)];
            match kind {
                Kind::Packet => shard.handle_packet(&bytes, now, &mut out),
                Kind::Datagram { from, mark } => {
                    shard.handle_passed(from, mark, &bytes, now, &mut out);
                }
            }
            take(&mut self.node, lane, &out, &mut due);
        }
        for (path, bytes) in sent {
            let to = path.address();
            if let Some(peer) = (0..PEERS).find(|peer| underlay(*peer) == to) {
                let from = OWN_UNDERLAY.parse().unwrap();
                self.at_peer(peer, &mut |shard, now, out| {
                    shard.handle_datagram(from, 0, &bytes, now, out);
                });
            }
        }
    }

    fn at_peer(&mut self, peer: usize, act: Act<'_>) {
        let mut out = Output::new();
        let (_, shard, host) = &mut self.peers[peer];
        act(shard, self.now, &mut out);
        host.extend(out.host.iter().map(|((), packet)| packet.to_vec()));
        for (_, bytes) in out.network.iter() {
            let bytes = bytes.to_vec();
            self.turn = (self.turn + 1) % LANES;
            let lane = match self.steering {
                Steering::None => self.turn,
                Steering::Kernel if bytes[0] != 4 => 0,
                Steering::Kernel => bytes[7].wrapping_sub(self.node.lanes[0].first_tag()),
            };
            self.at(lane, &mut |shard, now, out| {
                shard.handle_datagram(underlay(peer), 0, &bytes, now, out);
            });
        }
    }

    fn peer_sends(&mut self, peer: usize, to: &str, payload: &[u8]) {
        let packet = packet(&inner(peer), to, payload);
        self.at_peer(peer, &mut |shard, now, out| shard.handle_packet(&packet, now, out));
    }

    /// The host has a packet in the queue of some lane.
    fn host_sends(&mut self, lane: u8, peer: usize, payload: &[u8]) {
        let packet = packet(OWN, &inner(peer), payload);
        self.at(lane, &mut |shard, now, out| shard.handle_packet(&packet, now, out));
    }

    fn payloads(&mut self, peer: usize) -> Vec<u8> {
        let host = std::mem::take(&mut self.peers[peer].2);
        host.iter().map(|packet| packet[20]).collect()
    }
}

#[test]
fn peers_are_spread_over_all_lanes() {
    let world = World::new(Steering::Kernel);
    for lane in 0..LANES {
        assert!((0..PEERS).any(|peer| world.home(peer) == lane), "lane {lane}");
    }
    let peers: Vec<usize> =
        world.node.lanes.iter().map(|shard| shard.stats(world.now).peers.len()).collect();
    assert_eq!(peers.iter().sum::<usize>(), PEERS);
}

#[test]
fn every_peer_reaches_the_node_and_only_its_own_lane_opens_what_it_sends() {
    for steering in [Steering::Kernel, Steering::None] {
        let mut world = World::new(steering);
        for peer in 0..PEERS {
            for number in 0..20 {
                world.peer_sends(peer, OWN, &[number]);
            }
            let arrived = std::mem::take(&mut world.node.host);
            let home = world.home(peer);
            assert!(arrived.iter().all(|(lane, _)| *lane == home), "peer {peer}");
            let numbers: Vec<u8> = arrived.iter().map(|(_, packet)| packet[20]).collect();
            assert_eq!(numbers, (0..20).collect::<Vec<_>>(), "peer {peer}");
        }
        if steering == Steering::Kernel {
            // Nothing but the first messages and the answers went through the front.
            assert!(world.node.passed <= 2 * PEERS, "{}", world.node.passed);
        }
        assert!(world.node.lanes.iter().all(|shard| shard.stats(world.now).dropped.unknown == 0));
    }
}

#[test]
fn packets_of_the_host_reach_every_peer_in_order_from_the_queue_of_any_lane() {
    for lane in 0..LANES {
        let mut world = World::new(Steering::Kernel);
        // It has to call first.
        world.peer_sends(DEVICE, OWN, &[0]);
        for peer in 0..PEERS {
            for number in 0..20 {
                world.host_sends(lane, peer, &[number]);
            }
            assert_eq!(world.payloads(peer), (0..20).collect::<Vec<_>>(), "lane {lane}, {peer}");
        }
    }
}

#[test]
fn a_device_and_a_member_of_other_lanes_reach_each_other() {
    let mut world = World::new(Steering::Kernel);
    world.peer_sends(DEVICE, OWN, &[0]);
    let home = world.home(DEVICE);
    let member = (0..DEVICE).find(|peer| world.home(*peer) != home).unwrap();
    world.peer_sends(member, &inner(DEVICE), &[7]);
    assert_eq!(world.payloads(DEVICE), [7]);
    world.peer_sends(DEVICE, &inner(member), &[8]);
    assert_eq!(world.payloads(member), [8]);
    // Members do not reach each other through the node, whosever lane they are of.
    let another = (0..DEVICE).find(|peer| *peer != member && world.home(*peer) != home).unwrap();
    world.peer_sends(member, &inner(another), &[9]);
    assert_eq!(world.payloads(another), [0_u8; 0]);
}

#[test]
fn a_peer_that_is_gone_is_gone_from_every_lane() {
    let mut world = World::new(Steering::Kernel);
    for peer in 0..DEVICE {
        world.peer_sends(peer, OWN, &[1]);
        let (node, _) = world.identity(peer);
        world.order(&Command::RemovePeer { node });
        world.node.host.clear();
        world.peer_sends(peer, OWN, &[2]);
        assert!(world.node.host.is_empty(), "peer {peer}");
        for lane in 0..LANES {
            let to = inner(peer).parse().unwrap();
            assert_eq!(world.node.lanes[usize::from(lane)].route(to), None);
        }
    }
}

#[test]
fn probes_are_sent_and_answered_by_the_front_wherever_they_arrive() {
    for arrives_at in 0..LANES {
        let mut world = World::new(Steering::None);
        let peer = (0..DEVICE).find(|peer| world.home(*peer) == 2).unwrap();
        let (node, _) = world.identity(peer);
        let own = SecretKey::from_seed(&[200; 32]);
        let boots = (BootId([1; 16]), BootId([2; 16]));
        let keys = probe_keys(&own, node, NETWORK, boots).unwrap();
        world.order(&Command::SetProbeKeys { node, keys });
        let boots = (boots.1, boots.0);
        let keys = probe_keys(&world.peers[peer].0, own.node(), NETWORK, boots).unwrap();
        world.at_peer(peer, &mut |shard, now, out| {
            let command = Command::SetProbeKeys { node: own.node(), keys: keys.clone() };
            shard.handle_command(command, now, out);
        });
        world.turn = (arrives_at + LANES - 1) % LANES;
        world.order(&Command::SendProbe {
            node,
            to: Path::Direct(underlay(peer)),
            size: None,
            transaction: 5,
        });
        let reports: Vec<(usize, Report)> = world
            .node
            .lanes
            .iter_mut()
            .enumerate()
            .flat_map(|(lane, shard)| {
                std::iter::from_fn(|| shard.poll_report())
                    .map(move |report| (lane, report))
                    .collect::<Vec<_>>()
            })
            .collect();
        assert!(
            matches!(reports[..], [(0, Report::ProbeAnswered { transaction: 5, .. })]),
            "{reports:?}"
        );
    }
}
