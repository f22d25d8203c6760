//! Which devices there are, what they are called, and who serves them.
//!
//! Nodes say it in their lists. All members with the same records, lists and
//! documents come to the same answer: of two claims to one name or IPv4
//! address that of the owner counts who was met first. What a node has no
//! device has: a node can move on, a device only by its user's hand, so nodes
//! keep away from what devices have, and where they did not know they win.
//! The key of a device is nobody's secret: that another owner lists it, too,
//! takes nothing away.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use epsilon_proto::device::{Device, DeviceList};
use epsilon_proto::document::{Signed, Verified};
use epsilon_proto::id::{DeviceId, Digest, NodeId};
use epsilon_proto::key::{AgreementKey, SignatureCheck};
use epsilon_proto::message;
use epsilon_proto::name::NodeName;

use super::claims::first_witnessed;
use super::{Membership, Merged, Refused, buckets, refuse_banned};
use crate::trust::Trust;

/// A device in the view of the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedDevice {
    /// Which.
    pub id: DeviceId,
    /// What its owner says.
    pub device: Device,
    /// Who owns it.
    pub owner: NodeId,
    /// Its name, unless another has it.
    pub name: Option<NodeName>,
    /// Its IPv4 address, unless another has it.
    pub ipv4: Option<Ipv4Addr>,
    /// Who serves it.
    pub server: NodeId,
    /// The highest turn that somebody had who may serve it.
    pub turn: u64,
}

impl PlacedDevice {
    /// Whether a node may serve it.
    pub fn is_for(&self, node: NodeId) -> bool {
        self.owner == node || self.device.fallbacks.contains(&node)
    }
}

/// What changed about a device.
#[derive(Debug)]
pub struct DeviceChange {
    /// Which.
    pub id: DeviceId,
    /// What it was before.
    pub before: Option<PlacedDevice>,
    /// What it is now.
    pub now: Option<PlacedDevice>,
}

/// A node's list.
struct Listed {
    list: Verified<DeviceList>,
    digest: Digest,
}

/// The lists, and what follows from them.
#[derive(Default)]
pub(super) struct Devices {
    lists: BTreeMap<NodeId, Listed>,
    /// Whether something changed on which the rest depends.
    is_stale: bool,
    placed: BTreeMap<DeviceId, PlacedDevice>,
    by_key: BTreeMap<AgreementKey, BTreeSet<DeviceId>>,
    names: BTreeMap<NodeName, DeviceId>,
    addresses: BTreeMap<Ipv4Addr, DeviceId>,
    served: BTreeMap<NodeId, BTreeSet<DeviceId>>,
}

impl Devices {
    /// The digest of a node's list; nothing where there is none.
    pub(super) fn digest(&self, node: NodeId) -> &[u8] {
        self.lists.get(&node).map_or(&[], |listed| &listed.digest.0)
    }

    /// Takes a node's list away.
    pub(super) fn remove(&mut self, node: NodeId) {
        self.lists.remove(&node);
        self.touch();
    }

    /// Something changed on which names, addresses or servers depend.
    pub(super) fn touch(&mut self) {
        self.is_stale = true;
    }
}

impl Membership {
    /// Takes a member's list of devices.
    pub fn merge_devices(
        &mut self,
        signed: &Signed<DeviceList>,
        trust: &Trust,
        check: &dyn SignatureCheck,
    ) -> Result<Merged, Refused> {
        let node = NodeId::from(signed.signer());
        refuse_banned(node, trust)?;
        if self.get(node).is_none() {
            return Err(Refused::Missing("record"));
        }
        let known = self.devices.lists.get(&node);
        if known.is_some_and(|known| known.list.signed() == signed) {
            return Ok(Merged::Known);
        }
        let list = signed.verify(self.network, check)?;
        let digest = signed.digest();
        let outcome = match known.map(|known| (known.list.sequence, known.digest)) {
            Some((sequence, _)) if sequence > list.sequence => return Ok(Merged::Stale),
            Some((sequence, other)) if sequence == list.sequence => {
                if digest < other {
                    return Ok(Merged::Contradicts);
                }
                Merged::Contradicts
            }
            _ => Merged::New,
        };
        let is_known = |key| {
            let known = known.map(|known| &known.list.devices[..]).unwrap_or_default();
            known.binary_search_by_key(&key, |device: &Device| device.key).is_ok()
        };
        let mut new = list.devices.iter().filter(|device| !is_known(device.key));
        if !new.all(|device| device.key.is_strong()) {
            return Err(Refused::Invalid("the key of a device is weak"));
        }
        self.devices.lists.insert(node, Listed { list, digest });
        self.devices.touch();
        self.buckets.touch(node);
        Ok(outcome)
    }

