//! Anti-entropy: what gossip lost is found by comparing hashes with one
//! linked member at a time, and questions between members in general.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use epsilon_proto::clock::{Instant, Now};
use epsilon_proto::document::{Signed, Verified};
use epsilon_proto::id::{Digest, NodeId};
use epsilon_proto::message::{
    Bucket, Change, Comparison, Delivery, Difference, DigestList, Inventory, Listed, Request,
    Response, Summary, Taken as TakenAnswer,
};
use epsilon_proto::record::NodeRecord;
use epsilon_proto::wire;
use rand_core::Rng as _;

use super::documents::{Source, Taken};
use super::vouching::Answer;
use super::{Control, Output};
use crate::membership::BUCKETS;

/// Between two rounds, at least; at most twice that.
const EVERY: Duration = Duration::from_secs(30);
/// The same in large fleets, where there are few links by which gossip may come.
const EVERY_IN_LARGE: Duration = Duration::from_secs(10);
/// How many bytes of documents and records one message may carry.
pub(super) const MAX_DELIVERY: usize = 768 * 1024;

/// How many bytes still fit.
struct Room(usize);

impl Room {
    /// Makes room for something, if there is enough.
    fn takes(&mut self, what: &impl wire::Wire) -> bool {
        let length = wire::encode(what).len();
        let fits = length <= self.0;
        self.0 -= if fits { length } else { 0 };
        fits
    }
}

/// What a request under way asked for.
enum Asked {
    Compare,
    Exchange,
    Push,
    Introduce,
    Vouch,
    Gate,
    Letter,
}

/// The rounds under way.
pub(super) struct Sync {
    last_id: u64,
    asked: BTreeMap<u64, (NodeId, Asked)>,
    /// The members with whom a round is under way, and whether one more has to
    /// follow.
    active: BTreeMap<NodeId, bool>,
    due: Instant,
}

impl Sync {
    pub(super) fn new(now: Instant) -> Self {
        Self { last_id: 0, asked: BTreeMap::new(), active: BTreeMap::new(), due: now + EVERY }
    }

    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Whether a member is asked for the gate's secret.
    pub(super) fn asks_for_gate(&self, node: NodeId) -> bool {
        self.asked.values().any(|(asked, what)| *asked == node && matches!(what, Asked::Gate))
    }

    pub(super) fn forget(&mut self, node: NodeId) {
        self.active.remove(&node);
        self.asked.retain(|_, (asked, _)| *asked != node);
    }
}

impl Control {
    pub(super) fn request(&mut self, node: NodeId, request: &Request) {
        self.sync.last_id += 1;
        let id = self.sync.last_id;
        let asked = match request {
            Request::Compare(_) => Asked::Compare,
            Request::Exchange(_) => Asked::Exchange,
            Request::Push(_) => Asked::Push,
            Request::Introduce(_) => Asked::Introduce,
            Request::Vouch(_) => Asked::Vouch,
            Request::Gate(_) => Asked::Gate,
            Request::Letter(_) => Asked::Letter,
        };
        self.sync.asked.insert(id, (node, asked));
        self.outputs.push_back(Output::Request { node, id, bytes: wire::encode(request) });
    }

    pub(super) fn advance_sync(&mut self, now: Now) {
        if now.instant < self.sync.due {
            return;
        }
        let every = if self.is_large() { EVERY_IN_LARGE } else { EVERY };
        self.sync.due = now.instant + every + self.jitter(every);
        let linked = self.linked();
        if let Some(last) = linked.len().checked_sub(1) {
            let pick = self.random.next_u32() as usize % (last + 1);
            self.start_sync(linked[pick]);
        }
    }

    pub(super) fn start_sync(&mut self, node: NodeId) {
        if let Entry::Vacant(round) = self.sync.active.entry(node) {
            round.insert(false);
            let summary =
                Summary { documents: self.trust.digest(), records: self.members.digest() };
            self.request(node, &Request::Compare(summary));
        }
    }

    /// A linked member asks. `None` when it does not speak the protocol.
    pub fn handle_request(&mut self, node: NodeId, bytes: &[u8], now: Now) -> Option<Vec<u8>> {
        let request = wire::decode::<Request>(bytes).ok()?;
        let response = match request {
            Request::Compare(theirs) => Response::Compared(Comparison {
                documents: theirs.documents != self.trust.digest(),
                buckets: if theirs.records == self.members.digest() {
                    Vec::new()
                } else {
                    self.members.bucket_digests()
                },
            }),
            Request::Exchange(inventory) => Response::Difference(self.difference(&inventory)),
            Request::Push(delivery) => {
                let incomplete = self.take_delivery(node, delivery, now);
                Response::Taken(TakenAnswer { incomplete })
            }
            Request::Introduce(claims) => Response::Introduced(self.introduce(node, claims, now)),
            Request::Vouch(introduction) => {
                self.take_introduction(node, &introduction);
                Response::Taken(TakenAnswer::default())
            }
            Request::Letter(letter) => {
                self.take_letter(node, letter, now);
                Response::Taken(TakenAnswer::default())
            }
            Request::Gate(newest) => Response::Gate(Box::new(self.welcome(node, newest.gate))),
        };
        self.advance_own(now);
        self.advance_paths(now);
        self.make_calls(now);
        Some(wire::encode(&response))
    }

