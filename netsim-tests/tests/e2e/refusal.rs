//! Joins that cannot succeed, and identities that run twice: said clearly, on
//! the right side, and without anybody else noticing.

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use epsilon_proto::address::DEFAULT_PORT;
use epsilon_proto::id::Digest;
use tokio::time::Instant;

use crate::support::{Fleet, holds, until};

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
            .parse::<epsilon_proto::token::Token>()
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
