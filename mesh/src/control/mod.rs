//! The engine's one Control: membership, admission, claims, revocation, and
//! where peers' data travels.
//!
//! ```text
//!  control plane ─► admission, links, requests, gossip ─┐
//!  beacons ─────────────────────────────────────────────┤        ┌─► Persist
//!  shard reports ───────────────────────────────────────┼─► here ┼─► Dial, Request, Publish, …
//!  the operator ─► operations ──────────────────────────┤        ├─► Shard(Command)
//!  timers ──────────────────────────────────────────────┘        └─► Event, Done
//! ```
//!
//! It promises: its own record is published, and an operation acknowledged,
//! only once it is persisted (what others sent is persisted soon after it is
//! taken, and is theirs to keep until then); nothing that is revoked or
//! departed comes back; nobody is admitted before revocations were exchanged.
//! It reads no clock and draws no randomness: the same inputs and seed give the
//! same outputs.

mod admission;
mod agenda;
mod beacons;
mod claims;
mod devices;
mod documents;
mod gate;
mod hearsay;
mod hubs;
mod judging;
mod letters;
mod links;
mod operate;
mod operations;
mod output;
mod own;
mod peer;
mod plane;
mod reach;
mod relaying;
mod relays;
mod routes;
mod seen;
mod storage;
mod streams;
mod sync;
#[cfg(test)]
mod tests;
mod view;
mod vouching;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use epsilon_proto::address::{Ipv4Range, Ipv6Range};
use epsilon_proto::clock::{Instant, Now, Timestamp, trusted_time};
use epsilon_proto::document::Verified;
use epsilon_proto::id::{NetworkId, NodeId};
use epsilon_proto::record::Endpoint;
use epsilon_proto::trust::{MemberCertificate, NetworkBlock};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};

use crate::dial::{Callee, Dialer};
use crate::event::Event;
use crate::membership::{Membership, Refused};
use crate::path::LocalPrefix;
use crate::saved::{IdentityState, Routing, Saved, Settings};
use crate::shard::Command;
use crate::trust::{Trust, TrustError};

pub use admission::{AdmissionInput, ExchangeId};
pub use operations::{NewDevice, Operation, OperationError, OperationId, Outcome, TokenRequest};
pub use output::{Config, Output, StartError, Ticket};
pub use reach::ReachView;
pub use routes::{RouteChange, RouteView};
pub use view::{Condition, DeviceView, InviteView, MemberView, PeerState, View};

/// See the module.
pub struct Control {
    config: Config,
    id: NetworkId,
    own: NodeId,
    network: Verified<NetworkBlock>,
    range6: Ipv6Range,
    random: ChaCha20Rng,
    started: Instant,

    trust: Trust,
    members: Membership,
    certificate: Verified<MemberCertificate>,
    settings: Settings,
    routing: Routing,
    gate: gate::Keyring,

    identity: IdentityState,
    own_record: own::OwnRecord,
    own_devices: devices::OwnDevices,
    /// Whether a chain of introductions led from the root or an admin to this
    /// node: until then it cannot tell members from intruders.
    is_grounded: bool,
    /// Boxed, as in a tree of a thousand half of the room is for those to come.
    peers: BTreeMap<NodeId, Box<peer::Peer>>,
    /// Those of the peers that are linked, or were until just now: few in a
    /// large fleet.
    near: BTreeSet<NodeId>,
    contacts: BTreeMap<NodeId, SocketAddr>,
    admissions: BTreeMap<ExchangeId, admission::Admission>,
    /// Whom this run let in: members, and those that are linked, about to be,
    /// or being judged.
    admitted: BTreeMap<NodeId, judging::Admitted>,
    guard: admission::Guard,
    /// Whom this node refused, and who refused it.
    refused: admission::Refusals,
    refused_by: admission::Refusals,
    dialer: Dialer,
    sync: sync::Sync,
    agenda: agenda::Agenda,
    /// When the links of those that are near want something done.
    link_dues: agenda::Dues,
    plane: plane::Plane,
    reaching: reach::Reaching,
    channels: relaying::Channels,
    relays: relays::Relays,
    hubs: hubs::Hubs,
    routes: routes::Routes,
    streams: streams::Streams,
    /// Counts the letters of this run.
    last_letter: u64,
    token_addresses: Vec<SocketAddr>,
    /// Who answered at those.
    answered: BTreeMap<SocketAddr, NodeId>,
    configured: Vec<SocketAddr>,
    mapped: Vec<Endpoint>,
    local: Vec<LocalPrefix>,
    links_checked: Option<Instant>,
    beacon_due: Instant,
    beacons_sent: u32,

