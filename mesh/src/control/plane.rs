//! What the data plane is told: who may send what, where it travels, and with
//! which keys paths are probed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use epsilon_proto::address::{DEFAULT_MTU, Ipv6Range, is_stream};
use epsilon_proto::clock::Now;
use epsilon_proto::id::{BootId, NodeId};
use epsilon_proto::record::EndpointSource;

use super::{Control, Output};
use crate::shard::{self, Command, Path, Prefix, Report};

/// How many probes of one peer may be under way.
const MAX_PROBES: usize = 64;

/// A probe under way.
pub(super) struct SentProbe {
    transaction: u64,
    to: Path,
    size: Option<u16>,
}

/// What the data plane was told.
#[derive(Default)]
pub(super) struct Plane {
    touched: BTreeSet<NodeId>,
    installed: BTreeMap<NodeId, Vec<Prefix>>,
    keyed: BTreeMap<NodeId, BootId>,
    own: Option<(Option<Ipv4Addr>, Vec<Ipv6Addr>)>,
    last_transaction: u64,
    /// Probes of [`Control::ping`] under way.
    pings: BTreeSet<u64>,
}

impl Plane {
    /// Something about a node changed.
    pub(super) fn touch(&mut self, node: NodeId) {
        self.touched.insert(node);
    }
}

impl Control {
    pub(super) fn announce(&mut self, ipv4: Option<Ipv4Addr>, ipv6: Vec<Ipv6Addr>) {
        if self.plane.own.as_ref() == Some(&(ipv4, ipv6.clone())) {
            return;
        }
        let hosts = ipv4.map(IpAddr::V4).into_iter().chain(ipv6.iter().copied().map(IpAddr::V6));
        let addresses = hosts.map(Prefix::host).collect();
        let reserved = vec![
            Prefix::new(IpAddr::V4(self.range().base()), 24),
            Prefix::new(IpAddr::V6(self.range6.base()), 112),
        ];
        let mesh = self.mesh_prefixes().to_vec();
        self.outputs.push_back(Output::Shard(Command::SetOwn { addresses, reserved, mesh }));
        self.outputs.push_back(Output::Addresses { ipv4, ipv6: ipv6.clone() });
        self.plane.own = Some((ipv4, ipv6));
    }

    /// All addresses of the mesh.
    pub(super) fn mesh_prefixes(&self) -> [Prefix; 2] {
        [
            Prefix::new(IpAddr::V4(self.range().base()), self.range().prefix()),
            Prefix::new(IpAddr::V6(self.range6.base()), Ipv6Range::PREFIX),
        ]
    }

    /// Brings data plane and calls up to what the membership says.
    pub(super) fn refresh_members(&mut self, now: Now) {
        let mut nodes = std::mem::take(&mut self.plane.touched);
        nodes.append(&mut self.members.take_affected());
        nodes.append(&mut self.refresh_devices(false));
        for node in nodes {
            self.mind_hubs(node, now.instant);
            if node == self.own {
                self.announce_addresses();
            } else {
                self.refresh_peer(node, now);
                self.refresh_calls(node, now);
            }
        }
        self.make_calls(now);
        self.advance_paths(now);
    }

    fn refresh_peer(&mut self, node: NodeId, now: Now) {
        self.learn_routes(node);
        let Some(member) = self.members.get(node) else {
            if self.plane.installed.remove(&node).is_some() {
                self.plane.keyed.remove(&node);
                self.end_channels(node, now);
                if self.own_record.seen.forget_member(node) {
                    self.own_record.touch();
                }
                self.outputs.push_back(Output::Shard(Command::RemovePeer { node }));
                if self.relays.own.contains(&node) {
                    self.choose_relays(now);
                }
            }
            return;
        };
        let key = member.key;
        let (endpoints, is_open) = (member.record.endpoints.clone(), member.record.is_open);
        let prefixes = self.prefixes_of(node);
        let is_new = !self.plane.installed.contains_key(&node);
        if self.plane.installed.get(&node) != Some(&prefixes) {
            self.plane.installed.insert(node, prefixes.clone());
            self.outputs.push_back(Output::Shard(Command::SetPeer { node, key, prefixes }));
        }
        if is_new && let Some(active) = self.peer(node).paths.active() {
            self.set_path(node, Some(active));
        }
        let said = endpoints.clone();
        for endpoint in endpoints {
            let is_observed = endpoint.source == EndpointSource::Observed;
            let is_own = is_observed && self.is_own_address(endpoint.address);
            let is_way = endpoint.source.takes_udp() && !is_own;
            if is_way && !self.members.is_inside(endpoint.address.ip()) {
                let is_lasting = !is_observed || is_open;
                self.paths(node).add(Path::Direct(endpoint.address), is_lasting);
            }
        }
        let said: Vec<SocketAddr> = said.into_iter().map(|one| one.address).collect();
        if let Some(paths) = self.known_paths(node) {
            paths.withdraw_others(&said, now.instant);
        }
        self.learn_run_of_record(node, now);
        self.give_probe_keys(node);
        if let Some(paths) = self.known_paths(node) {
            paths.relays_changed();
        }
        if is_new {
            self.paths(node).greet(now.instant);
        }
        if self.is_relay_news(node) {
            self.choose_relays(now);
        }
    }

