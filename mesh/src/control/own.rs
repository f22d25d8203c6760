//! This node's own record, which is published only after it is durable.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use epsilon_proto::address::is_usable_endpoint;
use epsilon_proto::clock::{Instant, Now};
use epsilon_proto::document::{Signed, Verified};
use epsilon_proto::id::NodeId;
use epsilon_proto::message::{Change, Claims};
use epsilon_proto::record::{Endpoint, EndpointSource, MAX_ENDPOINTS, NodeRecord};
use epsilon_proto::trust::Introduction;
use epsilon_proto::wire;

use super::documents::Taken;
use super::reach::Reach;
use super::seen::{Seen, SeenBy};
use super::storage::Then;
use super::{Control, Output};
use crate::event::Event;
use crate::limit::Limit;
use crate::saved::{Introductions, Write};

/// A new node waits so long for a member to sync with before it claims an
/// address on its own.
const CLAIM_ALONE: Duration = Duration::from_millis(1200);
/// At most one own record in this time, with a burst.
pub(super) const PUBLISH_EVERY: Duration = Duration::from_secs(5);
pub(super) const PUBLISH_BURST: u32 = 5;
/// Between two of them: what changes goes by several, as at the start, and goes out as one.
const TOGETHER: Duration = Duration::from_millis(250);
/// But not of the first two: the second says where this node can be reached.
const FIRST: u64 = 1;
/// So many of the addresses at which it is seen are said of a node that has many of its own.
const OBSERVED: usize = 3;
/// How long another must rank higher for a claim before it is given up.
pub(super) const DISPUTE: Duration = Duration::from_secs(3);
/// After a record could not be made durable.
const RETRY: Duration = Duration::from_secs(10);
/// How long this node remembers what it vouched for, until the record comes.
pub(super) const PROMISE: Duration = Duration::from_secs(10);

/// A node that has claimed nothing yet.
pub(super) enum Newcomer {
    /// The first of its network: there is nobody to ask.
    Founder,
    /// Others may be there.
    Joiner,
}

/// The state of the own record.
pub(super) struct OwnRecord {
    pub(super) sequence: u64,
    pub(super) dirty: bool,
    pub(super) staged: Option<Verified<NodeRecord>>,
    pub(super) introductions: Vec<Verified<Introduction>>,
    /// Until when a new node waits before it claims on its own.
    pub(super) claim_alone: Option<Instant>,
    /// Whether a first sync came to its end.
    pub(super) synced: bool,
    pub(super) address_attempt: u32,
    pub(super) name_attempt: u32,
    budget: Limit,
    /// From when on there may be another.
    next: Instant,
    pub(super) retry: Option<Instant>,
    /// Where members saw this node's datagrams come from.
    pub(super) seen: Seen,
    /// Claims this node vouched for, whose records it does not have yet.
    pub(super) promises: BTreeMap<NodeId, (Claims, Instant)>,
    /// Since when another ranks higher for something that this node claims.
    pub(super) disputed: Option<Instant>,
    /// How often a record of this node came that it did not make.
    pub(super) foreign: u32,
}

impl OwnRecord {
    pub(super) fn new(
        introductions: Vec<Verified<Introduction>>,
        newcomer: Option<Newcomer>,
        now: Instant,
    ) -> Self {
        Self {
            sequence: 0,
            dirty: true,
            staged: None,
            introductions,
            claim_alone: newcomer.map(|newcomer| match newcomer {
                Newcomer::Founder => now,
                Newcomer::Joiner => now + CLAIM_ALONE,
            }),
            synced: false,
            address_attempt: 0,
            name_attempt: 0,
            budget: Limit::new(PUBLISH_BURST, PUBLISH_EVERY),
            next: now,
            retry: None,
            seen: Seen::default(),
            promises: BTreeMap::new(),
            disputed: None,
            foreign: 0,
        }
    }

    /// Whether a first sync came to its end.
    pub(super) fn has_synced(&self) -> bool {
        self.synced
    }

    /// Something in the record changed.
    pub(super) fn touch(&mut self) {
        self.dirty = true;
    }

