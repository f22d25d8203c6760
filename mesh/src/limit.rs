//! How often something may happen.

use std::time::Duration;

use epsilon_proto::clock::Instant;

/// A token bucket: `burst` at once, then one per `interval`.
#[derive(Debug)]
pub(crate) struct Limit {
    interval: Duration,
    burst: u32,
    left: u32,
    /// Up to when tokens have been added.
    filled: Instant,
}

impl Limit {
    /// A full one.
    pub(crate) const fn new(burst: u32, interval: Duration) -> Self {
        Self { interval, burst, left: burst, filled: Instant(Duration::ZERO) }
    }

    /// From when on [`Limit::allows`] says yes.
    pub(crate) fn due(&self) -> Instant {
        if self.left > 0 { Instant::default() } else { self.filled + self.interval }
    }

    /// Takes a token, if there is one.
    pub(crate) fn allows(&mut self, now: Instant) -> bool {
        let elapsed = now.since(self.filled);
        let earned = elapsed.as_nanos() / self.interval.as_nanos().max(1);
        if let Ok(earned) = u32::try_from(earned)
            && earned < self.burst - self.left
        {
            self.left += earned;
            self.filled = self.filled + self.interval * earned;
        } else {
            self.left = self.burst;
            self.filled = now;
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_only_the_rate() {
        let mut limit = Limit::new(4, Duration::from_millis(250));
        let at = |millis| Instant(Duration::from_millis(millis));
        let passed = |limit: &mut Limit, from: u64, to: u64| {
            (from..to).filter(|millis| limit.allows(at(*millis))).count()
        };
        assert_eq!(passed(&mut limit, 100_000, 100_200), 4);
        assert_eq!(passed(&mut limit, 100_200, 102_200), 8);
        assert_eq!(passed(&mut limit, 200_000, 200_100), 4);
        assert_eq!(limit.due(), at(200_250));
        assert!(!limit.allows(at(200_249)) && limit.allows(at(200_250)));
    }
}
