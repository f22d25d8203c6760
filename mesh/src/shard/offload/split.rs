use super::checksum::{complement, complement_udp, pseudo, sum};
use super::header::{Header, Segments};
use super::{CWR, FIN, PSH, TCP, UDP};
use crate::shard::inner::{V4_HEADER, V6_HEADER};

/// The longest headers that are copied: IPv6 with extensions and TCP with
/// options.
const LONGEST: usize = 256;

/// A packet that is not what its header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Gives the packets, one after the other, for which a packet of the host
/// stands; says how many.
///
/// The packet's bytes are used up: each segment's headers are written in front
/// of its payload, over the end of the one before, so that no payload is copied.
pub fn split(
    header: Header,
    packet: &mut [u8],
    each: impl FnMut(&[u8]),
) -> Result<usize, Malformed> {
    match header.segments {
        Segments::One => one(header, packet, each).ok_or(Malformed),
        Segments::Tcp(size) => many(header, size, TCP, packet, each).ok_or(Malformed),
        Segments::Udp(size) => many(header, size, UDP, packet, each).ok_or(Malformed),
    }
}

fn one(header: Header, packet: &mut [u8], mut each: impl FnMut(&[u8])) -> Option<usize> {
    if let Some((start, offset)) = header.checksum {
        let start = usize::from(start);
        let covered = packet.get_mut(start..)?;
        // The sum over the pseudo-header is there already.
        let total = sum(0, covered);
        let field = covered.get_mut(usize::from(offset)..)?.first_chunk_mut::<2>()?;
        // Only UDP has its checksum there.
        *field = if offset == 6 { complement_udp(total) } else { complement(total) };
    }
    each(packet);
    Some(1)
}

fn many(
    header: Header,
    size: u16,
    protocol: u8,
    packet: &mut [u8],
    mut each: impl FnMut(&[u8]),
) -> Option<usize> {
    let size = usize::from(size);
    let transport = usize::from(header.checksum?.0);
    let v6 = match packet.first()? >> 4 {
        4 if transport == usize::from(packet[0] & 15) * 4 && transport >= V4_HEADER => false,
        6 if transport >= V6_HEADER => true,
        _ => return None,
    };
    let (field, length) = if protocol == TCP {
        let words = packet.get(transport + 12)? >> 4;
        if words < 5 {
            return None;
        }
        (16, transport + usize::from(words) * 4)
    } else {
        (6, transport + 8)
    };
    if size == 0 || length >= packet.len() || length > LONGEST || packet.len() > 65_535 {
        return None;
    }
    let mut headers = [0; LONGEST];
    let headers = &mut headers[..length];
    headers.copy_from_slice(&packet[..length]);
    let identification = u16::from_be_bytes([headers[4], headers[5]]);
    let (sequence, flags) = if protocol == TCP {
        let sequence = headers.get(transport + 4..)?.first_chunk::<4>()?;
        (u32::from_be_bytes(*sequence), headers[transport + 13])
    } else {
        (0, 0)
    };
    let addresses = if v6 { 8..40 } else { 12..20 };
    let payload = packet.len() - length;
    let mut count = 0;
    for from in (0..payload).step_by(size) {
        let carried = size.min(payload - from);
        let is_last = from + carried == payload;
        if v6 {
            let behind = (length - V6_HEADER + carried) as u16;
            headers[4..6].copy_from_slice(&behind.to_be_bytes());
        } else {
            headers[2..4].copy_from_slice(&((length + carried) as u16).to_be_bytes());
            let identification = identification.wrapping_add(count as u16);
            headers[4..6].copy_from_slice(&identification.to_be_bytes());
            headers[10..12].fill(0);
            let checksum = complement(sum(0, &headers[..transport]));
            headers[10..12].copy_from_slice(&checksum);
        }
        let covered = length - transport + carried;
        if protocol == TCP {
            let sequence = sequence.wrapping_add(from as u32);
            headers[transport + 4..transport + 8].copy_from_slice(&sequence.to_be_bytes());
            let mut flags = flags;
            if !is_last {
                flags &= !(FIN | PSH);
            }
            if count > 0 {
                flags &= !CWR;
            }
            headers[transport + 13] = flags;
        } else {
            headers[transport + 4..transport + 6].copy_from_slice(&(covered as u16).to_be_bytes());
        }
        headers[transport + field..transport + field + 2].fill(0);
        let total = pseudo(&headers[addresses.clone()], protocol, covered);
        let total = sum(sum(total, &headers[transport..]), &packet[length + from..][..carried]);
        let checksum = if protocol == TCP { complement(total) } else { complement_udp(total) };
        headers[transport + field..transport + field + 2].copy_from_slice(&checksum);
        let segment = &mut packet[from..from + length + carried];
        segment[..length].copy_from_slice(headers);
        each(segment);
        count += 1;
    }
    Some(count)
}
