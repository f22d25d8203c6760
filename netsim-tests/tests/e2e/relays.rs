//! What relays carry.

use std::net::IpAddr;
use std::time::Duration;

use epsilon_cli::lab::Cable;
use epsilon_proto::api::PathKind;

use crate::dataplane::transfer;
use crate::nat::path;
use crate::netcheck::netcheck;
use crate::support::{Fleet, holds, until, until_within};

/// One measurement.
const LENGTH: Duration = Duration::from_secs(3);
/// How many pairs are measured, directly and over a relay in turn.
const PAIRS: usize = 5;
/// What relayed bulk keeps of the direct speed.
const KEPT: f64 = 0.5;

/// Writes the configuration of a daemon that was not started yet.
async fn configure(fleet: &Fleet, name: &str, config: &str) {
    let write = format!("mkdir -p /etc/epsilon && printf '{config}' > /etc/epsilon/meshd.toml");
    fleet.node(name).shell(&write).await.ok();
}

#[tokio::test]
async fn who_may_passes_on_for_others_and_they_choose_relays_of_two_sites() {
    let gateways = ["symmetric", "symmetric"];
    let Some(mut fleet) = Fleet::up_behind([6], &gateways).await else { return };
    for name in ["n1", "n2"] {
        configure(&fleet, name, "[relay]\\nenabled = false\\n").await;
    }
    for name in fleet.names() {
        fleet.start(&name).await;
    }
    let token = fleet.node("n1").create("").await;
    let token = token.trim();
    for (name, says) in [
        ("n2", "--site attic"),
        ("n3", "--site cellar --label metered=true"),
        ("n4", "--site home"),
        ("n5", "--site home"),
        ("n6", "--site work"),
        ("n7", ""),
        ("n8", ""),
    ] {
        fleet.node(name).run(&format!("mesh join {token} {says}")).await.ok();
    }
    let names: Vec<String> = fleet.names();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    fleet.meets(&names).await;
    fleet.all_reach(&["n7", "n8"]).await;
    let chose = async |is_right: &dyn Fn(&[String]) -> bool| {
        for name in ["n7", "n8"] {
            until(&format!("{name} has the right relays"), async || {
                let relays = netcheck(&fleet, name).await?.relays;
                let relays: Vec<String> = relays.into_iter().filter_map(|one| one.name).collect();
                holds(is_right(&relays), relays)
            })
            .await;
        }
    };
    let has = |relays: &[String], name: &str| relays.iter().any(|relay| relay == name);
    chose(&|relays| {
        relays.len() == 2 && has(relays, "n6") && (has(relays, "n4") || has(relays, "n5"))
    })
    .await;
    // Rather two of one site than one.
    fleet.kill("n6").await;
    chose(&|relays| relays.len() == 2 && has(relays, "n4") && has(relays, "n5")).await;
    fleet.kill("n4").await;
    fleet.kill("n5").await;
    // There is nobody else who may.
    chose(&|relays| !["n1", "n2", "n3"].into_iter().any(|name| has(relays, name))).await;
    until("there is no way without a relay", async || {
        let way = path(&fleet, "n7", "n8").await?;
        holds(way.relay.is_none() && way.kind != PathKind::Direct, way)
    })
    .await;
}

/// The median of relayed over direct speed, with `config` on the relay and links of a rate.
async fn kept(config: &str, link: Option<&str>) -> Option<f64> {
    let gateways = ["port-restricted", "port-restricted"];
    let mut fleet = Fleet::up_behind([1], &gateways).await?;
    configure(&fleet, "n1", config).await;
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
