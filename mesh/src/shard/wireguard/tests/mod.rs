//! Two tunnels with a network of the tests' own between them, and boringtun as
//! an implementation that others wrote.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};

mod guard;

use super::*;
use crate::shard::lane::Lane;
use crate::shard::tests::{entropy, packet};

const ADDRESSES: [&str; 2] = ["192.0.2.1:7755", "192.0.2.2:7755"];
const INNER: [&str; 2] = ["10.77.1.1", "10.77.1.2"];

fn address(side: usize) -> SocketAddr {
    ADDRESSES[side].parse().unwrap()
}

fn secret(side: usize) -> SecretKey {
    SecretKey::from_seed(&[side as u8 + 1; 32])
}

fn agreement(side: usize) -> AgreementKey {
    secret(side).public().agreement().unwrap()
}

fn engine(side: usize) -> WireGuard {
    WireGuard::new(&secret(side), entropy(), Duration::from_hours(500_000))
}

/// One end.
struct Side {
    engine: WireGuard,
    tunnel: Tunnel,
    /// How far its clock is ahead.
    ahead: Duration,
    /// What waits for keys.
    waiting: Vec<Vec<u8>>,
    /// Numbers of the packets that arrived, and when.
    arrived: Vec<(u64, Instant)>,
    /// When each handshake was completed by an answer.
    completed: Vec<Instant>,
    /// The first packet since something was last sent.
    unreturned: Option<Instant>,
}

/// A datagram on its way to a side.
type Wire = (usize, Vec<u8>);

/// Two ends and what is on its way between them.
struct Link {
    sides: [Side; 2],
    now: Instant,
    delay: Duration,
    /// Of a thousand datagrams so many are lost.
    loss: u64,
    random: u64,
    on_the_way: BTreeMap<(Instant, u64), Wire>,
    count: u64,
    /// When a first message of a handshake was sent, lost ones included.
    begun: Vec<Instant>,
}

fn number(packet: &[u8]) -> u64 {
    u64::from_be_bytes(packet[20..28].try_into().unwrap())
}

impl Link {
    fn new(delay: Duration, loss: u64) -> Self {
        let side = |own: usize| Side {
            engine: engine(own),
            tunnel: Tunnel::new(agreement(1 - own), Indices::new(own as u64, Lane::ONLY), own + 7),
            ahead: Duration::ZERO,
            waiting: Vec::new(),
            arrived: Vec::new(),
            completed: Vec::new(),
            unreturned: None,
        };
        Self {
            sides: [side(0), side(1)],
            now: Instant(Duration::from_secs(1000)),
            delay,
            loss,
            random: 1,
            on_the_way: BTreeMap::new(),
            count: 0,
            begun: Vec::new(),
        }
    }

    fn clock(&self, side: usize) -> Instant {
        self.now + self.sides[side].ahead
    }

    fn post(&mut self, from: usize, bytes: Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        self.sides[from].unreturned = None;
        if bytes[0] == 1 {
            self.begun.push(self.now);
        }
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        if (self.random >> 33) % 1000 >= self.loss {
            self.count += 1;
            self.on_the_way.insert((self.now + self.delay, self.count), (1 - from, bytes));
        }
    }

    /// A side has a packet to send.
    fn send(&mut self, side: usize, number: u64) {
        let packet = packet(INNER[side], INNER[1 - side], &number.to_be_bytes());
        let now = self.clock(side);
        let end = &mut self.sides[side];
        let mut out = vec![0; HANDSHAKE_LENGTH];
        let length = if end.tunnel.is_ready(now) {
            end.tunnel.seal(&packet, now, &mut out)
        } else {
            end.waiting.push(packet);
            end.tunnel.initiate(false, &mut end.engine, now, &mut out)
        };
        out.truncate(length);
        self.post(side, out);
    }

