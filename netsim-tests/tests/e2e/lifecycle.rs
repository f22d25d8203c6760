//! Leaving, coming back, two networks at a time, and handing over.

use std::time::Duration;

use epsilon_proto::address::DEFAULT_PORT;

use crate::support::{Fleet, holds, until, within};

#[tokio::test]
async fn a_node_that_left_is_gone_everywhere_and_may_come_back_as_another() {
    let Some((fleet, token)) = Fleet::joined([3]).await else { return };
    let node = fleet.node("n3");
    let before = node.network().await.unwrap().node;
    let ran = node.run(&format!("mesh join {token}")).await.exits(0);
    assert!(ran.stdout.contains("Already in mesh as n3"), "{ran:?}");

    let ran = node.run("mesh leave").await.exits(0);
    assert!(!ran.stderr.contains("No other member heard of it"), "{ran:?}");
    node.is_untouched().await;
    for name in ["n1", "n2"] {
        let other = fleet.node(name);
        until("it is gone", async || {
            let nodes = other.nodes().await?.nodes;
            holds(nodes.iter().all(|node| node.id != before.id), nodes)
        })
        .await;
    }
    node.run("mesh leave").await.exits(4);

    node.join(&token).await;
    fleet.meets(&["n1", "n2", "n3"]).await;
    fleet.all_reach(&["n1", "n2", "n3"]).await;
    let after = node.network().await.unwrap().node;
    assert_ne!(after.id, before.id);
    assert_eq!(after.name.as_deref(), Some("n3"), "the name of who left is free");
}

#[tokio::test]
async fn one_daemon_serves_two_networks_with_ports_and_interfaces_of_their_own() {
    let Some((mut fleet, first)) = Fleet::joined([1]).await else { return };
    let node = fleet.node("n1");
    let other = "--name other --range 10.78.0.0/16";
    let refused = node.run("mesh create --name other").await.exits(1);
    assert!(refused.stderr.contains("overlaps that of network mesh"), "{refused:?}");
    let refused = node.run("mesh create --name other --range 10.77.128.0/17").await.exits(1);
    assert!(refused.stderr.contains("overlaps that of network mesh"), "{refused:?}");
    let second = node.create(other).await;

    fleet.lab.add_host(1).await.unwrap();
    fleet.start("n2").await;
    for token in [&first, &second] {
        fleet.node("n2").join(token).await;
    }
    for (name, target) in [("n1", "n2"), ("n2", "n1")] {
        let node = fleet.node(name);
        let networks = until("both networks work", async || {
            let networks = node.status().await?.networks;
            let well = networks.iter().filter(|network| network.members.up == 2).count();
            holds(well == 2, networks.clone())?;
            Ok(networks)
        })
        .await;
        let mut places: Vec<(u16, &str)> = networks
            .iter()
            .map(|network| (network.port, network.interface.name.as_str()))
            .collect();
        places.sort_unstable();
        assert_eq!(places, [(7755, "eps0"), (7756, "eps1")]);
        for network in fleet.node(target).status().await.unwrap().networks {
            for address in
                [network.node.ipv4.unwrap().to_string(), network.node.ipv6.unwrap().to_string()]
            {
                until(&format!("{target} answers in {}", network.network), async || {
                    node.echo(&address).await
                })
                .await;
            }
        }
    }
    let ran = node.run("peers").await.exits(2);
    assert!(ran.stderr.contains("mesh") && ran.stderr.contains("other"), "{ran:?}");
    node.run("peers --network other").await.ok();
    node.run("peers --network none").await.exits(4);

    fleet.restart("n1").await;
    until("both networks are back", async || {
        let networks = node.status().await?.networks;
        holds(networks.iter().filter(|network| network.members.up == 2).count() == 2, networks)
    })
    .await;
    node.run("mesh leave --network mesh").await.ok();
    let left = node.network().await.unwrap();
    assert_eq!((left.network.as_str(), left.interface.name.as_str()), ("other", "eps1"));
}

#[tokio::test]
async fn a_range_that_the_machine_uses_already_is_refused() {
    let Some(mut fleet) = Fleet::up([2]).await else { return };
    for name in ["n1", "n2"] {
        fleet.start(name).await;
    }
    let node = fleet.node("n1");
    let ran = node.run("mesh create --range 10.1.0.0/16").await.exits(1);
    assert!(ran.stderr.contains("10.1.0.0/24 on eth0"), "{ran:?}");
    node.is_untouched().await;
    // Nor may a token bring it in.
    let offline = "--offline --root-key /etc/epsilon/root.key --range 10.1.0.0/16";
    let token = fleet.node("n2").create(offline).await;
    node.refused(&token, 1, "10.1.0.0/24 on eth0").await;
}

#[tokio::test]
async fn a_member_becomes_an_admin_makes_tokens_and_stops_when_it_is_taken_back() {
    let Some((mut fleet, _)) = Fleet::joined([2]).await else { return };
    let (root, member) = (fleet.node("n1"), fleet.node("n2"));
    let refused = member.run("token create").await.exits(9);
    assert!(refused.stderr.contains("admin"), "{refused:?}");
    member.run("node revoke n1").await.exits(9);
    member.run("admin add n2").await.exits(9);
    root.run("admin add n2").await.ok();
    let token = until("n2 makes a token", async || {
        let ran = member.run("token create").await;
        ran.succeeded()?;
        Ok(ran.stdout.trim().to_owned())
    })
    .await;
    fleet.lab.add_host(1).await.unwrap();
    fleet.start("n3").await;
    fleet.node("n3").join(&token).await;
    fleet.meets(&["n1", "n2", "n3"]).await;

    root.run("admin revoke n2").await.ok();
    until("n2 is no admin any more", async || {
        let ran = member.run("token create").await;
        holds(ran.code == 9, ran)
    })
    .await;
    fleet.lab.add_host(1).await.unwrap();
    fleet.start("n4").await;
    fleet.node("n4").refused(&token, 1, "revoked").await;
    // Who had joined by it stays.
    fleet.all_reach(&["n1", "n2", "n3"]).await;
}

