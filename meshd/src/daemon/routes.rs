//! Networks beyond the mesh: changing and showing what is reached how.

use epsilon_mesh::control::{Operation, PeerState, RouteChange};
use epsilon_mesh::saved::{Accepted, Advertised};
use epsilon_proto::api::{
    AcceptedRoutes, AdvertisedRoute, ExitState, NodeRef, Problem, ProblemKind, Route,
    RouteChangeRequest, RouteConflict, RouteList,
};
use epsilon_proto::id::NodeId;
use epsilon_proto::prefix::Prefix;
use epsilon_sys::netlink::Netlink;

use super::answer::{Asked, usage};
use super::{render, select};
use crate::network::{self, Conflict, Snapshot};

/// All networks there are, in requests.
const ALL: &str = "all";

impl Asked {
    pub(super) async fn change_routes(
        &self,
        snapshot: &Snapshot,
        request: RouteChangeRequest,
    ) -> Result<RouteList, Problem> {
        let is_masqueraded = !request.no_masquerade;
        let advertised = |prefix| Advertised { prefix, is_masqueraded };
        let mut change = RouteChange {
            advertise: prefixes(&request.advertise)?.into_iter().map(advertised).collect(),
            withdraw: prefixes(&request.withdraw)?,
            accept: accepted(&blocks(&request.accept)?, &request.from, snapshot)?,
            reject: blocks(&request.reject)?,
            exit: None,
        };
        let routing = &snapshot.view.routing;
        for all in [Prefix::ALL_V4, Prefix::ALL_V6] {
            let is_offered = routing.advertised.iter().any(|own| own.prefix == all);
            match request.offer_exit {
                Some(true) => change.advertise.push(advertised(all)),
                Some(false) if is_offered => change.withdraw.push(all),
                Some(false) | None => {}
            }
        }
        if let Some(exit) = request.exit.as_deref() {
            change.exit = Some(exit_of(exit, request.force, snapshot)?);
        }
        if !request.force {
            let netlink = Netlink::open().map_err(failed)?;
            let accept: Vec<Prefix> = change.accept.iter().map(|one| one.prefix).collect();
            let conflicts = network::conflicts(&netlink, &accept).await.map_err(failed)?;
            if let Some((prefix, conflict)) =
                conflicts.iter().find(|(_, conflict)| conflict.is_total)
            {
                let routes = conflict.routes.join(", ");
                return Err(usage(format!(
                    "{prefix} is reached by a route of this machine: {routes}"
                ))
                .hint(
                    "that stays in force, so nothing would go through the mesh; renumber one of \
                     the two networks, or accept it for later with --force",
                ));
            }
        }
        self.operate(Operation::ChangeRoutes(change)).await?;
        self.routes(&self.snapshot().await?).await
    }

    pub(super) async fn routes(&self, snapshot: &Snapshot) -> Result<RouteList, Problem> {
        let view = &snapshot.view;
        let netlink = Netlink::open().map_err(failed)?;
        let networks: Vec<Prefix> = view.routes.iter().map(|route| route.prefix).collect();
        let conflicts = network::conflicts(&netlink, &networks).await.map_err(failed)?;
        let of_host = netlink.routes().await.map_err(failed)?;
        let is_led_to = |prefix: Prefix| {
            prefix.is_everything()
                || of_host.iter().any(|route| {
                    let known = Prefix::new(route.destination.address, route.destination.length);
                    !known.is_everything() && known.overlaps(prefix)
                })
        };
        let node = |node: &NodeId| render::node_ref(*node, snapshot);
        let offers = |node: &NodeId| {
            let defaults = view.routes.iter().filter(|route| route.prefix.is_everything());
            defaults.into_iter().any(|route| route.providers.contains(node))
        };
        let others = view.members.iter().map(|member| member.node).filter(|one| *one != view.own);
        let own = &view.routing;
        Ok(RouteList {
            network: self.name.to_string(),
            advertised: own
                .advertised
                .iter()
                .filter(|one| !one.prefix.is_everything())
                .map(|one| AdvertisedRoute {
                    prefix: one.prefix.to_string(),
                    masquerade: one.is_masqueraded,
                    problem: (!is_led_to(one.prefix))
                        .then(|| "this machine has no route to it but the default one".to_owned()),
                })
                .collect(),
            accepted: own
                .accepted
                .iter()
                .map(|one| AcceptedRoutes {
                    prefix: one.prefix.to_string(),
                    from: one.from.as_ref().map(node),
                })
                .collect(),
            routes: view
                .routes
                .iter()
                .filter(|route| !route.prefix.is_everything())
                .map(|route| Route {
                    prefix: route.prefix.to_string(),
                    accepted: route.is_accepted,
                    via: route.via.as_ref().map(node),
                    providers: route.providers.iter().map(node).collect(),
                    conflict: conflict_of(route.prefix, &conflicts),
                })
                .collect(),
            exit: ExitState {
                offered: own.advertised.iter().any(|one| one.prefix.is_everything()),
                using: own.exit.as_ref().map(node),
                works: own.exit.is_some_and(|exit| offers(&exit) && is_up(exit, snapshot)),
                offers: others.filter(offers).map(|one| node(&one)).collect::<Vec<NodeRef>>(),
            },
            problem: snapshot.routing_problem.clone(),
        })
    }
}

