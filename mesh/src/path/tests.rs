//! Paths among ways that answer or do not, in virtual time.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use epsilon_proto::datagram::Channel;

use super::candidate::{SILENT_PROBES, STRANGE_PROBES};
use super::*;

fn direct(last: u8) -> Path {
    Path::Direct(SocketAddr::from(([192, 0, 2, last], 7755)))
}

fn relayed(last: u8) -> Path {
    Path::Relayed(SocketAddr::from(([203, 0, 113, last], 7755)), Channel::new(last.into()))
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn at(time: u64) -> Instant {
    Instant(millis(time))
}

/// A network of ways, each of which answers after a time of its own.
#[derive(Default)]
struct Scene {
    paths: Paths,
    now: u64,
    open: BTreeMap<Path, u64>,
    local: Vec<LocalPrefix>,
    /// How large a packet may be for those that are narrow.
    narrow: BTreeMap<Path, u16>,
    /// Answers under way: when, to what, sent when.
    answers: Vec<(u64, Step, u64)>,
    /// Every step, and when.
    steps: Vec<(u64, Step)>,
}

impl Scene {
    fn with(ways: &[(Path, bool)]) -> Self {
        let mut scene = Self { now: 1_000_000, ..Self::default() };
        for (path, is_lasting) in ways {
            scene.paths.add(*path, *is_lasting);
        }
        scene
    }

    fn do_steps(&mut self) {
        while let Some(step) = self.paths.next(at(self.now)) {
            self.steps.push((self.now, step));
            let (path, size) = match step {
                Step::Probe(path) => (path, 0),
                Step::Measure(path, size) => (path, size),
                _ => continue,
            };
            if let Some(rtt) = self.open.get(&path)
                && self.narrow.get(&path).is_none_or(|most| size <= *most)
            {
                self.answers.push((self.now + rtt, step, self.now));
            }
        }
    }

    fn pass(&mut self, time: u64) {
        let end = self.now + time;
        loop {
            self.do_steps();
            let due = self.paths.due(at(self.now)).map(|due| due.0.as_millis() as u64);
            let answer = self.answers.iter().map(|(when, ..)| *when).min();
            let Some(next) = due.into_iter().chain(answer).min().filter(|next| *next <= end) else {
                break;
            };
            assert!(next >= self.now && due.is_none_or(|due| due > self.now), "never at rest");
            self.now = next;
            let (arrived, left) = self.answers.iter().partition(|(when, ..)| *when <= next);
            self.answers = left;
            for (when, step, sent) in arrived {
                let rtt = millis(when - sent);
                match step {
                    Step::Measure(path, size) => self.paths.measured(path, size, at(self.now)),
                    Step::Probe(path) => {
                        self.paths.answered(path, rtt, at(self.now), &self.local);
                    }
                    _ => {}
                }
            }
        }
        self.now = end;
    }

    fn probes(&self, path: Path) -> usize {
        self.steps.iter().filter(|(_, step)| *step == Step::Probe(path)).count()
    }

    fn when(&self, step: Step) -> Vec<u64> {
        self.steps.iter().filter(|(_, one)| *one == step).map(|(when, _)| *when).collect()
    }
}

#[test]
fn the_first_that_answers_is_used_and_a_slightly_better_one_moves_nothing() {
    let mut scene = Scene::with(&[(direct(1), true), (direct(2), true), (direct(3), true)]);
    scene.open = BTreeMap::from([(direct(1), 50), (direct(2), 48), (direct(3), 20)]);
    scene.pass(1_000);
    assert_eq!(scene.paths.active(), Some(direct(3)));
    assert_eq!(scene.paths.rtt(), Some(millis(20)));
    scene.open.insert(direct(2), 18);
    scene.paths.probe_all(at(scene.now));
    scene.pass(1_000);
    assert_eq!(scene.paths.active(), Some(direct(3)));
    scene.open.insert(direct(2), 10);
    scene.paths.probe_all(at(scene.now));
    scene.pass(1_000);
    assert_eq!(scene.paths.active(), Some(direct(2)));
}

#[test]
fn near_comes_before_direct_and_direct_before_relayed_whatever_the_round_trip() {
    let near = Path::Direct(SocketAddr::from(([10, 0, 0, 7], 7755)));
    let mut scene = Scene::with(&[(relayed(1), true)]);
    scene.local = vec![(IpAddr::from([10, 0, 0, 0]), 24)];
    scene.open = BTreeMap::from([(relayed(1), 1), (direct(1), 30), (near, 60)]);
    for way in [relayed(1), direct(1), near] {
        scene.paths.add(way, false);
        scene.pass(1_000);
        assert_eq!(scene.paths.active(), Some(way));
    }
    scene.paths.probe_all(at(scene.now));
    scene.pass(1_000);
    assert_eq!(scene.paths.active(), Some(near));
}

#[test]
fn a_way_that_never_answers_gets_three_probes_in_ten_minutes_and_ten_more_when_called() {
    let mut scene = Scene::with(&[(direct(1), false)]);
    for _ in 0..590 {
        scene.paths.probe_all(at(scene.now));
        scene.pass(1_000);
    }
    assert_eq!(scene.probes(direct(1)), SILENT_PROBES);
    scene.pass(20_000);
    assert_eq!(scene.probes(direct(1)), 2 * SILENT_PROBES);
    scene.paths.called(&[direct(1).address()], at(scene.now));
    for _ in 0..60 {
        scene.paths.probe_all(at(scene.now));
        scene.pass(1_000);
    }
    assert_eq!(scene.probes(direct(1)), 2 * SILENT_PROBES + 10);
}

#[test]
fn two_that_probe_each_other_come_to_rest() {
    let mut scene = Scene::with(&[]);
    scene.open.insert(direct(1), 10);
    for _ in 0..100 {
        scene.paths.seen(direct(1), at(scene.now));
        scene.pass(100);
    }
    assert_eq!(scene.probes(direct(1)), 1);
}

#[test]
fn while_packets_flow_over_a_relay_the_peer_is_called_less_and_less_often() {
    let mut scene = Scene::with(&[(direct(1), false), (relayed(1), true)]);
    scene.open.insert(relayed(1), 40);
    scene.paths.busy(at(scene.now));
    let begun = scene.now;
    scene.pass(130_000);
    assert_eq!(scene.paths.active(), Some(relayed(1)));
    let calls: Vec<u64> = scene.when(Step::Call).iter().map(|when| (when - begun) / 1000).collect();
    assert_eq!(calls, [0, 1, 3, 7, 15, 30, 60, 120]);
    // The peer is there now, and says so.
    scene.open.insert(direct(1), 20);
    scene.paths.called(&[direct(1).address()], at(scene.now));
    scene.pass(100);
    assert_eq!(scene.paths.active(), Some(direct(1)));
    let known = scene.steps.len();
    scene.pass(600_000);
    let is_check = |step: &Step| matches!(step, Step::Measure(way, DEFAULT_MTU) | Step::Probe(way) if *way == direct(1));
    let later = &scene.steps[known..];
    assert!(later.iter().all(|(_, step)| is_check(step)) && later.len() <= 42, "{later:?}");
}

#[test]
fn without_any_way_packets_bring_about_a_call_and_the_search_for_a_relay() {
    let mut scene = Scene::with(&[]);
    scene.pass(60_000);
    assert!(scene.steps.is_empty());
    for _ in 0..5 {
        scene.paths.busy(at(scene.now));
        scene.pass(100);
    }
    assert_eq!((scene.when(Step::Call).len(), scene.when(Step::Relay).len()), (1, 1));
}

#[test]
fn a_way_that_falls_silent_is_left_within_two_seconds_for_one_that_answers() {
    let mut scene = Scene::with(&[(direct(1), true), (relayed(1), true)]);
    scene.open = BTreeMap::from([(direct(1), 20), (relayed(1), 80)]);
    scene.paths.busy(at(scene.now));
    scene.pass(10_000);
    assert_eq!(scene.paths.active(), Some(direct(1)));
    // What flows one way only gets no reply, and its way is good.
    for _ in 0..5 {
        scene.paths.doubt(at(scene.now));
        scene.pass(2_000);
    }
    assert_eq!(scene.paths.active(), Some(direct(1)));
    scene.open.remove(&direct(1));
    let begun = scene.now;
    scene.paths.doubt(at(scene.now));
    scene.pass(5_000);
    assert_eq!(scene.paths.active(), Some(relayed(1)));
    let moved = scene.when(Step::Use(Some(relayed(1)))).last().unwrap() - begun;
    assert!(moved <= 1_000, "after {moved} ms");
    // It is looked for, and taken again.
    scene.open.insert(direct(1), 20);
    scene.pass(60_000);
    assert_eq!(scene.paths.active(), Some(direct(1)));
}

#[test]
fn without_another_way_the_old_one_is_kept_and_a_relay_is_sought() {
    let mut scene = Scene::with(&[(direct(1), true)]);
    scene.open.insert(direct(1), 20);
    scene.paths.busy(at(scene.now));
    scene.pass(10_000);
    scene.open.remove(&direct(1));
    scene.paths.doubt(at(scene.now));
    scene.pass(2_000);
    assert_eq!(scene.paths.active(), Some(direct(1)));
    assert!(!scene.paths.is_proven());
    assert!(!scene.when(Step::Relay).is_empty());
    scene.paths.add(relayed(1), true);
    scene.open.insert(relayed(1), 50);
    scene.pass(200);
    assert_eq!(scene.paths.active(), Some(relayed(1)));
}

#[test]
fn who_sends_nothing_is_left_with_a_way_that_lasts() {
    let mut scene = Scene::with(&[(direct(1), false), (relayed(1), true)]);
    scene.open = BTreeMap::from([(direct(1), 20), (relayed(1), 80)]);
    scene.paths.busy(at(scene.now));
    scene.pass(10_000);
    assert_eq!(scene.paths.active(), Some(direct(1)));
    scene.paths.idle();
    scene.pass(60_000);
    assert_eq!(scene.paths.active(), Some(relayed(1)));
    // The next packet takes that at once, and the direct one is back soon.
    let begun = scene.now;
    scene.paths.busy(at(scene.now));
    scene.pass(1_000);
    assert_eq!(scene.paths.active(), Some(direct(1)));
    assert!(scene.when(Step::Use(Some(direct(1)))).last().unwrap() - begun < 100);

    let mut alone = Scene::with(&[(direct(1), false)]);
    alone.open.insert(direct(1), 20);
    alone.pass(1_000);
    alone.paths.idle();
    alone.pass(1_000);
    assert_eq!(alone.paths.active(), None);

    let mut lasting = Scene::with(&[(direct(1), true)]);
    lasting.open.insert(direct(1), 20);
    lasting.pass(1_000);
    lasting.paths.idle();
    lasting.pass(60_000);
    assert_eq!(lasting.paths.active(), Some(direct(1)));
}

#[test]
fn a_way_that_is_kept_open_is_probed_and_found_again_when_it_moves() {
    let mut scene = Scene::with(&[(direct(1), false), (direct(2), false)]);
    scene.open.insert(direct(1), 20);
    scene.paths.keep(true, at(scene.now));
    scene.pass(3_600_000);
    let probes = scene.probes(direct(1));
    assert!((235..=245).contains(&probes), "{probes} in an hour");
    scene.paths.idle();
    scene.open = BTreeMap::from([(direct(2), 20)]);
    scene.pass(40_000);
    assert_eq!(scene.paths.active(), Some(direct(2)));
    scene.paths.keep(false, at(scene.now));
    scene.pass(1_000);
    let known = scene.steps.len();
    scene.pass(600_000);
    assert_eq!(scene.steps.len(), known);
}

#[test]
fn a_channel_that_is_gone_is_left() {
    let mut scene = Scene::with(&[(relayed(1), true), (relayed(2), true)]);
    scene.open = BTreeMap::from([(relayed(1), 20), (relayed(2), 50)]);
    scene.paths.busy(at(scene.now));
    scene.pass(3_000);
    assert_eq!(scene.paths.active(), Some(relayed(1)));
    scene.paths.remove(relayed(1), at(scene.now));
    scene.pass(100);
    assert_eq!(scene.paths.active(), Some(relayed(2)));
    scene.paths.remove(relayed(2), at(scene.now));
    scene.pass(100);
    assert_eq!(scene.paths.active(), None);
}

#[test]
fn an_answer_from_nowhere_moves_nothing() {
    let mut scene = Scene::with(&[(direct(1), true)]);
    scene.open.insert(direct(1), 20);
    scene.pass(1_000);
    scene.paths.answered(direct(9), millis(1), at(scene.now), &[]);
    scene.pass(1_000);
    assert_eq!(scene.paths.active(), Some(direct(1)));
}

#[test]
fn the_number_of_ways_is_bounded() {
    let mut scene = Scene::with(&[(direct(0), true)]);
    scene.open.insert(direct(0), 20);
    scene.pass(1_000);
    for last in 0..=255 {
        scene.paths.add(direct(last), false);
        scene.paths.seen(direct(last), at(scene.now));
    }
    scene.pass(60_000);
    assert!(scene.paths.candidates.len() <= MAX_CANDIDATES);
    assert_eq!(scene.paths.active(), Some(direct(0)));
}

#[test]
fn a_peer_that_was_at_many_addresses_is_found_at_the_next() {
    let mut scene = Scene::with(&[]);
    for last in 0..2 * MAX_CANDIDATES as u8 {
        scene.open = BTreeMap::from([(direct(last), 20)]);
        scene.paths.busy(at(scene.now));
        scene.paths.seen(direct(last), at(scene.now));
        scene.pass(10_000);
        assert_eq!(scene.paths.active(), Some(direct(last)));
    }
}

#[test]
fn however_many_addresses_a_peer_names_few_probes_go_there_and_relays_wait_for_none() {
    let mut scene = Scene::with(&[]);
    let begun = scene.now;
    let mut named = 0..;
    while scene.now < begun + 600_000 {
        // By every record, call and probe that there may be.
        let mut strange = named
            .by_ref()
            .map(|number| SocketAddr::from(([198, 51, 100, 1], 1_000 + number % 60_000)));
        for one in strange.by_ref().take(16) {
            scene.paths.add(Path::Direct(one), true);
            scene.paths.seen(Path::Direct(one), at(scene.now));
        }
        let called: Vec<SocketAddr> = strange.take(12).collect();
        scene.paths.called(&called, at(scene.now));
        scene.pass(5_000);
    }
    let is_probe = |(_, step): &&(u64, Step)| matches!(step, Step::Probe(_));
    let probes = scene.steps.iter().filter(is_probe).count();
    assert!((1_500..=STRANGE_PROBES as usize + 1_500).contains(&probes), "{probes}");
    scene.open.insert(relayed(1), 20);
    scene.paths.add(relayed(1), true);
    scene.pass(100);
    assert_eq!(scene.paths.active(), Some(relayed(1)));
}

#[test]
fn whoever_repeats_what_a_peer_sent_from_elsewhere_moves_it_nowhere() {
    let mut scene = Scene::with(&[(direct(1), false)]);
    scene.open.insert(direct(1), 20);
    scene.paths.busy(at(scene.now));
    scene.pass(10_000);
    for last in 2..=255 {
        let elsewhere = if last % 2 == 0 { direct(last) } else { relayed(last) };
        scene.paths.heard_elsewhere(elsewhere, at(scene.now));
        scene.pass(100);
        assert_eq!(scene.paths.active(), Some(direct(1)));
        assert!(scene.paths.is_proven());
    }
    assert_eq!(scene.when(Step::Use(Some(direct(1)))).len(), 1);
}

#[test]
fn a_peer_that_is_seen_elsewhere_is_followed_as_soon_as_it_answers_there() {
    let mut scene = Scene::with(&[(direct(1), false)]);
    scene.open.insert(direct(1), 20);
    scene.paths.busy(at(scene.now));
    scene.pass(10_000);
    // It has two addresses: the one in use answers, and stays.
    scene.open.insert(direct(2), 30);
    scene.paths.seen(direct(2), at(scene.now));
    scene.pass(2_000);
    assert_eq!(scene.paths.active(), Some(direct(1)));
    scene.open = BTreeMap::from([(direct(3), 30)]);
    let begun = scene.now;
    scene.paths.seen(direct(3), at(scene.now));
    scene.pass(2_000);
    assert_eq!(scene.paths.active(), Some(direct(3)));
    assert!(scene.when(Step::Use(Some(direct(3))))[0] - begun < 100);
}

#[test]
fn after_a_move_the_peer_is_called_at_once_and_the_first_answer_counts() {
    let mut scene = Scene::with(&[(direct(1), false), (relayed(1), true)]);
    scene.open = BTreeMap::from([(direct(1), 20), (relayed(1), 50)]);
    scene.paths.busy(at(scene.now));
    scene.pass(10_000);
    scene.open.remove(&direct(1));
    let begun = scene.now;
    scene.paths.moved();
    scene.paths.probe_all(at(scene.now));
    scene.pass(1_000);
    assert!(scene.when(Step::Call).contains(&begun));
    assert_eq!(scene.when(Step::Use(Some(relayed(1)))).last(), Some(&(begun + 50)));
}

#[test]
fn a_peer_that_is_seen_where_it_did_not_answer_is_tried_there_again_but_not_for_ever() {
    let mut scene = Scene::with(&[(direct(1), false)]);
    scene.pass(10_000);
    assert_eq!(scene.probes(direct(1)), SILENT_PROBES);
    for _ in 0..30 {
        scene.paths.seen(direct(1), at(scene.now));
        scene.pass(1_000);
    }
    assert_eq!(scene.probes(direct(1)), SILENT_PROBES + 10);
    let mut back = Scene::with(&[(direct(1), false)]);
    back.pass(10_000);
    back.open.insert(direct(1), 20);
    back.paths.seen(direct(1), at(back.now));
    back.pass(1_000);
    assert_eq!(back.paths.active(), Some(direct(1)));
}

#[test]
fn a_narrow_way_is_measured_while_packets_flow_and_another_one_has_its_own_size() {
    let mut scene = Scene::with(&[(relayed(1), true)]);
    scene.open = BTreeMap::from([(relayed(1), 40), (direct(1), 20)]);
    scene.narrow.insert(relayed(1), 1216);
    scene.pass(60_000);
    assert_eq!(scene.paths.mtu(), DEFAULT_MTU, "nobody needs to know");
    let begun = scene.now;
    scene.paths.busy(at(scene.now));
    scene.pass(1_500);
    assert_eq!(scene.paths.mtu(), 1216);
    let told = scene.when(Step::Resize);
    assert!(told.last().unwrap() - begun < 1_300, "{told:?}");
    scene.paths.add(direct(1), true);
    scene.pass(1_000);
    assert_eq!((scene.paths.active(), scene.paths.mtu()), (Some(direct(1)), DEFAULT_MTU));
    assert_eq!(scene.when(Step::Resize).len(), told.len(), "the new way said it");
}

#[test]
fn what_swallows_large_packets_is_found_once_they_get_no_reply() {
    let mut scene = Scene::with(&[(direct(1), true)]);
    scene.open.insert(direct(1), 20);
    scene.paths.busy(at(scene.now));
    scene.pass(10_000);
    scene.narrow.insert(direct(1), 1300);
    scene.paths.doubt(at(scene.now));
    scene.pass(1_500);
    assert_eq!((scene.paths.active(), scene.paths.mtu()), (Some(direct(1)), 1300));
    // Somewhere else it says nothing.
    scene.narrow.clear();
    scene.paths.moved();
    scene.paths.probe_all(at(scene.now));
    assert_eq!(scene.paths.mtu(), DEFAULT_MTU);
}

#[test]
fn who_is_asked_about_is_called_though_no_packets_flow_and_not_for_long() {
    let mut scene = Scene::with(&[(relayed(1), true), (direct(2), false)]);
    scene.open.insert(relayed(1), 20);
    scene.paths.probe_all(at(scene.now));
    scene.pass(60_000);
    assert_eq!(scene.paths.active(), Some(relayed(1)));
    let calls = |scene: &Scene| scene.steps.iter().filter(|(_, step)| *step == Step::Call).count();
    let before = calls(&scene);
    scene.paths.seek(at(scene.now));
    // The call opened what was shut, and the peer calls back.
    scene.open.insert(direct(2), 10);
    scene.paths.called(&[direct(2).address()], at(scene.now));
    scene.pass(5_000);
    assert!(calls(&scene) > before, "{:?}", scene.steps);
    assert_eq!(scene.paths.active(), Some(direct(2)));
    scene.pass(60_000);
    let after = calls(&scene);
    scene.pass(600_000);
    assert_eq!(calls(&scene), after);
}

#[test]
fn an_address_that_the_peer_has_no_more_is_left_though_no_packets_flow() {
    let mut scene = Scene::with(&[(direct(1), true), (direct(2), true)]);
    scene.open.insert(direct(1), 10);
    scene.open.insert(direct(2), 40);
    scene.paths.probe_all(at(scene.now));
    scene.pass(5_000);
    assert_eq!(scene.paths.active(), Some(direct(1)));
    scene.open.remove(&direct(1));
    let addresses = [direct(1).address(), direct(2).address()];
    scene.paths.withdraw_others(&addresses, at(scene.now));
    scene.pass(5_000);
    assert_eq!(scene.paths.active(), Some(direct(1)), "nobody has noticed");
    scene.paths.withdraw_others(&addresses[1..], at(scene.now));
    scene.pass(5_000);
    assert_eq!(scene.paths.active(), Some(direct(2)));
}

#[test]
fn a_lazy_peer_is_tried_when_there_is_something_to_send_or_it_is_heard() {
    let wake: [fn(&mut Scene); 3] = [
        |scene| scene.paths.busy(at(scene.now)),
        |scene| scene.paths.seen(direct(1), at(scene.now)),
        |scene| scene.paths.called(&[direct(1).address()], at(scene.now)),
    ];
    for wake in wake {
        let mut scene = Scene::with(&[(direct(1), true), (relayed(2), true)]);
        scene.paths.be_lazy(true);
        scene.paths.greet(at(scene.now));
        scene.open.insert(direct(1), 10);
        scene.pass(3_600_000);
        assert_eq!(scene.steps, []);
        wake(&mut scene);
        scene.pass(50);
        assert_eq!(scene.paths.active(), Some(direct(1)));
        scene.paths.idle();
        scene.pass(60_000);
        let steps = scene.steps.len();
        scene.paths.probe_all(at(scene.now));
        scene.pass(3_600_000);
        assert_eq!(scene.steps.len(), steps, "{:?}", scene.steps);
        assert_eq!(scene.paths.active(), Some(direct(1)));
    }
}

#[test]
fn a_way_that_closed_is_left_though_it_answered_just_before_and_nothing_more_is_sent() {
    let tell: [fn(&mut Scene); 2] = [
        |scene| scene.paths.doubt(at(scene.now)),
        // What it sends may come, and nothing get through to it.
        |scene| scene.paths.called(&[], at(scene.now)),
    ];
    for tell in tell {
        let mut scene = Scene::with(&[(direct(1), true), (relayed(2), true)]);
        scene.open.insert(direct(1), 10);
        scene.open.insert(relayed(2), 20);
        scene.paths.probe_all(at(scene.now));
        scene.pass(20);
        assert_eq!(scene.paths.active(), Some(direct(1)));
        scene.paths.busy(at(scene.now));
        scene.pass(1_000);
        scene.open.remove(&direct(1));
        tell(&mut scene);
        scene.pass(1_000);
        assert_eq!(scene.paths.active(), Some(relayed(2)));
    }
}

#[test]
fn a_way_that_was_left_for_a_relay_is_taken_again_when_the_peer_comes_by_it() {
    let mut scene = Scene::with(&[(direct(1), true), (relayed(2), true)]);
    scene.open.insert(direct(1), 10);
    scene.open.insert(relayed(2), 20);
    scene.paths.probe_all(at(scene.now));
    scene.pass(1_000);
    scene.open.remove(&direct(1));
    scene.paths.doubt(at(scene.now));
    scene.pass(60_000);
    assert_eq!(scene.paths.active(), Some(relayed(2)));
    scene.open.insert(direct(1), 10);
    scene.paths.seen(relayed(2), at(scene.now));
    scene.pass(1_000);
    assert_eq!(scene.paths.active(), Some(relayed(2)));
    scene.paths.seen(direct(1), at(scene.now));
    scene.pass(1_000);
    assert_eq!(scene.paths.active(), Some(direct(1)));
}
