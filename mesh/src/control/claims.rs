//! Which address and which name this node claims, and when it gives them up.

use std::net::Ipv4Addr;

use epsilon_proto::clock::Now;
use epsilon_proto::id::NodeId;
use epsilon_proto::name::NodeName;

use super::Control;
use super::own::{DISPUTE, PROMISE};
use crate::event::Event;
use crate::saved::Write;

impl Control {
    pub(super) fn choose_claims(&mut self, now: Now) {
        if self.own_record.claim_alone.is_some_and(|alone| now.instant >= alone) {
            self.own_record.claim_alone = None;
        }
        let must_wait = self.own_record.claim_alone.is_some() && !self.own_record.synced;
        if must_wait {
            return;
        }
        self.own_record.claim_alone = None;
        self.own_record.promises.retain(|_, (_, since)| now.instant.since(*since) < PROMISE);
        let must_yield = self.must_yield(now);
        let mut changed = false;
        if self.identity.ipv4.is_none_or(|claimed| must_yield && self.is_ipv4_lost(claimed)) {
            if let Some(lost) = self.identity.ipv4 {
                self.event(Event::AddressLost(lost));
            }
            let address = self.free_ipv4();
            self.identity.ipv4 = Some(address);
            self.event(Event::AddressTaken(address));
            changed = true;
        }
        let name_lost = match &self.identity.name {
            Some(name) => must_yield && self.is_name_lost(name),
            None => true,
        };
        if name_lost && let Some(name) = self.free_name() {
            if let Some(lost) = self.identity.name.replace(name.clone()) {
                self.event(Event::NameLost(lost));
            }
            self.event(Event::NameTaken(name));
            changed = true;
        }
        if changed {
            self.own_record.disputed = None;
            self.persist(vec![Write::identity_state(&self.identity)], None);
            self.own_record.touch();
            self.announce_addresses();
        }
    }

    /// Whether a claim was lost long enough to be given up. At first the two
    /// claimants may not have each other's newest records, rank themselves
    /// differently, and both yield.
    fn must_yield(&mut self, now: Now) -> bool {
        let lost = self.identity.ipv4.is_some_and(|claimed| self.is_ipv4_lost(claimed))
            || self.identity.name.as_ref().is_some_and(|claimed| self.is_name_lost(claimed));
        if !lost {
            self.own_record.disputed = None;
            return false;
        }
        let since = *self.own_record.disputed.get_or_insert(now.instant);
        now.instant.since(since) >= DISPUTE
    }

    fn is_ipv4_lost(&self, claimed: Ipv4Addr) -> bool {
        // A pin elsewhere makes the claim idle, but takes nothing away.
        self.trust.pin(self.own).and_then(|pin| pin.ipv4).is_none()
            && (!self.range().assignable(claimed)
                || self
                    .members
                    .owner_of_ipv4(claimed, &self.trust)
                    .is_some_and(|owner| owner != self.own && self.is_own_record_in_force()))
    }

    fn is_name_lost(&self, claimed: &NodeName) -> bool {
        self.trust.pin(self.own).is_none_or(|pin| pin.name.is_none())
            && self
                .members
                .owner_of_name(claimed, &self.trust)
                .is_some_and(|owner| owner != self.own && self.is_own_record_in_force())
    }

    /// Whether the membership ranks this node's claims by its newest record;
    /// until then a claim may look lost that is not.
    pub(super) fn is_own_record_in_force(&self) -> bool {
        self.members.get(self.own).is_none_or(|member| {
            member.record.ipv4 == self.identity.ipv4 && member.record.name == self.identity.name
        })
    }

    fn free_ipv4(&mut self) -> Ipv4Addr {
        loop {
            let attempt = self.own_record.address_attempt;
            let address = self.range().candidate(self.id, self.own, attempt);
            self.own_record.address_attempt += 1;
            let taken = self.is_ipv4_taken(address, Some(self.own));
            // A range that is full beyond hope must not keep the node from
            // everything else; the conflict is then settled by rank.
            if !taken || attempt > 4096 {
                return address;
            }
        }
    }

    fn free_name(&mut self) -> Option<NodeName> {
        let wished = self.settings.name.clone().or_else(|| self.config.hostname.clone());
        let short = self.own.short();
        let wished = match wished {
            Some(wished) => wished,
            None => format!("node-{}", &short[..6]).parse().ok()?,
        };
        if self.own_record.name_attempt == 0 && !self.is_name_taken(&wished, Some(self.own)) {
            self.own_record.name_attempt = 1;
            return Some(wished);
        }
        self.own_record.name_attempt += 1;
        let length = (3 + self.own_record.name_attempt as usize).min(short.len());
        wished.with_suffix(&short[..length])
    }

    /// Whether an address belongs to another than this node; than anybody, for
    /// a device.
    pub(super) fn is_ipv4_taken(&self, address: Ipv4Addr, by_other_than: Option<NodeId>) -> bool {
        let owner = self.members.owner_of_ipv4(address, &self.trust);
        owner.is_some_and(|owner| Some(owner) != by_other_than)
            || (self.members.device_at(address).is_some() && !self.are_devices_many())
            || (by_other_than != Some(self.own) && self.identity.ipv4 == Some(address))
            || self.own_record.promises.iter().any(|(node, (claims, _))| {
                Some(*node) != by_other_than && claims.ipv4 == Some(address)
            })
    }

    /// Whether devices have so many of the addresses that a node might find none: it
    /// takes one then, as nodes may.
    fn are_devices_many(&self) -> bool {
        self.members.devices().count() > self.range().capacity() as usize / 2
    }

    /// The same for a name.
    pub(super) fn is_name_taken(&self, name: &NodeName, by_other_than: Option<NodeId>) -> bool {
        let owner = self.members.owner_of_name(name, &self.trust);
        owner.is_some_and(|owner| Some(owner) != by_other_than)
            || self.members.device_named(name).is_some()
            || (by_other_than != Some(self.own) && self.identity.name.as_ref() == Some(name))
            || self.own_record.promises.iter().any(|(node, (claims, _))| {
                Some(*node) != by_other_than && claims.name.as_ref() == Some(name)
            })
    }
}
