use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use futures::TryStreamExt;
use nix::libc;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteScope, RouteType};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder};

use super::error::errno;
use super::{Error, Interface, Netlink, Prefix, Route};

/// The table of routes that the kernel uses unless told (`main`).
pub const MAIN_TABLE: u32 = 254;

/// Where packets of the host itself seem to come in.
const LOOPBACK: &str = "lo";

/// A rule that says in which table of routes the kernel looks for a packet's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// The lowest come first.
    pub priority: u32,
    /// Whether it is about IPv4; otherwise about IPv6.
    pub is_v4: bool,
    /// For packets from this address only, which is of the same family.
    pub from: Option<IpAddr>,
    /// For packets of sockets with this mark only, or for all others.
    pub mark: Option<Mark>,
    /// For packets of the host itself only, not for what it passes on. Not together with a
    /// mark that excludes.
    pub is_local: bool,
    /// What then.
    pub action: Action,
}

/// A mark of sockets (`SO_MARK`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The mark.
    pub value: u32,
    /// The bits that belong to it.
    pub mask: u32,
    /// Whether those with it are meant, or all others.
    pub excludes: bool,
}

/// What a rule leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// The kernel looks here, and on by the next rules if it finds nothing.
    Look(u32),
    /// The same where only a default route is found.
    LookBesidesDefault(u32),
    /// The packet goes nowhere.
    Unreachable,
}

