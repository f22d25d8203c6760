//! Members that say about paths what they like.

use std::collections::BTreeSet;
use std::net::IpAddr;

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use epsilon_proto::address::stream_address;
use epsilon_proto::datagram::Channel;
use epsilon_proto::letter::{Answer, Ask, Call, Letter, MAX_CALL, Words};
use epsilon_proto::wire::Bytes;

use super::*;
use crate::control::seen::SeenBy;
use crate::pair::Pair;
use crate::shard::Report;

/// What a member says in its record: where it is, and its relays.
type Said<'a> = (&'a [SocketAddr], &'a [NodeId]);

fn at(host: u8) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, host], 7755))
}

/// Where all who are honest see this node.
fn outer() -> SocketAddr {
    "203.0.113.9:7755".parse().unwrap()
}

/// What somebody may make up.
fn lie(number: u16) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 100 + (number % 100) as u8], 10_000 + number))
}

impl Scene {
    /// This node behind a NAT.
    fn at_home() -> Self {
        let mut scene = Self::founder(None);
        let home = "192.168.1.7".parse().unwrap();
        scene.control.handle_local_addresses(vec![(home, 24)], false, scene.now);
        scene
    }

    /// A member to which this node opened a link, at an address of its own.
    fn member(&mut self, number: u8, said: Said<'_>) -> NodeId {
        let member = key(number);
        let introduction = self.introduction(&member, &key(ADMIN));
        let credentials = self.credentials(&member, vec![introduction], Vec::new());
        assert_eq!(self.apply(member.node(), &credentials), Ok(()));
        assert_eq!(self.conclude(), Ok(()));
        self.control.handle_link_up(member.node(), remote(), true, self.now);
        self.say(number, 1, said);
        member.node()
    }

    fn say(&mut self, number: u8, sequence: u64, (addresses, relays): Said<'_>) {
        let member = key(number);
        let record = self.record(&member, 9, sequence);
        let mut record = (*record.verify(self.control.id, &Strict).unwrap()).clone();
        record.introductions = vec![self.introduction(&member, &key(ADMIN))];
        let source = epsilon_proto::record::EndpointSource::Configured;
        let endpoint = |address: &SocketAddr| Endpoint { source, address: *address };
        record.endpoints = addresses.iter().map(endpoint).collect();
        record.relays = relays.to_vec();
        let change = wire::encode(&Change::Record(self.sign(&record, &member)));
        self.control.handle_gossip(member.node(), &change, self.now);
        self.drain();
    }

    /// The probes that went out, to whom and where.
    fn probes(&mut self) -> Vec<(NodeId, Path, u64)> {
        let is_probe = |output: &Output| matches!(output, Output::Shard(Command::SendProbe { .. }));
        let all: Vec<Output> = self.outputs.extract_if(.., |output| is_probe(output)).collect();
        all.into_iter()
            .filter_map(|output| match output {
                Output::Shard(Command::SendProbe { node, to, transaction, .. }) => {
                    Some((node, to, transaction))
                }
                _ => None,
            })
            .collect()
    }

    fn answered(&mut self, node: NodeId, to: Path, transaction: u64, observed: SocketAddr) {
        let rtt = Duration::from_millis(20);
        let report = Report::ProbeAnswered { node, transaction, to, observed, rtt };
        self.control.handle_report(report, self.now);
        self.drain();
    }

    /// Lets time pass, in which members answer at their addresses and say where they see
    /// this node; says to whom probes went.
    fn pass_among(&mut self, time: Duration, honest: &[(u8, SocketAddr)]) -> Vec<(NodeId, Path)> {
        let mut sent = Vec::new();
        let end = self.now.instant + time;
        while self.now.instant < end {
            self.pass(Duration::from_millis(100));
            for (node, to, transaction) in self.probes() {
                sent.push((node, to));
                let open = honest.iter().find(|(number, _)| key(*number).node() == node);
                if let Some((number, observed)) = open
                    && to == Path::Direct(at(*number))
                {
                    self.answered(node, to, transaction, *observed);
                }
            }
        }
        sent
    }

    /// A member sees this node there, in answer to a probe that it provoked.
    fn sees(&mut self, number: u8, observed: SocketAddr) {
        let (node, to) = (key(number).node(), Path::Direct(at(number)));
        let transaction = self.control.send_probe(node, to, None).unwrap();
        self.drain();
        self.answered(node, to, transaction, observed);
    }

