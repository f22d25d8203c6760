//! Who is let in: some rounds on every new connection, in lock step.
//!
//! ```text
//! Hello ─► Bans, while either side has more ─► Credentials ─► Verdict
//!    └──── both hold the same bans ─────────────────▲
//! ```
//!
//! Each side first says what it knows to be revoked, then why it is a member,
//! then whether it takes the other. Both must.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use epsilon_proto::clock::{Instant, Now};
use epsilon_proto::document::Signed;
use epsilon_proto::gate::GateSecret;
use epsilon_proto::id::{Digest, NodeId};
use epsilon_proto::message::{Bans, Credentials, Hello, Refusal, SealedGate, Verdict, Welcome};
use epsilon_proto::sealed::{Purpose, SealedBox};
use epsilon_proto::trust::NetworkDocument;
use epsilon_proto::wire;

use super::gate::Stamp;
use super::{Control, Output};
use crate::event::Event;
use crate::trust::is_ban;

/// Tells an admission from others.
pub type ExchangeId = u64;

/// What happens to an admission.
#[derive(Debug)]
pub enum AdmissionInput {
    /// A connection was made; the other side proved to have this key.
    Begin {
        /// Who.
        node: NodeId,
        /// From or to where.
        remote: SocketAddr,
        /// Whether this node called.
        outbound: bool,
    },
    /// A frame came.
    Frame(Vec<u8>),
    /// The connection ended before the admission.
    Ended,
}

/// After so long a node admits others although it heard of no revocations.
const GUARD: Duration = Duration::from_secs(2);
/// So long an applicant waits while others hold its token's last uses and are
/// not linked yet, or may not come back: less than it takes to join alone.
const UNDECIDED: Duration = Duration::from_secs(2);
/// It is judged again at this pace.
const JUDGE_AGAIN: Duration = Duration::from_millis(250);
/// A refusal of the same node for the same reason is said again after this.
const SAY_AGAIN: Duration = Duration::from_mins(10);
/// How many refused nodes are remembered; the refusals of more are not said.
const MAX_REFUSED: usize = 256;
/// How many bytes of bans go into one frame; one more document may end it.
const BANS_FRAME: usize = 128 * 1024;
/// How many frames of bans one side may send.
const MAX_BANS_FRAMES: usize = 64;

/// An admission under way.
pub(super) struct Admission {
    node: NodeId,
    stage: Stage,
    hello: Option<Hello>,
    /// The hash of this node's bans, as its Hello said.
    bans: Digest,
    /// The frames of bans that are still to be sent.
    unsent: VecDeque<Bans>,
    /// This node's verdict, once given.
    given: Option<Result<(), Refusal>>,
}

/// How long an applicant waits to be judged.
#[derive(Clone, Copy)]
struct Patience {
    /// From when on it is judged again.
    next: Instant,
    /// From then on what is not clear counts as a no.
    until: Instant,
}

enum Stage {
    Hello,
    /// So many frames of bans came; whether the last one sent announced more.
    Bans(usize, bool),
    Credentials,
    /// The credentials are here; whether they suffice is not clear yet.
    Waiting(Box<Credentials>, Patience),
    Verdict,
}

/// Keeps a node that just started from admitting anybody before it exchanged
/// revocations with a member other than the applicant.
pub(super) struct Guard {
    until: Option<Instant>,
    pub(super) heard: BTreeSet<NodeId>,
}

impl Guard {
    pub(super) fn new(started: Instant, members: usize) -> Self {
        // Oneself and one other: there is no third to hear from.
        let until = (members > 2).then(|| started + GUARD);
        Self { until, heard: BTreeSet::new() }
    }

    pub(super) fn is_open_for(&self, applicant: NodeId, now: Instant) -> bool {
        self.until.is_none_or(|until| now >= until)
            || self.heard.iter().any(|node| *node != applicant)
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.until
    }
}

/// Refusals that were said, so that they are not said at each attempt.
#[derive(Default)]
pub(super) struct Refusals(BTreeMap<NodeId, (Refusal, Instant)>);

