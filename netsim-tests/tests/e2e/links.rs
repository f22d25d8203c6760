//! Members that are far from each other, or by bad links.

use std::time::Duration;

use epsilon_cli::lab::Cable;
use epsilon_proto::api::PathKind;

use crate::support::{Fleet, holds, until_within};

#[tokio::test]
async fn sites_that_are_far_apart_are_one_mesh_that_knows_how_far() {
    let Some(mut fleet) = Fleet::up([1, 1, 1]).await else { return };
    for site in 1..=3 {
        let link = "delay=20ms,jitter=1ms,loss=1%".parse().unwrap();
        fleet.lab.set_link(&Cable::Site(site), link).await.unwrap();
    }
    let names = ["n1", "n2", "n3"];
    for name in names {
        fleet.start(name).await;
    }
    let token = fleet.node("n1").create("").await;
    for name in &names[1..] {
        fleet.node(name).join(&token).await;
    }
    fleet.meets(&names).await;
    fleet.all_reach(&names).await;
    // Two links there, and two back.
    let round_trip = Duration::from_millis(80)..Duration::from_millis(200);
    for name in names {
        until_within(Duration::from_mins(1), "both others are seen as far away", async || {
            let peers = fleet.node(name).network().await?.peers;
            let is_far = |rtt: u64| round_trip.contains(&Duration::from_micros(rtt));
            let far = peers.iter().filter(|peer| {
                peer.path.kind == PathKind::Direct && peer.rtt_us.is_some_and(is_far)
            });
            holds(far.count() == 2, peers)
        })
        .await;
    }
}
