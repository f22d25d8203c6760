//! The gate: what a dialler must say before anyone answers.
//!
//! A greeting is nonce ‖ MAC under the secret of a gate epoch. Whoever has no
//! secret cannot make one, and gets no byte back. Each epoch is minted by a
//! revocation; greetings under an older one open only a slow lane, in which
//! the caller can learn of the current one.

use rand_core::CryptoRng;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::id::{Digest, NetworkId};
use crate::wire::{Reader, Wire, WireError, Writer, wire_struct};

/// The bytes of a greeting: a nonce of 32, a MAC of 32.
pub const GREETING: usize = 64;

/// The secret of one gate epoch; erased from memory when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct GateSecret {
    /// Counts up.
    #[zeroize(skip)]
    pub epoch: u32,
    secret: SecretBytes,
}
wire_struct!(GateSecret { 0 => epoch, 1 => secret });

impl std::fmt::Debug for GateSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GateSecret(epoch {})", self.epoch)
    }
}

/// 32 secret bytes; erased from memory when dropped, never printed.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct SecretBytes(pub [u8; 32]);

impl std::fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretBytes(..)")
    }
}

impl Wire for SecretBytes {
    fn write(&self, to: &mut Writer) {
        to.bytes(&self.0);
    }
    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        from.bytes()?.try_into().map(Self).map_err(|_| WireError::Invalid("secret"))
    }
}

impl GateSecret {
    /// A new secret for an epoch.
    pub fn generate(epoch: u32, random: &mut impl CryptoRng) -> Self {
        let mut secret = SecretBytes([0; 32]);
        random.fill_bytes(&mut secret.0);
        Self { epoch, secret }
    }

    /// The secret of an epoch that travelled sealed; `None` when `check` says
    /// that it is another one.
    pub fn from_bytes(epoch: u32, bytes: &[u8], check: Digest) -> Option<Self> {
        let secret = SecretBytes(bytes.try_into().ok()?);
        let secret = Self { epoch, secret };
        (secret.check() == check).then_some(secret)
    }

    /// The bytes, for sealing them to a member.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.secret.0
    }

    /// What tells this secret from another without showing it.
    pub fn check(&self) -> Digest {
        Digest::of_parts("epsilon/1 gate check", &[&self.epoch.to_le_bytes(), &self.secret.0])
    }

    /// A key of its own for another use of the secret.
    pub fn derive(&self, context: &str) -> SecretBytes {
        SecretBytes(blake3::derive_key(context, &self.secret.0))
    }

    /// A greeting with this nonce.
    pub fn greeting(&self, network: NetworkId, nonce: [u8; 32]) -> [u8; GREETING] {
        let mut greeting = [0; GREETING];
        greeting[..32].copy_from_slice(&nonce);
        greeting[32..].copy_from_slice(self.mac(network, &nonce).as_bytes());
        greeting
    }

    /// Whether a greeting was made with this secret.
    pub fn admits(&self, network: NetworkId, greeting: &[u8; GREETING]) -> bool {
        let (nonce, mac) = greeting.split_at(32);
        // `blake3::Hash` compares in constant time.
        <[u8; 32]>::try_from(mac)
            .is_ok_and(|mac| self.mac(network, nonce) == blake3::Hash::from(mac))
    }

    fn mac(&self, network: NetworkId, nonce: &[u8]) -> blake3::Hash {
        let key = self.derive("epsilon/1 gate greeting");
        blake3::Hasher::new_keyed(&key.0).update(&network.0).update(nonce).finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng as _;

    #[test]
    fn a_greeting_opens_its_own_epoch_and_network_only() {
        let mut random = rand_chacha::ChaCha20Rng::from_seed([1; 32]);
        let (old, new) =
            (GateSecret::generate(1, &mut random), GateSecret::generate(2, &mut random));
        let network = NetworkId([1; 32]);
        let greeting = new.greeting(network, [5; 32]);
        assert!(new.admits(network, &greeting));
        assert!(!old.admits(network, &greeting));
        assert!(!new.admits(NetworkId([2; 32]), &greeting));
        for position in 0..GREETING {
            let mut altered = greeting;
            altered[position] ^= 1;
            assert!(!new.admits(network, &altered));
        }
    }

    #[test]
    fn a_secret_that_travelled_is_checked() {
        let mut random = rand_chacha::ChaCha20Rng::from_seed([1; 32]);
        let secret = GateSecret::generate(4, &mut random);
        let check = secret.check();
        assert_eq!(GateSecret::from_bytes(4, secret.bytes(), check), Some(secret.clone()));
        assert_eq!(GateSecret::from_bytes(5, secret.bytes(), check), None);
        assert_eq!(GateSecret::from_bytes(4, &secret.bytes()[..31], check), None);
    }

    #[test]
    fn debug_never_shows_a_secret() {
        let mut random = rand_chacha::ChaCha20Rng::from_seed([1; 32]);
        assert_eq!(format!("{:?}", GateSecret::generate(4, &mut random)), "GateSecret(epoch 4)");
    }
}
