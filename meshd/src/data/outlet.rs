//! Where packets leave: to the network in as few calls as it takes, to the
//! host in as few packets.

use std::os::fd::AsFd;
use std::sync::Arc;

use epsilon_mesh::shard::offload::Segments;
use epsilon_mesh::shard::{Lane, Output, Target};
use epsilon_proto::address::is_stream;
use epsilon_sys::udp::{Datagram, Sender};

use super::answers::Answers;
use super::delivery::Delivery;
use super::parcel::{Door, hand_over};
use super::stream::Table;
use super::{Failures, Sockets, Tun};

pub(super) struct Outlet {
    /// What the shard writes to.
    pub(super) out: Output,
    pub(super) tun: Tun,
    pub(super) sockets: Sockets,
    /// What the network did not take.
    pub(super) network: Failures,
    /// To the host.
    pub(super) delivery: Delivery,
    pub(super) sender: Sender,
    /// From where.
    pub(super) answers: Answers,
    /// Of what it was said last that datagrams go one by one for it.
    warned: Option<i32>,
    /// Of every lane, its own included.
    doors: Vec<Door>,
    /// What other lanes did not take.
    pub(super) not_passed: u64,
    streams: Arc<Table>,
}

impl Outlet {
    pub(super) fn new(
        lane: Lane,
        tun: Tun,
        sockets: Sockets,
        doors: Vec<Door>,
        streams: Arc<Table>,
        answers: Answers,
    ) -> Self {
        let mut delivery = Delivery::default();
        if !tun.takes_joined_datagrams() {
            delivery.leave_apart(Segments::Udp(0));
        }
        Self {
            out: Output::of(lane),
            tun,
            sockets,
            network: Failures::default(),
            delivery,
            sender: Sender::default(),
            answers,
            warned: None,
            doors,
            not_passed: 0,
            streams,
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
            self.answers.refresh();
            let (sockets, answers) = (&self.sockets, &self.answers);
            let is_by_stream = |target: &Target| is_stream(target.path.address());
            if !self.streams.is_empty() {
                let by_stream = self.out.network.iter().filter(|(target, _)| is_by_stream(target));
                by_stream.for_each(|(target, bytes)| {
                    self.streams.send(target.path.address(), bytes);
                });
            }
            let datagrams = self.out.network.iter().filter(|(target, _)| !is_by_stream(target));
            let datagrams = datagrams.map(|(target, bytes)| Datagram {
                address: target.path.address(),
                own: answers.of(target.path.address()),
                ecn: target.ecn,
                whole: target.whole,
                bytes,
            });
            let failures = &mut self.network;
            self.sender.send(
                |to, whole| sockets.sending(to.is_ipv4(), whole).map(AsFd::as_fd),
                datagrams,
                |error, count| failures.count(error, count),
            );
            self.out.network.clear();
            for peer in self.sender.take_strange() {
                self.answers.is_gone(peer);
            }
            if self.sender.refusal() != self.warned {
                self.warned = self.sender.refusal();
                let (interface, errno) = (self.tun.name(), self.warned);
                if self.sender.segments() {
                    let what =
                        "joined datagrams are too long for a route; for it they go one by one";
                    tracing::info!(interface, ?errno, "{what}");
                } else {
                    tracing::warn!(
                        interface,
                        ?errno,
                        "no UDP segmentation; datagrams go one by one"
                    );
                }
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
        let tun = &self.tun;
        if !tun.has_offload() {
            return self.delivery.deliver(&self.out.host, |packet| tun.send(packet));
        }
        let refused = self.delivery.deliver_joined(&mut self.out.host, |packet| tun.send(packet));
        if let Some(kind) = refused {
            let interface = tun.name();
            tracing::warn!(interface, ?kind, "the kernel takes no joined packets of that kind");
        }
    }
}
