//! Streams: where UDP does not get through, datagrams travel by TLS over TCP to a member
//! that is reached so. A stream that is open has an address
//! ([`epsilon_proto::address::stream_address`]), and from then on is a way like any
//! other: probed, chosen, passed on to and from. See docs/decisions/0011.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use epsilon_proto::address::is_stream;
use epsilon_proto::clock::{Instant, Now};
use epsilon_proto::id::NodeId;
use rand_core::Rng as _;

use super::{Control, Output};
use crate::dial::{Callee, Dialer};
use crate::shard::Path;

/// How long datagrams have to find a way before a stream is opened.
const PATIENCE: Duration = Duration::from_secs(1);
/// Who was wanted so long ago is wanted no more: calls, which say so again, are never
/// further apart.
const WANTED: Duration = Duration::from_secs(90);
/// Between two times that it is looked what streams are good for.
const REVIEW: Duration = Duration::from_secs(5);
/// When a new stream must have brought an answer: otherwise somebody else is there.
const PROOF: Duration = Duration::from_secs(5);
/// A stream by which nothing travels for so long is closed.
const UNUSED: Duration = Duration::from_mins(2);

/// See the module.
#[derive(Default)]
pub(super) struct Streams {
    dialer: Dialer,
    /// To whom a stream is opened where there is no other way by then.
    patience: BTreeMap<NodeId, Instant>,
    /// To whom one is being opened, and when that was wanted last.
    wanted: BTreeMap<NodeId, Instant>,
    open: BTreeMap<SocketAddr, Stream>,
    review: Option<Instant>,
}

/// A stream that is open.
struct Stream {
    /// Where the other end is.
    remote: SocketAddr,
    node: Option<NodeId>,
    /// Which call opened it; none if the other end did.
    attempt: Option<u64>,
    used: Instant,
    is_proven: bool,
}

impl Streams {
    /// Where the other ends of streams are.
    pub(super) fn remotes(&self) -> BTreeMap<SocketAddr, SocketAddr> {
        self.open.iter().map(|(stream, open)| (*stream, open.remote)).collect()
    }

    pub(super) fn due(&self) -> Option<Instant> {
        let patience = self.patience.values().copied().min();
        [patience, self.dialer.due(), self.review].into_iter().flatten().min()
    }

    /// The streams to a member that this node opened.
    fn own(&self, node: NodeId) -> Vec<SocketAddr> {
        let is_it = |stream: &Stream| stream.node == Some(node) && stream.attempt.is_some();
        self.open.iter().filter(|(_, stream)| is_it(stream)).map(|(at, _)| *at).collect()
    }

    fn stop(&mut self, node: NodeId) {
        self.patience.remove(&node);
        self.wanted.remove(&node);
        self.dialer.forget(Callee::Node(node));
    }
}

impl Control {
    /// Whether datagrams to a member get through nowhere: to one that may be a relay, not
    /// straight.
    pub(super) fn lacks_way(&self, node: NodeId) -> bool {
        let Some(member) = self.members.get(node) else { return false };
        let active = self.peers.get(&node).filter(|peer| peer.paths.is_proven());
        match active.and_then(|peer| peer.paths.active()) {
            None => true,
            Some(Path::Relayed(..)) => member.record.is_relay,
            Some(Path::Direct(_)) => false,
        }
    }

    /// Whether no stream to a member could be opened so far.
    pub(super) fn is_out_of_reach(&self, node: NodeId) -> bool {
        let callee = Callee::Node(node);
        self.streams.wanted.contains_key(&node) && self.streams.dialer.fails(callee)
    }

    /// Datagrams to a member may get through nowhere: then a stream is opened soon.
    pub(super) fn want_stream(&mut self, node: NodeId, now: Instant) {
        if node == self.own || !self.lacks_way(node) || !self.streams.own(node).is_empty() {
            return;
        }
        if self.streams.wanted.contains_key(&node) {
            self.call_by_stream(node, now);
        } else {
            self.streams.patience.entry(node).or_insert(now + PATIENCE);
        }
    }