impl Refusals {
    /// Whether this one was not said just now.
    fn is_news(&mut self, node: NodeId, refusal: Refusal, now: Instant) -> bool {
        self.0.retain(|_, (_, said)| now.since(*said) < SAY_AGAIN);
        let is_news = self.0.len() < MAX_REFUSED
            && self.0.get(&node).is_none_or(|(said, _)| *said != refusal);
        if is_news {
            self.0.insert(node, (refusal, now));
        }
        is_news
    }
}

impl Admission {
    pub(super) fn node(&self) -> NodeId {
        self.node
    }
}

impl Control {
    /// Something happened to an admission.
    pub fn handle_admission(&mut self, exchange: ExchangeId, input: AdmissionInput, now: Now) {
        match input {
            AdmissionInput::Begin { node, remote, outbound } => {
                if outbound && self.token_addresses.contains(&remote) {
                    self.answered.insert(remote, node);
                }
                let hello = self.hello(now);
                let admission = Admission {
                    node,
                    stage: Stage::Hello,
                    hello: None,
                    bans: hello.bans,
                    unsent: VecDeque::new(),
                    given: None,
                };
                self.admissions.insert(exchange, admission);
                self.step(exchange, Some(wire::encode(&hello)), None);
            }
            AdmissionInput::Frame(bytes) => self.admission_frame(exchange, &bytes, now),
            AdmissionInput::Ended => self.end_admission(exchange),
        }
    }

    fn end_admission(&mut self, exchange: ExchangeId) {
        if let Some(admission) = self.admissions.remove(&exchange) {
            self.forget_stranger(admission.node);
        }
    }

    fn step(
        &mut self,
        exchange: ExchangeId,
        send: Option<Vec<u8>>,
        outcome: Option<Result<(), Refusal>>,
    ) {
        if outcome.is_some() {
            self.end_admission(exchange);
        }
        self.outputs.push_back(Output::Admission { exchange, send, outcome });
    }

    fn hello(&self, now: Now) -> Hello {
        Hello {
            boot: self.config.boot,
            clock: now.wall,
            port: self.settings.port,
            bans: self.trust.bans_digest(),
        }
    }

    fn admission_frame(&mut self, exchange: ExchangeId, bytes: &[u8], now: Now) {
        let Some(admission) = self.admissions.get_mut(&exchange) else { return };
        match std::mem::replace(&mut admission.stage, Stage::Verdict) {
            Stage::Hello => match wire::decode::<Hello>(bytes) {
                Ok(hello) => {
                    let same = admission.bans == hello.bans;
                    admission.hello = Some(hello);
                    if same {
                        self.bans_exchanged(exchange, now);
                    } else {
                        admission.unsent = in_frames(self.trust.bans());
                        self.send_bans(exchange, 0);
                    }
                }
                Err(_) => self.refuse_outright(exchange, Refusal::Protocol),
            },
            Stage::Bans(came, announced) => match wire::decode::<Bans>(bytes) {
                Ok(bans) if came < MAX_BANS_FRAMES => {
                    let is_bad = |control: &mut Self, one: &NetworkDocument| {
                        let source = super::documents::Source::Hello;
                        !is_ban(one)
                            || control.take_document(one, source, now)
                                == super::documents::Taken::Bad
                    };
                    if bans.documents.iter().any(|one| is_bad(self, one)) {
                        self.refuse_outright(exchange, Refusal::Protocol);
                    } else if bans.more || announced {
                        self.send_bans(exchange, came + 1);
                    } else {
                        self.bans_exchanged(exchange, now);
                    }
                }
                _ => self.refuse_outright(exchange, Refusal::Protocol),
            },
            Stage::Credentials => match wire::decode::<Credentials>(bytes) {
                Ok(credentials) => {
                    let patience = Patience { next: now.instant, until: now.instant + UNDECIDED };
                    admission.stage = Stage::Waiting(Box::new(credentials), patience);
                    self.judge_waiting(now);
                }
                Err(_) => self.refuse_outright(exchange, Refusal::Protocol),
            },
            // Lock step: nothing may come before this node's verdict is out.
            Stage::Waiting(..) => self.refuse_outright(exchange, Refusal::Protocol),
            Stage::Verdict => self.conclude(exchange, bytes, now),
        }
    }

