//! Whom to call, where and when.
//!
//! Every member that is not linked is called, at each of its addresses in
//! turn; when all were tried in vain, the next round waits, longer each time.
//! An address from which somebody was just heard is tried at once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use epsilon_proto::clock::Instant;
use epsilon_proto::id::NodeId;

use crate::limit::Limit;

/// Between two addresses of one node.
const STAGGER: Duration = Duration::from_millis(250);
/// After the first round in vain.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// After many rounds in vain.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// How many calls may be under way at once.
const MAX_UNDER_WAY: usize = 16;
/// So often a callee that is at new addresses is called there at once, and then once in
/// that time: members name what they like, and whoever is there is called by all.
const MOVES: u32 = 4;
const MOVE_EVERY: Duration = Duration::from_mins(10);
/// How many of the gate's secrets are tried at one address in one round.
const TURNS: usize = 3;

/// Whom a call is meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Callee {
    /// A member that is known.
    Node(NodeId),
    /// Whoever answers at an address from the token, by its place there.
    Address(SocketAddr),
}

/// A call to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Tells this call from others.
    pub attempt: u64,
    /// Whom it is meant for.
    pub callee: Callee,
    /// Where.
    pub address: SocketAddr,
    /// With which of the gate's secrets to greet: its place, newest first.
    pub secret: usize,
}

#[derive(Default)]
struct Target {
    /// In the order in which they are tried.
    addresses: Vec<SocketAddr>,
    /// Heard there just now: tried before all others.
    urgent: BTreeSet<SocketAddr>,
    heard: Option<Instant>,
    next: usize,
    rounds: u32,
    due: Instant,
    under_way: BTreeMap<u64, SocketAddr>,
    /// How many gates were shut to the secret of the turn, one after another.
    turn: usize,
    secret: usize,
}

/// Where a callee was said to be last, and how often that may be another place.
struct Moves {
    addresses: Vec<SocketAddr>,
    limit: Limit,
}

/// The calls that are due, under way and paused.
#[derive(Default)]
pub struct Dialer {
    targets: BTreeMap<Callee, Target>,
    /// Those of callees that may be linked meanwhile, too.
    moves: BTreeMap<Callee, Moves>,
    last_attempt: u64,
}

impl Dialer {
    /// Wants a callee to be called at these addresses, best first. What is
    /// under way goes on; new addresses start a new round at once, where they do not come
    /// too often.
    pub fn want(&mut self, callee: Callee, addresses: Vec<SocketAddr>, now: Instant) {
        let moves = self.moves.entry(callee).or_insert_with(|| Moves {
            addresses: addresses.clone(),
            limit: Limit::new(MOVES, MOVE_EVERY),
        });
        let has_moved = addresses.iter().any(|address| !moves.addresses.contains(address));
        let may_move = !has_moved || moves.limit.allows(now);
        moves.addresses.clone_from(&addresses);
        let due = if may_move { now } else { now + LONGEST_PAUSE };
        let target =
            self.targets.entry(callee).or_insert_with(|| Target { due, ..Target::default() });
        let has_new = addresses.iter().any(|address| !target.addresses.contains(address));
        target.addresses = addresses;
        // Those that are gone may have been the rest of the round.
        if target.next >= target.addresses.len() {
            target.next = 0;
        }
        if has_new && may_move {
            target.rounds = 0;
            target.next = 0;
            target.due = target.due.min(now);
        }
    }

    /// Somebody was heard at an address: call there at once.
    pub fn heard(&mut self, callee: Callee, address: SocketAddr, now: Instant) {
        let target = self.targets.entry(callee).or_default();
        target.heard = Some(now);
        if target.under_way.is_empty() {
            target.urgent.insert(address);
            target.due = now;
        }
    }

    /// When a callee was heard last.
    pub fn last_heard(&self, callee: Callee) -> Option<Instant> {
        self.targets.get(&callee)?.heard
    }

    /// Whether a callee was called at all of its addresses in vain, or has none.
    pub fn fails(&self, callee: Callee) -> bool {
        self.targets.get(&callee).is_some_and(|target| target.rounds > 0 || !target.has_address())
    }

    /// Starts a new round with everybody: the network changed.
    pub fn hurry(&mut self, now: Instant) {
        for target in self.targets.values_mut() {
            target.rounds = 0;
            target.next = 0;
            target.due = now;
        }
    }

    /// No more calls to a callee: it is linked, or nobody wants to be.
    pub fn forget(&mut self, callee: Callee) {
        self.targets.remove(&callee);
    }

    /// A callee is no member any more.
    pub fn remove(&mut self, callee: Callee) {
        self.forget(callee);
        self.moves.remove(&callee);
    }

    /// Everybody who is to be called.
    pub fn callees(&self) -> impl Iterator<Item = Callee> {
        self.targets.keys().copied()
    }

