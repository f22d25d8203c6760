//! Which rules and routes the host needs: a function of what is reached through the mesh.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use epsilon_proto::prefix::Prefix;
use epsilon_sys::netlink::{self, Link, MAIN_TABLE, Route, Rule};

use crate::mark::MARK;
use crate::network::interface::is_mesh;

/// Where the tables and the rules of all meshes begin.
const FIRST_TABLE: u32 = 7755;
const FIRST_PRIORITY: u32 = 5500;
/// The rules of one mesh.
const RULES: u32 = 3;

/// The place of one mesh among those of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(u32);

impl Place {
    /// By the number in the name of its interface: two never have the same.
    pub(super) fn of(interface: &str) -> Self {
        let number = interface.trim_start_matches(|letter: char| !letter.is_ascii_digit());
        Self(number.parse().unwrap_or(0) % 5000)
    }

    pub(super) fn table(self) -> u32 {
        FIRST_TABLE + self.0
    }

    pub(super) fn priorities(self) -> RangeInclusive<u32> {
        let first = FIRST_PRIORITY + self.0 * RULES;
        first..=first + RULES - 1
    }

    /// The rules under which networks are reached through the mesh without anything else
    /// being reached otherwise than before:
    ///
    /// 1. What is sent from an address of the host itself goes as ever: answers to whoever
    ///    came from outside, a person at a terminal above all.
    /// 2. Routes of the host itself go first, but for default routes.
    /// 3. The rest looks into the table of the mesh, but for what makes up the mesh.
    pub(super) fn rules(self, own: &[IpAddr]) -> Vec<Rule> {
        let first = *self.priorities().start();
        let main = |priority, is_v4| Rule {
            priority,
            is_v4,
            from: None,
            unless_mark: None,
            table: MAIN_TABLE,
            skips_default: false,
        };
        let mut rules: Vec<Rule> = own
            .iter()
            .map(|from| Rule { from: Some(*from), ..main(first, from.is_ipv4()) })
            .collect();
        for is_v4 in [true, false] {
            rules.push(Rule { skips_default: true, ..main(first + 1, is_v4) });
            let table = self.table();
            rules.push(Rule { unless_mark: Some(MARK), table, ..main(first + 2, is_v4) });
        }
        rules
    }
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

/// The same as netlink takes it.
pub(super) fn destination(prefix: Prefix) -> netlink::Prefix {
    netlink::Prefix::new(prefix.address(), prefix.length())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meshes_of_one_host_have_tables_and_rules_of_their_own() {
        let (one, other) = (Place::of("eps0"), Place::of("eps1"));
        assert_ne!(one.table(), other.table());
        assert!(one.priorities().all(|priority| !other.priorities().contains(&priority)));
        assert_eq!(*one.priorities().start(), FIRST_PRIORITY);
        assert!(*Place::of("eps4999").priorities().end() < 32_766);
    }

    #[test]
    fn the_hosts_own_addresses_and_routes_go_first() {
        let own = ["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()];
        let rules = Place::of("eps0").rules(&own);
        assert_eq!(rules.len(), 6);
        for rule in rules {
            assert!(Place::of("eps0").priorities().contains(&rule.priority));
            match rule.priority - FIRST_PRIORITY {
                0 => assert!(own.contains(&rule.from.unwrap()) && rule.table == MAIN_TABLE),
                1 => assert!(rule.skips_default && rule.table == MAIN_TABLE),
                _ => assert_eq!((rule.unless_mark, rule.table), (Some(MARK), FIRST_TABLE)),
            }
        }
    }
}
