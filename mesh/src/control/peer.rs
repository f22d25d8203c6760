//! Everything that is known of a peer in this run, and which run of its daemon it is.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use epsilon_proto::clock::{Instant, Now, Timestamp};
use epsilon_proto::id::{BootId, NodeId};
use epsilon_proto::message::Hello;

use super::letters::Correspondence;
use super::links::GRACE;
use super::plane::SentProbe;
use super::relays::Relayed;
use super::vouching::Wish;
use super::{Control, Output};
use crate::event::Event;
use crate::limit::Limit;
use crate::path::Paths;

/// How long two machines with one identity are remembered.
const CLONE_MEMORY: Duration = Duration::from_mins(10);
/// How many earlier runs of a peer are remembered.
const BOOTS: usize = 8;
/// One forwarded record per owner in this time, with a burst.
pub(super) const FORWARD_EVERY: Duration = Duration::from_secs(5);
const FORWARD_BURST: u32 = 5;

/// What is known of a peer in this run.
pub(super) struct Peer {
    /// Its current run.
    pub(super) boot: Option<BootId>,
    earlier_boots: VecDeque<BootId>,
    cloned: Option<Instant>,
    /// The runs of second machines that older records told of.
    twins: Vec<BootId>,
    said_clock: Option<(Timestamp, Instant)>,
    /// The port of its data plane.
    pub(super) port: Option<u16>,
    /// Its paths.
    pub(super) paths: Paths,
    /// The relays to it.
    pub(super) relayed: Relayed,
    /// The letters to and from it.
    pub(super) letters: Correspondence,
    /// Probes under way: transaction and address.
    pub(super) probes: VecDeque<SentProbe>,
    /// The link, when there is one.
    pub(super) link: Option<Link>,
    /// Until when its link is waited for: its first, or one that comes back.
    pub(super) awaited: Option<Instant>,
    /// Whether it had one before, and nobody was told yet that it is gone.
    pub(super) was_linked: bool,
    /// When the last one ended.
    pub(super) unlinked: Option<Timestamp>,
    /// When anything of it was heard last that it sealed or signed.
    pub(super) last_seen: Option<Timestamp>,
    pub(super) forward: Limit,
    /// The wish to be vouched for.
    pub(super) wish: Wish,
    /// When to sync once more, because gossip of the link's first moments may
    /// have missed it.
    pub(super) resync: Option<Instant>,
}

/// A link to a peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    pub(super) remote: SocketAddr,
    pub(super) since: Timestamp,
    /// The same, by the other clock.
    pub(super) up: Instant,
}

impl Peer {
    fn new() -> Self {
        Self {
            boot: None,
            earlier_boots: VecDeque::new(),
            cloned: None,
            twins: Vec::new(),
            said_clock: None,
            port: None,
            paths: Paths::default(),
            relayed: Relayed::default(),
            letters: Correspondence::new(),
            probes: VecDeque::new(),
            link: None,
            awaited: None,
            was_linked: false,
            unlinked: None,
            last_seen: None,
            forward: Limit::new(FORWARD_BURST, FORWARD_EVERY),
            wish: Wish::default(),
            resync: None,
        }
    }

    /// What the clock of a linked peer shows now.
    pub(super) fn clock(&self, now: Instant) -> Option<Timestamp> {
        self.link?;
        let (wall, at) = self.said_clock?;
        Some(wall.after(now.since(at)))
    }

    /// When its link wants something done.
    pub(super) fn due(&self) -> Option<Instant> {
        [self.awaited, self.resync].into_iter().flatten().min()
    }

    /// Remembers a clone; says whether that is news.
    pub(super) fn note_clone(&mut self, now: Instant) -> bool {
        let news = !self.is_cloned(now);
        self.cloned = Some(now);
        news
    }

    pub(super) fn is_cloned(&self, now: Instant) -> bool {
        self.cloned.is_some_and(|seen| now.since(seen) < CLONE_MEMORY)
    }

