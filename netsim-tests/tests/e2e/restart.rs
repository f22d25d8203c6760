//! Daemons that die: whatever the moment, they come back as who they were.

use std::time::Duration;

use epsilon_proto::api::{NetworkStatus, OwnNode};
use tokio::time::{Instant, sleep};

use crate::support::{Dice, Fleet, Stream, until};

const NAMES: [&str; 3] = ["n1", "n2", "n3"];
/// How much longer than its daemon was down a connection may stall.
const MARGIN: Duration = Duration::from_secs(3);

/// What must not change over a restart.
fn self_of(network: NetworkStatus) -> OwnNode {
    OwnNode { labels: std::collections::BTreeMap::new(), ..network.node }
}

#[tokio::test]
async fn a_daemon_killed_at_any_moment_is_back_with_the_same_addresses_and_name() {
    let Some((mut fleet, _)) = Fleet::joined([3]).await else { return };
    let dice = Dice::shown();
    let mut before = Vec::new();
    for name in NAMES {
        before.push(self_of(fleet.node(name).network().await.unwrap()));
    }
    for round in 0..6 {
        let name = NAMES[round % NAMES.len()];
        // Something is being written at that moment: an invite, and a record.
        let node = fleet.node(name);
        let admin = fleet.node("n1");
        let create = format!("token create --tag t{round}");
        let after = dice.duration(Duration::from_millis(60));
        tokio::join!(admin.run(&create), admin.run("node rename n2 n2"), async {
            sleep(after).await;
            fleet.kill(name).await;
        });
        // Also while it is starting.
        fleet.launch(name);
        sleep(dice.duration(Duration::from_millis(60))).await;
        fleet.kill(name).await;
        fleet.start(name).await;
        let index = NAMES.iter().position(|known| *known == name).unwrap();
        let after = self_of(node.network().await.unwrap());
        assert_eq!(after, before[index], "in round {round}");
        fleet.meets(&NAMES).await;
    }
    fleet.all_reach(&NAMES).await;
    for name in NAMES {
        until("all is well", async || fleet.node(name).is_well().await).await;
    }
}

#[tokio::test]
async fn what_was_acknowledged_before_a_kill_is_there_after_it() {
    let Some((mut fleet, _)) = Fleet::joined([2]).await else { return };
    let dice = Dice::shown();
    for round in 0..5 {
        let node = fleet.node("n1");
        let made = async {
            let mut made = Vec::new();
            loop {
                let ran = node.run(&format!("token create --tag t{round}")).await;
                if ran.code != 0 {
                    return made;
                }
                made.push(ran.stdout.trim().to_owned());
            }
        };
        let (made, ()) = tokio::join!(made, async {
            sleep(Duration::from_millis(100) + dice.duration(Duration::from_millis(150))).await;
            fleet.kill("n1").await;
        });
        fleet.start("n1").await;
        let listed = node.run("-o json token list").await.ok();
        assert!(!made.is_empty());
        for token in made {
            let facts = node.run(&format!("-o json token inspect {token}")).await.ok();
            let facts: epsilon_proto::api::TokenFacts = serde_json::from_str(&facts).unwrap();
            assert!(listed.contains(&facts.invite), "an acknowledged token is lost");
        }
    }
}

