//! WireGuard: the handshake, the keys that come of it, and their life.
//!
//! It is the protocol of the [paper](https://www.wireguard.com/papers/wireguard.pdf),
//! and talks to every implementation of it. Like the rest of the engine it is
//! handed time and randomness.
//!
//! ```text
//!   Guard ── mac1, mac2, cookies ──► Opened ──► Tunnel ──► Keys
//!   (one per node)                   (Noise)    (one per peer)
//! ```

mod index;
mod keys;
mod mac;
mod noise;
mod replay;
mod tunnel;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use epsilon_proto::clock::Instant;
use epsilon_proto::key::{AgreementKey, SecretKey};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

pub(super) use index::{Indices, SLOTS};
pub(super) use keys::sealed_length;
use mac::{Guard, Verdict};
pub(super) use noise::Opened;
pub(super) use tunnel::Tunnel;

/// How many bytes a sealed packet is longer than the packet.
pub const OVERHEAD: usize = 32;

/// The longest message of a handshake. Every buffer that a message is written
/// to has at least this length.
pub const HANDSHAKE_LENGTH: usize = 148;

/// The answer to it.
const RESPONSE_LENGTH: usize = 92;

/// After so many messages, or so long, its initiator sees to new keys.
const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
const REKEY_AFTER_TIME: Duration = Duration::from_mins(2);
/// Keys are not used for more messages, nor any longer.
const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
const REJECT_AFTER_TIME: Duration = Duration::from_mins(3);
/// Keys of so much age are renewed by their initiator when something comes,
/// as it may have nothing to send: `REJECT_AFTER_TIME` less the two timeouts.
const REKEY_ON_RECEIVE: Duration = Duration::from_secs(165);
/// A handshake is given up after this time,
const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// and its first message repeated after this.
const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long after a packet came, and none went back, a keepalive goes back.
pub(super) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Fills a buffer with random bytes; `false` where that failed.
pub type Entropy = Arc<dyn Fn(&mut [u8]) -> bool + Send + Sync>;

/// What became of a message of a handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Handshake {
    /// The peer began, and the answer goes back. Only data proves that the peer
    /// is there now.
    Answered(usize),
    /// The peer answered: packets can be sealed. The answer proves to the
    /// peer that this node is there.
    Completed(usize),
    /// Too many handshakes: the sender shall first prove its address.
    Challenged(usize),
    /// The peer asks for a proof of address, which the next attempt has.
    Deferred,
    /// Forged, repeated, or an answer to nothing.
    Refused,
}

impl Handshake {
    /// How many bytes are to be sent back.
    pub(super) fn length(self) -> usize {
        match self {
            Self::Answered(length) | Self::Completed(length) | Self::Challenged(length) => length,
            Self::Deferred | Self::Refused => 0,
        }
    }
}

/// Who sent the first message of a handshake.
pub(super) enum Initiator {
    /// Whoever has this key, if the rest opens too; and the index that the
    /// answer carries.
    Key(AgreementKey, Box<Opened>, u32),
    /// Not looked at: too many handshakes. The answer makes the sender prove
    /// its address.
    Challenged(usize),
    /// Nobody who knows this node's key.
    Unknown,
}

/// This node's side of all tunnels.
pub struct WireGuard {
    secret: StaticSecret,
    public: PublicKey,
    guard: Guard,
    entropy: Entropy,
    epoch: Duration,
    stamped: Duration,
}

impl WireGuard {
    /// For the X25519 form of a node's key. `epoch` is the time since 1970 at
    /// which the engine's clock was zero.
    pub fn new(key: &SecretKey, entropy: Entropy, epoch: Duration) -> Self {
        let secret = StaticSecret::from(*key.agreement_secret());
        let public = PublicKey::from(&secret);
        let guard = Guard::new(&public, Arc::clone(&entropy));
        Self { secret, public, guard, entropy, epoch, stamped: Duration::ZERO }
    }

