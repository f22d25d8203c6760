//! Secret keys and what they can do.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use rand_core::CryptoRng;
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

use crate::id::{NetworkId, NodeId, PublicKey};
use crate::wire::wire_bytes;

/// An ed25519 signature (RFC 8032).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature(pub [u8; 64]);

wire_bytes!(Signature, 64);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature(..)")
    }
}

/// An X25519 public key (RFC 7748): the WireGuard and sealing key of a node, or
/// the WireGuard key of a device. Its text form is WireGuard's: base64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgreementKey(pub [u8; 32]);

wire_bytes!(AgreementKey, 32);

/// A text that is not a WireGuard key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a WireGuard public key (44 characters of base64, as `wg pubkey` prints)")]
pub struct AgreementKeyError(String);

impl AgreementKey {
    /// The public half of an X25519 secret.
    pub fn of_secret(secret: &[u8; 32]) -> Self {
        Self(x25519_dalek::PublicKey::from(&StaticSecret::from(*secret)).to_bytes())
    }

    /// Whether secrets agreed with the key are worth something: with a point of
    /// small order they are the same for everybody (RFC 7748, section 6.1).
    pub fn is_strong(&self) -> bool {
        let any = StaticSecret::from([0; 32]);
        any.diffie_hellman(&x25519_dalek::PublicKey::from(self.0)).was_contributory()
    }

    /// The first ten characters of the text form: enough for a person to tell
    /// a handful apart.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(10);
        text
    }
}

impl fmt::Display for AgreementKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        data_encoding::BASE64.encode_display(&self.0).fmt(f)
    }
}

impl fmt::Debug for AgreementKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AgreementKey({})", self.short())
    }
}

impl FromStr for AgreementKey {
    type Err = AgreementKeyError;
    fn from_str(text: &str) -> Result<Self, AgreementKeyError> {
        let bytes = data_encoding::BASE64.decode(text.as_bytes()).ok();
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| AgreementKeyError(text.to_owned()))
    }
}

/// An ed25519 secret key; erased from memory when dropped, never printed.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.public().short())
    }
}

impl SecretKey {
    /// A new key from the randomness handed in.
    pub fn generate(random: &mut impl CryptoRng) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        random.fill_bytes(&mut *seed);
        Self::from_seed(&seed)
    }

    /// The key of a 32-byte seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The seed, to be kept in a file of mode 0600.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// The node whose identity this is.
    pub fn node(&self) -> NodeId {
        self.public().into()
    }

    /// The network whose root this is.
    pub fn network(&self) -> NetworkId {
        self.public().into()
    }

    /// The X25519 secret that belongs to [`PublicKey::agreement`].
    pub fn agreement_secret(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_scalar_bytes())
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message).to_bytes())
    }
}

impl PublicKey {
    /// The X25519 form of the key (the birational map of RFC 7748, section
    /// 4.1), so that nobody can claim another's.
    ///
    /// `None` when the bytes are no point of the curve or one of small order.
    pub fn agreement(&self) -> Option<AgreementKey> {
        let key = VerifyingKey::from_bytes(&self.0).ok().filter(|key| !key.is_weak())?;
        Some(AgreementKey(key.to_montgomery().to_bytes()))
    }
}

/// Checks signatures. The simulator hands in one that remembers by content
/// hash what it has checked; everyone else uses [`Strict`].
pub trait SignatureCheck {
    /// Whether `signature` over `message` is by `key`.
    fn holds(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool;
}

/// RFC 8032 verification that also refuses keys and points of small order, so
/// that a signature fits one key and one message.
#[derive(Debug, Clone, Copy, Default)]
pub struct Strict;

impl SignatureCheck for Strict {
    fn holds(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        VerifyingKey::from_bytes(&key.0).is_ok_and(|key| {
            key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(&signature.0)).is_ok()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_halves_map_to_the_same_x25519_key() {
        for seed in 0..32 {
            let key = SecretKey::from_seed(&[seed; 32]);
            let public = AgreementKey::of_secret(&key.agreement_secret());
            assert_eq!(key.public().agreement(), Some(public));
            assert!(public.is_strong());
            assert_eq!(public.to_string().parse(), Ok(public));
        }
    }

    #[test]
    fn points_of_small_order_are_no_strong_keys_and_other_texts_are_none() {
        let mut order_four = [0; 32];
        order_four[0] = 1;
        assert!(!AgreementKey([0; 32]).is_strong() && !AgreementKey(order_four).is_strong());
        for text in ["", "AQEB", "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE", "phone"] {
            let error = text.parse::<AgreementKey>().unwrap_err().to_string();
            assert!(error.contains("wg pubkey"), "{error}");
        }
    }

    #[test]
    fn a_weak_key_has_no_agreement_form_and_verifies_nothing() {
        let mut identity = [0; 32];
        identity[0] = 1;
        let weak = PublicKey(identity);
        assert_eq!(weak.agreement(), None);
        let mut signature = [0; 64];
        signature[0] = 1;
        assert!(!Strict.holds(&weak, b"anything", &Signature(signature)));
    }

    #[test]
    fn debug_never_shows_the_secret() {
        let key = SecretKey::from_seed(&[7; 32]);
        assert_eq!(format!("{key:?}"), format!("SecretKey(of {})", key.public().short()));
    }
}
