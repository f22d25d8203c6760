//! The loop of a data thread.

use std::ops::Add;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc as commands;
use std::time::Duration;

use epsilon_mesh::shard::offload::{HEADER_LENGTH, Header, split};
use epsilon_mesh::shard::{Command, Kind, MAX_DATAGRAM, Report, Shard};
use epsilon_proto::address::is_stream;
use epsilon_proto::clock::Instant;
use epsilon_sys::netlink::Counters;
use epsilon_sys::udp::{Carried, Datagram, MESSAGES, Receiver};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use tokio::sync::{mpsc, watch};

use super::outlet::Outlet;
use super::overload::{BYTES, MORE_BYTES, MORE_PACKETS, Overload, PACKETS};
use super::parcel::Inbox;
use super::socket::Use;
use super::sources::Sources;
use super::{DataStats, Error};
use crate::clock;

/// A round that carried at least so many packets of at most so many bytes on
/// average is one of a stream of small packets, after which the thread rests:
/// more of them gather, so that the next round costs less for each, and the
/// programs that they are for come to read them before their buffers are full.
const STREAM: usize = 8;
const SMALL: usize = 256;
const REST: Duration = Duration::from_micros(20);

/// After a round of at most so many packets an answer may come soon: the thread
/// looks for it for so long before it sleeps, as waking up takes longer.
const TINY: usize = 2;
const SPIN: Duration = Duration::from_micros(100);
/// One part in so many of the time may be spent on that, and at most this much
/// at once.
const SPIN_SHARE: u32 = 32;
const SPIN_MOST: Duration = Duration::from_millis(2);

/// Of what is no data so many messages are taken in any round.
const ASIDE: usize = 2;
/// And more as long as that takes no more than one part in so many of the time: in a flood
/// of junk there are handshakes and probes of members, too, and each has to be looked at to
/// know that. What was saved for it is at most this much.
const ASIDE_SHARE: u32 = 4;
const ASIDE_MOST: Duration = Duration::from_millis(1);
/// When there are more, and nothing else, it may be a flood, and the thread rests. (A
/// flood of what could be data has to be taken as fast as it comes: data waits behind it.)
const FLOOD_REST: Duration = Duration::from_micros(50);
/// Sockets to which little comes are not asked again for so many rounds when there
/// was nothing, but whenever the thread slept.
const QUIET: u8 = 4;

/// How often counters are published while they change.
const PUBLISH: Duration = Duration::from_secs(1);

/// What reaches the thread besides packets.
pub(super) enum Order {
    Command(Command),
    Stop,
    /// Says that those before have been taken.
    #[cfg(test)]
    Tell(commands::Sender<()>),
}

pub(super) struct Carrier {
    pub(super) shard: Shard,
    pub(super) outlet: Outlet,
    pub(super) receiver: Receiver,
    /// From where data came.
    pub(super) sources: Sources,
    pub(super) orders: commands::Receiver<Order>,
    /// From other lanes.
    pub(super) inbox: Inbox,
    pub(super) wake: Arc<EventFd>,
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) stats: watch::Sender<DataStats>,
    pub(super) buffer: Box<[u8]>,
    /// What the host gave.
    pub(super) taken: Carried,
    pub(super) overload: Overload,
    /// Those of the interface.
    pub(super) counters: Option<Counters>,
    /// For how many rounds a socket is not asked, by its place.
    pub(super) quiet: [u8; 6],
    pub(super) aside: Aside,
    /// Packets of the host beyond the share of their peer.
    pub(super) beyond_share: u64,
    /// Packets of the host that are not what their header says, and datagrams from where no
    /// host is.
    pub(super) malformed: u64,
    pub(super) reports_lost: u64,
    /// The shard's changes that have been published, and when.
    pub(super) published: (u64, Instant),
}

pub(super) fn new_buffer() -> Box<[u8]> {
    vec![0; HEADER_LENGTH + MAX_DATAGRAM].into_boxed_slice()
}

