//! The secrets of the gate that this node has, and how it comes by new ones.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use epsilon_proto::gate::GateSecret;
use epsilon_proto::id::Digest;
use epsilon_proto::sealed::Purpose;
use epsilon_proto::trust::GateEpoch;

use super::{Control, Output};
use crate::event::Event;
use crate::saved::Write;

/// How many secrets are kept: the newest opens the gate, older ones the slow
/// lane. One that is dropped shuts out who was away since it was the newest,
/// and tokens of its time; each one costs a stranger's greeting two hashes.
const MAX_SECRETS: usize = 256;

/// The secrets, newest first; those by admins that no longer are come last.
/// Secrets that two halves of a divided network made for one epoch are ordered
/// by their hashes.
#[derive(Default)]
pub(super) struct Keyring {
    secrets: BTreeMap<Reverse<Stamp>, GateSecret>,
    /// Minted by admins that no longer are: they open the slow lane to those
    /// who have no other, and count for nothing else.
    void: BTreeSet<Stamp>,
}

/// An epoch, and the hash of its secret.
type Stamp = (u32, Digest);

impl Keyring {
    pub(super) fn newest(&self) -> Option<&GateSecret> {
        self.iter().next()
    }

    /// The epoch and the hash of the newest.
    pub(super) fn newest_stamp(&self) -> Option<Stamp> {
        self.newest().map(|secret| (secret.epoch, secret.check()))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &GateSecret> {
        let of = |void: bool| {
            self.secrets.iter().filter(move |(stamp, _)| self.void.contains(&stamp.0) == void)
        };
        of(false).chain(of(true)).map(|(_, secret)| secret)
    }

    pub(super) fn len(&self) -> usize {
        self.secrets.len()
    }

    fn has(&self, epoch: u32, check: Digest) -> bool {
        self.secrets.contains_key(&Reverse((epoch, check)))
    }

    /// Says which stamps are void; tells whether the order changed.
    fn set_void(&mut self, void: BTreeSet<Stamp>) -> bool {
        let before = std::mem::replace(&mut self.void, void);
        self.secrets.keys().any(|stamp| before.contains(&stamp.0) != self.void.contains(&stamp.0))
    }

    /// Adds a secret; says whether that is news.
    fn insert(&mut self, secret: GateSecret) -> bool {
        let stamp = Reverse((secret.epoch, secret.check()));
        let is_new = self.secrets.insert(stamp, secret).is_none();
        if self.secrets.len() > MAX_SECRETS {
            let void = self.secrets.keys().rev().find(|stamp| self.void.contains(&stamp.0));
            // The oldest stays: all who were there from the beginning know it.
            let goes = void.or(self.secrets.keys().rev().nth(1)).copied();
            goes.and_then(|stamp| self.secrets.remove(&stamp));
        }
        is_new
    }
}

impl Control {
    pub(super) fn restore_gate(&mut self, secrets: Vec<GateSecret>) {
        for secret in secrets {
            self.gate.insert(secret);
        }
        self.gate.set_void(self.trust.void_gate_epochs().collect());
        self.open_gate();
        // A box may have come that a crash kept from being opened.
        let mut epochs: Vec<GateEpoch> =
            self.trust.gate_epochs().map(|epoch| (**epoch).clone()).collect();
        epochs.sort_by_key(|epoch| Reverse((epoch.epoch, epoch.check)));
        for epoch in epochs.iter().take(MAX_SECRETS) {
            self.open_gate_epoch(epoch);
        }
    }

    /// An admin no longer is one: whoever stole its key must not decide which
    /// secret is the newest.
    pub(super) fn revoke_gate_epochs(&mut self) {
        if self.gate.set_void(self.trust.void_gate_epochs().collect()) {
            self.open_gate();
        }
    }

    fn open_gate(&mut self) {
        let secrets = self.gate.iter().cloned().collect();
        self.outputs.push_back(Output::Gate(secrets));
    }

    pub(super) fn take_gate_secret(&mut self, secret: GateSecret) {
        let write = Write::gate(&secret);
        let epoch = secret.epoch;
        if self.gate.insert(secret) {
            self.persist(vec![write], None);
            self.open_gate();
            self.event(Event::GateChanged(epoch));
        }
    }

    /// Takes the secret of an epoch, if there is a box for this node.
    pub(super) fn open_gate_epoch(&mut self, epoch: &GateEpoch) {
        if self.gate.has(epoch.epoch, epoch.check) {
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

    #[test]
    fn the_newest_come_first_and_the_oldest_is_never_dropped() {
        let mut random = ChaCha20Rng::from_seed([1; 32]);
        let mut ring = Keyring::default();
        assert_eq!(ring.newest_stamp(), None);
        for epoch in 0..MAX_SECRETS as u32 + 50 {
            let secret = GateSecret::generate(epoch, &mut random);
            assert!(ring.insert(secret.clone()));
            assert!(!ring.insert(secret.clone()));
            assert_eq!(ring.newest_stamp(), Some((epoch, secret.check())));
        }
        let epochs: Vec<u32> = ring.iter().map(|secret| secret.epoch).collect();
        assert_eq!(epochs.len(), MAX_SECRETS);
        assert!(epochs.is_sorted_by(|newer, older| newer > older));
        assert_eq!(epochs.last(), Some(&0));
    }

    #[test]
    fn two_secrets_of_one_epoch_are_ordered_alike_everywhere() {
        let mut random = ChaCha20Rng::from_seed([2; 32]);
        let [one, other] = [(); 2].map(|()| GateSecret::generate(7, &mut random));
        let rings = [[&one, &other], [&other, &one]].map(|order| {
            let mut ring = Keyring::default();
            for secret in order {
                ring.insert(secret.clone());
            }
            ring
        });
        assert_eq!(rings[0].newest(), rings[1].newest());
        assert_eq!(rings[0].len(), 2);
    }

    #[test]
    fn a_void_secret_is_kept_for_those_who_have_no_other_and_never_the_newest() {
        let mut random = ChaCha20Rng::from_seed([3; 32]);
        let mut ring = Keyring::default();
        let [old, stolen] = [1, u32::MAX].map(|epoch| GateSecret::generate(epoch, &mut random));
        ring.insert(old.clone());
        ring.insert(stolen.clone());
        assert_eq!(ring.newest(), Some(&stolen));
        assert!(ring.set_void(BTreeSet::from([(stolen.epoch, stolen.check())])));
        assert_eq!(ring.iter().collect::<Vec<_>>(), [&old, &stolen]);
        assert!(!ring.set_void(BTreeSet::from([(stolen.epoch, stolen.check())])));
        // Room is made at its cost.
        for epoch in 2..=MAX_SECRETS as u32 {
            ring.insert(GateSecret::generate(epoch, &mut random));
        }
        assert!(ring.iter().all(|secret| *secret != stolen));
        assert_eq!(ring.iter().last(), Some(&old));
    }
}
