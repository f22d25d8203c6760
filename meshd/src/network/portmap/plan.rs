//! What to ask of the router, and when: without sockets, clocks or randomness.
//!
//! A round asks for UDP and then for TCP, by the protocol that worked last, else by one
//! after the other. It asks for everything anew, so a router that forgot all while it was
//! started again has it again after the next round.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use epsilon_proto::address::{is_public, is_usable_endpoint};
use epsilon_proto::clock::Instant;
use epsilon_proto::id::Digest;
use epsilon_proto::record::{Endpoint, EndpointSource};

/// For how long a mapping is asked. A daemon that is killed leaves it behind for so long.
pub(super) const LIFETIME: Duration = Duration::from_mins(30);
/// Who grants less is asked no sooner than this.
const LEAST_RENEWAL: Duration = Duration::from_secs(30);
/// From one round to the next, whatever happens.
const GAP: Duration = Duration::from_secs(10);
/// The same for a doubt: a NAT that gives everybody another port forgets one now and then.
const DOUBT_GAP: Duration = Duration::from_mins(1);
/// After the first round that nobody answered: a router that is started lets hosts in
/// before it knows all that it can do.
const SOON: Duration = Duration::from_mins(1);
/// After each one that follows.
const RARELY: Duration = Duration::from_mins(10);
/// So many outer ports are tried where others have them.
const PORTS: u32 = 6;
/// Those that are tried once the own one is taken: few ask for them.
const HIGH: std::ops::Range<u16> = 20_000..60_000;

/// The router that leads out, and the address of this host on the network to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::network) struct Place {
    pub(in crate::network) router: Ipv4Addr,
    pub(in crate::network) own: Ipv4Addr,
}

/// By which a router is asked; the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// The Port Control Protocol (RFC 6887).
    Pcp,
    /// The NAT Port Mapping Protocol (RFC 6886).
    NatPmp,
    /// The Internet Gateway Device of UPnP.
    Upnp,
}

const PROTOCOLS: [Protocol; 3] = [Protocol::Pcp, Protocol::NatPmp, Protocol::Upnp];

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::Pcp => "PCP",
            Self::NatPmp => "NAT-PMP",
            Self::Upnp => "UPnP",
        }
    }
}

/// Whose port it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// One mapping, to be made or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) place: Place,
    pub(super) protocol: Protocol,
    pub(super) transport: Transport,
    /// This node's.
    pub(super) port: u16,
    /// The router's, as it is wished for, or was given.
    pub(super) outer: u16,
    /// By which PCP knows whose mapping it is: the same in every run, so that one that was
    /// killed leaves nothing in the way of the next.
    pub(super) nonce: [u32; 3],
}

/// A router's consent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Granted {
    pub(super) outside: SocketAddrV4,
    pub(super) lifetime: Duration,
    /// Since when the router knows of mappings, in seconds of its own clock.
    pub(super) epoch: Option<u32>,
}

/// Why there is no mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Somebody else has the outer port.
    Taken,
    /// Anything else.
    Failed(String),
}

/// What there is, for the engine and for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Who is asked; nobody where this host is not behind a router of IPv4.
    pub router: Option<Ipv4Addr>,
    /// By which it answered.
    pub protocol: Option<Protocol>,
    /// The outer address that leads to this node's port of UDP.
    pub udp: Option<SocketAddrV4>,
    /// The same of TCP.
    pub tcp: Option<SocketAddrV4>,
    /// Why there is nothing, or why it may be of no use.
    pub problem: Option<String>,
}

