use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStderr, ChildStdin, ChildStdout, ExitStatus, Stdio};
use std::time::Duration;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc;
use nix::sched::CloneFlags;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixCredentials, recvmsg,
    setsockopt, socketpair, sockopt,
};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::Error;
use crate::process::{ChildProcess, Handle};

/// Standard input, output and error, where piped.
type Streams = (Option<ChildStdin>, Option<ChildStdout>, Option<ChildStderr>);

const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWNET
    .union(CloneFlags::CLONE_NEWNS)
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWPID);

/// More than a process needs to exit that has nothing else to do.
const EXIT_TIMEOUT: Duration = Duration::from_secs(10);

/// A program to be started in namespaces.
///
/// Unlike with the standard library's, the working directory is `/` unless
/// set, because entering a mount namespace leaves the old one behind, and no
/// descriptor is inherited but the three streams.
#[derive(Debug)]
pub struct Command {
    inner: std::process::Command,
    program: String,
    directory: Option<CString>,
    target: Target,
}

#[derive(Debug)]
enum Target {
    New,
    Of { process: OwnedFd, pid: u32, flags: CloneFlags },
}

/// A started program, a child of this process.
#[derive(Debug)]
pub struct Child {
    /// Its standard input, if piped.
    pub stdin: Option<ChildStdin>,
    /// Its standard output, if piped.
    pub stdout: Option<ChildStdout>,
    /// Its standard error, if piped.
    pub stderr: Option<ChildStderr>,
    /// The process.
    pub process: ChildProcess,
    program: String,
}

/// A started program that is no child of this process but of the init of its
/// pid namespace, and in a session of its own: it runs on when this process
/// ends.
#[derive(Debug)]
pub struct Detached {
    /// The process.
    pub process: Handle,
}

/// How a program ended and what it printed.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to its standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to its standard error.
    pub stderr: Vec<u8>,
}

impl Command {
    /// `program` as process 1 of new network, mount, host name and process id
    /// namespaces. When it ends, every other process in them is killed.
    ///
    /// The mounts are a copy of this process's and still propagate: the
    /// program should make them private before it changes any.
    pub fn as_init(program: impl AsRef<OsStr>) -> Self {
        Self::new(program.as_ref(), Target::New)
    }

    /// `program` in the network, mount, host name and process id namespaces of
    /// `process`, and in its user namespace if that is another than ours.
    pub fn inside(process: &Handle, program: impl AsRef<OsStr>) -> Result<Self, Error> {
        let pid = process.pid();
        let program = program.as_ref();
        let failed =
            |source| Error::Enter { pid, program: program.to_string_lossy().into_owned(), source };
        let descriptor = process.as_fd().try_clone_to_owned().map_err(failed)?;
        let ours = fs::read_link("/proc/self/ns/user").map_err(failed)?;
        let theirs = fs::read_link(format!("/proc/{pid}/ns/user")).map_err(failed)?;
        let mut flags = NAMESPACES;
        // Entering the user namespace that one is in already is an error.
        flags.set(CloneFlags::CLONE_NEWUSER, ours != theirs);
        let target = Target::Of { process: descriptor, pid, flags };
        Ok(Self::new(program, target))
    }

    fn new(program: &OsStr, target: Target) -> Self {
        Self {
            inner: std::process::Command::new(program),
            program: program.to_string_lossy().into_owned(),
            directory: None,
            target,
        }
    }

