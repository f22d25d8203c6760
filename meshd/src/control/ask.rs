//! Requests: one stream each, one frame there and one back.
//!
//! Unlike the library's own request-response, a request goes over the
//! connection that the caller names, never dials, and waits its turn when a
//! link has as many under way as is allowed. Every request ends in exactly
//! one [`Event::Answered`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{AsyncWriteExt, FutureExt, StreamExt};
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
    NetworkBehaviour, NotifyHandler, Stream, StreamUpgradeError, SubstreamProtocol, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::api::{Limits, RequestError};
use super::frames::{read_frame, write_frame};

const PROTOCOL: StreamProtocol = StreamProtocol::new("/epsilon/ask/1");

/// What the caller hears.
#[derive(Debug)]
pub(super) enum Event {
    /// A peer asks. Dropping the sender fails the request there.
    Asked {
        peer: PeerId,
        connection: ConnectionId,
        bytes: Vec<u8>,
        answer: oneshot::Sender<Vec<u8>>,
    },
    /// A request of ours has ended.
    Answered { request: u64, result: Result<Vec<u8>, RequestError> },
}

/// The caps and times of one link.
#[derive(Clone, Copy, Debug)]
struct Terms {
    /// Bytes in a request or an answer.
    most: usize,
    /// Requests under way, in each direction.
    together: usize,
    timeout: Duration,
}

/// Requests over all connections.
pub(super) struct Behaviour {
    terms: Terms,
    connections: BTreeSet<ConnectionId>,
    asked: BTreeMap<u64, ConnectionId>,
    answering: BTreeMap<ConnectionId, usize>,
    out: VecDeque<ToSwarm<Event, Outgoing>>,
}

impl Behaviour {
    pub(super) fn new(limits: &Limits, timeout: Duration) -> Self {
        Self {
            terms: Terms { most: limits.request, together: limits.requests_per_link, timeout },
            connections: BTreeSet::new(),
            asked: BTreeMap::new(),
            answering: BTreeMap::new(),
            out: VecDeque::new(),
        }
    }

    /// Sends a request; its number must be new.
    pub(super) fn ask(
        &mut self,
        request: u64,
        peer: PeerId,
        connection: ConnectionId,
        bytes: Vec<u8>,
    ) {
        if !self.connections.contains(&connection) {
            return self.answered(request, Err(RequestError::LinkLost));
        }
        self.asked.insert(request, connection);
        self.out.push_back(ToSwarm::NotifyHandler {
            peer_id: peer,
            handler: NotifyHandler::One(connection),
            event: Outgoing { request, bytes, until: Instant::now() + self.terms.timeout },
        });
    }

    /// Whether closing this connection would cost an answer.
    pub(super) fn busy(&self, connection: ConnectionId) -> bool {
        self.answering.contains_key(&connection)
            || self.asked.values().any(|asked| *asked == connection)
    }

    fn answered(&mut self, request: u64, result: Result<Vec<u8>, RequestError>) {
        self.out.push_back(ToSwarm::GenerateEvent(Event::Answered { request, result }));
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(self.terms))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(self.terms))
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            FromSwarm::ConnectionEstablished(established) => {
                self.connections.insert(established.connection_id);
            }
            FromSwarm::ConnectionClosed(closed) => {
                let gone = closed.connection_id;
                self.connections.remove(&gone);
                self.answering.remove(&gone);
                let lost = self.asked.extract_if(.., |_, connection| *connection == gone);
                for (request, _) in lost.collect::<Vec<_>>() {
                    self.answered(request, Err(RequestError::LinkLost));
                }
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {
            Done::Asked { bytes, answer } => {
                *self.answering.entry(connection).or_default() += 1;
                let asked = Event::Asked { peer, connection, bytes, answer };
                self.out.push_back(ToSwarm::GenerateEvent(asked));
            }
            Done::Served => {
                if let Some(count) = self.answering.get_mut(&connection) {
                    *count -= 1;
                    if *count == 0 {
                        self.answering.remove(&connection);
                    }
                }
            }
            Done::Answered { request, result } => {
                if self.asked.remove(&request).is_some() {
                    self.answered(request, result);
                }
            }
        }
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        self.out.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

/// A request on its way.
pub(super) struct Outgoing {
    request: u64,
    bytes: Vec<u8>,
    until: Instant,
}

impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outgoing").field("request", &self.request).finish_non_exhaustive()
    }
}

/// What a connection reports.
#[derive(Debug)]
pub(super) enum Done {
    Asked { bytes: Vec<u8>, answer: oneshot::Sender<Vec<u8>> },
    Served,
    Answered { request: u64, result: Result<Vec<u8>, RequestError> },
}