    pub(super) fn introductions(&self) -> Vec<Signed<Introduction>> {
        self.introductions.iter().map(|one| one.signed().clone()).collect()
    }

    /// A node that was vouched for will not come: what it claimed is free.
    pub(super) fn forget_promise(&mut self, node: NodeId) {
        self.promises.remove(&node);
    }

    pub(super) fn persist_failed(&mut self, now: Instant) {
        self.staged = None;
        self.dirty = true;
        self.retry = Some(now + RETRY);
    }

    fn may_publish_at(&self) -> Instant {
        self.budget.due().max(self.retry.unwrap_or_default()).max(self.next)
    }
}

impl Control {
    /// Whether somebody who may has introduced this node.
    pub(super) fn is_introduced(&self) -> bool {
        self.own_record.introductions.iter().any(|one| {
            one.facts.invite == Some(self.certificate.signer())
                && NodeId::from(one.signer()) != self.own
        })
    }

    /// When time alone lets claims or record go on.
    pub(super) fn own_due(&self) -> Option<Instant> {
        let own = &self.own_record;
        let publish =
            (own.dirty && own.staged.is_none() && self.may_speak()).then(|| own.may_publish_at());
        let disputed = own.disputed.map(|since| since + DISPUTE);
        let seen = [self.introduction_due(), self.reach_due(), own.seen.due()];
        [own.claim_alone, publish, disputed].into_iter().chain(seen).flatten().min()
    }

    /// Whether there is something to publish and anybody who would forward
    /// it: with a member at hand a node speaks only once somebody vouches for
    /// it.
    fn may_speak(&self) -> bool {
        self.identity.ipv4.is_some()
            && !self.is_banned()
            && (self.is_introduced() || self.near().all(|(_, peer)| peer.link.is_none()))
    }

    /// Brings claims, vouching and the record as far as they come now.
    pub(super) fn advance_own(&mut self, now: Now) {
        self.advance_reach(now.instant);
        self.advance_seen(now.instant);
        self.choose_claims(now);
        self.ask_for_introduction(now);
        self.publish_own(now);
    }

    /// A first sync came to its end: the node knows who holds what.
    pub(super) fn first_sync_done(&mut self, now: Now) {
        self.own_record.synced = true;
        self.advance_own(now);
    }

    /// The ports of the router that lead to this node, as it says; none once there are none.
    pub fn handle_mapped_endpoints(&mut self, mapped: Vec<Endpoint>, now: Now) {
        if self.mapped != mapped {
            let is_lost = self.mapped.iter().any(|before| !mapped.contains(before));
            self.mapped = mapped;
            if is_lost {
                self.forget_openness();
            }
            self.own_record.touch();
            self.advance_own(now);
        }
    }

    /// At most so many of the addresses of this node, best first: those that it knows by
    /// itself leave some room for where it was seen, by the members in this order.
    pub(super) fn endpoints(&self, most: usize, seen: SeenBy) -> Vec<Endpoint> {
        let local = self
            .local
            .iter()
            .map(|(ip, _)| (EndpointSource::Local, SocketAddr::new(*ip, self.settings.port)));
        let configured =
            self.configured.iter().map(|address| (EndpointSource::Configured, *address));
        let seen = self.own_record.seen.addresses(seen).into_iter();
        let observed = seen.map(|address| (EndpointSource::Observed, address));
        let mapped = self.mapped.iter().map(|one| (one.source, one.address));
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for (source, address) in configured.chain(mapped).chain(local).chain(observed) {
            if is_usable_endpoint(address)
                && !self.members.is_inside(address.ip())
                && !endpoints.iter().any(|known| known.address == address)
            {
                endpoints.push(Endpoint { source, address });
            }
        }
        let count = |source| endpoints.iter().filter(|one| one.source == source).count();
        let (local, observed) = (count(EndpointSource::Local), count(EndpointSource::Observed));
        let told = endpoints.len() - local - observed;
        let most_local = most.saturating_sub(told + OBSERVED.min(observed));
        endpoints.drain(told + most_local.min(local)..told + local);
        endpoints.truncate(most);
        endpoints
    }

