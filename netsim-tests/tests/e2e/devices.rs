//! Devices: stock WireGuard (wireguard-go and wg-quick, as Debian has them) on a
//! host without the daemon, with the configuration that `epsilon` printed.

use std::net::IpAddr;
use std::time::Duration;

use epsilon_proto::api::{Device, DeviceAdded, DeviceList};

use crate::dataplane::transfer;
use crate::support::{Fleet, Node, holds, until};

/// A host that runs WireGuard and nothing of ours.
struct Phone {
    node: Node,
}

impl Phone {
    /// Connects as this configuration says.
    async fn up(&self, name: &str, config: &str) {
        let path = format!("/run/{name}.conf");
        let write = format!("umask 077; cat > {path} <<'END'\n{config}END");
        self.node.shell(&write).await.ok();
        self.node.shell(&format!("wg-quick up {path} 2>&1")).await.ok();
    }

    async fn down(&self, name: &str) {
        self.node.shell(&format!("wg-quick down /run/{name}.conf 2>&1")).await.ok();
    }

    async fn reaches(&self, address: &str) {
        until(&format!("the device reaches {address}"), async || self.node.echo(address).await)
            .await;
    }
}

async fn devices(node: &Node) -> Result<Vec<Device>, String> {
    let ran = node.run("-o json device list").await;
    let list: Result<DeviceList, _> = serde_json::from_str(&ran.stdout);
    list.map(|list| list.devices).map_err(|error| format!("{error}: {ran:?}"))
}

