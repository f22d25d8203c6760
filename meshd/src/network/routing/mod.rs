//! What the host knows of networks beyond the mesh: its routes to those behind members, and
//! its forwarding to those behind itself.
//!
//! ```text
//!  packet ─► from an address of the host? ─────────────────► main table, as ever
//!            a route of the host, not the default? ────────► main table, as ever
//!            for a network behind a member? ───────────────► eps0
//!            of the host itself, for a public address,
//!            and there is an exit? ────────────────────────► eps0
//!            else ─────────────────────────────────────────► main table, as ever
//! ```
//!
//! So nothing that was reached before a route was accepted is reached otherwise
//! afterwards, but for what the route is for; and whoever is connected from outside stays.
//! The daemon's own sockets are marked and never use these routes.

mod forwarding;
mod plan;

use std::net::IpAddr;

use epsilon_mesh::saved::Advertised;
use epsilon_proto::prefix::Prefix;
use epsilon_sys::netlink::{Address, Error, Link, Netlink};

pub use plan::Conflict;
use plan::{Place, Ways};

/// Keeps the routes and the forwarding of one mesh.
pub(super) struct Routing {
    interface: String,
    place: Place,
    beyond: Vec<Prefix>,
    behind: Vec<Advertised>,
    own: Vec<IpAddr>,
    problem: Option<String>,
}

impl Routing {
    pub(super) fn new(interface: &str) -> Self {
        Self {
            interface: interface.to_owned(),
            place: Place::of(interface),
            beyond: Vec::new(),
            behind: Vec::new(),
            own: Vec::new(),
            problem: None,
        }
    }

    /// Why the host does not route or forward as it should.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Which networks are reached through the mesh now, and through this host.
    pub(super) async fn set(
        &mut self,
        netlink: &Netlink,
        beyond: Vec<Prefix>,
        behind: Vec<Advertised>,
    ) {
        (self.beyond, self.behind) = (beyond, behind);
        self.apply(netlink).await;
    }

    /// How the host is connected now: other rules may be needed, and routes went with their
    /// interface if that was down.
    pub(super) async fn look_at(
        &mut self,
        netlink: &Netlink,
        links: &[Link],
        addresses: &[Address],
    ) {
        self.own = plan::own_addresses(links, addresses);
        if !self.beyond.is_empty() {
            self.apply(netlink).await;
        }
    }

    /// Does again what failed, and what somebody else undid.
    pub(super) async fn repair(&mut self, netlink: &Netlink) {
        if self.problem.is_some() || !self.beyond.is_empty() || !self.behind.is_empty() {
            self.apply(netlink).await;
        }
    }

    /// The daemon stops: routes that lead nowhere without it stay for its next start, but
    /// the host gets its own way out back.
    pub(super) async fn stand_by(&mut self, netlink: &Netlink) {
        if self.beyond.iter().any(|prefix| prefix.is_everything()) {
            self.beyond.retain(|prefix| !prefix.is_everything());
            self.apply(netlink).await;
        }
    }

    async fn apply(&mut self, netlink: &Netlink) {
        let routes = self.set_routes(netlink).await;
        let forwarding = self.set_forwarding().await;
        let problem = routes.and(forwarding).err();
        if let Some(problem) = problem.as_ref().filter(|_| problem != self.problem) {
            tracing::error!(interface = self.interface, problem, "routes are not set up");
        }
        self.problem = problem;
    }

    async fn set_routes(&self, netlink: &Netlink) -> Result<(), String> {
        let [networks, exit] = self.place.tables();
        let ways = [
            (networks, self.place.networks(&self.beyond, &self.own)),
            (exit, self.place.exit(&self.beyond)),
        ];
        let mut result = Ok(());
        let is_needed = |ways: &Ways| !ways.rules.is_empty();
        // What protects from a route is there before it, and goes after it.
        let (set, unset): (Vec<_>, Vec<_>) =
            ways.into_iter().partition(|(_, ways)| is_needed(ways));
        for ((table, priorities), Ways { rules, routes, exceptions }) in set {
            let set = netlink.set_rules(priorities, &rules).await;
            result = result.and(set);
            let set = netlink.set_table(table, &self.interface, &routes, &exceptions).await;
            result = result.and(set);
        }
        for ((table, priorities), _) in unset.into_iter().rev() {
            let set = netlink.set_table(table, &self.interface, &[], &[]).await;
            result = result.and(set);
            result = result.and(netlink.set_rules(priorities, &[]).await);
        }
        result.map_err(|error| error.to_string())
    }

    async fn set_forwarding(&self) -> Result<(), String> {
        let (interface, behind) = (self.interface.clone(), self.behind.clone());
        blocking(move || {
            forwarding::forward(&behind).and(forwarding::masquerade(&interface, &behind))
        })
        .await
    }
}

/// Removes all that was set up for a mesh whose interface is gone.
pub(super) async fn forget(netlink: &Netlink, interface: &str) -> Result<(), Error> {
    for (_, priorities) in Place::of(interface).tables() {
        netlink.set_rules(priorities, &[]).await?;
    }
    let name = interface.to_owned();
    if let Err(reason) = blocking(move || forwarding::masquerade(&name, &[])).await {
        tracing::warn!(interface, reason, "rules of nftables stay");
    }
    Ok(())
}

async fn blocking(act: impl FnOnce() -> Result<(), String> + Send + 'static) -> Result<(), String> {
    match tokio::task::spawn_blocking(act).await {
        Ok(result) => result,
        Err(error) => Err(error.to_string()),
    }
}

/// What the host's own routes keep from being reached through a mesh, for each network.
pub async fn conflicts(
    netlink: &Netlink,
    networks: &[Prefix],
) -> Result<Vec<(Prefix, Conflict)>, Error> {
    let (links, routes) = (netlink.links().await?, netlink.routes().await?);
    let conflict = |network: &Prefix| {
        plan::conflict(*network, &routes, &links).map(|conflict| (*network, conflict))
    };
    Ok(networks.iter().filter_map(conflict).collect())
}
