//! What a packet inside the mesh says about itself (RFC 791, RFC 8200).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The length of an IPv4 header without options, in bytes.
pub(super) const V4_HEADER: usize = 20;
/// The length of an IPv6 header, in bytes.
pub(super) const V6_HEADER: usize = 40;

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

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Addresses::of(&bytes);
        }
    }
}
