//! The task that owns the swarm: commands in, events out.
//!
//! Events that the engine has not fetched yet hold up the network, never the
//! commands: so an engine that is itself busy sending a command cannot lock
//! up with us. A command causes at most one event at once, so what waits here
//! is bounded by what the engine asked for.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use libp2p::PeerId;
use libp2p::core::ConnectedPoint;
use libp2p::core::Transport;
use libp2p::core::transport::{ListenerId, TransportError};
use libp2p::core::upgrade::Version;
use libp2p::gossipsub::{self, IdentTopic, MessageAcceptance};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{self, ConnectionId, NetworkBehaviour, Swarm, SwarmEvent};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::alive::{self, Pace, Sign};
use super::api::{
    Accept, AdmissionEvent, Command, Config, DialError, Error, Event, Limits, MessageId, NodeKey,
    RequestError, ResponseChannel,
};
use super::ask;
use super::failure::{dial_error, failure_text};
use super::gate::{Gate, Replays};
use super::gossip;
use super::hello::Knock;
use super::identity::{from_multiaddr, keypair, node_key, peer_id, to_dial, to_multiaddr};
use super::links::Links;
use super::seats::Seats;
use super::transport::Gated;
use super::upgrade::Upgrades;

/// Events that may wait for the engine before the network is held up.
const WAITING: usize = 64;

/// Between two looks at peers with more than one connection.
const TIDYING: Duration = Duration::from_millis(250);

/// For links to be closed properly on shutdown.
const GOODBYE: Duration = Duration::from_secs(1);

/// What is spoken on an admitted connection. `alive` has to be the first.
#[derive(NetworkBehaviour)]
struct Behaviour {
    alive: alive::Behaviour,
    gossip: gossip::Behaviour,
    ask: ask::Behaviour,
}

/// The owner of everything that happens after admission.
pub(super) struct Service {
    swarm: Swarm<Behaviour>,
    topic: IdentTopic,
    limits: Limits,
    grace: Duration,
    links: Links,
    listeners: Vec<(ListenerId, SocketAddr)>,
    attempts: BTreeMap<ConnectionId, Attempt>,
    asked: BTreeMap<u64, u64>,
    requests: u64,
    tidy: Option<Instant>,
    waiting: VecDeque<Event>,
}

struct Attempt {
    number: u64,
    address: SocketAddr,
    peer: Option<PeerId>,
}

impl Service {
    /// Sets everything up and listens.
    pub(super) fn new(
        config: Config,
        gate: Arc<dyn Gate>,
        admissions: mpsc::Sender<AdmissionEvent>,
        knocks: mpsc::Sender<Knock>,
    ) -> Result<Self, Error> {
        let Config { secret, listen, topic, limits, timing } = config;
        let keypair = keypair(&secret)?;
        let own = PeerId::from_public_key(&keypair.public());
        let own_key = node_key(&own).ok_or_else(|| Error::Setup("no ed25519 key".into()))?;
        let topic = IdentTopic::new(topic);
        let behaviour = Behaviour {
            alive: alive::Behaviour::new(
                Pace { interval: timing.ping_interval, timeout: timing.ping_timeout },
                limits.connections_per_peer,
            ),
            gossip: gossip::subscribed(&topic, &limits)?,
            ask: ask::Behaviour::new(&limits, timing.request),
        };
        let upgrades =
            Upgrades::new(&keypair, Arc::clone(&gate), admissions, limits.clone(), timing.clone())?;
        let transport = Gated::new(
            Arc::new(upgrades),
            gate,
            Replays::new(limits.remembered_greetings),
            Seats::new(&limits),
            timing.clone(),
            knocks,
        );
        let mut service = Self {
            swarm: Swarm::new(
                transport.boxed(),
                behaviour,
                own,
                swarm::Config::with_tokio_executor()
                    .with_substream_upgrade_protocol_override(Version::V1Lazy),
            ),
            topic,
            limits,
            grace: timing.duplicate_grace,
            links: Links::new(own_key, timing.duplicate_grace),
            listeners: Vec::new(),
            attempts: BTreeMap::new(),
            asked: BTreeMap::new(),
            requests: 0,
            tidy: None,
            waiting: VecDeque::new(),
        };
        for address in listen {
            service.listen(address)?;
        }
        Ok(service)
    }

