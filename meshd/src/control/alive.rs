//! Liveness: whether the other end of a connection is still there.
//!
//! Whoever has heard nothing for an interval, or has just sent something, sends eight
//! bytes and wants them back in time. Being asked is as good a sign of life as an answer, and the
//! side that was dialled waits a quarter longer before it asks itself: so on a
//! healthy connection only one side asks, and an idle link costs one small
//! exchange per interval.
//!
//! The behaviour also caps the connections per peer. It has to come first in
//! the composed behaviour: others keep a record of a connection that a later
//! one denies.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{AsyncReadExt, AsyncWriteExt, FutureExt};
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
    NetworkBehaviour, NotifyHandler, Stream, SubstreamProtocol, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use tokio::time::{Instant, Sleep, sleep_until};

const PROTOCOL: StreamProtocol = StreamProtocol::new("/epsilon/alive/1");

/// Twice the longest round trip that there is, by way of a satellite.
const AT_ONCE: Duration = Duration::from_millis(1200);

/// How long after something was sent a sign of life is asked for, unless one comes.
const SENT: Duration = Duration::from_secs(3);

/// Bytes in a probe and in its answer.
const PROBE: usize = 8;

/// What is found out about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// The peer has just answered or asked.
    Alive,
    /// The peer has been silent for too long: to be closed.
    Dead,
}

/// A [`Sign`] and where it was seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) peer: PeerId,
    pub(super) connection: ConnectionId,
    pub(super) sign: Sign,
}

/// What a connection is told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Told {
    /// Ask for a sign of life now, to come within the duration.
    Probe(Duration),
    /// Something may be sent: every protocol on the connection looks after its work.
    Wake,
}

/// The periods of the probes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) interval: Duration,
    pub(super) timeout: Duration,
}

/// Liveness of all connections.
pub(super) struct Behaviour {
    pace: Pace,
    per_peer: usize,
    connections: BTreeMap<PeerId, BTreeSet<ConnectionId>>,
    out: VecDeque<ToSwarm<Seen, Told>>,
}

impl Behaviour {
    pub(super) fn new(pace: Pace, per_peer: usize) -> Self {
        Self { pace, per_peer, connections: BTreeMap::new(), out: VecDeque::new() }
    }

    /// Finds out soon whether a connection is alive.
    pub(super) fn probe(&mut self, peer: PeerId, connection: ConnectionId) {
        self.tell(peer, connection, Told::Probe(self.pace.timeout / 4));
    }

    /// The same where an answer may be expected at once.
    pub(super) fn probe_at_once(&mut self, peer: PeerId, connection: ConnectionId) {
        self.tell(peer, connection, Told::Probe(self.pace.timeout.min(AT_ONCE)));
    }

    /// Wakes the task of a connection.
    ///
    /// gossipsub 0.50 keeps one queue for all connections with a peer. Who
    /// has found the queue empty before its own stream was open waits for
    /// nothing (`EnabledHandler::poll`), so what is queued once the first
    /// connection has gone would lie until something else stirs the last.
    pub(super) fn wake(&mut self, peer: PeerId, connection: ConnectionId) {
        self.tell(peer, connection, Told::Wake);
    }

    fn tell(&mut self, peer_id: PeerId, connection: ConnectionId, event: Told) {
        let handler = NotifyHandler::One(connection);
        self.out.push_back(ToSwarm::NotifyHandler { peer_id, handler, event });
    }

    fn admit(&self, peer: &PeerId, pace: Pace) -> Result<Handler, ConnectionDenied> {
        match self.connections.get(peer) {
            Some(connections) if connections.len() >= self.per_peer => {
                Err(ConnectionDenied::new(TooMany))
            }
            _ => Ok(Handler::new(pace)),
        }
    }
}

