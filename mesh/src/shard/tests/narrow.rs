//! Paths that carry less than the interface.

use super::*;

const NARROW: u16 = 1216;

fn narrow(fleet: &mut Fleet, from: usize, to: usize, mtu: u16) {
    let (node, path) = (fleet.id(to), Some(Path::Direct(address(to))));
    fleet.command(from, Command::SetPath { node, path, mtu });
}

/// Two nodes with a session, and a path of so much between them.
fn pair(mtu: u16) -> Fleet {
    let mut fleet = Fleet::connected(2);
    fleet.send(0, &packet(V4[0], V4[1], b"hello"));
    fleet.received(1);
    narrow(&mut fleet, 0, 1, mtu);
    fleet.log.clear();
    fleet
}

/// A packet of this length, whose sender wants to be told when it is too large.
fn whole(source: &str, destination: &str, length: usize) -> Vec<u8> {
    let header = if source.contains(':') { 40 } else { 20 };
    let mut packet = packet(source, destination, &vec![7; length - header]);
    if header == 20 {
        packet[6] = 0x40;
    }
    packet
}

#[test]
fn who_sends_a_packet_too_large_is_told_how_large_it_may_be() {
    for (mtu, told) in [(NARROW, 1280), (1300, 1300)] {
        let mut fleet = pair(mtu);
        fleet.send(0, &whole(V4[0], V4[1], usize::from(mtu)));
        assert_eq!(fleet.received(1).len(), 1);
        fleet.send(0, &whole(V4[0], V4[1], usize::from(mtu) + 1));
        let [error] = &fleet.received(0)[..] else { panic!("no error") };
        assert_eq!((&error[20..22], &error[26..28]), (&[3, 4][..], &mtu.to_be_bytes()[..]));
        fleet.send(0, &whole(V6[0], V6[1], told + 1));
        let [error] = &fleet.received(0)[..] else { panic!("no error") };
        let size = (told as u32).to_be_bytes();
        assert_eq!((&error[40..42], &error[44..48]), (&[2, 0][..], &size[..]));
        assert!(fleet.received(1).is_empty());
        assert_eq!(fleet.stats(0, 1).dropped.too_large, 2);
    }
}

#[test]
fn what_must_pass_goes_in_parts_none_of_which_is_longer_than_the_path() {
    for mtu in [NARROW, 512] {
        let mut fleet = pair(mtu);
        let sent = [
            whole(V6[0], V6[1], 1280),
            // It may be fragmented.
            packet(V4[0], V4[1], &[8; 1400]),
        ];
        for packet in &sent {
            fleet.send(0, packet);
        }
        assert_eq!(fleet.received(1), sent);
        assert!(fleet.received(0).is_empty());
        let longest = fleet.log.iter().map(|wire| wire.bytes.len()).max();
        assert!(longest.unwrap() <= usize::from(mtu) + OVERHEAD, "{longest:?}");
        assert_eq!(fleet.stats(0, 1).sent.packets, 3);
        assert_eq!(fleet.stats(1, 0).received.packets, 3);
    }
}

#[test]
fn a_packet_in_parts_is_judged_as_a_whole_and_an_error_about_an_error_is_none() {
    let mut fleet = pair(NARROW);
    // Not the peer's address.
    fleet.send(0, &packet("10.77.9.9", V4[1], &[8; 1400]));
    assert!(fleet.received(1).is_empty());
    assert_eq!(fleet.stats(1, 0).dropped.source, 1);
    // Such a one must pass; nothing can be said of it.
    let mut error = whole(V4[0], V4[1], 1400);
    (error[9], error[20]) = (1, 3);
    fleet.send(0, &error);
    assert_eq!((fleet.received(0).len(), fleet.received(1)), (0, vec![error]));
}

#[test]
fn connections_agree_on_segments_that_fit_whoever_knows_of_the_path() {
    // A SYN that asks for 1460 bytes a segment; its checksum is looked at elsewhere.
    let mut tcp = [0; 24];
    (tcp[12], tcp[13]) = (6 << 4, 2);
    tcp[20..].copy_from_slice(&[2, 4, 5, 180]);
    let mut fleet = pair(NARROW);
    for (sender, receiver) in [(0, 1), (1, 0)] {
        for (source, destination, fits) in
            [(V4[sender], V4[receiver], 1176_u16), (V6[sender], V6[receiver], 1156)]
        {
            let mut syn = packet(source, destination, &tcp);
            let protocol = if fits == 1176 { 9 } else { 6 };
            syn[protocol] = 6;
            fleet.send(sender, &syn);
            let [arrived] = &fleet.received(receiver)[..] else { panic!("lost") };
            assert_eq!(arrived[arrived.len() - 2..], fits.to_be_bytes());
        }
    }
    // With data in it (RFC 7413) one may be as long as others.
    let mut fleet = pair(NARROW);
    let mut syn = packet(V6[0], V6[1], &[&tcp[..], &[9; 1210]].concat());
    syn[6] = 6;
    fleet.send(0, &syn);
    assert_eq!(fleet.received(1)[0].len(), syn.len());
    let longest = fleet.log.iter().map(|wire| wire.bytes.len()).max();
    assert!(longest.unwrap() <= usize::from(NARROW) + OVERHEAD, "{longest:?}");
    // A usual path changes nothing.
    let mut fleet = pair(DEFAULT_MTU);
    let mut syn = packet(V4[0], V4[1], &tcp);
    syn[9] = 6;
    fleet.send(0, &syn);
    assert_eq!(fleet.received(1), [syn]);
}

#[test]
fn probes_are_as_long_as_the_datagrams_of_packets_and_so_are_their_answers() {
    let mut fleet = pair(DEFAULT_MTU);
    fleet.give_probe_keys();
    for size in [512_u16, 1280, 1300, DEFAULT_MTU] {
        fleet.send(0, &whole(V4[0], V4[1], usize::from(size)));
        let data = fleet.log.last().unwrap().bytes.len();
        let (node, to) = (fleet.id(1), Path::Direct(address(1)));
        let probe = Command::SendProbe { node, to, size: Some(size), transaction: 9 };
        fleet.command(0, probe);
        let sent: Vec<_> = fleet.log.iter().rev().take(2).map(|wire| wire.bytes.len()).collect();
        assert_eq!(sent, [data, data]);
    }
}
