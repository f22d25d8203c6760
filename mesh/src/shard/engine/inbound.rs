//! The way in: datagrams of the network, and whose they are.

use std::net::SocketAddr;

use epsilon_proto::clock::Instant;
use epsilon_proto::datagram::{Channel, DATA, Kind as DatagramKind};

use super::super::batch::{Output, Target};
use super::super::command::{Path, Report};
use super::super::context::{Context, Next, Refusal};
use super::super::inner::{self, Addresses};
use super::super::lane::Kind;
use super::super::prober::canonical;
use super::super::transit::Verdict;
use super::super::wireguard::{HANDSHAKE_LENGTH, Initiator};
use super::seat::Seat;
use super::{MAX_ASIDE, Place, Shard, Slot, earlier};

impl Shard {
    /// Takes a datagram of the network; `mark` are the ECN bits of its IP header.
    pub fn handle_datagram(
        &mut self,
        from: SocketAddr,
        mark: u8,
        datagram: &[u8],
        now: Instant,
        out: &mut Output,
    ) {
        self.changes += 1;
        let from = canonical(from);
        let Some((channel, first)) = Channel::of(datagram) else {
            return self.handle_straight(Path::Direct(from), mark, datagram, now, out);
        };
        match self.transit.next(channel, from, datagram.len(), now) {
            Verdict::To(to, is_news) => {
                if is_news {
                    self.reports.push(Report::ChannelUsed { channel });
                }
                let whole = Channel::carries_probe(datagram);
                let target = Target { path: Path::Direct(to), ecn: mark, whole };
                return self.pass_on(target, datagram, out);
            }
            Verdict::TooMuch => {
                self.dropped.relayed += 1;
                return;
            }
            Verdict::Unknown => {}
        }
        let from = Path::Relayed(from, channel);
        if first == DATA {
            // What is seen of it is not in its first bytes.
            let taken = self.handle_data((from, mark), datagram, now, out);
            self.dropped.unknown += u64::from(taken.is_none());
            return;
        }
        let mut whole = [0; MAX_ASIDE];
        let Some(whole) = whole.get_mut(..datagram.len()) else {
            self.dropped.unknown += 1;
            return;
        };
        whole.copy_from_slice(datagram);
        Channel::unmark(whole);
        self.handle_straight(from, mark, whole, now, out);
    }

    /// Passes a datagram on as it is.
    fn pass_on(&mut self, target: Target, datagram: &[u8], out: &mut Output) {
        let copy = |into: &mut [u8]| {
            into.copy_from_slice(datagram);
            datagram.len()
        };
        if !out.network.push(target, datagram.len(), copy) {
            self.dropped.relayed += 1;
        }
    }

    /// Takes a datagram that came straight, or as if it had.
    fn handle_straight(
        &mut self,
        from: Path,
        mark: u8,
        datagram: &[u8],
        now: Instant,
        out: &mut Output,
    ) {
        if !self.lane.is_front() && datagram.first() != Some(&DATA) {
            // The kernel does not tell what is data.
            return self.pass(0, Kind::Datagram { from, mark }, datagram, out);
        }
        let taken = match (DatagramKind::of(datagram), from) {
            (Some(DatagramKind::WireGuard), _) => {
                self.handle_wireguard((from, mark), datagram, now, out)
            }
            (Some(DatagramKind::Probe), _) => self.handle_probe(from, datagram, now, out),
            (Some(DatagramKind::Beacon), Path::Direct(from)) => {
                if self.beacons.allows(now) {
                    self.reports.push(Report::Beacon { from, datagram: datagram.to_vec() });
                } else {
                    self.dropped.beacons += 1;
                }
                Some(())
            }
            (Some(DatagramKind::Beacon) | None, _) => None,
        };
        if taken.is_none() {
            self.dropped.unknown += 1;
        }
    }

    /// Takes what another lane passed on as [`Kind::Datagram`].
    pub fn handle_passed(
        &mut self,
        from: Path,
        mark: u8,
        datagram: &[u8],
        now: Instant,
        out: &mut Output,
    ) {
        if self.lane.is_front() {
            return self.handle_straight(from, mark, datagram, now, out);
        }
        self.changes += 1;
        let taken = if datagram.first() == Some(&1) {
            // The front has judged it.
            let initiator = self.wireguard.passed_initiator(datagram);
            self.handle_initiator(initiator, from, datagram, now, out)
        } else {
            self.handle_wireguard((from, mark), datagram, now, out)
        };
        if taken.is_none() {
            self.dropped.unknown += 1;
        }
    }

