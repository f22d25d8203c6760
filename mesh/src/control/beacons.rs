//! Beacons on local networks: sent, heard, and whom they lead to.

use std::net::SocketAddr;
use std::time::Duration;

use epsilon_proto::beacon::Beacon;
use epsilon_proto::clock::Now;

use super::{Control, Output};
use crate::dial::Callee;

/// Between two beacons once everybody had the chance to hear one.
const BEACON_EVERY: Duration = Duration::from_mins(1);
/// The pauses after the first beacons.
const BEACON_FIRST: [Duration; 4] = [
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
];
/// How many of the gate's secrets are tried on a beacon.
const BEACON_SECRETS: usize = 4;
/// How many unknown nodes that were heard on the local network are called.
const MAX_STRANGERS: usize = 64;
/// An unknown node that was not heard for so long is called no more; it sends
/// a beacon each minute.
const STRANGER_MEMORY: Duration = Duration::from_mins(5);

impl Control {
    /// Sends a beacon, and says when the next is due.
    pub(super) fn send_beacon(&mut self, now: Now) {
        if let Some(secret) = self.gate.newest() {
            let beacon =
                Beacon { node: self.own, boot: self.config.boot, port: self.settings.port };
            let datagram = beacon.seal(secret, self.id, &mut self.random);
            self.outputs.push_back(Output::Beacon(datagram));
        }
        let pause = BEACON_FIRST.get(self.beacons_sent as usize).copied().unwrap_or(BEACON_EVERY);
        self.beacons_sent = self.beacons_sent.saturating_add(1);
        self.beacon_due = now.instant + pause + self.jitter(pause / 8);
    }

    /// A beacon was heard on the local network.
    pub fn handle_beacon(&mut self, from: SocketAddr, datagram: &[u8], now: Now) {
        // The oldest is common to all who were there from the beginning.
        let secrets = self.gate.iter().take(BEACON_SECRETS - 1).chain(self.gate.iter().last());
        let opened = secrets.into_iter().find_map(|secret| Beacon::open(datagram, secret, self.id));
        let Some(beacon) = opened else { return };
        if beacon.node == self.own {
            // One of an earlier run is a recording.
            if !self.identity.boots.contains(&beacon.boot) {
                self.cloned(self.own, [self.config.boot, beacon.boot], now);
            }
            return;
        }
        if self.trust.is_node_revoked(beacon.node)
            || self.peers.get(&beacon.node).is_some_and(|peer| peer.link.is_some())
            || !self.is_wanted(beacon.node)
        {
            return;
        }
        let is_member = self.members.get(beacon.node).is_some();
        if is_member || self.strangers().count() < MAX_STRANGERS {
            let mut address = from;
            address.set_port(beacon.port);
            self.dialer.heard(Callee::Node(beacon.node), address, now.instant);
            self.make_calls(now);
        }
    }

    /// Unknown nodes that were heard on the local network and are called.
    fn strangers(&self) -> impl Iterator<Item = Callee> {
        self.dialer.callees().filter(
            |callee| matches!(callee, Callee::Node(node) if self.members.get(*node).is_none()),
        )
    }

    /// Gives up strangers that are heard no more.
    pub(super) fn forget_strangers(&mut self, now: Now) {
        let strangers: Vec<Callee> = self.strangers().collect();
        for stranger in strangers {
            let heard = self.dialer.last_heard(stranger);
            if heard.is_none_or(|heard| now.instant.since(heard) > STRANGER_MEMORY) {
                self.dialer.forget(stranger);
            }
        }
    }
}
