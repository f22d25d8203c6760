//! What stands between this node and one peer: keys, the handshake for the
//! next ones, and when that is due (WireGuard paper, section 6).

use std::time::Duration;

use epsilon_proto::clock::Instant;
use epsilon_proto::key::AgreementKey;
use x25519_dalek::PublicKey;
use zeroize::Zeroizing;

use super::index::Indices;
use super::keys::Keys;
use super::mac::{self, Given};
use super::noise::{self, Initiation, Opened};
use super::{
    HANDSHAKE_LENGTH, Handshake, KEEPALIVE_TIMEOUT, REJECT_AFTER_TIME, REKEY_AFTER_MESSAGES,
    REKEY_AFTER_TIME, REKEY_ATTEMPT_TIME, REKEY_ON_RECEIVE, REKEY_TIMEOUT, RESPONSE_LENGTH,
    WireGuard,
};
use crate::limit::Limit;

/// When the first message of the first handshake is repeated, as five seconds
/// are long for whoever waits for a first packet.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Up to so much is added at random before a message is repeated.
const JITTER: Duration = Duration::from_millis(333);
/// Keys of so many handshakes are kept: those in use, those before, and two
/// more where both sides began at once.
const KEPT: usize = 4;

/// A handshake that this node began and that was not answered yet.
struct Outstanding {
    initiation: Initiation,
    local: u32,
    /// The one before, which may still be answered: the path may be slow, or have
    /// moved under it.
    former: Option<(Initiation, u32)>,
    /// When the first message was sent, and the last.
    began: Instant,
    sent: Instant,
    repeat: Duration,
}

pub(in crate::shard) struct Tunnel {
    peer: PublicKey,
    preshared: Zeroizing<[u8; 32]>,
    /// What the peer puts into what it sends.
    indices: Indices,
    slot: u32,
    serial: u16,
    /// Newest first.
    #[expect(clippy::vec_box, reason = "each is 3 KB, and the list moves when a new one comes")]
    pub(super) keys: Vec<Box<Keys>>,
    /// With which to seal.
    sending: Option<u32>,
    outstanding: Option<Box<Outstanding>>,
    /// Keys will soon be too old, or nobody answers.
    rekey: bool,
    /// The first data sent since the peer was last heard.
    unheard: Option<Instant>,
    /// The newest timestamp with which the peer began a handshake whose keys it
    /// used: what is not newer is a recording.
    newest: [u8; noise::TIMESTAMP],
    answers: Limit,
    given: Option<Given>,
    /// The index and the first seal of the message that was sent last.
    sealed: Option<(u32, mac::Cookie)>,
}

impl Tunnel {
    pub(in crate::shard) fn new(peer: AgreementKey, indices: Indices, slot: usize) -> Self {
        Self {
            peer: PublicKey::from(peer.0),
            preshared: Zeroizing::new([0; 32]),
            indices,
            slot: slot as u32,
            serial: 0,
            keys: Vec::new(),
            sending: None,
            outstanding: None,
            rekey: false,
            unheard: None,
            newest: [0; noise::TIMESTAMP],
            answers: Limit::new(16, Duration::from_millis(20)),
            given: None,
            sealed: None,
        }
    }

    /// Forgets everything: the peer was started again, perhaps with a clock
    /// that went back, or has another key.
    pub(in crate::shard) fn clear(&mut self) {
        self.newest = [0; noise::TIMESTAMP];
        self.keys.clear();
        self.sending = None;
        self.outstanding = None;
        self.rekey = false;
        self.unheard = None;
    }

    fn sending(&self) -> Option<&Keys> {
        let local = self.sending?;
        self.keys.iter().find(|keys| keys.local == local).map(|keys| &**keys)
    }

    /// Whether packets can be sealed now.
    pub(in crate::shard) fn is_ready(&self, now: Instant) -> bool {
        self.sending().is_some_and(|keys| keys.are_valid(now))
    }

