//! What the engine says to the control plane and what it hears back.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::gate::Lane;

/// A node's ed25519 public key: its only name on the control plane.
pub type NodeKey = [u8; 32];

/// How one control plane is set up.
pub struct Config {
    /// The node's ed25519 secret; the handshake proves its possession.
    pub secret: Zeroizing<[u8; 32]>,
    /// Addresses to listen on. `[::]:port` takes IPv4 as well and falls back to
    /// `0.0.0.0:port` where IPv6 is off. Port 0 lets the kernel choose.
    pub listen: Vec<SocketAddr>,
    /// The one gossip topic of this network.
    pub topic: String,
    /// Caps on what others may make this node hold.
    pub limits: Limits,
    /// How long anything may take.
    pub timing: Timing,
}

/// Caps on what others may make this node hold.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Inbound connections that are not yet admitted, all together.
    pub pending: usize,
    /// The same, per remote IPv4 address or IPv6 /64.
    pub pending_per_remote: usize,
    /// The same, for greetings under an older gate epoch.
    pub pending_slow: usize,
    /// Greetings remembered in order to refuse their replay.
    pub remembered_greetings: usize,
    /// Bytes in one admission frame.
    pub admission_frame: usize,
    /// Bytes in one request or response.
    pub request: usize,
    /// Bytes in one gossip message.
    pub gossip: usize,
    /// Requests under way at the same time, per connection and direction; ours
    /// beyond that wait their turn. All nodes should have the same limit.
    pub requests_per_link: usize,
    /// Connections at the same time, per peer.
    pub connections_per_peer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pending: 256,
            pending_per_remote: 64,
            pending_slow: 8,
            remembered_greetings: 4096,
            admission_frame: 256 * 1024,
            request: 1024 * 1024,
            gossip: 64 * 1024,
            requests_per_link: 16,
            connections_per_peer: 8,
        }
    }
}

/// How long anything may take.
#[derive(Clone, Debug)]
pub struct Timing {
    /// For an inbound connection to send its greeting.
    pub greeting: Duration,
    /// From the first SYN to the end of the Noise handshake.
    pub dial: Duration,
    /// For the whole admission exchange.
    pub admission: Duration,
    /// From a request to its response.
    pub request: Duration,
    /// Silence of a peer's host after which a link is closed. The kernels ask each other
    /// meanwhile, which costs a fifth of what the processes' asking does: an idle link is
    /// most of what an idle node costs.
    pub silence: Duration,
    /// Silence of a peer's process after which it is probed.
    pub ping_interval: Duration,
    /// For the answer to a probe, before the link is closed.
    pub ping_timeout: Duration,
    /// For two connections to the same peer to live side by side, at least.
    pub duplicate_grace: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            greeting: Duration::from_secs(2),
            dial: Duration::from_millis(2500),
            admission: Duration::from_secs(5),
            request: Duration::from_secs(10),
            silence: Duration::from_secs(36),
            ping_interval: Duration::from_mins(5),
            ping_timeout: Duration::from_secs(12),
            duplicate_grace: Duration::from_secs(1),
        }
    }
}

/// What the engine asks of the control plane.
#[derive(Debug)]
pub enum Command {
    /// Connect to `address`; answered by exactly one [`Event::Dialled`] or
    /// [`Event::DialFailed`] with the same `attempt`.
    Dial {
        /// The engine's own number for this attempt.
        attempt: u64,
        /// Who has to answer there, when that is known.
        peer: Option<NodeKey>,
        /// Where to connect.
        address: SocketAddr,
        /// With which of the gate's secrets to greet, newest first.
        secret: usize,
    },
    /// Close every connection to this peer at once.
    Disconnect(NodeKey),
    /// Close the connections whose other end does not answer at once.
    CheckLinks,
    /// Ask a linked peer; answered by exactly one [`Event::Response`].
    Request {
        /// The engine's own number for this request.
        id: u64,
        /// Whom to ask.
        peer: NodeKey,
        /// The question.
        bytes: Vec<u8>,
    },
    /// Answer an [`Event::Request`].
    Respond {
        /// The channel that came with the request.
        channel: ResponseChannel,
        /// The answer.
        bytes: Vec<u8>,
    },
    /// Spread a message to every member that can be reached, as far as they are
    /// known to listen: a peer linked a moment ago may miss it.
    ///
    /// Nothing is reported back. Too large a message is not sent, nor one that
    /// was heard or published in the last minute.
    Publish(Vec<u8>),
    /// Say what becomes of a message heard by [`Event::Gossip`], within 30 s.
    Verdict {
        /// The message.
        message: MessageId,
        /// Whether it is passed on.
        accept: Accept,
    },
    /// Close every link, then stop. Dials and requests under way get no answer.
    Shutdown,
}

/// What becomes of a gossip message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// Good: pass it on.
    Accept,
    /// Not worth passing on, and nobody's fault.
    Ignore,
    /// Bad: not passed on.
    Reject,
}

/// One heard gossip message and who brought it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageId {
    pub(super) hash: [u8; 32],
    pub(super) from: NodeKey,
}

/// The way back for one answer. Dropping it fails the request at the asker.
#[derive(Debug)]
pub struct ResponseChannel(pub(super) oneshot::Sender<Vec<u8>>);

