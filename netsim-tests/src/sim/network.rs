//! How connections come up, carry messages and break.
//!
//! It follows the daemon's control plane: the gate is checked before anything
//! is said, a frame is read only when the last one was answered, a link is up
//! from the first connection with a node to the last, and of two connections
//! the one that the node with the smaller key dialled stays.

use std::net::SocketAddr;
use std::time::Duration;

use epsilon_mesh::control::{AdmissionInput, Control};
use epsilon_proto::id::NodeId;

use super::connection::{Connection, ConnectionId, Message, Side, Stage};
use super::nat::Protocol;
use super::world::{Event, Input, World};

/// From the first segment to the end of the key exchange.
pub(crate) const DIAL: Duration = Duration::from_millis(2500);
/// For the whole admission.
const ADMISSION: Duration = Duration::from_secs(5);
/// For an answer.
const REQUEST: Duration = Duration::from_secs(10);
/// For two connections between two nodes to live side by side.
const GRACE: Duration = Duration::from_millis(1250);

impl World {
    /// Whether datagrams and segments get from one machine to another.
    pub(crate) fn is_reachable(&self, from: usize, to: usize) -> bool {
        self.divide.as_ref().is_none_or(|sides| sides[from] == sides[to])
            && !self.cuts.contains(&(from.min(to), from.max(to)))
    }

    /// How long a datagram takes.
    pub(crate) fn delay(&mut self, from: usize, to: usize) -> Duration {
        let lans = [self.machines[from].lan, self.machines[to].lan];
        let way = if lans[0] == lans[1] {
            Duration::from_micros(100)
        } else {
            // Each pair of local networks has a length of its own.
            let length = (lans[0] * lans[1] + lans[0] + lans[1]) % 8 + 1;
            self.options.distance * length as u32 / 8
        };
        way + self.random.between(Duration::ZERO, Duration::from_millis(1))
    }

    /// How long a segment takes that is sent again when it was lost.
    pub(crate) fn segment_delay(&mut self, from: usize, to: usize) -> Duration {
        let mut delay = self.delay(from, to);
        let mut again = Duration::from_millis(200);
        for _ in 0..5 {
            if !self.random.chance(self.options.loss) {
                break;
            }
            delay += again;
            again *= 2;
        }
        delay
    }

    pub(crate) fn dial(
        &mut self,
        machine: usize,
        attempt: u64,
        node: Option<NodeId>,
        address: SocketAddr,
        secret: usize,
    ) {
        let run = self.machines[machine].run;
        self.last_connection += 1;
        let connection = self.last_connection;
        // A passing port.
        let port = 40_000 + (connection % 20_000) as u16;
        let Some(arrived) = self.carry(Protocol::Tcp, machine, port, address) else {
            let failed = Event::Input(machine, run, Input::DialEnded(attempt, false));
            self.queue.after(DIAL, failed);
            return;
        };
        let listener = arrived.machine;
        let end = |machine: usize| {
            let one = &self.machines[machine];
            (machine, one.run, one.node)
        };
        let ends = [end(machine), end(listener)];
        let open = Connection::new(ends, attempt, node, (address, arrived), secret);
        self.connections.insert(connection, Box::new(open));
        let delay = self.segment_delay(machine, listener);
        self.queue.after(delay, Event::Arrive(connection));
        self.queue.after(DIAL, Event::ConnectTimeout(connection));
    }

