//! Devices in the view of a fleet.

use epsilon_proto::device::{Device, DeviceList, Serving};
use epsilon_proto::id::DeviceId;
use epsilon_proto::key::AgreementKey;

use super::*;

/// The owner that was met first, and the one that was met later.
const SENIOR: u8 = 3;
const JUNIOR: u8 = 4;

fn device_key(number: u8) -> AgreementKey {
    AgreementKey::of_secret(&[number; 32])
}

fn device(number: u8, name: &str, last: u8) -> Device {
    Device {
        key: device_key(number),
        name: named(name),
        ipv4: address(last),
        fallbacks: Vec::new(),
        added: NOW,
    }
}

fn id(owner: u8, number: u8) -> DeviceId {
    DeviceId::of(node(owner), device_key(number))
}

/// Turns are at devices of the senior.
fn list_of(sequence: u64, mut devices: Vec<Device>, turns: &[(u8, u64)]) -> DeviceList {
    devices.sort_by_key(|device| device.key);
    let serving = turns.iter().map(|(number, turn)| (id(SENIOR, *number), *turn));
    let mut serving: Vec<_> = serving.map(|(device, turn)| Serving { device, turn }).collect();
    serving.sort_by_key(|serving| serving.device);
    DeviceList { sequence, devices, serving }
}

fn met(seed: u8, after: u64) -> NodeRecord {
    NodeRecord { introductions: vec![introduction(seed, ADMIN, after, admitted())], ..record(seed) }
}

impl View {
    fn of_owners() -> Self {
        Self::with(&[met(SENIOR, 1_000), met(JUNIOR, 2_000)])
    }

    fn list(&mut self, owner: u8, list: &DeviceList) -> Result<Merged, Refused> {
        let merged = self.members.merge_devices(&sign(list, &key(owner)), &self.trust, &Strict);
        self.members.place_devices(&self.trust);
        merged
    }

    fn device(&self, number: u8) -> Option<&PlacedDevice> {
        self.members.device(id(SENIOR, number))
    }

    /// Name and last part of the address of a device.
    fn has(&self, owner: u8, number: u8) -> (Option<String>, Option<u8>) {
        let placed = self.members.device(id(owner, number)).unwrap();
        let name = placed.name.as_ref().map(ToString::to_string);
        (name, placed.ipv4.map(|address| address.octets()[3]))
    }

    fn server(&self, number: u8) -> NodeId {
        self.device(number).unwrap().server
    }
}

fn called(name: &str, last: u8) -> (Option<String>, Option<u8>) {
    (Some(name.to_owned()), Some(last))
}

#[test]
fn the_newest_list_of_a_member_counts_and_nobody_elses() {
    let mut view = View::of_owners();
    let first = list_of(1, vec![device(1, "phone", 9)], &[]);
    let second = list_of(2, vec![device(2, "tablet", 8)], &[]);
    assert_eq!(view.list(9, &first), Err(Refused::Missing("record")));
    assert_eq!(view.list(SENIOR, &first), Ok(Merged::New));
    assert_eq!(view.list(SENIOR, &first), Ok(Merged::Known));
    assert_eq!(view.has(SENIOR, 1), called("phone", 9));
    assert_eq!(view.list(SENIOR, &second), Ok(Merged::New));
    assert_eq!(view.list(SENIOR, &first), Ok(Merged::Stale));
    assert!(view.device(1).is_none());
    assert_eq!(view.members.device_at(address(8)), Some(id(SENIOR, 2)));
    assert_eq!(view.members.device_named(&named("tablet")), Some(id(SENIOR, 2)));
    assert_eq!(view.members.device_at(address(9)), None);
    view.revoke(Revoked::Node(node(SENIOR)));
    view.members.remove(node(SENIOR));
    view.members.place_devices(&view.trust);
    assert_eq!(view.members.devices().count(), 0);
    assert_eq!(view.list(SENIOR, &list_of(3, Vec::new(), &[])), Err(Refused::Revoked));
}

#[test]
fn of_two_lists_with_one_sequence_the_higher_hash_counts_everywhere() {
    let lists = [list_of(1, vec![device(1, "phone", 9)], &[]), list_of(1, Vec::new(), &[])];
    let answers = [[0, 1], [1, 0]].map(|order| {
        let mut view = View::of_owners();
        assert_eq!(view.list(SENIOR, &lists[order[0]]), Ok(Merged::New));
        assert_eq!(view.list(SENIOR, &lists[order[1]]), Ok(Merged::Contradicts));
        (view.members.digest(), view.members.devices().count())
    });
    assert_eq!(answers[0], answers[1]);
}

