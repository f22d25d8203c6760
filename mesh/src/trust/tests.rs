use std::net::Ipv4Addr;

use epsilon_proto::clock::HybridTime;
use epsilon_proto::key::{SecretKey, Strict};
use epsilon_proto::trust::{Distribution, GenesisMode, MemberCertificate, Roles};
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::testing::{key, node, root, sign};

const FOUNDED: Timestamp = Timestamp(1_000);

/// Saves the time of checking thousands of signatures that are known to hold.
struct Holds;

impl SignatureCheck for Holds {
    fn holds(&self, _: &PublicKey, _: &[u8], _: &epsilon_proto::key::Signature) -> bool {
        true
    }
}

fn grant(admin: u8) -> NetworkDocument {
    named_grant(admin, "admin")
}

fn named_grant(admin: u8, name: &str) -> NetworkDocument {
    let grant =
        AdminGrant { key: key(admin).public(), name: name.to_owned(), issued: Timestamp(1_001) };
    NetworkDocument::Grant(sign(&grant, &root()))
}

fn revoke(revoked: Revoked, signer: &SecretKey) -> NetworkDocument {
    let revocation = Revocation { revoked, issued: Timestamp(1_002), came_by: None };
    NetworkDocument::Revocation(sign(&revocation, signer))
}

fn revoke_admin(admin: u8) -> NetworkDocument {
    revoke(Revoked::Admin(key(admin).public()), &root())
}

fn genesis(generation: u32, founder: u8) -> NetworkDocument {
    let block = GenesisBlock {
        generation,
        mode: Some(GenesisMode::Founder(node(founder))),
        distribution: Distribution::K3s,
        created: Timestamp(1_003),
    };
    NetworkDocument::Genesis(sign(&block, &root()))
}

fn charter(admin: u8, version: u64, max_members: u32) -> NetworkDocument {
    charter_at(admin, version, max_members, Timestamp(1_004))
}

fn charter_at(admin: u8, version: u64, max_members: u32, issued: Timestamp) -> NetworkDocument {
    NetworkDocument::Charter(sign(&Charter { version, issued, max_members }, &key(admin)))
}

fn invite(admin: u8, invite: u8, uses: u32) -> NetworkDocument {
    let invite = Invite {
        key: key(invite).public(),
        roles: Roles::MEMBER,
        tags: Vec::new(),
        issued: Timestamp(1_005),
        expires: None,
        uses: Some(uses),
    };
    NetworkDocument::Invite(sign(&invite, &key(admin)))
}

fn pin(admin: u8, pinned: u8, wall: u64, last: u8) -> NetworkDocument {
    let pin = Pin {
        node: node(pinned),
        at: HybridTime { wall: Timestamp(wall), count: 0 },
        ipv4: Some(Ipv4Addr::new(10, 77, 1, last)),
        name: None,
        inherited: Vec::new(),
    };
    NetworkDocument::Pin(sign(&pin, &key(admin)))
}

fn gate_epoch(admin: u8, epoch: u32) -> NetworkDocument {
    let epoch = GateEpoch { epoch, check: Digest([1; 32]), boxes: Vec::new() };
    NetworkDocument::GateEpoch(sign(&epoch, &key(admin)))
}

/// A node leaves that came by this invite.
fn departure_by(invite: u8, leaver: &SecretKey, at: u64) -> NetworkDocument {
    let certificate = MemberCertificate {
        node: leaver.node(),
        roles: Roles::MEMBER,
        tags: Vec::new(),
        issued: Timestamp(0),
    };
    let certificate = sign(&certificate, &key(invite));
    NetworkDocument::Departure(sign(&Departure { at: Timestamp(at), certificate }, leaver))
}

fn departure(seed: u8, at: u64) -> NetworkDocument {
    departure_by(50, &key(seed), at)
}

fn empty() -> Trust {
    Trust::new(root().network(), FOUNDED)
}

/// Takes documents in their order, each of which must be taken.
fn trust_of(documents: &[NetworkDocument]) -> Trust {
    let mut trust = empty();
    for document in documents {
        assert_eq!(trust.merge(document, &Strict), Ok(true), "{document:?}");
    }
    trust
}

