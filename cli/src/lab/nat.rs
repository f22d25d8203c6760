//! NATs between a site and the others, as rules of nftables: pure, so that they can
//! be read off without a lab.

use std::fmt::{self, Write as _};
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How a NAT behaves, in the terms of RFC 4787.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// One outer port for a host, on which everybody reaches it once it has sent
    /// anything ("full cone").
    EndpointIndependent,
    /// The same, for addresses to which it has sent.
    AddressRestricted,
    /// The same, for addresses and ports to which it has sent.
    PortRestricted,
    /// Another, random outer port for everybody to whom a host sends.
    Symmetric,
    /// No UDP passes.
    UdpBlocked,
}

const KINDS: [(&str, Kind); 5] = [
    ("endpoint-independent", Kind::EndpointIndependent),
    ("address-restricted", Kind::AddressRestricted),
    ("port-restricted", Kind::PortRestricted),
    ("symmetric", Kind::Symmetric),
    ("udp-blocked", Kind::UdpBlocked),
];

/// For so many seconds mappings last, the least that RFC 4787 allows.
const LASTS: u32 = 120;

/// A NAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nat {
    /// How it behaves.
    pub kind: Kind,
    /// Whether hosts behind it reach each other by its outer address.
    pub hairpin: bool,
    /// For how many seconds a leave to come in lasts after what last went out.
    pub lasts: u32,
}

impl Nat {
    /// One without hairpinning.
    pub const fn new(kind: Kind) -> Self {
        Self { kind, hairpin: false, lasts: LASTS }
    }

    /// The same with hairpinning.
    #[must_use]
    pub const fn hairpin(self) -> Self {
        Self { hairpin: true, ..self }
    }

    /// The same with mappings that last for so many seconds.
    #[must_use]
    pub const fn lasting(self, lasts: u32) -> Self {
        Self { lasts, ..self }
    }
}

impl fmt::Display for Nat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = KINDS.iter().find(|(_, kind)| *kind == self.kind).map_or("", |(name, _)| name);
        let hairpin = if self.hairpin { "+hairpin" } else { "" };
        write!(f, "{name}{hairpin}")?;
        if self.lasts != LASTS {
            write!(f, "+lasts={}s", self.lasts)?;
        }
        Ok(())
    }
}

/// `port-restricted`, `endpoint-independent+hairpin`, `symmetric+lasts=20s`.
impl FromStr for Nat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (text, lasts) = match text.rsplit_once("+lasts=") {
            Some((text, lasts)) => {
                let seconds = lasts.strip_suffix('s').and_then(|number| number.parse().ok());
                let seconds = seconds.filter(|number| (1..=86_400).contains(number));
                (text, seconds.ok_or("mappings last a number of seconds, such as +lasts=20s")?)
            }
            None => (text, LASTS),
        };
        let (name, hairpin) = match text.strip_suffix("+hairpin") {
            Some(name) => (name, true),
            None => (text, false),
        };
        let kind = KINDS.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind);
        let kind = kind.ok_or_else(|| {
            let known: Vec<&str> = KINDS.iter().map(|(name, _)| *name).collect();
            format!("{name:?} is no kind of NAT; use {}, or carrier-grade", known.join(", "))
        })?;
        if hairpin && matches!(kind, Kind::Symmetric | Kind::UdpBlocked) {
            return Err(format!("no hairpinning with {name}"));
        }
        Ok(Self { kind, hairpin, lasts })
    }
}

/// The endpoint of a daemon behind a NAT, and the port that it has outside.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mapped {
    pub(super) address: Ipv4Addr,
    pub(super) port: u16,
    pub(super) outside: u16,
}

/// The table of rules, in place of the one that was there.
pub(super) const TABLE: &str = "epsilon-lab";

