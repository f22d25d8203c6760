//! NATs as RFC 4787 describes them: what a mapping depends on, whom it lets in,
//! how long it lasts.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::random::Random;

/// On what of the other side something depends (RFC 4787, sections 4.1 and 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dependence {
    /// On nothing: "endpoint-independent".
    Nothing,
    /// On its address.
    Address,
    /// On its address and port.
    AddressAndPort,
}

/// How a NAT behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behaviour {
    /// For whom a mapping is used again.
    pub mapping: Dependence,
    /// From whom a mapping lets in what comes.
    pub filtering: Dependence,
    /// Whether its own hosts reach each other by its outer address.
    pub hairpin: bool,
    /// How long a mapping, or a leave to come in, lasts after what last went out.
    pub lasts: Duration,
}

impl Behaviour {
    const fn new(mapping: Dependence, filtering: Dependence) -> Self {
        Self { mapping, filtering, hairpin: false, lasts: Duration::from_mins(2) }
    }

    /// Lets everybody in ("full cone").
    pub const ENDPOINT_INDEPENDENT: Self = Self::new(Dependence::Nothing, Dependence::Nothing);
    /// Lets in addresses to which something was sent.
    pub const ADDRESS_RESTRICTED: Self = Self::new(Dependence::Nothing, Dependence::Address);
    /// Lets in addresses and ports to which something was sent.
    pub const PORT_RESTRICTED: Self = Self::new(Dependence::Nothing, Dependence::AddressAndPort);
    /// Has another, random port for everybody to whom something is sent.
    pub const SYMMETRIC: Self = Self::new(Dependence::AddressAndPort, Dependence::AddressAndPort);

    /// The same with hairpinning.
    #[must_use]
    pub const fn hairpin(self) -> Self {
        Self { hairpin: true, ..self }
    }

    /// The same with mappings that last so long.
    #[must_use]
    pub const fn lasting(self, lasts: Duration) -> Self {
        Self { lasts, ..self }
    }
}

/// What the two sides of a mapping have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

type Towards = (Option<IpAddr>, Option<u16>);

fn towards(depends: Dependence, to: SocketAddr) -> Towards {
    match depends {
        Dependence::Nothing => (None, None),
        Dependence::Address => (Some(to.ip()), None),
        Dependence::AddressAndPort => (Some(to.ip()), Some(to.port())),
    }
}

#[derive(Clone)]
struct Mapping {
    inside: SocketAddr,
    /// To whom something went, as far as the filter cares, and when.
    sent: BTreeMap<Towards, Duration>,
    /// What was mapped by hand, or by a protocol for that: for good, for all.
    is_static: bool,
}

/// A NAT.
#[derive(Clone)]
pub struct Nat {
    /// How it behaves.
    pub behaviour: Behaviour,
    outside: IpAddr,
    ports: BTreeMap<(Protocol, SocketAddr, Towards), u16>,
    mappings: BTreeMap<(Protocol, u16), Mapping>,
}

impl Nat {
    /// One with an outer address.
    pub fn new(behaviour: Behaviour, outside: IpAddr) -> Self {
        Self { behaviour, outside, ports: BTreeMap::new(), mappings: BTreeMap::new() }
    }

    /// Its outer address.
    pub fn outside(&self) -> IpAddr {
        self.outside
    }

    /// It gets another outer address, and forgets all.
    pub fn renumber(&mut self, outside: IpAddr) {
        self.outside = outside;
        self.forget();
    }

    /// It forgets all, as when it is started again.
    pub fn forget(&mut self) {
        self.ports.clear();
        self.mappings.clear();
    }

    /// Maps a port for good, as port mapping protocols do.
    pub fn map(&mut self, protocol: Protocol, port: u16, inside: SocketAddr) {
        let mapping = Mapping { inside, sent: BTreeMap::new(), is_static: true };
        self.mappings.insert((protocol, port), mapping);
        self.ports.insert((protocol, inside, (None, None)), port);
    }

    /// Something goes out: where it seems to come from.
    pub fn outward(
        &mut self,
        protocol: Protocol,
        from: SocketAddr,
        to: SocketAddr,
        now: Duration,
        random: &mut Random,
    ) -> SocketAddr {
        let depends = self.behaviour.mapping;
        let fixed = self.ports.get(&(protocol, from, (None, None))).copied();
        let fixed = fixed.filter(|port| {
            self.mappings.get(&(protocol, *port)).is_some_and(|mapping| mapping.is_static)
        });
        let key = (protocol, from, towards(depends, to));
        let known = fixed
            .or_else(|| self.ports.get(&key).copied())
            .filter(|port| self.is_alive(protocol, *port, now));
        let port = known.unwrap_or_else(|| {
            let port = self.free_port(protocol, from.port(), random);
            self.ports.insert(key, port);
            let mapping = Mapping { inside: from, sent: BTreeMap::new(), is_static: false };
            self.mappings.insert((protocol, port), mapping);
            port
        });
        let filter = towards(self.behaviour.filtering, to);
        if let Some(mapping) = self.mappings.get_mut(&(protocol, port)) {
            mapping.sent.insert(filter, now);
        }
        SocketAddr::new(self.outside, port)
    }

