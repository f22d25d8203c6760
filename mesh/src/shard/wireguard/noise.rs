//! The handshake: Noise_IKpsk2 over X25519, ChaCha20-Poly1305 and BLAKE2s
//! (WireGuard paper, section 5.4; Noise specification, revision 34).

use blake2::{Blake2s256, Digest as _};
use chacha20poly1305::aead::AeadInOut as _;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit as _};
use hmac::{Mac as _, SimpleHmac};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

const CONSTRUCTION: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
const TAG: usize = 16;

/// The part of the first message that is the handshake's: ephemeral key,
/// sealed static key, sealed timestamp.
pub(super) const INITIATION: usize = 32 + (32 + TAG) + (TIMESTAMP + TAG);
/// The part of the answer: ephemeral key, and a seal over nothing.
pub(super) const RESPONSE: usize = 32 + TAG;
/// A TAI64N timestamp.
pub(super) const TIMESTAMP: usize = 12;

type Secret = Zeroizing<[u8; 32]>;

/// What both sides end with, as this one sees it.
pub(super) struct Pair {
    pub(super) send: Secret,
    pub(super) receive: Secret,
}

fn hash(one: &[u8], other: &[u8]) -> [u8; 32] {
    Blake2s256::new().chain_update(one).chain_update(other).finalize().into()
}

fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> Secret {
    // A key that is shorter than a block is filled up with zeros (RFC 2104).
    let mut block = Zeroizing::new([0; 64]);
    block[..32].copy_from_slice(key);
    let mut mac = <SimpleHmac<Blake2s256> as hmac::KeyInit>::new((&*block).into());
    for part in parts {
        mac.update(part);
    }
    Zeroizing::new(mac.finalize().into_bytes().into())
}

/// The running state: chaining key and hash of everything so far.
#[derive(Clone)]
struct Symmetric {
    chain: Secret,
    hash: [u8; 32],
}

impl Symmetric {
    fn new(responder: &PublicKey) -> Self {
        let chain = hash(CONSTRUCTION, &[]);
        let hashed = hash(&hash(&chain, IDENTIFIER), responder.as_bytes());
        Self { chain: Zeroizing::new(chain), hash: hashed }
    }

    fn mix_hash(&mut self, bytes: &[u8]) {
        self.hash = hash(&self.hash, bytes);
    }

    /// Mixes a secret in, and gives the key that comes of it.
    fn mix_key(&mut self, input: &[u8]) -> Secret {
        let temporary = hmac(&self.chain, &[input]);
        self.chain = hmac(&temporary, &[&[1]]);
        hmac(&temporary, &[&*self.chain, &[2]])
    }

    fn mix_ephemeral(&mut self, key: &[u8; 32]) {
        self.mix_hash(key);
        self.mix_key(key);
    }

    /// Mixes the shared secret of two keys in; `None` where one of them was
    /// chosen to give none.
    fn mix_agreement(&mut self, own: &StaticSecret, other: &PublicKey) -> Option<Secret> {
        let shared = own.diffie_hellman(other);
        shared.was_contributory().then(|| self.mix_key(shared.as_bytes()))
    }

    fn mix_preshared(&mut self, preshared: &[u8; 32]) -> Secret {
        let temporary = hmac(&self.chain, &[preshared]);
        self.chain = hmac(&temporary, &[&[1]]);
        let middle = hmac(&temporary, &[&*self.chain, &[2]]);
        self.mix_hash(&*middle);
        hmac(&temporary, &[&*middle, &[3]])
    }

    fn seal(&mut self, key: &[u8; 32], plain: &[u8], into: &mut [u8]) -> Option<()> {
        let (body, tag) = into.split_at_mut_checked(plain.len())?;
        body.copy_from_slice(plain);
        let cipher = ChaCha20Poly1305::new(key.into());
        let sealed = cipher.encrypt_inout_detached(&[0; 12].into(), &self.hash, body.into());
        tag.copy_from_slice(&sealed.ok()?);
        self.mix_hash(into);
        Some(())
    }

    fn open(&mut self, key: &[u8; 32], sealed: &[u8], into: &mut [u8]) -> Option<()> {
        let (body, tag) = sealed.split_at_checked(into.len())?;
        into.copy_from_slice(body);
        let cipher = ChaCha20Poly1305::new(key.into());
        let tag: &[u8; TAG] = tag.try_into().ok()?;
        cipher.decrypt_inout_detached(&[0; 12].into(), &self.hash, into.into(), tag.into()).ok()?;
        self.mix_hash(sealed);
        Some(())
    }

    /// The keys of the data that follows: the first is the initiator's.
    fn split(self) -> (Secret, Secret) {
        let temporary = hmac(&self.chain, &[]);
        let first = hmac(&temporary, &[&[1]]);
        let second = hmac(&temporary, &[&*first, &[2]]);
        (first, second)
    }
}

/// A handshake that this node began.
pub(super) struct Initiation {
    state: Symmetric,
    ephemeral: StaticSecret,
}

