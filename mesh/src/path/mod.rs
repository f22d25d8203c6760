//! By which way a peer's data travels.
//!
//! ```text
//!  records, calls, probes of the peer ─► candidates ─┐          ┌─► Probe
//!  packets wait, flow, stop, get no reply ───────────┼─► Paths ─┼─► Call, Relay
//!  answers to probes ────────────────────────────────┘          └─► Use
//! ```
//!
//! Only an authenticated answer moves a path. Order: same network, direct, by a
//! stream, relayed; then round trip, with hysteresis. While packets flow and there is
//! nothing better than a relay, the two call each other again and again, less and
//! less often. A way that gets no reply is doubted after half a second: if it does
//! not answer, whatever does takes over. Who sends nothing keeps no way open: then
//! the next packet takes one that lasts. While packets flow it is found out how large
//! they may be.

mod advance;
mod candidate;
mod choice;
mod mtu;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use epsilon_proto::address::{DEFAULT_MTU, is_stream};
use epsilon_proto::clock::Instant;

use crate::shard::{Path, UNANSWERED};
use candidate::{Candidate, Candidates, SILENT_PROBES, Strange};
use choice::rank;
use mtu::Mtu;

/// How many ways to one peer are known at most.
const MAX_CANDIDATES: usize = 24;
/// After each call without a direct way, when to call again.
const CALLS: [Duration; 7] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(15),
    Duration::from_secs(30),
    Duration::from_mins(1),
];
/// A way that answered so lately is not probed because the peer probed it.
const FRESH: Duration = Duration::from_secs(5);
/// After so many calls that nothing came of they are in vain.
const IN_VAIN: usize = 3;
/// A new peer to which no way is found within so long is called, and so often.
const GREET: Duration = Duration::from_secs(4);
const GREETINGS: usize = 3;
/// How often a way is probed that has to stay open: mappings of NATs last 20 s and
/// more.
const KEEP: Duration = Duration::from_secs(15);
/// How long the best way is looked for because somebody wants to know it.
const SOUGHT: Duration = Duration::from_secs(10);
/// How long ways are tried after the peer was heard, or one of them was doubted.
const ROUSED: Duration = Duration::from_secs(10);

/// A prefix of one of the own interfaces: what lies in it is on the same
/// network.
pub type LocalPrefix = (IpAddr, u8);

/// Whether an address lies within a prefix.
pub fn is_within(address: IpAddr, (base, length): LocalPrefix) -> bool {
    match (address, base) {
        (IpAddr::V4(address), IpAddr::V4(base)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
            (u32::from(address) ^ u32::from(base)) & mask == 0
        }
        (IpAddr::V6(address), IpAddr::V6(base)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
            (u128::from(address) ^ u128::from(base)) & mask == 0
        }
        _ => false,
    }
}

/// What is to be done for a peer's paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Send a probe.
    Probe(Path),
    /// Send one as long as the datagram of a packet of so many bytes.
    Measure(Path, u16),
    /// Tell the peer where this node is, and that it shall probe that.
    Call,
    /// Ask for channels of relays, as far as there are none.
    Relay,
    /// Send data this way from now on, or let it wait.
    Use(Option<Path>),
    /// Other packets than before are too large for the way in use.
    Resize,
    /// This way, which was in use, answered before and does not any more.
    Failed(Path),
}

/// What was sent has no reply.
#[derive(Debug)]
struct Doubt {
    since: Instant,
    /// When other ways are tried, too.
    others: Option<Instant>,
    /// When the way in use is none any more if it has not answered.
    ends: Instant,
}

/// The paths to one peer.
#[derive(Debug, Default)]
pub struct Paths {
    candidates: Candidates,
    strange: Strange,
    active: Option<Path>,
    /// Whether the way in use answered since it was last doubted.
    is_proven: bool,
    /// Whether the way in use has to answer, or else.
    doubt: Option<Doubt>,
    /// Whether packets flow, or wait.
    is_busy: bool,
    /// How many calls were made in vain, and when the next is due.
    calls: usize,
    next_call: Option<Instant>,
    /// How many calls are made though no packets flow.
    greetings: usize,
    /// Whether a way has to stay open, and when it is probed next.
    kept: Option<Instant>,
    /// Until when somebody waits for the best way, though no packets flow.
    sought: Option<Instant>,
    /// Whether no way is tried unless something is sent, or the peer is heard.
    is_lazy: bool,
    /// Until when ways are tried all the same.
    roused: Option<Instant>,
    /// What the data plane was told of [`Paths::mtu`].
    told: u16,
    steps: VecDeque<Step>,
}