    /// Opens a stream to a member, at the addresses that it has by now.
    fn call_by_stream(&mut self, node: NodeId, now: Instant) {
        let addresses = self.control_addresses(node);
        self.streams.wanted.insert(node, now);
        self.streams.dialer.want(Callee::Node(node), addresses, now);
        self.streams.review.get_or_insert(now + REVIEW);
    }

    pub(super) fn advance_streams(&mut self, now: Now) {
        let patience = self.streams.patience.iter();
        let due = patience.filter(|(_, due)| **due <= now.instant).map(|(node, _)| *node);
        for node in due.collect::<Vec<_>>() {
            self.streams.patience.remove(&node);
            if self.lacks_way(node) {
                self.call_by_stream(node, now.instant);
            }
        }
        if self.streams.review.take_if(|due| *due <= now.instant).is_some() {
            self.review_streams(now);
        }
        while let Some(call) = {
            let jitter = (self.random.next_u32() & 0xff) as u8;
            self.streams.dialer.next(now.instant, jitter)
        } {
            let (attempt, address, secret) = (call.attempt, call.address, call.secret);
            self.outputs.push_back(Output::OpenStream { attempt, address, secret });
        }
    }

    fn review_streams(&mut self, now: Now) {
        let is_stale =
            |node: &NodeId, at: Instant| now.instant.since(at) >= WANTED || !self.lacks_way(*node);
        let wanted = self.streams.wanted.iter();
        let stale = wanted.filter(|(node, at)| is_stale(node, **at)).map(|(node, _)| *node);
        for node in stale.collect::<Vec<_>>() {
            self.streams.stop(node);
        }
        let addresses: Vec<SocketAddr> = self.streams.open.keys().copied().collect();
        for address in addresses {
            let is_used = self.is_used(address);
            let is_members = |node| self.members.get(node).is_some();
            let Some(stream) = self.streams.open.get_mut(&address) else { continue };
            if is_used {
                stream.used = now.instant;
            }
            let is_useless = match stream.node {
                // Whoever opened it says who it is, or is nobody.
                None => now.instant.since(stream.used) >= PROOF,
                Some(node) if !is_members(node) => true,
                // Whoever opened it closes it.
                Some(_) if stream.attempt.is_none() => false,
                Some(_) => {
                    let most = if stream.is_proven { UNUSED } else { PROOF };
                    now.instant.since(stream.used) >= most
                }
            };
            if is_useless {
                self.close_stream(address, now);
            }
        }
        self.look_for_missing_relays(now.instant);
        let Streams { open, wanted, patience, .. } = &self.streams;
        if !(open.is_empty() && wanted.is_empty() && patience.is_empty()) {
            self.streams.review = Some(now.instant + REVIEW);
        }
    }

    /// Whether something travels by a stream, or may soon.
    fn is_used(&self, stream: SocketAddr) -> bool {
        let Some(node) = self.streams.open.get(&stream).and_then(|stream| stream.node) else {
            return false;
        };
        let paths = self.peers.get(&node).map(|peer| &peer.paths);
        let is_in_use = paths
            .is_some_and(|paths| paths.active() == Some(Path::Direct(stream)) && paths.is_proven());
        is_in_use && self.is_needed(node)
    }

    /// Whether something travels to a member, or by it, or may soon.
    fn is_needed(&self, node: NodeId) -> bool {
        let is_wanted = self.peers.get(&node).is_some_and(|peer| peer.paths.is_wanted());
        is_wanted || self.leads_on(node)
    }

    fn close_stream(&mut self, stream: SocketAddr, now: Now) {
        self.outputs.push_back(Output::CloseStream(stream));
        self.drop_stream(stream, now);
    }