#[test]
fn a_node_has_what_it_and_a_device_claim_and_a_device_has_it_after() {
    let mut view = View::of_owners();
    view.list(JUNIOR, &list_of(1, vec![device(1, "phone", 9)], &[])).unwrap();
    let rival = NodeRecord { name: Some(named("phone")), ..claiming(8, 9, &[]) };
    view.take(&rival).unwrap();
    view.members.place_devices(&view.trust);
    assert_eq!(view.has(JUNIOR, 1), (None, None));
    assert_eq!((view.ipv4(8), view.name(8).as_deref()), (Some(address(9)), Some("phone")));
    view.members.remove(node(8));
    view.members.place_devices(&view.trust);
    assert_eq!(view.has(JUNIOR, 1), called("phone", 9));
}

#[test]
fn of_two_devices_the_one_of_the_owner_counts_who_was_met_first() {
    for order in [[SENIOR, JUNIOR], [JUNIOR, SENIOR]] {
        let mut view = View::of_owners();
        for owner in order {
            view.list(owner, &list_of(1, vec![device(owner, "phone", 9)], &[])).unwrap();
        }
        assert_eq!(view.has(SENIOR, SENIOR), called("phone", 9));
        assert_eq!(view.has(JUNIOR, JUNIOR), (None, None));
        view.list(SENIOR, &list_of(2, Vec::new(), &[])).unwrap();
        assert_eq!(view.has(JUNIOR, JUNIOR), called("phone", 9));
    }
}

#[test]
fn who_lists_the_key_of_anothers_device_takes_nothing_from_it() {
    let mut view = View::of_owners();
    view.list(JUNIOR, &list_of(1, vec![device(1, "phone", 9)], &[])).unwrap();
    let before = view.members.device(id(JUNIOR, 1)).cloned();
    view.list(SENIOR, &list_of(1, vec![device(1, "mine", 8)], &[])).unwrap();
    assert_eq!(view.members.device(id(JUNIOR, 1)).cloned(), before);
    assert_eq!(view.members.devices_with(device_key(1)).count(), 2);
    let range = epsilon_proto::address::Ipv6Range::of(root().network());
    assert_ne!(range.device(id(SENIOR, 1)), range.device(id(JUNIOR, 1)));
    // To revoke the one leaves the other.
    view.revoke(Revoked::Device(id(SENIOR, 1)));
    view.members.doubt_devices();
    view.members.place_devices(&view.trust);
    assert_eq!(view.members.devices_with(device_key(1)).count(), 1);
    assert_eq!(view.members.device(id(JUNIOR, 1)).cloned(), before);
}

#[test]
fn a_strangers_word_makes_no_owner_senior() {
    let mut view = View::with(&[met(SENIOR, 1_000)]);
    let mut back_dated = met(JUNIOR, 2_000);
    back_dated.introductions.push(introduction_at(JUNIOR, 40, Timestamp(0), admitted()));
    view.take(&back_dated).unwrap();
    for owner in [JUNIOR, SENIOR] {
        view.list(owner, &list_of(1, vec![device(owner, "phone", 9)], &[])).unwrap();
    }
    assert_eq!(view.has(SENIOR, SENIOR), called("phone", 9));
}

#[test]
fn whoever_may_and_had_the_last_turn_serves_a_device_before_any_its_owner() {
    let mut view = View::of_owners();
    view.take(&record(5)).unwrap();
    let fallbacks = vec![node(JUNIOR), node(77)];
    let owned = || vec![Device { fallbacks: fallbacks.clone(), ..device(1, "phone", 9) }];
    view.list(SENIOR, &list_of(1, owned(), &[])).unwrap();
    assert_eq!(view.server(1), node(SENIOR));
    // Nobody asked this one to.
    view.list(5, &list_of(1, Vec::new(), &[(1, 9)])).unwrap();
    assert_eq!(view.server(1), node(SENIOR));
    view.list(JUNIOR, &list_of(1, Vec::new(), &[(1, 1)])).unwrap();
    assert_eq!((view.server(1), view.device(1).unwrap().turn), (node(JUNIOR), 1));
    assert_eq!(view.members.served_by(node(JUNIOR)).count(), 1);
    assert_eq!(view.members.served_by(node(SENIOR)).count(), 0);
    view.list(SENIOR, &list_of(2, owned(), &[(1, 2)])).unwrap();
    assert_eq!(view.server(1), node(SENIOR));
    // The owner's word who may is the owner's; the turns stay.
    view.list(JUNIOR, &list_of(2, Vec::new(), &[(1, 7)])).unwrap();
    view.list(SENIOR, &list_of(3, vec![device(1, "phone", 9)], &[(1, 2)])).unwrap();
    assert_eq!(view.server(1), node(SENIOR));
    // Who is gone serves nobody.
    view.list(SENIOR, &list_of(4, owned(), &[(1, 2)])).unwrap();
    assert_eq!(view.server(1), node(JUNIOR));
    view.members.remove(node(JUNIOR));
    view.members.place_devices(&view.trust);
    assert_eq!(view.server(1), node(SENIOR));
}

