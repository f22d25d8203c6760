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

use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::process::Stdio;
use std::sync::Arc;

use epsilon_sys::namespace;
use epsilon_sys::netlink::{self, Netlink, Prefix, Veth};

use super::Error;
use super::link::carry::{FAR, NEAR};
use super::machine::Machine;
use super::nat::{self, Mapped};
use super::plan::{self, Lan, MOST_HOSTS, Pair};
use super::spec::{Families, Gateway};

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

/// A site as it is wired: its machines, from inside to outside.
#[derive(Debug, Clone)]
pub(super) struct Wired {
    pub(super) site: u8,
    pub(super) gateway: Gateway,
    pub(super) machines: Vec<Arc<Machine>>,
}

impl Wired {
    pub(super) fn lan(&self) -> Lan {
        Lan { site: self.site, is_private: !self.gateway.nats.is_empty() }
    }

    /// The one to which the hosts are connected.
    pub(super) fn inner(&self) -> &Machine {
        &self.machines[0]
    }

    fn outer(&self) -> &Machine {
        &self.machines[self.machines.len() - 1]
    }

    /// The addresses of a machine towards the next one.
    fn wan(&self, layer: usize) -> Pair {
        if layer + 1 == self.machines.len() {
            plan::uplink(self.site)
        } else {
            plan::between(layer as u8 + 1, false)
        }
    }

    /// The networks that others reach.
    fn routed(&self) -> impl Iterator<Item = Prefix> {
        let Gateway { nats, families, .. } = &self.gateway;
        let is_routed = nats.is_empty();
        let lan = self.lan().gateway().of(*families);
        lan.filter(move |prefix| is_routed || prefix.address().is_ipv6())
    }
}

/// Connects the gateway of a site to the switch, and lets it and the gateways
/// in `others` know the way to each other's sites.
pub(super) async fn gateway<'a>(
    internet: &Machine,
    wired: &Wired,
    reboots: u32,
    others: impl Iterator<Item = &'a Wired>,
) -> Result<(), Error> {
    let families = wired.gateway.families;
    let last = wired.machines.len() - 1;
    plug_in(internet, SWITCH, &site_port(wired.site), wired.outer(), WAN).await?;
    for (layer, machine) in wired.machines.iter().enumerate() {
        let netlink = machine.netlink()?;
        let lan = match layer {
            0 => wired.lan().gateway(),
            _ => plan::between(layer as u8, true),
        };
        let wire = async {
            netlink.set_up("lo").await?;
            netlink.add_bridge(LAN).await?;
            netlink.set_hardware_address(LAN, plan::bridge(wired.site)).await?;
            add_addresses(&netlink, LAN, lan.of(families)).await
        };
        wire.await.map_err(Error::network(machine.name()))?;
        if layer > 0 {
            let inner = &wired.machines[layer - 1];
            plug_in(machine, LAN, inner.name(), inner, WAN).await?;
        }
    }
    for (layer, machine) in wired.machines.iter().enumerate() {
        let netlink = machine.netlink()?;
        let wire = async {
            add_addresses(&netlink, WAN, wired.wan(layer).of(families)).await?;
            if layer < last {
                let outwards = IpAddr::from(plan::between(layer as u8 + 1, true).v4);
                let everything = Prefix::new(Ipv4Addr::UNSPECIFIED, 0);
                netlink.add_route(WAN, everything, Some(outwards)).await?;
            }
            Ok(())
        };
        wire.await.map_err(Error::network(machine.name()))?;
    }
    if let Some(mtu) = wired.gateway.mtu {
        let narrow = wired.outer();
        let netlink = narrow.netlink()?;
        for interface in [WAN, LAN] {
            let set = netlink.set_mtu(interface, mtu).await;
            set.map_err(Error::network(narrow.name()))?;
        }
        filter(narrow, &nat::silence()).await?;
    }
    translate(wired, reboots).await?;
    for other in others {
        routes(wired, other).await?;
        routes(other, wired).await?;
    }
    Ok(())
}

