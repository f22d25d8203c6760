//! From a TCP connection that passed the gate to an admitted, multiplexed link.
//!
//! ```text
//! TCP ── greeting ── Noise ── who is it? ── admission ── yamux
//!        └──────── Timing::dial ───────┘└── Timing::admission ──┘
//! ```
//!
//! The steps follow one another without negotiation: both ends speak exactly
//! one protocol, and every byte before admission would tell a stranger
//! something.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::AsyncWriteExt;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade};
use libp2p::identity::Keypair;
use libp2p::tcp::tokio::TcpStream as Compat;
use libp2p::{PeerId, noise, yamux};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::mark::mark;

use super::admission::{self, Applicant, Failure};
use super::api::{AdmissionEvent, DialError, Error, Limits, Timing};
use super::door::{Passed, keep_segments_small};
use super::gate::{Gate, Lane};
use super::identity::node_key;

/// Mixed into the handshake: nothing else that speaks Noise can be talked into it.
const PROLOGUE: &[u8] = b"epsilon/1/control";

/// Streams that a peer may have open on one connection.
const STREAMS: usize = 128;

/// An admitted link, as libp2p wants it.
pub(super) type Link = (PeerId, StreamMuxerBox);

/// What every upgrade needs.
pub(super) struct Upgrades {
    own: PeerId,
    gate: Arc<dyn Gate>,
    noise: noise::Config,
    engine: mpsc::Sender<AdmissionEvent>,
    exchanges: AtomicU64,
    limits: Limits,
    timing: Timing,
}

impl Upgrades {
    pub(super) fn new(
        keypair: &Keypair,
        gate: Arc<dyn Gate>,
        engine: mpsc::Sender<AdmissionEvent>,
        limits: Limits,
        timing: Timing,
    ) -> Result<Self, Error> {
        let noise = noise::Config::new(keypair)
            .map_err(|error| Error::Setup(format!("no key for the handshake: {error}")))?
            .with_prologue(PROLOGUE.to_vec());
        Ok(Self {
            own: PeerId::from_public_key(&keypair.public()),
            gate,
            noise,
            engine,
            exchanges: AtomicU64::new(1),
            limits,
            timing,
        })
    }

    /// Connects to `address` and upgrades; `expected` has to answer, if named.
    pub(super) async fn outbound(
        &self,
        address: SocketAddr,
        expected: Option<PeerId>,
        secret: usize,
    ) -> Result<Link, DialError> {
        let handshake = async {
            let stream = connect(address).await.map_err(|error| connect_error(&error))?;
            let mut stream = self.tuned(stream);
            // From here on the TCP port is known to be open: whoever hangs up
            // or talks back gibberish does not have our key.
            let greeting = self.gate.greet(secret);
            stream.write_all(&greeting).await.map_err(|_| DialError::NotOurNetwork)?;
            self.noise
                .clone()
                .upgrade_outbound(stream, "")
                .await
                .map_err(|_| DialError::NotOurNetwork)
        };
        let (peer, mut stream) =
            timeout(self.timing.dial, handshake).await.map_err(|_| DialError::TimedOut)??;
        if peer == self.own {
            return Err(DialError::Myself);
        }
        if let Some(expected) = expected
            && expected != peer
        {
            return Err(other_identity(&expected, &peer));
        }
        self.admit(&mut stream, peer, address, true, Lane::Current).await?;
        let muxer = yamux().upgrade_outbound(stream, "").await;
        Ok((peer, StreamMuxerBox::new(muxer.map_err(|error| protocol(&error))?)))
    }

    /// Upgrades a connection that was let in.
    pub(super) async fn inbound(&self, passed: Passed) -> Result<Link, DialError> {
        let Passed { stream, remote, lane, seat, hello: _ } = passed;
        let handshake = self.noise.clone().upgrade_inbound(self.tuned(stream), "");
        let (peer, mut stream) = timeout(self.timing.dial, handshake)
            .await
            .map_err(|_| DialError::TimedOut)?
            .map_err(|error| protocol(&error))?;
        if peer == self.own {
            return Err(DialError::Myself);
        }
        self.admit(&mut stream, peer, remote, false, lane).await?;
        drop(seat);
        let muxer = yamux().upgrade_inbound(stream, "").await;
        Ok((peer, StreamMuxerBox::new(muxer.map_err(|error| protocol(&error))?)))
    }

    async fn admit(
        &self,
        stream: &mut noise::Output<Compat>,
        peer: PeerId,
        remote: SocketAddr,
        outbound: bool,
        lane: Lane,
    ) -> Result<(), DialError> {
        let applicant = Applicant {
            exchange: self.exchanges.fetch_add(1, Ordering::Relaxed),
            peer: node_key(&peer)
                .ok_or_else(|| DialError::Protocol("the peer's key is not ed25519".into()))?,
            remote,
            outbound,
            lane,
        };
        let exchange = admission::run(stream, applicant, &self.engine, self.limits.admission_frame);
        match timeout(self.timing.admission, exchange).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Failure::Refused(reason))) => Err(DialError::Refused(reason)),
            Ok(Err(other)) => Err(protocol(&other)),
            Err(_) => Err(DialError::Protocol("admission took too long".into())),
        }
    }

    /// Small frames travel at once, and a peer that acknowledges nothing is
    /// given up by the kernel too: closing waits for the send buffer.
    fn tuned(&self, stream: TcpStream) -> Compat {
        let silence = self.timing.silence;
        // The kernel counts whole seconds.
        let ask = |share: u32| (silence / share).max(Duration::from_secs(1));
        let keepalive = TcpKeepalive::new()
            .with_time(silence.saturating_sub(ask(4)).max(ask(10)))
            .with_interval(ask(10));
        let socket = SockRef::from(&stream);
        if let Err(error) = stream
            .set_nodelay(true)
            .and_then(|()| socket.set_tcp_user_timeout(Some(silence)))
            .and_then(|()| socket.set_tcp_keepalive(&keepalive))
        {
            tracing::debug!(%error, "cannot tune a control connection");
        }
        Compat(stream)
    }
}

/// A TCP connection by which only small segments travel.
pub(crate) async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    keep_segments_small(&SockRef::from(&socket));
    mark(&SockRef::from(&socket));
    socket.connect(address).await
}

/// The error of a dial that reached somebody else.
pub(super) fn other_identity(expected: &PeerId, found: &PeerId) -> DialError {
    match (node_key(expected), node_key(found)) {
        (Some(expected), Some(found)) => DialError::OtherIdentity { expected, found },
        _ => DialError::Protocol("the peer's key is not ed25519".into()),
    }
}

fn yamux() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(STREAMS);
    config
}

fn protocol(error: &impl ToString) -> DialError {
    DialError::Protocol(error.to_string())
}

fn connect_error(error: &io::Error) -> DialError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => DialError::Closed,
        io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown
        | io::ErrorKind::AddrNotAvailable
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::PermissionDenied => DialError::Unreachable,
        io::ErrorKind::TimedOut => DialError::TimedOut,
        _ => protocol(error),
    }
}
