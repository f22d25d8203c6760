//! Whether an applicant is a member, or may become one.

use std::collections::BTreeSet;
use std::time::Duration;

use epsilon_proto::clock::Now;
use epsilon_proto::document::{Signed, Verified};
use epsilon_proto::id::{NodeId, PublicKey};
use epsilon_proto::message::{Credentials, Hello, Refusal};
use epsilon_proto::trust::{Introduction, Invite, NetworkDocument};

use super::Control;
use super::documents::Source;
use crate::membership::{Refused, Word};

/// For so long a newcomer that no chain leads to takes those who were there
/// before it for members without proof.
const CREDULOUS: Duration = Duration::from_mins(10);

/// Somebody whom this run let in.
pub(super) struct Admitted {
    /// By which invite it came. A ban may arrive at any moment.
    pub(super) invite: PublicKey,
    /// Whether it proved to be a member: a newcomer takes others on trust.
    pub(super) is_proven: bool,
    /// By whose words.
    by: BTreeSet<NodeId>,
}

impl Control {
    /// Whether this node takes an applicant, by what it says and shows.
    pub(super) fn judge(
        &mut self,
        node: NodeId,
        hello: &Hello,
        credentials: &Credentials,
        now: Now,
    ) -> Result<(), Refusal> {
        self.judge_applicant(node, hello, credentials, now)?;
        let invite = credentials.certificate.signer();
        let (check, chain) = (&*self.config.check, &credentials.chain);
        let is_proven = self.is_grounded
            || self.members.has_vouched(node, invite)
            || self.members.is_proven(node, invite, chain, &self.trust, check);
        let words = credentials.introductions.iter().chain(chain);
        let by = words.map(|one| one.signer().into()).collect();
        self.admitted.insert(node, Admitted { invite, is_proven, by });
        Ok(())
    }

    fn judge_applicant(
        &mut self,
        node: NodeId,
        hello: &Hello,
        credentials: &Credentials,
        now: Now,
    ) -> Result<(), Refusal> {
        if node == self.own {
            self.cloned(node, [self.config.boot, hello.boot], now);
            return Err(Refusal::Cloned);
        }
        if self.trust.is_node_revoked(node) {
            return Err(Refusal::NodeRevoked);
        }
        if self.trust.has_departed(node) {
            return Err(Refusal::Departed);
        }
        self.take_document(&NetworkDocument::Grant(credentials.grant.clone()), Source::Hello, now);
        self.take_document(
            &NetworkDocument::Invite(credentials.invite.clone()),
            Source::Hello,
            now,
        );
        let check = &*self.config.check;
        let certificate = self
            .members
            .verify_certificate(node, &credentials.certificate, &self.trust, check)
            .map_err(|_: Refused| Refusal::Certificate)?;
        let invite_key = certificate.signer();
        if self.trust.are_members_revoked(invite_key) {
            return Err(Refusal::NodeRevoked);
        }
        if self.is_cloned(node, hello.boot, now) {
            return Err(Refusal::Cloned);
        }
        if let Some(member) = self.members.get(node) {
            // A member stays under the invite that was judged when it came.
            let same = member.invite() == invite_key;
            return if same { Ok(()) } else { Err(Refusal::Certificate) };
        }
        // Whoever comes by the word of others is limited here alone.
        if !self.admitted.contains_key(&node) && self.is_full() {
            return Err(Refusal::Full);
        }
        if self.members.has_vouched(node, invite_key) {
            return Ok(());
        }
        let introductions =
            self.hold(node, invite_key, &credentials.introductions).ok_or(Refusal::Certificate)?;
        if introductions.iter().any(|one| self.members.may_introduce(one.signer(), &self.trust)) {
            return Ok(());
        }
        let check = &*self.config.check;
        if self.members.is_chained(node, invite_key, &credentials.chain, &self.trust, check) {
            return Ok(());
        }
        // A newcomer cannot judge those who were there before it and have no
        // chain to show. It takes them for members until it knows better, and
        // vouches for none of them.
        if self.is_credulous(now) && !introductions.is_empty() {
            return Ok(());
        }
        // It has this node's word for another invite, one of whose uses that is.
        let said = self.members.vouched().get(&node);
        if said.is_some_and(|word| word.is_out) {
            return Err(Refusal::Certificate);
        }
        self.judge_invite(invite_key, now)?;
        self.members.vouch(node, Word { invite: invite_key, is_out: false });
        self.save_vouched();
        Ok(())
    }

