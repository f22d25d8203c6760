use std::net::IpAddr;
use std::ops::RangeInclusive;

use futures::TryStreamExt;
use nix::libc;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder};

use super::error::errno;
use super::{Error, Interface, Netlink, Prefix, Route};

/// The table of routes that the kernel uses unless told (`main`).
pub const MAIN_TABLE: u32 = 254;

/// A rule that says in which table of routes the kernel looks for a packet's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// The lowest come first.
    pub priority: u32,
    /// Whether it is about IPv4; otherwise about IPv6.
    pub is_v4: bool,
    /// For packets from this address only, which is of the same family.
    pub from: Option<IpAddr>,
    /// Not for packets of sockets with this mark (`SO_MARK`).
    pub unless_mark: Option<u32>,
    /// Where the kernel looks.
    pub table: u32,
    /// Whether it looks on elsewhere where only a default route was found.
    pub skips_default: bool,
}

impl Netlink {
    /// Makes the rules whose priority is in a range these and no others. They come into
    /// force in their order, before others of the range go.
    pub async fn set_rules(
        &self,
        priorities: RangeInclusive<u32>,
        rules: &[Rule],
    ) -> Result<(), Error> {
        let mut there = Vec::new();
        for version in [IpVersion::V4, IpVersion::V6] {
            let answers: Vec<RuleMessage> = self
                .handle
                .rule()
                .get(version)
                .execute()
                .try_collect()
                .await
                .map_err(|error| Error::during("list the routing rules", &error))?;
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
        for rule in missing {
            let action = || format!("add the routing rule {rule:?}");
            match add(&self.handle, rule).await {
                Err(error) if errno(&error) != Some(libc::EEXIST) => {
                    return Err(Error::during(action(), &error));
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
                    return Err(Error::during(action, &error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes the routes of a table these and no others: each destination directly on an
    /// interface.
    pub async fn set_table(
        &self,
        table: u32,
        interface: impl Into<Interface<'_>>,
        destinations: &[Prefix],
    ) -> Result<(), Error> {
        let interface = interface.into();
        let index = self.index(interface).await?;
        let there = self.all_routes().await?;
        let there: Vec<(RouteMessage, Route)> = there
            .into_iter()
            .flat_map(|message| {
                let routes = Route::in_table(&message, table);
                routes.into_iter().map(move |route| (message.clone(), route))
            })
            .collect();
        let is_there = |wanted: &Prefix| {
            there.iter().any(|(_, route)| {
                route.destination == wanted.network() && route.interface == Some(index)
            })
        };
        for destination in destinations.iter().filter(|wanted| !is_there(wanted)) {
            let message = message(index, table, *destination);
            match self.handle.route().add(message).execute().await {
                Err(error) if errno(&error) != Some(libc::EEXIST) => {
                    let action = format!("add route {destination} on {interface} to table {table}");
                    return Err(Error::during(action, &error));
                }
                _ => {}
            }
        }
        for (message, route) in there {
            let is_wanted = route.interface == Some(index)
                && destinations.iter().any(|wanted| wanted.network() == route.destination);
            if is_wanted {
                continue;
            }
            match self.handle.route().del(message).execute().await {
                Err(error) if errno(&error) != Some(libc::ESRCH) => {
                    let action = format!("remove {route} from table {table}");
                    return Err(Error::during(action, &error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

async fn add(handle: &Handle, rule: Rule) -> Result<(), rtnetlink::Error> {
    let mut request = handle
        .rule()
        .add()
        .action(RuleAction::ToTable)
        .priority(rule.priority)
        .table_id(rule.table);
    let message = request.message_mut();
    message.header.family = if rule.is_v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    if let Some(from) = rule.from {
        message.header.src_len = if from.is_ipv4() { 32 } else { 128 };
        message.attributes.push(RuleAttribute::Source(from));
    }
    if let Some(mark) = rule.unless_mark {
        message.header.flags.insert(RuleFlags::Invert);
        message.attributes.push(RuleAttribute::FwMark(mark));
    }
    if rule.skips_default {
        message.attributes.push(RuleAttribute::SuppressPrefixLen(0));
    }
    request.execute().await
}

impl Rule {
    /// `None` for one that says more than these do.
    fn from_message(message: &RuleMessage) -> Option<Self> {
        let header = &message.header;
        let mut rule = Self {
            priority: 0,
            is_v4: header.family == AddressFamily::Inet,
            from: None,
            unless_mark: None,
            table: header.table.into(),
            skips_default: false,
        };
        let mut mark = None;
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Priority(priority) => rule.priority = *priority,
                RuleAttribute::Table(table) => rule.table = *table,
                RuleAttribute::Source(from) => rule.from = Some(*from),
                RuleAttribute::FwMark(value) => mark = Some(*value),
                RuleAttribute::FwMask(u32::MAX)
                | RuleAttribute::Protocol(_)
                | RuleAttribute::SuppressPrefixLen(u32::MAX) => {}
                RuleAttribute::SuppressPrefixLen(0) => rule.skips_default = true,
                _ => return None,
            }
        }
        let whole = if rule.is_v4 { 32 } else { 128 };
        let is_host = header.src_len == if rule.from.is_some() { whole } else { 0 };
        let is_inverted = header.flags.contains(RuleFlags::Invert);
        rule.unless_mark = mark;
        let is_ours = header.action == RuleAction::ToTable
            && is_host
            && header.dst_len == 0
            && is_inverted == mark.is_some();
        is_ours.then_some(rule)
    }
}

fn message(index: u32, table: u32, destination: Prefix) -> RouteMessage {
    let destination = destination.network();
    match destination.address {
        IpAddr::V4(address) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .destination_prefix(address, destination.length)
            .output_interface(index)
            .scope(rtnetlink::packet_route::route::RouteScope::Link)
            .table_id(table)
            .build(),
        IpAddr::V6(address) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
            .destination_prefix(address, destination.length)
            .output_interface(index)
            .table_id(table)
            .build(),
    }
}
