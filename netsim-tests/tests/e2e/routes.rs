//! Networks beyond the mesh.

use std::time::{Duration, Instant};

use epsilon_proto::api::{Route, RouteList};

use crate::support::{Fleet, Node, Stream, holds, until};

/// From the death of one router to the first answer by the other.
const OTHER_ROUTER: Duration = Duration::from_secs(5);

async fn routes(node: &Node) -> Result<RouteList, String> {
    let ran = node.run("-o json routes list").await;
    serde_json::from_str(&ran.stdout).map_err(|error| format!("{error}: {ran:?}"))
}

async fn route(node: &Node, prefix: &str) -> Result<Route, String> {
    let list = routes(node).await?;
    let found = list.routes.iter().find(|route| route.prefix == prefix).cloned();
    found.ok_or_else(|| format!("{list:?}"))
}

fn via(route: &Route) -> Option<&str> {
    route.via.as_ref()?.name.as_deref()
}

/// One member that everybody reaches, `n1`; `n2` and `n4` behind one NAT with the host `n5`
/// that is no member; `n3` behind another with the same private network.
async fn with_routers() -> Option<Fleet> {
    let gateways = ["port-restricted", "port-restricted"];
    let (mut fleet, token) = Fleet::joined_behind([1], &gateways).await?;
    for _ in 0..2 {
        fleet.lab.add_host(2).await.unwrap();
    }
    fleet.start("n4").await;
    fleet.node("n4").join(&token).await;
    fleet.meets(&["n1", "n4"]).await;
    Some(fleet)
}

const HOME: &str = "192.168.1.0/24";

#[tokio::test]
async fn a_network_behind_members_is_reached_by_one_of_them_and_then_by_the_other() {
    let Some(mut fleet) = with_routers().await else { return };
    let outside = fleet.node("n1");
    let printer = fleet.host("n5").unwrap().ipv4().to_string();
    fleet.node("n2").run(&format!("routes advertise {HOME}")).await.ok();
    until("n1 knows of the network", async || route(&outside, HOME).await).await;
    assert!(outside.echo(&printer).await.is_err(), "without being accepted");
    // Where the network is another one, it stays what it is.
    let elsewhere = fleet.node("n3");
    let refused = elsewhere.run(&format!("routes accept {HOME}")).await.exits(2);
    refused.says("192.168.1.0/24 on eth0").says("renumber");
    elsewhere.run("routes accept all").await.exits(0).says("goes first");
    let gateway = "192.168.1.1";
    elsewhere.echo(gateway).await.unwrap();

    // Whoever is trusted with it may be named.
    outside.run(&format!("routes accept {HOME} --from n3")).await.ok();
    outside.run("routes list").await.exits(0).says("Accepted: 192.168.1.0/24 from n3.");
    assert!(outside.echo(&printer).await.is_err(), "n3 does not lead there");
    outside.run(&format!("routes accept {HOME}")).await.ok();
    until("n1 reaches the printer", async || outside.echo(&printer).await).await;
    let (from, to) = (fleet.host("n1").unwrap(), fleet.host("n5").unwrap());
    let stream = Stream::open(from, to, to.ipv4().into());
    // A connection outlives daemons on both ends.
    for name in ["n2", "n1"] {
        fleet.restart(name).await;
        stream.flows().await;
    }
    fleet.node("n4").run(&format!("routes advertise {HOME}")).await.ok();
    let both = async || {
        let route = route(&outside, HOME).await?;
        holds(route.providers.len() == 2 && via(&route) == Some("n2"), route)
    };
    until("n1 knows both routers, and stays with the first", both).await;
    // Also over its own restart.
    fleet.restart("n1").await;
    fleet.meets(&["n1", "n2", "n4"]).await;
    stream.flows().await;
    both().await.unwrap();
    stream.close();

    until("packets flow", async || outside.echo(&printer).await).await;
    fleet.unplug("n2").await.unwrap();
    let died = Instant::now();
    until("the other one leads there", async || outside.echo(&printer).await).await;
    let outage = died.elapsed();
    println!("a router is gone: {outage:?}");
    assert!(outage <= OTHER_ROUTER, "a router is gone: {outage:?}");
    let route_now = route(&outside, HOME).await.unwrap();
    assert_eq!(via(&route_now), Some("n4"));

    fleet.node("n4").run(&format!("routes withdraw {HOME}")).await.ok();
    let rules = fleet.node("n4").shell("nft list tables").await.ok();
    assert!(!rules.contains("epsilon"), "{rules}");
    outside.run(&format!("routes reject {HOME}")).await.ok();
    let left = outside.shell("ip rule; ip -6 rule; ip route show table all").await.ok();
    for ours in ["7755", "8755", "suppress", "0x55"] {
        assert!(!left.contains(ours), "{left}");
    }
}

