//! Streams: datagrams by TLS over TCP, where UDP does not get through.
//!
//! ```text
//!   data threads ──► queue, the oldest dropped ──► writer ─┐
//!   data thread  ◄── parcels ◄──────────────────── reader ─┴─ TLS ─ TCP ─ another member
//! ```
//!
//! What travels is sealed for its end already, as in any datagram; TLS makes it look like
//! what networks let through. So nobody proves by TLS who they are: whoever opens a stream
//! shows the gate's greeting with its first words, before it is answered at all, and who is
//! at the other end is found out by probes, as for any address.

mod frames;
mod tls;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use epsilon_proto::address::stream_address;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

use crate::control::{Gate, Knock, Origin, connect};
use crate::data;
pub use tls::Error;
use tls::{Rewound, Tls};

/// Events that may wait; who makes more waits, too.
const QUEUE: usize = 256;
/// From the first segment to the end of TLS's handshake.
const OPEN: Duration = Duration::from_millis(2500);
/// So many streams of others may be open at once, and so many from one address: members
/// behind one NAT have one.
const MOST: usize = 512;
const MOST_PER_ORIGIN: usize = 64;
/// A stream whose other end acknowledges nothing for so long is none any more.
const SILENCE: Duration = Duration::from_secs(15);
/// When nothing travels, the other end is asked so often whether it is there.
const KEEPALIVE: Duration = Duration::from_mins(1);
/// So many bytes may wait in the kernel, beyond those under way: the oldest of the others
/// can still be dropped.
const NOT_SENT: u32 = 64 << 10;

/// What became of a stream.
#[derive(Debug)]
pub enum Event {
    /// One that was asked for is open.
    Opened {
        /// Who asked.
        attempt: u64,
        /// Its address.
        stream: SocketAddr,
    },
    /// One that was asked for came to nothing.
    Failed {
        /// Who asked.
        attempt: u64,
        /// Where.
        address: SocketAddr,
        /// Why.
        reason: io::Error,
        /// Whether the port was open, but the gate shut.
        shut: bool,
    },
    /// Another member opened one.
    Accepted {
        /// Its address.
        stream: SocketAddr,
        /// From where.
        remote: SocketAddr,
    },
    /// One is none any more.
    Closed {
        /// Its address.
        stream: SocketAddr,
    },
}

/// All streams of a network.
pub struct Streams {
    shared: Arc<Shared>,
    events: mpsc::Receiver<Event>,
}

struct Shared {
    gate: Arc<dyn Gate>,
    tls: Tls,
    data: data::Streams,
    events: mpsc::Sender<Event>,
    open: Mutex<BTreeMap<SocketAddr, Open>>,
    last: AtomicU64,
}

/// A stream that is open.
struct Open {
    /// Ends it.
    stop: Arc<Notify>,
    /// From where it was opened, if another did.
    origin: Option<Origin>,
}

impl Streams {
    /// Takes those that knock from now on.
    pub fn start(
        gate: Arc<dyn Gate>,
        data: data::Streams,
        mut knocks: mpsc::Receiver<Knock>,
    ) -> Result<Self, Error> {
        let (sender, events) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared {
            gate,
            tls: Tls::new()?,
            data,
            events: sender,
            open: Mutex::default(),
            last: AtomicU64::new(0),
        });
        let accepting = Arc::downgrade(&shared);
        tokio::spawn(async move {
            while let Some(knock) = knocks.recv().await {
                let Some(shared) = accepting.upgrade() else { break };
                tokio::spawn(shared.accept(knock));
            }
        });
        Ok(Self { shared, events })
    }

    /// What becomes of streams next.
    pub async fn event(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Opens a stream; [`Event::Opened`] or [`Event::Failed`] says what came of it.
    pub fn open(&self, attempt: u64, address: SocketAddr, secret: usize) {
        tokio::spawn(Arc::clone(&self.shared).open(attempt, address, secret));
    }

    /// Closes a stream, if it is open.
    pub fn close(&self, stream: SocketAddr) {
        if let Some(open) = self.shared.all().get(&stream) {
            open.stop.notify_one();
        }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        for open in self.shared.all().values() {
            open.stop.notify_one();
        }
    }
}