    /// Whom a call under way is meant for, and where.
    pub fn under_way(&self, attempt: u64) -> Option<(Callee, SocketAddr)> {
        let one = |(callee, target): (&Callee, &Target)| {
            target.under_way.get(&attempt).map(|address| (*callee, *address))
        };
        self.targets.iter().find_map(one)
    }

    /// A call ended.
    pub fn ended(&mut self, attempt: u64) {
        for target in self.targets.values_mut() {
            target.under_way.remove(&attempt);
        }
    }

    /// A call ended at a gate that was shut: another secret is tried there
    /// soon. When both halves of a divided network made new secrets, neither
    /// knows the newest of the other.
    pub fn shut(&mut self, attempt: u64, secrets: usize, now: Instant) {
        for target in self.targets.values_mut() {
            if let Some(address) = target.under_way.remove(&attempt) {
                target.turn = (target.turn + 1) % secrets.max(1);
                target.secret = secret_of_turn(target.turn, secrets);
                if !target.turn.is_multiple_of(TURNS) {
                    target.urgent.insert(address);
                    target.due = target.due.min(now + STAGGER);
                }
            }
        }
    }

    /// The next call that is due; `jitter` in 0..=255 keeps two nodes from
    /// calling in step.
    pub fn next(&mut self, now: Instant, jitter: u8) -> Option<Call> {
        if self.is_busy() {
            return None;
        }
        let (callee, target) = self
            .targets
            .iter_mut()
            .filter(|(_, target)| target.is_due(now))
            .min_by_key(|(callee, target)| (target.due, **callee))?;
        let urgent = target.urgent.pop_first();
        let address = match urgent {
            Some(address) => address,
            None => target.addresses.get(target.next).copied().inspect(|_| target.next += 1)?,
        };
        let between_rounds = target.next % target.addresses.len().max(1) == 0;
        if between_rounds {
            target.next = 0;
            target.rounds += u32::from(urgent.is_none());
        }
        target.due = if between_rounds && target.urgent.is_empty() {
            now + pause(target.rounds, jitter)
        } else {
            now + STAGGER
        };
        self.last_attempt += 1;
        target.under_way.insert(self.last_attempt, address);
        let (attempt, callee, secret) = (self.last_attempt, *callee, target.secret);
        Some(Call { attempt, callee, address, secret })
    }

    /// Whether no more calls may be made until one ends.
    fn is_busy(&self) -> bool {
        let under_way: usize = self.targets.values().map(|target| target.under_way.len()).sum();
        under_way >= MAX_UNDER_WAY
    }

    /// When [`Dialer::next`] has something to do.
    pub fn due(&self) -> Option<Instant> {
        if self.is_busy() {
            return None;
        }
        self.targets
            .values()
            .filter(|target| target.has_address() && target.under_way.len() < 2)
            .map(|target| target.due)
            .min()
    }
}

impl Target {
    fn has_address(&self) -> bool {
        !self.addresses.is_empty() || !self.urgent.is_empty()
    }

    /// Two calls to one callee may be under way: a silent address must not
    /// keep the others waiting.
    fn is_due(&self, now: Instant) -> bool {
        self.due <= now && self.has_address() && self.under_way.len() < 2
    }
}

/// First the newest, then the oldest, which is common to all who were there
/// from the beginning, and so on from both ends.
fn secret_of_turn(turn: usize, secrets: usize) -> usize {
    let newer = turn / 2;
    if turn.is_multiple_of(2) { newer } else { secrets.saturating_sub(1 + newer) }
}

