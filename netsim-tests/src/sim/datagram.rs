//! How datagrams find their way: through NATs, over relays, to whoever has the keys.

use std::net::SocketAddr;
use std::time::Duration;

use epsilon_mesh::shard::{CHANNEL_USED, IDLE, Path, Report, UNANSWERED};
use epsilon_proto::address::is_stream;
use epsilon_proto::datagram::Channel;
use epsilon_proto::id::NodeId;

use super::nat::Protocol;
use super::plane::{Outstanding, Sent};
use super::topology::Arrived;
use super::world::{Event, Input, World};

/// An answer to a probe that comes later does not count.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// How many probes of a peer the data plane reports.
const REPORTS_PER_SECOND: u32 = 4;
/// What a packet without a path waits at most.
const WAITING_TIME: Duration = Duration::from_secs(10);
/// How many wait.
const WAITING: usize = 32;

/// What is in a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    Request {
        transaction: u64,
    },
    /// As long as the request.
    Answer {
        transaction: u64,
        observed: SocketAddr,
    },
    /// A packet of a conversation; or the reply to it.
    Packet {
        number: u64,
        is_reply: bool,
    },
}

/// A datagram between two members.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Datagram {
    /// The member that sealed it, by which run of its daemon.
    sender: usize,
    run: u64,
    /// Who can open it.
    to: NodeId,
    channel: Option<Channel>,
    content: Content,
    /// How large a packet it could carry.
    size: u16,
}

impl Datagram {
    /// A small one that goes straight, by the run of a machine's daemon.
    pub(crate) fn new((sender, run): (usize, u64), to: NodeId, content: Content) -> Self {
        Self { sender, run, to, channel: None, content, size: 0 }
    }
}

/// Packets from one machine to another, each of which is replied to.
#[derive(Debug, Clone)]
pub struct Conversation {
    /// Who sends.
    pub from: usize,
    /// Who replies.
    pub to: usize,
    every: Duration,
    /// How large they are, in bytes; replies are small.
    size: u16,
    goes_on: bool,
    /// How many were sent.
    pub sent: u64,
    /// When replies came.
    pub replied: Vec<Duration>,
}

impl World {
    /// Something goes from a machine's port to an address: where it arrives, if
    /// anybody is there.
    pub(crate) fn carry(
        &mut self,
        protocol: Protocol,
        from: usize,
        port: u16,
        to: SocketAddr,
    ) -> Option<Arrived> {
        self.note_aim(protocol, to);
        let (now, one) = (self.now(), &self.machines[from]);
        let ends = (SocketAddr::new(one.address.ip(), port), to);
        self.topology
            .carry(protocol, one.network, ends, now, &mut self.random)
            .filter(|arrived| self.machines[arrived.machine].address == arrived.to)
    }

    /// Sends a datagram to an address, from a machine.
    fn post_datagram(&mut self, from: usize, to: SocketAddr, datagram: Datagram) {
        if is_stream(to) {
            return self.post_by_stream(from, to, datagram);
        }
        let port = self.machines[from].address.port();
        let Some(arrived) = self.carry(Protocol::Udp, from, port, to) else { return };
        let target = arrived.machine;
        let pair = (from.min(target), from.max(target));
        let fits = self.narrow.get(&pair).is_none_or(|most| datagram.size <= *most);
        if self.is_reachable(from, target) && fits && !self.random.chance(self.options.loss) {
            let delay = self.delay(from, target);
            let arrived = self.stolen(from, arrived);
            self.queue.after(delay, Event::Datagram(datagram, arrived));
        }
    }

    fn send_datagram(
        &mut self,
        from: usize,
        to: NodeId,
        way: Path,
        (content, size): (Content, u16),
    ) {
        let channel = match way {
            Path::Direct(_) => None,
            Path::Relayed(_, channel) => Some(channel),
        };
        let run = self.machines[from].run;
        let datagram = Datagram { sender: from, run, to, channel, content, size };
        self.post_datagram(from, way.address(), datagram);
    }

