use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc as commands;
use std::thread::JoinHandle;

use epsilon_mesh::shard::{Command, Lane, Report, Shard};
use epsilon_proto::clock::Instant;
use epsilon_sys::netlink::Counters;
use epsilon_sys::udp::{Carried, Receiver, dropped};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::{mpsc, watch};

use super::answers::{self, Answers};
use super::carrier::{Aside, Carrier, Order, new_buffer};
use super::outlet::Outlet;
use super::overload::Overload;
use super::parcel::{Door, Inbox};
use super::sources::Sources;
use super::stream::{Streams, Table};
use super::{DataStats, Error, Sockets, Tun};

/// How many reports wait for Control before they are dropped and counted.
const REPORTS: usize = 1024;

/// How many orders wait for a thread before who gives another waits, too.
const ORDERS: usize = 1024;

/// More than any link that is common today asks for.
const MOST_LANES: usize = 8;

/// How many lanes a machine with so many cores has: half of them work for the
/// programs whose packets these are, and for the kernel. On two cores two lanes are
/// no faster than one.
pub fn lanes_for(cores: usize) -> u8 {
    (cores / 2).clamp(1, MOST_LANES) as u8
}

/// What a data thread works with.
pub struct LaneConfig {
    /// Decides what becomes of packets.
    pub shard: Shard,
    /// A queue of the mesh interface.
    pub tun: Tun,
    /// The data port.
    pub sockets: Sockets,
}

/// Data threads that run.
pub struct Started {
    /// Gives them orders.
    pub handle: Handle,
    /// What they report. Ends when they do.
    pub reports: mpsc::Receiver<Report>,
    /// What travels by streams.
    pub streams: Streams,
}

/// A data thread, from outside.
struct Thread {
    stop: Stop,
    sockets: Sockets,
    stats: watch::Receiver<DataStats>,
    running: Option<JoinHandle<Result<(), Error>>>,
}

/// Reaches a data thread.
#[derive(Clone)]
struct Stop {
    orders: commands::SyncSender<Order>,
    wake: Arc<EventFd>,
}

impl Stop {
    fn order(&self, order: Order) {
        let taken = match self.orders.try_send(order) {
            // The thread was woken for those before, and takes all of them
            // every round: it waits for nobody.
            Err(commands::TrySendError::Full(order)) => self.orders.send(order).is_ok(),
            taken => taken.is_ok(),
        };
        if taken {
            // Fails only while the counter is at its end: the thread is
            // going to wake up anyway.
            let _ = self.wake.write(1);
        }
    }
}

/// Gives orders to data threads. Dropping it stops them.
pub struct Handle {
    threads: Vec<Thread>,
    streams: Arc<Table>,
    answers: Arc<answers::Shared>,
}

/// What a thread is reached by and gets its orders from.
struct Ends {
    stop: Stop,
    door: Door,
    orders: commands::Receiver<Order>,
    inbox: Inbox,
}

fn ends() -> Result<Ends, Error> {
    let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
    let wake =
        EventFd::from_flags(flags).map_err(|errno| Error::Thread { source: errno.into() })?;
    let wake = Arc::new(wake);
    let (sender, orders) = commands::sync_channel(ORDERS);
    let (door, inbox) = Door::new(Arc::clone(&wake));
    Ok(Ends { stop: Stop { orders: sender, wake }, door, orders, inbox })
}

