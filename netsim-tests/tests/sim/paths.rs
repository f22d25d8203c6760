//! Members behind NATs of all kinds: who reaches whom, how fast, and by which way.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use epsilon_mesh::shard::Path;
use epsilon_netsim_tests::sim::{
    Behaviour, Case, Death, INTERNET, NetworkId, Options, Protocol, Random, Topology, World, cases,
};
use epsilon_proto::address::is_stream;

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
pub(super) const PRIVATE: [u8; 4] = [192, 168, 1, 2];

pub(super) fn outer(place: usize) -> IpAddr {
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
    let mut topology = Topology::default();
    let mut number = 0;
    let places = kinds.map(|kind| {
        let (network, address) = place(&mut topology, kind, number);
        number += 1;
        (network, SocketAddr::new(address, 7755))
    });
    meets(topology, places)
}

/// The same of two places in networks in which nothing was sent so far.
pub(super) fn meets(mut topology: Topology, places: [(NetworkId, SocketAddr); 2]) -> bool {
    let mut random = Random::of(1);
    let helper = SocketAddr::from(([198, 51, 100, 254], 7755));
    topology.attach(usize::MAX, INTERNET, helper.ip());
    for (side, (network, address)) in places.into_iter().enumerate() {
        topology.attach(side, network, address.ip());
    }
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

/// Members on the internet, and two others at the end, each behind a NAT of its own;
/// all know each other.
pub(super) fn fleet_with(case: &Case, open: usize, kinds: [Option<Behaviour>; 2]) -> World {
    let mut world = World::new(Options::new(case.seed, open + 2).lan(1));
    for (number, kind) in kinds.into_iter().enumerate() {
        let (network, address) = place(world.topology(), kind, number);
        world.place(open + number, network, address);
    }
    meet(&mut world, open + 2);
    world
}

/// All join, and have time to find their relays.
pub(super) fn meet(world: &mut World, machines: usize) {
    let token = world.found();
    for machine in 1..machines {
        world.join(machine, &token);
    }
    world.run_until(MINUTE, "all know each other", |world| {
        (0..machines).all(|machine| world.view(machine).members.len() == machines)
    });
    world.run_for(SECOND * 10);
}

fn fleet(case: &Case, kinds: [Option<Behaviour>; 2]) -> World {
    fleet_with(case, 1, kinds)
}

pub(super) const OFTEN: Duration = Duration::from_millis(100);

/// The longest time without a reply since then.
pub(super) fn longest_gap(world: &World, conversation: usize, since: Duration) -> Duration {
    let replied = world.conversation(conversation).replied.iter().copied();
    let times: Vec<Duration> = std::iter::once(since)
        .chain(replied.filter(|at| *at > since))
        .chain([world.now()])
        .collect();
    times.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap_or_default()
}

pub(super) fn is_direct(world: &World, from: usize, to: usize) -> bool {
    matches!(world.path(from, to), Some(Path::Direct(at)) if !is_stream(at))
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

#[test]
fn a_relay_that_dies_is_replaced_within_three_seconds() {
    cases(here!(), 20, 5, |case| {
        let kind = Some(Behaviour::SYMMETRIC);
        let mut world = fleet_with(case, 3, [kind, kind]);
        let talk = world.converse(3, 4, OFTEN);
        world.run_for(SECOND * 10);
        // The second one dies when the first is back.
        for _ in 0..2 {
            let Some(Path::Relayed(address, _)) = world.path(3, 4) else {
                panic!("{:?}", world.path(3, 4))
            };
            let relay = (0..3).find(|machine| world.address(*machine) == address).unwrap();
            let begun = world.now();
            world.crash(relay, Death::Power);
            world.run_for(SECOND * 20);
            let gap = longest_gap(&world, talk, begun);
            assert!(gap <= SECOND * 3, "{gap:?} without n{relay}");
            world.start(relay);
            world.run_for(MINUTE);
        }
    });
}

#[test]
fn a_direct_way_that_is_cut_is_left_for_a_relay_and_taken_again() {
    cases(here!(), 20, 4, |case| {
        let kind = Some(Behaviour::PORT_RESTRICTED);
        let mut world = fleet_with(case, 2, [kind, kind]);
        let talk = world.converse(2, 3, OFTEN);
        world.run_for(SECOND * 10);
        assert!(is_direct(&world, 2, 3) && is_direct(&world, 3, 2));
        let begun = world.now();
        world.cut_between(2, 3);
        world.run_for(MINUTE);
        let gap = longest_gap(&world, talk, begun);
        assert!(gap <= SECOND * 3, "{gap:?}");
        assert!(!is_direct(&world, 2, 3) && !is_direct(&world, 3, 2));
        let begun = world.now();
        world.heal();
        world.run_until(MINUTE * 3, "direct again", |world| {
            is_direct(world, 2, 3) && is_direct(world, 3, 2)
        });
        let gap = longest_gap(&world, talk, begun);
        assert!(gap <= SECOND, "{gap:?}");
    });
}

#[test]
fn a_nat_that_forgets_and_one_that_is_renumbered_break_nothing_for_long() {
    cases(here!(), 20, 4, |case| {
        let kind = Some(Behaviour::PORT_RESTRICTED);
        let mut world = fleet_with(case, 2, [kind, kind]);
        let talk = world.converse(2, 3, OFTEN);
        world.run_for(SECOND * 10);
        let begun = world.now();
        world.restart_nat(0);
        world.run_for(SECOND * 30);
        let gap = longest_gap(&world, talk, begun);
        assert!(gap <= SECOND * 3, "{gap:?} after a restart");
        let begun = world.now();
        world.topology().renumber(0, IpAddr::from([203, 0, 113, 99]));
        world.restart_nat(0);
        world.run_for(SECOND * 30);
        let gap = longest_gap(&world, talk, begun);
        assert!(gap <= SECOND * 3, "{gap:?} with another address");
    });
}

#[test]
fn a_host_that_moves_to_another_network_is_reached_within_two_seconds() {
    cases(here!(), 20, 4, |case| {
        let kind = Some(Behaviour::PORT_RESTRICTED);
        let mut world = fleet_with(case, 2, [kind, kind]);
        let talk = world.converse(2, 3, OFTEN);
        world.run_for(SECOND * 10);
        let (network, address) = place(world.topology(), Some(Behaviour::ADDRESS_RESTRICTED), 7);
        let begun = world.now();
        world.place(2, network, address);
        world.run_for(MINUTE);
        let gap = longest_gap(&world, talk, begun);
        assert!(gap <= SECOND * 2, "{gap:?}");
        assert!(is_direct(&world, 2, 3) && is_direct(&world, 3, 2));
    });
}

#[test]
fn who_speaks_rarely_through_nats_that_forget_soon_is_answered_at_once() {
    cases(here!(), 10, 4, |case| {
        let soon = Duration::from_secs(20);
        let kinds = [Behaviour::PORT_RESTRICTED, Behaviour::SYMMETRIC];
        let mut world = fleet_with(case, 2, kinds.map(|kind| Some(kind.lasting(soon))));
        let talk = world.converse(2, 3, SECOND * 40);
        let begun = world.now();
        world.run_for(MINUTE * 10);
        let conversation = world.conversation(talk);
        assert!(conversation.replied.len() as u64 >= conversation.sent - 1);
        let late = conversation
            .replied
            .iter()
            .map(|at| Duration::from_millis((at.saturating_sub(begun).as_millis() % 40_000) as u64))
            .max();
        assert!(late.is_some_and(|late| late < SECOND * 3 / 2), "{late:?}");
    });
}

#[test]
fn three_nats_in_a_row_and_neighbours_behind_one_are_no_obstacle() {
    cases(here!(), 5, 5, |case| {
        let mut world = World::new(Options::new(case.seed, 5).lan(1));
        let mut network = INTERNET;
        for outer in [[203, 0, 113, 9], [100, 64, 0, 9], [10, 0, 0, 9]] {
            let behaviour = Behaviour::PORT_RESTRICTED;
            network = world.topology().behind(network, IpAddr::from(outer), behaviour).0;
        }
        let (other, _) = place(world.topology(), Some(Behaviour::SYMMETRIC), 1);
        world.place(2, network, IpAddr::from(PRIVATE));
        world.place(3, other, IpAddr::from(PRIVATE));
        world.place(4, other, IpAddr::from([192, 168, 1, 3]));
        meet(&mut world, 5);
        let far = world.converse(2, 3, OFTEN);
        let near = world.converse(3, 4, OFTEN);
        let begun = world.now();
        world.run_for(SECOND * 10);
        for talk in [far, near] {
            let first = world.conversation(talk).replied.first().copied();
            let first = first.map(|at| at.saturating_sub(begun));
            assert!(first.is_some_and(|first| first < SECOND * 3 / 2), "{first:?}");
        }
        assert!(matches!(world.path(2, 3), Some(Path::Relayed(..))));
        let Some(Path::Direct(address)) = world.path(3, 4) else { panic!("not direct") };
        assert_eq!(address.ip(), IpAddr::from([192, 168, 1, 3]), "on the local network");
    });
}

#[test]
fn where_large_packets_are_swallowed_smaller_ones_are_sent_directly_and_over_relays() {
    cases(here!(), 20, 4, |case| {
        let kind = Some(Behaviour::PORT_RESTRICTED);
        let mut world = fleet_with(case, 2, [kind, kind]);
        world.narrow_between(2, 3, Some(1380));
        let talk = world.converse_in(2, 3, OFTEN, 1420);
        let begun = world.now();
        world.run_for(SECOND * 20);
        let gap = longest_gap(&world, talk, begun);
        assert!(gap <= SECOND * 3, "{gap:?} at first");
        assert!(is_direct(&world, 2, 3));
        assert_eq!(world.mtu(2, 3), Some(1380));
        let begun = world.now();
        world.narrow_between(2, 3, Some(1219));
        world.run_for(SECOND * 20);
        let gap = longest_gap(&world, talk, begun);
        assert!(gap <= SECOND * 3, "{gap:?} once it is narrower");
        assert_eq!(world.mtu(2, 3), Some(1216));
        // Each way has a size of its own.
        for relay in 0..2 {
            world.narrow_between(relay, 3, Some(1300));
        }
        let begun = world.now();
        world.cut_between(2, 3);
        world.run_for(SECOND * 30);
        let gap = longest_gap(&world, talk, begun);
        assert!(gap <= SECOND * 5, "{gap:?} over a relay");
        assert!(!is_direct(&world, 2, 3));
        assert_eq!(world.mtu(2, 3), Some(1300));
        world.heal();
        world.narrow_between(2, 3, None);
        world.run_for(MINUTE * 15);
        assert!(is_direct(&world, 2, 3));
        assert_eq!(world.mtu(2, 3), Some(1420));
    });
}