fn pinned_host(trust: &Trust, pinned: u8) -> Option<u8> {
    Some(trust.pin(node(pinned))?.ipv4?.octets()[3])
}

fn uses(trust: &Trust, invite: u8) -> Option<u32> {
    trust.invite(key(invite).public())?.uses
}

#[test]
fn a_document_by_an_unknown_signer_waits_for_its_grant() {
    for document in [
        charter(1, 1, 5),
        invite(1, 50, 1),
        pin(1, 9, 5, 5),
        gate_epoch(1, 1),
        revoke(Revoked::Node(node(9)), &key(1)),
    ] {
        let mut trust = empty();
        let refused = trust.merge(&document, &Strict);
        assert!(matches!(refused, Err(TrustError::UnknownSigner(_))), "{refused:?}");
        assert!(trust.digests().is_empty() && !trust.is_node_revoked(node(9)));
        assert_eq!(trust.merge(&grant(1), &Strict), Ok(true));
        assert_eq!(trust.merge(&document, &Strict), Ok(true));
        assert_eq!(trust.merge(&document, &Strict), Ok(false));
    }
}

#[test]
fn only_the_root_makes_and_unmakes_admins_and_begins_clusters() {
    let mut trust = trust_of(&[grant(1)]);
    let by_admin = key(1);
    let usurper = AdminGrant { key: key(2).public(), name: String::new(), issued: FOUNDED };
    let block = GenesisBlock {
        generation: 0,
        mode: None,
        distribution: Distribution::None,
        created: FOUNDED,
    };
    for document in [
        NetworkDocument::Grant(sign(&usurper, &by_admin)),
        NetworkDocument::Genesis(sign(&block, &by_admin)),
        revoke(Revoked::Admin(key(1).public()), &by_admin),
    ] {
        let refused = trust.merge(&document, &Strict);
        assert!(
            matches!(refused, Err(TrustError::Document(DocumentError::Signer { .. }))),
            "{refused:?}"
        );
    }
    assert!(trust.is_admin(key(1).public()) && !trust.is_admin(key(2).public()));
}

#[test]
fn a_document_of_another_network_is_refused() {
    let mut trust = trust_of(&[grant(1)]);
    let foreign = Charter { version: 9, issued: FOUNDED, max_members: 9 };
    let foreign = Signed::sign(&foreign, key(101).network(), &key(1));
    let refused = trust.merge(&NetworkDocument::Charter(foreign), &Strict);
    assert!(matches!(refused, Err(TrustError::Document(DocumentError::Signature { .. }))));
}

#[test]
fn what_a_revoked_admin_signed_has_no_effect_wherever_it_came_in() {
    let far = Timestamp(9_000_000);
    let before = [grant(1), grant(2), charter(1, 1, 5), pin(1, 9, 5, 5)];
    let signed =
        [charter_at(2, 7, 1, far), pin(2, 9, far.0, 6), gate_epoch(2, 3), invite(2, 50, 1)];
    for position in 0..=signed.len() {
        let mut documents = before.to_vec();
        documents.extend_from_slice(&signed[..position]);
        documents.push(revoke_admin(2));
        documents.extend_from_slice(&signed[position..]);
        let trust = trust_of(&documents);
        assert!(!trust.is_admin(key(2).public()) && !trust.is_authority(key(2).public()));
        assert_eq!(trust.charter().unwrap().version, 1);
        assert_eq!(pinned_host(&trust, 9), Some(5));
        assert_eq!(trust.newest_pin().wall, Timestamp(5));
        assert_eq!(trust.gate_epochs().count(), 0);
        assert!(trust.is_invite_revoked(trust.invite(key(50).public()).unwrap()));
        assert_eq!(trust.newest_signed(), Timestamp(1_004), "its clock must not count either");
        assert_eq!(trust.digests().len(), documents.len(), "it stays in the set");
    }
}

#[test]
fn the_revocations_of_a_revoked_admin_hold() {
    let revocations = [
        revoke(Revoked::Node(node(9)), &key(2)),
        revoke(Revoked::InviteAndMembers(key(50).public()), &key(2)),
    ];
    for revoked_first in [false, true] {
        let mut documents = vec![grant(1), grant(2), invite(1, 50, 3)];
        documents.extend(revocations.clone());
        documents.insert(if revoked_first { 3 } else { 5 }, revoke_admin(2));
        let trust = trust_of(&documents);
        assert!(trust.is_node_revoked(node(9)));
        assert!(trust.are_members_revoked(key(50).public()));
        assert_eq!(trust.revocations().len(), 3);
    }
}