/// Gives the machines of a site their rules, as new: what they knew of connections
/// is gone, and ports are others than at the start before.
pub(super) async fn translate(wired: &Wired, reboots: u32) -> Result<(), Error> {
    for (layer, nat) in wired.gateway.nats.iter().enumerate() {
        let machine = &wired.machines[layer];
        let mapped: Vec<Mapped> = (1..=MOST_HOSTS)
            .map(|host| {
                let outside = nat::outside(host, reboots);
                let (address, port) = match layer {
                    0 => (wired.lan().host(host).v4, plan::MESH_PORT),
                    _ => (plan::between(layer as u8, false).v4, outside),
                };
                Mapped { address, port, outside }
            })
            .collect();
        filter(machine, &nat::rules(*nat, wired.wan(layer).v4, &mapped)).await?;
        for timeout in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
            let line = format!("echo {} > /proc/sys/net/netfilter/{timeout}", nat.lasts);
            run(machine, "sh", &["-c", &line], "").await?;
        }
        netlink::forget_connections(machine.init().network_namespace()?.as_fd())
            .map_err(Error::io("forget connections in", machine.name().as_ref()))?;
    }
    if !wired.gateway.is_open() && wired.gateway.families != Families::V4 {
        filter(wired.inner(), &nat::firewall()).await?;
    }
    Ok(())
}

/// Gives a machine rules of nftables.
async fn filter(machine: &Machine, rules: &str) -> Result<(), Error> {
    run(machine, "nft", &["-f", "-"], rules).await
}

async fn run(
    machine: &Machine,
    program: &str,
    arguments: &[&str],
    input: &str,
) -> Result<(), Error> {
    let mut command = machine.command(program)?;
    command.args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| match error {
        namespace::Error::Execute { source, .. }
            if program == "nft" && source.kind() == io::ErrorKind::NotFound =>
        {
            Error::Spec(
                "there is no nft here, of which NATs and cuts are made; install it, on Debian or \
                 Ubuntu with: sudo apt-get install nftables"
                    .to_owned(),
            )
        }
        error => error.into(),
    })?;
    machine.adopt(&child.process);
    if let Some(mut stdin) = child.stdin.take() {
        // What it does not read it does not need, and it says why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.output().await?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let reason = format!("{program}: {}", said.lines().next().unwrap_or("failed in silence"));
    Err(Error::Start { host: machine.name().to_owned(), reason })
}

/// Connects a host to its site.
pub(super) async fn host(wired: &Wired, host: &Machine, number: u8) -> Result<(), Error> {
    plug_in(wired.inner(), LAN, host.name(), host, ETHERNET).await?;
    let (lan, families) = (wired.lan(), wired.gateway.families);
    let netlink = host.netlink()?;
    let wire = async {
        netlink.set_up("lo").await?;
        add_addresses(&netlink, ETHERNET, lan.host(number).of(families)).await?;
        let everything: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        for (everything, gateway) in everything.into_iter().zip(lan.gateway().addresses()) {
            if families.has(gateway) {
                let destination = Prefix::new(everything, 0);
                netlink.add_route(ETHERNET, destination, Some(gateway)).await?;
            }
        }
        Ok(())
    };
    wire.await.map_err(Error::network(host.name()))
}

/// Lets nothing pass between pairs of sites, and all that was kept apart before again.
pub(super) async fn separate(internet: &Machine, pairs: &[(u8, u8)]) -> Result<(), Error> {
    let port = |site: &u8| site_port(*site);
    let ports: Vec<_> = pairs.iter().map(|(one, other)| (port(one), port(other))).collect();
    filter(internet, &nat::separation(&ports)).await
}

/// Takes the cable of a host away.
///
/// It would go with the host, but only when the kernel gets round to it, and
/// then a new host of that name might find its port taken.
pub(super) async fn unplug_for_good(gateway: &Machine, host: &str) -> Result<(), Error> {
    let netlink = gateway.netlink()?;
    netlink.delete_link(host).await.map_err(Error::network(gateway.name()))
}

/// A cable: a port without addresses at the bridge of a switch, and the interface of the
/// machine that it connects.
#[derive(Debug)]
pub(super) struct Port<'a> {
    switch: &'a Machine,
    bridge: &'static str,
    name: String,
    machine: &'a Machine,
    interface: &'static str,
}

