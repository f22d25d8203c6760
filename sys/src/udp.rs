//! Many UDP datagrams in one system call, and many in one message.
//!
//! [`Sender`] joins datagrams for one target into messages that the kernel
//! cuts up (`UDP_SEGMENT`), [`Receiver`] takes messages that the kernel joined
//! (`UDP_GRO`). Both carry the two ECN bits of the IP header (RFC 3168). Where
//! kernel or network card refuse segmentation, datagrams go one by one.

#![allow(unsafe_code, reason = "sendmmsg and recvmmsg with control messages are not in std")]

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::libc;

/// The most datagrams in one message (`UDP_MAX_SEGMENTS` of Linux before 6.9).
const MOST_SEGMENTS: usize = 64;
/// The longest message: what an IPv4 packet holds beside its own and the UDP
/// header.
const LONGEST_MESSAGE: usize = 65_507;
/// The most messages in one call.
const MESSAGES: usize = 64;
/// The most datagrams in one call.
const PIECES: usize = 512;
/// How many messages are received in one call.
const RECEIVED: usize = 8;
/// Room for one received message.
const ROOM: usize = 65_536;
/// The two bits of the type of service, or traffic class, that are ECN's.
const ECN: u8 = 0b11;

/// A datagram on its way.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'a> {
    /// To or from whom.
    pub address: SocketAddr,
    /// The ECN bits of its IP header.
    pub ecn: u8,
    /// What it carries.
    pub bytes: &'a [u8],
}

/// Room for the control messages of one message: the ECN bits and the size of
/// segments.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Sends datagrams, many at once.
pub struct Sender {
    headers: Box<[libc::mmsghdr]>,
    addresses: Box<[libc::sockaddr_storage]>,
    controls: Box<[Control]>,
    pieces: Box<[libc::iovec]>,
    plans: Vec<Plan>,
    segmentation: bool,
}

// SAFETY: the pointers in headers and pieces are written and read within one
// call of `send`, and lead nowhere in between.
unsafe impl Send for Sender {}

/// One message: which of the pieces it is made of, and to whom it goes.
#[derive(Clone, Copy)]
struct Plan {
    first: usize,
    count: usize,
    address: SocketAddr,
    ecn: u8,
    /// The length of each piece but the last.
    size: usize,
    length: usize,
    /// Whether another piece fits.
    open: bool,
}

impl Default for Sender {
    fn default() -> Self {
        // SAFETY: all of these are plain data for which zero is a value.
        let (header, address, piece) = unsafe { (zeroed(), zeroed(), zeroed()) };
        Self {
            headers: vec![header; MESSAGES].into_boxed_slice(),
            addresses: vec![address; MESSAGES].into_boxed_slice(),
            controls: vec![Control([0; 64]); MESSAGES].into_boxed_slice(),
            pieces: vec![piece; PIECES].into_boxed_slice(),
            plans: Vec::with_capacity(MESSAGES),
            segmentation: true,
        }
    }
}

impl Sender {
    /// Whether the kernel is asked to cut messages up.
    pub fn segments(&self) -> bool {
        self.segmentation
    }

