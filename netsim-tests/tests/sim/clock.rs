//! Clocks that are wrong, and certificates that are back-dated.

use epsilon_mesh::event::Event;
use epsilon_netsim_tests::sim::{Death, Options, World, cases};

use super::{MINUTE, SECOND, halves_that_claim, here};

const YEAR: i64 = 365 * 86_400_000;

#[test]
fn a_machine_whose_clock_is_wrong_joins_within_three_seconds() {
    for skew in [-60 * YEAR, -10 * YEAR, -3_600_000, 3_600_000, 10 * YEAR] {
        cases(here!(), 4, 4, |case| {
            let mut world = World::new(Options::new(case.seed, case.nodes));
            let token = world.found();
            world.join(1, &token);
            world.settle(SECOND * 10);
            world.set_clock(2, skew);
            world.join(2, &token);
            world.run_until(SECOND * 3, "connected", |world| world.is_full_mesh(&[0, 1, 2]));
            world.settle(SECOND * 10);
            // Set back by years across a reboot.
            world.crash(1, Death::Power);
            world.set_clock(1, skew);
            world.start(1);
            world.run_until(SECOND * 3, "connected again", |world| world.is_full_mesh(&[0, 1, 2]));
        });
    }
}

#[test]
fn a_claimant_with_a_wrong_clock_takes_nobodys_name() {
    for skew in [-40 * YEAR, -YEAR, YEAR, 40 * YEAR] {
        cases(here!(), 3, 3, |case| {
            let mut world = World::new(Options::new(case.seed, 5));
            let token = world.found();
            world.join(1, &token);
            world.join(2, &token);
            world.settle(SECOND * 10);
            let before: Vec<_> = (0..3).map(|one| world.seen(0, one)).collect();
            // It asks for a name that another has, with its clock off.
            world.set_clock(3, skew);
            world.set_hostname(3, "n1");
            world.join(3, &token);
            world.settle(SECOND * 20);
            let after: Vec<_> = (0..3).map(|one| world.seen(3, one)).collect();
            assert_eq!(before, after);
            world.set_clock(3, -skew);
            world.crash(3, Death::Process);
            world.start(3);
            world.settle(MINUTE);
            let after: Vec<_> = (0..3).map(|one| world.seen(3, one)).collect();
            assert_eq!(before, after);
        });
    }
}

#[test]
fn who_claimed_first_keeps_the_name_however_wrong_the_claimants_clocks_are() {
    let past = -180_000;
    for (first, second) in [(0, past), (0, 40 * YEAR), (40 * YEAR, 0), (40 * YEAR, past)] {
        cases(here!(), 4, 4, |case| {
            // Each half has one witness, whose clock is right.
            let mut world = World::new(Options::new(case.seed, 4).lan(2));
            let token = world.found();
            world.join(2, &token);
            world.settle(SECOND * 10);
            world.run_for(MINUTE * 5);
            world.divide(|machine| machine / 2);
            for (machine, skew) in [(1, first), (3, second)] {
                world.set_clock(machine, skew);
                world.set_hostname(machine, "web");
                world.join(machine, &token);
                world.run_for(MINUTE);
                let name = world.seen(machine, machine).unwrap().1;
                assert_eq!(name.as_deref(), Some("web"), "nobody disputes it yet");
            }
            world.heal();
            world.settle(MINUTE * 3);
            let names = [1, 3].map(|machine| world.seen(0, machine).unwrap().1.unwrap());
            assert_eq!(names[0], "web", "n3 took it with its clock at {second}");
            assert_ne!(names[1], "web");
        });
    }
}

