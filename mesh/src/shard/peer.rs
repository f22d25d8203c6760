//! One peer of a shard: its session, what waits for it, and its silence.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use epsilon_proto::clock::Instant;
use epsilon_proto::id::NodeId;
use epsilon_proto::key::AgreementKey;

use super::batch::{HostBatch, SendBatch};
use super::command::{Path, Report};
use super::prober::Prober;
use super::session::{HANDSHAKE_LENGTH, Handshake, OVERHEAD, Session, SessionFactory, Tick};
use super::stats::{PeerDropped, PeerStats, Traffic};
use crate::limit::Limit;

/// How long after something was sent to a peer, and nothing was heard, it is
/// reported as silent: a bit more than the 10 s after which a peer that has
/// nothing to say sends a keepalive.
pub const SILENCE: Duration = Duration::from_secs(11);

/// How often the timers of a session in use are moved.
const TICK: Duration = Duration::from_millis(250);
/// A session is in use until nothing was sent or heard for so long.
const ACTIVE: Duration = Duration::from_secs(30);
/// A session is dropped when nothing was sent or heard for so long: its keys
/// are of no use any more (REJECT_AFTER_TIME of WireGuard).
const IDLE: Duration = Duration::from_mins(3);
/// How long after a packet came, and none went back, a keepalive goes back
/// (KEEPALIVE_TIMEOUT of WireGuard). The session library does this as well,
/// but not when packet and reply fall between the same two of its ticks.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// When the first message of a handshake is repeated once out of turn, as
/// WireGuard's five seconds are long for whoever waits for a first packet.
const EARLY_RETRY: Duration = Duration::from_secs(1);
/// At most so many packets wait; the oldest gives way.
const WAITING: usize = 32;
/// No packet waits longer.
const WAITING_TIME: Duration = Duration::from_secs(10);

/// Reports that Control has not taken yet.
#[derive(Default)]
pub(super) struct Reports {
    pub(super) queue: VecDeque<Report>,
    pub(super) lost: u64,
}

impl Reports {
    const CAPACITY: usize = 1024;

    /// Adds a report; drops and counts it where Control does not keep up.
    pub(super) fn push(&mut self, report: Report) {
        if self.queue.len() < Self::CAPACITY {
            self.queue.push_back(report);
        } else {
            self.lost += 1;
        }
    }
}

/// What a peer needs of its shard for the length of one call.
pub(super) struct Context<'a> {
    pub(super) now: Instant,
    pub(super) network: &'a mut SendBatch,
    pub(super) reports: &'a mut Reports,
    pub(super) sessions: &'a dyn SessionFactory,
}

/// Why an authentic packet does not reach the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    Source,
    Destination,
    Filtered,
}

pub(super) struct Peer {
    pub(super) node: NodeId,
    pub(super) key: AgreementKey,
    pub(super) prober: Prober,
    pub(super) probe_received: Limit,
    /// The number under which the peer's session is found again.
    index: u32,
    path: Option<Path>,
    session: Option<Box<dyn Session>>,
    /// When the session's timers were moved.
    ticked: Instant,
    /// When the session was last used, and not only kept.
    used: Option<Instant>,
    /// When the handshake under way began, and whether it was repeated early.
    handshake: Option<(Instant, bool)>,
    waiting: VecDeque<(Instant, Vec<u8>)>,
    /// The first thing sent since the peer was last heard.
    unanswered: Option<Instant>,
    silence_reported: bool,
    /// The first packet received since one was last sent.
    unreturned: Option<Instant>,
    no_path: Limit,
    new_source: Limit,
    received: Traffic,
    sent: Traffic,
    last_received: Option<Instant>,
    last_handshake: Option<Instant>,
    dropped: PeerDropped,
}

impl Peer {
    pub(super) fn new(node: NodeId, key: AgreementKey, index: u32) -> Self {
        Self {
            node,
            key,
            prober: Prober::default(),
            probe_received: Limit::new(8, Duration::from_millis(250)),
            index,
            path: None,
            session: None,
            ticked: Instant::default(),
            used: None,
            handshake: None,
            waiting: VecDeque::new(),
            unanswered: None,
            silence_reported: false,
            unreturned: None,
            no_path: Limit::new(1, Duration::from_secs(1)),
            new_source: Limit::new(1, Duration::from_secs(1)),
            received: Traffic::default(),
            sent: Traffic::default(),
            last_received: None,
            last_handshake: None,
            dropped: PeerDropped::default(),
        }
    }

