//! Devices of many owners, who add, remove and serve them while the fleet is
//! divided, crashes and changes.

use std::collections::{BTreeMap, BTreeSet};

use epsilon_mesh::control::{Operation, OperationError, Outcome};
use epsilon_netsim_tests::sim::{Death, Options, World, cases};
use epsilon_proto::id::{DeviceId, NodeId};
use epsilon_proto::key::AgreementKey;

use super::{MINUTE, SECOND, fleet, here, with_fleet};

const NAMES: [&str; 6] = ["phone", "tablet", "tv", "n3", "camera", "printer"];

fn add(world: &mut World, machine: usize, fallbacks: Vec<NodeId>) -> Option<AgreementKey> {
    let name = NAMES[world.random().below(NAMES.len())].parse().unwrap();
    match world.perform(machine, Operation::AddDevice { name, key: None, fallbacks }) {
        Ok(Outcome::Device(new)) => Some(new.device.key),
        // What this half of the fleet knows may be old.
        Err(
            OperationError::NameTaken(_)
            | OperationError::NotPublished
            | OperationError::UnknownNode(_),
        ) => None,
        other => panic!("{other:?}"),
    }
}

/// The devices that were acknowledged and not removed are there, on every
/// machine that is up, as long as their owner is a member.
fn check(world: &mut World, devices: &BTreeMap<AgreementKey, usize>, gone: &BTreeSet<usize>) {
    let live: Vec<usize> = world.live();
    for machine in live {
        let seen: BTreeSet<AgreementKey> =
            world.view(machine).devices.iter().map(|device| device.key).collect();
        let wanted = devices.iter().filter(|(_, owner)| !gone.contains(owner));
        let wanted: BTreeSet<AgreementKey> = wanted.map(|(key, _)| *key).collect();
        assert_eq!(seen, wanted, "n{machine}");
    }
}

#[test]
fn all_agree_on_devices_and_lose_none_that_was_acknowledged() {
    cases(here!(), 20, 8, |case| {
        let (mut world, _) = fleet(Options::new(case.seed, case.nodes).lan(4).lossy(20));
        let mut devices: BTreeMap<AgreementKey, usize> = BTreeMap::new();
        let mut fallbacks: BTreeMap<AgreementKey, usize> = BTreeMap::new();
        let mut gone: BTreeSet<usize> = BTreeSet::new();
        for _ in 0..60 {
            let pause = world.random().between(SECOND / 100, SECOND * 5);
            world.run_for(pause);
            let machine = world.random().below(case.nodes);
            let any = world.random().below(devices.len().max(1));
            let any = devices.iter().nth(any).map(|(key, owner)| (*key, *owner));
            match world.random().below(12) {
                0..=3 if world.is_up(machine) && !gone.contains(&machine) => {
                    let other = world.random().below(case.nodes);
                    let others =
                        if gone.contains(&other) { Vec::new() } else { vec![world.node(other)] };
                    if let Some(key) = add(&mut world, machine, others) {
                        devices.insert(key, machine);
                        fallbacks.insert(key, other);
                    }
                }
                4..=6 => {
                    // A device calls one of those who may serve it.
                    if let Some((key, owner)) = any {
                        let server =
                            if world.random().chance(50) { owner } else { fallbacks[&key] };
                        if world.is_up(server) {
                            world.device_calls(server, key);
                        }
                    }
                }
                7 => {
                    // Its owner removes a device, or else the admin revokes it.
                    let Some((key, owner)) = any.filter(|(_, owner)| !gone.contains(owner)) else {
                        continue;
                    };
                    let by = if world.is_up(owner) { owner } else { 0 };
                    match world
                        .perform(by, Operation::RemoveDevice(DeviceId::of(world.node(owner), key)))
                    {
                        Ok(Outcome::Done) => drop(devices.remove(&key)),
                        Err(OperationError::UnknownDevice(_)) => {}
                        other => panic!("{other:?}"),
                    }
                }
                8 if machine != 0 && world.is_up(machine) => {
                    let how = if world.random().chance(50) { Death::Process } else { Death::Power };
                    world.crash(machine, how);
                }
                9 if machine != 0 && gone.len() < 2 && !gone.contains(&machine) => {
                    let node = world.node(machine);
                    match world.perform(0, Operation::RevokeNode(node)) {
                        Ok(_) => drop(gone.insert(machine)),
                        // It had only the word of one that was revoked just now.
                        Err(OperationError::UnknownNode(_)) => {}
                        other => panic!("{other:?}"),
                    }
                }
                10 => {
                    let side = world.random().below(case.nodes);
                    world.divide(|machine| usize::from(machine > side));
                }
                11 => world.heal(),
                _ if !world.is_up(machine) && !gone.contains(&machine) => world.start(machine),
                _ => {}
            }
        }
        world.heal();
        for machine in 0..case.nodes {
            if !world.is_up(machine) && !gone.contains(&machine) {
                world.start(machine);
            }
        }
        world.settle(MINUTE * 10);
        check(&mut world, &devices, &gone);
    });
}

