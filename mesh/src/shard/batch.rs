//! The buffers that a data thread lends its shard.

use std::ops::Range;

use super::command::Path;
use super::lane::{Lane, Passed};

/// Bytes free in front of every packet for the host, for the header with
/// which the kernel takes coalesced packets (virtio, 10 bytes).
pub const HOST_HEADROOM: usize = 16;

/// The largest datagram or packet there is, in bytes.
pub const MAX_DATAGRAM: usize = 65_535;

/// Segments one behind the other in one buffer that is never moved or grown:
///
/// ```text
/// | headroom | segment | headroom | segment | …          free |
/// ```
///
/// Each has a target, and `headroom` bytes free in front of it in which a
/// header can be put without copying the segment.
pub struct Batch<T> {
    buffer: Box<[u8]>,
    headroom: usize,
    used: usize,
    segments: Vec<(T, Range<usize>)>,
}

/// Where a datagram goes, and as what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// The path it takes.
    pub path: Path,
    /// The ECN bits of its IP header (RFC 3168).
    pub ecn: u8,
    /// Whether it shall be lost where it does not fit, as it is sent to find that out.
    pub whole: bool,
}

impl From<Path> for Target {
    fn from(path: Path) -> Self {
        Self { path, ecn: 0, whole: false }
    }
}

/// Datagrams for the network.
pub type SendBatch = Batch<Target>;

/// Packets for the host's network stack.
pub type HostBatch = Batch<()>;

/// What is passed on to other lanes.
pub type PassedBatch = Batch<Passed>;

/// What a shard writes to: lent for one call, emptied by the thread.
pub struct Output {
    /// Datagrams for the network.
    pub network: SendBatch,
    /// Packets for the host.
    pub host: HostBatch,
    /// What is passed on to other lanes.
    pub passed: PassedBatch,
}

impl Output {
    /// For a node with one lane.
    pub fn new() -> Self {
        Self::of(Lane::ONLY)
    }

    /// Room for some of the largest and several hundred usual datagrams each
    /// way.
    pub fn of(lane: Lane) -> Self {
        let capacity = 12 * (MAX_DATAGRAM + HOST_HEADROOM);
        let passed = if lane.count() > 1 { capacity } else { 0 };
        Self {
            network: Batch::new(capacity, 0),
            host: Batch::new(capacity, HOST_HEADROOM),
            passed: Batch::new(passed, 0),
        }
    }

    /// Whether one more input of any kind may be handed to the shard before
    /// the batches are emptied.
    pub fn has_room(&self) -> bool {
        // One input gives at most one packet for the host. For the network it
        // gives an answer and what waited for a session, or what a packet stood
        // for that was split: little more than that, unless its segments are
        // tiny.
        let is_ready = |room: usize| room >= 4 * MAX_DATAGRAM;
        self.host.room() >= MAX_DATAGRAM
            && is_ready(self.network.room())
            && (self.passed.capacity() == 0 || is_ready(self.passed.room()))
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.network.is_empty() && self.host.is_empty() && self.passed.is_empty()
    }
}

impl Default for Output {
    fn default() -> Self {
        Self::new()
    }
}

impl SendBatch {
    /// [`Batch::push`], and makes what was written fit its path.
    pub(super) fn send(
        &mut self,
        target: impl Into<Target>,
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> usize,
    ) -> bool {
        let target = target.into();
        self.push(target, length, |into| {
            let written = fill(into);
            if let Path::Relayed(_, channel) = target.path {
                channel.mark(into);
            }
            written
        })
    }
}

impl<T> Batch<T> {
    /// An empty batch of `capacity` bytes, headrooms included.
    pub fn new(capacity: usize, headroom: usize) -> Self {
        Self {
            buffer: vec![0; capacity].into_boxed_slice(),
            headroom,
            used: 0,
            segments: Vec::with_capacity(128),
        }
    }

    /// The bytes of it all.
    fn capacity(&self) -> usize {
        self.buffer.len()
    }

    /// The longest segment that still fits.
    pub fn room(&self) -> usize {
        self.buffer.len().saturating_sub(self.used + self.headroom)
    }

    /// Adds a segment: hands out `length` bytes, and keeps as many as `fill`
    /// says that it wrote. `false` if there is no room or nothing was written.
    pub fn push(
        &mut self,
        target: impl Into<T>,
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> usize,
    ) -> bool {
        let start = self.used + self.headroom;
        let Some(free) = self.buffer.get_mut(start..start + length) else { return false };
        let written = fill(free).min(length);
        if written == 0 {
            return false;
        }
        self.used = start + written;
        self.segments.push((target.into(), start..self.used));
        true
    }

    /// The segments in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = (&T, &[u8])> {
        self.segments.iter().map(|(target, range)| (target, &self.buffer[range.clone()]))
    }

    /// A segment by its place.
    pub(super) fn segment(&self, index: usize) -> &[u8] {
        self.segments.get(index).map_or(&[], |(_, range)| &self.buffer[range.clone()])
    }

    /// The same, to be changed.
    pub(super) fn segment_mut(&mut self, index: usize) -> &mut [u8] {
        match self.segments.get(index) {
            Some((_, range)) => &mut self.buffer[range.clone()],
            None => &mut [],
        }
    }

    /// How many segments there are.
    pub fn len(&self) -> usize {
        self.segments.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Forgets all segments.
    pub fn clear(&mut self) {
        self.segments.clear();
        self.used = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(batch: &Batch<u8>) -> Vec<(u8, Vec<u8>)> {
        batch.iter().map(|(target, bytes)| (*target, bytes.to_vec())).collect()
    }

    #[test]
    fn segments_keep_their_order_target_and_headroom() {
        let mut batch = Batch::new(64, 8);
        for (target, text) in [(1, &b"one"[..]), (2, b"three")] {
            assert!(batch.push(target, 16, |into| {
                into[..text.len()].copy_from_slice(text);
                text.len()
            }));
        }
        assert_eq!(segments(&batch), [(1, b"one".to_vec()), (2, b"three".to_vec())]);
        assert_eq!(batch.segments[0].1, 8..11);
        assert_eq!(batch.segments[1].1, 19..24);
        batch.clear();
        assert!(batch.is_empty());
        assert_eq!(batch.room(), 56);
    }

    #[test]
    fn what_does_not_fit_or_was_not_written_leaves_no_trace() {
        let mut batch: Batch<u8> = Batch::new(32, 8);
        assert!(!batch.push(1, 25, |_| unreachable!("there is no room")));
        assert!(!batch.push(1, 24, |_| 0));
        assert!(batch.is_empty());
        assert_eq!(batch.room(), 24);
        assert!(batch.push(1, 24, |_| 24));
        assert_eq!(batch.room(), 0);
    }
}