    operations: u64,
    batches: BTreeMap<Ticket, storage::Batch>,
    last_ticket: u64,
    unsaved: storage::Unsaved,
    storage_failing: Option<String>,
    retry_storage: Option<Instant>,
    conditions: BTreeMap<Condition, Timestamp>,
    outputs: VecDeque<Output>,
}

/// Whom an earlier run let in, and who gave no record, has so long to come back.
const FORGET_RESTORED: Duration = Duration::from_mins(10);
/// Between two times that it is found out which links still work, because ways fail.
const CHECK_LINKS: Duration = Duration::from_secs(10);
/// How many of its own runs a node remembers.
const MAX_BOOTS: usize = 64;

impl Control {
    /// A Control that continues from what was saved.
    pub fn new(config: Config, saved: Saved, seed: [u8; 32], now: Now) -> Result<Self, StartError> {
        let id = NetworkId::from(saved.network.signer());
        let own = config.key.node();
        let network = saved.network.verify(id, &*config.check)?;
        let certificate: Verified<MemberCertificate> =
            saved.certificate.verify(id, &*config.check)?;
        if certificate.node != own {
            return Err(StartError::OtherIdentity);
        }
        let mut trust = Trust::new(id, network.founded);
        let mut documents = saved.documents;
        documents.sort_by_key(epsilon_proto::trust::NetworkDocument::rank);
        for document in &documents {
            match trust.merge(document, &*config.check) {
                Ok(_)
                | Err(
                    TrustError::UnknownSigner(_)
                    | TrustError::UnknownInvite(_)
                    | TrustError::OtherNode
                    | TrustError::Full,
                ) => {}
                Err(TrustError::Document(error)) => return Err(error.into()),
            }
        }
        let mut members = Membership::new(id, network.range, own);
        for (node, word) in saved.vouched.nodes {
            members.vouch(node, word);
        }
        restore_records(&mut members, &trust, saved.records, &config)?;
        for list in &saved.devices {
            if let Err(Refused::Document(error)) =
                members.merge_devices(list, &trust, &*config.check)
            {
                return Err(error.into());
            }
        }
        let introductions = saved
            .introductions
            .introductions
            .iter()
            .map(|one| one.verify(id, &*config.check))
            .collect::<Result<Vec<_>, _>>()?;
        let mut identity = saved.identity;
        identity.incarnation = identity.incarnation.saturating_add(1);
        identity.boots.push(config.boot);
        let forgotten = identity.boots.len().saturating_sub(MAX_BOOTS);
        identity.boots.drain(..forgotten);
        let is_founder = introductions.iter().any(|one| one.signer() == id.root());
        let newcomer = match identity.ipv4 {
            Some(_) => None,
            None if is_founder => Some(own::Newcomer::Founder),
            None => Some(own::Newcomer::Joiner),
        };
        let is_grounded = members.grounded(&trust).contains(own);
        let known = members.len();
        let hubs = members.get(own).map(|own| &*own.record);
        let hubs = hubs::Hubs::new(hubs, now.instant);
        let needs_relays = members.get(own).is_some_and(|own| !own.record.relays.is_empty());
        let mut control = Self {
            id,
            own,
            range6: Ipv6Range::of(id),
            random: ChaCha20Rng::from_seed(seed),
            started: now.instant,
            trust,
            members,
            certificate,
            gate: gate::Keyring::default(),
            identity,
            own_record: own::OwnRecord::new(introductions, newcomer, now.instant),
            own_devices: devices::OwnDevices::new(),
            is_grounded,
            peers: BTreeMap::new(),
            near: BTreeSet::new(),
            contacts: saved.contacts.into_iter().collect(),
            admissions: BTreeMap::new(),
            admitted: BTreeMap::new(),
            guard: admission::Guard::new(now.instant, known),
            refused: admission::Refusals::default(),
            refused_by: admission::Refusals::default(),
            dialer: Dialer::default(),
            sync: sync::Sync::new(now.instant),
            plane: plane::Plane::default(),
            agenda: agenda::Agenda::default(),
            link_dues: agenda::Dues::default(),
            reaching: reach::Reaching::default(),
            channels: relaying::Channels::default(),
            relays: relays::Relays::new(needs_relays),
            hubs,
            routes: routes::Routes::new(saved.providers),
            streams: streams::Streams::default(),
            last_letter: 0,
            token_addresses: Vec::new(),
            answered: BTreeMap::new(),
            configured: Vec::new(),
            mapped: Vec::new(),
            local: Vec::new(),
            links_checked: None,
            beacon_due: now.instant,
            beacons_sent: 0,
            operations: 0,
            batches: BTreeMap::new(),
            last_ticket: 0,
            unsaved: storage::Unsaved::new(),
            storage_failing: None,
            retry_storage: None,
            conditions: BTreeMap::new(),
            outputs: VecDeque::new(),
            settings: saved.settings,
            routing: saved.routing,
            network,
            config,
        };
        if control.is_banned() && !control.trust.has_departed(own) {
            control.raise(Condition::Revoked, now);
        }
        control.restore_gate(saved.gate);
        if let Some(relaying) = control.config.relaying {
            control.outputs.push_back(Output::Shard(Command::SetRelaying(relaying)));
        }
        control.announce_addresses();
        control.refresh_devices(true);
        control.refresh_members(now);
        control.advance_hubs(now);
        control.advance_own(now);
        Ok(control)
    }

