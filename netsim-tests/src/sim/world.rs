//! All machines, the network between them, and the order of things.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use epsilon_mesh::control::{AdmissionInput, Control, ExchangeId, Ticket};
use epsilon_mesh::saved::Write;
use epsilon_mesh::shard::Report;
use epsilon_proto::id::{Digest, NodeId};

use super::check::Remembering;
use super::connection::{Connection, ConnectionId, Message, Side};
use super::datagram::{Conversation, Datagram};
use super::gossip::Gossip;
use super::machine::Machine;
use super::malice::Malice;
use super::queue::Queue;
use super::random::Random;
use super::store::Rows;
use super::stream::{Stream, StreamEnd};
use super::topology::{Arrived, INTERNET, Topology};
use super::trace::Trace;

/// What a run is made of.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Where all chance comes from.
    pub seed: u64,
    /// How many machines there are.
    pub machines: usize,
    /// How many machines share a local network.
    pub lan: usize,
    /// How many of a hundred datagrams, gossip messages and TCP segments are
    /// lost; a lost segment is sent again.
    pub loss: u32,
    /// The longest way from one local network to another.
    pub distance: Duration,
}

impl Options {
    /// Machines on one local network that loses nothing.
    pub fn new(seed: u64, machines: usize) -> Self {
        Self { seed, machines, lan: 20, loss: 0, distance: Duration::from_millis(40) }
    }

    /// The same with loss.
    #[must_use]
    pub fn lossy(self, loss: u32) -> Self {
        Self { loss, ..self }
    }

    /// The same with local networks that far apart.
    #[must_use]
    pub fn distance(self, distance: Duration) -> Self {
        Self { distance, ..self }
    }

    /// The same with so many machines in a local network.
    #[must_use]
    pub fn lan(self, lan: usize) -> Self {
        Self { lan, ..self }
    }
}

/// How often a node may ask to be woken at one moment.
const MAX_WAKES: u32 = 8;

/// What goes into a Control.
pub(crate) enum Input {
    Timeout,
    Persisted(Ticket, Result<(), String>),
    Admission(ExchangeId, AdmissionInput),
    LinkUp(NodeId, SocketAddr, bool),
    LinkDown(NodeId),
    DialEnded(u64, bool),
    Request(ConnectionId, Side, u64, Vec<u8>),
    Response(u64, Option<Vec<u8>>),
    Gossip(NodeId, Rc<Gossip>),
    Report(Report),
    StreamOpened(u64, SocketAddr),
    StreamAccepted(SocketAddr, SocketAddr),
    StreamFailed(u64, bool),
    StreamClosed(SocketAddr),
}

/// What is scheduled.
pub(crate) enum Event {
    Timer(usize, u64),
    Input(usize, u64, Input),
    Commit(usize, u64, Ticket, Vec<Write>),
    Arrive(ConnectionId),
    Begin(ConnectionId, Side),
    ConnectTimeout(ConnectionId),
    AdmissionTimeout(ConnectionId, Side),
    Deliver(ConnectionId, Side, Message),
    Established(ConnectionId, Side),
    Open(ConnectionId, Side),
    Tidy(ConnectionId),
    Silence(ConnectionId, Side, u64),
    Gossip(ConnectionId, Side, Rc<Gossip>),
    RequestTimeout(usize, u64, u64),
    Datagram(Datagram, Arrived),
    Unanswered(usize, u64, NodeId),
    Idle(usize, u64, NodeId),
    Converse(usize),
    OpenStream(Stream),
    CloseStream(usize, SocketAddr),
}

/// Everything.
pub struct World {
    pub(crate) options: Options,
    pub(crate) random: Random,
    pub(crate) queue: Queue<Event>,
    pub(crate) trace: Trace,
    pub(crate) check: Remembering,
    pub(crate) machines: Vec<Machine>,
    pub(crate) topology: Topology,
    /// The streams, by their ends.
    pub(crate) streams: BTreeMap<StreamEnd, Stream>,
    pub(crate) last_stream: u64,
    pub(crate) connections: BTreeMap<ConnectionId, Box<Connection>>,
    pub(crate) last_connection: ConnectionId,
    /// The side of the divide on which a machine stands.
    pub(crate) divide: Option<Vec<usize>>,
    /// The pairs between which nothing gets through.
    pub(crate) cuts: BTreeSet<(usize, usize)>,
    /// The largest packets that get through between two machines.
    pub(crate) narrow: BTreeMap<(usize, usize), u16>,
    /// Who is banned by which document.
    pub(crate) bans: BTreeMap<Digest, BTreeSet<NodeId>>,
    pub(crate) wrong_gates: u64,
    pub(crate) conversations: Vec<Conversation>,
    pub(crate) malice: Malice,
    rows: Rows,
}

