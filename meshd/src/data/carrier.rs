//! The loop of the data thread.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc as commands;
use std::time::Duration;

use epsilon_mesh::shard::{Command, MAX_DATAGRAM, Output, Path, Report, Shard};
use epsilon_proto::clock::Instant;
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use tokio::sync::{mpsc, watch};

use super::{DataStats, Error, Failures, Sockets, Tun};

/// At most so many datagrams per socket, and packets of the host, before the
/// other side has its turn.
const BATCH: usize = 128;

/// How often counters are published while they change.
const PUBLISH: Duration = Duration::from_secs(1);

/// What reaches the thread besides packets.
pub(super) enum Order {
    Command(Command),
    Stop,
}

pub(super) struct Carrier {
    pub(super) shard: Shard,
    pub(super) tun: Tun,
    pub(super) sockets: Sockets,
    /// The moment at which [`Instant`] is zero.
    pub(super) epoch: std::time::Instant,
    pub(super) orders: commands::Receiver<Order>,
    pub(super) wake: Arc<EventFd>,
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) stats: watch::Sender<DataStats>,
    pub(super) out: Output,
    pub(super) buffer: Box<[u8]>,
    pub(super) network: Failures,
    pub(super) host: Failures,
    pub(super) reports_lost: u64,
    /// The shard's changes that have been published, and when.
    pub(super) published: (u64, Instant),
}

pub(super) fn new_buffer() -> Box<[u8]> {
    vec![0; MAX_DATAGRAM].into_boxed_slice()
}

impl Carrier {
    fn now(&self) -> Instant {
        Instant(self.epoch.elapsed())
    }

    /// Carries packets until told to stop.
    pub(super) fn run(mut self) -> Result<(), Error> {
        loop {
            if self.take_orders() {
                self.flush();
                self.publish();
                return Ok(());
            }
            let mut busy = self.take_datagrams();
            busy |= self.take_packets()?;
            let now = self.now();
            if self.shard.poll_timeout().is_some_and(|due| due <= now) {
                self.shard.handle_timeout(now, &mut self.out);
            }
            self.flush();
            self.hand_over_reports();
            if self.has_changed() && now.since(self.published.1) >= PUBLISH {
                self.publish();
            }
            if !busy {
                self.wait()?;
            }
        }
    }

    /// Whether to stop.
    fn take_orders(&mut self) -> bool {
        loop {
            match self.orders.try_recv() {
                Ok(Order::Command(command)) => {
                    let now = self.now();
                    self.make_room();
                    self.shard.handle_command(command, now, &mut self.out);
                }
                Err(commands::TryRecvError::Empty) => return false,
                Ok(Order::Stop) | Err(commands::TryRecvError::Disconnected) => return true,
            }
        }
    }

    fn make_room(&mut self) {
        if !self.out.has_room() {
            self.flush();
        }
    }

    /// Whether there were any.
    fn take_datagrams(&mut self) -> bool {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut busy = false;
        for six in [false, true] {
            let now = self.now();
            for _ in 0..BATCH {
                let socket = if six { self.sockets.v6() } else { Some(self.sockets.v4()) };
                let Some((length, from)) = socket.and_then(|socket| receive(socket, &mut buffer))
                else {
                    break;
                };
                busy = true;
                self.make_room();
                self.shard.handle_datagram(from, &buffer[..length], now, &mut self.out);
            }
        }
        self.buffer = buffer;
        self.flush();
        busy
    }

    /// Whether there were any.
    fn take_packets(&mut self) -> Result<bool, Error> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut busy = false;
        let now = self.now();
        for _ in 0..BATCH {
            match self.tun.recv(&mut buffer) {
                Ok(length) => {
                    busy = true;
                    self.make_room();
                    self.shard.handle_packet(&buffer[..length], now, &mut self.out);
                }
                Err(error) if error.raw_os_error() == Some(libc::EBADFD) => {
                    return Err(Error::InterfaceGone { interface: self.tun.name().to_owned() });
                }
                // Nothing there, or the interface is down: EAGAIN, EIO.
                Err(_) => break,
            }
        }
        self.buffer = buffer;
        Ok(busy)
    }

    fn flush(&mut self) {
        for (Path::Direct(to), datagram) in self.out.network.iter() {
            if let Err(error) = self.sockets.send_to(datagram, *to) {
                self.network.count(&error);
            }
        }
        self.out.network.clear();
        for ((), packet) in self.out.host.iter() {
            if let Err(error) = self.tun.send(packet) {
                self.host.count(&error);
            }
        }
        self.out.host.clear();
    }

    fn hand_over_reports(&mut self) {
        while let Some(report) = self.shard.poll_report() {
            if self.reports.try_send(report).is_err() {
                self.reports_lost += 1;
            }
        }
    }

    fn has_changed(&self) -> bool {
        self.shard.changes() != self.published.0
    }

    fn publish(&mut self) {
        self.published = (self.shard.changes(), self.now());
        self.stats.send_replace(DataStats {
            shard: self.shard.stats(),
            network: self.network,
            host: self.host,
            reports: self.reports_lost,
        });
    }

    /// Sleeps until something arrives or is due.
    fn wait(&mut self) -> Result<(), Error> {
        let publish = self.has_changed().then(|| self.published.1 + PUBLISH);
        let due = self.shard.poll_timeout().into_iter().chain(publish).min();
        let timeout = due.map_or(PollTimeout::NONE, |due| {
            // Rounded up, so that a timer is due when the sleep is over.
            let millis = due.since(self.now()).as_micros().div_ceil(1000);
            i32::try_from(millis)
                .ok()
                .and_then(|millis| PollTimeout::try_from(millis).ok())
                .unwrap_or(PollTimeout::MAX)
        });
        let fds = [
            Some(self.wake.as_fd()),
            Some(self.tun.as_fd()),
            Some(self.sockets.v4().as_fd()),
            self.sockets.v6().map(AsFd::as_fd),
        ];
        let mut fds = fds.map(|fd| {
            // The place of a missing socket is taken by another descriptor.
            PollFd::new(fd.unwrap_or(self.wake.as_fd()), PollFlags::POLLIN)
        });
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => {
                let interface = self.tun.name().to_owned();
                return Err(Error::Wait { interface, source: errno.into() });
            }
        }
        if fds[0].any().unwrap_or(false) {
            // Only resets the counter: orders are looked for in any case.
            let _ = self.wake.read();
        }
        Ok(())
    }
}

/// The next datagram, if there is one. An error is one that an earlier
/// datagram brought back: asking for it has cleared it.
fn receive(socket: &UdpSocket, into: &mut [u8]) -> Option<(usize, SocketAddr)> {
    socket.recv_from(into).ok()
}
