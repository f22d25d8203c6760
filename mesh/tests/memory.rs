//! What a thousand peers cost in memory, and that packets cost none.
#![allow(clippy::unwrap_used)]

use epsilon_proto::address::DEFAULT_MTU;
use std::alloc::System;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cap::Cap;
use epsilon_mesh::shard::offload::Coalescer;
use epsilon_mesh::shard::{
    AdmitAll, Command, Config, Lane, Output, Path, Prefix, Shard, Target, WireGuard,
};
use epsilon_proto::clock::Instant;
use epsilon_proto::key::SecretKey;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

const PEERS: u32 = 1000;
const ACTIVE: u32 = 50;

fn key(number: u32) -> SecretKey {
    let mut seed = [7; 32];
    seed[..4].copy_from_slice(&number.to_be_bytes());
    SecretKey::from_seed(&seed)
}

fn inner(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a4d_0100 + number)
}

fn outer(number: u32) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from_bits(0xc612_0000 + number), 7755))
}

fn packet(from: u32, to: u32, length: usize) -> Vec<u8> {
    let mut packet = vec![0; length];
    packet[..4].copy_from_slice(&[0x45, 0, (length >> 8) as u8, length as u8]);
    packet[8..10].copy_from_slice(&[64, 253]);
    packet[12..16].copy_from_slice(&inner(from).octets());
    packet[16..20].copy_from_slice(&inner(to).octets());
    packet
}

fn shard(number: u32) -> Shard {
    let drawn = AtomicU64::new(u64::from(number) << 32);
    let entropy = Arc::new(move |into: &mut [u8]| {
        let drawn = drawn.fetch_add(1, Ordering::Relaxed).to_le_bytes();
        blake3::Hasher::new().update(&drawn).finalize_xof().fill(into);
        true
    });
    let wireguard = WireGuard::new(&key(number), entropy, Duration::from_hours(500_000));
    let mut shard =
        Shard::new(Config { lane: Lane::ONLY, wireguard, filter: Box::new(AdmitAll), seed: 3 });
    let addresses = vec![Prefix::host(inner(number))];
    command(&mut shard, Command::SetOwn { addresses, reserved: Vec::new(), mesh: Vec::new() });
    shard
}

fn command(shard: &mut Shard, command: Command) {
    shard.handle_command(command, Instant::default(), &mut Output::new());
}

/// A peer as the daemon sets one up: its address of each family, and a path.
fn admit(shard: &mut Shard, number: u32) {
    let key = key(number).public();
    let node = key.into();
    let v6 = IpAddr::V6(inner(number).to_ipv6_mapped());
    let prefixes = vec![Prefix::host(inner(number)), Prefix::host(v6)];
    command(shard, Command::SetPeer { node, key: key.agreement().unwrap(), prefixes });
    command(
        shard,
        Command::SetPath { node, path: Some(Path::Direct(outer(number))), mtu: DEFAULT_MTU },
    );
}

/// Carries a packet from one shard to the other and everything it brings about.
fn carry(shards: [&mut Shard; 2], numbers: [u32; 2], packet: &[u8], out: &mut Output) {
    // Slowly enough that nobody has to prove its address.
    let now = Instant(Duration::from_millis(100) * (numbers[0] + numbers[1]));
    let [one, other] = shards;
    one.handle_packet(packet, now, out);
    let mut to_other = true;
    loop {
        let wires: Vec<(Target, Vec<u8>)> =
            out.network.iter().map(|(target, bytes)| (*target, bytes.to_vec())).collect();
        out.network.clear();
        out.host.clear();
        if wires.is_empty() {
            return;
        }
        for (target, bytes) in wires {
            let (to, from) =
                if to_other { (&mut *other, numbers[0]) } else { (&mut *one, numbers[1]) };
            to.handle_datagram(outer(from), target.ecn, &bytes, now, out);
        }
        to_other = !to_other;
    }
}

/// One after the other: they look at the one allocator.
#[test]
fn a_packet_costs_no_memory_and_a_thousand_peers_little() {
    no_packet_costs_an_allocation();
    a_thousand_peers_fit_in_little_memory();
}

fn no_packet_costs_an_allocation() {
    let (mut one, mut other) = (shard(1), shard(2));
    admit(&mut one, 2);
    admit(&mut other, 1);
    let mut out = Output::new();
    let packet = packet(1, 2, 1000);
    carry([&mut one, &mut other], [1, 2], &packet, &mut out);
    let now = Instant(Duration::from_secs(1));
    let mut coalescer = Coalescer::default();
    let mut wires = vec![vec![0; 2000]; 64];
    let mut round = |delivered: &mut usize| {
        for _ in 0..wires.len() {
            one.handle_packet(&packet, now, &mut out);
        }
        let mut count = 0;
        for ((_, bytes), wire) in out.network.iter().zip(&mut wires) {
            wire[..bytes.len()].copy_from_slice(bytes);
            count = bytes.len();
        }
        out.network.clear();
        for wire in &wires {
            other.handle_datagram(outer(1), 0, &wire[..count], now, &mut out);
        }
        *delivered += coalescer.coalesce(&mut out.host).count();
        out.host.clear();
        out.network.clear();
    };
    let mut delivered = 0;
    // Buffers grow to what they stay at.
    round(&mut delivered);
    // The test harness has a thread of its own, which needs some as it begins.
    let costs = [(); 3].map(|()| {
        let before = ALLOCATOR.total_allocated();
        for _ in 0..100 {
            round(&mut delivered);
        }
        ALLOCATOR.total_allocated() - before
    });
    assert!(costs.contains(&0), "{costs:?}");
    assert_eq!(delivered, 301 * 64);
}

fn a_thousand_peers_fit_in_little_memory() {
    let mut hub = shard(0);
    let mut out = Output::new();
    let before = ALLOCATOR.allocated();
    for number in 1..=PEERS {
        admit(&mut hub, number);
    }
    let inactive = (ALLOCATOR.allocated() - before) / PEERS as usize;
    assert!(inactive <= 15_000, "{inactive} bytes for an inactive peer");

    let mut others: Vec<Shard> = (1..=ACTIVE).map(shard).collect();
    for other in &mut others {
        admit(other, 0);
    }
    let mut active = 0;
    for (number, other) in (1..).zip(&mut others) {
        let packet = packet(0, number, 1000);
        let before = ALLOCATOR.allocated();
        // The other one forgets everything again and again, so that the hub has
        // keys of several handshakes.
        for _ in 0..4 {
            carry([&mut hub, &mut *other], [0, number], &packet, &mut out);
            command(other, Command::RemovePeer { node: key(0).node() });
            admit(other, 0);
            carry([&mut *other, &mut hub], [number, 0], &self::packet(number, 0, 1000), &mut out);
        }
        command(other, Command::RemovePeer { node: key(0).node() });
        active = active.max(ALLOCATOR.allocated() - before);
    }
    println!("{inactive} bytes for an inactive peer, {active} more for an active one");
    assert!(inactive + active <= 60_000, "{active} bytes more for an active peer");
    let stats = hub.stats(Instant(Duration::from_millis(100) * ACTIVE));
    let ready = stats.peers.iter().filter(|peer| peer.ready).count();
    assert_eq!((stats.peers.len(), ready), (PEERS as usize, ACTIVE as usize));
}