    /// A dialler's greeting is at the listener.
    pub(crate) fn arrive(&mut self, connection: ConnectionId) {
        let Some(open) = self.connections.get(&connection) else { return };
        let (dialler, listener) = (open.ends[0].machine, open.ends[1].machine);
        if open.ends[0].stage == Stage::Closed || !self.is_reachable(dialler, listener) {
            return;
        }
        if !self.machines[listener].is_up() {
            if self.machines[listener].powered {
                self.close(connection, 1);
            }
            return;
        }
        let nonce = self.random.bytes();
        let network = self.machines[dialler].control.as_ref().map(Control::id);
        let greeting = self.machines[dialler]
            .gate
            .get(open.secret)
            .zip(network)
            .map(|(secret, network)| secret.greeting(network, nonce));
        let own_network = self.machines[listener].control.as_ref().map(Control::id);
        let opens = greeting.zip(own_network).is_some_and(|(greeting, network)| {
            self.machines[listener].gate.iter().any(|secret| secret.admits(network, &greeting))
        });
        if !opens {
            self.wrong_gates += 1;
            if let Some(open) = self.connections.get_mut(&connection) {
                open.shut = true;
            }
            return self.close(connection, 1);
        }
        let found = self.machines[listener].node;
        let Some(open) = self.connections.get_mut(&connection) else { return };
        open.ends[1].run = self.machines[listener].run;
        open.ends[1].node = found;
        let is_other = open.expected.is_some_and(|expected| expected != found);
        if is_other || found == self.machines[dialler].node {
            return self.close(connection, 1);
        }
        self.begin(connection, 1);
        let delay = self.segment_delay(listener, dialler);
        self.queue.after(delay, Event::Begin(connection, 0));
    }

    /// An end enters the admission.
    pub(crate) fn begin(&mut self, connection: ConnectionId, side: Side) {
        let Some(open) = self.connections.get_mut(&connection) else { return };
        let (machine, node) = (open.ends[side].machine, open.ends[1 - side].node);
        if open.ends[side].stage != Stage::Connecting {
            return;
        }
        let exchange = self.machines[machine].last_exchange + 1;
        self.machines[machine].last_exchange = exchange;
        self.machines[machine].exchanges.insert(exchange, (connection, side));
        open.ends[side].stage = Stage::Admitting;
        open.ends[side].exchange = Some(exchange);
        let remote = self.remote(connection, side);
        let begin = AdmissionInput::Begin { node, remote, outbound: side == 0 };
        self.queue.after(ADMISSION, Event::AdmissionTimeout(connection, side));
        self.feed(machine, Input::Admission(exchange, begin));
    }

    pub(crate) fn connect_timeout(&mut self, connection: ConnectionId) {
        let Some(open) = self.connections.get(&connection) else { return };
        if open.ends[0].stage == Stage::Connecting {
            self.close(connection, 0);
        }
    }

    pub(crate) fn admission_timeout(&mut self, connection: ConnectionId, side: Side) {
        let Some(open) = self.connections.get(&connection) else { return };
        if open.ends[side].stage == Stage::Admitting {
            self.close(connection, side);
        }
    }

    /// The engine answered a step of an admission.
    pub(crate) fn admission_step(
        &mut self,
        connection: ConnectionId,
        side: Side,
        send: Option<Vec<u8>>,
        outcome: Option<bool>,
    ) {
        if let Some(bytes) = send {
            self.post(connection, 1 - side, Message::Frame(bytes));
        }
        let Some(open) = self.connections.get_mut(&connection) else { return };
        let end = &mut open.ends[side];
        match outcome {
            None => {
                end.reading = true;
                self.read(connection, side);
            }
            Some(true) => {
                end.stage = Stage::Admitted;
                self.forget_exchange(connection, side);
                self.queue.after(Duration::from_micros(200), Event::Established(connection, side));
            }
            Some(false) => {
                self.forget_exchange(connection, side);
                self.close(connection, side);
            }
        }
    }

    fn forget_exchange(&mut self, connection: ConnectionId, side: Side) {
        if let Some(open) = self.connections.get_mut(&connection)
            && let Some(exchange) = open.ends[side].exchange.take()
        {
            self.machines[open.ends[side].machine].exchanges.remove(&exchange);
        }
    }

    /// An end is admitted: tells the engine.
    pub(crate) fn established(&mut self, connection: ConnectionId, side: Side) {
        let Some(open) = self.connections.get_mut(&connection) else { return };
        let end = &mut open.ends[side];
        if end.stage != Stage::Admitted {
            return;
        }
        let machine = end.machine;
        let (attempt, node) = (open.attempt, open.ends[1 - side].node);
        let remote = self.remote(connection, side);
        let links = self.machines[machine].links.entry(node).or_default();
        links.push(connection);
        if links.len() == 1 {
            self.input(machine, Input::LinkUp(node, remote, side == 0));
        } else {
            self.queue.after(GRACE, Event::Tidy(connection));
        }
        if side == 0 {
            self.input(machine, Input::DialEnded(attempt, false));
        }
        self.queue.after(Duration::ZERO, Event::Open(connection, side));
    }

