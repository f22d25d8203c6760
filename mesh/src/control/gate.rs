//! The secrets of the gate that this node has, and how it comes by new ones.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use epsilon_proto::gate::GateSecret;
use epsilon_proto::id::{Digest, NodeId, PublicKey};
use epsilon_proto::message::{Newest, Request};
use epsilon_proto::sealed::Purpose;
use epsilon_proto::trust::GateEpoch;

use super::{Control, Output};
use crate::event::Event;
use crate::saved::Write;

/// How many secrets are kept: the newest opens the gate, older ones the slow
/// lane. One that is dropped shuts out who was away since it was the newest,
/// and tokens of its time; each one costs a stranger's greeting two hashes.
const MAX_SECRETS: usize = 256;

/// The secrets. Those that two halves of a divided network made for one epoch
/// are ordered by their hashes.
#[derive(Default)]
pub(super) struct Keyring {
    secrets: BTreeMap<Stamp, GateSecret>,
    /// Minted by nobody but admins that no longer are: they open the slow lane
    /// to those who have no other, and count for nothing else.
    void: BTreeSet<Stamp>,
}

/// An epoch, and the hash of its secret.
pub(super) type Stamp = (u32, Digest);

impl Keyring {
    /// The newest; a void one only where there is no other.
    pub(super) fn newest(&self) -> Option<&GateSecret> {
        self.newest_valid().or_else(|| self.secrets.values().next_back())
    }

    fn newest_valid(&self) -> Option<&GateSecret> {
        self.newest_but(&self.void)
    }

    /// The newest that is not among these.
    fn newest_but(&self, void: &BTreeSet<Stamp>) -> Option<&GateSecret> {
        let newest_first = self.secrets.iter().rev();
        newest_first.filter(|(stamp, _)| !void.contains(stamp)).map(|(_, secret)| secret).next()
    }

    /// The epoch and the hash of the newest.
    pub(super) fn newest_stamp(&self) -> Option<Stamp> {
        self.newest().map(stamp)
    }

    /// The secret that somebody should have whose newest is another one.
    pub(super) fn newer_than(&self, theirs: Option<Stamp>) -> Option<&GateSecret> {
        let theirs = theirs.filter(|theirs| !self.void.contains(theirs));
        self.newest_valid().filter(|newest| Some(stamp(newest)) > theirs)
    }

    /// The newest first; then those that are void; the oldest last, which all
    /// have who were there from the beginning.
    pub(super) fn iter(&self) -> impl Iterator<Item = &GateSecret> {
        let is_void = |stamp: &Stamp| self.void.contains(stamp);
        let mut valid: Vec<_> = self.secrets.iter().rev().filter(|one| !is_void(one.0)).collect();
        let oldest = if valid.len() > self.current() { valid.pop() } else { None };
        let void = self.secrets.iter().rev().filter(move |one| is_void(one.0));
        valid.into_iter().chain(void).chain(oldest).map(|(_, secret)| secret)
    }

    /// How many of the first are current: of the newest epoch.
    fn current(&self) -> usize {
        let newest = self.newest_valid().map(|newest| newest.epoch);
        let valid = self.secrets.keys().filter(|stamp| !self.void.contains(stamp));
        valid.filter(|stamp| Some(stamp.0) == newest).count()
    }

    pub(super) fn len(&self) -> usize {
        self.secrets.len()
    }

    /// Says whether one stamp is void; tells whether the order changed.
    fn set_void_one(&mut self, stamp: Stamp, void: bool) -> bool {
        let changed = if void { self.void.insert(stamp) } else { self.void.remove(&stamp) };
        changed && self.secrets.contains_key(&stamp)
    }

    /// Says which stamps are void; tells whether the order changed.
    fn set_void(&mut self, void: BTreeSet<Stamp>) -> bool {
        let before = std::mem::replace(&mut self.void, void);
        self.secrets.keys().any(|stamp| before.contains(stamp) != self.void.contains(stamp))
    }

    /// Adds a secret; says which one went to make room for it, if that was
    /// needed, or that it is no news.
    fn insert(&mut self, secret: GateSecret) -> Inserted {
        let new = stamp(&secret);
        if self.secrets.insert(new, secret).is_some() {
            return Inserted::Known;
        }
        if self.secrets.len() <= MAX_SECRETS {
            return Inserted::New(None);
        }
        // The oldest stays: all who were there from the beginning know it.
        let candidates = || self.secrets.keys().skip(1);
        let void = candidates().find(|stamp| self.void.contains(stamp));
        let goes = void.or_else(|| candidates().next()).copied().unwrap_or(new);
        self.secrets.remove(&goes);
        if goes == new { Inserted::Known } else { Inserted::New(Some(goes)) }
    }
}