    /// Whether a handshake of this node's is under way.
    pub(in crate::shard) fn is_beginning(&self) -> bool {
        self.outstanding.is_some()
    }

    /// Seals a packet; an empty one is a keepalive. Gives how many bytes it
    /// wrote: none unless [`Self::is_ready`].
    pub(in crate::shard) fn seal(&mut self, packet: &[u8], now: Instant, into: &mut [u8]) -> usize {
        let local = self.sending;
        let Some(keys) = self.keys.iter_mut().find(|keys| Some(keys.local) == local) else {
            return 0;
        };
        if !keys.are_valid(now) {
            return 0;
        }
        let length = keys.seal(packet, into);
        let is_old = keys.initiator && now.since(keys.born) >= REKEY_AFTER_TIME;
        self.rekey |= is_old || keys.counter >= REKEY_AFTER_MESSAGES;
        if !packet.is_empty() {
            self.unheard.get_or_insert(now);
        }
        length
    }

    /// Opens a data message to the beginning of `into`; an empty packet is a
    /// keepalive. `None` for what is forged, repeated, or of keys that are gone.
    pub(in crate::shard) fn open(
        &mut self,
        message: &[u8],
        now: Instant,
        into: &mut [u8],
    ) -> Option<usize> {
        let local = u32::from_le_bytes(*message.get(4..)?.first_chunk()?);
        let place = self.keys.iter().position(|keys| keys.local == local)?;
        let keys = &mut self.keys[place];
        if now.since(keys.born) >= REJECT_AFTER_TIME {
            return None;
        }
        let length = keys.open(message, into)?;
        let newly_confirmed = !std::mem::replace(&mut keys.confirmed, true);
        self.rekey |= keys.initiator
            && Some(local) == self.sending
            && now.since(keys.born) >= REKEY_ON_RECEIVE;
        if newly_confirmed {
            self.newest = keys.timestamp.map_or(self.newest, |stamp| stamp.max(self.newest));
            // The peer was faster than this node's own handshake.
            let born = keys.born;
            self.outstanding = self.outstanding.take().filter(|begun| begun.sent > born);
            // Where both sides began at once, each keeps to what it began.
            let newer = self.keys[..place].iter().any(|keys| Some(keys.local) == self.sending);
            self.sending = self.sending.filter(|_| newer).or(Some(local));
        }
        self.unheard = None;
        Some(length)
    }

    /// An index that none of the keys has.
    fn new_local(&mut self) -> u32 {
        loop {
            self.serial = self.serial.wrapping_add(1);
            let local = self.indices.index(self.slot, self.serial);
            if self.keys.iter().all(|keys| keys.local != local) {
                return local;
            }
        }
    }

    fn keep(&mut self, keys: Box<Keys>) {
        self.keys.insert(0, keys);
        while self.keys.len() > KEPT {
            // The oldest that the peer never used, and is not the newest; else the
            // oldest that is not in use.
            let sending = self.sending;
            let unused = self.keys[1..].iter().rposition(|keys| !keys.confirmed);
            let other = || self.keys.iter().rposition(|keys| Some(keys.local) != sending);
            let Some(at) = unused.map(|at| at + 1).or_else(other) else { return };
            self.keys.remove(at);
        }
    }

    /// Begins a handshake. Nothing if one is under way, unless `again`.
    pub(in crate::shard) fn initiate(
        &mut self,
        again: bool,
        engine: &mut WireGuard,
        now: Instant,
        into: &mut [u8],
    ) -> usize {
        if self.outstanding.is_some() && !again {
            return 0;
        }
        let repeat = if self.is_ready(now) { REKEY_TIMEOUT } else { FIRST_RETRY };
        self.write_initiation(now, repeat, engine, now, into).unwrap_or(0)
    }

