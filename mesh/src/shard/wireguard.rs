//! WireGuard sessions by boringtun, which is named here and nowhere else.
//!
//! boringtun reads the clock and randomness itself, so that this file is the
//! one exemption from the rule that the engine is handed both.

use std::net::IpAddr;
use std::sync::Arc;

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use epsilon_proto::key::{AgreementKey, SecretKey};

use super::session::{Handshake, Initiator, Session, SessionFactory, Tick};

/// Messages of handshakes per second from which on senders prove their
/// address. The first message of a handshake counts twice: it is checked once
/// to find the peer and once by its session.
const HANDSHAKES_PER_SECOND: u64 = 1000;

/// Counters from here on are refused, as in the WireGuard paper, section 6.1.
/// (boringtun would add to them until they overflow.)
const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// Makes sessions for one node's key.
pub struct WireGuard {
    secret: StaticSecret,
    public: PublicKey,
    limiter: Arc<RateLimiter>,
}

impl WireGuard {
    /// Sessions for the X25519 form of a node's key.
    pub fn new(key: &SecretKey) -> Self {
        let secret = StaticSecret::from(*key.agreement_secret());
        let public = PublicKey::from(&secret);
        let limiter = Arc::new(RateLimiter::new(&public, HANDSHAKES_PER_SECOND));
        Self { secret, public, limiter }
    }
}

impl SessionFactory for WireGuard {
    fn create(&self, peer: AgreementKey, index: u32) -> Box<dyn Session> {
        let tunn = Tunn::new(
            self.secret.clone(),
            PublicKey::from(peer.0),
            None,
            None,
            index & 0x00ff_ffff,
            Some(Arc::clone(&self.limiter)),
        );
        Box::new(Tunnel { tunn, limiter: Arc::clone(&self.limiter), ready: false })
    }

    fn initiator(&self, from: IpAddr, datagram: &[u8], into: &mut [u8]) -> Initiator {
        self.limiter.reset_count();
        match self.limiter.verify_packet(Some(from), datagram, into) {
            Ok(Packet::HandshakeInit(initiation)) => {
                match parse_handshake_anon(&self.secret, &self.public, &initiation) {
                    Ok(half) => Initiator::Key(AgreementKey(half.peer_static_public)),
                    Err(_) => Initiator::Unknown,
                }
            }
            Err(TunnResult::WriteToNetwork(cookie)) => Initiator::Challenged(cookie.len()),
            Ok(_) | Err(_) => Initiator::Unknown,
        }
    }
}

struct Tunnel {
    tunn: Tunn,
    limiter: Arc<RateLimiter>,
    /// Remembered, as asking the tunnel reads the clock.
    ready: bool,
}

impl Tunnel {
    /// To be called after everything that can change which keys there are.
    fn look(&mut self) {
        self.ready = self.tunn.time_since_last_handshake().is_some();
    }
}

impl Session for Tunnel {
    fn ready(&self) -> bool {
        self.ready
    }

    fn seal(&mut self, packet: &[u8], into: &mut [u8]) -> usize {
        // Without keys the tunnel would keep the packet in a queue of its own.
        if !self.ready {
            return 0;
        }
        match self.tunn.encapsulate(packet, into) {
            TunnResult::WriteToNetwork(sealed) => sealed.len(),
            _ => 0,
        }
    }

    fn initiate(&mut self, again: bool, into: &mut [u8]) -> usize {
        match self.tunn.format_handshake_initiation(into, again) {
            TunnResult::WriteToNetwork(message) => message.len(),
            _ => 0,
        }
    }

    fn handshake(&mut self, from: IpAddr, datagram: &[u8], into: &mut [u8]) -> Handshake {
        self.limiter.reset_count();
        let kind = datagram.first().copied();
        let outcome = match self.tunn.decapsulate(Some(from), datagram, into) {
            // The answer tells what was done: to an initiation a response or
            // a cookie, to a response a keepalive or a cookie.
            TunnResult::WriteToNetwork(answer) => match (kind, answer.first()) {
                (Some(1), Some(2)) => Handshake::Answered(answer.len()),
                (Some(2), Some(4)) => Handshake::Completed(answer.len()),
                _ => Handshake::Challenged(answer.len()),
            },
            TunnResult::Done if kind == Some(3) => Handshake::Deferred,
            _ => Handshake::Refused,
        };
        self.look();
        outcome
    }

    fn open(&mut self, datagram: &[u8], into: &mut [u8]) -> Option<usize> {
        let counter = u64::from_le_bytes(*datagram.get(8..16)?.first_chunk()?);
        if datagram.first() != Some(&4) || counter >= REJECT_AFTER_MESSAGES {
            return None;
        }
        let length = match self.tunn.decapsulate(None, datagram, into) {
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                Some(packet.len())
            }
            TunnResult::Done => Some(0),
            TunnResult::WriteToNetwork(_) | TunnResult::Err(_) => None,
        };
        if !self.ready && length.is_some() {
            self.look();
        }
        length
    }

    fn tick(&mut self, into: &mut [u8]) -> Tick {
        let tick = match self.tunn.update_timers(into) {
            TunnResult::WriteToNetwork(message) => Tick::Send(message.len()),
            TunnResult::Err(WireGuardError::ConnectionExpired) => Tick::Expired,
            _ => Tick::Quiet,
        };
        self.look();
        tick
    }
}
