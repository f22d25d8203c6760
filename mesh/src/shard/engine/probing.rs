//! Sending probes, and answering them: the front alone does.

use std::time::Duration;

use epsilon_proto::clock::Instant;
use epsilon_proto::id::NodeId;

use super::super::batch::{Output, Target};
use super::super::command::{Path, Report};
use super::super::probe::{self, Probe, ProbeKeys};
use super::super::prober::{Heard, Prober};
use super::super::wireguard::sealed_length;
use super::Shard;
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
    pub(super) fn set_probe_keys(&mut self, node: NodeId, keys: ProbeKeys) {
        self.forget_probe_index(node);
        if let Some(probed) = self.probed.get_mut(&node) {
            self.by_probe_index.insert((keys.local_index, node));
            probed.prober.set(keys);
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
        size: Option<u16>,
        transaction: u64,
        now: Instant,
        out: &mut Output,
    ) {
        let request = Probe::Request { transaction };
        let length = size.map_or(0, |size| sealed_length(size.into()));
        let length = length.clamp(probe::LENGTH, probe::MAX_LENGTH);
        if self.send_probe(node, to, length, request, out)
            && let Some(probed) = self.probed.get_mut(&node)
        {
            probed.prober.sent(transaction, to, now);
        }
    }

    /// Takes the index of the peer's probes away.
    pub(super) fn forget_probe_index(&mut self, node: NodeId) {
        let index = self.probed.get(&node).and_then(|probed| probed.prober.local_index());
        if let Some(index) = index {
            self.by_probe_index.remove(&(index, node));
        }
    }

    pub(super) fn handle_probe(
        &mut self,
        from: Path,
        datagram: &[u8],
        now: Instant,
        out: &mut Output,
    ) -> Option<()> {
        let index = probe::index(datagram)?;
        // Nearly always there is one of whom it can be.
        let known =
            self.by_probe_index.range((index, NodeId([0; 32]))..=(index, NodeId([255; 32])));
        let (node, heard) = known.copied().find_map(|(_, node)| {
            let prober = &mut self.probed.get_mut(&node)?.prober;
            Some((node, prober.open(from, datagram, now)?))
        })?;
        self.authentic += 1;
        let probed = self.probed.get_mut(&node)?;
        match heard {
            Heard::Request { transaction } => {
                // Longer ones come in bursts, on a way that is known.
                if datagram.len() == probe::LENGTH && probed.received.allows(now) {
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
        let target = Target { whole: true, ..to.into() };
        out.network.send(target, length, |into| probe::seal(key, index, counter, probe, into))
    }
}
