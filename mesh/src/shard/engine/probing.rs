//! Sending probes, and answering them: the front alone does.

use std::time::Duration;

use epsilon_proto::clock::Instant;
use epsilon_proto::id::NodeId;

use super::super::batch::Output;
use super::super::command::{Path, Report};
use super::super::probe::{self, Probe, ProbeKey};
use super::super::prober::{Heard, Prober};
use super::{Shard, forget};
use crate::limit::Limit;

/// How a member is probed.
pub(super) struct Probed {
    prober: Prober,
    received: Limit,
}

impl Default for Probed {
    fn default() -> Self {
        Self { prober: Prober::default(), received: Limit::new(8, Duration::from_millis(250)) }
    }
}

impl Shard {
    pub(super) fn set_probe_keys(
        &mut self,
        node: NodeId,
        (send, receive): (ProbeKey, ProbeKey),
        (local_index, remote_index): (u32, u32),
    ) {
        self.forget_probe_index(node);
        if let Some(probed) = self.probed.get_mut(&node) {
            probed.prober.set(send, receive, local_index, remote_index);
            self.by_probe_index.insert(local_index, node);
        }
    }

    pub(super) fn clear_probe_keys(&mut self, node: NodeId) {
        self.forget_probe_index(node);
        if let Some(probed) = self.probed.get_mut(&node) {
            probed.prober.clear();
        }
    }

    pub(super) fn ask(
        &mut self,
        node: NodeId,
        to: Path,
        transaction: u64,
        now: Instant,
        out: &mut Output,
    ) {
        let request = Probe::Request { transaction };
        if self.send_probe(node, to, probe::LENGTH, request, out)
            && let Some(probed) = self.probed.get_mut(&node)
        {
            probed.prober.sent(transaction, to, now);
        }
    }

    /// Takes the index of the peer's probes away.
    pub(super) fn forget_probe_index(&mut self, node: NodeId) {
        let index = self.probed.get_mut(&node).and_then(|probed| probed.prober.local_index());
        if let Some(index) = index {
            forget(&mut self.by_probe_index, index, &node);
        }
    }

    pub(super) fn handle_probe(
        &mut self,
        from: Path,
        datagram: &[u8],
        now: Instant,
        out: &mut Output,
    ) -> Option<()> {
        let node = *self.by_probe_index.get(&probe::index(datagram)?)?;
        let probed = self.probed.get_mut(&node)?;
        match probed.prober.open(from, datagram, now)? {
            Heard::Request { transaction } => {
                if probed.received.allows(now) {
                    self.reports.push(Report::ProbeReceived { node, from });
                }
                let answer = Probe::Answer { transaction, observed: from.address() };
                self.send_probe(node, from, datagram.len(), answer, out);
            }
            Heard::Answer { transaction, observed, rtt } => {
                let report = Report::ProbeAnswered { node, transaction, to: from, observed, rtt };
                self.reports.push(report);
            }
        }
        Some(())
    }

    fn send_probe(
        &mut self,
        node: NodeId,
        to: Path,
        length: usize,
        probe: Probe,
        out: &mut Output,
    ) -> bool {
        let Some(probed) = self.probed.get_mut(&node) else { return false };
        let Some((key, index)) = probed.prober.sealing() else { return false };
        let counter = self.probe_counter;
        self.probe_counter += 1;
        out.network.send(to, length, |into| probe::seal(key, index, counter, probe, into))
    }
}
