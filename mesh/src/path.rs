//! Which address a peer's data travels to.
//!
//! The first packet travels at once to where the peer was linked. Probes look
//! for something better; only an authenticated answer moves the path. Order:
//! same network, then round trip, with hysteresis.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use epsilon_proto::clock::Instant;

use crate::shard::Path;

/// An address that never answered gets so many probes per [`SILENT_WINDOW`].
const SILENT_PROBES: usize = 3;
/// The window for [`SILENT_PROBES`].
const SILENT_WINDOW: Duration = Duration::from_mins(10);
/// Between two probes to one address.
const RETRY: Duration = Duration::from_millis(400);
/// How many addresses of one peer are kept.
const MAX_CANDIDATES: usize = 24;
/// Another path must be better by this share of the round trip, and by
/// [`MARGIN`].
const HYSTERESIS: f64 = 0.2;
/// See [`HYSTERESIS`].
const MARGIN: Duration = Duration::from_millis(3);

#[derive(Debug, Clone, Default)]
struct Candidate {
    /// When probes went there that were not answered yet.
    unanswered: Vec<Instant>,
    /// The last answer.
    answered: Option<Instant>,
    rtt: Option<Duration>,
    /// A round of probes is wanted.
    wanted: bool,
}

/// The paths to one peer.
#[derive(Debug, Default)]
pub struct Paths {
    candidates: BTreeMap<Path, Candidate>,
    active: Option<Path>,
    /// Whether the active address ever answered a probe.
    proven: bool,
}

/// A prefix of one of the own interfaces: what lies in it is on the same
/// network.
pub type LocalPrefix = (IpAddr, u8);

/// Whether an address lies within a prefix.
pub fn is_within(address: IpAddr, (base, length): LocalPrefix) -> bool {
    match (address, base) {
        (IpAddr::V4(address), IpAddr::V4(base)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
            (u32::from(address) ^ u32::from(base)) & mask == 0
        }
        (IpAddr::V6(address), IpAddr::V6(base)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
            (u128::from(address) ^ u128::from(base)) & mask == 0
        }
        _ => false,
    }
}

impl Paths {
    /// The address in use.
    pub fn active(&self) -> Option<Path> {
        self.active
    }

    /// The round trip to the address in use, when it answered a probe.
    pub fn rtt(&self) -> Option<Duration> {
        self.candidates.get(&self.active?)?.rtt
    }

    /// An address at which the peer may be; probed when it is new. Says
    /// whether it is now in use because nothing better was.
    pub fn add(&mut self, address: Path) -> bool {
        if !self.candidates.contains_key(&address) {
            if self.candidates.len() >= MAX_CANDIDATES && !self.drop_worst() {
                return false;
            }
            let candidate = Candidate { wanted: true, ..Candidate::default() };
            self.candidates.insert(address, candidate);
        }
        if self.active.is_none() {
            self.active = Some(address);
            self.proven = false;
            return true;
        }
        false
    }

    /// Like [`Paths::add`] for an address at which the peer just was: used at
    /// once unless the one in use is proven.
    pub fn prefer(&mut self, address: Path) -> bool {
        if self.add(address) {
            return true;
        }
        let moves =
            !self.proven && self.active != Some(address) && self.candidates.contains_key(&address);
        if moves {
            self.active = Some(address);
        }
        moves
    }

    /// Makes room among the addresses that never answered.
    fn drop_worst(&mut self) -> bool {
        let worst = self
            .candidates
            .iter()
            .filter(|(address, candidate)| {
                candidate.answered.is_none() && Some(**address) != self.active
            })
            .max_by_key(|(_, candidate)| candidate.unanswered.len())
            .map(|(address, _)| *address);
        worst.is_some_and(|address| self.candidates.remove(&address).is_some())
    }

    /// Wants every address probed anew: the peer restarted, fell silent, or
    /// the own network changed.
    pub fn probe_all(&mut self) {
        for candidate in self.candidates.values_mut() {
            candidate.wanted = true;
        }
    }

    /// Wants one address probed anew.
    pub fn probe(&mut self, address: Path) {
        self.add(address);
        if let Some(candidate) = self.candidates.get_mut(&address) {
            candidate.wanted = true;
        }
    }

    /// A probe of the peer came from an address. Worth one in return unless
    /// that address answered before: two nodes that probe because they were
    /// probed would never end.
    pub fn probed_from(&mut self, address: Path) {
        self.add(address);
        if let Some(candidate) = self.candidates.get_mut(&address) {
            candidate.wanted |= candidate.answered.is_none();
        }
    }

    /// The next address to which a probe goes now.
    pub fn next_probe(&mut self, now: Instant) -> Option<Path> {
        let wanted = self.candidates.iter_mut().filter(|(_, candidate)| candidate.wanted);
        for (address, candidate) in wanted {
            candidate.unanswered.retain(|sent| now.since(*sent) < SILENT_WINDOW);
            if candidate.is_due(now) {
                candidate.unanswered.push(now);
                candidate.wanted = candidate.unanswered.len() < SILENT_PROBES;
                return Some(*address);
            }
        }
        None
    }