    /// Where members may be reached, by the addresses of the token, once
    /// their names are resolved.
    pub fn handle_token_addresses(&mut self, addresses: Vec<SocketAddr>, now: Now) {
        for gone in std::mem::replace(&mut self.token_addresses, addresses) {
            if !self.token_addresses.contains(&gone) {
                self.answered.remove(&gone);
                self.dialer.forget(Callee::Address(gone));
            }
        }
        self.refresh_token_calls(now);
    }

    /// The addresses under which this node can be reached from afar, as the
    /// operator said, once their names are resolved.
    pub fn handle_configured_addresses(&mut self, addresses: Vec<SocketAddr>, now: Now) {
        if self.configured != addresses {
            self.configured = addresses;
            self.own_record.touch();
            self.advance_own(now);
        }
    }

    /// The addresses of the host's interfaces, without those of the mesh; it `has_moved` if
    /// it was cut off or asleep meanwhile, or is reached by another way, so that what
    /// was known of the network may not hold.
    pub fn handle_local_addresses(
        &mut self,
        prefixes: Vec<LocalPrefix>,
        has_moved: bool,
        now: Now,
    ) {
        if self.local == prefixes && !has_moved {
            return;
        }
        self.local = prefixes;
        self.own_networks_changed();
        self.beacons_sent = 0;
        self.beacon_due = now.instant;
        self.dialer.hurry(now.instant);
        if has_moved {
            self.links_checked = None;
            self.check_links(now.instant);
            self.own_record.seen.has_moved();
            self.forget_openness();
            self.forget_asked();
            self.leave_streams(now);
        }
        // Where links outlive the change nobody comes by a new one.
        let spared = has_moved.then(|| self.look_whether_open(now.instant)).flatten();
        let is_small = !self.is_large();
        for (node, peer) in &mut self.peers {
            if has_moved {
                peer.paths.moved();
            }
            // In a large fleet the others are looked for when they are needed.
            let is_of_use = is_small || peer.link.is_some() || peer.paths.is_wanted();
            if is_of_use && Some(*node) != spared {
                peer.paths.probe_all(now.instant);
            }
            self.agenda.touch(*node);
        }
        self.own_record.touch();
        self.advance_own(now);
        self.advance_paths(now);
    }

