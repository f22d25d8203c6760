//! Ports of the router at home, asked for by PCP, NAT-PMP or UPnP, so that others reach
//! this node behind its NAT.
//!
//! ```text
//!  where this host is ─┐            ┌─► the router: requests, removals at the end
//!  doubts ─────────────┼─► the plan ┤
//!  answers, time ──────┘            └─► State: the engine's endpoints, and for people
//! ```
//!
//! What was asked for is removed when this ends, as far as the router answers in time.

mod place;
mod plan;
mod router;

use std::time::Duration;

use futures::future::join_all;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::clock;
use plan::Plan;
use router::Router;

pub(super) use place::{WayOut, place};
pub(super) use plan::Place;
pub use plan::{Protocol, State};

/// For the router to remove what there is.
const FAREWELL: Duration = Duration::from_secs(2);

/// What the plan has to know of where this host is.
#[derive(Debug, Clone, Default)]
struct Around {
    place: Option<Place>,
    moves: u64,
    doubts: u64,
}

/// The ports of the router that lead to one port of this node.
pub(super) struct PortMapping {
    around: watch::Sender<Around>,
    state: watch::Receiver<State>,
    task: JoinHandle<()>,
}

impl PortMapping {
    /// For a port, UDP and TCP; `secret` is nobody else's, and the same in every run.
    pub(super) fn start(port: u16, secret: [u8; 32]) -> Self {
        let (around, look) = watch::channel(Around::default());
        let (tell, state) = watch::channel(State::default());
        let task = tokio::spawn(run(Plan::new(port, secret), look, tell));
        Self { around, state, task }
    }

    /// Where this host is now, and whether it was cut off meanwhile.
    pub(super) fn set_place(&self, place: Option<Place>, has_moved: bool) {
        self.around.send_modify(|around| {
            around.place = place;
            around.moves += u64::from(has_moved);
        });
    }

    /// A NAT may have forgotten this node.
    pub(super) fn doubt(&self) {
        self.around.send_modify(|around| around.doubts += 1);
    }

    /// What there is now.
    pub(super) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Removes everything, within [`FAREWELL`].
    pub(super) async fn stop(self) {
        drop(self.around);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "ports of the router were not removed");
        }
    }
}

/// Waits until the ports are others. May be cancelled without losing that.
pub(super) async fn changed(port_mapping: &mut Option<PortMapping>) -> State {
    if let Some(PortMapping { state, .. }) = port_mapping
        && state.changed().await.is_ok()
    {
        return state.borrow_and_update().clone();
    }
    // Nothing ever changes.
    std::future::pending().await
}

async fn run(mut plan: Plan, mut around: watch::Receiver<Around>, tell: watch::Sender<State>) {
    let mut router = Router::default();
    let mut known = Around::default();
    loop {
        let now = clock::instant();
        plan.handle_timeout(now);
        let request = plan.next_request(now);
        tell_change(&tell, plan.state(), plan.is_asking());
        if let Some(request) = request {
            let answer = tokio::select! {
                answer = router.map(&request) => answer,
                () = ended(&around) => break,
            };
            tracing::debug!(?request, ?answer, "the router was asked");
            plan.handle_answer(answer, clock::instant());
        } else {
            let due = plan.due().map(clock::deadline);
            let changed = tokio::select! {
                changed = around.changed() => changed,
                () = tokio::time::sleep_until(due.unwrap_or_else(tokio::time::Instant::now)),
                    if due.is_some() => Ok(()),
            };
            if changed.is_err() {
                break;
            }
        }
        let seen = around.borrow_and_update().clone();
        let now = clock::instant();
        plan.handle_place(seen.place, seen.moves != known.moves, now);
        if seen.doubts != known.doubts {
            plan.handle_doubt(now);
        }
        known = seen;
    }
    let removals = plan.removals();
    let removed = join_all(removals.iter().map(|request| router.remove(request)));
    let Ok(removed) = tokio::time::timeout(FAREWELL, removed).await else {
        tracing::warn!("the router does not answer, and keeps ports until their leases end");
        return;
    };
    for reason in removed.into_iter().filter_map(Result::err) {
        tracing::warn!(%reason, "the router keeps a port until its lease ends");
    }
}

/// Ends when nobody is left who would say where this host is.
async fn ended(around: &watch::Receiver<Around>) {
    let mut around = around.clone();
    while around.changed().await.is_ok() {}
}

/// Tells what there is: what is lost at once, what is found once all is.
fn tell_change(tell: &watch::Sender<State>, state: State, is_asking: bool) {
    let is_news = tell.send_if_modified(|told| {
        let is_lost = |before: Option<_>, now| before.is_some() && before != now;
        let is_less = is_lost(told.udp, state.udp) || is_lost(told.tcp, state.tcp);
        let is_news = *told != state && (is_less || !is_asking);
        if is_news {
            told.clone_from(&state);
        }
        is_news
    });
    if is_news {
        let State { router, protocol, udp, tcp, problem } = state;
        tracing::info!(?router, ?protocol, ?udp, ?tcp, ?problem, "ports of the router");
    }
}