/// What was taken before the loop begins anew.
#[derive(Clone, Copy, Default)]
struct Round {
    packets: usize,
    bytes: usize,
    /// There may be more.
    is_behind: bool,
    /// How many of the packets were no data, and whether there may be more of those.
    asides: usize,
    is_flooded: bool,
}

impl Add for Round {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            packets: self.packets + other.packets,
            bytes: self.bytes + other.bytes,
            is_behind: self.is_behind || other.is_behind,
            asides: self.asides + other.asides,
            is_flooded: self.is_flooded || other.is_flooded,
        }
    }
}

impl Round {
    /// Whether there was nothing but what a flood may be made of.
    fn is_flood_alone(self) -> bool {
        self.is_flooded && self.asides == self.packets
    }

    fn is_stream_of_small_packets(self) -> bool {
        self.packets >= STREAM && self.bytes <= self.packets * SMALL && !self.is_behind
    }
}

/// How much time there is for what is no data.
#[derive(Default)]
pub(super) struct Aside {
    saved: Duration,
    /// What was taken beyond that.
    owed: Duration,
    /// Up to when time was saved.
    filled: Instant,
}

impl Aside {
    /// How many messages may be taken now.
    fn most(&mut self, now: Instant) -> usize {
        let earned = now.since(self.filled) / ASIDE_SHARE;
        self.filled = now;
        self.saved = (self.saved + earned.saturating_sub(self.owed)).min(ASIDE_MOST);
        self.owed = self.owed.saturating_sub(earned);
        if self.saved > Duration::ZERO { MESSAGES } else { ASIDE }
    }

    /// Looking at them took so long.
    fn took(&mut self, time: Duration) {
        self.owed += time.saturating_sub(self.saved);
        self.saved = self.saved.saturating_sub(time);
    }
}

/// Whether to look for packets instead of sleeping.
#[derive(Default)]
struct Spin {
    since: Option<Instant>,
    budget: Duration,
    /// Up to when the budget was filled.
    filled: Instant,
}

impl Spin {
    fn after(&mut self, round: Round, now: Instant) {
        self.charge(now);
        let earned = now.since(self.filled) / SPIN_SHARE;
        self.budget = (self.budget + earned).min(SPIN_MOST);
        self.filled = now;
        self.since = (round.packets <= TINY && self.budget >= SPIN).then_some(now);
    }

    fn goes_on(&mut self, now: Instant) -> bool {
        let goes_on = self.since.is_some_and(|since| now.since(since) < SPIN);
        if !goes_on {
            self.charge(now);
        }
        goes_on
    }

    fn charge(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            self.budget = self.budget.saturating_sub(now.since(since));
        }
    }
}

impl Carrier {
    /// Carries packets until told to stop.
    pub(super) fn run(mut self) -> Result<(), Error> {
        let mut spin = Spin::default();
        loop {
            if self.take_orders() {
                self.outlet.flush();
                self.publish();
                return Ok(());
            }
            let round = self.take_parcels()
                + self.take_of_streams()
                + self.take_datagrams()
                + self.take_packets()?;
            let now = clock::instant();
            if self.shard.poll_timeout().is_some_and(|due| due <= now) {
                self.shard.handle_timeout(now, self.outlet.room());
            }
            self.outlet.flush();
            self.hand_over_reports();
            if self.has_changed() && now.since(self.published.1) >= PUBLISH {
                self.publish();
            }
            if round.packets > 0 {
                spin.after(round, now);
                if round.is_flood_alone() {
                    std::thread::sleep(FLOOD_REST);
                } else if round.is_stream_of_small_packets() {
                    std::thread::sleep(REST);
                }
            } else if spin.goes_on(now) {
                std::thread::yield_now();
            } else {
                self.wait()?;
            }
        }
    }