impl State {
    /// What belongs into the record of this node.
    pub(in crate::network) fn endpoints(&self) -> Vec<Endpoint> {
        let endpoint = |source, address: SocketAddrV4| Endpoint { source, address: address.into() };
        match (self.udp, self.tcp) {
            (Some(udp), Some(tcp)) if udp == tcp => vec![endpoint(EndpointSource::Mapped, udp)],
            (udp, tcp) => {
                let udp = udp.map(|udp| endpoint(EndpointSource::MappedUdp, udp));
                let tcp = tcp.map(|tcp| endpoint(EndpointSource::MappedTcp, tcp));
                udp.into_iter().chain(tcp).collect()
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Lease {
    protocol: Protocol,
    outside: SocketAddrV4,
    ends: Instant,
}

#[derive(Debug)]
struct Round {
    protocols: VecDeque<Protocol>,
    transport: Transport,
    /// How many outer ports were taken.
    taken: u32,
    is_repeated: bool,
    problems: Vec<String>,
}

/// See the module.
pub(super) struct Plan {
    port: u16,
    secret: [u8; 32],
    place: Option<Place>,
    udp: Option<Lease>,
    tcp: Option<Lease>,
    /// What worked last, and where: also when this host was somewhere else, or cut off,
    /// in between.
    answered: Option<(Place, Protocol)>,
    /// What the router's clock showed last.
    epoch: Option<(u32, Instant)>,
    round: Option<Round>,
    began: Option<Instant>,
    /// How many rounds came to nothing in a row.
    failures: u32,
    next: Option<Instant>,
    asked: Option<Request>,
    problem: Option<String>,
}

impl Plan {
    /// For a port of this node; `secret` is nobody else's, and the same in every run.
    pub(super) fn new(port: u16, secret: [u8; 32]) -> Self {
        Self {
            port,
            secret,
            place: None,
            udp: None,
            tcp: None,
            answered: None,
            epoch: None,
            round: None,
            began: None,
            failures: 0,
            next: None,
            asked: None,
            problem: None,
        }
    }

    /// Where this host is now. A round begins at another router, with another address, and
    /// where the host was cut off, as by a router that was started again.
    pub(super) fn handle_place(&mut self, place: Option<Place>, has_moved: bool, now: Instant) {
        if self.place == place {
            if has_moved {
                self.hurry(GAP, now);
            }
            return;
        }
        // What another router gave ends by itself.
        let Self { port, secret, asked, answered, .. } = *self;
        let next = place.map(|_| now);
        *self = Self { place, answered, next, asked, ..Self::new(port, secret) };
    }

    /// A NAT may have forgotten this node.
    pub(super) fn handle_doubt(&mut self, now: Instant) {
        if self.udp.is_some() || self.tcp.is_some() {
            self.hurry(DOUBT_GAP, now);
        }
    }

    fn hurry(&mut self, gap: Duration, now: Instant) {
        let soonest = self.began.map_or(now, |began| now.max(began + gap));
        self.next = self.next.map(|next| next.min(soonest));
    }

    /// When time alone changes something.
    pub(super) fn due(&self) -> Option<Instant> {
        let ends = [&self.udp, &self.tcp].into_iter().flatten().map(|lease| lease.ends);
        ends.chain(self.next).min()
    }

    /// Forgets what the router has forgotten by now.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        for lease in [&mut self.udp, &mut self.tcp] {
            lease.take_if(|lease| lease.ends <= now);
        }
    }

    /// The next thing to ask, one at a time.
    pub(super) fn next_request(&mut self, now: Instant) -> Option<Request> {
        if self.asked.is_some() {
            return None;
        }
        let place = self.place?;
        if self.next.take_if(|next| *next <= now).is_some() {
            self.began = Some(now);
            let first = self.protocol();
            let rest = PROTOCOLS.into_iter().filter(|one| Some(*one) != first);
            self.round = Some(Round {
                protocols: first.into_iter().chain(rest).collect(),
                transport: Transport::Udp,
                taken: 0,
                is_repeated: false,
                problems: Vec::new(),
            });
        }
        let round = self.round.as_ref()?;
        let (protocol, transport) = (*round.protocols.front()?, round.transport);
        let outer = self.wish(transport, round.taken);
        self.asked = Some(self.request(place, protocol, transport, outer));
        self.asked
    }

    /// The answer to it.
    pub(super) fn handle_answer(&mut self, answer: Result<Granted, Refusal>, now: Instant) {
        let Some(request) = self.asked.take() else { return };
        if self.place != Some(request.place) {
            return;
        }
        let is_usable = |granted: &Granted| {
            is_usable_endpoint(SocketAddr::V4(granted.outside)) && !granted.lifetime.is_zero()
        };
        match answer {
            Ok(granted) if is_usable(&granted) => self.granted(request, granted, now),
            Ok(Granted { outside, .. }) => {
                let reason = format!("the router gives {outside}, which is no address");
                self.failed(request, &reason, now);
            }
            Err(Refusal::Failed(reason)) => self.failed(request, &reason, now),
            Err(Refusal::Taken) => {
                let taken = self.round.as_mut().map_or(PORTS, |round| {
                    round.taken += 1;
                    round.taken
                });
                if taken >= PORTS {
                    self.failed(request, "the router's ports are taken", now);
                }
            }
        }
    }

    fn granted(&mut self, request: Request, granted: Granted, now: Instant) {
        let Request { protocol, transport, .. } = request;
        let before = self.epoch;
        self.epoch = granted.epoch.map(|epoch| (epoch, now));
        let was_restarted = before.zip(granted.epoch).is_some_and(|((before, at), epoch)| {
            // RFC 6886, section 3.6: clocks may differ by an eighth.
            let passed = now.since(at).as_secs();
            u64::from(epoch) + 2 < u64::from(before) + passed - passed / 8
        });
        let ends = now + granted.lifetime;
        *self.lease(transport) = Some(Lease { protocol, outside: granted.outside, ends });
        self.answered = Some((request.place, protocol));
        let Some(round) = &mut self.round else { return };
        round.taken = 0;
        match transport {
            Transport::Udp => round.transport = Transport::Tcp,
            // It has forgotten what it gave at the beginning of the round.
            Transport::Tcp if was_restarted && !round.is_repeated => {
                round.transport = Transport::Udp;
                round.is_repeated = true;
            }
            Transport::Tcp => self.end_round(now),
        }
    }

    fn failed(&mut self, request: Request, reason: &str, now: Instant) {
        let Some(round) = &mut self.round else { return };
        round.problems.push(format!("{}: {reason}", request.protocol.name()));
        round.taken = 0;
        match request.transport {
            Transport::Udp => {
                round.protocols.pop_front();
                if round.protocols.is_empty() {
                    self.end_round(now);
                }
            }
            // The others would not know of the mapping of UDP.
            Transport::Tcp => self.end_round(now),
        }
    }

    fn end_round(&mut self, now: Instant) {
        let Some(round) = self.round.take() else { return };
        let is_answered = !round.protocols.is_empty();
        let left = [&self.udp, &self.tcp].into_iter().flatten().map(|one| one.ends.since(now));
        let wait = match left.min() {
            Some(left) if is_answered => (left / 2).clamp(LEAST_RENEWAL, LIFETIME / 2),
            // It knew how, and may be being started again.
            _ if self.protocol().is_some() => (GAP * (1 << self.failures.min(8))).min(RARELY),
            _ if self.failures == 0 => SOON,
            _ => RARELY,
        };
        self.failures = if is_answered { 0 } else { self.failures + 1 };
        self.next = Some(now + wait);
        self.problem = (!is_answered || self.tcp.is_none()).then(|| round.problems.join("; "));
    }

    /// What is there, and may be there, and has to go when this node stops.
    pub(super) fn removals(&self) -> Vec<Request> {
        let Some(place) = self.place else { return Vec::new() };
        let leases = [(Transport::Udp, self.udp), (Transport::Tcp, self.tcp)].into_iter();
        let removal = |(transport, lease): (Transport, Option<Lease>)| {
            let Lease { protocol, outside, .. } = lease?;
            Some(self.request(place, protocol, transport, outside.port()))
        };
        let mut removals: Vec<Request> = leases.filter_map(removal).collect();
        let asked = self.asked.filter(|asked| asked.place == place && !removals.contains(asked));
        removals.extend(asked);
        removals
    }

    /// Whether what there is may be news before long: a round is under way.
    pub(super) fn is_asking(&self) -> bool {
        self.round.is_some()
    }

    /// What there is.
    pub(super) fn state(&self) -> State {
        let outside = |lease: &Option<Lease>| lease.as_ref().map(|lease| lease.outside);
        let (udp, tcp) = (outside(&self.udp), outside(&self.tcp));
        let hidden = udp.or(tcp).filter(|outside| !is_public(IpAddr::V4(*outside.ip())));
        let behind_another = hidden.map(|outside| {
            format!(
                "the router's own address {} is not public: it is behind another NAT, and lets \
                 only those in who are there as well",
                outside.ip()
            )
        });
        State {
            router: self.place.map(|place| place.router),
            protocol: self.protocol().filter(|_| udp.is_some() || tcp.is_some()),
            udp,
            tcp,
            problem: self.problem.clone().or(behind_another),
        }
    }

    /// What worked last at this router.
    fn protocol(&self) -> Option<Protocol> {
        let (place, protocol) = self.answered?;
        (self.place == Some(place)).then_some(protocol)
    }

    fn lease(&mut self, transport: Transport) -> &mut Option<Lease> {
        match transport {
            Transport::Udp => &mut self.udp,
            Transport::Tcp => &mut self.tcp,
        }
    }

    /// The outer port to ask for: that which was given before, the same for both, else
    /// this node's own.
    fn wish(&self, transport: Transport, taken: u32) -> u16 {
        if taken > 0 {
            return self.high_port(taken);
        }
        let own = match transport {
            Transport::Udp => self.udp,
            Transport::Tcp => self.tcp.or(self.udp),
        };
        own.map_or(self.port, |lease| lease.outside.port())
    }

    fn high_port(&self, number: u32) -> u16 {
        let hash = self.hash("port", &number.to_be_bytes());
        HIGH.start + u16::from_be_bytes([hash[0], hash[1]]) % (HIGH.end - HIGH.start)
    }

    fn request(
        &self,
        place: Place,
        protocol: Protocol,
        transport: Transport,
        outer: u16,
    ) -> Request {
        let place_of = [place.router.octets(), place.own.octets()].concat();
        let hash = self.hash("nonce", &[&place_of[..], &[transport as u8]].concat());
        let word = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|byte| hash[at + byte]));
        let nonce = [word(0), word(4), word(8)];
        Request { place, protocol, transport, port: self.port, outer, nonce }
    }

    fn hash(&self, of: &str, more: &[u8]) -> [u8; 32] {
        Digest::of_parts("epsilon/1 port mapping", &[&self.secret, of.as_bytes(), more]).0
    }
}

#[cfg(test)]
mod tests;
