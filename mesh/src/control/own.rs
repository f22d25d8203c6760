//! What this node says about itself: its claims, who vouches for them, and
//! its record, which is published only after it is durable.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use epsilon_proto::address::is_usable_endpoint;
use epsilon_proto::clock::{Instant, Now};
use epsilon_proto::document::{Signed, Verified};
use epsilon_proto::id::NodeId;
use epsilon_proto::message::{Change, Claims, Introduced, Request};
use epsilon_proto::name::NodeName;
use epsilon_proto::record::{
    Endpoint, EndpointSource, MAX_ENDPOINTS, MAX_INTRODUCTIONS, NodeRecord,
};
use epsilon_proto::trust::{Introduction, NodeFacts};
use epsilon_proto::wire;

use super::documents::Taken;
use super::{Control, Output, Then};
use crate::event::Event;
use crate::saved::{Introductions, Write};

/// A new node waits so long for a member to sync with before it claims an
/// address on its own.
const CLAIM_ALONE: Duration = Duration::from_millis(1200);
/// At most one own record in this time, with a burst.
const PUBLISH_EVERY: Duration = Duration::from_secs(5);
const PUBLISH_BURST: u32 = 5;
/// How long another must rank higher for a claim before it is given up.
const DISPUTE: Duration = Duration::from_secs(3);
/// After a record could not be made durable.
const RETRY: Duration = Duration::from_secs(10);
/// How long this node remembers what it vouched for, until the record comes.
const PROMISE: Duration = Duration::from_secs(10);

/// A node that has claimed nothing yet.
pub(super) enum Newcomer {
    /// The first of its network: there is nobody to ask.
    Founder,
    /// Others may be there.
    Joiner,
}

