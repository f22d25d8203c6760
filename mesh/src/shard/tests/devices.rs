//! Members and a device, which is any WireGuard: here a shard with one peer.

use super::*;

const SERVER: usize = 0;
const MEMBER: usize = 1;
const DEVICE: usize = 2;

fn key(fleet: &Fleet, node: usize) -> epsilon_proto::key::AgreementKey {
    fleet.nodes[node].key.public().agreement().unwrap()
}

/// Two members and a device that the first one serves.
fn with_device() -> Fleet {
    let mut fleet = Fleet::connected(3);
    for member in [SERVER, MEMBER] {
        fleet.command(member, Command::RemovePeer { node: fleet.id(DEVICE) });
    }
    let device = key(&fleet, DEVICE);
    fleet.command(SERVER, Command::SetDevice { key: device, prefixes: prefixes(DEVICE) });
    let (node, server) = (fleet.id(SERVER), key(&fleet, SERVER));
    let behind = [prefixes(SERVER), prefixes(DEVICE)].concat();
    fleet.command(MEMBER, Command::SetPeer { node, key: server, prefixes: behind });
    fleet.command(DEVICE, Command::RemovePeer { node: fleet.id(MEMBER) });
    let mesh = ["10.77.0.0", "fd00::"].map(|base| Prefix::new(base.parse().unwrap(), 16));
    fleet.command(DEVICE, Command::SetPeer { node, key: server, prefixes: mesh.to_vec() });
    fleet
}

fn device_stats(fleet: &Fleet) -> PeerStats {
    let stats = fleet.nodes[SERVER].shard.stats(fleet.now);
    stats.peers.into_iter().find(|stats| stats.id.is_device()).unwrap()
}

/// What arrives of a packet that was forwarded.
fn one_hop_on(mut packet: Vec<u8>) -> Vec<u8> {
    assert!(inner::hop(&mut packet));
    packet
}

#[test]
fn a_device_reaches_its_server_and_through_it_the_members_and_they_it() {
    for addresses in [V4, V6] {
        let mut fleet = with_device();
        let to_server = packet(addresses[DEVICE], addresses[SERVER], b"hello, server");
        fleet.send(DEVICE, &to_server);
        assert_eq!(fleet.received(SERVER), [to_server]);
        let to_member = packet(addresses[DEVICE], addresses[MEMBER], b"hello, member");
        fleet.send(DEVICE, &to_member);
        assert_eq!(fleet.received(MEMBER), [one_hop_on(to_member)]);
        let back = packet(addresses[MEMBER], addresses[DEVICE], b"hello, device");
        fleet.send(MEMBER, &back);
        assert_eq!(fleet.received(DEVICE), [one_hop_on(back)]);
        let from_server = packet(addresses[SERVER], addresses[DEVICE], b"from here, too");
        fleet.send(SERVER, &from_server);
        assert_eq!(fleet.received(DEVICE), [from_server]);
        assert!(fleet.received(SERVER).is_empty(), "what it forwards is not for its host");
        let stats = device_stats(&fleet);
        assert_eq!((stats.received.packets, stats.sent.packets), (2, 2));
        assert_eq!(stats.dropped, PeerDropped::default());
    }
}

#[test]
fn two_devices_of_one_server_reach_each_other() {
    let mut fleet = with_device();
    // The other member is a device now, too.
    let (node, other) = (fleet.id(MEMBER), key(&fleet, MEMBER));
    fleet.command(SERVER, Command::RemovePeer { node });
    fleet.command(SERVER, Command::SetDevice { key: other, prefixes: prefixes(MEMBER) });
    fleet.send(MEMBER, &packet(V4[MEMBER], V4[SERVER], b"I am here"));
    let hello = packet(V4[DEVICE], V4[MEMBER], b"hello");
    fleet.send(DEVICE, &hello);
    assert_eq!(fleet.received(MEMBER), [one_hop_on(hello)]);
}

#[test]
fn a_device_speaks_for_itself_alone_and_goes_nowhere_else() {
    let mut fleet = with_device();
    fleet.send(DEVICE, &packet(V4[DEVICE], V4[SERVER], b"hello"));
    for source in [V4[MEMBER], V4[SERVER], RESERVED, "192.0.2.1"] {
        fleet.send(DEVICE, &packet(source, V4[SERVER], b"trust me"));
        fleet.send(DEVICE, &packet(source, V4[MEMBER], b"trust me"));
    }
    for destination in [V4[DEVICE], RESERVED, "10.77.9.9"] {
        let packet = packet(V4[DEVICE], destination, b"who is there?");
        // Its own address it would not send at all: another WireGuard may.
        fleet.command(
            DEVICE,
            Command::SetOwn { addresses: Vec::new(), reserved: Vec::new(), mesh: Vec::new() },
        );
        fleet.send(DEVICE, &packet);
    }
    let mut last_hop = packet(V4[DEVICE], V4[MEMBER], b"far away");
    last_hop[8] = 1;
    fleet.send(DEVICE, &last_hop);
    assert_eq!(fleet.received(SERVER).len(), 1);
    assert!(fleet.received(MEMBER).is_empty());
    let dropped = PeerDropped { source: 8, destination: 3, hops: 1, ..PeerDropped::default() };
    assert_eq!(device_stats(&fleet).dropped, dropped);
}

#[test]
fn a_node_does_not_forward_from_member_to_member() {
    let mut fleet = Fleet::connected(3);
    // The sender believes that the third is behind the second.
    let (node, key) = (fleet.id(1), key(&fleet, 1));
    fleet.command(0, Command::SetPeer { node, key, prefixes: prefixes(2) });
    fleet.send(0, &packet(V4[0], V4[2], b"pass it on"));
    assert!(fleet.received(2).is_empty());
    assert_eq!(fleet.stats(1, 0).dropped.destination, 1);
}

