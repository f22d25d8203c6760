//! What the engine knows, in the types of the local API.

use std::collections::BTreeMap;

use epsilon_mesh::control::{Condition, InviteView, MemberView, PeerState};
use epsilon_mesh::shard::{self, PeerId};
use epsilon_proto::address::Ipv6Range;
use epsilon_proto::address::is_stream;
use epsilon_proto::api::{
    Admin, AdminState, Alarm, Certificate, Finding, Health, InterfaceStatus, Introduction, Invite,
    InviteCounts, InviteState, MemberCounts, Membership, NetworkStatus, NetworkSummary, Node,
    NodeDetail, NodeRef, OwnNode, Path, PathKind, Peer, PeerState as ApiState, PortMapping,
    PortMappingProtocol, Role, StorageState, StorageStatus, Time,
};
use epsilon_proto::clock::{Instant, Timestamp};
use epsilon_proto::id::{NodeId, PublicKey};
use epsilon_proto::record::Label;
use epsilon_proto::trust::Roles;

use crate::clock;
use crate::network::{PortMappingProtocol as Protocol, PortMappingState, Snapshot};

/// A moment of the engine's clock.
pub(super) fn moment(at: Instant) -> Time {
    let ago = u64::try_from(clock::instant().since(at).as_millis()).unwrap_or(u64::MAX);
    time(Timestamp(clock::wall().0.saturating_sub(ago)))
}

pub(super) fn time(at: Timestamp) -> Time {
    Time::from_unix_ms(at.0)
}

pub(super) fn roles(roles: Roles) -> Vec<Role> {
    [(Roles::MEMBER, Role::Member), (Roles::WORKER, Role::Worker), (Roles::SERVER, Role::Server)]
        .into_iter()
        .filter_map(|(role, name)| roles.contains(role).then_some(name))
        .collect()
}

fn labels(labels: &[Label]) -> BTreeMap<String, String> {
    labels.iter().map(|label| (label.key.to_string(), label.value.to_string())).collect()
}

fn texts<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

pub(super) fn reference(member: &MemberView) -> NodeRef {
    NodeRef { id: member.node.to_string(), name: member.name.as_ref().map(ToString::to_string) }
}

pub(super) fn node_ref(node: NodeId, snapshot: &Snapshot) -> NodeRef {
    let member = snapshot.view.members.iter().find(|member| member.node == node);
    member.map_or_else(|| NodeRef { id: node.to_string(), name: None }, reference)
}

fn state(member: &MemberView) -> ApiState {
    match member.state {
        PeerState::Own | PeerState::Up => ApiState::Up,
        PeerState::Connecting => ApiState::Connecting,
        PeerState::Down => ApiState::Down,
    }
}

/// The way to a member; `None` where there is none, or it does not count.
pub(super) fn path_to(path: Option<shard::Path>, member: &MemberView, snapshot: &Snapshot) -> Path {
    let kind = match path {
        Some(shard::Path::Direct(to)) if is_stream(to) => PathKind::Tls,
        Some(shard::Path::Direct(_)) => PathKind::Direct,
        Some(shard::Path::Relayed(..)) => PathKind::Relayed,
        None => PathKind::None,
    };
    let relay = member.relay.filter(|_| kind == PathKind::Relayed && path == member.path);
    let relay = relay.map(|node| node_ref(node, snapshot));
    let mtu = (path.is_some() && path == member.path).then_some(member.mtu);
    let endpoint = path.map(shard::Path::address);
    let endpoint = endpoint.and_then(|at| {
        let streams = &snapshot.view.streams;
        if is_stream(at) { streams.get(&at).copied() } else { Some(at) }
    });
    Path { kind, endpoint, relay, mtu }
}

pub(super) fn own(snapshot: &Snapshot) -> OwnNode {
    let view = &snapshot.view;
    let member = view.members.iter().find(|member| member.node == view.own);
    OwnNode {
        id: view.own.to_string(),
        name: member.and_then(|own| own.name.as_ref()).map(ToString::to_string),
        ipv4: member.and_then(|own| own.ipv4),
        ipv6: Some(Ipv6Range::of(view.id).node(view.own)),
        roles: member.map(|own| roles(own.roles)).unwrap_or_default(),
        tags: member.map(|own| texts(&own.tags)).unwrap_or_default(),
        site: snapshot.settings.site.as_ref().map(ToString::to_string),
        labels: labels(&snapshot.settings.labels),
        admin: view.is_admin,
    }
}

