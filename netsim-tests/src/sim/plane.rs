//! A declared double of the data plane: who is installed with which prefixes,
//! and probes that are answered when both ends know each other's keys.
//!
//! The contract is that of [`epsilon_mesh::shard::Command`] and
//! [`epsilon_mesh::shard::Report`]; sessions and packets have no place here.

use std::collections::{BTreeMap, BTreeSet};

use epsilon_mesh::shard::{Command, Path, PeerId, Prefix};
use epsilon_proto::id::NodeId;
use epsilon_proto::key::AgreementKey;

/// What a shard was told about a peer.
#[derive(Default)]
pub(crate) struct Peer {
    pub(crate) prefixes: Vec<Prefix>,
    pub(crate) path: Option<Path>,
    /// The index that it must use, and the one that this node must use.
    pub(crate) indices: Option<(u32, u32)>,
    /// How many of its probes were reported in which second.
    pub(crate) reported: (u64, u32),
}

/// The double of a machine's shard.
#[derive(Default)]
pub(crate) struct Plane {
    pub(crate) peers: BTreeMap<NodeId, Peer>,
    pub(crate) devices: BTreeMap<AgreementKey, Vec<Prefix>>,
    owners: BTreeMap<Prefix, BTreeSet<PeerId>>,
    /// Prefixes that two peers have at once.
    shared: BTreeSet<Prefix>,
    pub(crate) own: Vec<Prefix>,
    pub(crate) probes: u64,
}

impl Plane {
    /// Takes a command; a probe to send is given back.
    pub(crate) fn obey(&mut self, command: Command) -> Option<(NodeId, Path, u64)> {
        match command {
            Command::SetOwn { addresses, .. } => self.own = addresses,
            Command::SetPeer { node, prefixes, .. } => {
                let peer = self.peers.entry(node).or_default();
                let before = std::mem::replace(&mut peer.prefixes, prefixes.clone());
                self.hand_over(PeerId::Node(node), &before, &prefixes);
            }
            Command::SetDevice { key, prefixes } => {
                let before = self.devices.insert(key, prefixes.clone()).unwrap_or_default();
                self.hand_over(PeerId::Device(key), &before, &prefixes);
            }
            Command::RemovePeer { node } => {
                let before = self.peers.remove(&node).map(|peer| peer.prefixes);
                self.hand_over(PeerId::Node(node), &before.unwrap_or_default(), &[]);
            }
            Command::RemoveDevice { key } => {
                let before = self.devices.remove(&key).unwrap_or_default();
                self.hand_over(PeerId::Device(key), &before, &[]);
            }
            Command::SetPath { node, path } => {
                if let Some(peer) = self.peers.get_mut(&node) {
                    peer.path = path;
                }
            }
            Command::SetProbeKeys { node, local_index, remote_index, .. } => {
                if let Some(peer) = self.peers.get_mut(&node) {
                    peer.indices = Some((local_index, remote_index));
                }
            }
            Command::ClearProbeKeys { node } => {
                if let Some(peer) = self.peers.get_mut(&node) {
                    peer.indices = None;
                }
            }
            Command::ResetSession { .. }
            | Command::SetChannel { .. }
            | Command::RemoveChannel { .. }
            | Command::SetRelaying(_) => {}
            Command::SendProbe { node, to, transaction } => {
                self.probes += 1;
                return Some((node, to, transaction));
            }
        }
        None
    }

    /// A peer or device has other prefixes than before.
    fn hand_over(&mut self, peer: PeerId, before: &[Prefix], now: &[Prefix]) {
        for prefix in before {
            if let Some(owners) = self.owners.get_mut(prefix) {
                owners.remove(&peer);
                if owners.len() < 2 {
                    self.shared.remove(prefix);
                }
                if owners.is_empty() {
                    self.owners.remove(prefix);
                }
            }
        }
        for prefix in now {
            let owners = self.owners.entry(*prefix).or_default();
            owners.insert(peer);
            if owners.len() > 1 {
                self.shared.insert(*prefix);
            }
        }
    }

    /// A prefix that two peers have at once.
    pub(crate) fn overlap(&self) -> Option<Prefix> {
        self.shared.first().copied()
    }
}
