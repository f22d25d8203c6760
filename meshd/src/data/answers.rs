//! From which of the host's addresses peers are answered: from the one that they called. A
//! host with several would answer from the one that its routes prefer, and a NAT or
//! firewall in between lets nothing in from where nothing was sent to.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use epsilon_proto::address::is_link_local;
use epsilon_proto::clock::Instant;
use socket2::SockRef;

use crate::mark::mark;

/// How many peers are known; with more it begins anew.
const MOST: usize = 4096;
/// After so long it is looked again which address the routes prefer.
const AGAIN: Duration = Duration::from_secs(30);

/// By peer, where it is not the address that the routes prefer.
type Others = BTreeMap<SocketAddr, IpAddr>;

/// For one thread.
#[derive(Clone, Default)]
pub(super) struct Answers {
    shared: Arc<Shared>,
    /// What the thread knows of it.
    seen: (u64, Arc<Others>),
}

/// What the threads share.
#[derive(Default)]
pub(super) struct Shared {
    version: AtomicU64,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    called: BTreeMap<SocketAddr, (IpAddr, Instant)>,
    others: Arc<Others>,
}

impl Known {
    /// Whether it is news that a peer called an address.
    fn is_news(&mut self, peer: SocketAddr, own: IpAddr, now: Instant) -> bool {
        let known = self.called.get(&peer);
        if known.is_some_and(|(known, at)| *known == own && now.since(*at) < AGAIN) {
            return false;
        }
        if self.called.len() >= MOST && known.is_none() {
            *self = Self::default();
        }
        self.called.insert(peer, (own, now));
        true
    }
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, known: &mut Known, peer: SocketAddr, own: Option<IpAddr>) {
        if known.others.get(&peer).copied() == own {
            return;
        }
        let others = Arc::make_mut(&mut known.others);
        match own {
            Some(own) => drop(others.insert(peer, own)),
            None => drop(others.remove(&peer)),
        }
        self.version.fetch_add(1, Ordering::Release);
    }

    /// The host is connected otherwise than before.
    pub(super) fn forget(&self) {
        *self.known() = Known::default();
        self.version.fetch_add(1, Ordering::Release);
    }
}

impl Answers {
    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// A peer called the host at one of its addresses.
    pub(super) fn called(&self, peer: SocketAddr, own: IpAddr, now: Instant) {
        let mut known = self.shared.known();
        if own.is_unspecified() || is_link_local(own) || !known.is_news(peer, own, now) {
            return;
        }
        let own = (preferred(peer) != Some(own)).then_some(own);
        self.shared.set(&mut known, peer, own);
    }

    /// The host has no such address any more.
    pub(super) fn is_gone(&self, peer: SocketAddr) {
        let mut known = self.shared.known();
        known.called.remove(&peer);
        self.shared.set(&mut known, peer, None);
    }

    /// Takes over what is new, unless another thread is about to change it.
    pub(super) fn refresh(&mut self) {
        let version = self.shared.version.load(Ordering::Acquire);
        if self.seen.0 != version
            && let Ok(known) = self.shared.known.try_lock()
        {
            self.seen = (version, Arc::clone(&known.others));
        }
    }

    /// From where a peer is answered, if not from where the routes say.
    pub(super) fn of(&self, peer: SocketAddr) -> Option<IpAddr> {
        self.seen.1.get(&peer).copied()
    }
}

/// From which address datagrams to a peer go where nobody says.
fn preferred(peer: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr =
        if peer.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    mark(&SockRef::from(&socket));
    socket.connect(peer).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Instant {
        Instant(Duration::from_secs(second))
    }

    #[test]
    fn an_address_is_named_where_the_routes_prefer_another() {
        let mut answers = Answers::default();
        let mut other = answers.clone();
        let peer: SocketAddr = "127.0.0.1:7".parse().unwrap();
        let [preferred, second] = ["127.0.0.1", "127.0.0.2"].map(|own| own.parse().unwrap());
        answers.called(peer, preferred, at(1));
        answers.refresh();
        assert_eq!(answers.of(peer), None);
        answers.called(peer, second, at(2));
        assert_eq!(answers.of(peer), None, "not yet looked at");
        for answers in [&mut answers, &mut other] {
            answers.refresh();
            assert_eq!(answers.of(peer), Some(second));
        }
        answers.is_gone(peer);
        answers.refresh();
        assert_eq!(answers.of(peer), None);
        answers.called(peer, second, at(3));
        answers.shared().forget();
        other.refresh();
        assert_eq!(other.of(peer), None);
    }

    #[test]
    fn the_same_is_news_after_a_while_and_too_many_begin_anew() {
        let mut known = Known::default();
        let own = IpAddr::from([192, 0, 2, 1]);
        let peer = |port: usize| SocketAddr::from(([192, 0, 2, 2], port as u16));
        assert!(known.is_news(peer(1), own, at(1)));
        assert!(!known.is_news(peer(1), own, at(30)));
        assert!(known.is_news(peer(1), own, at(31)));
        assert!(known.is_news(peer(1), IpAddr::from([192, 0, 2, 3]), at(31)));
        for port in 0..10 * MOST {
            known.is_news(peer(port), own, at(32));
            assert!(known.called.len() <= MOST);
        }
    }
}
