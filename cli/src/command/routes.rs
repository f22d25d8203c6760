//! `routes advertise | withdraw | accept | reject | list` and `exit use | off | offer |
//! withdraw | list`.

use epsilon_proto::api::{
    AcceptedRoutes, NodeRef, ProblemKind, Route, RouteChangeRequest, RouteConflict, RouteList,
    paths,
};

use super::Context;
use crate::args::{ExitCommand, Routes};
use crate::human;
use crate::screen::{Look, Screen};
use crate::table::Table;
use crate::{Exit, Failure};

pub(super) async fn run(command: Routes, context: &Context) -> Result<Exit, Failure> {
    let request = match command {
        Routes::List => return list(context).await,
        Routes::Advertise { cidr, no_masquerade } => {
            RouteChangeRequest { advertise: cidr, no_masquerade, ..Default::default() }
        }
        Routes::Withdraw { cidr } => RouteChangeRequest { withdraw: cidr, ..Default::default() },
        Routes::Accept { cidr, from, force } => {
            RouteChangeRequest { accept: cidr, from, force, ..Default::default() }
        }
        Routes::Reject { cidr } => RouteChangeRequest { reject: cidr, ..Default::default() },
    };
    let list: RouteList = context.client.post(paths::ROUTES_CHANGE, &request).await?;
    show(&list, &context.screen)
}

async fn list(context: &Context) -> Result<Exit, Failure> {
    let list: RouteList = context.client.get(paths::ROUTES, &[]).await?;
    show(&list, &context.screen)
}

fn show(list: &RouteList, screen: &Screen) -> Result<Exit, Failure> {
    screen.show(list, |look| render(list, look))?;
    if list.advertised.is_empty() && list.routes.is_empty() {
        screen.note(
            "No network beyond the mesh is known; lead to one with: epsilon routes advertise CIDR",
        );
    }
    if !list.accepted.is_empty() {
        let accepted: Vec<String> = list.accepted.iter().map(block).collect();
        screen.note(&format!("Accepted: {}.", accepted.join(", ")));
    }
    for own in &list.advertised {
        if let Some(problem) = &own.problem {
            screen.note(&format!("{}: {problem}.", own.prefix));
        }
    }
    let open = list.routes.iter().filter(|route| !route.accepted);
    if open.clone().next().is_some() {
        screen.note("Accept a network with: epsilon routes accept CIDR, or all of them with: all");
    }
    for route in list.routes.iter().filter(|route| route.accepted) {
        if let Some(conflict) = &route.conflict {
            screen.note(&explain(route, conflict));
        }
    }
    if let Some(problem) = &list.problem {
        screen.note(&format!("This machine does not route as it should: {problem}."));
        return Ok(ProblemKind::Degraded.into());
    }
    Ok(Exit::OK)
}

/// `192.168.10.0/24 from n2`; what stands for every network is said in words.
fn block(accepted: &AcceptedRoutes) -> String {
    let what = match accepted.prefix.as_str() {
        "0.0.0.0/0" => "all of IPv4",
        "::/0" => "all of IPv6",
        prefix => prefix,
    };
    let from = accepted.from.as_ref().map(|node| format!(" from {}", human::node(node)));
    format!("{what}{}", from.unwrap_or_default())
}

fn explain(route: &Route, conflict: &RouteConflict) -> String {
    let routes = conflict.routes.join(", ");
    if conflict.total {
        format!("{} is not reached through the mesh: {routes} goes first.", route.prefix)
    } else {
        format!("{} is reached through the mesh except for {routes}.", route.prefix)
    }
}

fn render(list: &RouteList, look: Look) -> String {
    if list.advertised.is_empty() && list.routes.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["NETWORK", "STATE", "VIA", "OTHERS"]).dispensable(&["OTHERS"]);
    for own in &list.advertised {
        let how = if own.masquerade { "advertised" } else { "advertised, not masqueraded" };
        table.row([own.prefix.clone().into(), how.into(), "this node".into(), "-".into()]);
    }
    for route in &list.routes {
        let state = match (&route.conflict, route.accepted) {
            (_, false) => "not accepted",
            (Some(RouteConflict { total: true, .. }), true) => "conflict",
            (Some(_), true) => "accepted in part",
            (None, true) => "accepted",
        };
        let via = route.via.as_ref().map(human::node).unwrap_or_default();
        let others = route.providers.iter().filter(|other| Some(*other) != route.via.as_ref());
        let others: Vec<String> = others.map(human::node).collect();
        table.row([
            route.prefix.clone().into(),
            state.into(),
            human::or_dash(via).into(),
            human::or_dash(others.join(", ")).into(),
        ]);
    }
    table.render(look.palette, look.width)
}

pub(super) async fn exit(command: ExitCommand, context: &Context) -> Result<Exit, Failure> {
    let request = match command {
        ExitCommand::List => {
            let list: RouteList = context.client.get(paths::ROUTES, &[]).await?;
            return show_exit(&list, &context.screen);
        }
        ExitCommand::Use { node, force } => {
            RouteChangeRequest { exit: Some(node), force, ..Default::default() }
        }
        ExitCommand::Off => RouteChangeRequest { exit: Some(String::new()), ..Default::default() },
        ExitCommand::Offer => RouteChangeRequest { offer_exit: Some(true), ..Default::default() },
        ExitCommand::Withdraw => {
            RouteChangeRequest { offer_exit: Some(false), ..Default::default() }
        }
    };
    let list: RouteList = context.client.post(paths::ROUTES_CHANGE, &request).await?;
    show_exit(&list, &context.screen)
}

fn show_exit(list: &RouteList, screen: &Screen) -> Result<Exit, Failure> {
    let exit = &list.exit;
    screen.show(list, |_| {
        let name = |node: &NodeRef| human::node(node);
        let offers: Vec<String> = exit.offers.iter().map(name).collect();
        let mut lines = vec![match &exit.using {
            Some(node) => format!("Everything beyond is reached through {}.", name(node)),
            None => "This machine uses its own way out.".to_owned(),
        }];
        if exit.offered {
            lines.push("It offers to be an exit for others.".to_owned());
        }
        if !offers.is_empty() {
            lines.push(format!("Exits that are offered: {}.", offers.join(", ")));
        }
        human::clean(&lines.join(" ")) + "\n"
    })?;
    if exit.using.is_some() && !exit.works {
        screen.note(
            "It is down or does not offer to be an exit any more, so nothing beyond is reached; \
             choose another, or: epsilon exit off",
        );
        return Ok(ProblemKind::Degraded.into());
    }
    if let Some(problem) = &list.problem {
        screen.note(&format!("This machine does not route as it should: {problem}."));
        return Ok(ProblemKind::Degraded.into());
    }
    Ok(Exit::OK)
}
