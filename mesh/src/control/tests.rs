//! One Control among peers that say what they like.

mod epochs;
mod malice;
mod newcomers;
mod presence;
mod routes;

use epsilon_proto::address::DEFAULT_RANGE;
use epsilon_proto::document::Signed;
use epsilon_proto::gate::GateSecret;
use epsilon_proto::id::BootId;
use epsilon_proto::key::{SecretKey, Strict};
use epsilon_proto::message::{
    Change, Claims, Comparison, Credentials, Hello, Introduced, Newest, Refusal, Request, Response,
    SealedGate, Verdict, Welcome,
};
use epsilon_proto::prefix::Prefix;
use epsilon_proto::record::{MAX_ROUTES, NodeRecord};
use epsilon_proto::trust::{
    AdminGrant, Charter, Distribution, GateEpoch, Introduction, NetworkDocument, NodeFacts,
    Revocation, Revoked, Roles,
};
use epsilon_proto::wire;

use super::*;
use crate::founding::{Founding, Plan, found, join};
use crate::shard::{Path, Relaying};
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
        let mut strangers = 70..;
        let mut is = |scene: &mut Scene| {
            // Each time from elsewhere: what was answered may come back.
            let place = SocketAddr::from(([198, 51, 100, strangers.next().unwrap()], 7755));
            scene.control.came_from(place, scene.now);
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
