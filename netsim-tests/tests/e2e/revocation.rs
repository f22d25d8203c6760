//! What was revoked stays out, and everybody knows soon.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::{Fleet, Node, holds, until, until_within};

/// Within so long every connected peer has cut a revoked node off.
const CUT_OFF: Duration = Duration::from_secs(2);

/// Waits until `node` lists no peer with that id any more.
async fn forgets(node: &Node, id: &str, limit: Duration) {
    until_within(limit, "the revoked node is gone from the list", async || {
        let peers = node.network().await?.peers;
        holds(peers.iter().all(|peer| peer.id != id), peers)
    })
    .await;
}

/// Checks that `revoked` reaches `other` in neither family.
async fn shut_out(fleet: &Fleet, revoked: &str, other: &str) {
    let target = fleet.node(other).network().await.unwrap().node;
    for address in [target.ipv4.unwrap().to_string(), target.ipv6.unwrap().to_string()] {
        let answer = fleet.node(revoked).echo(&address).await;
        assert!(answer.is_err(), "{revoked} still reaches {other} at {address}");
    }
}

#[tokio::test]
async fn every_connected_peer_cuts_a_revoked_node_off_within_two_seconds() {
    let Some((mut fleet, token)) = Fleet::joined([4]).await else { return };
    let names = ["n1", "n2", "n3", "n4"];
    fleet.all_reach(&names).await;
    let revoked = fleet.node("n4").network().await.unwrap().node;
    let address = revoked.ipv4.unwrap().to_string();

    let begun = Instant::now();
    fleet.node("n1").run("node revoke n4").await.ok();
    for name in ["n1", "n2", "n3"] {
        let left = CUT_OFF.saturating_sub(begun.elapsed());
        forgets(&fleet.node(name), &revoked.id, left).await;
    }
    for name in ["n1", "n2", "n3"] {
        assert!(fleet.node(name).echo(&address).await.is_err(), "{name} still reaches n4");
        shut_out(&fleet, "n4", name).await;
    }
    let ran = fleet.node("n4").run("status").await.exits(5);
    assert!(ran.stdout.contains("revoked"), "{ran:?}");
    fleet.all_reach(&["n1", "n2", "n3"]).await;

    for name in names {
        fleet.kill(name).await;
    }
    for name in names {
        fleet.start(name).await;
    }
    fleet.meets(&["n1", "n2", "n3"]).await;
    for name in ["n1", "n2", "n3"] {
        assert!(fleet.node(name).echo(&address).await.is_err(), "{name} reaches a revoked node");
        shut_out(&fleet, "n4", name).await;
        let network = fleet.node(name).is_well().await.unwrap();
        assert!(network.peers.iter().all(|peer| peer.id != revoked.id), "{network:?}");
    }
    // The token is as good as ever: what was revoked is the node, not the machine.
    fleet.node("n4").run("mesh leave").await.ok();
    fleet.node("n4").join(&token).await;
    fleet.meets(&names).await;
    assert_ne!(fleet.node("n4").network().await.unwrap().node.id, revoked.id);
}

#[tokio::test]
async fn a_peer_that_was_down_learns_of_a_revocation_before_it_admits_that_node() {
    let Some((mut fleet, _)) = Fleet::joined([4]).await else { return };
    let revoked = fleet.node("n4").network().await.unwrap().node;
    let address = revoked.ipv4.unwrap().to_string();
    fleet.kill("n3").await;
    fleet.unplug("n4").await.unwrap();
    fleet.node("n1").run("node revoke n4").await.ok();
    forgets(&fleet.node("n2"), &revoked.id, CUT_OFF).await;
    // n1, who said it, is away; n4 has not heard of it, and calls everybody.
    fleet.kill("n1").await;
    fleet.start("n3").await;
    fleet.plug("n4").await.unwrap();
    let node = fleet.node("n3");
    until("n3 meets n2", async || {
        let peers = node.network().await?.peers;
        let meeting = peers.iter().any(|peer| {
            peer.name.as_deref() == Some("n2") && peer.state == epsilon_proto::api::PeerState::Up
        });
        holds(meeting, peers)
    })
    .await;
    forgets(&node, &revoked.id, CUT_OFF).await;
    assert!(node.echo(&address).await.is_err());
    until("n4 hears of it", async || {
        let ran = fleet.node("n4").run("status").await;
        holds(ran.code == 5 && ran.stdout.contains("revoked"), ran)
    })
    .await;
    let events = node.run("events").await.ok();
    assert!(events.contains("n2 is linked"), "{events}");
    for name in ["n4", &revoked.id[..10]] {
        assert!(!events.contains(&format!("{name} is linked")), "n3 admitted n4: {events}");
    }
    shut_out(&fleet, "n4", "n3").await;
}