    /// Whether to stop.
    fn take_orders(&mut self) -> bool {
        loop {
            match self.orders.try_recv() {
                Ok(Order::Command(command)) => {
                    let now = clock::instant();
                    self.shard.handle_command(command, now, self.outlet.room());
                }
                // Who asked may have given up.
                #[cfg(test)]
                Ok(Order::Tell(to)) => drop(to.send(())),
                Err(commands::TryRecvError::Empty) => return false,
                Ok(Order::Stop) | Err(commands::TryRecvError::Disconnected) => return true,
            }
        }
    }

    /// Takes what other lanes pass on.
    fn take_parcels(&mut self) -> Round {
        let mut round = Round::default();
        let now = clock::instant();
        // As much as of the host itself.
        while round.packets < PACKETS && round.bytes < BYTES {
            let Some((kind, bytes)) = self.inbox.next() else { break };
            round.packets += 1;
            round.bytes += bytes.len();
            let out = self.outlet.room();
            match kind {
                Kind::Packet => self.shard.handle_packet(bytes, now, out),
                Kind::Datagram { from, mark } => {
                    let before = self.shard.authentic();
                    self.shard.handle_passed(from, mark, bytes, now, out);
                    if self.shard.authentic() != before && !is_stream(from.address()) {
                        self.sources.add(from.address().ip(), now, &self.outlet);
                    }
                }
            }
        }
        if round.packets > 0 {
            self.outlet.flush();
        }
        round
    }

    /// Takes what came by streams.
    fn take_of_streams(&mut self) -> Round {
        let mut round = Round::default();
        let now = clock::instant();
        while round.packets < PACKETS && round.bytes < BYTES {
            let Some((from, bytes)) = self.inbox.next_of_streams() else { break };
            round.packets += 1;
            round.bytes += bytes.len();
            self.shard.handle_datagram(from, 0, bytes, now, self.outlet.room());
        }
        if round.packets > 0 {
            self.outlet.flush();
        }
        round
    }

    /// Takes what the network has.
    fn take_datagrams(&mut self) -> Round {
        let mut round = Round::default();
        for index in 0.. {
            let now = clock::instant();
            let Some((socket, used)) = self.outlet.sockets.nth(index) else { break };
            if let Some(quiet) = self.quiet.get_mut(index).filter(|quiet| **quiet > 0) {
                *quiet -= 1;
                continue;
            }
            let most = if used == Use::Aside { self.aside.most(now) } else { usize::MAX };
            let received = self.receiver.receive(socket, most);
            round.is_behind |=
                used != Use::Aside && received.as_ref().is_ok_and(|count| *count == MESSAGES);
            round.is_flooded |=
                used == Use::Aside && received.as_ref().is_ok_and(|count| *count == most);
            if received.is_err()
                && used != Use::Data
                && let Some(quiet) = self.quiet.get_mut(index)
            {
                *quiet = QUIET;
            }
            // An error is one that an earlier datagram brought back: asking for
            // it has cleared it.
            if received.is_ok() {
                for Datagram { address, own, ecn, bytes, .. } in self.receiver.datagrams() {
                    if is_stream(address) {
                        // Nobody is there.
                        self.malformed += 1;
                        continue;
                    }
                    round.packets += 1;
                    round.asides += usize::from(used == Use::Aside);
                    round.bytes += bytes.len();
                    let before = self.shard.authentic();
                    self.shard.handle_datagram(address, ecn, bytes, now, self.outlet.room());
                    if used == Use::Aside && self.shard.authentic() != before {
                        self.sources.add(address.ip(), now, &self.outlet);
                        if let Some(own) = own {
                            self.outlet.answers.called(address, own, now);
                        }
                    }
                }
                self.outlet.flush();
                if used == Use::Aside {
                    self.aside.took(clock::instant().since(now));
                }
            }
        }
        round
    }

