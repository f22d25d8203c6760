//! The one place that reads the machine's clocks.
#![allow(clippy::disallowed_methods, reason = "here the shell hands time to the engine")]

use std::sync::LazyLock;
use std::time::{Duration, Instant as StdInstant, SystemTime, UNIX_EPOCH};

use epsilon_proto::clock::{Instant, Now, Timestamp};

static START: LazyLock<StdInstant> = LazyLock::new(StdInstant::now);

/// What the clocks show now.
pub fn now() -> Now {
    Now { instant: Instant(START.elapsed()), wall: wall() }
}

/// What the wall clock shows now; 1970 when it stands before that.
pub fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The moment at which the engine's [`Instant`]s are zero.
pub fn epoch() -> StdInstant {
    *START
}

/// When an engine's moment comes, for a timer.
pub fn deadline(at: Instant) -> tokio::time::Instant {
    tokio::time::Instant::from_std(*START + at.0)
}