    /// Adds an argument.
    pub fn arg(&mut self, argument: impl AsRef<OsStr>) -> &mut Self {
        self.inner.arg(argument);
        self
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(&mut self, arguments: impl IntoIterator<Item = S>) -> &mut Self {
        self.inner.args(arguments);
        self
    }

    /// Sets an environment variable.
    pub fn env(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        self.inner.env(name, value);
        self
    }

    /// Removes an environment variable.
    pub fn env_remove(&mut self, name: impl AsRef<OsStr>) -> &mut Self {
        self.inner.env_remove(name);
        self
    }

    /// Starts with an empty environment.
    pub fn env_clear(&mut self) -> &mut Self {
        self.inner.env_clear();
        self
    }

    /// Sets the working directory, a path within the namespaces.
    pub fn current_dir(&mut self, directory: impl AsRef<Path>) -> &mut Self {
        let bytes = directory.as_ref().as_os_str().as_bytes();
        // A path with a zero byte does not exist; one that is empty, neither.
        self.directory = Some(CString::new(bytes).unwrap_or_default());
        self
    }

    /// Sets where standard input comes from.
    pub fn stdin(&mut self, stdio: impl Into<Stdio>) -> &mut Self {
        self.inner.stdin(stdio);
        self
    }

    /// Sets where standard output goes.
    pub fn stdout(&mut self, stdio: impl Into<Stdio>) -> &mut Self {
        self.inner.stdout(stdio);
        self
    }

    /// Sets where standard error goes.
    pub fn stderr(&mut self, stdio: impl Into<Stdio>) -> &mut Self {
        self.inner.stderr(stdio);
        self
    }

    /// Starts the program as a child of this process.
    ///
    /// As with the standard library's, the streams are inherited unless set.
    pub fn spawn(self) -> Result<Child, Error> {
        let program = self.program.clone();
        let ((stdin, stdout, stderr), handle) = self.start(false)?;
        Ok(Child { stdin, stdout, stderr, process: ChildProcess::new(handle), program })
    }

    /// Starts the program detached: as a child of the init of its namespaces,
    /// in a session of its own.
    pub fn spawn_detached(self) -> Result<Detached, Error> {
        let (_, process) = self.start(true)?;
        Ok(Detached { process })
    }

    fn start(mut self, detach: bool) -> Result<(Streams, Handle), Error> {
        let (ours, theirs) = attesting_pair().map_err(|source| self.failure(source, false))?;
        self.prepare(&theirs, detach);
        let spawned = self.inner.spawn();
        drop(theirs);
        let child = attested_pid(&ours);
        let last = if detach { attested_pid(&ours) } else { child };
        // What stays behind as a child of ours, though it is not the program,
        // would hold up the end of the init if nobody took its status.
        let leaves_child = detach || spawned.is_err();
        if let Some(pid) = child.filter(|_| leaves_child)
            && let Some(handle) = Handle::open(pid)?
        {
            ChildProcess::new(handle).wait_within(EXIT_TIMEOUT)?;
        }
        let mut first = match spawned {
            Ok(first) => first,
            Err(source) => return Err(self.failure(source, last.is_some())),
        };
        // Taken first, because waiting closes the standard input.
        let streams = (first.stdin.take(), first.stdout.take(), first.stderr.take());
        // Only the first of the chain: it ended before the program began.
        first.wait().map_err(|source| self.failure(source, true))?;
        let handle = match last {
            Some(pid) => Handle::open(pid)?,
            None => None,
        };
        let gone = || self.failure(io::Error::from_raw_os_error(libc::ESRCH), true);
        Ok((streams, handle.ok_or_else(gone)?))
    }

    /// Has the command enter its namespaces between fork and exec.
    fn prepare(&mut self, attest: &OwnedFd, detach: bool) {
        let attest = attest.as_raw_fd();
        let (process, flags) = match &self.target {
            Target::New => (None, NAMESPACES),
            Target::Of { process, flags, .. } => (Some(process.as_raw_fd()), *flags),
        };
        let directory = self.directory.take();
        let enter = move || {
            match process {
                Some(process) => {
                    // SAFETY: two integers; the descriptor is open in this
                    // copy of the parent.
                    Errno::result(unsafe { libc::setns(process, flags.bits()) })?;
                }
                None => {
                    // SAFETY: one integer.
                    Errno::result(unsafe { libc::unshare(flags.bits()) })?;
                }
            }
            become_child(libc::CLONE_PARENT | libc::SIGCHLD)?;
            send_byte(attest)?;
            if detach {
                // SAFETY: no arguments.
                Errno::result(unsafe { libc::setsid() })?;
                become_child(libc::SIGCHLD)?;
                send_byte(attest)?;
            }
            // Everything above standard error is closed by exec. A kernel that
            // does not know the call leaves what others failed to mark.
            // SAFETY: three integers.
            unsafe {
                libc::syscall(
                    libc::SYS_close_range,
                    3,
                    libc::c_uint::MAX,
                    libc::CLOSE_RANGE_CLOEXEC,
                );
            }
            let directory = directory.as_deref().unwrap_or(c"/");
            // SAFETY: a C string that lives as long as the closure.
            Errno::result(unsafe { libc::chdir(directory.as_ptr()) })?;
            Ok(())
        };
        // SAFETY: the closure only makes system calls on memory that was
        // allocated before the fork; it takes no lock and allocates nothing.
        unsafe {
            self.inner.pre_exec(enter);
        }
    }

    /// What failed, told by how far it came.
    fn failure(&self, source: io::Error, entered: bool) -> Error {
        let program = self.program.clone();
        match &self.target {
            _ if entered => Error::Execute { program, source },
            Target::New => Error::Make { program, source },
            Target::Of { pid, .. } => Error::Enter { pid: *pid, program, source },
        }
    }
}

/// Goes on as a child; the caller itself exits.
fn become_child(flags: libc::c_int) -> io::Result<()> {
    let none: libc::c_long = 0;
    // SAFETY: without CLONE_VM this is a fork: the child has its own copy of
    // everything. The raw call is used because `fork` knows no CLONE_PARENT
    // and runs handlers that may wait for locks of threads that are not here.
    let child = unsafe {
        libc::syscall(libc::SYS_clone, libc::c_long::from(flags), none, none, none, none)
    };
    match Errno::result(child)? {
        0 => Ok(()),
        // SAFETY: ends this process without running anything of its parent's.
        _ => unsafe { libc::_exit(0) },
    }
}

/// Has the kernel attest this process to the other end.
fn send_byte(socket: RawFd) -> io::Result<()> {
    // SAFETY: the byte and its length belong together.
    Errno::result(unsafe { libc::send(socket, c"!".as_ptr().cast(), 1, 0) })?;
    Ok(())
}

/// A connected pair, the first of which receives who sent.
fn attesting_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    setsockopt(&ours, sockopt::PassCred, &true)?;
    Ok((ours, theirs))
}

