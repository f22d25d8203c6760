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
use crate::store::{FILE, Store};

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
        let taken = self.taken().await?;
        if let Some((name, other, _)) =
            taken.iter().find(|(_, other, _)| range.overlaps(other.base(), other.prefix()))
        {
            return Err(error(format!(
                "the mesh range {range} overlaps that of network {name} ({other})"
            ))
            .hint("make the network with another range: epsilon mesh create --range 10.x.0.0/16"));
        }
        let places = || taken.iter().map(|(_, _, place)| place);
        let interfaces: Vec<String> = places().map(|place| place.interface.clone()).collect();
        let interface = network::free_name(&netlink, &interfaces).await.map_err(error)?;
        let port = (self.config.port..=u16::MAX)
            .find(|port| places().all(|place| place.port != *port))
            .unwrap_or(DEFAULT_PORT);
        Ok(Place { port, interface })
    }

    /// What the networks of this machine have: those that are served, and
    /// those that cannot be served now, as far as their state can be read.
    async fn taken(&self) -> Result<Vec<(String, Ipv4Range, Place)>, Problem> {
        let mut taken = Vec::new();
        for (name, network) in &self.networks {
            let snapshot = network.client().snapshot().await.map_err(stopped)?;
            let (port, interface) = (snapshot.settings.port, network.interface().to_owned());
            let range = snapshot.view.network.range;
            taken.push((name.to_string(), range, Place { port, interface }));
        }
        for name in self.broken.keys() {
            let path = self.config.state_dir.join(name).join(FILE);
            if let Ok((_, saved)) = Store::open(&path)
                && let Ok(block) = saved.network.peek()
            {
                let (port, interface) = (saved.settings.port, saved.settings.interface);
                taken.push((name.clone(), block.range, Place { port, interface }));
            }
        }
        Ok(taken)
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
