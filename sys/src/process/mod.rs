//! Processes held by handles, so that a recycled process id is never hit.
//!
//! A process id is only a number: by the time a signal is sent, its process
//! may be gone and another have taken the number. A [`Handle`] is a pidfd and
//! means one process for ever. [`Identity`] is what a file can hold of it: the
//! id together with the time of its start.
//!
//! A [`ChildProcess`] is a handle to a child of this process, which also knows
//! how it ended.

#![allow(unsafe_code)]

mod child;
mod list;
mod run;

pub use child::ChildProcess;
pub use list::{Listed, find, listed, same_pid_namespace};
pub use run::{RunError, run};

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
pub use nix::sys::signal::Signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Why a process could not be observed or signalled.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} process {pid}: {source}{}", crate::next_step(source, "CAP_KILL"))]
pub struct Error {
    action: &'static str,
    pid: u32,
    source: io::Error,
}

impl Error {
    fn new(action: &'static str, pid: u32) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { action, pid, source }
    }
}

/// What identifies a process until the next boot: its id and when it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The process id, as this process sees it.
    pub pid: u32,
    /// Clock ticks from boot to the start of the process.
    pub started: u64,
}

impl Identity {
    /// The identity of the process that has `pid` now, if one has.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Self { pid, started: start_time(&stat)? })
    }
}

/// The 22nd field. The second, the program's name, may hold spaces and
/// parentheses, so counting begins behind its last closing parenthesis.
fn start_time(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// One process, not whatever else may come to have its id.
#[derive(Debug)]
pub struct Handle {
    pid: u32,
    fd: OwnedFd,
}

impl Handle {
    /// The process that has `pid` now; `None` when there is none.
    pub fn open(pid: u32) -> Result<Option<Self>, Error> {
        let Ok(raw) = libc::pid_t::try_from(pid) else {
            return Ok(None);
        };
        // SAFETY: pidfd_open takes two integers and touches no memory of ours.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, raw, 0) };
        match Errno::result(fd) {
            Ok(fd) => {
                let fd = i32::try_from(fd).map_err(|_| {
                    Error::new("open", pid)(io::Error::other("the kernel gave no descriptor"))
                })?;
                // SAFETY: the kernel just made this descriptor for us alone.
                let fd = unsafe { OwnedFd::from_raw_fd(fd) };
                Ok(Some(Self { pid, fd }))
            }
            Err(Errno::ESRCH | Errno::EINVAL) => Ok(None),
            Err(errno) => Err(Error::new("open", pid)(errno.into())),
        }
    }

    /// The process of that identity; `None` when it is gone, even if another
    /// has its id by now.
    pub fn open_identity(identity: Identity) -> Result<Option<Self>, Error> {
        let handle = Self::open(identity.pid)?;
        // Asked after the handle is held: it can no longer be recycled.
        Ok(handle.filter(|_| Identity::of(identity.pid) == Some(identity)))
    }

    /// The process id, as this process sees it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What a file can hold of this process; `None` when it is gone.
    pub fn identity(&self) -> Option<Identity> {
        let identity = Identity::of(self.pid);
        identity.filter(|_| !self.is_gone())
    }

    /// Sends `signal`. Succeeds when the process is gone already.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        match self.send(signal as libc::c_int) {
            Err(Errno::ESRCH) | Ok(()) => Ok(()),
            Err(errno) => Err(Error::new("signal", self.pid)(errno.into())),
        }
    }

    /// Whether the process is gone and nobody waits for its status any more,
    /// so that its id may be taken by another.
    fn is_gone(&self) -> bool {
        self.send(0) == Err(Errno::ESRCH)
    }

    fn send(&self, signal: libc::c_int) -> Result<(), Errno> {
        use std::os::fd::AsRawFd;
        // SAFETY: the descriptor is open as long as `self`, and a null
        // siginfo is what the call documents for "as kill would".
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.fd.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        Errno::result(result).map(drop)
    }

    /// Whether the process has not ended yet.
    pub fn is_running(&self) -> bool {
        !self.ends_within(Duration::ZERO)
    }

    /// Waits until the process has ended. May be cancelled.
    pub async fn ended(&self) -> Result<(), Error> {
        let wait = async {
            // A descriptor may be registered only once, and several tasks may
            // wait for the same process.
            let own = self.fd.try_clone()?;
            // SAFETY: the descriptor is owned by what registers it, so it
            // stays open and the same for as long as it is registered.
            let fd = unsafe { AsyncFd::register_with_interest(own, Interest::READABLE) }
                .map_err(io::Error::from)?;
            fd.readable().await.map(|_| ())
        };
        wait.await.map_err(Error::new("wait for", self.pid))
    }

    /// Blocks until the process has ended or `limit` has passed; whether it
    /// has ended.
    pub fn ends_within(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(ready) if ready > 0 => return true,
                Ok(_) | Err(Errno::EINTR) if !left.is_zero() => {}
                _ => return false,
            }
        }
    }

    /// The network namespace that the process is in.
    pub fn network_namespace(&self) -> Result<OwnedFd, Error> {
        let file = File::open(format!("/proc/{}/ns/net", self.pid))
            .map_err(Error::new("find the network namespace of", self.pid))?;
        // The path goes by number; it was this process's if it still is there.
        if self.is_gone() {
            let gone = io::Error::from_raw_os_error(libc::ESRCH);
            return Err(Error::new("find the network namespace of", self.pid)(gone));
        }
        Ok(file.into())
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_start_time_is_found_behind_a_name_that_imitates_fields() {
        let mut fields = vec!["7", "(a) b (c)", "S"];
        fields.extend(["0"; 18]);
        fields.push("4711");
        fields.push("9");
        assert_eq!(start_time(&fields.join(" ")), Some(4711));
        assert_eq!(start_time(""), None);
    }

    #[test]
    fn a_recycled_id_is_not_mistaken_for_the_process_that_had_it() {
        let this = Identity::of(std::process::id()).unwrap();
        assert!(Handle::open_identity(this).unwrap().is_some());
        let earlier = Identity { started: this.started - 1, ..this };
        assert!(Handle::open_identity(earlier).unwrap().is_none());
    }

    #[test]
    fn a_handle_outlives_its_process_and_then_signals_nobody() {
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        let handle = Handle::open(child.id()).unwrap().unwrap();
        assert!(handle.is_running());
        handle.signal(Signal::SIGKILL).unwrap();
        assert!(handle.ends_within(Duration::from_secs(10)));
        child.wait().unwrap();
        assert!(handle.is_gone());
        assert_eq!(handle.identity(), None);
        handle.signal(Signal::SIGKILL).unwrap();
        assert!(handle.network_namespace().is_err());
    }

    #[tokio::test]
    async fn two_tasks_can_wait_for_the_same_process() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let handle = Handle::open(child.id()).unwrap().unwrap();
        let (first, second, ()) = tokio::join!(handle.ended(), handle.ended(), async {
            handle.signal(Signal::SIGKILL).unwrap();
        });
        first.unwrap();
        second.unwrap();
        child.wait().unwrap();
    }
}
