//! Whose an inner address is.
//!
//! Mesh addresses come first: whatever routes say, a packet from or to one is of the
//! peer that has it. Networks beyond peers come after these, and are no peer's own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use epsilon_proto::id::NodeId;
use epsilon_proto::prefix::Prefix;

use super::super::command::SubnetRoute;
use super::super::context::Next;
use super::super::routes::Routes;
use super::Slot;

/// What a default route does not stand for: addresses that mean something else to everybody
/// (RFC 6890, 4291).
const NOT_PUBLIC: [(IpAddr, u8); 12] = [
    (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8),
    (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0)), 8),
    (IpAddr::V4(Ipv4Addr::new(100, 64, 0, 0)), 10),
    (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
    (IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), 16),
    (IpAddr::V4(Ipv4Addr::new(172, 16, 0, 0)), 12),
    (IpAddr::V4(Ipv4Addr::new(192, 168, 0, 0)), 16),
    (IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), 3),
    (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 8),
    (IpAddr::V6(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0)), 7),
    (IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10),
    (IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), 8),
];

/// Addresses of this node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Own {
    Address,
    Reserved,
}

/// The peers that lead to a network, by where they sit.
#[derive(Default)]
struct Gate {
    to: Option<Slot>,
    from: Vec<Slot>,
}

/// Where a packet of the host goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To this peer.
    To(Slot),
    /// It is for the host itself.
    Own,
    /// To nobody.
    Nowhere,
}

/// Whose all inner addresses are.
pub(super) struct Map {
    own: Routes<Own>,
    /// The addresses of the mesh, whoever has them.
    mesh: Vec<Prefix>,
    peers: Routes<Slot>,
    subnets: Vec<SubnetRoute>,
    /// The places of gates.
    beyond: Routes<usize>,
    gates: Vec<Gate>,
    /// Whether peers may send there.
    behind: Routes<bool>,
}

impl Map {
    pub(super) fn new() -> Self {
        Self {
            own: Routes::new(),
            mesh: Vec::new(),
            peers: Routes::new(),
            subnets: Vec::new(),
            beyond: Routes::new(),
            gates: Vec::new(),
            behind: Routes::new(),
        }
    }

    pub(super) fn set_own(
        &mut self,
        addresses: Vec<Prefix>,
        reserved: Vec<Prefix>,
        mesh: Vec<Prefix>,
    ) {
        self.own = Routes::new();
        for prefix in addresses {
            self.own.set(prefix, Own::Address);
        }
        for prefix in reserved {
            self.own.set(prefix, Own::Reserved);
        }
        self.mesh = mesh;
    }

    /// Gives a peer its addresses, and takes those away that it had.
    pub(super) fn set_peer(&mut self, slot: Slot, prefixes: Vec<Prefix>) {
        self.peers.remove_all_of(slot);
        for prefix in prefixes {
            self.peers.set(prefix, slot);
        }
    }

    /// Says which networks are beyond which peers.
    pub(super) fn set_subnets(
        &mut self,
        subnets: Vec<SubnetRoute>,
        slot_of: impl Fn(NodeId) -> Option<Slot>,
    ) {
        self.subnets = subnets;
        self.find_peers(slot_of);
    }

    /// Finds out anew where the peers sit that lead to networks.
    pub(super) fn find_peers(&mut self, slot_of: impl Fn(NodeId) -> Option<Slot>) {
        self.beyond = Routes::new();
        self.gates = vec![Gate::default()];
        if self.subnets.iter().any(|route| route.prefix.is_everything()) {
            not_public().for_each(|prefix| self.beyond.set(prefix, 0));
        }
        for SubnetRoute { prefix, via, from } in &self.subnets {
            let to = via.and_then(&slot_of);
            let from = from.iter().copied().filter_map(&slot_of).collect();
            self.beyond.set(*prefix, self.gates.len());
            self.gates.push(Gate { to, from });
        }
    }

    /// Whether networks lie beyond peers.
    pub(super) fn has_subnets(&self) -> bool {
        !self.subnets.is_empty()
    }

    /// Says which networks peers may send to through this node, and which of them not.
    pub(super) fn set_behind(&mut self, open: &[Prefix], closed: &[Prefix]) {
        self.behind = Routes::new();
        if open.iter().any(|prefix| prefix.is_everything()) {
            not_public().for_each(|prefix| self.behind.set(prefix, false));
        }
        for prefix in closed {
            self.behind.set(*prefix, false);
        }
        for prefix in open {
            self.behind.set(*prefix, true);
        }
    }

    /// The peer whose own address it is.
    pub(super) fn peer(&self, address: IpAddr) -> Option<Slot> {
        self.peers.owner(address)
    }

    /// Whether it is an address inside the mesh.
    pub(super) fn is_inside(&self, address: IpAddr) -> bool {
        self.peers.owner(address).is_some() || self.own.owner(address).is_some()
    }

    /// The peer to which packets for an address go.
    pub(super) fn towards(&self, address: IpAddr) -> Option<Slot> {
        self.peer(address).or_else(|| self.gate(address)?.to)
    }

    /// Where a packet of the host goes.
    pub(super) fn way(&self, destination: IpAddr) -> Way {
        match self.own.owner(destination) {
            Some(Own::Address) => Way::Own,
            Some(Own::Reserved) => Way::Nowhere,
            None => self.towards(destination).map_or(Way::Nowhere, Way::To),
        }
    }