#[test]
fn what_is_revoked_a_members_or_weak_is_no_device() {
    let mut view = View::of_owners();
    let stolen = Device { key: key(JUNIOR).public().agreement().unwrap(), ..device(1, "me", 7) };
    let weak = Device { key: AgreementKey([0; 32]), ..device(1, "weak", 6) };
    let refused = view.list(SENIOR, &list_of(1, vec![weak], &[]));
    assert!(matches!(refused, Err(Refused::Invalid(_))));
    let devices = vec![device(1, "phone", 9), device(2, "tablet", 8), stolen];
    view.list(SENIOR, &list_of(1, devices, &[])).unwrap();
    assert_eq!(view.members.devices().count(), 2);
    view.revoke(Revoked::Device(id(SENIOR, 1)));
    view.members.doubt_devices();
    let changes = view.members.place_devices(&view.trust);
    assert_eq!(changes.len(), 1);
    assert!(changes[0].id == id(SENIOR, 1) && changes[0].now.is_none());
    assert!(view.members.place_devices(&view.trust).is_empty());
    assert_eq!(view.members.devices().count(), 1);
}

#[test]
fn digests_follow_the_lists() {
    let mut view = View::of_owners();
    let (before, bucket) = (view.members.digest(), node(SENIOR).0[0] % BUCKETS);
    assert!(view.members.lists_in(bucket).is_empty());
    view.list(SENIOR, &list_of(1, vec![device(1, "phone", 9)], &[])).unwrap();
    let with_list = view.members.digest();
    assert_ne!(with_list, before);
    let listed = view.members.lists_in(bucket);
    assert_eq!(
        listed.iter().map(|one| (one.node, one.sequence)).collect::<Vec<_>>(),
        [(node(SENIOR), 1)]
    );
    view.list(SENIOR, &list_of(2, Vec::new(), &[])).unwrap();
    assert_ne!(view.members.digest(), with_list);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn all_place_the_same_devices_in_whatever_order_lists_and_records_came(
        order in Just((0..12_usize).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let fallbacks = vec![node(SENIOR), node(JUNIOR)];
        let shared = Device { fallbacks, ..device(1, "phone", 9) };
        let lists: Vec<(u8, DeviceList)> = vec![
            (SENIOR, list_of(1, vec![device(2, "phone", 9)], &[])),
            (SENIOR, list_of(2, vec![device(3, "web", 6)], &[(1, 2)])),
            (JUNIOR, list_of(1, vec![device(4, "tablet", 8), shared.clone()], &[(1, 1)])),
            (JUNIOR, list_of(3, vec![shared], &[(1, 1)])),
            (5, list_of(1, vec![device(5, "phone", 8), device(3, "tv", 7)], &[(1, 40)])),
            (5, list_of(1, vec![device(6, "phone", 5)], &[])),
        ];
        let records =
            [record(SENIOR), met(JUNIOR, 1), met(5, 3), claiming(6, 8, &[]), claiming(7, 6, &[])];
        let place = |order: &[usize]| {
            let mut view = View::new();
            for _ in 0..3 {
                for index in order {
                    match index {
                        0..5 => drop(view.take(&records[*index])),
                        5..11 => drop(view.list(lists[*index - 5].0, &lists[*index - 5].1)),
                        _ => drop(view.members.place_devices(&view.trust)),
                    }
                }
            }
            view.members.place_devices(&view.trust);
            let placed: Vec<_> = view.members.devices().cloned().collect();
            (view.members.digest(), placed)
        };
        let expected = place(&(0..12).collect::<Vec<_>>());
        prop_assert_eq!(expected.1.len(), 4);
        prop_assert_eq!(place(&order), expected);
    }
}
