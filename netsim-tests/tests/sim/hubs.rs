//! Fleets that are too large for everybody to link with everybody.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use epsilon_mesh::control::PeerState;
use epsilon_mesh::event::Event;
use epsilon_netsim_tests::sim::{Behaviour, Case, Death, INTERNET, Options, World, cases};
use epsilon_proto::id::NodeId;
use epsilon_proto::token::Token;

use super::{MINUTE, SECOND, here};

/// So many of the machines others reach; the rest are behind NATs of their own.
const OPEN: usize = 40;
/// How many links a node has that is no hub.
const LINKS: usize = 4;
/// How long it takes until everybody knows that one is gone that says nothing.
const SILENT: Duration = Duration::from_secs(45);

/// Machines of which others reach the first few; the rest are behind NATs of their own.
fn behind_nats(case: &Case, open: usize) -> World {
    let mut world = World::new(Options::new(case.seed, case.nodes).lan(1));
    for machine in open..case.nodes {
        let outer = IpAddr::from([203, 0, (machine >> 8) as u8, machine as u8]);
        let network = world.topology().behind(INTERNET, outer, Behaviour::PORT_RESTRICTED).0;
        world.place(machine, network, IpAddr::from([192, 168, 1, 2]));
    }
    world
}

/// Makes a fleet of them; gives back its first token.
fn join_all(world: &mut World, machines: usize) -> Token {
    let token = world.found();
    for machine in 1..machines {
        world.join(machine, &token);
        world.run_for(SECOND / 20);
    }
    world.settle(MINUTE * 3);
    token
}

/// A fleet with a few members that are reached, which had time to find its hubs.
fn fleet(case: &Case) -> World {
    let mut world = behind_nats(case, OPEN);
    join_all(&mut world, case.nodes);
    world.run_for(MINUTE);
    world
}

/// The hubs that each machine which is up names.
fn hubs(world: &mut World) -> BTreeMap<usize, BTreeSet<NodeId>> {
    let numbers: Vec<usize> = world.live();
    let view = world.view(numbers[0]);
    let of = |machine: &usize| {
        let node = world.node(*machine);
        let member = view.members.iter().find(|member| member.node == node).unwrap();
        (*machine, member.hubs.iter().copied().collect())
    };
    numbers.iter().map(of).collect()
}

fn machine_of(world: &World, nodes: usize, node: NodeId) -> usize {
    (0..nodes).find(|machine| world.node(*machine) == node).unwrap()
}

/// Waits until all that are up see a machine so; says how long that took.
fn until_seen(world: &mut World, limit: Duration, of: usize, state: PeerState) -> Duration {
    let node = world.node(of);
    world.run_until(limit, &format!("n{of} is seen as {state:?}"), |world| {
        world.live().into_iter().all(|by| by == of || world.state(by, node) == Some(state))
    })
}

#[test]
fn in_a_large_fleet_a_few_are_linked_with_and_tell_who_is_gone() {
    cases(here!(), 1, 300, |case| {
        let mut world = fleet(case);
        let named = hubs(&mut world);
        let all: BTreeSet<NodeId> = named.values().flatten().copied().collect();
        for (machine, hubs) in &named {
            assert_eq!(hubs.len(), LINKS, "n{machine}");
            let links = world.links(*machine);
            if !all.contains(&world.node(*machine)) {
                assert!(links <= LINKS, "n{machine} has {links} links");
            }
        }
        let leaves: Vec<usize> = named
            .keys()
            .copied()
            .filter(|machine| *machine >= OPEN && !all.contains(&world.node(*machine)))
            .collect();

        // Two that no hub is common to call each other, and the NATs let them through.
        let mut talks = Vec::new();
        for (place, one) in leaves.iter().enumerate().step_by(leaves.len() / 10) {
            let strange = |other: &&usize| named[*other].is_disjoint(&named[one]);
            let other = leaves[place + 1..].iter().find(strange);
            talks.extend(other.map(|other| (*one, *other)));
        }
        assert!(talks.len() >= 8, "{talks:?}");
        let begun = world.now();
        let talks: Vec<usize> =
            talks.into_iter().map(|(one, other)| world.converse(one, other, SECOND / 5)).collect();
        world.run_for(SECOND * 10);
        for talk in talks {
            let first = world.conversation(talk).replied.first().copied();
            let first = first.map(|at| at.saturating_sub(begun));
            assert!(first.is_some_and(|first| first < SECOND * 3 / 2), "{first:?}");
        }

        // A leaf that ends is missed at once, one without power after a while.
        for (leaf, how, limit) in
            [(leaves[0], Death::Process, SECOND * 5), (leaves[1], Death::Power, SILENT)]
        {
            world.crash(leaf, how);
            let took = until_seen(&mut world, limit, leaf, PeerState::Down);
            println!("{how:?}: n{leaf} is missed everywhere after {took:?}");
            world.start(leaf);
            let took = until_seen(&mut world, MINUTE, leaf, PeerState::Up);
            println!("and is back after {took:?}");
        }

        // So is a hub, and others take its place.
        let hub = *all.iter().find(|hub| **hub != world.node(0)).unwrap();
        let machine = machine_of(&world, case.nodes, hub);
        world.crash(machine, Death::Power);
        let took = until_seen(&mut world, SILENT, machine, PeerState::Down);
        println!("n{machine}, a hub, is missed everywhere after {took:?}");
        world.run_for(SECOND * 75);
        for (machine, hubs) in hubs(&mut world) {
            assert!(!hubs.contains(&hub), "n{machine} names a hub that is gone");
            assert_eq!(hubs.len(), LINKS, "n{machine}");
        }
        world.start(machine);
        until_seen(&mut world, MINUTE, machine, PeerState::Up);
    });
}

