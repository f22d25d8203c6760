//! The one place that reads the machine's clocks.
#![allow(clippy::disallowed_methods, reason = "here the shell hands time to the engine")]

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use epsilon_proto::clock::{Instant, Now, Timestamp};
use nix::time::{ClockId, clock_gettime};

/// When the engine's [`Instant`]s are zero.
static START: LazyLock<Duration> = LazyLock::new(boottime);

/// The time since the machine was started, suspends included: sessions and
/// leases grow old while it sleeps.
fn boottime() -> Duration {
    // Every Linux since 2.6.39 has it.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

/// How long the machine slept since it was started.
pub fn asleep() -> Duration {
    let awake = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    boottime().saturating_sub(awake)
}

/// The engine's clock.
pub fn instant() -> Instant {
    Instant(boottime().saturating_sub(*START))
}

/// What the clocks show now.
pub fn now() -> Now {
    Now { instant: instant(), wall: wall() }
}

/// What the wall clock shows now; 1970 when it stands before that.
pub fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The time since 1970 at which the engine's clock was zero, by the wall
/// clock as it stands now.
pub fn since_1970() -> Duration {
    Duration::from_millis(wall().0).saturating_sub(instant().0)
}

/// When an engine's moment comes, for a timer.
pub fn deadline(at: Instant) -> tokio::time::Instant {
    tokio::time::Instant::now() + at.since(instant())
}
