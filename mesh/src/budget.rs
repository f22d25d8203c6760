//! How often something may be done: so many times at once, then once in a time.

use std::time::Duration;

use epsilon_proto::clock::Instant;

/// A bucket of tokens that fills up again.
#[derive(Debug)]
pub(crate) struct Budget {
    every: Duration,
    burst: u32,
    tokens: u32,
    since: Instant,
}

impl Budget {
    /// A full one.
    pub(crate) fn new(burst: u32, every: Duration, now: Instant) -> Self {
        Self { every, burst, tokens: burst, since: now }
    }

    /// From when on [`Budget::spend`] says yes.
    pub(crate) fn due(&self) -> Instant {
        if self.tokens > 0 { Instant::default() } else { self.since + self.every }
    }

    /// Takes a token, if there is one.
    pub(crate) fn spend(&mut self, now: Instant) -> bool {
        let gained = now.since(self.since).as_millis() / self.every.as_millis().max(1);
        if gained > 0 {
            let gained = u32::try_from(gained).unwrap_or(u32::MAX);
            self.tokens = self.tokens.saturating_add(gained).min(self.burst);
            self.since = now;
        }
        let has_one = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        has_one
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_one_in_a_time_and_never_more_than_a_burst() {
        let second = Duration::from_secs(1);
        let start = Instant(Duration::from_secs(100));
        let mut budget = Budget::new(3, second, start);
        let spent = |budget: &mut Budget, now| (0..10).filter(|_| budget.spend(now)).count();
        assert_eq!(spent(&mut budget, start), 3);
        assert_eq!(budget.due(), start + second);
        assert_eq!(spent(&mut budget, start + second / 2), 0);
        assert_eq!(spent(&mut budget, start + second), 1);
        assert_eq!(spent(&mut budget, start + second * 1000), 3);
    }
}
