//! What a Control is made with, and what it has the shell do.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use epsilon_proto::document::DocumentError;
use epsilon_proto::gate::GateSecret;
use epsilon_proto::id::{BootId, NodeId};
use epsilon_proto::key::{SecretKey, SignatureCheck};
use epsilon_proto::message::Refusal;
use epsilon_proto::name::NodeName;
use epsilon_proto::prefix::Prefix;

#[cfg(doc)]
use super::Control;
use super::{ExchangeId, OperationError, OperationId, Outcome};
use crate::event::Event;
use crate::saved::{Advertised, Write};
use crate::shard::{self, Path, Relaying};

/// What a Control is made with.
pub struct Config {
    /// The node's identity.
    pub key: SecretKey,
    /// This run of the daemon.
    pub boot: BootId,
    /// The name to claim when the operator said none, from the host's name.
    pub hostname: Option<NodeName>,
    /// The version of the daemon.
    pub version: String,
    /// Checks signatures.
    pub check: Box<dyn SignatureCheck + Send + Sync>,
    /// How much it passes on for others, if it may be a relay.
    pub relaying: Option<Relaying>,
    /// Another TCP port at which it is called.
    pub tcp_port: Option<u16>,
}

/// Why a Control cannot be made from what was saved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A document in the store does not hold.
    #[error(
        "the state on disk does not hold: {0}; restore the state directory from a backup, or remove it and join again"
    )]
    Document(#[from] DocumentError),
    /// The certificate is not this identity's.
    #[error(
        "the certificate in the state directory is not this node's; restore the state directory from a backup, or remove it and join again"
    )]
    OtherIdentity,
}

/// A batch of writes, by which [`Control::handle_persisted`] names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub(super) u64);

/// What the shell must do.
#[derive(Debug)]
pub enum Output {
    /// Make these writes durable in one transaction, then say so.
    Persist {
        /// For [`Control::handle_persisted`].
        ticket: Ticket,
        /// The rows.
        writes: Vec<Write>,
    },
    /// Open a control connection.
    Dial {
        /// For [`Control::handle_dial_ended`].
        attempt: u64,
        /// Who must answer; anybody when absent.
        node: Option<NodeId>,
        /// Where.
        address: SocketAddr,
        /// With which of the gate's secrets to greet, by its place in
        /// [`Output::Gate`].
        secret: usize,
    },
    /// Open a stream: TLS over TCP, by which datagrams travel.
    OpenStream {
        /// For [`Control::handle_stream_opened`] and [`Control::handle_stream_failed`].
        attempt: u64,
        /// Where.
        address: SocketAddr,
        /// With which of the gate's secrets to greet, by its place in
        /// [`Output::Gate`].
        secret: usize,
    },
    /// Close the stream that has this address.
    CloseStream(SocketAddr),
    /// Close every control connection with a node.
    Disconnect(NodeId),
    /// Find out soon which control connections still work: this node may be somewhere else
    /// than before, or a NAT forgot it.
    CheckLinks,
    /// The next step of an admission.
    Admission {
        /// Which.
        exchange: ExchangeId,
        /// What to send.
        send: Option<Vec<u8>>,
        /// How it ended, when it did; for a refusal what to report.
        outcome: Option<Result<(), Refusal>>,
    },
    /// Ask a linked member.
    Request {
        /// Whom.
        node: NodeId,
        /// For [`Control::handle_response`].
        id: u64,
        /// A [`epsilon_proto::message::Request`].
        bytes: Vec<u8>,
    },
    /// Spread a [`epsilon_proto::message::Change`].
    Publish(Vec<u8>),
    /// Tell the data plane.
    Shard(shard::Command),
    /// This node's addresses on the mesh interface are these now.
    Addresses {
        /// The IPv4 address; none before there is a claim.
        ipv4: Option<Ipv4Addr>,
        /// The IPv6 addresses.
        ipv6: Vec<Ipv6Addr>,
    },
    /// The networks that are reached through the mesh are these now, and those that others
    /// reach through this node: the host's routes and its forwarding have to agree.
    Routes {
        /// Beyond members; default routes where there is an exit.
        beyond: Vec<Prefix>,
        /// Behind this node.
        behind: Vec<Advertised>,
    },
    /// Send a beacon on every interface.
    Beacon(Vec<u8>),
    /// The gate opens to these secrets now.
    Gate {
        /// In the order in which they are tried at a gate that is shut.
        secrets: Vec<GateSecret>,
        /// How many of the first are current; the others open the slow lane.
        current: usize,
    },
    /// Something happened.
    Event(Event),
    /// A probe of [`Control::ping`] was answered.
    Pong {
        /// Which one.
        transaction: u64,
        /// From where.
        from: Path,
        /// The round trip.
        rtt: Duration,
    },
    /// An operation of the operator came to its end.
    Done {
        /// Which.
        operation: OperationId,
        /// How.
        result: Result<Outcome, OperationError>,
    },
}
