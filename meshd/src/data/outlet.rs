//! Where packets leave: to the network in as few calls as it takes, to the
//! host in as few packets.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;

use epsilon_mesh::shard::offload::{Coalescer, MOST_PIECES};
use epsilon_mesh::shard::{Lane, Output, Path};
use epsilon_sys::udp::{Carried, Datagram, Sender};

use super::parcel::{Door, hand_over};
use super::{Failures, Sockets, Tun};

pub(super) struct Outlet {
    /// What the shard writes to.
    pub(super) out: Output,
    pub(super) tun: Tun,
    pub(super) sockets: Sockets,
    pub(super) network: Failures,
    pub(super) host: Failures,
    /// What the host took.
    pub(super) delivered: Carried,
    pub(super) sender: Sender,
    coalescer: Coalescer,
    /// Whether it was said that datagrams go one by one.
    warned: bool,
    /// Of every lane, its own included.
    doors: Vec<Door>,
    /// What other lanes did not take.
    pub(super) not_passed: u64,
}

impl Outlet {
    pub(super) fn new(lane: Lane, tun: Tun, sockets: Sockets, doors: Vec<Door>) -> Self {
        Self {
            out: Output::of(lane),
            tun,
            sockets,
            network: Failures::default(),
            host: Failures::default(),
            delivered: Carried::default(),
            sender: Sender::default(),
            coalescer: Coalescer::default(),
            warned: false,
            doors,
            not_passed: 0,
        }
    }

    /// The batches, with room for what one more input gives.
    pub(super) fn room(&mut self) -> &mut Output {
        if !self.out.has_room() {
            self.flush();
        }
        &mut self.out
    }

    /// Empties the batches.
    pub(super) fn flush(&mut self) {
        if !self.out.network.is_empty() {
            let sockets = &self.sockets;
            let datagrams = self.out.network.iter().map(|(target, bytes)| {
                let Path::Direct(address) = target.path;
                Datagram { address, ecn: target.ecn, bytes }
            });
            let failures = &mut self.network;
            self.sender.send(
                |to| {
                    if to.is_ipv4() {
                        Some(sockets.v4().as_fd())
                    } else {
                        sockets.v6().map(AsFd::as_fd)
                    }
                },
                datagrams,
                |error, count| failures.count(error, count),
            );
            self.out.network.clear();
            if !self.sender.segments() && !std::mem::replace(&mut self.warned, true) {
                let (interface, errno) = (self.tun.name(), self.network.last_errno);
                tracing::warn!(interface, ?errno, "no UDP segmentation; datagrams go one by one");
            }
        }
        if !self.out.host.is_empty() {
            self.deliver();
            self.out.host.clear();
        }
        if !self.out.passed.is_empty() {
            self.not_passed += hand_over(&self.out.passed, &self.doors);
            self.out.passed.clear();
        }
    }

    fn deliver(&mut self) {
        self.delivered.calls += 1;
        let mut taken = |result: io::Result<()>, packets: usize| match result {
            Ok(()) => {
                self.delivered.messages += 1;
                self.delivered.packets += packets as u64;
            }
            Err(error) => self.host.count(&error, packets),
        };
        if !self.tun.has_offload() {
            for ((), packet) in self.out.host.iter() {
                taken(self.tun.send(&[IoSlice::new(packet)]), 1);
            }
            return;
        }
        let mut slices = [IoSlice::new(&[]); MOST_PIECES];
        for packet in self.coalescer.coalesce(&mut self.out.host) {
            let mut count = 0;
            for (slice, piece) in slices.iter_mut().zip(packet.pieces()) {
                *slice = IoSlice::new(piece);
                count += 1;
            }
            // All but the first are packets.
            taken(self.tun.send(&slices[..count]), count - 1);
        }
    }
}
