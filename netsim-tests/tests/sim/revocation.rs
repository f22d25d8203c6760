//! Nodes are cut off, replaced and renamed.

use epsilon_mesh::control::{Operation, OperationError};
use epsilon_mesh::event::Event;
use epsilon_netsim_tests::sim::{Death, Options, World, cases};
use epsilon_proto::message::Refusal;

use super::{MINUTE, SECOND, fleet, here, with_fleet};

#[test]
fn a_revoked_node_is_cut_off_by_every_peer_within_two_seconds_and_stays_out() {
    with_fleet(here!(), 10, 5, |_, mut world, _| {
        let node = world.node(4);
        world.perform(0, Operation::RevokeNode(node)).unwrap();
        world.run_until(SECOND * 2, "all have cut it off", |world| {
            (0..4).all(|peer| !world.is_peer(peer, 4) && !world.are_linked(peer, 4))
        });
        world.crash(4, Death::Process);
        world.start(4);
        for peer in 0..4 {
            world.crash(peer, Death::Process);
            world.start(peer);
        }
        world.run_for(MINUTE * 5);
        assert!((0..4).all(|peer| !world.is_peer(peer, 4) && !world.are_linked(peer, 4)));
        world.settle(MINUTE);
        assert!(
            world
                .happened(4)
                .iter()
                .any(|(_, event)| matches!(event, Event::RefusedBy(_, Refusal::NodeRevoked)))
                || world.happened(4).iter().any(|(_, event)| matches!(event, Event::SelfRevoked)),
            "it knows why"
        );
    });
}

#[test]
fn a_peer_that_was_down_learns_of_a_revocation_before_it_admits_that_node() {
    cases(here!(), 20, 4, |case| {
        // The revoked node is near, everybody else is far.
        let (mut world, _) = fleet(Options::new(case.seed, case.nodes).lan(2));
        world.crash(3, Death::Power);
        let node = world.node(2);
        world.crash(2, Death::Process);
        world.perform(0, Operation::RevokeNode(node)).unwrap();
        world.run_for(MINUTE);
        // The revoked node is there first.
        world.start(2);
        if case.seed.is_multiple_of(2) {
            world.run_for(MINUTE);
        }
        let started = world.now();
        world.start(3);
        world.run_for(MINUTE * 2);
        let linked = world
            .happened(3)
            .iter()
            .filter(|(when, _)| *when >= started)
            .any(|(_, event)| matches!(event, Event::PeerUp(other) if *other == node));
        assert!(!linked, "{:#?}", world.happened(3));
        assert!(!world.is_peer(3, 2));
        world.settle(MINUTE);
    });
}

#[test]
fn newcomers_of_an_admin_that_is_revoked_in_the_other_half_are_not_shut_out() {
    cases(here!(), 10, 6, |case| {
        let mut world = World::new(Options::new(case.seed, case.nodes));
        let (root, token) = world.found_with(None, None);
        for machine in 1..5 {
            world.join(machine, &token);
        }
        world.settle(MINUTE);
        let key = world.node(1).key();
        let grant = Operation::AddAdmin { key, name: "second".to_owned(), root: root.clone() };
        world.perform(0, grant).unwrap();
        world.settle(MINUTE);
        world.divide(|machine| usize::from(machine > 0));
        // There it makes one gate secret after the other, here it is revoked.
        for gone in 2..5 {
            let node = world.node(gone);
            world.perform(1, Operation::RevokeNode(node)).unwrap();
        }
        let there = world.token(1, None, None);
        world.join(5, &there);
        world.run_for(MINUTE);
        world.perform(0, Operation::RevokeAdmin { key, root }).unwrap();
        world.run_for(MINUTE);
        world.heal();
        world.run_until(MINUTE * 3, "one mesh", |world| world.is_full_mesh(&[0, 1, 5]));
        world.settle(MINUTE * 3);
    });
}

#[test]
fn a_node_that_misses_a_revocation_by_loss_learns_it_by_anti_entropy() {
    cases(here!(), 10, 8, |case| {
        let (mut world, _) = fleet(Options::new(case.seed, case.nodes).lan(3).lossy(20));
        let node = world.node(7);
        world.perform(0, Operation::RevokeNode(node)).unwrap();
        world.settle(MINUTE * 3);
        assert!((0..7).all(|peer| !world.is_peer(peer, 7)));
    });
}

#[test]
fn revoking_an_invite_with_its_members_cuts_all_of_them_off() {
    cases(here!(), 60, 6, |case| {
        let (mut world, token) = {
            let mut world = epsilon_netsim_tests::sim::World::new(Options::new(case.seed, 6));
            let token = world.found();
            world.join(1, &token);
            world.join(2, &token);
            world.settle(SECOND * 20);
            let second = world.token(0, None, None);
            (world, second)
        };
        world.join(3, &token);
        world.join(4, &token);
        // Mostly while they are on their way in.
        let longest = if case.seed.is_multiple_of(4) { SECOND * 4 } else { SECOND / 200 };
        let moment = world.random().up_to(longest);
        world.run_for(moment);
        let invite = token.verify(&epsilon_proto::key::Strict).unwrap().invite.key;
        let revoke = Operation::RevokeInvite { invite, with_members: true };
        world.perform(0, revoke).unwrap();
        world.run_for(SECOND * 2);
        for peer in 0..3 {
            for out in [3, 4] {
                assert!(!world.is_peer(peer, out), "n{peer} has n{out} as a peer");
                assert!(!world.are_linked(peer, out), "n{peer} is linked with n{out}");
            }
        }
        world.settle(MINUTE * 3);
        assert_eq!(world.view(1).members.len(), 3);
    });
}

