//! The Internet checksum (RFC 1071).
//!
//! Sums are kept in native byte order: the one's complement sum of swapped
//! words is the swapped sum.

/// Adds bytes, as 16-bit words, to a sum; an odd last byte counts as if a zero
/// followed.
pub(super) fn sum(mut sum: u64, bytes: &[u8]) -> u64 {
    let mut lanes = [0_u64; 8];
    let (chunks, rest) = bytes.as_chunks::<32>();
    for chunk in chunks {
        let (words, _) = chunk.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    sum += lanes.iter().sum::<u64>();
    let (words, rest) = rest.as_chunks::<4>();
    for word in words {
        sum += u64::from(u32::from_ne_bytes(*word));
    }
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    sum + u64::from(u32::from_ne_bytes(last))
}

/// A sum as 16 bits.
pub(in crate::shard) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The sum over the pseudo-header of a segment that is so long (RFC 9293,
/// section 3.1; RFC 8200, section 8.1): `addresses` are the source and the
/// destination, as they stand in the IP header.
pub(super) fn pseudo(addresses: &[u8], protocol: u8, length: usize) -> u64 {
    let length = (length as u32).to_be_bytes();
    sum(sum(sum(0, addresses), &[0, protocol]), &length)
}

/// A checksum as it stands in a header, of a sum that covers everything.
pub(in crate::shard) fn complement(sum: u64) -> [u8; 2] {
    (!fold(sum)).to_ne_bytes()
}

/// The same for UDP, in which zero means that there is none (RFC 768).
pub(super) fn complement_udp(sum: u64) -> [u8; 2] {
    match complement(sum) {
        [0, 0] => [0xff, 0xff],
        checksum => checksum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As RFC 1071 says it.
    fn plain(bytes: &[u8]) -> u16 {
        let words = bytes.chunks(2).map(|pair| {
            u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))
        });
        let mut sum: u64 = words.sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn the_example_of_the_rfc_comes_out() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(0, &bytes)).to_ne_bytes(), [0xdd, 0xf2]);
        assert_eq!(complement(sum(0, &bytes)), [0x22, 0x0d]);
    }

    #[test]
    fn udp_has_no_checksum_of_zero() {
        assert_eq!(complement_udp(0xffff), [0xff, 0xff]);
        assert_eq!(complement(0xffff), [0, 0]);
    }

    proptest! {
        #[test]
        fn it_is_the_plain_sum(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(fold(sum(0, &bytes)).to_ne_bytes(), plain(&bytes).to_be_bytes());
        }

        #[test]
        fn parts_of_even_length_can_be_added(bytes: Vec<u8>, at in 0_usize..100) {
            let (one, other) = bytes.split_at((at * 2).min(bytes.len() & !1));
            prop_assert_eq!(fold(sum(sum(0, one), other)), fold(sum(0, &bytes)));
        }
    }
}
