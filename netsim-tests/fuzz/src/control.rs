//! The engine's Control under everything that a network can say to it, in any
//! order, with signatures that always hold: nothing panics, no step grows it
//! without bound, and no address or name has two owners.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use epsilon_mesh::control::{AdmissionInput, Config, Control, Output, Ticket};
use epsilon_mesh::shard::{Path, Relaying, Report};
use epsilon_proto::beacon::Beacon;
use epsilon_proto::clock::{Instant, Now, Timestamp};
use epsilon_proto::datagram::Channel;
use epsilon_proto::id::{BootId, NodeId};
use epsilon_proto::message::{Change, Claims, Newest, Request, Response, Taken, Verdict};
use epsilon_proto::wire;

use crate::script::{self, Script};
use crate::trust::Holds;
use crate::{messages, samples};

/// Steps of one run, and what may come of one step.
const STEPS: usize = 48;
const MAX_OUTPUTS: usize = 20_000;

struct Scene {
    control: Control,
    now: Now,
    tickets: VecDeque<Ticket>,
    requests: VecDeque<u64>,
    dials: VecDeque<u64>,
}

thread_local! {
    static SAVED: epsilon_mesh::saved::Saved = samples::saved();
    static NODES: [NodeId; 4] = [3, 1, 6, 7].map(|seed| samples::key(seed).node());
    static GATE: (epsilon_proto::gate::GateSecret, epsilon_proto::id::NetworkId) =
        (samples::founding().token.gate, samples::network());
}

fn node(choice: u8) -> NodeId {
    NODES.with(|nodes| nodes[usize::from(choice) % nodes.len()])
}

fn remote(choice: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, choice], 7755))
}

impl Scene {
    fn new() -> Self {
        let config = Config {
            key: samples::key(1),
            boot: BootId([1; 16]),
            hostname: "n1".parse().ok(),
            version: "0.1.0".to_owned(),
            check: Box::new(Holds),
            relaying: Some(Relaying { each: 1 << 30, all: 1 << 30 }),
            tcp_port: None,
        };
        let now = Now { instant: Instant(Duration::from_secs(10)), wall: samples::NOW };
        let saved = SAVED.with(Clone::clone);
        let control = Control::new(config, saved, [3; 32], now).expect("what was founded starts");
        let mut scene = Self {
            control,
            now,
            tickets: VecDeque::new(),
            requests: VecDeque::new(),
            dials: VecDeque::new(),
        };
        scene.drain();
        scene
    }

    /// Takes what the shell would do.
    fn drain(&mut self) {
        for _ in 0..MAX_OUTPUTS {
            match self.control.poll_output() {
                None => return,
                Some(Output::Persist { ticket, .. }) => self.tickets.push_back(ticket),
                Some(Output::Request { id, .. }) => self.requests.push_back(id),
                Some(Output::Dial { attempt, .. }) => self.dials.push_back(attempt),
                Some(_) => {}
            }
        }
        panic!("one step gives more than {MAX_OUTPUTS} outputs");
    }

    /// Lets time pass; whatever is due must be done in a few calls.
    fn pass(&mut self, duration: Duration) {
        self.now.instant = self.now.instant + duration;
        let wall = self.now.wall.after(duration);
        self.now.wall = wall;
        for _ in 0..64 {
            let due = self.control.poll_timeout(self.now.instant);
            if due.is_none_or(|due| due > self.now.instant) {
                return;
            }
            self.control.handle_timeout(self.now);
            self.drain();
        }
        panic!("a timer stays due");
    }