#[test]
fn a_device_is_served_where_it_called_last_whatever_the_clocks_say() {
    with_fleet(here!(), 5, 4, |_, mut world, _| {
        world.set_clock(1, -3_600_000);
        let fallbacks = vec![world.node(2)];
        let name = "phone".parse().unwrap();
        let made = world.perform(1, Operation::AddDevice { name, key: None, fallbacks });
        let Ok(Outcome::Device(new)) = made else { panic!("{made:?}") };
        let key = new.device.key;
        let settled_on = |world: &mut World, machine: usize| {
            world.settle(SECOND * 30);
            let server = world.node(machine);
            let up: Vec<usize> = world.live();
            assert!(up.iter().all(|one| world.view(*one).devices[0].server == server));
        };
        settled_on(&mut world, 1);
        for server in [2, 1, 2] {
            world.device_calls(server, key);
            settled_on(&mut world, server);
        }
        // Nobody else hears it, and its server may be gone for a while.
        world.device_calls(3, key);
        world.crash(2, Death::Power);
        world.run_for(MINUTE);
        world.device_calls(1, key);
        settled_on(&mut world, 1);
        world.start(2);
        settled_on(&mut world, 1);
    });
}

#[test]
fn all_devices_that_come_at_once_when_their_owner_is_gone_are_served() {
    const DEVICES: usize = 20;
    with_fleet(here!(), 5, 4, |_, mut world, _| {
        let mut keys = Vec::new();
        for number in 0..DEVICES {
            let name = format!("phone-{number}").parse().unwrap();
            let fallbacks = vec![world.node(2)];
            let made = world.perform(1, Operation::AddDevice { name, key: None, fallbacks });
            let Ok(Outcome::Device(new)) = made else { panic!("{made:?}") };
            keys.push(new.device.key);
        }
        world.settle(MINUTE);
        world.crash(1, Death::Power);
        for key in keys {
            world.device_calls(2, key);
        }
        world.settle(MINUTE);
        let server = world.node(2);
        for machine in world.live() {
            let here =
                world.view(machine).devices.iter().filter(|one| one.server == server).count();
            assert_eq!(here, DEVICES, "n{machine}");
        }
    });
}

#[test]
fn a_list_that_is_too_long_for_gossip_reaches_everybody_without_a_storm() {
    const DEVICES: usize = 700;
    with_fleet(here!(), 2, 16, |case, mut world, _| {
        for number in 0..DEVICES {
            let name = format!("sensor-{number}").parse().unwrap();
            let add = Operation::AddDevice { name, key: None, fallbacks: Vec::new() };
            world.perform(3, add).unwrap();
        }
        world.settle(MINUTE * 3);
        assert_eq!(world.view(9).devices.len(), DEVICES);
        let sent = |world: &World| -> u64 {
            (0..case.nodes).map(|machine| world.traffic(machine).bytes).sum()
        };
        let before = sent(&world);
        let name = "one-more".parse().unwrap();
        let add = Operation::AddDevice { name, key: None, fallbacks: Vec::new() };
        world.perform(3, add).unwrap();
        let took = world.settle(MINUTE * 2);
        let lists = (sent(&world) - before) / (50 * DEVICES as u64);
        println!("{took:?}, as much as {lists} lists");
        assert_eq!(world.view(9).devices.len(), DEVICES + 1);
        // Once to each, and some that are on their way twice.
        assert!(lists < 4 * case.nodes as u64, "{lists} lists were sent");
    });
}

#[test]
fn what_two_halves_gave_away_twice_is_one_devices_in_the_end() {
    cases(here!(), 10, 6, |case| {
        let (mut world, _) = fleet(Options::new(case.seed, case.nodes).lan(3));
        world.divide(|machine| machine / 3);
        let mut made = Vec::new();
        for machine in [1, 4] {
            let name = "phone".parse().unwrap();
            let fallbacks = Vec::new();
            let new = world.perform(machine, Operation::AddDevice { name, key: None, fallbacks });
            let Ok(Outcome::Device(new)) = new else { panic!("{new:?}") };
            made.push((machine, new.device.key));
        }
        world.heal();
        world.settle(MINUTE * 3);
        let view = world.view(0);
        let named: Vec<_> = view.devices.iter().filter(|device| device.name.is_some()).collect();
        assert_eq!((view.devices.len(), named.len()), (2, 1));
        let loser = made.iter().find(|(_, key)| *key != named[0].key).unwrap();
        let displaced_id = DeviceId::of(world.node(loser.0), loser.1);
        let displaced = world.happened(loser.0).iter().filter(|(_, event)| {
            matches!(event, epsilon_mesh::event::Event::DeviceDisplaced(id, _) if *id == displaced_id)
        });
        assert_eq!(displaced.count(), 1);
        // It is called so again once the other is gone.
        let winner = made.iter().find(|(_, key)| *key == named[0].key).unwrap();
        world
            .perform(
                winner.0,
                Operation::RemoveDevice(DeviceId::of(world.node(winner.0), winner.1)),
            )
            .unwrap();
        world.settle(MINUTE);
        assert!(world.view(5).devices[0].name.is_some());
    });
}
