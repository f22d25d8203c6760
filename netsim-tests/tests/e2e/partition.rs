//! A fleet that falls into halves: both go on, and become one again.

use std::collections::BTreeSet;
use std::time::Duration;

use epsilon_proto::api::{Node as Listed, TokenList};

use crate::support::{Fleet, holds, until, until_within};

/// Within so long a member notices that another has fallen silent.
const SILENT_DEATH: Duration = Duration::from_secs(45);
/// Within so long anti-entropy has brought over what gossip lost: its longest
/// pause, and some time to talk.
const REPAIR: Duration = Duration::from_secs(75);

/// A node as every member should see it.
type Seen =
    (String, Option<String>, Option<std::net::Ipv4Addr>, Option<std::net::Ipv6Addr>, String);

/// What `name` knows of all nodes, without what differs from view to view.
async fn view(fleet: &Fleet, name: &str) -> Result<BTreeSet<Seen>, String> {
    let nodes = fleet.node(name).nodes().await?.nodes;
    let seen =
        |node: Listed| (node.id, node.name, node.ipv4, node.ipv6, format!("{:?}", node.membership));
    Ok(nodes.into_iter().map(seen).collect())
}

/// Waits until all of these nodes know the same, and gives it.
async fn one_view(fleet: &Fleet, names: &[&str]) -> BTreeSet<Seen> {
    until_within(REPAIR, "all have one view", async || {
        let mut views = Vec::new();
        for name in names {
            views.push(view(fleet, name).await?);
        }
        let first = views[0].clone();
        holds(first.len() >= names.len() && views.iter().all(|view| *view == first), views)?;
        Ok(first)
    })
    .await
}

fn assert_no_duplicates(view: &BTreeSet<Seen>) {
    let count = |what: BTreeSet<String>| assert_eq!(what.len(), view.len(), "{view:?}");
    count(view.iter().map(|(_, name, ..)| name.clone().unwrap()).collect());
    count(view.iter().map(|(_, _, ipv4, ..)| ipv4.unwrap().to_string()).collect());
    count(view.iter().map(|(_, _, _, ipv6, _)| ipv6.unwrap().to_string()).collect());
}

#[tokio::test]
async fn halves_that_both_changed_heal_into_one_view() {
    let Some((mut fleet, token)) = Fleet::joined([3, 3]).await else { return };
    let all = ["n1", "n2", "n3", "n4", "n5", "n6"];
    one_view(&fleet, &all).await;
    fleet.node("n1").run("admin add n4").await.ok();
    until("n4 is an admin", async || {
        let network = fleet.node("n4").network().await?;
        holds(network.node.admin, network)
    })
    .await;
    let gone = fleet.node("n3").network().await.unwrap().node.id;
    let revoked = fleet.node("n6").network().await.unwrap().node.id;

    fleet.cut(2).await.unwrap();
    for name in ["n1", "n4"] {
        until_within(SILENT_DEATH, "the halves notice", async || {
            let network = fleet.node(name).network().await?;
            holds(network.members.up == 3, network.members)
        })
        .await;
    }
    // One joins on each side, by one token; both are changed in every way.
    fleet.lab.add_host(1).await.unwrap();
    fleet.lab.add_host(2).await.unwrap();
    for name in ["n7", "n8"] {
        fleet.start(name).await;
    }
    let there = fleet.node("n4").run("token create").await.ok();
    fleet.node("n7").join(&token).await;
    fleet.node("n8").join(there.trim()).await;
    fleet.node("n1").run("node rename n2 west").await.ok();
    fleet.node("n4").run("node rename n5 east").await.ok();
    fleet.node("n3").run("mesh leave").await.ok();
    fleet.node("n4").run("node revoke n6").await.ok();

    fleet.heal(2).await.unwrap();
    let left = ["n1", "n2", "n4", "n5", "n7", "n8"];
    fleet.meets(&left).await;
    let view = one_view(&fleet, &left).await;
    assert_no_duplicates(&view);
    let names: BTreeSet<&str> = view.iter().filter_map(|(_, name, ..)| name.as_deref()).collect();
    assert_eq!(names, BTreeSet::from(["n1", "west", "n4", "east", "n7", "n8"]));
    assert!(view.iter().all(|(id, ..)| *id != gone && *id != revoked), "{view:?}");
    fleet.all_reach(&left).await;
    let lists = async |name| {
        let listed = fleet.node(name).run("-o json token list").await.ok();
        let mut invites = serde_json::from_str::<TokenList>(&listed).unwrap().invites;
        invites.sort_by(|one, other| one.id.cmp(&other.id));
        invites
    };
    assert_eq!(lists("n1").await, lists("n4").await);
}

