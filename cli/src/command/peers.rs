//! `peers`, `ip` and `whois`: who is there, and where.

use std::net::IpAddr;

use epsilon_proto::api::{
    Membership, NodeDetail, Peer, PeerList, PeerState, Problem, ProblemKind, Status, Time, paths,
};
use serde::Serialize;

use super::{Context, now, only_network};
use crate::human;
use crate::screen::Look;
use crate::style::Tone;
use crate::table::{Cell, Table};
use crate::{Exit, Failure};

pub(super) async fn peers(context: &Context) -> Result<Exit, Failure> {
    let list: PeerList = context.client.get(paths::PEERS, &[]).await?;
    context.screen.show(&list, |look| full(&list.peers, now(), look))?;
    if list.peers.is_empty() {
        context.screen.note("No other member is known yet; see: epsilon status");
    }
    Ok(Exit::OK)
}

/// The addresses of a node.
#[derive(Serialize)]
struct Addresses {
    addresses: Vec<IpAddr>,
}

pub(super) async fn ip(
    context: &Context,
    node: Option<&str>,
    ipv4: bool,
    ipv6: bool,
) -> Result<Exit, Failure> {
    let (name, v4, v6) = if let Some(of) = node {
        let detail: NodeDetail = context.client.get(paths::WHOIS, &[("of", of)]).await?;
        (of.to_owned(), detail.node.ipv4, detail.node.ipv6)
    } else {
        let status: Status = context.client.get(paths::STATUS, &[]).await?;
        let own = &only_network(&status)?.node;
        ("this node".to_owned(), own.ipv4, own.ipv6)
    };
    let addresses: Vec<IpAddr> = v4
        .filter(|_| !ipv6)
        .map(IpAddr::V4)
        .into_iter()
        .chain(v6.filter(|_| !ipv4).map(IpAddr::V6))
        .collect();
    if addresses.is_empty() {
        return Err(Problem::new(ProblemKind::Error, format!("{name} has no such address yet"))
            .hint("see what is missing with: epsilon status")
            .into());
    }
    let addresses = Addresses { addresses };
    context.screen.show(&addresses, |_| human::lines(&addresses.addresses))?;
    Ok(Exit::OK)
}

pub(super) async fn whois(context: &Context, of: &str) -> Result<Exit, Failure> {
    let detail: NodeDetail = context.client.get(paths::WHOIS, &[("of", of)]).await?;
    context.screen.show(&detail, |look| facts(&detail, now(), look))?;
    Ok(Exit::OK)
}

/// The table in `status`.
pub(super) fn brief(peers: &[Peer], now: Time, look: Look) -> String {
    let mut table = Table::new(&[
        "  PEER",
        "ADDRESS",
        "STATE",
        "PATH",
        "RTT",
        "MTU",
        "SEEN",
        "HANDSHAKE",
        "RX",
        "TX",
    ])
    .dispensable(&["HANDSHAKE", "MTU", "TX", "RX", "SEEN", "RTT"]);
    for peer in peers {
        table.row([
            format!("  {}", human::name(peer.name.as_deref(), &peer.id)).into(),
            address(peer).into(),
            state(peer.state),
            human::path(&peer.path).into(),
            rtt(peer).into(),
            mtu(peer).into(),
            seen(peer, now).into(),
            handshake(peer, now).into(),
            human::bytes(peer.rx_bytes).into(),
            human::bytes(peer.tx_bytes).into(),
        ]);
    }
    table.render(look.palette, look.width)
}

fn full(peers: &[Peer], now: Time, look: Look) -> String {
    if peers.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[
        "NAME",
        "IPV4",
        "STATE",
        "PATH",
        "RTT",
        "MTU",
        "SEEN",
        "HANDSHAKE",
        "RX",
        "TX",
        "ROLES",
        "SITE",
        "IPV6",
        "LABELS",
    ])
    .dispensable(&[
        "LABELS",
        "IPV6",
        "SITE",
        "ROLES",
        "HANDSHAKE",
        "MTU",
        "TX",
        "RX",
        "SEEN",
        "RTT",
    ]);
    for peer in peers {
        let mut roles = human::roles(&peer.roles);
        if peer.admin {
            roles.push_str(",admin");
        }
        table.row([
            human::name(peer.name.as_deref(), &peer.id).into(),
            human::or_dash(peer.ipv4.map(|address| address.to_string()).unwrap_or_default()).into(),
            state(peer.state),
            human::path(&peer.path).into(),
            rtt(peer).into(),
            mtu(peer).into(),
            seen(peer, now).into(),
            handshake(peer, now).into(),
            human::bytes(peer.rx_bytes).into(),
            human::bytes(peer.tx_bytes).into(),
            roles.into(),
            human::or_dash(peer.site.clone().unwrap_or_default()).into(),
            human::or_dash(peer.ipv6.map(|address| address.to_string()).unwrap_or_default()).into(),
            labels(peer).into(),
        ]);
    }
    table.render(look.palette, look.width)
}

