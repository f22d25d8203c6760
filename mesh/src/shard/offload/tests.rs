//! Splitting and coalescing as each other's reverse.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::checksum::{complement, complement_udp, pseudo, sum};
use super::header::Segments;
use super::*;
use crate::shard::batch::{HOST_HEADROOM, HostBatch};
use crate::shard::inner::{V4_HEADER, V6_HEADER};

/// A packet as a host makes it.
#[derive(Debug, Clone)]
struct Made {
    v6: bool,
    tcp: bool,
    flow: u8,
    identification: u16,
    may_be_fragmented: bool,
    class: u8,
    sequence: u32,
    flags: u8,
    options: usize,
    payload: Vec<u8>,
}

impl Made {
    fn bytes(&self) -> Vec<u8> {
        let transport = if self.v6 { V6_HEADER } else { V4_HEADER };
        let header = if self.tcp { 20 + self.options * 4 } else { 8 };
        let covered = header + self.payload.len();
        let mut packet = vec![0; transport + covered];
        let protocol = if self.tcp { TCP } else { UDP };
        if self.v6 {
            packet[0] = 0x60 | self.class >> 4;
            packet[1] = self.class << 4;
            packet[4..6].copy_from_slice(&(covered as u16).to_be_bytes());
            packet[6] = protocol;
            packet[7] = 64;
            packet[8..40].fill(0xfd);
            packet[39] = self.flow;
        } else {
            packet[0] = 0x45;
            packet[1] = self.class;
            let total = (transport + covered) as u16;
            packet[2..4].copy_from_slice(&total.to_be_bytes());
            packet[4..6].copy_from_slice(&self.identification.to_be_bytes());
            packet[6] = if self.may_be_fragmented { 0 } else { 0x40 };
            packet[8] = 64;
            packet[9] = protocol;
            packet[12..20].copy_from_slice(&[10, 77, 0, 1, 10, 77, 0, self.flow]);
            let checksum = complement(sum(0, &packet[..V4_HEADER]));
            packet[10..12].copy_from_slice(&checksum);
        }
        let segment = &mut packet[transport..];
        segment[..4].copy_from_slice(&[0x13, 0x88, 0x27, self.flow]);
        let field = if self.tcp {
            segment[4..8].copy_from_slice(&self.sequence.to_be_bytes());
            segment[8..12].copy_from_slice(&[1, 2, 3, 4]);
            segment[12] = ((header / 4) as u8) << 4;
            segment[13] = self.flags;
            segment[14..16].copy_from_slice(&[0xff, 0xff]);
            segment[20..header].fill(1);
            16
        } else {
            segment[4..6].copy_from_slice(&(covered as u16).to_be_bytes());
            6
        };
        segment[header..].copy_from_slice(&self.payload);
        let addresses = if self.v6 { 8..40 } else { 12..20 };
        let total = sum(pseudo(&packet[addresses], protocol, covered), &packet[transport..]);
        let checksum = if self.tcp { complement(total) } else { complement_udp(total) };
        packet[transport + field..transport + field + 2].copy_from_slice(&checksum);
        packet
    }
}

fn batch_of(packets: &[Vec<u8>]) -> HostBatch {
    let room: usize = packets.iter().map(|packet| packet.len() + HOST_HEADROOM).sum();
    let mut batch = HostBatch::new(room, HOST_HEADROOM);
    for packet in packets {
        assert!(batch.push((), packet.len(), |into| {
            into.copy_from_slice(packet);
            packet.len()
        }));
    }
    batch
}

/// The packets for the host: their headers, and all of their bytes.
fn coalesced(packets: &[Vec<u8>]) -> Vec<(Header, Vec<u8>)> {
    let mut batch = batch_of(packets);
    Coalescer::default()
        .coalesce(&mut batch)
        .map(|one| {
            assert!(one.pieces().count() <= MOST_PIECES);
            let bytes: Vec<u8> = one.pieces().flatten().copied().collect();
            let (header, packet) = bytes.split_first_chunk().unwrap();
            (Header::read(header).unwrap(), packet.to_vec())
        })
        .collect()
}