/// The rules of a NAT between `lan` and `wan`: those for the ports of the mesh by the
/// letter, everything else as Linux does it.
pub(super) fn rules(nat: Nat, outer: Ipv4Addr, mapped: &[Mapped]) -> String {
    let Nat { kind, hairpin, lasts } = nat;
    let mut text = format!("table ip {TABLE}\ndelete table ip {TABLE}\ntable ip {TABLE} {{\n");
    // Writing to a string does not fail.
    let mut say = |line: &str| {
        let _ = writeln!(text, "  {line}");
    };
    let pairs = |pair: fn(&Mapped) -> String| -> String {
        mapped.iter().map(pair).collect::<Vec<_>>().join(", ")
    };
    let is_cone = !matches!(kind, Kind::Symmetric | Kind::UdpBlocked);
    // What a filter depends on: of the host, and of whoever it sent to.
    let (types, sent, comes) = match kind {
        Kind::EndpointIndependent => ("", "", ""),
        Kind::AddressRestricted => (" . ipv4_addr", " . ip daddr", " . ip saddr"),
        _ => (" . ipv4_addr . inet_service", " . ip daddr . udp dport", " . ip saddr . udp sport"),
    };
    if is_cone {
        let inward = pairs(|one| format!("{} : {} . {}", one.outside, one.address, one.port));
        let outward = pairs(|one| format!("{} . {} : {}", one.address, one.port, one.outside));
        let members = pairs(|one| format!("{} . {}", one.address, one.port));
        say(&format!(
            "set sent {{ type ipv4_addr . inet_service{types}; flags dynamic,timeout; timeout {lasts}s; }}"
        ));
        say(&format!(
            "set mapped {{ type ipv4_addr . inet_service; elements = {{ {members} }}; }}"
        ));
        say(&format!(
            "map inward {{ type inet_service : ipv4_addr . inet_service; elements = {{ {inward} }}; }}"
        ));
        say(&format!(
            "map outward {{ type ipv4_addr . inet_service : inet_service; elements = {{ {outward} }}; }}"
        ));
        say("chain prerouting {");
        say("  type nat hook prerouting priority dstnat; policy accept;");
        let side = if hairpin { "" } else { "iifname \"wan\" " };
        say(&format!("  {side}ip daddr {outer} dnat ip addr . port to udp dport map @inward"));
        say("}");
    }
    say("chain postrouting {");
    say("  type nat hook postrouting priority srcnat; policy accept;");
    if is_cone {
        say(&format!(
            "  oifname \"wan\" meta l4proto udp snat ip to {outer} : ip saddr . udp sport map @outward"
        ));
        if hairpin {
            say(&format!(
                "  iifname \"lan\" oifname \"lan\" meta l4proto udp ct status dnat snat ip to {outer} : ip saddr . udp sport map @outward"
            ));
        }
    }
    // The ports that other programs send from stay theirs.
    let random =
        if kind == Kind::Symmetric { "meta l4proto udp masquerade fully-random" } else { "" };
    if !random.is_empty() {
        say(&format!("  oifname \"wan\" {random}"));
    }
    say("  oifname \"wan\" masquerade");
    say("}");
    say("chain forward {");
    say("  type filter hook forward priority filter; policy drop;");
    if kind == Kind::UdpBlocked {
        say("  meta l4proto udp drop");
    }
    if is_cone {
        say(&format!(
            "  iifname \"lan\" ip saddr . udp sport @mapped update @sent {{ ip saddr . udp sport{sent} }}"
        ));
        say("  iifname \"lan\" oifname \"wan\" accept");
        say(&format!("  ip daddr . udp dport{comes} @sent accept"));
        say("  ip daddr . udp dport @mapped drop");
    } else {
        say("  iifname \"lan\" oifname \"wan\" accept");
        // Forwarded by rules of others, as for whoever asked a router for a port.
        say("  ct status dnat accept");
    }
    say("  ct state established,related accept");
    say("}");
    // What it drops itself leaves no trace that could take the port of what goes out.
    say("chain input {");
    say("  type filter hook input priority filter; policy accept;");
    say("  iifname \"wan\" ct state new drop");
    say("}");
    text.push_str("}\n");
    text
}

/// The rules of a gateway for IPv6: nobody comes in who was not asked.
pub(super) fn firewall() -> String {
    format!(
        "table ip6 {TABLE}\ndelete table ip6 {TABLE}\ntable ip6 {TABLE} {{\n\
           chain forward {{\n\
             type filter hook forward priority filter; policy drop;\n\
             iifname \"lan\" accept\n\
             ct state established,related accept\n\
             meta l4proto ipv6-icmp accept\n\
           }}\n\
         }}\n"
    )
}

/// The rules of a gateway that says nothing when a packet is too large for it, and sends
/// no fragments of it instead.
pub(super) fn silence() -> String {
    format!(
        "table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n\
           chain output {{\n\
             type filter hook output priority filter; policy accept;\n\
             icmp type destination-unreachable icmp code frag-needed drop\n\
             icmpv6 type packet-too-big drop\n\
           }}\n\
         }}\n\
         table netdev {TABLE}\ndelete table netdev {TABLE}\ntable netdev {TABLE} {{\n\
           chain egress {{\n\
             type filter hook egress devices = {{ lan, wan }} priority filter; policy accept;\n\
             ip frag-off & 0x3fff != 0 drop\n\
           }}\n\
         }}\n"
    )
}

/// The outer port of a host, behind one NAT or several, `reboots` starts after the
/// first: another one each time.
pub(super) fn outside(host: u8, reboots: u32) -> u16 {
    20_000 + (reboots % 100) as u16 * 256 + u16::from(host)
}

/// The rules of a switch that lets nothing pass between ports.
pub(super) fn separation(pairs: &[(String, String)]) -> String {
    let mut text = format!(
        "table bridge {TABLE}\ndelete table bridge {TABLE}\ntable bridge {TABLE} {{\n\
           chain forward {{\n\
             type filter hook forward priority filter; policy accept;\n"
    );
    for (one, other) in pairs {
        for (from, to) in [(one, other), (other, one)] {
            // Writing to a string does not fail.
            let _ = writeln!(text, "iifname \"{from}\" oifname \"{to}\" drop");
        }
    }
    text.push_str("}\n}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_read_as_they_are_shown() {
        for (name, kind) in KINDS {
            let nat: Nat = name.parse().unwrap();
            assert_eq!((nat.kind, nat.hairpin, nat.to_string().as_str()), (kind, false, name));
        }
        let nat: Nat = "port-restricted+hairpin".parse().unwrap();
        assert_eq!(nat, Nat::new(Kind::PortRestricted).hairpin());
        assert_eq!(nat.to_string(), "port-restricted+hairpin");
        let short: Nat = "port-restricted+hairpin+lasts=20s".parse().unwrap();
        assert_eq!(short, Nat::new(Kind::PortRestricted).hairpin().lasting(20));
        assert_eq!(short.to_string(), "port-restricted+hairpin+lasts=20s");
        for wrong in [
            "",
            "cone",
            "symmetric+lasts=20",
            "symmetric+lasts=0s",
            "symmetric+hairpin",
            "hairpin",
            "port-restricted+ipv6",
        ] {
            assert!(wrong.parse::<Nat>().is_err(), "{wrong}");
        }
        assert!("cone".parse::<Nat>().unwrap_err().contains("port-restricted"));
    }

    #[test]
    fn another_start_means_other_ports() {
        let ports: std::collections::BTreeSet<u16> = (0..100)
            .flat_map(|reboots| (1..=200).map(move |host| outside(host, reboots)))
            .collect();
        assert_eq!(ports.len(), 20_000);
    }
}
