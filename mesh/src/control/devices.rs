//! Devices: the list of this node's own, and what follows from everybody's.
//!
//! Changes of the own list wait until the one before is durable, then go into
//! the next together. What others are told may lag behind; what the operator
//! is told is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use epsilon_proto::clock::{Instant, Now};
use epsilon_proto::device::{Device, DeviceList, MAX_DEVICES, MAX_FALLBACKS, Serving};
use epsilon_proto::document::{Document as _, Signed, Verified};
use epsilon_proto::id::NodeId;
use epsilon_proto::key::AgreementKey;
use epsilon_proto::message::Change;
use epsilon_proto::name::NodeName;
use epsilon_proto::trust::{NetworkDocument, Revocation, Revoked};
use epsilon_proto::wire;
use rand_core::Rng as _;
use zeroize::Zeroizing;

use super::documents::Taken;
use super::own::{PUBLISH_BURST, PUBLISH_EVERY};
use super::storage::Then;
use super::{Control, NewDevice, OperationError, OperationId, Outcome, Output};
use crate::event::Event;
use crate::limit::Limit;
use crate::membership::{DeviceChange, Merged, Refused};
use crate::saved::Write;
use crate::shard::{Command, Prefix};

/// Longer lists are fetched, not spread by gossip.
const MAX_GOSSIPED: usize = 32 * 1024;

/// A change of the own list.
pub(super) enum Edit {
    /// A new device.
    Add { operation: OperationId, new: Box<NewDevice> },
    /// A device less.
    Remove { operation: OperationId, key: AgreementKey },
    /// A device came here.
    Turn(AgreementKey),
}

impl Edit {
    fn operation(&self) -> Option<OperationId> {
        match self {
            Self::Add { operation, .. } | Self::Remove { operation, .. } => Some(*operation),
            Self::Turn(_) => None,
        }
    }
}

/// The own list on its way.
pub(super) struct OwnDevices {
    waiting: Vec<Edit>,
    is_writing: bool,
    /// Whether the others were not told yet.
    is_unsaid: bool,
    budget: Limit,
    /// What the data plane was told.
    installed: BTreeMap<AgreementKey, Vec<Prefix>>,
}

impl OwnDevices {
    pub(super) fn new() -> Self {
        Self {
            waiting: Vec::new(),
            is_writing: false,
            is_unsaid: false,
            budget: Limit::new(PUBLISH_BURST, PUBLISH_EVERY),
            installed: BTreeMap::new(),
        }
    }

    /// When others may be told.
    pub(super) fn due(&self) -> Option<Instant> {
        self.is_unsaid.then(|| self.budget.due())
    }
}

impl Control {
    pub(super) fn add_device(
        &mut self,
        operation: OperationId,
        name: NodeName,
        key: Option<AgreementKey>,
        fallbacks: Vec<NodeId>,
        now: Now,
    ) -> Result<(), OperationError> {
        if self.members.get(self.own).is_none() {
            return Err(OperationError::NotPublished);
        }
        let fallbacks: BTreeSet<NodeId> =
            fallbacks.into_iter().filter(|node| *node != self.own).collect();
        if fallbacks.len() > MAX_FALLBACKS {
            return Err(OperationError::TooManyFallbacks);
        }
        let unknown = fallbacks.iter().find(|node| self.members.get(**node).is_none());
        if let Some(unknown) = unknown {
            return Err(OperationError::UnknownNode(unknown.short()));
        }
        let secret = key.is_none().then(|| {
            let mut secret = Zeroizing::new([0; 32]);
            self.random.fill_bytes(&mut *secret);
            secret
        });
        let Some(key) = key.or_else(|| secret.as_deref().map(AgreementKey::of_secret)) else {
            return Err(OperationError::WeakKey);
        };
        let device = Device {
            key,
            name,
            ipv4: Ipv4Addr::UNSPECIFIED,
            fallbacks: fallbacks.into_iter().collect(),
            added: now.wall,
        };
        let new = Box::new(NewDevice { device, secret });
        self.own_devices.waiting.push(Edit::Add { operation, new });
        self.advance_devices(now);
        Ok(())
    }

