//! Congestion marks through the tunnel (RFC 6040, normal mode).
//!
//! The two bits of a packet go onto the datagram that carries it, and a mark
//! that the datagram got on its way comes back onto the packet. The class of
//! service stays inside (the pipe model of RFC 2983): every datagram is of the
//! default class, and a packet arrives with the class that it had.

use super::inner::V4_HEADER;
use super::offload::{complement, fold};

/// Neither end understands marks.
const NONE: u8 = 0;
/// Both ends understand them.
const CAPABLE_1: u8 = 1;
const CAPABLE_0: u8 = 2;
/// There was congestion on the way.
pub(super) const CONGESTION: u8 = 3;

/// The mark of an IP packet.
pub(super) fn of(packet: &[u8]) -> u8 {
    match (packet.first().map(|first| first >> 4), packet.get(1)) {
        (Some(4), Some(service)) => service & 3,
        (Some(6), Some(class)) => class >> 4 & 3,
        _ => NONE,
    }
}

/// What becomes of a packet's mark and that of the datagram around it; `None`
/// where the packet is to be dropped, as its ends would not understand.
fn combined(inner: u8, outer: u8) -> Option<u8> {
    match (inner, outer) {
        (NONE, CONGESTION) => None,
        (CAPABLE_0 | CAPABLE_1, CONGESTION) => Some(CONGESTION),
        (CAPABLE_0, CAPABLE_1) => Some(CAPABLE_1),
        (inner, _) => Some(inner),
    }
}

/// Puts the mark of the datagram around an IP packet onto it; `false` where the
/// packet is to be dropped.
pub(super) fn unwrap(packet: &mut [u8], outer: u8) -> bool {
    let inner = of(packet);
    let Some(mark) = combined(inner, outer & 3) else { return false };
    if mark == inner {
        return true;
    }
    if packet[0] >> 4 == 6 {
        packet[1] = packet[1] & !0x30 | mark << 4;
        return true;
    }
    if packet.len() < V4_HEADER {
        return true;
    }
    let before = u16::from_ne_bytes([packet[0], packet[1]]);
    packet[1] = packet[1] & !3 | mark;
    let after = u16::from_ne_bytes([packet[0], packet[1]]);
    // RFC 1624, equation 3: a checksum that was wrong stays as wrong.
    let checksum = u16::from_ne_bytes([packet[10], packet[11]]);
    let sum = u64::from(!checksum) + u64::from(!before) + u64::from(after);
    packet[10..12].copy_from_slice(&complement(u64::from(fold(sum))));
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::tests::packet;

    /// A packet with this mark, of the class AF41.
    fn marked(v6: bool, mark: u8) -> Vec<u8> {
        let service = 34 << 2 | mark;
        if v6 {
            let mut packet = packet("fd00::1", "fd00::2", b"payload");
            packet[0] = 0x60 | service >> 4;
            packet[1] = service << 4 | 0x0a;
            return packet;
        }
        let mut packet = packet("10.77.1.2", "10.77.3.4", b"payload");
        packet[1] = service;
        let sum = packet[..V4_HEADER]
            .chunks(2)
            .map(|two| u64::from(u16::from_ne_bytes([two[0], two[1]])));
        let checksum = complement(sum.sum());
        packet[10..12].copy_from_slice(&checksum);
        packet
    }

    #[test]
    fn marks_combine_as_the_rfc_says_and_nothing_else_changes() {
        // RFC 6040, figure 4: rows are the inner marks, columns the outer ones,
        // both in the order Not-ECT, ECT(0), ECT(1), CE.
        const ORDER: [u8; 4] = [NONE, CAPABLE_0, CAPABLE_1, CONGESTION];
        let table = [
            [Some(NONE), Some(NONE), Some(NONE), None],
            [Some(CAPABLE_0), Some(CAPABLE_0), Some(CAPABLE_1), Some(CONGESTION)],
            [Some(CAPABLE_1), Some(CAPABLE_1), Some(CAPABLE_1), Some(CONGESTION)],
            [Some(CONGESTION); 4],
        ];
        for v6 in [false, true] {
            for (inner, row) in ORDER.into_iter().zip(table) {
                for (outer, expected) in ORDER.into_iter().zip(row) {
                    let mut packet = marked(v6, inner);
                    assert_eq!(of(&packet), inner);
                    let kept = unwrap(&mut packet, outer);
                    assert_eq!(kept, expected.is_some(), "{inner} in {outer}");
                    if let Some(mark) = expected {
                        assert_eq!(packet, marked(v6, mark), "{inner} in {outer}");
                    }
                }
            }
        }
    }

    #[test]
    fn short_packets_do_not_panic() {
        for length in 0..V4_HEADER {
            for first in [0x45, 0x60, 0x00] {
                let mut packet = vec![2; length];
                if let Some(byte) = packet.first_mut() {
                    *byte = first;
                }
                unwrap(&mut packet, CONGESTION);
            }
        }
    }
}
