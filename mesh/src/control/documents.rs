//! Network documents that come in, and what they change at once.

use std::collections::BTreeSet;

use epsilon_proto::clock::Now;
use epsilon_proto::document::Signed;
use epsilon_proto::id::{BootId, NodeId};
use epsilon_proto::message::{Change, Refusal};
use epsilon_proto::record::NodeRecord;
use epsilon_proto::trust::{NetworkDocument, Revoked};
use epsilon_proto::wire;

use super::{Condition, Control, Output};
use crate::event::Event;
use crate::membership::{Merged, Refused};
use crate::saved::Write;
use crate::trust::TrustError;

/// Where a document came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// This node's operator made it; it is durable.
    Operator,
    /// An applicant or a member said so before it was admitted.
    Hello,
    /// A member sent it.
    Member,
    /// It came by gossip, which spreads it further by itself.
    Gossip,
}

/// What became of something that a member sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is in force now.
    New,
    /// It was known, or older than what was.
    Known,
    /// Something that it builds on is missing here.
    Incomplete,
    /// It does not hold.
    Bad,
}

impl Control {
    /// Takes a network document and does what follows from it.
    pub(super) fn take_document(
        &mut self,
        document: &NetworkDocument,
        source: Source,
        now: Now,
    ) -> Taken {
        match self.trust.merge(document, &*self.config.check) {
            Ok(true) => {}
            // Where there is no room for it nothing can be done about it.
            Ok(false) | Err(TrustError::Full) => return Taken::Known,
            Err(TrustError::UnknownSigner(_) | TrustError::UnknownInvite(_)) => {
                return Taken::Incomplete;
            }
            Err(TrustError::Document(_) | TrustError::OtherNode) => return Taken::Bad,
        }
        // The operator's documents were persisted before they came here.
        if source != Source::Operator {
            self.persist(vec![Write::document(document)], None);
        }
        if source != Source::Gossip {
            self.outputs
                .push_back(Output::Publish(wire::encode(&Change::Document(document.clone()))));
        }
        self.members.doubt_devices();
        self.follow(document, now);
        Taken::New
    }

    fn follow(&mut self, document: &NetworkDocument, now: Now) {
        let kind = match document {
            NetworkDocument::Grant(_) => "admin",
            NetworkDocument::Revocation(signed) => {
                if let Ok(revocation) = signed.peek() {
                    self.enforce(&revocation.revoked, now);
                }
                "revocation"
            }
            NetworkDocument::Genesis(_) => {
                for generation in self.trust.contradictory_generations() {
                    self.raise(Condition::ContradictoryGenesis, now);
                    self.event(Event::ContradictoryGenesis(generation));
                }
                "genesis"
            }
            NetworkDocument::Charter(_) => "charter",
            NetworkDocument::Invite(_) => "invite",
            NetworkDocument::Pin(signed) => {
                if let Ok(pin) = signed.peek() {
                    self.plane.touch(pin.node);
                    self.members.affect_claimants(pin.ipv4, pin.name.as_ref());
                }
                self.refresh_members(now);
                "pin"
            }
            NetworkDocument::GateEpoch(signed) => {
                if let Ok(epoch) = signed.peek() {
                    self.take_gate_epoch(&epoch);
                }
                "gate-epoch"
            }
            NetworkDocument::Departure(_) => {
                self.drop_banned(now);
                self.vouch_for_orphans(now);
                "departure"
            }
        };
        self.event(Event::DocumentLearned(kind, document.digest()));
    }

    fn enforce(&mut self, revoked: &Revoked, now: Now) {
        match revoked {
            Revoked::Node(node) if *node == self.own => {
                self.raise(Condition::Revoked, now);
                self.event(Event::SelfRevoked);
            }
            Revoked::InviteAndMembers(invite) if *invite == self.certificate.signer() => {
                self.raise(Condition::Revoked, now);
                self.event(Event::SelfRevoked);
            }
            Revoked::Admin(key) => self.event(Event::AdminRevoked(*key)),
            Revoked::Device(_) => {
                self.refresh_members(now);
                return;
            }
            Revoked::Node(_) | Revoked::Invite(_) | Revoked::InviteAndMembers(_) => {}
        }
        self.sort_gate();
        let mut gone = self.drop_banned(now);
        match revoked {
            Revoked::Admin(key) => drop(gone.insert((*key).into())),
            Revoked::Node(node) => drop(gone.insert(*node)),
            Revoked::Invite(_) | Revoked::InviteAndMembers(_) | Revoked::Device(_) => {}
        }
        self.doubt(&gone, now);
        if self.is_banned() {
            let callees: Vec<_> = self.dialer.callees().collect();
            for callee in callees {
                self.dialer.forget(callee);
            }
        }
        self.vouch_for_orphans(now);
    }

