//! Time: what a machine's clock shows, what the network agrees to believe,
//! and an order for concurrent changes.

use std::fmt;
use std::time::Duration;

use crate::wire::{Reader, Wire, WireError, Writer, wire_struct};

/// Milliseconds since 1970-01-01 00:00 UTC, as some clock showed it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The time `duration` later, at most the end of time.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this is; zero when it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Wire for Timestamp {
    fn write(&self, to: &mut Writer) {
        to.unsigned(self.0);
    }
    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        from.unsigned().map(Self)
    }
}

/// RFC 3339 in UTC with seconds, after the civil-from-days algorithm of
/// Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 / 1000;
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        let shifted = days + 719_468;
        let (era, of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

/// What a machine's clocks show at one moment: handed to every state machine
/// with every input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Now {
    /// Never goes back within one run of the daemon.
    pub instant: Instant,
    /// May be wrong by years, and may jump.
    pub wall: Timestamp,
}

/// A reading of a clock that never goes back: the time since some fixed
/// moment of the run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Instant(pub Duration);

impl Instant {
    /// How long after `earlier` this is; zero when it is not.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl std::ops::Add<Duration> for Instant {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

/// What the network believes the time to be.
///
/// The later of the newest time that root, admin or council signed, and the
/// lower median of the own and the linked members' clocks. Clocks that show a
/// time before the network was founded do not count.
pub fn trusted_time(
    newest_signed: Timestamp,
    founded: Timestamp,
    clocks: impl IntoIterator<Item = Timestamp>,
) -> Timestamp {
    let mut clocks: Vec<_> = clocks.into_iter().filter(|clock| *clock >= founded).collect();
    clocks.sort_unstable();
    let median = clocks.len().checked_sub(1).map_or(founded, |last| clocks[last / 2]);
    median.max(newest_signed)
}

/// A hybrid logical clock reading (Kulkarni et al., "Logical Physical
/// Clocks", 2014): later than everything its maker had seen, and close to
/// real time while clocks are sane.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct HybridTime {
    /// The physical part.
    pub wall: Timestamp,
    /// Orders readings with the same physical part.
    pub count: u32,
}
wire_struct!(HybridTime { 0 => wall, 1 => count });

impl HybridTime {
    /// The next reading after this one, at the given time.
    #[must_use]
    pub fn tick(self, now: Timestamp) -> Self {
        if now > self.wall {
            return Self { wall: now, count: 0 };
        }
        match self.count.checked_add(1) {
            Some(count) => Self { wall: self.wall, count },
            None => Self { wall: Timestamp(self.wall.0.saturating_add(1)), count: 0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_read_like_dates() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (1_767_225_599_999, "2025-12-31T23:59:59Z"),
            (4_102_444_800_000, "2100-01-01T00:00:00Z"),
        ] {
            assert_eq!(Timestamp(millis).to_string(), text);
        }
        assert!(!Timestamp(u64::MAX).to_string().is_empty());
    }

    #[test]
    fn a_clock_before_the_founding_does_not_count() {
        let founded = Timestamp(1_000);
        assert_eq!(trusted_time(founded, founded, [Timestamp(0)]), founded);
        let clocks = [Timestamp(0), Timestamp(5_000), Timestamp(6_000)];
        assert_eq!(trusted_time(founded, founded, clocks), Timestamp(5_000));
    }

    #[test]
    fn one_clock_in_the_far_future_does_not_move_trusted_time() {
        let clocks = [Timestamp(2_000), Timestamp(u64::MAX)];
        assert_eq!(trusted_time(Timestamp(1_000), Timestamp(1_000), clocks), Timestamp(2_000));
    }

    #[test]
    fn a_signed_time_is_a_floor() {
        assert_eq!(
            trusted_time(Timestamp(9_000), Timestamp(1_000), [Timestamp(2_000)]),
            Timestamp(9_000)
        );
    }

    proptest::proptest! {
        #[test]
        fn ticking_always_goes_forward(wall: u64, count: u32, now: u64) {
            let reading = HybridTime { wall: Timestamp(wall.min(u64::MAX - 1)), count };
            proptest::prop_assert!(reading.tick(Timestamp(now)) > reading);
        }
    }
}