    pub(super) fn stats(&self) -> PeerStats {
        PeerStats {
            node: self.node,
            path: self.path,
            ready: self.is_ready(),
            received: self.received,
            sent: self.sent,
            last_received: self.last_received,
            last_handshake: self.last_handshake,
            dropped: self.dropped,
        }
    }

    fn is_ready(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.ready())
    }

    /// Ends the session and everything that was known through it.
    pub(super) fn close(&mut self) {
        self.session = None;
        self.handshake = None;
        self.unanswered = None;
        self.silence_reported = false;
        self.unreturned = None;
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

    pub(super) fn set_path(&mut self, path: Option<Path>, context: &mut Context<'_>) {
        if self.path == path {
            return;
        }
        self.path = path;
        self.unanswered = None;
        self.silence_reported = false;
        self.wake(context);
        if self.is_ready() {
            self.flush(context);
        } else if self.handshake.is_some() || !self.waiting.is_empty() {
            // What was sent on the former path may never arrive.
            self.initiate(true, context);
        }
    }

    /// Takes a packet of the host.
    pub(super) fn send(&mut self, packet: &[u8], context: &mut Context<'_>) {
        self.wake(context);
        match self.path {
            Some(path) if self.is_ready() => self.seal(path, packet, context),
            Some(_) => {
                self.wait(packet, context.now);
                self.initiate(false, context);
            }
            None => {
                self.wait(packet, context.now);
                if self.no_path.allows(context.now) {
                    context.reports.push(Report::NoPath { node: self.node });
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
        let Some(path) = self.path.filter(|_| self.is_ready()) else { return };
        self.expire_waiting(context.now);
        for (_, packet) in std::mem::take(&mut self.waiting) {
            self.seal(path, &packet, context);
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

    fn seal(&mut self, path: Path, packet: &[u8], context: &mut Context<'_>) {
        let Some(session) = &mut self.session else { return };
        let length = (packet.len() + OVERHEAD).max(HANDSHAKE_LENGTH);
        if context.network.push(path, length, |into| session.seal(packet, into)) {
            self.sent.count(packet.len());
            self.unreturned = None;
            self.asked(context.now);
        } else {
            self.dropped.no_room += 1;
        }
    }

    /// Something left for the peer to which it has to react.
    fn asked(&mut self, now: Instant) {
        self.used = Some(now);
        self.unanswered.get_or_insert(now);
    }

    /// Something authentic and new came from the peer.
    fn heard(&mut self, now: Instant) {
        self.used = Some(now);
        self.last_received = Some(now);
        self.unanswered = None;
        self.silence_reported = false;
    }

    fn session(&mut self, context: &Context<'_>) -> &mut Box<dyn Session> {
        let (key, index) = (self.key, self.index);
        let ticked = &mut self.ticked;
        self.session.get_or_insert_with(|| {
            *ticked = context.now;
            context.sessions.create(key, index)
        })
    }

    fn initiate(&mut self, again: bool, context: &mut Context<'_>) {
        let Some(path) = self.path else { return };
        self.session(context);
        let Some(session) = &mut self.session else { return };
        if context.network.push(path, HANDSHAKE_LENGTH, |into| session.initiate(again, into)) {
            self.handshake.get_or_insert((context.now, false));
            self.asked(context.now);
        }
    }

    /// Takes a message of a handshake; the answer goes where it came from.
    pub(super) fn handshake(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        context: &mut Context<'_>,
    ) {
        self.wake(context);
        let begins = datagram.first() == Some(&1);
        let existed = self.session.is_some();
        if begins {
            self.session(context);
        }
        let mut outcome = Handshake::Refused;
        if let Some(session) = &mut self.session {
            context.network.push(Path::Direct(from), HANDSHAKE_LENGTH, |into| {
                outcome = session.handshake(from.ip(), datagram, into);
                match outcome {
                    Handshake::Answered(length)
                    | Handshake::Completed(length)
                    | Handshake::Challenged(length) => length,
                    Handshake::Deferred | Handshake::Refused => 0,
                }
            });
        }
        match outcome {
            Handshake::Answered(_) => {
                self.used = Some(context.now);
                self.last_handshake = Some(context.now);
            }
            Handshake::Completed(_) => {
                self.heard(context.now);
                self.last_handshake = Some(context.now);
                self.handshake = None;
                self.flush(context);
            }
            Handshake::Challenged(_) | Handshake::Deferred | Handshake::Refused => {
                self.dropped.unopened += u64::from(outcome == Handshake::Refused);
                if !existed {
                    self.session = None;
                }
            }
        }
    }

    /// Opens a data message into the batch for the host, if `admit` agrees.
    pub(super) fn open(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        host: &mut HostBatch,
        admit: impl FnOnce(&[u8]) -> Result<(), Refusal>,
        context: &mut Context<'_>,
    ) {
        self.wake(context);
        let Some(session) = &mut self.session else {
            self.dropped.unopened += 1;
            return;
        };
        let was_ready = session.ready();
        let (mut opened, mut refused) = (None, None);
        host.push((), datagram.len(), |into| {
            opened = session.open(datagram, into);
            let packet = &into[..opened.unwrap_or(0)];
            if packet.is_empty() {
                return 0;
            }
            refused = admit(packet).err();
            if refused.is_some() { 0 } else { packet.len() }
        });
        let Some(length) = opened else {
            self.dropped.unopened += 1;
            return;
        };
        self.heard(context.now);
        if self.path != Some(Path::Direct(from)) && self.new_source.allows(context.now) {
            context.reports.push(Report::NewSource { node: self.node, from });
        }
        if length > 0 {
            self.unreturned.get_or_insert(context.now);
            match refused {
                None => self.received.count(length),
                Some(Refusal::Source) => self.dropped.source += 1,
                Some(Refusal::Destination) => self.dropped.destination += 1,
                Some(Refusal::Filtered) => self.dropped.filtered += 1,
            }
        }
        if !was_ready && self.is_ready() {
            self.handshake = None;
            self.flush(context);
        }
    }

    /// Moves the session's timers before its first use after a pause.
    fn wake(&mut self, context: &mut Context<'_>) {
        if self.session.is_some() && context.now.since(self.ticked) >= TICK * 2 {
            self.tick(context);
        }
    }

    fn tick(&mut self, context: &mut Context<'_>) {
        let Some(session) = &mut self.session else { return };
        let mut begins = false;
        let mut outcome = Tick::Quiet;
        let mut tick = |into: &mut [u8]| {
            outcome = session.tick(into);
            begins = into.first() == Some(&1);
            if let Tick::Send(length) = outcome { length } else { 0 }
        };
        let sent = if let Some(path) = self.path {
            context.network.push(path, HANDSHAKE_LENGTH, tick)
        } else {
            tick(&mut [0; HANDSHAKE_LENGTH]);
            false
        };
        self.ticked = context.now;
        match outcome {
            Tick::Send(_) if sent && begins => {
                self.handshake.get_or_insert((context.now, true));
                self.asked(context.now);
            }
            Tick::Send(_) if sent => self.unreturned = None,
            Tick::Send(_) | Tick::Quiet => {}
            Tick::Expired => {
                self.session = None;
                self.handshake = None;
            }
        }
        if !self.is_ready() && !self.waiting.is_empty() {
            match self.handshake {
                Some((began, false)) if context.now.since(began) >= EARLY_RETRY => {
                    self.handshake = Some((began, true));
                    self.initiate(true, context);
                }
                _ => self.initiate(false, context),
            }
        }
    }

    /// Does what is due, and says when something is due again.
    pub(super) fn handle_timeout(&mut self, context: &mut Context<'_>) -> Option<Instant> {
        let now = context.now;
        if let Some(used) = self.used.filter(|_| self.session.is_some()) {
            if now.since(used) >= IDLE {
                self.session = None;
                self.handshake = None;
                self.unreturned = None;
            } else if now.since(used) < ACTIVE && now.since(self.ticked) >= TICK {
                self.tick(context);
            }
        }
        if let Some(since) = self.unreturned
            && now.since(since) >= KEEPALIVE
        {
            self.unreturned = None;
            if let (Some(path), Some(session)) = (self.path, &mut self.session) {
                context.network.push(path, HANDSHAKE_LENGTH, |into| session.seal(&[], into));
            }
        }
        if let Some(since) = self.unanswered
            && now.since(since) >= SILENCE
            && !self.silence_reported
        {
            self.silence_reported = true;
            context.reports.push(Report::Silent { node: self.node });
        }
        self.expire_waiting(now);
        self.next_timeout(now)
    }

    /// When something is due.
    pub(super) fn next_timeout(&self, now: Instant) -> Option<Instant> {
        let session = self
            .used
            .filter(|_| self.session.is_some())
            .map(|used| if now.since(used) < ACTIVE { self.ticked + TICK } else { used + IDLE });
        let keepalive = self.unreturned.map(|since| since + KEEPALIVE);
        let silence =
            self.unanswered.filter(|_| !self.silence_reported).map(|since| since + SILENCE);
        let waiting = self.waiting.front().map(|(since, _)| *since + WAITING_TIME);
        [session, keepalive, silence, waiting].into_iter().flatten().min()
    }
}