    /// Takes what the host has.
    fn take_packets(&mut self) -> Result<Round, Error> {
        let mut round = Round::default();
        let now = clock::instant();
        let is_overload = self.overload.is_on(now, || self.counters.as_ref()?.not_sent().ok());
        let (packets, bytes) =
            if is_overload { (MORE_PACKETS, MORE_BYTES) } else { (PACKETS, BYTES) };
        let mut read = Round::default();
        while read.packets < packets && read.bytes < bytes {
            match self.outlet.tun.recv(&mut self.buffer) {
                Ok(length) => {
                    read.packets += 1;
                    read.bytes += length;
                    if is_overload && !self.is_within_share(length) {
                        self.beyond_share += 1;
                        continue;
                    }
                    round.packets += 1;
                    round.bytes += length;
                    self.take_packet(length, now);
                }
                Err(error) if error.raw_os_error() == Some(libc::EBADFD) => {
                    let interface = self.outlet.tun.name().to_owned();
                    return Err(Error::InterfaceGone { interface });
                }
                // Nothing there, or the interface is down: EAGAIN, EIO.
                Err(_) => break,
            }
        }
        self.outlet.flush();
        self.overload.ended(read.packets >= PACKETS || read.bytes >= BYTES);
        self.taken.calls += u64::from(round.packets > 0);
        Ok(round)
    }

    /// Whether the packet in the buffer is within the share of its peer.
    fn is_within_share(&mut self, length: usize) -> bool {
        let header = if self.outlet.tun.has_offload() { HEADER_LENGTH } else { 0 };
        let packet = self.buffer.get(header..length).unwrap_or_default();
        self.overload.admits(self.shard.peer_for(packet), packet.len())
    }

    /// Takes the packet in the buffer, which may stand for many.
    fn take_packet(&mut self, length: usize, now: Instant) {
        let has_offload = self.outlet.tun.has_offload();
        let out = self.outlet.room();
        let bytes = &mut self.buffer[..length];
        self.taken.messages += 1;
        if !has_offload {
            self.taken.packets += 1;
            return self.shard.handle_packet(bytes, now, out);
        }
        let taken = bytes.split_first_chunk_mut().and_then(|(header, packet)| {
            let header = Header::read(header)?;
            split(header, packet, |packet| self.shard.handle_packet(packet, now, out)).ok()
        });
        match taken {
            Some(packets) => self.taken.packets += packets as u64,
            None => self.malformed += 1,
        }
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
        self.published = (self.shard.changes(), clock::instant());
        let mut shard = self.shard.stats(clock::instant());
        shard.dropped.passed += self.outlet.not_passed;
        self.stats.send_replace(DataStats {
            threads: 1,
            shard,
            network: self.outlet.network,
            host: self.outlet.delivery.failures,
            malformed: self.malformed,
            beyond_share: self.beyond_share,
            interface_offload: self.outlet.tun.has_offload(),
            udp_segmentation: self.outlet.sender.segments(),
            network_in: self.receiver.carried(),
            network_out: self.outlet.sender.carried(),
            host_in: self.taken,
            host_out: self.outlet.delivery.delivered,
            reports: self.reports_lost,
            kernel: 0,
            streams: 0,
        });
    }

