//! Who vouches for this node, and for whom it vouches.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use epsilon_proto::clock::{Instant, Now};
use epsilon_proto::document::{Signed, Verified};
use epsilon_proto::id::{NodeId, PublicKey};
use epsilon_proto::message::{Claims, Introduced, Request};
use epsilon_proto::name::NodeName;
use epsilon_proto::record::MAX_INTRODUCTIONS;
use epsilon_proto::trust::{Introduction, NodeFacts};

use super::Control;
use crate::membership::Member;
use crate::saved::Write;

impl Control {
    /// How much of what this node claims nobody has vouched for yet: that it
    /// is a member, its address, its name.
    fn unwitnessed(&self) -> usize {
        let facts = |holds: &dyn Fn(&NodeFacts) -> bool| {
            self.own_record.introductions.iter().any(|one| holds(&one.facts))
        };
        let ipv4 = facts(&|facts| facts.ipv4.is_some() && facts.ipv4 == self.identity.ipv4);
        let name = facts(&|facts| facts.name.is_some() && facts.name == self.identity.name);
        [self.is_introduced(), ipv4, name].into_iter().filter(|witnessed| !witnessed).count()
    }

    fn wishes_introduction(&self) -> bool {
        self.identity.ipv4.is_some() && self.unwitnessed() > 0
    }

    /// When somebody may be asked to vouch for this node, if that is wanted.
    pub(super) fn introduction_due(&self) -> Option<Instant> {
        if !self.wishes_introduction() {
            return None;
        }
        let linked = || self.near().filter(|(_, peer)| peer.link.is_some());
        let busy = linked().filter_map(|(_, peer)| peer.wish.busy_until()).max();
        let due = linked().map(|(_, peer)| peer.wish.due()).min()?;
        Some(due.max(busy.unwrap_or_default()))
    }

    /// Asks one linked member after the other.
    pub(super) fn ask_for_introduction(&mut self, now: Now) {
        if self.introduction_due().is_none_or(|due| now.instant < due) {
            return;
        }
        let ready =
            self.near().filter(|(_, peer)| peer.link.is_some() && peer.wish.due() <= now.instant);
        let Some(node) = ready.min_by_key(|(_, peer)| peer.wish.in_vain).map(|(node, _)| node)
        else {
            return;
        };
        self.peer(node).wish.asked(now.instant);
        let claims = Claims { ipv4: self.identity.ipv4, name: self.identity.name.clone() };
        self.request(node, &Request::Introduce(claims));
    }

    /// A linked node asks to be vouched for.
    pub(super) fn introduce(&mut self, node: NodeId, claims: Claims, now: Now) -> Introduced {
        let ipv4_taken = claims.ipv4.is_some_and(|address| {
            !self.range().assignable(address) || self.is_ipv4_taken(address, Some(node))
        });
        let name_taken =
            claims.name.as_ref().is_some_and(|name| self.is_name_taken(name, Some(node)));
        let invite = self.invite_of(node);
        if ipv4_taken || name_taken || invite.is_none() {
            return Introduced { introduction: None, ipv4_taken, name_taken };
        }
        self.own_record.promises.insert(node, (claims.clone(), now.instant));
        let is_sure = self.is_grounded
            || self.members.vouched().contains_key(&node)
            || self.members.grounded(&self.trust).contains(node);
        let invite = invite.filter(|_| is_sure);
        if invite.is_some() && self.members.hand_out(node) {
            self.save_vouched();
        }
        let facts = NodeFacts { invite, ipv4: claims.ipv4, name: claims.name };
        let introduction = self.vouch(node, facts, now);
        Introduced { introduction: Some(introduction), ipv4_taken, name_taken }
    }

    /// The invite of a linked node, by its record or by its admission.
    fn invite_of(&self, node: NodeId) -> Option<PublicKey> {
        self.members
            .get(node)
            .map(Member::invite)
            .or_else(|| self.admitted.get(&node).map(|admitted| admitted.invite))
    }

