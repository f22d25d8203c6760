use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc as commands;
use std::thread::JoinHandle;

use epsilon_mesh::shard::{Command, Report, Shard};
use epsilon_proto::clock::Instant;
use epsilon_sys::udp::{Carried, Receiver, dropped};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::{mpsc, oneshot, watch};

use super::carrier::{Carrier, Order, new_buffer};
use super::outlet::Outlet;
use super::{DataStats, Error, Sockets, Tun};

/// How many reports wait for Control before they are dropped and counted.
const REPORTS: usize = 1024;

/// What a data thread works with.
pub struct Config {
    /// Decides what becomes of packets.
    pub shard: Shard,
    /// The mesh interface.
    pub tun: Tun,
    /// The data port.
    pub sockets: Sockets,
}

/// A data thread that runs.
pub struct Started {
    /// Gives it orders.
    pub handle: Handle,
    /// What it reports. Ends when the thread does.
    pub reports: mpsc::Receiver<Report>,
    /// What it counts.
    pub stats: watch::Receiver<DataStats>,
}

/// Gives orders to a data thread. Dropping it stops the thread.
pub struct Handle {
    orders: commands::Sender<Order>,
    wake: Arc<EventFd>,
    sockets: Sockets,
    stats: watch::Receiver<DataStats>,
    outcome: Option<oneshot::Receiver<Result<(), Error>>>,
    thread: Option<JoinHandle<()>>,
}

/// Starts the data thread.
pub fn start(config: Config) -> Result<Started, Error> {
    let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
    let wake =
        EventFd::from_flags(flags).map_err(|errno| Error::Thread { source: errno.into() })?;
    let wake = Arc::new(wake);
    let (orders, orders_receiver) = commands::channel();
    let (reports_sender, reports) = mpsc::channel(REPORTS);
    let (stats_sender, stats) = watch::channel(DataStats::default());
    let (outcome_sender, outcome) = oneshot::channel();
    let interface = config.tun.name().to_owned();
    if let Err(error) = config.sockets.keep_data_apart(config.shard.index_tag()) {
        tracing::warn!(interface, %error, "floods of junk can displace data");
    }
    let name = format!("data {interface}");
    let sockets = config.sockets.try_clone().map_err(|source| Error::Thread { source })?;
    let carrier = Carrier {
        shard: config.shard,
        outlet: Outlet::new(config.tun, config.sockets),
        receiver: Receiver::default(),
        orders: orders_receiver,
        wake: Arc::clone(&wake),
        reports: reports_sender,
        stats: stats_sender,
        buffer: new_buffer(),
        taken: Carried::default(),
        malformed: 0,
        reports_lost: 0,
        published: (0, Instant::default()),
    };
    let body = move || {
        // The carrier's end of the reports is dropped before the outcome is
        // told, also when it panics.
        let outcome = catch_unwind(AssertUnwindSafe(|| carrier.run())).unwrap_or_else(|panic| {
            Err(Error::Panicked { interface, message: message_of(&*panic) })
        });
        let _ = outcome_sender.send(outcome);
    };
    let thread = std::thread::Builder::new()
        .name(name)
        .spawn(body)
        .map_err(|source| Error::Thread { source })?;
    let handle = Handle {
        orders,
        wake,
        sockets,
        stats: stats.clone(),
        outcome: Some(outcome),
        thread: Some(thread),
    };
    Ok(Started { handle, reports, stats })
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
    /// given. One for a thread that has ended is lost, as everything is then.
    pub fn command(&self, command: Command) {
        self.order(Order::Command(command));
    }

    /// What was counted, at most a second ago.
    pub fn stats(&self) -> DataStats {
        let kernel = self.sockets.all().map(dropped).sum();
        DataStats { kernel, ..self.stats.borrow().clone() }
    }

    fn order(&self, order: Order) {
        if self.orders.send(order).is_ok() {
            // Fails only while the counter is at its end: the thread is
            // going to wake up anyway.
            let _ = self.wake.write(1);
        }
    }

    /// Stops the thread, waits until it has ended, and says why it did if
    /// that was earlier.
    pub async fn stop(mut self) -> Result<(), Error> {
        self.order(Order::Stop);
        let outcome = match self.outcome.take() {
            Some(outcome) => outcome.await.unwrap_or(Ok(())),
            None => Ok(()),
        };
        // It has told its outcome, after which nothing keeps it.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        outcome
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.order(Order::Stop);
    }
}
