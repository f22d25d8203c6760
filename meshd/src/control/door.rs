//! The listening socket and everybody who stands before the gate.
//!
//! A connection that was accepted waits here until its greeting has arrived
//! and opened the gate; only then does libp2p hear of it. Whoever sends
//! anything else, or nothing, is reset without having been sent a byte, so
//! that bad key, replay, overload and timeout all look the same from outside.
//!
//! When the seats run out, the one that has waited longest without a whole
//! greeting makes room. A member greets at once, so junk that only holds
//! sockets open cannot starve it.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::FutureExt;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep, sleep};

use crate::mark::mark;

use super::gate::{GREETING, Gate, Lane, Replays};
use super::hello::{self, MAX_HELLO};
use super::identity::canonical;
use super::seats::{Full, Origin, Seat, Seats};

/// Connections accepted before other work gets its turn.
const ACCEPTED_PER_TURN: usize = 64;

/// After the kernel had no file descriptor or memory for a connection.
const BREATHER: Duration = Duration::from_millis(100);

/// Connections that the kernel may hold ready for us.
const BACKLOG: i32 = 1024;

/// A connection whose greeting opened the gate.
pub(super) struct Passed {
    pub(super) stream: TcpStream,
    pub(super) remote: SocketAddr,
    pub(super) lane: Lane,
    pub(super) seat: Seat,
    /// What TLS's first message was, where the greeting came in one.
    pub(super) hello: Option<Vec<u8>>,
}

/// One listening socket with its waiting connections.
pub(super) struct Door {
    listener: TcpListener,
    local: SocketAddr,
    seats: Seats,
    gate: Arc<dyn Gate>,
    replays: Arc<Replays>,
    patience: Duration,
    /// By order of arrival, which is also the order of their deadlines.
    waiting: BTreeMap<u64, Waiting>,
    passed: VecDeque<Passed>,
    arrivals: u64,
    deadline: Pin<Box<Sleep>>,
    /// Set while the kernel has no room for further connections.
    breather: Option<Pin<Box<Sleep>>>,
}

struct Waiting {
    stream: TcpStream,
    remote: SocketAddr,
    seat: Seat,
    until: Instant,
    /// The greeting, or TLS's first message with it.
    first: Box<[u8; MAX_HELLO]>,
    received: usize,
}

#[derive(Clone, Copy)]
enum Progress {
    More,
    Whole,
    Gone,
}