#[tokio::test]
async fn a_node_that_replaces_another_takes_over_its_addresses_and_its_name() {
    let Some((mut fleet, _)) = Fleet::joined([3]).await else { return };
    let old = fleet.node("n2").network().await.unwrap().node;
    fleet.kill("n2").await;
    fleet.node("n1").run("node replace n2 n3").await.ok();
    let (ipv4, ipv6) = (old.ipv4.unwrap().to_string(), old.ipv6.unwrap().to_string());
    let new = fleet.node("n3");
    until("n3 is n2 now", async || {
        let network = new.network().await?;
        holds(network.node.name == old.name && network.node.ipv4 == old.ipv4, network)
    })
    .await;
    for address in [ipv4, ipv6] {
        until(&format!("it answers at {address}"), async || fleet.node("n1").echo(&address).await)
            .await;
    }
    // Who was replaced is out, also when its machine comes back.
    fleet.start("n2").await;
    until("the old one knows", async || {
        let ran = fleet.node("n2").run("status").await;
        holds(ran.code == 5, ran)
    })
    .await;
    fleet.node("n1").echo(&old.ipv4.unwrap().to_string()).await.unwrap();
    fleet.restart("n3").await;
    fleet.meets(&["n1", "n3"]).await;
    let after = new.network().await.unwrap().node;
    assert_eq!((after.name, after.ipv4), (old.name, old.ipv4));
}

#[tokio::test]
async fn a_daemon_asked_to_end_does_so_within_two_seconds_and_its_peers_notice() {
    let Some((fleet, _)) = Fleet::joined([2]).await else { return };
    let daemon = fleet.daemon("n2");
    let ended = daemon.term(Duration::from_secs(2)).await.unwrap();
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    let node = fleet.node("n1");
    until("n1 sees it go", async || {
        let network = node.network().await?;
        holds(network.members.up == 1, network)
    })
    .await;
    let links = fleet.host("n2").unwrap().netlink().unwrap().links().await.unwrap();
    assert!(links.iter().any(|link| link.name == "eps0"), "the interface outlives the daemon");
    assert!(daemon.log().unwrap().contains("stopped"));
}

#[tokio::test]
async fn an_interface_that_somebody_removes_is_made_anew() {
    let Some((fleet, _)) = Fleet::joined([2]).await else { return };
    fleet.all_reach(&["n1", "n2"]).await;
    let node = fleet.node("n2");
    let netlink = fleet.host("n2").unwrap().netlink().unwrap();
    netlink.set_mtu("eps0", 1380).await.unwrap();
    until("its MTU is shown", async || {
        let mtu = node.network().await?.interface.mtu;
        holds(mtu == 1380, mtu)
    })
    .await;
    netlink.delete_link("eps0").await.unwrap();
    until("it is there again", async || {
        let links = netlink.links().await.unwrap();
        holds(links.iter().any(|link| link.name == "eps0" && link.up), links)?;
        node.is_well().await
    })
    .await;
    fleet.all_reach(&["n1", "n2"]).await;
}

#[tokio::test]
async fn a_port_that_another_program_has_is_said_so_and_nothing_is_left() {
    let Some(mut fleet) = Fleet::up([1]).await else { return };
    fleet.start("n1").await;
    let host = fleet.host("n1").unwrap();
    let node = fleet.node("n1");
    let taken = within(host, || std::net::UdpSocket::bind(("::", DEFAULT_PORT)).unwrap());
    node.run("mesh create").await.exits(1).says(&DEFAULT_PORT.to_string());
    node.is_untouched().await;
    drop(taken);
    let taken = within(host, || std::net::TcpListener::bind(("::", DEFAULT_PORT)).unwrap());
    node.run("mesh create").await.exits(1).says(&DEFAULT_PORT.to_string());
    node.is_untouched().await;
    drop(taken);
    node.create("").await;
}

#[tokio::test]
async fn systemd_is_told_when_the_daemon_is_ready_and_when_it_stops_and_logs_can_be_json() {
    use std::os::unix::net::UnixDatagram;

    let Some(mut fleet) = Fleet::up([1]).await else { return };
    let node = fleet.node("n1");
    node.shell("printf '[log]\\nformat = \"json\"\\n' > /etc/epsilon/meshd.toml").await.ok();
    let systemd = UnixDatagram::bind(format!("/proc/{}/root/run/notify", node.host.pid())).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let heard = || {
        let mut buffer = [0; 512];
        let length = systemd.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    fleet.launch_with("n1", &[("NOTIFY_SOCKET", "/run/notify".to_owned())]);
    assert!(heard().contains("READY=1"));
    // Ready means that it answers.
    node.run("status").await.exits(4);
    fleet.stop("n1").await;
    assert!(heard().contains("STOPPING=1"));
    let log = fleet.daemon("n1").log().unwrap();
    let lines: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|line| line["fields"]["message"] == "ready"), "{log}");
}
