//! A way at which a peer may be reached, and how often it may be tried.

use std::time::Duration;

use epsilon_proto::clock::Instant;

use super::mtu::Mtu;
use crate::limit::Limit;
use crate::shard::Path;

/// A way that never answered gets so many probes per [`SILENT_WINDOW`].
pub(super) const SILENT_PROBES: usize = 3;
/// The window for [`SILENT_PROBES`].
pub(super) const SILENT_WINDOW: Duration = Duration::from_mins(10);
/// So many more after the peer asked to be probed.
pub(super) const CALLED_PROBES: usize = 10;
/// Between two probes to one address; less where it answers fast.
pub(super) const RETRY: Duration = Duration::from_millis(300);
/// Not less than this.
const LEAST_RETRY: Duration = Duration::from_millis(100);
/// So many probes at once go to addresses of one peer that never answered, and then one
/// in this time, however many it names: they may be somebody else's. Enough to try all that
/// are kept twice a minute, when the two have called each other.
pub(super) const STRANGE_PROBES: u32 = 144;
/// See [`STRANGE_PROBES`].
pub(super) const STRANGE_EVERY: Duration = Duration::from_millis(400);

/// The longest that an answer is waited for.
const SLOW: Duration = Duration::from_millis(1500);

/// How many more probes may go to addresses of a peer that never answered.
#[derive(Debug)]
pub(super) struct Strange(Limit);

impl Default for Strange {
    fn default() -> Self {
        Self(Limit::new(STRANGE_PROBES, STRANGE_EVERY))
    }
}

impl Strange {
    /// From when on one may.
    pub(super) fn due(&self) -> Instant {
        self.0.due()
    }

    /// One goes.
    pub(super) fn sent(&mut self, now: Instant) {
        self.0.allows(now);
    }
}

/// A way to a peer.
#[derive(Debug, Clone, Default)]
pub(super) struct Candidate {
    /// When probes went there that were not answered yet.
    unanswered: Vec<Instant>,
    /// When it answered last.
    pub(super) answered: Option<Instant>,
    pub(super) rtt: Option<Duration>,
    /// So many probes are wanted.
    wanted: usize,
    /// So many more than otherwise are allowed.
    granted: usize,
    /// Since when the peer was seen there, and how many probes that allowed.
    seen: Option<(Instant, usize)>,
    /// Whether it stays open while nothing is sent.
    pub(super) is_lasting: bool,
    pub(super) mtu: Mtu,
}

impl Candidate {
    /// One that is to be tried.
    pub(super) fn new(is_lasting: bool) -> Self {
        Self { is_lasting, wanted: SILENT_PROBES, ..Self::default() }
    }

    /// Wants it tried anew.
    pub(super) fn want(&mut self) {
        self.wanted = SILENT_PROBES;
    }

    /// Wants it tried once.
    pub(super) fn want_one(&mut self) {
        self.wanted = self.wanted.max(1);
    }

    /// The peer asked to be tried here.
    pub(super) fn grant(&mut self) {
        self.granted = CALLED_PROBES;
    }

    /// The peer was seen there: one more probe, but not for ever, as where a datagram
    /// came from is nothing that a seal says.
    pub(super) fn see(&mut self, now: Instant) {
        let recent = self.seen.filter(|(since, _)| now.since(*since) < SILENT_WINDOW);
        let (since, count) = recent.unwrap_or((now, 0));
        if count < CALLED_PROBES {
            self.seen = Some((since, count + 1));
            self.granted = self.granted.max(1);
        }
        self.want();
    }

    /// It answered.
    pub(super) fn answer(&mut self, rtt: Duration, now: Instant) {
        self.unanswered.clear();
        (self.wanted, self.granted) = (0, 0);
        self.answered = Some(now);
        self.rtt = Some(rtt);
    }

    /// How long it may take to answer before others are used: three probes, as long as
    /// they are not far.
    pub(super) fn patience(&self) -> Duration {
        self.rtt.map_or(SLOW, |rtt| (rtt * 3).clamp(RETRY, SLOW))
    }

    /// How many probes were sent in vain.
    pub(super) fn silence(&self) -> usize {
        self.unanswered.len()
    }

    /// Whether a probe was sent in vain, and is not just under way.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        self.unanswered.first().is_some_and(|sent| now.since(*sent) >= SLOW)
    }

    /// When a probe may go there that is wanted.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.wanted == 0 {
            return None;
        }
        let Some(last) = self.unanswered.last() else { return Some(Instant::default()) };
        let is_spent =
            self.answered.is_none() && self.granted == 0 && self.unanswered.len() >= SILENT_PROBES;
        if is_spent {
            let oldest = self.unanswered[self.unanswered.len() - SILENT_PROBES];
            return Some(oldest + SILENT_WINDOW);
        }
        Some(*last + self.rtt.map_or(RETRY, |rtt| (rtt * 2).clamp(LEAST_RETRY, RETRY)))
    }

    /// A probe is sent there.
    pub(super) fn sent(&mut self, now: Instant) {
        self.wanted -= 1;
        if self.answered.is_none() && self.unanswered.len() >= SILENT_PROBES {
            self.granted = self.granted.saturating_sub(1);
        }
        self.unanswered.push(now);
        // Those before tell nothing more.
        let excess = self.unanswered.len().saturating_sub(SILENT_PROBES);
        self.unanswered.drain(..excess);
    }
    /// A probe as long as a packet of this size was answered.
    pub(super) fn answer_sized(&mut self, size: u16, now: Instant) {
        self.unanswered.clear();
        self.answered = Some(now);
        self.mtu.answered(size, now);
    }

    /// The size of the next probe for the MTU.
    pub(super) fn next_size(&mut self, now: Instant) -> Option<u16> {
        self.mtu.next(self.answered, self.rtt, now)
    }
}

/// The ways to one peer, in order, in no more memory than they need: a node of a tree
/// has room for eleven, most peers have one or two, and there are a thousand peers.
#[derive(Debug, Default)]
pub(super) struct Candidates(Vec<(Path, Candidate)>);

impl Candidates {
    fn place(&self, path: &Path) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| known.cmp(path))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn contains(&self, path: &Path) -> bool {
        self.place(path).is_ok()
    }

    pub(super) fn get(&self, path: &Path) -> Option<&Candidate> {
        self.place(path).ok().map(|place| &self.0[place].1)
    }

    pub(super) fn get_mut(&mut self, path: &Path) -> Option<&mut Candidate> {
        self.place(path).ok().map(|place| &mut self.0[place].1)
    }

    pub(super) fn insert(&mut self, path: Path, candidate: Candidate) {
        match self.place(&path) {
            Ok(place) => self.0[place].1 = candidate,
            Err(place) => {
                self.0.reserve_exact(1);
                self.0.insert(place, (path, candidate));
            }
        }
    }

    /// Says whether it was there.
    pub(super) fn remove(&mut self, path: &Path) -> bool {
        self.place(path).is_ok_and(|place| {
            self.0.remove(place);
            true
        })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Path, &Candidate)> {
        self.0.iter().map(|(path, candidate)| (path, candidate))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&Path, &mut Candidate)> {
        self.0.iter_mut().map(|(path, candidate)| (&*path, candidate))
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Candidate> {
        self.0.iter_mut().map(|(_, candidate)| candidate)
    }
}