#[test]
fn a_half_whose_clocks_are_in_the_future_takes_nobodys_address() {
    let mut lost = 0;
    let all = cases(here!(), 4, 48, |case| {
        let half = case.nodes / 2;
        // Most of them witness one another with clocks that are off.
        let mut world = halves_that_claim(case, Some(40 * YEAR));
        let before: Vec<_> = (0..half).map(|one| world.seen(one, one).unwrap()).collect();
        world.heal();
        world.settle(MINUTE * 3);
        let after: Vec<_> = (0..half).map(|one| world.seen(one, one).unwrap()).collect();
        assert_eq!(before, after);
        lost += (half..case.nodes)
            .flat_map(|machine| world.happened(machine))
            .filter(|(_, event)| matches!(event, Event::AddressLost(_)))
            .count();
    });
    assert!(lost > 0 || !all, "no seed has two nodes that want one address");
}

#[test]
fn a_certificate_back_dated_under_an_expired_invite_is_refused() {
    cases(here!(), 5, 5, |case| {
        let mut world = World::new(Options::new(case.seed, case.nodes));
        let (_, token) = world.found_with(Some(MINUTE), None);
        world.join(1, &token);
        world.join(2, &token);
        world.settle(SECOND * 20);
        world.run_for(MINUTE * 2);
        // Two accomplices: clocks set back, and vouching for one another.
        for machine in [3, 4] {
            world.set_clock(machine, -120_000);
            world.join(machine, &token);
        }
        world.run_for(MINUTE * 3);
        for peer in 0..3 {
            assert!(!world.is_peer(peer, 3) && !world.is_peer(peer, 4));
            assert!(!world.are_linked(peer, 3) && !world.are_linked(peer, 4));
        }
        assert_eq!(world.view(0).members.len(), 3);
    });
}

#[test]
fn a_newcomer_that_meets_intruders_first_does_not_let_them_in() {
    cases(here!(), 8, 6, |case| {
        // The intruders share a local network with the newcomer.
        let mut world = World::new(Options::new(case.seed, case.nodes).lan(3));
        let (_, expired) = world.found_with(Some(MINUTE), None);
        world.join(1, &expired);
        world.settle(SECOND * 20);
        world.run_for(MINUTE * 2);
        let fresh = world.token(0, None, None);
        world.divide(|machine| machine / 3);
        for machine in [3, 4] {
            world.set_clock(machine, -120_000);
            world.join(machine, &expired);
        }
        world.run_for(MINUTE);
        world.join(5, &fresh);
        world.run_for(MINUTE * 2);
        world.heal();
        world.run_for(MINUTE * 5);
        for member in [0, 1, 5] {
            for intruder in [3, 4] {
                assert!(!world.is_peer(member, intruder), "n{member} has n{intruder}");
                assert!(!world.are_linked(member, intruder));
            }
        }
        assert!(world.is_full_mesh(&[0, 1, 5]));
        let (ours, theirs) = (world.view(0), world.view(5));
        assert_eq!(ours.records_digest, theirs.records_digest);
        assert_eq!(ours.members.len(), 3);
    });
}

#[test]
fn a_fleet_without_an_admin_believes_no_made_up_introductions() {
    cases(here!(), 8, 6, |case| {
        let mut world = World::new(Options::new(case.seed, case.nodes));
        let token = world.found_offline(Some(MINUTE * 5));
        for machine in [0, 1, 2] {
            world.join(machine, &token);
        }
        world.settle(SECOND * 30);
        world.run_for(MINUTE * 15);
        // Intruders with the expired token who have vouched for one another.
        world.divide(|machine| machine / 3);
        for machine in [3, 4, 5] {
            world.set_clock(machine, -1_200_000);
            world.join(machine, &token);
        }
        world.run_for(MINUTE);
        world.crash(2, Death::Power);
        world.heal();
        world.run_for(MINUTE);
        world.start(2);
        world.run_for(MINUTE * 5);
        for member in [0, 1, 2] {
            for intruder in [3, 4, 5] {
                assert!(!world.is_peer(member, intruder), "n{member} has n{intruder}");
                assert!(!world.are_linked(member, intruder));
            }
        }
        assert!(world.is_full_mesh(&[0, 1, 2]), "members are members, though the token expired");
        assert_eq!(world.view(0).members.len(), 3);
    });
}