    fn arrive(&mut self, side: usize, bytes: &[u8]) {
        let now = self.clock(side);
        let from = address(1 - side);
        let end = &mut self.sides[side];
        let mut out = vec![0; bytes.len().max(HANDSHAKE_LENGTH)];
        let length = match bytes[0] {
            1 => match end.engine.initiator(from, bytes, now, &mut out) {
                Initiator::Key(key, opened, sender) => {
                    assert_eq!(key, agreement(1 - side));
                    end.tunnel.answer(*opened, sender, &end.engine, now, &mut out).length()
                }
                Initiator::Challenged(length) => length,
                Initiator::Unknown => panic!("the key is known"),
            },
            4 => {
                if end.tunnel.open(bytes, now, &mut out).is_some_and(|length| length > 0) {
                    end.unreturned.get_or_insert(self.now);
                    end.arrived.push((number(&out), self.now));
                }
                0
            }
            _ => {
                let outcome = end.engine.reply(&mut end.tunnel, from, bytes, now, &mut out);
                if let Handshake::Completed(_) = outcome {
                    end.completed.push(self.now);
                }
                outcome.length()
            }
        };
        out.truncate(length);
        self.post(side, out);
        self.flush(side);
    }

    fn flush(&mut self, side: usize) {
        let now = self.clock(side);
        while self.sides[side].tunnel.is_ready(now) && !self.sides[side].waiting.is_empty() {
            let packet = self.sides[side].waiting.remove(0);
            let mut out = vec![0; HANDSHAKE_LENGTH];
            let length = self.sides[side].tunnel.seal(&packet, now, &mut out);
            out.truncate(length);
            self.post(side, out);
        }
    }

    /// Lets time pass until then; each side answers silence by a keepalive, as
    /// the peer around a tunnel does.
    fn run(&mut self, until: Instant) {
        loop {
            let arrival = self.on_the_way.keys().next().map(|(at, _)| *at);
            let timers = [0, 1].map(|side| {
                let ahead = self.sides[side].ahead;
                let due = self.sides[side].tunnel.poll_timeout();
                due.map(|due| Instant(due.0.saturating_sub(ahead)).max(self.now))
            });
            let keepalives =
                [0, 1].map(|side| Some(self.sides[side].unreturned? + KEEPALIVE_TIMEOUT));
            let next = timers.into_iter().chain(keepalives).chain([arrival]).flatten().min();
            let Some(next) = next.filter(|next| *next <= until) else { break };
            self.now = next.max(self.now);
            if arrival == Some(next)
                && let Some((_, (to, bytes))) = self.on_the_way.pop_first()
            {
                self.arrive(to, &bytes);
                continue;
            }
            for side in 0..2 {
                let now = self.clock(side);
                let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= self.now);
                let (timer, keepalive) = (is_due(timers[side]), is_due(keepalives[side]));
                let end = &mut self.sides[side];
                let mut out = vec![0; HANDSHAKE_LENGTH];
                let length = if timer {
                    end.tunnel.handle_timeout(&mut end.engine, now, &mut out)
                } else if keepalive {
                    end.unreturned = None;
                    end.tunnel.seal(&[], now, &mut out)
                } else {
                    0
                };
                out.truncate(length);
                self.post(side, out);
            }
        }
        self.now = until;
    }

    fn pass(&mut self, time: Duration) {
        self.run(self.now + time);
    }

    /// A side sends a packet every so often.
    fn stream(&mut self, side: usize, count: u64, every: Duration) {
        for number in 0..count {
            self.send(side, number);
            self.pass(every);
        }
    }

    fn numbers(&self, side: usize) -> Vec<u64> {
        self.sides[side].arrived.iter().map(|(number, _)| *number).collect()
    }
}

#[test]
fn a_flow_one_way_for_hours_loses_nothing_whoever_began() {
    for (first, sender) in [(0, 0), (1, 0)] {
        let mut link = Link::new(Duration::from_millis(30), 0);
        link.send(first, u64::MAX);
        link.pass(Duration::from_secs(1));
        link.sides.iter_mut().for_each(|side| side.arrived.clear());
        link.stream(sender, 36_000, Duration::from_millis(200));
        link.pass(Duration::from_secs(1));
        assert!(link.numbers(1 - sender) == (0..36_000).collect::<Vec<_>>(), "from {first}");
        let rekeys: usize = link.sides.iter().map(|side| side.completed.len()).sum();
        assert!((40..=62).contains(&rekeys), "{rekeys} handshakes in two hours");
    }
}