/// An address that is reached from nowhere but from `n2`.
const BEYOND: &str = "203.0.113.7";

/// Gives a host a network behind it, and one host there.
async fn attach(node: &Node) {
    let line = format!(
        "set -e; ip link add pub0 type veth peer name pub1; ip addr add 203.0.113.1/24 dev pub0; \
         ip link set pub0 up; ip netns add beyond; ip link set pub1 netns beyond; \
         ip netns exec beyond ip addr add {BEYOND}/24 dev pub1; \
         ip netns exec beyond ip link set pub1 up"
    );
    node.shell(&line).await.ok();
}

#[tokio::test]
async fn an_exit_leads_everywhere_and_whoever_is_connected_from_outside_stays() {
    let Some((fleet, _)) = Fleet::joined([1, 1, 1]).await else { return };
    let (user, exit) = (fleet.node("n1"), fleet.node("n2"));
    attach(&exit).await;
    user.run("exit use n2").await.exits(1).says("exit offer");
    exit.run("exit offer").await.ok();
    until("n1 knows the exit", async || {
        let list = routes(&user).await?;
        holds(list.exit.offers.len() == 1, list)
    })
    .await;
    assert!(user.echo(BEYOND).await.is_err(), "before the exit is used");
    // Somebody is logged in from afar, where only the default route leads.
    let (guest, host) = (fleet.host("n3").unwrap(), fleet.host("n1").unwrap());
    let session = Stream::open(guest, host, host.ipv4().into());
    session.flows().await;

    user.run("exit use n2").await.ok();
    until("n1 reaches what is beyond", async || user.echo(BEYOND).await).await;
    session.flows().await;
    // Members are reached as before, and so is who is near.
    fleet.all_reach(&["n1", "n2", "n3"]).await;
    user.echo("10.1.0.1").await.unwrap();
    // What is not public goes as ever, and so does what the host passes on: it may be the
    // answer of a container to whoever came from outside.
    let line = "set -e; ip link add pod0 type veth peer name pod1; ip link set pod0 up; \
                ip link set pod1 up; ip addr add 172.17.0.1/16 dev pod0; \
                echo 1 > /proc/sys/net/ipv4/ip_forward";
    user.shell(line).await.ok();
    let way = async |query: &str| user.shell(&format!("ip route get {query}")).await.ok();
    assert!(way("203.0.113.7").await.contains("dev eps0"));
    for query in ["169.254.169.254", "10.99.0.1", "203.0.113.7 from 172.17.0.2 iif pod0"] {
        let way = way(query).await;
        assert!(way.contains("dev eth0"), "{query}: {way}");
    }
    // Routes that went with the interface come back.
    user.shell("ip link set eps0 down; ip link set eps0 up").await.ok();
    until("routes are back", async || {
        let way = way(BEYOND).await;
        holds(way.contains("dev eps0"), way)
    })
    .await;

    // Nothing leaves otherwise while the exit is gone.
    fleet.kill("n2").await;
    assert!(user.echo(BEYOND).await.is_err());
    let now = way(BEYOND).await;
    assert!(now.contains("dev eps0"), "{now}");
    session.flows().await;
    until("it is said that the exit is down", async || {
        let ran = user.run("exit list").await;
        holds(ran.code == 5 && ran.stderr.contains("down"), ran)
    })
    .await;
    // Without the daemon the host has its own way out.
    fleet.stop("n1").await;
    let now = way(BEYOND).await;
    assert!(now.contains("dev eth0"), "{now}");
    let travelled = session.close();
    assert!(travelled.numbers > 100, "{travelled:?}");
}