    fn write_initiation(
        &mut self,
        began: Instant,
        repeat: Duration,
        engine: &mut WireGuard,
        now: Instant,
        into: &mut [u8],
    ) -> Option<usize> {
        let message = into.get_mut(..HANDSHAKE_LENGTH)?;
        let local = self.new_local();
        message[..4].copy_from_slice(&[1, 0, 0, 0]);
        message[4..8].copy_from_slice(&local.to_le_bytes());
        let stamp = tai64n(engine.stamp(now));
        let ephemeral = engine.ephemeral()?;
        let initiation = Initiation::write(
            (&engine.secret, &engine.public),
            &self.peer,
            ephemeral,
            &stamp,
            message[8..].first_chunk_mut()?,
        )?;
        let cookie = self.given.as_ref().and_then(|given| given.usable(now));
        self.sealed = Some((local, mac::seal(&self.peer, cookie, message)?));
        let repeat = repeat + engine.jitter(JITTER);
        let former = self.outstanding.take().map(|begun| (begun.initiation, begun.local));
        let outstanding = Outstanding { initiation, local, former, began, sent: now, repeat };
        self.outstanding = Some(Box::new(outstanding));
        self.rekey = false;
        Some(HANDSHAKE_LENGTH)
    }

    /// Takes the first message of a handshake, and writes the answer.
    pub(in crate::shard) fn answer(
        &mut self,
        opened: Opened,
        sender: u32,
        engine: &WireGuard,
        now: Instant,
        into: &mut [u8],
    ) -> Handshake {
        match self.write_answer(opened, sender, engine, now, into) {
            Some(()) => Handshake::Answered(RESPONSE_LENGTH),
            None => Handshake::Refused,
        }
    }

    fn write_answer(
        &mut self,
        opened: Opened,
        sender: u32,
        engine: &WireGuard,
        now: Instant,
        into: &mut [u8],
    ) -> Option<()> {
        let proven = opened.prove(&engine.secret)?;
        // A recording may be repeated until somebody with its keys, or newer ones,
        // is heard; none but the newest displaces any keys.
        let timestamp = proven.timestamp;
        let newest = self.keys.iter().filter_map(|keys| keys.timestamp).max();
        if timestamp <= self.newest || newest >= Some(timestamp) || !self.answers.allows(now) {
            return None;
        }
        let message = into.get_mut(..RESPONSE_LENGTH)?;
        let local = self.new_local();
        message[..4].copy_from_slice(&[2, 0, 0, 0]);
        message[4..8].copy_from_slice(&local.to_le_bytes());
        message[8..12].copy_from_slice(&sender.to_le_bytes());
        let part = message[12..].first_chunk_mut()?;
        let pair = proven.answer(&engine.ephemeral()?, &self.preshared, part)?;
        let cookie = self.given.as_ref().and_then(|given| given.usable(now));
        self.sealed = Some((local, mac::seal(&self.peer, cookie, message)?));
        self.keep(Keys::new(&pair, (local, sender), Some(timestamp), now)?);
        Some(())
    }

    /// Takes the answer to a handshake that this node began, and writes a
    /// keepalive, which proves to the peer that this node has the keys.
    pub(in crate::shard) fn complete(
        &mut self,
        message: &[u8],
        engine: &WireGuard,
        now: Instant,
        into: &mut [u8],
    ) -> Handshake {
        self.read_response(message, engine, now)
            .map_or(Handshake::Refused, |()| Handshake::Completed(self.seal(&[], now, into)))
    }

