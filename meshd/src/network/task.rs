//! The task of one network: see the folder's front page.

mod orders;
mod outputs;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use epsilon_mesh::control::{
    AdmissionInput, Config as EngineConfig, Control, ExchangeId, OperationError, OperationId,
    Outcome, Ticket,
};
use epsilon_mesh::shard::{self, AdmitAll, Lane, Report, Shard, WireGuard};
use epsilon_proto::address::{DEFAULT_MTU, Ipv6Range};
use epsilon_proto::clock::{Instant, Timestamp};
use epsilon_proto::id::{BootId, Digest, NetworkId, NodeId};
use epsilon_proto::key::{SecretKey, Strict};
use epsilon_proto::message::Refusal;
use epsilon_proto::name::{NetworkName, NodeName};
use epsilon_sys::netlink::Netlink;
use tokio::sync::{mpsc, oneshot};

use super::discovery::Discovery;
use super::gate::Secrets;
use super::interface::{Interface, is_mesh, is_mesh_name};
use super::join::{JoinError, Joined, Watch};
use super::names::Names;
use super::portmap::{self, PortMapping};
use super::provisional;
use super::routing::Routing;
use super::surroundings::{Seen, Surroundings};
use super::{Config, Error, IDENTITY_FILE, Order, Pong};
use crate::control::{self as plane, AdmissionEvent, AdmissionStep};
use crate::data::{self, Sockets, Tun};
use crate::store::{FILE, Store, Writer};
use crate::stream::{self, Streams};
use crate::{clock, random};

/// Admissions, and answers of the store, that may wait.
const QUEUE: usize = 256;

struct Waiting {
    operations: BTreeMap<OperationId, oneshot::Sender<Result<Outcome, OperationError>>>,
    pings: BTreeMap<u64, (oneshot::Sender<Option<Pong>>, shard::Path, Instant)>,
    joins: Vec<oneshot::Sender<Result<Joined, JoinError>>>,
    admissions: HashMap<ExchangeId, oneshot::Sender<AdmissionStep>>,
}

pub(super) struct Task {
    config: Config,
    name: NetworkName,
    engine: Control,
    writer: Writer,
    persisted: mpsc::Receiver<(Ticket, Result<(), String>)>,
    control: plane::Handle,
    control_events: mpsc::Receiver<plane::Event>,
    admissions: mpsc::Receiver<AdmissionEvent>,
    data: data::Handle,
    reports: mpsc::Receiver<Report>,
    streams: Streams,
    gate: Arc<Secrets>,
    netlink: Netlink,
    surroundings: Surroundings,
    interface: Interface,
    routing: Routing,
    discovery: Option<Discovery>,
    port_mapping: Option<PortMapping>,
    names: Names,
    watch: Watch,
    waiting: Waiting,
    failed_calls: BTreeMap<SocketAddr, String>,
    refusal: Option<Refusal>,
    started: Timestamp,
    /// The state on disk does not count yet.
    provisional: bool,
}