    fn endpoints(&self) -> BTreeSet<SocketAddr> {
        self.control.endpoints(8, SeenBy::Most).into_iter().map(|one| one.address).collect()
    }

    fn count(&mut self, is_it: impl Fn(&Output) -> bool) -> usize {
        self.outputs.extract_if(.., |output| is_it(output)).count()
    }

    /// A letter of a member's run to this one.
    fn letter(&self, of: u8, boot: u8, counter: u64, words: &Words) -> Letter {
        let (from, to) = (key(of), self.control.own);
        let boots = (BootId([boot; 16]), self.control.config.boot);
        let mut secret = [0; 32];
        Pair::new(&from, to, self.control.id, boots)
            .unwrap()
            .secret("letter", true, &mut secret)
            .unwrap();
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&counter.to_le_bytes());
        let both = [from.node().0, to.0].concat();
        let payload = Payload { msg: &wire::encode(words), aad: &both };
        let sealed = ChaCha20Poly1305::new((&secret).into()).encrypt(&Nonce::from(nonce), payload);
        Letter { from: from.node(), to, hops: 0, counter, sealed: Bytes(sealed.unwrap()) }
    }

    fn deliver(&mut self, by: u8, letter: &Letter) {
        self.control.take_letter(key(by).node(), letter.clone(), self.now);
        self.control.advance_paths(self.now);
        self.drain();
    }
}

fn is_letter_to(output: &Output, number: u8) -> bool {
    matches!(output, Output::Request { node, bytes, .. } if *node == key(number).node()
        && matches!(wire::decode::<Request>(bytes), Ok(Request::Letter(_))))
}

/// This node and three members, who know each other; the last is no friend.
fn with_a_liar() -> Scene {
    let mut scene = Scene::at_home();
    for number in [2, 3, 4] {
        scene.member(number, (&[at(number)], &[]));
    }
    scene.pass_among(SECOND * 30, &[(2, outer()), (3, outer()), (4, outer())]);
    assert!(scene.endpoints().contains(&outer()));
    scene.outputs.clear();
    scene
}

#[test]
fn one_member_alone_neither_makes_up_where_this_node_is_nor_takes_it_away() {
    let mut scene = with_a_liar();
    scene.control.seen_as(at(2), SocketAddr::from(([192, 168, 1, 7], 7755)), scene.now);
    scene.control.came_from(at(77), scene.now);
    assert!(scene.control.reaching.is_open());
    scene.pass_among(SECOND * 10, &[(2, outer()), (3, outer())]);
    scene.outputs.clear();
    let before = scene.endpoints();
    for number in 0..300 {
        scene.sees(4, if number % 2 == 0 { lie(number) } else { outer() });
        assert_eq!(scene.endpoints(), before);
        scene.pass_among(SECOND / 5, &[(2, outer()), (3, outer())]);
        assert!(scene.control.reaching.is_open());
    }
    let published = scene.count(|output| matches!(output, Output::Publish(_)));
    assert_eq!(published, 0, "records");
}

#[test]
fn who_is_alone_with_a_liar_says_little_of_what_it_says() {
    let mut scene = Scene::at_home();
    scene.member(4, (&[at(4)], &[]));
    scene.pass_among(SECOND * 30, &[(4, outer())]);
    scene.outputs.clear();
    for number in 0..600 {
        scene.sees(4, lie(number));
        scene.pass_among(SECOND / 10, &[]);
    }
    let published = scene.count(|output| matches!(output, Output::Publish(_)));
    assert!((1..=10).contains(&published), "{published} records in a minute");
    let checks = scene.count(|output| matches!(output, Output::CheckLinks));
    assert!(checks <= 10, "{checks} times");
}

#[test]
fn a_move_counts_that_a_second_member_sees_or_that_nobody_denies() {
    let moved: SocketAddr = "203.0.113.10:7755".parse().unwrap();
    for answering in [true, false] {
        let mut scene = with_a_liar();
        scene.sees(2, moved);
        let honest: &[_] = if answering { &[(3, moved), (4, moved)] } else { &[] };
        scene.pass_among(if answering { SECOND / 2 } else { SECOND * 4 }, honest);
        assert!(scene.endpoints().contains(&moved) && !scene.endpoints().contains(&outer()));
    }
}