    /// Sends the next frame of bans, an empty one when only the other side
    /// has more.
    fn send_bans(&mut self, exchange: ExchangeId, came: usize) {
        let Some(admission) = self.admissions.get_mut(&exchange) else { return };
        let next = admission.unsent.pop_front();
        let bans = next.unwrap_or(Bans { documents: Vec::new(), more: false });
        admission.stage = Stage::Bans(came, bans.more);
        self.step(exchange, Some(wire::encode(&bans)), None);
    }

    fn bans_exchanged(&mut self, exchange: ExchangeId, now: Now) {
        let Some(admission) = self.admissions.get_mut(&exchange) else { return };
        admission.stage = Stage::Credentials;
        if self.members.get(admission.node).is_some() {
            self.guard.heard.insert(admission.node);
        }
        let credentials = self.credentials();
        self.step(exchange, credentials, None);
        self.judge_waiting(now);
    }

    /// Ends an admission with a refusing verdict, whatever the other says.
    fn refuse_outright(&mut self, exchange: ExchangeId, refusal: Refusal) {
        let verdict = wire::encode(&Verdict::Refused(refusal));
        self.step(exchange, Some(verdict), Some(Err(refusal)));
    }

    /// Why this node is a member; `None` when even that is unknown, which a
    /// certificate without its invite would be.
    fn credentials(&mut self) -> Option<Vec<u8>> {
        let invite = self.trust.invite(self.certificate.signer())?;
        let grant = self.trust.grant(invite.signer())?;
        Some(wire::encode(&Credentials {
            grant: grant.signed().clone(),
            invite: invite.signed().clone(),
            certificate: self.certificate.signed().clone(),
            introductions: self.own_record.introductions(),
            chain: self.members.chain(self.own, &self.trust),
            gate: self.gate.newest_stamp(),
        }))
    }

    /// When an applicant is to be judged again.
    pub(super) fn judging_due(&self) -> Option<Instant> {
        let patience = self.admissions.values().filter_map(|admission| match admission.stage {
            Stage::Waiting(_, patience) => Some(patience.next),
            _ => None,
        });
        // What the guard holds up waits for the guard.
        patience.min().max(self.guard.due())
    }

    /// Judges every admission for which the guard is open.
    pub(super) fn judge_waiting(&mut self, now: Now) {
        if self.guard.until.is_some_and(|until| now.instant >= until) {
            self.guard.until = None;
        }
        let ready: Vec<_> = self
            .admissions
            .iter()
            .filter(|(_, admission)| {
                matches!(admission.stage, Stage::Waiting(_, patience) if patience.next <= now.instant)
                    && self.guard.is_open_for(admission.node, now.instant)
            })
            .map(|(exchange, _)| *exchange)
            .collect();
        for exchange in ready {
            let Some(admission) = self.admissions.get_mut(&exchange) else { continue };
            let Stage::Waiting(credentials, patience) =
                std::mem::replace(&mut admission.stage, Stage::Verdict)
            else {
                continue;
            };
            let (node, hello) = (admission.node, admission.hello.clone());
            let judgement = match hello {
                Some(hello) => self.judge(node, &hello, &credentials, now),
                None => Err(Refusal::Protocol),
            };
            let invite = credentials.certificate.signer();
            if judgement == Err(Refusal::InviteUsedUp)
                && now.instant < patience.until
                && self.is_undecided(invite)
                && let Some(admission) = self.admissions.get_mut(&exchange)
            {
                let next = (now.instant + JUDGE_AGAIN).min(patience.until);
                admission.stage = Stage::Waiting(credentials, Patience { next, ..patience });
                continue;
            }
            let verdict = match judgement {
                Ok(()) => Verdict::Accepted(Box::new(self.welcome(node, credentials.gate))),
                Err(refusal) => {
                    self.note_refused(node, refusal, now);
                    Verdict::Refused(refusal)
                }
            };
            if let Some(admission) = self.admissions.get_mut(&exchange) {
                admission.given = Some(judgement);
            }
            self.step(exchange, Some(wire::encode(&verdict)), None);
        }
    }

    /// Says that a node was refused, but not at each of its attempts.
    fn note_refused(&mut self, node: NodeId, refusal: Refusal, now: Now) {
        if self.refused.is_news(node, refusal, now.instant) {
            self.event(Event::Refused(node, refusal));
        }
    }

