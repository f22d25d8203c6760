use std::io;

use epsilon_mesh::shard::Stats;

/// What the data plane counts; published every second in which something
/// changed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DataStats {
    /// The peers, and what the shard dropped.
    pub shard: Stats,
    /// Datagrams that the kernel did not take.
    pub network: Failures,
    /// Packets that the host did not take.
    pub host: Failures,
    /// Packets of the host that are not what their header says.
    pub malformed: u64,
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

impl Failures {
    pub(super) fn count(&mut self, error: &io::Error, packets: usize) {
        self.count += packets as u64;
        self.last_errno = error.raw_os_error();
    }
}
