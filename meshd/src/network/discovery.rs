//! Beacons on local networks: sent by, and heard on, the data port.
//!
//! One group per family. A beacon goes to the default port and to the own
//! one, and to those between, so that networks which had to take another port
//! on a shared host are heard by all others.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use epsilon_proto::address::DEFAULT_PORT;
use epsilon_sys::netlink::{Address, Link};
use socket2::{InterfaceIndexOrAddress, SockRef};

use crate::data::Sockets;

/// Administratively scoped (RFC 2365).
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 255, 77, 55);
/// Link-local, transient (RFC 4291).
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, 0, 0x7755);
/// More than so many ports are not tried between the default and the own one.
const MAX_PORTS: u16 = 8;

/// An interface on which beacons are sent and heard.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    index: u32,
    v4: Option<Ipv4Addr>,
    v6: bool,
}

/// The places where beacons are sent and heard.
pub(super) struct Discovery {
    sockets: Sockets,
    ports: Vec<u16>,
    places: BTreeSet<Place>,
}

impl Discovery {
    /// Works on the sockets of the data port.
    pub(super) fn new(sockets: Sockets) -> Self {
        let own = sockets.port();
        let mut ports = vec![DEFAULT_PORT];
        if own > DEFAULT_PORT && own - DEFAULT_PORT <= MAX_PORTS {
            ports.extend(DEFAULT_PORT + 1..=own);
        } else if own != DEFAULT_PORT {
            ports.push(own);
        }
        // What this host says it does not need to hear.
        let v4 = SockRef::from(sockets.v4());
        report("switch multicast loopback off", v4.set_multicast_loop_v4(false));
        if let Some(v6) = sockets.v6() {
            report("switch multicast loopback off", SockRef::from(v6).set_multicast_loop_v6(false));
        }
        Self { sockets, ports, places: BTreeSet::new() }
    }

    /// Joins the groups on every interface that can hear them, and on no
    /// mesh interface.
    pub(super) fn refresh(
        &mut self,
        links: &[Link],
        addresses: &[Address],
        is_mesh: impl Fn(&Link) -> bool,
    ) {
        let places: BTreeSet<Place> = links
            .iter()
            .filter(|link| link.up && link.multicast && !link.loopback && !is_mesh(link))
            .map(|link| {
                let mut own = addresses.iter().filter(|one| one.interface == link.index);
                let v4 = own.clone().find_map(|one| match one.prefix.address {
                    IpAddr::V4(address) => Some(address),
                    IpAddr::V6(_) => None,
                });
                let v6 = own.any(|one| one.prefix.address.is_ipv6());
                Place { index: link.index, v4, v6 }
            })
            .collect();
        for gone in self.places.difference(&places) {
            // The kernel left the groups of interfaces that are gone.
            let index = InterfaceIndexOrAddress::Index(gone.index);
            if let Some(v4) = self.sockets.groups_v4() {
                let _ = SockRef::from(v4).leave_multicast_v4_n(&GROUP_V4, &index);
            }
            if let Some(v6) = self.sockets.groups_v6() {
                let _ = SockRef::from(v6).leave_multicast_v6(&GROUP_V6, gone.index);
            }
        }
        for new in places.difference(&self.places) {
            if let Some(v4) = self.sockets.groups_v4().filter(|_| new.v4.is_some()) {
                let index = InterfaceIndexOrAddress::Index(new.index);
                let joined = SockRef::from(v4).join_multicast_v4_n(&GROUP_V4, &index);
                report("join the IPv4 group", joined);
            }
            if let Some(v6) = self.sockets.groups_v6().filter(|_| new.v6) {
                report(
                    "join the IPv6 group",
                    SockRef::from(v6).join_multicast_v6(&GROUP_V6, new.index),
                );
            }
        }
        self.places = places;
    }

    /// Sends a beacon everywhere.
    pub(super) fn send(&self, beacon: &[u8]) {
        for place in &self.places {
            for port in &self.ports {
                if let Some(address) = place.v4 {
                    let socket = SockRef::from(self.sockets.v4());
                    let sent = socket.set_multicast_if_v4(&address).and_then(|()| {
                        self.sockets.send_to(beacon, SocketAddr::from((GROUP_V4, *port)))
                    });
                    report("send a beacon over IPv4", sent);
                }
                if place.v6 && self.sockets.v6().is_some() {
                    let to = SocketAddrV6::new(GROUP_V6, *port, 0, place.index);
                    report("send a beacon over IPv6", self.sockets.send_to(beacon, to.into()));
                }
            }
        }
    }
}

/// A network that takes no multicast is found by addresses.
fn report(what: &str, result: std::io::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(%error, "cannot {what}");
    }
}
