//! Datagrams that arrive: junk, real ones that were altered, and whatever a
//! member that has the keys can seal.
//!
//! An input is a script. Node 0 is under test, node 1 a member that
//! misbehaves, node 2 another member.

use epsilon_proto::address::DEFAULT_MTU;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use boringtun::noise::{Tunn, TunnResult};
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use epsilon_mesh::shard::{
    Command, MAX_DATAGRAM, Output, Path, ProbeKeys, Relaying, Report, Shard, Target, probe_keys,
};
use epsilon_proto::clock::Instant;
use epsilon_proto::datagram::{BEACON, Channel, PROBE, RELAYED_DATA};
use epsilon_proto::id::{BootId, NetworkId, NodeId};
use hkdf::Hkdf;
use sha2::Sha256;

use crate::packets::{self, ClearAll as _, INNER, UNDERLAY, admit, packet, path};
use crate::samples;
use crate::script::{self, Script};

const NETWORK: NetworkId = NetworkId([9; 32]);
const BOOTS: [BootId; 2] = [BootId([1; 16]), BootId([2; 16])];

fn node(number: usize) -> NodeId {
    packets::identity(number).0
}

/// What is dear to compute and the same in every run.
struct Keys {
    /// The shard's, for probes to and from the member.
    own: ProbeKeys,
    /// The member's, to seal with.
    member: [u8; 32],
}

thread_local! {
    static KEYS: Keys = Keys {
        own: probe_keys(&samples::key(1), node(1), NETWORK, (BOOTS[0], BOOTS[1])).unwrap(),
        member: probe_key(),
    };
}

/// The key with which the member seals probes, by the words of the protocol.
fn probe_key() -> [u8; 32] {
    let secret = x25519_dalek::StaticSecret::from(*samples::key(2).agreement_secret());
    let public = samples::key(1).public().agreement().unwrap().0;
    let shared = secret.diffie_hellman(&x25519_dalek::PublicKey::from(public));
    let mut key = [0; 32];
    let parts = [
        b"epsilon/1/probe/".to_vec(),
        NETWORK.0.to_vec(),
        node(1).0.to_vec(),
        node(0).0.to_vec(),
        BOOTS[1].0.to_vec(),
        BOOTS[0].0.to_vec(),
    ];
    Hkdf::<Sha256>::new(None, shared.as_bytes()).expand(&parts.concat(), &mut key).unwrap();
    key
}

fn written(result: &TunnResult<'_>) -> Vec<u8> {
    match result {
        TunnResult::WriteToNetwork(bytes) => bytes.to_vec(),
        _ => Vec::new(),
    }
}

struct Scene {
    shard: Shard,
    out: Output,
    now: Instant,
    /// Another implementation of WireGuard.
    member: Tunn,
    probe: ChaCha20Poly1305,
    /// By which probes of the member are known.
    index: u32,
    counter: u64,
    /// The ECN bits of what is delivered.
    mark: u8,
    /// The channel on which it comes, if it does.
    channel: Option<Channel>,
    /// What the member sent, to be sent again with changes.
    sent: Vec<Vec<u8>>,
    /// What the shard sent last.
    answer: Vec<u8>,
    /// Where the shard may send to besides the source of a datagram.
    paths: [Option<SocketAddr>; 2],
    /// Where the member was, and may be sent to, since it is a device.
    heard: Option<BTreeSet<SocketAddr>>,
}

impl Scene {
    fn new() -> Self {
        let secret = boringtun::x25519::StaticSecret::from(*samples::key(2).agreement_secret());
        let public = packets::identity(0).1.0.into();
        let mut scene = Self {
            shard: packets::shard(),
            out: Output::new(),
            now: Instant(Duration::from_secs(100)),
            member: Tunn::new(secret, public, None, None, 5, None),
            probe: ChaCha20Poly1305::new(&KEYS.with(|keys| keys.member).into()),
            index: 0,
            counter: 0,
            mark: 0,
            channel: None,
            sent: Vec::new(),
            answer: Vec::new(),
            paths: [1, 2].map(|node| UNDERLAY[node].parse().ok()),
            heard: None,
        };
        let ends = [1, 2].map(|node| UNDERLAY[node].parse().unwrap());
        scene.command(Command::SetRelaying(Relaying { each: 1 << 20, all: 1 << 20 }));
        scene.command(Command::SetChannel { channel: Channel::new(0), ends });
        let keys = KEYS.with(|keys| keys.own.clone());
        scene.index = keys.local_index;
        scene.command(Command::SetProbeKeys { node: node(1), keys });
        scene
    }

    fn command(&mut self, command: Command) {
        self.shard.handle_command(command, self.now, &mut self.out);
        self.look(None);
    }

