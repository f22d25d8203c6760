//! The mesh interface as the host sees it: its addresses, and the host's own
//! addresses around it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use epsilon_mesh::path::LocalPrefix;
use epsilon_proto::address::{DEFAULT_MTU, Ipv4Range, Ipv6Range, is_link_local};
use epsilon_sys::netlink::{Address, Error, Link, Netlink, Prefix};

/// How the interfaces of meshes are called: `eps0`, `eps1`, …
const NAME_PREFIX: &str = "eps";

/// Whether an interface is one of a mesh.
pub(super) fn is_mesh(link: &Link) -> bool {
    is_mesh_name(&link.name)
}

/// Whether the interface of a mesh may be called so.
pub fn is_mesh_name(name: &str) -> bool {
    name.strip_prefix(NAME_PREFIX).is_some_and(|number| {
        !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit())
    })
}

/// The first name that no interface and no other network has.
pub async fn free_name(netlink: &Netlink, taken: &[String]) -> Result<String, Error> {
    let links = netlink.links().await?;
    let is_free =
        |name: &String| !links.iter().any(|link| link.name == *name) && !taken.contains(name);
    Ok((0..=u16::MAX)
        .map(|number| format!("{NAME_PREFIX}{number}"))
        .find(is_free)
        .unwrap_or_default())
}

/// The route of the host that a range collides with, if there is one; routes
/// of mesh interfaces do not count.
pub async fn collision(netlink: &Netlink, range: Ipv4Range) -> Result<Option<String>, Error> {
    let links = netlink.links().await?;
    let mesh: Vec<u32> = links.iter().filter(|link| is_mesh(link)).map(|link| link.index).collect();
    let wanted = Prefix::new(range.base(), range.prefix());
    Ok(netlink
        .routes()
        .await?
        .into_iter()
        .filter(|route| route.interface.is_none_or(|index| !mesh.contains(&index)))
        .filter(|route| route.destination.length > 0 && route.destination.overlaps(&wanted))
        .map(|route| {
            let name = links.iter().find(|link| Some(link.index) == route.interface);
            match name {
                Some(link) => format!("{} on {}", route.destination, link.name),
                None => route.destination.to_string(),
            }
        })
        .next())
}

/// What a mesh interface was when it was looked at last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Whether it is there and up.
    pub up: bool,
    /// Its MTU in bytes.
    pub mtu: u32,
}

/// Keeps the addresses of one mesh interface.
pub(super) struct Interface {
    pub(super) name: String,
    range: Ipv4Range,
    range6: Ipv6Range,
    wanted: Vec<Prefix>,
    problem: Option<String>,
    seen: Seen,
}

impl Interface {
    pub(super) fn new(name: String, range: Ipv4Range, range6: Ipv6Range) -> Self {
        let seen = Seen { up: true, mtu: DEFAULT_MTU.into() };
        Self { name, range, range6, wanted: Vec::new(), problem: None, seen }
    }

    /// Why it does not have the addresses that it should have.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    pub(super) fn seen(&self) -> Seen {
        self.seen
    }

    /// Brings it up. An interface that outlived the last run keeps its
    /// addresses, so that connections go on.
    pub(super) async fn bring_up(&self, netlink: &Netlink) -> Result<(), Error> {
        netlink.set_mtu(&*self.name, DEFAULT_MTU).await?;
        netlink.set_up(&*self.name).await
    }

    /// Gives it these addresses and no others of the mesh.
    pub(super) async fn set_addresses(
        &mut self,
        netlink: &Netlink,
        ipv4: Option<Ipv4Addr>,
        ipv6: &[Ipv6Addr],
    ) {
        self.wanted = ipv4
            .map(|address| Prefix::new(address, self.range.prefix()))
            .into_iter()
            .chain(ipv6.iter().map(|address| Prefix::new(*address, Ipv6Range::PREFIX)))
            .collect();
        self.apply(netlink).await;
    }

    /// Tries again what failed.
    pub(super) async fn repair(&mut self, netlink: &Netlink) {
        if self.problem.is_some() {
            self.apply(netlink).await;
        }
    }

    /// Looks at what the host's interfaces are now, and puts back an address
    /// that somebody took away.
    pub(super) async fn look_at(&mut self, netlink: &Netlink, links: &[Link], all: &[Address]) {
        let link = links.iter().find(|link| link.name == self.name);
        self.seen.up = link.is_some_and(|link| link.up);
        if let Some(link) = link {
            self.seen.mtu = link.mtu;
        }
        let has = |wanted: &Prefix| {
            all.iter().any(|address| {
                Some(address.interface) == link.map(|link| link.index) && address.prefix == *wanted
            })
        };
        if link.is_some() && !self.wanted.iter().all(has) {
            self.apply(netlink).await;
        }
    }

    async fn apply(&mut self, netlink: &Netlink) {
        let problem = self.try_apply(netlink).await.err().map(|error| error.to_string());
        if let Some(problem) = problem.as_ref().filter(|_| problem != self.problem) {
            tracing::error!(interface = self.name, problem, "the mesh interface is not set up");
        }
        self.problem = problem;
    }

    async fn try_apply(&self, netlink: &Netlink) -> Result<(), Error> {
        let link = netlink.link(&*self.name).await?;
        for address in netlink.addresses().await? {
            if address.interface == link.index
                && self.is_inside(address.prefix.address)
                && !self.wanted.contains(&address.prefix)
            {
                netlink.remove_address(&*self.name, address.prefix).await?;
            }
        }
        for prefix in &self.wanted {
            netlink.add_address(&*self.name, *prefix).await?;
        }
        Ok(())
    }

    fn is_inside(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.range.contains(address),
            IpAddr::V6(address) => self.range6.contains(address),
        }
    }
}

/// The addresses under which the host can be reached outside of meshes.
pub(super) fn local_prefixes(links: &[Link], addresses: &[Address]) -> Vec<LocalPrefix> {
    let mut prefixes: Vec<LocalPrefix> = addresses
        .iter()
        .filter(|address| address.usable && !address.deprecated && !address.temporary)
        .filter(|address| {
            links.iter().any(|link| {
                link.index == address.interface
                    && (link.up && link.carrier)
                    && !(link.loopback || is_mesh(link))
            })
        })
        .map(|address| (address.prefix.address, address.prefix.length))
        .filter(|(address, _)| !is_link_local(*address) && !address.is_loopback())
        .collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    prefixes
}

/// The addresses under which others may reach this host.
pub fn reachable_addresses(links: &[Link], addresses: &[Address]) -> Vec<IpAddr> {
    local_prefixes(links, addresses).into_iter().map(|(address, _)| address).collect()
}
