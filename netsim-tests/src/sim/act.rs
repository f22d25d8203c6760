//! What a Control says is done: the daemon's part, in virtual time.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use epsilon_mesh::control::Output;
use epsilon_mesh::shard::{Path, Report};

use super::nat::Protocol;
use super::topology::Arrived;
use super::world::{Event, Input, Probe, World};

/// A disk needs so long for a durable transaction.
const COMMIT: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(8));
/// An answer to a probe that comes later does not count.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// What the daemon takes as one frame of an admission.
const MAX_FRAME: usize = 256 * 1024;
/// How many probes of a peer the data plane reports.
const REPORTS_PER_SECOND: u32 = 4;

impl World {
    pub(crate) fn act(&mut self, machine: usize, output: Output) {
        let at = self.now();
        match output {
            Output::Persist { ticket, writes } => {
                let took = self.random.between(COMMIT.0, COMMIT.1);
                let one = &mut self.machines[machine];
                one.disk_busy = one.disk_busy.max(at) + took;
                let (done, run) = (one.disk_busy, one.run);
                self.queue.at(done, Event::Commit(machine, run, ticket, writes));
            }
            Output::Dial { attempt, node, address, secret } => {
                self.trace.note(at, machine, "dial", &attempt.to_le_bytes());
                self.dial(machine, attempt, node, address, secret);
            }
            Output::Disconnect(node) => {
                self.trace.note(at, machine, "disconnect", &node.0);
                self.disconnect(machine, node);
            }
            Output::Admission { exchange, send, outcome } => {
                let length = send.as_ref().map_or(0, Vec::len);
                assert!(length <= MAX_FRAME, "n{machine} sends a frame of {length} bytes");
                let known = self.machines[machine].exchanges.get(&exchange).copied();
                if let Some((connection, side)) = known {
                    let outcome = outcome.map(|outcome| outcome.is_ok());
                    self.admission_step(connection, side, send, outcome);
                }
            }
            Output::Request { node, id, bytes } => {
                self.look_at_request(machine, &bytes);
                self.ask(machine, node, id, bytes);
            }
            Output::Publish(bytes) => {
                self.look_at_change(machine, &bytes);
                self.spread(machine, &Rc::from(bytes), None);
            }
            Output::Shard(command) => {
                self.look_at_command(machine, &command);
                let run = self.machines[machine].run;
                if let Some((node, to, transaction)) = self.machines[machine].plane.obey(command) {
                    self.send_probe(Probe { from: machine, run, node, to, transaction });
                }
            }
            Output::Addresses { ipv4, ipv6 } => {
                self.machines[machine].addresses = (ipv4, ipv6);
            }
            Output::Beacon(datagram) => self.send_beacon(machine, &datagram),
            Output::Gate { secrets, .. } => self.machines[machine].gate = secrets,
            Output::Event(event) => {
                self.look_at_event(machine, &event);
                self.trace.note(at, machine, "event", format!("{event:?}").as_bytes());
                self.machines[machine].events.push((at, event));
            }
            Output::Pong { transaction, .. } => {
                self.trace.note(at, machine, "pong", &transaction.to_le_bytes());
            }
            Output::Done { operation, result } => {
                self.trace.note(at, machine, "done", &operation.to_le_bytes());
                self.machines[machine].done.insert(operation, result);
            }
        }
    }

    fn send_beacon(&mut self, machine: usize, datagram: &[u8]) {
        let (lan, from) = (self.machines[machine].lan, self.machines[machine].address);
        let first = lan * self.options.lan;
        let last = (first + self.options.lan).min(self.machines.len());
        self.count(machine, datagram.len());
        for other in first..last {
            let is_there = other != machine
                && self.machines[other].network == self.machines[machine].network
                && self.machines[other].is_up()
                && self.is_reachable(machine, other)
                && !self.random.chance(self.options.loss);
            if is_there {
                let delay = self.delay(machine, other);
                let run = self.machines[other].run;
                let report = Report::Beacon { from, datagram: datagram.to_vec() };
                self.queue.after(delay, Event::Input(other, run, Input::Report(report)));
            }
        }
    }

    /// Something goes from a machine's port to an address: where it arrives, if
    /// anybody is there and nothing is lost.
    pub(crate) fn carry(
        &mut self,
        protocol: Protocol,
        from: usize,
        port: u16,
        to: SocketAddr,
    ) -> Option<Arrived> {
        let (now, one) = (self.now(), &self.machines[from]);
        let ends = (SocketAddr::new(one.address.ip(), port), to);
        self.topology
            .carry(protocol, one.network, ends, now, &mut self.random)
            .filter(|arrived| self.machines[arrived.machine].address == arrived.to)
    }

    fn carry_datagram(&mut self, from: usize, to: SocketAddr) -> Option<Arrived> {
        let port = self.machines[from].address.port();
        let arrived = self.carry(Protocol::Udp, from, port, to)?;
        let is_there =
            self.is_reachable(from, arrived.machine) && !self.random.chance(self.options.loss);
        is_there.then_some(arrived)
    }

    fn send_probe(&mut self, probe: Probe) {
        if let Some(arrived) = self.carry_datagram(probe.from, probe.to.address()) {
            let delay = self.delay(probe.from, arrived.machine);
            self.queue.after(delay, Event::Probe(probe, arrived));
        }
    }

    /// A probe is at its target.
    pub(crate) fn probe(&mut self, probe: &Probe, arrived: &Arrived) {
        let Probe { from, run, node, to, transaction } = *probe;
        let (asker, observed, target) = (self.machines[from].node, arrived.from, arrived.machine);
        let sent = self.machines[from].plane.peers.get(&node).and_then(|peer| peer.indices);
        let second = self.now().as_secs();
        let one = &mut self.machines[target];
        if one.node != node {
            return;
        }
        let Some(peer) = one.plane.peers.get_mut(&asker) else { return };
        // Both must mean the same keys: each uses the index the other gave.
        let (Some((own, other)), Some((local, remote))) = (sent, peer.indices) else { return };
        if own != remote || other != local {
            return;
        }
        let reported = if peer.reported.0 == second { peer.reported.1 } else { 0 };
        peer.reported = (second, reported + 1);
        if reported < REPORTS_PER_SECOND {
            let report = Report::ProbeReceived { node: asker, from: Path::Direct(observed) };
            self.input(target, Input::Report(report));
        }
        let Some(back) = self.carry_datagram(target, observed) else { return };
        // An answer from elsewhere does not count.
        if back.machine == from && back.from == to.address() {
            let delay = self.delay(target, from);
            let rtt = (delay * 2).min(PROBE_TIMEOUT);
            let report = Report::ProbeAnswered { node, transaction, to, observed, rtt };
            self.queue.after(delay, Event::Input(from, run, Input::Report(report)));
        }
    }
}
