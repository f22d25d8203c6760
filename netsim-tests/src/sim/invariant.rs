//! What must hold at every step, and what must hold once all is quiet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use epsilon_mesh::control::DeviceView;
use epsilon_mesh::event::Event;
use epsilon_mesh::saved::Table;
use epsilon_mesh::shard::{Command, Prefix};
use epsilon_proto::device::DeviceList;
use epsilon_proto::document::{Document, Signed};
use epsilon_proto::id::{Digest, NodeId};
use epsilon_proto::key::AgreementKey;
use epsilon_proto::message::{Change, Delivery, Request, Response};
use epsilon_proto::record::NodeRecord;
use epsilon_proto::trust::{NetworkDocument, Revoked};
use epsilon_proto::wire;

use super::world::World;

/// The IPv4 address and the name of a member in a view.
type Seen = (Option<IpAddr>, Option<String>);
/// A device in a view: who serves it, its IPv4 address and its name.
type DeviceSeen = (AgreementKey, NodeId, Option<IpAddr>, Option<String>);

fn prefixes_of(device: &DeviceView) -> Vec<Prefix> {
    let ipv4 = device.ipv4.map(Prefix::host);
    ipv4.into_iter().chain([Prefix::host(device.ipv6)]).collect()
}

impl World {
    /// A change leaves its maker or an intermediary.
    pub(crate) fn look_at_change(&mut self, machine: usize, bytes: &[u8]) -> Change {
        let change = match wire::decode::<Change>(bytes) {
            Ok(change) => change,
            Err(error) => panic!("n{machine} published what nobody can read: {error}"),
        };
        match &change {
            Change::Record(record) => {
                self.must_be_durable(machine, Table::Records, record, NodeRecord::stamp);
            }
            Change::Devices(list) => self.list_must_be_durable(machine, list),
            Change::Document(document) => self.note_ban(document),
        }
        change
    }

    /// An answer leaves.
    pub(crate) fn look_at_response(&mut self, machine: usize, bytes: &[u8]) {
        if let Ok(Response::Difference(difference)) = wire::decode(bytes) {
            self.look_at_delivery(machine, &difference.delivery);
        }
    }

    /// A question leaves.
    pub(crate) fn look_at_request(&mut self, machine: usize, bytes: &[u8]) {
        if let Ok(Request::Push(delivery)) = wire::decode(bytes) {
            self.look_at_delivery(machine, &delivery);
        }
    }

    fn look_at_delivery(&mut self, machine: usize, delivery: &Delivery) {
        for record in &delivery.records {
            self.must_be_durable(machine, Table::Records, record, NodeRecord::stamp);
        }
        for list in &delivery.devices {
            self.list_must_be_durable(machine, list);
        }
    }

    fn list_must_be_durable(&self, machine: usize, list: &Signed<DeviceList>) {
        self.must_be_durable(machine, Table::Devices, list, |list| (list.sequence, 0));
    }

    /// What its owner gave away was on its disk before.
    fn must_be_durable<T: Document>(
        &self,
        machine: usize,
        table: Table,
        given: &Signed<T>,
        stamp: impl Fn(&T) -> (u64, u64),
    ) {
        let one = &self.machines[machine];
        if NodeId::from(given.signer()) != one.node {
            return;
        }
        let stamp = |signed: &Signed<T>| signed.peek().map(|document| stamp(&document)).ok();
        let saved = one
            .store
            .as_ref()
            .and_then(|store| store.row(table, &one.node.0))
            .and_then(|row| wire::decode::<Signed<T>>(row).ok())
            .and_then(|saved| stamp(&saved));
        assert!(
            saved >= stamp(given),
            "n{machine} gave its {} {:?} away while {saved:?} is on its disk",
            T::TYPE,
            stamp(given)
        );
    }

    fn note_ban(&mut self, document: &NetworkDocument) {
        let banned = match document {
            NetworkDocument::Revocation(signed) => {
                match signed.peek().map(|one| one.revoked.clone()) {
                    Ok(Revoked::Node(node)) => BTreeSet::from([node]),
                    Ok(Revoked::InviteAndMembers(invite)) => self
                        .machines
                        .iter()
                        .filter(|one| one.invite == Some(invite))
                        .map(|one| one.node)
                        .collect(),
                    _ => return,
                }
            }
            NetworkDocument::Departure(signed) => BTreeSet::from([signed.signer().into()]),
            _ => return,
        };
        self.bans.insert(document.digest(), banned);
    }

    /// Something happened to a node; a ban that it learned counts at once.
    pub(crate) fn look_at_event(&mut self, machine: usize, event: &Event) {
        let one = &mut self.machines[machine];
        match event {
            Event::DocumentLearned(_, digest) => {
                if let Some(banned) = self.bans.get(digest) {
                    one.banned.extend(banned);
                    for node in banned.iter().filter(|node| **node != one.node) {
                        assert!(
                            !one.plane.peers.contains_key(node),
                            "n{machine} learned that {node:?} is banned and keeps it as a peer"
                        );
                    }
                }
            }
            Event::MemberJoined(node) => {
                assert!(
                    !one.banned.contains(node),
                    "n{machine} took {node:?} as a member, which it knows to be banned"
                );
            }
            _ => {}
        }
    }

