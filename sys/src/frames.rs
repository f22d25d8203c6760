//! Whole Ethernet frames, as they pass an interface.

#![allow(unsafe_code, reason = "nix cannot bind a packet socket to an interface")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, recv, send, setsockopt, socket, sockopt,
};

/// What may wait in the kernel until it is taken, in bytes with all that the kernel adds.
const ROOM: usize = 8 << 20;

/// The frames of one interface.
#[derive(Debug)]
pub struct Frames {
    socket: OwnedFd,
}

impl Frames {
    /// Those that come in at an interface of the calling thread's network namespace. The
    /// kernel gets each of them, too.
    ///
    /// Needs `CAP_NET_RAW` there.
    pub fn open(interface: &str) -> io::Result<Self> {
        let index = if_nametoindex(interface)?;
        // Of no protocol at first: nothing of other interfaces comes in before the bind.
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
        // As much as is allowed, where root is root of a user namespace alone.
        setsockopt(&socket, sockopt::RcvBufForce, &ROOM)
            .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &ROOM))?;
        let on: libc::c_int = 1;
        // SAFETY: the option is an integer that lives during the call.
        Errno::result(unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_IGNORE_OUTGOING,
                (&raw const on).cast(),
                size_of_val(&on) as _,
            )
        })?;
        // SAFETY: of integers only, for which zero is a value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index.cast_signed();
        // SAFETY: the address lives during the call and is as long as said.
        Errno::result(unsafe {
            libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as _)
        })?;
        Ok(Self { socket })
    }

    /// Takes one frame and gives its length; `WouldBlock` if there is none. What does not
    /// fit is cut off.
    pub fn recv(&self, into: &mut [u8]) -> io::Result<usize> {
        Ok(recv(self.socket.as_raw_fd(), into, MsgFlags::empty())?)
    }

    /// Sends one frame out of the interface.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        Ok(send(self.socket.as_raw_fd(), frame, MsgFlags::empty()).map(drop)?)
    }
}

impl AsFd for Frames {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
