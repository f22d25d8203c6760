use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

/// `nlmsghdr` of linux/netlink.h and `if_stats_msg` of linux/if_link.h.
const HEADERS: usize = 16 + 12;
/// `IFLA_STATS_LINK_64`, and the bit that asks for it.
const LINK_64: u16 = 1;
const ASKS_LINK_64: u32 = 1;
/// `RTM_GETSTATS` and its answer.
const GET: u16 = 94;
const NEW: u16 = 92;
/// The place of `tx_dropped` in `rtnl_link_stats64`.
const NOT_SENT: usize = 7;

/// The counters of one interface, asked for without tokio; at a fraction of
/// what reading the table of all interfaces costs.
pub struct Counters {
    socket: OwnedFd,
    request: [u8; HEADERS],
}

impl Counters {
    /// Those of an interface in the network namespace of the calling thread.
    pub fn open(interface: &str) -> io::Result<Self> {
        let index = if_nametoindex(interface)?;
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        let mut request = [0; HEADERS];
        request[..4].copy_from_slice(&(HEADERS as u32).to_ne_bytes());
        request[4..6].copy_from_slice(&GET.to_ne_bytes());
        request[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
        request[20..24].copy_from_slice(&index.to_ne_bytes());
        request[24..28].copy_from_slice(&ASKS_LINK_64.to_ne_bytes());
        Ok(Self { socket, request })
    }

    /// How many packets the interface did not send, because its queue was full
    /// or for another reason.
    pub fn not_sent(&self) -> io::Result<u64> {
        send(self.socket.as_raw_fd(), &self.request, MsgFlags::empty())?;
        let mut answer = [0; 1024];
        // The kernel has answered by now.
        let length = recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT)?;
        not_sent(&answer[..length])
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no counters in the answer"))
    }
}

/// The counter in an answer.
fn not_sent(answer: &[u8]) -> Option<u64> {
    let short = |at: usize| Some(u16::from_ne_bytes(*answer.get(at..)?.first_chunk()?));
    let is_it = short(4)? == NEW && short(HEADERS + 2)? == LINK_64;
    let counters = answer.get(HEADERS + 4..).filter(|_| is_it)?;
    Some(u64::from_ne_bytes(*counters.get(NOT_SENT * 8..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_counters_has_none() {
        assert_eq!(not_sent(&[]), None);
        let mut error = [0; 36];
        error[4] = 2;
        assert_eq!(not_sent(&error), None);
        assert!(Counters::open("no-such-interface").is_err());
        assert!(Counters::open("lo").unwrap().not_sent().is_ok());
    }
}
