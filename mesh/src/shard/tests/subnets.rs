//! Networks beyond peers.

use super::*;

fn block(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn route(fleet: &Fleet, prefix: &str, via: usize, from: &[usize]) -> SubnetRoute {
    let from = from.iter().map(|peer| fleet.id(*peer)).collect();
    SubnetRoute { prefix: block(prefix), via: Some(fleet.id(via)), from }
}

fn behind() -> Command {
    Command::SetBehind { open: vec![block("192.168.10.0/24")], closed: Vec::new() }
}

const PRINTER: &str = "192.168.10.7";

#[test]
fn a_network_behind_a_peer_is_reached_and_answers() {
    let mut fleet = Fleet::connected(2);
    let beyond = route(&fleet, "192.168.10.0/24", 1, &[1]);
    fleet.command(0, Command::SetSubnets(vec![beyond]));
    let question = packet(V4[0], PRINTER, b"question");
    fleet.send(0, &question);
    assert!(fleet.received(1).is_empty(), "before it is open");
    fleet.command(1, behind());
    fleet.send(0, &question);
    assert_eq!(fleet.received(1), [question]);
    let answer = packet(PRINTER, V4[0], b"answer");
    fleet.send(1, &answer);
    assert_eq!(fleet.received(0), [answer]);
    // Nobody takes what no route is for.
    fleet.send(1, &packet("192.168.11.7", V4[0], b"from elsewhere"));
    assert!(fleet.received(0).is_empty());
    assert_eq!(fleet.stats(0, 1).dropped.source, 1);
    fleet.send(0, &packet(V4[0], "192.168.11.7", b"to elsewhere"));
    assert!(fleet.received(1).is_empty());
}

#[test]
fn another_peer_takes_over_a_network_and_both_are_heard() {
    let mut fleet = Fleet::connected(3);
    for peer in [1, 2] {
        fleet.command(peer, behind());
    }
    let question = packet(V4[0], PRINTER, b"question");
    for via in [1, 2] {
        let beyond = route(&fleet, "192.168.10.0/24", via, &[1, 2]);
        fleet.command(0, Command::SetSubnets(vec![beyond]));
        fleet.send(0, &question);
        assert_eq!(fleet.received(via), std::slice::from_ref(&question));
        for from in [1, 2] {
            let answer = packet(PRINTER, V4[0], b"answer");
            fleet.send(from, &answer);
            assert_eq!(fleet.received(0), [answer]);
        }
    }
    // A peer that comes back sits where it may.
    let (node, key) = (fleet.id(2), fleet.nodes[2].key.public().agreement().unwrap());
    fleet.command(0, Command::RemovePeer { node });
    fleet.send(0, &question);
    assert!(fleet.received(1).is_empty() && fleet.received(2).is_empty());
    fleet.command(0, Command::SetPeer { node, key, prefixes: prefixes(2) });
    assert_eq!(fleet.nodes[0].shard.route(PRINTER.parse().unwrap()), Some(PeerId::Node(node)));
}