    /// Sleeps until something arrives or is due.
    fn wait(&mut self) -> Result<(), Error> {
        let publish = self.has_changed().then(|| self.published.1 + PUBLISH);
        let due = self.shard.poll_timeout().into_iter().chain(publish).min();
        let timeout = due.map_or(PollTimeout::NONE, |due| {
            // Rounded up, so that a timer is due when the sleep is over.
            let millis = due.since(clock::instant()).as_micros().div_ceil(1000);
            i32::try_from(millis)
                .ok()
                .and_then(|millis| PollTimeout::try_from(millis).ok())
                .unwrap_or(PollTimeout::MAX)
        });
        // The place of a missing socket is taken by another descriptor.
        let socket = |index| self.outlet.sockets.nth(index).map(|(socket, _)| socket.as_fd());
        let mut fds = [
            Some(self.wake.as_fd()),
            Some(self.outlet.tun.as_fd()),
            socket(0),
            socket(1),
            socket(2),
            socket(3),
            socket(4),
            socket(5),
        ]
        .map(|fd| PollFd::new(fd.unwrap_or(self.wake.as_fd()), PollFlags::POLLIN));
        self.quiet = Default::default();
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => {
                let interface = self.outlet.tun.name().to_owned();
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

#[cfg(test)]
mod tests {
    use super::*;

    const TINY_ROUND: Round =
        Round { packets: 1, bytes: 100, is_behind: false, asides: 0, is_flooded: false };

    #[test]
    fn looking_for_answers_takes_a_small_part_of_the_time() {
        let (mut spin, mut looked) = (Spin::default(), Duration::ZERO);
        let step = Duration::from_micros(1);
        let (mut now, end) = (Instant::default(), Instant(Duration::from_secs(1)));
        // Packets every 100 µs that no answer follows.
        while now < end {
            spin.after(TINY_ROUND, now);
            let next = now + Duration::from_micros(100);
            while now < next && spin.goes_on(now) {
                now = now + step;
                looked += step;
            }
            now = next;
        }
        let share = looked.as_micros();
        assert!((20_000..35_000).contains(&share), "{share} of 1000000 µs");
    }

    #[test]
    fn only_tiny_rounds_are_followed_by_looking() {
        let mut spin = Spin { budget: SPIN_MOST, ..Spin::default() };
        let now = Instant(Duration::from_secs(1));
        spin.after(Round { packets: 3, ..TINY_ROUND }, now);
        assert!(!spin.goes_on(now));
        spin.after(TINY_ROUND, now);
        assert!(spin.goes_on(now + Duration::from_micros(99)));
        assert!(!spin.goes_on(now + SPIN));
        assert!(!spin.goes_on(now + SPIN));
    }

    #[test]
    fn what_is_no_data_takes_its_share_of_the_time_and_no_more() {
        let (mut aside, mut taken) = (Aside::default(), Duration::ZERO);
        let mut now = Instant(Duration::from_secs(1));
        let (begun, each) = (now, Duration::from_micros(1));
        let mut messages = 0;
        while now.since(begun) < Duration::from_secs(1) {
            let most = aside.most(now);
            let took = each * most as u32;
            aside.took(took);
            taken += took;
            messages += most;
            // As long as for data.
            now = now + took + Duration::from_micros(20);
        }
        let share = taken.as_micros();
        assert!((240_000..300_000).contains(&share), "{share} of 1000000 µs, {messages}");
        // Those that cost more than was saved are followed by few.
        aside.took(Duration::from_millis(10));
        assert_eq!(aside.most(now), ASIDE);
        assert_eq!(aside.most(now + Duration::from_millis(39)), ASIDE);
        assert_eq!(aside.most(now + Duration::from_millis(50)), MESSAGES);
    }

    #[test]
    fn a_flood_is_told_from_a_few_and_from_what_comes_with_data() {
        let asides = Round { packets: 2, asides: 2, is_flooded: true, ..TINY_ROUND };
        assert!(asides.is_flood_alone());
        assert!(!Round { is_flooded: false, ..asides }.is_flood_alone());
        assert!(!(asides + TINY_ROUND).is_flood_alone());
    }

    #[test]
    fn streams_of_small_packets_are_told_from_bulk_and_from_single_ones() {
        let round = |packets, bytes| Round { packets, bytes, ..TINY_ROUND };
        let is_stream = |packets, bytes| round(packets, bytes).is_stream_of_small_packets();
        let behind = Round { is_behind: true, ..round(10, 960) };
        assert!(!behind.is_stream_of_small_packets());
        assert!(is_stream(10, 960) && is_stream(500, 48_000));
        assert!(!is_stream(5, 480) && !is_stream(45, 65_340) && !is_stream(0, 0));
    }
}
