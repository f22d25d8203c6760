//! What one data thread passes on to another: everything of a round for that lane
//! at once, so that nothing is shared for a packet.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use epsilon_mesh::shard::{Kind, PassedBatch};
use nix::sys::eventfd::EventFd;

/// So many rounds of all other lanes wait for a thread that is busy; what is newer
/// is dropped and counted.
const ROUNDS: usize = 64;

/// The packets and datagrams of one round for one lane, in their order.
#[derive(Default)]
pub(super) struct Parcel {
    bytes: Vec<u8>,
    items: Vec<(Kind, Range<usize>)>,
}

impl Parcel {
    /// What is in it.
    pub(super) fn items(&self) -> impl Iterator<Item = (Kind, &[u8])> {
        self.items.iter().map(|(kind, range)| (*kind, &self.bytes[range.clone()]))
    }
}

/// Where a thread is handed what is for its lane.
#[derive(Clone)]
pub(super) struct Door {
    parcels: SyncSender<Parcel>,
    wake: Arc<EventFd>,
}

impl Door {
    /// A door, and what is behind it.
    pub(super) fn new(wake: Arc<EventFd>) -> (Self, Receiver<Parcel>) {
        let (parcels, receiver) = sync_channel(ROUNDS);
        (Self { parcels, wake }, receiver)
    }
}

/// Hands everything in a batch to the lanes that it is for; gives how much was
/// dropped because they do not keep up.
pub(super) fn hand_over(batch: &PassedBatch, doors: &[Door]) -> u64 {
    let mut dropped = 0;
    for (lane, door) in doors.iter().enumerate() {
        let mut parcel = Parcel::default();
        for (passed, bytes) in batch.iter().filter(|(passed, _)| usize::from(passed.lane) == lane) {
            let start = parcel.bytes.len();
            parcel.bytes.extend_from_slice(bytes);
            parcel.items.push((passed.kind, start..parcel.bytes.len()));
        }
        if parcel.items.is_empty() {
            continue;
        }
        match door.parcels.try_send(parcel) {
            Ok(()) => {
                // Fails only while the counter is at its end: the thread is going
                // to wake up anyway.
                let _ = door.wake.write(1);
            }
            Err(TrySendError::Full(parcel) | TrySendError::Disconnected(parcel)) => {
                dropped += parcel.items.len() as u64;
            }
        }
    }
    dropped
}

#[cfg(test)]
mod tests {
    use epsilon_mesh::shard::{Batch, Passed};
    use nix::sys::eventfd::EfdFlags;

    use super::*;

    #[test]
    fn every_lane_gets_what_is_for_it_in_order_and_what_does_not_fit_is_counted() {
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap());
        let (doors, receivers): (Vec<_>, Vec<_>) =
            (0..3).map(|_| Door::new(Arc::clone(&wake))).unzip();
        let mut batch: PassedBatch = Batch::new(4096, 0);
        for (lane, text) in [(1, "a"), (2, "b"), (1, "c")] {
            batch.push(Passed { lane, kind: Kind::Packet }, 1, |into| {
                into.copy_from_slice(text.as_bytes());
                1
            });
        }
        assert_eq!(hand_over(&batch, &doors), 0);
        let taken = |lane: usize| {
            let parcel = receivers[lane].try_recv().unwrap();
            parcel.items().map(|(_, bytes)| bytes.to_vec()).collect::<Vec<_>>().concat()
        };
        assert_eq!((taken(1), taken(2)), (b"ac".to_vec(), b"b".to_vec()));
        assert!(receivers[0].try_recv().is_err());
        assert_eq!(wake.read(), Ok(2));
        for _ in 0..ROUNDS {
            assert_eq!(hand_over(&batch, &doors), 0);
        }
        assert_eq!(hand_over(&batch, &doors), 3);
    }
}
