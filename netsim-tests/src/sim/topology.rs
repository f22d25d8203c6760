//! Which networks there are, which NATs lie between them, and how a datagram
//! finds its way.
//!
//! A network is an address space of its own: two of them may have the same
//! addresses. Its gateway is a NAT to another one, or there is none.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::nat::{Behaviour, Nat, Protocol};
use super::random::Random;

/// A network, by its place.
pub type NetworkId = usize;
/// A NAT, by its place.
pub type NatId = usize;

/// The network that is there from the beginning, which has no gateway.
pub const INTERNET: NetworkId = 0;

/// No way is longer.
const MOST_HOPS: usize = 16;

/// Who has an address in a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Machine(usize),
    Nat(NatId),
}

#[derive(Clone, Default)]
struct Network {
    gateway: Option<NatId>,
    places: BTreeMap<IpAddr, Place>,
    /// Whether UDP gets no further than its gateway.
    blocks_udp: bool,
}

#[derive(Clone)]
struct Between {
    nat: Nat,
    inside: NetworkId,
    outside: NetworkId,
}

/// Networks and what is between them.
#[derive(Clone)]
pub struct Topology {
    networks: Vec<Network>,
    nats: Vec<Between>,
}

impl Default for Topology {
    fn default() -> Self {
        Self { networks: vec![Network::default()], nats: Vec::new() }
    }
}

/// Something that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    /// At which machine.
    pub machine: usize,
    /// From where, as that machine sees it.
    pub from: SocketAddr,
    /// To which of its addresses.
    pub to: SocketAddr,
    /// Through which NATs.
    pub nats: Vec<NatId>,
}

impl Topology {
    /// The same, as if nothing had been sent so far.
    #[must_use]
    pub fn fresh(&self) -> Self {
        let mut fresh = self.clone();
        fresh.nats.iter_mut().for_each(|between| between.nat.forget());
        fresh
    }

    /// Another network without a gateway.
    pub fn network(&mut self) -> NetworkId {
        self.networks.push(Network::default());
        self.networks.len() - 1
    }

    /// A network behind a NAT, whose outer address is one of another network.
    pub fn behind(
        &mut self,
        outside: NetworkId,
        address: IpAddr,
        behaviour: Behaviour,
    ) -> (NetworkId, NatId) {
        let inside = self.network();
        let nat = self.nats.len();
        self.nats.push(Between { nat: Nat::new(behaviour, address), inside, outside });
        self.networks[inside].gateway = Some(nat);
        self.networks[outside].places.insert(address, Place::Nat(nat));
        (inside, nat)
    }

    /// From now on no UDP leaves a network, or it does again.
    pub fn block_udp(&mut self, network: NetworkId, blocks: bool) {
        self.networks[network].blocks_udp = blocks;
    }

    /// A machine has an address in a network.
    pub fn attach(&mut self, machine: usize, network: NetworkId, address: IpAddr) {
        self.networks[network].places.insert(address, Place::Machine(machine));
    }

    /// A machine has none there any more.
    pub fn detach(&mut self, network: NetworkId, address: IpAddr) {
        self.networks[network].places.remove(&address);
    }

    /// A NAT.
    pub fn nat(&mut self, nat: NatId) -> &mut Nat {
        &mut self.nats[nat].nat
    }

    /// A NAT gets another outer address, and forgets all.
    pub fn renumber(&mut self, nat: NatId, address: IpAddr) {
        let between = &mut self.nats[nat];
        let places = &mut self.networks[between.outside].places;
        places.remove(&between.nat.outside());
        places.insert(address, Place::Nat(nat));
        between.nat.renumber(address);
    }