impl Initiation {
    /// Begins one: writes [`INITIATION`] bytes.
    pub(super) fn write(
        own: (&StaticSecret, &PublicKey),
        peer: &PublicKey,
        ephemeral: StaticSecret,
        timestamp: &[u8; TIMESTAMP],
        into: &mut [u8; INITIATION],
    ) -> Option<Self> {
        let mut state = Symmetric::new(peer);
        let public = PublicKey::from(&ephemeral);
        state.mix_ephemeral(public.as_bytes());
        let (key, rest) = into.split_at_mut(32);
        let (identity, stamp) = rest.split_at_mut(32 + TAG);
        key.copy_from_slice(public.as_bytes());
        let sealing = state.mix_agreement(&ephemeral, peer)?;
        state.seal(&sealing, own.1.as_bytes(), identity)?;
        let sealing = state.mix_agreement(own.0, peer)?;
        state.seal(&sealing, timestamp, stamp)?;
        Some(Self { state, ephemeral })
    }

    /// Ends it with the peer's answer. What is no answer changes nothing.
    pub(super) fn read(
        &self,
        own: &StaticSecret,
        preshared: &[u8; 32],
        response: &[u8; RESPONSE],
    ) -> Option<Pair> {
        let mut state = self.state.clone();
        let (key, nothing) = response.split_first_chunk::<32>()?;
        state.mix_ephemeral(key);
        let public = PublicKey::from(*key);
        state.mix_agreement(&self.ephemeral, &public)?;
        state.mix_agreement(own, &public)?;
        let opening = state.mix_preshared(preshared);
        state.open(&opening, nothing, &mut [])?;
        let (send, receive) = state.split();
        Some(Pair { send, receive })
    }
}

/// A handshake that a peer began, of which the first message was read as far
/// as to know who it says it is.
pub(in crate::shard) struct Opened {
    state: Symmetric,
    ephemeral: PublicKey,
    /// Who began it, to be believed once the timestamp opens.
    pub(super) initiator: PublicKey,
    timestamp: [u8; TIMESTAMP + TAG],
}

impl Opened {
    pub(super) fn read(
        own: (&StaticSecret, &PublicKey),
        message: &[u8; INITIATION],
    ) -> Option<Self> {
        let mut state = Symmetric::new(own.1);
        let (key, rest) = message.split_first_chunk::<32>()?;
        let (identity, timestamp) = rest.split_at(32 + TAG);
        state.mix_ephemeral(key);
        let ephemeral = PublicKey::from(*key);
        let opening = state.mix_agreement(own.0, &ephemeral)?;
        let mut initiator = [0; 32];
        state.open(&opening, identity, &mut initiator)?;
        let timestamp = timestamp.try_into().ok()?;
        Some(Self { state, ephemeral, initiator: initiator.into(), timestamp })
    }

    /// Reads the rest, which proves the initiator.
    pub(super) fn prove(mut self, own: &StaticSecret) -> Option<Proven> {
        let opening = self.state.mix_agreement(own, &self.initiator)?;
        let mut timestamp = [0; TIMESTAMP];
        self.state.open(&opening, &self.timestamp, &mut timestamp)?;
        Some(Proven {
            state: self.state,
            ephemeral: self.ephemeral,
            initiator: self.initiator,
            timestamp,
        })
    }
}

/// A handshake that a peer began, and that is its.
pub(super) struct Proven {
    state: Symmetric,
    ephemeral: PublicKey,
    initiator: PublicKey,
    /// When the peer began it, by its own clock.
    pub(super) timestamp: [u8; TIMESTAMP],
}

impl Proven {
    /// Answers: writes [`RESPONSE`] bytes.
    pub(super) fn answer(
        mut self,
        ephemeral: &StaticSecret,
        preshared: &[u8; 32],
        into: &mut [u8; RESPONSE],
    ) -> Option<Pair> {
        let public = PublicKey::from(ephemeral);
        self.state.mix_ephemeral(public.as_bytes());
        let (key, nothing) = into.split_at_mut(32);
        key.copy_from_slice(public.as_bytes());
        self.state.mix_agreement(ephemeral, &self.ephemeral)?;
        self.state.mix_agreement(ephemeral, &self.initiator)?;
        let sealing = self.state.mix_preshared(preshared);
        self.state.seal(&sealing, &[], nothing)?;
        let (receive, send) = self.state.split();
        Some(Pair { send, receive })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first message of whoever has this ephemeral key and shares this secret
    /// with the responder, as far as the sealed static key.
    fn message(responder: &PublicKey, ephemeral: &[u8; 32], shared: &[u8; 32]) -> [u8; INITIATION] {
        let mut state = Symmetric::new(responder);
        state.mix_ephemeral(ephemeral);
        let sealing = state.mix_key(shared);
        let mut message = [0; INITIATION];
        message[..32].copy_from_slice(ephemeral);
        state.seal(&sealing, &[9; 32], &mut message[32..32 + 32 + TAG]).unwrap();
        message
    }

    #[test]
    fn a_key_that_agrees_with_everybody_is_refused() {
        let secret = StaticSecret::from([3; 32]);
        let own = PublicKey::from(&secret);
        let ephemeral = StaticSecret::from([4; 32]);
        let shared = ephemeral.diffie_hellman(&own).to_bytes();
        let honest = message(&own, PublicKey::from(&ephemeral).as_bytes(), &shared);
        assert!(Opened::read((&secret, &own), &honest).is_some());
        // Points of low order, with which everybody shares zero (RFC 7748).
        let mut one = [0; 32];
        one[0] = 1;
        for low in [[0; 32], one] {
            let message = message(&own, &low, &[0; 32]);
            assert!(Opened::read((&secret, &own), &message).is_none(), "{low:?}");
        }
    }
}