/// The cap on connections per peer is reached.
#[derive(Debug, thiserror::Error)]
#[error("there are too many connections to this peer already")]
pub(super) struct TooMany;

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Seen;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let interval = self.pace.interval * 5 / 4;
        self.admit(&peer, Pace { interval, ..self.pace })
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.admit(&peer, self.pace)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            FromSwarm::ConnectionEstablished(established) => {
                self.connections
                    .entry(established.peer_id)
                    .or_default()
                    .insert(established.connection_id);
            }
            FromSwarm::ConnectionClosed(closed) => {
                if let Some(connections) = self.connections.get_mut(&closed.peer_id) {
                    connections.remove(&closed.connection_id);
                    if connections.is_empty() {
                        self.connections.remove(&closed.peer_id);
                    }
                }
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        sign: THandlerOutEvent<Self>,
    ) {
        self.out.push_back(ToSwarm::GenerateEvent(Seen { peer, connection, sign }));
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Seen, THandlerInEvent<Self>>> {
        self.out.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

/// Liveness of one connection.
pub(super) struct Handler {
    pace: Pace,
    asking: Asking,
    answering: Option<BoxFuture<'static, io::Result<Stream>>>,
    /// When to ask next, unless something is heard before.
    next: Instant,
    /// By when the peer has to be heard; `None` while nothing is asked.
    due: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    dead: bool,
}

/// Our own stream for probes, opened with the first one.
enum Asking {
    Closed,
    Opening,
    Idle(Stream),
    Waiting(BoxFuture<'static, io::Result<Stream>>),
}

impl Handler {
    fn new(pace: Pace) -> Self {
        let next = Instant::now() + pace.interval;
        Self {
            pace,
            asking: Asking::Closed,
            answering: None,
            next,
            due: None,
            timer: Box::pin(sleep_until(next)),
            dead: false,
        }
    }

    fn heard(&mut self) -> ConnectionHandlerEvent<ReadyUpgrade<StreamProtocol>, (), Sign> {
        self.next = Instant::now() + self.pace.interval;
        self.due = None;
        ConnectionHandlerEvent::NotifyBehaviour(Sign::Alive)
    }

    fn died(&mut self) -> ConnectionHandlerEvent<ReadyUpgrade<StreamProtocol>, (), Sign> {
        self.dead = true;
        ConnectionHandlerEvent::NotifyBehaviour(Sign::Dead)
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Told;
    type ToBehaviour = Sign;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ())
    }

    /// Links are meant to last.
    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn on_behaviour_event(&mut self, told: Told) {
        match told {
            Told::Probe(within) => {
                let due = Instant::now() + within;
                self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
            }
            // As long as something is not acknowledged, the kernel waits for that alone.
            Told::Wake => self.next = self.next.min(Instant::now() + SENT),
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Sign>> {
        if self.dead {
            return Poll::Pending;
        }
        if let Some(answering) = &mut self.answering
            && let Poll::Ready(answered) = answering.poll_unpin(cx)
        {
            // A broken stream of the peer's is the peer's to open again.
            self.answering = answered.ok().map(|stream| answer(stream).boxed());
            if self.answering.is_some() {
                return Poll::Ready(self.heard());
            }
        }
        loop {
            if let Asking::Waiting(asking) = &mut self.asking
                && let Poll::Ready(asked) = asking.poll_unpin(cx)
            {
                let Ok(stream) = asked else {
                    return Poll::Ready(self.died());
                };
                self.asking = Asking::Idle(stream);
                return Poll::Ready(self.heard());
            }
            let now = Instant::now();
            if self.due.is_none() && now >= self.next {
                self.due = Some(now + self.pace.timeout);
            }
            if self.due.is_some_and(|due| now >= due) {
                return Poll::Ready(self.died());
            }
            if self.due.is_some() {
                match std::mem::replace(&mut self.asking, Asking::Opening) {
                    Asking::Closed => {
                        return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                            protocol: SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ())
                                .with_timeout(self.pace.timeout),
                        });
                    }
                    Asking::Idle(stream) => {
                        self.asking = Asking::Waiting(ask(stream).boxed());
                        continue;
                    }
                    busy @ (Asking::Opening | Asking::Waiting(_)) => self.asking = busy,
                }
            }
            let next = self.due.unwrap_or(self.next);
            if self.timer.deadline() != next {
                self.timer.as_mut().reset(next);
            }
            if self.timer.poll_unpin(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<Self::InboundProtocol, Self::OutboundProtocol>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol, ..
            }) => self.answering = Some(answer(protocol).boxed()),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol, ..
            }) => self.asking = Asking::Waiting(ask(protocol).boxed()),
            ConnectionEvent::DialUpgradeError(_) => {
                // Whoever cannot be asked is not alive to us: due at once.
                self.due = Some(Instant::now());
            }
            _ => {}
        }
    }
}

/// Sends a probe and waits for its echo.
async fn ask(mut stream: Stream) -> io::Result<Stream> {
    let probe = [0; PROBE];
    let mut echo = [0xff; PROBE];
    stream.write_all(&probe).await?;
    stream.flush().await?;
    stream.read_exact(&mut echo).await?;
    if echo == probe { Ok(stream) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Waits for a probe and echoes it.
async fn answer(mut stream: Stream) -> io::Result<Stream> {
    let mut probe = [0; PROBE];
    stream.read_exact(&mut probe).await?;
    stream.write_all(&probe).await?;
    stream.flush().await?;
    Ok(stream)
}
