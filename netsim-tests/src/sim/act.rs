//! What a Control says is done: the daemon's part, in virtual time.

use std::time::Duration;

use epsilon_mesh::control::Output;
use epsilon_mesh::shard::Report;

use super::gossip::Gossip;
use super::world::{Event, Input, World};

/// A disk needs so long for a durable transaction.
const COMMIT: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(8));
/// What the daemon takes as one frame of an admission.
const MAX_FRAME: usize = 256 * 1024;
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
            Output::OpenStream { attempt, address, secret } => {
                self.open_stream(machine, attempt, address, secret);
            }
            Output::CloseStream(stream) => self.close_stream(machine, stream),
            Output::CheckLinks => self.check_links(machine),
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
                let change = self.look_at_change(machine, &bytes);
                self.publish(machine, &Gossip::new(bytes, change));
            }
            Output::Shard(command) => {
                self.look_at_command(machine, &command);
                if let Some(sent) = self.machines[machine].plane.obey(command) {
                    self.carry_out(machine, sent);
                }
            }
            Output::Addresses { ipv4, ipv6 } => {
                self.machines[machine].addresses = (ipv4, ipv6);
            }
            Output::Routes { .. } => {}
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
}
