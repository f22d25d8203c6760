//! The two documents that the root signs once: what the network is, and how
//! its cluster begins.

use crate::address::Ipv4Range;
use crate::clock::Timestamp;
use crate::document::Document;
use crate::id::NodeId;
use crate::name::{Domain, NetworkName};
use crate::wire::{WireError, wire_enum, wire_struct, wire_unit_enum};

/// What a network is; root-signed and immutable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkBlock {
    /// The name that people use for it; also the directory of its state.
    pub name: NetworkName,
    /// Where its nodes' IPv4 addresses come from.
    pub range: Ipv4Range,
    /// The DNS domain of its nodes.
    pub domain: Domain,
    /// When it was made: clocks that show an earlier time do not count.
    pub founded: Timestamp,
}
wire_struct!(NetworkBlock { 0 => name, 1 => range, 2 => domain, 3 => founded });
impl Document for NetworkBlock {
    const TYPE: &'static str = "network";
}

/// How the cluster of one generation begins; root-signed and immutable for
/// its generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenesisBlock {
    /// 0 has no cluster.
    pub generation: u32,
    /// Who may initialise the cluster; absent in generation 0.
    pub mode: Option<GenesisMode>,
    /// What the cluster is made of.
    pub distribution: Distribution,
    /// When it was made.
    pub created: Timestamp,
}
wire_struct!(GenesisBlock { 0 => generation, 1 => mode, 2 => distribution, 3 => created }
check |block| if (block.generation == 0) == block.mode.is_none()
    && block.mode.is_none() == (block.distribution == Distribution::None) {
    Ok(())
} else {
    Err(WireError::Invalid("genesis block: generation, mode and distribution do not fit"))
});
impl Document for GenesisBlock {
    const TYPE: &'static str = "genesis";
    const MAX_BYTES: usize = 64 * 1024;
}

/// Who may initialise the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GenesisMode {
    /// This node and no other.
    Founder(NodeId),
    /// A quorum of the servers: at most the first number of server identities
    /// is issued before the decision, and at most the second number of them
    /// lose their disks by then.
    Servers((u8, u8)),
}
wire_enum!(GenesisMode { 0 => Founder, 1 => Servers });

/// What a cluster is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    /// No cluster.
    None,
    /// etcd alone.
    Etcd,
    /// k3s.
    K3s,
    /// Kubernetes by kubeadm.
    Kubeadm,
}
wire_unit_enum!(Distribution { 0 => None, 1 => Etcd, 2 => K3s, 3 => Kubeadm });
