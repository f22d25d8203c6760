//! The way out: packets of the host, and what this node itself says of them.

use std::net::IpAddr;

use epsilon_proto::clock::Instant;
use epsilon_proto::datagram::Channel;

use super::super::batch::Output;
use super::super::command::PeerId;
use super::super::icmp::{self, Fault};
use super::super::inner::{self, Addresses};
use super::super::lane::{Kind, Passed};
use super::map::Way;
use super::seat::Seat;
use super::{Shard, Slot};

impl Shard {
    /// The peer to which packets for an inner address go, by longest prefix.
    pub fn route(&self, address: IpAddr) -> Option<PeerId> {
        let slot = self.map.towards(address)?;
        self.slots.get(slot)?.as_ref().map(Seat::id)
    }

    /// For which peer a packet of the host is, if for any.
    pub fn peer_for(&self, packet: &[u8]) -> Option<PeerId> {
        self.route(inner::destination(packet)?)
    }

    /// Takes a packet of the host, or what another lane passed on as
    /// [`Kind::Packet`].
    pub fn handle_packet(&mut self, packet: &[u8], now: Instant, out: &mut Output) {
        self.changes += 1;
        let destination = Addresses::of(packet).map(|addresses| addresses.destination);
        let Some(destination) = destination.filter(|to| !is_group(*to)) else {
            self.dropped.unsendable += 1;
            return;
        };
        let slot = match self.map.way(destination) {
            Way::To(slot) => slot,
            Way::Own => {
                self.dropped.unsendable += 1;
                return;
            }
            Way::Nowhere => {
                self.dropped.unroutable += 1;
                if self.errors.allows(now) {
                    self.tell(Fault::Unreachable, packet, now, out);
                }
                return;
            }
        };
        self.send(slot, packet, now, out);
    }

    /// Tells the sender of a packet why it goes nowhere; `false` if there is nothing that
    /// could be said of it.
    fn tell(&mut self, fault: Fault, packet: &[u8], now: Instant, out: &mut Output) -> bool {
        let mut answer = [0; icmp::MAX_LENGTH];
        let length = fault.answer(packet, &mut answer);
        let Some(source) = Addresses::of(packet).map(|all| all.source).filter(|_| length > 0)
        else {
            return false;
        };
        let answer = &answer[..length];
        if let Some(slot) = self.map.peer(source) {
            self.send(slot, answer, now, out);
        } else {
            let copy = |into: &mut [u8]| {
                into.copy_from_slice(answer);
                length
            };
            out.host.push((), length, copy);
        }
        true
    }

    /// Sends a packet to a peer, or passes it on.
    pub(in super::super) fn send(
        &mut self,
        slot: Slot,
        packet: &[u8],
        now: Instant,
        out: &mut Output,
    ) {
        match self.slots.get_mut(slot) {
            Some(Some(Seat::Away { lane, .. })) => {
                let lane = *lane;
                self.pass(lane, Kind::Packet, packet, out);
            }
            Some(Some(Seat::Here(peer))) => {
                if let Some(mtu) = peer.too_large(packet) {
                    if !peer.refuse_large(now) || self.tell(Fault::TooLarge(mtu), packet, now, out)
                    {
                        return;
                    }
                    // Of some packets nothing may be said.
                    self.with_peer(slot, now, out, |peer, _| peer.take_back());
                }
                self.with_peer(slot, now, out, |peer, context| peer.send(packet, context));
            }
            Some(None) | None => {}
        }
    }

    pub(super) fn pass(&mut self, lane: u8, kind: Kind, bytes: &[u8], out: &mut Output) {
        let copy = |into: &mut [u8]| {
            into.copy_from_slice(bytes);
            // Its path says what was over those bytes.
            Channel::unmark(into);
            bytes.len()
        };
        if !out.passed.push(Passed { lane, kind }, bytes.len(), copy) {
            self.dropped.passed += 1;
        }
    }
}

/// Whether an address is that of a group of hosts.
fn is_group(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    }
}