#[tokio::test]
async fn a_daemon_killed_in_the_middle_of_a_join_leaves_nothing_or_a_whole_member() {
    let Some((mut fleet, _)) = Fleet::joined([2]).await else { return };
    let dice = Dice::shown();
    fleet.lab.add_host(1).await.unwrap();
    let node = fleet.node("n3");
    let (mut whole, mut nothing) = (0, 0);
    for millis in [0, 5, 10, 20, 40, 80, 160, 320] {
        fleet.start("n3").await;
        // A join that was cut off must not have used it up.
        let token = fleet.node("n1").run("token create --uses 1").await.ok();
        let join = format!("mesh join {}", token.trim());
        let (ran, ()) = tokio::join!(node.run(&join), async {
            sleep(Duration::from_millis(millis) + dice.duration(Duration::from_millis(5))).await;
            fleet.kill("n3").await;
        });
        fleet.start("n3").await;
        if let Ok(network) = node.network().await {
            whole += 1;
            let again = node.run(&join).await.exits(0);
            assert!(again.stdout.contains("Already"), "{again:?}");
            fleet.meets(&["n1", "n3"]).await;
            fleet.reaches("n1", "n3").await;
            assert_eq!(node.network().await.unwrap().node.id, network.node.id);
            node.run("mesh leave").await.ok();
        } else {
            nothing += 1;
            assert_ne!(ran.code, 0, "a join that was acknowledged is gone: {ran:?}");
            node.is_untouched().await;
            node.join(token.trim()).await;
            fleet.meets(&["n1", "n3"]).await;
            node.run("mesh leave").await.ok();
        }
        node.is_untouched().await;
        fleet.kill("n3").await;
    }
    eprintln!("{whole} joins survived, {nothing} left nothing");
    assert!(whole > 0 && nothing > 0, "the kills came at moments that all end alike");
    fleet.start("n3").await;
    let token = fleet.node("n1").run("token create").await.ok();
    node.join(token.trim()).await;
    fleet.meets(&["n1", "n2", "n3"]).await;
    fleet.all_reach(&["n1", "n2", "n3"]).await;
}

#[tokio::test]
async fn a_daemon_killed_while_it_makes_or_leaves_a_network_leaves_nothing_or_all_of_it() {
    let Some(mut fleet) = Fleet::up([1]).await else { return };
    let dice = Dice::shown();
    let node = fleet.node("n1");
    for command in ["mesh create", "mesh leave"].repeat(5) {
        fleet.start("n1").await;
        if command == "mesh leave" && node.network().await.is_err() {
            node.create("").await;
        }
        let (ran, ()) = tokio::join!(node.run(command), async {
            sleep(dice.duration(Duration::from_millis(100))).await;
            fleet.kill("n1").await;
        });
        fleet.start("n1").await;
        if let Ok(network) = node.network().await {
            assert!(command == "mesh create" || ran.code != 0, "it had left: {ran:?}");
            let own = network.node.ipv4.unwrap().to_string();
            node.echo(&own).await.unwrap();
            node.run("token create").await.ok();
        } else {
            assert!(command == "mesh leave" || ran.code != 0, "it had been made: {ran:?}");
            node.is_untouched().await;
        }
        fleet.kill("n1").await;
    }
}

/// A connection from n1 to n2 while the daemon of one of them is killed and
/// comes back after `down`.
async fn stalls_no_longer_than(down: Duration, version: &str, killed: &str) {
    let Some((mut fleet, _)) = Fleet::joined([2]).await else { return };
    let target = fleet.node("n2").network().await.unwrap().node;
    let address = match version {
        "IPv4" => std::net::IpAddr::V4(target.ipv4.unwrap()),
        _ => std::net::IpAddr::V6(target.ipv6.unwrap()),
    };
    fleet.reaches("n1", "n2").await;
    let stream = Stream::open(fleet.host("n1").unwrap(), fleet.host("n2").unwrap(), address);
    stream.flows().await;

    let begun = Instant::now();
    fleet.kill(killed).await;
    sleep(down).await;
    fleet.start(killed).await;
    let down = begun.elapsed();
    stream.flows().await;
    let travelled = stream.close();
    eprintln!("down for {down:?}: {travelled:?}");
    assert!(travelled.longest_stall <= down + MARGIN, "down for {down:?}: {travelled:?}");
}

#[tokio::test]
async fn a_connection_survives_a_short_restart_and_stalls_little_longer() {
    stalls_no_longer_than(Duration::ZERO, "IPv4", "n2").await;
    stalls_no_longer_than(Duration::ZERO, "IPv6", "n1").await;
}

#[tokio::test]
async fn a_connection_survives_five_seconds_without_a_daemon_and_stalls_little_longer() {
    stalls_no_longer_than(Duration::from_millis(4500), "IPv6", "n2").await;
    stalls_no_longer_than(Duration::from_millis(4500), "IPv4", "n1").await;
}