#[test]
fn what_a_member_saw_goes_with_it() {
    let mut scene = with_a_liar();
    let inner: SocketAddr = "100.64.0.9:7755".parse().unwrap();
    scene.sees(4, inner);
    scene.pass_among(SECOND * 6, &[(2, outer()), (3, outer())]);
    assert!(scene.endpoints().contains(&inner), "nobody else may be in that network");
    let revoked = Revoked::Node(key(4).node());
    let revocation = Revocation { revoked, issued: WALL, came_by: None };
    let signed = scene.sign(&revocation, &key(ADMIN));
    scene.learn(key(2).node(), NetworkDocument::Revocation(signed));
    assert!(!scene.endpoints().contains(&inner));
}

#[test]
fn an_answer_to_what_was_not_asked_moves_nothing() {
    let mut scene = Scene::at_home();
    let (one, other) = (scene.member(2, (&[at(2)], &[])), scene.member(3, (&[at(3)], &[])));
    scene.pass(SECOND);
    let probes = scene.probes();
    let (_, to, transaction) =
        *probes.iter().find(|probe| (probe.0, probe.1) == (one, Path::Direct(at(2)))).unwrap();
    scene.answered(one, to, transaction + 1_000, outer());
    scene.answered(one, Path::Direct(at(77)), transaction, outer());
    scene.answered(other, to, transaction, outer());
    for node in [one, other] {
        assert!(!scene.control.peers[&node].paths.is_proven());
    }
    assert!(!scene.endpoints().contains(&outer()));
    scene.answered(one, to, transaction, outer());
    assert!(scene.control.peers[&one].paths.is_proven());
    // Once.
    scene.answered(one, to, transaction, lie(1));
    assert!(!scene.endpoints().contains(&lie(1)));
}

#[test]
fn only_letters_of_the_present_run_count_and_each_of_them_once() {
    let mut scene = Scene::at_home();
    for number in [2, 3, 4] {
        scene.member(number, (&[at(number)], &[]));
    }
    scene.pass_among(SECOND * 30, &[]);
    let call = |number| Words::Call(Call { addresses: vec![lie(number)], wants_answer: false });
    let is_probed = |scene: &mut Scene, number| {
        let probes = scene.probes();
        probes.iter().any(|(_, to, _)| *to == Path::Direct(lie(number)))
    };
    let genuine = scene.letter(2, 9, 5, &call(1));
    scene.deliver(4, &genuine);
    assert!(is_probed(&mut scene, 1), "whoever carries it");
    scene.pass(SECOND * 30);
    scene.probes();
    scene.deliver(4, &genuine);
    assert!(!is_probed(&mut scene, 1), "a letter that is repeated");
    let earlier = scene.letter(2, 8, 6, &call(2));
    // Its own letter, which it says is of another.
    let forged = Letter { from: key(2).node(), ..scene.letter(4, 9, 7, &call(2)) };
    let through_mesh = Words::Call(Call {
        addresses: vec![SocketAddr::from(([10, 77, 3, 4], 7755))],
        wants_answer: false,
    });
    let inside = scene.letter(2, 9, 8, &through_mesh);
    let stream = Call { addresses: vec![stream_address(1)], wants_answer: false };
    let stream = scene.letter(2, 9, 9, &Words::Call(stream));
    for letter in [earlier, forged, inside, stream] {
        scene.pass(SECOND * 10);
        scene.probes();
        scene.deliver(4, &letter);
        let probes = scene.probes();
        let known = [at(2), remote(), lie(1)].map(Path::Direct);
        assert!(probes.iter().all(|(_, to, _)| known.contains(to)), "{probes:?}");
    }
}