    /// The data plane is told something.
    pub(crate) fn look_at_command(&self, machine: usize, command: &Command) {
        if let Command::SetPeer { node, .. } = command {
            let one = &self.machines[machine];
            assert!(*node != one.node, "n{machine} is its own peer");
            assert!(
                !one.banned.contains(node),
                "n{machine} made {node:?} a peer, which it knows to be banned"
            );
        }
    }

    /// What must hold of a node whenever it is done with an input.
    pub(crate) fn look_at(&self, machine: usize) {
        let one = &self.machines[machine];
        assert!(!one.links.contains_key(&one.node), "n{machine} is linked with itself");
        let overlap = one.plane.overlap();
        assert!(overlap.is_none(), "n{machine} sends what is for {overlap:?} to two at once");
    }

    /// What a machine that just started knows to be banned, from its disk.
    pub(crate) fn remember_bans(&mut self, machine: usize) {
        let one = &mut self.machines[machine];
        let Some(store) = &one.store else { return };
        for key in store.keys(Table::Documents) {
            let digest = <[u8; 32]>::try_from(key).ok().map(Digest);
            if let Some(banned) = digest.and_then(|digest| self.bans.get(&digest)) {
                one.banned.extend(banned);
            }
        }
    }

    /// The machines that are up and members for good.
    pub fn live(&self) -> Vec<usize> {
        let banned: BTreeSet<NodeId> = self.bans.values().flatten().copied().collect();
        (0..self.machines.len())
            .filter(|machine| {
                self.machines[*machine].is_up() && !banned.contains(&self.machines[*machine].node)
            })
            .collect()
    }

    /// Whether all that are up hold the same, with each of them in it.
    pub fn has_converged(&mut self) -> bool {
        let live = self.live();
        let mut digests = BTreeSet::new();
        for machine in &live {
            let Some(control) = &mut self.machines[*machine].control else { continue };
            let (documents, records) = control.digests();
            let gate = &self.machines[*machine].gate;
            let newest = gate.first().map(|secret| (secret.epoch, secret.check()));
            digests.insert((documents, records, newest));
            if digests.len() > 1 {
                return false;
            }
        }
        let Some(first) = live.first() else { return true };
        let now = self.machines[*first].now(self.now());
        let nodes: Vec<_> = live.iter().map(|one| self.machines[*one].node).collect();
        let Some(control) = &self.machines[*first].control else { return true };
        // A claim in dispute is nobody's until one of the two gives it up.
        nodes.into_iter().all(|node| {
            let view = control.member_view(node, now);
            view.is_some_and(|view| view.ipv4.is_some() && view.name.is_some())
        })
    }

