//! What the host knows of networks beyond the mesh: its routes to those behind members, and
//! its forwarding to those behind itself.
//!
//! ```text
//!  packet of the host ─► from an address of its own? ───────────► main table, as ever
//!                        a route of its own, not the default? ──► main table, as ever
//!                        a network behind a member, or an exit ─► eps0
//!                        else ──────────────────────────────────► main table, as ever
//! ```
//!
//! So nothing that was reached before a route was accepted is reached otherwise
//! afterwards, but for what the route is for; and whoever is connected from outside stays.
//! The daemon's own sockets are marked and never use these routes.

mod forwarding;
mod plan;

use std::net::IpAddr;

use epsilon_mesh::path::LocalPrefix;
use epsilon_mesh::saved::Advertised;
use epsilon_proto::prefix::Prefix;
use epsilon_sys::netlink::{Error, Netlink};

pub use plan::Conflict;
use plan::Place;

/// Keeps the routes and the forwarding of one mesh.
pub(super) struct Routing {
    interface: String,
    place: Place,
    beyond: Vec<Prefix>,
    behind: Vec<Advertised>,
    own: Vec<IpAddr>,
    problem: Option<String>,
    is_stale: bool,
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
            is_stale: false,
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

    /// Which addresses the host has now, outside of meshes.
    pub(super) async fn set_own(&mut self, netlink: &Netlink, prefixes: &[LocalPrefix]) {
        let own: Vec<IpAddr> = prefixes.iter().map(|(address, _)| *address).collect();
        if self.own != own {
            self.own = own;
            self.is_stale |= !self.beyond.is_empty();
        }
        if self.is_stale {
            self.apply(netlink).await;
        }
    }

    /// Tries again what failed.
    pub(super) async fn repair(&mut self, netlink: &Netlink) {
        if self.is_stale {
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
        let problem = self.try_apply(netlink).await.err();
        self.is_stale = problem.is_some();
        if let Some(problem) = problem.as_ref().filter(|_| problem != self.problem) {
            tracing::error!(interface = self.interface, problem, "routes are not set up");
        }
        self.problem = problem;
    }

    async fn try_apply(&self, netlink: &Netlink) -> Result<(), String> {
        let text = |error: Error| error.to_string();
        let is_needed = !self.beyond.is_empty();
        let rules = if is_needed { self.place.rules(&self.own) } else { Vec::new() };
        let routes: Vec<_> = self.beyond.iter().copied().map(plan::destination).collect();
        let (table, priorities) = (self.place.table(), self.place.priorities());
        // What protects from a route is there before it, and goes after it.
        if is_needed {
            netlink.set_rules(priorities, &rules).await.map_err(text)?;
            netlink.set_table(table, &self.interface, &routes).await.map_err(text)?;
        } else {
            netlink.set_table(table, &self.interface, &routes).await.map_err(text)?;
            netlink.set_rules(priorities, &rules).await.map_err(text)?;
        }
        let (interface, behind) = (self.interface.clone(), self.behind.clone());
        blocking(move || {
            forwarding::forward(&behind)?;
            forwarding::masquerade(&interface, &behind)
        })
        .await
    }
}

/// Removes all that was set up for a mesh whose interface is gone.
pub(super) async fn forget(netlink: &Netlink, interface: &str) -> Result<(), Error> {
    netlink.set_rules(Place::of(interface).priorities(), &[]).await?;
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