#[test]
fn both_sides_that_begin_at_once_are_heard_at_once_and_for_hours() {
    let mut link = Link::new(Duration::from_millis(50), 0);
    for side in 0..2 {
        link.send(side, 0);
    }
    link.pass(Duration::from_millis(200));
    for side in 0..2 {
        assert_eq!(link.numbers(side), [0], "to {side}");
    }
    for number in 1..=18_000 {
        for side in 0..2 {
            link.send(side, number);
        }
        link.pass(Duration::from_millis(400));
    }
    for side in 0..2 {
        assert!(link.numbers(side) == (0..=18_000).collect::<Vec<_>>(), "to {side}");
    }
}

#[test]
fn a_network_that_loses_a_third_never_leaves_a_tunnel_deaf() {
    for seed in 1..=10 {
        let mut link = Link::new(Duration::from_millis(20), 333);
        link.random = seed;
        link.stream(0, 6_000, Duration::from_millis(200));
        link.pass(Duration::from_secs(30));
        let arrived = &link.sides[1].arrived;
        let share = arrived.len() * 1000 / 6_000;
        assert!((600..=720).contains(&share), "seed {seed}: {share} of 1000 arrived");
        let gap = arrived.windows(2).map(|pair| pair[1].1.since(pair[0].1)).max().unwrap();
        assert!(gap < Duration::from_secs(12), "seed {seed}: nothing for {gap:?}");
    }
}

#[test]
fn after_a_suspend_of_either_side_the_first_packet_arrives() {
    for asleep in 0..2 {
        for minutes in [1, 4, 600] {
            let mut link = Link::new(Duration::from_millis(20), 0);
            link.stream(0, 10, Duration::from_millis(100));
            // Both have slept if the clock of neither tells less than the other.
            link.sides[asleep].ahead += Duration::from_mins(minutes);
            link.sides.iter_mut().for_each(|side| side.arrived.clear());
            link.send(asleep, 99);
            link.pass(Duration::from_secs(2));
            assert_eq!(link.numbers(1 - asleep), [99], "{asleep} slept {minutes} min");
            // The other way takes at most the time after which silence counts.
            link.stream(1 - asleep, 40, Duration::from_millis(500));
            assert_eq!(link.numbers(asleep).last(), Some(&39));
        }
    }
}

#[test]
fn a_handshake_that_nobody_answers_is_given_up_and_begun_anew_by_the_next_packet() {
    let mut link = Link::new(Duration::from_millis(20), 1000);
    link.send(0, 1);
    link.pass(Duration::from_mins(10));
    let since: Vec<Duration> = link.begun.iter().map(|at| at.since(link.begun[0])).collect();
    assert!((17..=20).contains(&since.len()), "{since:?}");
    assert!((1000..1340).contains(&since[1].as_millis()), "{since:?}");
    let gaps = since[1..].windows(2).map(|pair| pair[1].saturating_sub(pair[0]).as_millis());
    assert!(gaps.clone().all(|gap| (5000..5340).contains(&gap)), "{since:?}");
    assert!(since.last() < Some(&REKEY_ATTEMPT_TIME), "{since:?}");
    assert_eq!(link.sides[0].tunnel.poll_timeout(), None);
    link.loss = 0;
    link.send(0, 2);
    link.pass(Duration::from_secs(1));
    assert_eq!(link.numbers(1), [1, 2]);
}

#[test]
fn an_answer_that_comes_after_the_message_was_repeated_counts() {
    // Longer than the time after which the first message is repeated.
    let mut link = Link::new(Duration::from_millis(900), 0);
    link.send(0, 1);
    link.pass(Duration::from_millis(2_800));
    assert_eq!((link.begun.len(), link.numbers(1)), (2, vec![1]));
    // So does the answer to the other one, when it comes.
    link.stream(0, 20, Duration::from_millis(100));
    link.pass(Duration::from_secs(2));
    assert_eq!((link.begun.len(), link.sides[0].completed.len()), (2, 2));
    assert_eq!(link.numbers(1).len(), 21);
}