    /// Does what a command brings about.
    pub(crate) fn carry_out(&mut self, machine: usize, sent: Sent) {
        match sent {
            Sent::Probe { node, way, size, transaction } => {
                let at = self.now();
                let plane = &mut self.machines[machine].plane;
                if plane.peers.get(&node).is_none_or(|peer| peer.keys.is_none()) {
                    return;
                }
                plane.outstanding.insert(transaction, Outstanding { node, way, sent: at });
                self.send_datagram(machine, node, way, (Content::Request { transaction }, size));
            }
            Sent::Waiting { node } => {
                let at = self.now();
                let Some(peer) = self.machines[machine].plane.peers.get_mut(&node) else { return };
                let waiting = std::mem::take(&mut peer.waiting);
                for (since, number) in waiting {
                    if at.saturating_sub(since) < WAITING_TIME {
                        let (number, is_reply) = (number >> 1, number & 1 == 1);
                        self.send_packet(machine, node, number, is_reply);
                    }
                }
            }
        }
    }

    /// A datagram is at a machine.
    pub(crate) fn datagram(&mut self, datagram: Datagram, arrived: &Arrived) {
        let machine = arrived.machine;
        if !self.machines[machine].is_up() {
            return;
        }
        if let Some(channel) = datagram.channel
            && self.machines[machine].plane.is_relay
            && let Some((ends, said)) = self.machines[machine].plane.channels.get(&channel).copied()
            && let Some(place) = ends.iter().position(|end| *end == arrived.from)
        {
            if self.swallows(machine) {
                return;
            }
            let at = self.now();
            self.machines[machine].plane.passed_on += 1;
            if said.is_none_or(|said| at.saturating_sub(said) >= CHANNEL_USED) {
                self.machines[machine].plane.channels.insert(channel, (ends, Some(at)));
                self.input(machine, Input::Report(Report::ChannelUsed { channel }));
            }
            return self.post_datagram(machine, ends[1 - place], datagram);
        }
        let way = match datagram.channel {
            None => Path::Direct(arrived.from),
            Some(channel) => Path::Relayed(arrived.from, channel),
        };
        let sender = &self.machines[datagram.sender];
        if self.machines[machine].node != datagram.to || sender.run != datagram.run {
            return;
        }
        let (node, at) = (sender.node, self.now());
        // Both must mean the same keys.
        let theirs = sender.plane.peers.get(&datagram.to).and_then(|peer| peer.keys.as_ref());
        let Some(theirs) = theirs.map(|keys| keys.send.clone()) else { return };
        let Some(peer) = self.machines[machine].plane.peers.get_mut(&node) else { return };
        if peer.keys.as_ref().is_none_or(|keys| keys.receive != theirs) {
            return;
        }
        match datagram.content {
            Content::Request { transaction } => {
                let second = at.as_secs();
                let reported = if peer.reported.0 == second { peer.reported.1 } else { 0 };
                peer.reported = (second, reported + 1);
                if reported < REPORTS_PER_SECOND {
                    let report = Report::ProbeReceived { node, from: way };
                    self.input(machine, Input::Report(report));
                }
                let observed = self.said_of(machine, arrived.from);
                let content = Content::Answer { transaction, observed };
                self.send_datagram(machine, node, way, (content, datagram.size));
            }
            Content::Answer { transaction, observed } => {
                let outstanding = &mut self.machines[machine].plane.outstanding;
                // Transactions count up.
                while let Some(first) = outstanding.first_entry()
                    && at.saturating_sub(first.get().sent) >= PROBE_TIMEOUT
                {
                    first.remove();
                }
                let is_it = outstanding
                    .get(&transaction)
                    .is_some_and(|one| (one.node, one.way) == (node, way));
                if is_it && let Some(one) = outstanding.remove(&transaction) {
                    let rtt = at.saturating_sub(one.sent);
                    let report =
                        Report::ProbeAnswered { node, transaction, to: way, observed, rtt };
                    self.input(machine, Input::Report(report));
                }
            }
            Content::Packet { number, is_reply } => {
                (peer.used, peer.unanswered) = (at, None);
                let is_news = peer.path != Some(way)
                    && peer
                        .said
                        .is_none_or(|said| at.saturating_sub(said) >= Duration::from_secs(1));
                if is_news {
                    peer.said = Some(at);
                    self.input(machine, Input::Report(Report::NewSource { node, from: way }));
                }
                if is_reply {
                    if let Some(one) = self.conversations.get_mut(number as usize) {
                        one.replied.push(at);
                    }
                } else {
                    self.send_packet(machine, node, number, true);
                }
            }
        }
    }

