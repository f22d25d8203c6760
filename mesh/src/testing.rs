//! Keys and documents for the tests of this crate.

use epsilon_proto::document::{Document, Signed};
use epsilon_proto::id::NodeId;
use epsilon_proto::key::SecretKey;

pub(crate) fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

pub(crate) fn root() -> SecretKey {
    key(100)
}

pub(crate) fn node(seed: u8) -> NodeId {
    key(seed).node()
}

pub(crate) fn sign<T: Document>(document: &T, signer: &SecretKey) -> Signed<T> {
    Signed::sign(document, root().network(), signer)
}
