//! Random places behind random NATs, where members move, NATs are started again and
//! renumbered, relays die, UDP is blocked and ways are cut: whoever can be reached is, soon.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use epsilon_netsim_tests::sim::{
    Behaviour, Case, Death, INTERNET, NatId, NetworkId, Options, World, cases,
};

use super::paths::{is_direct, longest_gap, meets};
use super::{MINUTE, SECOND, here};

/// Members on the internet, of which at least one is always up.
const OPEN: usize = 3;
/// How often those that talk send something.
const OFTEN: Duration = Duration::from_millis(250);
/// After a change, when there is a reply by a way that it left open, or opened.
const SOON: Duration = Duration::from_secs(5);
/// The same where UDP is blocked: it has time to show that it gets through nowhere.
const BLOCKED: Duration = Duration::from_secs(10);
/// Between two replies while nothing happens.
const REST: Duration = Duration::from_secs(3);
/// The same where members were cut off from others, and their control links broke.
const LATER: Duration = Duration::from_secs(75);

/// Where a member is.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    network: NetworkId,
    address: IpAddr,
}

struct Journey {
    world: World,
    /// The places of the members that are not on the internet, in their order.
    places: Vec<Place>,
    nats: Vec<NatId>,
    down: BTreeSet<usize>,
    /// The networks that let no UDP out.
    blocked: BTreeSet<NetworkId>,
    cuts: BTreeSet<(usize, usize)>,
    /// How many addresses were given so far.
    given: u16,
    /// What happened so far.
    log: Vec<String>,
}

impl Journey {
    fn address(&mut self) -> IpAddr {
        self.given += 1;
        let [high, low] = self.given.to_be_bytes();
        IpAddr::from([203, 0, high, low])
    }

    /// A random place: at home with another, or behind one NAT or two of its own.
    fn somewhere(&mut self) -> Place {
        let host = 2 + (self.given % 250) as u8;
        let neighbour = self.world.random().below(4);
        if let Some(near) = self.places.get(neighbour).copied() {
            let [a, b, c, _] = match near.address {
                IpAddr::V4(address) => address.octets(),
                IpAddr::V6(_) => unreachable!(),
            };
            self.given += 1;
            return Place { network: near.network, address: IpAddr::from([a, b, c, host]) };
        }
        let mut network = INTERNET;
        let rows = if self.world.random().chance(20) { 2 } else { 1 };
        for _ in 0..rows {
            let kinds = [
                Behaviour::ENDPOINT_INDEPENDENT,
                Behaviour::ADDRESS_RESTRICTED,
                Behaviour::PORT_RESTRICTED,
                Behaviour::SYMMETRIC,
            ];
            let kind = kinds[self.world.random().below(kinds.len())];
            let kind = if self.world.random().chance(30) { kind.hairpin() } else { kind };
            let outer = self.address();
            let (inside, nat) = self.world.topology().behind(network, outer, kind);
            self.nats.push(nat);
            network = inside;
        }
        Place { network, address: IpAddr::from([192, 168, 1, host]) }
    }

    fn of(case: &Case) -> Self {
        let world = World::new(Options::new(case.seed, case.nodes).lan(1));
        let mut journey = Self {
            world,
            places: Vec::new(),
            nats: Vec::new(),
            down: BTreeSet::new(),
            blocked: BTreeSet::new(),
            cuts: BTreeSet::new(),
            given: 0,
            log: Vec::new(),
        };
        for machine in OPEN..case.nodes {
            let place = journey.somewhere();
            journey.world.place(machine, place.network, place.address);
            journey.places.push(place);
        }
        super::paths::meet(&mut journey.world, case.nodes);
        journey
    }

    fn note(&mut self, what: &str) {
        let at = self.world.now();
        self.log.push(format!("{at:?}: {what}"));
    }

