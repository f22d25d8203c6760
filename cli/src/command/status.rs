//! `status`: what works, what does not, and what to do about it.

use std::fmt::Write as _;

use epsilon_proto::api::{
    BrokenNetwork, Health, NetworkStatus, PortMapping, PortMappingProtocol, ProblemKind, Status,
    StorageState, paths,
};

use super::{Context, count, not_joined, peers};
use crate::args::Format;
use crate::human::{self, clean};
use crate::screen::Look;
use crate::style::Tone;
use crate::table::{Cell, Table};
use crate::{Exit, Failure};

pub(super) async fn run(context: &Context) -> Result<Exit, Failure> {
    let status: Status = context.client.get(paths::STATUS, &[]).await?;
    let screen = &context.screen;
    if !screen.quiet || screen.format != Format::Table {
        screen.show(&status, |look| render(&status, look))?;
    }
    let exit = verdict(&status);
    if status.networks.is_empty() && status.broken.is_empty() && screen.format == Format::Table {
        return Err(not_joined().into());
    }
    Ok(exit)
}

/// The exit code: that of the worst network.
fn verdict(status: &Status) -> Exit {
    let is = |health| status.networks.iter().any(|network| network.health == health);
    if !status.broken.is_empty() || is(Health::Degraded) {
        ProblemKind::Degraded.into()
    } else if status.networks.is_empty() || is(Health::Joining) {
        ProblemKind::NotJoined.into()
    } else {
        Exit::OK
    }
}

fn render(status: &Status, look: Look) -> String {
    let served = status.networks.iter().map(|network| block(status, network, look));
    let blocks: Vec<String> =
        served.chain(status.broken.iter().map(|network| broken(network, look))).collect();
    blocks.join("\n")
}

fn broken(network: &BrokenNetwork, look: Look) -> String {
    let paint = |tone, text: &str| look.palette.paint(tone, text).into_owned();
    format!(
        "{} {}  {}\n\n  {} {}\n    {} mend that, it is tried again by itself; or give the network \
         up: epsilon mesh leave --network {}\n",
        paint(Tone::Bad, "●"),
        paint(Tone::Strong, &clean(&network.network)),
        paint(Tone::Bad, "cannot be served"),
        paint(Tone::Bad, "!"),
        paint(Tone::Bad, &clean(&network.reason)),
        paint(Tone::Strong, "next:"),
        clean(&network.network),
    )
}

fn block(status: &Status, network: &NetworkStatus, look: Look) -> String {
    let paint = |tone, text: &str| look.palette.paint(tone, text).into_owned();
    let now = status.daemon.now;
    let (tone, word) = headline(network);
    let mut text = format!(
        "{} {}  {}\n",
        paint(tone, "●"),
        paint(Tone::Strong, &clean(&network.network)),
        paint(tone, &word)
    );

    let node = &network.node;
    let mut facts = Table::new(&["", ""]);
    let mut say = |what: &'static str, value: String| {
        facts.row([Cell::new(format!("  {what}"), Tone::Faint), value.into()]);
    };
    let mut this = human::name(node.name.as_deref(), &node.id);
    let _ = write!(this, ", {}", human::roles(&node.roles));
    if node.admin {
        this.push_str(", admin");
    }
    if let Some(site) = &node.site {
        let _ = write!(this, ", site {site}");
    }
    say("node", this);
    say("ipv4", node.ipv4.map_or("not claimed yet".into(), |address| address.to_string()));
    say("ipv6", node.ipv6.map_or("not there yet".into(), |address| address.to_string()));
    say(
        "interface",
        format!(
            "{} {}, MTU {}, port {}",
            network.interface.name,
            if network.interface.up { "up" } else { "down" },
            network.interface.mtu,
            network.port
        ),
    );
    if let Some(router) = network.port_mapping.as_ref().and_then(router) {
        say("router", router);
    }
    say("members", members(network));
    say("invites", format!("{} active of {}", network.invites.active, network.invites.total));
    if network.storage.state != StorageState::Ok {
        say("storage", storage(network));
    }
    say(
        "since",
        format!(
            "{} UTC ({}), daemon {} {}",
            human::moment(network.since),
            human::ago(network.since, now),
            status.daemon.version,
            match human::ago(status.daemon.started_at, now).strip_suffix(" ago") {
                Some(up) => format!("up {up}"),
                None => "just started".into(),
            }
        ),
    );
    text.push_str(&facts.render_bare(look.palette));

    let mut warn = |tone, message: &str, hint: Option<&str>| {
        let _ = write!(text, "\n  {} {}\n", paint(tone, "!"), paint(tone, &clean(message)));
        if let Some(hint) = hint {
            let _ = writeln!(text, "    {} {}", paint(Tone::Strong, "next:"), clean(hint));
        }
    };
    for alarm in &network.alarms {
        let message = format!("alarm, {}: {}", human::ago(alarm.since, now), alarm.message);
        warn(Tone::Bad, &message, alarm.hint.as_deref());
    }
    for finding in &network.problems {
        warn(Tone::Fair, &finding.message, finding.hint.as_deref());
    }

    if !network.peers.is_empty() {
        text.push('\n');
        text.push_str(&peers::brief(&network.peers, now, look));
    }
    text
}

