//! One peer of a shard: its session, what waits for it, and whether it replies.

use std::collections::VecDeque;
use std::time::Duration;

use epsilon_proto::address::DEFAULT_MTU;
use epsilon_proto::clock::Instant;
use epsilon_proto::key::AgreementKey;

use super::batch::{HostBatch, Target};
use super::command::{Path, PeerId, Report};
use super::context::{Context, Judge, Next, Refusal};
use super::ecn;
use super::inner::{goes_in_parts, without_padding};
use super::mss;
use super::parts::{self, Parts, Whole};
use super::stats::{PeerDropped, PeerStats, Traffic};
use super::wireguard::{
    HANDSHAKE_LENGTH, Handshake, Indices, KEEPALIVE_TIMEOUT, Opened, Tunnel, sealed_length,
};
use crate::limit::Limit;

/// After so long without a reply it is reported that there is none. TCP sends again after
/// 0.2, 0.6, 1.4 and 3 s: by the third time there has to be another way.
pub const UNANSWERED: Duration = Duration::from_millis(500);
/// After so long without a word either way a peer is idle: mappings of NATs do not
/// last much longer.
pub const IDLE: Duration = Duration::from_secs(15);

/// A session is in use until nothing was sent or heard for so long.
const ACTIVE: Duration = Duration::from_secs(30);
/// At most so many packets wait; the oldest gives way.
const WAITING: usize = 32;
/// ICMP errors per second about packets that are too large for the path.
const ERRORS: u32 = 50;
/// No packet waits longer.
const WAITING_TIME: Duration = Duration::from_secs(10);

pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) key: AgreementKey,
    path: Option<Path>,
    /// The largest packet that goes there in one datagram.
    mtu: u16,
    tunnel: Tunnel,
    /// What is put together, from the first part on.
    parts: Option<Box<Parts>>,
    /// How many packets went in parts.
    parted: u32,
    /// When something was last sent or heard.
    used: Option<Instant>,
    waiting: VecDeque<(Instant, Vec<u8>)>,
    /// When it is reported that what was sent had no reply.
    unanswered: Option<Instant>,
    /// Whether something was sent lately.
    is_busy: bool,
    /// The first packet received since one was last sent.
    unreturned: Option<Instant>,
    no_path: Limit,
    /// About packets that are too large: one program that does not listen must not
    /// take them from others.
    errors: Limit,
    new_source: Limit,
    received: Traffic,
    sent: Traffic,
    last_received: Option<Instant>,
    last_handshake: Option<Instant>,
    /// Whether a handshake was not followed by anything yet.
    is_fresh: bool,
    dropped: PeerDropped,
}

impl Peer {
    pub(super) fn new(id: PeerId, key: AgreementKey, indices: Indices, slot: usize) -> Self {
        Self {
            id,
            key,
            path: None,
            mtu: DEFAULT_MTU,
            parts: None,
            parted: 0,
            tunnel: Tunnel::new(key, indices, slot),
            used: None,
            waiting: VecDeque::new(),
            unanswered: None,
            is_busy: false,
            unreturned: None,
            no_path: Limit::new(1, Duration::from_secs(1)),
            errors: Limit::new(ERRORS, Duration::from_secs(1) / ERRORS),
            new_source: Limit::new(1, Duration::from_secs(1)),
            received: Traffic::default(),
            sent: Traffic::default(),
            last_received: None,
            last_handshake: None,
            is_fresh: false,
            dropped: PeerDropped::default(),
        }
    }

    pub(super) fn stats(&self, now: Instant) -> PeerStats {
        PeerStats {
            id: self.id,
            path: self.path,
            ready: self.tunnel.is_ready(now),
            received: self.received,
            sent: self.sent,
            last_received: self.last_received,
            last_handshake: self.last_handshake,
            dropped: PeerDropped {
                incomplete: self.parts.as_ref().map_or(0, |parts| parts.dropped),
                ..self.dropped
            },
        }
    }

    /// Ends the session and everything that was known through it.
    pub(super) fn close(&mut self) {
        self.tunnel.clear();
        if let Some(parts) = &mut self.parts {
            parts.forget();
        }
        self.unanswered = None;
        self.unreturned = None;
    }

    /// The peer has another key from now on.
    pub(super) fn set_key(&mut self, key: AgreementKey, indices: Indices, slot: usize) {
        self.close();
        self.key = key;
        self.tunnel = Tunnel::new(key, indices, slot);
    }

