//! What Control knows, for people.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use epsilon_proto::address::DEFAULT_MTU;
use epsilon_proto::clock::{Now, Timestamp};
use epsilon_proto::id::{DeviceId, NetworkId, NodeId, PublicKey};
use epsilon_proto::key::AgreementKey;
use epsilon_proto::name::{NodeName, Site, Tag};
use epsilon_proto::record::{Endpoint, Label};
use epsilon_proto::trust::{Distribution, NetworkBlock, Roles};

use super::Control;
use super::hearsay::Hearsay;
use super::reach::ReachView;
use super::routes::RouteView;
use crate::saved::Routing;
use crate::shard::Path;

/// Something that is wrong until somebody acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Condition {
    /// This node was revoked.
    Revoked,
    /// Another machine runs with this node's identity.
    Cloned,
    /// The root signed two genesis blocks for one generation.
    ContradictoryGenesis,
}

/// Whether a member is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerState {
    /// This node itself.
    Own,
    /// Linked.
    Up,
    /// Not linked, but was a moment ago, or was never tried long enough.
    Connecting,
    /// Not linked.
    Down,
}

/// A member, as this node sees it.
#[derive(Debug, Clone)]
pub struct MemberView {
    /// Who.
    pub node: NodeId,
    /// Its name, unless another has it.
    pub name: Option<NodeName>,
    /// Its IPv4 address, unless another has it.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 addresses.
    pub ipv6: Vec<Ipv6Addr>,
    /// Whether it is there.
    pub state: PeerState,
    /// What it may be.
    pub roles: Roles,
    /// The tags of its invite.
    pub tags: Vec<Tag>,
    /// Where it stands.
    pub site: Option<Site>,
    /// What its operator says about it.
    pub labels: Vec<Label>,
    /// Where it says it can be reached.
    pub endpoints: Vec<Endpoint>,
    /// Whether anybody can send it datagrams, by what it saw.
    pub is_open: bool,
    /// The members that pass on to it what others send.
    pub relays: Vec<NodeId>,
    /// The members that say whether it is there, and in a large fleet tell it things.
    pub hubs: Vec<NodeId>,
    /// Where its data travels.
    pub path: Option<Path>,
    /// The largest packet that goes there whole.
    pub mtu: u16,
    /// The relay, where that goes through one.
    pub relay: Option<NodeId>,
    /// The round trip of the last answered probe.
    pub rtt: Option<Duration>,
    /// Where it is linked.
    pub link: Option<SocketAddr>,
    /// Since when it is linked.
    pub linked_since: Option<Timestamp>,
    /// When it was last heard on the control plane in this run.
    pub last_seen: Option<Timestamp>,
    /// The invite by which it came.
    pub invite: PublicKey,
    /// When its certificate says that it was made.
    pub certified: Timestamp,
    /// Who introduced it, and when.
    pub introduced: Vec<(PublicKey, Timestamp)>,
    /// Whether its key may act as an admin.
    pub is_admin: bool,
    /// Whether two machines run with its identity.
    pub is_cloned: bool,
    /// The version of its daemon.
    pub version: String,
}

/// A device, as this node sees it.
#[derive(Debug, Clone)]
pub struct DeviceView {
    /// Which.
    pub id: DeviceId,
    /// Its WireGuard key.
    pub key: AgreementKey,
    /// Its name, unless another has it.
    pub name: Option<NodeName>,
    /// The name that its owner gave it.
    pub given: NodeName,
    /// Its IPv4 address, unless another has it.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub ipv6: Ipv6Addr,
    /// Who owns it.
    pub owner: NodeId,
    /// Who serves it.
    pub server: NodeId,
    /// Who else may serve it.
    pub fallbacks: Vec<NodeId>,
    /// When it was added, by its owner's clock.
    pub added: Timestamp,
}

/// An invite, as this node sees it.
#[derive(Debug, Clone)]
pub struct InviteView {
    /// Its key, by which it is named.
    pub key: PublicKey,
    /// What it may give.
    pub roles: Roles,
    /// What it tags members with.
    pub tags: Vec<Tag>,
    /// When it was made.
    pub issued: Timestamp,
    /// From when on it admits nobody.
    pub expires: Option<Timestamp>,
    /// How many nodes it admits.
    pub uses: Option<u32>,
    /// How many members came by it.
    pub used: usize,
    /// Whether it was revoked, or its admin was.
    pub is_revoked: bool,
    /// Who made it.
    pub admin: PublicKey,
}