    /// When [`Paths::next_probe`] has something to do.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        self.candidates
            .values()
            .filter(|candidate| candidate.wanted)
            .map(|candidate| candidate.next_due(now))
            .min()
    }

    /// An answer came to a probe. Says whether the path moved.
    pub fn answered(
        &mut self,
        address: Path,
        rtt: Duration,
        now: Instant,
        local: &[LocalPrefix],
    ) -> bool {
        let Some(candidate) = self.candidates.get_mut(&address) else { return false };
        candidate.unanswered.clear();
        candidate.wanted = false;
        candidate.answered = Some(now);
        candidate.rtt = Some(rtt);
        let better = match self.active {
            None => true,
            Some(active) if active == address => {
                self.proven = true;
                false
            }
            Some(_) if !self.proven => true,
            Some(active) => self.is_better(address, rtt, active, local),
        };
        if better {
            self.active = Some(address);
            self.proven = true;
        }
        better
    }

    fn is_better(&self, address: Path, rtt: Duration, active: Path, local: &[LocalPrefix]) -> bool {
        let near = |path: Path| match path {
            Path::Direct(to) => local.iter().any(|prefix| is_within(to.ip(), *prefix)),
            Path::Relayed(..) => false,
        };
        match (near(address), near(active)) {
            (true, false) => true,
            (false, true) => false,
            _ => {
                self.candidates.get(&active).and_then(|active| active.rtt).is_some_and(|current| {
                    rtt.mul_f64(1.0 + HYSTERESIS) < current && rtt + MARGIN < current
                })
            }
        }
    }

    /// The peer fell silent: the address in use is no longer proven, so that
    /// the first answer from anywhere takes over.
    pub fn silent(&mut self) {
        self.proven = false;
        self.probe_all();
    }
}

impl Candidate {
    fn is_due(&self, now: Instant) -> bool {
        (self.answered.is_some() || self.unanswered.len() < SILENT_PROBES)
            && self.next_due(now) <= now
    }

    fn next_due(&self, now: Instant) -> Instant {
        match self.unanswered.last() {
            None => now,
            Some(_) if self.answered.is_none() && self.unanswered.len() >= SILENT_PROBES => {
                self.unanswered[0] + SILENT_WINDOW
            }
            Some(last) => *last + RETRY,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn address(last: u8) -> Path {
        Path::Direct(SocketAddr::from(([192, 0, 2, last], 7755)))
    }
    fn at(millis: u64) -> Instant {
        Instant(Duration::from_millis(millis))
    }
    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_first_address_is_used_at_once_and_the_first_answer_takes_over() {
        let mut paths = Paths::default();
        assert!(paths.add(address(1)));
        assert!(!paths.add(address(2)));
        assert_eq!(paths.active(), Some(address(1)));
        assert!(paths.answered(address(2), millis(50), at(1), &[]));
        assert_eq!(paths.active(), Some(address(2)));
    }

    #[test]
    fn a_slightly_better_round_trip_does_not_move_the_path() {
        let mut paths = Paths::default();
        paths.add(address(1));
        paths.add(address(2));
        paths.answered(address(1), millis(50), at(1), &[]);
        assert!(!paths.answered(address(2), millis(48), at(2), &[]));
        assert!(paths.answered(address(2), millis(20), at(3), &[]));
    }

    #[test]
    fn the_same_network_wins_over_a_shorter_round_trip() {
        let mut paths = Paths::default();
        let far = Path::Direct(SocketAddr::from(([203, 0, 113, 1], 7755)));
        let local = [(IpAddr::from([192, 0, 2, 0]), 24)];
        paths.add(far);
        paths.add(address(1));
        paths.answered(far, millis(1), at(1), &local);
        assert!(paths.answered(address(1), millis(9), at(2), &local));
        assert!(!paths.answered(far, millis(1), at(3), &local));
    }

    #[test]
    fn an_address_that_never_answers_gets_three_probes_in_ten_minutes() {
        let mut paths = Paths::default();
        paths.add(address(1));
        let probes = (0..590_000)
            .step_by(100)
            .filter(|millis| {
                paths.probe_all();
                paths.next_probe(at(*millis)).is_some()
            })
            .count();
        assert_eq!(probes, SILENT_PROBES);
        paths.probe_all();
        assert!(paths.next_probe(at(601_000)).is_some());
    }

    #[test]
    fn a_probe_from_an_address_that_answered_is_not_returned() {
        let mut paths = Paths::default();
        paths.probed_from(address(1));
        assert_eq!(paths.next_probe(at(0)), Some(address(1)));
        paths.answered(address(1), millis(1), at(1), &[]);
        paths.probed_from(address(1));
        assert_eq!(paths.next_probe(at(2)), None);
        paths.silent();
        assert_eq!(paths.next_probe(at(3)), Some(address(1)));
    }

    #[test]
    fn an_answer_from_nowhere_moves_nothing() {
        let mut paths = Paths::default();
        paths.add(address(1));
        assert!(!paths.answered(address(9), millis(1), at(1), &[]));
        assert_eq!(paths.active(), Some(address(1)));
    }

    #[test]
    fn the_number_of_addresses_is_bounded() {
        let mut paths = Paths::default();
        for last in 0..=255 {
            paths.add(address(last));
        }
        assert!(paths.candidates.len() <= MAX_CANDIDATES);
        assert_eq!(paths.active(), Some(address(0)));
    }

    #[test]
    fn after_silence_any_answer_takes_over() {
        let mut paths = Paths::default();
        paths.add(address(1));
        paths.add(address(2));
        paths.answered(address(1), millis(1), at(1), &[]);
        paths.silent();
        assert!(paths.answered(address(2), millis(90), at(2), &[]));
    }
}
