use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::{Deref, DerefMut};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use epsilon_sys::namespace::{self, Child, Output};
use epsilon_sys::netlink::Netlink;
use epsilon_sys::process::{Listed, Signal, same_pid_namespace};
use tokio::signal::unix::{SignalKind, signal};

use super::Error;
use super::daemon::{Daemon, Program};
use super::machine::Machine;
use super::spec::Lifetime;
use super::store::{Place, Store};

/// A lab host: a machine of its own to everything that runs on it.
///
/// Clones mean the same host.
#[derive(Debug, Clone)]
pub struct Host {
    place: Place,
    machine: Arc<Machine>,
    store: Store,
    lifetime: Lifetime,
}

/// A command to run on a host; dereferences to what sets it up.
#[derive(Debug)]
pub struct Command {
    inner: namespace::Command,
    machine: Arc<Machine>,
}

impl Host {
    pub(super) fn new(
        place: Place,
        machine: Arc<Machine>,
        store: Store,
        lifetime: Lifetime,
    ) -> Self {
        Self { place, machine, store, lifetime }
    }

    /// `n1`, also its host name.
    pub fn name(&self) -> &str {
        &self.place.name
    }

    /// The number of its site.
    pub fn site(&self) -> u8 {
        self.place.site
    }

    /// Its address in the lab, the underlay of the mesh, unless its site has IPv6 alone.
    pub fn ipv4(&self) -> Ipv4Addr {
        self.place.addresses().v4
    }

    /// Its address in the lab, the underlay of the mesh, unless its site has IPv4 alone.
    pub fn ipv6(&self) -> Ipv6Addr {
        self.place.addresses().v6
    }

    /// The process id of its init, as seen from here.
    pub fn pid(&self) -> u32 {
        self.machine.init().pid()
    }

    /// Whether its init is running.
    pub fn is_running(&self) -> bool {
        self.machine.init().is_running()
    }

    /// What runs on it, its init included.
    pub fn processes(&self) -> Result<Vec<Listed>, Error> {
        let proc = std::path::Path::new("/proc");
        same_pid_namespace(self.machine.init()).map_err(Error::io("list", proc))
    }

    /// Its network configuration. Must be called within a tokio runtime.
    pub fn netlink(&self) -> Result<Netlink, Error> {
        self.machine.netlink()
    }

    /// A command to run on it: without input, its output captured, unless set
    /// otherwise.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command, Error> {
        Command::on(&self.machine, program)
    }

    /// Runs a program to its end and captures what it prints.
    pub async fn run<S: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<Output, Error> {
        let mut command = self.command(program)?;
        command.args(arguments);
        command.output().await
    }

    /// Runs a program to its end with the terminal of this process.
    ///
    /// Interrupts from the keyboard reach the program, not this process, and
    /// SIGTERM and SIGHUP are passed on to it.
    pub async fn run_in_foreground<S: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<ExitStatus, Error> {
        let listen =
            |kind| signal(kind).map_err(Error::io("wait for signals in", "/proc/self".as_ref()));
        // From here on these do not end this process; the program, being
        // executed, starts with the usual behaviour.
        let _interrupt = listen(SignalKind::interrupt())?;
        let _quit = listen(SignalKind::quit())?;
        let mut terminate = listen(SignalKind::terminate())?;
        let mut hang_up = listen(SignalKind::hangup())?;
        let mut command = self.command(program)?;
        command.args(arguments);
        command.stdin(Stdio::inherit()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
        let child = command.spawn()?;
        loop {
            tokio::select! {
                status = child.process.wait() => return Ok(status?),
                _ = terminate.recv() => child.process.signal(Signal::SIGTERM)?,
                _ = hang_up.recv() => child.process.signal(Signal::SIGHUP)?,
            }
        }
    }

    /// Starts a daemon. What it prints is appended to a log of its name.
    ///
    /// In a lab that lives until it is taken down, the daemon runs on when
    /// this process ends.
    pub fn start(&self, program: Program) -> Result<Daemon, Error> {
        Daemon::start(self.clone(), program)
    }

    /// Starts `meshd` at that path, with its default configuration.
    pub fn start_meshd(&self, binary: impl Into<std::path::PathBuf>) -> Result<Daemon, Error> {
        self.start(Program::new("meshd", binary))
    }

    /// The name of its lab.
    pub fn lab(&self) -> &str {
        self.machine.lab()
    }

    pub(super) fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    /// Ends it and everything on it.
    pub(super) fn stop(&self) -> Result<(), Error> {
        self.machine.stop()
    }

    pub(super) fn release(&self) {
        self.machine.release();
    }

    pub(super) fn lifetime(&self) -> Lifetime {
        self.lifetime
    }

    pub(super) fn log(&self, name: &str) -> Result<std::path::PathBuf, Error> {
        self.store.log(self.name(), name)
    }

    /// The log of a daemon, opened so that what is written comes at its end.
    pub(super) fn open_log(&self, name: &str) -> Result<std::fs::File, Error> {
        let path = self.log(name)?;
        OpenOptions::new().create(true).append(true).open(&path).map_err(Error::io("open", &path))
    }
}

impl Command {
    /// A command on a machine: without input, its output captured.
    pub(super) fn on(machine: &Arc<Machine>, program: impl AsRef<OsStr>) -> Result<Self, Error> {
        let mut inner = machine.command(program)?;
        inner.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(Self { inner, machine: Arc::clone(machine) })
    }

    /// Starts the program as a child of this process.
    pub fn spawn(self) -> Result<Child, Error> {
        let child = self.inner.spawn()?;
        self.machine.adopt(&child.process);
        Ok(child)
    }

    /// Starts the program as a child of the host's init, so that it runs on
    /// when this process ends.
    pub fn spawn_detached(self) -> Result<namespace::Detached, Error> {
        Ok(self.inner.spawn_detached()?)
    }

    /// Runs the program to its end.
    pub async fn output(self) -> Result<Output, Error> {
        Ok(self.spawn()?.output().await?)
    }
}

impl Deref for Command {
    type Target = namespace::Command;

    fn deref(&self) -> &Self::Target {
        &self.inner
    }
}

impl DerefMut for Command {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.inner
    }
}
