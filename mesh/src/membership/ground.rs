//! Chains of introductions that lead to the root or an admin.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use epsilon_proto::document::Signed;
use epsilon_proto::id::{NodeId, PublicKey};
use epsilon_proto::key::SignatureCheck;
use epsilon_proto::message::Credentials;
use epsilon_proto::trust::Introduction;

use super::{Membership, refuse_banned};
use crate::trust::Trust;

/// The members to whom a chain of introductions leads from the root or an
/// admin: whoever meets one and knows those of the chain believes it.
/// Introducers that merely vouch for one another prove nothing to a third.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grounded {
    by: BTreeMap<NodeId, Step>,
}

/// Over how many others a chain leads, and by whose word it begins.
type Step = (usize, PublicKey);

impl Grounded {
    /// Whether a chain leads to a member.
    pub fn contains(&self, node: NodeId) -> bool {
        self.by.contains_key(&node)
    }

    /// The shortest of the chains that the words by these keys begin, and of
    /// equal ones that by the lowest key.
    fn best(&self, words: impl Iterator<Item = PublicKey>, trust: &Trust) -> Option<Step> {
        let step = |key: PublicKey| {
            if trust.is_authority(key) {
                return Some((0, key));
            }
            self.by.get(&NodeId::from(key)).map(|(others, _)| (others + 1, key))
        };
        words.filter_map(step).min()
    }
}

/// Who is grounded, kept as members come and go: it is asked for at every link
/// and every delivery, and in a fleet of a thousand all introductions are many.
#[derive(Default)]
pub(super) struct Ground {
    known: Option<Known>,
}

struct Known {
    /// What [`Trust::authority`] was.
    authority: u64,
    introduced: Introduced,
    grounded: Arc<Grounded>,
}

/// Whom a key introduced.
type Introduced = BTreeMap<PublicKey, BTreeSet<NodeId>>;

impl Known {
    fn is_introducer(&self, node: NodeId) -> bool {
        self.introduced.get(&node.key()).is_some_and(|nodes| !nodes.is_empty())
    }

    /// Those to whom there is a shorter chain now that there is one to a node.
    fn shorten(&mut self, node: NodeId) {
        let grounded = Arc::make_mut(&mut self.grounded);
        let mut due = vec![node];
        while let Some(node) = due.pop() {
            let Some((others, _)) = grounded.by.get(&node).copied() else { continue };
            let by_node = (others + 1, node.key());
            for introduced in self.introduced.get(&node.key()).into_iter().flatten() {
                let before = grounded.by.get(introduced).copied();
                if before.is_none_or(|before| by_node < before) {
                    grounded.by.insert(*introduced, by_node);
                    if before.is_none_or(|(others, _)| by_node.0 < others) {
                        due.push(*introduced);
                    }
                }
            }
        }
    }
}

impl Ground {
    /// A node was introduced by some, by none if it was no member, and is now by others. Where
    /// those whom it introduced itself may lose their chain, everything is found out anew
    /// when it is asked for.
    pub(super) fn update(
        &mut self,
        node: NodeId,
        former: &[PublicKey],
        words: &[PublicKey],
        trust: &Trust,
    ) {
        let Some(mut known) = self.known.take() else { return };
        if known.authority != trust.authority() {
            return;
        }
        for word in former {
            if let Some(introduced) = known.introduced.get_mut(word) {
                introduced.remove(&node);
            }
        }
        for word in words {
            known.introduced.entry(*word).or_default().insert(node);
        }
        let before = known.grounded.by.get(&node).copied();
        let now = known.grounded.best(words.iter().copied(), trust);
        let (near, far) = (before.map(|(others, _)| others), now.map(|(others, _)| others));
        let is_nearer = far.is_some_and(|far| near.is_none_or(|near| far < near));
        if near != far && !is_nearer && known.is_introducer(node) {
            return;
        }
        if before != now {
            let grounded = Arc::make_mut(&mut known.grounded);
            match now {
                Some(step) => drop(grounded.by.insert(node, step)),
                None => drop(grounded.by.remove(&node)),
            }
        }
        if is_nearer {
            known.shorten(node);
        }
        self.known = Some(known);
    }

    /// Anything may have changed.
    pub(super) fn touch(&mut self) {
        self.known = None;
    }
}

impl Membership {
    /// See [`Grounded`].
    pub fn grounded(&mut self, trust: &Trust) -> Arc<Grounded> {
        let known = self.ground.known.take().filter(|known| known.authority == trust.authority());
        let known = known.unwrap_or_else(|| self.find_grounded(trust));
        Arc::clone(&self.ground.known.insert(known).grounded)
    }

    /// The shortest chain of introductions from a member to the root or an
    /// admin, its own first; empty when there is none.
    pub fn chain(&mut self, node: NodeId, trust: &Trust) -> Vec<Signed<Introduction>> {
        let grounded = self.grounded(trust);
        let mut chain = Vec::new();
        let mut next = node;
        while let Some((_, by)) = grounded.by.get(&next)
            && let Some(introduction) = self.members.get(&next).and_then(|member| member.word(*by))
        {
            chain.push(introduction.signed().clone());
            if trust.is_authority(*by) {
                break;
            }
            next = NodeId::from(*by);
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

    /// What is known if nothing is remembered.
    #[cfg(test)]
    pub(super) fn grounded_anew(&self, trust: &Trust) -> Arc<Grounded> {
        self.find_grounded(trust).grounded
    }

    fn find_grounded(&self, trust: &Trust) -> Known {
        let mut introduced = Introduced::new();
        for (node, member) in &self.members {
            for introduction in member.words() {
                introduced.entry(introduction.signer()).or_default().insert(*node);
            }
        }
        let mut grounded = Grounded::default();
        // All over as many others, by the order of their keys.
        let mut due: BTreeSet<PublicKey> =
            introduced.keys().copied().filter(|key| trust.is_authority(*key)).collect();
        let mut others = 0;
        while !due.is_empty() {
            let mut next = BTreeSet::new();
            for key in due {
                for node in introduced.get(&key).into_iter().flatten() {
                    if let Entry::Vacant(place) = grounded.by.entry(*node) {
                        place.insert((others, key));
                        next.insert(node.key());
                    }
                }
            }
            due = next;
            others += 1;
        }
        Known { authority: trust.authority(), introduced, grounded: Arc::new(grounded) }
    }
}