/// What a request accepts, and from whom.
fn accepted(
    blocks: &[Prefix],
    from: &[String],
    snapshot: &Snapshot,
) -> Result<Vec<Accepted>, Problem> {
    if from.is_empty() {
        return Ok(blocks.iter().map(|prefix| Accepted { prefix: *prefix, from: None }).collect());
    }
    let nodes = from.iter().map(|text| select::member(snapshot, text).map(|one| one.node));
    let nodes: Vec<NodeId> = nodes.collect::<Result<_, Problem>>()?;
    let all = blocks.iter().flat_map(|prefix| {
        nodes.iter().map(|from| Accepted { prefix: *prefix, from: Some(*from) })
    });
    Ok(all.collect())
}

/// Whether a member is up.
pub(super) fn is_up(node: NodeId, snapshot: &Snapshot) -> bool {
    let member = snapshot.view.members.iter().find(|member| member.node == node);
    member.is_some_and(|member| matches!(member.state, PeerState::Up | PeerState::Own))
}

/// The exit that a request names.
fn exit_of(text: &str, force: bool, snapshot: &Snapshot) -> Result<Option<NodeId>, Problem> {
    if text.is_empty() {
        return Ok(None);
    }
    let member = select::member(snapshot, text)?;
    if !is_up(member.node, snapshot) && !force {
        let name = render::reference(member);
        let name = name.name.unwrap_or(name.id);
        return Err(Problem::new(
            ProblemKind::Degraded,
            format!("{name} is not up, so nothing beyond the mesh would be reached"),
        )
        .hint("choose another exit (epsilon exit list), or use it all the same with --force"));
    }
    Ok(Some(member.node))
}

fn conflict_of(prefix: Prefix, conflicts: &[(Prefix, Conflict)]) -> Option<RouteConflict> {
    let (_, conflict) = conflicts.iter().find(|(known, _)| *known == prefix)?;
    Some(RouteConflict { total: conflict.is_total, routes: conflict.routes.clone() })
}

fn prefixes(texts: &[String]) -> Result<Vec<Prefix>, Problem> {
    texts.iter().map(|text| text.parse().map_err(usage)).collect()
}

/// The same where `all` may be said.
fn blocks(texts: &[String]) -> Result<Vec<Prefix>, Problem> {
    let (all, named): (Vec<String>, Vec<String>) =
        texts.iter().cloned().partition(|text| text == ALL);
    let everything = [Prefix::ALL_V4, Prefix::ALL_V6];
    let named = prefixes(&named)?;
    if named.iter().any(|prefix| prefix.is_everything()) {
        return Err(usage("a default route is not accepted as networks are").hint(
            "every network: epsilon routes accept all; everything else: epsilon exit use NODE",
        ));
    }
    Ok(if all.is_empty() { named } else { [&named[..], &everything].concat() })
}

fn failed(error: impl std::fmt::Display) -> Problem {
    Problem::new(ProblemKind::Error, error.to_string())
}
