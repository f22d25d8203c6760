//! One Control among peers that say what they like.

mod malice;
mod presence;
mod routes;

use epsilon_proto::address::DEFAULT_RANGE;
use epsilon_proto::document::Signed;
use epsilon_proto::key::Strict;
use epsilon_proto::message::{
    Change, Claims, Comparison, Credentials, Hello, Introduced, Newest, Request, Response,
    SealedGate, Verdict, Welcome,
};
use epsilon_proto::record::{MAX_ROUTES, NodeRecord};
use epsilon_proto::trust::{
    AdminGrant, Charter, Distribution, GateEpoch, Introduction, NetworkDocument, NodeFacts,
    Revocation, Revoked, Roles,
};
use epsilon_proto::wire;

use super::*;
use crate::founding::{Founding, Plan, found, join};
use crate::testing::{key, node};

const WALL: Timestamp = Timestamp(1_800_000_000_000);
const SECOND: Duration = Duration::from_secs(1);
/// The founder, and the only admin unless more are made.
const ADMIN: u8 = 1;

/// A network that this key founded, whose first token admits so many.
fn founding(uses: Option<u32>) -> Founding {
    let plan = Plan {
        name: "home".parse().unwrap(),
        range: DEFAULT_RANGE,
        domain: "epsilon.internal".parse().unwrap(),
        distribution: Distribution::None,
        mode: None,
        roles: Roles::MEMBER,
        tags: Vec::new(),
        expires: Some(WALL.after(SECOND * 3600)),
        uses,
        advertise: Vec::new(),
        max_members: 64,
    };
    found(plan, &key(ADMIN), WALL, &mut ChaCha20Rng::from_seed([5; 32]))
}

fn settings() -> Settings {
    Settings {
        name: None,
        site: None,
        labels: Vec::new(),
        advertise: Vec::new(),
        port: 7755,
        interface: "eps0".to_owned(),
        token_addresses: Vec::new(),
    }
}

/// One key a number: of applicants there are more than there are seeds.
fn applicant(number: u32) -> SecretKey {
    let mut seed = [77; 32];
    seed[..4].copy_from_slice(&number.to_be_bytes());
    SecretKey::from_seed(&seed)
}

fn remote() -> SocketAddr {
    "192.0.2.7:7755".parse().unwrap()
}

struct Scene {
    founding: Founding,
    control: Control,
    now: Now,
    exchange: ExchangeId,
    outputs: Vec<Output>,
}

impl Scene {
    /// The founder.
    fn founder(uses: Option<u32>) -> Self {
        let founding = founding(uses);
        let random = &mut ChaCha20Rng::from_seed([6; 32]);
        let saved = founding.first_member(&key(ADMIN), settings(), WALL, random);
        Self::of(founding, key(ADMIN), saved)
    }

    /// A newcomer with the first token, that has met nobody yet.
    fn newcomer() -> Self {
        let founding = founding(None);
        let token = founding.token.verify(&Strict).unwrap();
        let saved = join(token, &key(2), Roles::MEMBER, settings(), WALL);
        Self::of(founding, key(2), saved)
    }

    fn of(founding: Founding, key: SecretKey, saved: Saved) -> Self {
        let config = Config {
            key,
            boot: BootId([1; 16]),
            hostname: "host".parse().ok(),
            version: "0.1.0".to_owned(),
            check: Box::new(Strict),
            relaying: Some(Relaying { each: 1 << 30, all: 1 << 30 }),
            tcp_port: None,
        };
        let now = Now { instant: Instant(SECOND * 100), wall: WALL };
        let control = Control::new(config, saved, [3; 32], now).unwrap();
        let mut scene = Self { founding, control, now, exchange: 0, outputs: Vec::new() };
        scene.drain();
        scene
    }

    fn sign<T: epsilon_proto::document::Document>(&self, what: &T, by: &SecretKey) -> Signed<T> {
        Signed::sign(what, self.control.id, by)
    }

