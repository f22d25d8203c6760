//! What a peer needs of its shard, and what the shard decides for it.

use std::collections::VecDeque;

use epsilon_proto::address::DEFAULT_MTU;
use epsilon_proto::clock::Instant;

use super::batch::SendBatch;
use super::command::Report;
use super::wireguard::WireGuard;
use super::{ecn, mss};

/// Reports that Control has not taken yet.
#[derive(Default)]
pub(super) struct Reports {
    pub(super) queue: VecDeque<Report>,
    pub(super) lost: u64,
}

impl Reports {
    const CAPACITY: usize = 1024;

    /// Adds a report; drops and counts it where Control does not keep up.
    pub(super) fn push(&mut self, report: Report) {
        if self.queue.len() < Self::CAPACITY {
            self.queue.push_back(report);
        } else {
            self.lost += 1;
        }
    }
}

/// What a peer needs of its shard for the length of one call.
pub(super) struct Context<'a> {
    pub(super) now: Instant,
    pub(super) network: &'a mut SendBatch,
    pub(super) reports: &'a mut Reports,
    pub(super) wireguard: &'a mut WireGuard,
    /// See [`super::Shard::authentic`].
    pub(super) authentic: &'a mut u64,
}

/// Where an authentic packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    Host,
    /// To the peer in this slot.
    Peer(usize),
}

/// Why an authentic packet goes nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    Source,
    Destination,
    Hops,
    Filtered,
    Congestion,
}

/// Decides what becomes of an opened packet.
pub(super) struct Judge<A> {
    pub(super) admit: A,
    pub(super) mtu: u16,
}

impl<A: Fn(&[u8]) -> Result<Next, Refusal>> Judge<A> {
    /// Says into `next` where the packet goes, and gives back how much of it is for the
    /// host.
    pub(super) fn packet(
        &self,
        packet: &mut [u8],
        mark: u8,
        next: &mut Option<Result<Next, Refusal>>,
        forwarded: &mut Vec<u8>,
    ) -> usize {
        let mut judged = (self.admit)(packet);
        if judged.is_ok() && !ecn::unwrap(packet, mark) {
            judged = Err(Refusal::Congestion);
        }
        if self.mtu < DEFAULT_MTU {
            mss::clamp(packet, self.mtu);
        }
        *next = Some(judged);
        match judged {
            Ok(Next::Host) => packet.len(),
            Ok(Next::Peer(_)) => {
                forwarded.clear();
                forwarded.extend_from_slice(packet);
                0
            }
            Err(_) => 0,
        }
    }
}
