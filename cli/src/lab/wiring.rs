//! Cables: what connects hosts to their site and sites to one another.
//!
//! ```text
//!  host n1        gateway gw1                    switch "internet"
//!  eth0 ────── n1 ┐                              ┌ site1 ──┐
//!  host n2        ├ lan (bridge)   wan ──────────┘         ix (bridge)
//!  eth0 ────── n2 ┘  10.1.0.1      198.18.0.1      site2 ──┘
//! ```
//!
//! Every end that a person may want to pull is a port without addresses, so
//! that putting it back needs nothing but switching it on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use epsilon_sys::netlink::{self, Netlink, Prefix, Veth};

use super::Error;
use super::machine::Machine;
use super::plan::{self, Pair};

const SWITCH: &str = "ix";
const LAN: &str = "lan";
const WAN: &str = "wan";
const ETHERNET: &str = "eth0";

/// Prepares the switch between the sites.
pub(super) async fn switch(internet: &Machine) -> Result<(), Error> {
    let netlink = internet.netlink()?;
    let wire = async {
        netlink.set_up("lo").await?;
        netlink.add_bridge(SWITCH).await
    };
    wire.await.map_err(Error::network(internet.name()))
}

/// Connects the gateway of `site` to the switch, and lets it and the gateways
/// in `others` know the way to each other's sites.
pub(super) async fn gateway(
    internet: &Machine,
    gateway: &Machine,
    site: u8,
    others: &[(u8, &Machine)],
) -> Result<(), Error> {
    plug_in(internet, SWITCH, &site_port(site), gateway, WAN).await?;
    let netlink = gateway.netlink()?;
    let wire = async {
        netlink.set_up("lo").await?;
        netlink.add_bridge(LAN).await?;
        netlink.set_hardware_address(LAN, plan::bridge(site)).await?;
        add_addresses(&netlink, LAN, plan::gateway(site)).await?;
        add_addresses(&netlink, WAN, plan::uplink(site)).await
    };
    wire.await.map_err(Error::network(gateway.name()))?;
    for (other, machine) in others {
        routes(gateway, *other).await?;
        routes(machine, site).await?;
    }
    Ok(())
}

/// Connects a host to its site.
pub(super) async fn host(
    gateway: &Machine,
    host: &Machine,
    site: u8,
    number: u8,
) -> Result<(), Error> {
    plug_in(gateway, LAN, host.name(), host, ETHERNET).await?;
    let netlink = host.netlink()?;
    let wire = async {
        netlink.set_up("lo").await?;
        add_addresses(&netlink, ETHERNET, plan::host(site, number)).await?;
        let everything: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        for (everything, gateway) in everything.into_iter().zip(plan::gateway(site).addresses()) {
            let destination = Prefix::new(everything, 0);
            netlink.add_route(ETHERNET, destination, Some(gateway)).await?;
        }
        Ok(())
    };
    wire.await.map_err(Error::network(host.name()))
}

/// Pulls the cable of a host, or puts it back.
pub(super) async fn set_host_plugged(
    gateway: &Machine,
    host: &str,
    plugged: bool,
) -> Result<(), Error> {
    set_port(gateway, host, plugged).await
}

/// Takes the cable of a host away.
///
/// It would go with the host, but only when the kernel gets round to it, and
/// then a new host of that name might find its port taken.
pub(super) async fn unplug_for_good(gateway: &Machine, host: &str) -> Result<(), Error> {
    let netlink = gateway.netlink()?;
    netlink.delete_link(host).await.map_err(Error::network(gateway.name()))
}

/// Pulls the cable between a site and the others, or puts it back.
pub(super) async fn set_site_plugged(
    internet: &Machine,
    site: u8,
    plugged: bool,
) -> Result<(), Error> {
    set_port(internet, &site_port(site), plugged).await
}

async fn set_port(switch: &Machine, port: &str, plugged: bool) -> Result<(), Error> {
    let netlink = switch.netlink()?;
    let done = if plugged { netlink.set_up(port).await } else { netlink.set_down(port).await };
    done.map_err(Error::network(switch.name()))
}

fn site_port(site: u8) -> String {
    format!("site{site}")
}

/// Lays a cable from a port of a bridge to an interface of another machine.
async fn plug_in(
    switch: &Machine,
    bridge: &str,
    port: &str,
    machine: &Machine,
    interface: &str,
) -> Result<(), Error> {
    let namespace = machine.init().network_namespace()?;
    let near = switch.netlink()?;
    let lay = async {
        let peer_namespace = Some(namespace.as_fd());
        near.add_veth(Veth { name: port, peer: interface, peer_namespace }).await?;
        near.attach(port, bridge).await?;
        near.set_up(port).await
    };
    lay.await.map_err(Error::network(switch.name()))?;
    let far = machine.netlink()?;
    far.set_up(interface).await.map_err(Error::network(machine.name()))
}

async fn add_addresses(
    netlink: &Netlink,
    interface: &str,
    pair: Pair,
) -> Result<(), netlink::Error> {
    for prefix in pair.prefixes() {
        netlink.add_address(interface, prefix).await?;
    }
    Ok(())
}

/// Lets `gateway` know the way to `site`.
async fn routes(gateway: &Machine, site: u8) -> Result<(), Error> {
    let netlink = gateway.netlink()?;
    let lans = plan::gateway(site).prefixes();
    for (lan, hop) in lans.into_iter().zip(plan::uplink(site).addresses()) {
        netlink.add_route(WAN, lan, Some(hop)).await.map_err(Error::network(gateway.name()))?;
    }
    Ok(())
}
