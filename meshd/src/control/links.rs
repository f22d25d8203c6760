//! Which peers are linked, by which connections, and which of these are too many.
//!
//! Two nodes that dial each other at the same moment end up with two
//! connections. Both are good, so the peer is linked from the first one on;
//! then one of them falls into disuse and goes, by rules that need no agreement:
//!
//! * kept is the newest of those that the node with the smaller key dialled;
//!   without any, the newest;
//! * a connection is closed only by the node that dialled it, so the two ends
//!   cannot close one each;
//! * it is used until the kept one has shown a sign of life *since*, because
//!   the older connection may be a dead one that nobody has noticed;
//! * then it is closed when nothing is under way on it and the other end has
//!   had time to stop using it too, or after [`PATIENCE`].

use std::collections::BTreeMap;
use std::time::Duration;

use libp2p::swarm::ConnectionId;
use tokio::time::Instant;

use super::api::NodeKey;

/// For requests on a surplus connection to be answered.
const PATIENCE: Duration = Duration::from_secs(15);

/// All connections, by peer.
pub(super) struct Links {
    own: NodeKey,
    grace: Duration,
    peers: BTreeMap<NodeKey, Vec<Connection>>,
}

struct Connection {
    id: ConnectionId,
    dialled_by_us: bool,
    since: Instant,
    heard: Instant,
    /// Being closed: it no longer counts for anything.
    doomed: bool,
}

impl Links {
    pub(super) fn new(own: NodeKey, grace: Duration) -> Self {
        Self { own, grace, peers: BTreeMap::new() }
    }

    /// Whether there is a connection to `peer` that counts.
    pub(super) fn linked(&self, peer: &NodeKey) -> bool {
        self.alive(peer).next().is_some()
    }

    /// Whether this very connection counts.
    pub(super) fn counts(&self, peer: &NodeKey, id: ConnectionId) -> bool {
        self.alive(peer).any(|connection| connection.id == id)
    }

    /// Adds a connection; gives back the older ones beside it, none for a new link.
    pub(super) fn established(
        &mut self,
        peer: NodeKey,
        id: ConnectionId,
        dialled_by_us: bool,
        now: Instant,
    ) -> Vec<ConnectionId> {
        let older = self.alive(&peer).map(|connection| connection.id).collect();
        self.peers.entry(peer).or_default().push(Connection {
            id,
            dialled_by_us,
            since: now,
            heard: now,
            doomed: false,
        });
        older
    }

    /// Notes a sign of life.
    pub(super) fn heard(&mut self, peer: &NodeKey, id: ConnectionId, now: Instant) {
        if let Some(connection) = self.find(peer, id) {
            connection.heard = now;
        }
    }

    /// Removes a connection; true when that was the end of the link.
    pub(super) fn closed(&mut self, peer: &NodeKey, id: ConnectionId) -> bool {
        let ended = self.doom(peer, id);
        if let Some(connections) = self.peers.get_mut(peer) {
            connections.retain(|connection| connection.id != id);
            if connections.is_empty() {
                self.peers.remove(peer);
            }
        }
        ended
    }

    /// Writes a connection off before it is closed; true when that is the end of the link.
    pub(super) fn doom(&mut self, peer: &NodeKey, id: ConnectionId) -> bool {
        match self.find(peer, id) {
            Some(connection) if !connection.doomed => {
                connection.doomed = true;
                !self.linked(peer)
            }
            _ => false,
        }
    }

    /// The connections that count, of one peer.
    pub(super) fn connections(&self, peer: &NodeKey) -> Vec<ConnectionId> {
        self.alive(peer).map(|connection| connection.id).collect()
    }

    /// The connections that count, of all peers.
    pub(super) fn all(&self) -> Vec<(NodeKey, ConnectionId)> {
        let of = |peer| self.alive(peer).map(move |connection| (*peer, connection.id));
        self.peers.keys().flat_map(of).collect()
    }

    /// The connection to use for something new.
    pub(super) fn best(&self, peer: &NodeKey) -> Option<ConnectionId> {
        match self.kept(peer) {
            Some((kept, _)) => Some(kept.id),
            None => self.alive(peer).max_by_key(|connection| connection.since).map(|last| last.id),
        }
    }

    /// [`Links::best`] of every linked peer.
    pub(super) fn all_best(&self) -> Vec<(NodeKey, ConnectionId)> {
        self.peers.keys().filter_map(|peer| Some((*peer, self.best(peer)?))).collect()
    }

    /// The connections that this node should close now; `busy` ones have time.
    pub(super) fn surplus(
        &self,
        now: Instant,
        busy: impl Fn(ConnectionId) -> bool,
    ) -> Vec<(NodeKey, ConnectionId)> {
        let mut surplus = Vec::new();
        for peer in self.peers.keys() {
            let Some((kept, settled)) = self.kept(peer) else {
                continue;
            };
            let goes = |connection: &&Connection| {
                connection.id != kept.id
                    && connection.dialled_by_us
                    && now >= settled + self.grace
                    && (now >= settled + PATIENCE || !busy(connection.id))
            };
            surplus.extend(self.alive(peer).filter(goes).map(|connection| (*peer, connection.id)));
        }
        surplus
    }