impl Paths {
    /// The way in use.
    pub fn active(&self) -> Option<Path> {
        self.active
    }

    /// Whether it answered, and was not found silent since.
    pub fn is_proven(&self) -> bool {
        self.active.is_some() && self.is_proven
    }

    /// The round trip of the way in use, when it answered a probe.
    pub fn rtt(&self) -> Option<Duration> {
        self.candidates.get(&self.active?)?.rtt
    }

    /// How large a packet may be for the way in use, as far as that is known.
    pub fn mtu(&self) -> u16 {
        let active = self.active.and_then(|active| self.candidates.get(&active));
        active.map_or(DEFAULT_MTU, |active| active.mtu.get())
    }

    /// Whether packets flow, or wait.
    pub fn is_busy(&self) -> bool {
        self.is_busy
    }

    /// The direct way in use, or else the one that answered last.
    pub fn direct(&self) -> Option<Path> {
        if let Some(Path::Direct(_)) = self.active.filter(|_| self.is_proven) {
            return self.active;
        }
        let direct = self.candidates.iter().filter(|(path, _)| matches!(path, Path::Direct(_)));
        let answered = direct.filter_map(|(path, one)| Some((one.answered?, *path)));
        answered.max().map(|(_, path)| path)
    }

    /// A way by which the peer may be reached; probed when it is new.
    pub fn add(&mut self, path: Path, is_lasting: bool) {
        if let Some(known) = self.candidates.get_mut(&path) {
            known.is_lasting |= is_lasting;
            return;
        }
        if self.candidates.len() >= MAX_CANDIDATES && !self.drop_worst() {
            return;
        }
        self.candidates.insert(path, Candidate::new(is_lasting));
    }

    /// The peer is not reached at other addresses than these any more, as far as it says: a
    /// way there does not last, and the one in use has to answer.
    pub fn withdraw_others(&mut self, addresses: &[SocketAddr], now: Instant) {
        let is_gone = |path: &Path| match path {
            Path::Direct(at) => !is_stream(*at) && !addresses.contains(at),
            Path::Relayed(..) => false,
        };
        let mut was_used = false;
        for (path, candidate) in self.candidates.iter_mut() {
            if candidate.is_lasting && is_gone(path) {
                candidate.is_lasting = false;
                was_used |= self.active == Some(*path);
            }
        }
        if was_used {
            self.check(now);
        }
    }

    /// Whether a way is known, and was not probed in vain lately, as often as it may be.
    pub fn may_answer(&self, path: Path) -> bool {
        let candidate = self.candidates.get(&path);
        candidate.is_some_and(|candidate| candidate.silence() < SILENT_PROBES)
    }

    /// A way that was silent is there: it is probed again. `false` if it is not known.
    pub fn retry(&mut self, path: Path) -> bool {
        let candidate = self.candidates.get_mut(&path);
        candidate
            .map(|candidate| {
                candidate.grant();
                candidate.want();
            })
            .is_some()
    }

    /// A way that leads nowhere any more: the relay said so. Says whether it was in use.
    pub fn remove(&mut self, path: Path, now: Instant) -> bool {
        self.candidates.remove(&path);
        let was_used = self.active == Some(path);
        if was_used {
            self.is_proven = false;
            self.doubt = None;
            self.fall_back();
            self.restart_calls(now);
        }
        was_used
    }

    /// Makes room among the ways that never answered, or else did so longest ago.
    fn drop_worst(&mut self) -> bool {
        let worst = self
            .candidates
            .iter()
            .filter(|(path, _)| Some(**path) != self.active)
            .min_by_key(|(_, candidate)| (candidate.answered, Reverse(candidate.silence())))
            .map(|(path, _)| *path);
        worst.is_some_and(|path| self.candidates.remove(&path))
    }

