//! Relays: those of this node, those of others by which it reaches them, and what
//! it passes on as one itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use epsilon_proto::address::is_stream;
use epsilon_proto::clock::{Instant, Now};
use epsilon_proto::datagram::Channel;
use epsilon_proto::id::NodeId;
use epsilon_proto::letter::{Answer, Ask, Words};
use epsilon_proto::record::MAX_RELAYS;
use rand_core::Rng as _;

use super::{Control, Output};
use crate::shard::{Command, Path};

/// After a relay was asked, when it is asked again.
const ASK_EVERY: Duration = Duration::from_millis(800);
/// The labels of nodes that are no relays.
const COSTLY: [(&str, &str); 2] = [("metered", "true"), ("power", "battery")];
/// On at most so many channels this node passes on.
const MAX_CHANNELS: usize = 1024;
/// Of which one member may have so many.
const MAX_CHANNELS_EACH: usize = 128;
/// Who is asked for is told of a channel that there was no more often than this, however
/// often it is asked for: less than [`ASK_EVERY`].
const TELL_EVERY: Duration = Duration::from_millis(500);

/// What is known of relays.
#[derive(Default)]
pub(super) struct Relays {
    /// The members that pass on to this node, best first.
    pub(super) own: Vec<NodeId>,
    /// Whether there was a peer to which there may be no other way.
    is_needed: bool,
    /// Whether there was one that did not reach this node, though others do.
    pub(super) is_doubtful: bool,
    /// The channels of this node as a relay, by their two ends in order.
    channels: BTreeMap<(NodeId, NodeId), Between>,
    /// Who is reached through which relay.
    through: BTreeMap<NodeId, BTreeSet<NodeId>>,
}

impl Relays {
    /// Whether relays were needed before.
    pub(super) fn new(is_needed: bool) -> Self {
        Self { is_needed, ..Self::default() }
    }

    /// Whether a member may have another channel.
    fn has_room(&self, asker: NodeId) -> bool {
        self.channels.len() < MAX_CHANNELS && self.pairs_of(asker).len() < MAX_CHANNELS_EACH
    }

    /// The channels of this node that have a member at one end.
    fn pairs_of(&self, node: NodeId) -> Vec<(NodeId, NodeId)> {
        let all = self.channels.keys().copied();
        all.filter(|(one, other)| *one == node || *other == node).collect()
    }
}

/// A channel of this node.
struct Between {
    channel: Channel,
    ends: [SocketAddr; 2],
    /// When the one that was asked for was told of it as it is.
    told: Option<Instant>,
}

/// A relay to a peer.
#[derive(Default)]
pub(super) struct Relayed {
    /// The channels by which it is reached, by the relay and its address.
    channels: BTreeMap<NodeId, (Channel, SocketAddr)>,
    asked: BTreeMap<NodeId, Instant>,
}

impl Relayed {
    /// Through which relay a path goes.
    pub(super) fn relay_of(&self, path: Path) -> Option<NodeId> {
        let Path::Relayed(address, channel) = path else { return None };
        let all = self.channels.iter();
        all.filter(|(_, one)| **one == (channel, address)).map(|(relay, _)| *relay).next()
    }
}

fn in_order(one: NodeId, other: NodeId) -> (NodeId, NodeId) {
    if one < other { (one, other) } else { (other, one) }
}

impl Control {
    /// Somebody to whom things are sent and who was called several times does not reach
    /// this node: perhaps only those of a part of the network do.
    pub(super) fn doubt_openness(&mut self, now: Now) {
        if !std::mem::replace(&mut self.relays.is_doubtful, true) {
            self.choose_relays(now);
        }
    }

    /// Whether the way to a peer is one through NATs on both sides, which may close.
    pub(super) fn may_close(&self, node: NodeId) -> bool {
        let is_open = self.members.get(node).is_some_and(|member| member.record.is_open);
        !self.reaching.is_open() && !is_open && self.is_elsewhere(node)
    }

    /// There is no way to a peer, or may be none soon.
    pub(super) fn need_relays(&mut self, now: Now) {
        if !std::mem::replace(&mut self.relays.is_needed, true) {
            self.choose_relays(now);
            self.advance_own(now);
        }
    }

    /// Whether this node passes on what others send to each other: where they reach
    /// it, it is told to, and not labelled as one that pays for that.
    pub(super) fn is_relay(&self) -> bool {
        let is_costly = self.settings.labels.iter().any(|label| {
            COSTLY
                .iter()
                .any(|(key, value)| label.key.as_str() == *key && label.value.as_str() == *value)
        });
        self.reaching.is_open() && self.config.relaying.is_some() && !is_costly
    }

