//! What this node passes on between others, as their relay: who may have a channel, and
//! which one ends for another.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use epsilon_proto::clock::Instant;
use epsilon_proto::datagram::Channel;
use epsilon_proto::id::NodeId;
use epsilon_proto::letter::{Answer, Ask, Words};
use rand_core::Rng as _;

use super::{Control, Output};
use crate::shard::{CHANNEL_USED, Command};

/// The labels of nodes that are no relays.
const COSTLY: [(&str, &str); 2] = [("metered", "true"), ("power", "battery")];
/// On at most so many channels this node passes on.
const MAX_CHANNELS: usize = 1024;
/// Of which one member may have so many.
const MAX_CHANNELS_EACH: usize = 128;
/// Who is asked for is told of a channel that there was no more often than this, however
/// often it is asked for: less often than it is asked for in vain.
const TELL_EVERY: Duration = Duration::from_millis(500);
/// A channel on which nothing was passed on for so long makes room for another.
const UNUSED: Duration = CHANNEL_USED.saturating_mul(3);

/// Two members, in order.
type Pair = (NodeId, NodeId);

/// The channels of this node.
#[derive(Default)]
pub(super) struct Channels(BTreeMap<Pair, Between>);

/// A channel.
struct Between {
    channel: Channel,
    ends: [SocketAddr; 2],
    /// When the one that was asked for was told of it as it is.
    told: Option<Instant>,
    /// When it was last asked for, or something was passed on.
    used: Instant,
}

impl Channels {
    /// Those that have a member at one end.
    fn pairs_of(&self, node: NodeId) -> Vec<Pair> {
        let all = self.0.keys().copied();
        all.filter(|(one, other)| *one == node || *other == node).collect()
    }

    /// Whether a member may have another; where it may not, in place of which it may.
    fn room(&self, asker: NodeId, now: Instant) -> Result<(), Option<Pair>> {
        let own = self.pairs_of(asker);
        let rivals: Vec<Pair> = if own.len() >= MAX_CHANNELS_EACH {
            own
        } else if self.0.len() >= MAX_CHANNELS {
            self.0.keys().copied().collect()
        } else {
            return Ok(());
        };
        let used = rivals.into_iter().filter_map(|pair| Some((self.0.get(&pair)?.used, pair)));
        Err(used.min().filter(|(used, _)| now.since(*used) >= UNUSED).map(|(_, pair)| pair))
    }
}

fn in_order(one: NodeId, other: NodeId) -> Pair {
    if one < other { (one, other) } else { (other, one) }
}

impl Control {
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

    /// A member wants to reach another through this node.
    pub(super) fn take_ask(&mut self, from: NodeId, ask: &Ask, now: Instant) {
        let channel = self.grant(from, ask.peer, now).map(Channel::number);
        self.tell(from, &Words::Answer(Answer { peer: ask.peer, channel }));
        let between = self.channels.0.get_mut(&in_order(from, ask.peer));
        if let Some(between) = between.filter(|_| channel.is_some())
            && between.told.is_none_or(|told| now.since(told) >= TELL_EVERY)
        {
            between.told = Some(now);
            self.tell(ask.peer, &Words::Answer(Answer { peer: from, channel }));
        }
    }

    /// A channel between two members, one of whom named this node as its relay.
    fn grant(&mut self, from: NodeId, peer: NodeId, now: Instant) -> Option<Channel> {
        let consents = self.members.get(peer)?.record.relays.contains(&self.own);
        if !consents || !self.is_relay() || from == peer || peer == self.own {
            return None;
        }
        let pair = in_order(from, peer);
        let ends = [self.direct_to(pair.0)?, self.direct_to(pair.1)?];
        if let Some(known) = self.channels.0.get_mut(&pair) {
            let channel = known.channel;
            known.used = now;
            if std::mem::replace(&mut known.ends, ends) != ends {
                known.told = None;
                self.outputs.push_back(Output::Shard(Command::SetChannel { channel, ends }));
            }
            return Some(channel);
        }
        if let Err(other) = self.channels.room(from, now) {
            let other = other?;
            self.end_channel(other);
            // They ask again when there is something to pass on.
            for (one, peer) in [other, (other.1, other.0)] {
                self.tell(one, &Words::Answer(Answer { peer, channel: None }));
            }
        }
        let channel = loop {
            let channel = Channel::new(self.random.next_u32());
            if self.channels.0.values().all(|one| one.channel != channel) {
                break channel;
            }
        };
        self.channels.0.insert(pair, Between { channel, ends, told: None, used: now });
        self.outputs.push_back(Output::Shard(Command::SetChannel { channel, ends }));
        Some(channel)
    }

