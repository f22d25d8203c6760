//! What the hubs of a member say of it: whether it is gone. See docs/decisions/0010.

use epsilon_proto::id::NodeId;

use super::Control;
use crate::membership::Member;

/// How many of the hubs that a record names say when its node is gone.
pub(super) const WITNESSES: usize = 2;

/// What is said of a member by those who have to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hearsay {
    /// It is there.
    There,
    /// It is gone.
    Gone,
    /// Nobody says anything that this node would hear.
    Nothing,
}

/// The first of the hubs that a member names.
fn witnesses(member: &Member) -> &[NodeId] {
    let hubs = &member.record.hubs;
    &hubs[..hubs.len().min(WITNESSES)]
}

/// Whether a hub says of a member's record that it is the last one. What it says of one that is
/// not known here yet will be right when that comes.
pub(super) fn accuses(hub: &Member, member: &Member) -> bool {
    let (node, stamp) = (NodeId::from(member.record.signer()), member.record.stamp());
    let lost = &hub.record.lost;
    lost.iter().any(|lost| lost.node == node && (lost.incarnation, lost.sequence) == stamp)
}

impl Control {
    /// Whether this node needs others to tell who is gone, and to say that it is: in a large
    /// fleet, and where members behind NATs of their own cannot link with each other.
    pub(super) fn needs_hubs(&self) -> bool {
        self.is_large() || !self.reaching.is_open()
    }

    /// Whether hubs say of a member whether it is gone.
    fn is_told_of(&self, member: &Member) -> bool {
        self.needs_hubs() && !self.hubs.is_cut_off() && !member.record.hubs.is_empty()
    }

    /// Whether this node is one of those that say whether a member is gone.
    pub(super) fn is_witness_of(&self, member: &Member) -> bool {
        !self.hubs.is_cut_off() && witnesses(member).contains(&self.own)
    }

    /// What is said of a member.
    pub(super) fn hearsay(&self, node: NodeId) -> Hearsay {
        let Some(member) = self.members.get(node).filter(|member| self.is_told_of(member)) else {
            return Hearsay::Nothing;
        };
        if self.is_large() {
            return if self.is_lost(node) { Hearsay::Gone } else { Hearsay::There };
        }
        let said: Vec<Hearsay> =
            witnesses(member).iter().map(|hub| self.word_of(*hub, node, member)).collect();
        if said.contains(&Hearsay::There) {
            Hearsay::There
        } else if said.contains(&Hearsay::Gone) {
            Hearsay::Gone
        } else {
            Hearsay::Nothing
        }
    }

    /// What one hub says, in a small fleet: this node hears of all to which it is linked.
    fn word_of(&self, hub: NodeId, node: NodeId, member: &Member) -> Hearsay {
        if hub == self.own {
            return if self.hubs.expects(node) { Hearsay::Nothing } else { Hearsay::Gone };
        }
        match self.members.get(hub) {
            Some(record) if accuses(record, member) => Hearsay::Gone,
            Some(_) if self.is_linked(hub) || self.hubs.is_missing(hub) => Hearsay::There,
            _ => Hearsay::Nothing,
        }
    }

    /// Whether its witnesses say that a member is gone, or are gone themselves.
    pub(super) fn is_lost(&self, node: NodeId) -> bool {
        self.is_accused(node, |hub| self.is_accused(hub, |_| false))
    }

    fn is_accused(&self, node: NodeId, or_else: impl Fn(NodeId) -> bool) -> bool {
        let Some(member) = self.members.get(node) else { return false };
        let says = |hub: &NodeId| {
            self.members.get(*hub).is_none_or(|hub| accuses(hub, member)) || or_else(*hub)
        };
        self.is_told_of(member) && witnesses(member).iter().all(says)
    }

    /// Whether this node is said to be gone: where its witnesses are gone as well, and say
    /// nothing, there is nothing to deny.
    pub(super) fn is_accused_itself(&self) -> bool {
        let Some(own) = self.members.get(self.own) else { return false };
        let mut hubs = witnesses(own).iter().filter_map(|hub| self.members.get(*hub));
        self.hearsay(self.own) == Hearsay::Gone && hubs.any(|hub| accuses(hub, own))
    }
}