    /// Brings the devices up to what records, lists and documents say; gives
    /// back what changed.
    pub fn place_devices(&mut self, trust: &Trust) -> Vec<DeviceChange> {
        if !std::mem::take(&mut self.devices.is_stale) {
            return Vec::new();
        }
        let placed = self.place(trust);
        let devices = &mut self.devices;
        devices.names =
            placed.values().filter_map(|one| Some((one.name.clone()?, one.id))).collect();
        devices.addresses = placed.values().filter_map(|one| Some((one.ipv4?, one.id))).collect();
        (devices.served, devices.by_key) = (BTreeMap::new(), BTreeMap::new());
        for one in placed.values() {
            devices.served.entry(one.server).or_default().insert(one.id);
            devices.by_key.entry(one.device.key).or_default().insert(one.id);
        }
        let mut before = std::mem::replace(&mut devices.placed, placed);
        let mut changes = Vec::new();
        for (id, now) in &devices.placed {
            let before = before.remove(id);
            if before.as_ref() != Some(now) {
                changes.push(DeviceChange { id: *id, before, now: Some(now.clone()) });
            }
        }
        let gone = before.into_iter();
        changes.extend(gone.map(|(id, gone)| DeviceChange { id, before: Some(gone), now: None }));
        changes
    }

    fn place(&self, trust: &Trust) -> BTreeMap<DeviceId, PlacedDevice> {
        if self.devices.lists.values().all(|listed| listed.list.devices.is_empty()) {
            return BTreeMap::new();
        }
        let keys: BTreeSet<AgreementKey> = self.iter().map(|(_, member)| member.key).collect();
        let mut owners: Vec<NodeId> = self.devices.lists.keys().copied().collect();
        owners.sort_by_key(|node| {
            let met = first_witnessed(*node, |_| true, &self.members, trust);
            (met.is_none(), met, *node)
        });
        let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        let mut placed = BTreeMap::new();
        for owner in owners {
            for device in self.list(owner).into_iter().flat_map(|list| &list.devices) {
                let id = DeviceId::of(owner, device.key);
                if keys.contains(&device.key) || trust.is_device_revoked(id) {
                    continue;
                }
                let has_name =
                    self.owner_of_name(&device.name, trust).is_none() && names.insert(&device.name);
                let has_ipv4 = self.range.assignable(device.ipv4)
                    && self.owner_of_ipv4(device.ipv4, trust).is_none()
                    && addresses.insert(device.ipv4);
                let fallbacks = device.fallbacks.iter().filter(|node| self.get(**node).is_some());
                let turns = fallbacks.chain([&owner]).map(|node| {
                    let turn = self.list(*node).map_or(0, |list| list.turn(id));
                    // Before anybody had a turn it is the owner's.
                    (turn, turn == 0 && *node == owner, *node)
                });
                let (turn, _, server) = turns.max().unwrap_or((0, true, owner));
                let one = PlacedDevice {
                    id,
                    device: device.clone(),
                    owner,
                    name: has_name.then(|| device.name.clone()),
                    ipv4: has_ipv4.then_some(device.ipv4),
                    server,
                    turn,
                };
                placed.insert(id, one);
            }
        }
        placed
    }

    /// A node's list of devices.
    pub fn list(&self, node: NodeId) -> Option<&Verified<DeviceList>> {
        self.devices.lists.get(&node).map(|listed| &listed.list)
    }

    /// All devices, by id.
    pub fn devices(&self) -> impl Iterator<Item = &PlacedDevice> {
        self.devices.placed.values()
    }

    /// A device.
    pub fn device(&self, id: DeviceId) -> Option<&PlacedDevice> {
        self.devices.placed.get(&id)
    }

    /// Those with a key; of one owner there is at most one.
    pub fn devices_with(&self, key: AgreementKey) -> impl Iterator<Item = &PlacedDevice> {
        let ids = self.devices.by_key.get(&key).into_iter().flatten();
        ids.filter_map(|id| self.devices.placed.get(id))
    }

    /// Something else changed on which devices depend: what is revoked, or whose
    /// word counts.
    pub fn doubt_devices(&mut self) {
        self.devices.touch();
    }

    /// The lists in a bucket.
    pub fn lists_in(&self, index: u8) -> Vec<message::Listed> {
        let lists = buckets::entries(&self.devices.lists, index);
        let listed = lists.map(|(node, listed)| message::Listed {
            node: *node,
            sequence: listed.list.sequence,
            digest: listed.digest,
        });
        listed.collect()
    }

    /// Those that a node serves.
    pub fn served_by(&self, node: NodeId) -> impl Iterator<Item = &PlacedDevice> {
        let served = self.devices.served.get(&node).into_iter().flatten();
        served.filter_map(|id| self.devices.placed.get(id))
    }

    /// Whose an IPv4 address is, among the devices.
    pub fn device_at(&self, address: Ipv4Addr) -> Option<DeviceId> {
        self.devices.addresses.get(&address).copied()
    }

    /// Whose a name is, among the devices.
    pub fn device_named(&self, name: &NodeName) -> Option<DeviceId> {
        self.devices.names.get(name).copied()
    }
}