pub(super) fn counts(snapshot: &Snapshot) -> MemberCounts {
    let members = &snapshot.view.members;
    let count =
        |wanted: ApiState| members.iter().filter(|member| state(member) == wanted).count() as u32;
    MemberCounts {
        total: members.len() as u32,
        up: count(ApiState::Up),
        connecting: count(ApiState::Connecting),
        down: count(ApiState::Down),
    }
}

pub(super) fn is_reachable(snapshot: &Snapshot) -> bool {
    snapshot.view.members.iter().any(|member| member.state == PeerState::Up)
}

pub(super) fn peer(member: &MemberView, snapshot: &Snapshot) -> Peer {
    let stats =
        snapshot.stats.shard.peers.iter().find(|stats| stats.id == PeerId::Node(member.node));
    Peer {
        id: member.node.to_string(),
        name: member.name.as_ref().map(ToString::to_string),
        ipv4: member.ipv4,
        ipv6: member.ipv6.first().copied(),
        state: state(member),
        path: path_to(member.path.filter(|_| state(member) != ApiState::Down), member, snapshot),
        rtt_us: member.rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
        last_seen: member.last_seen.map(time),
        last_handshake: stats.and_then(|stats| stats.last_handshake).map(moment),
        rx_bytes: stats.map_or(0, |stats| stats.received.bytes),
        tx_bytes: stats.map_or(0, |stats| stats.sent.bytes),
        roles: roles(member.roles),
        site: member.site.as_ref().map(ToString::to_string),
        labels: labels(&member.labels),
        admin: member.is_admin,
    }
}

pub(super) fn peers(snapshot: &Snapshot) -> Vec<Peer> {
    let own = snapshot.view.own;
    let others = snapshot.view.members.iter().filter(|member| member.node != own);
    others.map(|member| peer(member, snapshot)).collect()
}

pub(super) fn node(member: &MemberView, snapshot: &Snapshot) -> Node {
    let is_own = member.node == snapshot.view.own;
    Node {
        id: member.node.to_string(),
        name: member.name.as_ref().map(ToString::to_string),
        own: is_own,
        membership: if member.introduced.is_empty() {
            Membership::Unintroduced
        } else {
            Membership::Active
        },
        state: state(member),
        ipv4: member.ipv4,
        ipv6: member.ipv6.first().copied(),
        roles: roles(member.roles),
        tags: texts(&member.tags),
        site: member.site.as_ref().map(ToString::to_string),
        labels: labels(&member.labels),
        admin: member.is_admin,
        last_seen: member.last_seen.map(time),
    }
}

pub(super) fn detail(member: &MemberView, snapshot: &Snapshot) -> NodeDetail {
    let view = &snapshot.view;
    let invite = snapshot.invites.iter().find(|invite| invite.key == member.invite);
    let introduced = member.introduced.iter().min_by_key(|(_, at)| *at);
    let by = |key: &PublicKey| {
        let member = view.members.iter().find(|other| other.node.key() == *key);
        member.map_or_else(
            || NodeRef {
                id: key.to_string(),
                name: (*key == view.id.root()).then(|| "root key".to_owned()),
            },
            reference,
        )
    };
    NodeDetail {
        network: view.network.name.to_string(),
        node: node(member, snapshot),
        certificate: Some(Certificate {
            invite: member.invite.to_string(),
            admin: invite.map(|invite| invite.admin.to_string()),
            issued_at: time(member.certified),
        }),
        introduction: introduced.map(|(key, at)| Introduction { by: by(key), at: time(*at) }),
        path: (member.node != view.own).then(|| path_to(member.path, member, snapshot)),
        endpoints: member.endpoints.iter().map(|endpoint| endpoint.address).collect(),
    }
}

