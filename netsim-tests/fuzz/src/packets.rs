//! Packets that the host's programs send into the mesh.

use epsilon_proto::address::DEFAULT_MTU;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use epsilon_mesh::shard::{
    AdmitAll, Command, Config, Lane, Output, Path, Prefix, Shard, WireGuard,
};
use epsilon_proto::clock::Instant;
use epsilon_proto::id::NodeId;
use epsilon_proto::key::AgreementKey;

use crate::samples;
use crate::script::{self, Script};

/// The addresses of three nodes; 0 is the one under test.
pub(crate) const INNER: [[&str; 2]; 3] =
    [["10.77.1.1", "fd00::1:1"], ["10.77.1.2", "fd00::1:2"], ["10.77.1.3", "fd00::1:3"]];
pub(crate) const UNDERLAY: [&str; 3] = ["192.0.2.1:7755", "192.0.2.2:7755", "[2001:db8::3]:7755"];

pub(crate) fn prefixes(node: usize) -> Vec<Prefix> {
    INNER[node].iter().filter_map(|text| text.parse::<IpAddr>().ok()).map(Prefix::host).collect()
}

thread_local! {
    static IDENTITIES: [(NodeId, AgreementKey); 3] = [1, 2, 3].map(|seed| {
        let key = samples::key(seed).public();
        (key.into(), key.agreement().expect("an honest key"))
    });
}

/// Who a node is.
pub(crate) fn identity(node: usize) -> (NodeId, AgreementKey) {
    IDENTITIES.with(|identities| identities[node])
}

pub(crate) fn admit(node: usize) -> Command {
    let (id, key) = identity(node);
    Command::SetPeer { node: id, key, prefixes: prefixes(node) }
}

pub(crate) fn path(node: usize) -> Option<Path> {
    UNDERLAY[node].parse().ok().map(Path::Direct)
}

/// The addresses of a device that the node under test serves.
pub(crate) const DEVICE: [&str; 2] = ["10.77.1.4", "fd00::1:4"];

/// A shard with two members, each with a path, and a device.
pub(crate) fn shard() -> Shard {
    // The same in every run; the other side's ephemeral keys are not.
    let drawn = AtomicU64::new(0);
    let entropy = Arc::new(move |into: &mut [u8]| {
        let drawn = drawn.fetch_add(1, Ordering::Relaxed).to_le_bytes();
        blake3::Hasher::new().update(&drawn).finalize_xof().fill(into);
        true
    });
    let wireguard = WireGuard::new(&samples::key(1), entropy, Duration::from_hours(500_000));
    let mut shard =
        Shard::new(Config { lane: Lane::ONLY, wireguard, filter: Box::new(AdmitAll), seed: 7 });
    let (now, mut out) = (Instant::default(), Output::new());
    let reserved =
        ["10.77.0.53", "fd00::53"].map(|text| Prefix::host(text.parse::<IpAddr>().unwrap()));
    let own =
        Command::SetOwn { addresses: prefixes(0), reserved: reserved.to_vec(), mesh: Vec::new() };
    shard.handle_command(own, now, &mut out);
    for node in [1, 2] {
        shard.handle_command(admit(node), now, &mut out);
        // One of the ways is narrow.
        let mtu = if node == 1 { DEFAULT_MTU } else { 512 };
        let command = Command::SetPath { node: identity(node).0, path: path(node), mtu };
        shard.handle_command(command, now, &mut out);
    }
    let prefixes = DEVICE.map(|text| Prefix::host(text.parse::<IpAddr>().unwrap())).to_vec();
    let key = AgreementKey::of_secret(&[4; 32]);
    shard.handle_command(Command::SetDevice { key, prefixes }, now, &mut out);
    assert!(out.is_empty());
    shard
}

/// An IP packet whose lengths agree, from bytes that may be none.
pub(crate) fn with_lengths(bytes: &[u8]) -> Vec<u8> {
    let mut packet = bytes.to_vec();
    let length = bytes.len() as u16;
    match bytes.first().map(|first| first >> 4) {
        Some(4) if bytes.len() >= 20 => packet[2..4].copy_from_slice(&length.to_be_bytes()),
        Some(6) if bytes.len() >= 40 => packet[4..6].copy_from_slice(&(length - 40).to_be_bytes()),
        _ => {}
    }
    packet
}

/// An IP packet from one node to another.
pub(crate) fn packet(from: usize, to: usize, family: usize, payload: &[u8]) -> Vec<u8> {
    let address = |node: usize| INNER[node][family].parse::<IpAddr>().unwrap();
    let mut packet = match family {
        0 => vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0],
        _ => vec![0x60, 0, 0, 0, 0, 0, 17, 64],
    };
    for address in [address(from), address(to)] {
        match address {
            IpAddr::V4(address) => packet.extend(address.octets()),
            IpAddr::V6(address) => packet.extend(address.octets()),
        }
    }
    packet.extend(payload);
    with_lengths(&packet)
}

/// What reaches the host must be one whole packet: gives back its source and
/// destination.
pub(crate) fn addresses(packet: &[u8]) -> (IpAddr, IpAddr) {
    let octets = |at: usize| <[u8; 4]>::try_from(&packet[at..at + 4]).unwrap();
    let long = |at: usize| <[u8; 16]>::try_from(&packet[at..at + 16]).unwrap();
    match packet[0] >> 4 {
        4 => {
            assert_eq!(packet.len(), usize::from(u16::from_be_bytes([packet[2], packet[3]])));
            (octets(12).into(), octets(16).into())
        }
        6 => {
            assert_eq!(packet.len(), 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]])));
            (long(8).into(), long(24).into())
        }
        other => panic!("version {other} reached the host"),
    }
}

/// Some packets after another; every second input byte-exact, the others with
/// lengths that agree.
pub fn packets(input: &[u8]) {
    let mut shard = shard();
    let mut out = Output::new();
    let mut script = Script(input);
    let mut now = Instant::default();
    while let (Some(shape), Some(bytes)) = (script.byte(), script.bytes()) {
        let packet = if shape & 1 == 0 { with_lengths(bytes) } else { bytes.to_vec() };
        now = now + std::time::Duration::from_millis(u64::from(shape >> 1) * 8);
        shard.handle_timeout(now, &mut out);
        out.clear_all();
        shard.handle_packet(&packet, now, &mut out);
        for ((), error) in out.host.iter() {
            // It is about this packet, to whom sent it.
            let (source, destination) = addresses(error);
            assert_eq!((destination, source), addresses(&packet));
            assert!(error.len() <= 1280 && error.len() <= packet.len() + 48);
        }
        out.clear_all();
        while shard.poll_report().is_some() {}
    }
}

/// Empties the batches.
pub(crate) trait ClearAll {
    fn clear_all(&mut self);
}

impl ClearAll for Output {
    fn clear_all(&mut self) {
        self.network.clear();
        self.host.clear();
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let to_nobody = |family: usize| {
        let mut packet = packet(0, 1, family, b"is anybody there?");
        let last = if family == 0 { 19 } else { 39 };
        packet[last] = 99;
        packet
    };
    let step = |packet: &[u8]| [vec![2], script::bytes(packet)].concat();
    vec![
        [step(&packet(0, 1, 0, b"hello")), step(&packet(0, 2, 1, b"hello"))].concat(),
        [step(&to_nobody(0)), step(&to_nobody(1))].concat(),
    ]
}