#[test]
fn a_peer_that_keeps_the_keys_of_the_last_message_alone_is_heard() {
    let mut link = Link::new(Duration::from_millis(900), 0);
    link.send(0, 1);
    // Both messages are with the peer, of whose answers one is still on its way.
    link.pass(Duration::from_millis(2_300));
    assert_eq!(link.begun.len(), 2);
    link.sides[1].tunnel.keys.truncate(1);
    link.sides[1].arrived.clear();
    link.stream(0, 30, Duration::from_millis(100));
    link.pass(Duration::from_secs(1));
    let numbers = link.numbers(1);
    assert_eq!(numbers.last(), Some(&29));
    // What was sealed with the first keys until the second answer came is lost.
    assert!(numbers.len() >= 20, "{numbers:?}");
}

#[test]
fn recordings_that_are_played_again_and_again_keep_nobody_out() {
    let mut link = Link::new(Duration::from_millis(50), 0);
    let mut recordings = Vec::new();
    for number in 0..8 {
        link.sides[0].tunnel.clear();
        link.send(0, number);
        recordings.extend(link.on_the_way.values().map(|(_, bytes)| bytes.clone()));
        link.pass(Duration::from_secs(1));
    }
    assert!(recordings.len() == 8 && recordings.iter().all(|bytes| bytes[0] == 1));
    // The other one was started again, and knows none of them.
    link.sides[1].tunnel = Tunnel::new(agreement(0), Indices::new(9, Lane::ONLY), 3);
    link.sides[1].arrived.clear();
    link.sides[0].tunnel.clear();
    for (count, recording) in recordings.iter().cycle().take(300).enumerate() {
        if count == 100 {
            link.send(0, 99);
        }
        link.arrive(1, recording);
        link.pass(Duration::from_millis(10));
    }
    assert_eq!(link.numbers(1), [99]);
}

#[test]
fn after_a_clock_was_set_back_handshakes_count_once_the_tunnel_is_cleared() {
    let mut link = Link::new(Duration::from_millis(20), 0);
    link.sides[0].ahead = Duration::from_hours(1);
    link.stream(0, 3, Duration::from_millis(100));
    // The daemon was started again, without its keys, and the hour is gone.
    link.sides[0].ahead = Duration::ZERO;
    link.sides[0].engine = engine(0);
    link.sides[0].tunnel = Tunnel::new(agreement(1), Indices::new(9, Lane::ONLY), 3);
    link.sides[1].arrived.clear();
    link.send(0, 50);
    link.pass(Duration::from_secs(20));
    assert!(link.numbers(1).is_empty(), "what is older than the newest is a recording");
    link.sides[1].tunnel.clear();
    link.pass(Duration::from_secs(10));
    assert_eq!(link.numbers(1), [50]);
}

#[test]
fn indices_of_one_tunnel_are_never_the_same_and_have_little_in_common() {
    let mut link = Link::new(Duration::from_millis(20), 0);
    let mut seen = std::collections::BTreeSet::new();
    for number in 0..100 {
        link.sides.iter_mut().for_each(|side| side.tunnel.clear());
        link.send(0, number);
        let (_, message) = link.on_the_way.values().next().unwrap().clone();
        seen.insert(message[5..8].to_vec());
        link.pass(Duration::from_secs(1));
    }
    assert_eq!(seen.len(), 100);
    assert!(
        seen.iter().map(|index| index[1]).collect::<std::collections::BTreeSet<_>>().len() > 50
    );
}

#[test]
fn keys_are_gone_after_three_minutes_and_an_idle_tunnel_asks_for_nothing() {
    let mut link = Link::new(Duration::from_millis(20), 0);
    link.stream(0, 3, Duration::from_millis(100));
    assert!(link.sides.iter().all(|side| side.tunnel.is_ready(link.now)));
    link.pass(Duration::from_secs(181));
    for side in &link.sides {
        assert!(side.tunnel.keys.is_empty() && side.tunnel.poll_timeout().is_none());
    }
    assert!(link.on_the_way.is_empty());
}

