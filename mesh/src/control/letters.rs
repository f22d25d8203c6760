//! Letters to members, linked or not, and those that are passed on for others.

use std::time::Duration;

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use epsilon_proto::clock::{Instant, Now};
use epsilon_proto::id::{BootId, NodeId};
use epsilon_proto::letter::{Call, Letter, MAX_CALL, MAX_HOPS, Words};
use epsilon_proto::message::Request;
use epsilon_proto::wire::{self, Bytes};
use zeroize::Zeroizing;

use super::Control;
use super::seen::SeenBy;
use crate::limit::Limit;
use crate::pair::{Pair, Window};

/// By so many ways a letter goes to somebody who is not linked.
const WAYS: usize = 2;
/// So many letters of one member are taken or passed on at once, and then one in
/// this time. Whoever starts calls everybody, and asks two relays of each: 190 letters in a
/// fleet of 64, and again in the run after.
const BURST: u32 = 400;
const EVERY: Duration = Duration::from_millis(50);
/// A member's calls count that often.
const CALL_EVERY: Duration = Duration::from_secs(5);
const CALL_BURST: u32 = 2;

/// The letters to and from a peer in this run.
pub(super) struct Correspondence {
    keys: Option<Keys>,
    /// Letters that came by its link.
    carried: Limit,
    calls: Limit,
}

struct Keys {
    boot: BootId,
    send: Zeroizing<[u8; 32]>,
    receive: Zeroizing<[u8; 32]>,
    seen: Window,
}

impl Correspondence {
    pub(super) fn new() -> Self {
        Self {
            keys: None,
            carried: Limit::new(BURST, EVERY),
            calls: Limit::new(CALL_BURST, CALL_EVERY),
        }
    }
}

fn cipher(key: &[u8; 32]) -> ChaCha20Poly1305 {
    ChaCha20Poly1305::new(key.into())
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce.into()
}

/// What a letter's seal covers besides its words.
fn addressed(from: NodeId, to: NodeId) -> [u8; 64] {
    let mut both = [0; 64];
    both[..32].copy_from_slice(&from.0);
    both[32..].copy_from_slice(&to.0);
    both
}

impl Control {
    /// The keys for letters to and from the present run of a member.
    fn letter_keys(&mut self, node: NodeId) -> Option<&mut Keys> {
        let boot = self.boot_of(node)?;
        let known = self.peer(node).letters.keys.as_ref();
        if known.is_none_or(|keys| keys.boot != boot) {
            let boots = (self.config.boot, boot);
            let pair = Pair::new(&self.config.key, node, self.id, boots)?;
            let (mut send, mut receive) = (Zeroizing::new([0; 32]), Zeroizing::new([0; 32]));
            pair.secret("letter", true, &mut *send)?;
            pair.secret("letter", false, &mut *receive)?;
            let keys = Keys { boot, send, receive, seen: Window::default() };
            self.peer(node).letters.keys = Some(keys);
        }
        self.peer(node).letters.keys.as_mut()
    }

    /// Says something to a member, by its link or through others. Nobody says
    /// whether it arrives.
    pub(super) fn tell(&mut self, node: NodeId, words: &Words) {
        let ways = self.ways_to(node, None);
        if ways.is_empty() {
            return;
        }
        self.last_letter += 1;
        let (counter, own) = (self.last_letter, self.own);
        let Some(keys) = self.letter_keys(node) else { return };
        let payload = Payload { msg: &wire::encode(words), aad: &addressed(own, node) };
        let Ok(sealed) = cipher(&keys.send).encrypt(&nonce(counter), payload) else { return };
        let letter = Letter { from: own, to: node, hops: MAX_HOPS, counter, sealed: Bytes(sealed) };
        for way in ways {
            self.request(way, &Request::Letter(letter.clone()));
        }
    }

    /// The linked members to whom a letter for another is handed; not back to where
    /// it came from.
    fn ways_to(&self, node: NodeId, from: Option<NodeId>) -> Vec<NodeId> {
        if self.is_linked(node) {
            return vec![node];
        }
        let Some(member) = self.members.get(node) else { return Vec::new() };
        let others = |node: &NodeId| self.is_linked(*node) && Some(*node) != from;
        let mut ways: Vec<NodeId> =
            member.record.hubs.iter().copied().filter(others).take(WAYS).collect();
        let may_ask_others = from.is_none() || member.record.hubs.is_empty() || !self.is_large();
        if ways.is_empty() && may_ask_others {
            // Those to whom others link will know one of its hubs.
            let open = self.linked().into_iter().filter(|node| {
                Some(*node) != from
                    && self.members.get(*node).is_some_and(|member| member.record.is_open)
            });
            ways = open.take(WAYS).collect();
        }
        ways
    }

    /// A linked member brought a letter.
    pub(super) fn take_letter(&mut self, by: NodeId, mut letter: Letter, now: Now) {
        if !self.peer(by).letters.carried.allows(now.instant) || letter.from == self.own {
            return;
        }
        if self.members.get(letter.from).is_none() {
            return;
        }
        if letter.to == self.own {
            return self.open_letter(&letter, now);
        }
        if letter.hops == 0 {
            return;
        }
        letter.hops -= 1;
        for way in self.ways_to(letter.to, Some(by)) {
            if way != letter.from {
                self.request(way, &Request::Letter(letter.clone()));
            }
        }
    }

    fn open_letter(&mut self, letter: &Letter, now: Now) {
        let (from, own) = (letter.from, self.own);
        let Some(keys) = self.letter_keys(from) else { return };
        let payload = Payload { msg: &letter.sealed.0, aad: &addressed(from, own) };
        let Ok(opened) = cipher(&keys.receive).decrypt(&nonce(letter.counter), payload) else {
            return;
        };
        if !keys.seen.admit(letter.counter) {
            return;
        }
        match wire::decode::<Words>(&opened) {
            Ok(Words::Call(call)) => self.take_call(from, call, now),
            Ok(Words::Ask(ask)) => self.take_ask(from, &ask, now.instant),
            Ok(Words::Answer(answer)) => self.take_answer(from, &answer, now),
            Err(_) => {}
        }
    }

    /// Tells a member where this node may be, to be probed there.
    pub(super) fn call(&mut self, node: NodeId, wants_answer: bool) {
        let addresses =
            self.endpoints(MAX_CALL, SeenBy::Last).into_iter().map(|one| one.address).collect();
        self.tell(node, &Words::Call(Call { addresses, wants_answer }));
    }

    /// There is another link, by which calls that went nowhere may arrive.
    pub(super) fn call_again(&mut self, now: Instant) {
        for (node, peer) in &mut self.peers {
            if peer.link.is_none() && peer.paths.call_again(now) {
                self.agenda.touch(*node);
            }
        }
    }

    fn take_call(&mut self, from: NodeId, call: Call, now: Now) {
        if !self.peer(from).letters.calls.allows(now.instant) {
            return;
        }
        let mut addresses = call.addresses;
        addresses.retain(|address| {
            !self.members.is_inside(address.ip()) && !self.is_own_address(*address)
        });
        self.paths(from).called(&addresses, now.instant);
        if call.wants_answer {
            self.call(from, false);
            self.need_relays(now);
        }
    }
}