    /// Sends datagrams in their order, by sockets of either family; none of
    /// them waits. `failed` hears of every message that the kernel refused, and
    /// how many datagrams it had.
    pub fn send<'a>(
        &mut self,
        socket_for: impl Fn(&SocketAddr) -> Option<BorrowedFd<'a>>,
        datagrams: impl Iterator<Item = Datagram<'a>>,
        mut failed: impl FnMut(&io::Error, usize),
    ) {
        self.plans.clear();
        let mut used = 0;
        for datagram in datagrams {
            if used == PIECES || (!self.joins(&datagram) && self.plans.len() == MESSAGES) {
                self.flush(&socket_for, &mut failed);
                used = 0;
            }
            self.pieces[used] = libc::iovec {
                iov_base: datagram.bytes.as_ptr().cast_mut().cast(),
                iov_len: datagram.bytes.len(),
            };
            self.plan(&datagram, used);
            used += 1;
        }
        self.flush(&socket_for, &mut failed);
    }

    /// Whether a datagram may go in the last message.
    fn joins(&self, datagram: &Datagram<'_>) -> bool {
        let length = datagram.bytes.len();
        self.segmentation
            && self.plans.last().is_some_and(|last| {
                last.open
                    && (last.address, last.ecn) == (datagram.address, datagram.ecn)
                    && length <= last.size
                    && length > 0
                    && last.length + length <= LONGEST_MESSAGE
                    && last.count < MOST_SEGMENTS
            })
    }

    fn plan(&mut self, datagram: &Datagram<'_>, piece: usize) {
        let length = datagram.bytes.len();
        if self.joins(datagram) {
            if let Some(last) = self.plans.last_mut() {
                last.count += 1;
                last.length += length;
                // Only the last may be shorter.
                last.open = length == last.size;
            }
            return;
        }
        self.plans.push(Plan {
            first: piece,
            count: 1,
            address: datagram.address,
            ecn: datagram.ecn & ECN,
            size: length,
            length,
            open: true,
        });
    }

    /// Sends what is planned.
    fn flush<'a>(
        &mut self,
        socket_for: &impl Fn(&SocketAddr) -> Option<BorrowedFd<'a>>,
        failed: &mut impl FnMut(&io::Error, usize),
    ) {
        let mut next = 0;
        while let Some(plan) = self.plans.get(next).copied() {
            let Some(socket) = socket_for(&plan.address) else {
                failed(&io::Error::from_raw_os_error(libc::EAFNOSUPPORT), plan.count);
                next += 1;
                continue;
            };
            // Those that the same socket sends.
            let of_family = |one: &Plan| one.address.is_ipv4() == plan.address.is_ipv4();
            let run = self.plans[next..].iter().take_while(|one| of_family(one)).count();
            for index in next..next + run {
                self.describe(index);
            }
            match self.call(socket, next, run) {
                Ok(sent) => next += sent.max(1),
                Err(error) => {
                    self.refused(socket, plan, &error, failed);
                    next += 1;
                }
            }
        }
        self.plans.clear();
    }

    /// A message was refused: its datagrams go one by one, if that may help.
    fn refused(
        &mut self,
        socket: BorrowedFd<'_>,
        plan: Plan,
        error: &io::Error,
        failed: &mut impl FnMut(&io::Error, usize),
    ) {
        let code = error.raw_os_error();
        let may_help = matches!(code, Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE));
        if plan.count == 1 || !may_help {
            return failed(error, plan.count);
        }
        // The card computes no checksums, or the kernel knows no segments. A
        // message that is only too long for its route says nothing of others.
        if code != Some(libc::EMSGSIZE) {
            self.segmentation = false;
        }
        let kept = std::mem::take(&mut self.plans);
        for piece in plan.first..plan.first + plan.count {
            let length = self.pieces[piece].iov_len;
            let single = Plan { first: piece, count: 1, size: length, length, ..plan };
            self.plans.clear();
            self.plans.push(single);
            self.describe(0);
            if let Err(error) = self.call(socket, 0, 1) {
                failed(&error, 1);
            }
        }
        self.plans = kept;
    }

    /// Writes the header of a planned message.
    fn describe(&mut self, index: usize) {
        let plan = self.plans[index];
        let name_length = write_address(plan.address, &mut self.addresses[index]);
        let is_v4 = plan.address.is_ipv4();
        let control_length = {
            let mut control = ControlWriter { bytes: &mut self.controls[index].0, used: 0 };
            if plan.ecn != 0 {
                let (level, kind) = if is_v4 {
                    (libc::IPPROTO_IP, libc::IP_TOS)
                } else {
                    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
                };
                control.push(level, kind, &i32::from(plan.ecn).to_ne_bytes());
            }
            if plan.count > 1 {
                let size = (plan.size as u16).to_ne_bytes();
                control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &size);
            }
            control.used
        };
        let header = &mut self.headers[index].msg_hdr;
        header.msg_name = (&raw mut self.addresses[index]).cast();
        header.msg_namelen = name_length;
        header.msg_iov = &raw mut self.pieces[plan.first];
        header.msg_iovlen = plan.count as _;
        header.msg_control = if control_length == 0 {
            std::ptr::null_mut()
        } else {
            (&raw mut self.controls[index].0).cast()
        };
        header.msg_controllen = control_length as _;
        header.msg_flags = 0;
    }

    /// How many of the messages were taken, beginning with `first`.
    fn call(&mut self, socket: BorrowedFd<'_>, first: usize, count: usize) -> io::Result<usize> {
        let headers = self.headers[first..first + count].as_mut_ptr();
        loop {
            // SAFETY: the headers were described just now; what they lead to,
            // addresses, control messages and pieces, belongs to self or is
            // borrowed by the caller of `send`, and is not moved meanwhile.
            let sent = unsafe {
                libc::sendmmsg(socket.as_raw_fd(), headers, count as _, libc::MSG_DONTWAIT)
            };
            match usize::try_from(sent) {
                Ok(sent) => return Ok(sent),
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return Err(error),
                },
            }
        }
    }
}

