//! The gate's secrets, shared with the accept path.

use std::sync::{PoisonError, RwLock};

use epsilon_proto::gate::GateSecret;
use epsilon_proto::id::NetworkId;

use crate::control::{GREETING, Gate, Lane};
use crate::random;

/// Opens to every known secret.
pub(super) struct Secrets {
    network: NetworkId,
    /// And how many of the first are current.
    secrets: RwLock<(Vec<GateSecret>, usize)>,
}

impl Secrets {
    pub(super) fn new(network: NetworkId) -> Self {
        Self { network, secrets: RwLock::default() }
    }

    /// The secrets from now on, in the order in which they are tried; so many
    /// of the first are current.
    pub(super) fn set(&self, secrets: Vec<GateSecret>, current: usize) {
        *self.secrets.write().unwrap_or_else(PoisonError::into_inner) = (secrets, current);
    }
}

impl Gate for Secrets {
    fn greet(&self, secret: usize) -> [u8; GREETING] {
        let (secrets, _) = &*self.secrets.read().unwrap_or_else(PoisonError::into_inner);
        match secrets.get(secret).or(secrets.last()) {
            Some(secret) => secret.greeting(self.network, random::bytes()),
            // Opens nothing, as it should.
            None => random::bytes(),
        }
    }

    fn check(&self, greeting: &[u8; GREETING]) -> Option<Lane> {
        let (secrets, current) = &*self.secrets.read().unwrap_or_else(PoisonError::into_inner);
        let place = secrets.iter().position(|secret| secret.admits(self.network, greeting))?;
        Some(if place < *current { Lane::Current } else { Lane::Slow })
    }
}