    /// A stream is none any more: nor are the ways that go by it. Says to whom another is
    /// to be opened.
    fn drop_stream(&mut self, stream: SocketAddr, now: Now) -> Option<NodeId> {
        let is_used = self.is_used(stream);
        let gone = self.streams.open.remove(&stream)?;
        if let Some(attempt) = gone.attempt {
            self.streams.dialer.ended(attempt);
        }
        let node = gone.node?;
        self.known_paths(node)?.remove(Path::Direct(stream), now.instant);
        self.refresh_channels(node, now);
        self.leave_channels_at(node, stream, now.instant);
        (is_used && gone.attempt.is_some()).then_some(node)
    }

    /// A way to a member does not answer any more. A stream may lead nowhere, as when this
    /// node or the other is somewhere else than before.
    pub(super) fn renew_stream(&mut self, node: NodeId, way: Path, now: Now) {
        let is_own = self.streams.own(node).contains(&way.address());
        if is_own && way == Path::Direct(way.address()) {
            self.close_stream(way.address(), now);
            if self.is_needed(node) {
                self.streams.patience.insert(node, now.instant);
            }
        }
    }

    /// The streams of a node that moved begin at an address that it has no more.
    pub(super) fn leave_streams(&mut self, now: Now) {
        let all: Vec<SocketAddr> = self.streams.open.keys().copied().collect();
        for stream in all {
            self.outputs.push_back(Output::CloseStream(stream));
            let again = self.drop_stream(stream, now);
            self.streams.patience.extend(again.map(|node| (node, now.instant)));
        }
        self.streams.dialer.hurry(now.instant);
    }

    /// A member was heard by a stream; says whether there is such a stream.
    pub(super) fn heard_by_stream(&mut self, stream: SocketAddr, node: NodeId) -> bool {
        let Some(stream) = self.streams.open.get_mut(&stream) else { return false };
        if stream.attempt.is_none() {
            stream.node = Some(node);
        }
        stream.node == Some(node)
    }

    /// A member answered: where by datagrams no stream is needed, and by a stream no other.
    pub(super) fn reached(&mut self, node: NodeId, at: SocketAddr) {
        if let Some(stream) = self.streams.open.get_mut(&at) {
            stream.is_proven = true;
        }
        self.streams.stop(node);
    }

    /// A stream that [`Output::OpenStream`] asked for is open, and has this address.
    pub fn handle_stream_opened(&mut self, attempt: u64, stream: SocketAddr, now: Now) {
        let Some((Callee::Node(node), remote)) = self.streams.dialer.under_way(attempt) else {
            return self.outputs.push_back(Output::CloseStream(stream));
        };
        self.note_stream(stream, remote, Some((node, attempt)), now.instant);
        self.paths(node).add(Path::Direct(stream), true);
        self.advance_paths(now);
    }

    /// Somebody who knows the gate's secret opened a stream.
    pub fn handle_stream_accepted(&mut self, stream: SocketAddr, remote: SocketAddr, now: Now) {
        self.note_stream(stream, remote, None, now.instant);
    }

    fn note_stream(
        &mut self,
        stream: SocketAddr,
        remote: SocketAddr,
        own: Option<(NodeId, u64)>,
        now: Instant,
    ) {
        debug_assert!(is_stream(stream), "{stream}");
        let (node, attempt) = (own.map(|(node, _)| node), own.map(|(_, attempt)| attempt));
        let open = Stream { remote, node, attempt, used: now, is_proven: false };
        self.streams.open.insert(stream, open);
        self.streams.review.get_or_insert(now + REVIEW);
    }

    /// A stream could not be opened, perhaps because the gate there was shut.
    pub fn handle_stream_failed(&mut self, attempt: u64, shut: bool, now: Now) {
        if shut {
            self.streams.dialer.shut(attempt, self.gate.len(), now.instant);
        } else {
            self.streams.dialer.ended(attempt);
        }
        self.advance_streams(now);
    }

    /// A stream was closed by its other end, or broke.
    pub fn handle_stream_closed(&mut self, stream: SocketAddr, now: Now) {
        let again = self.drop_stream(stream, now);
        self.streams.patience.extend(again.map(|node| (node, now.instant)));
        self.advance_paths(now);
        self.advance_streams(now);
    }
}