    /// A member's direct way, as long as it answers.
    pub(super) fn direct_to(&self, node: NodeId) -> Option<SocketAddr> {
        match self.peers.get(&node)?.paths.direct()? {
            Path::Direct(address) => Some(address),
            Path::Relayed(..) => None,
        }
    }

    /// Whether what a member says may change the relays of this node.
    pub(super) fn is_relay_news(&self, node: NodeId) -> bool {
        let is_relay = self.members.get(node).is_some_and(|member| member.record.is_relay);
        let is_own = self.relays.own.contains(&node);
        let has_room = self.wants_relays() && self.relays.own.len() < MAX_RELAYS;
        is_relay != is_own && (is_own || has_room)
    }

    fn wants_relays(&self) -> bool {
        let Relays { is_needed, is_doubtful, .. } = &self.relays;
        *is_needed && (!self.reaching.is_open() || *is_doubtful)
    }

    /// Keeps to the relays that this node has, as long as they answer, and looks for
    /// others where they do not.
    pub(super) fn choose_relays(&mut self, now: Now) {
        let mut chosen: Vec<NodeId> = Vec::new();
        if self.wants_relays() && !self.is_banned() {
            let mut open: Vec<NodeId> = self
                .members
                .iter()
                .filter(|(node, member)| *node != self.own && member.record.is_relay)
                .map(|(node, _)| node)
                .filter(|node| {
                    let paths = self.peers.get(node).map(|peer| &peer.paths);
                    paths.is_some_and(|paths| {
                        paths.is_proven() && matches!(paths.active(), Some(Path::Direct(_)))
                    })
                })
                .collect();
            let site = |node: &NodeId| {
                self.members.get(*node).and_then(|member| member.record.site.clone())
            };
            let rtt = |node: &NodeId| self.peers.get(node).and_then(|peer| peer.paths.rtt());
            let is_by_stream = |node: &NodeId| self.direct_to(*node).is_some_and(is_stream);
            open.sort_by_key(|node| {
                (is_by_stream(node), !self.relays.own.contains(node), rtt(node), *node)
            });
            for node in &open {
                let is_elsewhere =
                    chosen.iter().all(|one| site(one) != site(node) || site(one).is_none());
                if chosen.len() < MAX_RELAYS && is_elsewhere {
                    chosen.push(*node);
                }
            }
            // Better two in one site than one.
            for node in open {
                if chosen.len() < MAX_RELAYS && !chosen.contains(&node) {
                    chosen.push(node);
                }
            }
        }
        let missing = MAX_RELAYS.saturating_sub(chosen.len());
        self.look_for_relays(missing, now.instant);
        if chosen == self.relays.own {
            return;
        }
        for former in std::mem::replace(&mut self.relays.own, chosen.clone()) {
            if !chosen.contains(&former) {
                self.paths(former).keep(false, now.instant);
            }
        }
        for relay in chosen {
            self.paths(relay).keep(true, now.instant);
        }
        self.own_record.touch();
    }

    /// The NAT of this node may have forgotten it: then its relays do not know it any more.
    pub(super) fn check_relays(&mut self, now: Instant) {
        for relay in self.relays.own.clone() {
            self.paths(relay).check(now);
        }
    }

    /// Looks for so many more relays than datagrams find: those that are linked can be
    /// reached in another way.
    fn look_for_relays(&mut self, missing: usize, now: Instant) {
        if missing == 0 || !self.wants_relays() || self.is_banned() {
            return;
        }
        let mut others: Vec<NodeId> = self
            .linked()
            .into_iter()
            .filter(|node| self.members.get(*node).is_some_and(|member| member.record.is_relay))
            .filter(|node| self.lacks_way(*node))
            .collect();
        others.sort_by_key(|node| self.is_out_of_reach(*node));
        for relay in others.into_iter().take(missing) {
            self.want_stream(relay, now);
        }
    }

    /// The same whenever streams are looked after.
    pub(super) fn look_for_missing_relays(&mut self, now: Instant) {
        self.look_for_relays(MAX_RELAYS.saturating_sub(self.relays.own.len()), now);
    }

    /// Whether something is sent to others through a member.
    pub(super) fn leads_on(&self, relay: NodeId) -> bool {
        let is_used = |peer: &NodeId| {
            let peer = self.peers.get(peer).filter(|peer| peer.paths.is_wanted());
            peer.and_then(|peer| peer.relayed.relay_of(peer.paths.active()?)) == Some(relay)
        };
        self.relays.through.get(&relay).is_some_and(|peers| peers.iter().any(is_used))
    }

