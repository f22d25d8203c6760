//! What this node passes on between others, as their relay: opaque to it, from
//! addresses that were proven to it alone, and no more than was agreed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use epsilon_proto::clock::Instant;
use epsilon_proto::datagram::Channel;

use super::command::Relaying;
use super::stats::{ChannelStats, Traffic};

/// So much of the rate may come at once.
const BURST: Duration = Duration::from_millis(100);
/// While a channel is used, Control hears of it so often.
pub const CHANNEL_USED: Duration = Duration::from_mins(1);
/// But never less than a message that the kernel joined.
const LEAST_BURST: u64 = 64 << 10;

/// Bytes that may pass: a token bucket.
#[derive(Debug, Clone, Copy)]
struct Budget {
    rate: u64,
    left: u64,
    filled: Instant,
}

impl Budget {
    fn new(rate: u64) -> Self {
        Self { rate, left: Self::most(rate), filled: Instant::default() }
    }

    fn most(rate: u64) -> u64 {
        (rate / 1000).saturating_mul(BURST.as_millis() as u64).max(LEAST_BURST)
    }

    fn set(&mut self, rate: u64) {
        self.rate = rate;
        self.left = self.left.min(Self::most(rate));
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.since(self.filled);
        let earned = u128::from(self.rate) * elapsed.as_nanos() / 1_000_000_000;
        // What is less than a byte is waited for.
        if earned > 0 {
            let earned = u64::try_from(earned).unwrap_or(u64::MAX);
            self.left = self.left.saturating_add(earned).min(Self::most(self.rate));
            self.filled = now;
        }
    }

    fn has(&self, bytes: u64) -> bool {
        self.rate > 0 && self.left >= bytes
    }
}

struct Between {
    ends: [SocketAddr; 2],
    budget: Budget,
    passed: Traffic,
    dropped: u64,
    /// When it was last said that it is used.
    said: Option<Instant>,
}

/// The channels of a relay.
pub(super) struct Transit {
    channels: BTreeMap<Channel, Between>,
    each: u64,
    all: Budget,
}

/// What becomes of a datagram on a channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It goes there; and whether Control shall hear that the channel is used.
    To(SocketAddr, bool),
    /// It is more than was agreed.
    TooMuch,
    /// This node has no such channel, or not with whoever sent it.
    Unknown,
}

impl Default for Transit {
    fn default() -> Self {
        Self { channels: BTreeMap::new(), each: 0, all: Budget::new(0) }
    }
}

impl Transit {
    pub(super) fn limit(&mut self, relaying: Relaying) {
        self.each = relaying.each;
        self.all.set(relaying.all);
        for between in self.channels.values_mut() {
            between.budget.set(relaying.each);
        }
    }

    pub(super) fn set(&mut self, channel: Channel, ends: [SocketAddr; 2]) {
        let budget = Budget::new(self.each);
        let new = Between { ends, budget, passed: Traffic::default(), dropped: 0, said: None };
        self.channels.entry(channel).or_insert(new).ends = ends;
    }

    pub(super) fn remove(&mut self, channel: Channel) {
        self.channels.remove(&channel);
    }

    /// What becomes of a datagram on a channel.
    pub(super) fn next(
        &mut self,
        channel: Channel,
        from: SocketAddr,
        length: usize,
        now: Instant,
    ) -> Verdict {
        let Some(between) = self.channels.get_mut(&channel) else { return Verdict::Unknown };
        let to = match between.ends {
            [one, other] if one == from => other,
            [one, other] if other == from => one,
            _ => return Verdict::Unknown,
        };
        let bytes = length as u64;
        between.budget.fill(now);
        self.all.fill(now);
        if !between.budget.has(bytes) || !self.all.has(bytes) {
            between.dropped += 1;
            return Verdict::TooMuch;
        }
        between.budget.left -= bytes;
        self.all.left -= bytes;
        between.passed.count(length);
        let is_news = between.said.is_none_or(|said| now.since(said) >= CHANNEL_USED);
        if is_news {
            between.said = Some(now);
        }
        Verdict::To(to, is_news)
    }

    pub(super) fn stats(&self) -> Vec<ChannelStats> {
        let stats = |(channel, between): (&Channel, &Between)| ChannelStats {
            channel: *channel,
            passed: between.passed,
            dropped: between.dropped,
        };
        self.channels.iter().map(stats).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(host: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, host], 7755))
    }

    fn transit(each: u64, all: u64) -> Transit {
        let mut transit = Transit::default();
        transit.limit(Relaying { each, all });
        for number in 0..2 {
            let host = 2 * number as u8;
            transit.set(Channel::new(number), [address(host), address(host + 1)]);
        }
        transit
    }

    /// How many bytes pass on a channel in a second, in datagrams of a thousand.
    fn in_a_second(transit: &mut Transit, channels: &[u32], from: u64) -> Vec<u64> {
        let mut passed = vec![0; channels.len()];
        for step in 0..20_000_u64 {
            let now = Instant(Duration::from_secs(from) + Duration::from_micros(50 * step));
            for (place, channel) in channels.iter().enumerate() {
                let from = address(2 * *channel as u8);
                let verdict = transit.next(Channel::new(*channel), from, 1000, now);
                if let Verdict::To(..) = verdict {
                    passed[place] += 1000;
                }
            }
        }
        passed
    }

    #[test]
    fn only_the_two_ends_of_a_channel_reach_each_other() {
        let mut transit = transit(1_000_000, 1_000_000);
        let now = Instant(Duration::from_secs(1));
        let mut next = |channel, from| transit.next(Channel::new(channel), address(from), 100, now);
        assert_eq!(next(0, 0), Verdict::To(address(1), true));
        assert_eq!(next(0, 1), Verdict::To(address(0), false));
        assert_eq!(next(1, 0), Verdict::Unknown, "an end of another channel");
        assert_eq!(next(0, 9), Verdict::Unknown);
        assert_eq!(next(7, 0), Verdict::Unknown);
        transit.set(Channel::new(0), [address(5), address(1)]);
        let mut next = |from| transit.next(Channel::new(0), address(from), 100, now);
        assert_eq!(next(0), Verdict::Unknown, "it moved");
        assert_eq!(next(1), Verdict::To(address(5), false));
        let later = now + CHANNEL_USED;
        let used = transit.next(Channel::new(0), address(1), 100, later);
        assert_eq!(used, Verdict::To(address(5), true));
        transit.remove(Channel::new(0));
        assert_eq!(transit.next(Channel::new(0), address(1), 100, now), Verdict::Unknown);
        let counted: Vec<_> = transit.stats().iter().map(|one| one.channel.number()).collect();
        assert_eq!(counted, [1]);
    }

    #[test]
    fn each_channel_and_all_together_have_a_limit() {
        let near = |passed: u64, limit: u64| (limit..=limit + limit / 8).contains(&passed);
        let mut one = transit(1_000_000, 10_000_000);
        in_a_second(&mut one, &[0, 1], 1);
        let passed = in_a_second(&mut one, &[0, 1], 2);
        assert!(passed.iter().all(|bytes| near(*bytes, 1_000_000)), "{passed:?}");
        let mut all = transit(10_000_000, 1_000_000);
        in_a_second(&mut all, &[0, 1], 1);
        let passed = in_a_second(&mut all, &[0, 1], 2);
        assert!(near(passed.iter().sum(), 1_000_000), "{passed:?}");
        assert!(all.stats().iter().any(|one| one.dropped > 0));
        // Switched off.
        all.limit(Relaying { each: 0, all: 0 });
        assert_eq!(in_a_second(&mut all, &[0, 1], 3), [0, 0]);
    }
}
