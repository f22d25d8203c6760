//! How this node is reached: what of it others see, and who gets through unasked.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use epsilon_proto::address::{is_link_local, is_public};
use epsilon_proto::clock::{Instant, Now};
use epsilon_proto::id::NodeId;
use rand_core::Rng as _;

use super::Control;
use crate::path::is_within;

/// What came from an address to which nothing was sent for so long came unasked:
/// NATs forget sooner.
const UNASKED: Duration = Duration::from_mins(5);
/// After the first link, how long it takes until the record says what this node found
/// out of how it is reached: it changes at first. Until then it says what it said in
/// the run before.
const SETTLE: Duration = Duration::from_secs(2);
/// Between two times that a member is asked to probe this node unasked.
const LOOK: Duration = Duration::from_mins(6);
/// What is known of how this node is reached.
#[derive(Default)]
pub(super) struct Reaching {
    pub(super) openness: Openness,
    /// When the record may say what was found out, once there was a link.
    settles: Option<Instant>,
    is_settled: bool,
    /// When a member is asked to probe this node, as long as nobody has reached it.
    look: Option<Instant>,
    /// When one was asked last.
    looked: Option<Instant>,
    /// To which addresses something was sent, and when.
    asked: BTreeMap<IpAddr, Instant>,
    /// When those that do not count any more are forgotten.
    sweep: Instant,
}

/// Whether all reach this node, and what says so.
#[derive(Clone, Copy, Default)]
pub(super) struct Openness {
    /// Then it needs no relay.
    is_open: bool,
    /// Whether a probe came unasked.
    pub(super) was_probed: bool,
    /// Whether members somewhere else see an address of this node's own.
    has_outer_address: bool,
}

impl Reaching {
    /// Whether all reach this node.
    pub(super) fn is_open(&self) -> bool {
        self.openness.is_open
    }
}

/// What a record says of how its node is reached.
pub(super) struct Reach {
    pub(super) is_open: bool,
    pub(super) is_relay: bool,
    pub(super) relays: Vec<NodeId>,
}

/// How this node is reached, as far as it knows.
#[derive(Debug, Clone)]
pub struct ReachView {
    /// Whether all reach it.
    pub is_open: bool,
    /// Whether a probe came from where nothing was sent to.
    pub was_probed: bool,
    /// How long ago a member was asked for such a probe.
    pub looked: Option<Duration>,
    /// Where members somewhere else see its datagrams come from.
    pub seen: Vec<(NodeId, SocketAddr)>,
    /// The members whose direct way leads through one of its own networks.
    pub near: Vec<NodeId>,
    /// Its own addresses, outside of meshes.
    pub local: Vec<IpAddr>,
    /// The members that pass on to it, best first.
    pub relays: Vec<NodeId>,
}

impl Control {
    /// How this node is reached.
    pub(super) fn reach_view(&self, now: Instant) -> ReachView {
        let is_far = |node: &NodeId| {
            let direct = self.direct_to(*node);
            direct.is_some_and(|direct| !self.is_on_own_network(direct.ip()))
        };
        let is_near = |node: &NodeId| {
            let direct = self.direct_to(*node);
            direct.is_some_and(|direct| self.is_on_own_network(direct.ip()))
        };
        ReachView {
            near: self.peers.keys().copied().filter(is_near).collect(),
            is_open: self.reaching.is_open(),
            was_probed: self.reaching.openness.was_probed,
            looked: self.reaching.looked.map(|at| now.since(at)),
            seen: self.own_record.seen.all().filter(|(node, _)| is_far(node)).collect(),
            local: self.local.iter().map(|(address, _)| *address).collect(),
            relays: self.relays.own.clone(),
        }
    }

    /// Something was sent to an address.
    pub(super) fn sent_to(&mut self, address: SocketAddr, now: Instant) {
        let Reaching { asked, sweep, .. } = &mut self.reaching;
        if *sweep <= now {
            asked.retain(|_, at| now.since(*at) < UNASKED);
            *sweep = now + UNASKED;
        }
        asked.insert(address.ip(), now);
    }

    /// Whether packets go to an address, perhaps without a probe for long.
    fn sends_to(&self, address: IpAddr) -> bool {
        self.peers.values().any(|peer| {
            let active = peer.paths.active().filter(|_| peer.paths.is_busy());
            active.is_some_and(|active| active.address().ip() == address)
        })
    }

    /// A probe of a member came from an address, perhaps unasked.
    pub(super) fn came_from(&mut self, address: SocketAddr, now: Now) {
        let asked = self.reaching.asked.get(&address.ip());
        let is_unasked = asked.is_none_or(|at| now.instant.since(*at) >= UNASKED)
            && !self.sends_to(address.ip());
        // It is answered.
        self.sent_to(address, now.instant);
        if is_unasked && !self.is_on_own_network(address.ip()) {
            self.reaching.openness.was_probed = true;
            self.find_open(now);
        }
    }

    /// A member at an address sees this node's datagrams come from another.
    pub(super) fn seen_as(&mut self, by: SocketAddr, address: SocketAddr, now: Now) {
        if self.is_own_address(address) && !self.is_on_own_network(by.ip()) {
            self.reaching.openness.has_outer_address = true;
            self.find_open(now);
        }
    }

    /// A member opened a link from an address. The port is the one of datagrams, no NAT
    /// gave it away, and where two greet each other at the same time no probe is unasked.
    pub(super) fn reached_from(&mut self, address: IpAddr, now: Now) {
        // Who shares the network of a carrier reaches what its router passes on.
        let is_shielded =
            !self.mapped.is_empty() && self.mapped.iter().all(|one| !is_public(one.address.ip()));
        if !self.is_on_own_network(address) && (!is_shielded || is_public(address)) {
            self.be_open(now);
        }
    }