    /// The engine knows of the link; now it may be used.
    pub(crate) fn open(&mut self, connection: ConnectionId, side: Side) {
        let Some(open) = self.connections.get_mut(&connection) else { return };
        if open.ends[side].stage == Stage::Admitted {
            open.ends[side].stage = Stage::Established;
            self.read(connection, side);
        }
    }

    /// The other end, as an end sees it.
    fn remote(&self, connection: ConnectionId, side: Side) -> SocketAddr {
        let open = &self.connections[&connection];
        if side == 0 { open.address } else { open.seen }
    }

    /// Of several connections between two nodes each closes those that it
    /// dialled and that are not kept.
    pub(crate) fn tidy(&mut self, connection: ConnectionId) {
        let Some(open) = self.connections.get(&connection) else { return };
        let [one, other] = [&open.ends[0], &open.ends[1]];
        let pairs = [(one.machine, other.node), (other.machine, one.node)];
        for (own, peer) in pairs {
            for link in self.surplus(own, peer) {
                self.close(link, 0);
            }
        }
    }

    fn surplus(&self, own: usize, peer: NodeId) -> Vec<ConnectionId> {
        let smaller = self.machines[own].node < peer;
        let links = self.machines[own].links.get(&peer).cloned().unwrap_or_default();
        let dialled = |link: ConnectionId| {
            self.connections.get(&link).is_some_and(|open| open.ends[0].machine == own)
        };
        let kept = links.iter().copied().max_by_key(|link| (dialled(*link) == smaller, *link));
        links.into_iter().filter(|link| Some(*link) != kept && dialled(*link)).collect()
    }

    /// Puts a message on its way to an end.
    pub(crate) fn post(&mut self, connection: ConnectionId, to: Side, message: Message) {
        let Some(open) = self.connections.get(&connection) else { return };
        let (from, target) = (open.ends[1 - to].machine, open.ends[to].machine);
        let length = match &message {
            Message::Frame(bytes) | Message::Request(_, bytes) => bytes.len(),
            Message::Response(_, bytes) => bytes.as_ref().map_or(0, Vec::len),
            Message::Close => 0,
        };
        if !matches!(message, Message::Close) {
            self.count(from, length);
        }
        let delay = self.segment_delay(from, target);
        let at = self.now() + delay;
        let Some(open) = self.connections.get_mut(&connection) else { return };
        let end = &mut open.ends[to];
        end.arrival = end.arrival.max(at);
        let at = end.arrival;
        self.queue.at(at, Event::Deliver(connection, to, message));
    }

    pub(crate) fn count(&mut self, machine: usize, bytes: usize) {
        let traffic = &mut self.machines[machine].traffic;
        traffic.messages += 1;
        traffic.bytes += bytes as u64;
    }

    pub(crate) fn deliver(&mut self, connection: ConnectionId, side: Side, message: Message) {
        let Some(open) = self.connections.get_mut(&connection) else { return };
        if open.stalled || !open.ends[side].held.is_empty() {
            open.ends[side].held.push_back(message);
            return;
        }
        let end = &mut open.ends[side];
        if end.stage == Stage::Closed {
            return;
        }
        end.inbox.push_back(message);
        self.read(connection, side);
    }