    /// Something was passed on.
    pub(super) fn channel_used(&mut self, channel: Channel, now: Instant) {
        let known = self.channels.0.values_mut().find(|between| between.channel == channel);
        if let Some(between) = known {
            between.used = now;
        }
    }

    /// The way to a member changed: what is passed on to it goes there.
    pub(super) fn refresh_ends(&mut self, node: NodeId) {
        for pair in self.channels.pairs_of(node) {
            let ends = self.direct_to(pair.0).zip(self.direct_to(pair.1));
            let Some(between) = self.channels.0.get_mut(&pair) else { continue };
            if let Some((one, other)) = ends.filter(|(one, other)| between.ends != [*one, *other]) {
                between.ends = [one, other];
                let (channel, ends) = (between.channel, between.ends);
                self.outputs.push_back(Output::Shard(Command::SetChannel { channel, ends }));
            }
        }
    }

    /// A member is none any more, or was started again: it has no channels here.
    pub(super) fn end_channels_of(&mut self, node: NodeId) {
        for pair in self.channels.pairs_of(node) {
            self.end_channel(pair);
        }
    }

    fn end_channel(&mut self, pair: Pair) {
        if let Some(between) = self.channels.0.remove(&pair) {
            let channel = between.channel;
            self.outputs.push_back(Output::Shard(Command::RemoveChannel { channel }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: usize) -> NodeId {
        let mut node = [0; 32];
        node[..8].copy_from_slice(&number.to_be_bytes());
        NodeId(node)
    }

    fn at(seconds: u64) -> Instant {
        Instant(Duration::from_secs(seconds))
    }

    impl Channels {
        /// Adds one where there is room, that was last used then.
        fn add(&mut self, one: NodeId, other: NodeId, used: Instant) -> bool {
            let has_room = self.room(one, used) == Ok(());
            if has_room {
                let ends = [SocketAddr::from(([192, 0, 2, 1], 1)); 2];
                let channel = Channel::new(self.0.len() as u32);
                self.0.insert(in_order(one, other), Between { channel, ends, told: None, used });
            }
            has_room
        }
    }

    impl Control {
        /// One member has all channels that it may have.
        pub(in crate::control) fn fill_channels(&mut self, asker: NodeId, now: Instant) {
            let others = (0..).map(node);
            others.take_while(|other| self.channels.add(asker, *other, now)).for_each(drop);
        }
    }

    #[test]
    fn nobody_has_so_many_channels_that_none_are_left_for_others() {
        let mut channels = Channels::default();
        // Some are at the lower end of their pairs, some at the upper.
        for asker in [1, 9_500] {
            let others = (2..9_000).filter(|other| channels.add(node(asker), node(*other), at(0)));
            assert_eq!(others.count(), MAX_CHANNELS_EACH);
        }
        assert_eq!(channels.room(node(10_000), at(0)), Ok(()));
        let others = (20_000..40_000).step_by(2);
        let added = others.filter(|one| channels.add(node(*one), node(one + 1), at(0))).count();
        assert_eq!(added, MAX_CHANNELS - 2 * MAX_CHANNELS_EACH);
    }

    #[test]
    fn the_channel_that_was_not_used_for_the_longest_time_makes_room() {
        let mut channels = Channels::default();
        let later = 2 * MAX_CHANNELS as u64;
        for number in 0..MAX_CHANNELS {
            assert!(channels.add(node(number), node(10_000 + number), at(number as u64)));
        }
        let room = |channels: &Channels, now| channels.room(node(5_000), now);
        assert_eq!(room(&channels, at(UNUSED.as_secs() - 1)), Err(None), "all are in use");
        let first = in_order(node(0), node(10_000));
        assert_eq!(room(&channels, at(later)), Err(Some(first)));
        channels.0.get_mut(&first).unwrap().used = at(later);
        assert_eq!(room(&channels, at(later)), Err(Some(in_order(node(1), node(10_001)))));
        // Who has all that one may have gives way itself.
        let mut channels = Channels::default();
        assert!(channels.add(node(7), node(8), at(0)));
        for number in 100..100 + MAX_CHANNELS_EACH {
            assert!(channels.add(node(1), node(number), at(number as u64)));
        }
        assert_eq!(channels.room(node(1), at(later)), Err(Some(in_order(node(1), node(100)))));
    }
}