    /// A linked member answered, or will not.
    pub fn handle_response(&mut self, id: u64, result: Result<&[u8], ()>, now: Now) {
        let Some((node, asked)) = self.sync.asked.remove(&id) else { return };
        let response = result.ok().and_then(|bytes| wire::decode::<Response>(bytes).ok());
        match (asked, response) {
            (Asked::Compare, Some(Response::Compared(comparison))) => {
                if !comparison.documents && comparison.buckets.is_empty() {
                    self.finish_sync(node, now);
                } else {
                    let inventory = self.inventory(&comparison);
                    self.request(node, &Request::Exchange(inventory));
                }
            }
            (Asked::Exchange, Some(Response::Difference(difference))) => {
                let before = (self.trust.digest(), self.members.digest());
                self.take_delivery(node, difference.delivery, now);
                // Without anything new the next round would be this one again.
                let is_news = before != (self.trust.digest(), self.members.digest());
                self.sync.active.insert(node, difference.more && is_news);
                let delivery = self.delivery(
                    &difference.wanted_documents,
                    &difference.wanted_records,
                    &difference.wanted_devices,
                );
                if delivery == Delivery::default() {
                    self.finish_sync(node, now);
                } else {
                    self.request(node, &Request::Push(delivery));
                }
            }
            (Asked::Push, _) => self.finish_sync(node, now),
            (Asked::Introduce, Some(Response::Introduced(answer))) => {
                self.introduced(node, answer, now);
            }
            (Asked::Introduce, _) => self.peer(node).wish.ended(Answer::Useless, now.instant),
            (Asked::Gate, Some(Response::Gate(welcome))) => {
                self.take_welcome(node, *welcome, now);
            }
            (Asked::Vouch | Asked::Gate | Asked::Letter, _) => {}
            (Asked::Compare | Asked::Exchange, _) => drop(self.sync.active.remove(&node)),
        }
        self.advance_own(now);
        self.advance_paths(now);
        self.make_calls(now);
    }

    fn finish_sync(&mut self, node: NodeId, now: Now) {
        if self.sync.active.remove(&node) == Some(true) {
            self.start_sync(node);
            return;
        }
        if self.lacks_gate_secret() {
            self.ask_for_gate(node);
        }
        self.become_grounded(now);
        self.refresh_token_calls(now);
        self.vouch_for_orphans(now);
        self.first_sync_done(now);
    }

    /// What this node holds where a comparison found a difference.
    fn inventory(&mut self, comparison: &Comparison) -> Inventory {
        let documents = comparison.documents.then(|| DigestList { digests: self.trust.digests() });
        let own = self.members.bucket_digests();
        let buckets = (0..BUCKETS)
            .filter(|index| {
                let index = usize::from(*index);
                comparison.buckets.get(index).is_some_and(|theirs| Some(theirs) != own.get(index))
            })
            .map(|index| Bucket {
                index,
                records: self.members.bucket(index),
                devices: self.members.lists_in(index),
            })
            .collect();
        Inventory { documents, buckets }
    }

    /// What an asker lacks, and what this node lacks of what the asker has.
    fn difference(&self, theirs: &Inventory) -> Difference {
        let mut difference = Difference::default();
        // Documents and records have room of their own: too many of the one
        // must not keep the other out.
        let (mut documents, mut records) = (Room(MAX_DELIVERY / 2), Room(MAX_DELIVERY / 2));
        if let Some(list) = &theirs.documents {
            let known: BTreeSet<_> = list.digests.iter().copied().collect();
            for document in self.trust.lacking(&known) {
                if documents.takes(&document) {
                    difference.delivery.documents.push(document);
                } else {
                    difference.more = true;
                }
            }
            difference.wanted_documents =
                known.into_iter().filter(|digest| self.trust.document(digest).is_none()).collect();
        }
        let mut compared = BTreeSet::new();
        for bucket in theirs.buckets.iter().filter(|bucket| compared.insert(bucket.index)) {
            let own: BTreeMap<_, _> = self.members.bucket(bucket.index).into_iter().collect();
            let their: BTreeMap<_, _> = bucket.records.iter().copied().collect();
            for (node, digest) in &own {
                if their.get(node) != Some(digest)
                    && let Some(member) = self.members.get(*node)
                {
                    if records.takes(member.record.signed()) {
                        difference.delivery.records.push(member.record.signed().clone());
                    } else {
                        difference.more = true;
                    }
                }
            }
            difference.wanted_records.extend(
                their
                    .iter()
                    .filter(|(node, digest)| own.get(node) != Some(digest))
                    .map(|(node, _)| *node),
            );
        }
        // Records first: lists build on them.
        compared.clear();
        for bucket in theirs.buckets.iter().filter(|bucket| compared.insert(bucket.index)) {
            self.compare_lists(bucket, &mut records, &mut difference);
        }
        difference
    }

