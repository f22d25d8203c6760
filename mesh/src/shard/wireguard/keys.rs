//! The keys of one handshake, and the data that they seal and open
//! (WireGuard paper, section 5.4.6).

use epsilon_proto::clock::Instant;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use super::noise::{Pair, TIMESTAMP};
use super::replay::Window;
use super::{OVERHEAD, REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME};

const HEADER: usize = 16;
const TAG: usize = 16;
/// Packets are padded to a multiple of this, so that their length says less,
const PADDING: usize = 16;
/// as long as they stay within what fits every path (RFC 8200, section 5).
const PADDED: usize = 1280;

/// What two handshakes have in common after which data can flow.
pub(super) struct Keys {
    /// What the peer puts into what it sends.
    pub(super) local: u32,
    remote: u32,
    send: LessSafeKey,
    receive: LessSafeKey,
    pub(super) counter: u64,
    window: Window,
    pub(super) born: Instant,
    /// Whether this node began the handshake.
    pub(super) initiator: bool,
    /// Whether the peer is known to have them too.
    pub(super) confirmed: bool,
    /// The timestamp of the peer that began the handshake.
    pub(super) timestamp: Option<[u8; TIMESTAMP]>,
}

fn key(bytes: &[u8; 32]) -> Option<LessSafeKey> {
    UnboundKey::new(&CHACHA20_POLY1305, bytes).ok().map(LessSafeKey::new)
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

fn padded(length: usize) -> usize {
    let padded = length.next_multiple_of(PADDING);
    if padded <= PADDED { padded } else { length }
}

/// How long a packet of this length is when it is sealed.
pub(in crate::shard) fn sealed_length(length: usize) -> usize {
    padded(length) + OVERHEAD
}

impl Keys {
    pub(super) fn new(
        pair: &Pair,
        (local, remote): (u32, u32),
        timestamp: Option<[u8; TIMESTAMP]>,
        now: Instant,
    ) -> Option<Box<Self>> {
        let initiator = timestamp.is_none();
        Some(Box::new(Self {
            local,
            remote,
            send: key(&pair.send)?,
            receive: key(&pair.receive)?,
            counter: 0,
            window: Window::new(),
            born: now,
            initiator,
            confirmed: initiator,
            timestamp,
        }))
    }

    /// Whether they may still be used.
    pub(super) fn are_valid(&self, now: Instant) -> bool {
        now.since(self.born) < REJECT_AFTER_TIME && self.counter < REJECT_AFTER_MESSAGES
    }

    /// Seals a packet into [`sealed_length`] bytes.
    pub(super) fn seal(&mut self, packet: &[u8], into: &mut [u8]) -> usize {
        let length = padded(packet.len());
        let Some((header, rest)) = into.split_first_chunk_mut::<HEADER>() else { return 0 };
        let Some((body, rest)) = rest.split_at_mut_checked(length) else { return 0 };
        let Some((tag, _)) = rest.split_first_chunk_mut::<TAG>() else { return 0 };
        let (text, padding) = body.split_at_mut(packet.len());
        text.copy_from_slice(packet);
        padding.fill(0);
        let Ok(sealed) =
            self.send.seal_in_place_separate_tag(nonce(self.counter), Aad::empty(), body)
        else {
            return 0;
        };
        tag.copy_from_slice(sealed.as_ref());
        header[..4].copy_from_slice(&[4, 0, 0, 0]);
        header[4..8].copy_from_slice(&self.remote.to_le_bytes());
        header[8..].copy_from_slice(&self.counter.to_le_bytes());
        self.counter += 1;
        HEADER + length + TAG
    }

    /// Opens a data message to the beginning of `into`, which is as long as the
    /// message; says how many bytes there are, padding included.
    pub(super) fn open(&mut self, message: &[u8], into: &mut [u8]) -> Option<usize> {
        let (header, sealed) = message.split_first_chunk::<HEADER>()?;
        let counter = u64::from_le_bytes(*header[8..].first_chunk()?);
        if counter >= REJECT_AFTER_MESSAGES || !self.window.admits(counter) {
            return None;
        }
        let into = into.get_mut(..sealed.len())?;
        into.copy_from_slice(sealed);
        let opened = self.receive.open_in_place(nonce(counter), Aad::empty(), into).ok()?.len();
        self.window.mark(counter);
        Some(opened)
    }
}
