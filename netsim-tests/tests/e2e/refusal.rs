//! Joins that cannot succeed, and identities that run twice: said clearly, on
//! the right side, and without anybody else noticing.

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use epsilon_mesh::founding;
use epsilon_mesh::saved::Settings;
use epsilon_proto::address::DEFAULT_PORT;
use epsilon_proto::id::Digest;
use epsilon_proto::key::{SecretKey, Strict};
use epsilon_proto::token::Token;
use epsilon_proto::trust::Roles;
use meshd::store::Store;
use tokio::time::Instant;

use crate::support::{Fleet, Node, holds, until};

const PREFIX: &str = "epsilon1_";

#[tokio::test]
async fn a_token_that_leads_into_another_network_is_said_so_within_three_seconds() {
    let Some(mut fleet) = Fleet::up([1, 1, 1]).await else { return };
    for name in ["n1", "n2", "n3"] {
        fleet.start(name).await;
    }
    fleet.node("n2").create("--name other").await;
    let leads_to = fleet.host("n2").unwrap().ipv4();
    let token = fleet.node("n1").create(&format!("--advertise {leads_to}:{DEFAULT_PORT}")).await;

    let begun = Instant::now();
    let ran = fleet.node("n3").run(&format!("mesh join {token}")).await.exits(1);
    let took = begun.elapsed();
    let said = format!("nobody at {leads_to}:{DEFAULT_PORT} has this network's key");
    assert!(ran.stderr.contains(&said), "{ran:?}");
    assert!(took < Duration::from_secs(3), "said after {took:?}");
    fleet.node("n3").is_untouched().await;
    // Neither network has heard of it.
    for name in ["n1", "n2"] {
        assert_eq!(fleet.node(name).is_well().await.unwrap().members.total, 1);
    }
}

#[tokio::test]
async fn nobody_joins_by_an_expired_token_or_one_that_is_used_up() {
    let Some((mut fleet, _)) = Fleet::joined([1]).await else { return };
    let admin = fleet.node("n1");
    for name in ["n2", "n3"] {
        fleet.lab.add_host(1).await.unwrap();
        fleet.start(name).await;
    }
    let expiring = admin.run("token create --expires 1s").await.ok();
    let once = admin.run("token create --uses 1").await.ok();
    until("it expires", async || {
        let list = admin.run("token list").await.ok();
        holds(list.contains("expired"), list)
    })
    .await;
    fleet.node("n2").refused(expiring.trim(), 1, "expired").await;
    fleet.node("n2").join(once.trim()).await;
    fleet.meets(&["n1", "n2"]).await;
    fleet.node("n3").refused(once.trim(), 1, "used up").await;
    // Members say so as well.
    let events = admin.run("events").await.ok();
    for reason in ["expired", "used up"] {
        assert!(events.contains(reason), "{reason} is not in {events}");
    }
    fleet.all_reach(&["n1", "n2"]).await;
}

#[tokio::test]
async fn every_kind_of_damaged_token_has_its_own_error_and_leaves_nothing() {
    let Some((mut fleet, token)) = Fleet::joined([1]).await else { return };
    fleet.lab.add_host(1).await.unwrap();
    fleet.start("n2").await;
    let node = fleet.node("n2");
    let middle = token.len() / 2;
    let letter = if token.as_bytes()[middle] == b'A' { 'B' } else { 'A' };
    let typo = format!("{}{letter}{}", &token[..middle], &token[middle + 1..]);
    for (damaged, text) in [
        (typo, "typing error"),
        (token[..token.len() - 7].to_owned(), "cut off: 7 of"),
        (format!("{token}AAAA"), "too many at its end"),
        (token.replace(PREFIX, "epsilon2_"), "update epsilon"),
        (token.replace(PREFIX, "wireguard_"), "not an epsilon token"),
    ] {
        node.refused(&damaged, 2, text).await;
    }
    // As somebody would forge it: a document changed, the checksum made anew.
    let bytes = BASE64URL_NOPAD.decode(token.strip_prefix(PREFIX).unwrap().as_bytes()).unwrap();
    let body = &bytes[4..bytes.len() - 4];
    let forged = body.iter().enumerate().filter_map(|(index, _)| {
        let mut body = body.to_vec();
        body[index] ^= 1;
        let check = Digest::of(&[&bytes[..4], &body].concat());
        let whole = [&bytes[..4], &body, &check.0[..4]].concat();
        let text = format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&whole));
        let error = text
            .parse::<Token>()
            .and_then(|token| token.verify(&epsilon_proto::key::Strict))
            .err()?
            .to_string();
        error.contains("tampered").then_some(text)
    });
    let mut tried = 0;
    for forged in forged.step_by(97) {
        node.refused(&forged, 1, "tampered").await;
        tried += 1;
    }
    assert!(tried > 3, "only {tried} forged tokens");
    assert_eq!(fleet.node("n1").is_well().await.unwrap().members.total, 1);
}

/// Puts the state of a member on a host that gave itself more than its token
/// allows.
async fn forge(node: &Node, token: &str) {
    let token: Token = token.parse().unwrap();
    let key = SecretKey::generate(&mut meshd::random::system());
    let settings = Settings {
        name: None,
        site: None,
        labels: Vec::new(),
        advertise: Vec::new(),
        port: DEFAULT_PORT,
        interface: "eps0".to_owned(),
        token_addresses: token.addresses.clone(),
    };
    let token = token.verify(&Strict).unwrap();
    let saved = founding::join(token, &key, Roles::ALL, settings, meshd::clock::wall());
    let dir = tempfile::tempdir().unwrap();
    drop(Store::create(&dir.path().join("state.redb"), &saved.writes()).unwrap());
    std::fs::write(dir.path().join("identity.key"), *key.seed()).unwrap();
    let from = dir.path().display();
    node.shell(&format!(
        "cp -a {from} /var/lib/epsilon/mesh && chmod -R go= /var/lib/epsilon/mesh"
    ))
    .await
    .ok();
}