enum Inserted {
    New(Option<Stamp>),
    Known,
}

fn stamp(secret: &GateSecret) -> Stamp {
    (secret.epoch, secret.check())
}

impl Control {
    pub(super) fn restore_gate(&mut self, secrets: Vec<GateSecret>) {
        self.gate.set_void(self.trust.void_gate_epochs(None));
        for secret in secrets {
            self.gate.insert(secret);
        }
        self.open_gate();
        // A box may have come that a crash kept from being opened.
        let mut epochs: Vec<GateEpoch> =
            self.trust.gate_epochs().map(|epoch| (**epoch).clone()).collect();
        epochs.sort_by_key(|epoch| Reverse((epoch.epoch, epoch.check)));
        for epoch in epochs.iter().take(MAX_SECRETS) {
            self.open_gate_epoch(epoch);
        }
    }

    /// An epoch came: its secret is one that is not void, or nobody knows
    /// better. Takes it, if there is a box for this node.
    pub(super) fn take_gate_epoch(&mut self, epoch: &GateEpoch) {
        let stamp = (epoch.epoch, epoch.check);
        if self.gate.set_void_one(stamp, self.trust.is_void(stamp)) {
            self.open_gate();
        }
        self.open_gate_epoch(epoch);
        // It was minted before its admin heard of this node.
        if self.lacks_gate_secret()
            && let Some(node) = self.linked().first()
        {
            self.ask_for_gate(*node);
        }
    }

    /// Whether an epoch began whose secret this node does not have.
    pub(super) fn lacks_gate_secret(&self) -> bool {
        let newest = self.trust.gate_epochs().map(|epoch| (epoch.epoch, epoch.check)).max();
        newest > self.gate.newest_valid().map(stamp)
    }

    pub(super) fn ask_for_gate(&mut self, node: NodeId) {
        if !self.sync.asks_for_gate(node) {
            let newest = Newest { gate: self.gate.newest_stamp() };
            self.request(node, &Request::Gate(newest));
        }
    }

    /// An admin no longer is one: whoever stole its key must not decide which
    /// secret is the newest.
    pub(super) fn sort_gate(&mut self) {
        if self.gate.set_void(self.trust.void_gate_epochs(None)) {
            self.open_gate();
        }
    }

    /// The number of the epoch that begins when this key is an admin's no
    /// more: what it minted does not count.
    pub(super) fn next_epoch(&self, without: Option<PublicKey>) -> u32 {
        let newest = self.gate.newest_but(&self.trust.void_gate_epochs(without));
        newest.map_or(0, |secret| secret.epoch).saturating_add(1)
    }

    fn open_gate(&mut self) {
        let secrets = self.gate.iter().cloned().collect();
        self.outputs.push_back(Output::Gate { secrets, current: self.gate.current() });
    }

    pub(super) fn take_gate_secret(&mut self, secret: GateSecret) {
        let mut writes = vec![Write::gate(&secret)];
        let epoch = secret.epoch;
        if let Inserted::New(gone) = self.gate.insert(secret) {
            writes.extend(gone.map(|(epoch, check)| Write::forget_gate(epoch, check)));
            self.persist(writes, None);
            self.open_gate();
            self.event(Event::GateChanged(epoch));
        }
    }

