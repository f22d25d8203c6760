//! Telling whoever sent a packet why it goes nowhere: its inner address belongs to
//! nobody, so that a program says "No route to host" at once and does not wait for a
//! time-out; or it is too large for the path.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::inner::{Addresses, LEAST_V6, V4_HEADER, V6_HEADER};

const ICMP: u8 = 1;
const ICMP_V6: u8 = 58;
const HOP_LIMIT: u8 = 64;
const ICMP_HEADER: usize = 8;

/// What of an IPv4 packet is quoted: at most so much that the error fits 576
/// bytes (RFC 1812, section 4.3.2.3).
const QUOTE_V4: usize = 576 - V4_HEADER - ICMP_HEADER;
/// The same for IPv6 and 1280 bytes (RFC 4443, section 3.1).
const QUOTE_V6: usize = 1280 - V6_HEADER - ICMP_HEADER;

/// The length of the longest [`answer`].
pub(super) const MAX_LENGTH: usize = 1280;

/// What is wrong with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// Its destination is nobody's: "host unreachable" (RFC 792) or "address
    /// unreachable" (RFC 4443).
    Unreachable,
    /// It is larger than this: "fragmentation needed" (RFC 1191) or "packet too big"
    /// (RFC 4443).
    TooLarge(u16),
}

impl Fault {
    /// The first eight bytes of the error, without a checksum.
    fn header_v4(self) -> [u8; ICMP_HEADER] {
        match self {
            Self::Unreachable => [3, 1, 0, 0, 0, 0, 0, 0],
            Self::TooLarge(mtu) => {
                let [high, low] = mtu.to_be_bytes();
                [3, 4, 0, 0, 0, 0, high, low]
            }
        }
    }

    fn header_v6(self) -> [u8; ICMP_HEADER] {
        match self {
            Self::Unreachable => [1, 3, 0, 0, 0, 0, 0, 0],
            Self::TooLarge(mtu) => {
                let [high, low] = mtu.max(LEAST_V6).to_be_bytes();
                [2, 0, 0, 0, 0, 0, high, low]
            }
        }
    }

    /// Writes the ICMP error about a packet; gives back its length, and 0 where there
    /// must be none: about errors, later fragments, and packets that were not from one
    /// host to one host (RFC 1122, section 3.2.2).
    ///
    /// It comes from the address to which the packet went: the host would refuse a
    /// packet from outside that claims to come from one of its own addresses.
    pub(super) fn answer(self, packet: &[u8], into: &mut [u8]) -> usize {
        let Some(Addresses { source, destination }) = Addresses::of(packet) else { return 0 };
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                answer_v4(self.header_v4(), packet, source, destination, into)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                answer_v6(self.header_v6(), packet, source, destination, into)
            }
            _ => None,
        }
        .unwrap_or(0)
    }
}

fn is_host_v4(address: Ipv4Addr) -> bool {
    !(address.is_unspecified()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_loopback())
}

fn is_host_v6(address: Ipv6Addr) -> bool {
    !(address.is_unspecified() || address.is_multicast() || address.is_loopback())
}

fn answer_v4(
    error: [u8; ICMP_HEADER],
    packet: &[u8],
    source: Ipv4Addr,
    destination: Ipv4Addr,
    into: &mut [u8],
) -> Option<usize> {
    let header = usize::from(packet.first()? & 15) * 4;
    let fragment_offset = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x1fff;
    let is_error =
        packet.get(9) == Some(&ICMP) && !matches!(packet.get(header), Some(0 | 8 | 13 | 14));
    if fragment_offset != 0 || is_error || !is_host_v4(source) || !is_host_v4(destination) {
        return None;
    }
    let quote = &packet[..packet.len().min(QUOTE_V4)];
    let total = V4_HEADER + ICMP_HEADER + quote.len();
    let answer = into.get_mut(..total)?;
    answer.fill(0);
    let (ip, icmp) = answer.split_at_mut(V4_HEADER);
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&(total as u16).to_be_bytes());
    ip[8] = HOP_LIMIT;
    ip[9] = ICMP;
    ip[12..16].copy_from_slice(&destination.octets());
    ip[16..20].copy_from_slice(&source.octets());
    let sum = checksum(&[ip]);
    ip[10..12].copy_from_slice(&sum);
    icmp[..ICMP_HEADER].copy_from_slice(&error);
    icmp[ICMP_HEADER..].copy_from_slice(quote);
    let sum = checksum(&[icmp]);
    icmp[2..4].copy_from_slice(&sum);
    Some(total)
}