    pub(super) fn remove_device(
        &mut self,
        operation: OperationId,
        key: AgreementKey,
        now: Now,
    ) -> Result<(), OperationError> {
        let owner = self.members.device(key).map(|placed| placed.owner);
        let is_listed = || {
            let list = self.members.list(self.own);
            list.is_some_and(|list| list.devices.iter().any(|device| device.key == key))
        };
        if owner == Some(self.own) || (owner.is_none() && is_listed()) {
            self.own_devices.waiting.push(Edit::Remove { operation, key });
            self.advance_devices(now);
            return Ok(());
        }
        let owner = owner.ok_or_else(|| OperationError::UnknownDevice(key.short()))?;
        let revocation = Revocation {
            revoked: Revoked::Device(key),
            issued: self.trusted_time(now),
            came_by: None,
        };
        let admin = self.admin().map_err(|error| match error {
            OperationError::NotAdmin => {
                let owner = self.members.name_of(owner, &self.trust);
                let owner =
                    owner.map_or_else(|| "another node".to_owned(), |name| name.to_string());
                OperationError::NotOwner(owner)
            }
            other => other,
        })?;
        let revocation = NetworkDocument::Revocation(Signed::sign(&revocation, self.id, admin));
        self.commit(operation, vec![revocation], Outcome::Done);
        Ok(())
    }

    /// A device is there, in a session with this node.
    pub(super) fn device_heard(&mut self, key: AgreementKey, now: Now) {
        let placed = self.members.device(key);
        if placed.is_some_and(|placed| placed.is_for(self.own) && placed.server != self.own) {
            self.own_devices.waiting.push(Edit::Turn(key));
            self.advance_devices(now);
        }
    }

    /// Writes the next list, if there is anything new; tells the others.
    pub(super) fn advance_devices(&mut self, now: Now) {
        if !self.own_devices.is_writing && !self.own_devices.waiting.is_empty() {
            self.write_devices();
        }
        if self.own_devices.is_unsaid && self.own_devices.budget.allows(now.instant) {
            self.own_devices.is_unsaid = false;
            if let Some(list) = self.members.list(self.own) {
                let signed = list.signed().clone();
                self.spread_devices(&signed);
            }
        }
    }

    fn write_devices(&mut self) {
        let mut list = self.members.list(self.own).map(|list| (**list).clone()).unwrap_or_default();
        let before = list.clone();
        let mut done = Vec::new();
        for edit in std::mem::take(&mut self.own_devices.waiting) {
            match self.apply(edit, &mut list) {
                Ok(edit) => done.push(edit),
                Err((operation, error)) => {
                    self.outputs.push_back(Output::Done { operation, result: Err(error) });
                }
            }
        }
        list.serving.retain(|serving| {
            let placed = self.members.device(serving.device);
            placed.is_some_and(|placed| placed.is_for(self.own))
        });
        if list == before && done.is_empty() {
            return;
        }
        list.sequence += 1;
        let list = Verified::sign(list, self.id, &self.config.key);
        self.own_devices.is_writing = true;
        let writes = vec![Write::devices(self.own, list.signed())];
        self.persist(writes, Some(Then::Devices { list: Box::new(list), edits: done }));
    }

    /// Makes one change; gives back the edit as it was made.
    fn apply(
        &self,
        edit: Edit,
        list: &mut DeviceList,
    ) -> Result<Edit, (OperationId, OperationError)> {
        match edit {
            Edit::Add { operation, mut new } => {
                let refuse = |error| Err((operation, error));
                if let Err(error) = self.may_add(&new.device, list) {
                    return refuse(error);
                }
                let Some(ipv4) = self.free_device_ipv4(new.device.key, list) else {
                    return refuse(OperationError::NoAddress);
                };
                new.device.ipv4 = ipv4;
                let place = list.devices.partition_point(|one| one.key < new.device.key);
                list.devices.insert(place, new.device.clone());
                Ok(Edit::Add { operation, new })
            }
            Edit::Remove { operation, key } => {
                list.devices.retain(|device| device.key != key);
                Ok(Edit::Remove { operation, key })
            }
            Edit::Turn(key) => {
                let turn = self.members.device(key).map_or(0, |placed| placed.turn);
                let serving = Serving { device: key, turn: turn.saturating_add(1) };
                match list.serving.binary_search_by_key(&key, |one| one.device) {
                    Ok(place) => list.serving[place] = serving,
                    Err(place) if list.serving.len() < MAX_DEVICES => {
                        list.serving.insert(place, serving);
                    }
                    Err(_) => {}
                }
                Ok(Edit::Turn(key))
            }
        }
    }