#[test]
fn a_revoked_invite_admits_nobody_and_keeps_its_members_unless_said() {
    let trust = trust_of(&[
        grant(1),
        invite(1, 50, 3),
        invite(1, 51, 3),
        invite(1, 52, 3),
        revoke(Revoked::Invite(key(50).public()), &key(1)),
        revoke(Revoked::InviteAndMembers(key(51).public()), &key(1)),
    ]);
    let state = |invite: u8| {
        let public = key(invite).public();
        (trust.is_invite_revoked(trust.invite(public).unwrap()), trust.are_members_revoked(public))
    };
    assert_eq!([state(50), state(51), state(52)], [(true, false), (true, true), (false, false)]);
}

#[test]
fn the_latest_pin_of_a_node_counts_and_among_equals_the_higher_hash() {
    let (early, late) = (pin(1, 9, 5, 5), pin(1, 9, 6, 6));
    let other = pin(1, 8, 99, 7);
    for documents in [[&early, &late, &other], [&other, &late, &early]] {
        let documents = documents.map(Clone::clone);
        let trust = trust_of(&[&[grant(1)][..], &documents].concat());
        assert_eq!(pinned_host(&trust, 9), Some(6));
        assert_eq!(pinned_host(&trust, 8), Some(7));
        assert_eq!(pinned_host(&trust, 7), None);
        assert_eq!(trust.pinned().collect::<BTreeSet<_>>(), BTreeSet::from([node(8), node(9)]));
    }
    let equals = [pin(1, 9, 5, 5), pin(1, 9, 5, 6)];
    let highest = equals.iter().max_by_key(|pin| pin.digest()).unwrap();
    for order in [[0, 1], [1, 0]] {
        let documents = order.map(|index| equals[index].clone());
        let trust = trust_of(&[&[grant(1)][..], &documents].concat());
        let counting = NetworkDocument::Pin(trust.pin(node(9)).unwrap().signed().clone());
        assert_eq!(counting, *highest);
    }
}

#[test]
fn the_charter_of_the_highest_version_counts() {
    let charters = [charter(1, 3, 30), charter(1, 1, 10), charter(1, 2, 20)];
    let trust = trust_of(&[&[grant(1)][..], &charters].concat());
    assert_eq!((trust.charter().unwrap().version, trust.max_members()), (3, 30));
    assert_eq!(empty().max_members(), DEFAULT_MAX_MEMBERS);

    let equals = [charter(1, 4, 40), charter(1, 4, 41)];
    let highest = equals.iter().max_by_key(|charter| charter.digest()).unwrap();
    for order in [[0, 1], [1, 0]] {
        let documents = order.map(|index| equals[index].clone());
        let trust = trust_of(&[&[grant(1)][..], &documents].concat());
        let counting = NetworkDocument::Charter(trust.charter().unwrap().signed().clone());
        assert_eq!(counting, *highest);
    }
}

#[test]
fn two_genesis_blocks_for_one_generation_contradict_each_other() {
    let trust = trust_of(&[genesis(1, 1), genesis(2, 1)]);
    assert_eq!(trust.genesis().unwrap().generation, 2);
    assert_eq!(trust.contradictory_generations(), BTreeSet::new());
    let trust = trust_of(&[genesis(1, 1), genesis(2, 1), genesis(1, 2)]);
    assert_eq!(trust.contradictory_generations(), BTreeSet::from([1]));
}

#[test]
fn of_two_invites_with_one_key_all_see_the_same() {
    for other in 1..32 {
        let (one, other) = (invite(1, 50, 1), invite(1, 50, 1 + other));
        let forward = trust_of(&[grant(1), one.clone(), other.clone()]);
        let backward = trust_of(&[grant(1), other, one]);
        assert_eq!(uses(&forward, 50), uses(&backward, 50));
        assert_eq!(forward.invites().count(), 1);
    }
}

