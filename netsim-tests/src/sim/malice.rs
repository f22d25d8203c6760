//! What a member may do that means no good: it has keys of its own, sees and repeats what
//! others send, and sends with any source.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::datagram::{Content, Datagram};
use super::nat::Protocol;
use super::topology::Arrived;
use super::world::{Event, World};

/// Whoever misbehaves, and what comes of it.
#[derive(Default)]
pub(crate) struct Malice {
    /// Who says that it sees others where nobody is.
    liars: BTreeSet<usize>,
    /// Who passes nothing on that it said it would.
    holes: BTreeSet<usize>,
    /// By whom how many of a hundred datagrams of others are sent on from elsewhere, before
    /// they arrive: those that arrive later are repetitions.
    thief: Option<(usize, u32)>,
    /// How many victims were made up.
    victims: u64,
    /// What was sent to where victims are: datagrams, and connections.
    aimed: [u64; 2],
}

/// Where victims are, and no machine ever is (RFC 5737).
fn is_victim(address: SocketAddr) -> bool {
    matches!(address.ip(), IpAddr::V4(ip) if ip.octets()[..3] == [192, 0, 2])
}

impl World {
    /// An address of somebody who is none of the fleet, another each time.
    pub fn victim(&mut self) -> SocketAddr {
        self.malice.victims += 1;
        let number = self.malice.victims;
        SocketAddr::from(([192, 0, 2, (number % 250) as u8 + 1], 1024 + (number / 250) as u16))
    }

    /// How much was sent to victims.
    pub fn aimed(&self, protocol: Protocol) -> u64 {
        self.malice.aimed[usize::from(protocol == Protocol::Tcp)]
    }

    pub(crate) fn note_aim(&mut self, protocol: Protocol, to: SocketAddr) {
        if is_victim(to) {
            self.malice.aimed[usize::from(protocol == Protocol::Tcp)] += 1;
        }
    }

    /// From now on a machine says every other time that it sees others where victims are.
    pub fn lie(&mut self, machine: usize) {
        self.malice.liars.insert(machine);
    }

    /// Where a machine says that it sees a datagram come from.
    pub(crate) fn said_of(&mut self, machine: usize, from: SocketAddr) -> SocketAddr {
        let lies = self.malice.liars.contains(&machine) && self.random.chance(50);
        if lies { self.victim() } else { from }
    }

    /// A machine passes nothing on any more, and says nothing of it.
    pub fn swallow(&mut self, machine: usize) {
        self.malice.holes.insert(machine);
    }

    pub(crate) fn swallows(&self, machine: usize) -> bool {
        self.malice.holes.contains(&machine)
    }

    /// A machine sees what others send, and sends so many of a hundred datagrams on by
    /// itself, before they arrive.
    pub fn steal(&mut self, machine: usize, share: u32) {
        self.malice.thief = Some((machine, share));
    }

    /// Where a datagram comes from in the end.
    pub(crate) fn stolen(&mut self, from: usize, arrived: Arrived) -> Arrived {
        let Some((thief, share)) = self.malice.thief else { return arrived };
        if thief == from || thief == arrived.machine || !self.random.chance(share) {
            return arrived;
        }
        Arrived { from: self.machines[thief].address, ..arrived }
    }

    /// A machine says in record and calls that it is at other addresses as well.
    pub fn name_addresses(&mut self, machine: usize, addresses: Vec<SocketAddr>) {
        let at = self.now();
        let one = &mut self.machines[machine];
        let now = one.now(at);
        if let Some(control) = &mut one.control {
            control.handle_configured_addresses(addresses, now);
            self.drain(machine);
        }
    }

    /// A machine probes another that is not behind a NAT, from where it is not.
    pub fn probe_from_elsewhere(&mut self, machine: usize, target: usize, from: SocketAddr) {
        let (run, to) = (self.machines[machine].run, self.machines[target].node);
        let content = Content::Request { transaction: 0 };
        let datagram = Datagram::new((machine, run), to, content);
        let to = self.machines[target].address;
        let arrived = Arrived { machine: target, from, to, nats: Vec::new() };
        let delay = self.delay(machine, target);
        self.queue.after(delay, Event::Datagram(datagram, arrived));
    }
}
