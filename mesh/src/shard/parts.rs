//! Packets that are too large for their path, and whose sender must not be told: IPv6
//! requires every link to take 1280 bytes (RFC 8200, section 5), and IPv4 packets may
//! say that they are to be fragmented. They go in parts, each sealed by itself, so that
//! nobody else can put anything between them:
//!
//! ```text
//! | 0x01 | place:4 count:4 | length u16 | number u32 | bytes … |
//! ```
//!
//! No IP packet begins with a version of 0. Integers are little-endian. All parts but
//! the last are equally long; `length` is that of the whole packet.

use std::collections::VecDeque;

use super::ecn::CONGESTION;

/// The first byte of a part: no version of IP, and the first kind of what is no packet.
const PART: u8 = 0x01;
/// How many bytes are in front of a part.
const HEADER: usize = 8;
/// The most parts of a packet.
const MOST: usize = 15;
/// The longest packet that is put together.
const LONGEST: usize = 9000;
/// How many packets may be incomplete; the oldest gives way.
const INCOMPLETE: usize = 4;

/// Gives the parts of a packet, each of which is at most `mtu` bytes long, to `each`,
/// as long as it takes them; says whether it took all.
pub(super) fn split(
    packet: &[u8],
    mtu: u16,
    number: u32,
    mut each: impl FnMut(&[u8]) -> bool,
) -> bool {
    let most = usize::from(mtu).saturating_sub(HEADER).max(1);
    let count = packet.len().div_ceil(most);
    if count > MOST || packet.len() > LONGEST {
        return false;
    }
    let mut part = Vec::with_capacity(usize::from(mtu));
    packet.chunks(packet.len().div_ceil(count)).enumerate().all(|(place, bytes)| {
        part.clear();
        part.extend_from_slice(&[PART, (place << 4 | count) as u8]);
        part.extend_from_slice(&(packet.len() as u16).to_le_bytes());
        part.extend_from_slice(&number.to_le_bytes());
        part.extend_from_slice(bytes);
        each(&part)
    })
}

/// Whether what was opened is a part, and no packet.
pub(super) fn is_part(opened: &[u8]) -> bool {
    opened.first() == Some(&PART)
}

/// A packet of which parts are missing.
struct Incomplete {
    number: u32,
    count: usize,
    /// One bit for each part that is there.
    there: u16,
    bytes: Vec<u8>,
    /// The ECN bits of the worst of its datagrams.
    mark: u8,
}

/// Not a part of any packet.
struct NoPart;

/// A packet that was put together, and the ECN bits of its datagrams.
pub(super) struct Whole {
    pub(super) packet: Vec<u8>,
    pub(super) mark: u8,
}

/// Puts the parts that one peer sends together.
#[derive(Default)]
pub(super) struct Parts {
    incomplete: VecDeque<Incomplete>,
    /// Parts that came to nothing.
    pub(super) dropped: u64,
}

impl Parts {
    /// Takes a part, with what follows it as padding; gives the packet when it was the
    /// last one that was missing.
    pub(super) fn take(&mut self, part: &[u8], mark: u8) -> Option<Whole> {
        let put = self.put(part, mark);
        self.dropped += u64::from(put.is_err());
        put.ok().flatten()
    }

    /// The peer was started again: it counts its packets anew.
    pub(super) fn forget(&mut self) {
        self.incomplete.clear();
    }

