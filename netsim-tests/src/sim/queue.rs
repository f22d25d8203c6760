//! Virtual time.

use std::collections::BTreeMap;
use std::time::Duration;

/// What happens when: by time, then in the order in which it was scheduled.
pub(crate) struct Queue<E> {
    events: BTreeMap<(Duration, u64), E>,
    scheduled: u64,
    now: Duration,
}

impl<E> Queue<E> {
    pub(crate) fn new() -> Self {
        Self { events: BTreeMap::new(), scheduled: 0, now: Duration::ZERO }
    }

    pub(crate) fn now(&self) -> Duration {
        self.now
    }

    pub(crate) fn at(&mut self, time: Duration, event: E) {
        self.scheduled += 1;
        self.events.insert((time.max(self.now), self.scheduled), event);
    }

    pub(crate) fn after(&mut self, delay: Duration, event: E) {
        self.at(self.now + delay, event);
    }

    /// The next event not later than `until`; time goes on to it, or to
    /// `until` when there is none.
    pub(crate) fn next(&mut self, until: Duration) -> Option<E> {
        match self.events.first_key_value() {
            Some(((time, _), _)) if *time <= until => {
                self.now = *time;
                self.events.pop_first().map(|(_, event)| event)
            }
            _ => {
                self.now = self.now.max(until);
                None
            }
        }
    }
}