    fn step(&mut self, script: &mut Script<'_>) -> Option<()> {
        let (operation, choice) = (script.byte()?, script.byte()?);
        let exchange = u64::from(choice & 3);
        let outbound = choice & 4 != 0;
        let now = self.now;
        match operation % 14 {
            0 => {
                let (node, remote) = (node(script.byte()?), remote(choice));
                let input = AdmissionInput::Begin { node, remote, outbound };
                self.control.handle_admission(exchange, input, now);
            }
            1 => {
                let input = AdmissionInput::Frame(script.bytes()?.to_vec());
                self.control.handle_admission(exchange, input, now);
            }
            2 => self.control.handle_admission(exchange, AdmissionInput::Ended, now),
            3 => self.control.handle_link_up(node(choice), remote(choice), outbound, now),
            4 => self.control.handle_link_down(node(choice), now),
            5 => {
                let _ = self.control.handle_gossip(node(choice), script.bytes()?, now);
            }
            6 => {
                let answer = self.control.handle_request(node(choice), script.bytes()?, now);
                if let Some(answer) = answer {
                    assert!(wire::decode::<Response>(&answer).is_ok());
                }
            }
            7 => {
                let bytes = script.bytes()?;
                if let Some(id) = self.requests.pop_front() {
                    let result = if choice == 255 { Err(()) } else { Ok(bytes) };
                    self.control.handle_response(id, result, now);
                }
            }
            8 => {
                for ticket in std::mem::take(&mut self.tickets) {
                    let full = || Err("the disk is full".to_owned());
                    let result = if choice == 255 { full() } else { Ok(()) };
                    self.control.handle_persisted(ticket, result, now);
                }
            }
            9 => self.pass(Duration::from_millis(u64::from(choice) * 500)),
            10 => {
                let beacon = Beacon {
                    node: node(script.byte()?),
                    boot: BootId([choice; 16]),
                    port: u16::from(choice) * 100,
                };
                let datagram = GATE
                    .with(|(gate, network)| beacon.seal(gate, *network, &mut samples::random()));
                self.control.handle_beacon(remote(choice), &datagram, now);
            }
            11 => {
                if let Some(attempt) = self.dials.pop_front() {
                    self.control.handle_dial_ended(attempt, attempt.is_multiple_of(2), now);
                }
            }
            12 => self.now.wall = Timestamp(u64::from(choice) << 34),
            _ => {
                let (node, way) = (node(choice), remote(choice));
                let way = match choice & 4 {
                    0 => Path::Direct(way),
                    _ => Path::Relayed(way, Channel::new(u32::from(choice))),
                };
                let report = match script.byte()? % 8 {
                    0 => Report::ProbeReceived { node, from: way },
                    1 => Report::NewSource { node, from: way },
                    2 => Report::Unanswered { node },
                    4 => Report::Busy { node },
                    5 => Report::Idle { node },
                    3 => Report::NoPath { node },
                    6 => Report::ChannelUsed { channel: Channel::new(u32::from(choice)) },
                    _ => Report::ProbeAnswered {
                        node,
                        transaction: u64::from(choice),
                        to: way,
                        observed: remote(choice ^ 1),
                        rtt: Duration::from_millis(u64::from(choice)),
                    },
                };
                self.control.handle_report(report, now);
            }
        }
        self.drain();
        Some(())
    }
}

/// Admissions, links, gossip, requests, responses, reports, a failing disk
/// and a wrong clock.
pub fn control(input: &[u8]) {
    let mut scene = Scene::new();
    let mut script = Script(input);
    for _ in 0..STEPS {
        if scene.step(&mut script).is_none() {
            break;
        }
    }
    let view = scene.control.view(scene.now);
    let mut addresses = BTreeSet::new();
    let mut names = BTreeSet::new();
    for member in &view.members {
        assert!(member.ipv4.is_none_or(|address| addresses.insert(address)), "{member:?}");
        assert!(member.name.clone().is_none_or(|name| names.insert(name)), "{member:?}");
    }
    scene.pass(Duration::from_mins(10));
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let step = |operation: u8, choice: u8, bytes: &[u8]| {
        [vec![operation, choice], script::bytes(bytes)].concat()
    };
    let record = samples::signed(&samples::record(), &samples::key(3));
    let claims = Claims { ipv4: samples::record().ipv4, name: samples::record().name };
    let introduction = samples::signed(&samples::introduction(), &samples::key(1));
    let welcome = Verdict::Accepted(Box::default());
    let admission = [
        vec![8, 0, 0, 0, 0],
        step(1, 0, &wire::encode(&messages::hello())),
        step(1, 0, &wire::encode(&messages::bans())),
        step(1, 0, &wire::encode(&messages::credentials())),
        vec![9, 6],
        step(1, 0, &wire::encode(&welcome)),
        vec![3, 0, 8, 0],
    ]
    .concat();
    let after = |steps: &[Vec<u8>]| [admission.clone(), steps.concat()].concat();
    let request = |request: &Request| step(6, 0, &wire::encode(request));
    let gossip = |change: &Change| step(5, 0, &wire::encode(change));
    let documents = samples::documents().into_iter();
    vec![
        after(&[
            gossip(&Change::Record(record)),
            request(&Request::Introduce(claims)),
            request(&Request::Vouch(introduction)),
            request(&Request::Gate(Newest::default())),
            vec![9, 200, 8, 0, 13, 0, 0, 13, 0, 4],
        ]),
        after(&[
            request(&Request::Push(messages::delivery())),
            request(&Request::Exchange(messages::inventory())),
            step(7, 0, &wire::encode(&Response::Difference(messages::difference()))),
            step(7, 0, &wire::encode(&Response::Taken(Taken { incomplete: true }))),
            vec![9, 120],
        ]),
        after(&documents.map(|one| gossip(&Change::Document(one))).collect::<Vec<_>>()),
        [vec![10, 77, 2, 10, 76, 0, 11, 0, 9, 9, 12, 1, 9, 9], admission.clone()].concat(),
        after(&[vec![8, 255, 9, 30, 8, 0, 4, 0, 9, 20, 3, 4, 2, 1]]),
    ]
}
