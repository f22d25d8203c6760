//! What a node costs that has nothing to say.

use std::time::Duration;

use crate::support::{Fleet, Node};

/// The most that a node with 20 peers sends and receives in an hour, in IP bytes.
const MOST_PER_HOUR: f64 = 1e6;
/// What each link beyond these may add.
const PER_LINK: f64 = 50e3;
/// Until all that a fleet says at first has been said.
const SETTLED: Duration = Duration::from_mins(3);

/// IP bytes both ways at the host's underlay interface: what the kernel counts there, less
/// the Ethernet headers.
async fn traffic(node: &Node) -> u64 {
    let line = "cd /sys/class/net/eth0/statistics && cat rx_bytes tx_bytes rx_packets tx_packets";
    let text = node.shell(line).await.ok();
    let counts: Vec<u64> = text.lines().map(|line| line.trim().parse().unwrap()).collect();
    counts[0] + counts[1] - 14 * (counts[2] + counts[3])
}

/// A fleet with so many members that all are linked with, and so many behind NATs.
struct Idle {
    fleet: Fleet,
    open: u16,
    behind: Vec<Node>,
    before: Vec<u64>,
}

impl Idle {
    /// `None` where these tests are switched off.
    async fn joined(open: u16, behind: u16) -> Option<Self> {
        let gateways = vec!["port-restricted"; usize::from(behind)];
        let (fleet, _) = Fleet::joined_behind([open], &gateways).await?;
        let names = fleet.names();
        let behind = names.iter().skip(usize::from(open)).map(|name| fleet.node(name)).collect();
        Some(Self { fleet, open, behind, before: Vec::new() })
    }

    async fn counts(&self) -> Vec<u64> {
        let mut counts = Vec::new();
        for node in &self.behind {
            counts.push(traffic(node).await);
        }
        counts
    }

    /// The most that one behind a NAT costs in an hour, and how many peers it has.
    async fn cost(&self, watched: Duration) -> (f64, u16) {
        let per_hour = |bytes: u64| {
            let bytes = f64::from(u32::try_from(bytes).unwrap());
            bytes * 3600.0 / watched.as_secs_f64()
        };
        let after = self.counts().await;
        let costs = after.iter().zip(&self.before).map(|(after, before)| per_hour(after - before));
        let mut costs: Vec<f64> = costs.collect();
        costs.sort_unstable_by(f64::total_cmp);
        let (median, most) = (costs[costs.len() / 2], costs[costs.len() - 1]);
        let (open, peers) = (self.open, self.fleet.names().len() - 1);
        println!(
            "idle: behind a NAT, with {peers} peers, {open} of them linked: median {:.0} kB/h, at most {:.0} kB/h",
            median / 1e3,
            most / 1e3
        );
        (most, u16::try_from(peers).unwrap())
    }
}

#[tokio::test]
#[ignore = "it watches for ten minutes: make soak"]
async fn a_node_behind_a_nat_with_twenty_peers_costs_less_than_a_megabyte_an_hour() {
    let watched = std::env::var("EPSILON_IDLE_SECONDS").map_or(600, |text| text.parse().unwrap());
    let watched = Duration::from_secs(watched);
    let mut fleets = Vec::new();
    // Half of them linked, all of them, and more.
    for (open, behind) in [(10, 11), (20, 1), (32, 2)] {
        let Some(fleet) = Idle::joined(open, behind).await else { return };
        fleets.push(fleet);
    }
    // Nothing is waited for but time itself.
    tokio::time::sleep(SETTLED).await;
    for fleet in &mut fleets {
        fleet.before = fleet.counts().await;
    }
    tokio::time::sleep(watched).await;
    for fleet in &fleets {
        let (most, peers) = fleet.cost(watched).await;
        let limit = MOST_PER_HOUR + PER_LINK * f64::from(peers.saturating_sub(20));
        assert!(most <= limit, "{most} with {peers} peers");
    }
}
