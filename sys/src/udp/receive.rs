use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

use super::address::read_address;
use super::control::{Control, read_controls};
use super::{Carried, Datagram};

/// At most so many messages are received in one call.
pub const MESSAGES: usize = 8;
/// Since Linux 4.12 (asm-generic/socket.h).
const SO_MEMINFO: i32 = 55;
/// Room for one received message.
const ROOM: usize = 65_536;

/// How many datagrams the kernel dropped that came to this socket: what a filter
/// refused, and what it had no room for. 0 where the kernel does not say.
pub fn dropped(socket: &impl AsFd) -> u64 {
    let mut values = [0_u32; 9];
    let mut length = size_of_val(&values) as libc::socklen_t;
    // SAFETY: the kernel writes at most as many bytes as the length says, and
    // how many it wrote.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_MEMINFO,
            values.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if outcome == 0 { u64::from(values[libc::SK_MEMINFO_DROPS as usize]) } else { 0 }
}

/// Sets an option of a socket, as far as the kernel knows it.
pub(super) fn set_option(socket: &impl AsFd, level: i32, name: i32, value: i32) {
    // SAFETY: the value is an int that lives during the call.
    unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<i32>() as _,
        )
    };
}

/// Receives datagrams, many at once.
pub struct Receiver {
    bytes: Box<[u8]>,
    headers: Box<[libc::mmsghdr]>,
    addresses: Box<[libc::sockaddr_storage]>,
    controls: Box<[Control]>,
    pieces: Box<[libc::iovec]>,
    messages: Vec<Message>,
    carried: Carried,
}

// SAFETY: as for Sender.
unsafe impl Send for Receiver {}

/// A message that was received.
#[derive(Clone, Copy)]
struct Message {
    from: SocketAddr,
    own: Option<IpAddr>,
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
            bytes: vec![0; MESSAGES * ROOM].into_boxed_slice(),
            headers: vec![header; MESSAGES].into_boxed_slice(),
            addresses: vec![address; MESSAGES].into_boxed_slice(),
            controls: vec![Control::default(); MESSAGES].into_boxed_slice(),
            pieces: vec![piece; MESSAGES].into_boxed_slice(),
            messages: Vec::with_capacity(MESSAGES),
            carried: Carried::default(),
        }
    }
}

impl Receiver {
    /// Makes a socket join datagrams and tell their ECN bits. An older kernel
    /// does not; then they come one by one, or without.
    pub fn prepare(socket: &impl AsFd, is_v4: bool) {
        set_option(socket, libc::SOL_UDP, libc::UDP_GRO, 1);
        if is_v4 {
            set_option(socket, libc::IPPROTO_IP, libc::IP_RECVTOS, 1);
        } else {
            set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1);
        }
    }

    /// Makes a socket tell to which address of the host a datagram came.
    pub fn tell_own(socket: &impl AsFd, is_v4: bool) {
        if is_v4 {
            set_option(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1);
        } else {
            set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1);
        }
    }

    /// Says whether what a socket sends may be fragmented on its way, which is then
    /// forbidden by the header of IPv4 and nobody's business in IPv6. The kernel is told
    /// to believe no router that says that something was too large: anybody can
    /// say that. Interfaces count either way.
    pub fn forbid_fragments(socket: &impl AsFd, is_v4: bool, forbids: bool) {
        let (level, name, value) = match (is_v4, forbids) {
            (true, true) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE),
            (true, false) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT),
            (false, true) => {
                (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)
            }
            (false, false) => {
                (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_OMIT)
            }
        };
        set_option(socket, level, name, value);
    }

    /// Takes what is there, without waiting, and at most so many messages; says
    /// how many it was.
    pub fn receive(&mut self, socket: &impl AsFd, most: usize) -> io::Result<usize> {
        let most = most.min(MESSAGES);
        self.messages.clear();
        for index in 0..most {
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
                most as _,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        self.carried.calls += 1;
        self.carried.messages += received as u64;
        for index in 0..received {
            let header = &self.headers[index];
            let Some(from) = read_address(&self.addresses[index]) else { continue };
            let length = header.msg_len as usize;
            // SAFETY: the kernel has written the control messages, and their
            // length into the header.
            let said = unsafe { read_controls(&header.msg_hdr) };
            let size = said.size.unwrap_or(length).max(1);
            self.carried.packets += length.div_ceil(size).max(1) as u64;
            self.messages.push(Message { from, own: said.own, ecn: said.ecn, length, size });
            self.pieces[self.messages.len() - 1] = self.pieces[index];
        }
        Ok(received)
    }

    /// What was received so far.
    pub fn carried(&self) -> Carried {
        self.carried
    }

    /// What was received, in its order.
    pub fn datagrams(&self) -> impl Iterator<Item = Datagram<'_>> {
        let messages = self.messages.iter().zip(&self.pieces);
        messages.flat_map(|(message, piece)| {
            let start = (piece.iov_base as usize).saturating_sub(self.bytes.as_ptr() as usize);
            let bytes = self.bytes.get(start..start + message.length).unwrap_or_default();
            let empty = bytes.is_empty().then_some(bytes);
            bytes.chunks(message.size).chain(empty).map(|bytes| Datagram {
                address: message.from,
                own: message.own,
                ecn: message.ecn,
                whole: false,
                bytes,
            })
        })
    }
}
