//! Hubs: in large fleets nobody links with everybody, but with a few of those that
//! others reach, and these say who is gone. See docs/decisions/0010.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use epsilon_proto::clock::{Instant, Now, Timestamp};
use epsilon_proto::document::Signed;
use epsilon_proto::id::NodeId;
use epsilon_proto::record::{Lost, MAX_HUBS, MAX_LOST, NodeRecord};

use super::hearsay::{Hearsay, WITNESSES, accuses};
use super::{Control, Output};
use crate::dial::Callee;
use crate::limit::Limit;

/// In fleets of so many everybody links to everybody.
pub(super) const FULL_MESH: usize = 64;
/// How many hubs a fleet has, of those that are reached.
const HUBS: usize = 32;
/// Others take the place of hubs that are gone when fewer than so many are left: each new
/// one is linked with all the others and with many that are none, and the old one may
/// come back.
const LEAST_HUBS: usize = 16;
/// How many links a node has that is none.
const LINKS: usize = MAX_HUBS;
/// So many that are no hubs are tried where hubs are too few: every other one on the same
/// network, which may have no way to any hub.
const OTHERS: usize = 8;
/// Between two times that the choice is made.
const REVIEW: Duration = Duration::from_secs(1);
/// After a link came up, until the record names the hubs: links come and go together, and
/// each record goes to everybody.
const NAME: Duration = Duration::from_secs(10);
/// The same while the record names enough that are linked: what is gone may come back.
const RENAME: Duration = Duration::from_mins(1);
/// Between two records that say of others that they are gone: in a divided network many
/// are, one after the other.
const TELL: Duration = Duration::from_secs(5);
/// How long a hub that is not linked any more has to come back, as when its daemon is
/// started again: there are others meanwhile.
const COME_BACK: Duration = Duration::from_secs(5);
/// Who has had no link to any hub for so long is cut off from them.
const CUT_OFF: Duration = Duration::from_secs(5);
/// How old a link is that is closed because nobody needs it.
const SURPLUS: Duration = Duration::from_secs(15);
/// How long a member that names this node as its hub has to link to it.
const LINK: Duration = Duration::from_secs(15);

/// So often this node denies at once that it is gone, and then once in this time.
const DENIALS: u32 = 4;
const DENY_EVERY: Duration = Duration::from_mins(1);

/// Whether any hub is linked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Contact {
    Linked,
    /// None is, since then.
    Alone(Instant),
    /// None is for so long that what they say of others is not heard.
    CutOff,
}

/// See the module.
pub(super) struct Hubs {
    /// Those that are reached, the oldest members first.
    open: BTreeSet<(Timestamp, NodeId)>,
    /// Their places there.
    certified: BTreeMap<NodeId, Timestamp>,
    all: BTreeSet<NodeId>,
    /// Whom this node links to; in small fleets that is everybody.
    wanted: BTreeSet<NodeId>,
    /// Whether a delivery is being taken that makes the fleet large: whom to call is known
    /// when all of it is taken, and it is not the first that come.
    pub(super) is_learning: bool,
    /// Whether that was so when the choice was made.
    was_large: bool,
    review: Option<Instant>,
    contact: Contact,
    /// Those that the record names.
    named: Vec<NodeId>,
    name: Option<Instant>,
    /// Those of them that are not linked any more, and may come back soon.
    missing: BTreeMap<NodeId, Instant>,
    /// The members that are gone, and what their last records counted.
    lost: BTreeMap<NodeId, (u64, u64)>,
    /// When the record says so, if it does not yet.
    tell: Option<Instant>,
    /// When it did last.
    told: Option<Instant>,
    /// Those that shall link to this node, and until when.
    expected: BTreeMap<NodeId, Instant>,
    /// Whether this node is said to be gone, and has to say that it is not.
    pub(super) is_denied: bool,
    /// How often it does.
    denials: Limit,
}

