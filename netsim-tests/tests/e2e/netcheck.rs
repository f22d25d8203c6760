//! What a machine finds out about how it is connected.

use epsilon_proto::api::{Filtering, Mapping, Netcheck, Udp};

use crate::support::{Fleet, holds, until};

pub(crate) async fn netcheck(fleet: &Fleet, name: &str) -> Result<Netcheck, String> {
    let ran = fleet.node(name).run("-o json netcheck").await;
    serde_json::from_str(&ran.stdout).map_err(|error| format!("{error}: {ran:?}"))
}

/// Two that everybody reaches, and one behind each kind.
const GATEWAYS: [&str; 5] =
    ["port-restricted", "symmetric", "udp-blocked", "none+mtu=1400", "ipv6-only"];

#[tokio::test]
async fn every_kind_of_connection_is_told_from_the_others() {
    let Some((fleet, _)) = Fleet::joined_behind([1, 1], &GATEWAYS).await else { return };
    let finds = async |name: &str, wanted: (Udp, Mapping), says: &str| {
        until(&format!("{name} finds out: {wanted:?}"), async || {
            let check = netcheck(&fleet, name).await?;
            holds((check.udp, check.mapping) == wanted && check.meaning.contains(says), &check)?;
            Ok(check)
        })
        .await
    };
    let open = finds("n1", (Udp::Works, Mapping::None), "pass on").await;
    assert!(open.open && open.advice.is_none(), "{open:?}");
    assert_eq!(open.filtering, Filtering::EndpointIndependent);
    assert!(open.ipv6.seen_as.len() == 1 && open.ipv4.seen_as.len() == 1, "{open:?}");
    let kept = finds("n3", (Udp::Works, Mapping::EndpointIndependent), "keeps one port").await;
    assert!(!kept.open && kept.advice.is_some_and(|advice| advice.contains("forward")));
    assert!(kept.ipv6.addresses.is_empty(), "{:?}", kept.ipv6);
    let reached: Vec<_> = kept.hubs.iter().filter(|hub| hub.open && hub.rtt_us.is_some()).collect();
    assert!(reached.len() >= 2, "{:?}", kept.hubs);
    let random = finds("n4", (Udp::Works, Mapping::EndpointDependent), "another port").await;
    assert!(random.ipv4.seen_as.len() >= 2, "{random:?}");
    let blocked = finds("n5", (Udp::Blocked, Mapping::Unknown), "TLS").await;
    assert!(blocked.advice.is_some_and(|advice| advice.contains("UDP")));
    finds("n7", (Udp::Works, Mapping::Unknown), "").await;

    // What a person sees.
    let shown = fleet.node("n4").run("netcheck").await.ok();
    for line in ["UDP          works", "NAT mapping  endpoint-dependent", "To improve it: forward"]
    {
        assert!(shown.contains(line), "{shown}");
    }
    let narrow = fleet.node("n6");
    let address = fleet.node("n1").network().await.unwrap().node.ipv4.unwrap();
    until("n6 finds its way narrow", async || {
        narrow.execute("ping", &format!("-c 3 -i 0.2 -s 1392 -W 1 {address}")).await;
        let check = netcheck(&fleet, "n6").await?;
        holds(check.mtu.is_some_and(|mtu| mtu < 1400), check)
    })
    .await;
}

#[tokio::test]
async fn pinging_until_direct_ends_with_a_direct_path_or_says_that_there_is_none() {
    let gateways = ["port-restricted", "port-restricted", "symmetric"];
    let Some((fleet, _)) = Fleet::joined_behind([1], &gateways).await else { return };
    let ran = fleet.node("n2").run("ping n3 --until-direct --interval 200ms").await.exits(0);
    let last = ran.stdout.lines().rfind(|line| line.starts_with("answer")).unwrap();
    assert!(last.contains("path=direct"), "{}", ran.stdout);
    let ran = fleet.node("n2").run("ping n4 --until-direct -c 10 --interval 200ms").await.exits(8);
    assert!(ran.stdout.contains("10 sent"), "{}", ran.stdout);
}