    /// Whether a peer may send packets from an address.
    pub(super) fn may_send(&self, slot: Slot, source: IpAddr) -> bool {
        let is_own = self.own.owner(source).is_some();
        !is_own
            && match self.peer(source) {
                Some(owner) => owner == slot,
                None => self.gate(source).is_some_and(|gate| gate.from.contains(&slot)),
            }
    }

    /// Where a packet of a peer goes.
    pub(super) fn next(&self, destination: IpAddr) -> Option<Next> {
        match self.own.owner(destination) {
            Some(Own::Address) => Some(Next::Host),
            Some(Own::Reserved) => None,
            None => self.peer(destination).map(Next::Peer).or_else(|| {
                let is_behind = self.behind.owner(destination) == Some(true);
                (is_behind && !self.is_mesh(destination)).then_some(Next::Host)
            }),
        }
    }

    /// The way to what is beyond peers.
    fn gate(&self, address: IpAddr) -> Option<&Gate> {
        let gate = self.beyond.owner(address).filter(|_| !self.is_mesh(address))?;
        self.gates.get(gate)
    }

    fn is_mesh(&self, address: IpAddr) -> bool {
        self.mesh.iter().any(|prefix| prefix.contains(address))
    }
}

/// What a default route does not stand for.
pub fn not_public() -> impl Iterator<Item = Prefix> {
    NOT_PUBLIC.into_iter().map(|(address, length)| Prefix::new(address, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn block(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn node(number: u8) -> NodeId {
        NodeId([number; 32])
    }

    /// With peers 1 and 2 in slots of the same numbers.
    fn map(subnets: &[(&str, u8, &[u8])]) -> Map {
        let mut map = Map::new();
        let mesh = vec![block("10.77.0.0/16"), block("fd00::/48")];
        map.set_own(vec![block("10.77.9.9")], vec![block("10.77.0.0/24")], mesh);
        map.set_peer(1, vec![block("10.77.1.1")]);
        map.set_peer(2, vec![block("10.77.1.2")]);
        let subnets = subnets.iter().map(|(prefix, via, from)| SubnetRoute {
            prefix: block(prefix),
            via: Some(node(*via)),
            from: from.iter().copied().map(node).collect(),
        });
        map.set_subnets(subnets.collect(), |node| Some(usize::from(node.0[0])));
        map
    }

    #[test]
    fn a_network_beyond_two_peers_is_sent_to_by_one_and_heard_from_by_both() {
        let map = map(&[("192.168.10.0/24", 1, &[1, 2])]);
        assert_eq!(map.way(ip("192.168.10.7")), Way::To(1));
        assert_eq!(map.way(ip("192.168.11.7")), Way::Nowhere);
        assert!(map.may_send(1, ip("192.168.10.7")) && map.may_send(2, ip("192.168.10.7")));
        assert!(!map.may_send(3, ip("192.168.10.7")) && !map.may_send(1, ip("192.168.11.7")));
    }

    #[test]
    fn no_route_gives_a_peer_addresses_of_the_mesh() {
        let map = map(&[("10.77.1.0/24", 1, &[1]), ("10.77.0.0/16", 1, &[1]), ("::/0", 1, &[1])]);
        assert_eq!(map.way(ip("10.77.1.2")), Way::To(2));
        assert_eq!(map.way(ip("10.77.1.3")), Way::Nowhere);
        assert_eq!(map.way(ip("fd00::3")), Way::Nowhere);
        assert_eq!(map.way(ip("10.77.0.53")), Way::Nowhere);
        for source in ["10.77.1.2", "10.77.1.3", "10.77.9.9", "fd00::3"] {
            assert!(!map.may_send(1, ip(source)), "{source}");
        }
    }

    #[test]
    fn an_exit_leads_to_public_addresses_only() {
        let mut map = map(&[("0.0.0.0/0", 2, &[2]), ("10.3.0.0/16", 1, &[1])]);
        assert_eq!(map.way(ip("203.0.113.7")), Way::To(2));
        assert_eq!(map.way(ip("10.3.1.1")), Way::To(1));
        assert_eq!(map.way(ip("10.4.1.1")), Way::Nowhere);
        assert!(map.may_send(2, ip("203.0.113.7")) && !map.may_send(1, ip("203.0.113.7")));
        for source in ["127.0.0.1", "192.168.1.1", "10.3.1.1", "10.77.1.1", "239.1.1.1"] {
            assert!(!map.may_send(2, ip(source)), "{source}");
        }
        // And the other way about.
        map.set_behind(&[Prefix::ALL_V4, block("192.168.10.0/24")], &[block("198.51.100.0/24")]);
        let is_open = |address| map.next(ip(address)) == Some(Next::Host);
        assert!(is_open("203.0.113.7") && is_open("192.168.10.1") && is_open("10.77.9.9"));
        for closed in
            ["198.51.100.1", "192.168.11.1", "127.0.0.1", "10.77.3.3", "10.77.0.53", "fd12::1"]
        {
            assert!(!is_open(closed), "{closed}");
        }
        assert_eq!(map.next(ip("10.77.1.1")), Some(Next::Peer(1)));
    }
}
