//! Path probes: their keys and what they look like on the wire.
//!
//! ```text
//! | 0x80 | 0 0 0 | index u32 | counter u64 | sealed: kind, address, transaction, padding | tag 16 |
//! ```
//!
//! Integers are little-endian, as in WireGuard; the index follows from the keys, as both know.
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
use zeroize::Zeroizing;

use crate::pair::Pair;

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

/// What probes to and from a peer are sealed with, and known by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProbeKeys {
    /// Seals what this node sends.
    pub send: ProbeKey,
    /// Opens what the peer sends.
    pub receive: ProbeKey,
    /// By which index the peer knows what this node sends.
    pub remote_index: u32,
    /// By which index this node knows what the peer sends. Two peers may have the
    /// same one.
    pub local_index: u32,
}

/// The keys for probes between two runs of two daemons, without a word between them.
/// `None` if the peer's key is not one that an honest node can have.
pub fn probe_keys(
    own: &SecretKey,
    peer: NodeId,
    network: NetworkId,
    boots: (BootId, BootId),
) -> Option<ProbeKeys> {
    let pair = Pair::new(own, peer, network, boots)?;
    let key = |is_outbound| {
        let mut key = Zeroizing::new([0; 32]);
        pair.secret("probe", is_outbound, &mut *key)?;
        Some(ProbeKey(key))
    };
    let index = |is_outbound| {
        let mut index = [0; 4];
        pair.secret("probe-index", is_outbound, &mut index)?;
        Some(u32::from_le_bytes(index))
    };
    Some(ProbeKeys {
        send: key(true)?,
        receive: key(false)?,
        remote_index: index(true)?,
        local_index: index(false)?,
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NETWORK: NetworkId = NetworkId([9; 32]);

    fn secret(seed: u8) -> SecretKey {
        SecretKey::from_seed(&[seed; 32])
    }

    fn keys(own: u8, peer: u8, own_boot: u8, peer_boot: u8) -> ProbeKeys {
        let boots = (BootId([own_boot; 16]), BootId([peer_boot; 16]));
        probe_keys(&secret(own), secret(peer).node(), NETWORK, boots).unwrap()
    }

    #[test]
    fn what_one_side_sends_with_the_other_receives_with() {
        let (one, other) = (keys(1, 2, 10, 20), keys(2, 1, 20, 10));
        assert!(one.send == other.receive && one.receive == other.send);
        assert_eq!((one.local_index, one.remote_index), (other.remote_index, other.local_index));
        assert!(one.send != one.receive && one.local_index != one.remote_index);
        assert_ne!(one.local_index, keys(1, 2, 11, 20).local_index);
    }

    #[test]
    fn a_probe_is_opened_with_its_key_only_and_an_answer_is_no_longer() {
        let ProbeKeys { send, receive, .. } = keys(1, 2, 10, 20);
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
        let ProbeKeys { send, .. } = keys(1, 2, 10, 20);
        let mut datagram = [0; LENGTH];
        seal(&send, 7, 3, Probe::Request { transaction: 5 }, &mut datagram);
        for bit in 0..LENGTH * 8 {
            datagram[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&send, &datagram), None, "bit {bit}");
            datagram[bit / 8] ^= 1 << (bit % 8);
        }
    }

    proptest! {
        #[test]
        fn no_datagram_panics(datagram in proptest::collection::vec(any::<u8>(), 0..200)) {
            let ProbeKeys { send, .. } = keys(1, 2, 10, 20);
            let _ = index(&datagram);
            prop_assert_eq!(open(&send, &datagram), None);
        }
    }
}