#[test]
fn of_two_grants_for_one_key_all_see_the_same() {
    for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        let (one, other) = (named_grant(1, "first"), named_grant(1, name));
        let forward = trust_of(&[one.clone(), other.clone()]);
        let backward = trust_of(&[other, one]);
        let public = key(1).public();
        assert_eq!(forward.grant(public).unwrap().name, backward.grant(public).unwrap().name);
        assert_eq!(forward.admins().count(), 1);
    }
}

#[test]
fn a_revoked_admin_cannot_put_its_own_invite_in_the_place_of_another() {
    for forged in 1..16 {
        let documents =
            [grant(1), grant(2), invite(1, 50, 7), revoke_admin(2), invite(2, 50, 100 + forged)];
        let trust = trust_of(&documents);
        assert_eq!(uses(&trust, 50), Some(7));
        assert!(!trust.is_invite_revoked(trust.invite(key(50).public()).unwrap()));
    }
}

#[test]
fn departures_are_one_a_node_and_all_keep_the_same() {
    let departures: Vec<_> = (0..8).map(|at| departure(9, at)).collect();
    let lowest = departures.iter().map(NetworkDocument::digest).min().unwrap();
    for rotation in 0..departures.len() {
        let mut trust = trust_of(&[grant(1), invite(1, 50, 7)]);
        for document in departures.iter().cycle().skip(rotation).take(departures.len()) {
            trust.merge(document, &Strict).unwrap();
        }
        assert!(trust.has_departed(node(9)) && !trust.has_departed(node(8)));
        assert_eq!(trust.digests().len(), 3);
        assert!(trust.document(&lowest).is_some());
    }
}

#[test]
fn made_up_departures_never_keep_a_revocation_out_and_go_with_their_invite() {
    let invites = [50, 51, 52, 53, 54].map(|number| invite(1, number, 7));
    let mut trust = trust_of(&[&[grant(1)][..], &invites].concat());
    let leave = |by: u8, number: usize| {
        let mut seed = [by; 32];
        seed[..8].copy_from_slice(&number.to_le_bytes());
        departure_by(by, &SecretKey::from_seed(&seed), 1)
    };
    for by in [50, 51, 52, 53] {
        for number in 0..MAX_DEPARTURES_BY_INVITE {
            assert_eq!(trust.merge(&leave(by, number), &Holds), Ok(true));
        }
        let more = leave(by, MAX_DEPARTURES_BY_INVITE);
        assert_eq!(trust.merge(&more, &Holds), Err(TrustError::Full));
    }
    assert_eq!(MAX_DEPARTURES, 4 * MAX_DEPARTURES_BY_INVITE);
    assert_eq!(trust.merge(&leave(54, 0), &Holds), Err(TrustError::Full));
    let revocation = revoke(Revoked::Node(node(9)), &key(1));
    assert_eq!(trust.merge(&revocation, &Strict), Ok(true));
    assert!(trust.is_node_revoked(node(9)));

    let cleared = revoke(Revoked::InviteAndMembers(key(50).public()), &key(1));
    assert_eq!(trust.merge(&cleared, &Strict), Ok(true));
    let kept = 1 + invites.len() + 2 + 3 * MAX_DEPARTURES_BY_INVITE;
    assert_eq!(trust.digests().len(), kept);
    assert_eq!(trust.merge(&leave(50, 0), &Holds), Ok(false));
    assert_eq!(trust.merge(&leave(54, 0), &Strict), Ok(true));
}

#[test]
fn who_was_never_let_in_cannot_leave() {
    let mut trust = trust_of(&[grant(1), invite(1, 50, 7)]);
    let leave = |departure: Departure| NetworkDocument::Departure(sign(&departure, &key(9)));
    let NetworkDocument::Departure(own) = departure(9, 1) else { unreachable!() };
    let NetworkDocument::Departure(other) = departure(8, 1) else { unreachable!() };
    let mut forged = (*own.peek().unwrap()).clone();
    forged.certificate = sign(&forged.certificate.peek().unwrap(), &key(77));
    let unknown = trust.merge(&leave(forged), &Strict);
    assert_eq!(unknown, Err(TrustError::UnknownInvite(key(77).public().short())));
    let taken = trust.merge(&leave((*other.peek().unwrap()).clone()), &Strict);
    assert_eq!(taken, Err(TrustError::OtherNode));
    assert!(!trust.has_departed(node(9)));
    assert_eq!(trust.merge(&NetworkDocument::Departure(own), &Strict), Ok(true));
    assert!(trust.has_departed(node(9)));
}