    /// The peer's daemon was started again: it knows nothing of the session.
    pub(super) fn reset(&mut self, context: &mut Context<'_>) {
        let busy = !self.waiting.is_empty()
            || self.used.is_some_and(|used| context.now.since(used) < ACTIVE);
        self.close();
        if busy {
            self.initiate(true, context);
        }
    }

    pub(super) fn set_path(&mut self, path: Option<Path>, mtu: u16, context: &mut Context<'_>) {
        self.mtu = mtu;
        if self.path == path {
            return;
        }
        self.path = path;
        self.unanswered = None;
        if self.tunnel.is_ready(context.now) {
            self.flush(context);
        } else if self.tunnel.is_beginning() || !self.waiting.is_empty() {
            // What was sent on the former path may never arrive.
            self.initiate(true, context);
        }
    }

    /// The largest packet that the sender of this one has to be told about, if it is
    /// larger.
    pub(super) fn too_large(&self, packet: &[u8]) -> Option<u16> {
        let is_large = packet.len() > usize::from(self.mtu);
        (is_large && !goes_in_parts(packet)).then_some(self.mtu)
    }

    /// A packet is too large: counts it, and says whether its sender shall be told.
    pub(super) fn refuse_large(&mut self, now: Instant) -> bool {
        self.dropped.too_large += 1;
        self.errors.allows(now)
    }

    /// It could not be told, and the packet goes on.
    pub(super) fn take_back(&mut self) {
        self.dropped.too_large -= 1;
    }

    /// Takes a packet for the peer.
    pub(super) fn send(&mut self, packet: &[u8], context: &mut Context<'_>) {
        match self.path {
            Some(path) if self.tunnel.is_ready(context.now) => self.carry(path, packet, context),
            Some(_) => {
                self.wait(packet, context.now);
                self.initiate(false, context);
            }
            None => {
                let PeerId::Node(node) = self.id else {
                    // It has to call first; nobody can say where it is.
                    self.dropped.waiting += 1;
                    return;
                };
                self.wait(packet, context.now);
                self.used = Some(context.now);
                if self.no_path.allows(context.now) {
                    // It ends as if there had been one.
                    self.is_busy = true;
                    context.reports.push(Report::NoPath { node });
                }
            }
        }
    }

    fn wait(&mut self, packet: &[u8], now: Instant) {
        if self.waiting.len() == WAITING {
            self.waiting.pop_front();
            self.dropped.waiting += 1;
        }
        self.waiting.push_back((now, packet.to_vec()));
    }

    fn flush(&mut self, context: &mut Context<'_>) {
        let Some(path) = self.path.filter(|_| self.tunnel.is_ready(context.now)) else { return };
        self.expire_waiting(context.now);
        for (_, packet) in std::mem::take(&mut self.waiting) {
            self.carry(path, &packet, context);
        }
    }

    fn expire_waiting(&mut self, now: Instant) {
        while let Some((since, _)) = self.waiting.front()
            && now.since(*since) >= WAITING_TIME
        {
            self.waiting.pop_front();
            self.dropped.waiting += 1;
        }
    }

    fn carry(&mut self, path: Path, packet: &[u8], context: &mut Context<'_>) {
        let target = Target { ecn: ecn::of(packet), ..path.into() };
        let mtu = self.mtu;
        let mut clamped = Vec::new();
        let mut packet = packet;
        if mtu < DEFAULT_MTU && mss::is_syn(packet) {
            clamped.extend_from_slice(packet);
            mss::clamp(&mut clamped, mtu);
            packet = &clamped;
        }
        let is_sent = if packet.len() <= usize::from(mtu) || mtu >= DEFAULT_MTU {
            self.seal(target, packet, context)
        } else {
            self.parted = self.parted.wrapping_add(1);
            parts::split(packet, mtu, self.parted, |part| self.seal(target, part, context))
        };
        if is_sent {
            self.sent.count(packet.len());
            self.unreturned = None;
            self.asked(context);
        } else {
            self.dropped.no_room += 1;
        }
    }

    fn seal(&mut self, target: Target, packet: &[u8], context: &mut Context<'_>) -> bool {
        let (length, now) = (sealed_length(packet.len()), context.now);
        context.network.send(target, length, |into| self.tunnel.seal(packet, now, into))
    }