    /// Takes the secret of an epoch, also a void one: others may have no other.
    fn open_gate_epoch(&mut self, epoch: &GateEpoch) {
        if self.gate.secrets.contains_key(&(epoch.epoch, epoch.check)) {
            return;
        }
        let sealed = epoch.boxes.iter().find(|(node, _)| *node == self.own);
        let opened = sealed.and_then(|(_, sealed)| {
            sealed.open(Purpose::GateSecret, self.id, &self.config.key).ok()
        });
        let secret =
            opened.and_then(|bytes| GateSecret::from_bytes(epoch.epoch, &bytes, epoch.check));
        if let Some(secret) = secret {
            self.take_gate_secret(secret);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng as _;

    use super::*;

    fn secrets<const N: usize>(epochs: [u32; N]) -> [GateSecret; N] {
        let mut random = ChaCha20Rng::from_seed([1; 32]);
        epochs.map(|epoch| GateSecret::generate(epoch, &mut random))
    }

    fn ring<'a>(secrets: impl IntoIterator<Item = &'a GateSecret>) -> Keyring {
        let mut ring = Keyring::default();
        for secret in secrets {
            assert!(matches!(ring.insert(secret.clone()), Inserted::New(_)));
        }
        ring
    }

    #[test]
    fn the_newest_come_first_and_the_oldest_last_and_never_goes() {
        let all: [GateSecret; MAX_SECRETS + 50] = secrets(std::array::from_fn(|one| one as u32));
        let mut ring = Keyring::default();
        assert_eq!((ring.newest_stamp(), ring.current()), (None, 0));
        for (number, secret) in all.iter().enumerate() {
            let gone = (number >= MAX_SECRETS).then(|| stamp(&all[number + 1 - MAX_SECRETS]));
            assert!(matches!(ring.insert(secret.clone()), Inserted::New(went) if went == gone));
            assert!(matches!(ring.insert(secret.clone()), Inserted::Known));
            assert_eq!(ring.newest_stamp(), Some(stamp(secret)));
        }
        let epochs: Vec<u32> = ring.iter().map(|secret| secret.epoch).collect();
        assert_eq!((epochs.len(), ring.current()), (MAX_SECRETS, 1));
        assert!(epochs.is_sorted_by(|newer, older| newer > older));
        assert_eq!(epochs.last(), Some(&0));
        // What is older than all that is kept, but for the oldest, finds no room.
        assert!(matches!(ring.insert(all[1].clone()), Inserted::Known));
    }

    #[test]
    fn two_secrets_of_one_epoch_are_ordered_alike_everywhere_and_both_current() {
        let [one, other, old] = secrets([7, 7, 6]);
        let rings = [ring([&one, &other, &old]), ring([&old, &other, &one])];
        assert_eq!(rings[0].newest(), rings[1].newest());
        for ring in rings {
            assert_eq!((ring.len(), ring.current()), (3, 2));
            assert_eq!(ring.iter().last(), Some(&old));
        }
    }

    #[test]
    fn a_void_secret_is_never_current_beside_those_of_the_newest_epoch() {
        let [one, other, stolen] = secrets([5, 5, 6]);
        let mut ring = ring([&one, &other, &stolen]);
        assert!(ring.set_void_one(stamp(&stolen), true));
        assert!(!ring.set_void_one(stamp(&stolen), true));
        assert_eq!((ring.current(), ring.iter().last()), (2, Some(&stolen)));
        assert!(ring.set_void_one(stamp(&stolen), false), "an honest admin repeated it");
        assert_eq!((ring.current(), ring.newest()), (1, Some(&stolen)));
    }

    #[test]
    fn a_void_secret_is_kept_for_those_who_have_no_other_and_never_the_newest() {
        let [oldest, old, stolen] = secrets([0, 1, u32::MAX]);
        let mut ring = ring([&oldest, &old, &stolen]);
        assert_eq!(ring.newest(), Some(&stolen));
        let void = BTreeSet::from([stamp(&stolen)]);
        assert!(ring.set_void(void.clone()));
        assert!(!ring.set_void(void));
        assert_eq!(ring.iter().collect::<Vec<_>>(), [&old, &stolen, &oldest]);
        assert_eq!((ring.newest(), ring.current()), (Some(&old), 1));
        // Who has nothing else is given a better one, whatever its number says.
        assert_eq!(ring.newer_than(Some(stamp(&stolen))), Some(&old));
        assert_eq!(ring.newer_than(Some(stamp(&oldest))), Some(&old));
        assert_eq!(ring.newer_than(Some(stamp(&old))), None);
        assert_eq!(ring.newer_than(None), Some(&old));
        // Room is made at its cost.
        let more: [GateSecret; MAX_SECRETS - 2] =
            secrets(std::array::from_fn(|one| one as u32 + 2));
        for secret in more {
            ring.insert(secret);
        }
        assert!(ring.iter().all(|secret| *secret != stolen));
        assert_eq!(ring.iter().last(), Some(&oldest));
    }

    #[test]
    fn where_every_secret_is_void_they_still_open_but_none_is_handed_on() {
        let [one, other] = secrets([1, 2]);
        let mut ring = ring([&one, &other]);
        ring.set_void([&one, &other].map(stamp).into());
        assert_eq!((ring.newest(), ring.current()), (Some(&other), 0));
        assert_eq!(ring.iter().collect::<Vec<_>>(), [&other, &one]);
        assert_eq!(ring.newer_than(None), None);
    }
}