    /// Looks for a relay to a peer.
    pub(super) fn seek_relay(&mut self, peer: NodeId, now: Now) {
        let Some(member) = self.members.get(peer) else { return };
        let relays = member.record.relays.clone();
        for relay in relays {
            let asked = self.peer(peer).relayed.asked.get(&relay).copied();
            let is_asked = asked.is_some_and(|at| now.instant.since(at) < ASK_EVERY);
            // One that does not answer may be gone: the relay ends those of members that
            // were started again.
            let known = self.peer(peer).relayed.channels.get(&relay).copied();
            let is_known = known.is_some_and(|(channel, address)| {
                self.peer(peer).paths.may_answer(Path::Relayed(address, channel))
            });
            self.want_stream(relay, now.instant);
            if relay == self.own || is_asked || is_known {
                continue;
            }
            if self.direct_to(relay).is_none() {
                if self.is_large() {
                    // Perhaps it was tried in vain before, and nothing else is sent to it.
                    self.paths(relay).seek(now.instant);
                }
                continue;
            }
            self.peer(peer).relayed.asked.insert(relay, now.instant);
            self.tell(relay, &Words::Ask(Ask { peer }));
        }
    }

    /// A member wants to reach another through this node.
    pub(super) fn take_ask(&mut self, from: NodeId, ask: &Ask, now: Instant) {
        let channel = self.grant(from, ask.peer).map(Channel::number);
        self.tell(from, &Words::Answer(Answer { peer: ask.peer, channel }));
        let between = self.relays.channels.get_mut(&in_order(from, ask.peer));
        if let Some(between) = between.filter(|_| channel.is_some())
            && between.told.is_none_or(|told| now.since(told) >= TELL_EVERY)
        {
            between.told = Some(now);
            self.tell(ask.peer, &Words::Answer(Answer { peer: from, channel }));
        }
    }

    /// A channel between two members, one of whom named this node as its relay.
    fn grant(&mut self, from: NodeId, peer: NodeId) -> Option<Channel> {
        let consents = self.members.get(peer)?.record.relays.contains(&self.own);
        if !consents || !self.is_relay() || from == peer || peer == self.own {
            return None;
        }
        let pair = in_order(from, peer);
        let ends = [self.direct_to(pair.0)?, self.direct_to(pair.1)?];
        if let Some(known) = self.relays.channels.get_mut(&pair) {
            let channel = known.channel;
            if std::mem::replace(&mut known.ends, ends) != ends {
                known.told = None;
                self.outputs.push_back(Output::Shard(Command::SetChannel { channel, ends }));
            }
            return Some(channel);
        }
        if !self.relays.has_room(from) {
            return None;
        }
        let channel = loop {
            let channel = Channel::new(self.random.next_u32());
            if self.relays.channels.values().all(|one| one.channel != channel) {
                break channel;
            }
        };
        self.relays.channels.insert(pair, Between { channel, ends, told: None });
        self.outputs.push_back(Output::Shard(Command::SetChannel { channel, ends }));
        Some(channel)
    }

    /// A relay says by which channel a peer is reached.
    pub(super) fn take_answer(&mut self, relay: NodeId, answer: &Answer, now: Now) {
        let peer = answer.peer;
        let named = |node: NodeId| {
            let member = self.members.get(node);
            member.is_some_and(|member| member.record.relays.contains(&relay))
        };
        // One of the two named it as its relay.
        if self.members.get(peer).is_none() || !(named(peer) || self.relays.own.contains(&relay)) {
            return;
        }
        let Some(address) = self.direct_to(relay) else { return };
        if answer.channel.is_some() {
            // It may know this node by an address that a NAT has given to others since.
            self.paths(relay).check(now.instant);
        }
        let known = self.peer(peer).relayed.channels.get(&relay).copied();
        if let (Some(number), Some((channel, at))) = (answer.channel, known)
            && (Channel::new(number), address) == (channel, at)
            && self.paths(peer).retry(Path::Relayed(address, channel))
        {
            return;
        }
        self.leave_channel(peer, relay, now.instant);
        if let Some(number) = answer.channel {
            let channel = Channel::new(number);
            self.peer(peer).relayed.channels.insert(relay, (channel, address));
            self.relays.through.entry(relay).or_default().insert(peer);
            self.paths(peer).add(Path::Relayed(address, channel), true);
        }
    }