/// Starts a data thread for each lane, the first one first.
pub fn start(lanes: Vec<LaneConfig>) -> Result<Started, Error> {
    let (reports_sender, reports) = mpsc::channel(REPORTS);
    let ends: Vec<Ends> = lanes.iter().map(|_| ends()).collect::<Result<_, _>>()?;
    let doors: Vec<Door> = ends.iter().map(|ends| ends.door.clone()).collect();
    let stops: Vec<Stop> = ends.iter().map(|ends| ends.stop.clone()).collect();
    let first_tag = lanes.first().map_or(0, |first| first.shard.first_tag());
    let sources = Sources::new(first_tag, lanes.len() as u8);
    if let Some(first) = lanes.first() {
        sources.apply(&first.sockets, first.tun.name());
    }
    let table = Arc::<Table>::default();
    let answers = Answers::default();
    let Some(door) = doors.first().cloned() else { return Err(Error::NoLanes) };
    let streams = Streams { table: Arc::clone(&table), door };
    let mut handle =
        Handle { threads: Vec::new(), streams: Arc::clone(&table), answers: answers.shared() };
    for (config, ends) in lanes.into_iter().zip(ends) {
        let Ends { stop, orders, inbox, .. } = ends;
        let sockets = config.sockets.try_clone().map_err(|source| Error::Thread { source })?;
        // One that has nothing to do says nothing else.
        let (stats_sender, stats) = watch::channel(DataStats {
            threads: 1,
            interface_offload: config.tun.has_offload(),
            udp_segmentation: true,
            ..DataStats::default()
        });
        let (lane, interface) = (config.shard.lane(), config.tun.name().to_owned());
        // Without them nobody has too much.
        let counters = Counters::open(&interface)
            .inspect_err(|error| tracing::warn!(interface, %error, "no fairness among peers"))
            .ok();
        let carrier = Carrier {
            shard: config.shard,
            outlet: Outlet::new(
                lane,
                config.tun,
                config.sockets,
                doors.clone(),
                Arc::clone(&table),
                answers.clone(),
            ),
            receiver: Receiver::default(),
            sources: sources.clone(),
            orders,
            inbox,
            wake: Arc::clone(&stop.wake),
            reports: reports_sender.clone(),
            stats: stats_sender,
            buffer: new_buffer(),
            taken: Carried::default(),
            overload: Overload::default(),
            counters,
            quiet: Default::default(),
            aside: Aside::default(),
            beyond_share: 0,
            malformed: 0,
            reports_lost: 0,
            published: (0, Instant::default()),
        };
        let name = name(&interface, lane);
        let others = stops.clone();
        let body = move || {
            // The carrier's end of the reports is dropped before the others are
            // told to stop, also when it panics.
            let outcome =
                catch_unwind(AssertUnwindSafe(|| carrier.run())).unwrap_or_else(|panic| {
                    Err(Error::Panicked { interface, message: message_of(&*panic) })
                });
            for other in &others {
                other.order(Order::Stop);
            }
            outcome
        };
        let running = std::thread::Builder::new()
            .name(name)
            .spawn(body)
            .map_err(|source| Error::Thread { source })?;
        handle.threads.push(Thread { stop, sockets, stats, running: Some(running) });
    }
    Ok(Started { handle, reports, streams })
}

/// `data eps0`, and with a number where there are several: the kernel shows 15
/// characters.
fn name(interface: &str, lane: Lane) -> String {
    if lane.count() == 1 {
        format!("data {interface}")
    } else {
        format!("data{} {interface}", lane.number())
    }
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

impl Handle {
    /// Gives an order. Orders take effect in the order in which they are
    /// given. One for threads that have ended is lost, as everything is then.
    pub fn command(&self, command: Command) {
        let mut others = self.threads.iter();
        let first = others.next();
        for other in others {
            other.stop.order(Order::Command(command.clone()));
        }
        if let Some(first) = first {
            first.stop.order(Order::Command(command));
        }
    }

    /// The host is connected otherwise than before: peers are answered from where the routes
    /// say until they call again.
    pub fn forget_answers(&self) {
        self.answers.forget();
    }

    /// Waits until the orders before have been taken: packets that come earlier have
    /// nowhere to go.
    #[cfg(test)]
    pub(super) fn settle(&self) {
        let (sender, told) = commands::channel();
        for thread in &self.threads {
            thread.stop.order(Order::Tell(sender.clone()));
        }
        drop(sender);
        assert_eq!(told.iter().count(), self.threads.len());
    }

    /// What was counted, at most a second ago.
    pub fn stats(&self) -> DataStats {
        let mut threads = self.threads.iter().map(|thread| {
            let kernel = thread.sockets.all().map(dropped).sum();
            DataStats { kernel, ..thread.stats.borrow().clone() }
        });
        let mut all = threads.next().unwrap_or_default();
        threads.for_each(|stats| all.add(&stats));
        all.streams = self.streams.dropped();
        all
    }

    fn order_stop(&self) {
        for thread in &self.threads {
            thread.stop.order(Order::Stop);
        }
    }

    /// Stops the threads, waits until they have ended, and says why if that
    /// was earlier.
    pub async fn stop(mut self) -> Result<(), Error> {
        self.order_stop();
        let threads: Vec<_> =
            self.threads.iter_mut().filter_map(|thread| thread.running.take()).collect();
        let join = move || {
            let outcomes = threads.into_iter().map(|thread| thread.join().unwrap_or(Ok(())));
            outcomes.fold(Ok(()), Result::and)
        };
        tokio::task::spawn_blocking(join).await.unwrap_or(Ok(()))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.order_stop();
    }
}

#[cfg(test)]
mod tests {
    use super::lanes_for;

    #[test]
    fn half_of_the_cores_carry_packets_and_at_least_one() {
        let lanes = [0, 1, 2, 3, 4, 8, 16, 128].map(lanes_for);
        assert_eq!(lanes, [1, 1, 1, 1, 2, 4, 8, 8]);
    }
}