    fn deliver(&mut self, from: SocketAddr, datagram: &[u8]) {
        let mut datagram = datagram[..datagram.len().min(MAX_DATAGRAM)].to_vec();
        if let Some(channel) = self.channel {
            channel.mark(&mut datagram);
        }
        if let Some(heard) = &mut self.heard {
            heard.insert(from);
        }
        self.shard.handle_datagram(from, self.mark, &datagram, self.now, &mut self.out);
        self.look(Some((from, &datagram)));
    }

    /// What must hold after every step.
    fn look(&mut self, cause: Option<(SocketAddr, &[u8])>) {
        let ends: [SocketAddr; 2] = [1, 2].map(|node| UNDERLAY[node].parse().unwrap());
        for (Target { path, .. }, bytes) in self.out.network.iter() {
            let to = path.address();
            let is_path = self.paths.contains(&Some(to));
            let is_answer =
                cause.is_some_and(|(from, datagram)| to == from && bytes.len() <= datagram.len());
            let is_passed_on = cause.is_some_and(|(from, datagram)| {
                from != to && ends.contains(&from) && ends.contains(&to) && bytes == datagram
            });
            let was_there = self.heard.as_ref().is_some_and(|heard| heard.contains(&to));
            assert!(
                is_path || is_answer || was_there || is_passed_on,
                "{} bytes to {to} for {cause:?}",
                bytes.len()
            );
            self.answer = bytes.to_vec();
        }
        for ((), packet) in self.out.host.iter() {
            let (source, destination) = packets::addresses(packet);
            let is_of = |node: usize, address: std::net::IpAddr| {
                INNER[node].iter().any(|text| text.parse() == Ok(address))
            };
            // To the host only from the member, or an error about its own.
            let is_from_member = is_of(1, source) && is_of(0, destination);
            assert!(is_from_member || cause.is_none(), "{source} to {destination}");
        }
        self.out.clear_all();
        while let Some(report) = self.shard.poll_report() {
            if let Report::ProbeAnswered { to, .. } = report {
                assert_eq!(cause.map(|(from, _)| from), Some(to.address()));
            }
        }
    }

    fn handshake(&mut self, from: SocketAddr) {
        let mut buffer = vec![0; 2048];
        let initiation = written(&self.member.format_handshake_initiation(&mut buffer, true));
        self.answer.clear();
        self.send(from, initiation);
        let answer = std::mem::take(&mut self.answer);
        if answer.first() == Some(&2) {
            let keepalive =
                written(&self.member.decapsulate(Some(from.ip()), &answer, &mut buffer));
            self.send(from, keepalive);
        }
    }

    fn send(&mut self, from: SocketAddr, datagram: Vec<u8>) {
        self.deliver(from, &datagram);
        self.sent.push(datagram);
    }

    fn seal_packet(&mut self, packet: &[u8]) -> Vec<u8> {
        let mut buffer = vec![0; packet.len() + 256];
        // Without keys it would queue the packet and begin a handshake.
        if self.member.time_since_last_handshake().is_none() {
            return Vec::new();
        }
        written(&self.member.encapsulate(packet, &mut buffer))
    }