impl<'a> Port<'a> {
    pub(super) fn of_host(wired: &'a Wired, host: &'a Machine) -> Self {
        let name = host.name().to_owned();
        let switch = wired.inner();
        Self { switch, bridge: LAN, name, machine: host, interface: ETHERNET }
    }

    pub(super) fn of_site(internet: &'a Machine, wired: &'a Wired) -> Self {
        let name = site_port(wired.site);
        Self { switch: internet, bridge: SWITCH, name, machine: wired.outer(), interface: WAN }
    }

    /// Pulls the cable, or puts it back.
    pub(super) async fn set_plugged(&self, plugged: bool) -> Result<(), Error> {
        let netlink = self.switch.netlink()?;
        let port = &self.name;
        let done = if plugged { netlink.set_up(port).await } else { netlink.set_down(port).await };
        done.map_err(Error::network(self.switch.name()))
    }

    pub(super) async fn is_plugged(&self) -> Result<bool, Error> {
        let link = self.switch.netlink()?.link(&self.name).await;
        Ok(link.map_err(Error::network(self.switch.name()))?.up)
    }

    /// Sets whether both ends may send more at once than a wire would carry.
    fn set_offload(&self, on: bool) -> Result<(), Error> {
        for (machine, interface) in [(self.switch, &*self.name), (self.machine, self.interface)] {
            let done = machine.netlink()?.set_offload(interface, on);
            done.map_err(Error::network(machine.name()))?;
        }
        Ok(())
    }
}

/// Leads a cable through a machine, from [`NEAR`] to [`FAR`]. What is connected keeps its
/// interface with all its addresses, and the switch has a port of the same name.
pub(super) async fn insert(port: &Port<'_>, beside: &Machine) -> Result<(), Error> {
    let plugged = port.is_plugged().await?;
    let namespace = beside.init().network_namespace()?;
    let (switch, inside) = (port.switch.netlink()?, beside.netlink()?);
    let name = &port.name;
    switch.move_to(name, namespace.as_fd()).await.map_err(Error::network(port.switch.name()))?;
    let lay = async {
        inside.set_name(name, FAR).await?;
        inside.set_up(FAR).await
    };
    lay.await.map_err(Error::network(beside.name()))?;
    plug_in(port.switch, port.bridge, name, beside, NEAR).await?;
    port.set_plugged(plugged).await?;
    port.set_offload(false)
}

/// Undoes [`insert`].
pub(super) async fn extract(port: &Port<'_>, beside: &Machine) -> Result<(), Error> {
    let plugged = port.is_plugged().await?;
    let namespace = port.switch.init().network_namespace()?;
    let (switch, inside) = (port.switch.netlink()?, beside.netlink()?);
    let name = &port.name;
    switch.delete_link(name).await.map_err(Error::network(port.switch.name()))?;
    let lay = async {
        inside.set_down(FAR).await?;
        inside.set_name(FAR, name).await?;
        inside.move_to(name, namespace.as_fd()).await
    };
    lay.await.map_err(Error::network(beside.name()))?;
    let connect = switch.attach(name, port.bridge).await;
    connect.map_err(Error::network(port.switch.name()))?;
    port.set_plugged(plugged).await?;
    port.set_offload(true)
}

/// The port of a site at the switch between the sites.
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
    prefixes: impl Iterator<Item = Prefix>,
) -> Result<(), netlink::Error> {
    for prefix in prefixes {
        netlink.add_address(interface, prefix).await?;
    }
    Ok(())
}

/// Lets a site know the way to another.
async fn routes(of: &Wired, to: &Wired) -> Result<(), Error> {
    let gateway = of.outer();
    let netlink = gateway.netlink()?;
    for lan in to.routed() {
        if !of.gateway.families.has(lan.address()) {
            continue;
        }
        let [v4, v6] = plan::uplink(to.site).addresses();
        let hop = if lan.address().is_ipv4() { v4 } else { v6 };
        netlink.add_route(WAN, lan, Some(hop)).await.map_err(Error::network(gateway.name()))?;
    }
    Ok(())
}
