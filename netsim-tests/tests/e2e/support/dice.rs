use std::cell::RefCell;
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};

/// Randomness from a seed that is shown, so that a run can be repeated with
/// `EPSILON_E2E_SEED`.
pub(crate) struct Dice(RefCell<ChaCha20Rng>);

impl Dice {
    /// Shows the seed where a failing test shows its output.
    pub(crate) fn shown() -> Self {
        let asked = std::env::var("EPSILON_E2E_SEED").ok().and_then(|text| text.parse().ok());
        let seed: u64 = asked.unwrap_or_else(|| {
            let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
            u64::from(now.subsec_nanos())
        });
        eprintln!("repeat with EPSILON_E2E_SEED={seed}");
        Self(RefCell::new(ChaCha20Rng::seed_from_u64(seed)))
    }

    /// Any duration below `limit`.
    pub(crate) fn duration(&self, limit: Duration) -> Duration {
        let nanos = u64::try_from(limit.as_nanos()).unwrap().max(1);
        Duration::from_nanos(self.0.borrow_mut().next_u64() % nanos)
    }

    /// Fills `bytes`.
    pub(crate) fn fill(&self, bytes: &mut [u8]) {
        self.0.borrow_mut().fill_bytes(bytes);
    }
}
