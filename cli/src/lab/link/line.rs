//! One direction of a link as a pure state machine: what becomes of a frame is decided
//! when it comes in, from a seed; the clock is handed in.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Link, Share};

/// How long frames wait for their turn where the rate is limited.
const LONGEST_QUEUE: Duration = Duration::from_millis(100);
/// So much may always wait, in bytes: a link so slow still carries a burst.
const SHORTEST_QUEUE: usize = 20 * 1514;
/// What may be on its way, in bytes: where there is more, the newest is lost.
const MOST_BYTES: usize = 32 << 20;
/// By how much a frame is late that comes out of order: at least, and up to so much more.
const LATE: Duration = Duration::from_millis(1);
const LATER: Duration = Duration::from_millis(9);

/// One direction.
#[derive(Debug)]
pub(super) struct Line {
    link: Link,
    dice: Dice,
    /// When the frames that wait for their turn have had it.
    idle_from: Option<Instant>,
    /// When the last frame arrives of those in order.
    last: Option<Instant>,
    /// By the time of their arrival, and in order of their coming where that is equal.
    on_its_way: BTreeMap<(Instant, u64), Vec<u8>>,
    bytes: usize,
    count: u64,
}

impl Line {
    pub(super) fn new(link: Link, seed: u64) -> Self {
        Self {
            link,
            dice: Dice(seed),
            idle_from: None,
            last: None,
            on_its_way: BTreeMap::new(),
            bytes: 0,
            count: 0,
        }
    }

    /// Takes a frame that is sent now.
    pub(super) fn send(&mut self, now: Instant, frame: &[u8]) {
        if self.dice.falls_in(self.link.loss) {
            return;
        }
        if self.dice.falls_in(self.link.duplicate) {
            self.carry(now, frame);
        }
        self.carry(now, frame);
    }

    /// When the next frame arrives.
    pub(super) fn next(&self) -> Option<Instant> {
        self.on_its_way.keys().next().map(|(at, _)| *at)
    }

    /// The next frame, if it has arrived.
    pub(super) fn arrived(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.next().filter(|at| *at <= now)?;
        let (_, frame) = self.on_its_way.pop_first()?;
        self.bytes -= frame.len();
        Some(frame)
    }

    fn carry(&mut self, now: Instant, frame: &[u8]) {
        let Some(departs) = self.departs(now, frame.len()) else { return };
        let arrives = departs + self.link.delay + self.dice.below(self.link.jitter);
        let in_order = self.last.map_or(arrives, |last| last.max(arrives));
        let arrives = if self.dice.falls_in(self.link.reorder) {
            in_order + LATE + self.dice.below(LATER)
        } else {
            self.last = Some(in_order);
            in_order
        };
        self.bytes += frame.len();
        self.count += 1;
        self.on_its_way.insert((arrives, self.count), frame.to_vec());
    }

    /// When all bits of a frame are on the link; `None` if it finds no room.
    fn departs(&mut self, now: Instant, length: usize) -> Option<Instant> {
        if self.bytes + length > MOST_BYTES {
            return None;
        }
        let Some(rate) = self.link.rate else { return Some(now) };
        let takes = |bytes: usize| Duration::from_nanos(nanos(bytes, rate));
        let begins = self.idle_from.map_or(now, |idle_from| idle_from.max(now));
        if begins - now > LONGEST_QUEUE.max(takes(SHORTEST_QUEUE)) {
            return None;
        }
        self.idle_from = Some(begins + takes(length));
        self.idle_from
    }
}

/// How long so many bytes take at a rate in bits per second.
fn nanos(bytes: usize, rate: u64) -> u64 {
    (bytes as u64 * 8).saturating_mul(1_000_000_000) / rate.max(1)
}

