//! How large a packet may be for a way, found out by probes of that length (RFC 8899):
//! routers that say so are not believed, and many do not say it.
//!
//! ```text
//!  check: the largest known, three times ─┬─ answered ─► confirmed, for a while
//!                                         └─ silent ───► measure: all smaller ones
//!                                                        at once, twice
//! ```

use std::time::Duration;

use epsilon_proto::address::DEFAULT_MTU;
use epsilon_proto::clock::Instant;

use super::candidate::RETRY;

/// What is tried, in bytes of the packets inside: the interface's MTU, what the usual
/// links leave of their 1492, 1480, 1460, 1450, 1420, 1400 and 1280 bytes in both
/// families, and steps between and below. Up to 1280 all are multiples of 16, to
/// which packets are padded.
const SIZES: [u16; 22] = [
    DEFAULT_MTU,
    1412,
    1400,
    1390,
    1380,
    1370,
    1360,
    1340,
    1320,
    1300,
    1280,
    1264,
    1248,
    1232,
    1216,
    1200,
    1136,
    1024,
    896,
    768,
    640,
    512,
];
/// How often the size in use is tried before it is taken for too large.
const CHECKS: u8 = 3;
/// How often others are tried.
const MEASURES: u8 = 2;
/// How often the size in use is confirmed while packets flow.
const CONFIRM: Duration = Duration::from_secs(30);
/// When to try again after the way did not answer at all.
const AGAIN: Duration = Duration::from_secs(2);
/// Between two checks because of a suspicion, at least.
const SUSPECT: Duration = Duration::from_secs(5);
/// How often it is looked whether larger ones pass (RFC 8899, section 5.1.1).
const RAISE: Duration = Duration::from_mins(10);

/// How large a packet may be for one way.
#[derive(Debug, Clone, Default)]
pub(super) struct Mtu {
    /// The largest that was answered since others were tried; before, all are thought
    /// to pass.
    known: Option<u16>,
    round: Option<Round>,
    /// When it is to be checked, as long as packets flow.
    due: Instant,
    /// When others were tried last, but for those that were smaller still.
    measured: Instant,
    /// When the last probes came to their end.
    checked: Instant,
}

/// Probes under way.
#[derive(Debug, Clone)]
struct Round {
    aim: Aim,
    begun: Instant,
    /// How often they were sent, the present time included.
    tries: u8,
    /// The place of the next one to be sent.
    next: usize,
    /// When the next time begins, or this was the last.
    ends: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aim {
    /// Whether the size in use passes.
    Check,
    /// Which of those below this one passes.
    Below(u16),
    /// Whether a larger one than the one in use passes.
    Raise,
}

impl Round {
    fn new(aim: Aim, now: Instant) -> Self {
        Self { aim, begun: now, tries: 0, next: SIZES.len(), ends: now }
    }

    fn most(&self) -> u8 {
        if self.aim == Aim::Check { CHECKS } else { MEASURES }
    }
}

impl Mtu {
    /// The largest packet that may be sent whole.
    pub(super) fn get(&self) -> u16 {
        self.known.unwrap_or(DEFAULT_MTU)
    }

    /// When a check is to begin, as long as packets flow; nothing while probes are
    /// under way.
    pub(super) fn check_due(&self) -> Option<Instant> {
        self.round.is_none().then_some(self.due)
    }

    /// Checks the size in use. Besides, the way has to be probed as otherwise, to tell a
    /// size that does not pass from a way that is closed.
    pub(super) fn check(&mut self, now: Instant) {
        self.round = Some(Round::new(Aim::Check, now));
    }

    /// What is large may be swallowed: it is checked soon.
    pub(super) fn suspect(&mut self, now: Instant) {
        // What flows one way only gives rise to it all the time.
        self.due = self.due.min(now.max(self.checked + SUSPECT));
    }

    /// A probe of this size was answered.
    pub(super) fn answered(&mut self, size: u16, now: Instant) {
        let aim = self.round.as_ref().map(|round| round.aim);
        let is_better = match aim {
            // It was only late.
            Some(Aim::Below(limit)) if size >= limit => {
                (self.round, self.due, self.checked) = (None, now + CONFIRM, now);
                true
            }
            // Of those that do pass the largest.
            Some(Aim::Below(limit)) => self.get() >= limit || size > self.get(),
            _ => size > self.get(),
        };
        if is_better {
            self.known = Some(size);
        }
        if aim == Some(Aim::Check) && size == self.get() {
            let may_be_raised = size < DEFAULT_MTU && now.since(self.measured) >= RAISE;
            self.measured = if may_be_raised { now } else { self.measured };
            self.round = may_be_raised.then(|| Round::new(Aim::Raise, now));
            (self.due, self.checked) = (now + CONFIRM, now);
        }
    }

    fn is_wanted(&self, size: u16, aim: Aim) -> bool {
        match aim {
            Aim::Check => size == self.get(),
            // The limit itself once more: it may have been lost three times.
            Aim::Below(limit) => size <= limit && (self.get() >= limit || size > self.get()),
            Aim::Raise => size > self.get(),
        }
    }

