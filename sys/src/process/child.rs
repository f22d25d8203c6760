use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;

use super::{Error, Handle, Signal};

/// A child of this process. Clones mean the same child; its status is kept
/// for all of them.
///
/// Dropping it neither ends nor awaits the child. Until it is awaited, an
/// ended child stays in the process table, and the init of a pid namespace
/// cannot end before it.
#[derive(Debug, Clone)]
pub struct ChildProcess {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    handle: Handle,
    status: Mutex<Option<ExitStatus>>,
}

impl ChildProcess {
    /// `handle` must be of a child that nothing else waits for.
    pub(crate) fn new(handle: Handle) -> Self {
        Self { inner: Arc::new(Inner { handle, status: Mutex::new(None) }) }
    }

    /// The handle, for everything that is not special to a child.
    pub fn handle(&self) -> &Handle {
        &self.inner.handle
    }

    /// The process id, as this process sees it.
    pub fn pid(&self) -> u32 {
        self.inner.handle.pid()
    }

    /// Sends `signal`. Succeeds when the process is gone already.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        self.inner.handle.signal(signal)
    }

    /// How the child ended; `None` while it runs.
    pub fn try_wait(&self) -> Result<Option<ExitStatus>, Error> {
        self.reap(libc::WNOHANG)
    }

    /// Waits until the child has ended. May be cancelled.
    pub async fn wait(&self) -> Result<ExitStatus, Error> {
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            self.inner.handle.ended().await?;
        }
    }

    /// Blocks until the child has ended or `limit` has passed.
    pub fn wait_within(&self, limit: Duration) -> Result<Option<ExitStatus>, Error> {
        self.inner.handle.ends_within(limit);
        self.try_wait()
    }

    fn reap(&self, flags: libc::c_int) -> Result<Option<ExitStatus>, Error> {
        let pid = self.pid();
        let mut status = self.inner.status.lock().unwrap_or_else(PoisonError::into_inner);
        if status.is_some() {
            return Ok(*status);
        }
        let raw = libc::pid_t::try_from(pid)
            .map_err(|_| Error::new("wait for", pid)(io::ErrorKind::InvalidInput.into()))?;
        let mut code: libc::c_int = 0;
        // SAFETY: `code` outlives the call. The id is still that of our child:
        // its status was not taken yet, and the lock keeps it so meanwhile.
        let ended = unsafe { libc::waitpid(raw, &raw mut code, flags) };
        match Errno::result(ended) {
            Ok(0) | Err(Errno::EINTR) => Ok(None),
            Ok(_) => {
                *status = Some(ExitStatus::from_raw(code));
                Ok(*status)
            }
            Err(errno) => Err(Error::new("wait for", pid)(errno.into())),
        }
    }
}
