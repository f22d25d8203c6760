use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What the data plane counted since the daemon started; at most a second old.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Dataplane {
    /// The network.
    pub network: String,
    /// The mesh interface.
    #[schema(example = "eps0")]
    pub interface: String,
    /// How many threads carry packets.
    pub threads: u32,
    /// Whether the interface hands over and takes packets that stand for many.
    pub interface_offload: bool,
    /// Whether the kernel cuts UDP messages into datagrams.
    pub udp_segmentation: bool,
    /// Datagrams from the network.
    pub network_in: Batches,
    /// Datagrams to the network.
    pub network_out: Batches,
    /// Packets from this host.
    pub host_in: Batches,
    /// Packets to this host.
    pub host_out: Batches,
    /// Packets that went nowhere, by reason; reasons without any are left out.
    pub dropped: Vec<Drops>,
}

/// How much was carried in how few steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Batches {
    /// System calls, or rounds of reading or writing the interface.
    pub calls: u64,
    /// Messages, each of which stands for one packet or for many.
    pub messages: u64,
    /// Packets.
    pub packets: u64,
}

/// Packets that went nowhere for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Drops {
    /// Why, in one word: stable, for scripts.
    #[schema(example = "unopened")]
    pub reason: String,
    /// The same for people.
    pub meaning: String,
    /// How many.
    pub packets: u64,
}
