use std::net::SocketAddr;

use epsilon_proto::address::DEFAULT_RANGE;
use epsilon_proto::clock::{HybridTime, Timestamp};
use epsilon_proto::id::BootId;
use epsilon_proto::key::Strict;
use epsilon_proto::record::{Endpoint, EndpointSource};
use epsilon_proto::trust::{
    AdminGrant, Charter, Departure, Invite, NetworkDocument, NodeFacts, Pin, Revocation, Revoked,
};
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::testing::{key, node, root, sign};

mod devices;
mod ground;

const NOW: Timestamp = Timestamp(1_800_000_000_000);
/// The admin, and the node whose view is tested.
const ADMIN: u8 = 1;
const OWN: u8 = 2;
const INVITE: u8 = 50;
const OTHER_INVITE: u8 = 51;

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 1, last)
}

fn named(text: &str) -> NodeName {
    text.parse().unwrap()
}

/// A word by a node, `after` milliseconds after the network was founded.
fn introduction(seed: u8, by: u8, after: u64, facts: NodeFacts) -> Signed<Introduction> {
    introduction_at(seed, by, Timestamp(NOW.0.saturating_add(after)), facts)
}

fn introduction_at(seed: u8, by: u8, at: Timestamp, facts: NodeFacts) -> Signed<Introduction> {
    sign(&Introduction { node: node(seed), at, facts }, &key(by))
}

fn admitted() -> NodeFacts {
    NodeFacts { invite: Some(key(INVITE).public()), ..NodeFacts::default() }
}

fn certificate(seed: u8, invite: u8, roles: Roles) -> Signed<MemberCertificate> {
    let certificate =
        MemberCertificate { node: node(seed), roles, tags: Vec::new(), issued: Timestamp(0) };
    sign(&certificate, &key(invite))
}

/// The record of a node that the admin introduced.
fn record(seed: u8) -> NodeRecord {
    NodeRecord {
        incarnation: 1,
        sequence: 1,
        boot: BootId([seed; 16]),
        certificate: certificate(seed, INVITE, Roles::MEMBER),
        introductions: vec![introduction(seed, ADMIN, 5_000, admitted())],
        ipv4: None,
        name: None,
        endpoints: Vec::new(),
        site: None,
        labels: Vec::new(),
        version: "1".to_owned(),
        is_open: false,
        is_relay: false,
        relays: Vec::new(),
        hubs: Vec::new(),
        lost: Vec::new(),
        tcp_port: None,
        routes: Vec::new(),
    }
}

fn introduced_by(seed: u8, by: u8) -> NodeRecord {
    NodeRecord { introductions: vec![introduction(seed, by, 5_000, admitted())], ..record(seed) }
}

/// A record whose claim to an address was seen by some, each at a time.
fn claiming(seed: u8, last: u8, witnesses: &[(u8, u64)]) -> NodeRecord {
    let facts = NodeFacts { ipv4: Some(address(last)), ..admitted() };
    let mut introductions = record(seed).introductions;
    let words = witnesses.iter().map(|(by, at)| introduction(seed, *by, *at, facts.clone()));
    introductions.extend(words);
    NodeRecord { ipv4: Some(address(last)), introductions, ..record(seed) }
}

struct View {
    trust: Trust,
    members: Membership,
}

impl View {
    fn new() -> Self {
        let mut view = Self {
            trust: Trust::new(root().network(), NOW),
            members: Membership::new(root().network(), DEFAULT_RANGE, node(OWN)),
        };
        let grant = AdminGrant { key: key(ADMIN).public(), name: String::new(), issued: NOW };
        view.learn(&NetworkDocument::Grant(sign(&grant, &root())));
        view.learn(&invite(INVITE, None));
        view
    }

    fn with(records: &[NodeRecord]) -> Self {
        let mut view = Self::new();
        for record in records {
            assert_eq!(view.take(record), Ok(Merged::New), "{record:?}");
        }
        view
    }