    /// Something left for the peer to which it has to react.
    fn asked(&mut self, context: &mut Context<'_>) {
        self.used = Some(context.now);
        self.unanswered.get_or_insert(context.now + UNANSWERED);
        if let PeerId::Node(node) = self.id
            && !std::mem::replace(&mut self.is_busy, true)
        {
            context.reports.push(Report::Busy { node });
        }
    }

    /// Something authentic and new came from the peer.
    fn heard(&mut self, now: Instant) {
        self.used = Some(now);
        self.last_received = Some(now);
        self.unanswered = None;
    }

    fn initiate(&mut self, again: bool, context: &mut Context<'_>) {
        let Some(path) = self.path else { return };
        let (tunnel, now) = (&mut self.tunnel, context.now);
        let wireguard = &mut *context.wireguard;
        let begin = |into: &mut [u8]| tunnel.initiate(again, wireguard, now, into);
        if context.network.send(path, HANDSHAKE_LENGTH, begin) {
            self.asked(context);
        }
    }

    /// Takes the first message of a handshake, whose sender puts `sender` into
    /// what it is sent; the answer goes where it came from.
    pub(super) fn answer(
        &mut self,
        from: Path,
        opened: Opened,
        sender: u32,
        context: &mut Context<'_>,
    ) {
        let now = context.now;
        let (tunnel, wireguard) = (&mut self.tunnel, &*context.wireguard);
        let mut outcome = Handshake::Refused;
        context.network.send(from, HANDSHAKE_LENGTH, |into| {
            outcome = tunnel.answer(opened, sender, wireguard, now, into);
            outcome.length()
        });
        if let Handshake::Answered(_) = outcome {
            self.used = Some(now);
            self.last_handshake = Some(now);
            self.is_fresh = true;
            *context.authentic += 1;
        } else {
            self.dropped.unopened += 1;
        }
    }

    /// Takes another message of a handshake; what it brings about goes where
    /// it came from.
    pub(super) fn handshake(&mut self, from: Path, datagram: &[u8], context: &mut Context<'_>) {
        let now = context.now;
        let (tunnel, wireguard) = (&mut self.tunnel, &mut *context.wireguard);
        let mut outcome = Handshake::Refused;
        context.network.send(from, HANDSHAKE_LENGTH, |into| {
            outcome = wireguard.reply(tunnel, from.address(), datagram, now, into);
            outcome.length()
        });
        match outcome {
            Handshake::Completed(_) => {
                self.heard(now);
                self.last_handshake = Some(now);
                self.is_fresh = true;
                *context.authentic += 1;
                self.flush(context);
            }
            Handshake::Refused => self.dropped.unopened += 1,
            Handshake::Answered(_) | Handshake::Challenged(_) | Handshake::Deferred => {}
        }
    }

    /// Something came in a session by a way that is not the path.
    fn moved(&mut self, from: Path, is_outside: bool, context: &mut Context<'_>) {
        match self.id {
            // A forged or repeated message does not get here. One that came
            // through the mesh would lead into it again.
            PeerId::Device(_) if is_outside => self.path = Some(from),
            PeerId::Device(_) => {}
            PeerId::Node(node) => {
                if self.new_source.allows(context.now) {
                    context.reports.push(Report::NewSource { node, from });
                }
            }
        }
    }

    /// Counts a packet that went on, or why it did not.
    pub(super) fn count(&mut self, length: usize, outcome: Result<(), Refusal>) {
        match outcome {
            Ok(()) => self.received.count(length),
            Err(Refusal::Source) => self.dropped.source += 1,
            Err(Refusal::Destination) => self.dropped.destination += 1,
            Err(Refusal::Hops) => self.dropped.hops += 1,
            Err(Refusal::Filtered) => self.dropped.filtered += 1,
            Err(Refusal::Congestion) => self.dropped.congestion += 1,
        }
    }