/// What the control plane tells the engine.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// Connections are accepted here.
    Listening(SocketAddr),
    /// Connections are not accepted there for now. Said once per spell of
    /// trouble; accepting goes on by itself when it can.
    ListenFailed {
        /// The address that was asked for.
        address: SocketAddr,
        /// What went wrong, for people.
        reason: String,
    },
    /// A peer was admitted and can be talked to. Once per peer until `LinkDown`.
    LinkUp {
        /// Who it is.
        peer: NodeKey,
        /// Its end of the first connection.
        remote: SocketAddr,
        /// Our end of the first connection.
        local: Option<SocketAddr>,
        /// Whether we dialled it.
        outbound: bool,
    },
    /// The last connection to a peer is gone.
    LinkDown {
        /// Who it was.
        peer: NodeKey,
    },
    /// A dial ended with an admitted connection; `LinkUp` came before it.
    Dialled {
        /// The engine's number for the attempt.
        attempt: u64,
        /// Who answered.
        peer: NodeKey,
    },
    /// A dial ended without a connection.
    DialFailed {
        /// The engine's number for the attempt.
        attempt: u64,
        /// Where it went.
        address: SocketAddr,
        /// Why it failed.
        reason: DialError,
    },
    /// A linked peer asks.
    Request {
        /// Who asks.
        peer: NodeKey,
        /// The question.
        bytes: Vec<u8>,
        /// The way back for the answer.
        channel: ResponseChannel,
    },
    /// A request of ours has ended.
    Response {
        /// The engine's number for the request.
        id: u64,
        /// The answer, or why there is none.
        result: Result<Vec<u8>, RequestError>,
    },
    /// A gossip message was heard; it waits for its [`Command::Verdict`].
    Gossip {
        /// The peer that brought it: not its author.
        from: NodeKey,
        /// To be named in the verdict.
        message: MessageId,
        /// The message.
        bytes: Vec<u8>,
    },
}

/// Why a dial ended without a connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The host is there and the port is closed.
    #[error("connection refused: nothing listens there; check that meshd runs there and the port")]
    Closed,
    /// There is no way to the host.
    #[error("no route to the host; check the address and the network")]
    Unreachable,
    /// Nothing came back in time.
    #[error("no answer in time; check the address and any firewall between")]
    TimedOut,
    /// Something listens there and hung up on our greeting, or answered gibberish.
    ///
    /// A member that is overloaded at that moment looks the same from outside.
    #[error("nobody at that address has this network's key; check the token and the address")]
    NotOurNetwork,
    /// The address leads back to this node.
    #[error("that address is this node itself")]
    Myself,
    /// Another member answered than the one that was asked for.
    #[error("another member answers at that address")]
    OtherIdentity {
        /// Who was asked for.
        expected: NodeKey,
        /// Who answered.
        found: NodeKey,
    },
    /// Admission ended with this reason, from whichever side gave it; the bytes are the engine's.
    #[error("admission was refused")]
    Refused(Vec<u8>),
    /// The other side broke the protocol or went away in the middle of it.
    #[error("the connection failed: {0}")]
    Protocol(String),
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// There is no link to that peer.
    #[error("no link to that peer")]
    NotLinked,
    /// The link went away before the answer came; the peer may have acted on it.
    #[error("the link was lost before the answer came")]
    LinkLost,
    /// The answer did not come in time; the peer may have acted on it.
    #[error("no answer in time")]
    TimedOut,
    /// The request or the answer was larger than allowed, or the peer gave none.
    #[error("the request failed: {0}")]
    Failed(String),
}

/// What the admission exchanges ask of the engine.
#[derive(Debug)]
#[non_exhaustive]
pub enum AdmissionEvent {
    /// Noise is done and a peer is at the door.
    Begin {
        /// The number of this exchange, unique in this run.
        exchange: u64,
        /// Whose possession of the key is proven.
        peer: NodeKey,
        /// Its end of the connection.
        remote: SocketAddr,
        /// Whether we dialled it.
        outbound: bool,
        /// The lane that the gate gave; `Current` when we dialled.
        lane: Lane,
        /// The first step.
        reply: oneshot::Sender<AdmissionStep>,
    },
    /// The peer sent a frame.
    Frame {
        /// The exchange it belongs to.
        exchange: u64,
        /// The frame.
        bytes: Vec<u8>,
        /// The next step.
        reply: oneshot::Sender<AdmissionStep>,
    },
    /// The exchange was cut off before its outcome: forget it.
    Ended {
        /// The exchange.
        exchange: u64,
    },
}

/// The engine's answer inside an admission exchange.
///
/// A step without an outcome waits for the peer's next frame. Both sides end an
/// exchange by themselves, so `Ok` may only be said once the peer's verdict is
/// known and one's own is in `send` or was sent before. Even then only
/// [`Event::LinkUp`] says that there is a link: the connection may break first.
#[derive(Debug, Default)]
pub struct AdmissionStep {
    /// A frame to send, before anything else.
    pub send: Option<Vec<u8>>,
    /// The end of the exchange, after sending.
    pub outcome: Option<Result<(), Refusal>>,
}

/// Why a peer was not admitted, in the engine's own encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub Vec<u8>);

/// Why the control plane could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An address could not be listened on.
    #[error("cannot listen on TCP {address}: {reason}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What went wrong and the next step.
        reason: String,
    },
    /// A setting that the libraries below refuse.
    #[error("cannot set up the control plane: {0}")]
    Setup(String),
    /// Called outside a tokio runtime.
    #[error("cannot start the control plane outside a tokio runtime")]
    NoRuntime,
}

/// The control plane has stopped and takes no more commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the control plane has stopped")]
pub struct Stopped;
