//! Nodes come together.

use epsilon_mesh::event::Event;
use epsilon_netsim_tests::sim::{Death, Options, World, cases};
use epsilon_proto::message::Refusal;

use super::{MINUTE, SECOND, fleet, here};

#[test]
fn three_nodes_at_once_in_every_order_are_a_full_mesh() {
    for order in [[1, 2], [2, 1]] {
        for lan in [20, 1] {
            cases(here!(), 10, 3, |case| {
                let mut world = World::new(Options::new(case.seed, case.nodes).lan(lan));
                let token = world.found();
                for machine in order {
                    let moment = world.random().up_to(SECOND);
                    if case.seed.is_multiple_of(2) {
                        world.run_for(moment);
                    }
                    world.join(machine, &token);
                }
                world.settle(SECOND * 5);
                let mesh = |world: &mut World| world.is_full_mesh(&[0, 1, 2]);
                world.run_until(SECOND * 5, "a full mesh", mesh);
            });
        }
    }
}

#[test]
fn a_node_that_joins_alone_works_alone_and_the_second_joins_later() {
    cases(here!(), 10, 3, |case| {
        let mut world = World::new(Options::new(case.seed, case.nodes));
        let token = world.found();
        world.crash(0, Death::Power);
        world.join(1, &token);
        world.run_until(SECOND * 2, "it has an address", |world| {
            world.seen(1, 1).is_some_and(|(ipv4, name)| ipv4.is_some() && name.is_some())
        });
        let alone = world.seen(1, 1);
        world.run_for(MINUTE);
        world.join(2, &token);
        world.run_until(SECOND * 5, "a mesh of two", |world| world.is_full_mesh(&[1, 2]));
        world.run_for(MINUTE);
        world.start(0);
        world.settle(MINUTE * 3);
        assert_eq!(world.seen(0, 1), alone, "who had an address keeps it");
    });
}

#[test]
fn sixteen_nodes_at_once_with_loss_are_a_full_mesh() {
    cases(here!(), 5, 16, |case| {
        let options = Options::new(case.seed, case.nodes).lan(4).lossy(20);
        let (mut world, _) = fleet(options);
        let all: Vec<usize> = (0..case.nodes).collect();
        world.run_until(MINUTE * 3, "a full mesh", |world| world.is_full_mesh(&all));
    });
}

#[test]
fn newcomers_that_meet_each_other_first_still_meet_the_founder_when_much_is_lost() {
    cases(here!(), 60, 6, |case| {
        // Newcomers are near one another, the founder is far.
        let near = case.nodes / 2;
        let mut world = World::new(Options::new(case.seed, case.nodes).lan(near).lossy(35));
        let token = world.found();
        for machine in near..case.nodes {
            let moment = world.random().up_to(SECOND / 2);
            world.run_for(moment);
            world.join(machine, &token);
        }
        let all: Vec<usize> = [0].into_iter().chain(near..case.nodes).collect();
        world.run_until(MINUTE * 5, "a full mesh", |world| world.is_full_mesh(&all));
    });
}

#[test]
fn a_quiet_fleet_costs_little() {
    cases(here!(), 4, 3, |case| {
        // Near one another, and far.
        let distance = if case.seed.is_multiple_of(2) { SECOND / 25 } else { SECOND / 2 };
        let options = Options::new(case.seed, case.nodes).lan(1).distance(distance);
        let (mut world, _) = fleet(options);
        world.run_for(MINUTE * 2);
        let before: Vec<_> =
            (0..case.nodes).map(|one| (world.traffic(one), world.probes(one))).collect();
        assert!(before.iter().all(|(_, probes)| *probes <= 8 + 2 * 7), "{before:?}");
        world.run_for(MINUTE * 60);
        for (machine, (traffic, probes)) in before.into_iter().enumerate() {
            let bytes = world.traffic(machine).bytes - traffic.bytes;
            let messages = world.traffic(machine).messages - traffic.messages;
            let probes = world.probes(machine) - probes;
            println!("n{machine}: {bytes} bytes, {messages} messages, {probes} probes in an hour");
            assert!(bytes < 100_000, "n{machine} sends {bytes} bytes an hour");
            // Who was reached by nobody unasked keeps the ways to two relays open, every 15 s.
            let is_open = world.view(machine).members[0].is_open;
            let most = if is_open { 10 } else { 10 + 2 * 3600 / 15 };
            assert!(probes < most, "n{machine} sends {probes} probes an hour");
        }
    });
}

