//! What a node costs that has nothing to say.

use std::time::Duration;

use crate::support::{Fleet, Node};

/// The most that a node with 20 peers sends and receives in an hour, in IP bytes.
const MOST_PER_HOUR: f64 = 1e6;
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

#[tokio::test]
#[ignore = "it watches for ten minutes: make soak"]
async fn a_node_behind_a_nat_with_twenty_peers_costs_less_than_a_megabyte_an_hour() {
    let watched = std::env::var("EPSILON_IDLE_SECONDS").map_or(600, |text| text.parse().unwrap());
    let watched = Duration::from_secs(watched);
    let gateways = ["port-restricted"; 11];
    let Some((fleet, _)) = Fleet::joined_behind([10], &gateways).await else { return };
    // Nothing is waited for but time itself.
    tokio::time::sleep(SETTLED).await;
    let names = fleet.names();
    let behind: Vec<Node> = names.iter().skip(10).map(|name| fleet.node(name)).collect();
    let mut before = Vec::new();
    for node in &behind {
        before.push(traffic(node).await);
    }
    tokio::time::sleep(watched).await;
    let mut costs = Vec::new();
    for (node, before) in behind.iter().zip(before) {
        let bytes = traffic(node).await - before;
        let bytes = f64::from(u32::try_from(bytes).unwrap());
        costs.push(bytes * 3600.0 / watched.as_secs_f64());
    }
    costs.sort_unstable_by(f64::total_cmp);
    let kilobytes = |cost: f64| cost / 1e3;
    let (median, most) = (costs[costs.len() / 2], costs[costs.len() - 1]);
    println!(
        "idle: behind a NAT, with 20 peers: median {:.0} kB/h, at most {:.0} kB/h",
        kilobytes(median),
        kilobytes(most)
    );
    assert!(most <= MOST_PER_HOUR, "{most}");
}
