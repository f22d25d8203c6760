//! A member that means no good: what it does to others' paths, and has others do.

use std::time::Duration;

use epsilon_mesh::event::Event;
use epsilon_mesh::shard::Path;
use epsilon_netsim_tests::sim::{Behaviour, Protocol, World, cases};

use super::paths::{OFTEN, fleet_with, is_direct, longest_gap};
use super::{MINUTE, SECOND, here};

/// How long it goes on.
const SECONDS: u32 = 600;
/// What each member may send to addresses that one other names and that never answer: at
/// once, and then in two seconds.
const STRANGE: (u64, u64) = (144, 5);
/// How often one member may call addresses that another names, who names others all the time.
const CALLS: u64 = 480;

/// How many records a machine published since then.
fn published(world: &World, machine: usize, since: Duration) -> usize {
    let events = world.happened(machine).iter();
    events.filter(|(at, event)| *at > since && matches!(event, Event::Published)).count()
}

#[test]
fn a_member_moves_no_path_of_others_and_has_them_flood_nobody() {
    cases(here!(), 10, 6, |case| {
        let kind = Some(Behaviour::PORT_RESTRICTED);
        let mut world = fleet_with(case, 4, [kind, kind]);
        let (villain, honest) = (3, [0, 1, 2, 4, 5]);
        let talks = [(4, 5), (0, 4), (1, 2)].map(|(one, other)| {
            let talk = world.converse(one, other, OFTEN);
            (one, other, talk)
        });
        world.run_for(SECOND * 30);
        assert!(is_direct(&world, 4, 5) && is_direct(&world, 5, 4));
        let ways = talks.map(|(one, other, _)| [world.path(one, other), world.path(other, one)]);
        let (begun, aimed) = (world.now(), world.aimed(Protocol::Udp));
        let probes = honest.map(|machine| world.probes(machine));
        world.lie(villain);
        world.steal(villain, 2);
        // Who cannot call it any more calls it where it says that it is.
        world.cut_between(villain, 0);
        let called = world.aimed(Protocol::Tcp);
        let mut forged = 0;
        for second in 0..SECONDS {
            if second % 5 == 0 {
                let victims = (0..8).map(|_| world.victim()).collect();
                world.name_addresses(villain, victims);
            }
            for _ in 0..5 {
                for target in [0, 1, 2] {
                    let victim = world.victim();
                    world.probe_from_elsewhere(villain, target, victim);
                    forged += 1;
                }
                world.run_for(SECOND / 5);
                let now =
                    talks.map(|(one, other, _)| [world.path(one, other), world.path(other, one)]);
                assert_eq!(now, ways, "after {second} s");
            }
        }
        for (one, other, talk) in talks {
            let gap = longest_gap(&world, talk, begun);
            assert!(gap <= SECOND / 2, "{gap:?} between n{one} and n{other}");
        }
        // An answer for each that was forged is what the villain could send by itself.
        let aimed = world.aimed(Protocol::Udp) - aimed - forged;
        let most = honest.len() as u64 * (STRANGE.0 + STRANGE.1 * u64::from(SECONDS) / 2);
        assert!((most / 4..=most).contains(&aimed), "{aimed} datagrams at victims, not {most}");
        let called = world.aimed(Protocol::Tcp) - called;
        assert!((8..=CALLS).contains(&called), "{called} calls to victims");
        for (machine, before) in honest.into_iter().zip(probes) {
            let rate = (world.probes(machine) - before) / u64::from(SECONDS);
            assert!(rate <= 12, "n{machine} sends {rate} probes a second");
            let records = published(&world, machine, begun);
            assert!(records <= 12, "n{machine} published {records} records");
        }
    });
}

#[test]
fn a_relay_that_passes_nothing_on_is_left_within_three_seconds() {
    cases(here!(), 10, 5, |case| {
        let kind = Some(Behaviour::SYMMETRIC);
        let mut world = fleet_with(case, 3, [kind, kind]);
        let talk = world.converse(3, 4, OFTEN);
        world.run_for(SECOND * 10);
        let Some(Path::Relayed(address, _)) = world.path(3, 4) else {
            panic!("{:?}", world.path(3, 4))
        };
        let relay = (0..3).find(|machine| world.address(*machine) == address).unwrap();
        let begun = world.now();
        world.swallow(relay);
        world.run_for(MINUTE);
        let gap = longest_gap(&world, talk, begun);
        assert!(gap <= SECOND * 3, "{gap:?} by n{relay}");
        for (one, other) in [(3, 4), (4, 3)] {
            let way = world.path(one, other);
            assert!(way.is_some_and(|way| way.address() != address), "{way:?}");
        }
    });
}