    fn seal_probe(&self, counter: u64, content: &[u8]) -> Vec<u8> {
        let header =
            [&[PROBE, 0, 0, 0][..], &self.index.to_le_bytes(), &counter.to_le_bytes()].concat();
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&counter.to_le_bytes());
        let payload = Payload { msg: content, aad: &header };
        let sealed = self.probe.encrypt(&Nonce::from(nonce), payload).unwrap();
        [header, sealed].concat()
    }

    fn step(&mut self, script: &mut Script<'_>) -> Option<()> {
        let operation = script.byte()?;
        let source = script.byte()?;
        self.mark = source >> 6;
        // The first one is the shard's own to pass on.
        self.channel = (source & 0x20 != 0).then(|| Channel::new(u32::from(source & 0x10)));
        let from = match source & 3 {
            near @ 0..=2 => UNDERLAY[usize::from(near)].parse().unwrap(),
            _ => SocketAddr::from(([198, 51, 100, source], 9)),
        };
        match operation % 12 {
            0 => self.send(from, script.bytes()?.to_vec()),
            1 => self.handshake(from),
            2 => {
                let bytes = script.bytes()?;
                let is_lying = source & 4 != 0;
                let packet = if is_lying { bytes.to_vec() } else { packets::with_lengths(bytes) };
                let datagram = self.seal_packet(&packet);
                self.send(from, datagram);
            }
            3 => {
                let datagram = self.seal_probe(self.counter, script.bytes()?);
                self.counter += 1;
                self.send(from, datagram);
            }
            4 => {
                let counter = u64::MAX - u64::from(script.byte()?);
                let datagram = self.seal_probe(counter, script.bytes()?);
                self.send(from, datagram);
            }
            5 => {
                let which = usize::from(script.byte()?);
                let Some(mut datagram) = self.sent.get(which % self.sent.len().max(1)).cloned()
                else {
                    return Some(());
                };
                let at = usize::from(script.byte()?) % datagram.len().max(1);
                let mask = script.byte()?;
                if let Some(byte) = datagram.get_mut(at) {
                    *byte ^= mask;
                }
                self.deliver(from, &datagram);
            }
            6 => {
                self.now = self.now + Duration::from_millis(u64::from(source) * 100);
                self.shard.handle_timeout(self.now, &mut self.out);
                self.look(None);
            }
            7 => {
                let is_cut = source & 4 != 0;
                let member = 1 + usize::from(source & 1);
                let path = path(member).filter(|_| !is_cut);
                self.paths[member - 1] = path.map(Path::address);
                let mtu = if source & 8 != 0 { 512 } else { DEFAULT_MTU };
                self.command(Command::SetPath { node: node(member), path, mtu });
            }
            8 => self.command(Command::ResetSession { node: node(1) }),
            9 => {
                let key = packets::identity(1).1;
                self.paths[0] = None;
                self.command(Command::RemovePeer { node: node(1) });
                self.command(Command::RemoveDevice { key });
                self.heard = (source & 4 != 0).then(BTreeSet::new);
                self.command(if self.heard.is_some() {
                    Command::SetDevice { key, prefixes: packets::prefixes(1) }
                } else {
                    admit(1)
                });
            }
            10 => {
                let to = path(1)?;
                self.paths[0] = Some(to.address());
                let transaction = u64::from(source);
                self.command(Command::SendProbe { node: node(1), to, size: None, transaction });
            }
            _ => {
                let packet = packets::with_lengths(script.bytes()?);
                self.shard.handle_packet(&packet, self.now, &mut self.out);
                self.look(None);
            }
        }
        Some(())
    }
}

/// Junk, replays, and authentic nonsense.
pub fn datagrams(input: &[u8]) {
    let mut scene = Scene::new();
    let mut script = Script(input);
    // Long scripts find nothing that short ones do not.
    for _ in 0..24 {
        if scene.step(&mut script).is_none() {
            break;
        }
    }
    assert!(scene.shard.stats(scene.now).peers.len() == 3);
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let step = |operation: u8, source: u8, bytes: &[u8]| {
        [vec![operation, source], script::bytes(bytes)].concat()
    };
    let request = [&[1; 24][..], &5u64.to_le_bytes()].concat();
    let mut answer = vec![0; 32];
    answer[0] = 2;
    answer[24] = 9;
    let junk = [1, 2, 3, 4, PROBE, RELAYED_DATA, BEACON].map(|kind| step(0, 3, &[kind; 148]));
    vec![
        junk.concat(),
        // A session, packets both ways, a replay, an altered replay.
        [
            vec![1, 1],
            step(2, 1, &packet(1, 0, 0, b"hello")),
            step(2, 3, &packet(1, 0, 1, b"hello")),
            step(2, 1, &packet(2, 0, 0, b"trust me")),
            step(11, 0, &packet(0, 1, 0, b"and to you")),
            vec![5, 1, 1, 0, 0],
            vec![5, 1, 0, 20, 1],
            vec![6, 255],
        ]
        .concat(),
        // Waiting packets, a path, a handshake of the other side.
        [
            vec![7, 4],
            step(11, 0, &packet(0, 1, 0, b"wait")),
            vec![7, 0],
            vec![1, 1],
            vec![8, 0],
            vec![9, 0],
            vec![1, 1],
        ]
        .concat(),
        // The member as a device, which moves, and reaches the other member.
        [
            vec![9, 4],
            vec![1, 1],
            step(2, 3, &packet(1, 0, 0, b"hello")),
            step(2, 2, &packet(1, 2, 1, b"hello, other")),
            step(11, 0, &packet(0, 1, 0, b"and to you")),
            vec![5, 3, 2, 0, 0],
        ]
        .concat(),
        // Over a relay, and to be passed on.
        [
            vec![1, 0x31],
            step(2, 0x31, &packet(1, 0, 0, b"hello")),
            step(11, 0, &packet(0, 1, 0, b"and to you")),
            step(3, 0x31, &request),
            step(0, 0x21, &[4; 148]),
            step(0, 0x22, &[4; 148]),
            step(0, 0x20, &[4; 148]),
        ]
        .concat(),
        [
            step(3, 1, &request),
            step(3, 3, &[&request[..], &[0; 200]].concat()),
            vec![10, 9],
            step(3, 1, &answer),
            [vec![4, 1, 0], script::bytes(&request)].concat(),
        ]
        .concat(),
    ]
}
