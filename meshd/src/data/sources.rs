//! From where peers send: what says that it is data and comes from elsewhere does not get
//! to the sockets for data, where the kernel would take it from others' share.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use epsilon_proto::clock::Instant;
use epsilon_sys::udp::MOST_SOURCES;

use super::Sockets;
use super::outlet::Outlet;

/// Who has so many peers that so many addresses do not last so long takes data from
/// anywhere.
const LASTS: Duration = Duration::from_mins(10);

/// The addresses that a peer proved to be at, of all lanes.
#[derive(Clone)]
pub(super) struct Sources {
    first_tag: u8,
    lanes: u8,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    addresses: BTreeSet<IpAddr>,
    /// Since when they were gathered.
    since: Instant,
    /// There are too many.
    is_full: bool,
}

impl Known {
    /// Whether an address is news.
    fn add(&mut self, address: IpAddr, now: Instant) -> bool {
        if self.is_full || !self.addresses.insert(address) {
            return false;
        }
        if self.addresses.len() > MOST_SOURCES {
            self.is_full = now.since(self.since) < LASTS;
            if !self.is_full {
                // Those that are still there show it again.
                self.addresses = [address].into();
                self.since = now;
            }
        }
        true
    }
}

impl Sources {
    pub(super) fn new(first_tag: u8, lanes: u8) -> Self {
        Self { first_tag, lanes, known: Arc::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A peer is there.
    pub(super) fn add(&self, address: IpAddr, now: Instant, outlet: &Outlet) {
        let is_news = self.known().add(address.to_canonical(), now);
        if is_news {
            self.apply(&outlet.sockets, outlet.tun.name());
        }
    }

    /// Tells the kernel.
    pub(super) fn apply(&self, sockets: &Sockets, interface: &str) {
        let known = self.known();
        let addresses: Vec<IpAddr> = known.addresses.iter().copied().collect();
        if let Err(error) = sockets.keep_data_apart(self.first_tag, self.lanes, &addresses) {
            tracing::warn!(interface, %error, "floods of junk can displace data");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_news_once_and_too_many_at_a_time_are_none() {
        let at = |minutes| Instant(Duration::from_mins(minutes));
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        let mut known = Known::default();
        for number in 0..MOST_SOURCES as u32 {
            assert!(known.add(address(number), at(1)) && !known.add(address(number), at(1)));
        }
        // They were gathered over a long time: from anew.
        assert!(known.add(address(1000), at(20)));
        assert_eq!(known.addresses.len(), 1);
        for number in 0..MOST_SOURCES as u32 {
            assert!(known.add(address(number), at(21)));
        }
        assert!(known.is_full && known.addresses.len() > MOST_SOURCES);
        assert!(!known.add(address(2000), at(21)));
    }
}
