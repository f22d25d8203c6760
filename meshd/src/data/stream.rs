//! What travels by streams instead of the sockets: to each there is a queue, and what
//! comes by them is handed to the first lane.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use epsilon_proto::datagram::{DATA, RELAYED_DATA};
use tokio::sync::Notify;

use super::parcel::Door;

/// So many bytes wait for a stream: a tenth of a second at 20 Mbit/s. The oldest datagrams
/// give way to new ones, as what they carry is late already.
const WAITING: usize = 256 << 10;
/// So much is written at once.
const AT_ONCE: usize = 32 << 10;

/// What waits for a stream, each datagram behind its length.
#[derive(Default)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    more: Notify,
}

#[derive(Default)]
struct Waiting {
    /// Handshakes and probes: that something waits must not make them late.
    urgent: VecDeque<u8>,
    data: VecDeque<u8>,
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a datagram; says how many were dropped for it.
    fn push(&self, datagram: &[u8]) -> u64 {
        let Ok(length) = u16::try_from(datagram.len()) else { return 1 };
        let is_data = matches!(datagram.first(), Some(&(DATA | RELAYED_DATA)));
        let mut waiting = self.waiting();
        let Waiting { urgent, data } = &mut *waiting;
        let queue = if is_data { data } else { urgent };
        let mut dropped = 0;
        while queue.len() + 2 + datagram.len() > WAITING {
            let Some(oldest) = first(queue) else { break };
            queue.drain(..oldest);
            dropped += 1;
        }
        queue.extend(length.to_be_bytes());
        queue.extend(datagram);
        drop(waiting);
        self.more.notify_one();
        dropped
    }

    /// Waits until there is something, and moves it: whole datagrams with their lengths.
    pub async fn take(&self, into: &mut Vec<u8>) {
        into.clear();
        loop {
            {
                let mut waiting = self.waiting();
                let Waiting { urgent, data } = &mut *waiting;
                for queue in [urgent, data] {
                    while into.len() < AT_ONCE
                        && let Some(next) = first(queue)
                    {
                        into.extend(queue.drain(..next));
                    }
                }
            }
            if !into.is_empty() {
                return;
            }
            self.more.notified().await;
        }
    }
}

/// How long the first frame is.
fn first(waiting: &VecDeque<u8>) -> Option<usize> {
    let length = [*waiting.front()?, *waiting.get(1)?];
    Some(2 + usize::from(u16::from_be_bytes(length)))
}

/// The streams that are open, as the data threads see them.
#[derive(Default)]
pub(super) struct Table {
    queues: RwLock<BTreeMap<SocketAddr, Arc<Queue>>>,
    /// How many: threads that use none do not look further.
    open: AtomicUsize,
    dropped: AtomicU64,
}

impl Table {
    pub(super) fn is_empty(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0
    }

    /// How many datagrams were dropped because a stream did not keep up, or was gone.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Sends a datagram by a stream.
    pub(super) fn send(&self, stream: SocketAddr, datagram: &[u8]) {
        let queues = self.queues.read().unwrap_or_else(PoisonError::into_inner);
        let dropped = queues.get(&stream).map_or(1, |queue| queue.push(datagram));
        if dropped > 0 {
            self.dropped.fetch_add(dropped, Ordering::Relaxed);
        }
    }
}

/// The data plane, as streams see it.
#[derive(Clone)]
pub struct Streams {
    pub(super) table: Arc<Table>,
    pub(super) door: Door,
}

impl Streams {
    fn change(&self, change: impl FnOnce(&mut BTreeMap<SocketAddr, Arc<Queue>>)) {
        let mut queues = self.table.queues.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut queues);
        self.table.open.store(queues.len(), Ordering::Relaxed);
    }

    /// A stream is open; gives what is to be sent by it.
    pub fn open(&self, stream: SocketAddr) -> Arc<Queue> {
        let queue = Arc::<Queue>::default();
        self.change(|queues| drop(queues.insert(stream, Arc::clone(&queue))));
        queue
    }

    /// A stream is none any more.
    pub fn close(&self, stream: SocketAddr) {
        self.change(|queues| drop(queues.remove(&stream)));
    }

    /// Datagrams came by a stream; what the data thread has no time for is dropped.
    pub fn deliver(&self, stream: SocketAddr, datagrams: &mut dyn Iterator<Item = &[u8]>) {
        let dropped = self.door.deliver(stream, datagrams);
        if dropped > 0 {
            self.table.dropped.fetch_add(dropped, Ordering::Relaxed);
        }
    }
}

/// What would be taken by a data thread.
#[cfg(test)]
pub(crate) type Taken = Box<dyn FnMut() -> Option<(SocketAddr, Vec<u8>)> + Send>;

#[cfg(test)]
impl Streams {
    /// Without a data thread.
    pub(crate) fn alone() -> (Self, Taken) {
        let wake = Arc::new(nix::sys::eventfd::EventFd::new().unwrap());
        let (door, mut inbox) = Door::new(wake);
        let taken = move || inbox.next_of_streams().map(|(by, bytes)| (by, bytes.to_vec()));
        (Self { table: Arc::default(), door }, Box::new(taken))
    }

    /// What a data thread would do.
    pub(crate) fn send(&self, stream: SocketAddr, datagram: &[u8]) {
        self.table.send(stream, datagram);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_give_way_and_what_is_taken_are_whole_datagrams_in_order() {
        let queue = Queue::default();
        let mut dropped = 0;
        for number in 0..1000_u32 {
            let mut datagram = vec![0; 1000];
            datagram[0] = DATA;
            datagram[4..8].copy_from_slice(&number.to_be_bytes());
            dropped += queue.push(&datagram);
        }
        assert!(dropped > 700 && queue.waiting().data.len() <= WAITING, "{dropped}");
        assert_eq!(queue.push(&[1; 148]), 0);
        let (mut next, mut taken) = (dropped as u32, Vec::new());
        let mut handshake = vec![0, 148];
        handshake.extend([1; 148]);
        while next < 1000 {
            queue.take(&mut taken).await;
            if taken.starts_with(&handshake) {
                taken.drain(..std::mem::take(&mut handshake).len());
            }
            assert!(taken.len().is_multiple_of(1002) && taken.len() <= AT_ONCE + 1002);
            for frame in taken.chunks(1002) {
                assert_eq!(frame[..2], 1000_u16.to_be_bytes());
                assert_eq!(frame[6..10], next.to_be_bytes());
                next += 1;
            }
        }
        assert!(handshake.is_empty(), "it did not wait for data");
        assert!(queue.waiting().data.is_empty());
    }
}
