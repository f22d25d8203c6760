//! Path probes: their keys and what they look like on the wire.
//!
//! ```text
//! | 0x80 | 0 0 0 | index u32 | counter u64 | sealed: kind, address, transaction, padding | tag 16 |
//! ```
//!
//! Integers are little-endian, as in WireGuard; the index is the receiver's.
//! ChaCha20-Poly1305 with the counter as nonce and the first 16 bytes as
//! associated data. The sealed part has at least 32 bytes; more is padding,
//! so that probes can find out how much a path carries. An answer is as long
//! as its request: nobody gets more out of a node than was put in.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use chacha20poly1305::aead::{Aead as _, AeadInOut as _, KeyInit as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use epsilon_proto::datagram::PROBE;
use epsilon_proto::id::{BootId, NetworkId, NodeId};
use epsilon_proto::key::SecretKey;
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

const HEADER: usize = 16;
const SEALED: usize = 32;
const TAG: usize = 16;

/// The length of the shortest probe, and of every one without padding.
pub(super) const LENGTH: usize = HEADER + SEALED + TAG;
/// The length of the longest probe: what an Ethernet frame carries.
pub(super) const MAX_LENGTH: usize = 1500;

/// Seals probes in one direction between two runs of two daemons.
#[derive(Clone)]
pub struct ProbeKey(Zeroizing<[u8; 32]>);

impl PartialEq for ProbeKey {
    fn eq(&self, other: &Self) -> bool {
        // Without an early end that would tell how far two keys agree.
        self.0.iter().zip(other.0.iter()).fold(0, |all, (a, b)| all | (a ^ b)) == 0
    }
}

impl Eq for ProbeKey {}

impl std::fmt::Debug for ProbeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ProbeKey(..)")
    }
}

impl ProbeKey {
    fn cipher(&self) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new((&*self.0).into())
    }
}

/// The keys for probes to and from a peer: `(send, receive)`.
///
/// HKDF-SHA256 of the X25519 secret that both share, one key per direction
/// and pair of boot ids, so that no nonce is ever used twice and nothing
/// recorded before a restart is of use after it. `None` if the peer's key is
/// not one that an honest node can have.
pub fn probe_keys(
    own: &SecretKey,
    peer: NodeId,
    network: NetworkId,
    own_boot: BootId,
    peer_boot: BootId,
) -> Option<(ProbeKey, ProbeKey)> {
    let secret = x25519_dalek::StaticSecret::from(*own.agreement_secret());
    let shared = secret.diffie_hellman(&x25519_dalek::PublicKey::from(peer.key().agreement()?.0));
    if !shared.was_contributory() {
        return None;
    }
    let derivation = Hkdf::<Sha256>::new(None, shared.as_bytes());
    let direction =
        |sender: NodeId, receiver: NodeId, sender_boot: BootId, receiver_boot: BootId| {
            let mut key = Zeroizing::new([0; 32]);
            derivation
                .expand_multi_info(
                    &[
                        b"epsilon/1/probe/",
                        &network.0,
                        &sender.0,
                        &receiver.0,
                        &sender_boot.0,
                        &receiver_boot.0,
                    ],
                    &mut *key,
                )
                .ok()?;
            Some(ProbeKey(key))
        };
    let node = own.node();
    Some((direction(node, peer, own_boot, peer_boot)?, direction(peer, node, peer_boot, own_boot)?))
}

/// What a probe says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Probe {
    /// Answer me.
    Request { transaction: u64 },
    /// The request of this number came from this address.
    Answer { transaction: u64, observed: SocketAddr },
}

const REQUEST: u8 = 1;
const ANSWER: u8 = 2;

/// The index a probe is for: one that its receiver issued.
pub(super) fn index(datagram: &[u8]) -> Option<u32> {
    let length = LENGTH..=MAX_LENGTH;
    let header = datagram.first_chunk::<HEADER>().filter(|_| length.contains(&datagram.len()))?;
    let [PROBE, 0, 0, 0, a, b, c, d, ..] = *header else { return None };
    Some(u32::from_le_bytes([a, b, c, d]))
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce.into()
}

/// Fills all of `into`, which is [`LENGTH`] or longer; gives back how much
/// that is, 0 if it could not be sealed.
pub(super) fn seal(
    key: &ProbeKey,
    index: u32,
    counter: u64,
    probe: Probe,
    into: &mut [u8],
) -> usize {
    let length = into.len();
    into.fill(0);
    let Some((header, rest)) = into.split_first_chunk_mut::<HEADER>() else { return 0 };
    let Some((sealed, tag)) = rest.split_last_chunk_mut::<TAG>() else { return 0 };
    header[0] = PROBE;
    header[4..8].copy_from_slice(&index.to_le_bytes());
    header[8..16].copy_from_slice(&counter.to_le_bytes());
    let Some(fields) = sealed.first_chunk_mut::<SEALED>() else { return 0 };
    let transaction = match probe {
        Probe::Request { transaction } => {
            fields[0] = REQUEST;
            transaction
        }
        Probe::Answer { transaction, observed } => {
            fields[0] = ANSWER;
            let ip = match observed.ip() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            fields[2..4].copy_from_slice(&observed.port().to_le_bytes());
            fields[8..24].copy_from_slice(&ip.octets());
            transaction
        }
    };
    fields[24..32].copy_from_slice(&transaction.to_le_bytes());
    let Ok(sum) = key.cipher().encrypt_inout_detached(&nonce(counter), header, sealed.into())
    else {
        return 0;
    };
    *tag = sum.into();
    length
}