impl World {
    /// Machines, all of them off.
    pub fn new(options: Options) -> Self {
        let mut random = Random::of(options.seed);
        let machines: Vec<Machine> = (0..options.machines)
            .map(|number| {
                let key = epsilon_proto::key::SecretKey::generate(random.generator());
                Machine::new(key, number / options.lan, number % options.lan + 1, number)
            })
            .collect();
        let mut topology = Topology::default();
        for (number, one) in machines.iter().enumerate() {
            topology.attach(number, INTERNET, one.address.ip());
        }
        Self {
            options,
            random,
            queue: Queue::new(),
            trace: Trace::new(),
            check: Remembering::default(),
            machines,
            topology,
            streams: BTreeMap::new(),
            last_stream: 0,
            connections: BTreeMap::new(),
            last_connection: 0,
            divide: None,
            cuts: BTreeSet::new(),
            narrow: BTreeMap::new(),
            bans: BTreeMap::new(),
            wrong_gates: 0,
            conversations: Vec::new(),
            malice: Malice::default(),
            rows: Rows::default(),
        }
    }

    /// How long the run took in virtual time.
    pub fn now(&self) -> Duration {
        self.queue.now()
    }

    /// The hash over everything that happened.
    pub fn trace(&self) -> String {
        self.trace.hash()
    }

    /// How much happened.
    pub fn events(&self) -> u64 {
        self.trace.events
    }

    /// Lets time go by.
    pub fn run_for(&mut self, time: Duration) {
        let until = self.now() + time;
        while let Some(event) = self.queue.next(until) {
            self.happen(event);
        }
    }

    /// Lets time go by until something is so; says how long that took.
    pub fn run_until(
        &mut self,
        limit: Duration,
        what: &str,
        mut is_so: impl FnMut(&mut Self) -> bool,
    ) -> Duration {
        let start = self.now();
        while !is_so(self) {
            let took = self.now().saturating_sub(start);
            assert!(took < limit, "{what}: not within {limit:?}\n{}", self.describe());
            let step = (limit / 200).clamp(Duration::from_millis(1), Duration::from_millis(500));
            self.run_for(step);
        }
        self.now().saturating_sub(start)
    }

    pub(crate) fn happen(&mut self, event: Event) {
        match event {
            Event::Timer(machine, run) => self.wake(machine, run),
            Event::Input(machine, run, input) => {
                if self.machines[machine].run == run {
                    self.feed(machine, input);
                }
            }
            Event::Commit(machine, run, ticket, writes) => {
                self.commit(machine, run, ticket, writes);
            }
            Event::Arrive(connection) => self.arrive(connection),
            Event::Begin(connection, side) => self.begin(connection, side),
            Event::ConnectTimeout(connection) => self.connect_timeout(connection),
            Event::AdmissionTimeout(connection, side) => self.admission_timeout(connection, side),
            Event::Deliver(connection, side, message) => self.deliver(connection, side, message),
            Event::Established(connection, side) => self.established(connection, side),
            Event::Open(connection, side) => self.open(connection, side),
            Event::Tidy(connection) => self.tidy(connection),
            Event::Silence(connection, side, spell) => self.silence(connection, side, spell),
            Event::Gossip(connection, side, gossip) => self.gossip(connection, side, gossip),
            Event::RequestTimeout(machine, run, id) => {
                if self.machines[machine].run == run
                    && self.machines[machine].asked.remove(&id).is_some()
                {
                    self.feed(machine, Input::Response(id, None));
                }
            }
            Event::Datagram(datagram, arrived) => self.datagram(datagram, &arrived),
            Event::Unanswered(machine, run, node) => self.unanswered(machine, run, node),
            Event::Idle(machine, run, node) => self.idle(machine, run, node),
            Event::Converse(number) => self.converse_on(number),
            Event::OpenStream(stream) => self.stream_arrives(stream),
            Event::CloseStream(machine, stream) => self.stream_ends(machine, stream),
        }
    }

    fn commit(&mut self, machine: usize, run: u64, ticket: Ticket, writes: Vec<Write>) {
        let one = &mut self.machines[machine];
        if one.run != run {
            return;
        }
        let result = if one.disk_full && !writes.is_empty() {
            Err("no space left on device".to_owned())
        } else {
            if let Some(store) = &mut one.store {
                store.apply(self.rows.shared(writes));
            }
            Ok(())
        };
        let delay = self.random.between(Duration::ZERO, Duration::from_millis(1));
        self.queue.after(delay, Event::Input(machine, run, Input::Persisted(ticket, result)));
    }

    /// Schedules an input for this very moment, after what happens now.
    pub(crate) fn input(&mut self, machine: usize, input: Input) {
        let run = self.machines[machine].run;
        self.queue.after(Duration::ZERO, Event::Input(machine, run, input));
    }