/// Everything.
#[derive(Debug, Clone)]
pub struct View {
    /// The network's id.
    pub id: NetworkId,
    /// The network.
    pub network: NetworkBlock,
    /// This node.
    pub own: NodeId,
    /// The generation of the cluster and what it is made of.
    pub generation: u32,
    /// What the cluster is made of.
    pub distribution: Distribution,
    /// All members, oneself included; oneself first, then by name.
    pub members: Vec<MemberView>,
    /// How this node is reached.
    pub reach: ReachView,
    /// The networks that members lead to.
    pub routes: Vec<RouteView>,
    /// What the operator said of routes.
    pub routing: Routing,
    /// The streams that are open, by their addresses, and where their other ends are.
    pub streams: BTreeMap<SocketAddr, SocketAddr>,
    /// All devices, by name.
    pub devices: Vec<DeviceView>,
    /// What is wrong, and since when.
    pub conditions: Vec<(Condition, Timestamp)>,
    /// Why the store takes nothing.
    pub storage_failing: Option<String>,
    /// Whether this node may act as an admin.
    pub is_admin: bool,
    /// Whether somebody introduced this node.
    pub is_introduced: bool,
    /// The addresses of the token, tried while nobody is linked.
    pub token_addresses: Vec<SocketAddr>,
    /// The gate epoch in force.
    pub gate_epoch: u32,
    /// The hash over all records: equal on nodes with equal views.
    pub records_digest: epsilon_proto::id::Digest,
    /// The hash over all network documents.
    pub documents_digest: epsilon_proto::id::Digest,
    /// What the network believes the time to be.
    pub trusted_time: Timestamp,
}

impl Control {
    /// The hashes over all records and over all network documents: equal on
    /// nodes with equal views.
    pub fn digests(&mut self) -> (epsilon_proto::id::Digest, epsilon_proto::id::Digest) {
        (self.members.digest(), self.trust.digest())
    }

    /// Everything that this node knows.
    pub fn view(&mut self, now: Now) -> View {
        let mut members: Vec<MemberView> = self
            .members
            .iter()
            .map(|(node, _)| node)
            .collect::<Vec<_>>()
            .into_iter()
            .filter_map(|node| self.member_view(node, now))
            .collect();
        members.sort_by_key(|member| (member.node != self.own, member.name.clone(), member.node));
        let genesis = self.trust.genesis();
        View {
            id: self.id,
            network: (*self.network).clone(),
            own: self.own,
            generation: genesis.map_or(0, |genesis| genesis.generation),
            distribution: genesis.map_or(Distribution::None, |genesis| genesis.distribution),
            members,
            reach: self.reach_view(now.instant),
            routes: self.route_views(),
            routing: self.routing.clone(),
            streams: self.streams.remotes(),
            devices: self.devices(),
            conditions: self.conditions.iter().map(|(what, since)| (*what, *since)).collect(),
            storage_failing: self.storage_failing.clone(),
            is_admin: self.trust.is_admin(self.own.key()),
            is_introduced: self.is_introduced(),
            token_addresses: self.token_addresses.clone(),
            gate_epoch: self.gate.newest().map_or(0, |secret| secret.epoch),
            records_digest: self.members.digest(),
            documents_digest: self.trust.digest(),
            trusted_time: self.trusted_time(now),
        }
    }

    /// The devices of the network, by name.
    fn devices(&self) -> Vec<DeviceView> {
        let devices = self.members.devices().map(|placed| DeviceView {
            id: placed.id,
            key: placed.device.key,
            name: placed.name.clone(),
            given: placed.device.name.clone(),
            ipv4: placed.ipv4,
            ipv6: self.range6.device(placed.id),
            owner: placed.owner,
            server: placed.server,
            fallbacks: placed.device.fallbacks.clone(),
            added: placed.device.added,
        });
        let mut devices: Vec<DeviceView> = devices.collect();
        devices.sort_by(|a, b| (&a.given, a.id).cmp(&(&b.given, b.id)));
        devices
    }