/// Requests over one connection.
pub(super) struct Handler {
    terms: Terms,
    queue: VecDeque<Outgoing>,
    failed: VecDeque<Done>,
    /// Ours that have left the queue.
    asking: usize,
    /// Theirs that are being read, decided or answered.
    serving: usize,
    work: FuturesUnordered<BoxFuture<'static, Work>>,
}

/// The end of a piece of work on a stream.
enum Work {
    /// A request was read; its answer goes back by this stream.
    Read(Stream, Vec<u8>),
    /// Nothing was read that could be called a request.
    Unread,
    /// An answer was sent, or will never be.
    Served,
    /// A request of ours has ended.
    Answered { request: u64, result: Result<Vec<u8>, RequestError> },
}

impl Handler {
    fn new(terms: Terms) -> Self {
        Self {
            terms,
            queue: VecDeque::new(),
            failed: VecDeque::new(),
            asking: 0,
            serving: 0,
            work: FuturesUnordered::new(),
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Outgoing;
    type ToBehaviour = Done;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Outgoing;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ())
    }

    fn on_behaviour_event(&mut self, outgoing: Outgoing) {
        self.queue.push_back(outgoing);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Outgoing, Done>> {
        if let Some(failed) = self.failed.pop_front() {
            self.asking -= 1;
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(failed));
        }
        while let Poll::Ready(Some(work)) = self.work.poll_next_unpin(cx) {
            let done = match work {
                Work::Read(stream, bytes) => {
                    let (answer, answered) = oneshot::channel();
                    self.work.push(serve(stream, answered, self.terms).boxed());
                    Done::Asked { bytes, answer }
                }
                Work::Unread => {
                    self.serving -= 1;
                    continue;
                }
                Work::Served => {
                    self.serving -= 1;
                    Done::Served
                }
                Work::Answered { request, result } => {
                    self.asking -= 1;
                    Done::Answered { request, result }
                }
            };
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(done));
        }
        if self.asking < self.terms.together
            && let Some(outgoing) = self.queue.pop_front()
        {
            self.asking += 1;
            let left = outgoing.until.saturating_duration_since(Instant::now());
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), outgoing)
                    .with_timeout(left),
            });
        }
        Poll::Pending
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<Self::InboundProtocol, Self::OutboundProtocol, (), Outgoing>,
    ) {
        match event {
            // A peer that keeps to the same limit queues at its own end.
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol, ..
            }) if self.serving < self.terms.together => {
                self.serving += 1;
                self.work.push(read(protocol, self.terms).boxed());
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol,
                info,
            }) => self.work.push(ask(protocol, info, self.terms.most).boxed()),
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                let error = match error {
                    StreamUpgradeError::Timeout => RequestError::TimedOut,
                    StreamUpgradeError::NegotiationFailed => {
                        RequestError::Failed("the peer takes no requests".into())
                    }
                    StreamUpgradeError::Io(error) => failed(&error),
                };
                let result = Err(error);
                self.failed.push_back(Done::Answered { request: info.request, result });
            }
            _ => {}
        }
    }
}

async fn ask(mut stream: Stream, outgoing: Outgoing, most: usize) -> Work {
    let Outgoing { request, bytes, until } = outgoing;
    let exchange = async {
        write_frame(&mut stream, &bytes, most).await?;
        stream.close().await?;
        Ok::<_, io::Error>(read_frame(&mut stream, most).await?)
    };
    let result = match timeout_at(until, exchange).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(failed(&error)),
        Err(_) => Err(RequestError::TimedOut),
    };
    Work::Answered { request, result }
}

async fn read(mut stream: Stream, terms: Terms) -> Work {
    let until = Instant::now() + terms.timeout;
    match timeout_at(until, read_frame(&mut stream, terms.most)).await {
        Ok(Ok(bytes)) => Work::Read(stream, bytes),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a request could not be read");
            Work::Unread
        }
        Err(_) => Work::Unread,
    }
}

async fn serve(mut stream: Stream, answer: oneshot::Receiver<Vec<u8>>, terms: Terms) -> Work {
    let until = Instant::now() + terms.timeout;
    let exchange = async {
        if let Ok(bytes) = answer.await {
            write_frame(&mut stream, &bytes, terms.most).await?;
        }
        stream.close().await
    };
    if let Ok(Err(error)) = timeout_at(until, exchange).await {
        tracing::debug!(%error, "an answer could not be sent");
    }
    Work::Served
}

fn failed(error: &io::Error) -> RequestError {
    RequestError::Failed(match error.kind() {
        io::ErrorKind::UnexpectedEof => "the peer gave no answer".into(),
        _ => error.to_string(),
    })
}
