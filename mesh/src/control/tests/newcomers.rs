//! Who is admitted, by whose word, and what is left of those who are not.

use super::*;

#[test]
fn new_keys_that_hang_up_leave_nothing_and_use_nothing_up() {
    let mut scene = Scene::founder(Some(2));
    for number in 0..200 {
        let one = applicant(number);
        let credentials = scene.credentials(&one, Vec::new(), Vec::new());
        assert_eq!(scene.apply(one.node(), &credentials), Ok(()), "applicant {number}");
        match number % 3 {
            // After this node's verdict.
            0 => drop(scene.admission(scene.exchange, AdmissionInput::Ended)),
            // After both verdicts: the link never comes.
            1 => assert_eq!(scene.conclude(), Ok(())),
            // Linked, and gone.
            _ => {
                assert_eq!(scene.conclude(), Ok(()));
                scene.link(one.node());
                scene.hang_up(one.node());
            }
        }
        scene.pass(SECOND * 2);
    }
    assert_eq!(scene.kept(), (0, 0, 0, 0));
    let honest = applicant(1_000);
    let credentials = scene.credentials(&honest, Vec::new(), Vec::new());
    scene.admit_and_link(&honest, &credentials);
}

#[test]
fn who_comes_while_the_last_use_is_held_waits_for_what_becomes_of_it() {
    let [gone, other, late] = [applicant(1), applicant(2), applicant(3)];
    let shown = |scene: &Scene, one| scene.credentials(one, Vec::new(), Vec::new());
    for takes_it in [false, true] {
        let mut scene = Scene::founder(Some(1));
        let credentials = shown(&scene, &gone);
        scene.admit_and_link(&gone, &credentials);
        let credentials = shown(&scene, &other);
        scene.show(other.node(), &credentials);
        assert_eq!(scene.verdict(), None, "the first may hang up yet");
        if takes_it {
            scene.ask_for_introduction(gone.node()).unwrap();
            scene.pass(SECOND / 2);
            assert_eq!(scene.verdict(), Some(Err(Refusal::InviteUsedUp)));
            continue;
        }
        // Its daemon is killed.
        scene.hang_up(gone.node());
        scene.pass(SECOND * 2);
        assert_eq!(scene.verdict(), Some(Ok(())));
        // One that neither takes what it came for nor goes holds nobody up for long.
        assert_eq!(scene.conclude(), Ok(()));
        scene.link(other.node());
        let credentials = shown(&scene, &late);
        scene.show(late.node(), &credentials);
        scene.pass(SECOND);
        assert_eq!(scene.verdict(), None);
        scene.pass(SECOND);
        assert_eq!(scene.verdict(), Some(Err(Refusal::InviteUsedUp)));
        // Who hangs up while it waits leaves nothing.
        scene.show(late.node(), &credentials);
        scene.admission(scene.exchange, AdmissionInput::Ended);
        scene.hang_up(other.node());
        scene.pass(SECOND * 5);
        assert_eq!(scene.kept(), (0, 0, 0, 0));
    }
}

#[test]
fn who_has_an_introduction_in_hands_gets_none_of_another_token() {
    let mut scene = Scene::founder(Some(1));
    let one = applicant(1);
    let credentials = scene.credentials(&one, Vec::new(), Vec::new());
    scene.admit_and_link(&one, &credentials);
    scene.ask_for_introduction(one.node()).unwrap();
    // The same node by another token would free the use of the first.
    let request = TokenRequest {
        roles: Roles::MEMBER,
        tags: Vec::new(),
        expires: None,
        uses: None,
        addresses: Vec::new(),
    };
    scene.control.operate(Operation::CreateToken(request), scene.now);
    scene.drain();
    let token = scene.outputs.iter().find_map(|output| match output {
        Output::Done { result: Ok(Outcome::Token(token)), .. } => Some(token.clone()),
        _ => None,
    });
    let first = std::mem::replace(&mut scene.founding.token, *token.unwrap());
    let by_other = scene.credentials(&one, Vec::new(), Vec::new());
    assert_eq!(scene.apply(one.node(), &by_other), Err(Refusal::Certificate));
    scene.hang_up(one.node());
    scene.pass(SECOND * 5);
    scene.founding.token = first;
    let late = applicant(2);
    let credentials = scene.credentials(&late, Vec::new(), Vec::new());
    assert_eq!(scene.apply(late.node(), &credentials), Err(Refusal::InviteUsedUp));
}