    /// The connection that stays and since when that is settled, as soon as it is.
    fn kept(&self, peer: &NodeKey) -> Option<(&Connection, Instant)> {
        let latest = self.alive(peer).map(|connection| connection.since).max()?;
        let we_are_smaller = self.own < *peer;
        let kept = self.alive(peer).max_by_key(|connection| {
            (connection.dialled_by_us == we_are_smaller, connection.since)
        })?;
        (kept.heard >= latest).then_some((kept, latest))
    }

    /// Whether [`Links::surplus`] is worth asking again later.
    pub(super) fn doubled(&self) -> bool {
        self.peers.keys().any(|peer| self.alive(peer).nth(1).is_some())
    }

    fn alive(&self, peer: &NodeKey) -> impl Iterator<Item = &Connection> {
        self.peers.get(peer).into_iter().flatten().filter(|connection| !connection.doomed)
    }

    fn find(&mut self, peer: &NodeKey, id: ConnectionId) -> Option<&mut Connection> {
        self.peers.get_mut(peer)?.iter_mut().find(|connection| connection.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: NodeKey = [1; 32];
    const LARGE: NodeKey = [2; 32];
    const GRACE: Duration = Duration::from_secs(1);

    fn id(number: usize) -> ConnectionId {
        ConnectionId::new_unchecked(number)
    }

    fn quiet(_: ConnectionId) -> bool {
        false
    }

    #[test]
    fn a_link_lasts_from_its_first_connection_to_its_last() {
        let now = Instant::now();
        let mut links = Links::new(SMALL, GRACE);
        assert!(links.established(LARGE, id(1), true, now).is_empty());
        assert_eq!(links.established(LARGE, id(2), false, now), [id(1)]);
        assert!(!links.closed(&LARGE, id(1)));
        assert!(links.linked(&LARGE));
        assert!(links.closed(&LARGE, id(2)));
        assert!(!links.linked(&LARGE));
        assert!(!links.closed(&LARGE, id(2)), "only once");
    }

    #[test]
    fn a_doomed_connection_ends_the_link_once_and_a_new_one_begins_it_again() {
        let now = Instant::now();
        let mut links = Links::new(SMALL, GRACE);
        links.established(LARGE, id(1), true, now);
        assert!(links.doom(&LARGE, id(1)));
        assert!(!links.counts(&LARGE, id(1)));
        assert!(links.established(LARGE, id(2), false, now).is_empty());
        assert!(!links.closed(&LARGE, id(1)));
        assert!(links.counts(&LARGE, id(2)));
    }

    #[test]
    fn of_two_crossing_connections_both_ends_keep_the_one_of_the_smaller_key() {
        let now = Instant::now();
        let later = now + GRACE;
        for order in [[(1, true), (2, false)], [(2, false), (1, true)]] {
            // Connection 1 is dialled by SMALL, connection 2 by LARGE.
            let mut small = Links::new(SMALL, GRACE);
            let mut large = Links::new(LARGE, GRACE);
            for (offset, (number, by_small)) in order.into_iter().enumerate() {
                let at = now + Duration::from_millis(offset as u64);
                small.established(LARGE, id(number), by_small, at);
                large.established(SMALL, id(number), !by_small, at);
            }
            let heard = now + Duration::from_millis(500);
            for number in [1, 2] {
                small.heard(&LARGE, id(number), heard);
                large.heard(&SMALL, id(number), heard);
            }
            let at = later + Duration::from_millis(1);
            assert_eq!(small.surplus(at, quiet), []);
            assert_eq!(large.surplus(at, quiet), [(SMALL, id(2))]);
            assert_eq!(large.surplus(now, quiet), [], "not within the grace");
        }
    }

    #[test]
    fn nothing_is_closed_for_a_connection_that_may_be_dead() {
        let now = Instant::now();
        let mut large = Links::new(LARGE, GRACE);
        large.established(SMALL, id(1), false, now);
        large.established(SMALL, id(2), true, now + GRACE);
        let later = now + GRACE * 10;
        assert_eq!(large.surplus(later, quiet), []);
        assert_eq!(large.best(&SMALL), Some(id(2)), "the one that is surely alive");
        assert!(large.doubled());
        large.heard(&SMALL, id(1), later);
        assert_eq!(large.best(&SMALL), Some(id(1)));
        assert_eq!(large.surplus(later, quiet), [(SMALL, id(2))]);
    }

    #[test]
    fn of_two_connections_in_one_direction_the_dialler_keeps_the_newer() {
        let now = Instant::now();
        for (own, peer) in [(SMALL, LARGE), (LARGE, SMALL)] {
            let mut dialler = Links::new(own, GRACE);
            let mut listener = Links::new(peer, GRACE);
            for number in [1, 2] {
                let at = now + Duration::from_millis(number as u64);
                dialler.established(peer, id(number), true, at);
                listener.established(own, id(number), false, at);
            }
            let later = now + GRACE * 2;
            assert_eq!(dialler.surplus(later, quiet), [(peer, id(1))]);
            assert_eq!(listener.surplus(later, quiet), []);
        }
    }

    #[test]
    fn a_busy_peer_keeps_both_connections_for_a_while() {
        let now = Instant::now();
        let mut links = Links::new(SMALL, GRACE);
        links.established(LARGE, id(1), true, now);
        links.established(LARGE, id(2), true, now);
        assert_eq!(links.surplus(now + GRACE, |_| true), []);
        assert_eq!(links.surplus(now + PATIENCE, |_| true).len(), 1);
    }
}
