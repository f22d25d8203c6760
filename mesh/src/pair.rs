//! What two runs of two daemons share without a word between them: secrets that
//! follow from their keys, and which counters of the other were seen.

use epsilon_proto::id::{BootId, NetworkId, NodeId};
use epsilon_proto::key::SecretKey;
use hkdf::Hkdf;
use sha2::Sha256;

/// The two runs.
pub(crate) struct Pair {
    derivation: Hkdf<Sha256>,
    network: NetworkId,
    own: (NodeId, BootId),
    peer: (NodeId, BootId),
}

impl Pair {
    /// HKDF-SHA256 of the X25519 secret that both share. `None` if the peer's key is
    /// not one that an honest node can have.
    pub(crate) fn new(
        own: &SecretKey,
        peer: NodeId,
        network: NetworkId,
        (own_boot, peer_boot): (BootId, BootId),
    ) -> Option<Self> {
        let secret = x25519_dalek::StaticSecret::from(*own.agreement_secret());
        let public = x25519_dalek::PublicKey::from(peer.key().agreement()?.0);
        let shared = secret.diffie_hellman(&public);
        if !shared.was_contributory() {
            return None;
        }
        let derivation = Hkdf::<Sha256>::new(None, shared.as_bytes());
        Some(Self { derivation, network, own: (own.node(), own_boot), peer: (peer, peer_boot) })
    }

    /// Fills in a secret for what this node sends, or for what the peer does: one for
    /// each purpose and pair of runs, so that nothing recorded before a restart is
    /// of use after it.
    pub(crate) fn secret(&self, purpose: &str, is_outbound: bool, into: &mut [u8]) -> Option<()> {
        let (sender, receiver) =
            if is_outbound { (&self.own, &self.peer) } else { (&self.peer, &self.own) };
        let parts: [&[u8]; 8] = [
            b"epsilon/1/",
            purpose.as_bytes(),
            b"/",
            &self.network.0,
            &sender.0.0,
            &receiver.0.0,
            &sender.1.0,
            &receiver.1.0,
        ];
        self.derivation.expand_multi_info(&parts, into).ok()
    }
}

/// Lets each counter pass once, and none that is far behind the highest
/// (RFC 6479's idea for a window of 128).
#[derive(Debug, Default)]
pub(crate) struct Window {
    highest: u64,
    /// Bit n: the counter n below the highest was seen.
    seen: u128,
}

impl Window {
    /// Whether an authenticated counter is new; from then on it is not.
    pub(crate) fn admit(&mut self, counter: u64) -> bool {
        if counter > self.highest {
            let ahead = u32::try_from(counter - self.highest).unwrap_or(u32::MAX);
            self.seen = self.seen.checked_shl(ahead).unwrap_or(0) | 1;
            self.highest = counter;
            return true;
        }
        let behind = u32::try_from(self.highest - counter).unwrap_or(u32::MAX);
        let Some(bit) = 1u128.checked_shl(behind) else { return false };
        let new = self.seen & bit == 0;
        self.seen |= bit;
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NETWORK: NetworkId = NetworkId([9; 32]);

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed(&[seed; 32])
    }

    fn secret(pair: &Pair, purpose: &str, is_outbound: bool) -> [u8; 32] {
        let mut into = [0; 32];
        pair.secret(purpose, is_outbound, &mut into).unwrap();
        into
    }

    fn pair(own: u8, peer: u8, network: NetworkId, boots: (u8, u8)) -> Pair {
        let boots = (BootId([boots.0; 16]), BootId([boots.1; 16]));
        Pair::new(&key(own), key(peer).node(), network, boots).unwrap()
    }

    #[test]
    fn both_have_the_same_secrets_one_for_each_way() {
        let (one, other) = (pair(1, 2, NETWORK, (10, 20)), pair(2, 1, NETWORK, (20, 10)));
        assert_eq!(secret(&one, "probe", true), secret(&other, "probe", false));
        assert_eq!(secret(&one, "probe", false), secret(&other, "probe", true));
        assert_ne!(secret(&one, "probe", true), secret(&one, "probe", false));
    }

    #[test]
    fn another_purpose_network_peer_or_run_of_either_has_other_secrets() {
        let first = secret(&pair(1, 2, NETWORK, (10, 20)), "probe", true);
        let elsewhere = NetworkId([8; 32]);
        for other in [
            secret(&pair(1, 2, NETWORK, (10, 20)), "letter", true),
            secret(&pair(1, 2, elsewhere, (10, 20)), "probe", true),
            secret(&pair(1, 3, NETWORK, (10, 20)), "probe", true),
            secret(&pair(1, 2, NETWORK, (11, 20)), "probe", true),
            secret(&pair(1, 2, NETWORK, (10, 21)), "probe", true),
        ] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn with_a_weak_key_nothing_is_shared() {
        let mut identity = [0; 32];
        identity[0] = 1;
        let boots = (BootId([0; 16]), BootId([0; 16]));
        assert!(Pair::new(&key(1), NodeId(identity), NETWORK, boots).is_none());
    }

    #[test]
    fn each_counter_passes_once_in_any_order_within_the_window() {
        let mut window = Window::default();
        assert!(window.admit(0));
        assert!(!window.admit(0));
        for counter in [5, 3, 130, 4, 128, u64::MAX - 1, u64::MAX] {
            assert!(window.admit(counter), "{counter}");
            assert!(!window.admit(counter), "{counter}");
        }
        assert!(!window.admit(131));
        assert!(window.admit(u64::MAX - 127));
        assert!(!window.admit(u64::MAX - 128));
    }

    proptest! {
        #[test]
        fn no_counter_passes_twice(counters in proptest::collection::vec(0u64..300, 0..200)) {
            let mut window = Window::default();
            let mut passed = std::collections::BTreeSet::new();
            for counter in counters {
                let highest = passed.last().copied().unwrap_or(0);
                let admitted = window.admit(counter);
                prop_assert!(!admitted || passed.insert(counter));
                prop_assert!(admitted || passed.contains(&counter) || counter + 127 < highest);
            }
        }
    }
}
