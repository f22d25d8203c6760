//! Boxes that one node alone can open.
//!
//! HPKE (RFC 9180) in base mode with X25519, HKDF-SHA256 and
//! ChaCha20-Poly1305. Who sealed a box is said by the signature of the
//! document that carries it. `info` binds purpose, network and recipient, so
//! that a box cannot be passed on to serve another end.

use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::{Kem, X25519HkdfSha256};
use hpke::{Deserializable, OpModeR, OpModeS, Serializable};
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::id::{NetworkId, NodeId};
use crate::key::SecretKey;
use crate::wire::{Bytes, wire_struct};

/// What a box is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A gate epoch's secret.
    GateSecret,
    /// The secrets with which a node joins the cluster.
    ClusterSecrets,
}

impl Purpose {
    fn text(self) -> &'static str {
        match self {
            Self::GateSecret => "gate-secret",
            Self::ClusterSecrets => "cluster-secrets",
        }
    }
}

/// A message that one node alone can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedBox {
    /// The encapsulated key.
    encapsulated: Bytes,
    /// The ciphertext with its tag.
    ciphertext: Bytes,
}
wire_struct!(SealedBox { 0 => encapsulated, 1 => ciphertext });

/// Why a box could not be made or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The recipient's key is no usable one.
    #[error("the recipient's key is not a usable one")]
    Recipient,
    /// Altered, or for another recipient, purpose or network.
    #[error("the sealed box is for another recipient, purpose or network, or was altered")]
    Open,
}

fn info(purpose: Purpose, network: NetworkId, recipient: NodeId) -> Vec<u8> {
    [b"epsilon/1/sealed/", purpose.text().as_bytes(), b"/", &network.0, &recipient.0].concat()
}

impl SealedBox {
    /// Seals a message to a node.
    pub fn seal(
        message: &[u8],
        purpose: Purpose,
        network: NetworkId,
        recipient: NodeId,
        random: &mut impl CryptoRng,
    ) -> Result<Self, SealError> {
        let key = recipient.key().agreement().ok_or(SealError::Recipient)?;
        let key = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&key.0)
            .map_err(|_| SealError::Recipient)?;
        let (encapsulated, ciphertext) =
            hpke::single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
                &OpModeS::Base,
                &key,
                &info(purpose, network, recipient),
                message,
                &[],
                random,
            )
            .map_err(|_| SealError::Recipient)?;
        Ok(Self {
            encapsulated: Bytes(encapsulated.to_bytes().to_vec()),
            ciphertext: Bytes(ciphertext),
        })
    }

    /// Opens a box that was sealed to this key.
    pub fn open(
        &self,
        purpose: Purpose,
        network: NetworkId,
        key: &SecretKey,
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let secret = <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(&*key.agreement_secret())
            .map_err(|_| SealError::Open)?;
        let encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(&self.encapsulated.0)
            .map_err(|_| SealError::Open)?;
        hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &secret,
            &encapsulated,
            &info(purpose, network, key.node()),
            &self.ciphertext.0,
            &[],
        )
        .map(Zeroizing::new)
        .map_err(|_| SealError::Open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng as _;

    #[test]
    fn only_the_recipient_opens_a_box_and_only_for_its_purpose() {
        let mut random = rand_chacha::ChaCha20Rng::from_seed([3; 32]);
        let (alice, bob) = (SecretKey::generate(&mut random), SecretKey::generate(&mut random));
        let network = NetworkId([1; 32]);
        let purpose = Purpose::GateSecret;
        let sealed =
            SealedBox::seal(b"secret", purpose, network, alice.node(), &mut random).unwrap();
        assert_eq!(&**sealed.open(purpose, network, &alice).unwrap(), b"secret");
        assert_eq!(sealed.open(purpose, network, &bob), Err(SealError::Open));
        assert_eq!(sealed.open(Purpose::ClusterSecrets, network, &alice), Err(SealError::Open));
        assert_eq!(sealed.open(purpose, NetworkId([2; 32]), &alice), Err(SealError::Open));
    }

    #[test]
    fn an_altered_box_is_refused_and_a_weak_recipient_too() {
        let mut random = rand_chacha::ChaCha20Rng::from_seed([3; 32]);
        let alice = SecretKey::generate(&mut random);
        let network = NetworkId([1; 32]);
        let mut sealed =
            SealedBox::seal(b"s", Purpose::GateSecret, network, alice.node(), &mut random).unwrap();
        sealed.ciphertext.0[0] ^= 1;
        assert!(sealed.open(Purpose::GateSecret, network, &alice).is_err());
        let weak = NodeId([0; 32]);
        assert_eq!(
            SealedBox::seal(b"s", Purpose::GateSecret, network, weak, &mut random),
            Err(SealError::Recipient)
        );
    }
}