    /// Whether there are keys for probes to and from it.
    pub(super) fn is_keyed(&self, node: NodeId) -> bool {
        self.plane.keyed.contains_key(&node)
    }

    pub(super) fn is_own_address(&self, address: SocketAddr) -> bool {
        self.local.iter().any(|(ip, _)| *ip == address.ip()) && address.port() == self.settings.port
    }

    fn prefixes_of(&self, node: NodeId) -> Vec<Prefix> {
        let inherited = self.trust.inherited(node).to_vec();
        self.members
            .ipv4_of(node, &self.trust)
            .map(IpAddr::V4)
            .into_iter()
            .chain(self.derived_ipv6(node).map(IpAddr::V6))
            .chain(inherited.into_iter().map(IpAddr::V6))
            .map(Prefix::host)
            .chain(self.members.served_by(node).flat_map(|placed| self.device_prefixes(placed)))
            .collect()
    }

    /// A node's own IPv6 address, unless another inherited it.
    fn derived_ipv6(&self, node: NodeId) -> Option<Ipv6Addr> {
        let derived = self.range6.node(node);
        let is_inherited = self.trust.pinned().any(|other| {
            other != node
                && self.members.get(other).is_some()
                && self.trust.inherited(other).contains(&derived)
        });
        (!is_inherited).then_some(derived)
    }

    /// Keys for probes between the present runs.
    fn give_probe_keys(&mut self, node: NodeId) {
        let Some(boot) = self.boot_of(node) else { return };
        if !self.plane.installed.contains_key(&node) || self.plane.keyed.get(&node) == Some(&boot) {
            return;
        }
        let boots = (self.config.boot, boot);
        if let Some(keys) = shard::probe_keys(&self.config.key, node, self.id, boots) {
            self.plane.keyed.insert(node, boot);
            self.agenda.touch(node);
            self.outputs.push_back(Output::Shard(Command::SetProbeKeys { node, keys }));
        }
    }

    /// The peer's daemon was started since it was last linked, or it is the
    /// first time in this run: what was agreed with the earlier one is void.
    pub(super) fn peer_restarted(&mut self, node: NodeId) {
        if self.plane.installed.contains_key(&node) {
            self.outputs.push_back(Output::Shard(Command::ResetSession { node }));
            self.give_probe_keys(node);
        }
    }

    /// An address at which a peer just was: used until a probe says better.
    pub(super) fn prefer_path(&mut self, node: NodeId, address: SocketAddr) {
        if !self.members.is_inside(address.ip()) {
            self.paths(node).prefer(Path::Direct(address));
        }
    }

    pub(super) fn set_path(&mut self, node: NodeId, path: Option<Path>) {
        if self.plane.installed.contains_key(&node) {
            let mtu = self.peers.get(&node).map_or(DEFAULT_MTU, |peer| peer.paths.mtu());
            self.outputs.push_back(Output::Shard(Command::SetPath { node, path, mtu }));
        }
    }