    fn listen(&mut self, address: SocketAddr) -> Result<(), Error> {
        match self.swarm.listen_on(to_multiaddr(address)) {
            Ok(listener) => {
                self.listeners.push((listener, address));
                Ok(())
            }
            Err(TransportError::Other(error)) => {
                Err(Error::Listen { address, reason: failure_text(error) })
            }
            Err(error @ TransportError::MultiaddrNotSupported(_)) => {
                Err(Error::Listen { address, reason: error.to_string() })
            }
        }
    }

    /// Runs until it is told to stop, or nobody is left to tell it anything.
    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<Event>,
    ) {
        loop {
            let tidy = self.tidy.unwrap_or_else(Instant::now);
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Shutdown) | None => break,
                    Some(command) => self.obey(command),
                },
                permit = events.reserve(), if !self.waiting.is_empty() => match permit {
                    Ok(permit) => if let Some(event) = self.waiting.pop_front() {
                        permit.send(event);
                    },
                    Err(_) => break,
                },
                event = self.swarm.select_next_some(), if self.waiting.len() < WAITING => {
                    self.observe(event);
                }
                () = sleep_until(tidy), if self.tidy.is_some() => self.tidy_up(),
            }
        }
        self.say_goodbye().await;
    }

    async fn say_goodbye(mut self) {
        for (listener, _) in &self.listeners {
            self.swarm.remove_listener(*listener);
        }
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            // An error only says that the peer has gone by itself.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let gone = async {
            while self.swarm.network_info().num_peers() > 0 {
                let event = self.swarm.select_next_some().await;
                if let SwarmEvent::ConnectionEstablished { connection_id, .. } = event {
                    self.swarm.close_connection(connection_id);
                }
            }
        };
        if timeout(GOODBYE, gone).await.is_err() {
            tracing::debug!("some control links did not close in time");
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Dial { attempt, peer, address, secret } => {
                self.dial(attempt, peer, address, secret);
            }
            Command::Disconnect(peer) => self.disconnect(peer),
            Command::CheckLinks => {
                for (peer, connection) in self.links.all() {
                    if let Some(name) = peer_id(&peer) {
                        self.swarm.behaviour_mut().alive.probe_at_once(name, connection);
                    }
                }
            }
            Command::Request { id, peer, bytes } => self.request(id, peer, bytes),
            Command::Respond { channel, bytes } => {
                if bytes.len() > self.limits.request {
                    tracing::debug!(bytes = bytes.len(), "a response is too large to be sent");
                } else if channel.0.send(bytes).is_err() {
                    tracing::debug!("a response came too late to be sent");
                }
            }
            Command::Publish(bytes) => self.publish(bytes),
            Command::Verdict { message, accept } => self.judge(&message, accept),
            // Ends the loop before it gets here.
            Command::Shutdown => {}
        }
    }

    fn dial(&mut self, number: u64, peer: Option<NodeKey>, address: SocketAddr, secret: usize) {
        let expected = match peer.map(|key| peer_id(&key).ok_or(key)) {
            None => None,
            Some(Ok(peer)) => Some(peer),
            Some(Err(_)) => {
                return self.waiting.push_back(Event::DialFailed {
                    attempt: number,
                    address,
                    reason: DialError::Protocol("the peer's key is not an ed25519 key".into()),
                });
            }
        };
        let multiaddr = to_dial(address, secret);
        let options = match expected {
            Some(peer) => DialOpts::peer_id(peer)
                .condition(PeerCondition::Always)
                .addresses(vec![multiaddr])
                .build(),
            None => DialOpts::unknown_peer_id().address(multiaddr).build(),
        };
        let attempt = Attempt { number, address, peer: expected };
        let id = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => {
                self.attempts.insert(id, attempt);
            }
            Err(error) => self.dial_failed(&attempt, error),
        }
    }

    fn dial_failed(&mut self, attempt: &Attempt, error: swarm::DialError) {
        self.waiting.push_back(Event::DialFailed {
            attempt: attempt.number,
            address: attempt.address,
            reason: dial_error(attempt.peer, error),
        });
    }

    fn disconnect(&mut self, peer: NodeKey) {
        if self.links.linked(&peer) {
            // What is still being made is not meant.
            for connection in self.links.connections(&peer) {
                self.links.doom(&peer, connection);
                self.swarm.close_connection(connection);
            }
            self.waiting.push_back(Event::LinkDown { peer });
        }
    }

    fn request(&mut self, id: u64, peer: NodeKey, bytes: Vec<u8>) {
        let error = match (peer_id(&peer), self.links.best(&peer)) {
            _ if bytes.len() > self.limits.request => RequestError::Failed(format!(
                "{} bytes are more than the {} allowed",
                bytes.len(),
                self.limits.request
            )),
            (Some(name), Some(connection)) => {
                self.requests += 1;
                self.asked.insert(self.requests, id);
                let number = self.requests;
                let behaviour = self.swarm.behaviour_mut();
                behaviour.alive.wake(name, connection);
                return behaviour.ask.ask(number, name, connection, bytes);
            }
            _ => RequestError::NotLinked,
        };
        self.waiting.push_back(Event::Response { id, result: Err(error) });
    }

    fn publish(&mut self, bytes: Vec<u8>) {
        if bytes.len() > self.limits.gossip {
            tracing::debug!(bytes = bytes.len(), "a message is too large to be published");
            return;
        }
        let topic = self.topic.hash();
        if let Err(error) = self.swarm.behaviour_mut().gossip.publish(topic, bytes) {
            // Nobody to hear it, or heard before: anti-entropy makes up for it.
            tracing::debug!(%error, "a message was not published");
        }
        self.wake_all();
    }

    /// Lets every link look for gossip to send.
    fn wake_all(&mut self) {
        for (peer, connection) in self.links.all_best() {
            if let Some(name) = peer_id(&peer) {
                self.swarm.behaviour_mut().alive.wake(name, connection);
            }
        }
    }

    fn judge(&mut self, message: &MessageId, accept: Accept) {
        let Some(from) = peer_id(&message.from) else {
            return;
        };
        let name = gossipsub::MessageId::from(message.hash.to_vec());
        let acceptance = match accept {
            Accept::Accept => MessageAcceptance::Accept,
            Accept::Ignore => MessageAcceptance::Ignore,
            Accept::Reject => MessageAcceptance::Reject,
        };
        self.swarm
            .behaviour_mut()
            .gossip
            .report_message_validation_result(&name, &from, acceptance);
        if accept == Accept::Accept {
            self.wake_all();
        }
    }

    fn observe(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Alive(seen)) => self.observe_life(seen),
            SwarmEvent::Behaviour(BehaviourEvent::Gossip(event)) => self.observe_gossip(event),
            SwarmEvent::Behaviour(BehaviourEvent::Ask(event)) => self.observe_ask(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.established(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
                tracing::debug!(%peer_id, ?cause, "a control connection was closed");
                if let Some(peer) = node_key(&peer_id)
                    && self.links.closed(&peer, connection_id)
                {
                    self.waiting.push_back(Event::LinkDown { peer });
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                if let Some(attempt) = self.attempts.remove(&connection_id) {
                    self.dial_failed(&attempt, error);
                }
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                tracing::debug!(from = %send_back_addr, ?error, "nobody was let in");
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                if let Some((address, _)) = from_multiaddr(&address) {
                    self.waiting.push_back(Event::Listening(address));
                }
            }
            SwarmEvent::ListenerError { listener_id, error }
            | SwarmEvent::ListenerClosed { listener_id, reason: Err(error), .. } => {
                self.listen_failed(listener_id, error);
            }
            _ => {}
        }
    }

    fn listen_failed(&mut self, listener: ListenerId, error: std::io::Error) {
        let known = self.listeners.iter().find(|(id, _)| *id == listener);
        if let Some((_, address)) = known {
            self.waiting
                .push_back(Event::ListenFailed { address: *address, reason: failure_text(error) });
        }
    }

    fn established(&mut self, name: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        let Some(peer) = node_key(&name) else {
            return;
        };
        let (remote, local, outbound) = match endpoint {
            ConnectedPoint::Dialer { address, .. } => (from_multiaddr(address), None, true),
            ConnectedPoint::Listener { local_addr, send_back_addr } => (
                from_multiaddr(send_back_addr),
                from_multiaddr(local_addr).map(|(address, _)| address),
                false,
            ),
        };
        let now = Instant::now();
        let older = self.links.established(peer, id, outbound, now);
        if let (true, Some((remote, _))) = (older.is_empty(), remote) {
            self.waiting.push_back(Event::LinkUp { peer, remote, local, outbound });
        }
        if !older.is_empty() {
            self.tidy.get_or_insert(now + self.grace);
        }
        for connection in older {
            self.swarm.behaviour_mut().alive.probe(name, connection);
        }
        if let Some(attempt) = self.attempts.remove(&id) {
            self.waiting.push_back(Event::Dialled { attempt: attempt.number, peer });
        }
    }

    fn observe_life(&mut self, seen: alive::Seen) {
        let Some(peer) = node_key(&seen.peer) else {
            return;
        };
        match seen.sign {
            Sign::Alive => self.links.heard(&peer, seen.connection, Instant::now()),
            Sign::Dead => {
                tracing::debug!(peer = %seen.peer, "a control connection went silent");
                if self.links.doom(&peer, seen.connection) {
                    self.waiting.push_back(Event::LinkDown { peer });
                }
                self.swarm.close_connection(seen.connection);
            }
        }
    }

    fn observe_gossip(&mut self, event: gossipsub::Event) {
        let gossipsub::Event::Message { propagation_source, message_id, message } = event else {
            return;
        };
        let (Some(from), Ok(hash)) =
            (node_key(&propagation_source), <[u8; 32]>::try_from(message_id.0.as_slice()))
        else {
            return;
        };
        let message_id = MessageId { hash, from };
        if !self.links.linked(&from) {
            self.judge(&message_id, Accept::Ignore);
        } else if message.data.len() > self.limits.gossip {
            self.judge(&message_id, Accept::Reject);
        } else {
            self.waiting.push_back(Event::Gossip {
                from,
                message: message_id,
                bytes: message.data,
            });
        }
    }

    fn observe_ask(&mut self, event: ask::Event) {
        match event {
            // Dropping the sender of one who was cut off fails the request there.
            ask::Event::Asked { peer, connection, bytes, answer } => {
                if let Some(peer) = node_key(&peer)
                    && self.links.counts(&peer, connection)
                {
                    let channel = ResponseChannel(answer);
                    self.waiting.push_back(Event::Request { peer, bytes, channel });
                }
            }
            ask::Event::Answered { request, result } => {
                if let Some(id) = self.asked.remove(&request) {
                    self.waiting.push_back(Event::Response { id, result });
                }
            }
        }
    }

    /// Closes what is too much between the same two nodes.
    fn tidy_up(&mut self) {
        let now = Instant::now();
        let ask = &self.swarm.behaviour().ask;
        let surplus = self.links.surplus(now, |connection| ask.busy(connection));
        for (peer, connection) in surplus {
            self.links.doom(&peer, connection);
            self.swarm.close_connection(connection);
        }
        self.tidy = self.links.doubled().then(|| now + TIDYING);
    }
}
