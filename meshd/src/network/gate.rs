//! The gate's secrets, shared with the accept path.

use std::sync::{PoisonError, RwLock};

use epsilon_proto::gate::GateSecret;
use epsilon_proto::id::NetworkId;

use crate::control::{GREETING, Gate, Lane};
use crate::random;

/// Opens to every known secret.
pub(super) struct Secrets {
    network: NetworkId,
    secrets: RwLock<Vec<GateSecret>>,
}

impl Secrets {
    pub(super) fn new(network: NetworkId) -> Self {
        Self { network, secrets: RwLock::default() }
    }

    /// The secrets from now on, newest first.
    pub(super) fn set(&self, secrets: Vec<GateSecret>) {
        *self.secrets.write().unwrap_or_else(PoisonError::into_inner) = secrets;
    }
}

impl Gate for Secrets {
    fn greet(&self, secret: usize) -> [u8; GREETING] {
        let secrets = self.secrets.read().unwrap_or_else(PoisonError::into_inner);
        match secrets.get(secret).or(secrets.last()) {
            Some(secret) => secret.greeting(self.network, random::bytes()),
            // Opens nothing, as it should.
            None => random::bytes(),
        }
    }

    fn check(&self, greeting: &[u8; GREETING]) -> Option<Lane> {
        let secrets = self.secrets.read().unwrap_or_else(PoisonError::into_inner);
        let current = secrets.first()?.epoch;
        secrets
            .iter()
            .find(|secret| secret.admits(self.network, greeting))
            .map(|secret| if secret.epoch == current { Lane::Current } else { Lane::Slow })
    }
}
