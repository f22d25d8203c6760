//! What the engine wants, carried out.

use epsilon_mesh::control::Output;
use epsilon_mesh::event::Event;
use epsilon_proto::wire;

use super::Task;
use crate::control::{self as plane, AdmissionStep};
use crate::network::{Error, Pong};
use crate::{clock, journal};

impl Task {
    /// Carries out everything that the engine wants, in its order.
    pub(super) async fn carry_out(&mut self) -> Result<(), Error> {
        while let Some(output) = self.engine.poll_output() {
            self.carry_out_one(output).await?;
        }
        if !self.waiting.joins.is_empty()
            && let Some(outcome) = self.watch.outcome(clock::now().instant)
        {
            // Whoever hears of it decides about the state.
            self.provisional = false;
            for join in self.waiting.joins.drain(..) {
                // Whoever asked may have gone.
                let _ = join.send(outcome.clone());
            }
        }
        Ok(())
    }

    async fn carry_out_one(&mut self, output: Output) -> Result<(), Error> {
        match output {
            Output::Persist { ticket, writes } => self.writer.persist(ticket, writes),
            Output::Dial { attempt, node, address, secret } => {
                let peer = node.map(|node| node.0);
                self.tell_control(plane::Command::Dial { attempt, peer, address, secret }).await?;
            }
            Output::OpenStream { attempt, address, secret } => {
                self.streams.open(attempt, address, secret);
            }
            Output::CloseStream(stream) => self.streams.close(stream),
            Output::CheckLinks => {
                if let Some(port_mapping) = &self.port_mapping {
                    port_mapping.doubt();
                }
                self.tell_control(plane::Command::CheckLinks).await?;
            }
            Output::Disconnect(node) => {
                self.tell_control(plane::Command::Disconnect(node.0)).await?;
            }
            Output::Admission { exchange, send, outcome } => {
                if let Some(reply) = self.waiting.admissions.remove(&exchange) {
                    let outcome = outcome.map(|outcome| {
                        outcome.map_err(|refusal| plane::Refusal(wire::encode(&refusal)))
                    });
                    // The connection may be gone.
                    let _ = reply.send(AdmissionStep { send, outcome });
                }
            }
            Output::Request { node, id, bytes } => {
                self.tell_control(plane::Command::Request { id, peer: node.0, bytes }).await?;
            }
            Output::Publish(bytes) => self.tell_control(plane::Command::Publish(bytes)).await?,
            Output::Shard(command) => self.data.command(command),
            Output::Addresses { ipv4, ipv6 } => {
                self.interface.set_addresses(&self.netlink, ipv4, &ipv6).await;
            }
            Output::Routes { beyond, behind } => {
                self.routing.set(&self.netlink, beyond, behind).await;
            }
            Output::Beacon(datagram) => {
                if let Some(discovery) = &self.discovery {
                    discovery.send(&datagram);
                }
            }
            Output::Gate { secrets, current } => self.gate.set(secrets, current),
            Output::Event(event) => self.note(&event),
            Output::Pong { transaction, from, rtt } => {
                if let Some((reply, ..)) = self.waiting.pings.remove(&transaction) {
                    // Whoever asked may have gone.
                    let _ = reply.send(Some(Pong { to: from, rtt: Some(rtt) }));
                }
            }
            Output::Done { operation, result } => {
                if let Some(reply) = self.waiting.operations.remove(&operation) {
                    // Whoever asked may have gone.
                    let _ = reply.send(result);
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, event: &Event) {
        match event {
            Event::RefusedBy(_, refusal) => {
                self.refusal = Some(*refusal);
                self.watch.refused(*refusal, clock::now().instant);
            }
            Event::Published => self.watch.published(),
            Event::StorageFailing(reason) => self.watch.storage_failing(reason),
            _ => {}
        }
        let engine = &self.engine;
        let entry = journal::entry(event, &self.name, |node| engine.name_of(node));
        if let Some(entry) = entry {
            journal::log(&entry);
            self.config.journal.record(entry);
        }
    }
}
