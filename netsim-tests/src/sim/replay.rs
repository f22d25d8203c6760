//! Seeds: how many, and how to replay the one that failed.

use std::time::Duration;

/// One run of a scenario. When the scenario panics, it prints the one line
/// that replays just this run.
pub struct Case {
    /// The test's name.
    pub name: &'static str,
    /// Where all chance comes from.
    pub seed: u64,
    /// How many machines.
    pub nodes: usize,
}

impl Drop for Case {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "replay: EPSILON_SIM_SEED={} EPSILON_SIM_NODES={} cargo test -p epsilon-netsim-tests --test sim -- {} --exact --nocapture",
                self.seed, self.nodes, self.name
            );
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Runs a scenario at so many seeds and nodes: at the one seed of
/// `EPSILON_SIM_SEED` where that is set, at as many as `EPSILON_SIM_SEEDS`
/// says, and with `EPSILON_SIM_NODES` nodes. Says whether these were all of
/// them: what holds for some seeds only need not for one that is replayed.
pub fn cases(
    name: &'static str,
    seeds: u64,
    nodes: usize,
    mut scenario: impl FnMut(&Case),
) -> bool {
    let nodes = number("EPSILON_SIM_NODES").map_or(nodes, |nodes| nodes as usize);
    let one = number("EPSILON_SIM_SEED");
    let seeds = match one {
        Some(seed) => seed..seed + 1,
        None => 1..number("EPSILON_SIM_SEEDS").unwrap_or(seeds) + 1,
    };
    for seed in seeds {
        let case = Case { name, seed, nodes };
        scenario(&case);
    }
    one.is_none()
}

/// What a batch of runs came to, in one line.
#[derive(Default)]
pub struct Batch {
    runs: usize,
    events: u64,
    virtual_time: Duration,
    converged: Vec<Duration>,
    messages: Vec<u64>,
}

impl Batch {
    /// Adds a run that converged after this time.
    pub fn add(&mut self, world: &super::World, nodes: usize, converged: Duration) {
        self.runs += 1;
        self.events += world.events();
        self.virtual_time += world.now();
        self.converged.push(converged);
        let messages: u64 = (0..nodes).map(|machine| world.traffic(machine).messages).sum();
        self.messages.push(messages / nodes.max(1) as u64);
    }

    /// The line.
    pub fn summary(&mut self, name: &str) -> String {
        self.converged.sort_unstable();
        self.messages.sort_unstable();
        let median =
            |sorted: &[Duration]| sorted.get(sorted.len() / 2).copied().unwrap_or_default();
        format!(
            "{name}: {} seeds, {} events, {:.0} s of virtual time, converged after {:.1} s (median) and {:.1} s (most), {} messages per node (median)",
            self.runs,
            self.events,
            self.virtual_time.as_secs_f64(),
            median(&self.converged).as_secs_f64(),
            self.converged.last().copied().unwrap_or_default().as_secs_f64(),
            self.messages.get(self.messages.len() / 2).copied().unwrap_or_default(),
        )
    }
}