    /// Something is sent from an address of a network: where it arrives, if
    /// anywhere.
    pub fn carry(
        &mut self,
        protocol: Protocol,
        network: NetworkId,
        (mut from, mut to): (SocketAddr, SocketAddr),
        now: Duration,
        random: &mut Random,
    ) -> Option<Arrived> {
        let (mut network, mut nats) = (network, Vec::new());
        for _ in 0..MOST_HOPS {
            match self.networks[network].places.get(&to.ip()) {
                Some(Place::Machine(machine)) => {
                    return Some(Arrived { machine: *machine, from, to, nats });
                }
                Some(Place::Nat(nat)) => {
                    nats.push(*nat);
                    let between = &self.nats[*nat];
                    to = between.nat.inward(protocol, from, to.port(), now)?;
                    network = between.inside;
                }
                None => {
                    let inside = &self.networks[network];
                    if inside.blocks_udp && protocol == Protocol::Udp {
                        return None;
                    }
                    nats.push(inside.gateway?);
                    let between = &mut self.nats[inside.gateway?];
                    from = between.nat.outward(protocol, from, to, now, random);
                    if to.ip() == between.nat.outside() {
                        if !between.nat.behaviour.hairpin {
                            return None;
                        }
                        to = between.nat.inward(protocol, from, to.port(), now)?;
                    } else {
                        network = between.outside;
                    }
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scene {
        topology: Topology,
        random: Random,
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    impl Scene {
        fn send(&mut self, network: NetworkId, from: &str, to: &str) -> Option<(usize, String)> {
            let ends = (address(from), address(to));
            let way =
                self.topology.carry(Protocol::Udp, network, ends, Duration::ZERO, &mut self.random);
            way.map(|arrived| (arrived.machine, arrived.from.to_string()))
        }
    }

    /// Machine 0 is outside; 1 and 2 are behind one NAT, 3 behind another with the
    /// same inner address as 1.
    fn scene(behaviour: Behaviour) -> (Scene, NetworkId, [NetworkId; 2]) {
        let mut topology = Topology::default();
        let outside = INTERNET;
        topology.attach(0, outside, "198.51.100.1".parse().unwrap());
        let (one, _) = topology.behind(outside, "203.0.113.1".parse().unwrap(), behaviour);
        let (two, _) = topology.behind(outside, "203.0.113.2".parse().unwrap(), behaviour);
        for (machine, network, at) in
            [(1, one, "192.168.1.2"), (2, one, "192.168.1.3"), (3, two, "192.168.1.2")]
        {
            topology.attach(machine, network, at.parse().unwrap());
        }
        (Scene { topology, random: Random::of(1) }, outside, [one, two])
    }

    #[test]
    fn what_goes_out_is_answered_and_private_addresses_stay_private() {
        let (mut scene, outside, [one, two]) = scene(Behaviour::PORT_RESTRICTED);
        let out = scene.send(one, "192.168.1.2:7755", "198.51.100.1:7755").unwrap();
        assert_eq!(out, (0, "203.0.113.1:7755".to_owned()));
        let back = scene.send(outside, "198.51.100.1:7755", &out.1).unwrap();
        assert_eq!(back, (1, "198.51.100.1:7755".to_owned()));
        assert_eq!(scene.send(outside, "198.51.100.1:7755", "203.0.113.1:7756"), None);
        assert_eq!(scene.send(outside, "198.51.100.1:7755", "192.168.1.2:7755"), None);
        // The same address means another machine elsewhere.
        let near = scene.send(one, "192.168.1.3:7755", "192.168.1.2:7755").unwrap();
        assert_eq!(near, (1, "192.168.1.3:7755".to_owned()));
        let far = scene.send(two, "192.168.1.9:7755", "192.168.1.2:7755").unwrap();
        assert_eq!(far.0, 3);
    }

    #[test]
    fn both_that_send_at_once_get_through_port_restricted_nats_and_not_through_symmetric_ones() {
        for (behaviour, gets_through) in
            [(Behaviour::PORT_RESTRICTED, true), (Behaviour::SYMMETRIC, false)]
        {
            let (mut scene, _, [one, two]) = scene(behaviour);
            let seen = [one, two]
                .map(|network| scene.send(network, "192.168.1.2:7755", "198.51.100.1:7755"))
                .map(|arrived| arrived.unwrap().1);
            assert_eq!(scene.send(one, "192.168.1.2:7755", &seen[1]), None);
            let second = scene.send(two, "192.168.1.2:7755", &seen[0]);
            assert_eq!(second.is_some(), gets_through, "{behaviour:?}");
        }
    }

    #[test]
    fn hosts_behind_one_nat_meet_at_its_outer_address_only_by_hairpin() {
        for hairpin in [false, true] {
            let behaviour = Behaviour::ENDPOINT_INDEPENDENT;
            let behaviour = if hairpin { behaviour.hairpin() } else { behaviour };
            let (mut scene, _, [one, _]) = scene(behaviour);
            let seen = scene.send(one, "192.168.1.2:7755", "198.51.100.1:7755").unwrap().1;
            let met = scene.send(one, "192.168.1.3:7755", &seen);
            assert_eq!(met.map(|met| met.0), hairpin.then_some(1));
        }
    }

    #[test]
    fn nats_in_a_row_translate_one_after_the_other() {
        let mut topology = Topology::default();
        let outside = INTERNET;
        topology.attach(0, outside, "198.51.100.1".parse().unwrap());
        let mut network = outside;
        for outer in ["203.0.113.9", "100.64.0.9", "10.0.0.9"] {
            network =
                topology.behind(network, outer.parse().unwrap(), Behaviour::ADDRESS_RESTRICTED).0;
        }
        topology.attach(1, network, "192.168.1.2".parse().unwrap());
        let mut scene = Scene { topology, random: Random::of(1) };
        let out = scene.send(network, "192.168.1.2:7755", "198.51.100.1:7755").unwrap();
        assert_eq!(out.1, "203.0.113.9:7755");
        assert_eq!(scene.send(outside, "198.51.100.1:80", &out.1).unwrap().0, 1);
        scene.topology.block_udp(network, true);
        assert_eq!(scene.send(network, "192.168.1.2:7755", "198.51.100.1:7755"), None);
    }
}