    fn may_add(&self, new: &Device, list: &DeviceList) -> Result<(), OperationError> {
        let key = new.key;
        if list.devices.len() >= MAX_DEVICES {
            return Err(OperationError::TooManyDevices);
        }
        if !key.is_strong() {
            return Err(OperationError::WeakKey);
        }
        if self.trust.is_device_revoked(key) {
            return Err(OperationError::KeyRevoked);
        }
        let is_members = self.members.iter().any(|(_, member)| member.key == key);
        if is_members
            || self.members.device(key).is_some()
            || list.devices.iter().any(|device| device.key == key)
        {
            return Err(OperationError::KeyTaken);
        }
        if self.is_name_taken(&new.name, None)
            || list.devices.iter().any(|device| device.name == new.name)
        {
            return Err(OperationError::NameTaken(new.name.clone()));
        }
        Ok(())
    }

    fn free_device_ipv4(&self, key: AgreementKey, list: &DeviceList) -> Option<Ipv4Addr> {
        let candidates =
            (0..4096).map(|attempt| self.range().device_candidate(self.id, key, attempt));
        let is_free = |address: &Ipv4Addr| {
            !self.is_ipv4_taken(*address, None)
                && !list.devices.iter().any(|device| device.ipv4 == *address)
        };
        candidates.into_iter().find(is_free)
    }

    /// The list is durable, or could not be made so.
    pub(super) fn devices_persisted(
        &mut self,
        list: &Verified<DeviceList>,
        edits: Vec<Edit>,
        result: Result<(), &str>,
        now: Now,
    ) {
        self.own_devices.is_writing = false;
        let fail = |error: OperationError| {
            let operations = edits.iter().filter_map(Edit::operation);
            let failed =
                operations.map(|operation| Output::Done { operation, result: Err(error.clone()) });
            failed.collect::<Vec<_>>()
        };
        if let Err(reason) = result {
            let failed = fail(OperationError::Storage(reason.to_owned()));
            self.outputs.extend(failed);
            return;
        }
        match self.members.merge_devices(list.signed(), &self.trust, &*self.config.check) {
            Ok(Merged::New) => {}
            Ok(_) => {
                // A newer list of this node came in between, from before its disk
                // was set back: the changes go on top of that.
                self.own_devices.waiting.splice(0..0, edits);
                return;
            }
            Err(_) => {
                let failed = fail(OperationError::NotPublished);
                self.outputs.extend(failed);
                return;
            }
        }
        self.own_devices.is_unsaid = true;
        self.refresh_members(now);
        for edit in edits {
            let (operation, outcome) = match edit {
                Edit::Add { operation, new } => (operation, Outcome::Device(new)),
                Edit::Remove { operation, .. } => (operation, Outcome::Done),
                Edit::Turn(_) => continue,
            };
            self.outputs.push_back(Output::Done { operation, result: Ok(outcome) });
        }
    }

    /// Tells the linked members of a list.
    pub(super) fn spread_devices(&mut self, list: &Signed<DeviceList>) {
        let bytes = wire::encode(&Change::Devices(list.clone()));
        if bytes.len() <= MAX_GOSSIPED {
            self.outputs.push_back(Output::Publish(bytes));
        } else {
            for node in self.linked() {
                self.start_sync(node);
            }
        }
    }

