//! Members in networks that let no UDP through.

use std::net::IpAddr;

use epsilon_mesh::shard::Path;
use epsilon_netsim_tests::sim::{
    Behaviour, Case, Death, INTERNET, NetworkId, Options, World, cases,
};
use epsilon_proto::address::is_stream;

use super::paths::{OFTEN, PRIVATE, is_direct, longest_gap, meet, outer};
use super::{MINUTE, SECOND, here};

/// Members on the internet.
const OPEN: usize = 3;

/// A network behind a NAT by which no UDP leaves.
fn blocked(world: &mut World, number: usize) -> NetworkId {
    let (network, _) = world.topology().behind(INTERNET, outer(number), Behaviour::PORT_RESTRICTED);
    world.topology().block_udp(network, true);
    network
}

/// Members on the internet, and two more: the first is where no UDP gets through, as is the
/// second if it `is_too`.
fn fleet(case: &Case, is_too: bool) -> (World, [NetworkId; 2]) {
    let mut world = World::new(Options::new(case.seed, OPEN + 2).lan(1));
    let networks = [0, 1].map(|number| blocked(&mut world, number));
    world.topology().block_udp(networks[1], is_too);
    for (number, network) in networks.into_iter().enumerate() {
        world.place(OPEN + number, network, IpAddr::from(PRIVATE));
    }
    meet(&mut world, OPEN + 2);
    (world, networks)
}

fn is_by_stream(world: &World, from: usize, to: usize) -> bool {
    world.path(from, to).is_some_and(|path| is_stream(path.address()))
}

#[test]
fn where_udp_is_blocked_at_one_end_or_both_packets_travel_by_streams() {
    for is_too in [false, true] {
        cases(here!(), 20, OPEN + 2, |case| {
            let (mut world, networks) = fleet(case, is_too);
            let begun = world.now();
            // To each other, through relays; and to one that streams lead to.
            let talks =
                [(OPEN, OPEN + 1), (OPEN, 0)].map(|(from, to)| world.converse(from, to, OFTEN));
            world.run_for(SECOND * 10);
            for talk in talks {
                let first = world.conversation(talk).replied.first().copied();
                let first = first.map(|at| at.saturating_sub(begun));
                assert!(first.is_some_and(|first| first < SECOND * 5), "{first:?}, both: {is_too}");
            }
            let paths = [(OPEN, 0), (0, OPEN)].map(|(from, to)| world.path(from, to));
            let is_stream =
                |path: &Option<Path>| matches!(path, Some(Path::Direct(at)) if is_stream(*at));
            assert!(paths.iter().all(is_stream), "{paths:?}");
            assert!(matches!(world.path(OPEN, OPEN + 1), Some(Path::Relayed(..))));
            assert!(is_by_stream(&world, OPEN, OPEN + 1));
            assert_eq!(
                is_by_stream(&world, OPEN + 1, OPEN),
                is_too,
                "{:?}",
                world.path(OPEN + 1, OPEN)
            );
            // A network that lets UDP through again.
            for network in networks {
                world.topology().block_udp(network, false);
            }
            let begun = world.now();
            world.run_until(MINUTE * 3, "direct ways", |world| {
                is_direct(world, OPEN, OPEN + 1) && is_direct(world, OPEN, 0)
            });
            for talk in talks {
                let gap = longest_gap(&world, talk, begun);
                assert!(gap <= SECOND, "{gap:?}");
            }
            world.run_for(MINUTE * 5);
            let left: Vec<usize> = (0..OPEN + 2).map(|machine| world.streams(machine)).collect();
            assert_eq!(left, [0; OPEN + 2], "streams are closed that nobody needs");
        });
    }
}

#[test]
fn a_relay_at_the_end_of_a_stream_that_dies_is_replaced_within_three_seconds() {
    cases(here!(), 20, OPEN + 2, |case| {
        let (mut world, _) = fleet(case, true);
        let talk = world.converse(OPEN, OPEN + 1, OFTEN);
        world.run_for(SECOND * 20);
        for round in 0..2 {
            let before: Vec<u64> = (0..OPEN).map(|machine| world.passed_on(machine)).collect();
            world.run_for(SECOND);
            let relay = (0..OPEN).find(|machine| world.passed_on(*machine) > before[*machine]);
            let relay = relay.expect("somebody passes it on");
            let begun = world.now();
            world.crash(relay, Death::Power);
            world.run_for(SECOND * 20);
            let gap = longest_gap(&world, talk, begun);
            assert!(gap <= SECOND * 3, "{gap:?} without n{relay}, round {round}");
            world.start(relay);
            world.run_for(MINUTE);
        }
    });
}

#[test]
fn who_moves_from_one_network_without_udp_to_another_is_soon_reached_again() {
    cases(here!(), 20, OPEN + 2, |case| {
        let (mut world, _) = fleet(case, false);
        let talk = world.converse(OPEN, OPEN + 1, OFTEN);
        world.run_for(SECOND * 20);
        let network = blocked(&mut world, 5);
        let begun = world.now();
        world.place(OPEN, network, IpAddr::from([192, 168, 7, 2]));
        world.run_for(MINUTE);
        let gap = longest_gap(&world, talk, begun);
        assert!(gap <= SECOND * 4, "{gap:?}");
        assert!(is_by_stream(&world, OPEN, OPEN + 1));
    });
}

#[test]
fn where_udp_is_blocked_under_running_connections_they_go_on_by_streams() {
    cases(here!(), 20, OPEN + 2, |case| {
        let (mut world, networks) = fleet(case, false);
        world.topology().block_udp(networks[0], false);
        let talks = [(OPEN, OPEN + 1), (OPEN, 0), (0, OPEN)]
            .map(|(from, to)| world.converse(from, to, OFTEN));
        world.run_until(MINUTE * 3, "direct ways", |world| {
            is_direct(world, OPEN, OPEN + 1) && is_direct(world, OPEN, 0)
        });
        // One of them was silent for a while, so that its relays are known by the way alone.
        world.hush(talks[0]);
        world.run_for(MINUTE);
        world.topology().block_udp(networks[0], true);
        let begun = world.now();
        let late = world.converse(OPEN + 1, OPEN, OFTEN);
        world.run_for(SECOND * 30);
        for talk in [talks[1], talks[2], late] {
            let gap = longest_gap(&world, talk, begun);
            assert!(gap <= SECOND * 6, "{gap:?} {talk}");
        }
        assert!(is_by_stream(&world, OPEN, OPEN + 1) && is_by_stream(&world, OPEN, 0));
    });
}