/// What links, the data plane and everybody's view make of the members of a site.
#[test]
fn a_site_that_is_cut_off_from_all_hubs_holds_together() {
    cases(here!(), 1, 110, |case| {
        let site = case.nodes - 20..case.nodes;
        let mut world = World::new(Options::new(case.seed, case.nodes).lan(1));
        let outer = IpAddr::from([203, 0, 113, 1]);
        let network = world.topology().behind(INTERNET, outer, Behaviour::PORT_RESTRICTED).0;
        for (host, machine) in site.clone().enumerate() {
            world.place(machine, network, IpAddr::from([192, 168, 1, host as u8 + 2]));
        }
        join_all(&mut world, case.nodes);
        world.run_for(MINUTE);
        let (first, last) = (site.start, site.end - 1);
        world.divide(|machine| usize::from(site.contains(&machine)));
        let state = |world: &World, by: usize, of: usize| world.state(by, world.node(of));
        let took = world.run_until(MINUTE, "all see who is left", |world| {
            (0..case.nodes).all(|by| {
                (0..case.nodes).filter(|of| *of != by).all(|of| {
                    let is_near = site.contains(&by) == site.contains(&of);
                    let expected = if is_near { PeerState::Up } else { PeerState::Down };
                    state(world, by, of) == Some(expected)
                })
            })
        });
        println!("all see who is left after {took:?}");
        // One of them is started again, and one says something to another.
        world.crash(last, Death::Process);
        world.start(last);
        let talk = world.converse(first, last, SECOND / 5);
        world.run_for(SECOND * 5);
        assert!(!world.conversation(talk).replied.is_empty());
        for by in site.clone().filter(|by| *by != last) {
            assert_eq!(state(&world, by, last), Some(PeerState::Up), "n{by}");
            assert_eq!(state(&world, last, by), Some(PeerState::Up), "n{by}");
        }
        world.heal();
        world.settle(MINUTE * 2);
        let took = world.run_until(MINUTE, "all see all", |world| {
            (0..case.nodes).all(|by| {
                (0..case.nodes).all(|of| of == by || state(world, by, of) == Some(PeerState::Up))
            })
        });
        println!("and all again after {took:?}");
    });
}

/// Nobody is reached from elsewhere on one network; behind one NAT each a few are.
#[test]
fn a_large_fleet_with_few_hubs_or_none_is_one_fleet_and_comes_to_rest() {
    for open in [0, 2] {
        cases(here!(), 1, 90, |case| {
            let mut world = if open > 0 {
                behind_nats(case, open)
            } else {
                World::new(Options::new(case.seed, case.nodes).lan(case.nodes))
            };
            join_all(&mut world, case.nodes);
            world.run_for(MINUTE * 2);
            let ups = |world: &World| -> usize {
                let all = (0..case.nodes).flat_map(|machine| world.happened(machine));
                all.filter(|(_, event)| matches!(event, Event::PeerUp(_))).count()
            };
            let before = ups(&world);
            world.run_for(MINUTE * 5);
            assert_eq!(ups(&world), before, "{open} hubs: links come and go");
            for by in 0..case.nodes {
                let seen = (0..case.nodes).filter(|of| *of != by);
                let up = seen.filter(|of| world.state(by, world.node(*of)) == Some(PeerState::Up));
                assert!(up.count() >= case.nodes * 2 / 3, "{open} hubs: n{by} sees few");
            }
            // What one says reaches all.
            world.token(0, None, None);
            world.settle(MINUTE);
        });
    }
}

