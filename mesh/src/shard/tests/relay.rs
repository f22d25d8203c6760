//! Two nodes that reach each other only through a third.

use epsilon_proto::address::DEFAULT_MTU;
use epsilon_proto::datagram::{Channel, RELAYED_DATA};

use super::*;

const ONE: usize = 0;
const RELAY: usize = 1;
const OTHER: usize = 2;

fn channel() -> Channel {
    Channel::new(0x12_3456)
}

fn relayed() -> Path {
    Path::Relayed(address(RELAY), channel())
}

/// The two have a path over the relay alone, which has agreed to that.
fn relayed_fleet() -> Fleet {
    let mut fleet = Fleet::of(3);
    fleet.command(RELAY, Command::SetRelaying(Relaying { each: 1 << 30, all: 1 << 30 }));
    let ends = [address(ONE), address(OTHER)];
    fleet.command(RELAY, Command::SetChannel { channel: channel(), ends });
    for (from, to) in [(ONE, OTHER), (OTHER, ONE)] {
        let node = fleet.id(to);
        fleet.command(from, Command::SetPath { node, path: Some(relayed()), mtu: DEFAULT_MTU });
    }
    fleet
}

#[test]
fn packets_go_both_ways_over_a_relay_that_cannot_read_them() {
    let mut fleet = relayed_fleet();
    for (from, to) in [(ONE, OTHER), (OTHER, ONE)] {
        let sent = packet(V4[from], V4[to], b"over the relay");
        fleet.send(from, &sent);
        assert_eq!(fleet.received(to), [sent]);
    }
    assert!(fleet.received(RELAY).is_empty());
    let relay = fleet.nodes[RELAY].shard.stats(fleet.now);
    let passed = relay.channels[0].passed;
    assert!(passed.packets >= 4 && relay.channels[0].dropped == 0, "{relay:?}");
    // No datagram is longer than it would be straight, nor is it changed on its way.
    let ends = [address(ONE), address(OTHER)];
    let (to_relay, from_relay): (Vec<_>, Vec<_>) =
        fleet.log.iter().partition(|wire| wire.to == address(RELAY));
    assert!(to_relay.iter().all(|wire| ends.contains(&wire.from)));
    let bytes = |wires: &[&Wire]| wires.iter().map(|wire| wire.bytes.clone()).collect::<Vec<_>>();
    assert_eq!(bytes(&to_relay), bytes(&from_relay));
    let sealed = bytes(&to_relay).into_iter().max_by_key(|bytes| bytes[0] == RELAYED_DATA);
    let (sealed, packet) = (sealed.unwrap(), packet(V4[ONE], V4[OTHER], b"over the relay"));
    assert_eq!(sealed[..4], [RELAYED_DATA, 0x12, 0x34, 0x56]);
    assert_eq!(sealed.len(), 32 + packet.len().next_multiple_of(16));
    // Nobody reports what is as it was agreed, but that the channel is used.
    assert_eq!(fleet.reports(RELAY), [Report::ChannelUsed { channel: channel() }]);
    assert!([ONE, OTHER].into_iter().all(|node| fleet.reports(node).is_empty()));
}

#[test]
fn probes_go_over_a_relay_and_back() {
    let mut fleet = relayed_fleet();
    fleet.give_probe_keys_to(ONE, OTHER);
    let (one, other) = (fleet.id(ONE), fleet.id(OTHER));
    fleet.command(
        ONE,
        Command::SendProbe { node: other, to: relayed(), size: None, transaction: 7 },
    );
    assert_eq!(fleet.reports(OTHER), [Report::ProbeReceived { node: one, from: relayed() }]);
    let observed = address(RELAY);
    let answered = Report::ProbeAnswered {
        node: other,
        transaction: 7,
        to: relayed(),
        observed,
        rtt: Duration::ZERO,
    };
    assert_eq!(fleet.reports(ONE), [answered]);
}

#[test]
fn whoever_is_no_end_of_a_channel_is_not_passed_on() {
    let mut fleet = relayed_fleet();
    fleet.send(ONE, &packet(V4[ONE], V4[OTHER], b"hello"));
    fleet.received(OTHER);
    let recorded: Vec<Wire> =
        fleet.log.iter().filter(|wire| wire.to == address(RELAY)).cloned().collect();
    let elsewhere = address(77);
    for wire in recorded {
        assert!(fleet.deliver(&Wire { from: elsewhere, ..wire }).is_empty());
    }
    // The end that moved is believed once it has proven its new address.
    fleet.nodes[ONE].at = elsewhere;
    fleet.send(ONE, &packet(V4[ONE], V4[OTHER], b"lost"));
    assert!(fleet.received(OTHER).is_empty());
    let ends = [elsewhere, address(OTHER)];
    fleet.command(RELAY, Command::SetChannel { channel: channel(), ends });
    fleet.send(ONE, &packet(V4[ONE], V4[OTHER], b"hello again"));
    assert_eq!(fleet.received(OTHER).len(), 1);
    fleet.command(RELAY, Command::RemoveChannel { channel: channel() });
    fleet.send(ONE, &packet(V4[ONE], V4[OTHER], b"lost"));
    assert!(fleet.received(OTHER).is_empty());
}

#[test]
fn a_packet_by_another_way_moves_no_path_and_is_reported() {
    let mut fleet = relayed_fleet();
    let (one, other) = (fleet.id(ONE), fleet.id(OTHER));
    fleet.send(ONE, &packet(V4[ONE], V4[OTHER], b"over the relay"));
    fleet.received(OTHER);
    fleet.path(ONE, OTHER);
    fleet.send(ONE, &packet(V4[ONE], V4[OTHER], b"straight"));
    assert_eq!(fleet.received(OTHER).len(), 1);
    let from = Path::Direct(address(ONE));
    assert_eq!(fleet.reports(OTHER), [Report::NewSource { node: one, from }]);
    fleet.send(OTHER, &packet(V4[OTHER], V4[ONE], b"as before"));
    assert_eq!(fleet.received(ONE).len(), 1);
    assert_eq!(fleet.reports(ONE), [Report::NewSource { node: other, from: relayed() }]);
}

#[test]
fn an_end_without_a_path_answers_a_handshake_by_the_way_it_came() {
    let mut fleet = relayed_fleet();
    let one = fleet.id(ONE);
    fleet.command(OTHER, Command::SetPath { node: one, path: None, mtu: DEFAULT_MTU });
    let sent = packet(V4[ONE], V4[OTHER], b"hello");
    fleet.send(ONE, &sent);
    assert_eq!(fleet.received(OTHER), [sent]);
    assert_eq!(fleet.reports(OTHER), [Report::NewSource { node: one, from: relayed() }]);
}