#[test]
fn counters_have_limits() {
    let mut link = Link::new(Duration::from_millis(20), 0);
    link.stream(0, 3, Duration::from_millis(100));
    let mut handshakes = link.sides[0].completed.len();
    for counter in [REKEY_AFTER_MESSAGES, REJECT_AFTER_MESSAGES - 1] {
        link.sides[0].tunnel.keys[0].counter = counter;
        link.send(0, 10);
        link.pass(Duration::from_secs(1));
        handshakes += 1;
        assert_eq!(link.sides[0].completed.len(), handshakes, "{counter}");
        assert_eq!(link.sides[0].tunnel.keys[0].counter, 1);
    }
    assert_eq!(link.numbers(1), [0, 1, 2, 10, 10]);
    let now = link.now;
    let tunnel = &mut link.sides[0].tunnel;
    tunnel.keys[0].counter = REJECT_AFTER_MESSAGES;
    assert!(!tunnel.is_ready(now));
    assert_eq!(tunnel.seal(&[], now, &mut [0; 200]), 0);
}

#[test]
fn repeated_messages_of_a_handshake_do_nothing() {
    let mut link = Link::new(Duration::from_millis(20), 0);
    link.send(0, 1);
    let (_, (_, initiation)) =
        link.on_the_way.first_key_value().map(|(k, v)| (*k, v.clone())).unwrap();
    link.pass(Duration::from_millis(25));
    let (_, (_, response)) =
        link.on_the_way.first_key_value().map(|(k, v)| (*k, v.clone())).unwrap();
    link.pass(Duration::from_secs(1));
    let keys = link.sides[1].tunnel.keys.len();
    for (side, message) in [(1, &initiation), (0, &response)] {
        link.arrive(side, message);
        assert!(link.on_the_way.is_empty(), "an answer to a repeated {}", message[0]);
    }
    assert_eq!(link.sides[1].tunnel.keys.len(), keys);
}

#[test]
fn a_forged_answer_does_not_spoil_the_real_one() {
    let mut link = Link::new(Duration::from_millis(20), 0);
    link.send(0, 1);
    link.pass(Duration::from_millis(25));
    let (_, response) = link.on_the_way.pop_first().unwrap().1;
    // The sender's index, 4 to 7, has no seal but the first, which everybody can
    // make who knows this node's key: so it is in the protocol.
    for byte in 8..RESPONSE_LENGTH - 32 {
        let mut forged = response.clone();
        forged[byte] ^= 1;
        // Whoever knows this node's key can make the first seal.
        mac::seal(&link.sides[0].engine.public.clone(), None, &mut forged).unwrap();
        link.arrive(0, &forged);
        assert!(link.sides[0].completed.is_empty(), "byte {byte}");
    }
    link.arrive(0, &response);
    assert_eq!(link.sides[0].completed.len(), 1);
}

#[test]
fn packets_are_padded_while_they_are_small() {
    let padded = |length| sealed_length(length) - OVERHEAD;
    let lengths = [0, 1, 16, 17, 1265, 1280, 1281, 1420].map(padded);
    assert_eq!(lengths, [0, 16, 16, 32, 1280, 1280, 1281, 1420]);
}

/// boringtun's end, with this node's key as its peer's.
fn other_end(limit: u64) -> Tunn {
    let own = boringtun::x25519::StaticSecret::from(*secret(1).agreement_secret());
    let public = boringtun::x25519::PublicKey::from(&own);
    let limiter = Arc::new(RateLimiter::new(&public, limit));
    Tunn::new(own, agreement(0).0.into(), None, None, 99, Some(limiter))
}

fn written(result: &TunnResult<'_>) -> Vec<u8> {
    match result {
        TunnResult::WriteToNetwork(bytes) | TunnResult::WriteToTunnelV4(bytes, _) => bytes.to_vec(),
        _ => Vec::new(),
    }
}

struct Mixed {
    side: Side,
    other: Tunn,
    now: Instant,
}

impl Mixed {
    fn new(limit: u64) -> Self {
        let link = Link::new(Duration::ZERO, 0);
        let now = link.now;
        let [side, _] = link.sides;
        Self { side, other: other_end(limit), now }
    }

    /// What boringtun makes of a datagram.
    fn give(&mut self, datagram: &[u8]) -> Vec<u8> {
        let from: IpAddr = address(0).ip();
        let mut into = [0; 2048];
        let datagram = datagram.to_vec();
        written(&self.other.decapsulate(Some(from), &datagram, &mut into))
    }

    fn initiate(&mut self) -> Vec<u8> {
        let mut into = vec![0; HANDSHAKE_LENGTH];
        let side = &mut self.side;
        let length = side.tunnel.initiate(true, &mut side.engine, self.now, &mut into);
        into.truncate(length);
        into
    }