    /// Takes what the shell would do; whatever shall be persisted is.
    fn drain(&mut self) {
        while let Some(output) = self.control.poll_output() {
            if let Output::Persist { ticket, .. } = output {
                self.control.handle_persisted(ticket, Ok(()), self.now);
            } else {
                self.outputs.push(output);
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now.instant + time;
        while self.now.instant < end {
            let step = end.since(self.now.instant).min(SECOND / 2);
            self.now = Now { instant: self.now.instant + step, wall: self.now.wall.after(step) };
            self.control.handle_timeout(self.now);
            self.drain();
        }
    }

    /// What a holder of the first token shows that was introduced so.
    fn credentials(
        &self,
        of: &SecretKey,
        introductions: Vec<Signed<Introduction>>,
        chain: Vec<Signed<Introduction>>,
    ) -> Credentials {
        let token = &self.founding.token;
        let verified = token.verify(&Strict).unwrap();
        let certificate = verified.admit(of.node(), Roles::MEMBER, WALL).signed().clone();
        Credentials {
            grant: token.grant.clone(),
            invite: token.invite.clone(),
            certificate,
            introductions,
            chain,
            gate: None,
        }
    }

    fn introduction(&self, of: &SecretKey, by: &SecretKey) -> Signed<Introduction> {
        let invite = Some(self.founding.token.invite.peek().unwrap().key);
        let facts = NodeFacts { invite, ipv4: None, name: None };
        self.sign(&Introduction { node: of.node(), at: WALL, facts }, by)
    }

    fn admission(&mut self, exchange: ExchangeId, input: AdmissionInput) -> Vec<Output> {
        self.outputs.clear();
        self.control.handle_admission(exchange, input, self.now);
        self.drain();
        self.outputs.drain(..).collect()
    }

    /// Goes through an admission up to this node's verdict, and gives it.
    fn apply(&mut self, node: NodeId, credentials: &Credentials) -> Result<(), Refusal> {
        self.show(node, credentials);
        self.verdict().unwrap()
    }

    /// Goes through an admission until this node has all to judge by.
    fn show(&mut self, node: NodeId, credentials: &Credentials) {
        self.exchange += 1;
        let exchange = self.exchange;
        let begin = AdmissionInput::Begin { node, remote: remote(), outbound: false };
        self.admission(exchange, begin);
        let hello = Hello {
            boot: BootId([9; 16]),
            clock: self.now.wall,
            port: 7755,
            bans: self.control.trust.bans_digest(),
        };
        self.admission(exchange, AdmissionInput::Frame(wire::encode(&hello)));
        let shown = AdmissionInput::Frame(wire::encode(credentials));
        self.control.handle_admission(exchange, shown, self.now);
        self.drain();
    }

    /// This node's verdict on the last that applied, once it is given.
    fn verdict(&mut self) -> Option<Result<(), Refusal>> {
        let current = self.exchange;
        let verdict = self.outputs.iter().find_map(|output| match output {
            Output::Admission { exchange, send: Some(bytes), .. } if *exchange == current => {
                Some(wire::decode::<Verdict>(bytes).unwrap())
            }
            _ => None,
        })?;
        Some(match verdict {
            Verdict::Accepted(_) => Ok(()),
            Verdict::Refused(refusal) => {
                self.admission(current, AdmissionInput::Ended);
                Err(refusal)
            }
        })
    }

    /// The other side accepts as well; says how the admission ended.
    fn conclude(&mut self) -> Result<(), Refusal> {
        let accepted = wire::encode(&Verdict::Accepted(Box::default()));
        let ended = self.admission(self.exchange, AdmissionInput::Frame(accepted));
        let outcome = ended.into_iter().find_map(|output| match output {
            Output::Admission { outcome, .. } => outcome,
            _ => None,
        });
        outcome.unwrap()
    }

    fn link(&mut self, node: NodeId) {
        self.control.handle_link_up(node, remote(), false, self.now);
        self.drain();
    }

    fn admit_and_link(&mut self, of: &SecretKey, credentials: &Credentials) {
        assert_eq!(self.apply(of.node(), credentials), Ok(()));
        assert_eq!(self.conclude(), Ok(()));
        self.link(of.node());
    }

    fn hang_up(&mut self, node: NodeId) {
        self.control.handle_link_down(node, self.now);
        self.drain();
    }

    fn ask_for_introduction(&mut self, node: NodeId) -> Option<Signed<Introduction>> {
        let request = wire::encode(&Request::Introduce(Claims { ipv4: None, name: None }));
        let answer = self.control.handle_request(node, &request, self.now).unwrap();
        self.drain();
        match wire::decode::<Response>(&answer).unwrap() {
            Response::Introduced(introduced) => introduced.introduction,
            other => panic!("{other:?}"),
        }
    }

    /// Answers what this node asked of a peer: it holds the same, and vouches
    /// for it with this key.
    fn answer(&mut self, peer: NodeId, vouching: Option<&SecretKey>) {
        loop {
            let next = self
                .outputs
                .iter()
                .position(|output| matches!(output, Output::Request { node, .. } if *node == peer));
            let Some(next) = next else { return };
            let Output::Request { id, bytes, .. } = self.outputs.remove(next) else { return };
            let answer = match wire::decode::<Request>(&bytes).unwrap() {
                Request::Compare(_) => Response::Compared(Comparison::default()),
                Request::Introduce(claims) => {
                    let introduction = vouching.map(|by| {
                        let invite = Some(self.control.certificate.signer());
                        let facts =
                            NodeFacts { invite, ipv4: claims.ipv4, name: claims.name.clone() };
                        let node = self.control.own;
                        self.sign(&Introduction { node, at: WALL, facts }, by)
                    });
                    Response::Introduced(Introduced { introduction, ..Introduced::default() })
                }
                // To whoever was called in vain.
                Request::Letter(_) => continue,
                other => panic!("{other:?}"),
            };
            self.control.handle_response(id, Ok(&wire::encode(&answer)), self.now);
            self.drain();
        }
    }

    fn learn(&mut self, from: NodeId, document: NetworkDocument) {
        let change = wire::encode(&Change::Document(document));
        assert_eq!(self.control.handle_gossip(from, &change, self.now), Some(true));
        self.drain();
    }

    fn revoke_admin(&mut self, from: NodeId, admin: &SecretKey) {
        let revoked = Revoked::Admin(admin.public());
        let revocation = Revocation { revoked, issued: WALL, came_by: None };
        let signed = self.sign(&revocation, &self.founding.root);
        self.learn(from, NetworkDocument::Revocation(signed));
    }

    fn grant(&mut self, from: NodeId, admin: &SecretKey) {
        let grant = AdminGrant { key: admin.public(), name: "other".to_owned(), issued: WALL };
        let signed = self.sign(&grant, &self.founding.root);
        self.learn(from, NetworkDocument::Grant(signed));
    }

    fn is_cut(&self, node: NodeId) -> bool {
        !self.control.is_admitted(node)
            && !self.control.linked().contains(&node)
            && self
                .outputs
                .iter()
                .any(|output| matches!(output, Output::Disconnect(one) if *one == node))
    }

    /// How much is kept of those who are no members.
    fn kept(&self) -> (usize, usize, usize, usize) {
        let control = &self.control;
        let strangers = control.peers.keys().filter(|node| control.members.get(**node).is_none());
        (
            strangers.count(),
            control.admitted.len(),
            control.members.vouched().len(),
            control.admissions.len(),
        )
    }

    /// The record of an applicant.
    fn record(&self, of: &SecretKey, boot: u8, sequence: u64) -> Signed<NodeRecord> {
        let record = NodeRecord {
            incarnation: 1,
            sequence,
            boot: BootId([boot; 16]),
            certificate: self.credentials(of, Vec::new(), Vec::new()).certificate,
            introductions: Vec::new(),
            ipv4: None,
            name: None,
            endpoints: Vec::new(),
            site: None,
            labels: Vec::new(),
            version: String::new(),
            is_open: false,
            is_relay: false,
            relays: Vec::new(),
            hubs: Vec::new(),
            lost: Vec::new(),
            tcp_port: None,
            routes: Vec::new(),
        };
        self.sign(&record, of)
    }
}

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

#[test]
fn an_old_record_of_a_second_machine_is_said_once_and_costs_its_owner_nothing() {
    let mut scene = Scene::founder(None);
    let member = applicant(1);
    let credentials = scene.credentials(&member, Vec::new(), Vec::new());
    scene.admit_and_link(&member, &credentials);
    let gossip = |scene: &mut Scene, boot, sequence| {
        let record = scene.record(&member, boot, sequence);
        let change = wire::encode(&Change::Record(record));
        let spread = scene.control.handle_gossip(member.node(), &change, scene.now);
        scene.drain();
        spread
    };
    assert_eq!(gossip(&mut scene, 9, 5), Some(true));
    assert_eq!(gossip(&mut scene, 8, 4), Some(true), "others shall hear of it");
    for _ in 0..100 {
        assert_eq!(gossip(&mut scene, 8, 4), None);
    }
    let alarms = |scene: &Scene| {
        let cloned = |output: &&Output| matches!(output, Output::Event(Event::Cloned { .. }));
        scene.outputs.iter().filter(cloned).count()
    };
    assert_eq!(alarms(&scene), 1);
    assert_eq!(gossip(&mut scene, 9, 6), Some(true), "its budget is untouched");
    // Nor can its owner flood the others with made-up machines.
    let spread = (10..100).filter(|boot| gossip(&mut scene, *boot, 4).is_some()).count();
    assert!(spread < 8, "{spread} records of the past were spread");
    scene.pass(SECOND * 3600);
    for boot in 8..100 {
        let spread = gossip(&mut scene, boot, 4);
        assert_eq!(spread, None, "whoever kept it cannot raise the alarm again");
    }
    assert_eq!(alarms(&scene), 1);
}

#[test]
fn after_a_start_nobody_is_admitted_before_a_third_was_heard_or_a_moment_has_passed() {
    let at = |millis| Instant(Duration::from_millis(millis));
    let (applicant, third) = (node(8), node(9));
    let mut guard = admission::Guard::new(at(1_000), 3);
    assert_eq!(guard.due(), Some(at(3_000)));
    assert!(!guard.is_open_for(applicant, at(1_000)));
    guard.heard.insert(applicant);
    assert!(!guard.is_open_for(applicant, at(2_999)), "an applicant is no witness of its own");
    assert!(guard.is_open_for(third, at(1_001)), "it was heard before this one");
    assert!(guard.is_open_for(applicant, at(3_000)), "nobody waits for ever");
    guard.heard.insert(third);
    assert!(guard.is_open_for(applicant, at(1_001)));
    let alone = admission::Guard::new(at(1_000), 2);
    assert!(alone.is_open_for(applicant, at(1_000)), "there is no third");
}

#[test]
fn what_the_router_passes_on_is_said_before_other_addresses_and_no_longer_than_it_does() {
    use epsilon_proto::record::EndpointSource::{Configured, Local, Mapped, MappedTcp, MappedUdp};
    let mut scene = Scene::founder(None);
    let at = |text: &str| text.parse::<SocketAddr>().unwrap();
    let endpoint = |source, address| Endpoint { source, address: at(address) };
    let home = "192.168.1.7".parse().unwrap();
    scene.control.handle_local_addresses(vec![(home, 24)], false, scene.now);
    scene.control.handle_configured_addresses(vec![at("198.51.100.1:7755")], scene.now);
    let said = |scene: &mut Scene, mapped: &[Endpoint]| {
        scene.control.handle_mapped_endpoints(mapped.to_vec(), scene.now);
        scene.pass(SECOND * 30);
        let record = &scene.control.members.get(scene.control.own).unwrap().record;
        record.endpoints.iter().map(|one| one.source).collect::<Vec<_>>()
    };
    let both = endpoint(Mapped, "203.0.113.9:7755");
    assert_eq!(said(&mut scene, &[both]), [Configured, Mapped, Local]);
    let apart =
        [endpoint(MappedUdp, "203.0.113.9:20001"), endpoint(MappedTcp, "203.0.113.9:20002")];
    assert_eq!(said(&mut scene, &apart), [Configured, MappedUdp, MappedTcp, Local]);
    assert_eq!(said(&mut scene, &[]), [Configured, Local]);
}

#[test]
fn a_node_with_a_port_of_its_router_is_open_once_it_was_probed_unasked() {
    use epsilon_proto::record::EndpointSource::Mapped;
    let endpoint = |address: &str| Endpoint { source: Mapped, address: address.parse().unwrap() };
    for (address, is_open) in [("203.0.113.9:7755", true), ("100.64.0.9:7755", false)] {
        let mut scene = Scene::founder(None);
        let is = |scene: &mut Scene| {
            scene.control.came_from(remote(), scene.now);
            scene.pass(SECOND * 30);
            scene.control.is_relay()
        };
        assert!(!is(&mut scene), "a NAT may have given the port away");
        scene.control.handle_mapped_endpoints(vec![endpoint(address)], scene.now);
        assert_eq!(is(&mut scene), is_open, "{address}");
        scene.control.handle_mapped_endpoints(Vec::new(), scene.now);
        assert!(!is(&mut scene), "{address}");
    }
}
