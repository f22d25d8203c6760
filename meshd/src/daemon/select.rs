//! Which node, invite or admin a person means.

use std::net::IpAddr;

use epsilon_mesh::control::{DeviceView, InviteView, MemberView};
use epsilon_proto::api::{Problem, ProblemKind};
use epsilon_proto::id::PublicKey;
use epsilon_proto::name::NodeName;

use crate::network::Snapshot;

/// Shorter beginnings of ids are refused: a typing mistake would hit.
const SHORTEST: usize = 4;

fn unknown(what: &str, text: &str, hint: &str) -> Problem {
    Problem::new(ProblemKind::Error, format!("no {what} is called {text:?}")).hint(hint.to_owned())
}

fn ambiguous(what: &str, text: &str, found: usize) -> Problem {
    Problem::new(ProblemKind::Usage, format!("{found} {what}s begin with {text:?}"))
        .hint("give more of the id".to_owned())
}

/// The one of several things whose id begins with a text.
fn by_id<'a, T>(
    items: impl Iterator<Item = &'a T>,
    id: impl Fn(&T) -> String,
    text: &str,
    what: &str,
) -> Result<Option<&'a T>, Problem> {
    if text.len() < SHORTEST {
        return Ok(None);
    }
    let found: Vec<&T> = items.filter(|item| id(item).starts_with(text)).collect();
    match found[..] {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        _ => Err(ambiguous(what, text, found.len())),
    }
}

/// A member by its name, with or without the domain, its mesh address, or the
/// beginning of its id.
pub(super) fn member<'a>(snapshot: &'a Snapshot, text: &str) -> Result<&'a MemberView, Problem> {
    let members = &snapshot.view.members;
    let name = without_domain(snapshot, text);
    let address: Option<IpAddr> = text.parse().ok();
    let found = members.iter().find(|member| {
        member.name.as_ref().is_some_and(|known| known.as_str().eq_ignore_ascii_case(name))
            || address.is_some_and(|address| match address {
                IpAddr::V4(address) => member.ipv4 == Some(address),
                IpAddr::V6(address) => member.ipv6.contains(&address),
            })
    });
    if let Some(found) = found {
        return Ok(found);
    }
    by_id(members.iter(), |member| member.node.to_string(), text, "node")?.ok_or_else(|| {
        if device(snapshot, text).is_ok() {
            let message = format!("{text:?} is a device, and this needs a node");
            Problem::new(ProblemKind::Usage, message).hint("see: epsilon device list")
        } else {
            unknown("member", text, "list the members with: epsilon node list")
        }
    })
}

/// A device by its name, with or without the domain, its mesh address, or the
/// beginning of its id.
pub(super) fn device<'a>(snapshot: &'a Snapshot, text: &str) -> Result<&'a DeviceView, Problem> {
    let devices = &snapshot.view.devices;
    let name = without_domain(snapshot, text);
    let address: Option<IpAddr> = text.parse().ok();
    let has_name = |known: &NodeName| known.as_str().eq_ignore_ascii_case(name);
    let found = devices.iter().find(|device| {
        device.name.as_ref().is_some_and(has_name)
            || address.is_some_and(|address| match address {
                IpAddr::V4(address) => device.ipv4 == Some(address),
                IpAddr::V6(address) => device.ipv6 == address,
            })
    });
    // One whose name another has is still called so where it is the only one.
    let mut given = devices.iter().filter(|device| device.given.as_str() == name);
    let found = found.or_else(|| given.next().filter(|_| given.next().is_none()));
    if let Some(found) = found {
        return Ok(found);
    }
    by_id(devices.iter(), |device| device.id.to_string(), text, "device")?
        .ok_or_else(|| unknown("device", text, "list the devices with: epsilon device list"))
}

fn without_domain<'a>(snapshot: &Snapshot, text: &'a str) -> &'a str {
    let network = &snapshot.view.network;
    let domain = format!(".{}.{}", network.name, network.domain);
    text.trim_end_matches('.').strip_suffix(&domain).unwrap_or(text)
}

/// An invite by the beginning of its id.
pub(super) fn invite<'a>(snapshot: &'a Snapshot, text: &str) -> Result<&'a InviteView, Problem> {
    by_id(snapshot.invites.iter(), |invite| invite.key.to_string(), text, "invite")?
        .ok_or_else(|| unknown("invite", text, "list the invites with: epsilon token list"))
}

/// An admin by the beginning of its key, or by the member whose key it is.
pub(super) fn admin(snapshot: &Snapshot, text: &str) -> Result<PublicKey, Problem> {
    let by_key = by_id(snapshot.admins.iter(), |(key, ..)| key.to_string(), text, "admin")?;
    if let Some((key, ..)) = by_key {
        return Ok(*key);
    }
    let key = member(snapshot, text).map(|member| member.node.key()).ok();
    key.filter(|key| snapshot.admins.iter().any(|(admin, ..)| admin == key))
        .ok_or_else(|| unknown("admin", text, "list the admins with: epsilon admin list"))
}
