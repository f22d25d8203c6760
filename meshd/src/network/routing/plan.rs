//! Which rules and routes the host needs: a function of what is reached through the mesh.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use epsilon_mesh::shard;
use epsilon_proto::prefix::Prefix;
use epsilon_sys::netlink::{self, Action, Address, Link, MAIN_TABLE, Mark, Route, Rule};

use crate::mark::{MARK, MASK};
use crate::network::interface::is_mesh;

/// The most meshes of a host that have tables and rules of their own.
const MESHES: u32 = 1000;
/// Where the tables of all meshes begin, and the rules that lead to them: those to networks
/// come before those to exits, of whichever mesh.
const NETWORKS: Range = Range { table: 7755, priority: 5500, rules: 3 };
const EXITS: Range = Range {
    table: NETWORKS.table + MESHES,
    priority: NETWORKS.priority + MESHES * NETWORKS.rules,
    rules: 3,
};

/// Tables, one of each mesh, and rules, some of each.
struct Range {
    table: u32,
    priority: u32,
    rules: u32,
}

impl Range {
    fn priorities(&self, Place(place): Place) -> RangeInclusive<u32> {
        let first = self.priority + place * self.rules;
        first..=first + self.rules - 1
    }
}

/// The place of one mesh among those of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(u32);

/// What the host needs to reach some networks through a mesh.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Ways {
    /// The rules that lead there.
    pub(super) rules: Vec<Rule>,
    /// The table's routes through the interface of the mesh.
    pub(super) routes: Vec<netlink::Prefix>,
    /// What is reached as ever nevertheless.
    pub(super) exceptions: Vec<netlink::Prefix>,
}

impl Place {
    /// By the number in the name of its interface: two never have the same.
    pub(super) fn of(interface: &str) -> Self {
        let number = interface.trim_start_matches(|letter: char| !letter.is_ascii_digit());
        Self(number.parse().unwrap_or(0) % MESHES)
    }

    /// The tables to networks and to the exit, and the priorities of the rules for them.
    pub(super) fn tables(self) -> [(u32, RangeInclusive<u32>); 2] {
        [NETWORKS, EXITS].map(|range| (range.table + self.0, range.priorities(self)))
    }

    /// How networks are reached without anything else being reached otherwise than before:
    ///
    /// 1. What is sent from an address of the host itself goes as ever: answers to whoever
    ///    came from outside, a person at a terminal above all.
    /// 2. Routes of the host itself go first, but for default routes.
    /// 3. The rest looks into the table of the mesh, but for what makes up the mesh.
    pub(super) fn networks(self, beyond: &[Prefix], own: &[IpAddr]) -> Ways {
        let networks = beyond.iter().copied().filter(|prefix| !prefix.is_everything());
        if beyond.is_empty() {
            return Ways::default();
        }
        let [(table, priorities), _] = self.tables();
        let first = *priorities.start();
        let as_ever = Action::Look(MAIN_TABLE);
        let mut rules: Vec<Rule> = own
            .iter()
            .map(|from| Rule { from: Some(*from), ..rule(first, from.is_ipv4(), as_ever) })
            .collect();
        for is_v4 in [true, false] {
            rules.push(rule(first + 1, is_v4, Action::LookBesidesDefault(MAIN_TABLE)));
            let unless = Some(mark(true));
            rules.push(Rule { mark: unless, ..rule(first + 2, is_v4, Action::Look(table)) });
        }
        Ways { rules, routes: networks.map(destination).collect(), exceptions: Vec::new() }
    }

    /// How everything else is reached through an exit, behind the rules above: what the host
    /// itself sends to public addresses. What makes up the mesh goes as ever or nowhere, and
    /// what the host passes on for others as ever: it may be an answer to whoever came from
    /// outside.
    pub(super) fn exit(self, beyond: &[Prefix]) -> Ways {
        let defaults: Vec<Prefix> =
            beyond.iter().copied().filter(|prefix| prefix.is_everything()).collect();
        if defaults.is_empty() {
            return Ways::default();
        }
        let [_, (table, priorities)] = self.tables();
        let first = *priorities.start();
        let mut rules = Vec::new();
        for is_v4 in [true, false] {
            let own = Some(mark(false));
            let as_ever = rule(first, is_v4, Action::Look(MAIN_TABLE));
            let nowhere = rule(first + 1, is_v4, Action::Unreachable);
            rules.extend([Rule { mark: own, ..as_ever }, Rule { mark: own, ..nowhere }]);
            rules.push(Rule { is_local: true, ..rule(first + 2, is_v4, Action::Look(table)) });
        }
        let routes = defaults.into_iter().map(destination).collect();
        Ways { rules, routes, exceptions: shard::not_public().map(destination).collect() }
    }
}

