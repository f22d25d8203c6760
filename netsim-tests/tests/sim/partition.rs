//! The network falls apart and heals.

use epsilon_mesh::control::Operation;
use epsilon_mesh::event::Event;
use epsilon_netsim_tests::sim::{Options, World, cases};

use super::{MINUTE, SECOND, halves_that_claim, here, with_fleet};

#[test]
fn two_halves_that_both_changed_become_one_view_again() {
    cases(here!(), 20, 10, |case| {
        let mut world = World::new(Options::new(case.seed, case.nodes).lan(5));
        let token = world.found();
        for machine in [1, 2, 3, 5, 6, 7] {
            world.join(machine, &token);
        }
        world.settle(SECOND * 20);
        let second = world.token(0, None, None);
        world.divide(|machine| machine / 5);
        let moment = world.random().up_to(MINUTE * 2);
        world.run_for(moment);
        // Both halves give one name away, and admit somebody.
        let (one, other) = (world.node(1), world.node(6));
        let name: epsilon_proto::name::NodeName = "wanted".parse().unwrap();
        world.perform(1, Operation::Rename { node: one, name: name.clone() }).unwrap();
        world.perform(6, Operation::Rename { node: other, name }).unwrap();
        world.join(4, &token);
        world.join(8, &second);
        let gone = world.node(2);
        world.perform(0, Operation::RevokeNode(gone)).unwrap();
        let moment = world.random().up_to(MINUTE * 2);
        world.run_for(moment);
        world.perform(7, Operation::Leave).unwrap();
        world.run_for(moment);
        world.heal();
        world.settle(MINUTE * 5);
        let members = world.view(0).members;
        assert_eq!(members.len(), 7, "{members:#?}");
        assert!(!world.is_peer(5, 2) && !world.is_peer(0, 7));
        let holders =
            members.iter().filter(|one| one.name.as_ref().is_some_and(|n| n.as_str() == "wanted"));
        assert_eq!(holders.count(), 1);
    });
}

#[test]
fn a_short_partition_breaks_no_link() {
    with_fleet(here!(), 5, 4, |_, mut world, _| {
        let before: Vec<_> = (0..4).map(|one| world.happened(one).len()).collect();
        world.divide(|machine| machine % 2);
        world.run_for(SECOND * 10);
        world.heal();
        world.run_for(SECOND * 10);
        assert!(world.is_full_mesh(&[0, 1, 2, 3]));
        let after: Vec<_> = (0..4).map(|one| world.happened(one).len()).collect();
        assert_eq!(before, after);
    });
}

#[test]
fn any_divide_heals() {
    with_fleet(here!(), 10, 8, |_, mut world, _| {
        for _ in 0..4 {
            let sides: Vec<usize> = (0..8).map(|_| world.random().below(3)).collect();
            world.divide(|machine| sides[machine]);
            let moment = world.random().between(SECOND, MINUTE * 3);
            world.run_for(moment);
            world.heal();
            world.settle(MINUTE * 5);
            let all: Vec<usize> = (0..8).collect();
            world.run_until(MINUTE * 2, "a full mesh", |world| world.is_full_mesh(&all));
        }
    });
}

#[test]
fn an_address_that_both_halves_gave_away_ends_with_one_of_the_two() {
    let mut lost = 0;
    let all = cases(here!(), 4, 48, |case| {
        let mut world = halves_that_claim(case, None);
        let before: Vec<_> = (0..case.nodes).map(|one| world.seen(one, one).unwrap()).collect();
        let healed = world.now();
        world.heal();
        world.settle(MINUTE * 3);
        for (machine, before) in before.into_iter().enumerate() {
            let after = world.seen(machine, machine).unwrap();
            let losses = world
                .happened(machine)
                .iter()
                .filter(|(when, event)| *when >= healed && matches!(event, Event::AddressLost(_)))
                .count();
            assert_eq!(after.0 != before.0, losses > 0, "n{machine}: {before:?}, then {after:?}");
            assert_eq!(after.1, before.1, "its name is nobody else's");
            lost += losses;
        }
    });
    assert!(lost > 0 || !all, "no seed has two nodes that want one address");
}