/// Receives datagrams, many at once.
pub struct Receiver {
    bytes: Box<[u8]>,
    headers: Box<[libc::mmsghdr]>,
    addresses: Box<[libc::sockaddr_storage]>,
    controls: Box<[Control]>,
    pieces: Box<[libc::iovec]>,
    messages: Vec<Message>,
}

// SAFETY: as for Sender.
unsafe impl Send for Receiver {}

/// A message that was received.
#[derive(Clone, Copy)]
struct Message {
    from: SocketAddr,
    ecn: u8,
    length: usize,
    /// The length of each of its datagrams but the last.
    size: usize,
}

impl Default for Receiver {
    fn default() -> Self {
        // SAFETY: all of these are plain data for which zero is a value.
        let (header, address, piece) = unsafe { (zeroed(), zeroed(), zeroed()) };
        Self {
            bytes: vec![0; RECEIVED * ROOM].into_boxed_slice(),
            headers: vec![header; RECEIVED].into_boxed_slice(),
            addresses: vec![address; RECEIVED].into_boxed_slice(),
            controls: vec![Control([0; 64]); RECEIVED].into_boxed_slice(),
            pieces: vec![piece; RECEIVED].into_boxed_slice(),
            messages: Vec::with_capacity(RECEIVED),
        }
    }
}

impl Receiver {
    /// Makes a socket join datagrams and tell their ECN bits. An older kernel
    /// does not; then they come one by one, or without.
    pub fn prepare(socket: &impl AsFd, is_v4: bool) {
        let set = |level, name| {
            let on: i32 = 1;
            // SAFETY: the value is an int that lives during the call.
            unsafe {
                libc::setsockopt(
                    socket.as_fd().as_raw_fd(),
                    level,
                    name,
                    (&raw const on).cast(),
                    size_of::<i32>() as _,
                )
            };
        };
        set(libc::SOL_UDP, libc::UDP_GRO);
        if is_v4 {
            set(libc::IPPROTO_IP, libc::IP_RECVTOS);
        } else {
            set(libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS);
        }
    }

    /// Takes what is there, without waiting; says how many messages it was.
    pub fn receive(&mut self, socket: &impl AsFd) -> io::Result<usize> {
        self.messages.clear();
        for index in 0..RECEIVED {
            self.pieces[index] = libc::iovec {
                iov_base: self.bytes[index * ROOM..].as_mut_ptr().cast(),
                iov_len: ROOM,
            };
            let header = &mut self.headers[index].msg_hdr;
            header.msg_name = (&raw mut self.addresses[index]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as _;
            header.msg_iov = &raw mut self.pieces[index];
            header.msg_iovlen = 1;
            header.msg_control = (&raw mut self.controls[index].0).cast();
            header.msg_controllen = size_of::<Control>() as _;
            header.msg_flags = 0;
        }
        // SAFETY: the headers lead to memory of self that is as long as they
        // say and is not moved meanwhile.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                self.headers.as_mut_ptr(),
                RECEIVED as _,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        for index in 0..received {
            let header = &self.headers[index];
            let Some(from) = read_address(&self.addresses[index]) else { continue };
            let length = header.msg_len as usize;
            let mut message = Message { from, ecn: 0, length, size: length };
            // SAFETY: the kernel has written the control messages, and their
            // length into the header.
            unsafe { read_controls(&header.msg_hdr, &mut message) };
            self.messages.push(message);
            self.pieces[self.messages.len() - 1] = self.pieces[index];
        }
        Ok(received)
    }

    /// What was received, in its order.
    pub fn datagrams(&self) -> impl Iterator<Item = Datagram<'_>> {
        let messages = self.messages.iter().zip(&self.pieces);
        messages.flat_map(|(message, piece)| {
            let start = (piece.iov_base as usize).saturating_sub(self.bytes.as_ptr() as usize);
            let bytes = self.bytes.get(start..start + message.length).unwrap_or_default();
            bytes.chunks(message.size.max(1)).map(|bytes| Datagram {
                address: message.from,
                ecn: message.ecn,
                bytes,
            })
        })
    }
}