    /// Takes a list and does what follows from it.
    pub(super) fn take_devices(&mut self, list: &Signed<DeviceList>, now: Now) -> Taken {
        let node = NodeId::from(list.signer());
        let before = self.members.list(node).map(|known| known.signed().clone());
        match self.members.merge_devices(list, &self.trust, &*self.config.check) {
            Ok(Merged::New) => {}
            Ok(Merged::Known | Merged::Stale) => return Taken::Known,
            Ok(Merged::Contradicts) => {
                if self.members.list(node).map(Verified::signed) == before.as_ref() {
                    return Taken::Known;
                }
            }
            Err(Refused::Missing(_)) => return Taken::Incomplete,
            Err(_) => return Taken::Bad,
        }
        self.persist(vec![Write::devices(node, list)], None);
        self.refresh_members(now);
        Taken::New
    }

    /// A list came by gossip: whether it is worth being judged, and may be
    /// now. Nobody but its owner spends the budget.
    pub(super) fn is_devices_news(
        &mut self,
        from: NodeId,
        list: &Signed<DeviceList>,
        now: Now,
    ) -> Result<(), Option<bool>> {
        let owner = NodeId::from(list.signer());
        let said = list.peek().map_err(|_| Some(false))?;
        let known = self.members.list(owner);
        if known.is_some_and(|known| known.sequence >= said.sequence) {
            return Err(None);
        }
        if self.members.get(owner).is_some() {
            if list.verify(self.id, &*self.config.check).is_err() {
                return Err(Some(false));
            }
            self.may_forward(from, owner, now)?;
        }
        Ok(())
    }

    /// Brings data plane, names and addresses of devices up to what the lists
    /// say; gives back the nodes whose prefixes changed.
    pub(super) fn refresh_devices(&mut self) -> BTreeSet<NodeId> {
        let mut nodes = BTreeSet::new();
        for DeviceChange { key, before, now } in self.members.place_devices(&self.trust) {
            nodes.extend(before.iter().chain(&now).map(|placed| placed.server));
            match (&before, &now) {
                (None, Some(now)) => {
                    self.event(Event::DeviceAdded(key, now.device.name.clone(), now.owner));
                }
                (Some(before), None) => {
                    self.event(Event::DeviceRemoved(key, before.device.name.clone()));
                }
                (Some(before), Some(now)) if before.server != now.server => {
                    let name = now.device.name.clone();
                    self.event(Event::DeviceMoved(key, name, now.server));
                }
                _ => {}
            }
            if let Some(now) = now.as_ref().filter(|now| now.owner == self.own)
                && (now.ipv4.is_none() || now.name.is_none())
                && before
                    .as_ref()
                    .is_none_or(|before| (before.ipv4, &before.name) != (now.ipv4, &now.name))
            {
                self.event(Event::DeviceDisplaced(key, now.device.name.clone()));
            }
            self.refresh_device(key);
        }
        nodes
    }

    fn refresh_device(&mut self, key: AgreementKey) {
        let placed = self.members.device(key).filter(|placed| placed.is_for(self.own));
        let prefixes = placed.map(|placed| {
            if placed.server == self.own { self.device_prefixes(key) } else { Vec::new() }
        });
        let installed = &mut self.own_devices.installed;
        if installed.get(&key) == prefixes.as_ref() {
            return;
        }
        let command = if let Some(prefixes) = prefixes {
            installed.insert(key, prefixes.clone());
            Command::SetDevice { key, prefixes }
        } else {
            installed.remove(&key);
            Command::RemoveDevice { key }
        };
        self.outputs.push_back(Output::Shard(command));
    }

    /// The addresses of a device.
    pub(super) fn device_prefixes(&self, key: AgreementKey) -> Vec<Prefix> {
        let ipv4 = self.members.device(key).and_then(|placed| placed.ipv4);
        let ipv4 = ipv4.map(IpAddr::V4).into_iter();
        ipv4.chain([IpAddr::V6(self.range6.device(key))]).map(Prefix::host).collect()
    }
}

const _: () = assert!(DeviceList::MAX_BYTES < super::sync::MAX_DELIVERY / 2);