    /// Something happens; says how long it may take until all are connected again.
    fn happen(&mut self) -> Duration {
        let member = OPEN + self.world.random().below(self.places.len());
        let open = self.world.random().below(OPEN);
        match self.world.random().below(9) {
            0 | 1 => {
                let place = self.somewhere();
                self.note(&format!("n{member} moves to {} in {}", place.address, place.network));
                self.places[member - OPEN] = place;
                self.world.place(member, place.network, place.address);
                if self.blocked.contains(&place.network) { BLOCKED } else { SOON }
            }
            2 => {
                let nat = self.nats[self.world.random().below(self.nats.len())];
                self.note(&format!("NAT {nat} forgets"));
                self.world.restart_nat(nat);
                SOON
            }
            3 => {
                let nat = self.nats[self.world.random().below(self.nats.len())];
                let address = self.address();
                self.note(&format!("NAT {nat} becomes {address}"));
                self.world.topology().renumber(nat, address);
                self.world.restart_nat(nat);
                SOON
            }
            4 if self.down.iter().filter(|one| **one < OPEN).count() + 1 < OPEN
                && !self.down.contains(&open) =>
            {
                self.note(&format!("n{open} dies"));
                self.world.crash(open, Death::Power);
                self.down.insert(open);
                SOON
            }
            5 => {
                let other = self.world.random().below(OPEN + self.places.len());
                if other != member {
                    self.note(&format!("n{member} and n{other} are cut"));
                    self.world.cut_between(member, other);
                    self.cuts.insert((member.min(other), member.max(other)));
                }
                SOON
            }
            6 => {
                self.note("all cuts are healed");
                self.world.heal();
                self.cuts.clear();
                LATER
            }
            7 => {
                let network = self.places[member - OPEN].network;
                let blocks = self.blocked.insert(network);
                if !blocks {
                    self.blocked.remove(&network);
                }
                self.note(&format!("network {network} blocks UDP: {blocks}"));
                self.world.topology().block_udp(network, blocks);
                BLOCKED
            }
            _ => {
                self.note(&format!("{:?} start", self.down));
                for machine in std::mem::take(&mut self.down) {
                    self.world.start(machine);
                }
                LATER
            }
        }
    }

    fn is_cut(&self, one: usize, other: usize) -> bool {
        self.cuts.contains(&(one.min(other), one.max(other)))
    }

    /// Whether two must be connected: through a relay that both reach.
    fn are_reachable(&self, one: usize, other: usize) -> bool {
        (0..OPEN).any(|relay| {
            !self.down.contains(&relay) && !self.is_cut(relay, one) && !self.is_cut(relay, other)
        })
    }
}

#[test]
fn whoever_can_be_reached_is() {
    let mut took = Vec::new();
    cases(here!(), 300, OPEN + 4, |case| {
        let mut journey = Journey::of(case);
        let all: Vec<usize> = (OPEN..case.nodes).collect();
        let pairs: Vec<(usize, usize)> = all
            .iter()
            .flat_map(|one| {
                all.iter().filter(move |other| *other > one).map(|other| (*one, *other))
            })
            .collect();
        let talks: Vec<usize> =
            pairs.iter().map(|(one, other)| journey.world.converse(*one, *other, OFTEN)).collect();
        journey.world.run_for(SECOND * 5);
        for _ in 0..6 {
            let limit = journey.happen();
            let begun = journey.world.now();
            journey.world.run_for(limit);
            for (pair, talk) in pairs.iter().zip(&talks) {
                if !journey.are_reachable(pair.0, pair.1) {
                    continue;
                }
                let sent_again = begun + OFTEN;
                let replied = journey.world.conversation(*talk).replied.iter();
                let first = replied.copied().find(|at| *at >= sent_again);
                let first = first.map(|at| at.saturating_sub(begun));
                assert!(first.is_some(), "{pair:?}: no reply in {limit:?}\n{:#?}", journey.log);
                took.extend(first);
            }
            let pause = journey.world.random().between(SECOND, MINUTE);
            let rest = journey.world.now();
            journey.world.run_for(pause);
            for (pair, talk) in pairs.iter().zip(&talks) {
                if journey.are_reachable(pair.0, pair.1) {
                    let gap = longest_gap(&journey.world, *talk, rest);
                    assert!(gap <= REST, "{pair:?}: no reply for {gap:?}\n{:#?}", journey.log);
                }
            }
        }
        journey.world.heal();
        for machine in std::mem::take(&mut journey.down) {
            journey.world.start(machine);
        }
        journey.world.run_for(MINUTE * 3);
        for (one, other) in &pairs {
            let places = [one, other].map(|machine| {
                let place = journey.places[machine - OPEN];
                (place.network, SocketAddr::new(place.address, 7755))
            });
            let direct = meets(journey.world.topology().fresh(), places);
            let is =
                [is_direct(&journey.world, *one, *other), is_direct(&journey.world, *other, *one)];
            assert_eq!(is, [direct; 2], "n{one} and n{other}");
        }
    });
    took.sort_unstable();
    let at = |share: usize| took.get((took.len() * share / 100).min(took.len() - 1));
    println!("topologies: {} pairs, {:?} {:?} {:?}", took.len(), at(50), at(99), at(100));
}
