//! Networks beyond members: which are accepted, and by whom they are reached.
//!
//! A member says in its record which networks it leads to; nothing of it counts here
//! before the operator of this node accepts it. Of several members that lead to the same
//! network one is used for as long as it is there, so that connections stay, and packets
//! are taken from all of them. A default route is only used through the member that the
//! operator chose as the exit.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use epsilon_proto::clock::{Instant, Now};
use epsilon_proto::id::NodeId;
use epsilon_proto::prefix::Prefix;
use epsilon_proto::record::MAX_ROUTES;

use super::storage::Then;
use super::view::PeerState;
use super::{Control, OperationError, OperationId, Output};
use crate::event::Event;
use crate::saved::{Accepted, Advertised, Provider, Providers, Routing, Write};
use crate::shard::{Command, SubnetRoute};

/// How long packets flow to a member and nothing comes back before another one that leads
/// to the same network is used: its own ways are tried meanwhile.
const FAILOVER: Duration = Duration::from_millis(1500);
/// From one choice to the next, where only paths changed.
const CHOOSE_EVERY: Duration = Duration::from_millis(200);
/// Round trips that differ by less are alike.
const ALIKE: Duration = Duration::from_millis(10);

/// What the operator changes about routes.
#[derive(Debug, Clone, Default)]
pub struct RouteChange {
    /// Networks behind this node.
    pub advertise: Vec<Advertised>,
    /// Those of them that are not said any more.
    pub withdraw: Vec<Prefix>,
    /// Networks behind others.
    pub accept: Vec<Accepted>,
    /// The blocks of those that are not accepted any more, from whomever.
    pub reject: Vec<Prefix>,
    /// The member through which everything else is reached, or none.
    pub exit: Option<Option<NodeId>>,
}

/// A network beyond members, as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteView {
    /// Its addresses.
    pub prefix: Prefix,
    /// Whether it is accepted here.
    pub is_accepted: bool,
    /// By whom it is reached.
    pub via: Option<NodeId>,
    /// Who leads to it.
    pub providers: Vec<NodeId>,
}

/// What is known of networks beyond members, and what was told about them.
#[derive(Default)]
pub(super) struct Routes {
    providers: BTreeMap<Prefix, BTreeSet<NodeId>>,
    offered: BTreeMap<NodeId, Vec<Prefix>>,
    chosen: BTreeMap<Prefix, NodeId>,
    /// Since when what is sent to a member gets no reply.
    silent: BTreeMap<NodeId, Instant>,
    /// The networks that are accepted, and who leads to them.
    accepted: Vec<(Prefix, Vec<NodeId>)>,
    /// Whether these may be others.
    is_stale: bool,
    /// What the operator said last, which is not durable yet.
    pending: Option<Routing>,
    subnets: Vec<SubnetRoute>,
    told: Option<Told>,
    /// When to choose again at the earliest.
    next: Instant,
    /// Whether something happened since the last choice.
    is_due: bool,
}

/// What others were told.
#[derive(PartialEq, Eq)]
struct Told {
    beyond: Vec<Prefix>,
    behind: Vec<Advertised>,
    closed: Vec<Prefix>,
}

impl Routes {
    pub(super) fn new(Providers { chosen }: Providers) -> Self {
        let chosen = chosen.into_iter().map(|one| (one.prefix, one.via)).collect();
        Self { chosen, is_stale: true, ..Self::default() }
    }

    /// When another may have to be chosen.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let silent = self.silent.values().map(|since| *since + FAILOVER);
        let due = silent.filter(|due| *due > now).chain(self.is_due.then_some(self.next));
        due.min().map(|due| due.max(self.next))
    }
}

impl Control {
    /// What a member says of networks that it leads to, or nothing when it is gone.
    pub(super) fn learn_routes(&mut self, node: NodeId) {
        let said = self.members.get(node).map_or(&[][..], |member| &member.record.routes);
        if self.routes.offered.get(&node).map_or(&[][..], Vec::as_slice) == said {
            return;
        }
        let said = said.to_vec();
        self.routes.is_stale = true;
        for prefix in self.routes.offered.remove(&node).unwrap_or_default() {
            if let Some(providers) = self.routes.providers.get_mut(&prefix) {
                providers.remove(&node);
            }
        }
        self.routes.providers.retain(|_, providers| !providers.is_empty());
        for prefix in &said {
            self.routes.providers.entry(*prefix).or_default().insert(node);
        }
        if !said.is_empty() {
            self.routes.offered.insert(node, said);
        }
    }