impl Task {
    pub(super) async fn new(config: Config) -> Result<Self, Error> {
        let now = clock::now();
        let key = read_identity(&config.dir)?;
        let (store, saved) = Store::open(&config.dir.join(FILE))?;
        let settings = saved.settings.clone();
        let id = NetworkId::from(saved.network.signer());
        let engine = Control::new(
            EngineConfig {
                key: key.clone(),
                boot: BootId(random::bytes()),
                hostname: hostname(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                check: Box::new(Strict),
                relaying: config.relaying,
                tcp_port: config.tcp_port,
            },
            saved,
            random::bytes(),
            now,
        )?;
        let network = engine.network().clone();
        let (done, persisted) = mpsc::channel(QUEUE);
        let writer = store.start(network.name.as_str(), move |ticket, result| {
            // The task that would hear it has ended.
            let _ = done.blocking_send((ticket, result));
        })?;

        let netlink = Netlink::open()?;
        let surroundings = Surroundings::new(netlink.clone())?;
        // Whoever has the port has the network: an interface with several queues
        // would let another daemon in.
        let mut sockets = Sockets::open(settings.port, config.lanes)?;
        let mut tuns = Tun::open(&settings.interface, DEFAULT_MTU, config.lanes)?;
        if tuns.len() < usize::from(config.lanes) && is_mesh_name(&settings.interface) {
            // A run with one thread left it: it has one queue for good.
            drop(tuns);
            netlink.delete_link(&settings.interface).await?;
            tuns = Tun::open(&settings.interface, DEFAULT_MTU, config.lanes)?;
        }
        let interface =
            Interface::new(settings.interface.clone(), network.range, Ipv6Range::of(id));
        interface.bring_up(&netlink).await?;
        let lanes = Lane::all(tuns.len() as u8);
        sockets.truncate(tuns.len());
        let discovery = match sockets.first() {
            Some(first) if config.multicast => {
                Some(Discovery::new(first.try_clone().map_err(Error::Discovery)?))
            }
            _ => None,
        };
        let seed = u64::from_le_bytes(random::bytes());
        let shards = lanes.map(|lane| {
            Shard::new(shard::Config {
                lane,
                wireguard: WireGuard::new(&key, random::entropy(), clock::since_1970()),
                filter: Box::new(AdmitAll),
                seed,
            })
        });
        let lanes = shards.zip(tuns).zip(sockets);
        let lanes = lanes.map(|((shard, tun), sockets)| data::LaneConfig { shard, tun, sockets });
        let started = data::start(lanes.collect())?;

        let gate = Arc::new(Secrets::new(id));
        let tcp_port = config.tcp_port.filter(|port| *port != settings.port);
        let (admission_sender, admissions) = mpsc::channel(QUEUE);
        let (knock_sender, knocks) = mpsc::channel(QUEUE);
        let streams = Streams::start(gate.clone(), started.streams, knocks)?;
        let (control, control_events) = plane::start(
            plane::Config {
                secret: key.seed(),
                listen: std::iter::once(settings.port)
                    .chain(tcp_port)
                    .map(|port| SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port)))
                    .collect(),
                topic: format!("epsilon/1/{id}"),
                limits: plane::Limits::default(),
                timing: plane::Timing::default(),
            },
            gate.clone(),
            admission_sender,
            knock_sender,
        )?;
        let port_mapping = config.port_mapping.then(|| {
            let secret = Digest::of_parts("epsilon/1 secret for a router", &[&*key.seed()]);
            PortMapping::start(settings.port, secret.0)
        });
        let watch =
            if config.founding { Watch::founder(now.instant) } else { Watch::new(now.instant) };
        let provisional = provisional::marked(&config.dir).is_some();
        let mut task = Self {
            name: network.name.clone(),
            config,
            engine,
            writer,
            persisted,
            control,
            control_events,
            admissions,
            data: started.handle,
            reports: started.reports,
            streams,
            gate,
            netlink,
            surroundings,
            routing: Routing::new(&interface.name),
            interface,
            discovery,
            port_mapping,
            names: Names::new(),
            watch,
            waiting: Waiting {
                operations: BTreeMap::new(),
                pings: BTreeMap::new(),
                joins: Vec::new(),
                admissions: HashMap::new(),
            },
            failed_calls: BTreeMap::new(),
            refusal: None,
            started: now.wall,
            provisional,
        };
        task.look_around().await?;
        task.tell_addresses();
        task.carry_out().await?;
        Ok(task)
    }

    pub(super) fn name(&self) -> &NetworkName {
        &self.name
    }

    pub(super) fn interface(&self) -> &str {
        &self.interface.name
    }

    /// Serves the network until it is told to stop.
    pub(super) async fn run(mut self, mut orders: mpsc::Receiver<Order>) -> Result<(), Error> {
        let result = loop {
            let timer = self.next_timer();
            let ended = tokio::select! {
                Some(event) = self.admissions.recv() => {
                    self.admission(event);
                    Ok(())
                }
                event = self.control_events.recv() => match event {
                    Some(event) => self.control_event(event).await,
                    None => Err(self.ended("control plane", "it stopped")),
                },
                report = self.reports.recv() => match report {
                    Some(report) => {
                        self.engine.handle_report(report, clock::now());
                        Ok(())
                    }
                    None => Err(self.ended("data plane", "its thread ended")),
                },
                Some(event) = self.streams.event() => {
                    self.stream_event(event);
                    Ok(())
                }
                Some((ticket, result)) = self.persisted.recv() => {
                    self.engine.handle_persisted(ticket, result, clock::now());
                    Ok(())
                }
                changed = self.surroundings.changed() => changed.map_err(Error::from),
                state = portmap::changed(&mut self.port_mapping) => {
                    self.engine.handle_mapped_endpoints(state.endpoints(), clock::now());
                    Ok(())
                }
                found = self.names.answered() => {
                    self.names.learn(found);
                    self.tell_addresses();
                    Ok(())
                }
                order = orders.recv() => match order {
                    Some(Order::Stop) | None => break Ok(()),
                    Some(order) => {
                        self.order(order);
                        Ok(())
                    }
                },
                () = tokio::time::sleep_until(timer) => self.timers().await,
            };
            let carried = match ended {
                Ok(()) => self.carry_out().await,
                Err(error) => Err(error),
            };
            if let Err(error) = carried {
                break Err(error);
            }
        };
        self.shut_down(result).await
    }

    async fn shut_down(mut self, result: Result<(), Error>) -> Result<(), Error> {
        self.routing.stand_by(&self.netlink).await;
        let unmapped = async {
            if let Some(port_mapping) = self.port_mapping {
                port_mapping.stop().await;
            }
        };
        let stopped = async {
            // It may have stopped by itself.
            let _ = self.control.send(plane::Command::Shutdown).await;
            let mut events = self.control_events;
            while events.recv().await.is_some() {}
            self.data.stop().await
        };
        let ((), stopped) = tokio::join!(unmapped, stopped);
        // Waits until everything is written.
        let writer = self.writer;
        drop(self.persisted);
        if tokio::task::spawn_blocking(move || drop(writer)).await.is_err() {
            tracing::error!(network = %self.name, "the store was not closed cleanly");
        }
        result.and(stopped.map_err(Error::from))
    }

    fn ended(&self, part: &'static str, reason: &str) -> Error {
        Error::Ended { part, network: self.name.clone(), reason: reason.to_owned() }
    }

    fn next_timer(&self) -> tokio::time::Instant {
        let now = clock::now().instant;
        let engine = self.engine.poll_timeout(now).map(clock::deadline);
        let joins = self.watch.due(now).filter(|_| !self.waiting.joins.is_empty());
        let joins = joins.map(clock::deadline);
        let pings = self.waiting.pings.values().map(|(_, _, until)| clock::deadline(*until)).min();
        [engine, joins, pings, self.surroundings.due()]
            .into_iter()
            .flatten()
            .fold(self.names.due(), tokio::time::Instant::min)
    }

    async fn timers(&mut self) -> Result<(), Error> {
        let now = clock::now();
        self.engine.handle_timeout(now);
        if self.surroundings.is_due() {
            self.look_around().await?;
        }
        if self.names.due() <= tokio::time::Instant::now() {
            let settings = self.engine.settings();
            self.names.look_up(settings.token_addresses.iter().chain(&settings.advertise));
            self.interface.repair(&self.netlink).await;
            self.routing.repair(&self.netlink).await;
        }
        let late: Vec<u64> = self
            .waiting
            .pings
            .iter()
            .filter(|(_, (_, _, until))| *until <= now.instant)
            .map(|(transaction, _)| *transaction)
            .collect();
        for transaction in late {
            if let Some((reply, to, _)) = self.waiting.pings.remove(&transaction) {
                // Whoever asked may have gone.
                let _ = reply.send(Some(Pong { to, rtt: None }));
            }
        }
        Ok(())
    }

    fn admission(&mut self, event: AdmissionEvent) {
        let now = clock::now();
        match event {
            AdmissionEvent::Begin { exchange, peer, remote, outbound, lane: _, reply } => {
                self.waiting.admissions.insert(exchange, reply);
                let input = AdmissionInput::Begin { node: NodeId(peer), remote, outbound };
                self.engine.handle_admission(exchange, input, now);
            }
            AdmissionEvent::Frame { exchange, bytes, reply } => {
                self.waiting.admissions.insert(exchange, reply);
                self.engine.handle_admission(exchange, AdmissionInput::Frame(bytes), now);
            }
            AdmissionEvent::Ended { exchange } => {
                self.waiting.admissions.remove(&exchange);
                self.engine.handle_admission(exchange, AdmissionInput::Ended, now);
            }
        }
    }

    async fn control_event(&mut self, event: plane::Event) -> Result<(), Error> {
        let now = clock::now();
        match event {
            plane::Event::Listening(address) => {
                tracing::info!(network = %self.name, %address, "listening");
            }
            plane::Event::ListenFailed { address, reason } => {
                tracing::warn!(network = %self.name, %address, reason, "not listening");
            }
            plane::Event::LinkUp { peer, remote, outbound, .. } => {
                self.keep_state();
                self.failed_calls.clear();
                self.refusal = None;
                self.watch.link_up(now.instant);
                self.engine.handle_link_up(NodeId(peer), remote, outbound, now);
            }
            plane::Event::LinkDown { peer } => self.engine.handle_link_down(NodeId(peer), now),
            plane::Event::Dialled { attempt, .. } => {
                self.engine.handle_dial_ended(attempt, false, now);
            }
            plane::Event::DialFailed { attempt, address, reason } => {
                tracing::debug!(network = %self.name, %address, %reason, "a call came to nothing");
                self.watch.call_failed(address, &reason, now.instant);
                if !matches!(reason, plane::DialError::Myself | plane::DialError::Refused(_)) {
                    self.failed_calls.insert(address, reason.to_string());
                }
                let shut = matches!(reason, plane::DialError::NotOurNetwork);
                self.engine.handle_dial_ended(attempt, shut, now);
            }
            plane::Event::Request { peer, bytes, channel } => {
                let answer = self.engine.handle_request(NodeId(peer), &bytes, now);
                if let Some(bytes) = answer {
                    let command = plane::Command::Respond { channel, bytes };
                    self.tell_control(command).await?;
                }
            }
            plane::Event::Response { id, result } => {
                let result = result.as_deref().map_err(|_| ());
                self.engine.handle_response(id, result, now);
            }
            plane::Event::Gossip { from, message, bytes } => {
                let accept = match self.engine.handle_gossip(NodeId(from), &bytes, now) {
                    Some(true) => plane::Accept::Accept,
                    Some(false) => plane::Accept::Reject,
                    None => plane::Accept::Ignore,
                };
                self.tell_control(plane::Command::Verdict { message, accept }).await?;
            }
        }
        Ok(())
    }

    fn stream_event(&mut self, event: stream::Event) {
        let now = clock::now();
        match event {
            stream::Event::Opened { attempt, stream } => {
                self.engine.handle_stream_opened(attempt, stream, now);
            }
            stream::Event::Failed { attempt, address, reason, shut } => {
                tracing::debug!(network = %self.name, %address, %reason, "no stream");
                self.engine.handle_stream_failed(attempt, shut, now);
            }
            stream::Event::Accepted { stream, remote } => {
                self.engine.handle_stream_accepted(stream, remote, now);
            }
            stream::Event::Closed { stream } => self.engine.handle_stream_closed(stream, now),
        }
    }

    /// A member let this node in, which may have used up its token: whatever
    /// happens from now on, the state must be there at the next start.
    fn keep_state(&mut self) {
        if self.provisional {
            match provisional::keep(&self.config.dir) {
                Ok(()) => self.provisional = false,
                Err(error) => {
                    tracing::warn!(network = %self.name, %error, "cannot keep the state yet");
                }
            }
        }
    }

    async fn tell_control(&self, command: plane::Command) -> Result<(), Error> {
        self.control
            .send(command)
            .await
            .map_err(|stopped| self.ended("control plane", &stopped.to_string()))
    }

    /// Tells the engine and discovery how the host is connected now.
    async fn look_around(&mut self) -> Result<(), Error> {
        let seen = self.surroundings.look().await?;
        if let Some(discovery) = &mut self.discovery {
            discovery.refresh(&seen.links, &seen.addresses, is_mesh);
        }
        self.interface.look_at(&self.netlink, &seen.links, &seen.addresses).await;
        self.routing.look_at(&self.netlink, &seen.links, &seen.addresses).await;
        let Seen { prefixes, place, has_moved, .. } = seen;
        if let Some(port_mapping) = &self.port_mapping {
            port_mapping.set_place(place, has_moved);
        }
        if has_moved {
            self.data.forget_answers();
        }
        self.engine.handle_local_addresses(prefixes, has_moved, clock::now());
        Ok(())
    }

    /// Tells the engine where others are, and where others reach this node.
    fn tell_addresses(&mut self) {
        let now = clock::now();
        let settings = self.engine.settings();
        let token = self.names.addresses(&settings.token_addresses);
        let configured = self.names.addresses(&settings.advertise);
        self.engine.handle_token_addresses(token, now);
        self.engine.handle_configured_addresses(configured, now);
    }
}

fn read_identity(dir: &std::path::Path) -> Result<SecretKey, Error> {
    let path = dir.join(IDENTITY_FILE);
    let bytes = epsilon_sys::file::read_secret(&path, 64)?;
    let seed = bytes.first_chunk::<32>().filter(|_| bytes.len() == 32);
    seed.map(SecretKey::from_seed).ok_or(Error::Identity(path))
}

fn hostname() -> Option<NodeName> {
    let hostname = nix::unistd::gethostname().ok()?;
    NodeName::from_hostname(hostname.to_str()?)
}