fn split_again(supers: Vec<(Header, Vec<u8>)>) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for (header, mut bytes) in supers {
        split(header, &mut bytes, |packet| packets.push(packet.to_vec())).unwrap();
    }
    packets
}

type Flows<'a> = BTreeMap<Vec<u8>, Vec<&'a [u8]>>;

/// The packets of each flow, by addresses, protocol and ports. Those of which
/// nobody can tell the flow part them: before and after each are others.
fn by_flow(packets: &[Vec<u8>]) -> Vec<Flows<'_>> {
    let mut spans = vec![Flows::new()];
    for packet in packets {
        if matches!(coalesce::Seen::of(packet), coalesce::Seen::Any) {
            spans.push(Flows::from([(Vec::new(), vec![&packet[..]])]));
            spans.push(Flows::new());
            continue;
        }
        let (addresses, protocol, ports) =
            if packet[0] >> 4 == 4 { (12..20, 9, 20..24) } else { (8..40, 6, 40..44) };
        let mut flow = [&packet[addresses], &packet[protocol..=protocol]].concat();
        if [TCP, UDP].contains(&packet[protocol]) {
            flow.extend_from_slice(&packet[ports]);
        }
        spans.last_mut().unwrap().entry(flow).or_default().push(packet);
    }
    spans
}

/// A few flows, as bulk transfers and datagrams are, with what disturbs them.
fn traffic() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let one = (0_u8..4, any::<bool>(), any::<bool>(), 1_usize..9, 0_u8..40, any::<u8>());
    proptest::collection::vec(one, 1..60).prop_map(|choices| {
        let mut sequences = [0_u32; 4];
        let mut identifications = [0_u16; 4];
        let mut packets = Vec::new();
        for (flow, v6, tcp, count, disturbance, byte) in choices {
            let place = usize::from(flow);
            for number in 0..count {
                let is_last = number + 1 == count;
                let length = if is_last && disturbance % 3 == 0 { 7 } else { 100 };
                let mut made = Made {
                    v6,
                    tcp,
                    flow,
                    identification: identifications[place],
                    may_be_fragmented: byte & 1 == 0,
                    class: if disturbance == 1 && number == 2 { 3 } else { 0 },
                    sequence: sequences[place],
                    flags: ACK,
                    options: usize::from(byte % 4),
                    payload: vec![byte.wrapping_add(number as u8); length],
                };
                match disturbance {
                    2 if is_last => made.flags |= PSH,
                    3 if is_last => made.flags |= FIN,
                    4 => made.flags |= CWR,
                    5 if number == 1 => made.sequence ^= 1,
                    6 if number == 1 => made.payload.clear(),
                    _ => {}
                }
                sequences[place] = sequences[place].wrapping_add(made.payload.len() as u32);
                // Where packets must not be fragmented it may stand still (RFC 6864).
                let stands_still = !made.may_be_fragmented && byte & 2 == 0;
                identifications[place] =
                    identifications[place].wrapping_add(u16::from(!stands_still));
                let mut packet = made.bytes();
                let transport = if v6 { V6_HEADER } else { V4_HEADER };
                match disturbance {
                    7 if number == 1 => *packet.last_mut().unwrap() ^= 1,
                    8 if number == 1 && !tcp => packet[transport + 6..transport + 8].fill(0),
                    9 if number == 1 && !v6 => packet[6] |= 0x20,
                    10 if number == 1 => packet[if v6 { 6 } else { 9 }] = 44,
                    11 if number == 1 => packet.truncate(transport + 3),
                    _ => {}
                }
                if [9, 10].contains(&disturbance) && !v6 && packet.len() >= V4_HEADER {
                    // What is wrong shall not be the checksum.
                    packet[10..12].fill(0);
                    let checksum = complement(sum(0, &packet[..V4_HEADER]));
                    packet[10..12].copy_from_slice(&checksum);
                }
                packets.push(packet);
            }
        }
        packets
    })
}

