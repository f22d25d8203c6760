//! Machines become a fleet: in any order, alone, by beacon and by address.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use epsilon_proto::address::DEFAULT_PORT;
use tokio::time::Instant;

use crate::support::{Fleet, until};

/// Makes a network offline, so that nobody is a member yet, and then starts
/// three daemons that join by its token, all within one second.
async fn three_at_once(order: [&'static str; 3]) {
    let Some(mut fleet) = Fleet::up([3]).await else { return };
    fleet.start("n1").await;
    let mut offline = String::from("--offline --root-key /etc/epsilon/root.key");
    for host in fleet.hosts() {
        write!(offline, " --advertise {}:{DEFAULT_PORT}", host.ipv4()).unwrap();
    }
    let token = fleet.node("n1").create(&offline).await;
    fleet.stop("n1").await;

    let begun = Instant::now();
    for name in order {
        fleet.launch(name);
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "started over {:?}", begun.elapsed());
    let join = async |name: &str| {
        fleet.answers(name).await;
        fleet.node(name).join(&token).await;
    };
    tokio::join!(join(order[0]), join(order[1]), join(order[2]));
    fleet.meets(&order).await;
    fleet.all_reach(&order).await;
    for name in order {
        until("all is well", async || fleet.node(name).is_well().await).await;
    }
}

macro_rules! orders {
    ($($test:ident: $order:expr;)*) => {
        $(
            #[tokio::test]
            async fn $test() {
                three_at_once($order).await;
            }
        )*
    };
}

orders! {
    three_started_at_once_in_the_order_1_2_3_are_a_full_mesh: ["n1", "n2", "n3"];
    three_started_at_once_in_the_order_1_3_2_are_a_full_mesh: ["n1", "n3", "n2"];
    three_started_at_once_in_the_order_2_1_3_are_a_full_mesh: ["n2", "n1", "n3"];
    three_started_at_once_in_the_order_2_3_1_are_a_full_mesh: ["n2", "n3", "n1"];
    three_started_at_once_in_the_order_3_1_2_are_a_full_mesh: ["n3", "n1", "n2"];
    three_started_at_once_in_the_order_3_2_1_are_a_full_mesh: ["n3", "n2", "n1"];
}

#[tokio::test]
async fn a_node_that_joins_alone_works_alone_and_the_second_joins_later() {
    let Some(mut fleet) = Fleet::up([2]).await else { return };
    fleet.start("n2").await;
    let offline = "--offline --root-key /etc/epsilon/root.key";
    let address = fleet.host("n1").unwrap().ipv4();
    let token =
        fleet.node("n2").create(&format!("{offline} --advertise {address}:{DEFAULT_PORT}")).await;

    fleet.start("n1").await;
    let begun = Instant::now();
    let ran = fleet.node("n1").run(&format!("mesh join {token}")).await.exits(0);
    assert!(ran.stderr.contains("works alone"), "{ran:?}");
    assert!(begun.elapsed() < Duration::from_secs(8), "joined after {:?}", begun.elapsed());

    let alone = fleet.node("n1").network().await.unwrap();
    assert_eq!(alone.node.name.as_deref(), Some("n1"));
    let own = alone.node.ipv4.unwrap().to_string();
    assert!(alone.interface.up && alone.node.ipv6.is_some(), "{alone:?}");
    assert_eq!((alone.members.total, alone.members.up), (1, 1));
    fleet.node("n1").echo(&own).await.unwrap();

    fleet.node("n2").join(&token).await;
    fleet.meets(&["n1", "n2"]).await;
    fleet.all_reach(&["n1", "n2"]).await;
    let later = until("n1 is well", async || fleet.node("n1").is_well().await).await;
    assert_eq!((later.node.ipv4, later.node.ipv6), (alone.node.ipv4, alone.node.ipv6));
    assert_eq!(later.node.name, alone.node.name);
}

/// A token that leads nowhere, and a network made by its holder.
async fn unreachable_token(fleet: &Fleet) -> String {
    fleet.node("n1").create("--advertise 192.0.2.1:7755").await
}

#[tokio::test]
async fn on_one_lan_a_token_without_a_useful_address_joins_by_the_beacon() {
    let Some(mut fleet) = Fleet::up([3]).await else { return };
    for name in ["n1", "n2", "n3"] {
        fleet.start(name).await;
    }
    let token = unreachable_token(&fleet).await;
    for name in ["n2", "n3"] {
        let ran = fleet.node(name).run(&format!("mesh join {token}")).await.exits(0);
        assert!(!ran.stderr.contains("works alone"), "{ran:?}");
    }
    fleet.meets(&["n1", "n2", "n3"]).await;
    fleet.all_reach(&["n1", "n2", "n3"]).await;
}

/// A LAN of one family, on which a token without a useful address leads to
/// the fleet.
async fn joins_by_beacon_where_only(is_there: impl Fn(&IpAddr) -> bool) {
    let Some(mut fleet) = Fleet::up([2]).await else { return };
    for host in fleet.hosts() {
        let netlink = host.netlink().unwrap();
        let eth0 = netlink.link("eth0").await.unwrap().index;
        for address in netlink.addresses().await.unwrap() {
            if address.interface == eth0 && !is_there(&address.prefix.address) {
                netlink.remove_address(eth0, address.prefix).await.unwrap();
            }
        }
    }
    for name in ["n1", "n2"] {
        fleet.start(name).await;
    }
    let token = unreachable_token(&fleet).await;
    let ran = fleet.node("n2").run(&format!("mesh join {token}")).await.exits(0);
    assert!(!ran.stderr.contains("works alone"), "{ran:?}");
    fleet.meets(&["n1", "n2"]).await;
    fleet.all_reach(&["n1", "n2"]).await;
    for (name, other) in [("n1", "n2"), ("n2", "n1")] {
        let peers = fleet.node(name).network().await.unwrap().peers;
        let underlay: Vec<_> = peers.iter().filter_map(|peer| peer.path.endpoint).collect();
        assert!(underlay.iter().all(|end| is_there(&end.ip())), "{name} to {other}: {peers:?}");
        assert_eq!(underlay.len(), 1, "{name} to {other}: {peers:?}");
    }
}

#[tokio::test]
async fn the_beacon_is_heard_where_there_is_only_ipv4() {
    joins_by_beacon_where_only(IpAddr::is_ipv4).await;
}

#[tokio::test]
async fn the_beacon_is_heard_where_there_is_only_ipv6() {
    joins_by_beacon_where_only(IpAddr::is_ipv6).await;
}

#[tokio::test]
async fn across_sites_the_addresses_in_the_token_lead_to_the_fleet() {
    let Some((fleet, _)) = Fleet::joined([1, 1]).await else { return };
    fleet.all_reach(&["n1", "n2"]).await;
}

#[tokio::test]
async fn across_sites_a_token_that_leads_nowhere_is_said_so_in_status() {
    let Some(mut fleet) = Fleet::up([1, 1]).await else { return };
    fleet.start("n1").await;
    fleet.start("n2").await;
    let token = unreachable_token(&fleet).await;
    let ran = fleet.node("n2").run(&format!("mesh join {token}")).await.exits(0);
    assert!(ran.stderr.contains("works alone"), "{ran:?}");
    let ran = fleet.node("n2").run("status").await.exits(5);
    assert!(ran.stdout.contains("no other member is reachable"), "{ran:?}");
    assert_eq!(fleet.node("n1").network().await.unwrap().members.total, 1);
}
