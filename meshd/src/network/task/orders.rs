//! What the network is told and asked.

use std::time::Duration;

use super::Task;
use crate::clock;
use crate::network::portmap::PortMapping;
use crate::network::{Order, ROOT_FILE, Snapshot};

/// How long a ping waits for its answer at most: who asks says how long.
const PING: Duration = Duration::from_mins(1);

impl Task {
    pub(super) fn order(&mut self, order: Order) {
        let now = clock::now();
        match order {
            Order::Snapshot(reply) => {
                let snapshot = Snapshot {
                    view: self.engine.view(now),
                    invites: self.engine.invites(),
                    admins: self.engine.admins(),
                    settings: self.engine.settings().clone(),
                    stats: self.data.stats(),
                    failed_calls: self
                        .failed_calls
                        .iter()
                        .map(|(address, reason)| (*address, reason.clone()))
                        .collect(),
                    refusal: self.refusal,
                    interface_problem: self.interface.problem().map(str::to_owned),
                    routing_problem: self.routing.problem().map(str::to_owned),
                    interface: self.interface.seen(),
                    port_mapping: self.port_mapping.as_ref().map(PortMapping::state),
                    dir: self.config.dir.clone(),
                    started: self.started,
                    keeps_root: self.config.dir.join(ROOT_FILE).exists(),
                };
                // Whoever asked may have gone.
                let _ = reply.send(Box::new(snapshot));
            }
            Order::Operate(operation, reply) => {
                let id = self.engine.operate(*operation, now);
                self.waiting.operations.insert(id, reply);
            }
            Order::Ping(node, reply) => match self.engine.ping(node, now) {
                Some((transaction, to)) => {
                    let until = now.instant + PING;
                    self.waiting.pings.insert(transaction, (reply, to, until));
                }
                None => drop(reply.send(None)),
            },
            Order::LookWhetherOpen(reply) => {
                self.engine.look_whether_open(now.instant);
                // Whoever asked may have gone.
                let _ = reply.send(());
            }
            Order::Joined(reply) => self.waiting.joins.push(reply),
            Order::Stop => {}
        }
    }
}