#[test]
fn a_node_of_another_network_finds_no_gate_that_opens() {
    cases(here!(), 3, 4, |case| {
        let (mut world, token) = fleet(Options::new(case.seed, case.nodes));
        let mut other = World::new(Options::new(case.seed + 1000, case.nodes));
        let foreign = other.found();
        assert_ne!(foreign.network.signer(), token.network.signer());
        world.wipe(3);
        world.settle(MINUTE);
        let before = world.view(0).members.len();
        // The foreign token names the same address.
        world.join(3, &foreign);
        world.run_until(SECOND * 3, "a gate stays shut", |world| world.wrong_gates() > 0);
        world.run_for(MINUTE);
        assert_eq!(world.view(0).members.len(), before);
        assert_eq!(world.view(3).members.len(), 1);
    });
}

#[test]
fn an_expired_a_revoked_and_a_used_up_invite_admit_nobody() {
    use epsilon_mesh::control::Operation;
    cases(here!(), 5, 6, |case| {
        let mut world = World::new(Options::new(case.seed, case.nodes));
        let token = world.found();
        world.join(1, &token);
        world.settle(SECOND * 10);

        let expired = world.token(0, Some(SECOND * 5), None);
        let used_up = world.token(0, None, Some(1));
        let revoked = world.token(0, None, None);
        world.run_for(SECOND * 10);
        world.join(5, &used_up);
        world.settle(SECOND * 30);
        let invite = revoked.verify(&epsilon_proto::key::Strict).unwrap().invite.key;
        let revoke = Operation::RevokeInvite { invite, with_members: false };
        world.perform(0, revoke).unwrap();
        for (machine, token, reason) in [
            (2, expired, Refusal::InviteExpired),
            (3, used_up, Refusal::InviteUsedUp),
            (4, revoked, Refusal::InviteRevoked),
        ] {
            // A clock that was set back does not help.
            world.set_clock(machine, -86_400_000);
            world.join(machine, &token);
            world.run_until(SECOND * 5, "the applicant hears why", |world| {
                world.happened(machine).iter().any(|(_, event)| {
                    matches!(event, Event::RefusedBy(_, refusal) if *refusal == reason)
                })
            });
            world.crash(machine, Death::Process);
        }
        world.settle(MINUTE);
        assert_eq!(world.view(1).members.len(), 3);
    });
}

#[test]
fn a_use_of_a_token_stays_used_when_its_node_has_left_or_was_revoked() {
    use epsilon_mesh::control::Operation;
    cases(here!(), 5, 7, |case| {
        let mut world = World::new(Options::new(case.seed, case.nodes));
        let token = world.found();
        world.join(1, &token);
        world.settle(SECOND * 10);
        let once = world.token(0, None, Some(2));
        for machine in [2, 3] {
            world.join(machine, &once);
            world.settle(SECOND * 10);
        }
        world.perform(2, Operation::Leave).unwrap();
        world.crash(2, Death::Process);
        let gone = world.node(3);
        world.perform(0, Operation::RevokeNode(gone)).unwrap();
        world.crash(3, Death::Process);
        world.settle(SECOND * 20);
        // One that came later knows it as well.
        world.join(4, &token);
        world.settle(SECOND * 20);
        for machine in [0, 1] {
            world.crash(machine, Death::Process);
        }
        world.join(5, &once);
        world.run_for(SECOND * 20);
        assert!(!world.are_linked(4, 5));
        world.start(0);
        world.start(1);
        world.crash(5, Death::Process);
        world.settle(MINUTE);
        assert_eq!(world.view(4).members.len(), 3);
    });
}
