//! What the tests have in common: fleets, nodes, and waiting.

mod dice;
mod fleet;
mod node;
mod wire;

use std::path::PathBuf;
use std::time::Duration;

use epsilon_cli::lab::preflight;
use tokio::time::{Instant, sleep};

pub(crate) use dice::Dice;
pub(crate) use fleet::Fleet;
pub(crate) use node::Node;
pub(crate) use wire::{Stream, within};

/// Enough for whatever should happen soon, on a machine that is busy with
/// other tests.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// From one look to the next.
const PAUSE: Duration = Duration::from_millis(40);

/// Looks again and again until `look` is `Ok`, and fails with its last answer
/// when it is not within `limit`.
pub(crate) async fn until_within<T>(
    limit: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(reason) if Instant::now() >= deadline => {
                panic!("not within {limit:?}: {what}: {reason}")
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// The same, soon.
pub(crate) async fn until<T>(what: &str, look: impl AsyncFnMut() -> Result<T, String>) -> T {
    until_within(SOON, what, look).await
}

/// `Ok` when it holds, else what it is instead.
pub(crate) fn holds(condition: bool, instead: impl std::fmt::Debug) -> Result<(), String> {
    if condition { Ok(()) } else { Err(format!("{instead:?}")) }
}

/// Whether these tests are to run; fails the test where they cannot.
pub(crate) fn possible() -> bool {
    if std::env::var_os("EPSILON_E2E").is_some_and(|value| value == "off") {
        eprintln!("not tested: EPSILON_E2E is off");
        return false;
    }
    if let Err(error) = preflight() {
        panic!("{error}; or leave the end-to-end tests out with EPSILON_E2E=off");
    }
    program("meshd");
    true
}

/// A program of the build under test.
pub(crate) fn program(name: &str) -> PathBuf {
    let directory = std::env::var_os("EPSILON_BIN_DIR").map_or_else(
        || {
            let own = std::env::current_exe().unwrap();
            own.parent().and_then(std::path::Path::parent).unwrap().to_owned()
        },
        PathBuf::from,
    );
    let path = directory.join(name);
    assert!(
        path.is_file(),
        "{} is not there; build it with: cargo build -p meshd -p epsilon-cli",
        path.display()
    );
    std::fs::canonicalize(path).unwrap()
}