#[test]
fn a_flood_of_calls_causes_few_answers_and_few_probes() {
    let mut scene = Scene::at_home();
    scene.member(4, (&[at(4)], &[]));
    scene.pass_among(SECOND * 30, &[(4, outer())]);
    scene.outputs.clear();
    let (mut answers, mut probes) = (0, 0);
    for number in 0..1_200_u16 {
        let addresses = (0..MAX_CALL as u16).map(|one| lie(number * 12 + one)).collect();
        let words = Words::Call(Call { addresses, wants_answer: true });
        let letter = scene.letter(4, 9, number.into(), &words);
        scene.deliver(4, &letter);
        scene.pass(Duration::from_millis(50));
        answers += scene.count(|output| is_letter_to(output, 4));
        let strange = |probe: &(NodeId, Path, u64)| probe.1 != Path::Direct(at(4));
        probes += scene.probes().into_iter().filter(strange).count();
    }
    assert!((1..=15).contains(&answers), "{answers} answers in a minute");
    assert!((150..=300).contains(&probes), "{probes} probes in a minute");
}

#[test]
fn records_that_name_others_again_and_again_cause_few_probes() {
    let mut scene = Scene::at_home();
    scene.member(4, (&[at(4)], &[]));
    scene.pass_among(SECOND * 30, &[(4, outer())]);
    scene.probes();
    let mut probes = 0;
    for sequence in 2..26 {
        let victims: Vec<SocketAddr> = (0..8).map(|one| lie(sequence as u16 * 8 + one)).collect();
        scene.say(4, sequence, (&victims, &[]));
        probes += scene.pass_among(SECOND * 5, &[(4, outer())]).len();
    }
    assert!((300..=450).contains(&probes), "{probes} probes in two minutes");
}

#[test]
fn a_channel_counts_only_of_a_relay_that_one_of_the_two_named_and_once_the_peer_answers_there() {
    let mut scene = Scene::at_home();
    let relay = scene.member(4, (&[at(4)], &[]));
    let peer = scene.member(2, (&[at(2)], &[]));
    scene.pass_among(SECOND * 5, &[(4, outer())]);
    let answer = |number| Words::Answer(Answer { peer, channel: Some(number) });
    let unasked = scene.letter(4, 9, 1, &answer(7));
    scene.deliver(4, &unasked);
    let is_relayed = |(_, to): &(NodeId, Path)| matches!(to, Path::Relayed(..));
    assert!(!scene.pass_among(SECOND, &[]).iter().any(is_relayed), "nobody named it");
    scene.say(2, 2, (&[at(2)], &[relay]));
    let asked = scene.letter(4, 9, 2, &answer(7));
    scene.deliver(4, &asked);
    // The number is that of others: whoever is there has not the keys to answer.
    let probes: Vec<_> = scene.pass_among(SECOND * 5, &[]).into_iter().filter(is_relayed).collect();
    assert_eq!(probes, vec![(peer, Path::Relayed(at(4), Channel::new(7))); 3]);
    assert!(!matches!(scene.control.peers[&peer].paths.active(), Some(Path::Relayed(..))));
    // Whom nobody named does not take it away either.
    scene.member(3, (&[at(3)], &[]));
    scene.pass_among(SECOND, &[(3, outer())]);
    let none = Words::Answer(Answer { peer, channel: None });
    let lie = scene.letter(3, 9, 1, &none);
    scene.deliver(3, &lie);
    assert_eq!(scene.control.peers[&peer].relayed.relay_of(probes[0].1), Some(relay));
}

#[test]
fn channels_are_for_whoever_asks_and_who_named_this_node_and_asking_again_tells_nobody() {
    let mut scene = Scene::at_home();
    let own = scene.control.own;
    scene.control.reached_from(remote().ip(), scene.now);
    scene.control.handle_configured_addresses(vec![outer()], scene.now);
    let greedy = scene.member(4, (&[at(4)], &[]));
    let (named, other) = (scene.member(2, (&[at(2)], &[own])), scene.member(3, (&[at(3)], &[])));
    scene.pass_among(SECOND * 5, &[(2, outer()), (3, outer()), (4, outer())]);
    scene.outputs.clear();
    let channels = |scene: &mut Scene| {
        scene.count(|output| matches!(output, Output::Shard(Command::SetChannel { .. })))
    };
    for peer in [other, greedy, own] {
        let ask = scene.letter(4, 9, u64::from(peer.0[0]) + 1, &Words::Ask(Ask { peer }));
        scene.deliver(4, &ask);
        assert_eq!(channels(&mut scene), 0);
        assert_eq!(scene.count(|output| is_letter_to(output, 3)), 0);
    }
    let mut told = 0;
    let mut granted = 0;
    for counter in 1_000..1_400 {
        let ask = scene.letter(4, 9, counter, &Words::Ask(Ask { peer: named }));
        scene.deliver(4, &ask);
        scene.pass_among(Duration::from_millis(100), &[(2, outer()), (4, outer())]);
        told += scene.count(|output| is_letter_to(output, 2));
        granted += channels(&mut scene);
    }
    assert_eq!(granted, 1);
    assert!((60..=81).contains(&told), "{told} letters in forty seconds");
}

