//! The probes to and from one peer: who is asked, and who gets an answer.

use std::collections::VecDeque;
use std::net::{SocketAddr, SocketAddrV6};
use std::time::Duration;

use epsilon_proto::clock::Instant;

use super::command::Path;
use super::probe::{Probe, ProbeKey, ProbeKeys};
use crate::pair::Window;

/// How long an answer to a probe is waited for.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// At most so many probes to one peer wait for an answer; the oldest gives way.
const OUTSTANDING: usize = 64;

/// Probing one peer.
#[derive(Default)]
pub(super) struct Prober {
    keys: Option<ProbeKeys>,
    window: Window,
    /// Cleared keys are kept, so that the window outlives it when the same
    /// ones are given again.
    enabled: bool,
    outstanding: VecDeque<Outstanding>,
}

struct Outstanding {
    transaction: u64,
    to: Path,
    sent: Instant,
}

/// What an authenticated probe asks for or tells.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Heard {
    /// To answer this request.
    Request { transaction: u64 },
    /// A probe of ours was answered.
    Answer { transaction: u64, observed: SocketAddr, rtt: Duration },
}

impl Prober {
    pub(super) fn set(&mut self, keys: ProbeKeys) {
        if self.keys.as_ref().is_none_or(|known| known.receive != keys.receive) {
            self.outstanding.clear();
            self.window = Window::default();
        }
        self.keys = Some(keys);
        self.enabled = true;
    }

    pub(super) fn clear(&mut self) {
        self.enabled = false;
        self.outstanding.clear();
    }

    fn keys(&self) -> Option<&ProbeKeys> {
        self.keys.as_ref().filter(|_| self.enabled)
    }

    /// The index that the peer puts into its probes.
    pub(super) fn local_index(&self) -> Option<u32> {
        self.keys().map(|keys| keys.local_index)
    }

    /// The key and the index to seal a probe with.
    pub(super) fn sealing(&self) -> Option<(&ProbeKey, u32)> {
        self.keys().map(|keys| (&keys.send, keys.remote_index))
    }

    /// Notes that a probe was sent.
    pub(super) fn sent(&mut self, transaction: u64, to: Path, now: Instant) {
        if self.outstanding.len() == OUTSTANDING {
            self.outstanding.pop_front();
        }
        self.outstanding.push_back(Outstanding { transaction, to, sent: now });
    }

    /// Opens a probe of the peer; `None` for everything that is not to be
    /// believed.
    pub(super) fn open(&mut self, from: Path, datagram: &[u8], now: Instant) -> Option<Heard> {
        let keys = self.keys()?;
        let (counter, probe) = super::probe::open(&keys.receive, datagram)?;
        if !self.window.admit(counter) {
            return None;
        }
        self.outstanding.retain(|probe| now.since(probe.sent) < PROBE_TIMEOUT);
        match probe {
            Probe::Request { transaction } => Some(Heard::Request { transaction }),
            Probe::Answer { transaction, observed } => {
                let at = self
                    .outstanding
                    .iter()
                    .position(|probe| probe.transaction == transaction && probe.to == from)?;
                let rtt = now.since(self.outstanding.remove(at)?.sent);
                Some(Heard::Answer { transaction, observed, rtt })
            }
        }
    }
}

/// The one form of an address that can be compared: IPv4 as IPv4, and only
/// what says where it is (a flow label does not, and a scope only where the
/// address is local to a link).
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    let SocketAddr::V6(v6) = address else { return address };
    if let Some(ip) = v6.ip().to_ipv4_mapped() {
        return SocketAddr::new(ip.into(), v6.port());
    }
    let scope = if v6.ip().is_unicast_link_local() { v6.scope_id() } else { 0 };
    SocketAddrV6::new(*v6.ip(), v6.port(), 0, scope).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_mean_the_same_are_equal() {
        let local = |flow, scope| SocketAddrV6::new("fe80::1".parse().unwrap(), 1, flow, scope);
        let global =
            |flow, scope| SocketAddrV6::new("2001:db8::1".parse().unwrap(), 1, flow, scope);
        assert_eq!(canonical(global(7, 3).into()), canonical(global(0, 0).into()));
        assert_eq!(canonical(local(7, 3).into()), canonical(local(0, 3).into()));
        assert_ne!(canonical(local(0, 3).into()), canonical(local(0, 4).into()));
        assert_eq!(
            canonical("[::ffff:192.0.2.1]:1".parse().unwrap()),
            "192.0.2.1:1".parse().unwrap()
        );
    }
}
