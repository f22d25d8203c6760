//! How many inbound connections may be on their way to being admitted.
//!
//! Every accepted connection takes a [`Seat`] and keeps it until it is
//! admitted or gone. Seats are limited in total, per remote network and for
//! the slow lane, so that neither strangers nor a few members can make this
//! node hold more than a fixed amount.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::api::Limits;

/// What connections are counted by: an IPv4 address or an IPv6 /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    V4([u8; 4]),
    V6([u16; 4]),
}

impl From<IpAddr> for Origin {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip.octets()),
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}

/// Which cap leaves no seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    All,
    Origin,
}

/// All seats.
#[derive(Clone)]
pub(super) struct Seats(Arc<Shared>);

struct Shared {
    total: usize,
    per_origin: usize,
    slow: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    total: usize,
    slow: usize,
    by_origin: BTreeMap<Origin, usize>,
}

impl Seats {
    pub(super) fn new(limits: &Limits) -> Self {
        Self(Arc::new(Shared {
            total: limits.pending,
            per_origin: limits.pending_per_remote,
            slow: limits.pending_slow,
            taken: Mutex::default(),
        }))
    }

    /// A seat for a connection from `origin`.
    pub(super) fn take(&self, origin: Origin) -> Result<Seat, Full> {
        let mut taken = self.0.taken();
        let here = taken.by_origin.get(&origin).copied().unwrap_or(0);
        if here >= self.0.per_origin {
            return Err(Full::Origin);
        }
        if taken.total >= self.0.total {
            return Err(Full::All);
        }
        taken.total += 1;
        taken.by_origin.insert(origin, here + 1);
        Ok(Seat { shared: Arc::clone(&self.0), origin, slow: false })
    }
}

impl Shared {
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One taken seat; dropping it frees it.
pub struct Seat {
    shared: Arc<Shared>,
    origin: Origin,
    slow: bool,
}

impl Seat {
    pub(super) fn origin(&self) -> Origin {
        self.origin
    }

    /// Takes one of the slow lane's seats as well; false when there is none.
    #[must_use]
    pub(super) fn slow(&mut self) -> bool {
        let mut taken = self.shared.taken();
        if self.slow || taken.slow >= self.shared.slow {
            return self.slow;
        }
        taken.slow += 1;
        self.slow = true;
        true
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.shared.taken();
        taken.total = taken.total.saturating_sub(1);
        if self.slow {
            taken.slow = taken.slow.saturating_sub(1);
        }
        if let Some(here) = taken.by_origin.get_mut(&self.origin) {
            *here = here.saturating_sub(1);
            if *here == 0 {
                taken.by_origin.remove(&self.origin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        Origin::from(text.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn origins_are_ipv4_addresses_and_ipv6_networks() {
        assert_eq!(origin("::ffff:10.0.0.1"), origin("10.0.0.1"));
        assert_ne!(origin("10.0.0.2"), origin("10.0.0.1"));
        assert_eq!(origin("2001:db8:0:1::1"), origin("2001:db8:0:1:ffff::2"));
        assert_ne!(origin("2001:db8:0:1::1"), origin("2001:db8:0:2::1"));
    }

    #[test]
    fn every_cap_holds_and_a_dropped_seat_is_free_again() {
        let seats = Seats::new(&Limits {
            pending: 3,
            pending_per_remote: 2,
            pending_slow: 1,
            ..Limits::default()
        });
        let (here, there) = (origin("10.0.0.1"), origin("10.0.0.2"));
        let mut first = seats.take(here).ok().unwrap();
        let mut second = seats.take(here).ok().unwrap();
        assert_eq!(seats.take(here).err(), Some(Full::Origin));
        let third = seats.take(there).ok().unwrap();
        assert_eq!(seats.take(there).err(), Some(Full::All));
        assert!(first.slow());
        assert!(!second.slow());
        drop(first);
        assert!(second.slow());
        drop((second, third));
        let taken = seats.0.taken();
        assert_eq!((taken.total, taken.slow), (0, 0));
        assert!(taken.by_origin.is_empty());
    }
}