/// Puts control messages one behind the other.
struct ControlWriter<'a> {
    bytes: &'a mut [u8; 64],
    used: usize,
}

impl ControlWriter<'_> {
    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        // SAFETY: these compute lengths only.
        let (space, length) = unsafe {
            (libc::CMSG_SPACE(data.len() as _) as usize, libc::CMSG_LEN(data.len() as _))
        };
        let Some(into) = self.bytes.get_mut(self.used..self.used + space) else { return };
        #[allow(clippy::cast_ptr_alignment, reason = "Control is aligned, and so are its parts")]
        let header = into.as_mut_ptr().cast::<libc::cmsghdr>();
        // SAFETY: `into` has room for the header and the data, and begins at a
        // multiple of eight in memory that is aligned to eight.
        unsafe {
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            (*header).cmsg_len = length as _;
            libc::CMSG_DATA(header).copy_from_nonoverlapping(data.as_ptr(), data.len());
        }
        self.used += space;
    }
}

/// # Safety
/// The header must be one that the kernel filled in.
unsafe fn read_controls(header: &libc::msghdr, message: &mut Message) {
    // SAFETY: the promise of the caller.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !next.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give whole messages only; their
        // data need not be aligned.
        unsafe {
            let data = libc::CMSG_DATA(next);
            match ((*next).cmsg_level, (*next).cmsg_type) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let size = data.cast::<i32>().read_unaligned();
                    message.size = usize::try_from(size).unwrap_or(message.length);
                }
                (libc::IPPROTO_IP, libc::IP_TOS) => message.ecn = data.read() & ECN,
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    let class = data.cast::<i32>().read_unaligned() & i32::from(ECN);
                    message.ecn = u8::try_from(class).unwrap_or_default();
                }
                _ => {}
            }
            next = libc::CMSG_NXTHDR(header, next);
        }
    }
}

