//! The two seals on every message of a handshake: the first proves that the
//! sender knows this node's key, the second, asked for only under load, that
//! it is where it says (WireGuard paper, sections 5.3, 5.4.4 and 5.4.7).

use std::net::SocketAddr;
use std::time::Duration;

use blake2::digest::consts::U16;
use blake2::{Blake2s256, Blake2sMac, Digest as _};
use chacha20poly1305::aead::AeadInOut as _;
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305};
use epsilon_proto::address::is_stream;
use epsilon_proto::clock::Instant;
use hmac::Mac as _;
use x25519_dalek::PublicKey;
use zeroize::Zeroizing;

use super::Entropy;
use crate::limit::Limit;

const MAC: usize = 16;
const NONCE: usize = 24;
/// The length of the message that carries a cookie.
pub(super) const COOKIE_REPLY: usize = 8 + NONCE + MAC + MAC;
/// How long a cookie is good for.
const COOKIE_LIFE: Duration = Duration::from_mins(2);

/// Handshakes per second from which on senders prove their address.
const HANDSHAKES_PER_SECOND: u32 = 1000;
/// So many at once pass without.
const BURST: u32 = 200;
/// Under load every source has so many at once, and then 20 per second.
const PER_SOURCE: Limit = Limit::new(5, Duration::from_millis(50));
const SOURCES: usize = 256;

pub(super) type Cookie = [u8; MAC];

fn mac(key: &[u8], parts: &[&[u8]]) -> Option<Blake2sMac<U16>> {
    let mut mac = <Blake2sMac<U16> as hmac::KeyInit>::new_from_slice(key).ok()?;
    for part in parts {
        mac.update(part);
    }
    Some(mac)
}

fn value(key: &[u8], parts: &[&[u8]]) -> Option<Cookie> {
    Some(mac(key, parts)?.finalize().into_bytes().into())
}

/// In constant time.
fn holds(key: &[u8], part: &[u8], expected: &[u8]) -> bool {
    mac(key, &[part]).is_some_and(|mac| mac.verify_slice(expected).is_ok())
}

fn labelled(label: [u8; 8], key: &PublicKey) -> [u8; 32] {
    Blake2s256::new().chain_update(label).chain_update(key.as_bytes()).finalize().into()
}

/// Where the two seals begin in a message that is so long.
fn places(length: usize) -> Option<(usize, usize)> {
    Some((length.checked_sub(2 * MAC)?, length.checked_sub(MAC)?))
}

/// Writes both seals at the end of a message; gives the first.
pub(super) fn seal(
    peer: &PublicKey,
    cookie: Option<&Cookie>,
    message: &mut [u8],
) -> Option<Cookie> {
    let (first, second) = places(message.len())?;
    let own = value(&labelled(*b"mac1----", peer), &[&message[..first]])?;
    message[first..second].copy_from_slice(&own);
    let proof = match cookie {
        Some(cookie) => value(cookie, &[&message[..second]])?,
        None => [0; MAC],
    };
    message[second..].copy_from_slice(&proof);
    Some(own)
}

/// The cookie in a reply to the message that had this first seal.
pub(super) fn open_cookie(peer: &PublicKey, seal: &Cookie, reply: &[u8]) -> Option<Cookie> {
    let (nonce, rest) = reply.get(8..COOKIE_REPLY)?.split_first_chunk::<NONCE>()?;
    let (cookie, tag) = rest.split_first_chunk::<MAC>()?;
    let mut cookie = *cookie;
    let tag: &[u8; MAC] = tag.try_into().ok()?;
    XChaCha20Poly1305::new(&labelled(*b"cookie--", peer).into())
        .decrypt_inout_detached(nonce.into(), seal, (&mut cookie[..]).into(), tag.into())
        .ok()?;
    Some(cookie)
}

/// What a message of a handshake is worth before anything of it is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// The sender knows this node's key, and there is no reason to doubt its
    /// address.
    Passes,
    /// So long an answer makes it prove its address.
    Challenged(usize),
    /// Nobody who knows this node's key, or too often.
    Refused,
}

/// Looks at messages of handshakes before they cost anything.
pub(super) struct Guard {
    seal_key: [u8; 32],
    cookie_key: [u8; 32],
    /// Makes cookies; changed when it is older than one may be.
    secret: Option<(Zeroizing<[u8; 32]>, Instant)>,
    load: Limit,
    sources: Box<[Limit]>,
    entropy: Entropy,
}

