//! Members behind NATs of all kinds: who reaches whom, how fast, and by which way.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use epsilon_mesh::shard::Path;
use epsilon_netsim_tests::sim::{
    Behaviour, Case, INTERNET, NetworkId, Options, Protocol, Random, Topology, World, cases,
};

use super::{MINUTE, SECOND, here};

/// The kinds of places.
const KINDS: [(&str, Option<Behaviour>); 5] = [
    ("none", None),
    ("endpoint-independent", Some(Behaviour::ENDPOINT_INDEPENDENT)),
    ("address-restricted", Some(Behaviour::ADDRESS_RESTRICTED)),
    ("port-restricted", Some(Behaviour::PORT_RESTRICTED)),
    ("symmetric", Some(Behaviour::SYMMETRIC)),
];

/// Everybody has the same private address.
const PRIVATE: [u8; 4] = [192, 168, 1, 2];

fn outer(place: usize) -> IpAddr {
    IpAddr::from([203, 0, 113, place as u8 + 1])
}

/// A network behind a NAT of a kind, or the internet.
fn place(topology: &mut Topology, kind: Option<Behaviour>, number: usize) -> (NetworkId, IpAddr) {
    match kind {
        None => (INTERNET, IpAddr::from([198, 51, 100, number as u8 + 1])),
        Some(behaviour) => {
            let (network, _) = topology.behind(INTERNET, outer(number), behaviour);
            (network, IpAddr::from(PRIVATE))
        }
    }
}

/// Whether two can reach each other directly: each sends to every address that it
/// knows of the other, and learns from what arrives, until nothing new comes of it.
fn oracle(kinds: [Option<Behaviour>; 2]) -> bool {
    let (mut topology, mut random) = (Topology::default(), Random::of(1));
    let helper = SocketAddr::from(([198, 18, 0, 1], 7755));
    topology.attach(9, INTERNET, helper.ip());
    let places: Vec<(NetworkId, SocketAddr)> = kinds
        .into_iter()
        .enumerate()
        .map(|(number, kind)| {
            let (network, address) = place(&mut topology, kind, number);
            topology.attach(number, network, address);
            (network, SocketAddr::new(address, 7755))
        })
        .collect();
    let now = Duration::ZERO;
    let mut send = |topology: &mut Topology, from: usize, to: SocketAddr| {
        let (network, address) = places[from];
        topology.carry(Protocol::Udp, network, (address, to), now, &mut random)
    };
    // Where each believes that the other is.
    let mut known = [BTreeSet::new(), BTreeSet::new()];
    for side in 0..2 {
        known[1 - side].insert(places[side].1);
        known[1 - side].extend(send(&mut topology, side, helper).map(|arrived| arrived.from));
    }
    for _ in 0..4 {
        for side in 0..2 {
            for to in known[side].clone() {
                let arrived = send(&mut topology, side, to);
                let Some(arrived) = arrived.filter(|arrived| arrived.machine == 1 - side) else {
                    continue;
                };
                known[1 - side].insert(arrived.from);
                let back = send(&mut topology, 1 - side, arrived.from);
                if back.is_some_and(|back| back.machine == side && back.from == to) {
                    return true;
                }
            }
        }
    }
    false
}

#[test]
fn the_oracle_says_what_rfc_4787_implies() {
    let all = KINDS.map(|(_, kind)| KINDS.map(|(_, other)| oracle([kind, other])));
    let expected = [
        [true, true, true, true, true],
        [true, true, true, true, true],
        [true, true, true, true, true],
        [true, true, true, true, false],
        [true, true, true, false, false],
    ];
    assert_eq!(all, expected);
}

/// A member on the internet, and two others, each behind a NAT of its own; all know
/// each other.
fn fleet(case: &Case, kinds: [Option<Behaviour>; 2]) -> World {
    let mut world = World::new(Options::new(case.seed, 3).lan(1));
    for (number, kind) in kinds.into_iter().enumerate() {
        let (network, address) = place(world.topology(), kind, number);
        world.place(number + 1, network, address);
    }
    let token = world.found();
    for machine in 1..3 {
        world.join(machine, &token);
    }
    world.run_until(MINUTE, "all know each other", |world| {
        (0..3).all(|machine| world.view(machine).members.len() == 3)
    });
    world.run_for(SECOND * 10);
    world
}

fn is_direct(world: &World, from: usize, to: usize) -> bool {
    matches!(world.path(from, to), Some(Path::Direct(_)))
}

#[test]
fn every_pair_of_kinds_is_connected_and_directly_where_that_can_be() {
    cases(here!(), 3, 3, |case| {
        for (name, kind) in KINDS {
            for (other_name, other) in KINDS {
                let mut world = fleet(case, [kind, other]);
                let begun = world.now();
                let talk = world.converse(1, 2, Duration::from_millis(200));
                world.run_for(SECOND * 10);
                let replied = &world.conversation(talk).replied;
                let first = replied.first().copied().map(|at| at.saturating_sub(begun));
                let what = format!("{name} and {other_name}");
                assert!(first.is_some_and(|first| first < SECOND * 3 / 2), "{what}: {first:?}");
                let direct = [is_direct(&world, 1, 2), is_direct(&world, 2, 1)];
                assert_eq!(direct, [oracle([kind, other]); 2], "{what}");
            }
        }
    });
}