    /// The data plane reports.
    pub fn handle_report(&mut self, report: Report, now: Now) {
        let is_probe = matches!(report, Report::ProbeReceived { .. });
        match report {
            Report::ProbeAnswered { node, transaction, to, observed, rtt } => {
                let local = self.local.clone();
                let Some(peer) = self.peers.get_mut(&node) else { return };
                let is_it = |probe: &SentProbe| (probe.transaction, probe.to) == (transaction, to);
                let position = peer.probes.iter().position(is_it);
                let Some(sent) = position.and_then(|position| peer.probes.remove(position)) else {
                    return;
                };
                peer.last_seen = Some(now.wall);
                if let Some(size) = sent.size {
                    self.paths(node).measured(to, size, now.instant);
                    return self.advance_paths(now);
                }
                if self.plane.pings.remove(&transaction) {
                    self.outputs.push_back(Output::Pong { transaction, from: to, rtt });
                }
                let paths = self.paths(node);
                let (direct, was_proven) = (paths.direct(), paths.is_proven());
                paths.answered(to, rtt, now.instant, &local);
                let (now_direct, is_proven) = (paths.direct(), paths.is_proven());
                if let Path::Direct(at) = to {
                    self.reached(node, at);
                    // What comes by a stream says nothing of where datagrams come from.
                    if !is_stream(at) && !is_stream(observed) {
                        self.seen_as(at, observed, now);
                        self.observed_at(node, observed, now);
                    }
                }
                if direct != now_direct {
                    self.refresh_channels(node, now);
                }
                if was_proven != is_proven {
                    self.choose_relays(now);
                    if self.members.get(node).is_some_and(|member| member.record.is_relay) {
                        // It may lead to those to whom there was no way.
                        self.call_again(now.instant);
                    }
                }
                self.advance_own(now);
            }
            Report::ProbeReceived { node, from } | Report::NewSource { node, from } => {
                let is_by_stream = is_stream(from.address());
                if let Path::Direct(address) = from {
                    if is_by_stream && !self.heard_by_stream(address, node) {
                        return;
                    }
                    if is_probe && !is_by_stream {
                        self.came_from(address, now);
                    }
                }
                if !self.members.is_inside(from.address().ip())
                    && let Some(paths) = self.known_paths(node)
                {
                    if is_probe {
                        paths.seen(from, now.instant);
                    } else {
                        paths.heard_elsewhere(from, now.instant);
                    }
                }
            }
            Report::Unanswered { node } => {
                if let Some(paths) = self.known_paths(node) {
                    paths.doubt(now.instant);
                }
                self.check_relays(now.instant);
            }
            Report::Busy { node } | Report::NoPath { node } => {
                if let Some(paths) = self.known_paths(node) {
                    paths.busy(now.instant);
                }
                if self.may_close(node) {
                    self.need_relays(now);
                }
            }
            Report::Idle { node } => {
                let active = self.peers.get(&node).and_then(|peer| peer.paths.active());
                if let Some(Path::Direct(address)) = active {
                    // Until now, without a probe.
                    self.sent_to(address, now.instant);
                }
                if let Some(paths) = self.known_paths(node) {
                    paths.idle();
                }
            }
            Report::ChannelUsed { channel } => self.channel_used(channel, now.instant),
            Report::DeviceHeard { key } => self.device_heard(key, now),
            Report::Beacon { from, datagram } => self.handle_beacon(from, &datagram, now),
        }
        self.advance_paths(now);
    }

    /// Sends one probe over the path in use, and looks for the best one meanwhile;
    /// [`Output::Pong`] carries the answer with the transaction given back here. `None` when
    /// there is no path that answered lately, so that it has to be asked for again, or
    /// nothing to seal a probe with because nothing is known of the peer's run.
    pub fn ping(&mut self, node: NodeId, now: Now) -> Option<(u64, Path)> {
        let paths = self.known_paths(node)?;
        paths.seek(now.instant);
        let to = paths.active().filter(|_| paths.is_fresh(now.instant));
        self.advance_paths(now);
        let to = to?;
        if !self.is_keyed(node) {
            return None;
        }
        let transaction = self.send_probe(node, to, None)?;
        self.plane.pings.insert(transaction);
        while self.plane.pings.len() > MAX_PROBES {
            self.plane.pings.pop_first();
        }
        Some((transaction, to))
    }

    /// Sends a probe, for a size one as long as the datagram of a packet of so many bytes.
    pub(super) fn send_probe(&mut self, node: NodeId, to: Path, size: Option<u16>) -> Option<u64> {
        let peer = self.peers.get_mut(&node)?;
        self.plane.last_transaction += 1;
        let transaction = self.plane.last_transaction;
        if peer.probes.len() >= MAX_PROBES {
            peer.probes.pop_front();
        }
        peer.probes.push_back(SentProbe { transaction, to, size });
        self.outputs.push_back(Output::Shard(Command::SendProbe { node, to, size, transaction }));
        Some(transaction)
    }
}