    fn reply(&mut self, message: &[u8]) -> (Handshake, Vec<u8>) {
        let mut into = vec![0; HANDSHAKE_LENGTH];
        let side = &mut self.side;
        let outcome = side.engine.reply(&mut side.tunnel, address(1), message, self.now, &mut into);
        into.truncate(outcome.length());
        (outcome, into)
    }

    /// Packets of all lengths arrive both ways.
    fn talk(&mut self) {
        for length in (0..100).chain([1000, 1372]) {
            let hello = packet(INNER[0], INNER[1], &vec![7; length]);
            let mut sealed = vec![0; sealed_length(hello.len())];
            let written_bytes = self.side.tunnel.seal(&hello, self.now, &mut sealed);
            assert_eq!(written_bytes, sealed.len());
            assert_eq!(self.give(&sealed), hello);
            let back = packet(INNER[1], INNER[0], &vec![8; length]);
            let mut into = [0; 2048];
            let sealed = written(&self.other.encapsulate(&back, &mut into));
            let mut opened = vec![0; sealed.len()];
            assert_eq!(self.side.tunnel.open(&sealed, self.now, &mut opened), Some(back.len()));
            assert_eq!(opened[..back.len()], back);
        }
    }
}

#[test]
fn boringtun_takes_and_answers_a_handshake() {
    let mut mixed = Mixed::new(1000);
    let initiation = mixed.initiate();
    let response = mixed.give(&initiation);
    let (outcome, keepalive) = mixed.reply(&response);
    assert!(matches!(outcome, Handshake::Completed(_)));
    assert!(mixed.give(&keepalive).is_empty());
    mixed.talk();
}

#[test]
fn boringtun_begins_a_handshake() {
    let mut mixed = Mixed::new(1000);
    let mut into = [0; 2048];
    let initiation = written(&mixed.other.format_handshake_initiation(&mut into, false));
    let mut answer = vec![0; HANDSHAKE_LENGTH];
    let side = &mut mixed.side;
    let Initiator::Key(key, opened, sender) =
        side.engine.initiator(address(1), &initiation, mixed.now, &mut answer)
    else {
        panic!("its key is known");
    };
    assert_eq!(key, agreement(1));
    let outcome = side.tunnel.answer(*opened, sender, &side.engine, mixed.now, &mut answer);
    answer.truncate(outcome.length());
    assert!(!side.tunnel.is_ready(mixed.now));
    let keepalive = mixed.give(&answer);
    let mut opened = vec![0; keepalive.len()];
    assert_eq!(mixed.side.tunnel.open(&keepalive, mixed.now, &mut opened), Some(0));
    mixed.talk();
}

#[test]
fn a_cookie_of_boringtun_is_shown_the_next_time() {
    let mut mixed = Mixed::new(0);
    let initiation = mixed.initiate();
    let cookie = mixed.give(&initiation);
    assert_eq!(cookie.first(), Some(&3));
    assert_eq!(mixed.reply(&cookie).0, Handshake::Deferred);
    // A second one for the same message is none.
    assert_eq!(mixed.reply(&cookie).0, Handshake::Refused);
    let initiation = mixed.initiate();
    assert_eq!(mixed.give(&initiation).first(), Some(&2));
}

#[test]
fn under_load_boringtun_shows_a_cookie_of_this_node() {
    let mut mixed = Mixed::new(1000);
    let mut answer = vec![0; HANDSHAKE_LENGTH];
    let (mut challenged, mut passed, mut refused) = (0, 0, 0);
    for _ in 0..400 {
        let mut into = [0; 2048];
        let initiation = written(&mixed.other.format_handshake_initiation(&mut into, true));
        let side = &mut mixed.side;
        match side.engine.initiator(address(1), &initiation, mixed.now, &mut answer) {
            Initiator::Key(..) => passed += 1,
            Initiator::Challenged(length) => {
                challenged += 1;
                let cookie = answer[..length].to_vec();
                assert!(mixed.give(&cookie).is_empty());
            }
            // More often than a source that proved itself may.
            Initiator::Unknown => refused += 1,
        }
    }
    assert_eq!((passed, challenged, refused), (205, 1, 194));
}