    /// The lists of a bucket that an asker lacks, and those that this node lacks.
    fn compare_lists(&self, theirs: &Bucket, room: &mut Room, difference: &mut Difference) {
        let stamps = |lists: &[Listed]| -> BTreeMap<NodeId, (u64, Digest)> {
            lists.iter().map(|listed| (listed.node, (listed.sequence, listed.digest))).collect()
        };
        let (own, their) = (stamps(&self.members.lists_in(theirs.index)), stamps(&theirs.devices));
        for (node, stamp) in &own {
            if their.get(node).is_none_or(|their| their < stamp)
                && let Some(list) = self.members.list(*node).map(Verified::signed)
            {
                if room.takes(list) {
                    difference.delivery.devices.push(list.clone());
                } else {
                    difference.more = true;
                }
            }
        }
        let lacking = their.iter().filter(|(node, their)| own.get(node) < Some(their));
        difference.wanted_devices.extend(lacking.map(|(node, _)| *node));
    }

    fn delivery(&self, documents: &[Digest], records: &[NodeId], devices: &[NodeId]) -> Delivery {
        let (mut document_room, mut record_room) = (Room(MAX_DELIVERY / 2), Room(MAX_DELIVERY / 2));
        let mut wanted: Vec<_> =
            documents.iter().filter_map(|digest| self.trust.document(digest)).collect();
        wanted.sort_by_key(|document| self.trust.urgency(document));
        Delivery {
            documents: wanted
                .into_iter()
                .filter(|document| document_room.takes(*document))
                .cloned()
                .collect(),
            records: records
                .iter()
                .filter_map(|node| self.members.get(*node))
                .map(|member| member.record.signed().clone())
                .filter(|record| record_room.takes(record))
                .collect(),
            devices: devices
                .iter()
                .filter_map(|node| self.members.list(*node))
                .map(|list| list.signed().clone())
                .filter(|list| record_room.takes(list))
                .collect(),
        }
    }

    /// Takes what a member sent, those parts first on which others build;
    /// says whether something is missing for the rest.
    pub(super) fn take_delivery(&mut self, from: NodeId, mut delivery: Delivery, now: Now) -> bool {
        delivery.documents.sort_by_key(epsilon_proto::trust::NetworkDocument::rank);
        let mut incomplete = false;
        for document in &delivery.documents {
            incomplete |= self.take_document(document, Source::Member, now) == Taken::Incomplete;
        }
        let spreads = self.own_record.has_synced();
        let mut waiting: Vec<Signed<NodeRecord>> = delivery.records;
        self.hubs.is_learning = self.will_be_large(&waiting);
        loop {
            let before = waiting.len();
            // The giver's own record may have been among them.
            let is_believed =
                !self.is_grounded || self.members.grounded(&self.trust).contains(from);
            let source = if is_believed { Source::Member } else { Source::Hello };
            waiting.retain(|record| {
                let owner = NodeId::from(record.signer());
                let taken = self.take_record(record, source, now);
                // Gossip lost it here, so it did elsewhere; a newcomer, which
                // knows nothing yet, cannot tell.
                if taken == Taken::New && spreads && self.peer(owner).forward.allows(now.instant) {
                    let change = Change::Record(record.clone());
                    self.outputs.push_back(Output::Publish(wire::encode(&change)));
                }
                taken == Taken::Incomplete
            });
            if waiting.is_empty() || waiting.len() == before {
                break;
            }
        }
        self.hubs.is_learning = false;
        for list in &delivery.devices {
            if self.is_devices_news(from, list, now).is_err() {
                continue;
            }
            let taken = self.take_devices(list);
            if taken == Taken::New && spreads {
                self.spread_devices(list);
            }
            incomplete |= taken == Taken::Incomplete;
        }
        if !delivery.devices.is_empty() {
            self.refresh_members(now);
        }
        incomplete || !waiting.is_empty()
    }
}