    /// Lets an end read what it may read now.
    pub(crate) fn read(&mut self, connection: ConnectionId, side: Side) {
        loop {
            let Some(open) = self.connections.get_mut(&connection) else { return };
            let end = &mut open.ends[side];
            let machine = end.machine;
            match (end.stage, end.inbox.front()) {
                (Stage::Closed, _) | (_, None) => return,
                (Stage::Admitting, Some(Message::Frame(_))) if end.reading => {
                    let (Some(Message::Frame(bytes)), Some(exchange)) =
                        (end.inbox.pop_front(), end.exchange)
                    else {
                        return;
                    };
                    end.reading = false;
                    let frame = AdmissionInput::Frame(bytes);
                    return self.feed(machine, Input::Admission(exchange, frame));
                }
                // An end that waits for its engine sees the close later.
                (Stage::Admitting, Some(Message::Close)) if !end.reading => return,
                (_, Some(Message::Close)) => return self.close(connection, side),
                (Stage::Established, Some(_)) => match end.inbox.pop_front() {
                    Some(Message::Request(id, bytes)) => {
                        self.feed(machine, Input::Request(connection, side, id, bytes));
                    }
                    Some(Message::Response(id, bytes))
                        if self.machines[machine].asked.remove(&id).is_some() =>
                    {
                        self.feed(machine, Input::Response(id, bytes));
                    }
                    _ => {}
                },
                _ => return,
            }
        }
    }

    /// An end closes; the other hears of it when it can.
    pub(crate) fn close(&mut self, connection: ConnectionId, side: Side) {
        let Some(open) = self.connections.get_mut(&connection) else { return };
        if open.ends[side].stage == Stage::Closed {
            return;
        }
        self.end(connection, side);
        self.post(connection, 1 - side, Message::Close);
        if self.connections.get(&connection).is_some_and(|open| open.is_closed()) {
            self.connections.remove(&connection);
        }
    }

    /// Ends one side without a word to the other.
    pub(crate) fn end(&mut self, connection: ConnectionId, side: Side) {
        let Some(open) = self.connections.get_mut(&connection) else { return };
        let end = &mut open.ends[side];
        let (machine, run) = (end.machine, end.run);
        let (attempt, shut) = (open.attempt, open.shut);
        end.stage = Stage::Closed;
        end.inbox.clear();
        end.held.clear();
        let exchange = end.exchange.take();
        let node = open.ends[1 - side].node;
        if self.machines[machine].run != run {
            return;
        }
        if let Some(exchange) = exchange {
            self.machines[machine].exchanges.remove(&exchange);
            self.input(machine, Input::Admission(exchange, AdmissionInput::Ended));
        }
        let one = &mut self.machines[machine];
        let lost: Vec<u64> =
            one.asked.iter().filter(|(_, by)| **by == connection).map(|(id, _)| *id).collect();
        for id in lost {
            self.machines[machine].asked.remove(&id);
            self.input(machine, Input::Response(id, None));
        }
        let links = self.machines[machine].links.get_mut(&node);
        match links.filter(|links| links.contains(&connection)) {
            Some(links) => {
                links.retain(|link| *link != connection);
                if links.is_empty() {
                    self.machines[machine].links.remove(&node);
                    self.machines[machine].lost_links = true;
                    self.input(machine, Input::LinkDown(node));
                }
            }
            None if side == 0 => self.input(machine, Input::DialEnded(attempt, shut)),
            None => {}
        }
    }

    /// Asks a linked member.
    pub(crate) fn ask(&mut self, machine: usize, node: NodeId, id: u64, bytes: Vec<u8>) {
        let Some(connection) = self.link(machine, node) else {
            return self.input(machine, Input::Response(id, None));
        };
        let run = self.machines[machine].run;
        self.machines[machine].asked.insert(id, connection);
        self.queue.after(REQUEST, Event::RequestTimeout(machine, run, id));
        let side = self.side(machine, connection);
        self.post(connection, 1 - side, Message::Request(id, bytes));
    }

    pub(crate) fn link(&self, machine: usize, node: NodeId) -> Option<ConnectionId> {
        self.machines[machine].links.get(&node)?.last().copied()
    }

    pub(crate) fn side(&self, machine: usize, connection: ConnectionId) -> Side {
        let open = &self.connections[&connection];
        usize::from(open.ends[0].machine != machine)
    }

    /// Closes every connection with a node.
    pub(crate) fn disconnect(&mut self, machine: usize, node: NodeId) {
        for connection in self.machines[machine].links.get(&node).cloned().unwrap_or_default() {
            let side = self.side(machine, connection);
            self.close(connection, side);
        }
    }
}
