//! Sockets of this process in the network of a host.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use epsilon_cli::lab::Host;
use nix::sched::{CloneFlags, setns};

use super::{holds, until};

/// Calls `work` in the network of a host; the sockets that it opens stay
/// there.
pub(crate) fn within<T: Send>(host: &Host, work: impl FnOnce() -> T + Send) -> T {
    let namespace = File::open(format!("/proc/{}/ns/net", host.pid())).unwrap();
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

/// A TCP connection between two hosts over which something travels all the
/// time: a counter every few milliseconds, both ways.
pub(crate) struct Stream {
    end: TcpStream,
    arrived: Arc<AtomicU64>,
    /// The longest time without any since it was asked for, in microseconds.
    stall: Arc<AtomicU64>,
    reader: JoinHandle<Result<Travelled, String>>,
    echo: JoinHandle<()>,
    writer: JoinHandle<()>,
}

/// What came through a [`Stream`].
#[derive(Debug)]
pub(crate) struct Travelled {
    /// How many of the numbers that were sent came back, in order.
    pub(crate) numbers: u64,
    /// The longest time without any.
    pub(crate) longest_stall: Duration,
}

const EVERY: Duration = Duration::from_millis(5);
/// A connection that is silent for longer is dead.
const DEAD: Duration = Duration::from_mins(1);

impl Stream {
    /// Connects `from` with `address` of `to`.
    pub(crate) fn open(from: &Host, to: &Host, address: IpAddr) -> Self {
        let listener = within(to, || TcpListener::bind((address, 0)).unwrap());
        let to: SocketAddr = listener.local_addr().unwrap();
        let end =
            within(from, || TcpStream::connect_timeout(&to, Duration::from_secs(10)).unwrap());
        let (mut peer, _) = listener.accept().unwrap();
        for socket in [&end, &peer] {
            socket.set_nodelay(true).unwrap();
            socket.set_read_timeout(Some(DEAD)).unwrap();
        }
        let echo = thread::spawn(move || {
            let mut number = [0; 8];
            while peer.read_exact(&mut number).is_ok() && peer.write_all(&number).is_ok() {}
        });
        let mut sending = end.try_clone().unwrap();
        let writer = thread::spawn(move || {
            let mut number = 0_u64;
            // Ends when the connection is shut down.
            while sending.write_all(&number.to_be_bytes()).is_ok() {
                number += 1;
                thread::sleep(EVERY);
            }
        });
        let mut receiving = end.try_clone().unwrap();
        let arrived = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&arrived);
        let stall = Arc::new(AtomicU64::new(0));
        let longest = Arc::clone(&stall);
        let reader = thread::spawn(move || {
            let mut travelled = Travelled { numbers: 0, longest_stall: Duration::ZERO };
            let (mut number, mut last) = ([0; 8], Instant::now());
            loop {
                match receiving.read_exact(&mut number) {
                    Ok(()) if u64::from_be_bytes(number) == travelled.numbers => {}
                    Ok(()) => return Err(format!("{number:?} came after {travelled:?}")),
                    Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                        return Ok(travelled);
                    }
                    Err(error) => return Err(format!("{error} after {travelled:?}")),
                }
                travelled.numbers += 1;
                counter.store(travelled.numbers, Ordering::Relaxed);
                let gap = last.elapsed();
                travelled.longest_stall = travelled.longest_stall.max(gap);
                longest.fetch_max(u64::try_from(gap.as_micros()).unwrap(), Ordering::Relaxed);
                last = Instant::now();
            }
        });
        Self { end, arrived, stall, reader, echo, writer }
    }

    /// Waits until more has come through.
    pub(crate) async fn flows(&self) {
        let before = self.arrived.load(Ordering::Relaxed);
        until("the connection flows", async || {
            let now = self.arrived.load(Ordering::Relaxed);
            holds(now > before + 20, now)
        })
        .await;
    }

    /// The longest time without anything since the last call, once more has come through.
    pub(crate) async fn stall(&self) -> Duration {
        self.flows().await;
        Duration::from_micros(self.stall.swap(0, Ordering::Relaxed))
    }

    /// Ends it. Fails the test when it broke before.
    pub(crate) fn close(self) -> Travelled {
        self.end.shutdown(Shutdown::Write).unwrap();
        self.writer.join().unwrap();
        let travelled = self.reader.join().unwrap();
        self.echo.join().unwrap();
        travelled.unwrap()
    }
}