    fn learn(&mut self, document: &NetworkDocument) {
        assert_eq!(self.trust.merge(document, &Strict), Ok(true));
    }

    fn take(&mut self, record: &NodeRecord) -> Result<Merged, Refused> {
        self.take_signed(&sign_record(record))
    }

    fn take_signed(&mut self, record: &Signed<NodeRecord>) -> Result<Merged, Refused> {
        self.members.merge(record, &self.trust, &Strict)
    }

    fn revoke(&mut self, revoked: Revoked) {
        let signer = if matches!(revoked, Revoked::Admin(_)) { root() } else { key(ADMIN) };
        let revocation = sign(&Revocation { revoked, issued: NOW, came_by: None }, &signer);
        self.learn(&NetworkDocument::Revocation(revocation));
    }

    fn pin(&mut self, seed: u8, at: u64, ipv4: Option<u8>, name: Option<&str>) {
        let pin = Pin {
            node: node(seed),
            at: HybridTime { wall: Timestamp(at), count: 0 },
            ipv4: ipv4.map(address),
            name: name.map(named),
            inherited: Vec::new(),
        };
        self.learn(&NetworkDocument::Pin(sign(&pin, &key(ADMIN))));
        self.members.affect_claimants(pin.ipv4, pin.name.as_ref());
    }

    fn ipv4(&self, seed: u8) -> Option<Ipv4Addr> {
        self.members.ipv4_of(node(seed), &self.trust)
    }

    fn name(&self, seed: u8) -> Option<String> {
        self.members.name_of(node(seed), &self.trust).map(|name| name.to_string())
    }

    fn owner(&self, last: u8) -> Option<NodeId> {
        self.members.owner_of_ipv4(address(last), &self.trust)
    }
}

/// Signs as the node whose certificate it is.
fn sign_record(record: &NodeRecord) -> Signed<NodeRecord> {
    let owner = record.certificate.peek().unwrap().node;
    let signer = (0..=255).map(key).find(|key| key.node() == owner).unwrap();
    sign(record, &signer)
}

fn invite(seed: u8, uses: Option<u32>) -> NetworkDocument {
    let invite = Invite {
        key: key(seed).public(),
        roles: Roles::MEMBER,
        tags: Vec::new(),
        issued: NOW,
        expires: None,
        uses,
    };
    NetworkDocument::Invite(sign(&invite, &key(ADMIN)))
}

fn limit_members(to: u32) -> NetworkDocument {
    let charter = Charter { version: 1, issued: NOW, max_members: to };
    NetworkDocument::Charter(sign(&charter, &key(ADMIN)))
}

#[test]
fn the_newest_stamp_wins_and_the_incarnation_comes_first() {
    let stamped = |incarnation, sequence| NodeRecord { incarnation, sequence, ..record(9) };
    let mut view = View::new();
    for (stamp, outcome) in [
        ((1, 5), Merged::New),
        ((1, 5), Merged::Known),
        ((1, 4), Merged::Stale),
        ((1, 6), Merged::New),
        ((2, 1), Merged::New),
        ((1, 99), Merged::Stale),
    ] {
        assert_eq!(view.take(&stamped(stamp.0, stamp.1)), Ok(outcome), "{stamp:?}");
    }
    assert_eq!(view.members.get(node(9)).unwrap().record.stamp(), (2, 1));
    assert_eq!(view.members.len(), 1);
}

#[test]
fn two_records_with_one_stamp_contradict_and_the_higher_hash_counts_everywhere() {
    let versions = ["1", "2", "3", "4"]
        .map(|version| sign_record(&NodeRecord { version: version.to_owned(), ..record(9) }));
    let highest = versions.iter().map(Signed::digest).max().unwrap();
    for rotation in 0..versions.len() {
        let mut view = View::new();
        let mut outcomes = Vec::new();
        for record in versions.iter().cycle().skip(rotation).take(versions.len()) {
            outcomes.push(view.take_signed(record));
        }
        assert_eq!(outcomes[0], Ok(Merged::New));
        assert!(outcomes[1..].iter().all(|outcome| *outcome == Ok(Merged::Contradicts)));
        assert_eq!(view.members.get(node(9)).unwrap().digest, highest);
    }
}