#[tokio::test]
async fn a_node_that_left_on_one_side_stays_gone_when_the_other_side_comes_back() {
    let Some((fleet, _)) = Fleet::joined([2, 1]).await else { return };
    one_view(&fleet, &["n1", "n2", "n3"]).await;
    let gone = fleet.node("n2").network().await.unwrap().node.id;
    fleet.cut(2).await.unwrap();
    fleet.node("n2").run("mesh leave").await.ok();
    until("n1 sees it go", async || {
        let view = view(&fleet, "n1").await?;
        holds(view.iter().all(|(id, ..)| *id != gone), view)
    })
    .await;
    fleet.heal(2).await.unwrap();
    fleet.meets(&["n1", "n3"]).await;
    let view = one_view(&fleet, &["n1", "n3"]).await;
    assert!(view.iter().all(|(id, ..)| *id != gone), "{view:?}");
    assert_eq!(view.len(), 2);
}

#[tokio::test]
async fn of_two_nodes_that_want_one_name_the_second_gets_it_with_a_suffix() {
    let Some((mut fleet, token)) = Fleet::joined([1]).await else { return };
    for name in ["n2", "n3"] {
        fleet.lab.add_host(1).await.unwrap();
        fleet.start(name).await;
    }
    fleet.node("n2").run(&format!("mesh join {token} --name web")).await.ok();
    fleet.meets(&["n1", "n2"]).await;
    fleet.node("n3").run(&format!("mesh join {token} --name web")).await.ok();
    fleet.meets(&["n1", "n2", "n3"]).await;
    let view = one_view(&fleet, &["n1", "n2", "n3"]).await;
    assert_no_duplicates(&view);
    assert_eq!(fleet.node("n2").network().await.unwrap().node.name.as_deref(), Some("web"));
    let second = fleet.node("n3").network().await.unwrap().node.name.unwrap();
    assert!(second.starts_with("web-"), "{second}");
    fleet.all_reach(&["n1", "n2", "n3"]).await;
}

#[tokio::test]
async fn of_one_name_given_in_both_halves_exactly_one_is_left_after_healing() {
    let Some((mut fleet, token)) = Fleet::joined([2, 1]).await else { return };
    fleet.cut(2).await.unwrap();
    fleet.lab.add_host(1).await.unwrap();
    fleet.lab.add_host(2).await.unwrap();
    for name in ["n4", "n5"] {
        fleet.start(name).await;
        fleet.node(name).run(&format!("mesh join {token} --name web")).await.ok();
    }
    for name in ["n4", "n5"] {
        assert_eq!(fleet.node(name).network().await.unwrap().node.name.as_deref(), Some("web"));
    }
    fleet.heal(2).await.unwrap();
    let all = ["n1", "n2", "n3", "n4", "n5"];
    fleet.meets(&all).await;
    let named = until("one of the two gives way", async || {
        let view = view(&fleet, "n1").await?;
        let web: Vec<Option<String>> = view
            .iter()
            .map(|(_, name, ..)| name.clone())
            .filter(|name| name.as_deref().is_some_and(|name| name.starts_with("web")))
            .collect();
        let one = web.iter().filter(|name| name.as_deref() == Some("web")).count();
        holds(web.len() == 2 && one == 1, view.clone())?;
        Ok(view)
    })
    .await;
    assert_no_duplicates(&named);
    assert_no_duplicates(&one_view(&fleet, &all).await);
    fleet.all_reach(&all).await;
}