pub(super) fn invite(invite: &InviteView, now: Timestamp) -> Invite {
    let state = if invite.is_revoked {
        InviteState::Revoked
    } else if invite.expires.is_some_and(|expires| expires <= now) {
        InviteState::Expired
    } else if invite.uses.is_some_and(|uses| invite.used >= uses as usize) {
        InviteState::UsedUp
    } else {
        InviteState::Active
    };
    Invite {
        id: invite.key.to_string(),
        state,
        roles: roles(invite.roles),
        tags: texts(&invite.tags),
        created_at: time(invite.issued),
        expires_at: invite.expires.map(time),
        max_uses: invite.uses,
        uses: invite.used as u32,
        admin: Some(invite.admin.to_string()),
    }
}

pub(super) fn admin(
    (key, name, since, holds): &(PublicKey, String, Timestamp, bool),
    snapshot: &Snapshot,
) -> Admin {
    let view = &snapshot.view;
    let member = view.members.iter().find(|member| member.node.key() == *key);
    Admin {
        key: key.to_string(),
        node: Some(
            member.map_or_else(
                || NodeRef { id: key.to_string(), name: Some(name.clone()) },
                reference,
            ),
        ),
        state: if *holds { AdminState::Active } else { AdminState::Revoked },
        added_at: time(*since),
        own: view.own.key() == *key,
    }
}

fn finding(message: impl Into<String>, hint: impl Into<String>) -> Finding {
    Finding { message: message.into(), hint: Some(hint.into()) }
}

fn problems(snapshot: &Snapshot) -> Vec<Finding> {
    let view = &snapshot.view;
    let mut problems = Vec::new();
    if let Some(reason) = &view.storage_failing {
        problems.push(finding(
            format!("the state in {} cannot be written: {reason}", snapshot.dir.display()),
            "make room or make the file system writable; what this node has is still served",
        ));
    }
    if let Some(problem) = &snapshot.interface_problem {
        problems.push(finding(
            format!("the interface {} is not set up: {problem}", snapshot.settings.interface),
            "look at `ip address` for what is in the way; restart meshd afterwards",
        ));
    } else if !snapshot.interface.up {
        problems.push(finding(
            format!("the interface {} is down", snapshot.settings.interface),
            format!("bring it up with: ip link set {} up", snapshot.settings.interface),
        ));
    }
    if let Some(problem) = &snapshot.routing_problem {
        problems.push(finding(
            format!("networks beyond the mesh are not routed as they should be: {problem}"),
            "see `epsilon routes list`; what failed is tried again by itself",
        ));
    }
    if let Some(exit) = view.routing.exit
        && !super::routes::is_up(exit, snapshot)
    {
        let name = node_ref(exit, snapshot);
        let name = name.name.unwrap_or(name.id);
        problems.push(finding(
            format!("the exit {name} is down, so nothing beyond the mesh is reached"),
            "choose another (epsilon exit list), or go without: epsilon exit off",
        ));
    }
    let others = view.members.len() > 1 || !view.token_addresses.is_empty();
    let is_revoked = view.conditions.iter().any(|(what, _)| *what == Condition::Revoked);
    if let Some(refusal) = snapshot.refusal.filter(|_| !is_revoked && !is_reachable(snapshot)) {
        problems.push(finding(
            format!("the other members do not let this node in: {refusal}"),
            "leave with `epsilon mesh leave`, then join with a token that is good",
        ));
    } else if others && !is_revoked && !is_reachable(snapshot) {
        let failed: Vec<String> = snapshot
            .failed_calls
            .iter()
            .take(3)
            .map(|(address, reason)| format!("{address}: {reason}"))
            .collect();
        let mut message = "no other member is reachable".to_owned();
        if !failed.is_empty() {
            message = format!("{message} ({})", failed.join("; "));
        }
        problems.push(finding(
            message,
            "check the network of this machine and that meshd runs on the others",
        ));
    }
    problems
}

