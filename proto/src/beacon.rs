//! The beacon by which members find one another on a local network.
//!
//! It is sealed with a key of the gate epoch: to everyone else it is a
//! datagram of [`LENGTH`] random-looking bytes behind its first, with nothing
//! in it that stays the same. XChaCha20-Poly1305 with a random nonce, so that
//! senders need no counters in common.

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use rand_core::CryptoRng;

use crate::datagram::BEACON;
use crate::gate::GateSecret;
use crate::id::{BootId, NetworkId, NodeId};

/// The length of every beacon in bytes: kind, nonce, node, boot id, port, tag.
pub const LENGTH: usize = 1 + 24 + 32 + 16 + 2 + 16;

/// What a beacon says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beacon {
    /// Who speaks.
    pub node: NodeId,
    /// Which run of its daemon.
    pub boot: BootId,
    /// The port of its control plane, at the address the beacon came from.
    pub port: u16,
}

fn cipher(secret: &GateSecret) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(&secret.derive("epsilon/1 beacon").0.into())
}

impl Beacon {
    /// The datagram to send.
    pub fn seal(
        &self,
        secret: &GateSecret,
        network: NetworkId,
        random: &mut impl CryptoRng,
    ) -> Vec<u8> {
        let mut nonce = [0; 24];
        random.fill_bytes(&mut nonce);
        let message = [&self.node.0[..], &self.boot.0, &self.port.to_be_bytes()].concat();
        let sealed = cipher(secret)
            .encrypt(&XNonce::from(nonce), Payload { msg: &message, aad: &network.0 })
            .unwrap_or_default();
        debug_assert_eq!(1 + nonce.len() + sealed.len(), LENGTH);
        [&[BEACON][..], &nonce, &sealed].concat()
    }

    /// Reads a datagram; `None` for what no member of the epoch sealed.
    pub fn open(datagram: &[u8], secret: &GateSecret, network: NetworkId) -> Option<Self> {
        if datagram.len() != LENGTH {
            return None;
        }
        let (nonce, sealed) = datagram.strip_prefix(&[BEACON])?.split_first_chunk::<24>()?;
        let message = cipher(secret)
            .decrypt(&XNonce::from(*nonce), Payload { msg: sealed, aad: &network.0 })
            .ok()?;
        let (node, rest) = message.split_first_chunk::<32>()?;
        let (boot, port) = rest.split_first_chunk::<16>()?;
        Some(Self {
            node: NodeId(*node),
            boot: BootId(*boot),
            port: u16::from_be_bytes(port.try_into().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng as _;

    fn sample() -> (Beacon, GateSecret, NetworkId, rand_chacha::ChaCha20Rng) {
        let mut random = rand_chacha::ChaCha20Rng::from_seed([1; 32]);
        let secret = GateSecret::generate(1, &mut random);
        let beacon = Beacon { node: NodeId([7; 32]), boot: BootId([8; 16]), port: 7755 };
        (beacon, secret, NetworkId([1; 32]), random)
    }

    #[test]
    fn members_read_it_and_nobody_else() {
        let (beacon, secret, network, mut random) = sample();
        let datagram = beacon.seal(&secret, network, &mut random);
        assert_eq!(datagram.len(), LENGTH);
        assert_eq!(Beacon::open(&datagram, &secret, network), Some(beacon));
        let other = GateSecret::generate(1, &mut random);
        assert_eq!(Beacon::open(&datagram, &other, network), None);
        assert_eq!(Beacon::open(&datagram, &secret, NetworkId([2; 32])), None);
    }

    #[test]
    fn two_beacons_have_nothing_in_common() {
        let (beacon, secret, network, mut random) = sample();
        let one = beacon.seal(&secret, network, &mut random);
        let two = beacon.seal(&secret, network, &mut random);
        let equal = one.iter().zip(&two).skip(1).filter(|(a, b)| a == b).count();
        assert!(equal < 8, "{equal} equal bytes");
    }

    proptest::proptest! {
        #[test]
        fn junk_is_never_a_beacon(junk in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..128)) {
            let (_, secret, network, _) = sample();
            proptest::prop_assert_eq!(Beacon::open(&junk, &secret, network), None);
        }
    }
}