impl Hubs {
    /// With what the last record of the run before said.
    pub(super) fn new(record: Option<&NodeRecord>, now: Instant) -> Self {
        let lost = record.into_iter().flat_map(|record| &record.lost);
        Self {
            open: BTreeSet::new(),
            certified: BTreeMap::new(),
            all: BTreeSet::new(),
            wanted: BTreeSet::new(),
            is_learning: false,
            was_large: false,
            review: Some(now),
            contact: Contact::Linked,
            named: record.map_or_else(Vec::new, |record| record.hubs.clone()),
            name: None,
            missing: BTreeMap::new(),
            lost: lost.map(|lost| (lost.node, (lost.incarnation, lost.sequence))).collect(),
            tell: None,
            told: None,
            expected: BTreeMap::new(),
            is_denied: false,
            denials: Limit::new(DENIALS, DENY_EVERY),
        }
    }

    /// Whether a member that names this node as its hub still has time to link to it.
    pub(super) fn expects(&self, node: NodeId) -> bool {
        self.expected.contains_key(&node)
    }

    /// Whether a hub that was linked may come back soon.
    pub(super) fn is_missing(&self, hub: NodeId) -> bool {
        self.missing.contains_key(&hub)
    }

    /// Those that the record names, and those that are gone.
    pub(super) fn said(&self) -> (Vec<NodeId>, Vec<Lost>) {
        let lost = self.lost.iter().map(|(node, (incarnation, sequence))| Lost {
            node: *node,
            incarnation: *incarnation,
            sequence: *sequence,
        });
        (self.named.clone(), lost.take(MAX_LOST).collect())
    }

    /// Something changed on which the choice depends.
    pub(super) fn touch(&mut self, now: Instant) {
        self.review.get_or_insert(now + REVIEW);
    }

    pub(super) fn is_cut_off(&self) -> bool {
        self.contact == Contact::CutOff
    }

    fn name_at(&mut self, due: Instant) {
        self.name = Some(self.name.map_or(due, |name| name.min(due)));
    }

    pub(super) fn due(&self) -> Option<Instant> {
        let expected = self.expected.values().copied().min();
        let name = self.name.filter(|_| !self.is_cut_off());
        [self.review, name, self.tell, expected].into_iter().flatten().min()
    }
}

/// How far two are from each other (Maymounkov and Mazières, Kademlia, section 2): the order
/// in which a node chooses is its own, so that all hubs are chosen by about as many.
fn distance(one: &[u8; 32], other: &[u8; 32]) -> [u8; 32] {
    std::array::from_fn(|at| one[at] ^ other[at])
}

impl Control {
    /// Whether nobody links with everybody.
    pub(super) fn is_large(&self) -> bool {
        self.members.len() > FULL_MESH
    }