    /// A machine's host sends a packet to a member, as far as there is a path.
    fn send_packet(&mut self, machine: usize, node: NodeId, number: u64, is_reply: bool) {
        let at = self.now();
        let run = self.machines[machine].run;
        let Some(peer) = self.machines[machine].plane.peers.get_mut(&node) else { return };
        let Some(way) = peer.path else {
            peer.waiting.push_back((at, number << 1 | u64::from(is_reply)));
            if peer.waiting.len() > WAITING {
                peer.waiting.pop_front();
            }
            let may_say =
                peer.said.is_none_or(|said| at.saturating_sub(said) >= Duration::from_secs(1));
            peer.used = at;
            if may_say {
                peer.said = Some(at);
                if !std::mem::replace(&mut peer.is_busy, true) {
                    self.queue.at(at + IDLE, Event::Idle(machine, run, node));
                }
                self.input(machine, Input::Report(Report::NoPath { node }));
            }
            return;
        };
        let mtu = peer.mtu;
        peer.used = at;
        let was_busy = std::mem::replace(&mut peer.is_busy, true);
        if peer.unanswered.is_none() {
            let due = at + UNANSWERED;
            peer.unanswered = Some(due);
            self.queue.at(due, Event::Unanswered(machine, run, node));
        }
        if !was_busy {
            self.input(machine, Input::Report(Report::Busy { node }));
            self.queue.at(at + IDLE, Event::Idle(machine, run, node));
        }
        // What is larger goes in parts, or its sender makes it smaller.
        let size = self.conversations.get(number as usize).map_or(0, |one| one.size);
        let size = if is_reply { 0 } else { size.min(mtu) };
        self.send_datagram(machine, node, way, (Content::Packet { number, is_reply }, size));
    }

    /// Whether what was sent to a peer has no reply yet.
    pub(crate) fn unanswered(&mut self, machine: usize, run: u64, node: NodeId) {
        let at = self.now();
        let one = &mut self.machines[machine];
        if one.run == run
            && let Some(peer) = one.plane.peers.get_mut(&node)
            && peer.unanswered.take_if(|due| *due <= at).is_some()
        {
            self.input(machine, Input::Report(Report::Unanswered { node }));
        }
    }

    /// Whether a peer is idle.
    pub(crate) fn idle(&mut self, machine: usize, run: u64, node: NodeId) {
        let at = self.now();
        let one = &mut self.machines[machine];
        let Some(peer) = one.plane.peers.get_mut(&node).filter(|_| one.run == run) else { return };
        let due = peer.used + IDLE;
        if due > at {
            self.queue.at(due, Event::Idle(machine, run, node));
        } else {
            peer.is_busy = false;
            self.input(machine, Input::Report(Report::Idle { node }));
        }
    }

    /// One machine sends packets to another from now on, every so often.
    pub fn converse(&mut self, from: usize, to: usize, every: Duration) -> usize {
        self.converse_in(from, to, every, 0)
    }

    /// The same with packets of so many bytes.
    pub fn converse_in(&mut self, from: usize, to: usize, every: Duration, size: u16) -> usize {
        let conversation =
            Conversation { from, to, every, size, goes_on: true, sent: 0, replied: Vec::new() };
        self.conversations.push(conversation);
        let number = self.conversations.len() - 1;
        self.queue.after(Duration::ZERO, Event::Converse(number));
        number
    }

    /// No more packets of a conversation.
    pub fn hush(&mut self, conversation: usize) {
        self.conversations[conversation].goes_on = false;
    }

    /// A conversation.
    pub fn conversation(&self, number: usize) -> &Conversation {
        &self.conversations[number]
    }

    pub(crate) fn converse_on(&mut self, number: usize) {
        let one = &mut self.conversations[number];
        if !one.goes_on {
            return;
        }
        one.sent += 1;
        let (from, to, every) = (one.from, one.to, one.every);
        let node = self.machines[to].node;
        if self.machines[from].is_up() {
            self.send_packet(from, node, number as u64, false);
        }
        self.queue.after(every, Event::Converse(number));
    }

    /// By which way a machine sends to another.
    pub fn path(&self, from: usize, to: usize) -> Option<Path> {
        self.machines[from].plane.peers.get(&self.machines[to].node)?.path
    }

    /// How large a packet a machine sends whole to another.
    pub fn mtu(&self, from: usize, to: usize) -> Option<u16> {
        Some(self.machines[from].plane.peers.get(&self.machines[to].node)?.mtu)
    }

    /// How many datagrams a machine passed on for others, in its present run.
    pub fn passed_on(&self, machine: usize) -> u64 {
        self.machines[machine].plane.passed_on
    }
}
