//! A declared double of the data plane: who is installed with which prefixes,
//! and datagrams between those who know each other's keys: probes, packets, and
//! what is passed on for others.
//!
//! The contract is that of [`epsilon_mesh::shard::Command`] and
//! [`epsilon_mesh::shard::Report`]; sessions have no place here: a packet needs a
//! path, but no handshake.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use epsilon_mesh::shard::{Command, Path, PeerId, Prefix, ProbeKeys};
use epsilon_proto::datagram::Channel;
use epsilon_proto::id::NodeId;
use epsilon_proto::key::AgreementKey;

/// What a shard was told about a peer, and knows of it.
#[derive(Default)]
pub(crate) struct Peer {
    pub(crate) prefixes: Vec<Prefix>,
    pub(crate) path: Option<Path>,
    /// The largest packet that goes there whole.
    pub(crate) mtu: u16,
    pub(crate) keys: Option<ProbeKeys>,
    /// How many of its probes were reported in which second.
    pub(crate) reported: (u64, u32),
    /// Packets that wait for a path, and since when.
    pub(crate) waiting: VecDeque<(Duration, u64)>,
    /// When it was said last that there is no path, or that it is elsewhere.
    pub(crate) said: Option<Duration>,
    /// When it is said that nothing was replied.
    pub(crate) unanswered: Option<Duration>,
    /// When something was sent or heard.
    pub(crate) used: Duration,
    pub(crate) is_busy: bool,
}

/// A probe under way.
pub(crate) struct Outstanding {
    pub(crate) node: NodeId,
    pub(crate) way: Path,
    pub(crate) sent: Duration,
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
    pub(crate) outstanding: BTreeMap<u64, Outstanding>,
    /// Their ends, and when it was last said that they are used.
    pub(crate) channels: BTreeMap<Channel, ([SocketAddr; 2], Option<Duration>)>,
    /// Whether it may pass on anything.
    pub(crate) is_relay: bool,
    /// Datagrams passed on for others.
    pub(crate) passed_on: u64,
}

/// What the network has to carry because of a command.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sent {
    Probe {
        node: NodeId,
        way: Path,
        size: u16,
        transaction: u64,
    },
    /// The packets that waited for a path.
    Waiting {
        node: NodeId,
    },
}

impl Plane {
    /// Takes a command.
    pub(crate) fn obey(&mut self, command: Command) -> Option<Sent> {
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
            Command::SetPath { node, path, mtu } => {
                if let Some(peer) = self.peers.get_mut(&node) {
                    (peer.path, peer.mtu) = (path, mtu);
                    return path.is_some().then_some(Sent::Waiting { node });
                }
            }
            Command::SetProbeKeys { node, keys } => {
                if let Some(peer) = self.peers.get_mut(&node) {
                    peer.keys = Some(keys);
                }
            }
            Command::ClearProbeKeys { node } => {
                if let Some(peer) = self.peers.get_mut(&node) {
                    peer.keys = None;
                }
            }
            Command::SetChannel { channel, ends } => {
                self.channels.entry(channel).or_insert((ends, None)).0 = ends;
            }
            Command::RemoveChannel { channel } => drop(self.channels.remove(&channel)),
            Command::SetRelaying(relaying) => self.is_relay = relaying.all > 0,
            Command::ResetSession { .. } | Command::SetSubnets(_) | Command::SetBehind { .. } => {}
            Command::SendProbe { node, to, size, transaction } => {
                self.probes += 1;
                return Some(Sent::Probe {
                    node,
                    way: to,
                    size: size.unwrap_or_default(),
                    transaction,
                });
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
