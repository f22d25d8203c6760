use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::thread;

use nix::libc;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

/// `nlmsghdr` of linux/netlink.h and `nfgenmsg` of linux/netfilter/nfnetlink.h.
const HEADERS: usize = 16 + 4;
/// `IPCTNL_MSG_CT_DELETE` of `NFNL_SUBSYS_CTNETLINK`: of all, where none is named.
const DELETE: u16 = (libc::NFNL_SUBSYS_CTNETLINK << 8) as u16 | 2;

/// Makes a network namespace forget every connection that it tracks, and with them
/// what its NAT has mapped.
pub fn forget_connections(namespace: BorrowedFd<'_>) -> io::Result<()> {
    let forget = || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )?;
        let mut request = [0; HEADERS];
        request[..4].copy_from_slice(&(HEADERS as u32).to_ne_bytes());
        request[4..6].copy_from_slice(&DELETE.to_ne_bytes());
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        request[6..8].copy_from_slice(&flags.to_ne_bytes());
        send(socket.as_raw_fd(), &request, MsgFlags::empty())?;
        let mut answer = [0; 256];
        // The kernel has answered by now.
        let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT)?;
        outcome(&answer[..length])
    };
    thread::scope(|scope| {
        let ended = scope.spawn(forget).join();
        ended.unwrap_or_else(|_| Err(io::Error::other("the entering thread panicked")))
    })
}

/// What the kernel says in an `NLMSG_ERROR`.
fn outcome(answer: &[u8]) -> io::Result<()> {
    let code = answer.get(16..).and_then(|code| Some(i32::from_ne_bytes(*code.first_chunk()?)));
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "no outcome in the answer")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_what_became_of_it() {
        let answer = |code: i32| [[0; 16].as_slice(), &code.to_ne_bytes()].concat();
        assert!(outcome(&answer(0)).is_ok());
        let refused = outcome(&answer(-libc::EPERM)).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        assert!(outcome(&[]).is_err());
    }
}
