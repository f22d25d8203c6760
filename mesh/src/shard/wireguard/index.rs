//! The indices by which a peer names a session in what it sends.
//!
//! ```text
//! | tag: 8 bits, of the lane | 24 bits: slot and serial, permuted |
//! ```
//!
//! The tags of a node's lanes follow one another; by them the kernel tells data from
//! the rest, and for which lane it is. The others say to an
//! observer neither which sessions are of one peer nor how many peers there are:
//! they are new with every handshake, and repeat after 1 024. The
//! permutation is quick, it is no cipher: whoever does break it learns a place in a
//! table.

use crate::shard::lane::Lane;

/// Finds the slot of a peer from an index, without a table.
#[derive(Clone, Copy)]
pub(in crate::shard) struct Indices {
    lane: Lane,
    /// The tag of the first lane.
    first: u8,
    /// What a round adds, and by what it multiplies.
    rounds: [(u64, u64); ROUNDS],
}

const ROUNDS: usize = 6;
/// Half of what is permuted.
const HALF: u32 = 12;
const MASK: u32 = (1 << HALF) - 1;
/// So many bits say which of a peer's sessions it is: they repeat after 1 024.
const SERIAL: u32 = 10;

/// The most slots.
pub(in crate::shard) const SLOTS: usize = 1 << (2 * HALF - SERIAL);

/// The next number of a sequence (splitmix64, Steele, Lea and Flood 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Indices {
    /// Others for each seed and lane.
    pub(in crate::shard) fn new(mut seed: u64, lane: Lane) -> Self {
        let state = &mut seed;
        let first = next(state) as u8;
        *state ^= u64::from(lane.number()) << 48;
        Self { lane, first, rounds: std::array::from_fn(|_| (next(state), next(state) | 1)) }
    }

    /// The highest byte of every index of the first lane.
    pub(in crate::shard) fn first_tag(self) -> u8 {
        self.first
    }

    /// Whose index it is, if any lane's.
    pub(in crate::shard) fn lane(self, index: u32) -> Option<u8> {
        let lane = ((index >> 24) as u8).wrapping_sub(self.first);
        (lane < self.lane.count()).then_some(lane)
    }

    fn mixed((add, factor): (u64, u64), half: u32) -> u32 {
        (u64::from(half).wrapping_add(add).wrapping_mul(factor) >> (64 - HALF)) as u32
    }

    /// The index of a session.
    pub(super) fn index(self, slot: u32, serial: u16) -> u32 {
        let plain = slot << SERIAL | u32::from(serial) & ((1 << SERIAL) - 1);
        let (mut left, mut right) = (plain >> HALF & MASK, plain & MASK);
        for round in self.rounds {
            (left, right) = (right, left ^ Self::mixed(round, right));
        }
        let tag = self.first.wrapping_add(self.lane.number());
        u32::from(tag) << 24 | left << HALF | right
    }

    /// Whose session it is, if anybody's.
    pub(in crate::shard) fn slot(self, index: u32) -> usize {
        let (mut left, mut right) = (index >> HALF & MASK, index & MASK);
        for round in self.rounds.into_iter().rev() {
            (left, right) = (right ^ Self::mixed(round, left), left);
        }
        ((left << HALF | right) >> SERIAL) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_slot_and_serial_has_an_index_of_its_own_that_leads_back() {
        let mut seen = BTreeSet::new();
        for (lane, seed) in Lane::all(3).flat_map(|lane| [(lane, 7), (lane, 8)]) {
            let indices = Indices::new(seed, lane);
            for slot in (0..100).chain([SLOTS as u32 - 1]) {
                for serial in 0..1 << SERIAL {
                    let index = indices.index(slot, serial);
                    assert!(seed == 8 || seen.insert(index));
                    assert_eq!(indices.slot(index), slot as usize);
                    assert_eq!(indices.lane(index), Some(lane.number()));
                }
            }
            let other = u32::from(indices.first_tag().wrapping_add(3)) << 24;
            assert_eq!(indices.lane(other), None);
        }
    }

    #[test]
    fn neighbours_are_as_far_apart_as_strangers() {
        // Of 24 bits that have nothing to do with each other 12 differ.
        let mut least = 24.0_f64;
        for seed in 0..64 {
            let indices = Indices::new(seed, Lane::ONLY);
            let distance = |a: (u32, u16), b: (u32, u16)| {
                f64::from((indices.index(a.0, a.1) ^ indices.index(b.0, b.1)).count_ones())
            };
            let pairs = (0..1000_u32).map(|n| (n % 40, n as u16));
            let next_serial: f64 = pairs
                .clone()
                .map(|(slot, serial)| distance((slot, serial), (slot, serial ^ 1)))
                .sum();
            let next_slot: f64 =
                pairs.map(|(slot, serial)| distance((slot, serial), (slot ^ 1, serial))).sum();
            least = least.min(next_serial / 1000.0).min(next_slot / 1000.0);
        }
        assert!(least > 10.0, "{least} of 24 bits differ");
    }
}