fn facts(detail: &NodeDetail, now: Time, look: Look) -> String {
    let node = &detail.node;
    let mut table = Table::new(&["", ""]);
    let mut say = |what: &'static str, value: Cell| {
        table.row([Cell::new(what, Tone::Faint), value]);
    };
    let own = if node.own { " (this node)" } else { "" };
    say("name", format!("{}{own}", human::name(node.name.as_deref(), &node.id)).into());
    say("id", node.id.as_str().into());
    say("network", detail.network.as_str().into());
    let (word, tone) = membership(node.membership);
    say("membership", Cell::new(word, tone));
    say("state", state(node.state));
    if let Some(address) = node.ipv4 {
        say("ipv4", address.to_string().into());
    }
    if let Some(address) = node.ipv6 {
        say("ipv6", address.to_string().into());
    }
    if let Some(path) = &detail.path {
        say("path", human::path(path).into());
        if let Some(mtu) = path.mtu {
            say("path MTU", mtu.to_string().into());
        }
    }
    if !detail.endpoints.is_empty() {
        let endpoints = detail.endpoints.iter().map(ToString::to_string);
        say("endpoints", human::list(endpoints).into());
    }
    let mut roles = human::roles(&node.roles);
    if node.admin {
        roles.push_str(",admin");
    }
    say("roles", roles.into());
    say("tags", human::list(&node.tags).into());
    say("site", human::or_dash(node.site.clone().unwrap_or_default()).into());
    let labels = node.labels.iter().map(|(key, value)| format!("{key}={value}"));
    say("labels", human::list(labels).into());
    if let Some(seen) = node.last_seen {
        say("seen", human::ago(seen, now).into());
    }
    if let Some(certificate) = &detail.certificate {
        let admin = match &certificate.admin {
            Some(admin) => format!(", invited by {}", human::short(admin)),
            None => String::new(),
        };
        say(
            "certificate",
            format!(
                "invite {}, issued {} UTC{admin}",
                human::short(&certificate.invite),
                human::moment(certificate.issued_at)
            )
            .into(),
        );
    }
    say(
        "introduction",
        match &detail.introduction {
            Some(introduction) => format!(
                "by {}, {} UTC",
                human::node(&introduction.by),
                human::moment(introduction.at)
            ),
            None => "none yet".into(),
        }
        .into(),
    );
    table.render_bare(look.palette)
}

/// The word for a membership, and how it is meant.
pub(super) fn membership(membership: Membership) -> (&'static str, Tone) {
    match membership {
        Membership::Active => ("active", Tone::Good),
        Membership::Unintroduced => ("unintroduced", Tone::Fair),
        Membership::Left => ("left", Tone::Faint),
        Membership::Revoked => ("revoked", Tone::Bad),
        Membership::Replaced => ("replaced", Tone::Faint),
        _ => ("unknown", Tone::Faint),
    }
}

/// The word for a state, in its colour.
pub(super) fn state(state: PeerState) -> Cell {
    let tone = match state {
        PeerState::Up => Tone::Good,
        PeerState::Connecting => Tone::Fair,
        PeerState::Down => Tone::Bad,
    };
    Cell::new(human::state(state), tone)
}

fn address(peer: &Peer) -> String {
    let address = peer.ipv4.map(IpAddr::V4).or(peer.ipv6.map(IpAddr::V6));
    human::or_dash(address.map(|address| address.to_string()).unwrap_or_default())
}

fn rtt(peer: &Peer) -> String {
    human::or_dash(peer.rtt_us.map(human::round_trip).unwrap_or_default())
}

fn seen(peer: &Peer, now: Time) -> String {
    match peer.last_seen {
        Some(seen) => human::ago(seen, now),
        None => "never".into(),
    }
}

fn mtu(peer: &Peer) -> String {
    human::or_dash(peer.path.mtu.map(|mtu| mtu.to_string()).unwrap_or_default())
}

fn handshake(peer: &Peer, now: Time) -> String {
    human::or_dash(peer.last_handshake.map(|at| human::ago(at, now)).unwrap_or_default())
}

fn labels(peer: &Peer) -> String {
    human::list(peer.labels.iter().map(|(key, value)| format!("{key}={value}")))
}