    fn put(&mut self, part: &[u8], mark: u8) -> Result<Option<Whole>, NoPart> {
        let (header, bytes) = part.split_first_chunk::<HEADER>().ok_or(NoPart)?;
        let [PART, places, low, high, number @ ..] = *header else { return Err(NoPart) };
        let (place, count) = (usize::from(places >> 4), usize::from(places & 15));
        let (length, number) =
            (usize::from(u16::from_le_bytes([low, high])), u32::from_le_bytes(number));
        if count < 2 || place >= count || length > LONGEST || length < count {
            return Err(NoPart);
        }
        let each = length.div_ceil(count);
        let start = each * place;
        let rest = length.checked_sub(start).ok_or(NoPart)?;
        let bytes = bytes.get(..each.min(rest)).ok_or(NoPart)?;
        let is_it =
            |one: &Incomplete| (one.number, one.count, one.bytes.len()) == (number, count, length);
        let found = self.incomplete.iter().position(is_it).unwrap_or_else(|| {
            if self.incomplete.len() == INCOMPLETE
                && let Some(oldest) = self.incomplete.pop_front()
            {
                self.dropped += u64::from(oldest.there.count_ones());
            }
            let bytes = vec![0; length];
            self.incomplete.push_back(Incomplete { number, count, there: 0, bytes, mark });
            self.incomplete.len() - 1
        });
        let one = self.incomplete.get_mut(found).ok_or(NoPart)?;
        let place_of = one.bytes.get_mut(start..start + bytes.len()).ok_or(NoPart)?;
        place_of.copy_from_slice(bytes);
        one.there |= 1 << place;
        // Congestion that one part saw the packet saw (RFC 3168, section 5.3).
        one.mark = if mark == CONGESTION { mark } else { one.mark };
        if usize::try_from(one.there.count_ones()) != Ok(count) {
            return Ok(None);
        }
        let whole = self.incomplete.remove(found);
        Ok(whole.map(|Incomplete { bytes: packet, mark, .. }| Whole { packet, mark }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts_of(packet: &[u8], mtu: u16, number: u32) -> Vec<Vec<u8>> {
        let mut parts = Vec::new();
        assert!(split(packet, mtu, number, |part| {
            parts.push(part.to_vec());
            true
        }));
        parts
    }

    #[test]
    fn parts_of_several_packets_are_put_together_and_the_oldest_gives_way() {
        let packet = |byte: u8| vec![byte; 1280];
        let mut parts = Parts::default();
        let first: Vec<_> = (0..5).map(|n| parts_of(&packet(n as u8), 1200, n)).collect();
        for one in &first {
            assert_eq!(one.len(), 2);
            assert!(parts.take(&one[1], 0).is_none());
        }
        assert!(parts.take(&first[0][0], 0).is_none(), "four others were incomplete since");
        assert_eq!(parts.dropped, 2, "the first one's, and the second's");
        assert!(parts.take(&[PART, 0x02, 0, 0], 0).is_none());
        assert_eq!(parts.dropped, 3);
        for n in (2..5).rev() {
            assert_eq!(parts.take(&first[n][0], 0).unwrap().packet, packet(n as u8));
        }
        let again = parts_of(&packet(9), 1200, 9);
        assert!(parts.take(&again[1], 0).is_none());
        parts.forget();
        assert!(parts.take(&again[0], 0).is_none(), "its other part was of another run");
        assert_eq!(parts.dropped, 3, "what was counted stays so");
    }

    #[test]
    fn congestion_on_the_way_of_one_part_is_that_of_the_packet() {
        for marks in [[CONGESTION, 2], [2, CONGESTION]] {
            let mut parts = Parts::default();
            let all = parts_of(&[7; 1000], 512, 1);
            let [one, other] = &all[..] else { panic!("{} parts", all.len()) };
            assert!(parts.take(one, marks[0]).is_none());
            assert_eq!(parts.take(other, marks[1]).unwrap().mark, CONGESTION);
        }
    }

    proptest! {
        #[test]
        fn a_packet_is_whole_again_in_any_order_and_with_padding(
            packet in proptest::collection::vec(any::<u8>(), 1..1500),
            mtu in 128_u16..1500,
            swaps in proptest::collection::vec((any::<usize>(), any::<usize>()), 0..8),
        ) {
            let mut all = parts_of(&packet, mtu, 3);
            prop_assert!(all.iter().all(|part| part.len() <= usize::from(mtu) && is_part(part)));
            if all.len() < 2 {
                return Ok(());
            }
            for (one, other) in swaps {
                let count = all.len();
                all.swap(one % count, other % count);
            }
            let mut parts = Parts::default();
            let last = all.pop().unwrap();
            for mut part in all {
                part.extend([0; 11]);
                prop_assert!(parts.take(&part, 0).is_none());
            }
            prop_assert_eq!(parts.take(&last, 0).unwrap().packet, packet);
        }

        #[test]
        fn no_bytes_panic_and_little_is_kept(
            all in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..40),
        ) {
            let mut parts = Parts::default();
            for mut one in all {
                if let Some(first) = one.first_mut() {
                    *first = PART;
                }
                parts.take(&one, 0);
                prop_assert!(parts.incomplete.len() <= INCOMPLETE);
            }
        }
    }
}