fn pause(rounds: u32, jitter: u8) -> Duration {
    let pause =
        FIRST_PAUSE.saturating_mul(1 << rounds.saturating_sub(1).min(16)).min(LONGEST_PAUSE);
    pause + pause.mul_f64(f64::from(jitter) / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 7755))
    }

    fn at(millis: u64) -> Instant {
        Instant(Duration::from_millis(millis))
    }

    const NODE: Callee = Callee::Node(NodeId([1; 32]));

    #[test]
    fn addresses_are_tried_in_turn_and_rounds_wait_longer_each_time() {
        let mut dialer = Dialer::default();
        dialer.want(NODE, vec![address(1), address(2)], at(0));
        let mut calls = Vec::new();
        for millis in (0..10_000).step_by(10) {
            while let Some(call) = dialer.next(at(millis), 0) {
                calls.push((millis, call.address));
                dialer.ended(call.attempt);
            }
        }
        assert_eq!(calls[0], (0, address(1)));
        assert_eq!(calls[1], (250, address(2)));
        assert_eq!(calls[2], (750, address(1)));
        let rounds: Vec<_> =
            calls.iter().filter(|(_, to)| *to == address(1)).map(|(when, _)| *when).collect();
        let pauses: Vec<_> = rounds.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(pauses.is_sorted() && pauses.last() > pauses.first(), "{pauses:?}");
    }

    #[test]
    fn whoever_names_others_all_the_time_has_them_called_rarely() {
        let mut dialer = Dialer::default();
        let mut calls = 0;
        for second in 0..600 {
            if second % 5 == 0 {
                let addresses = (0..8).map(|n| SocketAddr::from(([192, 0, 2, n], second as u16)));
                dialer.want(NODE, addresses.collect(), at(second * 1000));
            }
            for part in 0..10 {
                while let Some(call) = dialer.next(at(second * 1000 + part * 100), 0) {
                    calls += 1;
                    dialer.ended(call.attempt);
                }
            }
        }
        // A round for each of the first, others half a second and more later, and then one in
        // a minute; 960 if each record began anew.
        assert!((8 * 10..=8 * 25).contains(&calls), "{calls} calls in ten minutes");
        // Also where it is linked in between.
        for place in 0..100 {
            dialer.forget(NODE);
            let now = at(600_000 + place * 100);
            dialer.want(NODE, vec![SocketAddr::from(([192, 0, 2, 99], place as u16))], now);
            calls += u64::from(dialer.next(now, 0).is_some());
        }
        assert!(calls <= 8 * 25 + 1, "{calls}");
    }

    #[test]
    fn a_silent_address_does_not_hold_up_the_others() {
        let mut dialer = Dialer::default();
        dialer.want(NODE, vec![address(1), address(2)], at(0));
        assert_eq!(dialer.next(at(0), 0).unwrap().address, address(1));
        assert_eq!(dialer.next(at(250), 0).unwrap().address, address(2));
    }

    #[test]
    fn whoever_is_heard_is_called_at_once() {
        let mut dialer = Dialer::default();
        dialer.want(NODE, vec![address(1)], at(0));
        let call = dialer.next(at(0), 0).unwrap();
        dialer.ended(call.attempt);
        assert_eq!(dialer.next(at(1), 0), None);
        dialer.heard(NODE, address(9), at(2));
        assert_eq!(dialer.next(at(2), 0).unwrap().address, address(9));
    }

    #[test]
    fn a_linked_member_is_not_called() {
        let mut dialer = Dialer::default();
        dialer.want(NODE, vec![address(1)], at(0));
        dialer.forget(NODE);
        assert_eq!(dialer.next(at(0), 0), None);
        assert_eq!(dialer.due(), None);
    }

    #[test]
    fn a_callee_without_address_is_never_due() {
        let mut dialer = Dialer::default();
        dialer.want(NODE, vec![], at(0));
        assert_eq!(dialer.due(), None);
        assert_eq!(dialer.next(at(0), 0), None);
    }

    #[test]
    fn the_number_of_calls_under_way_is_bounded() {
        let mut dialer = Dialer::default();
        for number in 0..100 {
            dialer.want(Callee::Node(NodeId([number; 32])), vec![address(number)], at(0));
        }
        let calls = std::iter::from_fn(|| dialer.next(at(0), 0)).count();
        assert_eq!(calls, MAX_UNDER_WAY);
        assert_eq!(dialer.due(), None, "nothing to wake up for until a call ends");
        dialer.ended(1);
        assert!(dialer.due().is_some());
    }

    #[test]
    fn a_callee_that_lost_an_address_in_the_middle_of_a_round_holds_nobody_up() {
        let mut dialer = Dialer::default();
        dialer.want(NODE, vec![address(1), address(2)], at(0));
        assert_eq!(dialer.next(at(0), 0).unwrap().address, address(1));
        dialer.want(NODE, vec![address(1)], at(0));
        let other = Callee::Node(NodeId([2; 32]));
        dialer.want(other, vec![address(3)], at(500));
        let calls: Vec<_> =
            std::iter::from_fn(|| dialer.next(at(500), 0)).map(|call| call.address).collect();
        assert_eq!(calls, [address(1), address(3)]);
    }

    #[test]
    fn at_a_shut_gate_every_secret_is_tried_and_only_so_many_in_one_round() {
        for secrets in 1..20 {
            let mut dialer = Dialer::default();
            dialer.want(NODE, vec![address(1)], at(0));
            let mut tried = Vec::new();
            for millis in (0..1_000_000).step_by(10) {
                while let Some(call) = dialer.next(at(millis), 0) {
                    tried.push((millis, call.secret));
                    dialer.shut(call.attempt, secrets, at(millis));
                }
            }
            assert_eq!(tried[0].1, 0, "the newest first");
            let all: BTreeSet<usize> = tried.iter().map(|(_, secret)| *secret).collect();
            assert_eq!(all, (0..secrets).collect());
            let at_once = tried.iter().take_while(|(when, _)| *when < 700).count();
            assert!(at_once <= TURNS, "{secrets}: {tried:?}");
        }
    }

    #[test]
    fn a_host_that_is_only_away_is_greeted_with_the_newest_secret() {
        let mut dialer = Dialer::default();
        dialer.want(NODE, vec![address(1)], at(0));
        for millis in (0..100_000).step_by(10) {
            while let Some(call) = dialer.next(at(millis), 0) {
                assert_eq!(call.secret, 0);
                dialer.ended(call.attempt);
            }
        }
    }
}
