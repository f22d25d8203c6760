//! The largest segment that two TCPs agree on (RFC 9293, section 3.7.1), made to fit a
//! path: so connections need no errors about packets that are too large, which hosts
//! and filters lose.

use super::inner::{V4_HEADER, V6_HEADER};
use super::offload::TCP;

const TCP_HEADER: usize = 20;
const SYN: u8 = 0x02;
/// Kinds of options.
const END: u8 = 0;
const NOTHING: u8 = 1;
const MSS: u8 = 2;

/// Where the header of TCP begins in a packet that begins a connection.
fn syn(packet: &[u8]) -> Option<usize> {
    let (at, protocol) = match packet.first()? >> 4 {
        4 => {
            let later_fragment = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x1fff;
            let protocol = *packet.get(9)?;
            if later_fragment != 0 {
                return None;
            }
            (usize::from(packet[0] & 15) * 4, protocol)
        }
        6 => (V6_HEADER, *packet.get(6)?),
        _ => return None,
    };
    let flags = *packet.get(at + 13).filter(|_| protocol == TCP)?;
    (flags & SYN != 0).then_some(at)
}

/// Whether a packet begins a TCP connection.
pub(super) fn is_syn(packet: &[u8]) -> bool {
    syn(packet).is_some()
}

/// Makes a packet that begins a connection ask for segments that fit packets of `mtu`
/// bytes, if it asks for larger ones.
pub(super) fn clamp(packet: &mut [u8], mtu: u16) {
    let Some(at) = syn(packet) else { return };
    let header = if packet[0] >> 4 == 4 { V4_HEADER } else { V6_HEADER };
    let most = mtu.saturating_sub((header + TCP_HEADER) as u16);
    let length = usize::from(packet.get(at + 12).map_or(0, |words| words >> 4)) * 4;
    let Some(tcp) = packet.get_mut(at..at + length).filter(|tcp| tcp.len() >= TCP_HEADER) else {
        return;
    };
    let mut place = TCP_HEADER;
    while let Some(option) = tcp.get(place..) {
        match *option {
            [NOTHING, ..] => place += 1,
            [MSS, 4, high, low, ..] => {
                let asked = u16::from_be_bytes([high, low]);
                if asked > most {
                    replace(tcp, place + 2, asked, most);
                }
                return;
            }
            [END, ..] | [] | [_] => return,
            [_, length, ..] => place += usize::from(length.max(2)),
        }
    }
}

/// Puts two other bytes into a header of TCP, and what they change into its checksum
/// (RFC 1624).
fn replace(tcp: &mut [u8], at: usize, before: u16, now: u16) {
    tcp[at..at + 2].copy_from_slice(&now.to_be_bytes());
    // At an odd place both lie across two words.
    let aligned = |value: u16| if at.is_multiple_of(2) { value } else { value.swap_bytes() };
    let checksum = u16::from_be_bytes([tcp[16], tcp[17]]);
    let sum = u32::from(!checksum) + u32::from(!aligned(before)) + u32::from(aligned(now));
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = ((sum & 0xffff) + (sum >> 16)) as u16;
    tcp[16..18].copy_from_slice(&(!sum).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The checksum of a whole packet without one (RFC 9293, section 3.1).
    fn checksum(packet: &[u8]) -> [u8; 2] {
        let (at, addresses) = if packet[0] >> 4 == 4 {
            (V4_HEADER, &packet[12..20])
        } else {
            (V6_HEADER, &packet[8..40])
        };
        let tcp = &packet[at..];
        let length = (tcp.len() as u16).to_be_bytes();
        let all = [addresses, &[0, TCP], &length, tcp].concat();
        let words = all.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
        let sum: u32 = words.sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        (!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes()
    }

    /// A packet that begins a connection, with these options.
    fn opening(is_v6: bool, options: &[u8]) -> Vec<u8> {
        let tcp = TCP_HEADER + options.len();
        let mut packet = if is_v6 { vec![0; V6_HEADER + tcp] } else { vec![0; V4_HEADER + tcp] };
        let at = packet.len() - tcp;
        if is_v6 {
            packet[0] = 0x60;
            packet[4..6].copy_from_slice(&(tcp as u16).to_be_bytes());
            packet[6] = TCP;
            packet[8..40].fill(0xfd);
        } else {
            let total = packet.len() as u16;
            packet[0] = 0x45;
            packet[2..4].copy_from_slice(&total.to_be_bytes());
            packet[9] = TCP;
            packet[12..20].fill(10);
        }
        packet[at + 12] = (tcp as u8 / 4) << 4;
        packet[at + 13] = SYN;
        packet[at + TCP_HEADER..].copy_from_slice(options);
        let sum = checksum(&packet);
        packet[at + 16..at + 18].copy_from_slice(&sum);
        packet
    }

    #[test]
    fn what_is_asked_for_fits_and_the_checksum_holds() {
        for (is_v6, fits) in [(false, 1180), (true, 1160)] {
            let header = if is_v6 { V6_HEADER } else { V4_HEADER };
            for asked in [536_u16, fits, 1380, 1460, u16::MAX] {
                let [high, low] = asked.to_be_bytes();
                // At an even and at an odd place.
                for options in
                    [[MSS, 4, high, low, NOTHING, 3, 3, 7], [NOTHING, MSS, 4, high, low, 3, 3, 7]]
                {
                    let at = header + TCP_HEADER + usize::from(options[0] == NOTHING) + 2;
                    let mut packet = opening(is_v6, &options);
                    assert!(is_syn(&packet));
                    clamp(&mut packet, 1220);
                    let now = u16::from_be_bytes([packet[at], packet[at + 1]]);
                    assert_eq!(now, asked.min(fits));
                    let sum = [packet[header + 16], packet[header + 17]];
                    packet[header + 16..header + 18].fill(0);
                    assert_eq!(checksum(&packet), sum, "{asked} {options:?}");
                }
            }
        }
    }

    #[test]
    fn what_begins_no_connection_stays_as_it_is() {
        let options = [MSS, 4, 5, 180];
        for (at, value) in [(V4_HEADER + 13, 0x10), (9, 17), (7, 1)] {
            let mut packet = opening(false, &options);
            packet[at] = value;
            let before = packet.clone();
            clamp(&mut packet, 576);
            assert_eq!(packet, before);
        }
    }

    proptest! {
        #[test]
        fn no_options_panic_and_lengths_stay(
            options in proptest::collection::vec(0_u8..6, 0..10),
            is_v6: bool,
            cut in 0_usize..80,
            mtu: u16,
        ) {
            let options: Vec<u8> = options.repeat(4);
            let mut packet = opening(is_v6, &options);
            packet.truncate(cut);
            let before = packet.len();
            clamp(&mut packet, mtu);
            prop_assert_eq!(packet.len(), before);
        }
    }
}