    /// Whether it was heard on the data plane when its last link had been gone for a while,
    /// or never had one: a NAT is in between now. One that ends may still answer for a moment.
    pub(super) fn is_heard_without_link(&self) -> bool {
        self.unlinked.is_none_or(|at| self.last_seen > Some(at.after(GRACE)))
    }

    /// Whether its link broke just now.
    pub(super) fn is_in_grace(&self) -> bool {
        self.was_linked && self.awaited.is_some()
    }
}

impl Control {
    pub(super) fn peer(&mut self, node: NodeId) -> &mut Peer {
        self.peers.entry(node).or_insert_with(|| Box::new(Peer::new()))
    }

    /// Whether a second machine runs with a peer's identity: a run that had
    /// ended speaks again, while another is linked.
    pub(super) fn is_cloned(&mut self, node: NodeId, boot: BootId, now: Now) -> bool {
        let peer = self.peer(node);
        let returns = peer.earlier_boots.contains(&boot);
        let (linked, current) = (peer.link.is_some(), peer.boot);
        match current {
            Some(current) if returns => {
                self.cloned(node, [current, boot], now);
                linked
            }
            Some(current) => linked && current != boot && self.peer(node).is_cloned(now.instant),
            None => false,
        }
    }

    /// An older record of a peer by a run beside the one that is known: a
    /// second machine made it. Anybody may repeat it, so it counts once; says
    /// whether others shall hear of it.
    pub(super) fn saw_twin(&mut self, node: NodeId, boots: [BootId; 2], now: Now) -> bool {
        let peer = self.peer(node);
        if peer.twins.contains(&boots[1]) || peer.twins.len() >= BOOTS {
            return false;
        }
        peer.twins.push(boots[1]);
        let spreads = peer.forward.allows(now.instant);
        self.cloned(node, boots, now);
        spreads
    }

    /// An accepted peer's first words, before its link is up.
    pub(super) fn peer_said_hello(&mut self, node: NodeId, hello: &Hello, now: Now) {
        let peer = self.peer(node);
        let restarted = peer.boot.is_some_and(|boot| boot != hello.boot);
        peer.said_clock = Some((hello.clock, now.instant));
        peer.port = Some(hello.port);
        let replaces_link = restarted && peer.link.is_some();
        if replaces_link {
            // The earlier run is gone, or it is a second machine: then it
            // calls again, and that tells.
            self.outputs.push_back(Output::Disconnect(node));
        }
        self.learn_run(node, hello.boot, now);
    }

    /// The present run of a peer's daemon, as it says itself, or as its record does
    /// while it is not linked.
    pub(super) fn boot_of(&self, node: NodeId) -> Option<BootId> {
        let heard = self.peers.get(&node).and_then(|peer| peer.boot);
        heard.or_else(|| self.members.get(node).map(|member| member.record.boot))
    }

    /// A peer's daemon runs so: what was agreed with an earlier run is void.
    pub(super) fn learn_run(&mut self, node: NodeId, boot: BootId, now: Now) {
        let peer = self.peer(node);
        let former = peer.boot.replace(boot);
        if former == Some(boot) {
            return;
        }
        peer.earlier_boots.retain(|earlier| *earlier != boot);
        peer.earlier_boots.extend(former);
        if peer.earlier_boots.len() > BOOTS {
            peer.earlier_boots.pop_front();
        }
        self.paths(node).probe_all(now.instant);
        self.end_channels(node, now);
        self.peer_restarted(node);
        if former.is_some() {
            self.event(Event::PeerRestarted(node));
        }
    }

    /// A record of a peer that is not linked tells of its run.
    pub(super) fn learn_run_of_record(&mut self, node: NodeId, now: Now) {
        let Some(boot) = self.members.get(node).map(|member| member.record.boot) else { return };
        let peer = self.peer(node);
        if peer.link.is_none() && !peer.earlier_boots.contains(&boot) {
            self.learn_run(node, boot, now);
        }
    }
}