/// The state of the own record.
pub(super) struct OwnRecord {
    sequence: u64,
    dirty: bool,
    staged: Option<Verified<NodeRecord>>,
    introductions: Vec<Verified<Introduction>>,
    /// Until when a new node waits before it claims on its own.
    claim_alone: Option<Instant>,
    /// Whether a first sync came to its end.
    synced: bool,
    address_attempt: u32,
    name_attempt: u32,
    budget: (u32, Instant),
    retry: Option<Instant>,
    /// Where members saw this node's datagrams come from.
    observed: BTreeMap<NodeId, SocketAddr>,
    /// Claims this node vouched for, whose records it does not have yet.
    promises: BTreeMap<NodeId, (Claims, Instant)>,
    /// Since when another ranks higher for something that this node claims.
    disputed: Option<Instant>,
    /// How often a record of this node came that it did not make.
    foreign: u32,
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
            budget: (PUBLISH_BURST, now),
            retry: None,
            observed: BTreeMap::new(),
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
        let (tokens, since) = self.budget;
        let budget = if tokens > 0 { Instant::default() } else { since + PUBLISH_EVERY };
        budget.max(self.retry.unwrap_or_default())
    }

    fn spend(&mut self, now: Instant) {
        let (tokens, since) = self.budget;
        let gained = (now.since(since).as_secs() / PUBLISH_EVERY.as_secs()) as u32;
        let tokens = tokens.saturating_add(gained).min(PUBLISH_BURST);
        let since = if gained > 0 { now } else { since };
        self.budget = (tokens.saturating_sub(1), since);
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
        [own.claim_alone, publish, disputed].into_iter().flatten().min()
    }

    /// Whether there is something to publish and anybody who would forward
    /// it: with a member at hand a node speaks only once somebody vouches for
    /// it.
    fn may_speak(&self) -> bool {
        self.identity.ipv4.is_some()
            && !self.is_banned()
            && (self.is_introduced() || self.peers.values().all(|peer| peer.link.is_none()))
    }

    /// Brings claims, vouching and the record as far as they come now.
    pub(super) fn advance_own(&mut self, now: Now) {
        self.choose_claims(now);
        self.ask_for_introduction();
        self.publish_own(now);
    }

    /// A first sync came to its end: the node knows who holds what.
    pub(super) fn first_sync_done(&mut self, now: Now) {
        self.own_record.synced = true;
        self.advance_own(now);
    }

    fn choose_claims(&mut self, now: Now) {
        if self.own_record.claim_alone.is_some_and(|alone| now.instant >= alone) {
            self.own_record.claim_alone = None;
        }
        let must_wait = self.own_record.claim_alone.is_some() && !self.own_record.synced;
        if must_wait {
            return;
        }
        self.own_record.claim_alone = None;
        self.own_record.promises.retain(|_, (_, since)| now.instant.since(*since) < PROMISE);
        let must_yield = self.must_yield(now);
        let mut changed = false;
        if self.identity.ipv4.is_none_or(|claimed| must_yield && self.is_ipv4_lost(claimed)) {
            if let Some(lost) = self.identity.ipv4 {
                self.event(Event::AddressLost(lost));
            }
            let address = self.free_ipv4();
            self.identity.ipv4 = Some(address);
            self.event(Event::AddressTaken(address));
            changed = true;
        }
        let name_lost = match &self.identity.name {
            Some(name) => must_yield && self.is_name_lost(name),
            None => true,
        };
        if name_lost && let Some(name) = self.free_name() {
            if let Some(lost) = self.identity.name.replace(name.clone()) {
                self.event(Event::NameLost(lost));
            }
            self.event(Event::NameTaken(name));
            changed = true;
        }
        if changed {
            self.own_record.disputed = None;
            self.persist(vec![Write::identity_state(&self.identity)], None);
            self.own_record.touch();
            self.announce_addresses();
        }
    }

    /// Whether a claim was lost long enough to be given up. At first the two
    /// claimants may not have each other's newest records, rank themselves
    /// differently, and both yield.
    fn must_yield(&mut self, now: Now) -> bool {
        let lost = self.identity.ipv4.is_some_and(|claimed| self.is_ipv4_lost(claimed))
            || self.identity.name.as_ref().is_some_and(|claimed| self.is_name_lost(claimed));
        if !lost {
            self.own_record.disputed = None;
            return false;
        }
        let since = *self.own_record.disputed.get_or_insert(now.instant);
        now.instant.since(since) >= DISPUTE
    }

    fn is_ipv4_lost(&self, claimed: Ipv4Addr) -> bool {
        // A pin elsewhere makes the claim idle, but takes nothing away.
        self.trust.pin(self.own).and_then(|pin| pin.ipv4).is_none()
            && (!self.range().assignable(claimed)
                || self
                    .members
                    .owner_of_ipv4(claimed, &self.trust)
                    .is_some_and(|owner| owner != self.own && self.is_own_record_in_force()))
    }

    fn is_name_lost(&self, claimed: &NodeName) -> bool {
        self.trust.pin(self.own).is_none_or(|pin| pin.name.is_none())
            && self
                .members
                .owner_of_name(claimed, &self.trust)
                .is_some_and(|owner| owner != self.own && self.is_own_record_in_force())
    }

    /// Whether the membership ranks this node's claims by its newest record;
    /// until then a claim may look lost that is not.
    fn is_own_record_in_force(&self) -> bool {
        self.members.get(self.own).is_none_or(|member| {
            member.record.ipv4 == self.identity.ipv4 && member.record.name == self.identity.name
        })
    }

    fn free_ipv4(&mut self) -> Ipv4Addr {
        loop {
            let attempt = self.own_record.address_attempt;
            let address = self.range().candidate(self.id, self.own, attempt);
            self.own_record.address_attempt += 1;
            let taken = self.is_ipv4_taken(address, self.own);
            // A range that is full beyond hope must not keep the node from
            // everything else; the conflict is then settled by rank.
            if !taken || attempt > 4096 {
                return address;
            }
        }
    }

    fn free_name(&mut self) -> Option<NodeName> {
        let wished = self.settings.name.clone().or_else(|| self.config.hostname.clone());
        let short = self.own.short();
        let wished = match wished {
            Some(wished) => wished,
            None => format!("node-{}", &short[..6]).parse().ok()?,
        };
        if self.own_record.name_attempt == 0 && !self.is_name_taken(&wished, self.own) {
            self.own_record.name_attempt = 1;
            return Some(wished);
        }
        self.own_record.name_attempt += 1;
        let length = (3 + self.own_record.name_attempt as usize).min(short.len());
        wished.with_suffix(&short[..length])
    }

    fn is_ipv4_taken(&self, address: Ipv4Addr, by_other_than: NodeId) -> bool {
        self.members.owner_of_ipv4(address, &self.trust).is_some_and(|owner| owner != by_other_than)
            || (by_other_than != self.own && self.identity.ipv4 == Some(address))
            || self
                .own_record
                .promises
                .iter()
                .any(|(node, (claims, _))| *node != by_other_than && claims.ipv4 == Some(address))
    }

    fn is_name_taken(&self, name: &NodeName, by_other_than: NodeId) -> bool {
        self.members.owner_of_name(name, &self.trust).is_some_and(|owner| owner != by_other_than)
            || (by_other_than != self.own && self.identity.name.as_ref() == Some(name))
            || self.own_record.promises.iter().any(|(node, (claims, _))| {
                *node != by_other_than && claims.name.as_ref() == Some(name)
            })
    }

    /// What nobody has vouched for yet.
    fn unwitnessed(&self) -> bool {
        let facts = |holds: &dyn Fn(&NodeFacts) -> bool| {
            self.own_record.introductions.iter().any(|one| holds(&one.facts))
        };
        !self.is_introduced()
            || !facts(&|facts| facts.ipv4.is_some() && facts.ipv4 == self.identity.ipv4)
            || !facts(&|facts| facts.name.is_some() && facts.name == self.identity.name)
    }

    fn ask_for_introduction(&mut self) {
        if self.identity.ipv4.is_none() || !self.unwitnessed() {
            return;
        }
        if self.peers.values().any(|peer| peer.link.is_some() && peer.asked_to_introduce) {
            return;
        }
        let Some(node) = self.linked().into_iter().next() else { return };
        self.peer(node).asked_to_introduce = true;
        let claims = Claims { ipv4: self.identity.ipv4, name: self.identity.name.clone() };
        self.request(node, &Request::Introduce(claims));
    }

    /// A linked node asks to be vouched for.
    pub(super) fn introduce(&mut self, node: NodeId, claims: Claims, now: Now) -> Introduced {
        let ipv4_taken = claims.ipv4.is_some_and(|address| {
            !self.range().assignable(address) || self.is_ipv4_taken(address, node)
        });
        let name_taken = claims.name.as_ref().is_some_and(|name| self.is_name_taken(name, node));
        let invite = self.invite_of(node);
        if ipv4_taken || name_taken || invite.is_none() {
            return Introduced { introduction: None, ipv4_taken, name_taken };
        }
        self.own_record.promises.insert(node, (claims.clone(), now.instant));
        let is_sure = self.is_grounded
            || self.members.has_vouched(node)
            || self.members.grounded(&self.trust).contains(&node);
        let invite = invite.filter(|_| is_sure);
        let facts = NodeFacts { invite, ipv4: claims.ipv4, name: claims.name };
        let introduction = self.vouch(node, facts, now);
        Introduced { introduction: Some(introduction), ipv4_taken, name_taken }
    }

    /// The invite of a linked node, by its record or by its admission.
    fn invite_of(&self, node: NodeId) -> Option<epsilon_proto::id::PublicKey> {
        self.members
            .get(node)
            .map(crate::membership::Member::invite)
            .or_else(|| self.admitted_by.get(&node).copied())
    }

    fn vouch(&self, node: NodeId, facts: NodeFacts, now: Now) -> Signed<Introduction> {
        let introduction = Introduction { node, at: self.trusted_time(now), facts };
        Signed::sign(&introduction, self.id, &self.config.key)
    }

    /// Vouches for linked members to whom no chain of introductions leads any
    /// more, or never did, so that others believe them. Only who is believed
    /// itself can help them.
    pub(super) fn vouch_for_orphans(&mut self, now: Now) {
        if !self.is_grounded {
            return;
        }
        let grounded = self.members.grounded(&self.trust);
        let orphans: Vec<_> = self
            .linked()
            .into_iter()
            .filter(|node| !grounded.contains(node))
            .filter_map(|node| Some((node, self.members.get(node)?)))
            .map(|(node, member)| {
                (node, member.invite(), member.record.ipv4, member.record.name.clone())
            })
            .collect();
        for (node, invite, ipv4, name) in orphans {
            let facts = NodeFacts { invite: Some(invite), ipv4, name };
            let introduction = self.vouch(node, facts, now);
            self.request(node, &Request::Vouch(introduction));
        }
    }

    /// A member answered to the wish to be vouched for.
    pub(super) fn introduced(&mut self, node: NodeId, answer: Introduced, now: Now) {
        self.peer(node).asked_to_introduce = false;
        if let Some(signed) = answer.introduction {
            self.take_introduction(node, &signed);
        } else {
            if answer.ipv4_taken && self.trust.pin(self.own).is_none_or(|pin| pin.ipv4.is_none()) {
                self.identity.ipv4 = None;
            }
            if answer.name_taken && self.trust.pin(self.own).is_none_or(|pin| pin.name.is_none()) {
                self.identity.name = None;
                self.own_record.name_attempt = self.own_record.name_attempt.max(1);
            }
        }
        self.advance_own(now);
    }

    /// A member vouches for this node.
    pub(super) fn take_introduction(&mut self, from: NodeId, signed: &Signed<Introduction>) {
        let Ok(introduction) = signed.verify_by(from.key(), self.id, &*self.config.check) else {
            return;
        };
        let own = &mut self.own_record;
        if introduction.node != self.own || own.introductions.contains(&introduction) {
            return;
        }
        own.introductions.push(introduction);
        let grounded = self.members.grounded(&self.trust);
        let value = |one: &Verified<Introduction>| {
            let by = one.signer();
            if self.trust.is_node_revoked(by.into()) {
                Value::Void
            } else if by == self.id.root()
                || self.trust.is_admin(by)
                || grounded.contains(&by.into())
            {
                Value::Grounded
            } else {
                Value::Local
            }
        };
        let (ipv4, name) = (self.identity.ipv4, self.identity.name.as_ref());
        let invite = self.certificate.signer();
        prune(&mut self.own_record.introductions, ipv4, name, invite, value);
        self.own_record.touch();
    }

    /// Where a member saw this node's datagrams come from.
    pub(super) fn observed_at(&mut self, by: NodeId, address: SocketAddr) {
        if self.own_record.observed.insert(by, address) != Some(address) {
            let endpoints = self.endpoints();
            if self.members.get(self.own).is_none_or(|own| own.record.endpoints != endpoints) {
                self.own_record.touch();
            }
        }
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        let local = self
            .local
            .iter()
            .map(|(ip, _)| (EndpointSource::Local, SocketAddr::new(*ip, self.settings.port)));
        let configured =
            self.configured.iter().map(|address| (EndpointSource::Configured, *address));
        let observed =
            self.own_record.observed.values().map(|address| (EndpointSource::Observed, *address));
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for (source, address) in configured.chain(local).chain(observed) {
            if endpoints.len() < MAX_ENDPOINTS
                && is_usable_endpoint(address)
                && !self.members.is_inside(address.ip())
                && !endpoints.iter().any(|known| known.address == address)
            {
                endpoints.push(Endpoint { source, address });
            }
        }
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
        let record = NodeRecord {
            incarnation: self.identity.incarnation,
            sequence: self.own_record.sequence,
            boot: self.config.boot,
            certificate: self.certificate.signed().clone(),
            introductions: self.own_record.introductions(),
            ipv4: self.identity.ipv4,
            name: self.identity.name.clone(),
            endpoints: self.endpoints(),
            site: self.settings.site.clone(),
            labels: self.settings.labels.clone(),
            version: self.config.version.clone(),
        };
        let same = self.members.get(self.own).is_some_and(|known| {
            let mut stamped = record.clone();
            stamped.sequence = known.record.sequence;
            *known.record == stamped
        });
        self.own_record.dirty = false;
        if same {
            return;
        }
        self.own_record.spend(now.instant);
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

    /// From when on a chain leads to this node it knows whom to believe:
    /// those to whom one leads as well, and those whom it judged itself. What
    /// others told it before is forgotten; if it was true, members tell it
    /// again.
    fn become_grounded(&mut self, now: Now) {
        let grounded = self.members.grounded(&self.trust);
        if self.is_grounded || !grounded.contains(&self.own) {
            return;
        }
        self.is_grounded = true;
        let believed = |node: &NodeId| grounded.contains(node) || self.members.has_vouched(*node);
        let mut doubtful: Vec<NodeId> =
            self.members.iter().map(|(node, _)| node).filter(|node| !believed(node)).collect();
        doubtful.extend(
            self.linked().into_iter().filter(|node| {
                self.members.get(*node).is_none() && !self.members.has_vouched(*node)
            }),
        );
        for node in doubtful {
            if self.members.remove(node).is_some() {
                self.persist(vec![Write::forget_record(node)], None);
            }
            self.outputs.push_back(Output::Disconnect(node));
            self.forget_peer(node);
        }
        self.refresh_members(now);
        self.refresh_token_calls(now);
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
        ipv6.extend(pin.and_then(|pin| pin.inherited));
        self.announce(ipv4, ipv6);
    }
}