    /// Everything that must hold once all is quiet.
    pub fn check_quiet(&mut self) {
        let live = self.live();
        let at = self.now();
        let mut reference: Option<BTreeMap<NodeId, Seen>> = None;
        let mut reference_devices: Option<Vec<DeviceSeen>> = None;
        let mut gate = None;
        for machine in &live {
            let now = self.machines[*machine].now(at);
            let Some(control) = &mut self.machines[*machine].control else { continue };
            let view = control.view(now);
            let one = &self.machines[*machine];
            let newest = one.gate.first().map(|secret| (secret.epoch, secret.check()));
            let first = *gate.get_or_insert(newest);
            assert_eq!(newest, first, "n{machine}: its newest gate secret is another one");
            let mut owners: BTreeMap<IpAddr, NodeId> = BTreeMap::new();
            let mut names: BTreeMap<String, NodeId> = BTreeMap::new();
            for member in &view.members {
                let addresses = member
                    .ipv4
                    .map(IpAddr::V4)
                    .into_iter()
                    .chain(member.ipv6.iter().map(|ip| (*ip).into()));
                let addresses: Vec<IpAddr> = addresses.collect();
                for address in &addresses {
                    let other = owners.insert(*address, member.node);
                    assert!(other.is_none(), "n{machine}: {address} is of two members");
                }
                if let Some(name) = &member.name {
                    let other = names.insert(name.to_string(), member.node);
                    assert!(other.is_none(), "n{machine}: {name} is of two members");
                }
                if member.node == one.node {
                    assert_eq!(
                        (member.ipv4, &member.ipv6),
                        (one.addresses.0, &one.addresses.1),
                        "n{machine} uses other addresses than its own view says"
                    );
                    continue;
                }
                let served = view.devices.iter().filter(|device| device.server == member.node);
                let mut wanted: Vec<Prefix> = addresses.into_iter().map(Prefix::host).collect();
                wanted.extend(served.flat_map(prefixes_of));
                let mut installed = one
                    .plane
                    .peers
                    .get(&member.node)
                    .map(|peer| peer.prefixes.clone())
                    .unwrap_or_default();
                wanted.sort();
                installed.sort();
                assert_eq!(installed, wanted, "n{machine}: what is installed of {:?}", member.node);
            }
            assert_eq!(one.plane.peers.len() + 1, view.members.len(), "n{machine}: extra peers");
            for device in &view.devices {
                for address in device.ipv4.map(IpAddr::V4).into_iter().chain([device.ipv6.into()]) {
                    let other = owners.insert(address, device.server);
                    assert!(other.is_none(), "n{machine}: {address} is of two");
                }
                if let Some(name) = &device.name {
                    let other = names.insert(name.to_string(), device.server);
                    assert!(other.is_none(), "n{machine}: {name} is of two");
                }
            }
            let served: BTreeMap<_, _> = view
                .devices
                .iter()
                .filter(|device| device.owner == one.node || device.fallbacks.contains(&one.node))
                .map(|device| {
                    let is_here = device.server == one.node;
                    (device.key, if is_here { prefixes_of(device) } else { Vec::new() })
                })
                .collect();
            assert_eq!(one.plane.devices, served, "n{machine}: what it serves");
            let devices = view.devices.iter().map(|device| {
                let name = device.name.as_ref().map(ToString::to_string);
                (device.key, device.server, device.ipv4.map(IpAddr::V4), name)
            });
            let devices: Vec<DeviceSeen> = devices.collect();
            let first = reference_devices.get_or_insert_with(|| devices.clone());
            assert_eq!(*first, devices, "n{machine} sees other devices");
            let (ipv4, ipv6) = &one.addresses;
            let own: Vec<Prefix> = ipv4
                .map(Prefix::host)
                .into_iter()
                .chain(ipv6.iter().copied().map(Prefix::host))
                .collect();
            assert_eq!(one.plane.own, own, "n{machine}: what its data plane takes for its own");
            let seen = view
                .members
                .iter()
                .map(|member| {
                    let name = member.name.as_ref().map(ToString::to_string);
                    (member.node, (member.ipv4.map(IpAddr::V4), name))
                })
                .collect();
            match &reference {
                None => reference = Some(seen),
                Some(reference) => assert_eq!(reference, &seen, "n{machine} sees another fleet"),
            }
        }
        let Some(reference) = reference else { return };
        for machine in live {
            let one = &self.machines[machine];
            let seen = reference.get(&one.node);
            assert!(seen.is_some(), "n{machine} is no member");
            if let Some((ipv4, name)) = seen {
                assert!(ipv4.is_some() && name.is_some(), "n{machine} has no address or name");
                assert_eq!(*ipv4, one.addresses.0.map(IpAddr::V4), "n{machine}: its address");
            }
        }
    }

    /// Who differs, for a failure's message: the live machines by what they
    /// hold, with what one of them lacks and what happened to it last.
    pub fn describe(&mut self) -> String {
        use std::fmt::Write as _;
        let at = self.now();
        let nodes: BTreeMap<NodeId, usize> =
            self.machines.iter().enumerate().map(|(number, one)| (one.node, number)).collect();
        let mut groups: BTreeMap<(Digest, Digest), Vec<usize>> = BTreeMap::new();
        let mut known: BTreeSet<NodeId> = BTreeSet::new();
        for machine in self.live() {
            let now = self.machines[machine].now(at);
            let Some(control) = &mut self.machines[machine].control else { continue };
            groups.entry(control.digests()).or_default().push(machine);
            for member in control.view(now).members {
                known.insert(member.node);
            }
        }
        let mut text = format!("at {at:?}, {} events\n", self.trace.events);
        for ((records, documents), machines) in groups {
            let first = machines[0];
            let now = self.machines[first].now(at);
            let one = &mut self.machines[first];
            let Some(control) = &mut one.control else { continue };
            let view = control.view(now);
            let members: BTreeSet<NodeId> = view.members.iter().map(|one| one.node).collect();
            let name = |node: &NodeId| match nodes.get(node) {
                Some(number) => format!("n{number}"),
                None => node.short(),
            };
            let lacks: Vec<_> =
                known.iter().filter(|node| !members.contains(node)).map(name).collect();
            let _ = writeln!(
                text,
                "records {} documents {} at {machines:?}; n{first} {:?} lacks {lacks:?}, links {}, {:?}",
                records.short(),
                documents.short(),
                one.addresses,
                one.links.len(),
                view.conditions,
            );
            for (when, event) in one.events.iter().rev().take(4).rev() {
                let _ = writeln!(text, "    {when:?} {event:?}");
            }
            for member in view.members.iter().filter(|_| self.options.machines <= 8) {
                let by: Vec<_> =
                    member.introduced.iter().map(|(by, _)| name(&NodeId::from(*by))).collect();
                let _ = writeln!(text, "    {} introduced by {by:?}", name(&member.node));
            }
        }
        text
    }
}