#[test]
fn a_record_is_its_signers_and_nobody_elses() {
    let mut view = View::new();
    let forged = sign(&record(9), &key(8));
    assert!(matches!(view.take_signed(&forged), Err(Refused::Invalid(_))));
    let foreign = Signed::sign(&record(9), key(101).network(), &key(9));
    assert!(matches!(view.take_signed(&foreign), Err(Refused::Document(_))));
    assert!(view.members.is_empty());
}

#[test]
fn a_certificate_beyond_its_invite_or_of_an_unknown_one_is_refused() {
    let mut view = View::new();
    let with = |certificate| NodeRecord { certificate, ..record(9) };
    let greedy = with(certificate(9, INVITE, Roles::ALL));
    assert!(matches!(view.take(&greedy), Err(Refused::Invalid(_))));
    let unknown = with(certificate(9, 51, Roles::MEMBER));
    assert_eq!(view.take(&unknown), Err(Refused::Missing("invite")));
    view.learn(&invite(51, None));
    assert_eq!(
        view.take(&unknown),
        Err(Refused::Unintroduced),
        "the introduction is for another invite"
    );
}

#[test]
fn a_certificate_that_was_taken_from_another_node_admits_nobody() {
    let taken = NodeRecord { certificate: record(9).certificate, ..record(8) };
    let refused = View::new().take_signed(&sign(&taken, &key(8)));
    assert_eq!(refused, Err(Refused::Invalid("the certificate is another node's")));
}

#[test]
fn nobody_gets_in_without_the_word_of_somebody_known() {
    let mut view = View::new();
    let unknown_introducer = introduced_by(9, 8);
    for bare in [NodeRecord { introductions: Vec::new(), ..record(9) }, unknown_introducer.clone()]
    {
        assert_eq!(view.take(&bare), Err(Refused::Unintroduced));
    }
    // Once the introducer is a member, its word holds.
    view.take(&record(8)).unwrap();
    assert_eq!(view.take(&unknown_introducer), Ok(Merged::New));
    // It does not hold any more when it is revoked.
    view.revoke(Revoked::Node(node(8)));
    assert_eq!(view.take(&introduced_by(7, 8)), Err(Refused::Unintroduced));
}

#[test]
fn the_root_an_admin_and_oneself_introduce_a_revoked_admin_does_not() {
    for (by, outcome) in [
        (100, Ok(Merged::New)),
        (ADMIN, Ok(Merged::New)),
        (OWN, Ok(Merged::New)),
        (8, Err(Refused::Unintroduced)),
    ] {
        assert_eq!(View::new().take(&introduced_by(9, by)), outcome, "by {by}");
    }
    let mut view = View::new();
    view.revoke(Revoked::Admin(key(ADMIN).public()));
    assert_eq!(view.take(&introduced_by(9, ADMIN)), Err(Refused::Unintroduced));
}

#[test]
fn nobody_introduces_itself() {
    let own_word =
        NodeRecord { introductions: vec![introduction(9, 9, 1, admitted())], ..record(9) };
    assert!(matches!(View::new().take(&own_word), Err(Refused::Invalid(_))));
    let of_another =
        NodeRecord { introductions: vec![introduction(8, ADMIN, 1, admitted())], ..record(9) };
    assert!(matches!(View::new().take(&of_another), Err(Refused::Invalid(_))));
}

/// The invite by which the node of a seed comes.
fn invite_of(seed: u8) -> PublicKey {
    record(seed).certificate.signer()
}

fn word(seed: u8) -> Word {
    Word { invite: invite_of(seed), is_out: false }
}

