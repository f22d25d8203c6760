//! Which of the ways that answer is used.

use std::time::Duration;

use epsilon_proto::address::is_stream;
use epsilon_proto::clock::Instant;

use super::{LocalPrefix, Paths, Step, is_within};
use crate::shard::Path;

/// Another path must be better by this share of the round trip, and by
/// [`MARGIN`].
const HYSTERESIS: f64 = 0.2;
/// See [`HYSTERESIS`].
const MARGIN: Duration = Duration::from_millis(3);

/// The order of ways, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    Near,
    Direct,
    Stream,
    Relayed,
    RelayedByStream,
}

impl Paths {
    /// An answer came to a probe.
    pub fn answered(&mut self, path: Path, rtt: Duration, now: Instant, local: &[LocalPrefix]) {
        let Some(candidate) = self.candidates.get_mut(&path) else { return };
        candidate.answer(rtt, now);
        if self.active == Some(path) {
            self.is_proven = true;
            self.doubt = None;
            self.settle();
            return;
        }
        let is_better = match self.active {
            // What is as good, and answers while the other does not yet.
            Some(active) if self.is_proven && self.doubt.is_some() => {
                rank(path, local) <= rank(active, local)
            }
            Some(active) if self.is_proven => self.is_better(path, rtt, active, local),
            _ => true,
        };
        if is_better {
            self.take(path, true);
        }
    }

    /// A probe was answered that was as long as the datagram of a packet of so many bytes.
    pub fn measured(&mut self, path: Path, size: u16, now: Instant) {
        let Some(candidate) = self.candidates.get_mut(&path) else { return };
        candidate.answer_sized(size, now);
        if self.active == Some(path) {
            self.is_proven = true;
            self.doubt = None;
        }
    }

    fn is_better(&self, path: Path, rtt: Duration, than: Path, local: &[LocalPrefix]) -> bool {
        match rank(path, local).cmp(&rank(than, local)) {
            std::cmp::Ordering::Less => true,
            std::cmp::Ordering::Greater => false,
            std::cmp::Ordering::Equal => {
                self.candidates.get(&than).and_then(|than| than.rtt).is_some_and(|current| {
                    rtt.mul_f64(1.0 + HYSTERESIS) < current && rtt + MARGIN < current
                })
            }
        }
    }

    /// Whether a direct way is looked for.
    pub(super) fn needs_better(&self) -> bool {
        let is_good = self.active.is_some_and(|active| rank(active, &[]) <= Rank::Direct);
        !self.is_proven || !is_good
    }

    pub(super) fn take(&mut self, path: Path, is_proven: bool) {
        self.is_proven = is_proven;
        self.doubt = None;
        if self.active != Some(path) {
            self.active = Some(path);
            self.steps.push_back(Step::Use(Some(path)));
        }
        self.settle();
    }

    /// No more calls where the way is as good as they could make it.
    pub(super) fn settle(&mut self) {
        if !self.needs_better() {
            self.next_call = None;
            self.calls = 0;
        }
    }

    /// The way in use is none: takes the best that answered since so long, or one
    /// that lasts.
    pub(super) fn fall_back(&mut self) {
        let since = self.doubt.take().map(|doubt| doubt.since);
        let best = self
            .candidates
            .iter()
            .filter(|(path, candidate)| {
                let has_answered = candidate.answered >= since && candidate.answered.is_some();
                Some(**path) != self.active
                    && match since {
                        Some(_) => has_answered,
                        None => self.lasts(**path) && has_answered,
                    }
            })
            .min_by_key(|(path, candidate)| (rank(**path, &[]), candidate.rtt))
            .map(|(path, _)| *path);
        match best {
            Some(path) => self.take(path, since.is_some()),
            None if since.is_none() && self.active.take().is_some() => {
                self.steps.push_back(Step::Use(None));
            }
            // Until something answers the old way is as good as any.
            None => {}
        }
    }

    pub(super) fn lasts(&self, path: Path) -> bool {
        matches!(path, Path::Relayed(..))
            || self.candidates.get(&path).is_some_and(|candidate| candidate.is_lasting)
    }
}

pub(super) fn rank(path: Path, local: &[LocalPrefix]) -> Rank {
    match path {
        Path::Direct(to) if is_stream(to) => Rank::Stream,
        Path::Relayed(to, _) if is_stream(to) => Rank::RelayedByStream,
        Path::Direct(to) if local.iter().any(|prefix| is_within(to.ip(), *prefix)) => Rank::Near,
        Path::Direct(_) => Rank::Direct,
        Path::Relayed(..) => Rank::Relayed,
    }
}
