//! Daemons die and come back.

use std::collections::BTreeMap;

use epsilon_mesh::control::Operation;
use epsilon_mesh::event::Event;
use epsilon_netsim_tests::sim::{Death, Options, World, cases};

use super::{MINUTE, SECOND, here, with_fleet};

#[test]
fn a_daemon_that_is_killed_at_any_instant_keeps_its_address_and_its_name() {
    cases(here!(), 40, 4, |case| {
        let mut world = World::new(Options::new(case.seed, case.nodes).lossy(10));
        let token = world.found();
        for machine in 1..case.nodes {
            world.join(machine, &token);
        }
        // In the middle of joining, over and over: what anybody ever saw of a
        // node is what it keeps.
        let mut promised = BTreeMap::new();
        for _ in 0..12 {
            let moment = world.random().between(SECOND / 1000, SECOND * 2);
            world.run_for(moment);
            let victim = world.random().below(case.nodes);
            for other in (0..case.nodes).filter(|other| *other != victim) {
                if let Some((Some(ipv4), Some(name))) = world.seen(other, victim) {
                    promised.insert(victim, (Some(ipv4), Some(name)));
                }
            }
            let how = if world.random().chance(50) { Death::Process } else { Death::Power };
            world.crash(victim, how);
            let pause = world.random().between(SECOND / 1000, SECOND * 3);
            world.run_for(pause);
            world.start(victim);
        }
        world.settle(MINUTE * 3);
        for (victim, promised) in promised {
            assert_eq!(world.seen(0, victim), Some(promised), "n{victim}");
        }
        let before: Vec<_> = (0..case.nodes).map(|one| world.seen(0, one)).collect();
        for _ in 0..6 {
            let victim = world.random().below(case.nodes);
            world.crash(victim, Death::Process);
            let pause = world.random().between(SECOND / 1000, SECOND * 90);
            world.run_for(pause);
            world.start(victim);
            let all: Vec<usize> = (0..case.nodes).collect();
            world.run_until(SECOND * 4, "all are linked again", |world| world.is_full_mesh(&all));
        }
        world.settle(MINUTE * 3);
        let after: Vec<_> = (0..case.nodes).map(|one| world.seen(0, one)).collect();
        assert_eq!(before, after);
    });
}

#[test]
fn a_cloned_identity_is_an_alarm_on_both_and_on_every_peer() {
    cases(here!(), 5, 5, |case| {
        let mut world = World::new(Options::new(case.seed, case.nodes));
        let token = world.found();
        for machine in 1..4 {
            world.join(machine, &token);
        }
        world.settle(SECOND * 10);
        let before: Vec<_> = (0..3).map(|one| world.seen(0, one)).collect();
        world.crash(3, Death::Process);
        world.clone_disk(3, 4);
        world.start(3);
        world.start(4);
        let alarmed = |world: &World, machine: usize| {
            let node = world.node(3);
            world.happened(machine).iter().any(
                |(_, event)| matches!(event, Event::Cloned { node: cloned, .. } if *cloned == node),
            )
        };
        world.run_until(MINUTE * 3, "all have noticed", |world| {
            (0..5).all(|machine| alarmed(world, machine))
        });
        world.run_for(MINUTE * 5);
        let after: Vec<_> = (0..3).map(|one| world.seen(0, one)).collect();
        assert_eq!(before, after, "the others are undisturbed");
        assert!(world.is_full_mesh(&[0, 1, 2]));
    });
}

#[test]
fn a_full_disk_loses_nothing_that_was_acknowledged() {
    with_fleet(here!(), 10, 3, |_, mut world, _| {
        let before = world.seen(0, 1);
        world.set_disk_full(1, true);
        let name = "other".parse().unwrap();
        let node = world.node(1);
        assert!(world.perform(1, Operation::Rename { node, name }).is_err());
        assert!(world.view(1).storage_failing.is_some());
        world.run_for(MINUTE);
        assert!(world.is_full_mesh(&[0, 1, 2]), "it keeps serving what it has");
        world.crash(1, Death::Process);
        world.start(1);
        world.run_for(MINUTE);
        world.set_disk_full(1, false);
        world.run_until(MINUTE, "the store works again", |world| {
            world.view(1).storage_failing.is_none()
        });
        world.settle(MINUTE);
        assert_eq!(world.seen(0, 1), before);
    });
}

#[test]
fn what_was_done_survives_a_crash_at_any_instant() {
    let mut rounds = 0;
    let all = with_fleet(here!(), 10, 3, |_, mut world, _| {
        for round in 0..8_u32 {
            let name = format!("name{round}").parse().unwrap();
            let node = world.node(2);
            let id = world.operate(0, Operation::Rename { node, name });
            let moment = world.random().up_to(SECOND / 50);
            world.run_for(moment);
            let done = world.is_done(0, id);
            world.crash(0, Death::Process);
            world.start(0);
            world.settle(MINUTE * 3);
            let (_, name) = world.seen(1, 2).unwrap();
            if done {
                assert_eq!(name, Some(format!("name{round}")));
                rounds += 1;
            }
        }
    });
    assert!(rounds > 0 || !all, "no operation was done before its crash");
}