#[test]
fn a_host_of_many_networks_says_as_well_where_members_see_it() {
    let mut scene = with_a_liar();
    let networks: Vec<IpAddr> = (1..=12).map(|one| IpAddr::from([172, 17, one, 1])).collect();
    let prefixes = networks.iter().map(|address| (*address, 24)).collect();
    scene.control.handle_local_addresses(prefixes, false, scene.now);
    let said = scene.endpoints();
    assert!(said.len() == 8 && said.contains(&outer()), "{said:?}");
    // The others are those by which it reaches what is far.
    assert!(networks[..7].iter().all(|ip| said.iter().any(|one| one.ip() == *ip)), "{said:?}");
}

#[test]
fn what_was_answered_or_asked_by_data_comes_back_and_shows_nobody_to_be_open() {
    let mut scene = with_a_liar();
    let peer = scene.member(2, (&[at(2)], &[]));
    let later = |scene: &mut Scene| scene.now.instant = scene.now.instant + SECOND * 240;
    let is_open = |scene: &mut Scene, place| {
        scene.control.forget_openness();
        scene.control.came_from(at(place), scene.now);
        scene.control.reaching.openness.was_probed
    };
    assert!(is_open(&mut scene, 77));
    for _ in 0..3 {
        later(&mut scene);
        assert!(!is_open(&mut scene, 77), "it was answered");
    }
    // Data goes to somebody behind the same address, without a probe for long.
    scene.pass_among(SECOND * 10, &[(2, outer())]);
    scene.control.handle_report(Report::Busy { node: peer }, scene.now);
    later(&mut scene);
    later(&mut scene);
    assert!(!is_open(&mut scene, 2), "it is sent to");
    later(&mut scene);
    later(&mut scene);
    scene.control.handle_report(Report::Idle { node: peer }, scene.now);
    later(&mut scene);
    assert!(!is_open(&mut scene, 2), "it was sent to until then");
    later(&mut scene);
    later(&mut scene);
    assert!(is_open(&mut scene, 2));
}

#[test]
fn a_relay_that_has_no_room_ends_what_is_not_used_and_tells_both() {
    let mut scene = Scene::at_home();
    let own = scene.control.own;
    scene.control.reached_from(remote().ip(), scene.now);
    scene.control.handle_configured_addresses(vec![outer()], scene.now);
    let first = scene.member(2, (&[at(2)], &[own]));
    let second = scene.member(3, (&[at(3)], &[own]));
    scene.member(4, (&[at(4)], &[]));
    let among = [(2, outer()), (3, outer()), (4, outer())];
    scene.pass_among(SECOND * 5, &among);
    let ask = |scene: &mut Scene, counter, peer| {
        let ask = scene.letter(4, 9, counter, &Words::Ask(Ask { peer }));
        scene.outputs.clear();
        scene.deliver(4, &ask);
    };
    ask(&mut scene, 1, first);
    let is_granted = |output: &Output| matches!(output, Output::Shard(Command::SetChannel { .. }));
    assert_eq!(scene.count(is_granted), 1);
    scene.pass_among(SECOND, &among);
    scene.control.fill_channels(key(4).node(), scene.now.instant);
    ask(&mut scene, 2, second);
    assert_eq!(scene.count(is_granted), 0, "all are in use");
    scene.pass_among(SECOND * 200, &among);
    ask(&mut scene, 3, second);
    let is_ended = |output: &Output| matches!(output, Output::Shard(Command::RemoveChannel { .. }));
    assert_eq!((scene.count(is_granted), scene.count(is_ended)), (1, 1));
    assert_eq!(scene.count(|output| is_letter_to(output, 2)), 1, "it was the oldest");
    assert_eq!(scene.count(|output| is_letter_to(output, 4)), 2);
}