/// Waits until a node says that the only device is served by another, which
/// must have the right name.
async fn serves(asked: &Node, server: &str) -> Device {
    until(&format!("{server} serves the device"), async || {
        let devices = devices(asked).await?;
        match &devices[..] {
            [device] if device.server.name.as_deref() == Some(server) => Ok(device.clone()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

async fn add(node: &Node, arguments: &str) -> DeviceAdded {
    let added = node.run(&format!("-o json device add {arguments}")).await.ok();
    serde_json::from_str(&added).unwrap()
}

async fn addresses(node: &Node) -> [String; 2] {
    let own = node.network().await.unwrap().node;
    [own.ipv4.unwrap().to_string(), own.ipv6.unwrap().to_string()]
}

/// Two members, and a third host for the device.
async fn two_members_and_a_phone() -> Option<(Fleet, Phone)> {
    let mut fleet = Fleet::up([3]).await?;
    for name in ["n1", "n2"] {
        fleet.start(name).await;
    }
    let token = fleet.node("n1").create("--name home").await;
    fleet.node("n2").join(&token).await;
    fleet.meets(&["n1", "n2"]).await;
    let phone = Phone { node: fleet.node("n3") };
    Some((fleet, phone))
}

#[tokio::test]
async fn a_device_with_the_printed_configuration_is_in_the_mesh_until_it_is_removed() {
    let Some((mut fleet, phone)) = two_members_and_a_phone().await else { return };
    let (first, second) = (fleet.node("n1"), fleet.node("n2"));
    let ran = first.run("device add phone").await.exits(0).says("private key is not kept");
    assert!(ran.stdout.starts_with("# phone in home, by n1\n[Interface]\n"), "{ran:?}");
    phone.up("phone", &ran.stdout).await;
    for node in [&first, &second] {
        for address in addresses(node).await {
            phone.reaches(&address).await;
        }
    }
    let device = serves(&second, "n1").await;
    assert_eq!((device.name.as_deref(), device.served_here), (Some("phone"), false));
    let own = [device.ipv4.unwrap().to_string(), device.ipv6.to_string()];
    for node in [&first, &second] {
        for address in &own {
            until("the device is reached", async || node.echo(address).await).await;
        }
    }
    let underlay = Some(phone.node.host.ipv4().into());
    until("its server shows where it is", async || {
        let seen = serves(&first, "n1").await;
        let is_shown = seen.last_handshake.is_some() && seen.rx_bytes > 0 && seen.tx_bytes > 0;
        holds(is_shown && seen.endpoint.map(|at| at.ip()) == underlay, seen)
    })
    .await;
    let table = first.run("device list").await.ok();
    assert!(table.contains("phone") && table.contains(&own[0]), "{table}");

    // Bulk both ways, through the member that forwards.
    let member: IpAddr = addresses(&second).await[0].parse().unwrap();
    let length = Duration::from_millis(500);
    for arrived in [
        transfer(&phone.node.host, &second.host, member, length),
        transfer(&second.host, &phone.node.host, device.ipv4.unwrap().into(), length),
    ] {
        assert!(arrived > 1_000_000, "{arrived}");
    }

    // The owner's daemon starts again: the device has to do nothing.
    fleet.restart("n1").await;
    fleet.meets(&["n1", "n2"]).await;
    phone.reaches(&addresses(&second).await[0]).await;

    first.run("device remove phone").await.ok();
    until("the device is cut off", async || {
        let gone = phone.node.echo(&addresses(&second).await[0]).await.is_err();
        holds(gone && devices(&second).await?.is_empty(), devices(&second).await)
    })
    .await;
    assert!(phone.node.echo(&addresses(&first).await[0]).await.is_err());
    first.run("device remove phone").await.exits(1).says("epsilon device list");
    // The name is free again.
    first.run("device add phone --qr").await.ok();
}

#[tokio::test]
async fn a_device_moves_to_its_fallback_and_back_and_the_fleet_follows() {
    let Some((mut fleet, phone)) = two_members_and_a_phone().await else { return };
    let (first, second) = (fleet.node("n1"), fleet.node("n2"));
    let added = add(&first, "phone --fallback n2").await;
    let [by_owner, by_fallback] = &added.configs[..] else { panic!("{added:?}") };
    assert_eq!(by_fallback.server.name.as_deref(), Some("n2"));
    let address = added.device.ipv4.unwrap().to_string();
    phone.up("owner", by_owner.config.expose()).await;
    phone.reaches(&addresses(&second).await[0]).await;
    serves(&second, "n1").await;
    phone.down("owner").await;

    phone.up("fallback", by_fallback.config.expose()).await;
    phone.reaches(&addresses(&first).await[0]).await;
    serves(&first, "n2").await;
    until("n1 reaches the device by n2", async || first.echo(&address).await).await;
    // Its owner is not needed for that.
    fleet.kill("n1").await;
    phone.reaches(&addresses(&second).await[0]).await;
    until("n2 reaches the device", async || second.echo(&address).await).await;
    phone.down("fallback").await;

    fleet.start("n1").await;
    fleet.meets(&["n1", "n2"]).await;
    phone.up("owner", by_owner.config.expose()).await;
    phone.reaches(&addresses(&second).await[1]).await;
    serves(&second, "n1").await;
    let events = second.run("events").await.ok();
    assert!(events.contains("is served by n1"), "{events}");
}

#[tokio::test]
async fn a_device_keeps_its_own_key_and_what_cannot_be_is_refused_with_a_reason() {
    let Some((fleet, phone)) = two_members_and_a_phone().await else { return };
    let (first, second) = (fleet.node("n1"), fleet.node("n2"));
    phone.node.shell("umask 077; wg genkey > /run/key").await.ok();
    let key = phone.node.shell("wg pubkey < /run/key").await.ok();
    let key = key.trim();
    let private = phone.node.shell("cat /run/key").await.ok();
    let ran = second
        .run(&format!("device add tablet --public-key {key} --endpoint n2.example:7755"))
        .await
        .exits(0)
        .says("not known here");
    let there = format!("{}:7755", second.host.ipv4());
    assert!(ran.stdout.contains("Endpoint = n2.example:7755\n"), "{ran:?}");
    let config = ran.stdout.replace("(the device's own)", private.trim());
    phone.up("tablet", &config.replace("n2.example:7755", &there)).await;
    phone.reaches(&addresses(&first).await[0]).await;

    let other = phone.node.shell("wg genkey | wg pubkey").await.ok();
    let other = other.trim();
    for (arguments, code, reason) in [
        ("tablet".to_owned(), 1, "belongs to another node or device"),
        ("n1".to_owned(), 1, "belongs to another node or device"),
        ("Bad_Name".to_owned(), 2, "RFC 1123"),
        ("tv --public-key nonsense".to_owned(), 2, "wg pubkey"),
        (format!("tv --public-key {}=", "A".repeat(43)), 1, "not a usable WireGuard key"),
        (format!("tv --public-key {other} --qr"), 2, "cannot be used with"),
        ("tv --fallback nobody".to_owned(), 1, "epsilon node list"),
        ("tv --endpoint nonsense".to_owned(), 2, "nonsense"),
    ] {
        first.run(&format!("device add {arguments}")).await.exits(code).says(reason);
    }
    let again = format!("device add tv --public-key {key}");
    second.run(&again).await.exits(1).says("the key belongs to");
    assert_eq!(devices(&first).await.unwrap().len(), 1);
    first.run("ping tablet -c 1").await.exits(2).says("is a device");

    // Another's device: only an admin's node may revoke it, and for good.
    first.run("device add phone").await.ok();
    until("n2 knows the phone", async || {
        let known = devices(&second).await?;
        holds(known.len() == 2, known)
    })
    .await;
    second.run("device remove phone").await.exits(9).says("belongs to n1");
    first.run("device remove tablet").await.ok();
    until("the device is cut off", async || {
        let gone = phone.node.echo(&addresses(&second).await[0]).await.is_err();
        holds(gone, devices(&second).await)
    })
    .await;
    second.run(&format!("device add tablet --public-key {key}")).await.exits(1).says("revoked");
    // The name is free, and so is the key for another owner.
    second.run("device add tablet").await.ok();
    first.run(&format!("device add other --public-key {key}")).await.ok();
}
