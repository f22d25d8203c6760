//! What is to be done, and when.

use epsilon_proto::clock::Instant;

use super::candidate::Candidate;
use super::{CALLS, KEEP, Paths, Step, is_strange};
use crate::shard::Path;

impl Paths {
    pub(super) fn rests(&self, now: Instant) -> bool {
        self.is_lazy && !self.is_wanted() && self.roused.is_none_or(|until| until <= now)
    }

    /// Looks for other ways, as the one in use does not answer at once.
    fn try_others(&mut self) {
        for candidate in self.candidates.values_mut() {
            if candidate.answered.is_some() {
                candidate.want();
            }
        }
        self.steps.push_back(Step::Relay);
    }

    /// Calls may arrive that did not before; says whether one is due.
    pub fn call_again(&mut self, now: Instant) -> bool {
        let is_due = self.is_busy && !self.is_proven;
        if is_due {
            self.restart_calls(now);
        }
        is_due
    }

    pub(super) fn restart_calls(&mut self, now: Instant) {
        self.calls = 0;
        let later = self.next_call.filter(|_| self.greetings > 0);
        self.next_call = if self.is_wanted() && self.needs_better() { Some(now) } else { later };
    }

    /// The way in use, if its MTU is to be found out.
    fn measurable(&self) -> Option<(Path, &Candidate)> {
        let is_asked_for = self.is_busy || self.sought.is_some();
        let active = self.active.filter(|_| is_asked_for && self.is_proven)?;
        Some((active, self.candidates.get(&active)?))
    }

    /// Does what is due.
    fn advance(&mut self, now: Instant) {
        self.sought.take_if(|until| *until <= now);
        if let Some(doubt) = &mut self.doubt {
            if doubt.others.take_if(|at| *at <= now).is_some() {
                self.try_others();
            } else if doubt.ends <= now {
                let failed = self.active.filter(|_| std::mem::take(&mut self.is_proven));
                self.fall_back();
                if let Some(failed) = failed {
                    self.steps.push_back(Step::Failed(failed));
                    self.restart_calls(now);
                    self.greet(now);
                }
            }
        }
        let is_idle = !self.is_wanted() && (self.greetings == 0 || self.is_lazy);
        if is_idle && self.next_call.is_some_and(|due| due <= now) {
            self.next_call = None;
        }
        if self.next_call.is_some_and(|due| due <= now) {
            self.greetings = self.greetings.saturating_sub(1);
            self.next_call = Some(now + CALLS[self.calls.min(CALLS.len() - 1)]);
            self.calls += 1;
            self.steps.push_back(Step::Call);
            self.steps.push_back(Step::Relay);
            for candidate in self.candidates.values_mut() {
                candidate.want();
            }
        }
        let check = self.measurable().and_then(|(path, one)| Some((path, one.mtu.check_due()?)));
        if let Some((path, due)) = check
            && due <= now
            && let Some(candidate) = self.candidates.get_mut(&path)
        {
            candidate.mtu.check(now);
            candidate.want_one();
        }
        if self.kept.is_some_and(|due| due <= now) {
            self.kept = Some(now + KEEP);
            match self.active.and_then(|active| self.candidates.get_mut(&active)) {
                Some(active) if !active.is_silent(now) => active.want_one(),
                _ => {
                    let failed = self.active.filter(|_| std::mem::take(&mut self.is_proven));
                    self.steps.extend(failed.map(Step::Failed));
                    self.probe_all(now);
                }
            }
        }
    }

    /// What is to be done next; called until there is nothing.
    pub fn next(&mut self, now: Instant) -> Option<Step> {
        self.advance(now);
        if let Some(step) = self.steps.pop_front() {
            if let Step::Use(Some(_)) = step {
                self.told = self.mtu();
            }
            return Some(step);
        }
        if self.told != self.mtu() && self.active.is_some() {
            self.told = self.mtu();
            return Some(Step::Resize);
        }
        if self.rests(now) {
            return None;
        }
        let sized = self
            .candidates
            .iter_mut()
            .filter_map(|(path, candidate)| Some(Step::Measure(*path, candidate.next_size(now)?)));
        if let Some(step) = { sized }.next() {
            return Some(step);
        }
        let is_due = |(path, one): &(&Path, &Candidate)| {
            self.probe_due(**path, one).is_some_and(|due| due <= now)
        };
        // Where probes are few, each way has its turn.
        let due = self.candidates.iter().filter(is_due);
        let path = *due.min_by_key(|(path, one)| (one.due(), **path))?.0;
        let candidate = self.candidates.get_mut(&path)?;
        if is_strange(path, candidate) {
            self.strange.sent(now);
        }
        candidate.sent(now);
        Some(Step::Probe(path))
    }

    /// When a probe goes by a way that is wanted.
    fn probe_due(&self, path: Path, candidate: &Candidate) -> Option<Instant> {
        let due = candidate.due()?;
        Some(if is_strange(path, candidate) { due.max(self.strange.due()) } else { due })
    }

    /// When [`Paths::next`] has something to do.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let steps = (!self.steps.is_empty()).then_some(now);
        let doubt = self.doubt.as_ref().map(|doubt| doubt.others.unwrap_or(doubt.ends));
        let check = self.measurable().and_then(|(_, active)| active.mtu.check_due());
        let probes = self.candidates.iter().filter(|_| !self.rests(now));
        let probes =
            probes.flat_map(|(path, one)| [self.probe_due(*path, one), one.mtu.due()]).flatten();
        let others = [steps, doubt, check, self.next_call, self.kept, self.sought];
        probes.chain(others.into_iter().flatten()).min()
    }
}
