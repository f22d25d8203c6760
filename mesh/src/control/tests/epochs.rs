//! The secrets of the gate, and who hears of them.

use super::*;

#[test]
fn an_epoch_by_a_stolen_key_decides_no_number_and_voids_no_secret() {
    let mut scene = Scene::founder(None);
    let (thief, from) = (key(3), key(ADMIN).node());
    let own = node(ADMIN);
    scene.grant(from, &thief);
    let random = &mut ChaCha20Rng::from_seed([8; 32]);
    let secret = GateSecret::generate(u32::MAX, random);
    let purpose = epsilon_proto::sealed::Purpose::GateSecret;
    let id = scene.control.id;
    let sealed =
        epsilon_proto::sealed::SealedBox::seal(secret.bytes(), purpose, id, own, random).unwrap();
    let stolen = GateEpoch { epoch: u32::MAX, check: secret.check(), boxes: vec![(own, sealed)] };
    scene.learn(from, NetworkDocument::GateEpoch(scene.sign(&stolen, &thief)));
    assert_eq!(scene.control.gate.newest().unwrap().epoch, u32::MAX);

    let root = SecretKey::from_seed(&scene.founding.root.seed());
    let operation = Operation::RevokeAdmin { key: thief.public(), root };
    scene.control.operate(operation, scene.now);
    scene.drain();
    let newest = scene.control.gate.newest_stamp().unwrap();
    assert_eq!(newest.0, 1, "it goes on from the founder's");
    let gate = scene.outputs.iter().rev().find_map(|output| match output {
        Output::Gate { secrets, current } => Some((secrets.clone(), *current)),
        _ => None,
    });
    let (secrets, current) = gate.unwrap();
    let epochs: Vec<u32> = secrets.iter().map(|secret| secret.epoch).collect();
    assert_eq!((epochs, current), (vec![1, u32::MAX, 0], 1));

    // Repeating an honest stamp makes it no less honest.
    let repeated = GateEpoch { epoch: newest.0, check: newest.1, boxes: Vec::new() };
    scene.learn(from, NetworkDocument::GateEpoch(scene.sign(&repeated, &thief)));
    assert_eq!(scene.control.gate.newest_stamp(), Some(newest));
}

#[test]
fn a_member_that_an_epoch_has_no_box_for_asks_for_its_secret() {
    let mut scene = Scene::newcomer();
    let admin = key(ADMIN);
    let by_root = scene.introduction(&admin, &scene.founding.root);
    let shown = scene.credentials(&admin, vec![by_root.clone()], vec![by_root]);
    scene.admit_and_link(&admin, &shown);
    scene.answer(admin.node(), None);
    scene.outputs.clear();
    // It was minted before the admin heard of this node.
    let random = &mut ChaCha20Rng::from_seed([8; 32]);
    let secret = GateSecret::generate(1, random);
    let epoch = GateEpoch { epoch: 1, check: secret.check(), boxes: Vec::new() };
    let epoch = scene.sign(&epoch, &admin);
    scene.learn(admin.node(), NetworkDocument::GateEpoch(epoch.clone()));
    let asked: Vec<_> = scene
        .outputs
        .iter()
        .filter_map(|output| match output {
            Output::Request { id, bytes, .. } => {
                Some((*id, wire::decode::<Request>(bytes).unwrap()))
            }
            _ => None,
        })
        .collect();
    let founding = scene.founding.token.gate.clone();
    let newest = Newest { gate: Some((0, founding.check())) };
    assert_eq!(
        asked.iter().map(|(_, request)| request).collect::<Vec<_>>(),
        [&Request::Gate(newest)]
    );

    let (id, to) = (scene.control.id, scene.control.own);
    let purpose = epsilon_proto::sealed::Purpose::GateSecret;
    let sealed =
        epsilon_proto::sealed::SealedBox::seal(secret.bytes(), purpose, id, to, random).unwrap();
    let sealed = SealedGate { to, epoch: 1, check: secret.check(), sealed };
    let welcome = Welcome { gate: Some(scene.sign(&sealed, &admin)), epoch: Some(epoch) };
    let answer = wire::encode(&Response::Gate(Box::new(welcome)));
    scene.control.handle_response(asked[0].0, Ok(&answer), scene.now);
    scene.drain();
    assert_eq!(scene.control.gate.newest(), Some(&secret));
    // And it hands it on to whoever asks, once.
    for (theirs, has_answer) in
        [(newest, true), (Newest { gate: scene.control.gate.newest_stamp() }, false)]
    {
        let request = wire::encode(&Request::Gate(theirs));
        let answer = scene.control.handle_request(admin.node(), &request, scene.now).unwrap();
        let Response::Gate(welcome) = wire::decode::<Response>(&answer).unwrap() else {
            panic!("another answer")
        };
        assert_eq!(welcome.gate.is_some() && welcome.epoch.is_some(), has_answer);
    }
}