/// The state of a network in a few words.
fn headline(network: &NetworkStatus) -> (Tone, String) {
    let found: Vec<String> = [(network.alarms.len(), "alarm"), (network.problems.len(), "problem")]
        .into_iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, word)| count(number, word))
        .collect();
    let tone = match (network.health, network.alarms.is_empty()) {
        (_, false) => Tone::Bad,
        (Health::Ok, true) => Tone::Good,
        (Health::Joining | Health::Degraded, true) => Tone::Fair,
    };
    let word = match network.health {
        Health::Joining => "joining",
        Health::Degraded => "degraded",
        Health::Ok if network.members.total <= 1 => "ok, alone so far",
        Health::Ok => "ok",
    };
    if found.is_empty() {
        (tone, word.into())
    } else {
        (tone, format!("{word}: {}", found.join(", ")))
    }
}

/// `3: 2 up, 1 down`.
fn members(network: &NetworkStatus) -> String {
    let members = network.members;
    let mut text = format!("{}: {} up", members.total, members.up);
    for (number, word) in [(members.connecting, "connecting"), (members.down, "down")] {
        if number > 0 {
            let _ = write!(text, ", {number} {word}");
        }
    }
    if members.total > 1 && !network.reachable {
        text.push_str(", none reachable");
    }
    text
}

/// `203.0.113.9:7755 (UDP and TCP), by UPnP`.
pub(super) fn router(mapping: &PortMapping) -> Option<String> {
    let router = mapping.router?;
    let ports = match (mapping.udp, mapping.tcp) {
        (Some(udp), Some(tcp)) if udp == tcp => Some(format!("{udp} (UDP and TCP)")),
        (Some(udp), Some(tcp)) => Some(format!("{udp} (UDP), {tcp} (TCP)")),
        (Some(udp), None) => Some(format!("{udp} (UDP)")),
        (None, Some(tcp)) => Some(format!("{tcp} (TCP)")),
        (None, None) => None,
    };
    let protocol = mapping.protocol.map(|protocol| match protocol {
        PortMappingProtocol::Pcp => "PCP",
        PortMappingProtocol::NatPmp => "NAT-PMP",
        PortMappingProtocol::Upnp => "UPnP",
    });
    let Some((ports, protocol)) = ports.zip(protocol) else {
        return Some(format!("{router}, which gives no ports"));
    };
    let problem = mapping.problem.as_ref().map(|problem| format!("; {}", clean(problem)));
    Some(format!("{ports}, by {protocol}{}", problem.unwrap_or_default()))
}

fn storage(network: &NetworkStatus) -> String {
    let storage = &network.storage;
    let state = match storage.state {
        StorageState::Ok => "fine",
        StorageState::ReadOnly => "read-only",
        StorageState::Full => "full",
        _ => "failing",
    };
    match &storage.message {
        Some(message) => format!("{state}: {message} ({})", storage.path),
        None => format!("{state} ({})", storage.path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_router_says_what_it_gave_and_by_which_protocol_or_that_it_gave_nothing() {
        let at = |text: &str| Some(text.parse().unwrap());
        let mapping = |udp, tcp, protocol| PortMapping {
            router: Some([192, 168, 1, 1].into()),
            protocol,
            udp,
            tcp,
            problem: None,
        };
        let (one, other) = (at("203.0.113.9:7755"), at("203.0.113.9:20001"));
        let upnp = Some(PortMappingProtocol::Upnp);
        for (mapping, text) in [
            (mapping(one, one, upnp), "203.0.113.9:7755 (UDP and TCP), by UPnP"),
            (mapping(one, None, upnp), "203.0.113.9:7755 (UDP), by UPnP"),
            (
                mapping(one, other, Some(PortMappingProtocol::Pcp)),
                "203.0.113.9:7755 (UDP), 203.0.113.9:20001 (TCP), by PCP",
            ),
            (mapping(None, None, None), "192.168.1.1, which gives no ports"),
        ] {
            assert_eq!(router(&mapping).as_deref(), Some(text));
        }
        let nowhere = PortMapping { router: None, ..mapping(None, None, None) };
        assert_eq!(router(&nowhere), None);
        let hidden = PortMapping { problem: Some("behind NAT".into()), ..mapping(one, one, upnp) };
        let text = router(&hidden).unwrap();
        assert!(text.ends_with("by UPnP; behind NAT"), "{text}");
    }
}