    /// Says that a member refused this node, but not at each attempt.
    fn note_refused_by(&mut self, node: NodeId, refusal: Refusal, now: Now) {
        if self.refused_by.is_news(node, refusal, now.instant) {
            self.event(Event::RefusedBy(node, refusal));
        }
    }

    /// The current gate secret for a node whose newest is an older one.
    pub(super) fn welcome(&mut self, node: NodeId, theirs: Option<Stamp>) -> Welcome {
        let Some(secret) = self.gate.newer_than(theirs).cloned() else {
            return Welcome::default();
        };
        let sealed =
            SealedBox::seal(secret.bytes(), Purpose::GateSecret, self.id, node, &mut self.random);
        let gate = sealed.ok().map(|sealed| {
            let document =
                SealedGate { to: node, epoch: secret.epoch, check: secret.check(), sealed };
            Signed::sign(&document, self.id, &self.config.key)
        });
        let epoch = self.trust.gate_epochs().find(|epoch| epoch.check == secret.check());
        Welcome { gate, epoch: epoch.map(|epoch| epoch.signed().clone()) }
    }

    /// Whether a node is a member, or was let in by this run.
    pub(super) fn is_admitted(&self, node: NodeId) -> bool {
        self.members.get(node).is_some() || self.admitted.contains_key(&node)
    }

    /// The other side's verdict is here.
    fn conclude(&mut self, exchange: ExchangeId, bytes: &[u8], now: Now) {
        let Some(admission) = self.admissions.get_mut(&exchange) else { return };
        let node = admission.node;
        let (given, hello) = (admission.given, admission.hello.take());
        let verdict = wire::decode::<Verdict>(bytes);
        let outcome = match (given, hello, verdict) {
            (Some(Err(refusal)), _, _) => Err(refusal),
            // This node knows better by now than when it gave its verdict.
            (Some(Ok(())), _, _) if !self.is_admitted(node) => Err(Refusal::Protocol),
            (Some(Ok(())), Some(hello), Ok(Verdict::Accepted(welcome))) => {
                self.take_welcome(node, *welcome, now);
                self.peer_said_hello(node, &hello, now);
                self.await_link(node, now);
                Ok(())
            }
            (_, _, Ok(Verdict::Refused(refusal))) => {
                self.note_refused_by(node, refusal, now);
                self.note_refusal(refusal, now);
                Err(refusal)
            }
            _ => Err(Refusal::Protocol),
        };
        self.step(exchange, None, Some(outcome));
    }

    /// Takes a gate secret from a member, if an admin minted it.
    pub(super) fn take_welcome(&mut self, node: NodeId, welcome: Welcome, now: Now) {
        let (Some(signed), Some(epoch)) = (welcome.gate, welcome.epoch) else { return };
        self.take_document(
            &NetworkDocument::GateEpoch(epoch),
            super::documents::Source::Hello,
            now,
        );
        let Ok(sealed) = signed.verify_by(node.key(), self.id, &*self.config.check) else {
            return;
        };
        let is_minted = self
            .trust
            .gate_epochs()
            .any(|epoch| (epoch.epoch, epoch.check) == (sealed.epoch, sealed.check));
        if !is_minted || sealed.to != self.own {
            return;
        }
        let opened = sealed.sealed.open(Purpose::GateSecret, self.id, &self.config.key);
        if let Ok(bytes) = opened
            && let Some(secret) = GateSecret::from_bytes(sealed.epoch, &bytes, sealed.check)
        {
            self.take_gate_secret(secret);
        }
    }
}

/// Bans, as they go out: in frames that are not too large.
fn in_frames(documents: Vec<NetworkDocument>) -> VecDeque<Bans> {
    let mut frames = VecDeque::new();
    let (mut frame, mut length) = (Vec::new(), 0);
    for document in documents {
        length += wire::encode(&document).len();
        frame.push(document);
        if length > BANS_FRAME {
            frames.push_back(Bans { documents: std::mem::take(&mut frame), more: true });
            length = 0;
        }
    }
    frames.push_back(Bans { documents: frame, more: false });
    frames
}