/// SplitMix64 (Steele, Lea and Flood, 2014): repeatable, and even enough to decide on frames.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn falls_in(&mut self, share: Share) -> bool {
        share.0 > 0 && self.roll() % u64::from(Share::ALL) < u64::from(share.0)
    }

    /// Any time below `limit`.
    fn below(&mut self, limit: Duration) -> Duration {
        let nanos = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(if nanos == 0 { 0 } else { self.roll() % nanos })
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test begins at some time")]
#[allow(clippy::unchecked_time_subtraction, reason = "of times that are later")]
mod tests {
    use super::*;

    fn line(link: &str) -> (Line, Instant) {
        (Line::new(link.parse().unwrap(), 7755), Instant::now())
    }

    /// Sends frames of so many bytes, `every` so long, and gives what arrives: its number
    /// and how long after the start.
    fn carried(text: &str, frames: u32, length: usize, every: Duration) -> Vec<(u32, Duration)> {
        let (mut line, start) = line(text);
        let mut arrived = Vec::new();
        let mut take = |line: &mut Line, now: Instant| {
            while let Some(at) = line.next().filter(|at| *at <= now) {
                assert_eq!(line.arrived(at - Duration::from_nanos(1)), None);
                let frame = line.arrived(at).unwrap();
                assert_eq!(frame.len(), length);
                arrived.push((u32::from_be_bytes(*frame.first_chunk().unwrap()), at - start));
            }
        };
        let mut frame = vec![0; length];
        for number in 0..frames {
            let now = start + every * number;
            take(&mut line, now);
            frame[..4].copy_from_slice(&number.to_be_bytes());
            line.send(now, &frame);
        }
        take(&mut line, start + every * frames + Duration::from_mins(1));
        assert_eq!((line.next(), line.bytes), (None, 0));
        arrived
    }

    fn numbers(arrived: &[(u32, Duration)]) -> Vec<u32> {
        arrived.iter().map(|(number, _)| *number).collect()
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_good_link_changes_nothing_and_one_with_delay_only_the_time() {
        for (link, delay) in [("none", Duration::ZERO), ("delay=40ms", 40 * MS)] {
            let arrived = carried(link, 100, 60, MS);
            let expected: Vec<_> = (0..100).map(|number| (number, MS * number + delay)).collect();
            assert_eq!(arrived, expected);
        }
    }

    #[test]
    fn jitter_spreads_arrivals_and_keeps_their_order() {
        let arrived = carried("delay=40ms,jitter=10ms", 10_000, 60, 2 * MS);
        assert!(numbers(&arrived).into_iter().eq(0..10_000));
        let took = arrived.iter().map(|(number, at)| *at - 2 * MS * *number);
        assert!(took.clone().all(|took| took >= 40 * MS && took < 50 * MS));
        assert!(took.clone().min().unwrap() < 41 * MS && took.max().unwrap() > 49 * MS);
    }

    #[test]
    fn the_share_is_lost_duplicated_or_late_that_was_asked_for() {
        let count = 100_000;
        let is_near = |found: usize, percent: usize| {
            let wanted = count as usize * percent / 100;
            assert!(found.abs_diff(wanted) < wanted / 10, "{found} of {count}");
        };
        is_near(count as usize - carried("loss=1%", count, 60, MS).len(), 1);
        is_near(count as usize - carried("loss=30%", count, 60, MS).len(), 30);
        assert!(carried("loss=100%", count, 60, MS).is_empty());
        let twice = numbers(&carried("duplicate=2%", count, 60, MS));
        is_near(twice.len() - count as usize, 2);
        assert!(twice.is_sorted());

        let late = carried("delay=20ms,reorder=5%", count, 60, MS);
        let is_late = |(number, at): &&(u32, Duration)| *at > MS * *number + 20 * MS;
        is_near(late.iter().filter(is_late).count(), 5);
        assert!(late.iter().all(|(number, at)| *at <= MS * *number + 30 * MS));
        let in_order: Vec<_> = late.iter().filter(|frame| !is_late(frame)).copied().collect();
        assert!(numbers(&in_order).is_sorted());
        // Each of them behind one at least that was sent later.
        let mut all = numbers(&late);
        assert!(!all.is_sorted());
        all.sort_unstable();
        assert!(all.into_iter().eq(0..count));
    }

    #[test]
    fn no_more_passes_than_the_rate_and_the_queue_is_bounded() {
        // 20 Mbit/s are 2500 bytes in a millisecond; four times that is sent.
        let arrived = carried("rate=20mbit", 10_000, 1000, MS / 10);
        let (_, last) = *arrived.last().unwrap();
        let full = MS * 2 / 5 * u32::try_from(arrived.len()).unwrap();
        assert!(last >= full && last < full + 2 * MS, "{last:?} in place of {full:?}");
        assert!(numbers(&arrived).is_sorted());
        let longest = arrived.iter().map(|(number, at)| *at - MS / 10 * *number).max();
        assert!(longest.unwrap() <= 101 * MS, "{longest:?}");
        // What is less than the rate passes as if there were none.
        let arrived = carried("rate=20mbit,delay=5ms", 1000, 1000, MS);
        let took = 5 * MS + MS * 2 / 5;
        assert!(arrived.iter().all(|(number, at)| *at == MS * *number + took));
        // A slow link takes a burst.
        assert_eq!(carried("rate=64kbit", 100, 1514, Duration::ZERO).len(), 21);
    }

    #[test]
    fn what_is_on_its_way_is_bounded() {
        let (mut line, now) = line("delay=10s");
        for _ in 0..40_000 {
            line.send(now, &[0; 1514]);
        }
        assert!(line.bytes <= MOST_BYTES && line.bytes > MOST_BYTES - 1514, "{}", line.bytes);
        let arrived = std::iter::from_fn(|| line.arrived(now + LONGEST_QUEUE * 100)).count();
        assert_eq!(arrived, MOST_BYTES / 1514);
    }

    #[test]
    fn the_same_seed_decides_alike_and_another_does_not() {
        let lost = |seed| {
            let mut line = Line::new("loss=50%".parse().unwrap(), seed);
            let now = Instant::now();
            (0..64)
                .map(|_| {
                    line.send(now, &[0]);
                    line.arrived(now).is_none()
                })
                .collect::<Vec<bool>>()
        };
        assert_eq!(lost(1), lost(1));
        assert_ne!(lost(1), lost(!1));
    }
}