/// A packet without what coalescing may change: the identification of one of IPv4
/// that must not be fragmented, as long as its header's checksum holds.
fn essence(mut packet: Vec<u8>) -> Vec<u8> {
    let is_it = packet.len() >= V4_HEADER
        && packet[0] == 0x45
        && packet[6] & 0x40 != 0
        && checksum::fold(sum(0, &packet[..V4_HEADER])) == 0xffff;
    if is_it {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
        let checksum = complement(sum(0, &packet[..V4_HEADER]));
        packet[10..12].copy_from_slice(&checksum);
    }
    packet
}

proptest! {
    #[test]
    fn what_was_coalesced_and_split_again_is_the_same_in_every_flow(packets in traffic()) {
        let again: Vec<_> = split_again(coalesced(&packets)).into_iter().map(essence).collect();
        let packets: Vec<_> = packets.into_iter().map(essence).collect();
        prop_assert_eq!(by_flow(&again), by_flow(&packets));
    }

    #[test]
    fn no_bytes_panic_and_none_are_lost(
        packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..90), 0..20),
        header: [u8; HEADER_LENGTH],
        mut packet in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let supers = coalesced(&packets);
        let total: usize = supers.iter().map(|(_, bytes)| bytes.len()).sum();
        prop_assert!(total <= packets.iter().map(Vec::len).sum());
        prop_assert_eq!(split_again(supers).len(), packets.len());
        if let Some(header) = Header::read(&header) {
            let _ = split(header, &mut packet, |_| {});
        }
    }

    #[test]
    fn damage_in_a_transfer_panics_nowhere(
        mut packets in traffic(),
        damage in proptest::collection::vec((any::<usize>(), any::<usize>(), any::<u8>()), 0..30),
    ) {
        for (packet, at, byte) in damage {
            let index = packet % packets.len();
            let packet = &mut packets[index];
            let at = at % packet.len().min(60);
            packet[at] = byte;
        }
        let again: Vec<_> = split_again(coalesced(&packets)).into_iter().map(essence).collect();
        let packets: Vec<_> = packets.into_iter().map(essence).collect();
        prop_assert_eq!(by_flow(&again), by_flow(&packets));
    }
}

fn bulk(v6: bool, tcp: bool, count: u16, length: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|number| {
            Made {
                v6,
                tcp,
                flow: 1,
                identification: number.wrapping_add(65_530),
                may_be_fragmented: false,
                class: 0,
                sequence: u32::from(number).wrapping_mul(length as u32).wrapping_sub(5_000),
                flags: ACK,
                options: 3,
                payload: vec![number as u8; length],
            }
            .bytes()
        })
        .collect()
}

#[test]
fn a_transfer_becomes_few_packets_and_comes_out_as_it_was() {
    for v6 in [false, true] {
        for tcp in [false, true] {
            let packets = bulk(v6, tcp, 100, 1300);
            let supers = coalesced(&packets);
            let most = 65_535 / 1300;
            assert_eq!(supers.len(), 100_usize.div_ceil(most), "IPv6 {v6}, TCP {tcp}");
            let size = 1300;
            let expected = if tcp { Segments::Tcp(size) } else { Segments::Udp(size) };
            assert!(supers.iter().all(|(header, _)| header.segments == expected));
            assert_eq!(split_again(supers), packets);
        }
    }
}

#[test]
fn small_datagrams_are_at_most_as_many_as_the_kernel_takes() {
    let supers = coalesced(&bulk(false, false, 200, 64));
    let lengths: Vec<usize> = supers.iter().map(|(_, bytes)| (bytes.len() - 28) / 64).collect();
    assert_eq!(lengths, [64, 64, 64, 8]);
}