fn rule(priority: u32, is_v4: bool, action: Action) -> Rule {
    Rule { priority, is_v4, from: None, mark: None, is_local: false, action }
}

/// The mark of the daemon's own sockets, or of all others.
fn mark(excludes: bool) -> Mark {
    Mark { value: MARK, mask: MASK, excludes }
}

/// The routes of the host that keep some of a network, or all of it, from being reached
/// through a mesh: they go first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Whether nothing of the network is reached through the mesh.
    pub is_total: bool,
    /// The routes, as a person knows them: `10.0.0.0/8 on eth0`.
    pub routes: Vec<String>,
}

/// The conflict of a network with the routes of the main table.
pub(super) fn conflict(network: Prefix, routes: &[Route], links: &[Link]) -> Option<Conflict> {
    let mut conflict = Conflict { is_total: false, routes: Vec::new() };
    for route in routes {
        let link = links.iter().find(|link| Some(link.index) == route.interface);
        let destination = Prefix::new(route.destination.address, route.destination.length);
        let is_of_mesh = link.is_some_and(is_mesh);
        if is_of_mesh || destination.is_everything() || !destination.overlaps(network) {
            continue;
        }
        conflict.is_total |= destination.covers(network);
        conflict.routes.push(match link {
            Some(link) => format!("{destination} on {}", link.name),
            None => destination.to_string(),
        });
    }
    (!conflict.routes.is_empty() && !network.is_everything()).then_some(conflict)
}

/// The addresses of the host outside of meshes, whatever for: also those that are temporary,
/// on their way out, or on no link.
pub(super) fn own_addresses(links: &[Link], addresses: &[Address]) -> Vec<IpAddr> {
    let is_of_mesh = |index: u32| links.iter().any(|link| link.index == index && is_mesh(link));
    let outside = addresses.iter().filter(|address| !is_of_mesh(address.interface));
    let outside = outside.map(|address| address.prefix.address);
    let mut own: Vec<IpAddr> = outside
        .filter(|address| match address {
            IpAddr::V4(address) => !address.is_loopback(),
            IpAddr::V6(address) => !(address.is_loopback() || address.is_unicast_link_local()),
        })
        .collect();
    own.sort_unstable();
    own.dedup();
    own
}

/// The same as netlink takes it.
pub(super) fn destination(prefix: Prefix) -> netlink::Prefix {
    netlink::Prefix::new(prefix.address(), prefix.length())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn meshes_of_one_host_have_tables_and_rules_of_their_own_and_exits_come_last() {
        let [networks, exit] = Place::of("eps0").tables();
        let [other_networks, _] = Place::of("eps1").tables();
        assert_ne!(networks.0, other_networks.0);
        assert!(networks.1.end() < other_networks.1.start());
        let [last, last_exit] = Place::of("eps999").tables();
        assert!(last.1.end() < exit.1.start() && *last_exit.1.end() < 32_766);
        assert!(last.0 < exit.0);
    }

    #[test]
    fn the_hosts_own_addresses_and_routes_go_first() {
        let own = ["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()];
        let place = Place::of("eps0");
        let [(table, priorities), _] = place.tables();
        let beyond = [prefix("192.168.10.0/24"), Prefix::ALL_V4];
        let Ways { rules, routes, .. } = place.networks(&beyond, &own);
        assert_eq!((rules.len(), routes.len()), (6, 1));
        for rule in rules {
            assert!(priorities.contains(&rule.priority));
            match rule.priority - priorities.start() {
                0 => assert!(own.contains(&rule.from.unwrap())),
                1 => assert_eq!(rule.action, Action::LookBesidesDefault(MAIN_TABLE)),
                _ => assert_eq!((rule.mark, rule.action), (Some(mark(true)), Action::Look(table))),
            }
        }
        assert_eq!(place.networks(&[], &own), Ways::default());
    }

    #[test]
    fn an_exit_is_for_what_the_host_sends_to_public_addresses() {
        let place = Place::of("eps0");
        assert_eq!(place.exit(&[prefix("192.168.10.0/24")]), Ways::default());
        let Ways { rules, routes, exceptions } = place.exit(&[Prefix::ALL_V4, Prefix::ALL_V6]);
        assert_eq!((rules.len(), routes.len()), (6, 2));
        let [_, (table, _)] = place.tables();
        let to_exit = rules.iter().filter(|rule| rule.action == Action::Look(table));
        assert!(to_exit.clone().count() == 2 && to_exit.clone().all(|rule| rule.is_local));
        assert!(exceptions.contains(&destination(prefix("169.254.0.0/16"))));
    }
}
