//! A declared double of the data plane: who is installed with which prefixes,
//! and probes that are answered when both ends know each other's keys.
//!
//! The contract is that of [`epsilon_mesh::shard::Command`] and
//! [`epsilon_mesh::shard::Report`]; sessions and packets have no place here.

use std::collections::{BTreeMap, BTreeSet};

use epsilon_mesh::shard::{Command, Path, Prefix};
use epsilon_proto::id::NodeId;

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
    owners: BTreeMap<Prefix, BTreeSet<NodeId>>,
    /// Prefixes that two peers have at once.
    shared: BTreeSet<Prefix>,
    pub(crate) own: Vec<Prefix>,
    pub(crate) probes: u64,
}

impl Plane {
    /// Takes a command; a probe to send is given back.
    pub(crate) fn obey(&mut self, command: Command) -> Option<(NodeId, std::net::SocketAddr, u64)> {
        match command {
            Command::SetOwn { addresses, .. } => self.own = addresses,
            Command::SetPeer { node, prefixes, .. } => {
                self.withdraw(node);
                for prefix in &prefixes {
                    let owners = self.owners.entry(*prefix).or_default();
                    owners.insert(node);
                    if owners.len() > 1 {
                        self.shared.insert(*prefix);
                    }
                }
                self.peers.entry(node).or_default().prefixes = prefixes;
            }
            Command::RemovePeer { node } => {
                self.withdraw(node);
                self.peers.remove(&node);
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
            Command::ResetSession { .. } => {}
            Command::SendProbe { node, to, transaction } => {
                self.probes += 1;
                return Some((node, to, transaction));
            }
        }
        None
    }

    fn withdraw(&mut self, node: NodeId) {
        for prefix in self.peers.get(&node).into_iter().flat_map(|peer| &peer.prefixes) {
            if let Some(owners) = self.owners.get_mut(prefix) {
                owners.remove(&node);
                if owners.len() < 2 {
                    self.shared.remove(prefix);
                }
                if owners.is_empty() {
                    self.owners.remove(prefix);
                }
            }
        }
    }

    /// A prefix that two peers have at once.
    pub(crate) fn overlap(&self) -> Option<Prefix> {
        self.shared.first().copied()
    }
}