#[tokio::test]
async fn a_certificate_that_says_more_than_its_token_is_refused_and_both_sides_say_why() {
    let Some((mut fleet, _)) = Fleet::joined([2]).await else { return };
    let token = fleet.node("n1").run("token create --role worker").await.ok();
    fleet.lab.add_host(1).await.unwrap();
    let intruder = fleet.node("n3");
    forge(&intruder, token.trim()).await;
    fleet.start("n3").await;
    until("it is told why", async || {
        let ran = intruder.run("status").await;
        holds(ran.code == 5 && ran.stdout.contains("certificate does not hold"), ran)
    })
    .await;
    for name in ["n1", "n2"] {
        let events = fleet.node(name).run("events").await.ok();
        assert!(events.contains("certificate"), "{name} does not say so: {events}");
        assert_eq!(fleet.node(name).is_well().await.unwrap().members.total, 2);
    }
    fleet.all_reach(&["n1", "n2"]).await;
    // As somebody would who changed the file by hand.
    fleet.stop("n3").await;
    let damaged = "cd /var/lib/epsilon/mesh && head -c 32 /dev/urandom > identity.key";
    intruder.shell(damaged).await.ok();
    fleet.start("n3").await;
    let ran = intruder.run("status").await.exits(5);
    assert!(ran.stdout.contains("not this node's"), "{ran:?}");
    intruder.run("mesh leave --network mesh").await.ok();
    intruder.is_untouched().await;
}

#[tokio::test]
async fn a_network_that_cannot_be_served_is_said_and_can_be_left_while_another_goes_on() {
    let Some(mut fleet) = Fleet::up([1]).await else { return };
    fleet.start("n1").await;
    let node = fleet.node("n1");
    node.create("--name one --range 10.90.0.0/16").await;
    node.create("--name two --range 10.91.0.0/16").await;
    fleet.stop("n1").await;
    node.shell("cd /var/lib/epsilon/one && mv identity.key kept").await.ok();
    fleet.start("n1").await;
    let ran = node.run("status").await.exits(5);
    assert!(ran.stdout.contains("one") && ran.stdout.contains("identity.key"), "{ran:?}");
    assert!(ran.stdout.contains("mesh leave --network one"), "{ran:?}");
    node.run("status --network two").await.ok();
    // Its range and its port are still its own.
    let ran = node.run("mesh create --name three --range 10.90.0.0/16").await.exits(1);
    assert!(ran.stderr.contains("overlaps that of network one"), "{ran:?}");
    node.create("--name three --range 10.92.0.0/16").await;
    node.shell("cd /var/lib/epsilon/one && mv kept identity.key").await.ok();
    until("it is served again", async || {
        let ran = node.run("status").await;
        holds(ran.code == 0 && ran.stdout.contains("● one"), ran)
    })
    .await;
    let ports: std::collections::BTreeSet<u16> =
        node.status().await.unwrap().networks.iter().map(|network| network.port).collect();
    assert_eq!(ports.len(), 3);
    fleet.stop("n1").await;
    node.shell("rm /var/lib/epsilon/one/identity.key").await.ok();
    fleet.start("n1").await;
    node.run("mesh leave --network one").await.ok();
    let ran = node.run("status").await.exits(0);
    assert!(!ran.stdout.contains("● one"), "{ran:?}");
}

#[tokio::test]
async fn an_identity_that_runs_twice_is_an_alarm_on_both_and_on_their_peers() {
    let Some((mut fleet, _)) = Fleet::joined([4]).await else { return };
    let archive = format!("/tmp/epsilon-e2e-{}.tar", fleet.lab.name());
    fleet.stop("n4").await;
    fleet.node("n4").shell(&format!("tar -C /var/lib/epsilon -cf {archive} mesh")).await.ok();
    fleet.lab.add_host(1).await.unwrap();
    let copy = fleet.node("n5");
    copy.shell(&format!("tar -C /var/lib/epsilon -xf {archive}; rm {archive}")).await.ok();
    fleet.start("n4").await;
    fleet.meets(&["n1", "n2", "n3", "n4"]).await;

    fleet.start("n5").await;
    for name in ["n1", "n2", "n3"] {
        let node = fleet.node(name);
        until(&format!("{name} raises the alarm"), async || {
            let ran = node.run("status").await;
            let raised = ran.stdout.contains("two machines run with the identity of n4");
            holds(ran.code == 5 && raised, ran)
        })
        .await;
    }
    for name in ["n4", "n5"] {
        let node = fleet.node(name);
        until(&format!("{name} raises the alarm"), async || {
            let ran = node.run("status").await;
            let raised = ran.stdout.contains("another machine runs with this node's identity");
            holds(ran.code == 5 && raised, ran)
        })
        .await;
    }
    fleet.all_reach(&["n1", "n2", "n3"]).await;
    let events = fleet.node("n1").run("events").await.ok();
    assert!(events.contains("ALARM"), "{events}");
    // The hint is followed: it stops on one of the two.
    fleet.stop("n5").await;
    fleet.reaches("n1", "n4").await;
}
