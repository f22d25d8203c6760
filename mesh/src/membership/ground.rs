//! Chains of introductions that lead to the root or an admin.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use epsilon_proto::document::{Signed, Verified};
use epsilon_proto::id::{NodeId, PublicKey};
use epsilon_proto::key::SignatureCheck;
use epsilon_proto::message::Credentials;
use epsilon_proto::trust::Introduction;

use super::{Membership, refuse_banned};
use crate::trust::Trust;

impl Membership {
    /// The members to whom a chain of introductions leads from the root or an
    /// admin: whoever meets one and knows those of the chain believes it.
    /// Introducers that merely vouch for one another prove nothing to a third.
    pub fn grounded(&self, trust: &Trust) -> BTreeSet<NodeId> {
        self.ground(trust).into_keys().collect()
    }

    /// The shortest chain of introductions from a member to the root or an
    /// admin, its own first; empty when there is none.
    pub fn chain(&self, node: NodeId, trust: &Trust) -> Vec<Signed<Introduction>> {
        let ground = self.ground(trust);
        let mut chain = Vec::new();
        let mut next = node;
        while let Some(introduction) = ground.get(&next) {
            chain.push(introduction.signed().clone());
            if trust.is_authority(introduction.signer()) {
                break;
            }
            next = introduction.signer().into();
        }
        if chain.len() > Credentials::MAX_CHAIN { Vec::new() } else { chain }
    }

    /// Whether a chain of introductions leads from somebody unknown to
    /// somebody whose word this node takes.
    pub fn is_chained(
        &self,
        node: NodeId,
        invite: PublicKey,
        chain: &[Signed<Introduction>],
        trust: &Trust,
        check: &dyn SignatureCheck,
    ) -> bool {
        let believed = |signer| self.may_introduce(signer, trust);
        self.leads_to(believed, node, invite, chain, trust, check)
    }

    /// Whether a chain of introductions leads to the root or an admin.
    pub fn is_proven(
        &self,
        node: NodeId,
        invite: PublicKey,
        chain: &[Signed<Introduction>],
        trust: &Trust,
        check: &dyn SignatureCheck,
    ) -> bool {
        let ground = |signer| trust.is_authority(signer);
        self.leads_to(ground, node, invite, chain, trust, check)
    }

    fn leads_to(
        &self,
        is_end: impl Fn(PublicKey) -> bool,
        node: NodeId,
        invite: PublicKey,
        chain: &[Signed<Introduction>],
        trust: &Trust,
        check: &dyn SignatureCheck,
    ) -> bool {
        let (mut subject, mut came_by) = (node, Some(invite));
        for signed in chain {
            let Ok(introduction) = signed.verify(self.network, check) else { return false };
            let introducer = NodeId::from(introduction.signer());
            let invite = introduction.facts.invite;
            if introduction.node != subject
                || came_by.is_some_and(|came_by| invite != Some(came_by))
                || invite.is_none_or(|invite| trust.are_members_revoked(invite))
            {
                return false;
            }
            if is_end(introduction.signer()) {
                return true;
            }
            if refuse_banned(introducer, trust).is_err() {
                return false;
            }
            (subject, came_by) = (introducer, None);
        }
        false
    }

    /// For every member to whom a chain leads the introduction by which it
    /// does, over as few others as possible.
    fn ground(&self, trust: &Trust) -> BTreeMap<NodeId, &Verified<Introduction>> {
        let mut introduced: BTreeMap<PublicKey, Vec<(NodeId, &Verified<Introduction>)>> =
            BTreeMap::new();
        for (node, member) in &self.members {
            for introduction in &member.introductions {
                if introduction.facts.invite == Some(member.invite()) {
                    let by = introduced.entry(introduction.signer()).or_default();
                    by.push((*node, introduction));
                }
            }
        }
        let mut due: VecDeque<PublicKey> =
            introduced.keys().copied().filter(|key| trust.is_authority(*key)).collect();
        let mut ground = BTreeMap::new();
        while let Some(key) = due.pop_front() {
            for (node, introduction) in introduced.remove(&key).into_iter().flatten() {
                if let Entry::Vacant(place) = ground.entry(node) {
                    place.insert(introduction);
                    due.push_back(node.key());
                }
            }
        }
        ground
    }
}