    /// Opens a data message into the batch for the host, or into `forwarded` if
    /// `admit` says so; gives back to which peer that goes.
    pub(super) fn open(
        &mut self,
        (from, mark): (Path, u8),
        datagram: &[u8],
        (host, forwarded): (&mut HostBatch, &mut Vec<u8>),
        admit: impl Fn(&[u8]) -> Result<Next, Refusal>,
        is_outside: impl FnOnce() -> bool,
        context: &mut Context<'_>,
    ) -> Option<usize> {
        let now = context.now;
        let was_ready = self.tunnel.is_ready(now);
        let judge = Judge { admit, mtu: self.mtu };
        let (mut opened, mut next, mut delivered) = (None, None, 0);
        let mut whole = None;
        host.push((), datagram.len(), |into| {
            opened = self.tunnel.open(datagram, now, into);
            let Some(padded) = opened.filter(|padded| *padded > 0) else { return 0 };
            if parts::is_part(&into[..padded]) && !self.id.is_device() {
                whole = self.parts.get_or_insert_default().take(&into[..padded], mark);
                return 0;
            }
            delivered = without_padding(&into[..padded]).len();
            judge.packet(&mut into[..delivered], mark, &mut next, forwarded)
        });
        let Some(padded) = opened else {
            self.dropped.unopened += 1;
            return None;
        };
        if let Some(Whole { packet, mark }) = whole {
            delivered = packet.len();
            host.push((), delivered, |into| {
                into.copy_from_slice(&packet);
                judge.packet(into, mark, &mut next, forwarded)
            });
        }
        *context.authentic += 1;
        self.heard(context.now);
        if self.path != Some(from) {
            self.moved(from, is_outside(), context);
        }
        if let PeerId::Device(key) = self.id
            && std::mem::take(&mut self.is_fresh)
        {
            self.new_source.allows(now);
            context.reports.push(Report::DeviceHeard { key });
        }
        if !was_ready {
            self.flush(context);
        }
        if padded == 0 {
            return None;
        }
        self.unreturned.get_or_insert(context.now);
        match next? {
            Ok(Next::Peer(to)) => return Some(to),
            Ok(Next::Host) => self.count(delivered, Ok(())),
            Err(refusal) => {
                self.count(delivered, Err(refusal));
                // One that came from elsewhere may go on in an earlier session.
                if let PeerId::Device(key) = self.id
                    && refusal == Refusal::Source
                    && self.new_source.allows(now)
                {
                    context.reports.push(Report::DeviceHeard { key });
                }
            }
        }
        None
    }

    /// Does what is due, and says when something is due again.
    pub(super) fn handle_timeout(&mut self, context: &mut Context<'_>) -> Option<Instant> {
        let now = context.now;
        if self.tunnel.poll_timeout().is_some_and(|due| due <= now) {
            self.handle_tunnel_timeout(context);
        }
        if let Some(since) = self.unreturned
            && now.since(since) >= KEEPALIVE_TIMEOUT
        {
            self.unreturned = None;
            if let Some(path) = self.path {
                let tunnel = &mut self.tunnel;
                context.network.send(path, HANDSHAKE_LENGTH, |into| tunnel.seal(&[], now, into));
            }
        }
        if self.unanswered.take_if(|due| *due <= now).is_some()
            // Of a device there is nothing to try.
            && let PeerId::Node(node) = self.id
        {
            context.reports.push(Report::Unanswered { node });
        }
        if self.idle_due().is_some_and(|due| due <= now)
            && let PeerId::Node(node) = self.id
        {
            self.is_busy = false;
            context.reports.push(Report::Idle { node });
        }
        self.expire_waiting(now);
        self.next_timeout()
    }

    fn handle_tunnel_timeout(&mut self, context: &mut Context<'_>) {
        let now = context.now;
        let (tunnel, wireguard) = (&mut self.tunnel, &mut *context.wireguard);
        let Some(path) = self.path else {
            // What it would send goes nowhere.
            tunnel.handle_timeout(wireguard, now, &mut [0; HANDSHAKE_LENGTH]);
            return;
        };
        let act = |into: &mut [u8]| tunnel.handle_timeout(wireguard, now, into);
        if context.network.send(path, HANDSHAKE_LENGTH, act) {
            self.asked(context);
        }
    }

    /// When something is due.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let keepalive = self.unreturned.map(|since| since + KEEPALIVE_TIMEOUT);
        let waiting = self.waiting.front().map(|(since, _)| *since + WAITING_TIME);
        let all =
            [self.tunnel.poll_timeout(), keepalive, waiting, self.unanswered, self.idle_due()];
        all.into_iter().flatten().min()
    }

    fn idle_due(&self) -> Option<Instant> {
        self.used.filter(|_| self.is_busy).map(|used| used + IDLE)
    }
}