#[test]
fn a_newcomer_to_a_large_fleet_links_with_a_few_and_not_with_the_first_that_it_hears_of() {
    cases(here!(), 2, 90, |case| {
        let mut world = World::new(Options::new(case.seed, case.nodes));
        let newcomer = case.nodes - 1;
        let token = join_all(&mut world, newcomer);
        world.join(newcomer, &token);
        world.settle(MINUTE);
        let linked: BTreeSet<NodeId> = world
            .happened(newcomer)
            .iter()
            .filter_map(|(_, event)| match event {
                Event::PeerUp(node) => Some(*node),
                _ => None,
            })
            .collect();
        // Who is in the token, the hubs, and others while it did not know these.
        assert!(linked.len() <= LINKS * 2, "it linked with {}", linked.len());
    });
}

/// They are not linked with each other, and have nothing to say to each other.
#[test]
fn who_is_there_is_known_of_members_behind_nats_of_a_small_fleet() {
    cases(here!(), 3, 9, |case| {
        let mut world = behind_nats(case, 3);
        join_all(&mut world, case.nodes);
        world.run_for(MINUTE * 5);
        for by in 0..case.nodes {
            for of in (0..case.nodes).filter(|of| *of != by) {
                let state = world.state(by, world.node(of));
                assert_eq!(state, Some(PeerState::Up), "n{of} as n{by} sees it");
            }
        }
        let leaf = case.nodes - 1;
        for (how, limit) in [(Death::Process, SECOND * 5), (Death::Power, SILENT)] {
            world.crash(leaf, how);
            let took = until_seen(&mut world, limit, leaf, PeerState::Down);
            println!("{how:?}: missed everywhere after {took:?}");
            // Nor does it come back by itself.
            world.run_for(MINUTE * 2);
            until_seen(&mut world, SECOND, leaf, PeerState::Down);
            world.start(leaf);
            let took = until_seen(&mut world, MINUTE, leaf, PeerState::Up);
            println!("and back after {took:?}");
        }
        // Both that would say so of some are gone themselves.
        world.crash(1, Death::Power);
        world.crash(2, Death::Power);
        until_seen(&mut world, SILENT, 1, PeerState::Down);
        world.run_for(SECOND * 30);
        for machine in 3..case.nodes {
            until_seen(&mut world, MINUTE, machine, PeerState::Up);
        }
        world.crash(leaf, Death::Power);
        until_seen(&mut world, SILENT, leaf, PeerState::Down);
    });
}

/// What those behind NATs make of one of them while something happens elsewhere.
fn never_seen(world: &mut World, by: &[usize], of: usize, state: PeerState, time: Duration) {
    let node = world.node(of);
    let until = world.now() + time;
    while world.now() < until {
        world.run_for(SECOND / 20);
        for by in by.iter().filter(|by| **by != of) {
            assert_ne!(world.state(*by, node), Some(state), "n{of} as n{by} sees it");
        }
    }
}

#[test]
fn a_hub_that_is_started_again_makes_nobody_go_or_come_in_a_small_fleet() {
    cases(here!(), 3, 6, |case| {
        let mut world = behind_nats(case, 1);
        join_all(&mut world, case.nodes);
        world.run_for(MINUTE);
        let (leaf, others) = (case.nodes - 1, [1, 2, 3, 4]);
        world.crash(0, Death::Process);
        world.start(0);
        for of in others {
            never_seen(&mut world, &others, of, PeerState::Down, SECOND * 10);
        }
        world.crash(leaf, Death::Power);
        until_seen(&mut world, SILENT, leaf, PeerState::Down);
        world.run_for(SECOND * 10);
        world.crash(0, Death::Process);
        world.start(0);
        never_seen(&mut world, &[0, 1, 2, 3, 4], leaf, PeerState::Up, MINUTE);
    });
}

#[test]
fn who_does_not_reach_the_hubs_of_another_goes_by_what_it_sees_itself() {
    cases(here!(), 3, 6, |case| {
        let mut world = behind_nats(case, 3);
        join_all(&mut world, case.nodes);
        world.run_for(MINUTE);
        let (viewer, of) = (3, 4);
        let first: Vec<NodeId> = world
            .view(0)
            .members
            .iter()
            .find(|member| member.node == world.node(of))
            .unwrap()
            .hubs
            .iter()
            .copied()
            .take(2)
            .collect();
        assert_eq!(first.len(), 2);
        for hub in first {
            let hub = machine_of(&world, case.nodes, hub);
            world.cut_between(viewer, hub);
        }
        world.run_for(MINUTE * 2);
        assert_eq!(world.state(viewer, world.node(of)), Some(PeerState::Up));
        world.run_for(MINUTE * 5);
        assert_eq!(world.state(viewer, world.node(of)), Some(PeerState::Up));
    });
}
