//! Devices: the list of this node's own, and what follows from everybody's.
//!
//! Changes of the own list wait until the one before is durable, then go into
//! the next together. What others are told may lag behind; what the operator
//! is told is durable.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use epsilon_proto::clock::{Instant, Now};
use epsilon_proto::device::{Device, DeviceList, MAX_DEVICES, MAX_FALLBACKS, Serving};
use epsilon_proto::document::{Document as _, Signed, Verified};
use epsilon_proto::id::{DeviceId, NodeId};
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
use crate::membership::{DeviceChange, Merged, PlacedDevice, Refused};
use crate::saved::Write;
use crate::shard::{Command, Prefix};

/// Of other nodes' devices that have this one as a fallback at most so many, with
/// its own, have a seat in the data plane: members must find theirs.
const MAX_SEATS: usize = 4096;
/// Longer lists are fetched, not spread by gossip;
const MAX_GOSSIPED: usize = 32 * 1024;
/// so many members are asked to at once, and each of those asks as many.
const FETCHERS: usize = 3;
/// More changes at once are told in one line.
const TOLD: usize = 16;

/// A change of the own list.
pub(super) enum Edit {
    /// A new device.
    Add { operation: OperationId, new: Box<NewDevice> },
    /// A device less.
    Remove { operation: OperationId, key: AgreementKey },
    /// A device came here.
    Turn(DeviceId),
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
    seats: Seats,
}

/// The devices that the data plane was told of.
#[derive(Default)]
struct Seats {
    taken: BTreeMap<AgreementKey, Vec<Prefix>>,
    /// Those for which there was none.
    waiting: BTreeSet<AgreementKey>,
}

impl Seats {
    /// Whether one more key may have a seat. A key of this node's own device
    /// always may: of those there are at most [`MAX_DEVICES`].
    fn has_room(&self, is_own: bool) -> bool {
        is_own || self.taken.len() < MAX_SEATS
    }
}