    /// `None` where there is nobody whom it could be from.
    fn handle_wireguard(
        &mut self,
        (from, mark): (Path, u8),
        datagram: &[u8],
        now: Instant,
        out: &mut Output,
    ) -> Option<()> {
        if datagram.get(1..4)? != [0; 3] {
            return None;
        }
        let receiver_at = match *datagram.first()? {
            1 => return self.handle_initiation(from, datagram, now, out),
            2 => 8,
            3 => 4,
            _ => return self.handle_data((from, mark), datagram, now, out),
        };
        let slot = match self.place_of((from, mark), datagram, receiver_at, out)? {
            Place::Here(slot) => slot,
            Place::Passed => return Some(()),
        };
        self.with_peer(slot, now, out, |peer, context| {
            peer.handshake(from, datagram, context);
        })
    }

    /// Whose session a message is of, by the index in it.
    fn place_of(
        &mut self,
        (from, mark): (Path, u8),
        datagram: &[u8],
        receiver_at: usize,
        out: &mut Output,
    ) -> Option<Place> {
        let receiver = u32::from_le_bytes(*datagram.get(receiver_at..)?.first_chunk()?);
        let lane = self.indices.lane(receiver)?;
        if lane == self.lane.number() {
            return Some(Place::Here(self.indices.slot(receiver)));
        }
        if !self.wireguard.may_be(datagram) {
            return None;
        }
        self.pass(lane, Kind::Datagram { from, mark }, datagram, out);
        Some(Place::Passed)
    }

    /// Takes a data message, whose first four bytes may be a channel.
    fn handle_data(
        &mut self,
        (from, mark): (Path, u8),
        datagram: &[u8],
        now: Instant,
        out: &mut Output,
    ) -> Option<()> {
        let slot = match self.place_of((from, mark), datagram, 4, out)? {
            Place::Here(slot) => slot,
            Place::Passed => return Some(()),
        };
        let peer = self.slots.get_mut(slot)?.as_mut()?.here()?;
        let mut context = Context {
            now,
            network: &mut out.network,
            reports: &mut self.reports,
            wireguard: &mut self.wireguard,
            authentic: &mut self.authentic,
        };
        let id = peer.id;
        let (map, filter) = (&self.map, &self.filter);
        let admit = |packet: &[u8]| {
            let addresses = Addresses::of(packet).ok_or(Refusal::Source)?;
            if !map.may_send(slot, addresses.source) {
                return Err(Refusal::Source);
            }
            let next = map.next(addresses.destination);
            let next = next.filter(|next| *next != Next::Peer(slot)).ok_or(Refusal::Destination)?;
            if filter.admits(id, packet) { Ok(next) } else { Err(Refusal::Filtered) }
        };
        let is_outside = || match from {
            Path::Direct(from) => !map.is_inside(from.ip()),
            Path::Relayed(..) => false,
        };
        let into = (&mut out.host, &mut self.forwarded);
        let to = peer.open((from, mark), datagram, into, admit, is_outside, &mut context);
        self.timeout = earlier(self.timeout, peer.next_timeout());
        if let Some(to) = to {
            self.forward(slot, to, now, out);
        }
        Some(())
    }

    /// Sends the packet that came from one peer to another, where one of them
    /// is a device. Members reach each other by themselves.
    fn forward(&mut self, from: Slot, to: Slot, now: Instant, out: &mut Output) {
        let mut packet = std::mem::take(&mut self.forwarded);
        let is_device = |slot: Slot| {
            let seat = self.slots.get(slot).and_then(Option::as_ref);
            seat.is_some_and(|seat| seat.id().is_device())
        };
        let outcome = if !is_device(from) && !is_device(to) {
            Err(Refusal::Destination)
        } else if !inner::hop(&mut packet) {
            Err(Refusal::Hops)
        } else {
            self.send(to, &packet, now, out);
            Ok(())
        };
        if let Some(Some(Seat::Here(peer))) = self.slots.get_mut(from) {
            peer.count(packet.len(), outcome);
        }
        self.forwarded = packet;
    }

    fn handle_initiation(
        &mut self,
        from: Path,
        datagram: &[u8],
        now: Instant,
        out: &mut Output,
    ) -> Option<()> {
        let mut initiator = Initiator::Unknown;
        out.network.send(from, HANDSHAKE_LENGTH, |into| {
            initiator = self.wireguard.initiator(from.address(), datagram, now, into);
            if let Initiator::Challenged(length) = initiator { length } else { 0 }
        });
        self.handle_initiator(initiator, from, datagram, now, out)
    }

    fn handle_initiator(
        &mut self,
        initiator: Initiator,
        from: Path,
        datagram: &[u8],
        now: Instant,
        out: &mut Output,
    ) -> Option<()> {
        match initiator {
            Initiator::Key(key, opened, sender) => {
                let slot = *self.by_key.get(&key)?;
                if let Some(Some(Seat::Away { lane, .. })) = self.slots.get(slot) {
                    self.pass(*lane, Kind::Datagram { from, mark: 0 }, datagram, out);
                    return Some(());
                }
                self.with_peer(slot, now, out, |peer, context| {
                    peer.answer(from, *opened, sender, context);
                })
            }
            Initiator::Challenged(_) => Some(()),
            Initiator::Unknown => None,
        }
    }
}