fn write_address(address: SocketAddr, into: &mut libc::sockaddr_storage) -> libc::socklen_t {
    let length = match address {
        SocketAddr::V4(address) => {
            // SAFETY: a storage has room and alignment for every address.
            let raw = unsafe { &mut *(&raw mut *into).cast::<libc::sockaddr_in>() };
            raw.sin_family = libc::AF_INET as _;
            raw.sin_port = address.port().to_be();
            raw.sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(address) => {
            // SAFETY: as above.
            let raw = unsafe { &mut *(&raw mut *into).cast::<libc::sockaddr_in6>() };
            raw.sin6_family = libc::AF_INET6 as _;
            raw.sin6_port = address.port().to_be();
            raw.sin6_flowinfo = address.flowinfo();
            raw.sin6_addr.s6_addr = address.ip().octets();
            raw.sin6_scope_id = address.scope_id();
            size_of::<libc::sockaddr_in6>()
        }
    };
    length as _
}

fn read_address(from: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(from.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says what it is.
            let raw = unsafe { &*(&raw const *from).cast::<libc::sockaddr_in>() };
            let address = Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(address, u16::from_be(raw.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family says what it is.
            let raw = unsafe { &*(&raw const *from).cast::<libc::sockaddr_in6>() };
            let address = Ipv6Addr::from(raw.sin6_addr.s6_addr);
            let port = u16::from_be(raw.sin6_port);
            Some(SocketAddrV6::new(address, port, raw.sin6_flowinfo, raw.sin6_scope_id).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    fn pair(address: &str) -> (UdpSocket, UdpSocket) {
        let sockets = [(); 2].map(|()| UdpSocket::bind(address).unwrap());
        for socket in &sockets {
            Receiver::prepare(socket, socket.local_addr().unwrap().is_ipv4());
        }
        let [one, other] = sockets;
        (one, other)
    }

    fn received(socket: &UdpSocket, count: usize) -> Vec<(SocketAddr, u8, Vec<u8>)> {
        let (mut receiver, mut all) = (Receiver::default(), Vec::new());
        while all.len() < count {
            match receiver.receive(socket) {
                Ok(_) => all.extend(
                    receiver.datagrams().map(|one| (one.address, one.ecn, one.bytes.to_vec())),
                ),
                // Loopback delivers at once, but in another context.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
        all
    }

    #[test]
    fn datagrams_of_all_lengths_arrive_in_order_and_whole_in_both_families() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (from, to) = pair(address);
            let target = to.local_addr().unwrap();
            let lengths = [1400_usize; 100].iter().chain(&[700, 700, 3, 1400, 1]).chain(&[64; 90]);
            let sent: Vec<(u8, Vec<u8>)> = lengths
                .enumerate()
                .map(|(number, length)| ((number / 30 % 4) as u8, vec![number as u8; *length]))
                .collect();
            let mut sender = Sender::default();
            let datagrams =
                sent.iter().map(|(ecn, bytes)| Datagram { address: target, ecn: *ecn, bytes });
            sender.send(|_| Some(from.as_fd()), datagrams, |error, _| panic!("{error}"));
            assert!(sender.segments());
            let own = from.local_addr().unwrap();
            let got = received(&to, sent.len());
            let expected: Vec<_> = sent.into_iter().map(|(ecn, bytes)| (own, ecn, bytes)).collect();
            assert!(got == expected, "{address}");
        }
    }

    #[test]
    fn targets_that_alternate_and_empty_datagrams_are_kept_apart() {
        let (from, one) = pair("127.0.0.1:0");
        let (_, other) = pair("127.0.0.1:0");
        let payloads: Vec<Vec<u8>> = (0..20).map(|number| vec![number; number.into()]).collect();
        let targets = [one.local_addr().unwrap(), other.local_addr().unwrap()];
        let datagrams = payloads
            .iter()
            .flat_map(|bytes| targets.map(|address| Datagram { address, ecn: 0, bytes }));
        Sender::default().send(|_| Some(from.as_fd()), datagrams, |error, _| panic!("{error}"));
        for socket in [one, other] {
            let mut got = vec![[0; 100]; 20];
            for (number, buffer) in got.iter_mut().enumerate() {
                let (length, _) = socket.recv_from(buffer).unwrap();
                assert_eq!(&buffer[..length], payloads[number]);
            }
        }
    }

    #[test]
    fn what_is_refused_is_said_and_the_rest_goes_on() {
        let (from, to) = pair("127.0.0.1:0");
        let target = to.local_addr().unwrap();
        let nowhere = "[::1]:9".parse().unwrap();
        // Longer than any datagram may be.
        let (long, short) = (vec![0; 65_530], vec![7; 10]);
        let all = [(nowhere, &short), (target, &long), (target, &short)];
        let datagrams =
            all.iter().map(|(address, bytes)| Datagram { address: *address, ecn: 0, bytes });
        let mut failures = Vec::new();
        Sender::default().send(
            |to| to.is_ipv4().then(|| from.as_fd()),
            datagrams,
            |error, count| failures.push((error.raw_os_error(), count)),
        );
        assert_eq!(failures, [(Some(libc::EAFNOSUPPORT), 1), (Some(libc::EMSGSIZE), 1)]);
        assert_eq!(received(&to, 1)[0].2, short);
    }

    #[test]
    fn datagrams_that_are_too_long_for_one_message_go_one_by_one() {
        let (from, to) = pair("127.0.0.1:0");
        let target = to.local_addr().unwrap();
        let payload = vec![1; 40_000];
        let datagrams = (0..4).map(|_| Datagram { address: target, ecn: 0, bytes: &payload });
        Sender::default().send(|_| Some(from.as_fd()), datagrams, |error, _| panic!("{error}"));
        assert_eq!(received(&to, 4).len(), 4);
    }
}
