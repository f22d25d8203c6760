//! Hashes over the records, so that two members find in a few messages where
//! they differ.

use std::collections::{BTreeMap, BTreeSet};

use epsilon_proto::id::{Digest, NodeId};

use super::Members;
use super::devices::Devices;

/// How many buckets the records fall into, by the first bits of the node.
pub const BUCKETS: u8 = 64;

/// The bucket of a node.
pub(super) fn bucket_of(node: NodeId) -> u8 {
    node.0[0] % BUCKETS
}

/// The entries of a bucket, in order, without a look at all the others.
pub(super) fn entries<V>(
    of: &BTreeMap<NodeId, V>,
    index: u8,
) -> impl Iterator<Item = (&NodeId, &V)> {
    (index..=u8::MAX).step_by(usize::from(BUCKETS)).flat_map(|first| {
        let (mut least, mut most) = ([0; 32], [u8::MAX; 32]);
        (least[0], most[0]) = (first, first);
        of.range(NodeId(least)..=NodeId(most))
    })
}

/// The bucket hashes, computed anew only where something changed.
#[derive(Default)]
pub(super) struct Buckets {
    digests: BTreeMap<u8, Digest>,
    touched: BTreeSet<u8>,
}

impl Buckets {
    /// A node's record or list of devices changed.
    pub(super) fn touch(&mut self, node: NodeId) {
        self.touched.insert(bucket_of(node));
    }

    /// The hash of every bucket.
    pub(super) fn digests(&mut self, members: &Members, devices: &Devices) -> Vec<Digest> {
        self.refresh(members, devices);
        let empty = Digest::of_parts("epsilon/1 record bucket", &[]);
        (0..BUCKETS).map(|index| *self.digests.get(&index).unwrap_or(&empty)).collect()
    }

    /// The hash over all buckets.
    pub(super) fn root(&mut self, members: &Members, devices: &Devices) -> Digest {
        let digests = self.digests(members, devices);
        let parts: Vec<&[u8]> = digests.iter().map(|digest| &digest.0[..]).collect();
        Digest::of_parts("epsilon/1 records", &parts)
    }

    fn refresh(&mut self, members: &Members, devices: &Devices) {
        for index in std::mem::take(&mut self.touched) {
            let parts: Vec<&[u8]> = entries(members, index)
                .flat_map(|(node, member)| {
                    [&node.0[..], &member.digest.0[..], devices.digest(*node)]
                })
                .collect();
            self.digests.insert(index, Digest::of_parts("epsilon/1 record bucket", &parts));
        }
    }
}
