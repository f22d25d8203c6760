//! Relays: those of this node, and those of others by which it reaches them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use epsilon_proto::address::is_stream;
use epsilon_proto::clock::{Instant, Now};
use epsilon_proto::datagram::Channel;
use epsilon_proto::id::NodeId;
use epsilon_proto::letter::{Answer, Ask, Words};
use epsilon_proto::record::MAX_RELAYS;

use super::Control;
use crate::shard::Path;

/// After a relay was asked, when it is asked again.
const ASK_EVERY: Duration = Duration::from_millis(800);

/// What is known of relays.
#[derive(Default)]
pub(super) struct Relays {
    /// The members that pass on to this node, best first.
    pub(super) own: Vec<NodeId>,
    /// Whether there was a peer to which there may be no other way.
    is_needed: bool,
    /// Whether there was one that did not reach this node, though others do.
    pub(super) is_doubtful: bool,
    /// Who is reached through which relay.
    through: BTreeMap<NodeId, BTreeSet<NodeId>>,
}

impl Relays {
    /// Whether relays were needed before.
    pub(super) fn new(is_needed: bool) -> Self {
        Self { is_needed, ..Self::default() }
    }
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

    /// A relay is not reached any more as it was: perhaps nobody is through it, which who sends
    /// nothing would not find out.
    pub(super) fn check_beyond(&mut self, relay: NodeId, now: Instant) {
        let beyond = self.relays.through.get(&relay).into_iter().flatten().copied();
        for peer in beyond.collect::<Vec<_>>() {
            let relayed = self.peers.get(&peer).and_then(|peer| peer.paths.active());
            if relayed.and_then(|path| self.peer(peer).relayed.relay_of(path)) == Some(relay) {
                self.paths(peer).check(now);
            }
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
        self.forget_channel(peer, relay, now.instant);
        if let Some(number) = answer.channel {
            let channel = Channel::new(number);
            self.peer(peer).relayed.channels.insert(relay, (channel, address));
            self.relays.through.entry(relay).or_default().insert(peer);
            self.paths(peer).add(Path::Relayed(address, channel), true);
        }
    }

    /// A peer is not reached through a relay any more: another way is looked for, for what
    /// is sent to it later.
    fn leave_channel(&mut self, peer: NodeId, relay: NodeId, now: Instant) {
        if self.forget_channel(peer, relay, now) {
            self.paths(peer).greet(now);
        }
    }

    /// A relay has no channel to a peer any more, or another one; says whether it was in use.
    fn forget_channel(&mut self, peer: NodeId, relay: NodeId, now: Instant) -> bool {
        if let Some(peers) = self.relays.through.get_mut(&relay) {
            peers.remove(&peer);
        }
        let former = self.peer(peer).relayed.channels.remove(&relay);
        former.is_some_and(|(channel, address)| {
            self.paths(peer).remove(Path::Relayed(address, channel), now)
        })
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
        self.refresh_ends(node);
    }

    /// A member is none any more, or was started again: it has no channels.
    pub(super) fn end_channels(&mut self, node: NodeId, now: Now) {
        self.end_channels_of(node);
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
