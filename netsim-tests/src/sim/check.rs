//! Signature checks that are made once in a run, whoever asks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use epsilon_proto::id::PublicKey;
use epsilon_proto::key::{Signature, SignatureCheck, Strict};

/// [`Strict`], remembered by content hash for all nodes of a run.
#[derive(Clone, Default)]
pub(crate) struct Remembering(Arc<Mutex<HashMap<[u8; 32], bool>>>);

impl SignatureCheck for Remembering {
    fn holds(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&key.0).update(&signature.0).update(message);
        let content = *hasher.finalize().as_bytes();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known.entry(content).or_insert_with(|| Strict.holds(key, message, signature))
    }
}
