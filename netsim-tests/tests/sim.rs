//! A fleet in the simulator: see `epsilon_netsim_tests::sim`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use epsilon_netsim_tests::sim::{Options, World, cases};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn three_nodes_at_once_in_every_order_are_a_full_mesh() {
    cases("three_nodes_at_once_in_every_order_are_a_full_mesh", 20, 3, |case| {
        let mut world = World::new(Options::new(case.seed, case.nodes));
        let token = world.found();
        world.join(1, &token);
        world.join(2, &token);
        world.settle(SECOND * 5);
        world.run_until(SECOND * 5, "a full mesh", |world| world.is_full_mesh(&[0, 1, 2]));
    });
}
