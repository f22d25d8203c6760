//! The gate: what a dialler must show before this node says a single byte.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};

/// Bytes in a greeting: a nonce of 32, then a MAC of 32.
pub const GREETING: usize = 64;

/// Bytes of the nonce at the front of a greeting.
const NONCE: usize = 32;

/// The network's key at work on both ends of a new TCP connection.
///
/// Both calls are made on the accept path for every stranger: they must be
/// quick and must not block.
pub trait Gate: Send + Sync {
    /// A fresh greeting for one dial: nonce ‖ MAC. Which of the gate's secrets
    /// makes it is said by its place; the last where there are fewer.
    fn greet(&self, secret: usize) -> [u8; GREETING];
    /// The lane that a received greeting opens, or `None` when it opens none.
    ///
    /// Replays are refused elsewhere, after this has said yes.
    fn check(&self, greeting: &[u8; GREETING]) -> Option<Lane>;
}

/// How a greeting lets its connection in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Under the current gate epoch.
    Current,
    /// Under an older gate epoch: capped separately.
    Slow,
}

/// The nonces of the last good greetings, so that a recorded one opens nothing.
///
/// Only greetings that passed the gate are remembered: who has no key cannot
/// push anything out.
pub(super) struct Replays {
    most: usize,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    order: VecDeque<[u8; NONCE]>,
    known: BTreeSet<[u8; NONCE]>,
}

impl Replays {
    /// A memory for `most` greetings.
    pub(super) fn new(most: usize) -> Self {
        Self { most: most.max(1), seen: Mutex::default() }
    }

    /// Whether this greeting, good as it is, is seen for the first time.
    pub(super) fn first_time(&self, greeting: &[u8; GREETING]) -> bool {
        let mut nonce = [0; NONCE];
        nonce.copy_from_slice(&greeting[..NONCE]);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !seen.known.insert(nonce) {
            return false;
        }
        seen.order.push_back(nonce);
        if seen.order.len() > self.most
            && let Some(oldest) = seen.order.pop_front()
        {
            seen.known.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_counts_once_and_the_memory_is_bounded() {
        let replays = Replays::new(3);
        assert!(replays.first_time(&[1; GREETING]));
        assert!(!replays.first_time(&[1; GREETING]));
        for nonce in 2..=4 {
            assert!(replays.first_time(&[nonce; GREETING]));
        }
        assert!(!replays.first_time(&[4; GREETING]));
        assert!(replays.first_time(&[1; GREETING]), "forgotten by now");
        let seen = replays.seen.lock().unwrap();
        assert_eq!((seen.order.len(), seen.known.len()), (3, 3));
    }
}
