//! Fairness among peers when the host sends more than can be sealed.
//!
//! The queue of the interface is one for all peers, and the kernel drops what is
//! newest when it is full, whosever it is: a program that floods one peer would take
//! the packets of all others with it. So while a whole queue stands, the thread
//! takes more from it than it can seal, and drops what is beyond the share of those
//! peers that have the most.

use std::collections::BTreeMap;

use epsilon_mesh::shard::PeerId;

/// At most so many packets of the host, or bytes of them, before the network
/// has its turn.
pub(super) const PACKETS: usize = 128;

/// So many full rounds one behind the other mean that a whole queue stands, and
/// not a burst that the queue is there for.
const ROUNDS: usize = 1 + super::tun::QUEUE as usize / PACKETS;

/// Then so many more packets are looked at in a round.
pub(super) const MORE: usize = 512;

/// Whether there is too much, and who has had how much of this round.
#[derive(Default)]
pub(super) struct Overload {
    full_rounds: usize,
    taken: BTreeMap<Option<PeerId>, usize>,
}

impl Overload {
    /// Whether a whole queue stands.
    pub(super) fn is_on(&self) -> bool {
        self.full_rounds >= ROUNDS
    }

    /// A round ended, with so many packets.
    pub(super) fn round(&mut self, packets: usize) {
        self.full_rounds = if packets >= PACKETS { self.full_rounds + 1 } else { 0 };
        self.taken.clear();
    }

    /// Counts a packet for a peer, or for nobody; says whether it is within the
    /// peer's share.
    pub(super) fn admits(&mut self, peer: Option<PeerId>) -> bool {
        let taken = self.taken.entry(peer).or_default();
        *taken += 1;
        let taken = *taken;
        taken * self.taken.len() <= PACKETS
    }
}

#[cfg(test)]
mod tests {
    use epsilon_proto::id::NodeId;

    use super::*;

    fn peer(number: u8) -> PeerId {
        PeerId::Node(NodeId([number; 32]))
    }

    #[test]
    fn only_as_many_full_rounds_as_make_a_queue_are_too_much() {
        let mut overload = Overload::default();
        for _ in 1..ROUNDS {
            overload.round(PACKETS);
            assert!(!overload.is_on());
        }
        overload.round(PACKETS);
        assert!(overload.is_on());
        assert!(ROUNDS * PACKETS > super::super::tun::QUEUE as usize);
        overload.round(PACKETS - 1);
        assert!(!overload.is_on());
    }

    #[test]
    fn whoever_has_more_than_its_share_gives_way_and_others_do_not() {
        let mut overload = Overload::default();
        let flood = (0..PACKETS + MORE).filter(|_| overload.admits(Some(peer(1)))).count();
        assert_eq!(flood, PACKETS);
        assert!((0..PACKETS / 2).all(|_| overload.admits(Some(peer(2)))));
        assert!(
            !overload.admits(Some(peer(1)))
                && overload.admits(Some(peer(3)))
                && overload.admits(None)
        );
        overload.round(PACKETS);
        assert!(overload.admits(Some(peer(1))));
    }
}