    fn wake(&mut self, machine: usize, run: u64) {
        let now = self.now();
        let one = &mut self.machines[machine];
        if one.run != run || one.timer != Some(now) {
            return;
        }
        one.timer = None;
        let Some(control) = &one.control else { return };
        let due = control.poll_timeout(one.now(now).instant);
        if due.is_some_and(|due| due <= one.now(now).instant) {
            one.wakes = if one.wakes.0 == now { (now, one.wakes.1 + 1) } else { (now, 1) };
            assert!(
                one.wakes.1 <= MAX_WAKES,
                "n{machine} asks for ever to be woken at {now:?}: its timer never goes on"
            );
            self.feed(machine, Input::Timeout);
        } else {
            self.set_timer(machine);
        }
    }

    /// Hands an input to a Control and does what it says.
    pub(crate) fn feed(&mut self, machine: usize, input: Input) {
        let at = self.now();
        let one = &mut self.machines[machine];
        let now = one.now(at);
        let Some(control) = &mut one.control else { return };
        let trace = &mut self.trace;
        let mut forward = None;
        let mut answer = None;
        match input {
            Input::Timeout => {
                trace.note(at, machine, "timeout", &[]);
                control.handle_timeout(now);
            }
            Input::Persisted(ticket, result) => {
                trace.note(at, machine, "persisted", &[u8::from(result.is_ok())]);
                control.handle_persisted(ticket, result, now);
            }
            Input::Admission(exchange, input) => {
                match &input {
                    AdmissionInput::Frame(bytes) => trace.note(at, machine, "frame", bytes),
                    AdmissionInput::Begin { node, .. } => {
                        trace.note(at, machine, "begin", &node.0);
                    }
                    AdmissionInput::Ended => trace.note(at, machine, "ended", &[]),
                }
                control.handle_admission(exchange, input, now);
            }
            Input::LinkUp(node, remote, outbound) => {
                trace.note(at, machine, "up", &node.0);
                control.handle_link_up(node, remote, outbound, now);
            }
            Input::LinkDown(node) => {
                trace.note(at, machine, "down", &node.0);
                control.handle_link_down(node, now);
            }
            Input::DialEnded(attempt, shut) => {
                trace.note(at, machine, "dial ended", &attempt.to_le_bytes());
                control.handle_dial_ended(attempt, shut, now);
            }
            Input::Request(connection, side, id, bytes) => {
                trace.note(at, machine, "request", &bytes);
                let Some(open) = self.connections.get(&connection) else { return };
                let asker = open.ends[1 - side].node;
                let Some(control) = &mut self.machines[machine].control else { return };
                answer = Some((connection, side, id, control.handle_request(asker, &bytes, now)));
            }
            Input::Response(id, bytes) => {
                trace.note(at, machine, "response", bytes.as_deref().unwrap_or_default());
                control.handle_response(id, bytes.as_deref().ok_or(()), now);
            }
            Input::Gossip(from, gossip) => {
                trace.note(at, machine, "gossip", &gossip.bytes);
                if control.handle_change(from, &gossip.change, now) == Some(true) {
                    forward = Some(gossip);
                }
            }
            Input::Report(report) => {
                trace.note(at, machine, "report", &[]);
                control.handle_report(report, now);
            }
            Input::StreamOpened(attempt, stream) => {
                trace.note(at, machine, "stream opened", &attempt.to_le_bytes());
                control.handle_stream_opened(attempt, stream, now);
            }
            Input::StreamAccepted(stream, remote) => {
                trace.note(at, machine, "stream accepted", &[]);
                control.handle_stream_accepted(stream, remote, now);
            }
            Input::StreamFailed(attempt, shut) => {
                trace.note(at, machine, "stream failed", &attempt.to_le_bytes());
                control.handle_stream_failed(attempt, shut, now);
            }
            Input::StreamClosed(stream) => {
                trace.note(at, machine, "stream closed", &[]);
                control.handle_stream_closed(stream, now);
            }
        }
        self.drain(machine);
        if let Some((connection, side, id, response)) = answer {
            if let Some(bytes) = &response {
                self.look_at_response(machine, bytes);
            }
            self.post(connection, 1 - side, Message::Response(id, response));
        }
        if let Some(gossip) = forward {
            self.pass_on(machine, &gossip);
        }
    }

    /// Does what a Control says until it says no more, then looks whether all
    /// is well.
    pub(crate) fn drain(&mut self, machine: usize) {
        while let Some(output) =
            self.machines[machine].control.as_mut().and_then(Control::poll_output)
        {
            self.act(machine, output);
        }
        self.set_timer(machine);
        self.look_at(machine);
    }

    fn set_timer(&mut self, machine: usize) {
        let now = self.now();
        let one = &mut self.machines[machine];
        let Some(control) = &one.control else { return };
        let Some(due) = control.poll_timeout(one.now(now).instant) else { return };
        let due = (one.started + due.0).max(now);
        if one.timer.is_none_or(|timer| due < timer || timer < now) {
            one.timer = Some(due);
            let run = one.run;
            self.queue.at(due, Event::Timer(machine, run));
        }
    }
}