#[test]
fn a_device_that_calls_through_the_mesh_is_not_sought_there() {
    let mut fleet = with_device();
    fleet.send(DEVICE, &packet(V4[DEVICE], V4[SERVER], b"hello"));
    for inside in [V4[DEVICE], V4[MEMBER], V4[SERVER], RESERVED] {
        fleet.nodes[DEVICE].at = SocketAddr::new(inside.parse().unwrap(), 7755);
        fleet.send(DEVICE, &packet(V4[DEVICE], V4[SERVER], b"from inside"));
        assert_eq!(device_stats(&fleet).path, Some(Path::Direct(address(DEVICE))), "{inside}");
    }
    assert_eq!(fleet.received(SERVER).len(), 5);
}

#[test]
fn a_device_is_reported_once_a_session_and_is_where_it_was_last_heard() {
    let mut fleet = with_device();
    let device = key(&fleet, DEVICE);
    fleet.send(DEVICE, &packet(V4[DEVICE], V4[SERVER], b"one"));
    fleet.send(DEVICE, &packet(V4[DEVICE], V4[SERVER], b"two"));
    assert_eq!(fleet.reports(SERVER), [Report::DeviceHeard { key: device }]);
    assert_eq!(device_stats(&fleet).path, Some(Path::Direct(address(DEVICE))));

    // What was recorded moves nothing: neither a handshake nor data.
    let elsewhere = SocketAddr::from(([203, 0, 113, 9], 4711));
    let recorded: Vec<Wire> =
        fleet.log.iter().filter(|wire| wire.from == address(DEVICE)).cloned().collect();
    for wire in recorded {
        fleet.deliver(&Wire { from: elsewhere, ..wire });
    }
    assert_eq!(device_stats(&fleet).path, Some(Path::Direct(address(DEVICE))));

    let moved = address(77);
    fleet.nodes[DEVICE].at = moved;
    fleet.send(DEVICE, &packet(V4[DEVICE], V4[SERVER], b"three"));
    assert_eq!(device_stats(&fleet).path, Some(Path::Direct(moved)));
    fleet.received(DEVICE);
    let back = packet(V4[SERVER], V4[DEVICE], b"I see");
    fleet.send(SERVER, &back);
    assert_eq!(fleet.received(DEVICE), [back]);
    assert!(fleet.reports(SERVER).is_empty(), "the same session");

    fleet.command(DEVICE, Command::ResetSession { node: fleet.id(SERVER) });
    fleet.send(DEVICE, &packet(V4[DEVICE], V4[SERVER], b"four"));
    assert_eq!(fleet.reports(SERVER), [Report::DeviceHeard { key: device }]);
}

#[test]
fn a_device_that_another_serves_is_heard_and_not_listened_to() {
    let mut fleet = with_device();
    let device = key(&fleet, DEVICE);
    fleet.command(SERVER, Command::SetDevice { key: device, prefixes: Vec::new() });
    fleet.send(DEVICE, &packet(V4[DEVICE], V4[SERVER], b"hello"));
    assert_eq!(fleet.reports(SERVER), [Report::DeviceHeard { key: device }]);
    assert!(fleet.received(SERVER).is_empty());
    assert_eq!(device_stats(&fleet).dropped.source, 1);
    // It goes on in the session that it has, and may not have been heard.
    fleet.pass(Duration::from_secs(2));
    fleet.reports(SERVER);
    for _ in 0..3 {
        fleet.send(DEVICE, &packet(V4[DEVICE], V4[SERVER], b"do you hear me?"));
    }
    assert_eq!(fleet.reports(SERVER), [Report::DeviceHeard { key: device }]);
    fleet.command(SERVER, Command::SetDevice { key: device, prefixes: prefixes(DEVICE) });
    let again = packet(V4[DEVICE], V4[SERVER], b"hello again");
    fleet.send(DEVICE, &again);
    assert_eq!(fleet.received(SERVER), [again]);
}

#[test]
fn for_a_device_that_never_called_nothing_waits_and_nobody_is_asked() {
    let mut fleet = with_device();
    for _ in 0..3 {
        fleet.send(SERVER, &packet(V4[SERVER], V4[DEVICE], b"are you there?"));
    }
    assert_eq!(device_stats(&fleet).dropped.waiting, 3);
    assert!(fleet.reports(SERVER).is_empty());
    assert_eq!(fleet.nodes[SERVER].shard.poll_timeout(), None);
    // One that went silent is called for a while, and not reported.
    fleet.send(DEVICE, &packet(V4[DEVICE], V4[SERVER], b"hello"));
    fleet.reports(SERVER);
    fleet.cut = true;
    fleet.send(SERVER, &packet(V4[SERVER], V4[DEVICE], b"are you there?"));
    fleet.pass(Duration::from_mins(5));
    assert!(fleet.reports(SERVER).is_empty());
}

#[test]
fn a_removed_device_has_no_session_any_more() {
    let mut fleet = with_device();
    fleet.send(DEVICE, &packet(V4[DEVICE], V4[SERVER], b"hello"));
    fleet.received(SERVER);
    fleet.command(SERVER, Command::RemoveDevice { key: key(&fleet, DEVICE) });
    fleet.send(DEVICE, &packet(V4[DEVICE], V4[SERVER], b"still here"));
    fleet.pass(Duration::from_mins(1));
    assert!(fleet.received(SERVER).is_empty());
    assert!(fleet.nodes[SERVER].shard.stats(fleet.now).peers.iter().all(|one| !one.id.is_device()));
}
