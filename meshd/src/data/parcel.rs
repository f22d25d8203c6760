//! What one data thread passes on to another: everything of a round for that lane
//! at once, so that nothing is shared for a packet.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use epsilon_mesh::shard::{Kind, PassedBatch, Path};
use nix::sys::eventfd::EventFd;

/// So many rounds of packets, and as many of datagrams, wait for a thread that is
/// busy; what is newer is dropped and counted.
const ROUNDS: usize = 32;

/// The packets or datagrams of one round for one lane, in their order.
#[derive(Default)]
struct Parcel {
    bytes: Vec<u8>,
    items: Vec<(Kind, Range<usize>)>,
}

impl Parcel {
    fn add(&mut self, kind: Kind, bytes: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.items.push((kind, start..self.bytes.len()));
    }
}

/// Where a thread is handed what is for its lane, and what came by streams. Datagrams, of
/// which handshakes are a part, have a way of their own: a flood of packets does not keep
/// them out.
#[derive(Clone)]
pub(super) struct Door {
    ways: [SyncSender<Parcel>; 3],
    wake: Arc<EventFd>,
}

/// What is behind a door.
pub(super) struct Inbox {
    ways: [Way; 2],
    streams: Way,
    /// Whose turn it is.
    turn: usize,
}

/// Parcels of one kind, and what was not read yet of the first.
struct Way {
    parcels: Receiver<Parcel>,
    open: Parcel,
    read: usize,
}

impl Way {
    fn next(&mut self) -> Option<(Kind, Range<usize>)> {
        if self.read == self.open.items.len() {
            self.open = self.parcels.try_recv().ok()?;
            self.read = 0;
        }
        let item = self.open.items.get(self.read)?;
        self.read += 1;
        Some(item.clone())
    }
}

impl Inbox {
    /// The next: datagrams and packets in turns, so that neither keeps the other
    /// waiting.
    pub(super) fn next(&mut self) -> Option<(Kind, &[u8])> {
        let first = self.turn;
        self.turn = 1 - first;
        for way in [first, 1 - first] {
            if let Some((kind, range)) = self.ways[way].next() {
                return Some((kind, &self.ways[way].open.bytes[range]));
            }
        }
        None
    }

    /// The next that came by a stream, and by which.
    pub(super) fn next_of_streams(&mut self) -> Option<(SocketAddr, &[u8])> {
        let (kind, range) = self.streams.next()?;
        match kind {
            Kind::Datagram { from, .. } => Some((from.address(), &self.streams.open.bytes[range])),
            Kind::Packet => None,
        }
    }
}

impl Door {
    /// A door, and what is behind it.
    pub(super) fn new(wake: Arc<EventFd>) -> (Self, Inbox) {
        let way = || {
            let (sender, parcels) = sync_channel(ROUNDS);
            (sender, Way { parcels, open: Parcel::default(), read: 0 })
        };
        let [(datagrams, first), (packets, second), (by_streams, third)] = [(); 3].map(|()| way());
        let inbox = Inbox { ways: [first, second], streams: third, turn: 0 };
        (Self { ways: [datagrams, packets, by_streams], wake }, inbox)
    }

    /// Hands over what came by a stream; says how much is lost of it.
    pub(super) fn deliver(
        &self,
        stream: SocketAddr,
        datagrams: &mut dyn Iterator<Item = &[u8]>,
    ) -> u64 {
        let kind = Kind::Datagram { from: Path::Direct(stream), mark: 0 };
        let mut parcel = Parcel::default();
        for datagram in datagrams {
            parcel.add(kind, datagram);
        }
        self.take(2, parcel)
    }

    /// Hands a parcel over, or says how much is lost with it.
    fn take(&self, way: usize, parcel: Parcel) -> u64 {
        match self.ways[way].try_send(parcel) {
            Ok(()) => {
                // Fails only while the counter is at its end: the thread is going
                // to wake up anyway.
                let _ = self.wake.write(1);
                0
            }
            Err(TrySendError::Full(parcel) | TrySendError::Disconnected(parcel)) => {
                parcel.items.len() as u64
            }
        }
    }
}

/// Hands everything in a batch to the lanes that it is for; gives how much was
/// dropped because they do not keep up.
pub(super) fn hand_over(batch: &PassedBatch, doors: &[Door]) -> u64 {
    let mut dropped = 0;
    for (lane, door) in doors.iter().enumerate() {
        let mut parcels = [Parcel::default(), Parcel::default()];
        for (passed, bytes) in batch.iter().filter(|(passed, _)| usize::from(passed.lane) == lane) {
            let parcel = &mut parcels[usize::from(passed.kind == Kind::Packet)];
            parcel.add(passed.kind, bytes);
        }
        for (way, parcel) in parcels.into_iter().enumerate() {
            if !parcel.items.is_empty() {
                dropped += door.take(way, parcel);
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
        let (doors, mut inboxes): (Vec<_>, Vec<_>) =
            (0..3).map(|_| Door::new(Arc::clone(&wake))).unzip();
        let from = Path::Direct("192.0.2.1:7".parse().unwrap());
        let datagram = Kind::Datagram { from, mark: 0 };
        let mut batch: PassedBatch = Batch::new(4096, 0);
        for (lane, kind, text) in [
            (1, Kind::Packet, "a"),
            (2, Kind::Packet, "b"),
            (1, Kind::Packet, "c"),
            (1, datagram, "d"),
        ] {
            batch.push(Passed { lane, kind }, 1, |into| {
                into.copy_from_slice(text.as_bytes());
                1
            });
        }
        assert_eq!(hand_over(&batch, &doors), 0);
        let mut taken = |lane: usize| {
            let mut text = String::new();
            while let Some((_, bytes)) = inboxes[lane].next() {
                text.push_str(std::str::from_utf8(bytes).unwrap());
            }
            text
        };
        assert_eq!([taken(0), taken(1), taken(2)], ["", "dac", "b"]);
        assert_eq!(wake.read(), Ok(3));
        for _ in 0..ROUNDS {
            assert_eq!(hand_over(&batch, &doors), 0);
        }
        assert_eq!(hand_over(&batch, &doors), 4);
        assert_eq!(taken(1).len(), 3 * ROUNDS);
        let stream = epsilon_proto::address::stream_address(7);
        let two = [&b"one"[..], b"two"];
        for _ in 0..ROUNDS {
            assert_eq!(doors[0].deliver(stream, &mut two.into_iter()), 0);
        }
        assert_eq!(doors[0].deliver(stream, &mut two.into_iter()), 2);
        assert_eq!(inboxes[0].next_of_streams(), Some((stream, two[0])));
        assert_eq!(inboxes[0].next_of_streams(), Some((stream, two[1])));
    }
}
