//! Names for things that are keys or hashes.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE32_NOPAD, Specification};

use crate::key::AgreementKey;
use crate::wire::wire_bytes;

/// Lower-case base32 (RFC 4648 alphabet) without padding.
fn base32(bytes: &[u8]) -> String {
    BASE32_NOPAD.encode(bytes).to_ascii_lowercase()
}

fn base32_decode(text: &str) -> Option<Vec<u8>> {
    let mut specification = Specification::new();
    specification.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    specification.encoding().ok()?.decode(text.as_bytes()).ok()
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $length:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name(pub [u8; $length]);

        wire_bytes!($name, $length);

        impl Ord for $name {
            /// The order of the bytes. The first of them tell as good as always, and a
            /// number is compared faster than a slice.
            fn cmp(&self, other: &Self) -> Ordering {
                self.prefix().cmp(&other.prefix()).then_with(|| self.0.cmp(&other.0))
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl $name {
            fn prefix(&self) -> u64 {
                self.0.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
            }

            /// The first ten characters of the text form: enough for a
            /// person to tell a handful apart.
            pub fn short(&self) -> String {
                let mut text = self.to_string();
                text.truncate(10);
                text
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&base32(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                base32_decode(text)
                    .and_then(|bytes| bytes.try_into().ok())
                    .map(Self)
                    .ok_or_else(|| IdError(text.to_owned()))
            }
        }
    };
}

/// A text that is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an identifier (lower-case base32 of the right length)")]
pub struct IdError(String);

identifier!(
    /// An ed25519 public key (RFC 8032) that signs documents.
    PublicKey, 32
);
identifier!(
    /// A network: the public key of its root.
    NetworkId, 32
);
identifier!(
    /// A node: its ed25519 public key.
    NodeId, 32
);
identifier!(
    /// One run of a daemon: 16 random bytes per start.
    BootId, 16
);
identifier!(
    /// A device: the hash of its owner and its WireGuard key, so that nobody
    /// else can have it.
    DeviceId, 32
);
identifier!(
    /// A BLAKE3 hash.
    Digest, 32
);

impl DeviceId {
    /// The device of this owner that has this key.
    pub fn of(owner: NodeId, key: AgreementKey) -> Self {
        Self(Digest::of_parts("epsilon/1 device", &[&owner.0, &key.0]).0)
    }
}

impl Digest {
    /// The hash of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The hash of several parts under a context, with unambiguous borders.
    pub fn of_parts(context: &str, parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self(*hasher.finalize().as_bytes())
    }
}

impl NodeId {
    /// The key that the node signs with.
    pub fn key(self) -> PublicKey {
        PublicKey(self.0)
    }
}

impl From<PublicKey> for NodeId {
    fn from(key: PublicKey) -> Self {
        Self(key.0)
    }
}

impl NetworkId {
    /// The root key.
    pub fn root(self) -> PublicKey {
        PublicKey(self.0)
    }
}

impl From<PublicKey> for NetworkId {
    fn from(key: PublicKey) -> Self {
        Self(key.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_survives_its_text_form() {
        let id = NodeId([0xA5; 32]);
        assert_eq!(id.to_string().parse::<NodeId>(), Ok(id));
        assert_eq!(id.to_string().len(), 52);
    }

    #[test]
    fn identifiers_are_in_the_order_of_their_bytes() {
        let ids: Vec<NodeId> = (0..32)
            .flat_map(|place| [0, 1, 0x7f, 0x80, 0xff].map(|byte| (place, byte)))
            .map(|(place, byte)| {
                let mut id = [0x80; 32];
                id[place] = byte;
                NodeId(id)
            })
            .collect();
        for one in &ids {
            for other in &ids {
                assert_eq!(one.cmp(other), one.0.cmp(&other.0));
            }
        }
    }

    #[test]
    fn a_text_of_another_length_or_alphabet_is_refused() {
        for text in ["", "a", "ab!", &"a".repeat(51), &"A".repeat(52)] {
            assert!(text.parse::<NodeId>().is_err(), "{text}");
        }
    }

    #[test]
    fn parts_have_borders() {
        assert_ne!(Digest::of_parts("t", &[b"ab", b"c"]), Digest::of_parts("t", &[b"a", b"bc"]));
    }
}
