//! A declared double of the daemon's streams: datagrams that travel by TLS over TCP.
//!
//! The contract is that of [`epsilon_mesh::control::Output::OpenStream`]: both ends get an
//! address of their own for it; nothing is lost while it stands, and nothing arrives once it
//! does not, which its ends hear of at once, or by silence.

use std::net::SocketAddr;
use std::time::Duration;

use epsilon_mesh::control::Control;
use epsilon_proto::address::stream_address;

use super::datagram::Datagram;
use super::nat::Protocol;
use super::network::DIAL;
use super::topology::{Arrived, NatId};
use super::world::{Event, Input, World};

/// A machine's end of a stream.
pub(crate) type StreamEnd = (usize, SocketAddr);

/// When a machine notices that nothing gets through a stream any more.
const SILENCE: Duration = Duration::from_secs(15);

/// A stream that is open, or being opened.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    /// The machine that opens it, and the one that it is opened to; addresses are given when
    /// it is.
    pub(crate) ends: [StreamEnd; 2],
    runs: [u64; 2],
    attempt: u64,
    secret: usize,
    /// As the second one sees the first.
    seen: SocketAddr,
    pub(crate) nats: Vec<NatId>,
    /// Nothing gets through, and nobody knows.
    is_broken: bool,
}

impl World {
    pub(crate) fn open_stream(
        &mut self,
        machine: usize,
        attempt: u64,
        address: SocketAddr,
        secret: usize,
    ) {
        self.last_stream += 1;
        let port = 20_000 + (self.last_stream % 20_000) as u16;
        let run = self.machines[machine].run;
        let arrived = self.carry(Protocol::Tcp, machine, port, address);
        let arrived = arrived.filter(|arrived| self.is_reachable(machine, arrived.machine));
        let Some(arrived) = arrived else {
            let failed = Event::Input(machine, run, Input::StreamFailed(attempt, false));
            return self.queue.after(DIAL, failed);
        };
        let other = arrived.machine;
        let stream = Stream {
            ends: [(machine, address), (other, address)],
            runs: [run, self.machines[other].run],
            attempt,
            secret,
            seen: arrived.from,
            nats: arrived.nats,
            is_broken: false,
        };
        // TCP's and TLS's handshakes.
        let delay = self.segment_delay(machine, other) * 3;
        self.queue.after(delay, Event::OpenStream(stream));
    }

    /// A stream's first words are at the machine to which it is opened.
    pub(crate) fn stream_arrives(&mut self, mut stream: Stream) {
        let [(machine, _), (other, _)] = stream.ends;
        let [from, to] = [&self.machines[machine], &self.machines[other]];
        if from.run != stream.runs[0] {
            return;
        }
        let network = |one: &Option<Control>| one.as_ref().map(Control::id);
        let nonce = self.random.bytes();
        let greeting = from.gate.get(stream.secret).zip(network(&from.control));
        let greeting = greeting.map(|(secret, network)| secret.greeting(network, nonce));
        let opens = greeting.zip(network(&to.control)).is_some_and(|(greeting, network)| {
            to.gate.iter().any(|secret| secret.admits(network, &greeting))
        });
        if !opens || to.run != stream.runs[1] || !self.is_reachable(machine, other) {
            let shut = to.is_up() && !opens;
            return self.input(machine, Input::StreamFailed(stream.attempt, shut));
        }
        for end in &mut stream.ends {
            self.last_stream += 1;
            end.1 = stream_address(self.last_stream);
        }
        self.input(other, Input::StreamAccepted(stream.ends[1].1, stream.seen));
        let opened = Input::StreamOpened(stream.attempt, stream.ends[0].1);
        let back = self.segment_delay(other, machine);
        self.queue.after(back, Event::Input(machine, stream.runs[0], opened));
        for end in stream.ends {
            self.streams.insert(end, stream.clone());
        }
    }

    /// Sends a datagram by a stream.
    pub(crate) fn post_by_stream(&mut self, from: usize, by: SocketAddr, datagram: Datagram) {
        let Some(stream) = self.streams.get(&(from, by)) else { return };
        let place = usize::from(stream.ends[0] == (from, by));
        let (target, at) = stream.ends[place];
        if stream.is_broken || !self.is_reachable(from, target) {
            return;
        }
        let to = self.machines[target].address;
        let arrived = Arrived { machine: target, from: at, to, nats: Vec::new() };
        let delay = self.segment_delay(from, target);
        self.queue.after(delay, Event::Datagram(datagram, arrived));
    }

    /// How many ends of streams a machine has.
    pub fn streams(&self, machine: usize) -> usize {
        self.streams.keys().filter(|end| end.0 == machine).count()
    }

    /// A machine closes a stream.
    pub(crate) fn close_stream(&mut self, machine: usize, by: SocketAddr) {
        let Some(stream) = self.streams.remove(&(machine, by)) else { return };
        let (other, at) = stream.ends[usize::from(stream.ends[0] == (machine, by))];
        let reaches = !stream.is_broken && self.is_reachable(machine, other);
        let delay = if reaches { self.segment_delay(machine, other) } else { SILENCE };
        self.queue.after(delay, Event::CloseStream(other, at));
    }

    /// A machine hears that a stream is closed, or that nothing gets through.
    pub(crate) fn stream_ends(&mut self, machine: usize, by: SocketAddr) {
        if self.streams.remove(&(machine, by)).is_some() {
            self.input(machine, Input::StreamClosed(by));
        }
    }

    /// Nothing gets through some streams any more.
    pub(crate) fn break_streams(&mut self, which: impl Fn(&Stream) -> bool) {
        for ((machine, by), stream) in &mut self.streams {
            if which(stream) && !std::mem::replace(&mut stream.is_broken, true) {
                self.queue.after(SILENCE, Event::CloseStream(*machine, *by));
            }
        }
    }

    /// A machine's daemon dies, and its streams with it.
    pub(crate) fn cut_streams(&mut self, machine: usize, silently: bool) {
        if silently {
            self.break_streams(|stream| stream.ends.iter().any(|end| end.0 == machine));
        }
        let own: Vec<SocketAddr> =
            self.streams.keys().filter(|end| end.0 == machine).map(|end| end.1).collect();
        for by in own {
            self.close_stream(machine, by);
        }
    }
}
