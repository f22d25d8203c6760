//! The control plane: authenticated links between members, and nothing decided.
//!
//! Everything that nodes tell each other about the fleet travels over TCP
//! links that this module makes, watches and ends. What travels is opaque
//! here; what it means, who may be a member and whom to dial is the engine's
//! to say.
//!
//! ```text
//!            Command ───────────►┌─────────┐
//!   engine ◄─────────── Event    │ service │── links, requests, gossip
//!      ▲                         └────┬────┘
//!      └── AdmissionEvent ◄── upgrade │        TCP ─ gate ─ Noise ─ admission ─ yamux
//! ```
//!
//! Promises:
//!
//! * A stranger learns nothing and costs little: until a greeting has opened
//!   the [`Gate`], not one byte is sent, and connections on their way to being
//!   admitted are capped ([`Limits`]).
//! * [`Event::LinkUp`] means admitted by both sides: the exchange that the
//!   engine drives ends inside the upgrade, so a refused peer is never linked,
//!   and learns why.
//! * Per peer `LinkUp` and `LinkDown` alternate, whatever number of
//!   connections carries the link; two nodes that dial each other at once end
//!   up with one connection and see no flap.
//! * The death of a peer's process is seen at once, that of its host within
//!   [`Timing::silence`], and a process that stands still within one and a quarter
//!   [`Timing::ping_interval`] + [`Timing::ping_timeout`].
//! * Every dial and every request is answered by exactly one event, except
//!   when the control plane stops first.
//! * Queues are bounded. When the engine lags, the network waits; commands are
//!   always taken. A command causes at most one event, so the engine itself
//!   bounds what its commands pile up.

mod admission;
mod alive;
mod api;
mod ask;
mod door;
mod failure;
mod frames;
mod gate;
mod gossip;
mod hello;
mod identity;
mod links;
mod seats;
mod service;
mod transport;
mod upgrade;

use std::sync::Arc;

use tokio::sync::mpsc;

pub use api::{
    Accept, AdmissionEvent, AdmissionStep, Command, Config, DialError, Error, Event, Limits,
    MessageId, NodeKey, Refusal, RequestError, ResponseChannel, Stopped, Timing,
};
pub use gate::{GREETING, Gate, Lane};
pub use hello::Knock;
pub(crate) use seats::Origin;
pub(crate) use upgrade::connect;

/// Commands and events that may be on their way.
const QUEUE: usize = 256;

/// The engine's end of the control plane. It stops when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
}

impl Handle {
    /// Hands over a command; waits while there are many on their way already.
    pub async fn send(&self, command: Command) -> Result<(), Stopped> {
        self.commands.send(command).await.map_err(|_| Stopped)
    }

    /// Hands over a command if that is possible at once, else gives it back.
    pub fn try_send(&self, command: Command) -> Result<(), mpsc::error::TrySendError<Command>> {
        self.commands.try_send(command)
    }
}

/// Listens, and starts the task that runs the control plane.
///
/// Who opens the gate by TLS's first message is handed on by `knocks`.
///
/// It stops on [`Command::Shutdown`], or when the handles or the receiver of
/// events are dropped; then the channel of events ends.
pub fn start(
    config: Config,
    gate: Arc<dyn Gate>,
    admissions: mpsc::Sender<AdmissionEvent>,
    knocks: mpsc::Sender<Knock>,
) -> Result<(Handle, mpsc::Receiver<Event>), Error> {
    let runtime = tokio::runtime::Handle::try_current().map_err(|_| Error::NoRuntime)?;
    let _entered = runtime.enter();
    let service = service::Service::new(config, gate, admissions, knocks)?;
    let (commands, orders) = mpsc::channel(QUEUE);
    let (reports, events) = mpsc::channel(QUEUE);
    runtime.spawn(service.run(orders, reports));
    Ok((Handle { commands }, events))
}
