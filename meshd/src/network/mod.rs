//! One network that the daemon serves: the shell around one engine.
//!
//! ```text
//!  control plane ─┐                      ┌─► control plane
//!  data plane ────┤   one task: inputs   ├─► data plane, interface
//!  store ─────────┼─► into the engine, ──┼─► store
//!  netlink ───────┤   outputs carried    ├─► beacons
//!  orders ────────┘   out in their order └─► journal, answers
//! ```
//!
//! Nothing is decided here. The task ends when it is told to, or when a part
//! that it cannot do without has ended; then it says why.

mod discovery;
mod gate;
mod interface;
mod join;
mod names;
mod portmap;
pub(crate) mod provisional;
mod routing;
mod surroundings;
mod task;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use epsilon_mesh::control::{InviteView, Operation, OperationError, Outcome, StartError, View};
use epsilon_mesh::saved::Settings;
use epsilon_mesh::shard;
use epsilon_proto::clock::Timestamp;
use epsilon_proto::id::{NodeId, PublicKey};
use epsilon_proto::message::Refusal;
use epsilon_proto::name::NetworkName;
use epsilon_sys::netlink;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::api::Journal;
use crate::data::DataStats;
use crate::store::StoreError;
use crate::{control, data};

pub use interface::{Seen, collision, free_name, is_mesh_name, reachable_addresses};
pub use join::{JoinError, Joined};
pub use portmap::{Protocol as PortMappingProtocol, State as PortMappingState};
pub use routing::{Conflict, conflicts};

/// How often it is asked whether there is a way by which to ping.
const PING_AGAIN: Duration = Duration::from_millis(50);

/// The file with the node's secret key, in the network's directory.
pub const IDENTITY_FILE: &str = "identity.key";
/// The file with the root key, on the machine that made the network.
pub const ROOT_FILE: &str = "root.key";
/// Orders that may wait.
const ORDERS: usize = 64;

/// What a network is started with.
pub struct Config {
    /// The directory of its state.
    pub dir: PathBuf,
    /// Whether beacons are sent and heard.
    pub multicast: bool,
    /// How many threads carry packets.
    pub lanes: u8,
    /// How much is passed on for others, if anything.
    pub relaying: Option<shard::Relaying>,
    /// Another TCP port at which members are let in.
    pub tcp_port: Option<u16>,
    /// Whether the router is asked for ports.
    pub port_mapping: bool,
    /// Where events are recorded.
    pub journal: Journal,
    /// Whether the network was made just now, so that nobody else is there.
    pub founding: bool,
}

/// Why a network cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of its state.
    #[error(transparent)]
    File(#[from] epsilon_sys::file::Error),
    /// The identity's file has the wrong length.
    #[error(
        "{0} is not a node's key: it must be 32 bytes; restore it from a backup, or remove the directory and join again"
    )]
    Identity(PathBuf),
    /// Its store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What the store holds.
    #[error(transparent)]
    Engine(#[from] StartError),
    /// Its interface, sockets or thread.
    #[error(transparent)]
    Data(#[from] data::Error),
    /// Its control connections.
    #[error(transparent)]
    Control(#[from] control::Error),
    /// TLS, for streams.
    #[error(transparent)]
    Streams(#[from] crate::stream::Error),
    /// The kernel's interfaces and addresses.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// The data port cannot be shared with discovery.
    #[error(
        "cannot use the data port for discovery: {0}; it works without: set multicast = false under [discovery] in meshd.toml"
    )]
    Discovery(std::io::Error),
    /// A part ended that nothing works without.
    #[error("the {part} of network {network} ended: {reason}; see the daemon's log")]
    Ended {
        /// Which part.
        part: &'static str,
        /// Of which network.
        network: NetworkName,
        /// Why.
        reason: String,
    },
}

/// What a network knows, for people.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The engine's view.
    pub view: View,
    /// The invites.
    pub invites: Vec<InviteView>,
    /// The admins: key, name, since when, whether still.
    pub admins: Vec<(PublicKey, String, Timestamp, bool)>,
    /// What the operator said.
    pub settings: Settings,
    /// The data plane's counters.
    pub stats: DataStats,
    /// Calls that came to nothing, by address, while nobody is linked.
    pub failed_calls: Vec<(SocketAddr, String)>,
    /// Why the last member that was called did not let this node in, while
    /// nobody is linked.
    pub refusal: Option<Refusal>,
    /// What is wrong with the interface, if something is.
    pub interface_problem: Option<String>,
    /// Why the host does not route as it should, if it does not.
    pub routing_problem: Option<String>,
    /// What the interface was when it was looked at last.
    pub interface: Seen,
    /// The ports of the router, unless it is not asked for any.
    pub port_mapping: Option<portmap::State>,
    /// The directory of the state.
    pub dir: PathBuf,
    /// When the network was started by this daemon.
    pub started: Timestamp,
    /// Whether this machine keeps the root key.
    pub keeps_root: bool,
}