#[test]
fn a_word_is_taken_back_unless_it_is_out_or_kept() {
    let mut view = View::new();
    for seed in 9..13 {
        view.members.vouch(node(seed), word(seed));
    }
    for seed in [10, 11, 12] {
        assert!(view.members.hand_out(node(seed)));
        assert!(!view.members.hand_out(node(seed)), "it was out before");
    }
    assert!(!view.members.hand_out(node(20)), "there is none");
    assert!(view.members.take_back(node(9)) && !view.members.take_back(node(9)));
    assert!(!view.members.take_back(node(10)));
    assert!(view.members.forget_vouched(|kept, word| kept == node(11) && word.is_out));
    assert_eq!(view.members.vouched().keys().collect::<Vec<_>>(), [&node(11)]);
}

#[test]
fn whom_this_node_vouched_for_needs_no_introduction() {
    let mut view = View::new();
    let bare = NodeRecord { introductions: Vec::new(), ..record(9) };
    view.members.vouch(node(9), word(9));
    assert!(view.members.has_vouched(node(9), invite_of(9)));
    assert_eq!(view.take(&bare), Ok(Merged::New));
    let own = NodeRecord { introductions: Vec::new(), ..record(OWN) };
    assert_eq!(view.take(&own), Ok(Merged::New), "one's own record needs none either");
    // A removed node has to be vouched for again.
    assert!(view.members.remove(node(9)).is_some());
    assert_eq!(view.take(&bare), Err(Refused::Unintroduced));
}

#[test]
fn the_banned_are_named_and_never_come_back() {
    let mut view = View::with(&[record(7), record(8), record(9)]);
    let certificate = certificate(8, INVITE, Roles::MEMBER);
    let departure = Departure { at: NOW, certificate };
    view.learn(&NetworkDocument::Departure(sign(&departure, &key(8))));
    view.revoke(Revoked::Node(node(9)));
    let mut gone = [node(8), node(9)];
    gone.sort();
    assert_eq!(view.members.banned(&view.trust), gone);
    for banned in gone {
        view.members.remove(banned).unwrap();
        assert!(view.members.remove(banned).is_none());
    }
    let newer = |seed| NodeRecord { incarnation: 99, ..record(seed) };
    view.members.vouch(node(9), word(9));
    assert_eq!(view.take(&newer(9)), Err(Refused::Revoked));
    assert_eq!(view.take(&newer(8)), Err(Refused::Departed));
    assert_eq!(view.members.iter().map(|(node, _)| node).collect::<Vec<_>>(), [node(7)]);
}

#[test]
fn revoking_an_invite_with_its_members_bans_those_and_nobody_else() {
    let mut view = View::new();
    view.learn(&invite(51, None));
    let by_other = NodeRecord {
        certificate: certificate(8, 51, Roles::MEMBER),
        introductions: vec![introduction(
            8,
            ADMIN,
            1,
            NodeFacts { invite: Some(key(51).public()), ..NodeFacts::default() },
        )],
        ..record(8)
    };
    view.take(&by_other).unwrap();
    view.take(&record(9)).unwrap();
    view.revoke(Revoked::Invite(key(51).public()));
    assert!(view.members.banned(&view.trust).is_empty(), "a revoked invite keeps its members");
    view.revoke(Revoked::InviteAndMembers(key(51).public()));
    assert_eq!(view.members.banned(&view.trust), [node(8)]);
    assert_eq!(view.take(&NodeRecord { sequence: 2, ..by_other }), Err(Refused::Revoked));
}

#[test]
fn who_was_first_is_never_displaced_when_the_network_is_full() {
    let mut view = View::with(&[record(7), record(8)]);
    view.learn(&limit_members(2));
    for late in 9..40 {
        assert_eq!(view.take(&record(late)), Err(Refused::Full));
    }
    assert_eq!(view.take(&NodeRecord { sequence: 2, ..record(7) }), Ok(Merged::New));
    assert!(view.members.get(node(7)).is_some() && view.members.get(node(8)).is_some());
    view.members.remove(node(8));
    assert_eq!(view.take(&record(9)), Ok(Merged::New));
}

