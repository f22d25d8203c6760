//! Fairness among peers when the host sends more than can be sealed.
//!
//! The queue of the interface is one for all peers, and the kernel drops what is
//! newest when it is full, whosever it is: a program that floods one peer would take
//! the packets of all others with it. So while that happens the thread takes more
//! from the queue than it can seal, and drops what is beyond the share of those
//! peers that have the most.

use std::collections::HashMap;
use std::time::Duration;

use epsilon_mesh::shard::PeerId;
use epsilon_proto::clock::Instant;

/// At most so many packets of the host, or bytes of them, before the network
/// has its turn.
pub(super) const PACKETS: usize = 128;
pub(super) const BYTES: usize = 128 * 1024;

/// So many full rounds one behind the other are more than a burst.
const ROUNDS: usize = 8;
/// Then so many packets of the host, or bytes of them, are looked at in a round.
pub(super) const MORE_PACKETS: usize = 5 * PACKETS;
pub(super) const MORE_BYTES: usize = 5 * BYTES;
/// How often the kernel is asked meanwhile what it dropped,
const ASKED: Duration = Duration::from_millis(10);
/// and how long that counts: the queue is not full while the thread empties it.
const COUNTS: Duration = Duration::from_secs(1);

/// Whether there is too much, and who has had how much of this round.
#[derive(Default)]
pub(super) struct Overload {
    full_rounds: usize,
    asked: Option<Instant>,
    /// What was dropped when the kernel was asked last.
    known: Option<u64>,
    /// When it was more than before.
    grown: Option<Instant>,
    /// How many packets and bytes each had.
    taken: HashMap<Option<PeerId>, (usize, usize)>,
}

impl Overload {
    /// A round begins: whether the kernel drops what is too much. It is asked
    /// only when round after round is full.
    pub(super) fn is_on(&mut self, now: Instant, dropped: impl FnOnce() -> Option<u64>) -> bool {
        if self.full_rounds < ROUNDS {
            return false;
        }
        if self.asked.is_none_or(|asked| now.since(asked) >= ASKED) {
            self.asked = Some(now);
            let before = std::mem::replace(&mut self.known, dropped());
            if before.is_some() && self.known > before {
                self.grown = Some(now);
            }
        }
        self.grown.is_some_and(|grown| now.since(grown) < COUNTS)
    }

    /// A round ended; whether it was because of its bounds.
    pub(super) fn ended(&mut self, is_full: bool) {
        self.full_rounds = if is_full { self.full_rounds + 1 } else { 0 };
        self.taken.clear();
    }

    /// Counts a packet for a peer, or for nobody; says whether it begins within the
    /// peer's share of what is sealed in a round without overload: were it more, the
    /// sender would outrun whoever receives. The first of each peer does.
    pub(super) fn admits(&mut self, peer: Option<PeerId>, length: usize) -> bool {
        let taken = self.taken.entry(peer).or_default();
        let (packets, bytes) = *taken;
        *taken = (packets + 1, bytes + length);
        let peers = self.taken.len();
        packets * peers < PACKETS && bytes * peers < BYTES
    }
}

#[cfg(test)]
mod tests {
    use epsilon_proto::id::NodeId;

    use super::*;

    fn peer(number: u8) -> PeerId {
        PeerId::Node(NodeId([number; 32]))
    }

    fn at(millis: u64) -> Instant {
        Instant(Duration::from_millis(millis))
    }

    #[test]
    fn it_is_too_much_only_while_the_kernel_drops() {
        let mut overload = Overload::default();
        for _ in 0..ROUNDS {
            assert!(!overload.is_on(at(0), || panic!("there is no need to ask")));
            overload.ended(true);
        }
        // What was dropped before says nothing.
        assert!(!overload.is_on(at(0), || Some(7)));
        assert!(!overload.is_on(at(5), || panic!("it was asked just now")));
        assert!(!overload.is_on(at(10), || Some(7)));
        assert!(overload.is_on(at(20), || Some(8)));
        assert!(overload.is_on(at(30), || Some(8)) && overload.is_on(at(1_000), || Some(8)));
        assert!(!overload.is_on(at(1_020), || Some(8)));
        assert!(overload.is_on(at(1_030), || Some(9)));
        overload.ended(false);
        assert!(!overload.is_on(at(1_031), || panic!("the queue is empty")));
        let mut blind = Overload { full_rounds: ROUNDS, ..Overload::default() };
        assert!(!blind.is_on(at(0), || None) && !blind.is_on(at(10), || None));
    }

    #[test]
    fn whoever_has_more_than_its_share_gives_way_and_others_do_not() {
        for (length, share) in [(64, PACKETS), (1420, BYTES / 1420 + 1), (64_000, 3)] {
            let mut overload = Overload::default();
            let flood =
                (0..MORE_PACKETS).filter(|_| overload.admits(Some(peer(1)), length)).count();
            assert_eq!(flood, share);
            let others = (0..20).filter(|_| overload.admits(Some(peer(2)), length)).count();
            assert_eq!(others, 20.min(BYTES / 2 / length + 1));
            assert!(!overload.admits(Some(peer(1)), length));
            // However many there are, each has one.
            assert!((3..=200).all(|number| overload.admits(Some(peer(number)), length)));
            assert!(overload.admits(None, length) && !overload.admits(None, length));
            overload.ended(true);
            assert!(overload.admits(Some(peer(1)), length));
        }
    }
}