impl Door {
    /// Starts to listen. `[::]` takes IPv4 too, and is `0.0.0.0` where IPv6 is off.
    pub(super) fn open(
        address: SocketAddr,
        gate: Arc<dyn Gate>,
        replays: Arc<Replays>,
        seats: Seats,
        patience: Duration,
    ) -> io::Result<Self> {
        let listener = match bind(address) {
            Err(error) if address.is_ipv6() && address.ip().is_unspecified() && no_ipv6(&error) => {
                bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))?
            }
            bound => bound?,
        };
        Ok(Self {
            local: listener.local_addr()?,
            listener,
            seats,
            gate,
            replays,
            patience,
            waiting: BTreeMap::new(),
            passed: VecDeque::new(),
            arrivals: 0,
            deadline: Box::pin(sleep(Duration::ZERO)),
            breather: None,
        })
    }

    /// Where it listens, with the port that the kernel chose.
    pub(super) fn local(&self) -> SocketAddr {
        self.local
    }

    /// The next connection that may come in, or why there can be none for a
    /// moment. Errors are told once per spell of trouble.
    pub(super) fn poll_passed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Passed>> {
        self.look_after_waiting(cx);
        for _ in 0..ACCEPTED_PER_TURN {
            if let Some(passed) = self.passed.pop_front() {
                return Poll::Ready(Ok(passed));
            }
            if let Some(breather) = &mut self.breather {
                ready!(breather.poll_unpin(cx));
            }
            match ready!(self.listener.poll_accept(cx)) {
                Ok((stream, remote)) => {
                    self.breather = None;
                    self.welcome(stream, canonical(remote), cx);
                }
                Err(error) if of_one_connection(&error) => {}
                Err(error) => {
                    let known = self.breather.is_some();
                    self.breather = Some(Box::pin(sleep(BREATHER)));
                    self.make_room(None);
                    if !known {
                        return Poll::Ready(Err(error));
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads greetings that have arrived and drops who is too late.
    fn look_after_waiting(&mut self, cx: &mut Context<'_>) {
        let arrivals: Vec<u64> = self.waiting.keys().copied().collect();
        for arrival in arrivals {
            if let Some(waiting) = self.waiting.get_mut(&arrival) {
                let progress = waiting.poll_greeting(cx);
                self.progressed(arrival, progress);
            }
        }
        self.drop_the_late(cx);
    }

    fn drop_the_late(&mut self, cx: &mut Context<'_>) {
        while let Some(first) = self.waiting.first_entry() {
            let until = first.get().until;
            if self.deadline.deadline() != until {
                self.deadline.as_mut().reset(until);
            }
            if self.deadline.poll_unpin(cx).is_pending() {
                return;
            }
            reset(&first.remove().stream);
        }
    }

    /// Gives a new connection its place, if need be that of another.
    fn welcome(&mut self, stream: TcpStream, remote: SocketAddr, cx: &mut Context<'_>) {
        let origin = Origin::from(remote.ip());
        let seat = self.seats.take(origin).or_else(|full| {
            self.make_room((full == Full::Origin).then_some(origin));
            self.seats.take(origin)
        });
        let Ok(seat) = seat else {
            return reset(&stream);
        };
        let mut newcomer = Waiting {
            stream,
            remote,
            seat,
            until: Instant::now() + self.patience,
            first: Box::new([0; MAX_HELLO]),
            received: 0,
        };
        let mut progress = newcomer.read_now();
        if let Progress::More = progress {
            progress = newcomer.poll_greeting(cx);
        }
        let arrival = self.arrivals;
        self.arrivals += 1;
        self.waiting.insert(arrival, newcomer);
        self.progressed(arrival, progress);
        self.drop_the_late(cx);
    }

    /// Turns away the one that has waited longest, of `origin` if one is named.
    ///
    /// Who has greeted by now without our having noticed is let in instead.
    fn make_room(&mut self, origin: Option<Origin>) {
        let arrivals: Vec<u64> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| origin.is_none_or(|origin| waiting.seat.origin() == origin))
            .map(|(arrival, _)| *arrival)
            .collect();
        for arrival in arrivals {
            let Some(waiting) = self.waiting.get_mut(&arrival) else {
                continue;
            };
            match waiting.read_now() {
                Progress::Whole => self.progressed(arrival, Progress::Whole),
                Progress::More | Progress::Gone => {
                    return self.progressed(arrival, Progress::Gone);
                }
            }
        }
    }

    fn progressed(&mut self, arrival: u64, progress: Progress) {
        match progress {
            Progress::More => {}
            Progress::Gone => {
                if let Some(gone) = self.waiting.remove(&arrival) {
                    reset(&gone.stream);
                }
            }
            Progress::Whole => {
                if let Some(waiting) = self.waiting.remove(&arrival) {
                    match self.judge(waiting) {
                        Ok(passed) => self.passed.push_back(passed),
                        Err(stream) => reset(&stream),
                    }
                }
            }
        }
    }

    fn judge(&self, waiting: Waiting) -> Result<Passed, TcpStream> {
        let hello = waiting.hello().map(<[u8]>::to_vec);
        let greeting = match &hello {
            Some(hello) => hello::greeting(hello),
            None => waiting.first.first_chunk().copied(),
        };
        let Waiting { stream, remote, mut seat, .. } = waiting;
        let Some((greeting, lane)) = greeting.and_then(|one| Some((one, self.gate.check(&one)?)))
        else {
            return Err(stream);
        };
        if !self.replays.first_time(&greeting) || (lane == Lane::Slow && !seat.slow()) {
            return Err(stream);
        }
        Ok(Passed { stream, remote, lane, seat, hello })
    }
}

impl Waiting {
    /// Reads what the runtime knows to be there, or asks to be woken.
    fn poll_greeting(&mut self, cx: &mut Context<'_>) -> Progress {
        loop {
            match self.stream.poll_read_ready(cx) {
                Poll::Pending => return Progress::More,
                Poll::Ready(Err(_)) => return Progress::Gone,
                Poll::Ready(Ok(())) => {}
            }
            let awaited = self.awaited();
            let read = self.stream.try_read(&mut self.first[self.received..awaited]);
            if let Some(progress) = self.took(read) {
                return progress;
            }
        }
    }

    /// Asks the kernel itself: the runtime may not have looked yet.
    fn read_now(&mut self) -> Progress {
        loop {
            let awaited = self.awaited();
            let socket = SockRef::from(&self.stream);
            let read = (&*socket).read(&mut self.first[self.received..awaited]);
            let would_block =
                read.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
            match self.took(read) {
                Some(progress) => return progress,
                None if would_block => return Progress::More,
                None => {}
            }
        }
    }

    /// TLS's first message, if that is what came, whole.
    fn hello(&self) -> Option<&[u8]> {
        let begin = self.first.get(..self.received)?;
        begin.get(..hello::length(begin)?)
    }

    /// How much there has to be: a greeting, or the first message of TLS.
    fn awaited(&self) -> usize {
        let begin = &self.first[..self.received];
        hello::length(begin).unwrap_or(GREETING).clamp(GREETING, MAX_HELLO)
    }

    /// `None` when a read of more would make sense.
    fn took(&mut self, read: io::Result<usize>) -> Option<Progress> {
        match read {
            Ok(0) => Some(Progress::Gone),
            Ok(count) => {
                self.received += count;
                (self.received == self.awaited()).then_some(Progress::Whole)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => None,
            Err(_) => Some(Progress::Gone),
        }
    }
}

/// Makes the drop that follows an end without a byte and without state left in the kernel.
///
/// Whether unread bytes were left would otherwise show in how it ends.
fn reset(stream: &TcpStream) {
    // Should it fail, the connection ends with a FIN instead.
    let _ = stream.set_zero_linger();
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket =
        Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // A restarted daemon must not wait for connections of the last one to fade.
    socket.set_reuse_address(true)?;
    keep_segments_small(&SockRef::from(&socket));
    mark(&SockRef::from(&socket));
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// What every path carries (RFC 8200, section 5), without the headers of IPv6 and TCP.
const SEGMENT: u32 = 1280 - 40 - 20;

/// Makes both ends of the connections of a socket, or of one that is not connected yet,
/// send what fits every path: some paths swallow what is larger without a word, and
/// TCP would wait for ever.
pub(super) fn keep_segments_small(socket: &SockRef<'_>) {
    if let Err(error) = socket.set_tcp_mss(SEGMENT) {
        tracing::debug!(%error, "cannot limit the segments of control connections");
    }
}

/// Whether the kernel was booted or configured without IPv6.
fn no_ipv6(error: &io::Error) -> bool {
    /// EAFNOSUPPORT, which `ErrorKind` has no name for.
    const ADDRESS_FAMILY_NOT_SUPPORTED: i32 = 97;
    error.raw_os_error() == Some(ADDRESS_FAMILY_NOT_SUPPORTED)
        || error.kind() == io::ErrorKind::AddrNotAvailable
}

/// Whether an error of `accept` speaks of one connection only, see accept(2).
fn of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::TimedOut
    )
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::api::Limits;
    use super::*;

    /// Opens for greetings that end in ones; in twos, for the slow lane.
    struct Plain;

    impl Gate for Plain {
        fn greet(&self, _: usize) -> [u8; GREETING] {
            [1; GREETING]
        }

        fn check(&self, greeting: &[u8; GREETING]) -> Option<Lane> {
            match greeting[GREETING - 1] {
                1 => Some(Lane::Current),
                2 => Some(Lane::Slow),
                _ => None,
            }
        }
    }

    fn greeting(nonce: u8, lane: u8) -> [u8; GREETING] {
        let mut greeting = [nonce; GREETING];
        greeting[GREETING - 1] = lane;
        greeting
    }

    fn door(seats: usize, patience: Duration) -> Door {
        let limits = Limits { pending: seats, pending_slow: 1, ..Limits::default() };
        Door::open(
            "127.0.0.1:0".parse().unwrap(),
            Arc::new(Plain),
            Arc::new(Replays::new(10)),
            Seats::new(&limits),
            patience,
        )
        .unwrap()
    }

    async fn passed(door: &mut Door) -> Passed {
        poll_fn(|cx| door.poll_passed(cx)).await.unwrap()
    }

    /// Looks after the door until it keeps `count` waiting.
    async fn keeps(door: &mut Door, count: usize) {
        let settled = async {
            poll_fn(|cx| {
                assert!(door.poll_passed(cx).is_pending(), "nobody passes");
                if door.waiting.len() == count {
                    return Poll::Ready(());
                }
                cx.waker().wake_by_ref();
                Poll::Pending
            })
            .await;
        };
        tokio::time::timeout(Duration::from_secs(5), settled).await.expect("the door settles");
    }

    async fn connect(door: &Door) -> TcpStream {
        TcpStream::connect(door.local()).await.unwrap()
    }

    async fn is_reset(stream: &mut TcpStream) -> bool {
        let mut byte = [0];
        let end = stream.read(&mut byte);
        let end = tokio::time::timeout(Duration::from_secs(5), end).await;
        matches!(end, Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset)
    }

    #[tokio::test]
    async fn a_greeting_in_pieces_passes() {
        let mut door = door(2, Duration::from_secs(5));
        let mut stream = connect(&door).await;
        let (first, rest) = (&greeting(7, 1)[..20], &greeting(7, 1)[20..]);
        stream.write_all(first).await.unwrap();
        keeps(&mut door, 1).await;
        stream.write_all(rest).await.unwrap();
        let passed = passed(&mut door).await;
        assert_eq!(passed.lane, Lane::Current);
        assert_eq!(passed.remote, stream.local_addr().unwrap());
    }

    #[tokio::test]
    async fn the_one_that_waited_longest_makes_room() {
        let mut door = door(2, Duration::from_mins(1));
        let mut first = connect(&door).await;
        keeps(&mut door, 1).await;
        let mut second = connect(&door).await;
        keeps(&mut door, 2).await;
        let mut third = connect(&door).await;
        third.write_all(&greeting(1, 1)).await.unwrap();
        let third = passed(&mut door).await;
        assert!(is_reset(&mut first).await);
        keeps(&mut door, 1).await;
        second.write_all(&greeting(2, 1)).await.unwrap();
        let second = passed(&mut door).await;
        // Both seats are taken by those inside: nobody can make room.
        let mut fourth = connect(&door).await;
        fourth.write_all(&greeting(3, 1)).await.unwrap();
        keeps(&mut door, 0).await;
        tokio::select! {
            _ = poll_fn(|cx| door.poll_passed(cx)) => panic!("nobody passes"),
            reset = is_reset(&mut fourth) => assert!(reset),
        }
        drop((second, third));
        let mut fifth = connect(&door).await;
        fifth.write_all(&greeting(4, 1)).await.unwrap();
        passed(&mut door).await;
    }

    #[tokio::test]
    async fn who_has_greeted_is_not_turned_away_for_another() {
        let mut door = door(2, Duration::from_mins(1));
        let mut early = connect(&door).await;
        keeps(&mut door, 1).await;
        early.write_all(&greeting(1, 1)).await.unwrap();
        early.flush().await.unwrap();
        // Loopback delivers before the write returns; the door has not looked yet.
        door.make_room(None);
        assert_eq!((door.waiting.len(), door.passed.len()), (0, 1));
    }

    #[tokio::test]
    async fn bad_greetings_replays_and_latecomers_all_end_in_a_reset() {
        let mut door = door(4, Duration::from_millis(100));
        let mut good = connect(&door).await;
        good.write_all(&greeting(1, 1)).await.unwrap();
        let good = passed(&mut door).await;
        let cases: [&[u8]; 4] = [&greeting(2, 9), &greeting(1, 1), &[5; 10], &[5; 500]];
        for sent in cases {
            let mut stream = connect(&door).await;
            stream.write_all(sent).await.unwrap();
            tokio::select! {
                _ = poll_fn(|cx| door.poll_passed(cx)) => panic!("nobody passes"),
                reset = is_reset(&mut stream) => assert!(reset, "{} bytes", sent.len()),
            }
        }
        drop(good);
    }

    #[tokio::test]
    async fn the_slow_lane_is_narrower() {
        let mut door = door(4, Duration::from_mins(1));
        let mut first = connect(&door).await;
        first.write_all(&greeting(1, 2)).await.unwrap();
        let first = passed(&mut door).await;
        assert_eq!(first.lane, Lane::Slow);
        let mut second = connect(&door).await;
        second.write_all(&greeting(2, 2)).await.unwrap();
        tokio::select! {
            _ = poll_fn(|cx| door.poll_passed(cx)) => panic!("nobody passes"),
            reset = is_reset(&mut second) => assert!(reset),
        }
        drop(first);
        let mut third = connect(&door).await;
        third.write_all(&greeting(3, 2)).await.unwrap();
        assert_eq!(passed(&mut door).await.lane, Lane::Slow);
    }
}