    /// Something comes in for a port: to whom it goes, if to anybody.
    pub fn inward(
        &self,
        protocol: Protocol,
        from: SocketAddr,
        port: u16,
        now: Duration,
    ) -> Option<SocketAddr> {
        let mapping = self.mappings.get(&(protocol, port))?;
        let lasts = self.behaviour.lasts;
        let sent = mapping.sent.get(&towards(self.behaviour.filtering, from));
        let may = mapping.is_static || sent.is_some_and(|at| now.saturating_sub(*at) < lasts);
        may.then_some(mapping.inside)
    }

    fn is_alive(&self, protocol: Protocol, port: u16, now: Duration) -> bool {
        let lasts = self.behaviour.lasts;
        self.mappings.get(&(protocol, port)).is_some_and(|mapping| {
            mapping.is_static || mapping.sent.values().any(|at| now.saturating_sub(*at) < lasts)
        })
    }

    /// The same port where that is free and the NAT does not want another for
    /// each; else a random one.
    fn free_port(&self, protocol: Protocol, wanted: u16, random: &mut Random) -> u16 {
        let keeps = self.behaviour.mapping == Dependence::Nothing;
        if keeps && !self.mappings.contains_key(&(protocol, wanted)) {
            return wanted;
        }
        loop {
            let port = 1024 + random.below(64_512) as u16;
            if !self.mappings.contains_key(&(protocol, port)) {
                return port;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INSIDE: &str = "192.168.1.2:7755";
    const OTHERS: [&str; 3] = ["198.51.100.1:7755", "198.51.100.1:9", "198.51.100.2:7755"];

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn nat(behaviour: Behaviour) -> (Nat, Random) {
        (Nat::new(behaviour, "203.0.113.1".parse().unwrap()), Random::of(1))
    }

    fn send(nat: &mut (Nat, Random), to: &str, seconds: u64) -> SocketAddr {
        let now = Duration::from_secs(seconds);
        nat.0.outward(Protocol::Udp, address(INSIDE), address(to), now, &mut nat.1)
    }

    fn enters(nat: &(Nat, Random), from: &str, port: u16, seconds: u64) -> bool {
        let now = Duration::from_secs(seconds);
        let to = nat.0.inward(Protocol::Udp, address(from), port, now);
        assert!(to.is_none_or(|to| to == address(INSIDE)));
        to.is_some()
    }

    #[test]
    fn mappings_depend_on_what_they_depend_on() {
        for (behaviour, ports) in [
            (Behaviour::ENDPOINT_INDEPENDENT, 1),
            (Behaviour::PORT_RESTRICTED, 1),
            (Behaviour { mapping: Dependence::Address, ..Behaviour::SYMMETRIC }, 2),
            (Behaviour::SYMMETRIC, 3),
        ] {
            let mut nat = nat(behaviour);
            let seen: std::collections::BTreeSet<u16> =
                OTHERS.iter().map(|to| send(&mut nat, to, 0).port()).collect();
            assert_eq!(seen.len(), ports, "{behaviour:?}");
            assert_eq!(seen.contains(&7755), behaviour.mapping == Dependence::Nothing);
        }
    }

    #[test]
    fn filters_let_in_whom_they_let_in() {
        for (behaviour, admitted) in [
            (Behaviour::ENDPOINT_INDEPENDENT, [true, true, true]),
            (Behaviour::ADDRESS_RESTRICTED, [true, true, false]),
            (Behaviour::PORT_RESTRICTED, [true, false, false]),
            (Behaviour::SYMMETRIC, [true, false, false]),
        ] {
            let mut nat = nat(behaviour);
            let port = send(&mut nat, OTHERS[0], 0).port();
            assert_eq!(OTHERS.map(|from| enters(&nat, from, port, 1)), admitted, "{behaviour:?}");
            assert!(!enters(&nat, OTHERS[0], port.wrapping_add(1), 1));
        }
    }

    #[test]
    fn what_goes_out_keeps_a_mapping_and_what_comes_in_does_not() {
        let mut nat = nat(Behaviour::SYMMETRIC.lasting(Duration::from_secs(20)));
        let port = send(&mut nat, OTHERS[0], 0).port();
        assert_eq!(send(&mut nat, OTHERS[0], 19).port(), port);
        assert!(enters(&nat, OTHERS[0], port, 38) && !enters(&nat, OTHERS[0], port, 39));
        assert_ne!(send(&mut nat, OTHERS[0], 60).port(), port);
        nat.0.forget();
        assert!(!enters(&nat, OTHERS[0], port, 61));
    }

    #[test]
    fn what_is_mapped_for_good_lets_everybody_in() {
        let mut nat = nat(Behaviour::SYMMETRIC);
        nat.0.map(Protocol::Udp, 4000, address(INSIDE));
        assert!(OTHERS.iter().all(|from| enters(&nat, from, 4000, 10_000)));
        assert_eq!(send(&mut nat, OTHERS[0], 0).port(), 4000);
    }

    #[test]
    fn hosts_that_want_the_same_port_get_different_ones() {
        let mut nat = nat(Behaviour::PORT_RESTRICTED);
        let first = send(&mut nat, OTHERS[0], 0);
        let second = nat.0.outward(
            Protocol::Udp,
            address("192.168.1.3:7755"),
            address(OTHERS[0]),
            Duration::ZERO,
            &mut nat.1,
        );
        assert_eq!(first.port(), 7755);
        assert_ne!(second.port(), 7755);
    }
}
