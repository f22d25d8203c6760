//! What the host is connected to: when it changes, and whether it was cut off in
//! between.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use epsilon_mesh::path::LocalPrefix;
use epsilon_sys::netlink::{Address, Change, Changes, Error, Link, Netlink};

use super::interface::{is_mesh, local_prefixes};
use super::portmap::{Place, WayOut, place};
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
    /// The addresses of the host, and which interfaces have them.
    prefixes: BTreeSet<(u32, LocalPrefix)>,
    /// By which interfaces and gateways everything else is reached.
    defaults: BTreeSet<(u32, Option<IpAddr>)>,
    /// Those of IPv4 among them.
    ways_out: Vec<WayOut>,
    /// Whether these may be others than they were.
    are_defaults_old: bool,
    asleep: Duration,
}

/// What there is.
pub(super) struct Seen {
    pub(super) links: Vec<Link>,
    pub(super) addresses: Vec<Address>,
    /// The addresses under which the host can be reached outside of meshes.
    pub(super) prefixes: Vec<LocalPrefix>,
    /// The router that leads out, if there is a NAT to be expected at it.
    pub(super) place: Option<Place>,
    /// Whether the host was cut off, asleep, or is reached by another way than before.
    pub(super) has_moved: bool,
}

impl Surroundings {
    pub(super) fn new(netlink: Netlink) -> Result<Self, Error> {
        let changes = netlink.changes()?;
        Ok(Self {
            netlink,
            changes,
            settle: None,
            was_interrupted: false,
            prefixes: BTreeSet::new(),
            defaults: BTreeSet::new(),
            ways_out: Vec::new(),
            are_defaults_old: true,
            asleep: clock::asleep(),
        })
    }

    /// Waits for a change. May be cancelled without losing one.
    pub(super) async fn changed(&mut self) -> Result<(), Error> {
        let change = self.changes.next().await;
        if change.is_none() {
            self.changes = self.netlink.changes()?;
        }
        let (is_cut, is_route) = match &change {
            Some(Change::LinkSet(link)) => {
                (self.leads_out(link.index) && !(link.up && link.carrier), false)
            }
            Some(Change::LinkGone(link)) => (self.leads_out(link.index), false),
            Some(Change::AddressGone(address)) => {
                let prefix = (address.prefix.address, address.prefix.length);
                let had = self.prefixes.contains(&(address.interface, prefix));
                (had && self.leads_out(address.interface), false)
            }
            Some(Change::RouteSet(route) | Change::RouteGone(route)) => {
                (false, route.destination.length == 0)
            }
            Some(Change::Missed) | None => (true, true),
            Some(_) => (false, false),
        };
        self.was_interrupted |= is_cut;
        // The kernel does not say which routes went with an interface.
        self.are_defaults_old |= is_cut || is_route;
        // Other routes come and go with containers and meshes.
        let is_other_route =
            matches!(&change, Some(Change::RouteSet(_) | Change::RouteGone(_))) && !is_route;
        let is_news = !is_other_route;
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
        let mut prefixes: Vec<LocalPrefix> = local_prefixes(&links, &addresses);
        let now: BTreeSet<(u32, LocalPrefix)> = addresses
            .iter()
            .map(|one| (one.interface, (one.prefix.address, one.prefix.length)))
            .filter(|(_, prefix)| prefixes.contains(prefix))
            .collect();
        let is_less = self.prefixes.iter().any(|one| !now.contains(one) && self.leads_out(one.0));
        let is_other_way =
            (is_less || self.are_defaults_old) && self.look_for_defaults(&links).await;
        let place = place(&self.ways_out, &now);
        // Others are told of a few: those of container bridges are of no use to them.
        let by = |index: u32| self.defaults.iter().any(|(default, _)| *default == index);
        prefixes.sort_by_key(|prefix| !now.iter().any(|(index, one)| one == prefix && by(*index)));
        self.prefixes = now;
        let has_moved = std::mem::take(&mut self.was_interrupted) || is_less || is_other_way;
        Ok(Seen { links, addresses, prefixes, place, has_moved })
    }

    /// Whether what is far is reached by an interface: bridges of containers come and go.
    fn leads_out(&self, interface: u32) -> bool {
        self.defaults.is_empty() || self.defaults.iter().any(|(index, _)| *index == interface)
    }

    /// Looks for the default routes; says whether they are others than before.
    async fn look_for_defaults(&mut self, links: &[Link]) -> bool {
        // Who cannot say which there are says nothing of others.
        let Ok(mut routes) = self.netlink.routes().await else { return false };
        let is_of_host = |index: u32| {
            !links.iter().any(|link| link.index == index && (is_mesh(link) || link.loopback))
        };
        routes.retain(|route| {
            route.destination.length == 0 && route.interface.is_some_and(is_of_host)
        });
        let defaults: BTreeSet<(u32, Option<IpAddr>)> =
            routes.iter().filter_map(|route| Some((route.interface?, route.gateway))).collect();
        self.ways_out = routes.iter().filter_map(WayOut::of).collect();
        self.are_defaults_old = false;
        std::mem::replace(&mut self.defaults, defaults.clone()) != defaults
    }
}
