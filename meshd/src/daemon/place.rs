//! Where a network lives on this machine: its port, its interface, its range.

use std::net::SocketAddr;

use epsilon_proto::address::{DEFAULT_PORT, Ipv4Range};
use epsilon_proto::api::Problem;
use epsilon_proto::token::HostPort;
use epsilon_sys::netlink::Netlink;

use super::Daemon;
use super::answer::stopped;
use super::founding::error;
use crate::network;

/// Where a network lives on this machine.
pub(super) struct Place {
    pub(super) port: u16,
    pub(super) interface: String,
}

impl Daemon {
    /// The next free port and interface, and that the range is free.
    pub(super) async fn find_place(&self, range: Ipv4Range) -> Result<Place, Problem> {
        let netlink = Netlink::open().map_err(error)?;
        if let Some(route) = network::collision(&netlink, range).await.map_err(error)? {
            return Err(error(format!(
                "the mesh range {range} collides with the route {route} of this machine"
            ))
            .hint("make the network with another range: epsilon mesh create --range 10.x.0.0/16"));
        }
        let (mut ports, mut interfaces) = (Vec::new(), Vec::new());
        for network in self.networks.values() {
            let snapshot = network.client().snapshot().await.map_err(stopped)?;
            let other = snapshot.view.network.range;
            if range.overlaps(other.base(), other.prefix()) {
                return Err(error(format!(
                    "the mesh range {range} overlaps that of network {} ({other})",
                    network.name()
                ))
                .hint(
                    "make the network with another range: epsilon mesh create --range 10.x.0.0/16",
                ));
            }
            ports.push(snapshot.settings.port);
            interfaces.push(network.interface().to_owned());
        }
        let interface = network::free_name(&netlink, &interfaces).await.map_err(error)?;
        let port = (self.config.port..=u16::MAX)
            .find(|port| !ports.contains(port))
            .unwrap_or(DEFAULT_PORT);
        Ok(Place { port, interface })
    }

    /// This machine's addresses, for the first token.
    pub(super) async fn own_addresses(&self, port: u16) -> Result<Vec<HostPort>, Problem> {
        let netlink = Netlink::open().map_err(error)?;
        let (links, addresses) =
            (netlink.links().await.map_err(error)?, netlink.addresses().await.map_err(error)?);
        Ok(network::reachable_addresses(&links, &addresses)
            .into_iter()
            .map(|ip| HostPort::from(SocketAddr::new(ip, port)))
            .take(epsilon_proto::record::MAX_ENDPOINTS)
            .collect())
    }
}
