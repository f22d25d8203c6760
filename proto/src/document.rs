//! Signed documents.
//!
//! A signature covers `epsilon/1/` ‖ document type ‖ `/` ‖ network id ‖ the
//! exact bytes received, never a re-encoding: a document cannot be passed off
//! as one of another type or of another network.
//!
//! [`Signed`] is what travels; it says nothing until [`Signed::verify`] has
//! turned it into [`Verified`], which cannot be made in another way. Copies of
//! either share one content, which is read and hashed once: a member keeps
//! those of a thousand others.

use std::sync::{Arc, OnceLock};

use crate::id::{Digest, NetworkId, PublicKey};
use crate::key::{SecretKey, Signature, SignatureCheck};
use crate::wire::{self, Bytes, Wire, WireError, wire_struct};

/// A kind of document that can be signed.
pub trait Document: Wire {
    /// Its name inside signatures: lower-case letters and dashes.
    const TYPE: &'static str;
    /// How many bytes one may have; longer ones are not even read.
    const MAX_BYTES: usize = 8 * 1024;
}

/// Why a document is not to be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// The signature does not fit key, type, network and bytes.
    #[error(
        "the signature of the {kind} by key {signer} is wrong: it was altered, or is of another network"
    )]
    Signature {
        /// The document's type.
        kind: &'static str,
        /// Whose signature it claims to be, shortened.
        signer: String,
    },
    /// Rightly signed, but not by the one who may.
    #[error("the {kind} is signed by key {signer}, which may not sign it")]
    Signer {
        /// The document's type.
        kind: &'static str,
        /// Who signed, shortened.
        signer: String,
    },
    /// The signed bytes are no such document.
    #[error("the {kind} is malformed: {error}")]
    Malformed {
        /// The document's type.
        kind: &'static str,
        /// What is wrong.
        error: WireError,
    },
}

/// A document as it travels: bytes, signer, signature; not yet believed.
pub struct Signed<T>(Arc<Content<T>>);

struct Content<T> {
    payload: Bytes,
    signer: PublicKey,
    signature: Signature,
    /// What the payload says, once somebody asked.
    document: OnceLock<Arc<T>>,
    digest: OnceLock<Digest>,
}

/// A document whose signature holds.
#[derive(Debug)]
pub struct Verified<T> {
    document: Arc<T>,
    signed: Signed<T>,
}

impl<T> Signed<T> {
    fn new(payload: Bytes, signer: PublicKey, signature: Signature) -> Self {
        let (document, digest) = (OnceLock::new(), OnceLock::new());
        Self(Arc::new(Content { payload, signer, signature, document, digest }))
    }

    /// Who claims to have signed.
    pub fn signer(&self) -> PublicKey {
        self.0.signer
    }
}

impl<T: Document> Signed<T> {
    /// Signs a document for a network.
    pub fn sign(document: &T, network: NetworkId, key: &SecretKey) -> Self {
        let payload = Bytes(wire::encode(document));
        let signature = key.sign(&message::<T>(network, &payload.0));
        Self::new(payload, key.public(), signature)
    }

    /// Checks the signature and reads the document. Whether the signer may
    /// sign it is the caller's question, unless it asks
    /// [`Signed::verify_by`].
    pub fn verify(
        &self,
        network: NetworkId,
        check: &dyn SignatureCheck,
    ) -> Result<Verified<T>, DocumentError> {
        let Content { payload, signer, signature, .. } = &*self.0;
        if !check.holds(signer, &message::<T>(network, &payload.0), signature) {
            return Err(DocumentError::Signature { kind: T::TYPE, signer: signer.short() });
        }
        let document =
            self.peek().map_err(|error| DocumentError::Malformed { kind: T::TYPE, error })?;
        Ok(Verified { document, signed: self.clone() })
    }

    /// Like [`Signed::verify`], by that signer and no other.
    pub fn verify_by(
        &self,
        signer: PublicKey,
        network: NetworkId,
        check: &dyn SignatureCheck,
    ) -> Result<Verified<T>, DocumentError> {
        if self.signer() != signer {
            return Err(DocumentError::Signer { kind: T::TYPE, signer: self.signer().short() });
        }
        self.verify(network, check)
    }

    /// Reads the document without believing it: for display, and to find out
    /// what is needed to verify it.
    pub fn peek(&self) -> Result<Arc<T>, WireError> {
        if let Some(document) = self.0.document.get() {
            return Ok(Arc::clone(document));
        }
        let document = Arc::new(wire::decode(&self.0.payload.0)?);
        Ok(Arc::clone(self.0.document.get_or_init(|| document)))
    }