impl Shared {
    fn all(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn tell(&self, event: Event) {
        // The network has stopped.
        let _ = self.events.send(event).await;
    }

    async fn open(self: Arc<Self>, attempt: u64, address: SocketAddr, secret: usize) {
        let mut is_connected = false;
        let opening = async {
            let tcp = tuned(connect(address).await?);
            is_connected = true;
            self.tls.open(&self.gate.greet(secret), address.ip(), tcp).await
        };
        let opened = timeout(OPEN, opening).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()));
        match opened {
            Ok(tls) => {
                if let Some((stream, stop)) = self.note(None) {
                    self.serve(tls, stream, &stop, Event::Opened { attempt, stream }).await;
                }
            }
            Err(reason) => {
                // Who hangs up has another secret; who says nothing may be anything.
                let shut = is_connected && reason.kind() != io::ErrorKind::TimedOut;
                self.tell(Event::Failed { attempt, address, reason, shut }).await;
            }
        }
    }

    async fn accept(self: Arc<Self>, knock: Knock) {
        let Knock { stream: tcp, remote, hello, seat } = knock;
        let accepting = self.tls.accept(Rewound::new(hello, tuned(tcp)));
        let accepted = timeout(OPEN, accepting).await;
        drop(seat);
        match accepted {
            Ok(Ok(tls)) => {
                if let Some((stream, stop)) = self.note(Some(Origin::from(remote.ip()))) {
                    let event = Event::Accepted { stream, remote };
                    self.serve(tls, stream, &stop, event).await;
                } else {
                    tracing::debug!(%remote, "no room for another stream");
                }
            }
            Ok(Err(error)) => tracing::debug!(%remote, %error, "a stream came to nothing"),
            Err(_) => tracing::debug!(%remote, "a stream took too long to open"),
        }
    }

    /// An address for a stream, if there may be another from there.
    fn note(&self, origin: Option<Origin>) -> Option<(SocketAddr, Arc<Notify>)> {
        let mut all = self.all();
        if origin.is_some() {
            let of_others = all.values().filter(|open| open.origin.is_some()).count();
            let of_it = all.values().filter(|open| open.origin == origin).count();
            if of_others >= MOST || of_it >= MOST_PER_ORIGIN {
                return None;
            }
        }
        let stream = stream_address(self.last.fetch_add(1, Ordering::Relaxed) + 1);
        let stop = Arc::new(Notify::new());
        all.insert(stream, Open { stop: Arc::clone(&stop), origin });
        Some((stream, stop))
    }

    /// Carries datagrams until the stream ends.
    async fn serve(
        &self,
        tls: impl AsyncRead + AsyncWrite + Unpin,
        stream: SocketAddr,
        stop: &Notify,
        begun: Event,
    ) {
        let queue = self.data.open(stream);
        if self.events.send(begun).await.is_err() {
            // The network has stopped.
            return self.data.close(stream);
        }
        let (reading, writing) = tokio::io::split(tls);
        let ended = tokio::select! {
            ended = frames::read(reading, |datagrams| self.data.deliver(stream, datagrams)) => ended,
            ended = frames::write(writing, &queue) => ended,
            () = stop.notified() => Ok(()),
        };
        if let Err(error) = ended {
            tracing::debug!(%stream, %error, "a stream ended");
        }
        self.data.close(stream);
        self.all().remove(&stream);
        self.tell(Event::Closed { stream }).await;
    }
}

fn tuned(stream: TcpStream) -> TcpStream {
    let socket = SockRef::from(&stream);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(SILENCE / 3);
    let tuned = socket
        .set_tcp_nodelay(true)
        .and_then(|()| socket.set_tcp_user_timeout(Some(SILENCE)))
        .and_then(|()| socket.set_tcp_keepalive(&keepalive))
        .and_then(|()| socket.set_tcp_notsent_lowat(NOT_SENT));
    if let Err(error) = tuned {
        tracing::debug!(%error, "cannot tune a stream");
    }
    stream
}

#[cfg(test)]
mod tests;