/// What an introduction is worth, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Value {
    /// Everybody believes its signer.
    Grounded,
    /// Those who know its signer believe it.
    Local,
    /// Its signer is revoked.
    Void,
}

/// Keeps, for each fact that still matters, one introduction that vouches for
/// it: for the membership the first among those that most believe, for the
/// claims the earliest among those whose signers are not revoked.
fn prune(
    introductions: &mut Vec<Verified<Introduction>>,
    ipv4: Option<Ipv4Addr>,
    name: Option<&NodeName>,
    invite: epsilon_proto::id::PublicKey,
    value: impl Fn(&Verified<Introduction>) -> Value,
) {
    let earliest = |holds: &dyn Fn(&NodeFacts) -> bool| {
        introductions
            .iter()
            .filter(|one| holds(&one.facts))
            .min_by_key(|one| (value(one) == Value::Void, one.at))
    };
    let membership = introductions
        .iter()
        .filter(|one| one.facts.invite == Some(invite))
        .min_by_key(|one| value(one));
    let address = earliest(&|facts| facts.ipv4.is_some() && facts.ipv4 == ipv4);
    let name = earliest(&|facts| facts.name.is_some() && facts.name.as_ref() == name);
    let mut kept: Vec<Verified<Introduction>> = Vec::new();
    for one in [membership, address, name].into_iter().flatten() {
        if !kept.contains(one) {
            kept.push(one.clone());
        }
    }
    kept.truncate(MAX_INTRODUCTIONS);
    *introductions = kept;
}