    pub(super) fn check_links(&mut self, now: Instant) {
        if self.links_checked.is_none_or(|at| now.since(at) >= CHECK_LINKS) {
            self.links_checked = Some(now);
            self.outputs.push_back(Output::CheckLinks);
        }
    }

    /// What the shell must do next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Control::handle_timeout`] has something to do.
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        [
            Some(self.beacon_due),
            self.dialer.due(),
            self.own_due(),
            self.own_devices.due(),
            self.judging_due(),
            self.hubs.due(),
            self.streams.due(),
            self.routes.due(now),
            Some(self.sync.due()),
            self.link_dues.first(),
            self.paths_due(now),
            self.retry_storage,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        if self.beacon_due <= now.instant {
            self.send_beacon(now);
            self.forget_strangers(now);
            if now.instant.since(self.started) > FORGET_RESTORED {
                self.forget_vouched(now);
            }
            self.forget_clone(now);
        }
        if self.retry_storage.is_some_and(|retry| retry <= now.instant) {
            self.retry_storage = None;
            // Even an empty batch tells whether the store works again.
            self.persist(Vec::new(), None);
        }
        self.judge_waiting(now);
        self.expire_links(now);
        self.advance_hubs(now);
        self.advance_streams(now);
        self.advance_own(now);
        self.advance_devices(now);
        self.advance_sync(now);
        self.advance_paths(now);
        self.make_calls(now);
    }

    /// What the network believes the time to be.
    pub fn trusted_time(&self, now: Now) -> Timestamp {
        self.time_without(None, now)
    }

    /// The same, as if one peer showed no clock.
    fn time_without(&self, claimant: Option<NodeId>, now: Now) -> Timestamp {
        let others = self.near().filter(|(node, _)| Some(*node) != claimant);
        let linked = others.filter_map(|(_, peer)| peer.clock(now.instant));
        trusted_time(
            self.trust.newest_signed(),
            self.trust.founded(),
            linked.chain(std::iter::once(now.wall)),
        )
    }

    fn range(&self) -> Ipv4Range {
        self.network.range
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// A random share of a duration.
    fn jitter(&mut self, of: Duration) -> Duration {
        of.mul_f64(f64::from(self.random.next_u32()) / f64::from(u32::MAX))
    }

    fn make_calls(&mut self, now: Now) {
        if self.hubs.is_learning {
            return;
        }
        self.notice_size(now);
        while let Some(call) = {
            let jitter = (self.random.next_u32() & 0xff) as u8;
            self.dialer.next(now.instant, jitter)
        } {
            let node = match call.callee {
                Callee::Node(node) => Some(node),
                Callee::Address(_) => None,
            };
            let (attempt, address, secret) = (call.attempt, call.address, call.secret);
            self.outputs.push_back(Output::Dial { attempt, node, address, secret });
        }
    }
}

/// Merges the saved records until no more fit.
fn restore_records(
    members: &mut Membership,
    trust: &Trust,
    records: Vec<(NodeId, epsilon_proto::document::Signed<epsilon_proto::record::NodeRecord>)>,
    config: &Config,
) -> Result<(), StartError> {
    let mut waiting: Vec<_> = records.into_iter().map(|(_, record)| record).collect();
    loop {
        let before = waiting.len();
        let mut next = Vec::new();
        for record in waiting {
            match members.merge_believed(&record, trust, &*config.check) {
                Err(Refused::Unintroduced | Refused::Missing(_)) => next.push(record),
                Err(Refused::Document(error)) => return Err(error.into()),
                Ok(_) | Err(_) => {}
            }
        }
        if next.is_empty() || next.len() == before {
            break;
        }
        waiting = next;
    }
    Ok(())
}