#[test]
fn a_use_of_an_invite_stays_used_when_its_node_is_gone() {
    let came_by = Some(key(50).public());
    let revocation = Revocation { revoked: Revoked::Node(node(9)), issued: FOUNDED, came_by };
    let revocation = NetworkDocument::Revocation(sign(&revocation, &key(1)));
    let documents = [grant(1), invite(1, 50, 7), departure(8, 1), departure(9, 1), revocation];
    assert_eq!(trust_of(&documents).gone(key(50).public()), 2, "one was revoked after it left");
    assert_eq!(trust_of(&documents).gone(key(51).public()), 0);
}

#[test]
fn a_stolen_admin_key_keeps_nothing_of_another_admin_out() {
    let mut trust = trust_of(&[grant(1), grant(2)]);
    let flood = (0..=MAX_PER_ADMIN as u64).map(|version| charter(1, version, 1));
    let refused =
        flood.map(|charter| trust.merge(&charter, &Holds)).find(|taken| *taken != Ok(true));
    assert_eq!(refused, Some(Err(TrustError::Full)));
    let revocation = revoke(Revoked::Node(node(9)), &key(2));
    assert_eq!(trust.merge(&revocation, &Strict), Ok(true));
}

#[test]
fn the_root_can_revoke_an_admin_that_filled_the_set() {
    let mut trust = trust_of(&[grant(1)]);
    let admin = key(1);
    let full = (0..).map(|version| {
        NetworkDocument::Charter(sign(
            &Charter { version, issued: FOUNDED, max_members: 1 },
            &admin,
        ))
    });
    let refused =
        full.map(|charter| trust.merge(&charter, &Holds)).find(|taken| *taken != Ok(true));
    assert_eq!(refused, Some(Err(TrustError::Full)));
    assert_eq!(trust.merge(&revoke_admin(1), &Strict), Ok(true));
    assert!(!trust.is_admin(admin.public()));
    assert_eq!(trust.max_members(), DEFAULT_MAX_MEMBERS);
}

#[test]
fn the_digest_changes_with_every_new_document_and_only_then() {
    let mut trust = empty();
    let mut seen = BTreeSet::from([trust.digest()]);
    for document in every_kind() {
        trust.merge(&document, &Strict).unwrap();
        assert!(seen.insert(trust.digest()), "{document:?}");
        assert_eq!(trust.merge(&document, &Strict), Ok(false));
        assert!(!seen.insert(trust.digest()));
    }
}

#[test]
fn what_is_lacking_comes_in_an_order_in_which_it_can_be_taken() {
    let documents = every_kind();
    let trust = trust_of(&documents);
    let known: BTreeSet<_> = trust.digests().into_iter().step_by(3).collect();
    let lacking = trust.lacking(&known);
    assert_eq!(lacking.len(), documents.len() - known.len());
    let mut all = empty();
    for document in trust.lacking(&BTreeSet::new()) {
        assert_eq!(all.merge(&document, &Strict), Ok(true));
        assert_eq!(trust.document(&document.digest()), Some(&document));
    }
    let mut trust = trust;
    assert_eq!(all.digest(), trust.digest());
    let first_word = trust.bans();
    assert!(trust_of(&first_word).is_node_revoked(node(9)));
    assert!(first_word.iter().all(|document| document.rank() < 2));
}

#[test]
fn the_newest_time_is_what_root_or_admin_signed_and_never_before_the_founding() {
    assert_eq!(empty().newest_signed(), FOUNDED);
    let early = charter_at(1, 1, 1, Timestamp(3));
    assert_eq!(trust_of(&[grant(1), early]).newest_signed(), Timestamp(1_001));
    let documents =
        [grant(1), invite(1, 50, 7), charter_at(1, 1, 1, Timestamp(7_000)), departure(9, 9_000)];
    let trust = trust_of(&documents);
    assert_eq!(trust.newest_signed(), Timestamp(7_000), "a node's own word is no evidence");
}