    /// A peer is not reached through a relay any more, or by another way.
    fn leave_channel(&mut self, peer: NodeId, relay: NodeId, now: Instant) {
        if let Some(peers) = self.relays.through.get_mut(&relay) {
            peers.remove(&peer);
        }
        if let Some((channel, address)) = self.peer(peer).relayed.channels.remove(&relay) {
            self.paths(peer).remove(Path::Relayed(address, channel), now);
        }
    }

    /// A relay is not reached at an address any more: nor are others through it.
    pub(super) fn leave_channels_at(&mut self, relay: NodeId, address: SocketAddr, now: Instant) {
        let is_there = |peer: &NodeId| {
            let channels = self.peers.get(peer).map(|peer| &peer.relayed.channels);
            let known = channels.and_then(|channels| channels.get(&relay));
            known.is_some_and(|(_, at)| *at == address)
        };
        let through = self.relays.through.get(&relay).into_iter().flatten().copied();
        for peer in through.filter(is_there).collect::<Vec<_>>() {
            self.leave_channel(peer, relay, now);
        }
    }

    /// The way to a member changed, or it is none any more: those that go through it
    /// go with it.
    pub(super) fn refresh_channels(&mut self, node: NodeId, now: Now) {
        let direct = self.direct_to(node);
        let through: Vec<(NodeId, Channel, SocketAddr)> = self
            .relays
            .through
            .get(&node)
            .into_iter()
            .flatten()
            .filter_map(|peer| {
                let (channel, address) = self.peers.get(peer)?.relayed.channels.get(&node)?;
                Some((*peer, *channel, *address))
            })
            .collect();
        for (peer, channel, address) in through {
            if direct.is_some_and(|direct| direct != address) {
                self.take_answer(node, &Answer { peer, channel: Some(channel.number()) }, now);
            }
        }
        for pair in self.relays.pairs_of(node) {
            let ends = self.direct_to(pair.0).zip(self.direct_to(pair.1));
            let Some(between) = self.relays.channels.get_mut(&pair) else { continue };
            if let Some((one, other)) = ends.filter(|(one, other)| between.ends != [*one, *other]) {
                between.ends = [one, other];
                let (channel, ends) = (between.channel, between.ends);
                self.outputs.push_back(Output::Shard(Command::SetChannel { channel, ends }));
            }
        }
    }

    /// A member is none any more, or was started again: it has no channels.
    pub(super) fn end_channels(&mut self, node: NodeId, now: Now) {
        for pair in self.relays.pairs_of(node) {
            if let Some(between) = self.relays.channels.remove(&pair) {
                let channel = between.channel;
                self.outputs.push_back(Output::Shard(Command::RemoveChannel { channel }));
            }
        }
        for peer in self.relays.through.remove(&node).unwrap_or_default() {
            self.leave_channel(peer, node, now.instant);
        }
        if let Some(peer) = self.peers.get_mut(&node) {
            let relays: Vec<NodeId> = peer.relayed.channels.keys().copied().collect();
            for relay in relays {
                self.leave_channel(node, relay, now.instant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_so_many_channels_that_none_are_left_for_others() {
        let node = |number: usize| {
            let mut node = [0; 32];
            node[..8].copy_from_slice(&number.to_be_bytes());
            NodeId(node)
        };
        let mut relays = Relays::default();
        let (mut greedy, mut total) = (0, 0);
        // Some are at the lower end of their pairs, some at the upper.
        for (asker, others) in [(1, 2..9_000), (9_500, 2..9_000)] {
            for other in others {
                if relays.has_room(node(asker)) {
                    let ends = [SocketAddr::from(([192, 0, 2, 1], 1)); 2];
                    let channel = Channel::new(total);
                    let pair = in_order(node(asker), node(other));
                    relays.channels.insert(pair, Between { channel, ends, told: None });
                    total += 1;
                    greedy += 1;
                }
            }
            assert_eq!(greedy, MAX_CHANNELS_EACH);
            greedy = 0;
        }
        assert!(relays.has_room(node(10_000)));
        for number in 20_000.. {
            if !relays.has_room(node(number)) {
                break;
            }
            let (ends, channel) = ([SocketAddr::from(([192, 0, 2, 1], 1)); 2], Channel::new(total));
            let pair = (node(number), node(number + 1));
            relays.channels.insert(pair, Between { channel, ends, told: None });
        }
        assert_eq!(relays.channels.len(), MAX_CHANNELS);
    }
}