    fn vouch(&self, node: NodeId, facts: NodeFacts, now: Now) -> Signed<Introduction> {
        // Where few are linked, the clock of who claims could decide.
        let introduction = Introduction { node, at: self.time_without(Some(node), now), facts };
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
            .filter(|node| !grounded.contains(*node))
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
        let is_taken = answer.ipv4_taken || answer.name_taken;
        if let Some(signed) = answer.introduction {
            let before = self.unwitnessed();
            self.take_introduction(node, &signed);
            let helped = self.unwitnessed() < before;
            let worth = if helped { Answer::Useful } else { Answer::Useless };
            self.peer(node).wish.ended(worth, now.instant);
        } else {
            let worth = if is_taken { Answer::Taken } else { Answer::Useless };
            self.peer(node).wish.ended(worth, now.instant);
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
                || grounded.contains(by.into())
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

    /// Whether somebody who introduced this node is known here, or is no more.
    pub(super) fn knows_introducer(&self) -> bool {
        self.own_record.introductions.iter().any(|one| {
            let node = NodeId::from(one.signer());
            one.signer() == self.id.root()
                || self.members.get(node).is_some()
                || self.trust.has_departed(node)
                || self.trust.is_node_revoked(node)
        })
    }

    /// From when on a chain leads to this node it knows whom to believe:
    /// those to whom one leads as well, and those whom it judged itself. What
    /// others told it before is forgotten; if it was true, members tell it
    /// again.
    pub(super) fn become_grounded(&mut self, now: Now) {
        if self.is_grounded {
            return;
        }
        let grounded = self.members.grounded(&self.trust);
        if !grounded.contains(self.own) {
            return;
        }
        self.is_grounded = true;
        let believed = |node: &NodeId| {
            grounded.contains(*node)
                || self.members.vouched().contains_key(node)
                || self.admitted.get(node).is_some_and(|admitted| admitted.is_proven)
        };
        let known = self.members.iter().map(|(node, _)| node).chain(self.admitted.keys().copied());
        let doubtful: BTreeSet<NodeId> = known.filter(|node| !believed(node)).collect();
        for node in doubtful {
            if self.members.remove(node).is_some() {
                self.persist(Write::forget_member(node), None);
            }
            self.cut(node);
        }
        // Those who are left are believed from now on, whatever comes later.
        for admitted in self.admitted.values_mut() {
            admitted.is_proven = true;
        }
        self.refresh_members(now);
        self.refresh_token_calls(now);
    }
}

/// How an answer to the wish to be vouched for helped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Useful,
    /// Another has what was claimed.
    Taken,
    Useless,
}

/// How a peer took the wish to be vouched for. One that is of no use is asked
/// again only after a while, so that it cannot keep this node busy.
#[derive(Debug, Default)]
pub(super) struct Wish {
    asked: Option<Instant>,
    in_vain: u32,
    not_before: Instant,
}

impl Wish {
    /// A peer that is silent for longer holds the others up no more.
    const PATIENCE: Duration = Duration::from_secs(2);
    /// After so many claims that it says are taken it is doubted.
    const DENIALS: u32 = 4;
    /// For so long.
    const DOUBT: Duration = Duration::from_secs(5);

    fn asked(&mut self, now: Instant) {
        self.asked = Some(now);
        // Until it answers.
        self.not_before = now + Self::DOUBT;
        self.in_vain = self.in_vain.saturating_add(1);
    }

    pub(super) fn ended(&mut self, answer: Answer, now: Instant) {
        self.asked = None;
        let doubted = match answer {
            Answer::Useful => {
                self.in_vain = 0;
                false
            }
            Answer::Taken => self.in_vain >= Self::DENIALS,
            Answer::Useless => true,
        };
        self.not_before = if doubted { now + Self::DOUBT } else { now };
    }

    /// Until when others wait for its answer.
    fn busy_until(&self) -> Option<Instant> {
        self.asked.map(|asked| asked + Self::PATIENCE)
    }

    /// From when on it may be asked.
    fn due(&self) -> Instant {
        self.not_before
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
    invite: PublicKey,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant(Duration::from_millis(millis))
    }

    #[test]
    fn a_peer_that_is_silent_or_useless_is_left_alone_for_a_while() {
        let mut wish = Wish::default();
        assert_eq!((wish.due(), wish.busy_until()), (Instant::default(), None));
        wish.asked(at(1_000));
        assert_eq!(wish.busy_until(), Some(at(3_000)), "others are asked after this");
        assert_eq!(wish.due(), at(6_000));
        wish.ended(Answer::Useless, at(1_100));
        assert_eq!((wish.due(), wish.busy_until()), (at(6_100), None));
        wish.asked(at(6_100));
        wish.ended(Answer::Useful, at(6_200));
        assert_eq!(wish.due(), at(6_200));
    }

    #[test]
    fn claims_may_be_taken_in_turn_but_not_for_ever() {
        let mut wish = Wish::default();
        for round in 1..=Wish::DENIALS {
            assert_eq!(wish.due(), Instant::default(), "round {round}");
            wish.asked(Instant::default());
            wish.ended(Answer::Taken, Instant::default());
        }
        assert_eq!(wish.due(), Instant::default() + Wish::DOUBT);
    }
}