/// Documents of every kind, with rivals for every question.
fn every_kind() -> Vec<NetworkDocument> {
    vec![
        grant(1),
        grant(2),
        grant(3),
        named_grant(3, "other"),
        genesis(1, 1),
        genesis(1, 2),
        genesis(2, 1),
        charter(1, 2, 20),
        charter(1, 2, 21),
        charter_at(2, 9, 90, Timestamp(8_000)),
        invite(1, 50, 1),
        invite(1, 50, 2),
        invite(2, 50, 3),
        invite(3, 51, 4),
        pin(1, 9, 5, 5),
        pin(1, 9, 5, 6),
        pin(2, 9, 7, 7),
        gate_epoch(1, 1),
        gate_epoch(2, 1),
        departure_by(51, &key(60), 1),
        departure_by(51, &key(61), 1),
        revoke(Revoked::Node(node(9)), &key(1)),
        revoke(Revoked::Node(node(10)), &key(2)),
        revoke(Revoked::Invite(key(51).public()), &key(1)),
        revoke(Revoked::InviteAndMembers(key(50).public()), &key(3)),
        revoke_admin(2),
    ]
}

/// Everything that can be asked.
fn answers(trust: &mut Trust) -> impl PartialEq + std::fmt::Debug + use<> {
    let invite = |invite: u8| {
        let invite = trust.invite(key(invite).public())?;
        Some((invite.signed().digest(), trust.is_invite_revoked(invite)))
    };
    let invites = [invite(50), invite(51), invite(52)];
    let admins: Vec<_> =
        trust.admins().map(|(grant, holds)| (grant.signed().digest(), holds)).collect();
    let epochs: Vec<_> = trust.gate_epochs().map(|epoch| epoch.signed().digest()).collect();
    let nodes = [9, 10, 60, 61].map(|seed| {
        (
            trust.is_node_revoked(node(seed)),
            trust.has_departed(node(seed)),
            pinned_host(trust, seed),
        )
    });
    (
        (trust.digest(), trust.digests(), trust.bans()),
        (admins, invites, epochs, nodes),
        trust.charter().map(|charter| charter.signed().digest()),
        trust.genesis().map(|genesis| genesis.signed().digest()),
        trust.contradictory_generations(),
        (trust.newest_signed(), trust.newest_pin(), trust.pinned().collect::<Vec<_>>()),
    )
}

/// Takes documents until nothing new comes of it, as anti-entropy does.
fn take_all(trust: &mut Trust, documents: &[NetworkDocument]) {
    while documents.iter().any(|document| trust.merge(document, &Strict) == Ok(true)) {}
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn members_with_equal_sets_agree_in_whatever_order_and_how_often_it_came(
        order in Just([every_kind(), vec![departure_by(50, &key(61), 2)]].concat()).prop_shuffle(),
        repeated in proptest::collection::vec(any::<Index>(), 0..20),
    ) {
        let mut expected = trust_of(&every_kind());
        let mut documents = order;
        for index in repeated {
            documents.push(index.get(&documents).clone());
        }
        let mut trust = empty();
        take_all(&mut trust, &documents);
        prop_assert_eq!(answers(&mut trust), answers(&mut expected));
    }

    #[test]
    fn two_halves_agree_once_each_has_what_the_other_has(
        order in Just(every_kind()).prop_shuffle(),
        share in proptest::collection::vec(0u8..3, 26),
    ) {
        let part = |side: u8| -> Vec<_> {
            let of_side = order.iter().zip(&share).filter(|(_, share)| **share != side);
            of_side.map(|(document, _)| document.clone()).collect()
        };
        let (mut one, mut other) = (empty(), empty());
        take_all(&mut one, &part(0));
        take_all(&mut other, &part(1));
        // What waited for a grant comes again with anti-entropy.
        for _ in 0..3 {
            let (from_one, from_other) = (one.lacking(&BTreeSet::new()), other.lacking(&BTreeSet::new()));
            take_all(&mut one, &[from_other, part(0)].concat());
            take_all(&mut other, &[from_one, part(1)].concat());
        }
        prop_assert_eq!(answers(&mut one), answers(&mut other));
    }
}
