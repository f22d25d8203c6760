//! What relays carry.

use std::net::IpAddr;
use std::time::Duration;

use epsilon_cli::lab::Cable;
use epsilon_proto::api::PathKind;

use crate::dataplane::transfer;
use crate::nat::path;
use crate::support::{Fleet, holds, until_within};

/// One measurement.
const LENGTH: Duration = Duration::from_secs(3);
/// How many pairs are measured, directly and over a relay in turn.
const PAIRS: usize = 5;
/// What relayed bulk keeps of the direct speed.
const KEPT: f64 = 0.5;

/// The median of relayed over direct speed, with `config` on the relay and links of a rate.
async fn kept(config: &str, link: Option<&str>) -> Option<f64> {
    let gateways = ["port-restricted", "port-restricted"];
    let mut fleet = Fleet::up_behind([1], &gateways).await?;
    let write = format!("mkdir -p /etc/epsilon && printf '{config}' > /etc/epsilon/meshd.toml");
    fleet.node("n1").shell(&write).await.ok();
    for name in ["n1", "n2", "n3"] {
        fleet.start(name).await;
    }
    let token = fleet.node("n1").create("").await;
    for name in ["n2", "n3"] {
        fleet.node(name).join(&token).await;
    }
    fleet.meets(&["n1", "n2", "n3"]).await;
    if let Some(link) = link {
        for site in 1..=3 {
            fleet.lab.set_link(&Cable::Site(site), link.parse().unwrap()).await.unwrap();
        }
    }
    fleet.all_reach(&["n1", "n2", "n3"]).await;
    let address: IpAddr = fleet.node("n3").network().await.unwrap().node.ipv4.unwrap().into();
    let mut ratios = Vec::new();
    for _ in 0..PAIRS {
        let mut speeds = Vec::new();
        for kind in [PathKind::Direct, PathKind::Relayed] {
            if kind == PathKind::Relayed {
                fleet.lab.cut_between(2, 3).await.unwrap();
            } else {
                fleet.lab.heal_between(2, 3).await.unwrap();
            }
            until_within(Duration::from_mins(1), &format!("the way is {kind:?}"), async || {
                // What is used is looked after.
                fleet.reaches("n2", "n3").await;
                let ways = [path(&fleet, "n2", "n3").await?, path(&fleet, "n3", "n2").await?];
                holds(ways.iter().all(|way| way.kind == kind), ways)
            })
            .await;
            let (from, to) = (fleet.host("n2").unwrap(), fleet.host("n3").unwrap());
            let arrived = transfer(from, to, address, LENGTH);
            speeds.push(f64::from(u32::try_from(arrived).unwrap()));
        }
        let mbit = |bytes: f64| bytes * 8.0 / LENGTH.as_secs_f64() / 1e6;
        println!("direct {:.0} Mbit/s, relayed {:.0} Mbit/s", mbit(speeds[0]), mbit(speeds[1]));
        ratios.push(speeds[1] / speeds[0]);
    }
    ratios.sort_unstable_by(f64::total_cmp);
    Some(ratios[PAIRS / 2])
}

#[tokio::test]
#[ignore = "it measures: make soak"]
async fn relayed_bulk_keeps_half_of_the_direct_speed() {
    let unlimited = "[relay]\\npair_mbit = 100000\\ntotal_mbit = 100000\\n";
    for (what, config, link) in [
        ("of the speed over links of 100 Mbit/s is kept", "", Some("delay=5ms,rate=100mbit")),
        ("of the speed as fast as it goes is kept", unlimited, None),
    ] {
        let Some(kept) = kept(config, link).await else { return };
        println!("relayed: {kept:.2} {what}");
        assert!(kept >= KEPT, "{kept:.2} {what}");
    }
}