#[test]
fn an_invite_brings_at_most_twice_its_uses_in() {
    let mut view = View::new();
    view.learn(&invite(51, Some(2)));
    let facts = NodeFacts { invite: Some(key(51).public()), ..NodeFacts::default() };
    let taken = (10..20)
        .filter(|seed| {
            let record = NodeRecord {
                certificate: certificate(*seed, 51, Roles::MEMBER),
                introductions: vec![introduction(*seed, ADMIN, 1, facts.clone())],
                ..record(*seed)
            };
            view.take(&record).is_ok()
        })
        .count();
    assert_eq!(taken, 4);
    assert_eq!(view.members.uses_of(key(51).public(), &view.trust), 4);
    assert_eq!(view.take(&record(9)), Ok(Merged::New), "other invites are not touched");
}

#[test]
fn an_endpoint_inside_the_mesh_is_refused_in_both_families() {
    let network = root().network();
    let inside6 = Ipv6Range::of(network).node(node(3));
    let at = |address: SocketAddr| NodeRecord {
        endpoints: vec![Endpoint { source: EndpointSource::Local, address }],
        ..record(9)
    };
    let mut view = View::new();
    for inside in [SocketAddr::new(address(5).into(), 7755), SocketAddr::new(inside6.into(), 7755)]
    {
        assert!(matches!(view.take(&at(inside)), Err(Refused::Invalid(_))), "{inside}");
        assert!(view.members.is_inside(inside.ip()));
    }
    assert_eq!(view.take(&at("192.0.2.7:7755".parse().unwrap())), Ok(Merged::New));
}

#[test]
fn a_claim_that_nobody_disputes_is_granted_when_the_range_allows() {
    let claims = NodeRecord { name: Some(named("web")), ..claiming(9, 5, &[]) };
    let mut view = View::with(&[claims]);
    assert_eq!((view.ipv4(9), view.name(9).as_deref()), (Some(address(5)), Some("web")));
    assert_eq!(view.owner(5), Some(node(9)));
    assert_eq!(view.owner(6), None);
    for outside in [Ipv4Addr::new(10, 78, 1, 5), Ipv4Addr::new(10, 77, 0, 53)] {
        let sequence = view.members.get(node(9)).unwrap().record.sequence + 1;
        let record = NodeRecord { sequence, ipv4: Some(outside), ..record(9) };
        view.take(&record).unwrap();
        assert_eq!(view.ipv4(9), None, "{outside}");
    }
}

#[test]
fn the_earliest_witness_decides_and_a_claimants_clock_never_does() {
    // Both orders, so that the hash cannot be what decides.
    for (first, second) in [(8, 9), (9, 8)] {
        let early = claiming(first, 5, &[(ADMIN, 1_000)]);
        let mut late = claiming(second, 5, &[(ADMIN, 2_000)]);
        // It says that it was there long before.
        let certificate = MemberCertificate {
            node: node(second),
            roles: Roles::MEMBER,
            tags: Vec::new(),
            issued: Timestamp(0),
        };
        late.certificate = sign(&certificate, &key(INVITE));
        late.incarnation = 0;
        for records in [[&early, &late], [&late, &early]] {
            let view = View::with(&records.map(Clone::clone));
            assert_eq!(view.owner(5), Some(node(first)));
            assert_eq!((view.ipv4(first), view.ipv4(second)), (Some(address(5)), None));
        }
    }
}

#[test]
fn a_witnessed_claim_beats_a_bare_one_and_bare_ones_go_by_hash() {
    let bare = [claiming(8, 5, &[]), claiming(9, 5, &[])];
    let by_hash = View::with(&bare).owner(5).unwrap();
    assert_eq!(View::with(&[bare[1].clone(), bare[0].clone()]).owner(5), Some(by_hash));
    for witnessed in [8, 9] {
        let records = [8, 9].map(|seed| {
            let witnesses = [(ADMIN, u64::MAX)];
            claiming(seed, 5, if seed == witnessed { &witnesses } else { &[] })
        });
        assert_eq!(View::with(&records).owner(5), Some(node(witnessed)));
    }
}