impl OwnDevices {
    pub(super) fn new() -> Self {
        Self {
            waiting: Vec::new(),
            is_writing: false,
            is_unsaid: false,
            budget: Limit::new(PUBLISH_BURST, PUBLISH_EVERY),
            seats: Seats::default(),
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
        device: DeviceId,
        now: Now,
    ) -> Result<(), OperationError> {
        let placed = self.members.device(device);
        let placed = placed.ok_or_else(|| OperationError::UnknownDevice(device.short()))?;
        let (owner, key) = (placed.owner, placed.device.key);
        if owner == self.own {
            self.own_devices.waiting.push(Edit::Remove { operation, key });
            self.advance_devices(now);
            return Ok(());
        }
        let revocation = Revocation {
            revoked: Revoked::Device(device),
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

    /// Something that has this key is there, in a session with this node.
    pub(super) fn device_heard(&mut self, key: AgreementKey, now: Now) {
        let own = self.own;
        let came = self.members.devices_with(key);
        let came = came.filter(|placed| placed.is_for(own) && placed.server != own);
        let waiting = &self.own_devices.waiting;
        let is_waiting =
            |id| waiting.iter().any(|edit| matches!(edit, Edit::Turn(turn) if *turn == id));
        let turns = came.map(|placed| placed.id).filter(|id| !is_waiting(*id));
        let turns: Vec<Edit> = turns.map(Edit::Turn).collect();
        if !turns.is_empty() && !self.is_banned() {
            self.own_devices.waiting.extend(turns);
            self.advance_devices(now);
        }
    }

    /// Writes the next list, if there is anything new; tells the others.
    pub(super) fn advance_devices(&mut self, now: Now) {
        let waiting = &self.own_devices.waiting;
        // A turn alone waits until the store works again.
        let may_write =
            self.storage_failing.is_none() || waiting.iter().any(|edit| edit.operation().is_some());
        if !self.own_devices.is_writing && !waiting.is_empty() && may_write {
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
        // What an admin revoked makes room.
        let (own, trust) = (self.own, &self.trust);
        list.devices.retain(|device| !trust.is_device_revoked(DeviceId::of(own, device.key)));
        let mut done = Vec::new();
        for edit in std::mem::take(&mut self.own_devices.waiting) {
            match self.apply(edit, &mut list) {
                Ok(edit) => done.push(edit),
                Err((operation, error)) => {
                    self.outputs.push_back(Output::Done { operation, result: Err(error) });
                }
            }
        }
        if list == before && done.iter().all(|edit| edit.operation().is_none()) {
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
                let id = DeviceId::of(self.own, new.device.key);
                let Some(ipv4) = self.free_device_ipv4(id, list) else {
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
            Edit::Turn(device) => {
                let placed = self.members.device(device);
                if let Some(placed) = placed.filter(|placed| placed.server != self.own) {
                    self.make_room_for_turn(list);
                    let turn = placed.turn.saturating_add(1);
                    let at = list.serving.partition_point(|one| one.device < device);
                    list.serving.insert(at, Serving { device, turn });
                }
                Ok(Edit::Turn(device))
            }
        }
    }

    /// Forgets turns that count no more, and where there are still as many as there
    /// may be, one of the owner of the most: it must not keep others out.
    fn make_room_for_turn(&self, list: &mut DeviceList) {
        let owner_of = |serving: &Serving| {
            // A newer turn is one that came with the same change of the list.
            let counts =
                |placed: &&PlacedDevice| placed.server == self.own || serving.turn > placed.turn;
            self.members.device(serving.device).filter(counts).map(|placed| placed.owner)
        };
        list.serving.retain(|serving| owner_of(serving).is_some());
        if list.serving.len() < MAX_DEVICES {
            return;
        }
        let mut shares: BTreeMap<NodeId, usize> = BTreeMap::new();
        for owner in list.serving.iter().filter_map(owner_of) {
            *shares.entry(owner).or_default() += 1;
        }
        let most = shares.into_iter().max_by_key(|(_, count)| *count).map(|(owner, _)| owner);
        if let Some(at) = list.serving.iter().position(|one| owner_of(one) == most) {
            list.serving.remove(at);
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
        if self.trust.is_device_revoked(DeviceId::of(self.own, key)) {
            return Err(OperationError::KeyRevoked);
        }
        let is_members = self.members.iter().any(|(_, member)| member.key == key);
        if is_members || list.devices.iter().any(|device| device.key == key) {
            return Err(OperationError::KeyTaken);
        }
        if self.is_name_taken(&new.name, None)
            || list.devices.iter().any(|device| device.name == new.name)
        {
            return Err(OperationError::NameTaken(new.name.clone()));
        }
        Ok(())
    }

    fn free_device_ipv4(&self, device: DeviceId, list: &DeviceList) -> Option<Ipv4Addr> {
        let mut candidates =
            (0..4096).map(|attempt| self.range().device_candidate(self.id, device, attempt));
        candidates.find(|address| {
            !self.is_ipv4_taken(*address, None)
                && !list.devices.iter().any(|device| device.ipv4 == *address)
        })
    }

    /// The list is durable, or could not be made so.
    pub(super) fn devices_persisted(
        &mut self,
        list: &Verified<DeviceList>,
        mut edits: Vec<Edit>,
        result: Result<(), &str>,
        now: Now,
    ) {
        self.own_devices.is_writing = false;
        if let Err(reason) = result {
            self.fail(&edits, &OperationError::Storage(reason.to_owned()));
            // Those that nobody asked for wait until the store works again.
            edits.retain(|edit| edit.operation().is_none());
            self.own_devices.waiting.append(&mut edits);
            return;
        }
        let merged = self.members.merge_devices(list.signed(), &self.trust, &*self.config.check);
        if merged.is_err() {
            return self.fail(&edits, &OperationError::NotPublished);
        }
        if self.members.list(self.own).map(Verified::signed) != Some(list.signed()) {
            // A newer list of this node came in between, from before its disk
            // was set back: the changes go on top of that.
            drop(self.own_devices.waiting.splice(0..0, edits));
            return;
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

    /// Says that changes were not made.
    fn fail(&mut self, edits: &[Edit], error: &OperationError) {
        for operation in edits.iter().filter_map(Edit::operation) {
            let result = Err(error.clone());
            self.outputs.push_back(Output::Done { operation, result });
        }
    }

    /// Tells the linked members of a list.
    pub(super) fn spread_devices(&mut self, list: &Signed<DeviceList>) {
        let bytes = wire::encode(&Change::Devices(list.clone()));
        if bytes.len() <= MAX_GOSSIPED {
            self.outputs.push_back(Output::Publish(bytes));
            return;
        }
        let mut linked = self.linked();
        for _ in 0..FETCHERS.min(linked.len()) {
            let pick = self.random.next_u32() as usize % linked.len();
            self.start_sync(linked.swap_remove(pick));
        }
    }

    /// Takes a list; what follows from it is for [`Control::refresh_members`].
    pub(super) fn take_devices(&mut self, list: &Signed<DeviceList>) -> Taken {
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
        Taken::New
    }

    /// A list came: whether it is worth being judged, and may be now. Nobody but
    /// its owner spends the budget, which keeps this node and its disk from being
    /// kept busy.
    pub(super) fn is_devices_news(
        &mut self,
        from: NodeId,
        list: &Signed<DeviceList>,
        now: Now,
    ) -> Result<(), Option<bool>> {
        let owner = NodeId::from(list.signer());
        let said = list.peek().map_err(|_| Some(false))?;
        if self.members.get(owner).is_none() {
            return Ok(());
        }
        let known = self.members.list(owner);
        let stamp = (said.sequence, list.digest());
        if known.is_some_and(|known| (known.sequence, known.signed().digest()) >= stamp) {
            return Err(None);
        }
        if list.verify(self.id, &*self.config.check).is_err() {
            return Err(Some(false));
        }
        self.may_forward(from, owner, now)
    }

    /// Brings data plane, names and addresses of devices up to what the lists
    /// say; gives back the nodes whose prefixes changed. What was known before
    /// this run is not told again.
    pub(super) fn refresh_devices(&mut self, is_restored: bool) -> BTreeSet<NodeId> {
        let changes = self.members.place_devices(&self.trust);
        let mut nodes = BTreeSet::new();
        let mut keys = BTreeSet::new();
        for change in &changes {
            for placed in change.before.iter().chain(&change.now) {
                nodes.insert(placed.server);
                keys.insert(placed.device.key);
            }
        }
        if !is_restored {
            self.tell_devices(&changes);
        }
        for key in keys {
            self.refresh_device(key);
        }
        while self.own_devices.seats.has_room(false)
            && let Some(key) = self.own_devices.seats.waiting.pop_first()
        {
            self.refresh_device(key);
        }
        nodes
    }

    fn tell_devices(&mut self, changes: &[DeviceChange]) {
        for DeviceChange { id, before, now } in changes {
            let has = |placed: &PlacedDevice| (placed.ipv4, placed.name.clone());
            let lost = |placed: &PlacedDevice| placed.ipv4.is_none() || placed.name.is_none();
            if let Some(now) = now.as_ref().filter(|now| now.owner == self.own && lost(now))
                && before.as_ref().is_none_or(|before| has(before) != has(now))
            {
                self.event(Event::DeviceDisplaced(*id, now.device.name.clone()));
            }
        }
        if changes.len() > TOLD {
            return self.event(Event::DevicesChanged(changes.len()));
        }
        for DeviceChange { id, before, now } in changes {
            match (before, now) {
                (None, Some(now)) => {
                    self.event(Event::DeviceAdded(*id, now.device.name.clone(), now.owner));
                }
                (Some(before), None) => {
                    self.event(Event::DeviceRemoved(*id, before.device.name.clone()));
                }
                (Some(before), Some(now)) if before.server != now.server => {
                    let name = now.device.name.clone();
                    self.event(Event::DeviceMoved(*id, name, now.server));
                }
                _ => {}
            }
        }
    }

    /// Tells the data plane of everything that has a key: the session is with the
    /// key, whoever lists it.
    fn refresh_device(&mut self, key: AgreementKey) {
        let own = self.own;
        let known: Vec<&PlacedDevice> =
            self.members.devices_with(key).filter(|placed| placed.is_for(own)).collect();
        let served = known.iter().filter(|placed| placed.server == own);
        let prefixes: Vec<Prefix> =
            served.flat_map(|placed| self.device_prefixes(placed)).collect();
        let is_known = !known.is_empty();
        let is_own = known.iter().any(|placed| placed.owner == own);
        let seats = &mut self.own_devices.seats;
        let has_room = seats.has_room(is_own);
        let command = match seats.taken.entry(key) {
            Entry::Occupied(entry) if !is_known => {
                entry.remove();
                Command::RemoveDevice { key }
            }
            Entry::Occupied(entry) if *entry.get() == prefixes => return,
            Entry::Vacant(_) if !is_known => return,
            Entry::Vacant(_) if !has_room => {
                let is_first = seats.waiting.is_empty();
                seats.waiting.insert(key);
                if is_first {
                    self.event(Event::DevicesWithoutSeat);
                }
                return;
            }
            entry => {
                entry.insert_entry(prefixes.clone());
                Command::SetDevice { key, prefixes }
            }
        };
        self.outputs.push_back(Output::Shard(command));
    }

    /// The addresses of a device.
    pub(super) fn device_prefixes(
        &self,
        placed: &PlacedDevice,
    ) -> impl Iterator<Item = Prefix> + use<> {
        let ipv6 = IpAddr::V6(self.range6.device(placed.id));
        placed.ipv4.map(IpAddr::V4).into_iter().chain([ipv6]).map(Prefix::host)
    }
}

const _: () = assert!(DeviceList::MAX_BYTES < super::sync::MAX_DELIVERY / 2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_of_others_leave_seats_for_those_of_this_node() {
        let mut seats = Seats::default();
        for number in 0..MAX_SEATS {
            assert!(seats.has_room(false));
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_le_bytes());
            seats.taken.insert(AgreementKey(key), Vec::new());
        }
        assert!(!seats.has_room(false) && seats.has_room(true));
        seats.taken.pop_first();
        assert!(seats.has_room(false));
    }
}
