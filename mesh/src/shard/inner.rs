//! What a packet inside the mesh says about itself (RFC 791, RFC 8200).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The length of an IPv4 header without options, in bytes.
pub(super) const V4_HEADER: usize = 20;
/// The length of an IPv6 header, in bytes.
pub(super) const V6_HEADER: usize = 40;
/// The smallest MTU of IPv6 (RFC 8200, section 5).
pub(super) const LEAST_V6: u16 = 1280;

/// The addresses of an IP packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Addresses {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
}

/// The IP packet at the beginning of some bytes, without what follows it;
/// everything where there is none.
pub(super) fn without_padding(bytes: &[u8]) -> &[u8] {
    let length = match bytes.first().map(|first| first >> 4) {
        Some(4) => octets(bytes, 2).map(|total| usize::from(u16::from_be_bytes(total))),
        Some(6) => {
            octets(bytes, 4).map(|payload| usize::from(u16::from_be_bytes(payload)) + V6_HEADER)
        }
        _ => None,
    };
    length.and_then(|length| bytes.get(..length)).unwrap_or(bytes)
}

fn octets<const N: usize>(packet: &[u8], at: usize) -> Option<[u8; N]> {
    packet.get(at..)?.first_chunk().copied()
}

/// Where a packet goes, by its header alone.
pub(super) fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(Ipv4Addr::from(octets(packet, 16)?).into()),
        6 => Some(Ipv6Addr::from(octets(packet, 24)?).into()),
        _ => None,
    }
}

impl Addresses {
    /// `None` for what is not one whole IP packet.
    pub(super) fn of(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => {
                let header = usize::from(packet[0] & 15) * 4;
                let total = usize::from(u16::from_be_bytes(octets(packet, 2)?));
                if header < V4_HEADER || total < header || total != packet.len() {
                    return None;
                }
                Some(Self {
                    source: Ipv4Addr::from(octets(packet, 12)?).into(),
                    destination: Ipv4Addr::from(octets(packet, 16)?).into(),
                })
            }
            6 => {
                let payload = usize::from(u16::from_be_bytes(octets(packet, 4)?));
                if payload + V6_HEADER != packet.len() {
                    return None;
                }
                Some(Self {
                    source: Ipv6Addr::from(octets(packet, 8)?).into(),
                    destination: Ipv6Addr::from(octets(packet, 24)?).into(),
                })
            }
            _ => None,
        }
    }
}

/// Whether the sender of a packet that is too large for a path must not be told: an IPv4
/// packet may say that it is to be fragmented, and IPv6 ones of 1280 bytes always fit.
pub(super) fn goes_in_parts(packet: &[u8]) -> bool {
    match packet.first().map(|first| first >> 4) {
        Some(4) => packet.get(6).is_some_and(|flags| flags & 0x40 == 0),
        Some(6) => packet.len() <= usize::from(LEAST_V6),
        _ => false,
    }
}

/// Takes one hop off a packet that goes on; `false` where none is left.
pub(super) fn hop(packet: &mut [u8]) -> bool {
    match packet.first().map(|first| first >> 4) {
        Some(4) => {
            let Some([ttl, _, high, low]) = packet.get_mut(8..12) else { return false };
            if *ttl <= 1 {
                return false;
            }
            *ttl -= 1;
            // What the header's sum lost its complement gains (RFC 1624).
            let (sum, carry) = u16::from_be_bytes([*high, *low]).overflowing_add(0x0100);
            [*high, *low] = (sum + u16::from(carry)).to_be_bytes();
            true
        }
        Some(6) => match packet.get_mut(7) {
            Some(limit) if *limit > 1 => {
                *limit -= 1;
                true
            }
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::tests::packet;
    use proptest::prelude::*;

    #[test]
    fn the_addresses_are_those_in_the_header() {
        for (source, destination) in [("10.77.1.2", "10.77.3.4"), ("fd00::1", "fd00::2")] {
            let expected = Addresses {
                source: source.parse().unwrap(),
                destination: destination.parse().unwrap(),
            };
            let packet = packet(source, destination, b"payload");
            assert_eq!(Addresses::of(&packet), Some(expected));
            assert_eq!(Addresses::of(&packet[..packet.len() - 1]), None);
            assert_eq!(Addresses::of(&[&packet[..], &[0]].concat()), None);
        }
    }

    #[test]
    fn a_hop_is_taken_off_and_the_checksum_holds_until_none_is_left() {
        let sum_of = |header: &[u8]| {
            let words =
                header.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
            let sum: u32 = words.sum();
            (sum & 0xffff) + (sum >> 16)
        };
        for identification in 0..=u16::MAX {
            let mut packet = packet("10.77.1.2", "10.77.3.4", b"");
            packet[4..6].copy_from_slice(&identification.to_be_bytes());
            let checksum = !(sum_of(&packet[..20]) as u16);
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
            assert!(hop(&mut packet));
            assert_eq!((packet[8], sum_of(&packet[..20])), (63, 0xffff));
        }
        for (source, destination) in [("10.77.1.2", "10.77.3.4"), ("fd00::1", "fd00::2")] {
            let mut packet = packet(source, destination, b"payload");
            assert_eq!((0..100).filter(|_| hop(&mut packet)).count(), 63);
        }
        assert!(!hop(&mut []) && !hop(&mut [0x45; 9]) && !hop(&mut [0x60; 7]));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Addresses::of(&bytes);
        }
    }
}