#[test]
fn an_introduction_in_hands_is_a_use_of_the_token() {
    let mut scene = Scene::founder(Some(1));
    let [one, other] = [applicant(1), applicant(2)];
    let credentials = scene.credentials(&one, Vec::new(), Vec::new());
    scene.admit_and_link(&one, &credentials);
    let introduction = scene.ask_for_introduction(one.node()).unwrap();
    assert!(introduction.peek().unwrap().facts.invite.is_some(), "it says by which invite");
    scene.hang_up(one.node());
    scene.pass(SECOND * 5);
    // By that introduction others would let it in: so it is used up.
    let late = scene.credentials(&other, Vec::new(), Vec::new());
    assert_eq!(scene.apply(other.node(), &late), Err(Refusal::InviteUsedUp));
    scene.pass(FORGET_RESTORED * 2);
    assert_eq!(scene.apply(other.node(), &late), Err(Refusal::InviteUsedUp));
    let used = |scene: &Scene| {
        let invite = scene.founding.token.invite.peek().unwrap().key;
        scene.control.invites().iter().find(|one| one.key == invite).unwrap().used
    };
    assert_eq!(used(&scene), 1, "the list of tokens says so");
    scene.admit_and_link(&one, &credentials);
    scene.hang_up(one.node());
    // When the token is of no use any more, there is nothing to count; who has
    // the introduction comes in by it.
    scene.pass(SECOND * 4_000);
    assert_eq!(scene.kept(), (0, 0, 0, 0));
    assert_eq!(used(&scene), 0);
    assert_eq!(scene.apply(other.node(), &late), Err(Refusal::InviteExpired));
    let shown = scene.credentials(&one, vec![introduction], Vec::new());
    scene.admit_and_link(&one, &shown);
}

#[test]
fn nobody_is_linked_beyond_what_the_network_admits_whoever_introduced_them() {
    let mut scene = Scene::founder(None);
    let accomplice = applicant(0);
    let credentials = scene.credentials(&accomplice, Vec::new(), Vec::new());
    scene.admit_and_link(&accomplice, &credentials);
    let record = wire::encode(&Change::Record(scene.record(&accomplice, 9, 1)));
    assert_eq!(scene.control.handle_gossip(accomplice.node(), &record, scene.now), Some(true));
    let charter = Charter { version: 2, issued: WALL, max_members: 10 };
    let charter = scene.sign(&charter, &key(ADMIN));
    scene.learn(accomplice.node(), NetworkDocument::Charter(charter));
    let mut results = Vec::new();
    for number in 1..20 {
        let one = applicant(number);
        let introduction = scene.introduction(&one, &accomplice);
        let credentials = scene.credentials(&one, vec![introduction], Vec::new());
        let result = scene.apply(one.node(), &credentials);
        if result.is_ok() {
            assert_eq!(scene.conclude(), Ok(()));
            scene.link(one.node());
        }
        results.push(result);
    }
    // Two are members: the founder and its accomplice.
    assert!(results[..8].iter().all(Result::is_ok), "{results:?}");
    assert!(results[8..].iter().all(|result| *result == Err(Refusal::Full)), "{results:?}");
    // Room is made by who goes.
    scene.hang_up(applicant(1).node());
    scene.pass(SECOND * 2);
    let one = applicant(30);
    let introduction = scene.introduction(&one, &accomplice);
    let credentials = scene.credentials(&one, vec![introduction], Vec::new());
    assert_eq!(scene.apply(one.node(), &credentials), Ok(()));
}

#[test]
fn credentials_with_more_than_anybody_has_are_refused_unread() {
    let mut scene = Scene::founder(None);
    let one = applicant(1);
    let introduction = scene.introduction(&one, &key(ADMIN));
    for (introductions, chain) in [(4, 0), (0, Credentials::MAX_CHAIN + 1)] {
        let many = |number| vec![introduction.clone(); number];
        let credentials = scene.credentials(&one, many(introductions), many(chain));
        assert_eq!(scene.apply(one.node(), &credentials), Err(Refusal::Protocol));
    }
    assert_eq!(scene.kept(), (0, 0, 0, 0));
}