#[test]
fn a_replacement_has_the_addresses_and_the_name_of_the_node_it_replaces() {
    with_fleet(here!(), 10, 4, |_, mut world, _| {
        let (old, new) = (world.node(2), world.node(3));
        let before = world.seen(0, 2);
        world.crash(2, Death::Power);
        world.perform(0, Operation::Replace { old, new }).unwrap();
        world.settle(MINUTE);
        assert_eq!(world.seen(1, 3), before);
        assert_eq!(world.seen(1, 2), None);
        world.crash(3, Death::Process);
        world.start(3);
        world.settle(MINUTE);
        assert_eq!(world.seen(1, 3), before);
    });
}

#[test]
fn two_nodes_renamed_to_one_name_at_once_end_with_two_names() {
    with_fleet(here!(), 10, 4, |_, mut world, _| {
        let (one, other) = (world.node(1), world.node(2));
        let name: epsilon_proto::name::NodeName = "same".parse().unwrap();
        world.operate(1, Operation::Rename { node: one, name: name.clone() });
        world.operate(2, Operation::Rename { node: other, name: name.clone() });
        world.settle(MINUTE);
        let names = [world.seen(0, 1), world.seen(0, 2)].map(|seen| seen.unwrap().1.unwrap());
        assert_ne!(names[0], names[1]);
        assert!(names.iter().all(|name| name.starts_with("same")), "{names:?}");
    });
}

#[test]
fn who_left_does_not_come_back_and_those_it_vouched_for_stay() {
    cases(here!(), 10, 6, |case| {
        let mut world = epsilon_netsim_tests::sim::World::new(Options::new(case.seed, 6));
        let token = world.found();
        world.join(1, &token);
        world.settle(SECOND * 20);
        // Only n1 is there to vouch for n2 and n3.
        world.crash(0, Death::Process);
        world.join(2, &token);
        world.join(3, &token);
        world.settle(SECOND * 20);
        world.start(0);
        world.settle(MINUTE * 2);
        world.perform(1, Operation::Leave).unwrap();
        world.run_for(SECOND * 5);
        world.crash(1, Death::Process);
        world.settle(MINUTE * 3);
        world.crash(3, Death::Process);
        world.join(4, &token);
        world.settle(MINUTE * 3);
        assert_eq!(world.view(4).members.len(), 4, "n0, n2, n3, n4");
        world.crash(0, Death::Process);
        world.start(0);
        world.settle(MINUTE * 3);
        assert_eq!(world.view(0).members.len(), 4);
        assert!(!world.is_peer(0, 1));
    });
}

#[test]
fn more_revocations_than_fit_into_one_frame_are_exchanged_before_an_admission() {
    with_fleet(here!(), 1, 4, |_, mut world, _| {
        world.crash(1, Death::Power);
        world.run_for(SECOND * 10);
        for _ in 0..1_500 {
            let token = world.token(0, None, None);
            let invite = token.verify(&epsilon_proto::key::Strict).unwrap().invite.key;
            let revoke = Operation::RevokeInvite { invite, with_members: false };
            world.perform(0, revoke).unwrap();
        }
        let gone = world.node(2);
        world.perform(0, Operation::RevokeNode(gone)).unwrap();
        world.divide(|machine| usize::from(machine != 0 && machine != 1));
        world.start(1);
        world.run_until(SECOND * 5, "linked again", |world| world.are_linked(0, 1));
        assert!(!world.is_peer(1, 2), "n1 knows of the revocation when it links");
    });
}

#[test]
fn two_admins_in_two_halves_revoke_and_one_of_them_is_revoked_then() {
    cases(here!(), 8, 6, |case| {
        let mut world = World::new(Options::new(case.seed, case.nodes).lan(3));
        let (root, token) = world.found_with(None, None);
        for machine in 1..6 {
            world.join(machine, &token);
        }
        world.settle(SECOND * 30);
        let key = world.node(3).key();
        let grant = Operation::AddAdmin { key, name: "second".to_owned(), root: root.clone() };
        world.perform(0, grant).unwrap();
        world.settle(SECOND * 10);
        // Each mints a gate epoch of the same number.
        world.divide(|machine| machine / 3);
        let (here, there) = (world.node(2), world.node(5));
        world.perform(0, Operation::RevokeNode(here)).unwrap();
        world.perform(3, Operation::RevokeNode(there)).unwrap();
        world.run_for(MINUTE);
        world.heal();
        for machine in [2, 5] {
            world.crash(machine, Death::Process);
        }
        world.settle(MINUTE * 2);
        assert_eq!(world.view(1).members.len(), 4);

        let second = world.token(3, None, None);
        world.perform(0, Operation::RevokeAdmin { key, root }).unwrap();
        world.settle(SECOND * 10);
        let name = "mine".parse().unwrap();
        let node = world.node(0);
        let refused = world.perform(3, Operation::Rename { node, name });
        assert!(matches!(refused, Err(OperationError::NotAdmin)), "{refused:?}");
        world.wipe(2);
        world.join(2, &second);
        world.run_for(SECOND * 20);
        assert!(!world.are_linked(0, 2) && !world.are_linked(3, 2), "its tokens are void");
        world.crash(2, Death::Process);
        world.settle(MINUTE);
        assert_eq!(world.view(1).members.len(), 4, "what it revoked stays revoked");
    });
}