impl Netlink {
    /// Makes the rules whose priority is in a range these and no others. They come into
    /// force in their order, before others of the range go. What cannot be set is told when
    /// all else is.
    pub async fn set_rules(
        &self,
        priorities: RangeInclusive<u32>,
        rules: &[Rule],
    ) -> Result<(), Error> {
        let mut there = Vec::new();
        for version in [IpVersion::V4, IpVersion::V6] {
            let answers = self.handle.rule().get(version).execute();
            let answers: Vec<RuleMessage> = match answers.try_collect().await {
                // A kernel without IPv6 has none.
                Err(error) if errno(&error) == Some(libc::EAFNOSUPPORT) => continue,
                answers => {
                    answers.map_err(|error| Error::during("list the routing rules", &error))?
                }
            };
            there.extend(answers.into_iter().filter(|message| {
                let priority = message.attributes.iter().find_map(|attribute| match attribute {
                    RuleAttribute::Priority(priority) => Some(*priority),
                    _ => None,
                });
                priority.is_some_and(|priority| priorities.contains(&priority))
            }));
        }
        let known: Vec<Option<Rule>> = there.iter().map(Rule::from_message).collect();
        let mut missing: Vec<Rule> =
            rules.iter().filter(|rule| !known.contains(&Some(**rule))).copied().collect();
        missing.sort_unstable();
        let mut failed = None;
        for rule in missing {
            match add(&self.handle, rule).await {
                Err(error) if errno(&error) != Some(libc::EEXIST) => {
                    let action = format!("add the routing rule {rule:?}");
                    failed.get_or_insert(Error::during(action, &error));
                }
                _ => {}
            }
        }
        for (message, rule) in there.into_iter().zip(known) {
            if rule.is_some_and(|rule| rules.contains(&rule)) {
                continue;
            }
            let action = format!("remove the routing rule {message:?}");
            match self.handle.rule().del(message).execute().await {
                Err(error) if errno(&error) != Some(libc::ENOENT) => {
                    failed.get_or_insert(Error::during(action, &error));
                }
                _ => {}
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Makes the routes of a table these and no others: each destination directly on an
    /// interface, but for the exceptions, for which the kernel looks on elsewhere.
    ///
    /// What cannot be set is told when all else is.
    pub async fn set_table(
        &self,
        table: u32,
        interface: impl Into<Interface<'_>>,
        destinations: &[Prefix],
        exceptions: &[Prefix],
    ) -> Result<(), Error> {
        let interface = interface.into();
        let index = self.index(interface).await?;
        let wanted = destinations.iter().map(|one| (one.network(), Some(index)));
        let wanted: Vec<(Prefix, Option<u32>)> =
            wanted.chain(exceptions.iter().map(|one| (one.network(), None))).collect();
        let there = self.all_routes().await?;
        let there: Vec<(RouteMessage, Route)> = there
            .into_iter()
            .flat_map(|message| {
                let routes = Route::in_table(&message, table);
                routes.into_iter().map(move |route| (message.clone(), route))
            })
            .collect();
        let mut failed = None;
        // Exceptions first: what they are exceptions of is not there without them.
        for (destination, index) in wanted.iter().rev() {
            let is_there = |(_, route): &(RouteMessage, Route)| {
                (route.destination, route.interface) == (*destination, *index)
            };
            if there.iter().any(is_there) {
                continue;
            }
            let message = message(*index, table, *destination);
            match self.handle.route().add(message).execute().await {
                Err(error) if errno(&error) != Some(libc::EEXIST) => {
                    let action = format!("add route {destination} on {interface} to table {table}");
                    failed.get_or_insert(Error::during(action, &error));
                }
                _ => {}
            }
        }
        for (message, route) in there {
            if wanted.contains(&(route.destination, route.interface)) {
                continue;
            }
            match self.handle.route().del(message).execute().await {
                Err(error) if errno(&error) != Some(libc::ESRCH) => {
                    let action = format!("remove {route} from table {table}");
                    failed.get_or_insert(Error::during(action, &error));
                }
                _ => {}
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

async fn add(handle: &Handle, rule: Rule) -> Result<(), rtnetlink::Error> {
    let mut request = handle.rule().add().priority(rule.priority);
    request = match rule.action {
        Action::Look(table) | Action::LookBesidesDefault(table) => {
            request.action(RuleAction::ToTable).table_id(table)
        }
        Action::Unreachable => request.action(RuleAction::Unreachable).table_id(0),
    };
    let message = request.message_mut();
    message.header.family = if rule.is_v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    if let Some(from) = rule.from {
        message.header.src_len = if from.is_ipv4() { 32 } else { 128 };
        message.attributes.push(RuleAttribute::Source(from));
    }
    if let Some(Mark { value, mask, excludes }) = rule.mark {
        message.header.flags.set(RuleFlags::Invert, excludes);
        message.attributes.push(RuleAttribute::FwMark(value));
        message.attributes.push(RuleAttribute::FwMask(mask));
    }
    if rule.is_local {
        message.attributes.push(RuleAttribute::Iifname(LOOPBACK.to_owned()));
    }
    if matches!(rule.action, Action::LookBesidesDefault(_)) {
        message.attributes.push(RuleAttribute::SuppressPrefixLen(0));
    }
    request.execute().await
}

impl Rule {
    /// `None` for one that says more than these do.
    fn from_message(message: &RuleMessage) -> Option<Self> {
        let header = &message.header;
        let is_v4 = header.family == AddressFamily::Inet;
        let (mut priority, mut from, mut is_local) = (0, None, false);
        let (mut value, mut bits) = (None, u32::MAX);
        let (mut table, mut skips_default) = (u32::from(header.table), false);
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Priority(known) => priority = *known,
                RuleAttribute::Table(known) => table = *known,
                RuleAttribute::Source(known) => from = Some(*known),
                RuleAttribute::FwMark(known) => value = Some(*known),
                RuleAttribute::FwMask(known) => bits = *known,
                RuleAttribute::Iifname(name) if name == LOOPBACK => is_local = true,
                RuleAttribute::Protocol(_) | RuleAttribute::SuppressPrefixLen(u32::MAX) => {}
                RuleAttribute::SuppressPrefixLen(0) => skips_default = true,
                _ => return None,
            }
        }
        let whole = if is_v4 { 32 } else { 128 };
        let is_host = header.src_len == if from.is_some() { whole } else { 0 };
        let excludes = header.flags.contains(RuleFlags::Invert);
        let action = match (header.action, skips_default) {
            (RuleAction::ToTable, false) => Action::Look(table),
            (RuleAction::ToTable, true) => Action::LookBesidesDefault(table),
            (RuleAction::Unreachable, false) => Action::Unreachable,
            _ => return None,
        };
        let is_ours = is_host && header.dst_len == 0 && (value.is_some() || !excludes);
        let mark = value.map(|value| Mark { value, mask: bits, excludes });
        is_ours.then_some(Self { priority, is_v4, from, mark, is_local, action })
    }
}

/// Without an interface the route is an exception.
fn message(index: Option<u32>, table: u32, destination: Prefix) -> RouteMessage {
    let kind = if index.is_some() { RouteType::Unicast } else { RouteType::Throw };
    let scope = match destination.address {
        IpAddr::V4(_) if index.is_some() => RouteScope::Link,
        _ => RouteScope::Universe,
    };
    let mut message = match destination.address {
        IpAddr::V4(address) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(address, destination.length)
            .scope(scope)
            .kind(kind)
            .table_id(table)
            .build(),
        IpAddr::V6(address) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(address, destination.length)
            .scope(scope)
            .kind(kind)
            .table_id(table)
            .build(),
    };
    message.attributes.extend(index.map(RouteAttribute::Oif));
    message
}
