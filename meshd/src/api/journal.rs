use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use epsilon_proto::api::{Event, EventKind, NodeRef, Severity, Time};
use tokio::sync::broadcast;

/// How many events are kept, and how far a reader may fall behind.
const KEPT: usize = 1024;

/// An event without its number, which the journal gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When it happened.
    pub at: Time,
    /// What it is about.
    pub kind: EventKind,
    /// How much it matters.
    pub severity: Severity,
    /// The network, if it is about one.
    pub network: Option<String>,
    /// The node, if it is about one.
    pub node: Option<NodeRef>,
    /// What happened, to what.
    pub message: String,
    /// The next step, where there is one.
    pub hint: Option<String>,
}

/// The newest 1024 events since the daemon started, and whoever follows them.
///
/// Writing never waits: a follower that falls more than 1024 events behind
/// loses the oldest ones and is told so.
#[derive(Debug, Clone)]
pub struct Journal {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    last: u64,
    kept: VecDeque<Event>,
    followers: broadcast::Sender<Event>,
}

impl Journal {
    /// An empty journal.
    pub fn new() -> Self {
        let (followers, _) = broadcast::channel(KEPT);
        Self { shared: Arc::new(Mutex::new(Shared { last: 0, kept: VecDeque::new(), followers })) }
    }

    /// Numbers `entry`, keeps it and hands it to every follower.
    pub fn record(&self, entry: Entry) -> Event {
        let mut shared = self.lock();
        shared.last += 1;
        let event = Event {
            sequence: shared.last,
            at: entry.at,
            kind: entry.kind,
            severity: entry.severity,
            network: entry.network,
            node: entry.node,
            message: entry.message,
            hint: entry.hint,
        };
        if shared.kept.len() == KEPT {
            shared.kept.pop_front();
        }
        shared.kept.push_back(event.clone());
        // An error only says that nobody follows.
        let _ = shared.followers.send(event.clone());
        event
    }

    /// What is kept, oldest first, and everything that comes after it.
    pub fn follow(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let shared = self.lock();
        (shared.kept.iter().cloned().collect(), shared.followers.subscribe())
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Journal {
    fn default() -> Self {
        Self::new()
    }
}