    /// Like [`Paths::add`] for a way by which the peer just was reached otherwise:
    /// used at once where there is none that is proven.
    pub fn prefer(&mut self, path: Path) {
        self.add(path, true);
        if !self.is_proven && self.candidates.contains(&path) {
            self.take(path, false);
        }
    }

    /// Wants every way probed anew: the peer was started again.
    pub fn probe_all(&mut self, now: Instant) {
        for candidate in self.candidates.values_mut() {
            candidate.want();
        }
        self.restart_calls(now);
    }

    /// Whether the peer was called several times, and nothing came of it.
    pub fn is_called_in_vain(&self) -> bool {
        self.is_busy && !self.is_proven && self.calls >= IN_VAIN
    }

    /// Whether a way is in use, or has to stay open.
    pub fn is_wanted(&self) -> bool {
        self.is_busy || self.kept.is_some() || self.sought.is_some()
    }

    /// The own network changed: what answered before says nothing, and the peer has
    /// to learn where this node is now.
    pub fn moved(&mut self) {
        self.is_proven = false;
        self.doubt = None;
        for candidate in self.candidates.values_mut() {
            candidate.mtu = Mtu::default();
        }
    }

    /// Calls a new peer by and by, though no packets flow, unless a way is found before:
    /// those that flow later find one.
    pub fn greet(&mut self, now: Instant) {
        if !self.is_proven && self.next_call.is_none() {
            self.greetings = GREETINGS;
            self.next_call = Some(now + GREET);
        }
    }

    /// Wants the way in use probed: it may be closed.
    pub fn check(&mut self, now: Instant) {
        if self.active.is_some() {
            self.doubt(now);
        }
    }

    /// Wants an answer by the way in use, which nobody doubts.
    pub fn probe_active(&mut self, now: Instant) {
        self.rouse(now);
        if let Some(active) = self.active.and_then(|active| self.candidates.get_mut(&active)) {
            active.want();
        }
    }

    /// The peer may have other relays than before: packets that wait need not wait for
    /// the next call.
    pub fn relays_changed(&mut self) {
        if self.is_busy && !self.is_proven() {
            self.steps.push_back(Step::Relay);
        }
    }

