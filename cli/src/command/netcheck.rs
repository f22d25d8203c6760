//! `netcheck`: how this machine is connected, and what that means.

use std::time::Duration;

use epsilon_proto::api::{FamilyCheck, Filtering, Mapping, Netcheck, PortMapping, Udp, paths};

use super::Context;
use super::status::router;
use crate::human::{self, clean};
use crate::screen::Look;
use crate::table::Table;
use crate::{Exit, Failure};

/// The daemon measures for a while.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) async fn run(context: &Context) -> Result<Exit, Failure> {
    let client = context.patient(PATIENCE);
    let check: Netcheck = client.get(paths::NETCHECK, &[]).await?;
    context.screen.show(&check, |look| render(&check, look))?;
    Ok(Exit::OK)
}

fn render(check: &Netcheck, look: Look) -> String {
    let mtu = check.mtu.map_or_else(|| "unknown".to_owned(), |mtu| format!("{mtu} bytes"));
    let relays: Vec<String> = check.relays.iter().map(human::node).collect();
    let lines = [
        ("UDP", udp(check.udp).to_owned()),
        ("IPv4", family(&check.ipv4)),
        ("IPv6", family(&check.ipv6)),
        ("NAT mapping", mapping(check.mapping).to_owned()),
        ("Filtering", filtering(check.filtering).to_owned()),
        ("Port mapping", port_mapping(check.port_mapping.as_ref())),
        ("MTU", mtu),
        ("Relays", human::or_dash(relays.join(", "))),
    ];
    let mut text = String::new();
    for (name, value) in lines {
        text.push_str(&clean(&format!("{name:<12} {value}")));
        text.push('\n');
    }
    if !check.hubs.is_empty() {
        let mut table = Table::new(&["MEMBER", "ROUND TRIP", "PATH", "OPEN"]);
        for hub in &check.hubs {
            let rtt = hub.rtt_us.map_or_else(|| "no answer".to_owned(), human::round_trip);
            let open = if hub.open { "yes" } else { "no" };
            table.row([
                human::node(&hub.node).into(),
                rtt.into(),
                human::path(&hub.path).into(),
                open.into(),
            ]);
        }
        text.push('\n');
        text.push_str(&table.render(look.palette, look.width));
    }
    text.push('\n');
    text.push_str(&clean(&check.meaning));
    text.push('\n');
    if let Some(advice) = &check.advice {
        text.push_str(&clean(&format!("To improve it: {advice}.")));
        text.push('\n');
    }
    text
}

fn family(check: &FamilyCheck) -> String {
    if check.addresses.is_empty() {
        return "no address".to_owned();
    }
    let addresses: Vec<String> = check.addresses.iter().map(ToString::to_string).collect();
    let seen: Vec<String> = check.seen_as.iter().map(ToString::to_string).collect();
    let seen =
        if seen.is_empty() { "by nobody".to_owned() } else { format!("as {}", seen.join(", ")) };
    format!("{}; seen elsewhere {seen}", addresses.join(", "))
}

fn port_mapping(mapping: Option<&PortMapping>) -> String {
    let Some(mapping) = mapping else { return "switched off".to_owned() };
    router(mapping).unwrap_or_else(|| "not needed, there is no router of IPv4 between".to_owned())
}

fn udp(udp: Udp) -> &'static str {
    match udp {
        Udp::Works => "works",
        Udp::Blocked => "blocked",
        Udp::Unknown => "unknown",
    }
}

fn mapping(mapping: Mapping) -> &'static str {
    match mapping {
        Mapping::None => "none",
        Mapping::EndpointIndependent => "endpoint-independent (one port for everybody)",
        Mapping::EndpointDependent => "endpoint-dependent, symmetric (another port for everybody)",
        Mapping::Unknown => "unknown",
    }
}

fn filtering(filtering: Filtering) -> &'static str {
    match filtering {
        Filtering::EndpointIndependent => "endpoint-independent (lets everybody in)",
        Filtering::EndpointDependent => "endpoint-dependent (lets in what was asked for)",
        Filtering::Unknown => "unknown (no member to ask to which nothing was sent lately)",
    }
}