#[tokio::test]
async fn nobody_joins_by_a_revoked_token_and_its_members_may_go_with_it() {
    let Some((mut fleet, _)) = Fleet::joined([2]).await else { return };
    let node = fleet.node("n1");
    for host in ["n3", "n4"] {
        fleet.lab.add_host(1).await.unwrap();
        fleet.start(host).await;
    }
    let token = node.run("token create").await.ok();
    fleet.node("n3").join(token.trim()).await;
    fleet.meets(&["n1", "n2", "n3"]).await;
    let facts = node.run(&format!("-o json token inspect {token}")).await.ok();
    let facts: epsilon_proto::api::TokenFacts = serde_json::from_str(&facts).unwrap();

    node.run(&format!("token revoke {}", facts.invite)).await.ok();
    fleet.node("n4").refused(token.trim(), 1, "revoked").await;
    fleet.all_reach(&["n1", "n2", "n3"]).await;

    let third = fleet.node("n3").network().await.unwrap().node.id;
    let begun = Instant::now();
    node.run(&format!("token revoke --members {}", facts.invite)).await.ok();
    for name in ["n1", "n2"] {
        let left = CUT_OFF.saturating_sub(begun.elapsed());
        forgets(&fleet.node(name), &third, left).await;
    }
    fleet.node("n4").refused(token.trim(), 1, "revoked").await;
}

#[tokio::test]
async fn a_certificate_made_alone_under_an_invite_that_ended_meanwhile_is_refused() {
    let Some(mut fleet) = Fleet::up([1, 1, 1]).await else { return };
    for name in ["n1", "n2", "n3"] {
        fleet.start(name).await;
    }
    let node = fleet.node("n1");
    node.create("").await;
    let expiring = node.run("token create --expires 4s").await.ok();
    let revoked = node.run("token create").await.ok();
    // They join alone while their tokens hold, and cannot say when it was.
    for site in [2, 3] {
        fleet.cut(site).await.unwrap();
    }
    let (second, third) = (fleet.node("n2"), fleet.node("n3"));
    tokio::join!(second.join(expiring.trim()), third.join(revoked.trim()));
    let facts = node.run(&format!("-o json token inspect {revoked}")).await.ok();
    let facts: epsilon_proto::api::TokenFacts = serde_json::from_str(&facts).unwrap();
    node.run(&format!("token revoke {}", facts.invite)).await.ok();
    until("the other token expires", async || {
        let list = node.run("token list").await.ok();
        holds(list.contains("expired"), list)
    })
    .await;

    for site in [2, 3] {
        fleet.heal(site).await.unwrap();
    }
    for (name, reason) in [("n2", "expired"), ("n3", "revoked")] {
        until("the node hears why it is not let in", async || {
            let ran = fleet.node(name).run("events").await;
            holds(
                ran.stdout.contains("does not let this node in") && ran.stdout.contains(reason),
                ran,
            )
        })
        .await;
        let ran = fleet.node(name).run("status").await.exits(5);
        assert!(ran.stdout.contains(reason), "{ran:?}");
    }
    assert_eq!(node.network().await.unwrap().members.total, 1);
}