    /// A time for a handshake: never the same twice, whatever the clock does.
    fn stamp(&mut self, now: Instant) -> Duration {
        let time = self.epoch + now.since(Instant::default());
        self.stamped = time.max(self.stamped + Duration::from_nanos(1));
        self.stamped
    }

    fn ephemeral(&self) -> Option<StaticSecret> {
        let mut bytes = Zeroizing::new([0; 32]);
        (self.entropy)(&mut bytes[..]).then(|| StaticSecret::from(*bytes))
    }

    /// A random part of a time.
    fn jitter(&self, most: Duration) -> Duration {
        let mut byte = [0];
        (self.entropy)(&mut byte);
        most * u32::from(byte[0]) / 256
    }

    /// Whether a message can be what it says, as far as that costs nothing: its
    /// length, and of an answer the seal that shows that its sender knows this
    /// node's key.
    pub(super) fn may_be(&self, message: &[u8]) -> bool {
        match message.first() {
            Some(2) => message.len() == RESPONSE_LENGTH && self.guard.is_sealed(message),
            Some(3) => message.len() == mac::COOKIE_REPLY,
            _ => message.len() >= OVERHEAD,
        }
    }

    /// Finds out who sent the first message of a handshake that another lane
    /// judged and passed on.
    pub(super) fn passed_initiator(&self, message: &[u8]) -> Initiator {
        if message.len() != HANDSHAKE_LENGTH || message[..4] != [1, 0, 0, 0] {
            return Initiator::Unknown;
        }
        self.open(message).unwrap_or(Initiator::Unknown)
    }

    /// Finds out who sent the first message of a handshake. A challenge is
    /// written to `into`.
    pub(super) fn initiator(
        &mut self,
        from: SocketAddr,
        message: &[u8],
        now: Instant,
        into: &mut [u8],
    ) -> Initiator {
        if message.len() != HANDSHAKE_LENGTH || message[..4] != [1, 0, 0, 0] {
            return Initiator::Unknown;
        }
        match self.guard.judge(from, message, now, into) {
            Verdict::Passes => self.open(message).unwrap_or(Initiator::Unknown),
            Verdict::Challenged(length) => Initiator::Challenged(length),
            Verdict::Refused => Initiator::Unknown,
        }
    }

    fn open(&self, message: &[u8]) -> Option<Initiator> {
        let sender = u32::from_le_bytes(*message.get(4..)?.first_chunk()?);
        let part = message.get(8..)?.first_chunk()?;
        let opened = Opened::read((&self.secret, &self.public), part)?;
        let key = AgreementKey(*opened.initiator.as_bytes());
        Some(Initiator::Key(key, Box::new(opened), sender))
    }

    /// Judges an answer to a handshake before it costs anything: `None` where
    /// it may be read. A challenge is written to `into`.
    fn judge_response(
        &mut self,
        from: SocketAddr,
        message: &[u8],
        now: Instant,
        into: &mut [u8],
    ) -> Option<Handshake> {
        if message.len() != RESPONSE_LENGTH || message[..4] != [2, 0, 0, 0] {
            return Some(Handshake::Refused);
        }
        match self.guard.judge(from, message, now, into) {
            Verdict::Passes => None,
            Verdict::Challenged(length) => Some(Handshake::Challenged(length)),
            Verdict::Refused => Some(Handshake::Refused),
        }
    }

    /// Takes a message of a handshake that carries an index of the tunnel's: an
    /// answer or a cookie. What is to be sent back is written to `into`.
    pub(super) fn reply(
        &mut self,
        tunnel: &mut Tunnel,
        from: SocketAddr,
        message: &[u8],
        now: Instant,
        into: &mut [u8],
    ) -> Handshake {
        match message.first() {
            Some(2) => match self.judge_response(from, message, now, into) {
                None => tunnel.complete(message, self, now, into),
                Some(refusal) => refusal,
            },
            Some(3) if message.len() == mac::COOKIE_REPLY => tunnel.take_cookie(message, now),
            _ => Handshake::Refused,
        }
    }
}
