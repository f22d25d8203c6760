//! Whose an address or a name is.
//!
//! A claimant's clock never decides. In order: who is pinned by an admin; who
//! was witnessed first, by the witness's trusted time; the lower
//! hash(network, claim, node). All members with the same records and pins
//! come to the same answer.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use epsilon_proto::clock::{HybridTime, Timestamp};
use epsilon_proto::id::{Digest, NetworkId, NodeId};
use epsilon_proto::name::NodeName;
use epsilon_proto::trust::NodeFacts;

use super::{Member, Members};
use crate::trust::Trust;

/// How strong a claim is; the least one wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// An admin said so; the latest word counts.
    Pinned(Reverse<HybridTime>),
    /// Witnessed by another member at this time.
    Witnessed(Timestamp),
    /// Nobody saw it yet.
    Bare,
}

/// Who claims what.
#[derive(Default)]
pub(super) struct Claims {
    ipv4: Index<Ipv4Addr>,
    names: Index<NodeName>,
}

/// Claims of one kind.
struct Index<C> {
    by: BTreeMap<C, BTreeSet<NodeId>>,
    /// What several claim.
    contested: BTreeSet<C>,
}

impl Claims {
    /// A node's record changed from one to another. Gives back everybody
    /// whose claims rank differently now.
    pub(super) fn update(
        &mut self,
        node: NodeId,
        old: Option<&Member>,
        new: Option<&Member>,
    ) -> BTreeSet<NodeId> {
        let mut affected = BTreeSet::from([node]);
        for member in [old, new].into_iter().flatten() {
            affected.append(&mut self.claimants(member.record.ipv4, member.record.name.as_ref()));
        }
        self.ipv4.replace(
            node,
            old.and_then(|old| old.record.ipv4),
            new.and_then(|new| new.record.ipv4),
        );
        self.names.replace(
            node,
            old.and_then(|old| old.record.name.clone()),
            new.and_then(|new| new.record.name.clone()),
        );
        if old.is_none() || new.is_none() {
            // A witness came or went: whatever is contested may rank anew.
            affected.extend(self.ipv4.contested().chain(self.names.contested()));
        }
        affected
    }

    /// Everybody who claims an address or a name.
    pub(super) fn claimants(
        &self,
        ipv4: Option<Ipv4Addr>,
        name: Option<&NodeName>,
    ) -> BTreeSet<NodeId> {
        let by_address = ipv4.and_then(|ipv4| self.ipv4.by.get(&ipv4));
        let by_name = name.and_then(|name| self.names.by.get(name));
        by_address.into_iter().chain(by_name).flatten().copied().collect()
    }

    pub(super) fn winner_of_ipv4(
        &self,
        address: Ipv4Addr,
        network: NetworkId,
        members: &Members,
        trust: &Trust,
    ) -> Option<NodeId> {
        winner(
            self.ipv4.by.get(&address),
            |pin| pin.ipv4 == Some(address),
            |facts| facts.ipv4 == Some(address),
            &address.octets(),
            network,
            members,
            trust,
        )
    }

    pub(super) fn winner_of_name(
        &self,
        name: &NodeName,
        network: NetworkId,
        members: &Members,
        trust: &Trust,
    ) -> Option<NodeId> {
        winner(
            self.names.by.get(name),
            |pin| pin.name.as_ref() == Some(name),
            |facts| facts.name.as_ref() == Some(name),
            name.as_str().as_bytes(),
            network,
            members,
            trust,
        )
    }
}

impl<C> Default for Index<C> {
    fn default() -> Self {
        Self { by: BTreeMap::new(), contested: BTreeSet::new() }
    }
}

impl<C: Ord + Clone> Index<C> {
    /// Everybody who claims what others claim as well.
    fn contested(&self) -> impl Iterator<Item = NodeId> {
        self.contested.iter().filter_map(|claim| self.by.get(claim)).flatten().copied()
    }

    /// A node claims something else than before.
    fn replace(&mut self, node: NodeId, old: Option<C>, new: Option<C>) {
        if let Some(old) = old
            && let Some(nodes) = self.by.get_mut(&old)
        {
            nodes.remove(&node);
            if nodes.len() < 2 {
                self.contested.remove(&old);
            }
            if nodes.is_empty() {
                self.by.remove(&old);
            }
        }
        if let Some(new) = new {
            let nodes = self.by.entry(new.clone()).or_default();
            nodes.insert(node);
            if nodes.len() > 1 {
                self.contested.insert(new);
            }
        }
    }
}

fn winner(
    claimants: Option<&BTreeSet<NodeId>>,
    is_pinned: impl Fn(&epsilon_proto::trust::Pin) -> bool,
    is_witnessed: impl Fn(&NodeFacts) -> bool,
    claim: &[u8],
    network: NetworkId,
    members: &Members,
    trust: &Trust,
) -> Option<NodeId> {
    let pinned = trust.pinned().filter(|node| {
        members.contains_key(node) && trust.pin(*node).is_some_and(|pin| is_pinned(pin))
    });
    let rank = |node: NodeId| {
        if let Some(pin) = trust.pin(node).filter(|pin| is_pinned(pin)) {
            return Rank::Pinned(Reverse(pin.at));
        }
        let witnessed = first_witnessed(node, &is_witnessed, members, trust);
        witnessed.map_or(Rank::Bare, Rank::Witnessed)
    };
    let tie = |node: NodeId| Digest::of_parts("epsilon/1 claim", &[&network.0, claim, &node.0]);
    let mut all = pinned.chain(claimants.into_iter().flatten().copied());
    let first = all.next()?;
    // Mostly there is one, whatever its rank.
    let Some(second) = all.next() else { return Some(first) };
    [first, second].into_iter().chain(all).min_by_key(|node| (rank(*node), tie(*node)))
}

/// When somebody whose word counts first witnessed something about a node.
pub(super) fn first_witnessed(
    node: NodeId,
    is_witnessed: impl Fn(&NodeFacts) -> bool,
    members: &Members,
    trust: &Trust,
) -> Option<Timestamp> {
    let member = members.get(&node)?;
    // Nobody was met before there was an invite to come by.
    let invite = trust.invite(member.invite());
    let floor = invite.map_or(trust.founded(), |invite| invite.issued.max(trust.founded()));
    member
        .introductions
        .iter()
        .filter(|introduction| {
            let signer = introduction.signer();
            is_witnessed(&introduction.facts)
                && (trust.is_authority(signer) || members.contains_key(&signer.into()))
        })
        .map(|introduction| introduction.at.max(floor))
        .min()
}