    /// Packets flow, or wait for a way.
    pub fn busy(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.is_busy, true) {
            self.restart_calls(now);
        }
    }

    /// Somebody wants to know the best way, though no packets flow. One that did not answer
    /// lately may be closed.
    pub fn seek(&mut self, now: Instant) {
        if self.sought.replace(now + SOUGHT).is_none() && !self.is_busy {
            self.restart_calls(now);
        }
        if !self.is_fresh(now) {
            self.check(now);
        }
    }

    /// Whether the way in use answered lately.
    pub fn is_fresh(&self, now: Instant) -> bool {
        let active = self.active.and_then(|active| self.candidates.get(&active));
        let answered = active.filter(|_| self.is_proven).and_then(|active| active.answered);
        answered.is_some_and(|at| now.since(at) < FRESH)
    }

    /// In large fleets most have nothing to say to each other, so that no way between them
    /// is tried before they do.
    pub fn be_lazy(&mut self, is_lazy: bool) {
        self.is_lazy = is_lazy;
    }

    /// Tries the ways for a while.
    pub fn rouse(&mut self, now: Instant) {
        self.roused = Some(now + ROUSED);
    }

    /// Nothing was sent for a while, or heard: what does not last by itself will
    /// soon be closed.
    pub fn idle(&mut self) {
        self.is_busy = false;
        self.doubt = None;
        if self.kept.is_some() {
            return;
        }
        self.next_call = None;
        let lasts = self.active.is_none_or(|active| self.lasts(active));
        if !lasts {
            self.is_proven = false;
            self.fall_back();
        }
    }

    /// The way in use has to stay open from now on, or no longer.
    pub fn keep(&mut self, keeps: bool, now: Instant) {
        if self.kept.is_some() != keeps {
            self.kept = keeps.then_some(now);
            if keeps {
                // What answered long ago may be gone.
                self.check(now);
                if self.next_call.is_none() {
                    self.restart_calls(now);
                }
            }
        }
    }

    /// What was sent got no reply.
    pub fn doubt(&mut self, now: Instant) {
        let Some(active) = self.active else { return self.busy(now) };
        if let Some(candidate) = self.candidates.get_mut(&active) {
            // Perhaps what is small passes.
            candidate.mtu.suspect(now);
        }
        // That it answered just now says nothing of what came after: who sends no more
        // hears of it this once.
        if self.doubt.is_some() {
            return;
        }
        self.rouse(now);
        let candidate = self.candidates.get_mut(&active);
        let patience = candidate.map_or(UNANSWERED, |candidate| {
            candidate.want();
            candidate.patience()
        });
        self.doubt = Some(Doubt {
            since: now,
            others: self.is_proven.then_some(now + patience / 2).or(Some(now)),
            ends: now + patience,
        });
    }

    /// The peer asks to be probed where it says it is. Where it may have been before it is
    /// only probed as if it had not asked.
    pub fn called(&mut self, addresses: &[SocketAddr], now: Instant) {
        self.rouse(now);
        let named = addresses.iter().copied().map(Path::Direct).collect::<Vec<_>>();
        for path in &named {
            self.add(*path, false);
        }
        for (path, candidate) in self.candidates.iter_mut() {
            if named.contains(path) || !is_strange(*path, candidate) {
                candidate.grant();
            }
            candidate.want();
        }
        // Nothing may get through to it, though what it sends comes here.
        if self.is_busy {
            self.check(now);
        }
        // This node's own call may have been for nothing.
        if self.is_wanted() && self.needs_better() {
            self.calls = 0;
            self.next_call = self.next_call.map(|next| next.min(now + CALLS[0]));
        }
    }

    /// A probe of the peer came this way, or data. Worth one in return unless it
    /// answered lately: two nodes that probe because they were probed would
    /// never end. From somewhere else than before the peer may have moved, also to where it
    /// was once.
    pub fn seen(&mut self, path: Path, now: Instant) {
        self.rouse(now);
        self.add(path, false);
        let Some(candidate) = self.candidates.get(&path) else { return };
        let answered = candidate.answered;
        let is_fresh = answered.is_some_and(|at| now.since(at) < FRESH);
        let is_elsewhere = match (path, self.active) {
            (Path::Direct(here), Some(Path::Direct(there))) => {
                let is_same_kind =
                    here.is_ipv4() == there.is_ipv4() && is_stream(here) == is_stream(there);
                // Who opens a stream has a reason.
                here != there && (is_same_kind || is_stream(here))
            }
            _ => false,
        };
        if is_elsewhere && !is_fresh {
            self.doubt(now);
        }
        let may_have_moved = is_elsewhere && !is_fresh;
        // It was left when it did not answer, and does again.
        let may_be_better =
            !is_fresh && self.active.is_some_and(|active| rank(path, &[]) < rank(active, &[]));
        // Or this node did, and nothing gets through to the peer any more.
        if self.is_busy
            && self.active == Some(path)
            && answered.is_none_or(|at| now.since(at) >= UNANSWERED)
        {
            self.doubt(now);
        }
        if let Some(candidate) = self.candidates.get_mut(&path)
            && (candidate.answered.is_none() || !self.is_proven || may_have_moved || may_be_better)
        {
            candidate.see(now);
        }
    }

    /// Data of the peer came another way than this node's goes: perhaps because that one
    /// is closed, which what comes in does not tell.
    pub fn heard_elsewhere(&mut self, path: Path, now: Instant) {
        self.seen(path, now);
        if self.active.is_some_and(|active| active != path) {
            self.doubt(now);
        }
    }
}

/// Whether nothing says that an address is the peer's. What lies behind a relay, or was
/// opened as a stream, is nobody else's.
fn is_strange(path: Path, candidate: &Candidate) -> bool {
    matches!(path, Path::Direct(to) if !is_stream(to)) && candidate.answered.is_none()
}