fn answer_v6(
    error: [u8; ICMP_HEADER],
    packet: &[u8],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    into: &mut [u8],
) -> Option<usize> {
    // Behind extension headers an ICMP error is not looked for; a fragment
    // header hides whether this is the first: no answer to either.
    let next = *packet.get(6)?;
    let is_error = next == ICMP_V6 && packet.get(V6_HEADER).is_none_or(|kind| *kind < 128);
    let extended = matches!(next, 0 | 43 | 44 | 60);
    if is_error || extended || !is_host_v6(source) || !is_host_v6(destination) {
        return None;
    }
    let quote = &packet[..packet.len().min(QUOTE_V6)];
    let payload = (ICMP_HEADER + quote.len()) as u16;
    let total = V6_HEADER + usize::from(payload);
    let answer = into.get_mut(..total)?;
    answer.fill(0);
    let (ip, icmp) = answer.split_at_mut(V6_HEADER);
    ip[0] = 0x60;
    ip[4..6].copy_from_slice(&payload.to_be_bytes());
    ip[6] = ICMP_V6;
    ip[7] = HOP_LIMIT;
    ip[8..24].copy_from_slice(&destination.octets());
    ip[24..40].copy_from_slice(&source.octets());
    icmp[..ICMP_HEADER].copy_from_slice(&error);
    icmp[ICMP_HEADER..].copy_from_slice(quote);
    let [high, low] = payload.to_be_bytes();
    let sum = checksum(&[&ip[8..40], &[0, 0, high, low, 0, 0, 0, ICMP_V6], icmp]);
    icmp[2..4].copy_from_slice(&sum);
    Some(total)
}

/// The Internet checksum (RFC 1071) over parts of which all but the last have
/// an even length.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let mut sum: u32 = 0;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::tests::packet;
    use proptest::prelude::*;

    fn answered(packet: &[u8]) -> Option<Vec<u8>> {
        let mut into = [0xff; MAX_LENGTH];
        let length = Fault::Unreachable.answer(packet, &mut into);
        (length > 0).then(|| into[..length].to_vec())
    }

    #[test]
    fn an_error_says_unreachable_and_quotes_the_packet() {
        let sent = packet("10.77.1.2", "10.77.9.9", b"is anybody there?");
        let error = answered(&sent).unwrap();
        assert_eq!(checksum(&[&error[..20]]), [0, 0]);
        assert_eq!(checksum(&[&error[20..]]), [0, 0]);
        assert_eq!(error[20..22], [3, 1]);
        assert_eq!(error[28..], sent);
        let addresses = Addresses::of(&error).unwrap();
        assert_eq!(addresses.destination, "10.77.1.2".parse::<IpAddr>().unwrap());

        let sent = packet("fd00::1", "fd00::9", b"is anybody there?");
        let error = answered(&sent).unwrap();
        assert_eq!(error[40..42], [1, 3]);
        assert_eq!(error[48..], sent);
        let [high, low] = ((error.len() - 40) as u16).to_be_bytes();
        let pseudo = [0, 0, high, low, 0, 0, 0, 58];
        assert_eq!(checksum(&[&error[8..40], &pseudo, &error[40..]]), [0, 0]);
        let addresses = Addresses::of(&error).unwrap();
        assert_eq!(addresses.destination, "fd00::1".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn there_is_no_error_about_errors_fragments_and_groups() {
        for destination in ["224.0.0.1", "255.255.255.255", "ff02::2"] {
            let source = if destination.contains(':') { "fd00::1" } else { "10.77.1.2" };
            assert_eq!(answered(&packet(source, destination, b"x")), None, "{destination}");
        }
        let mut later_fragment = packet("10.77.1.2", "10.77.9.9", b"x");
        later_fragment[7] = 1;
        assert_eq!(answered(&later_fragment), None);
        for (source, destination) in [("10.77.1.2", "10.77.9.9"), ("fd00::1", "fd00::9")] {
            let error = answered(&packet(source, destination, b"x")).unwrap();
            assert_eq!(answered(&error), None);
        }
    }

    proptest! {
        #[test]
        fn no_packet_panics_and_errors_are_bounded_packets(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..1600),
            six: bool,
        ) {
            // Headers whose lengths agree, so that most get past the first check.
            let length = bytes.len() as u16;
            if six && bytes.len() >= 40 {
                bytes[0] = 0x60;
                bytes[4..6].copy_from_slice(&(length - 40).to_be_bytes());
            } else if bytes.len() >= 20 {
                bytes[0] = 0x45;
                bytes[2..4].copy_from_slice(&length.to_be_bytes());
            }
            if let Some(error) = answered(&bytes) {
                prop_assert!(Addresses::of(&error).is_some());
            }
        }
    }
}