    /// Chooses by whom networks are reached, and tells whoever has to know.
    pub(super) fn advance_routes(&mut self, now: Now) {
        if std::mem::take(&mut self.routes.is_stale) {
            self.routes.accepted = self.accepted_routes();
        } else if now.instant < self.routes.next {
            // Paths change all the time.
            self.routes.is_due = !self.routes.accepted.is_empty();
            return;
        }
        self.routes.is_due = false;
        self.routes.next = now.instant + CHOOSE_EVERY;
        let accepted = std::mem::take(&mut self.routes.accepted);
        self.watch_providers(&accepted, now.instant);
        let mut chosen = BTreeMap::new();
        let mut subnets = Vec::new();
        for (prefix, from) in &accepted {
            let via = self.choose_provider(*prefix, from, now);
            if self.routes.chosen.get(prefix).copied() != via {
                self.event(Event::RouteMoved(*prefix, via));
            }
            chosen.extend(via.map(|via| (*prefix, via)));
            subnets.push(SubnetRoute { prefix: *prefix, via, from: from.clone() });
        }
        self.routes.accepted = accepted;
        // Who was chosen by an earlier run is not known yet at first.
        let has_started = self.routes.told.is_some();
        if self.routes.chosen != chosen && has_started {
            let chosen = chosen.iter().map(|(prefix, via)| Provider { prefix: *prefix, via: *via });
            let providers = Providers { chosen: chosen.collect() };
            self.persist(vec![Write::providers(&providers)], None);
        }
        self.routes.chosen = chosen;
        if self.routes.subnets != subnets {
            self.routes.subnets.clone_from(&subnets);
            self.outputs.push_back(Output::Shard(Command::SetSubnets(subnets)));
        }
        self.tell_routes();
    }

    fn tell_routes(&mut self) {
        let told = Told {
            beyond: self.routes.subnets.iter().map(|route| route.prefix).collect(),
            behind: self.routing.advertised.clone(),
            closed: self.closed_networks(),
        };
        if self.routes.told.as_ref() == Some(&told) {
            return;
        }
        let open = told.behind.iter().map(|one| one.prefix).collect();
        let closed = told.closed.clone();
        self.outputs.push_back(Output::Shard(Command::SetBehind { open, closed }));
        let (beyond, behind) = (told.beyond.clone(), told.behind.clone());
        self.outputs.push_back(Output::Routes { beyond, behind });
        self.routes.told = Some(told);
    }

    /// The host's own networks that a firewall between them and the public may protect: whoever
    /// uses this node as an exit does not get behind it. Those of IPv4 have private addresses.
    fn closed_networks(&self) -> Vec<Prefix> {
        let is_exit = self.routing.advertised.iter().any(|one| one.prefix == Prefix::ALL_V6);
        let own = self.local.iter().filter(|(address, _)| is_exit && address.is_ipv6());
        let own = own.map(|(address, length)| Prefix::new(*address, *length));
        let is_advertised = |own: &Prefix| {
            let advertised = self.routing.advertised.iter().map(|one| one.prefix);
            advertised.into_iter().any(|one| !one.is_everything() && one.covers(*own))
        };
        own.filter(|own| !is_advertised(own)).collect()
    }

    /// The networks that are accepted, and who leads to them.
    fn accepted_routes(&self) -> Vec<(Prefix, Vec<NodeId>)> {
        let all = self.routes.providers.iter();
        let mut routes: Vec<(Prefix, Vec<NodeId>)> = all
            .map(|(prefix, nodes)| {
                let nodes = nodes.iter().copied();
                (*prefix, nodes.filter(|node| self.is_accepted(*prefix, *node)).collect())
            })
            .filter(|(_, nodes): &(_, Vec<NodeId>)| !nodes.is_empty())
            .collect();
        if let Some(exit) = self.routing.exit {
            // What would leave by it must not leave otherwise when it leads nowhere.
            for prefix in [Prefix::ALL_V4, Prefix::ALL_V6] {
                let offers = self.leads_to(exit, prefix);
                routes.push((prefix, offers.then_some(exit).into_iter().collect()));
            }
        }
        routes
    }

    fn leads_to(&self, node: NodeId, prefix: Prefix) -> bool {
        self.routes.offered.get(&node).is_some_and(|offered| offered.contains(&prefix))
    }

    /// Whether a network that a member leads to is one that this node wants to reach so.
    fn is_accepted(&self, prefix: Prefix, node: NodeId) -> bool {
        let is_wanted = |accepted: &Accepted| {
            accepted.prefix.covers(prefix) && accepted.from.is_none_or(|from| from == node)
        };
        !prefix.is_everything()
            && prefix.is_routable()
            && !self.is_of_mesh(prefix)
            && self.routing.accepted.iter().any(is_wanted)
            && !self.routing.advertised.iter().any(|own| own.prefix == prefix)
    }

    fn is_of_mesh(&self, prefix: Prefix) -> bool {
        self.mesh_prefixes().into_iter().any(|mesh| mesh.overlaps(prefix))
    }

    /// Notes to whom packets flow of whom nothing comes back.
    fn watch_providers(&mut self, accepted: &[(Prefix, Vec<NodeId>)], now: Instant) {
        let nodes: BTreeSet<NodeId> =
            accepted.iter().flat_map(|(_, nodes)| nodes.iter().copied()).collect();
        self.routes.silent.retain(|node, _| nodes.contains(node));
        for node in nodes {
            let peer = self.peers.get(&node);
            let is_silent =
                peer.is_some_and(|peer| peer.paths.is_busy() && !peer.paths.is_proven());
            if is_silent {
                self.routes.silent.entry(node).or_insert(now);
            } else {
                self.routes.silent.remove(&node);
            }
        }
    }

