//! A fleet in the simulator: see `epsilon_netsim_tests::sim`.
//!
//! A scenario runs at several seeds; the one that fails prints the line that
//! replays it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod churn;
mod clock;
mod crash;
mod devices;
mod hubs;
mod joining;
mod malice;
mod partition;
mod paths;
mod revocation;
mod streams;
mod topologies;

use std::time::Duration;

use epsilon_netsim_tests::sim::{Case, Options, World, cases};
use epsilon_proto::token::Token;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);

/// The name of the test in which it stands, as `cargo test` knows it.
macro_rules! here {
    () => {{
        fn here() {}
        let name = std::any::type_name_of_val(&here);
        let name = name.strip_suffix("::here").unwrap_or(name);
        name.split_once("::").map_or(name, |(_, name)| name)
    }};
}
pub(crate) use here;

/// A fleet that has settled, and its token.
fn fleet(options: Options) -> (World, Token) {
    let mut world = World::new(options);
    let token = world.found();
    for machine in 1..options.machines {
        world.join(machine, &token);
    }
    world.settle(MINUTE * 5);
    (world, token)
}

/// A divided fleet: in each half one node that was there before, and as many
/// as there is room for that joined since, in the second with clocks that are
/// off by so many milliseconds.
fn halves_that_claim(case: &Case, skew: Option<i64>) -> World {
    let half = case.nodes / 2;
    let mut world = World::new(Options::new(case.seed, case.nodes).lan(half));
    let token = world.found();
    world.join(half, &token);
    world.settle(SECOND * 10);
    world.divide(|machine| machine / half);
    for machine in (1..case.nodes).filter(|machine| *machine != half) {
        if let Some(skew) = skew.filter(|_| machine > half) {
            world.set_clock(machine, skew);
        }
        world.join(machine, &token);
    }
    world.run_for(MINUTE * 3);
    world
}

/// Runs a scenario at some seeds, on a fleet of so many nodes that settled.
fn with_fleet(
    name: &'static str,
    seeds: u64,
    nodes: usize,
    mut scenario: impl FnMut(&Case, World, Token),
) -> bool {
    cases(name, seeds, nodes, |case| {
        let (world, token) = fleet(Options::new(case.seed, case.nodes));
        scenario(case, world, token);
    })
}