#[test]
fn a_newcomer_cuts_off_whom_it_took_on_trust_once_it_knows_better() {
    let mut scene = Scene::newcomer();
    let [intruder, stalling, stranger] = [applicant(1), applicant(2), applicant(3)];
    // Vouched for by somebody whom nobody knows.
    for one in [&intruder, &stalling] {
        let introduction = scene.introduction(one, &stranger);
        let credentials = scene.credentials(one, vec![introduction], Vec::new());
        assert_eq!(scene.apply(one.node(), &credentials), Ok(()), "it cannot know yet");
        if one.node() == intruder.node() {
            assert_eq!(scene.conclude(), Ok(()));
            scene.link(one.node());
        }
    }
    let stalled = scene.exchange;
    // The admin comes, proves itself and vouches for the newcomer.
    let admin = key(ADMIN);
    let by_root = scene.introduction(&admin, &scene.founding.root);
    let credentials = scene.credentials(&admin, vec![by_root.clone()], vec![by_root]);
    scene.admit_and_link(&admin, &credentials);
    scene.answer(admin.node(), Some(&admin));
    assert!(scene.control.is_grounded);
    assert!(scene.is_cut(intruder.node()));
    // Its record is still on its way, and it stays.
    assert!(scene.control.members.get(admin.node()).is_none());
    assert_eq!(scene.control.linked(), [admin.node()]);
    // Nor does it help to have held back the last frame.
    scene.exchange = stalled;
    assert_eq!(scene.conclude(), Err(Refusal::Protocol));
    scene.link(stalling.node());
    assert_eq!(scene.control.linked(), [admin.node()]);
}

#[test]
fn whoever_came_by_the_word_of_a_revoked_admin_is_judged_anew() {
    for is_grounded in [false, true] {
        let mut scene = Scene::newcomer();
        let [admin, thief, intruder] = [key(ADMIN), key(3), applicant(1)];
        let by_root = scene.introduction(&admin, &scene.founding.root);
        let honest = scene.credentials(&admin, vec![by_root.clone()], vec![by_root]);
        scene.admit_and_link(&admin, &honest);
        scene.grant(admin.node(), &thief);
        if is_grounded {
            scene.answer(admin.node(), Some(&admin));
        }
        assert_eq!(scene.control.is_grounded, is_grounded);
        let by_thief = scene.introduction(&intruder, &thief);
        let credentials = scene.credentials(&intruder, vec![by_thief.clone()], vec![by_thief]);
        scene.admit_and_link(&intruder, &credentials);
        scene.outputs.clear();
        scene.revoke_admin(admin.node(), &thief);
        assert!(scene.is_cut(intruder.node()), "grounded: {is_grounded}");
        assert_eq!(scene.control.linked(), [admin.node()], "nobody else is");
        if is_grounded {
            assert_eq!(scene.apply(intruder.node(), &credentials), Ok(()), "its token still holds");
            assert!(scene.control.members.vouched().contains_key(&intruder.node()));
        }
    }
}

#[test]
fn a_newcomer_that_an_intruder_introduced_trusts_nobody_more_for_it() {
    let mut scene = Scene::newcomer();
    let [admin, thief, intruder] = [key(ADMIN), key(3), applicant(1)];
    let by_root = scene.introduction(&admin, &scene.founding.root);
    let honest = scene.credentials(&admin, vec![by_root.clone()], vec![by_root]);
    scene.admit_and_link(&admin, &honest);
    scene.grant(admin.node(), &thief);
    let by_thief = scene.introduction(&intruder, &thief);
    let credentials = scene.credentials(&intruder, vec![by_thief.clone()], vec![by_thief]);
    scene.admit_and_link(&intruder, &credentials);
    let by_thief = scene.introduction(&intruder, &thief);
    let record = scene.sign(
        &NodeRecord {
            introductions: vec![by_thief],
            ..(*scene.record(&intruder, 9, 1).peek().unwrap()).clone()
        },
        &intruder,
    );
    let record = wire::encode(&Change::Record(record));
    assert_eq!(scene.control.handle_gossip(intruder.node(), &record, scene.now), Some(true));
    // The intruder's word is the first by which this node is believed.
    for _ in 0..10 {
        scene.answer(admin.node(), None);
        scene.answer(intruder.node(), Some(&intruder));
        scene.pass(SECOND * 10);
    }
    assert!(scene.control.is_grounded);
    scene.revoke_admin(admin.node(), &thief);
    assert!(!scene.control.is_grounded, "no chain leads here any more");
    // A member that is believed vouches for it: now it knows better.
    let vouching = scene.introduction(&key(2), &admin);
    let request = wire::encode(&Request::Vouch(vouching));
    scene.control.handle_request(admin.node(), &request, scene.now).unwrap();
    scene.pass(SECOND * 70);
    scene.answer(admin.node(), None);
    assert!(scene.control.is_grounded);
    assert!(scene.is_cut(intruder.node()));
    assert!(scene.control.members.get(intruder.node()).is_none());
    assert_eq!(scene.control.linked(), [admin.node()]);
}
