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

/// What the nodes behind NATs of a fleet cost in an hour, of which so many are linked with
/// everybody; least first. `None` where these tests are switched off.
async fn costs(open: u16, behind: u16, watched: Duration) -> Option<Vec<f64>> {
    let (fleet, _) =
        Fleet::joined_behind([open], &vec!["port-restricted"; usize::from(behind)]).await?;
    // Nothing is waited for but time itself.
    tokio::time::sleep(SETTLED).await;
    let names = fleet.names();
    let behind: Vec<Node> =
        names.iter().skip(usize::from(open)).map(|name| fleet.node(name)).collect();
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
    let (median, most) = (costs[costs.len() / 2] / 1e3, costs[costs.len() - 1] / 1e3);
    let peers = names.len() - 1;
    println!(
        "idle: behind a NAT, with {peers} peers, {open} of them linked: median {median:.0} kB/h, at most {most:.0} kB/h"
    );
    Some(costs)
}

#[tokio::test]
#[ignore = "it watches for ten minutes: make soak"]
async fn a_node_behind_a_nat_with_twenty_peers_costs_less_than_a_megabyte_an_hour() {
    let watched = std::env::var("EPSILON_IDLE_SECONDS").map_or(600, |text| text.parse().unwrap());
    let watched = Duration::from_secs(watched);
    // Half of them linked, all of them, and more.
    let fleets = [(10_u16, 11_u16), (20, 1), (32, 2)];
    let [half, all, more] = fleets.map(|(open, behind)| costs(open, behind, watched));
    let (half, all, more) = tokio::join!(half, all, more);
    for ((open, behind), costs) in fleets.into_iter().zip([half, all, more]) {
        let Some(most) = costs.and_then(|costs| costs.last().copied()) else { return };
        let beyond = (open + behind - 1).saturating_sub(20);
        let limit = MOST_PER_HOUR + PER_LINK * f64::from(beyond);
        assert!(most <= limit, "{most} with {open} links");
    }
}