    pub(super) fn is_linked(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|peer| peer.link.is_some())
    }

    /// Whether this node links to another.
    pub(super) fn is_wanted(&self, node: NodeId) -> bool {
        if self.is_banned() {
            return false;
        }
        let is_alone = || self.near().all(|(_, peer)| peer.link.is_none());
        !self.is_large()
            || self.hubs.wanted.contains(&node)
            || (self.members.get(node).is_none() && is_alone())
    }

    /// A member's record is news, or it is no member any more.
    pub(super) fn mind_hubs(&mut self, node: NodeId, now: Instant) {
        self.hubs.touch(now);
        if let Some(certified) = self.hubs.certified.remove(&node) {
            self.hubs.open.remove(&(certified, node));
        }
        if let Some(member) = self.members.get(node).filter(|member| member.record.is_open) {
            let certified = member.certificate.issued;
            self.hubs.certified.insert(node, certified);
            self.hubs.open.insert((certified, node));
        }
        if node == self.own {
            return;
        }
        let member = self.members.get(node).filter(|member| self.is_witness_of(member));
        let stamp = member.map(|member| member.record.stamp());
        // Said of an older record it counts for nothing, so that others need not hear of it.
        if self.hubs.lost.get(&node).copied() != stamp {
            self.hubs.lost.remove(&node);
        }
        if stamp.is_some() && !self.is_linked(node) && !self.hubs.lost.contains_key(&node) {
            self.hubs.expected.entry(node).or_insert(now + LINK);
        } else {
            self.hubs.expected.remove(&node);
        }
    }

    /// A link came up.
    pub(super) fn hub_linked(&mut self, node: NodeId, now: Instant) {
        self.hubs.touch(now);
        self.hubs.expected.remove(&node);
        self.hubs.missing.remove(&node);
        if self.hubs.lost.remove(&node).is_some() || !self.hubs.named.contains(&node) {
            self.name_hubs_later(now);
        }
    }

    /// The hubs that the record names are others than those that are linked, or it says that
    /// somebody is gone who is back.
    fn name_hubs_later(&mut self, now: Instant) {
        let mut witnesses = self.hubs.named.iter().take(WITNESSES);
        let is_enough = self.hubs.named.len() >= self.enough(self.own)
            && witnesses.any(|hub| self.is_linked(*hub));
        self.hubs.name_at(now + if is_enough { RENAME } else { NAME });
    }

    /// Whether the record says that somebody is gone who is not.
    fn says_too_much(&self) -> bool {
        let Some(own) = self.members.get(self.own) else { return false };
        let mut lost = own.record.lost.iter().map(|lost| lost.node);
        lost.any(|node| {
            let is_news = !self.hubs.lost.contains_key(&node);
            is_news && self.members.get(node).is_some_and(|member| accuses(own, member))
        })
    }

    /// A link is gone for good; says whether that means anything.
    pub(super) fn hub_unlinked(&mut self, node: NodeId, now: Instant) -> bool {
        self.hubs.touch(now);
        let is_named = self.hubs.named.contains(&node);
        if is_named {
            self.hubs.missing.insert(node, now);
            self.name_hubs_later(now);
        }
        let Some(member) = self.members.get(node) else { return true };
        let names_this = member.record.hubs.contains(&self.own);
        let is_told_of = self.is_large() && self.hearsay(node) != Hearsay::Nothing;
        if self.is_witness_of(member) {
            self.lose(node, now);
        }
        names_this || is_named || !is_told_of
    }

    fn lose(&mut self, node: NodeId, now: Instant) {
        self.hubs.expected.remove(&node);
        if let Some(member) = self.members.get(node) {
            self.hubs.lost.insert(node, member.record.stamp());
            let next = self.hubs.told.map_or(now, |told| now.max(told + TELL));
            self.hubs.tell.get_or_insert(next);
        }
    }

    pub(super) fn advance_hubs(&mut self, now: Now) {
        let expected = self.hubs.expected.iter();
        let gone: Vec<NodeId> =
            expected.filter(|(_, due)| **due <= now.instant).map(|(node, _)| *node).collect();
        for node in gone {
            self.lose(node, now.instant);
        }
        if self.hubs.tell.take_if(|due| *due <= now.instant).is_some() {
            self.hubs.told = Some(now.instant);
            self.own_record.touch();
        }
        if self.hubs.review.take_if(|due| *due <= now.instant).is_some() {
            self.choose_hubs(now);
        }
        // Who is cut off comes back to those that it has named.
        let may_name = !self.hubs.is_cut_off();
        if self.hubs.name.take_if(|due| may_name && *due <= now.instant).is_some() {
            self.name_hubs(now.instant);
        }
    }

    /// Whether so many records make the fleet large.
    pub(super) fn will_be_large(&self, records: &[Signed<NodeRecord>]) -> bool {
        let is_new = |record: &&Signed<NodeRecord>| {
            self.members.get(NodeId::from(record.signer())).is_none()
        };
        !self.is_large() && self.members.len() + records.iter().filter(is_new).count() > FULL_MESH
    }

    /// Where the fleet became large or small, what was to be called may not be any more.
    pub(super) fn notice_size(&mut self, now: Now) {
        if self.is_large() != self.hubs.was_large {
            self.choose_hubs(now);
        }
    }

    fn choose_hubs(&mut self, now: Now) {
        self.hubs.missing.retain(|_, since| now.instant.since(*since) < COME_BACK);
        let is_large = self.is_large();
        self.hubs.all = if self.needs_hubs() { self.all_hubs() } else { BTreeSet::new() };
        self.find_cut_off(now.instant);
        let wanted = if is_large { self.choice() } else { BTreeSet::new() };
        let is_other = |hub: &&NodeId| **hub != self.own && self.is_linked(**hub);
        let linked = self.hubs.all.iter().filter(is_other).count();
        if !self.hubs.named.iter().all(|hub| self.hubs.all.contains(hub))
            || self.hubs.named.len() < linked.min(LINKS)
        {
            self.name_hubs_later(now.instant);
        }
        let before = std::mem::replace(&mut self.hubs.wanted, wanted);
        let changed: Vec<NodeId> =
            if std::mem::replace(&mut self.hubs.was_large, is_large) == is_large {
                before.symmetric_difference(&self.hubs.wanted).copied().collect()
            } else {
                self.members.iter().map(|(node, _)| node).collect()
            };
        for node in changed {
            self.refresh_calls(node, now);
        }
        self.make_calls(now);
        if self.is_accused_itself() && !self.hubs.is_denied {
            if self.hubs.denials.allows(now.instant) {
                self.hubs.is_denied = true;
                self.own_record.touch();
            } else {
                let due = self.hubs.denials.due();
                self.hubs.review = Some(self.hubs.review.map_or(due, |review| review.min(due)));
            }
        }
        if is_large && (self.close_surplus(now.instant) || self.lacks_links())
            || !self.hubs.missing.is_empty()
            || matches!(self.hubs.contact, Contact::Alone(_))
            || is_large && self.hubs.is_cut_off()
        {
            self.hubs.touch(now.instant);
        }
    }

    /// Whether no hub is reached, or there is none. One that is a hub itself may miss a few
    /// others.
    fn find_cut_off(&mut self, now: Instant) {
        let others = self.hubs.all.iter().filter(|hub| **hub != self.own);
        let least = if self.hubs.all.contains(&self.own) { LINKS } else { 0 };
        let (linked, gone): (Vec<&NodeId>, Vec<&NodeId>) =
            others.partition(|hub| self.is_linked(**hub));
        // A small fleet has none, as often as not.
        let may_be_alone = self.is_large() || !gone.is_empty();
        let is_alone = may_be_alone && linked.is_empty() && gone.len() >= least;
        let was_cut_off = self.hubs.is_cut_off();
        self.hubs.contact = match self.hubs.contact {
            _ if !is_alone => Contact::Linked,
            Contact::Linked => Contact::Alone(now),
            Contact::Alone(since) if now.since(since) >= CUT_OFF => Contact::CutOff,
            contact => contact,
        };
        if was_cut_off && !self.hubs.is_cut_off() {
            // Some may have gone meanwhile of whom this node has to say so.
            let all: Vec<NodeId> = self.members.iter().map(|(node, _)| node).collect();
            for node in all {
                self.mind_hubs(node, now);
            }
        }
    }

    /// The first few of those that are reached.
    fn all_hubs(&self) -> BTreeSet<NodeId> {
        let mut hubs = BTreeSet::new();
        for (place, (_, node)) in self.hubs.open.iter().enumerate() {
            if place >= HUBS && hubs.len() >= LEAST_HUBS {
                break;
            }
            if self.is_linked(*node) || !self.is_lost(*node) {
                hubs.insert(*node);
            }
        }
        hubs
    }

    /// Whom to link to: hubs with one another, others to the first few that answer.
    fn choice(&self) -> BTreeSet<NodeId> {
        let mut wanted = BTreeSet::new();
        if self.hubs.all.contains(&self.own) {
            wanted.extend(self.hubs.all.iter().copied().filter(|hub| *hub != self.own));
        }
        let mut order: Vec<NodeId> =
            self.hubs.all.iter().copied().filter(|hub| *hub != self.own).collect();
        order.sort_by_cached_key(|hub| {
            let is_there = self.is_linked(*hub) || self.hubs.missing.contains_key(hub);
            let is_new = !self.hubs.named.contains(hub);
            (!is_there, is_new, distance(&self.own.0, &hub.0))
        });
        let is_good = |node: &NodeId| {
            self.is_linked(*node)
                || self.hubs.missing.contains_key(node)
                || !self.dialer.fails(Callee::Node(*node))
        };
        if order.iter().filter(|hub| is_good(hub)).count() < LINKS {
            let (near, far) = self.others();
            let both = (0..OTHERS).flat_map(|place| [near.get(place), far.get(place)]);
            order.extend(both.flatten());
        }
        let mut good = 0;
        wanted.extend(order.into_iter().take_while(|node| {
            let is_enough = good >= LINKS;
            good += usize::from(is_good(node));
            !is_enough
        }));
        if self.hubs.is_cut_off() {
            // As in a small fleet.
            wanted.extend(self.others().0.into_iter().take(FULL_MESH));
        }
        wanted
    }

    /// Those that are no hubs: on the same network, as far as they say so, and elsewhere.
    fn others(&self) -> (Vec<NodeId>, Vec<NodeId>) {
        let mut others: Vec<NodeId> = self
            .members
            .iter()
            .map(|(node, _)| node)
            .filter(|node| *node != self.own && !self.hubs.all.contains(node))
            .collect();
        // Those whom all reach may lead on to others.
        others.sort_by_cached_key(|node| {
            let is_open = self.members.get(*node).is_some_and(|member| member.record.is_open);
            (!self.is_linked(*node), !is_open, distance(&self.own.0, &node.0))
        });
        others.into_iter().partition(|node| self.may_be_near(*node))
    }

    fn lacks_links(&self) -> bool {
        self.hubs.wanted.iter().filter(|node| self.is_linked(**node)).count() < LINKS
    }

    /// The most hubs that a node can name.
    fn enough(&self, node: NodeId) -> usize {
        self.hubs.all.iter().filter(|hub| **hub != node).count().min(LINKS)
    }

    /// Closes links that neither this node nor the other needs; says whether there are
    /// some that are too new for that.
    fn close_surplus(&mut self, now: Instant) -> bool {
        // With few hubs others fill up, and nobody says who they are.
        let enough = self.enough(self.own);
        if enough < LINKS || self.hubs.named.len() < enough {
            return false;
        }
        let mut has_new = false;
        for node in self.linked() {
            let Some(member) = self.members.get(node) else { continue };
            let hubs = &member.record.hubs;
            let is_needed = self.hubs.wanted.contains(&node)
                || self.hubs.named.contains(&node)
                || hubs.contains(&self.own)
                || hubs.len() < self.enough(node);
            let link = self.peers.get(&node).and_then(|peer| peer.link);
            if is_needed {
                continue;
            }
            if link.is_some_and(|link| now.since(link.up) < SURPLUS) {
                has_new = true;
            } else {
                self.outputs.push_back(Output::Disconnect(node));
            }
        }
        has_new
    }

    /// Names the hubs to which there are links: those that were named come first, so that
    /// the witnesses are the same as long as may be.
    fn name_hubs(&mut self, now: Instant) {
        let is_there = |hub: &NodeId| {
            // In a small fleet they are linked with all that reach them, whatever they say of
            // themselves meanwhile.
            let is_hub = self.hubs.all.contains(hub)
                || !self.is_large() && self.needs_hubs() && self.hubs.named.contains(hub);
            is_hub && (self.is_linked(*hub) || self.hubs.missing.contains_key(hub))
        };
        let candidates = if self.is_large() { &self.hubs.wanted } else { &self.hubs.all };
        let is_other = |hub: &&NodeId| **hub != self.own && !self.hubs.named.contains(hub);
        let mut others: Vec<NodeId> = candidates.iter().filter(is_other).copied().collect();
        others.sort_by_cached_key(|hub| distance(&self.own.0, &hub.0));
        let mut named: Vec<NodeId> =
            self.hubs.named.iter().copied().chain(others).filter(is_there).collect();
        named.truncate(MAX_HUBS);
        for hub in named.clone() {
            // By now it knows this node and answers: it says where it sees it.
            if self.peers.get(&hub).is_some_and(|peer| !peer.paths.is_proven()) {
                let endpoints = self.members.get(hub).map(|member| &member.record.endpoints);
                let all = endpoints.into_iter().flatten().map(|one| one.address);
                let addresses: Vec<SocketAddr> =
                    all.filter(|address| !self.is_own_address(*address)).collect();
                self.paths(hub).called(&addresses, now);
            }
        }
        if self.hubs.named != named || self.says_too_much() {
            self.hubs.named = named;
            self.own_record.touch();
        }
        if !self.hubs.named.iter().all(|hub| self.is_linked(*hub)) {
            self.name_hubs_later(now);
        }
    }
}
