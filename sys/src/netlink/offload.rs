#![allow(unsafe_code, reason = "the ioctl of ethtool is not in nix")]

use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::{Error, Netlink, inside};

/// `SIOCETHTOOL` of linux/sockios.h.
const ETHTOOL: libc::Ioctl = 0x8946;
/// `ETHTOOL_STXCSUM` of linux/ethtool.h.
const SET_CHECKSUMS: u32 = 0x17;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

impl Netlink {
    /// Sets whether the kernel may leave checksums to an interface. While it may not, it
    /// also cuts large segments into packets, since that takes checksums: what the
    /// interface sends is what a wire would carry.
    pub fn set_offload(&self, interface: &str, on: bool) -> Result<(), Error> {
        let done = inside(self.namespace.as_deref(), || {
            let flags = SockFlag::SOCK_CLOEXEC;
            let socket = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
            let mut value = Value { command: SET_CHECKSUMS, data: on.into() };
            // SAFETY: of integers and pointers only, for which zero is a value.
            let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
            if interface.len() >= request.ifr_name.len() {
                return Err(io::Error::from_raw_os_error(libc::ENODEV));
            }
            for (to, byte) in request.ifr_name.iter_mut().zip(interface.bytes()) {
                *to = libc::c_char::from_ne_bytes([byte]);
            }
            request.ifr_ifru.ifru_data = (&raw mut value).cast();
            // SAFETY: the kernel reads the request and the value that it points to; both
            // live during the call.
            Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), ETHTOOL, &raw mut request) })?;
            Ok(())
        });
        let action = || format!("set the offload of interface {interface}");
        done.map_err(|source| Error::Refused { action: action(), source })
    }
}
