//! Control connections, as the daemon's control plane builds them: connect,
//! gate, admission in lock step, then requests, responses and gossip.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use epsilon_mesh::control::ExchangeId;
use epsilon_proto::id::NodeId;

use super::topology::{Arrived, NatId};

/// Tells a connection from others.
pub(crate) type ConnectionId = usize;

/// Which end of a connection: the dialler is 0, the listener 1.
pub(crate) type Side = usize;

/// What travels on a connection, in order.
#[derive(Debug, Clone)]
pub(crate) enum Message {
    /// Of the admission.
    Frame(Vec<u8>),
    /// A question, by the asker's number.
    Request(u64, Vec<u8>),
    /// Its answer; none when the other side gave none.
    Response(u64, Option<Vec<u8>>),
    /// The other end closed.
    Close,
}

/// How far an end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Not yet past the gate.
    Connecting,
    /// In the admission.
    Admitting,
    /// Past it, not yet in use.
    Admitted,
    /// In use.
    Established,
    /// Gone.
    Closed,
}

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) machine: usize,
    pub(crate) run: u64,
    /// Who the machine was when the connection was made.
    pub(crate) node: NodeId,
    pub(crate) stage: Stage,
    pub(crate) exchange: Option<ExchangeId>,
    /// Whether the engine answered the last step, so that the next frame may
    /// be read.
    pub(crate) reading: bool,
    pub(crate) inbox: VecDeque<Message>,
    /// Not before this does the next message arrive here.
    pub(crate) arrival: Duration,
    /// What the partition holds up on its way here.
    pub(crate) held: VecDeque<Message>,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) ends: [End; 2],
    pub(crate) attempt: u64,
    pub(crate) expected: Option<NodeId>,
    pub(crate) address: SocketAddr,
    /// From where the listener sees it come.
    pub(crate) seen: SocketAddr,
    /// Through which NATs it goes.
    pub(crate) nats: Vec<NatId>,
    /// With which of its secrets the dialler greets.
    pub(crate) secret: usize,
    /// The gate did not open.
    pub(crate) shut: bool,
    /// Counts the times that a partition began or ended.
    pub(crate) spell: u64,
    /// Nothing gets through now.
    pub(crate) stalled: bool,
    /// One end lost its power: nothing ever gets through again.
    pub(crate) dead: bool,
}

impl Connection {
    pub(crate) fn new(
        ends: [(usize, u64, NodeId); 2],
        attempt: u64,
        expected: Option<NodeId>,
        (address, arrived): (SocketAddr, Arrived),
        secret: usize,
    ) -> Self {
        let end = |(machine, run, node)| End {
            machine,
            run,
            node,
            stage: Stage::Connecting,
            exchange: None,
            reading: false,
            inbox: VecDeque::new(),
            arrival: Duration::ZERO,
            held: VecDeque::new(),
        };
        Self {
            ends: ends.map(end),
            attempt,
            expected,
            address,
            seen: arrived.from,
            nats: arrived.nats,
            secret,
            shut: false,
            spell: 0,
            stalled: false,
            dead: false,
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.ends.iter().all(|end| end.stage == Stage::Closed)
    }
}