    /// The hash of everything that travels.
    pub fn digest(&self) -> Digest {
        *self.0.digest.get_or_init(|| Digest::of(&wire::encode(self)))
    }
}

fn message<T: Document>(network: NetworkId, payload: &[u8]) -> Vec<u8> {
    [b"epsilon/1/", T::TYPE.as_bytes(), b"/", &network.0, payload].concat()
}

impl<T> Verified<T> {
    /// The document as it travels.
    pub fn signed(&self) -> &Signed<T> {
        &self.signed
    }

    /// Who signed it.
    pub fn signer(&self) -> PublicKey {
        self.signed.signer()
    }
}

impl<T: Document> Verified<T> {
    /// Signs a document of one's own; it needs no check.
    pub fn sign(document: T, network: NetworkId, key: &SecretKey) -> Self {
        let signed = Signed::sign(&document, network, key);
        let document = Arc::clone(signed.0.document.get_or_init(|| Arc::new(document)));
        Self { document, signed }
    }
}

impl<T> std::ops::Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.document
    }
}

impl<T> PartialEq for Verified<T> {
    fn eq(&self, other: &Self) -> bool {
        self.signed == other.signed
    }
}
impl<T> Eq for Verified<T> {}

impl<T> Clone for Verified<T> {
    fn clone(&self) -> Self {
        Self { document: Arc::clone(&self.document), signed: self.signed.clone() }
    }
}

impl<T> Clone for Signed<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> PartialEq for Signed<T> {
    fn eq(&self, other: &Self) -> bool {
        let [one, other] = [&self.0, &other.0];
        Arc::ptr_eq(one, other)
            || (&one.payload, one.signer, one.signature)
                == (&other.payload, other.signer, other.signature)
    }
}
impl<T> Eq for Signed<T> {}

impl<T> std::fmt::Debug for Signed<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signed({:?} by {})", self.0.payload, self.signer().short())
    }
}

/// The parts of a [`Signed`], without its type.
struct Envelope {
    payload: Bytes,
    signer: PublicKey,
    signature: Signature,
}
wire_struct!(Envelope { 0 => payload, 1 => signer, 2 => signature });

impl<T: Document> Wire for Signed<T> {
    fn write(&self, to: &mut wire::Writer) {
        let Content { payload, signer, signature, .. } = &*self.0;
        Envelope { payload: payload.clone(), signer: *signer, signature: *signature }.write(to);
    }
    fn read(from: &mut wire::Reader<'_>) -> Result<Self, WireError> {
        let Envelope { payload, signer, signature } = Envelope::read(from)?;
        if payload.0.len() > T::MAX_BYTES {
            return Err(WireError::Invalid("a document is too long"));
        }
        Ok(Self::new(payload, signer, signature))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Strict;

    #[derive(Debug, Clone, PartialEq)]
    struct Note {
        text: String,
    }
    wire_struct!(Note { 0 => text });
    impl Document for Note {
        const TYPE: &'static str = "note";
    }

    #[derive(Debug, Clone, PartialEq)]
    struct Other {
        text: String,
    }
    wire_struct!(Other { 0 => text });
    impl Document for Other {
        const TYPE: &'static str = "other";
    }

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed(&[seed; 32])
    }

    const NETWORK: NetworkId = NetworkId([9; 32]);

    fn note() -> Signed<Note> {
        Signed::sign(&Note { text: "hello".into() }, NETWORK, &key(1))
    }

    #[test]
    fn a_signed_document_is_believed() {
        let travelled: Signed<Note> = wire::decode(&wire::encode(&note())).unwrap();
        let verified = travelled.verify_by(key(1).public(), NETWORK, &Strict).unwrap();
        assert_eq!(verified.text, "hello");
    }

    #[test]
    fn every_altered_byte_is_noticed() {
        let bytes = wire::encode(&note());
        for position in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[position] ^= 1;
            let believed = wire::decode::<Signed<Note>>(&altered)
                .is_ok_and(|signed| signed.verify_by(key(1).public(), NETWORK, &Strict).is_ok());
            assert!(!believed, "byte {position}");
        }
    }

    #[test]
    fn another_network_type_or_signer_is_refused() {
        assert!(note().verify(NetworkId([8; 32]), &Strict).is_err());
        let other: Signed<Other> = wire::decode(&wire::encode(&note())).unwrap();
        assert!(other.verify(NETWORK, &Strict).is_err());
        assert!(matches!(
            note().verify_by(key(2).public(), NETWORK, &Strict),
            Err(DocumentError::Signer { .. })
        ));
    }
}