/// The process that sent, as seen from here; `None` when none came that far.
fn attested_pid(socket: &OwnedFd) -> Option<u32> {
    let mut byte = [0u8; 1];
    let mut buffer = [io::IoSliceMut::new(&mut byte)];
    let mut control = cmsg_space!(UnixCredentials);
    let message = loop {
        match recvmsg::<()>(
            socket.as_raw_fd(),
            &mut buffer,
            Some(&mut control),
            MsgFlags::MSG_CMSG_CLOEXEC,
        ) {
            Err(Errno::EINTR) => {}
            other => break other.ok()?,
        }
    };
    message.cmsgs().ok()?.find_map(|control| match control {
        ControlMessageOwned::ScmCredentials(credentials) => {
            u32::try_from(credentials.pid()).ok().filter(|pid| *pid > 0 && message.bytes == 1)
        }
        _ => None,
    })
}

impl Child {
    /// Waits for the end of the program and for all that it prints to its
    /// piped streams. Its standard input, if piped, is closed first.
    pub async fn output(mut self) -> Result<Output, Error> {
        drop(self.stdin.take());
        let failed = |source| Error::Output { program: self.program.clone(), source };
        let stdout = self.stdout.take().map(tokio::process::ChildStdout::from_std);
        let stderr = self.stderr.take().map(tokio::process::ChildStderr::from_std);
        let (stdout, stderr) = tokio::try_join!(
            read_all(stdout.transpose().map_err(failed)?),
            read_all(stderr.transpose().map_err(failed)?)
        )
        .map_err(failed)?;
        Ok(Output { status: self.process.wait().await?, stdout, stderr })
    }
}

async fn read_all(stream: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        stream.read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}