/// What a network can be told.
enum Order {
    Snapshot(oneshot::Sender<Box<Snapshot>>),
    Operate(Box<Operation>, oneshot::Sender<Result<Outcome, OperationError>>),
    Ping(NodeId, oneshot::Sender<Option<Pong>>),
    LookWhetherOpen(oneshot::Sender<()>),
    Joined(oneshot::Sender<Result<Joined, JoinError>>),
    Stop,
}

/// The answer to a ping, or where it went when none came.
#[derive(Debug, Clone, Copy)]
pub struct Pong {
    /// Where the probe went.
    pub to: shard::Path,
    /// The round trip.
    pub rtt: Option<Duration>,
}

/// A network that is served.
pub struct Network {
    name: NetworkName,
    dir: PathBuf,
    interface: String,
    orders: mpsc::Sender<Order>,
    task: JoinHandle<Result<(), Error>>,
}

/// The network has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the network has stopped")]
pub struct Stopped;

impl Network {
    /// Serves the network whose state is in a directory.
    pub async fn start(config: Config) -> Result<Self, Error> {
        let dir = config.dir.clone();
        let task = Box::pin(task::Task::new(config)).await?;
        let (orders, queue) = mpsc::channel(ORDERS);
        let (name, interface) = (task.name().clone(), task.interface().to_owned());
        let task = tokio::spawn(task.run(queue));
        Ok(Self { name, dir, interface, orders, task })
    }

    /// Its name.
    pub fn name(&self) -> &NetworkName {
        &self.name
    }

    /// The directory of its state.
    pub fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    /// Its interface.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// A way to ask it things.
    pub fn client(&self) -> Client {
        Client { orders: self.orders.clone() }
    }

    /// Whether it ended by itself.
    pub fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Stops it; says why it ended if that was earlier.
    pub async fn stop(self) -> Result<(), Error> {
        // A network that ended takes no orders, and is stopped already.
        let _ = self.orders.send(Order::Stop).await;
        match self.task.await {
            Ok(result) => result,
            Err(error) => {
                Err(Error::Ended { part: "task", network: self.name, reason: error.to_string() })
            }
        }
    }
}

/// Asks a network things.
#[derive(Clone)]
pub struct Client {
    orders: mpsc::Sender<Order>,
}

impl Client {
    /// Whether both ask the same network.
    pub fn is_same(&self, other: &Self) -> bool {
        self.orders.same_channel(&other.orders)
    }

    async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(order(reply)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// What it knows.
    pub async fn snapshot(&self) -> Result<Snapshot, Stopped> {
        self.ask(Order::Snapshot).await.map(|snapshot| *snapshot)
    }

    /// Orders something; ends when it is done.
    pub async fn operate(
        &self,
        operation: Operation,
    ) -> Result<Result<Outcome, OperationError>, Stopped> {
        self.ask(|reply| Order::Operate(Box::new(operation), reply)).await
    }

    /// Probes a peer once, as soon as there is a way that answers, and gives up after a time:
    /// then there is no answer.
    pub async fn ping(&self, node: NodeId, wait: Duration) -> Result<Option<Pong>, Stopped> {
        let answer = async {
            loop {
                match self.ask(|reply| Order::Ping(node, reply)).await {
                    Ok(None) => tokio::time::sleep(PING_AGAIN).await,
                    answer => return answer,
                }
            }
        };
        tokio::time::timeout(wait, answer).await.unwrap_or(Ok(None))
    }

    /// Has a member probe this node unasked, if there is one that can.
    pub async fn look_whether_open(&self) -> Result<(), Stopped> {
        self.ask(Order::LookWhetherOpen).await
    }

    /// Waits until it is clear whether this node is a member.
    pub async fn joined(&self) -> Result<Result<Joined, JoinError>, Stopped> {
        self.ask(Order::Joined).await
    }
}