    fn publish_own(&mut self, now: Now) {
        let own = &self.own_record;
        if !own.dirty
            || own.staged.is_some()
            || !self.may_speak()
            || now.instant < own.may_publish_at()
        {
            return;
        }
        self.own_record.sequence += 1;
        let Reach { is_open, is_relay, relays } = self.reach();
        let (hubs, lost) = self.hubs.said();
        let record = NodeRecord {
            incarnation: self.identity.incarnation,
            sequence: self.own_record.sequence,
            boot: self.config.boot,
            certificate: self.certificate.signed().clone(),
            introductions: self.own_record.introductions(),
            ipv4: self.identity.ipv4,
            name: self.identity.name.clone(),
            endpoints: self.endpoints(MAX_ENDPOINTS, SeenBy::Most),
            site: self.settings.site.clone(),
            labels: self.settings.labels.clone(),
            version: self.config.version.clone(),
            is_open,
            is_relay,
            relays,
            hubs,
            lost,
            tcp_port: self.config.tcp_port,
            routes: self.routing.advertised.iter().map(|own| own.prefix).collect(),
        };
        let same = self.members.get(self.own).is_some_and(|known| {
            let mut stamped = record.clone();
            stamped.sequence = known.record.sequence;
            *known.record == stamped
        });
        self.own_record.dirty = false;
        // What others say of the record before does not count for this one.
        if !std::mem::take(&mut self.hubs.is_denied) && same {
            return;
        }
        self.own_record.budget.allows(now.instant);
        // The first ones say where this node is, which somebody may wait for.
        let is_first = self.own_record.sequence <= FIRST;
        self.own_record.next = if is_first { now.instant } else { now.instant + TOGETHER };
        let record = Verified::sign(record, self.id, &self.config.key);
        let introductions = Introductions { introductions: self.own_record.introductions() };
        let writes = vec![
            Write::identity_state(&self.identity),
            Write::introductions(&introductions),
            Write::record(self.own, record.signed()),
        ];
        self.own_record.staged = Some(record);
        self.own_record.retry = None;
        self.persist(writes, Some(Then::OwnRecord));
    }

    pub(super) fn own_record_persisted(&mut self, now: Now) {
        let Some(record) = self.own_record.staged.take() else { return };
        let merged = self.members.merge(record.signed(), &self.trust, &*self.config.check);
        if merged.is_err() {
            // This node was banned while its record was being written.
            debug_assert!(self.is_banned(), "{merged:?}");
            return;
        }
        let change = Change::Record(record.signed().clone());
        self.outputs.push_back(Output::Publish(wire::encode(&change)));
        self.event(Event::Published);
        self.announce_addresses();
        self.refresh_members(now);
        self.become_grounded(now);
    }

    /// A record of this node came back from somebody.
    pub(super) fn saw_own_record(&mut self, signed: &Signed<NodeRecord>, now: Now) -> Taken {
        let Ok(record) = signed.verify(self.id, &*self.config.check) else { return Taken::Bad };
        let is_mine = record.incarnation < self.identity.incarnation
            || (record.incarnation == self.identity.incarnation && record.boot == self.config.boot);
        if is_mine {
            return Taken::Known;
        }
        // Once it may be a disk that was set back; again and again it is a
        // second machine.
        self.own_record.foreign += 1;
        if self.own_record.foreign > 1 {
            self.cloned(self.own, [self.config.boot, record.boot], now);
        } else {
            self.identity.incarnation = record.incarnation.saturating_add(1);
            self.own_record.sequence = 0;
            self.own_record.touch();
        }
        Taken::Known
    }

    /// Tells the shell and the data plane which addresses are this node's.
    pub(super) fn announce_addresses(&mut self) {
        let pin = self.trust.pin(self.own);
        let ipv4 = pin.and_then(|pin| pin.ipv4).or(self.identity.ipv4);
        let mut ipv6 = vec![self.range6.node(self.own)];
        ipv6.extend(self.trust.inherited(self.own));
        self.announce(ipv4, ipv6);
    }
}
