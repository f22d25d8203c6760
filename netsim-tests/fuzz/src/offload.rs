//! Packets that stand for many: coalesced and split again they are the same,
//! and a header that lies is refused.

use epsilon_mesh::shard::HostBatch;
use epsilon_mesh::shard::offload::{Coalescer, HEADER_LENGTH, Header, split};

use crate::script::{self, Script};

/// Packets in one run.
const PACKETS: usize = 64;
const HEADROOM: usize = 16;

/// A packet without what coalescing may change: the identification of one of
/// IPv4 that must not be fragmented, and with it its header's checksum.
fn essence(mut packet: Vec<u8>) -> Vec<u8> {
    if packet.len() >= 20 && packet[0] == 0x45 && packet[6] & 0x40 != 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}

/// To which flow a packet belongs, by addresses, protocol and ports; what is not
/// plainly TCP or UDP is one flow.
fn flow(packet: &[u8]) -> Option<Vec<u8>> {
    let (addresses, protocol, transport) = match packet.first()? >> 4 {
        4 if packet[0] == 0x45 => (packet.get(12..20)?, *packet.get(9)?, 20),
        6 => (packet.get(8..40)?, *packet.get(6)?, 40),
        _ => return None,
    };
    let ports = packet.get(transport..transport + 4)?;
    let is_plain = [6, 17].contains(&protocol);
    is_plain.then(|| [&[packet[0] >> 4, protocol], addresses, ports].concat())
}

/// Puts right what the rest hangs on, so that more than a few packets hold:
/// lengths and, in every second, checksums.
fn mended(packet: &mut [u8]) {
    let (length, v6) = (packet.len(), packet[0] >> 4 == 6);
    let transport = if v6 { 40 } else { 20 };
    if length < transport + 8 {
        return;
    }
    let (protocol, addresses) = if v6 { (packet[6], 8..40) } else { (packet[9], 12..20) };
    let covered = length - transport;
    if v6 {
        packet[4..6].copy_from_slice(&(covered as u16).to_be_bytes());
    } else {
        packet[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        packet[10..12].fill(0);
        let sum = sum(&[&packet[..20]]);
        packet[10..12].copy_from_slice(&sum);
    }
    let field = match protocol {
        6 if covered >= 20 => transport + 16,
        17 => transport + 6,
        _ => return,
    };
    if protocol == 17 {
        packet[transport + 4..transport + 6].copy_from_slice(&(covered as u16).to_be_bytes());
    }
    packet[field..field + 2].fill(0);
    let pseudo = [0, protocol, (covered >> 8) as u8, covered as u8];
    let sum = sum(&[&packet[addresses], &pseudo, &packet[transport..]]);
    packet[field..field + 2].copy_from_slice(&sum);
}

/// The checksum of RFC 1071 over parts of even length, but for the last.
fn sum(parts: &[&[u8]]) -> [u8; 2] {
    let words = parts
        .iter()
        .flat_map(|part| part.chunks(2))
        .map(|pair| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])));
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    match (!(sum as u16)).to_be_bytes() {
        [0, 0] => [0xff, 0xff],
        sum => sum,
    }
}

/// Packets for the host, and one of the host.
pub fn offload(input: &[u8]) {
    let mut script = Script(input);
    let mut packets: Vec<Vec<u8>> = Vec::new();
    while packets.len() < PACKETS
        && let (Some(repeat), Some(bytes)) = (script.byte(), script.bytes())
    {
        let mut packet = bytes.to_vec();
        for step in 0..=repeat % 8 {
            if packet.is_empty() {
                break;
            }
            if repeat & 0x80 == 0 {
                mended(&mut packet);
            }
            packets.push(packet.clone());
            advance(&mut packet, step);
        }
    }
    let room = packets.iter().map(|packet| packet.len() + HEADROOM).sum();
    let mut batch = HostBatch::new(room, HEADROOM);
    for packet in &packets {
        batch.push((), packet.len(), |into| {
            into.copy_from_slice(packet);
            packet.len()
        });
    }
    let mut again = Vec::new();
    for packet in Coalescer::default().coalesce(&mut batch) {
        let mut bytes: Vec<u8> = packet.pieces().flatten().copied().collect();
        let Some((header, packet)) = bytes.split_first_chunk_mut::<HEADER_LENGTH>() else {
            panic!("no header")
        };
        let header = Header::read(header).expect("a kind that is known");
        split(header, packet, |packet| again.push(essence(packet.to_vec()))).expect("it is whole");
    }
    let mut packets: Vec<_> = packets.into_iter().map(essence).collect();
    // Within a flow their order is kept.
    packets.sort_by_key(|packet| flow(packet));
    again.sort_by_key(|packet| flow(packet));
    assert_eq!(again, packets);

    let mut bytes = input.to_vec();
    if let Some((header, packet)) = bytes.split_first_chunk_mut::<HEADER_LENGTH>()
        && let Some(header) = Header::read(header)
    {
        let length = packet.len();
        let _ = split(header, packet, |one| assert!(one.len() <= length));
    }
}

/// Makes a packet the next one of its flow: identification and sequence.
fn advance(packet: &mut [u8], step: u8) {
    let v6 = packet[0] >> 4 == 6;
    let transport = if v6 { 40 } else { 20 };
    if packet.len() < transport + 20 {
        return;
    }
    if !v6 {
        let next = u16::from_be_bytes([packet[4], packet[5]]).wrapping_add(1);
        packet[4..6].copy_from_slice(&next.to_be_bytes());
    }
    let protocol = if v6 { packet[6] } else { packet[9] };
    if protocol == 6 {
        let header = transport + usize::from(packet[transport + 12] >> 4) * 4;
        let payload = packet.len().saturating_sub(header) as u32;
        if let Some(field) = packet[transport + 4..].first_chunk_mut::<4>() {
            *field = u32::from_be_bytes(*field).wrapping_add(payload).to_be_bytes();
        }
    }
    if let Some(last) = packet.last_mut() {
        *last = last.wrapping_add(step);
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let packet = |v6: bool, protocol: u8| {
        let (transport, header) = (if v6 { 40 } else { 20 }, if protocol == 6 { 32 } else { 8 });
        let mut packet = vec![0; transport + header + 100];
        packet[0] = if v6 { 0x60 } else { 0x45 };
        packet[if v6 { 6 } else { 9 }] = protocol;
        if protocol == 6 {
            packet[transport + 12] = 0x80;
            packet[transport + 13] = 0x10;
        }
        packet
    };
    let mut all: Vec<Vec<u8>> = [(false, 6), (false, 17), (true, 6), (true, 17)]
        .iter()
        .map(|(v6, protocol)| [&[7][..], &script::bytes(&packet(*v6, *protocol))].concat())
        .collect();
    all.push(all.concat());
    // One of the host: TCP in segments of 40 bytes.
    let mut header = vec![1, 1, 52, 0, 40, 0, 20, 0, 16, 0];
    header.extend(packet(false, 6));
    all.push(header);
    all
}