    /// Who is probed unasked is reached by all, but not where a NAT lets everything in that
    /// comes to a port which it gave away for what went out: it forgets that soon.
    fn find_open(&mut self, now: Now) {
        let Openness { was_probed, has_outer_address, .. } = self.reaching.openness;
        let is_mapped =
            self.mapped.iter().any(|one| one.source.takes_udp() && is_public(one.address.ip()));
        if was_probed && (has_outer_address || is_mapped || !self.configured.is_empty()) {
            self.be_open(now);
        }
    }

    fn be_open(&mut self, now: Now) {
        if !std::mem::replace(&mut self.reaching.openness.is_open, true) {
            self.own_record.touch();
            self.choose_relays(now);
        }
    }

    pub(super) fn is_on_own_network(&self, address: IpAddr) -> bool {
        is_link_local(address) || self.local.iter().any(|prefix| is_within(address, *prefix))
    }

    /// There is a link.
    pub(super) fn begin_to_settle(&mut self, now: Instant) {
        self.reaching.settles.get_or_insert(now + SETTLE);
        self.reaching.look.get_or_insert(now + LOOK);
    }

    /// When something is due for what is known of how this node is reached.
    pub(super) fn reach_due(&self) -> Option<Instant> {
        let Reaching { settles, is_settled, look, openness, .. } = &self.reaching;
        let (settles, look) = (settles.filter(|_| !is_settled), look.filter(|_| !openness.is_open));
        settles.into_iter().chain(look).min()
    }

    pub(super) fn advance_reach(&mut self, now: Instant) {
        let Reaching { settles, is_settled, .. } = &mut self.reaching;
        if !*is_settled && settles.is_some_and(|at| at <= now) {
            *is_settled = true;
            self.own_record.touch();
            if self.is_large() {
                // Nobody probes it otherwise.
                self.look_whether_open(now);
            }
        }
        let Reaching { look, openness, .. } = &mut self.reaching;
        if !openness.is_open && look.is_some_and(|at| at <= now) {
            *look = Some(now + LOOK);
            self.look_whether_open(now);
        }
    }

    /// Asks a member somewhere else to which nothing was sent for long to probe this node,
    /// if there is one: whether it gets through is seen soon.
    /// Says whom.
    pub fn look_whether_open(&mut self, now: Instant) -> Option<NodeId> {
        let node = self.stranger(now)?;
        self.reaching.looked = Some(now);
        self.call(node, false);
        Some(node)
    }

    /// A member somewhere else to which nothing was sent for long: a probe of it is
    /// unasked.
    fn stranger(&mut self, now: Instant) -> Option<NodeId> {
        let is_asked = |address: &SocketAddr| {
            self.reaching.asked.get(&address.ip()).is_some_and(|at| now.since(*at) < UNASKED)
        };
        let is_strange = |node: &NodeId| {
            let direct = self.direct_to(*node);
            let said = self.members.get(*node).map(|member| &member.record.endpoints);
            let said = said.into_iter().flatten().map(|one| one.address);
            let is_used = self.peers.get(node).is_some_and(|peer| peer.paths.is_wanted());
            !is_used
                && self.is_elsewhere(*node)
                && !said.chain(direct).any(|address| is_asked(&address))
        };
        let mut strangers = self.linked();
        if self.is_large() {
            // Letters reach all of them.
            strangers = self.members.iter().map(|(node, _)| node).collect();
            strangers.retain(|node| *node != self.own);
        }
        strangers.retain(is_strange);
        let place = self.random.next_u32() as usize % strangers.len().max(1);
        strangers.get(place).copied()
    }

    /// What the own record says of how this node is reached.
    pub(super) fn reach(&self) -> Reach {
        let is_settled = &self.reaching.is_settled;
        let (is_open, is_relay) = (self.reaching.is_open(), self.is_relay());
        let relays = self.relays.own.clone();
        let before = self.members.get(self.own).map(|member| &member.record);
        match before.filter(|_| !is_settled) {
            None if *is_settled => Reach { is_open, is_relay, relays },
            None => Reach { is_open: false, is_relay: false, relays },
            Some(before) => Reach {
                is_open: before.is_open,
                is_relay: before.is_relay,
                relays: if relays.is_empty() { before.relays.clone() } else { relays },
            },
        }
    }

    /// What was found out of how this node is reached counts no more.
    pub(super) fn forget_openness(&mut self) {
        self.reaching.openness = Openness::default();
        self.reaching.looked = None;
        self.relays.is_doubtful = false;
    }

    /// This node is in another network, where nothing was sent to anybody.
    pub(super) fn forget_asked(&mut self) {
        self.reaching.asked.clear();
    }

    /// Whether a member may be on one of this node's own networks.
    pub(super) fn may_be_near(&self, node: NodeId) -> bool {
        let endpoints = self.members.get(node).map(|member| &member.record.endpoints);
        endpoints.is_some_and(|all| all.iter().any(|one| self.is_on_own_network(one.address.ip())))
    }

    /// Whether a member may be somewhere else than on this node's own networks.
    pub(super) fn is_elsewhere(&self, node: NodeId) -> bool {
        let endpoints = self.members.get(node).map(|member| &member.record.endpoints);
        endpoints.is_some_and(|all| all.iter().any(|one| !self.is_on_own_network(one.address.ip())))
    }
}
