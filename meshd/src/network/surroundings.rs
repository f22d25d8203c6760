//! What the host is connected to: when it changes, and whether it was cut off in
//! between.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use epsilon_mesh::path::LocalPrefix;
use epsilon_sys::netlink::{Address, Change, Changes, Error, Link, Netlink};

use super::interface::{is_mesh, local_prefixes};
use crate::clock;

/// After a change, how long to wait for the next: several come at once.
const SETTLE: Duration = Duration::from_millis(100);
/// A sleep that is shorter is none: two clocks are read one after the other.
const ASLEEP: Duration = Duration::from_secs(1);

/// Watches the host's interfaces, addresses and default routes.
pub(super) struct Surroundings {
    netlink: Netlink,
    changes: Changes,
    settle: Option<tokio::time::Instant>,
    /// Whether what was known of the network may not hold, though it looks the same.
    was_interrupted: bool,
    prefixes: Vec<LocalPrefix>,
    /// The interfaces that have them.
    interfaces: BTreeSet<u32>,
    /// By which interfaces and gateways everything else is reached.
    defaults: Option<BTreeSet<(u32, Option<IpAddr>)>>,
    asleep: Duration,
}

/// What there is.
pub(super) struct Seen {
    pub(super) links: Vec<Link>,
    pub(super) addresses: Vec<Address>,
    /// The addresses under which the host can be reached outside of meshes.
    pub(super) prefixes: Vec<LocalPrefix>,
    /// Whether the host was cut off, asleep, or is reached by another way than before.
    pub(super) was_interrupted: bool,
}

impl Surroundings {
    pub(super) fn new(netlink: Netlink) -> Result<Self, Error> {
        let changes = netlink.changes()?;
        Ok(Self {
            netlink,
            changes,
            settle: None,
            was_interrupted: false,
            prefixes: Vec::new(),
            interfaces: BTreeSet::new(),
            defaults: None,
            asleep: clock::asleep(),
        })
    }

    /// Waits for a change. May be cancelled without losing one.
    pub(super) async fn changed(&mut self) -> Result<(), Error> {
        let change = self.changes.next().await;
        if change.is_none() {
            self.changes = self.netlink.changes()?;
        }
        self.was_interrupted |= match &change {
            Some(Change::LinkSet(link)) => {
                self.interfaces.contains(&link.index) && !(link.up && link.carrier)
            }
            Some(Change::LinkGone(link)) => self.interfaces.contains(&link.index),
            Some(Change::AddressGone(address)) => {
                let prefix = (address.prefix.address, address.prefix.length);
                self.interfaces.contains(&address.interface) && self.prefixes.contains(&prefix)
            }
            _ => false,
        };
        // Others come and go with containers and meshes, and this one's are no news.
        let is_news = match &change {
            Some(Change::RouteSet(route) | Change::RouteGone(route)) => {
                route.destination.length == 0
            }
            _ => true,
        };
        if is_news {
            self.settle.get_or_insert(tokio::time::Instant::now() + SETTLE);
        }
        Ok(())
    }

    /// When to look.
    pub(super) fn due(&self) -> Option<tokio::time::Instant> {
        self.settle
    }

    /// Whether it is time to look: because of a change, or because the host slept.
    pub(super) fn is_due(&mut self) -> bool {
        let asleep = clock::asleep();
        if asleep.saturating_sub(self.asleep) > ASLEEP {
            self.was_interrupted = true;
            self.settle = Some(tokio::time::Instant::now());
        }
        self.asleep = asleep;
        self.settle.is_some_and(|settle| settle <= tokio::time::Instant::now())
    }

    /// Looks at what there is now.
    pub(super) async fn look(&mut self) -> Result<Seen, Error> {
        self.settle = None;
        let links = self.netlink.links().await?;
        let addresses = self.netlink.addresses().await?;
        let routes = self.netlink.routes().await?;
        let is_of_host = |index: u32| {
            !links.iter().any(|link| link.index == index && (is_mesh(link) || link.loopback))
        };
        let defaults = routes
            .iter()
            .filter(|route| route.destination.length == 0)
            .filter_map(|route| Some((route.interface?, route.gateway)))
            .filter(|(interface, _)| is_of_host(*interface))
            .collect();
        let before = self.defaults.replace(defaults);
        let is_other_way = before.is_some() && before != self.defaults;
        self.prefixes = local_prefixes(&links, &addresses);
        self.interfaces = addresses
            .iter()
            .filter(|one| self.prefixes.contains(&(one.prefix.address, one.prefix.length)))
            .map(|one| one.interface)
            .collect();
        let was_interrupted = std::mem::take(&mut self.was_interrupted) || is_other_way;
        Ok(Seen { links, addresses, prefixes: self.prefixes.clone(), was_interrupted })
    }
}