    /// The size of the next probe that is due, on a way that answered last then,
    /// whatever the size, and has this round trip.
    pub(super) fn next(
        &mut self,
        answered: Option<Instant>,
        rtt: Option<Duration>,
        now: Instant,
    ) -> Option<u16> {
        let patience = RETRY.max(rtt.unwrap_or_default() * 2);
        loop {
            let round = self.round.as_ref()?;
            let (aim, from) = (round.aim, round.next);
            let place = (from..SIZES.len()).find(|place| self.is_wanted(SIZES[*place], aim));
            let round = self.round.as_mut()?;
            if let Some(place) = place {
                round.next = place + 1;
                return Some(SIZES[place]);
            }
            if now < round.ends {
                return None;
            }
            if round.tries < round.most() {
                (round.tries, round.next, round.ends) = (round.tries + 1, 0, now + patience);
                continue;
            }
            let is_open = answered.is_some_and(|at| at >= round.begun);
            self.round = None;
            self.checked = now;
            self.due = now + if is_open { CONFIRM } else { AGAIN };
            if aim == Aim::Check && is_open {
                if self.get() == DEFAULT_MTU {
                    self.measured = now;
                }
                self.round = Some(Round::new(Aim::Below(self.get()), now));
            }
        }
    }

    /// When [`Self::next`] has something to say.
    pub(super) fn due(&self) -> Option<Instant> {
        let round = self.round.as_ref()?;
        let is_left =
            (round.next..SIZES.len()).any(|place| self.is_wanted(SIZES[place], round.aim));
        Some(if is_left { Instant::default() } else { round.ends })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant(Duration::from_millis(millis))
    }

    /// A way with 20 ms to and fro that carries so much, from one time on.
    struct Scene {
        mtu: Mtu,
        now: u64,
        limit: u16,
        is_open: bool,
        /// So many of the next probes are lost.
        lose: usize,
        answered: Option<Instant>,
        probes: Vec<u16>,
    }

    impl Scene {
        fn new(limit: u16) -> Self {
            let mtu = Mtu::default();
            let probes = Vec::new();
            Self { mtu, now: 5_000, limit, is_open: true, lose: 0, answered: None, probes }
        }

        /// Checks whenever it is time to, for so long.
        fn pass(&mut self, time: u64) {
            for _ in 0..time / 10 {
                let now = at(self.now);
                if self.mtu.check_due().is_some_and(|due| due <= now) {
                    self.mtu.check(now);
                    // The probe besides.
                    self.answered = self.is_open.then_some(now).or(self.answered);
                }
                let mut passed = Vec::new();
                while let Some(size) = self.mtu.next(self.answered, None, now) {
                    self.probes.push(size);
                    let is_lost = self.lose > 0;
                    self.lose = self.lose.saturating_sub(1);
                    let fits = self.is_open && !is_lost && size <= self.limit;
                    passed.extend(fits.then_some(size));
                }
                assert!(self.mtu.due().is_none_or(|due| due > now), "nothing is left to be done");
                self.now += 10;
                for size in passed {
                    self.mtu.answered(size, at(self.now));
                }
            }
        }
    }

    #[test]
    fn a_usual_way_costs_one_probe_and_one_every_half_minute() {
        let mut scene = Scene::new(1500);
        scene.pass(1_000);
        assert_eq!((scene.mtu.get(), &scene.probes[..]), (DEFAULT_MTU, &[DEFAULT_MTU][..]));
        scene.pass(60_000);
        assert_eq!(scene.probes, [DEFAULT_MTU; 3]);
    }

    #[test]
    fn a_narrow_way_is_measured_within_two_seconds_whatever_it_carries() {
        for limit in 512..=DEFAULT_MTU {
            let mut scene = Scene::new(limit);
            scene.pass(2_000);
            let best = SIZES.into_iter().find(|size| *size <= limit);
            assert_eq!(Some(scene.mtu.get()), best);
            assert!(scene.probes.len() <= 3 + 2 * SIZES.len(), "{:?}", scene.probes);
        }
    }

    #[test]
    fn a_way_that_is_closed_is_not_taken_for_a_narrow_one() {
        let mut scene = Scene::new(DEFAULT_MTU);
        scene.is_open = false;
        scene.pass(10_000);
        assert_eq!(scene.mtu.get(), DEFAULT_MTU);
        assert!(scene.probes.iter().all(|size| *size == DEFAULT_MTU));
        (scene.is_open, scene.limit) = (true, 1300);
        scene.pass(4_000);
        assert_eq!(scene.mtu.get(), 1300);
    }

    #[test]
    fn what_becomes_narrow_is_found_and_what_becomes_wide_by_and_by() {
        let mut scene = Scene::new(DEFAULT_MTU);
        scene.pass(6_000);
        scene.limit = 1216;
        scene.mtu.suspect(at(scene.now));
        scene.pass(2_000);
        assert_eq!(scene.mtu.get(), 1216);
        // Without a word by the next check.
        scene.limit = 1000;
        scene.pass(32_000);
        assert_eq!(scene.mtu.get(), 896);
        scene.limit = 1390;
        scene.pass(60_000);
        assert_eq!(scene.mtu.get(), 896);
        scene.pass(600_000);
        assert_eq!(scene.mtu.get(), 1390);
    }

    #[test]
    fn a_check_that_is_lost_altogether_changes_nothing_for_long() {
        let mut scene = Scene::new(DEFAULT_MTU);
        scene.lose = 3;
        scene.pass(2_000);
        assert_eq!(scene.mtu.get(), DEFAULT_MTU);
        // What gets no reply all the time is checked every five seconds, not more often.
        let before = scene.probes.len();
        for _ in 0..100 {
            scene.mtu.suspect(at(scene.now));
            scene.pass(500);
        }
        assert!(scene.probes.len() - before <= 11, "{}", scene.probes.len() - before);
    }

    #[test]
    fn lost_probes_make_it_smaller_at_most_until_it_is_looked_again() {
        let mut scene = Scene::new(DEFAULT_MTU);
        scene.limit = 600;
        scene.pass(2_000);
        assert_eq!(scene.mtu.get(), 512);
        scene.limit = DEFAULT_MTU;
        scene.pass(660_000);
        assert_eq!(scene.mtu.get(), DEFAULT_MTU);
    }
}