#[test]
fn only_members_and_admins_witness_and_only_what_they_saw() {
    for (first, second) in [(8, 9), (9, 8)] {
        let honest = claiming(first, 5, &[(ADMIN, 2_000)]);
        let by_stranger = claiming(second, 5, &[(40, 1)]);
        assert_eq!(View::with(&[honest.clone(), by_stranger]).owner(5), Some(node(first)));
        // An early word about another address.
        let mut about_another = claiming(second, 6, &[(ADMIN, 1)]);
        about_another.ipv4 = Some(address(5));
        assert_eq!(View::with(&[honest, about_another]).owner(5), Some(node(first)));
    }
}

#[test]
fn a_members_word_counts_and_the_earliest_of_several() {
    for (first, second) in [(8, 9), (9, 8)] {
        let seen_by_member = claiming(first, 5, &[(30, 7_000)]);
        let bare = claiming(second, 5, &[]);
        let view = View::with(&[record(30), seen_by_member, bare]);
        assert_eq!(view.owner(5), Some(node(first)));

        let seen_twice = claiming(first, 5, &[(ADMIN, 9_000), (30, 1_000)]);
        let seen_between = claiming(second, 5, &[(ADMIN, 2_000)]);
        let view = View::with(&[record(30), seen_twice, seen_between]);
        assert_eq!(view.owner(5), Some(node(first)));
    }
}

#[test]
fn a_word_from_before_the_invite_is_no_earlier_than_the_invite() {
    // The one that loses by its hash has an accomplice who back-dates.
    let at_founding = [claiming(8, 5, &[(ADMIN, 0)]), claiming(9, 5, &[(ADMIN, 0)])];
    let winner = View::with(&at_founding).owner(5);
    let (loser, honest) = if winner == Some(node(8)) { (9, 8) } else { (8, 9) };
    let facts = NodeFacts { ipv4: Some(address(5)), ..admitted() };
    let mut back_dated = claiming(loser, 5, &[]);
    back_dated.introductions.push(introduction_at(loser, ADMIN, Timestamp(0), facts));
    let view = View::with(&[back_dated, claiming(honest, 5, &[(ADMIN, 0)])]);
    assert_eq!(view.owner(5), Some(node(honest)));
}

#[test]
fn a_member_does_not_change_its_invite() {
    let mut view = View::with(&[record(9)]);
    view.learn(&invite(OTHER_INVITE, None));
    let elevated = NodeRecord {
        sequence: 2,
        certificate: certificate(9, OTHER_INVITE, Roles::MEMBER),
        ..record(9)
    };
    assert!(matches!(view.take(&elevated), Err(Refused::Invalid(_))));
    let sequence = view.members.get(node(9)).unwrap().record.sequence;
    assert_eq!(sequence, 1);
}

#[test]
fn of_two_pins_for_one_address_the_later_wins() {
    for (first, second) in [(8, 9), (9, 8)] {
        let mut view = View::with(&[record(8), record(9)]);
        view.pin(second, 20, Some(5), None);
        view.pin(first, 10, Some(5), None);
        assert_eq!((view.ipv4(first), view.ipv4(second)), (None, Some(address(5))));
    }
}

#[test]
fn a_pin_beats_every_claim_even_one_that_was_never_made() {
    let mut view = View::with(&[claiming(8, 5, &[(ADMIN, 1)]), record(9)]);
    assert_eq!(view.ipv4(8), Some(address(5)));
    view.pin(9, 10, Some(5), Some("db"));
    assert_eq!((view.ipv4(8), view.ipv4(9)), (None, Some(address(5))));
    assert_eq!(view.name(9).as_deref(), Some("db"));
    // The later pin wins, and the one it replaced falls back to its claims.
    view.pin(8, 20, Some(5), None);
    assert_eq!((view.ipv4(8), view.ipv4(9)), (Some(address(5)), None));
    // A pin of a node that is not there keeps nobody from anything.
    view.pin(40, 30, Some(5), None);
    assert_eq!(view.ipv4(8), Some(address(5)));
}