fn alarms(snapshot: &Snapshot) -> Vec<Alarm> {
    let view = &snapshot.view;
    let own = view.conditions.iter().map(|(condition, since)| {
        let (message, hint) = match condition {
            Condition::Revoked => (
                "this node was revoked".to_owned(),
                "leave with `epsilon mesh leave`, then join with a new token",
            ),
            Condition::Cloned => (
                "another machine runs with this node's identity".to_owned(),
                "on one of the two: stop meshd, remove its state directory, join again",
            ),
            Condition::ContradictoryGenesis => (
                "there are two genesis blocks for one generation; nobody acts on either".to_owned(),
                "whoever holds the root key must start a new generation",
            ),
            _ => ("something is wrong".to_owned(), "look at: epsilon events"),
        };
        Alarm { since: time(*since), message, hint: Some(hint.to_owned()) }
    });
    let cloned = view.members.iter().filter(|member| member.is_cloned && member.node != view.own);
    let others = cloned.map(|member| Alarm {
        since: time(member.last_seen.unwrap_or(snapshot.started)),
        message: format!(
            "two machines run with the identity of {}",
            member.name.as_ref().map_or_else(|| member.node.short(), ToString::to_string)
        ),
        hint: Some("on one of them: stop meshd, remove its state directory, join again".to_owned()),
    });
    own.chain(others).collect()
}

fn storage(snapshot: &Snapshot) -> StorageStatus {
    let message = snapshot.view.storage_failing.clone();
    let text = message.as_deref().unwrap_or_default();
    let state = match &message {
        None => StorageState::Ok,
        Some(_) if text.contains("No space left") || text.contains("quota") => StorageState::Full,
        Some(_) if text.contains("Read-only file system") => StorageState::ReadOnly,
        Some(_) => StorageState::Failing,
    };
    StorageStatus { state, path: snapshot.dir.display().to_string(), message }
}

fn health(snapshot: &Snapshot, problems: &[Finding], alarms: &[Alarm]) -> Health {
    let view = &snapshot.view;
    if !problems.is_empty() || !alarms.is_empty() {
        Health::Degraded
    } else if view.members.iter().all(|member| member.node != view.own) {
        Health::Joining
    } else {
        Health::Ok
    }
}

pub(super) fn summary(snapshot: &Snapshot) -> NetworkSummary {
    let view = &snapshot.view;
    NetworkSummary {
        network: view.network.name.to_string(),
        id: view.id.to_string(),
        ipv4_range: view.network.range.to_string(),
        interface: snapshot.settings.interface.clone(),
        port: snapshot.settings.port,
        health: health(snapshot, &problems(snapshot), &alarms(snapshot)),
    }
}

pub(super) fn port_mapping(state: &PortMappingState) -> PortMapping {
    let protocol = |protocol| match protocol {
        Protocol::Pcp => PortMappingProtocol::Pcp,
        Protocol::NatPmp => PortMappingProtocol::NatPmp,
        Protocol::Upnp => PortMappingProtocol::Upnp,
    };
    PortMapping {
        router: state.router,
        protocol: state.protocol.map(protocol),
        udp: state.udp.map(Into::into),
        tcp: state.tcp.map(Into::into),
        problem: state.problem.clone(),
    }
}

pub(super) fn status(snapshot: &Snapshot) -> NetworkStatus {
    let view = &snapshot.view;
    let (problems, alarms) = (problems(snapshot), alarms(snapshot));
    let invites: Vec<Invite> =
        snapshot.invites.iter().map(|one| invite(one, view.trusted_time)).collect();
    let own_member = view.members.iter().find(|member| member.node == view.own);
    NetworkStatus {
        network: view.network.name.to_string(),
        id: view.id.to_string(),
        domain: view.network.domain.to_string(),
        ipv4_range: view.network.range.to_string(),
        ipv6_range: Ipv6Range::of(view.id).to_string(),
        health: health(snapshot, &problems, &alarms),
        node: own(snapshot),
        interface: InterfaceStatus {
            name: snapshot.settings.interface.clone(),
            mtu: snapshot.interface.mtu,
            up: snapshot.interface.up,
        },
        port: snapshot.settings.port,
        endpoints: own_member
            .map(|own| own.endpoints.iter().map(|endpoint| endpoint.address).collect())
            .unwrap_or_default(),
        port_mapping: snapshot.port_mapping.as_ref().map(port_mapping),
        members: counts(snapshot),
        reachable: is_reachable(snapshot),
        problems,
        alarms,
        invites: InviteCounts {
            total: invites.len() as u32,
            active: invites.iter().filter(|one| one.state == InviteState::Active).count() as u32,
        },
        storage: storage(snapshot),
        since: time(own_member.map_or(snapshot.started, |own| own.certified)),
        peers: peers(snapshot),
    }
}