    /// Cuts off everybody who is revoked or departed now, and says who that is.
    pub(super) fn drop_banned(&mut self, now: Now) -> BTreeSet<NodeId> {
        let mut banned: BTreeSet<_> =
            self.members.banned(&self.trust).into_iter().filter(|node| *node != self.own).collect();
        // Linked, but without a record yet.
        banned.extend(
            self.peers
                .keys()
                .copied()
                .filter(|node| self.members.get(*node).is_none() && self.is_peer_banned(*node)),
        );
        for node in banned.iter().copied() {
            let name = self.members.name_of(node, &self.trust);
            if self.members.remove(node).is_some() {
                self.persist(Write::forget_member(node), None);
                self.event(if self.trust.has_departed(node) {
                    Event::MemberLeft(node, name)
                } else {
                    Event::MemberRevoked(node, name)
                });
            }
            self.cut(node);
        }
        // Those who are banned, and admins that no longer are, witness no
        // claims any more: anybody's may rank differently now.
        let everybody: Vec<_> = self.members.iter().map(|(node, _)| node).collect();
        for node in everybody {
            self.plane.touch(node);
        }
        self.refresh_members(now);
        self.refresh_token_calls(now);
        banned
    }

    /// Whether a peer is banned, also one that has no record here yet.
    pub(super) fn is_peer_banned(&self, node: NodeId) -> bool {
        self.trust.is_node_revoked(node)
            || self.trust.has_departed(node)
            || self
                .admitted
                .get(&node)
                .is_some_and(|admitted| self.trust.are_members_revoked(admitted.invite))
    }

    /// Takes a record and does what follows from it.
    pub(super) fn take_record(
        &mut self,
        record: &Signed<NodeRecord>,
        source: Source,
        now: Now,
    ) -> Taken {
        let node = NodeId::from(record.signer());
        if node == self.own {
            return self.saw_own_record(record, now);
        }
        let known = self
            .members
            .get(node)
            .map(|known| (known.record.incarnation, known.record.boot, known.digest));
        let check = &*self.config.check;
        let merged = match source {
            Source::Member => self.members.merge_believed(record, &self.trust, check),
            _ => self.members.merge(record, &self.trust, check),
        };
        // Each start counts up: two runs with one incarnation are two machines.
        if merged.is_ok()
            && let (Some((incarnation, boot, _)), Ok(said)) = (known, record.peek())
            && incarnation == said.incarnation
            && boot != said.boot
        {
            self.cloned(node, [boot, said.boot], now);
        }
        match merged {
            Ok(Merged::New) => {}
            Ok(Merged::Known | Merged::Stale) => return Taken::Known,
            Ok(Merged::Contradicts) => {
                let digest = self.members.get(node).map(|member| member.digest);
                if digest == known.map(|(_, _, digest)| digest) {
                    return Taken::Known;
                }
            }
            Err(Refused::Missing(_) | Refused::Unintroduced) => return Taken::Incomplete,
            Err(
                Refused::Revoked
                | Refused::Departed
                | Refused::Document(_)
                | Refused::Invalid(_)
                | Refused::Full,
            ) => return Taken::Bad,
        }
        self.persist(vec![Write::record(node, record)], None);
        let was_member = known.is_some();
        if !was_member {
            self.event(Event::MemberJoined(node));
        }
        self.plane.touch(node);
        self.refresh_members(now);
        if !was_member && self.peers.get(&node).is_some_and(|peer| peer.link.is_some()) {
            self.vouch_for_orphans(now);
        }
        Taken::New
    }

    /// Two machines run with one identity.
    pub(super) fn cloned(&mut self, node: NodeId, boots: [BootId; 2], now: Now) {
        if node == self.own {
            self.raise(Condition::Cloned, now);
        }
        if self.peer(node).note_clone(now.instant) {
            self.event(Event::Cloned { node, boots });
        }
    }

    /// What a refusal by a member says about this node.
    pub(super) fn note_refusal(&mut self, refusal: Refusal, now: Now) {
        // Whether it was revoked a node knows by the revocation itself, which
        // comes with every hello.
        if refusal == Refusal::Cloned {
            self.raise(Condition::Cloned, now);
            self.peer(self.own).note_clone(now.instant);
        }
    }

    /// The second machine with this node's identity is heard of no more.
    pub(super) fn forget_clone(&mut self, now: Now) {
        if self.conditions.contains_key(&Condition::Cloned)
            && !self.peer(self.own).is_cloned(now.instant)
        {
            self.conditions.remove(&Condition::Cloned);
        }
    }

    pub(super) fn raise(&mut self, condition: Condition, now: Now) {
        self.conditions.entry(condition).or_insert(now.wall);
    }
}