#[test]
fn lookups_follow_every_change_and_name_whom_it_touches() {
    let mut view = View::with(&[claiming(8, 5, &[(ADMIN, 1)]), claiming(9, 5, &[(ADMIN, 2)])]);
    assert_eq!(view.members.take_affected(), BTreeSet::from([node(8), node(9)]));
    assert!(view.members.take_affected().is_empty());
    assert_eq!((view.ipv4(8), view.ipv4(9)), (Some(address(5)), None));

    // The owner moves on: the other gets what it left.
    let moved = NodeRecord { sequence: 2, ..claiming(8, 6, &[(ADMIN, 3)]) };
    view.take(&moved).unwrap();
    assert_eq!(view.members.take_affected(), BTreeSet::from([node(8), node(9)]));
    assert_eq!((view.ipv4(8), view.ipv4(9)), (Some(address(6)), Some(address(5))));

    // It comes back to what is another's now, and is removed.
    let back = NodeRecord { sequence: 3, ..claiming(8, 5, &[(ADMIN, 1)]) };
    view.take(&back).unwrap();
    assert_eq!((view.owner(5), view.owner(6)), (Some(node(8)), None));
    view.members.take_affected();
    view.members.remove(node(8));
    assert_eq!(view.members.take_affected(), BTreeSet::from([node(8), node(9)]));
    assert_eq!((view.ipv4(8), view.ipv4(9)), (None, Some(address(5))));

    let called = NodeRecord { sequence: 2, name: Some(named("web")), ..record(9) };
    view.take(&called).unwrap();
    assert_eq!((view.ipv4(9), view.name(9).as_deref()), (None, Some("web")));
    assert_eq!(view.members.owner_of_name(&named("web"), &view.trust), Some(node(9)));
    view.members.take_affected();
    view.members.affect_claimants(None, Some(&named("web")));
    assert_eq!(view.members.take_affected(), BTreeSet::from([node(9)]));
}

#[test]
fn digests_change_in_the_bucket_of_the_node_alone_and_come_back() {
    let mut view = View::with(&[record(7), record(8)]);
    let (before, buckets) = (view.members.digest(), view.members.bucket_digests());
    view.take(&record(9)).unwrap();
    assert_ne!(view.members.digest(), before);
    let now = view.members.bucket_digests();
    let differing: Vec<_> = (0..BUCKETS)
        .filter(|index| {
            let at = usize::from(*index);
            now[at] != buckets[at]
        })
        .collect();
    assert_eq!(differing.len(), 1);
    let listed = view.members.bucket(differing[0]);
    assert!(listed.contains(&(node(9), view.members.get(node(9)).unwrap().digest)));
    view.take(&NodeRecord { sequence: 2, ..record(9) }).unwrap();
    assert_ne!(view.members.bucket_digests(), now, "another record of the same node");
    view.members.remove(node(9));
    assert_eq!(view.members.digest(), before);
    assert_eq!(view.members.bucket_digests(), buckets);
}

/// Records of some nodes: several versions, contradictions, rivals for
/// addresses, and a chain of introductions.
fn crowd() -> Vec<Signed<NodeRecord>> {
    let mut records = vec![
        introduced_by(30, ADMIN),
        introduced_by(31, 30),
        introduced_by(32, 31),
        NodeRecord { version: "contradicts".to_owned(), ..introduced_by(31, 30) },
        NodeRecord { incarnation: 2, ..introduced_by(32, 31) },
        NodeRecord { sequence: 2, ..introduced_by(32, 31) },
    ];
    for seed in 33..37 {
        records.push(claiming(seed, 5, &[(ADMIN, u64::from(seed))]));
        records.push(NodeRecord { sequence: 2, ..claiming(seed, seed % 2 + 5, &[(30, 40)]) });
        records.push(NodeRecord {
            sequence: 3,
            name: Some(named("web")),
            ..claiming(seed, seed % 2 + 5, &[(31, 50)])
        });
    }
    records.iter().map(sign_record).collect()
}