    /// The one that is used, for as long as it is there; else the nearest that is.
    fn choose_provider(&self, prefix: Prefix, nodes: &[NodeId], now: Now) -> Option<NodeId> {
        let current = self.routes.chosen.get(&prefix).copied();
        let standing = |node: NodeId| {
            let silent = self.routes.silent.get(&node);
            let is_silent = silent.is_some_and(|since| now.instant >= *since + FAILOVER);
            match self.peer_state(node, now) {
                PeerState::Up if !is_silent => 0,
                // It may be back at once.
                PeerState::Connecting if current == Some(node) && !is_silent => 0,
                PeerState::Connecting => 1,
                PeerState::Up | PeerState::Down | PeerState::Own => 2,
            }
        };
        let rtt = |node: &NodeId| {
            let rtt = self.peers.get(node).and_then(|peer| peer.paths.rtt());
            rtt.map_or(u128::MAX, |rtt| rtt.as_millis() / ALIKE.as_millis())
        };
        nodes
            .iter()
            .copied()
            .min_by_key(|node| (standing(*node), current != Some(*node), rtt(node), *node))
    }

    /// All networks that members lead to.
    pub(super) fn route_views(&self) -> Vec<RouteView> {
        let accepted: BTreeSet<Prefix> =
            self.routes.subnets.iter().map(|route| route.prefix).collect();
        let providers = self.routes.providers.iter().map(|(prefix, nodes)| RouteView {
            prefix: *prefix,
            is_accepted: accepted.contains(prefix),
            via: self.routes.chosen.get(prefix).copied(),
            providers: nodes.iter().copied().collect(),
        });
        providers.collect()
    }

    /// Changes what the operator said of routes.
    pub(super) fn change_routes(
        &mut self,
        id: OperationId,
        change: RouteChange,
    ) -> Result<(), OperationError> {
        let mut routing = self.routes.pending.as_ref().unwrap_or(&self.routing).clone();
        for prefix in &change.withdraw {
            let position = routing.advertised.iter().position(|own| own.prefix == *prefix);
            let position = position.ok_or(OperationError::NotAdvertised(*prefix))?;
            routing.advertised.remove(position);
        }
        for new in change.advertise {
            self.check_route(new.prefix)?;
            routing.advertised.retain(|own| own.prefix != new.prefix);
            routing.advertised.push(new);
        }
        for prefix in &change.reject {
            let before = routing.accepted.len();
            routing.accepted.retain(|accepted| accepted.prefix != *prefix);
            if routing.accepted.len() == before {
                return Err(OperationError::NotAccepted(*prefix));
            }
        }
        for accepted in change.accept {
            if !accepted.prefix.is_everything() {
                self.check_route(accepted.prefix)?;
            }
            // From anybody or from some: what was said last holds.
            let is_replaced = |known: &Accepted| {
                known.prefix == accepted.prefix && (known.from.is_none() || accepted.from.is_none())
            };
            routing.accepted.retain(|known| !is_replaced(known));
            if !routing.accepted.contains(&accepted) {
                routing.accepted.push(accepted);
            }
        }
        if routing.advertised.len().max(routing.accepted.len()) > MAX_ROUTES {
            return Err(OperationError::TooManyRoutes);
        }
        match change.exit {
            Some(Some(exit)) if exit == self.own => return Err(OperationError::OwnExit),
            Some(Some(exit)) => {
                if self.members.get(exit).is_none() {
                    return Err(OperationError::UnknownNode(exit.short()));
                }
                if ![Prefix::ALL_V4, Prefix::ALL_V6].iter().any(|all| self.leads_to(exit, *all)) {
                    let name = self.name_of(exit);
                    let name = name.map_or_else(|| exit.short(), |name| name.to_string());
                    return Err(OperationError::NoExit(name));
                }
                routing.exit = Some(exit);
            }
            Some(None) => routing.exit = None,
            None => {}
        }
        routing.advertised.sort_unstable();
        routing.accepted.sort_unstable();
        let writes = vec![Write::routing(&routing)];
        self.routes.pending = Some(routing.clone());
        self.persist(writes, Some(Then::Routing { routing, operation: id }));
        Ok(())
    }

    fn check_route(&self, prefix: Prefix) -> Result<(), OperationError> {
        if !prefix.is_routable() {
            return Err(OperationError::NotRoutable(prefix));
        }
        if !prefix.is_everything() && self.is_of_mesh(prefix) {
            return Err(OperationError::InsideMesh(prefix));
        }
        Ok(())
    }

    /// What the operator said is durable.
    pub(super) fn routing_persisted(&mut self, routing: Routing, now: Now) {
        if self.routing.advertised != routing.advertised {
            self.own_record.touch();
        }
        if self.routes.pending.as_ref() == Some(&routing) {
            self.routes.pending = None;
        }
        self.routing = routing;
        self.routes.is_stale = true;
        self.advance_routes(now);
    }

    /// What the operator said could not be made durable.
    pub(super) fn routing_failed(&mut self) {
        self.routes.pending = None;
    }

    /// The host's own networks are others.
    pub(super) fn own_networks_changed(&mut self) {
        self.routes.is_stale = true;
    }
}