/// The counter and the content of a probe that was sealed with the key.
pub(super) fn open(key: &ProbeKey, datagram: &[u8]) -> Option<(u64, Probe)> {
    let (header, sealed) = datagram.split_first_chunk::<HEADER>()?;
    let counter = u64::from_le_bytes(*header.last_chunk()?);
    let content =
        key.cipher().decrypt(&nonce(counter), Payload { msg: sealed, aad: header }).ok()?;
    let fields = content.first_chunk::<SEALED>()?;
    let transaction = u64::from_le_bytes(*fields.last_chunk()?);
    let probe = match fields[0] {
        REQUEST => Probe::Request { transaction },
        ANSWER => {
            let port = u16::from_le_bytes([fields[2], fields[3]]);
            let ip: [u8; 16] = *fields[8..24].first_chunk()?;
            let observed = SocketAddr::new(Ipv6Addr::from(ip).to_canonical(), port);
            Probe::Answer { transaction, observed }
        }
        _ => return None,
    };
    Some((counter, probe))
}

/// Lets each counter pass once, and none that is far behind the highest
/// (RFC 6479's idea for a window of 128).
#[derive(Debug, Default)]
pub(super) struct Window {
    highest: u64,
    /// Bit n: the counter n below the highest was seen.
    seen: u128,
}

impl Window {
    /// Whether an authenticated counter is new; from then on it is not.
    pub(super) fn admit(&mut self, counter: u64) -> bool {
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

    fn secret(seed: u8) -> SecretKey {
        SecretKey::from_seed(&[seed; 32])
    }

    fn keys(own: u8, peer: u8, own_boot: u8, peer_boot: u8) -> (ProbeKey, ProbeKey) {
        let boots = (BootId([own_boot; 16]), BootId([peer_boot; 16]));
        probe_keys(&secret(own), secret(peer).node(), NETWORK, boots.0, boots.1).unwrap()
    }

    #[test]
    fn what_one_side_sends_with_the_other_receives_with() {
        let (send, receive) = keys(1, 2, 10, 20);
        let (other_send, other_receive) = keys(2, 1, 20, 10);
        assert_eq!(send, other_receive);
        assert_eq!(receive, other_send);
        assert_ne!(send, receive);
    }

    #[test]
    fn another_network_peer_or_run_of_either_daemon_has_other_keys() {
        let (send, _) = keys(1, 2, 10, 20);
        assert_ne!(send, keys(1, 3, 10, 20).0);
        assert_ne!(send, keys(1, 2, 11, 20).0);
        assert_ne!(send, keys(1, 2, 10, 21).0);
        let boots = (BootId([10; 16]), BootId([20; 16]));
        let other = NetworkId([8; 32]);
        let elsewhere = probe_keys(&secret(1), secret(2).node(), other, boots.0, boots.1);
        assert_ne!(send, elsewhere.unwrap().0);
    }

    #[test]
    fn a_weak_key_has_no_probe_keys() {
        let mut identity = [0; 32];
        identity[0] = 1;
        let boot = BootId([0; 16]);
        assert_eq!(probe_keys(&secret(1), NodeId(identity), NETWORK, boot, boot), None);
    }

    #[test]
    fn a_probe_is_opened_with_its_key_only_and_an_answer_is_no_longer() {
        let (send, receive) = keys(1, 2, 10, 20);
        for observed in ["192.0.2.7:7755", "[2001:db8::7]:1"] {
            let answer = Probe::Answer { transaction: 77, observed: observed.parse().unwrap() };
            for probe in [Probe::Request { transaction: u64::MAX }, answer] {
                for length in [LENGTH, 1200] {
                    let mut datagram = vec![0xff; length];
                    assert_eq!(seal(&send, 7, 3, probe, &mut datagram), length);
                    assert_eq!(index(&datagram), Some(7));
                    assert_eq!(open(&send, &datagram), Some((3, probe)));
                    assert_eq!(open(&receive, &datagram), None);
                }
            }
        }
        assert_eq!(seal(&send, 7, 3, Probe::Request { transaction: 1 }, &mut [0; LENGTH - 1]), 0);
    }

    #[test]
    fn a_changed_bit_anywhere_is_noticed() {
        let (send, _) = keys(1, 2, 10, 20);
        let mut datagram = [0; LENGTH];
        seal(&send, 7, 3, Probe::Request { transaction: 5 }, &mut datagram);
        for bit in 0..LENGTH * 8 {
            datagram[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&send, &datagram), None, "bit {bit}");
            datagram[bit / 8] ^= 1 << (bit % 8);
        }
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

        #[test]
        fn no_datagram_panics(datagram in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (send, _) = keys(1, 2, 10, 20);
            let _ = index(&datagram);
            prop_assert_eq!(open(&send, &datagram), None);
        }
    }
}
