use std::io;
use std::ops::AddAssign;

use epsilon_mesh::shard::Stats;
use epsilon_sys::udp::Carried;

/// What the data plane counts; published every second in which something
/// changed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DataStats {
    /// How many threads count.
    pub threads: usize,
    /// The peers, and what the shard dropped.
    pub shard: Stats,
    /// Datagrams that the kernel did not take.
    pub network: Failures,
    /// Packets that the host did not take.
    pub host: Failures,
    /// Datagrams that the kernel dropped at the sockets: not for this node, or
    /// too many at once. The thread does not notice: [`super::Handle::stats`]
    /// asks for them.
    pub kernel: u64,
    /// Packets of the host that are not what their header says.
    pub malformed: u64,
    /// Packets of the host beyond the share of their peer, when there were too
    /// many.
    pub beyond_share: u64,
    /// Datagrams that a stream was too slow for, either way, or that was gone.
    pub streams: u64,
    /// Whether packets of the host may stand for many.
    pub interface_offload: bool,
    /// Whether the kernel cuts messages into datagrams.
    pub udp_segmentation: bool,
    /// Datagrams from the network.
    pub network_in: Carried,
    /// Datagrams to the network.
    pub network_out: Carried,
    /// Packets of the host: how often some were there, how many times the
    /// interface was read, and for how many packets that stood.
    pub host_in: Carried,
    /// Packets to the host: batches, writes, packets.
    pub host_out: Carried,
    /// Reports that Control did not take in time, beyond those that the
    /// shard itself dropped.
    pub reports: u64,
}

/// What the kernel refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Failures {
    /// How many.
    pub count: u64,
    /// The last reason as an error number.
    pub last_errno: Option<i32>,
}

impl DataStats {
    /// What another lane counts, too.
    pub(super) fn add(&mut self, other: &Self) {
        self.threads += other.threads;
        self.shard.peers.extend(other.shard.peers.iter().cloned());
        self.shard.peers.sort_by_key(|peer| peer.id);
        self.shard.dropped += other.shard.dropped;
        self.network += other.network;
        self.host += other.host;
        self.kernel += other.kernel;
        self.malformed += other.malformed;
        self.beyond_share += other.beyond_share;
        self.interface_offload &= other.interface_offload;
        self.udp_segmentation &= other.udp_segmentation;
        self.network_in += other.network_in;
        self.network_out += other.network_out;
        self.host_in += other.host_in;
        self.host_out += other.host_out;
        self.reports += other.reports;
    }
}

impl AddAssign for Failures {
    fn add_assign(&mut self, other: Self) {
        self.count += other.count;
        self.last_errno = self.last_errno.or(other.last_errno);
    }
}

impl Failures {
    pub(super) fn count(&mut self, error: &io::Error, packets: usize) {
        self.count += packets as u64;
        self.last_errno = error.raw_os_error();
    }
}