    /// Whether there are as many as the network admits: members, and those
    /// that are linked, or about to be, and have no record here yet.
    fn is_full(&self) -> bool {
        let strangers = self.admitted.keys().filter(|node| self.members.get(**node).is_none());
        self.members.len() + strangers.count() >= self.trust.max_members() as usize
    }

    pub(super) fn is_newcomer(&self, now: Now) -> bool {
        self.identity.incarnation == 1 && now.instant.since(self.started) < CREDULOUS
    }

    /// The word of these counts no more: whoever came by it has to be judged
    /// anew, which those are who come again.
    pub(super) fn doubt(&mut self, gone: &BTreeSet<NodeId>, now: Now) {
        if gone.is_empty() {
            return;
        }
        let mut doubtful = Vec::new();
        for (node, admitted) in &mut self.admitted {
            if !admitted.by.is_disjoint(gone) && !self.members.vouched().contains_key(node) {
                admitted.is_proven = false;
                if self.members.get(*node).is_none() {
                    doubtful.push(*node);
                }
            }
        }
        for node in doubtful {
            self.cut(node);
        }
        // What a newcomer has learned so far may have come by that word.
        if self.is_newcomer(now) && std::mem::take(&mut self.is_grounded) {
            self.become_grounded(now);
        }
        self.refresh_token_calls(now);
    }

    /// Whether this node knows so little that it has to believe others.
    fn is_credulous(&self, now: Now) -> bool {
        let is_new = self.is_newcomer(now);
        let own = self.trust.invite(self.certificate.signer());
        let still_admits =
            own.is_some_and(|own| !self.trust.is_invite_revoked(own) && !self.is_expired(own, now));
        !self.is_grounded && still_admits && (is_new || self.members.len() <= 1)
    }

    fn is_expired(&self, invite: &Invite, now: Now) -> bool {
        invite.expires.is_some_and(|expires| expires <= self.trusted_time(now))
    }

    /// Those of the introductions that speak of this node and invite; `None`
    /// when one of them was tampered with.
    fn hold(
        &self,
        node: NodeId,
        invite: PublicKey,
        introductions: &[Signed<Introduction>],
    ) -> Option<Vec<Verified<Introduction>>> {
        let mut holding = Vec::new();
        for signed in introductions {
            let introduction = signed.verify(self.id, &*self.config.check).ok()?;
            if introduction.node == node
                && introduction.signer() != node.key()
                && introduction.facts.invite == Some(invite)
            {
                holding.push(introduction);
            }
        }
        Some(holding)
    }

    /// How many were let in by an invite while their link or record is on its
    /// way, or have the word for it in hands, by which others would let them in.
    pub(super) fn waiting(&self, invite: PublicKey) -> usize {
        let words = self.members.vouched().iter().filter(|(node, word)| {
            word.invite == invite
                && self.members.get(**node).is_none()
                && (word.is_out || self.admitted.contains_key(*node))
        });
        words.count()
    }

    /// Whether one of an invite's uses is held by somebody who was let in and
    /// may yet hang up with nothing in hands.
    pub(super) fn is_undecided(&self, invite: PublicKey) -> bool {
        self.members.vouched().iter().any(|(node, word)| {
            word.invite == invite
                && !word.is_out
                && self.members.get(*node).is_none()
                && self.admitted.contains_key(node)
        })
    }

    /// Whether an invite still admits somebody new.
    fn judge_invite(&self, key: PublicKey, now: Now) -> Result<(), Refusal> {
        let invite = self.trust.invite(key).ok_or(Refusal::Certificate)?;
        if self.trust.is_invite_revoked(invite) {
            return Err(Refusal::InviteRevoked);
        }
        if self.is_expired(invite, now) {
            return Err(Refusal::InviteExpired);
        }
        let waiting = self.waiting(key);
        let used = self.members.uses_of(key, &self.trust) + waiting;
        if invite.uses.is_some_and(|uses| used >= uses as usize) {
            return Err(Refusal::InviteUsedUp);
        }
        if self.members.len() + waiting >= self.trust.max_members() as usize {
            return Err(Refusal::Full);
        }
        Ok(())
    }
}