    fn read_response(&mut self, message: &[u8], engine: &WireGuard, now: Instant) -> Option<()> {
        let remote = u32::from_le_bytes(*message.get(4..)?.first_chunk()?);
        let local = u32::from_le_bytes(*message.get(8..)?.first_chunk()?);
        let part = message.get(12..)?.first_chunk()?;
        let outstanding = self.outstanding.as_ref()?;
        let is_last = outstanding.local == local;
        let initiation = match &outstanding.former {
            _ if is_last => &outstanding.initiation,
            Some((former, index)) if *index == local => former,
            _ => return None,
        };
        let pair = initiation.read(&engine.secret, &self.preshared, part)?;
        self.keep(Keys::new(&pair, (local, remote), None, now)?);
        self.sending = Some(local);
        match &mut self.outstanding {
            // The peer may have taken the last message, too, and keep the keys of
            // that one alone, as most do: its answer counts when it comes.
            Some(outstanding) if !is_last => outstanding.former = None,
            _ => self.outstanding = None,
        }
        self.rekey = false;
        self.unheard = None;
        Some(())
    }

    /// Takes the cookie that a peer under load asks to be shown next time.
    pub(in crate::shard) fn take_cookie(&mut self, reply: &[u8], now: Instant) -> Handshake {
        let receiver = reply.get(4..).and_then(|rest| rest.first_chunk());
        let cookie = self
            .sealed
            .filter(|(local, _)| receiver == Some(&local.to_le_bytes()))
            .and_then(|(_, seal)| mac::open_cookie(&self.peer, &seal, reply));
        let Some(cookie) = cookie else { return Handshake::Refused };
        self.given = Some(Given { cookie, at: now });
        // One reply is good for one message.
        self.sealed = None;
        Handshake::Deferred
    }

    #[cfg(test)]
    pub(super) fn has_cookie(&self) -> bool {
        self.given.is_some()
    }

    /// When [`Self::handle_timeout`] is due; `None` while there is nothing.
    pub(in crate::shard) fn poll_timeout(&self) -> Option<Instant> {
        let handshake = match &self.outstanding {
            Some(outstanding) => Some(outstanding.sent + outstanding.repeat),
            None if self.rekey => Some(Instant::default()),
            None => self.unheard.map(|since| since + KEEPALIVE_TIMEOUT + REKEY_TIMEOUT),
        };
        let keys = self.keys.iter().map(|keys| keys.born + REJECT_AFTER_TIME);
        keys.chain(handshake).min()
    }

    /// Does what is due; gives how many bytes are to be sent.
    pub(in crate::shard) fn handle_timeout(
        &mut self,
        engine: &mut WireGuard,
        now: Instant,
        into: &mut [u8],
    ) -> usize {
        self.keys.retain(|keys| now.since(keys.born) < REJECT_AFTER_TIME);
        if self.sending().is_none() {
            self.sending = None;
        }
        if let Some(outstanding) = &mut self.outstanding {
            let began = outstanding.began;
            let is_done = self.keys.iter().any(|keys| keys.initiator && keys.born >= began);
            if is_done {
                // An earlier message of it was answered, and the last one got lost.
                self.outstanding = None;
                return 0;
            }
            if now.since(began) >= REKEY_ATTEMPT_TIME {
                self.outstanding = None;
                self.unheard = None;
                return 0;
            }
            if now.since(outstanding.sent) < outstanding.repeat {
                return 0;
            }
            // Also where none can be made now.
            outstanding.sent = now;
            return self.write_initiation(began, REKEY_TIMEOUT, engine, now, into).unwrap_or(0);
        }
        let deaf = KEEPALIVE_TIMEOUT + REKEY_TIMEOUT;
        let rekey = std::mem::take(&mut self.rekey);
        if rekey || self.unheard.is_some_and(|since| now.since(since) >= deaf) {
            self.unheard = None;
            return self.initiate(false, engine, now, into);
        }
        0
    }
}

/// A time since 1970 as TAI64N (<https://cr.yp.to/libtai/tai64.html>).
fn tai64n(time: Duration) -> [u8; noise::TIMESTAMP] {
    let mut stamp = [0; noise::TIMESTAMP];
    stamp[..8].copy_from_slice(&((1 << 62) + 37 + time.as_secs()).to_be_bytes());
    stamp[8..].copy_from_slice(&time.subsec_nanos().to_be_bytes());
    stamp
}
