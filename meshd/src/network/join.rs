//! Whether a join succeeded, seen from what happens after it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use epsilon_proto::clock::Instant;
use epsilon_proto::message::Refusal;

use crate::control::DialError;

/// A node that nobody answers has joined alone after this time.
const ALONE: Duration = Duration::from_millis(2600);
/// A refusal ends the join unless another member takes the node meanwhile.
const SECOND_OPINION: Duration = Duration::from_millis(500);
/// How long it may take from the first link to the own record, which takes a
/// member's word for this node and a store that works.
const PUBLISH: Duration = Duration::from_secs(10);

/// How a join ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joined {
    /// A member let the node in.
    Admitted,
    /// No member was reachable: the node is a member by its token, and waits.
    Alone,
}

/// Why a join failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// A member refused.
    #[error("{0}")]
    Refused(Refusal),
    /// Somebody answered, and nobody with the key.
    #[error("nobody at {} has this network's key; check that the token is for this network and that the address is right", list(.0))]
    NotOurNetwork(Vec<SocketAddr>),
    /// The state could not be written.
    #[error("{0}; make room or make the file system writable, then join again")]
    Storage(String),
    /// Members were reached, but this node's record never got out.
    #[error("no member vouched for this node within {} s; look at the log of one of them", PUBLISH.as_secs())]
    NotVouchedFor,
}

fn list(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Watches a network from its start.
pub(super) struct Watch {
    started: Instant,
    /// How long to wait for anybody.
    patience: Duration,
    linked: Option<Instant>,
    published: bool,
    storage: Option<String>,
    refused: Option<(Refusal, Instant)>,
    strangers: BTreeMap<SocketAddr, Instant>,
}

impl Watch {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            started: now,
            patience: ALONE,
            linked: None,
            published: false,
            storage: None,
            refused: None,
            strangers: BTreeMap::new(),
        }
    }

    /// For a network that was made just now: there is nobody to wait for.
    pub(super) fn founder(now: Instant) -> Self {
        Self { patience: Duration::ZERO, ..Self::new(now) }
    }

    pub(super) fn link_up(&mut self, now: Instant) {
        self.linked.get_or_insert(now);
    }

    /// The state cannot be written.
    pub(super) fn storage_failing(&mut self, reason: &str) {
        self.storage.get_or_insert_with(|| reason.to_owned());
    }

    /// The own record is out.
    pub(super) fn published(&mut self) {
        self.published = true;
    }

    pub(super) fn refused(&mut self, refusal: Refusal, now: Instant) {
        self.refused.get_or_insert((refusal, now));
    }

    pub(super) fn call_failed(&mut self, address: SocketAddr, reason: &DialError, now: Instant) {
        if *reason == DialError::NotOurNetwork {
            self.strangers.insert(address, now);
        }
    }

    /// How the join ended, once that is clear.
    pub(super) fn outcome(&self, now: Instant) -> Option<Result<Joined, JoinError>> {
        if let Some(reason) = self.storage.as_ref().filter(|_| !self.published) {
            return Some(Err(JoinError::Storage(reason.clone())));
        }
        if let Some(linked) = self.linked {
            if self.published {
                return Some(Ok(Joined::Admitted));
            }
            return (now.since(linked) >= PUBLISH).then_some(Err(JoinError::NotVouchedFor));
        }
        if let Some((refusal, at)) = self.refused {
            return (now.since(at) >= SECOND_OPINION).then_some(Err(JoinError::Refused(refusal)));
        }
        if now.since(self.started) < self.patience || !self.published {
            return None;
        }
        if self.strangers.is_empty() {
            Some(Ok(Joined::Alone))
        } else {
            Some(Err(JoinError::NotOurNetwork(self.strangers.keys().copied().collect())))
        }
    }

    /// When time alone changes the outcome after `now`, if it does.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let due = match (self.linked, self.refused) {
            (Some(linked), _) => linked + PUBLISH,
            (None, Some((_, at))) => at + SECOND_OPINION,
            (None, None) => self.started + self.patience,
        };
        (due > now).then_some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant(Duration::from_millis(millis))
    }
    fn address() -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], 7755))
    }

    #[test]
    fn an_admitted_node_has_joined_once_its_record_is_out() {
        let mut watch = Watch::new(at(0));
        watch.link_up(at(0));
        assert_eq!(watch.outcome(at(10)), None);
        watch.published();
        assert_eq!(watch.outcome(at(10)), Some(Ok(Joined::Admitted)));
    }

    #[test]
    fn a_node_that_nobody_answers_joins_alone() {
        let mut watch = Watch::new(at(0));
        watch.published();
        watch.call_failed(address(), &DialError::Closed, at(1));
        assert_eq!(watch.outcome(at(2_599)), None);
        assert_eq!(watch.outcome(watch.due(at(1_000)).unwrap()), Some(Ok(Joined::Alone)));
    }

    #[test]
    fn a_join_without_a_record_ends_and_says_why() {
        let mut watch = Watch::new(at(0));
        watch.link_up(at(100));
        let due = watch.due(at(100)).unwrap();
        assert_eq!(watch.outcome(due), Some(Err(JoinError::NotVouchedFor)));
        assert_eq!(watch.due(due), None);
        watch.storage_failing("the disk is full");
        let error = watch.outcome(at(200)).unwrap().unwrap_err();
        assert!(error.to_string().contains("the disk is full"), "{error}");
    }

    #[test]
    fn strangers_at_the_address_are_named_within_three_seconds() {
        let mut watch = Watch::new(at(0));
        watch.published();
        watch.call_failed(address(), &DialError::NotOurNetwork, at(1));
        let error = watch.outcome(at(2_999)).unwrap().unwrap_err();
        assert!(error.to_string().contains("192.0.2.1:7755"), "{error}");
    }

    #[test]
    fn a_refusal_stands_unless_another_member_takes_the_node() {
        let mut watch = Watch::new(at(0));
        watch.refused(Refusal::InviteExpired, at(100));
        assert_eq!(watch.outcome(at(200)), None);
        let refused = Err(JoinError::Refused(Refusal::InviteExpired));
        assert_eq!(watch.outcome(watch.due(at(200)).unwrap()), Some(refused));
        watch.link_up(at(0));
        watch.published();
        assert_eq!(watch.outcome(at(700)), Some(Ok(Joined::Admitted)));
    }
}