impl Guard {
    pub(super) fn new(own: &PublicKey, entropy: Entropy) -> Self {
        Self {
            seal_key: labelled(*b"mac1----", own),
            cookie_key: labelled(*b"cookie--", own),
            secret: None,
            load: Limit::new(BURST, Duration::from_secs(1) / HANDSHAKES_PER_SECOND),
            sources: (0..SOURCES).map(|_| PER_SOURCE).collect(),
            entropy,
        }
    }

    /// Whether the sender of a message knows this node's key.
    pub(super) fn is_sealed(&self, message: &[u8]) -> bool {
        places(message.len()).is_some_and(|(first, second)| {
            holds(&self.seal_key, &message[..first], &message[first..second])
        })
    }

    /// Judges a message; a challenge is written to `into`.
    pub(super) fn judge(
        &mut self,
        from: SocketAddr,
        message: &[u8],
        now: Instant,
        into: &mut [u8],
    ) -> Verdict {
        let Some((first, second)) = places(message.len()) else { return Verdict::Refused };
        if !self.is_sealed(message) {
            return Verdict::Refused;
        }
        if self.load.allows(now) {
            return Verdict::Passes;
        }
        let Some(cookie) = self.cookie(from, now) else { return Verdict::Refused };
        if holds(&cookie, &message[..second], &message[second..]) {
            let place = self.place(from);
            let allowed = self.sources[place].allows(now);
            return if allowed { Verdict::Passes } else { Verdict::Refused };
        }
        match self.challenge(&cookie, message, first, into) {
            Some(length) => Verdict::Challenged(length),
            None => Verdict::Refused,
        }
    }

    /// Where the limit of a source stands, whatever its port: hosts that share a
    /// place share the limit.
    fn place(&self, from: SocketAddr) -> usize {
        let secret = self.secret.as_ref().map_or(&[0; 32], |(secret, _)| secret);
        let hashed = match from {
            SocketAddr::V4(from) => value(secret, &[&from.ip().octets()]),
            // Each is somebody else.
            SocketAddr::V6(ip) if is_stream(from) => value(secret, &[&ip.ip().octets()]),
            // A host has a whole /64.
            SocketAddr::V6(from) => value(secret, &[&from.ip().octets()[..8]]),
        };
        hashed.map_or(0, |hash| usize::from(hash[0]) % SOURCES)
    }

    /// The cookie of a source at this time.
    fn cookie(&mut self, from: SocketAddr, now: Instant) -> Option<Cookie> {
        if self.secret.as_ref().is_none_or(|(_, since)| now.since(*since) >= COOKIE_LIFE) {
            let mut secret = Zeroizing::new([0; 32]);
            (self.entropy)(&mut secret[..]).then_some(())?;
            self.secret = Some((secret, now));
        }
        let (secret, _) = self.secret.as_ref()?;
        let port = from.port().to_be_bytes();
        match from {
            SocketAddr::V4(from) => value(&secret[..], &[&from.ip().octets(), &port]),
            SocketAddr::V6(from) => value(&secret[..], &[&from.ip().octets(), &port]),
        }
    }

    fn challenge(
        &self,
        cookie: &Cookie,
        message: &[u8],
        first: usize,
        into: &mut [u8],
    ) -> Option<usize> {
        let into = into.get_mut(..COOKIE_REPLY)?;
        into[..4].copy_from_slice(&[3, 0, 0, 0]);
        into[4..8].copy_from_slice(message.get(4..8)?);
        let (nonce, rest) = into[8..].split_first_chunk_mut::<NONCE>()?;
        (self.entropy)(nonce).then_some(())?;
        let (body, tag) = rest.split_at_mut(MAC);
        body.copy_from_slice(cookie);
        let sealed = XChaCha20Poly1305::new(&self.cookie_key.into()).encrypt_inout_detached(
            (&*nonce).into(),
            &message[first..first + MAC],
            body.into(),
        );
        tag.copy_from_slice(&sealed.ok()?);
        Some(COOKIE_REPLY)
    }
}

/// A cookie that a peer gave, while it is good.
pub(super) struct Given {
    pub(super) cookie: Cookie,
    pub(super) at: Instant,
}

impl Given {
    pub(super) fn usable(&self, now: Instant) -> Option<&Cookie> {
        (now.since(self.at) < COOKIE_LIFE).then_some(&self.cookie)
    }
}
