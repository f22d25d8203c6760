use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use epsilon_sys::process::{ChildProcess, Handle, Signal, listed};

use super::Error;
use super::host::{Command, Host};
use super::spec::Lifetime;

/// What a daemon is started with, at first and at every restart.
#[derive(Debug, Clone)]
pub struct Program {
    name: String,
    binary: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

impl Program {
    /// `binary`, an absolute path, whose log is called `name`.
    pub fn new(name: impl Into<String>, binary: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            binary: binary.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }
}

/// A daemon on a host.
///
/// Dropping it leaves the daemon running until its host ends.
#[derive(Debug)]
pub struct Daemon {
    host: Host,
    program: Program,
    running: Running,
}

#[derive(Debug)]
enum Running {
    /// A child of this process.
    Child(ChildProcess),
    /// A child of the host's init.
    Detached(Handle),
}

impl Daemon {
    pub(super) fn start(host: Host, program: Program) -> Result<Self, Error> {
        let running = Running::start(&host, &program)?;
        Ok(Self { host, program, running })
    }

    /// The host it runs on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its process.
    pub fn process(&self) -> &Handle {
        match &self.running {
            Running::Child(child) => child.handle(),
            Running::Detached(handle) => handle,
        }
    }

    /// Its process id, as seen from here.
    pub fn pid(&self) -> u32 {
        self.process().pid()
    }

    /// Its process id, as seen on its host; `None` when it has ended.
    pub fn pid_in_host(&self) -> Option<u32> {
        let process = listed(self.pid()).ok()??;
        self.is_running().then_some(process.inner_pid)
    }

    /// Whether it has not ended yet.
    pub fn is_running(&self) -> bool {
        self.process().is_running()
    }

    /// Waits until it has ended. How, is known only of a child of this
    /// process: not in a lab that lives until it is taken down.
    pub async fn wait(&self) -> Result<Option<ExitStatus>, Error> {
        match &self.running {
            Running::Child(child) => Ok(Some(child.wait().await?)),
            Running::Detached(handle) => {
                handle.ended().await?;
                Ok(None)
            }
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        Ok(self.process().signal(signal)?)
    }

    /// Kills it as a power cut would, and waits until it is gone.
    pub async fn kill9(&self) -> Result<Option<ExitStatus>, Error> {
        self.signal(Signal::SIGKILL)?;
        self.wait().await
    }

    /// Asks it to end and waits for that; `Err` of a [`Error::Stuck`] when it
    /// has not after `limit`.
    pub async fn term(&self, limit: Duration) -> Result<Option<ExitStatus>, Error> {
        self.signal(Signal::SIGTERM)?;
        tokio::time::timeout(limit, self.wait()).await.unwrap_or_else(|_| {
            Err(Error::Stuck { lab: self.host.lab().to_owned(), pid: self.pid() })
        })
    }

    /// Starts it again, after killing it if it still runs.
    pub async fn restart(&mut self) -> Result<(), Error> {
        self.kill9().await?;
        self.running = Running::start(&self.host, &self.program)?;
        Ok(())
    }

    /// The file to which all that it prints is appended.
    pub fn log_path(&self) -> Result<PathBuf, Error> {
        self.host.log(&self.program.name)
    }

    /// All that it has printed, in all its lives.
    pub fn log(&self) -> Result<String, Error> {
        let path = self.log_path()?;
        let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Running {
    fn start(host: &Host, program: &Program) -> Result<Self, Error> {
        let log = host.open_log(&program.name)?;
        let also = log.try_clone().map_err(Error::io("open", &program.binary))?;
        let mut command: Command = host.command(&program.binary)?;
        command.args(&program.arguments);
        for (name, value) in &program.environment {
            command.env(name, value);
        }
        command.stdin(Stdio::null()).stdout(log).stderr(also);
        Ok(match host.lifetime() {
            Lifetime::WithOwner => Self::Child(command.spawn()?.process),
            Lifetime::UntilDown => Self::Detached(command.spawn_detached()?.process),
        })
    }
}
