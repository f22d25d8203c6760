//! What the engine's events say to people: in the journal of the local API
//! and in the log.

use epsilon_mesh::event::Event;
use epsilon_proto::api::{EventKind, NodeRef, Severity, Time};
use epsilon_proto::id::NodeId;
use epsilon_proto::name::{NetworkName, NodeName};

use crate::api::Entry;
use crate::clock;

/// The entry for an event; `None` for what is of no interest to people.
pub(crate) fn entry(
    event: &Event,
    network: &NetworkName,
    name_of: impl Fn(NodeId) -> Option<NodeName>,
) -> Option<Entry> {
    let called = |node: NodeId| name_of(node).map_or_else(|| node.short(), |name| name.to_string());
    let formerly = |node: NodeId, name: Option<&NodeName>| {
        name.map_or_else(|| node.short(), |name| format!("{name} ({})", node.short()))
    };
    let (kind, node, message, hint): (_, _, _, Option<&str>) = match event {
        Event::MemberJoined(node) => {
            (EventKind::MemberAdded, Some(*node), format!("{} is a member", called(*node)), None)
        }
        Event::MemberLeft(node, name) => (
            EventKind::MemberRemoved,
            Some(*node),
            format!("{} left", formerly(*node, name.as_ref())),
            None,
        ),
        Event::MemberRevoked(node, name) => (
            EventKind::Revoked,
            Some(*node),
            format!("{} was revoked and is cut off", formerly(*node, name.as_ref())),
            None,
        ),
        Event::PeerUp(node) => {
            (EventKind::PeerUp, Some(*node), format!("{} is linked", called(*node)), None)
        }
        Event::PeerDown(node) => {
            (EventKind::PeerDown, Some(*node), format!("{} is not linked", called(*node)), None)
        }
        Event::PeerRestarted(node) => (
            EventKind::PeerUp,
            Some(*node),
            format!("the daemon of {} was started again", called(*node)),
            None,
        ),
        Event::Refused(node, refusal) => (
            EventKind::Refused,
            Some(*node),
            format!("{} was not let in: {refusal}", called(*node)),
            None,
        ),
        Event::RefusedBy(node, refusal) => (
            EventKind::Refused,
            Some(*node),
            format!("{} does not let this node in: {refusal}", called(*node)),
            None,
        ),
        Event::AddressTaken(address) => {
            (EventKind::ClaimChanged, None, format!("this node has the address {address}"), None)
        }
        Event::AddressLost(address) => (
            EventKind::ClaimChanged,
            None,
            format!("this node gave up the address {address}, another had it first"),
            Some(
                "this happens when a divided network comes together; update what names the address",
            ),
        ),
        Event::NameTaken(name) => {
            (EventKind::ClaimChanged, None, format!("this node has the name {name}"), None)
        }
        Event::NameLost(name) => (
            EventKind::ClaimChanged,
            None,
            format!("this node gave up the name {name}, another had it first"),
            Some("choose another with: epsilon node rename"),
        ),
        Event::DeviceAdded(id, name, owner) => (
            EventKind::DeviceChanged,
            Some(*owner),
            format!("the device {name} ({}) is there, by {}", id.short(), called(*owner)),
            None,
        ),
        Event::DevicesChanged(count) => (
            EventKind::DeviceChanged,
            None,
            format!("{count} devices were added, removed, or are served by other nodes"),
            Some("see: epsilon device list"),
        ),
        Event::DevicesWithoutSeat => (
            EventKind::DeviceChanged,
            None,
            "this node is a fallback of more devices than it can serve".to_owned(),
            Some("devices of which nobody heard long enough can be removed: epsilon device list"),
        ),
        Event::DeviceRemoved(id, name) => (
            EventKind::DeviceChanged,
            None,
            format!("the device {name} ({}) is gone", id.short()),
            None,
        ),
        Event::DeviceMoved(id, name, server) => (
            EventKind::DeviceChanged,
            Some(*server),
            format!("the device {name} ({}) is served by {}", id.short(), called(*server)),
            None,
        ),
        Event::DeviceDisplaced(id, name) => (
            EventKind::ClaimChanged,
            None,
            format!(
                "the device {name} ({}) has lost its name or its IPv4 address to another",
                id.short()
            ),
            Some(
                "this happens when a divided network comes together; remove the device and add it again",
            ),
        ),
        Event::PathMoved(node, path) => (
            EventKind::PathChanged,
            Some(*node),
            match path {
                Some(path) => format!("packets to {} travel to {path}", called(*node)),
                None => {
                    format!("there is no open way to {}; one is made when needed", called(*node))
                }
            },
            None,
        ),
        Event::RouteMoved(prefix, via) => (
            EventKind::RouteChanged,
            *via,
            match via {
                Some(via) => format!("{prefix} is reached through {}", called(*via)),
                None => format!("{prefix} is reached through nobody"),
            },
            None,
        ),
        Event::Cloned { node, boots: [one, other] } => (
            EventKind::ClonedIdentity,
            Some(*node),
            format!(
                "two machines run with the identity of {} (runs {} and {})",
                called(*node),
                one.short(),
                other.short()
            ),
            Some("stop one of them, remove its state directory and join it again"),
        ),
        Event::SelfRevoked => (
            EventKind::Revoked,
            None,
            "this node was revoked".to_owned(),
            Some("to come back, leave with `epsilon mesh leave` and join with a new token"),
        ),
        Event::StorageFailing(reason) => (
            EventKind::Storage,
            None,
            format!("the state cannot be written: {reason}"),
            Some("make room or make the file system writable; nothing is lost meanwhile"),
        ),
        Event::StorageRecovered => {
            (EventKind::Storage, None, "the state can be written again".to_owned(), None)
        }
        Event::ContradictoryGenesis(generation) => (
            EventKind::Conflict,
            None,
            format!(
                "there are two genesis blocks for generation {generation}; nobody acts on either"
            ),
            Some("whoever holds the root key must start a new generation"),
        ),
        Event::AdminRevoked(key) => (
            EventKind::Revoked,
            Some(NodeId::from(*key)),
            format!("the admin key {} was revoked", key.short()),
            None,
        ),
        Event::GateChanged(epoch) => {
            (EventKind::Revoked, None, format!("gate epoch {epoch} is in force"), None)
        }
        _ => return None,
    };
    let severity = match event {
        _ if event.is_alarm() => Severity::Alarm,
        Event::Refused(..) | Event::RefusedBy(..) | Event::PeerDown(_) => Severity::Warning,
        _ => Severity::Info,
    };
    Some(Entry {
        at: Time::from_unix_ms(clock::wall().0),
        kind,
        severity,
        network: Some(network.to_string()),
        node: node.map(|node| NodeRef {
            id: node.to_string(),
            name: name_of(node).map(|name| name.to_string()),
        }),
        message,
        hint: hint.map(str::to_owned),
    })
}

/// Writes an entry to the log.
pub(crate) fn log(entry: &Entry) {
    let network = entry.network.as_deref().unwrap_or_default();
    let (message, hint) = (&entry.message, entry.hint.as_deref());
    match entry.severity {
        Severity::Info => tracing::info!(network, "{message}"),
        Severity::Warning => tracing::warn!(network, hint, "{message}"),
        Severity::Alarm => tracing::error!(network, hint, "{message}"),
    }
}
