//! Members behind real NATs.

use std::time::Duration;

use epsilon_proto::api::{Path, PathKind};

use crate::support::{Fleet, holds, until, until_within};

/// The kinds of gateway, each with one host behind it: `n2` and the next; `n1` can be
/// reached by all.
const GATEWAYS: [&str; 7] = [
    "endpoint-independent",
    "address-restricted",
    "port-restricted",
    "port-restricted",
    "symmetric",
    "symmetric",
    "carrier-grade",
];

/// Whether two find a way without a relay: a random port is guessed by nobody, and let in
/// by whoever does not mind ports.
fn is_direct(one: &str, other: &str) -> bool {
    let minds_ports =
        |kind: &str| ["port-restricted", "symmetric", "carrier-grade"].contains(&kind);
    let is_random = |kind: &str| kind == "symmetric";
    !(is_random(one) && minds_ports(other) || is_random(other) && minds_ports(one))
}

async fn path(fleet: &Fleet, from: &str, to: &str) -> Result<Path, String> {
    let network = fleet.node(from).network().await?;
    let peer = network.peers.into_iter().find(|peer| peer.name.as_deref() == Some(to));
    peer.map(|peer| peer.path).ok_or_else(|| format!("{from} does not know {to}"))
}

#[tokio::test]
async fn every_pair_behind_nats_is_connected_and_directly_where_that_can_be() {
    let Some((fleet, _)) = Fleet::joined_behind([1], &GATEWAYS).await else { return };
    let hosts: Vec<(String, &str)> = GATEWAYS
        .iter()
        .enumerate()
        .map(|(place, kind)| (format!("n{}", place + 2), *kind))
        .collect();
    let names = fleet.names();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    fleet.all_reach(&names).await;
    for (from, kind) in &hosts {
        for (to, other) in hosts.iter().filter(|(to, _)| to != from) {
            let wanted = if is_direct(kind, other) { PathKind::Direct } else { PathKind::Relayed };
            until(&format!("{from} ({kind}) to {to} ({other}) is {wanted:?}"), async || {
                let path = path(&fleet, from, to).await?;
                let relay = path.relay.as_ref().and_then(|relay| relay.name.as_deref());
                let is_by = wanted == PathKind::Direct || relay == Some("n1");
                holds(path.kind == wanted && is_by, path.clone())
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_way_that_is_cut_is_left_for_a_relay_and_taken_again() {
    let gateways = ["port-restricted", "port-restricted"];
    let Some((mut fleet, _)) = Fleet::joined_behind([1], &gateways).await else { return };
    fleet.reaches("n2", "n3").await;
    let is = async |fleet: &Fleet, wanted: PathKind| {
        let minute = Duration::from_mins(1);
        until_within(minute, &format!("the way is {wanted:?}"), async || {
            // What is used is looked after.
            fleet.reaches("n2", "n3").await;
            let path = path(fleet, "n2", "n3").await?;
            holds(path.kind == wanted, path.clone())
        })
        .await;
    };
    is(&fleet, PathKind::Direct).await;
    fleet.lab.cut_between(2, 3).await.unwrap();
    is(&fleet, PathKind::Relayed).await;
    fleet.lab.heal_between(2, 3).await.unwrap();
    is(&fleet, PathKind::Direct).await;
    fleet.lab.restart_gateway(2).await.unwrap();
    is(&fleet, PathKind::Direct).await;
    fleet.lab.move_host("n3", 1).await.unwrap();
    is(&fleet, PathKind::Direct).await;
}
