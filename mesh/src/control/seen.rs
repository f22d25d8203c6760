//! Where members see this node: each says what it likes, so that one alone neither makes
//! up an address for others to probe nor takes away one on which others agree.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use epsilon_proto::address::is_public;
use epsilon_proto::clock::{Instant, Now};
use epsilon_proto::id::NodeId;
use epsilon_proto::record::MAX_ENDPOINTS;

use super::Control;
use crate::limit::Limit;
use crate::shard::Path;

/// So often at once a member may see this node elsewhere than before, and then once in
/// this time: each time links and relays are looked after.
const CHANGES: u32 = 4;
/// See [`CHANGES`].
const CHANGE_EVERY: Duration = Duration::from_secs(10);
/// So many of those who see it where it was before are asked whether they still do.
const WITNESSES: usize = 2;
/// And have so long to say so.
const TESTIMONY: Duration = Duration::from_secs(3);

/// In which order it is said where this node is seen.
#[derive(Clone, Copy)]
pub(super) enum SeenBy {
    /// Where most members see it first: the same for long.
    Most,
    /// Where it was seen last first: who is called needs that one.
    Last,
}

/// What one member sees, by one family.
struct Sight {
    address: SocketAddr,
    at: Instant,
    changes: Limit,
}

/// One member sees another address than before, others have not said so yet.
struct Rumour {
    former: IpAddr,
    since: Instant,
}

/// Where members saw this node's datagrams come from.
#[derive(Default)]
pub(super) struct Seen {
    /// By member and family.
    by: BTreeMap<(NodeId, bool), Sight>,
    /// Whether that was before this node moved.
    is_before: bool,
    rumour: Option<Rumour>,
}

impl Seen {
    /// What each member says.
    pub(super) fn all(&self) -> impl Iterator<Item = (NodeId, SocketAddr)> {
        self.by.iter().map(|((node, _), sight)| (*node, sight.address))
    }

    /// This node may be somewhere else: where it was seen counts no more once it is seen
    /// again.
    pub(super) fn has_moved(&mut self) {
        self.is_before = true;
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.rumour.as_ref().map(|rumour| rumour.since + TESTIMONY)
    }

    /// How many members see an address.
    fn witnesses(&self, ip: IpAddr) -> usize {
        self.by.values().filter(|sight| sight.address.ip() == ip).count()
    }

    /// Whether a public address counts: not where one member alone sees it, and others
    /// agree on another one. What is not public is no matter of others, and seen by few.
    fn counts(&self, ip: IpAddr) -> bool {
        let is_agreed = |other: IpAddr| {
            other.is_ipv4() == ip.is_ipv4() && is_public(other) && self.witnesses(other) > 1
        };
        !is_public(ip)
            || self.witnesses(ip) > 1
            || !self.by.values().any(|sight| is_agreed(sight.address.ip()))
    }

    /// The addresses that count.
    pub(super) fn addresses(&self, order: SeenBy) -> Vec<SocketAddr> {
        let mut sights: BTreeMap<SocketAddr, (usize, Instant)> = BTreeMap::new();
        for sight in self.by.values().filter(|sight| self.counts(sight.address.ip())) {
            let (witnesses, last) = sights.entry(sight.address).or_insert((0, sight.at));
            *witnesses += 1;
            *last = sight.at.max(*last);
        }
        let mut addresses: Vec<SocketAddr> = sights.keys().copied().collect();
        addresses.sort_by_key(|address| {
            let (witnesses, last) = sights.get(address).copied().unwrap_or_default();
            match order {
                SeenBy::Most => (Reverse(witnesses), None),
                SeenBy::Last => (Reverse(0), Some(Reverse(last))),
            }
        });
        addresses
    }

    /// A member is none any more: what it said does not count. Says whether it said anything.
    pub(super) fn forget_member(&mut self, node: NodeId) -> bool {
        let before = self.by.len();
        self.by.retain(|(by, _), _| *by != node);
        self.by.len() < before
    }

    /// Nobody sees this node there any more.
    fn forget(&mut self, former: IpAddr) {
        self.by.retain(|_, sight| sight.address.ip() != former);
        self.rumour = None;
    }
}

impl Control {
    /// Where a member saw this node's datagrams come from.
    pub(super) fn observed_at(&mut self, by: NodeId, address: SocketAddr, now: Now) {
        let seen = &mut self.own_record.seen;
        if std::mem::take(&mut seen.is_before) {
            seen.by.clear();
            seen.rumour = None;
        }
        let at = now.instant;
        let key = (by, address.is_ipv4());
        let is_known = seen.by.values().any(|known| known.address == address);
        let before = seen.by.get(&key).map(|sight| sight.address);
        let counted = before.is_some_and(|before| seen.counts(before.ip()));
        let changes = Limit::new(CHANGES, CHANGE_EVERY);
        let sight = seen.by.entry(key).or_insert(Sight { address, at, changes });
        if sight.address != address && !sight.changes.allows(at) {
            return;
        }
        (sight.address, sight.at) = (address, at);
        if let Some(before) = before.filter(|before| *before != address) {
            if before.ip() != address.ip() && counted {
                self.hear_of_move(by, before.ip(), address.ip(), now);
            }
            // Or the NAT forgot this node: then links are dead, and relays do not know it.
            self.check_links(at);
            self.check_relays(at);
            self.call_again(at);
        }
        if !is_known || before.is_some_and(|before| before != address) {
            self.say_where_seen();
        }
    }

    fn say_where_seen(&mut self) {
        let endpoints = self.endpoints(MAX_ENDPOINTS, SeenBy::Most);
        let said = self.members.get(self.own).map(|own| &own.record.endpoints);
        // Their order is no news.
        if said.is_none_or(|said| {
            said.len() != endpoints.len() || !endpoints.iter().all(|one| said.contains(one))
        }) {
            self.own_record.touch();
        }
    }

    /// The NAT has another address, or another one is in use, as one member says; or it
    /// lies: then others still see the former.
    fn hear_of_move(&mut self, by: NodeId, former: IpAddr, address: IpAddr, now: Now) {
        let seen = &self.own_record.seen;
        let of = |ip: IpAddr| {
            let others = seen.all().filter(move |(node, at)| *node != by && at.ip() == ip);
            others.map(|(node, _)| node).collect::<Vec<_>>()
        };
        let is_straight = |node: &NodeId| {
            let active = self.peers.get(node).and_then(|peer| peer.paths.active());
            matches!(active, Some(Path::Direct(_)))
        };
        let mut witnesses = of(former);
        witnesses.retain(is_straight);
        if witnesses.is_empty() || !of(address).is_empty() {
            return self.leave_former(former);
        }
        if self.own_record.seen.rumour.is_none() {
            self.own_record.seen.rumour = Some(Rumour { former, since: now.instant });
            for witness in witnesses.into_iter().take(WITNESSES) {
                self.paths(witness).probe_active(now.instant);
            }
        }
    }

    fn leave_former(&mut self, former: IpAddr) {
        self.own_record.seen.forget(former);
        self.forget_openness();
        self.say_where_seen();
    }

    /// Those who were asked have had their time.
    pub(super) fn advance_seen(&mut self, now: Instant) {
        let seen = &mut self.own_record.seen;
        if seen.due().is_none_or(|due| due > now) {
            return;
        }
        let Some(Rumour { former, since }) = seen.rumour.take() else { return };
        let mut sights = seen.by.values();
        if !sights.any(|sight| sight.address.ip() == former && sight.at >= since) {
            self.leave_former(former);
        }
    }
}