/// Says where one of the crowd is, whatever it claims.
fn pin_one(view: &mut View) {
    view.pin(35, NOW.0, Some(6), None);
}

/// Takes records until nothing changes, as anti-entropy does.
fn take_all(view: &mut View, records: &[Signed<NodeRecord>]) {
    loop {
        let before = view.members.digest();
        for record in records {
            let _ = view.take_signed(record);
        }
        if view.members.digest() == before {
            return;
        }
    }
}

fn answers(view: &mut View) -> impl PartialEq + std::fmt::Debug + use<> {
    let nodes: Vec<_> = (30..37).map(|seed| (view.ipv4(seed), view.name(seed))).collect();
    let owners = [view.owner(5), view.owner(6)];
    (view.members.digest(), view.members.bucket_digests(), nodes, owners)
}

#[test]
fn a_chain_of_introductions_grounds_a_member_and_a_circle_does_not() {
    let mut view = View::with(&[record(3), introduced_by(4, 3)]);
    view.members.vouch(node(5), word(5));
    for one in [introduced_by(5, 6), introduced_by(6, 5)] {
        assert_eq!(view.take(&one), Ok(Merged::New));
    }
    let grounded = |view: &mut View| {
        let grounded = view.members.grounded(&view.trust);
        (3..7).filter(|seed| grounded.contains(node(*seed))).collect::<Vec<u8>>()
    };
    assert_eq!(grounded(&mut view), [3, 4]);
    let vouched = NodeRecord {
        sequence: 2,
        introductions: vec![introduction(6, 4, 6_000, admitted())],
        ..record(6)
    };
    assert_eq!(view.take(&vouched), Ok(Merged::New));
    assert_eq!(grounded(&mut view), [3, 4, 5, 6]);
}

#[test]
fn a_member_that_another_member_hands_over_needs_no_introducer_but_no_ban_either() {
    let mut view = View::with(&[record(3)]);
    let orphan = introduced_by(4, 9);
    assert_eq!(view.take(&orphan), Err(Refused::Unintroduced));
    let signed = sign_record(&orphan);
    assert_eq!(view.members.merge_believed(&signed, &view.trust, &Strict), Ok(Merged::New));

    let banned = introduced_by(5, 9);
    view.revoke(Revoked::Node(node(5)));
    let signed = sign_record(&banned);
    let taken = view.members.merge_believed(&signed, &view.trust, &Strict);
    assert_eq!(taken, Err(Refused::Revoked));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn all_have_one_view_in_whatever_order_and_how_often_records_came(
        order in Just(crowd()).prop_shuffle(),
        repeated in proptest::collection::vec(any::<Index>(), 0..12),
    ) {
        let mut expected = View::new();
        pin_one(&mut expected);
        take_all(&mut expected, &crowd());
        prop_assert_eq!(expected.members.len(), 7);

        let mut records = order;
        for index in repeated {
            records.push(index.get(&records).clone());
        }
        let mut view = View::new();
        take_all(&mut view, &records);
        pin_one(&mut view);
        prop_assert_eq!(answers(&mut view), answers(&mut expected));
    }

    #[test]
    fn an_address_or_a_name_has_at_most_one_owner_at_every_step(
        order in Just(crowd()).prop_shuffle(),
    ) {
        let mut view = View::new();
        pin_one(&mut view);
        for record in order {
            let _ = view.take_signed(&record);
            let addresses: Vec<_> = (30..37).filter_map(|seed| view.ipv4(seed)).collect();
            let distinct: BTreeSet<_> = addresses.iter().collect();
            prop_assert_eq!(distinct.len(), addresses.len());
            prop_assert!((30..37).filter(|seed| view.name(*seed).is_some()).count() <= 1);
        }
    }
}
