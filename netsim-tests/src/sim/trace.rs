//! The run in one hash: equal for equal runs.

use std::time::Duration;

/// A hash over everything that went into and came out of any node.
pub(crate) struct Trace {
    hasher: blake3::Hasher,
    pub(crate) events: u64,
}

impl Trace {
    pub(crate) fn new() -> Self {
        Self { hasher: blake3::Hasher::new(), events: 0 }
    }

    pub(crate) fn note(&mut self, at: Duration, machine: usize, kind: &str, payload: &[u8]) {
        self.events += 1;
        let mut head = [0; 24];
        head[..8].copy_from_slice(&(at.as_nanos() as u64).to_le_bytes());
        head[8..16].copy_from_slice(&(machine as u64).to_le_bytes());
        head[16..].copy_from_slice(&(payload.len() as u64).to_le_bytes());
        self.hasher.update(&head).update(kind.as_bytes()).update(payload);
    }

    pub(crate) fn hash(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }
}
