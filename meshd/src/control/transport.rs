//! The transport that libp2p drives: doors on one side, dials on the other.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use libp2p::Multiaddr;
use libp2p::core::Transport;
use libp2p::core::transport::{DialOpts, ListenerId, TransportError, TransportEvent};
use tokio::sync::mpsc;

use super::api::{DialError, Timing};
use super::door::{Door, Passed};
use super::gate::{Gate, Replays};
use super::hello::Knock;
use super::identity::{from_multiaddr, secret_of, to_multiaddr};
use super::seats::Seats;
use super::upgrade::{Link, Upgrades};

/// TCP behind the gate, upgraded all the way to an admitted link.
pub(super) struct Gated {
    upgrades: Arc<Upgrades>,
    gate: Arc<dyn Gate>,
    replays: Arc<Replays>,
    seats: Seats,
    timing: Timing,
    knocks: mpsc::Sender<Knock>,
    doors: Vec<(ListenerId, Door)>,
    told: VecDeque<TransportEvent<Upgrade, DialError>>,
}

type Upgrade = BoxFuture<'static, Result<Link, DialError>>;

impl Gated {
    pub(super) fn new(
        upgrades: Arc<Upgrades>,
        gate: Arc<dyn Gate>,
        replays: Replays,
        seats: Seats,
        timing: Timing,
        knocks: mpsc::Sender<Knock>,
    ) -> Self {
        Self {
            upgrades,
            gate,
            replays: Arc::new(replays),
            seats,
            timing,
            knocks,
            doors: Vec::new(),
            told: VecDeque::new(),
        }
    }
}

impl Transport for Gated {
    type Output = Link;
    type Error = DialError;
    type ListenerUpgrade = Upgrade;
    type Dial = Upgrade;

    fn listen_on(
        &mut self,
        id: ListenerId,
        multiaddr: Multiaddr,
    ) -> Result<(), TransportError<DialError>> {
        let Some((address, None)) = from_multiaddr(&multiaddr) else {
            return Err(TransportError::MultiaddrNotSupported(multiaddr));
        };
        let door = Door::open(
            address,
            Arc::clone(&self.gate),
            Arc::clone(&self.replays),
            self.seats.clone(),
            self.timing.greeting,
        )
        .map_err(|error| TransportError::Other(DialError::Protocol(next_step(address, &error))))?;
        self.told.push_back(TransportEvent::NewAddress {
            listener_id: id,
            listen_addr: to_multiaddr(door.local()),
        });
        self.doors.push((id, door));
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        let Some(position) = self.doors.iter().position(|(known, _)| *known == id) else {
            return false;
        };
        let _ = self.doors.swap_remove(position);
        self.told.push_back(TransportEvent::ListenerClosed { listener_id: id, reason: Ok(()) });
        true
    }

    fn dial(
        &mut self,
        multiaddr: Multiaddr,
        _: DialOpts,
    ) -> Result<Upgrade, TransportError<DialError>> {
        let Some((address, expected)) = from_multiaddr(&multiaddr) else {
            return Err(TransportError::MultiaddrNotSupported(multiaddr));
        };
        let secret = secret_of(&multiaddr);
        let upgrades = Arc::clone(&self.upgrades);
        Ok(Box::pin(async move { upgrades.outbound(address, expected, secret).await }))
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Upgrade, DialError>> {
        let this = &mut *self;
        if let Some(event) = this.told.pop_front() {
            return Poll::Ready(event);
        }
        for (id, door) in &mut this.doors {
            let passed = loop {
                match door.poll_passed(cx) {
                    Poll::Ready(Ok(Passed {
                        stream, remote, seat, hello: Some(hello), ..
                    })) => {
                        // One that there is no room for is dropped; whoever knocks again.
                        let _ = this.knocks.try_send(Knock { stream, remote, hello, seat });
                    }
                    passed => break passed,
                }
            };
            match passed {
                Poll::Pending => {}
                Poll::Ready(Ok(passed)) => {
                    let local = passed.stream.local_addr().unwrap_or(door.local());
                    let upgrades = Arc::clone(&this.upgrades);
                    return Poll::Ready(TransportEvent::Incoming {
                        listener_id: *id,
                        local_addr: to_multiaddr(super::identity::canonical(local)),
                        send_back_addr: to_multiaddr(passed.remote),
                        upgrade: Box::pin(async move { upgrades.inbound(passed).await }),
                    });
                }
                Poll::Ready(Err(error)) => {
                    let text = next_step(door.local(), &error);
                    return Poll::Ready(TransportEvent::ListenerError {
                        listener_id: *id,
                        error: DialError::Protocol(text),
                    });
                }
            }
        }
        Poll::Pending
    }
}

/// What went wrong at a listening socket and what to do about it.
fn next_step(address: SocketAddr, error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    let advice = match error.kind() {
        ErrorKind::AddrInUse => format!(
            "; another process has port {0}: stop it (see `ss -ltnp 'sport = :{0}'`) or choose another with --port",
            address.port()
        ),
        ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE".into(),
        ErrorKind::AddrNotAvailable => "; no interface of this host has that address".into(),
        _ => match error.raw_os_error() {
            // EMFILE and ENFILE, which `ErrorKind` has no names for.
            Some(23 | 24) => "; too many open files: raise the limit (LimitNOFILE)".into(),
            _ => String::new(),
        },
    };
    format!("{error}{advice}")
}