    /// A member, as this node sees it.
    pub fn member_view(&self, node: NodeId, now: Now) -> Option<MemberView> {
        let member = self.members.get(node)?;
        let peer = self.peers.get(&node);
        let link = peer.and_then(|peer| peer.link);
        let state = self.peer_state(node, now);
        let inherited = self.trust.inherited(node).to_vec();
        let record = &member.record;
        // What did not answer lately is no way that anybody may rely on.
        let path = peer.filter(|peer| peer.paths.is_proven()).and_then(|peer| peer.paths.active());
        let own_address = |own| if node == self.own { own } else { None };
        Some(MemberView {
            node,
            name: if node == self.own && !self.is_own_record_in_force() {
                // Claimed, and durable; the record with it is on its way.
                self.identity.name.clone()
            } else {
                self.members.name_of(node, &self.trust)
            },
            ipv4: self
                .members
                .ipv4_of(node, &self.trust)
                .or_else(|| own_address(self.identity.ipv4)),
            ipv6: std::iter::once(self.range6.node(node)).chain(inherited).collect(),
            state,
            roles: member.roles(),
            tags: member.certificate.tags.clone(),
            site: record.site.clone(),
            labels: record.labels.clone(),
            endpoints: record.endpoints.clone(),
            is_open: record.is_open,
            relays: record.relays.clone(),
            hubs: record.hubs.clone(),
            path,
            mtu: peer.map_or(DEFAULT_MTU, |peer| peer.paths.mtu()),
            relay: peer.and_then(|peer| peer.relayed.relay_of(path?)),
            rtt: path.and_then(|_| peer?.paths.rtt()),
            link: link.map(|link| link.remote),
            linked_since: link.map(|link| link.since),
            last_seen: peer
                .and_then(|peer| if link.is_some() { Some(now.wall) } else { peer.last_seen }),
            invite: member.invite(),
            certified: member.certificate.issued,
            introduced: member.introductions.iter().map(|one| (one.signer(), one.at)).collect(),
            is_admin: self.trust.is_admin(node.key()),
            is_cloned: peer.is_some_and(|peer| peer.is_cloned(now.instant)),
            version: record.version.clone(),
        })
    }

    /// Whether a member is there.
    pub(super) fn peer_state(&self, node: NodeId, now: Now) -> PeerState {
        if self.members.get(node).is_none() {
            return PeerState::Down;
        }
        let peer = self.peers.get(&node);
        let link = peer.and_then(|peer| peer.link);
        let just_started = now.instant.since(self.started) < Duration::from_secs(5);
        let hearsay = self.hearsay(node);
        // In a small fleet who was linked and is not heard since is not there because others
        // say so: they will notice as well.
        let may_be_up = peer.is_none_or(|peer| peer.is_heard_without_link()) || self.is_large();
        match peer {
            _ if node == self.own => PeerState::Own,
            _ if link.is_some() => PeerState::Up,
            // Others may say that it is gone who do not reach it.
            Some(peer) if peer.paths.is_proven() && peer.paths.is_busy() => PeerState::Up,
            Some(peer) if peer.is_in_grace() => PeerState::Connecting,
            _ if hearsay == Hearsay::There && may_be_up => PeerState::Up,
            // Two behind NATs are not linked. Who was and is not heard since is gone.
            Some(peer)
                if peer.paths.is_proven()
                    && peer.is_heard_without_link()
                    && hearsay == Hearsay::Nothing
                    && !self.hubs.is_cut_off() =>
            {
                PeerState::Up
            }
            _ if just_started => PeerState::Connecting,
            _ => PeerState::Down,
        }
    }

    /// The invites of the network.
    pub fn invites(&self) -> Vec<InviteView> {
        self.trust
            .invites()
            .map(|invite| InviteView {
                key: invite.key,
                roles: invite.roles,
                tags: invite.tags.clone(),
                issued: invite.issued,
                expires: invite.expires,
                uses: invite.uses,
                used: self.members.uses_of(invite.key, &self.trust) + self.waiting(invite.key),
                is_revoked: self.trust.is_invite_revoked(invite),
                admin: invite.signer(),
            })
            .collect()
    }

    /// The admins of the network: key, name, since when, whether still.
    pub fn admins(&self) -> Vec<(PublicKey, String, Timestamp, bool)> {
        self.trust
            .admins()
            .map(|(grant, holds)| (grant.key, grant.name.clone(), grant.issued, holds))
            .collect()
    }

    /// The name of a member.
    pub fn name_of(&self, node: NodeId) -> Option<NodeName> {
        self.members.name_of(node, &self.trust)
    }

    /// The network.
    pub fn network(&self) -> &NetworkBlock {
        &self.network
    }

    /// The network's id.
    pub fn id(&self) -> NetworkId {
        self.id
    }

    /// This node.
    pub fn own(&self) -> NodeId {
        self.own
    }

    /// What the operator said.
    pub fn settings(&self) -> &crate::saved::Settings {
        &self.settings
    }
}
