//! Large fleets under constant change.

use std::collections::BTreeSet;
use std::time::Duration;

use epsilon_mesh::control::Operation;
use epsilon_mesh::event::Event;
use epsilon_netsim_tests::sim::{Batch, Death, Options, World, cases};

use super::{MINUTE, SECOND, here};

/// Joins most of the machines at about the same time, then changes things for
/// some minutes: crashes with and without loss of state, joins, leaves,
/// revocations, new tokens, partitions, clocks that jump. Then lets it settle
/// and says how long that took.
fn churn(seed: u64, nodes: usize) -> (World, Duration) {
    let mut world = World::new(Options::new(seed, nodes).lan(10).lossy(20));
    let mut token = world.found();
    let reserve = nodes / 10;
    let mut fresh: Vec<usize> = (nodes - reserve..nodes).collect();
    let mut up: BTreeSet<usize> = BTreeSet::from([0]);
    let mut down: Vec<usize> = Vec::new();
    for machine in 1..nodes - reserve {
        if world.random().chance(50) {
            let pause = world.random().up_to(SECOND / 10);
            world.run_for(pause);
        }
        world.join(machine, &token);
        up.insert(machine);
    }
    for _ in 0..nodes.min(60) {
        let pause = world.random().between(SECOND / 100, SECOND * 5);
        world.run_for(pause);
        // The founder is the only admin, so it stays.
        let choice = world.random().below(up.len());
        let victim = up.iter().copied().nth(choice).unwrap_or(0);
        let may_go = victim != 0;
        match world.random().below(10) {
            0..=2 if may_go => {
                let how = if world.random().chance(50) { Death::Process } else { Death::Power };
                world.crash(victim, how);
                up.remove(&victim);
                down.push(victim);
            }
            3 if may_go => {
                let node = world.node(victim);
                world.operate(0, Operation::RevokeNode(node));
                up.remove(&victim);
            }
            4 if may_go => {
                world.operate(victim, Operation::Leave);
                up.remove(&victim);
            }
            5 if may_go => {
                world.wipe(victim);
                world.join(victim, &token);
            }
            6 => token = world.token(0, None, None),
            7 => {
                if let Some(machine) = fresh.pop() {
                    world.join(machine, &token);
                    up.insert(machine);
                }
            }
            8 => {
                // By minutes, which the network is old, or by hours.
                let unit = if world.random().chance(50) { 60_000 } else { 3_600_000 };
                let steps = i64::try_from(world.random().below(48)).unwrap() - 24;
                world.set_clock(victim, steps * unit);
            }
            9 if seed.is_multiple_of(2) => {
                let sides: Vec<usize> =
                    (0..nodes).map(|_| usize::from(world.random().chance(30))).collect();
                world.divide(|machine| sides[machine]);
                let pause = world.random().between(SECOND, MINUTE);
                world.run_for(pause);
                world.heal();
            }
            _ => {
                if let Some(machine) = down.pop() {
                    world.start(machine);
                    up.insert(machine);
                }
            }
        }
    }
    for machine in down {
        world.start(machine);
    }
    let took = world.settle(MINUTE * 10);
    (world, took)
}

/// Runs several, and says how long it took until all see the same.
fn converge(test: &'static str, seeds: u64, nodes: usize) {
    let mut batch = Batch::default();
    cases(test, seeds, nodes, |case| {
        let (world, took) = churn(case.seed, case.nodes);
        batch.add(&world, case.nodes, took);
    });
    println!("{}", batch.summary("churn"));
}

#[test]
fn views_converge_under_churn_with_loss() {
    converge(here!(), 20, 100);
}

/// The first seed divides no network, which takes so many twice as long.
#[test]
#[ignore = "takes ten minutes; `make test` runs it beside the others"]
fn a_thousand_members_see_the_same() {
    converge(here!(), 1, 1000);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for nodes in [3, 30, 100] {
        let (one, took) = churn(7, nodes);
        let (other, took_again) = churn(7, nodes);
        assert_eq!((one.trace(), took), (other.trace(), took_again));
    }
    let [(one, _), (other, _)] = [churn(7, 8), churn(8, 8)];
    assert_ne!(one.trace(), other.trace());
}

#[test]
fn a_large_fleet_that_starts_at_once_forms_without_a_storm() {
    cases(here!(), 2, 100, |case| {
        let mut world = World::new(Options::new(case.seed, case.nodes).lan(10));
        let token = world.found();
        for machine in 1..case.nodes {
            world.join(machine, &token);
        }
        let took = world.settle(SECOND * 10);
        world.run_for(MINUTE * 2);
        world.settle(SECOND);
        let published: Vec<_> = (0..case.nodes)
            .map(|machine| {
                let happened = world.happened(machine).iter();
                happened.filter(|(_, event)| matches!(event, Event::Published)).count()
            })
            .collect();
        let most = published.iter().max().copied().unwrap_or_default();
        println!("converged after {took:?}, at most {most} records by one node");
        assert!(most <= 8, "{published:?}");
    });
}