#[test]
fn flows_that_alternate_are_coalesced_each_for_itself() {
    let other = |mut packet: Vec<u8>| {
        // The checksum does not mind which of two ports is which.
        packet.swap(V6_HEADER, V6_HEADER + 2);
        packet.swap(V6_HEADER + 1, V6_HEADER + 3);
        packet
    };
    let packets: Vec<_> =
        bulk(true, true, 20, 500).into_iter().flat_map(|one| [one.clone(), other(one)]).collect();
    assert_eq!(coalesced(&packets).len(), 2);
}

#[test]
fn what_is_marked_on_its_way_keeps_its_mark() {
    let mut packets = bulk(false, true, 6, 500);
    // Congestion experienced (RFC 3168), as a router marks it.
    packets[3][1] = 3;
    packets[3][10..12].fill(0);
    let checksum = complement(sum(0, &packets[3][..V4_HEADER]));
    packets[3][10..12].copy_from_slice(&checksum);
    let supers = coalesced(&packets);
    let counts: Vec<usize> = supers.iter().map(|(_, bytes)| (bytes.len() - 52) / 500).collect();
    assert_eq!(counts, [3, 1, 2]);
    assert_eq!(split_again(supers), packets);
}

#[test]
fn only_the_first_of_many_has_cwr_and_only_the_last_fin_and_psh() {
    let mut packet = Made {
        v6: false,
        tcp: true,
        flow: 1,
        identification: 7,
        may_be_fragmented: false,
        class: 0,
        sequence: u32::MAX - 50,
        flags: ACK | CWR | FIN | PSH,
        options: 0,
        payload: (0..250).collect(),
    }
    .bytes();
    let header =
        Header { segments: Segments::Tcp(100), checksum: Some((20, 16)), header_length: 40 };
    let mut seen = Vec::new();
    let count = split(header, &mut packet, |packet| {
        let total = pseudo(&packet[12..20], TCP, packet.len() - 20);
        assert_eq!(checksum::fold(sum(total, &packet[20..])), 0xffff);
        assert_eq!(checksum::fold(sum(0, &packet[..20])), 0xffff);
        let sequence = u32::from_be_bytes(*packet[24..].first_chunk().unwrap());
        seen.push((packet[33], packet[4..6].to_vec(), sequence, packet[40]));
    });
    assert_eq!(count, Ok(3));
    let first = u32::MAX - 50;
    assert_eq!(
        seen,
        [
            (ACK | CWR, vec![0, 7], first, 0),
            (ACK, vec![0, 8], first.wrapping_add(100), 100),
            (ACK | FIN | PSH, vec![0, 9], first.wrapping_add(200), 200),
        ]
    );
}

#[test]
fn a_single_packet_gets_the_checksum_that_the_host_left_out() {
    let whole = bulk(true, false, 1, 99).remove(0);
    let mut packet = whole.clone();
    let total = pseudo(&packet[8..40], UDP, packet.len() - 40);
    packet[46..48].copy_from_slice(&checksum::fold(total).to_ne_bytes());
    let header = Header { checksum: Some((40, 6)), ..Header::default() };
    let mut seen = Vec::new();
    split(header, &mut packet, |packet| seen.push(packet.to_vec())).unwrap();
    assert_eq!(seen, [whole]);
}

#[test]
fn headers_that_lie_are_refused() {
    let packet = bulk(false, true, 1, 500).remove(0);
    let header = |segments, checksum| Header { segments, checksum, header_length: 0 };
    for header in [
        header(Segments::Tcp(0), Some((20, 16))),
        header(Segments::Tcp(100), None),
        header(Segments::Tcp(100), Some((24, 16))),
        header(Segments::Tcp(100), Some((40, 16))),
        header(Segments::One, Some((600, 16))),
        header(Segments::One, Some((20, 600))),
    ] {
        let refused = split(header, &mut packet.clone(), |_| panic!("{header:?}"));
        assert_eq!(refused, Err(Malformed), "{header:?}");
    }
    let headers = &mut packet.clone()[..52];
    let none = header(Segments::Tcp(100), Some((20, 16)));
    assert_eq!(split(none, headers, |_| panic!("no payload")), Err(Malformed));
}
