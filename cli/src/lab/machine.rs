//! One host, gateway or switch as the processes and sockets that it is.

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use epsilon_sys::namespace::Command;
use epsilon_sys::netlink::Netlink;
use epsilon_sys::process::{self, ChildProcess, Handle, Signal};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::Error;
use super::init::{Orders, READY};

/// The subcommand of the init program under which a host's init runs. It
/// stands in the command line of every init, followed by the names of the lab
/// and of the host, and so marks what belongs to a lab.
pub const INIT_ARGUMENT: &str = "lab-init";

/// How long an init may take to set its host up, on a machine that is busy.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the kernel may take to end a host.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// A running host, gateway or switch.
#[derive(Debug)]
pub(super) struct Machine {
    lab: String,
    name: String,
    init: Init,
    search_path: OsString,
    /// While it is open, the owner lives.
    owned: Option<ChildStdin>,
    /// Opened when first needed: a user outside of the lab's user namespace
    /// may run commands within, but not open it.
    netlink: Mutex<Option<Netlink>>,
    /// Children of this process within: their statuses must be taken before
    /// the init can end.
    children: Mutex<Vec<ChildProcess>>,
    /// Whether the host ends when this value is dropped.
    ends_on_drop: AtomicBool,
}

#[derive(Debug)]
enum Init {
    /// Started by this process.
    Child(ChildProcess),
    /// Found.
    Other(Handle),
}

impl Machine {
    /// Starts the init of a host and waits until it has set the host up.
    pub(super) async fn start(
        program: &Path,
        lab: &str,
        name: &str,
        orders: &Orders,
    ) -> Result<Self, Error> {
        let failed = |reason: String| Error::Start { host: name.to_owned(), reason };
        let mut command = Command::as_init(program);
        command.args([INIT_ARGUMENT, lab, name]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let mut machine = Self {
            lab: lab.to_owned(),
            name: name.to_owned(),
            init: Init::Child(child.process.clone()),
            search_path: search_path(program),
            owned: None,
            netlink: Mutex::default(),
            children: Mutex::default(),
            ends_on_drop: AtomicBool::new(true),
        };
        let answer = async {
            let mut orders = serde_json::to_vec(orders)?;
            orders.push(b'\n');
            if let Some(mut stdin) = child.stdin.take() {
                stdin.write_all(&orders)?;
                machine.owned = Some(stdin);
            }
            let mut line = String::new();
            if let Some(stdout) = child.stdout.take() {
                let stdout = tokio::process::ChildStdout::from_std(stdout)?;
                BufReader::new(stdout).read_line(&mut line).await?;
            }
            Ok::<_, std::io::Error>(line)
        };
        let answer = tokio::time::timeout(START_TIMEOUT, answer).await;
        let reason = match answer {
            Ok(Ok(line)) if line.trim_end() == READY => {
                if !orders.ends_with_owner {
                    machine.owned.take();
                }
                return Ok(machine);
            }
            Ok(Ok(line)) if line.is_empty() => "its init ended without a word".to_owned(),
            Ok(Ok(line)) => line.trim_end().to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("its init is not ready after {} s", START_TIMEOUT.as_secs()),
        };
        Err(failed(reason))
    }

    /// The running host of that name, found by its mark.
    pub(super) fn find(program: &Path, lab: &str, name: &str) -> Result<Self, Error> {
        let ended = || Error::HostEnded { lab: lab.to_owned(), host: name.to_owned() };
        let handle = marked(lab, Some(name))?.pop().ok_or_else(ended)?;
        Ok(Self {
            lab: lab.to_owned(),
            name: name.to_owned(),
            init: Init::Other(handle),
            search_path: search_path(program),
            owned: None,
            netlink: Mutex::default(),
            children: Mutex::default(),
            ends_on_drop: AtomicBool::new(false),
        })
    }

    /// Lets the host live on when this value is dropped.
    pub(super) fn release(&self) {
        self.ends_on_drop.store(false, Ordering::Relaxed);
    }

    pub(super) fn lab(&self) -> &str {
        &self.lab
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn init(&self) -> &Handle {
        match &self.init {
            Init::Child(child) => child.handle(),
            Init::Other(handle) => handle,
        }
    }

    /// A command within, with the lab's own programs first in its path.
    pub(super) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command, Error> {
        let mut command = Command::inside(self.init(), program)?;
        command.env("PATH", &self.search_path);
        Ok(command)
    }

    /// Has the status of `child` taken when the host is stopped.
    pub(super) fn adopt(&self, child: &ChildProcess) {
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        children.retain(|child| matches!(child.try_wait(), Ok(None)));
        children.push(child.clone());
    }

    /// The network configuration within.
    pub(super) fn netlink(&self) -> Result<Netlink, Error> {
        let mut netlink = self.netlink.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(netlink) = &*netlink {
            return Ok(netlink.clone());
        }
        let namespace = self.init().network_namespace()?;
        let opened = Netlink::open_in(namespace.as_fd()).map_err(Error::network(&self.name))?;
        Ok(netlink.insert(opened).clone())
    }

    /// Kills everything within and waits until it is gone.
    pub(super) fn stop(&self) -> Result<(), Error> {
        self.init().signal(Signal::SIGKILL)?;
        // An open socket would keep the network namespace, and its end of
        // every cable, in being.
        *self.netlink.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let children =
            std::mem::take(&mut *self.children.lock().unwrap_or_else(PoisonError::into_inner));
        for child in children {
            self.ended(child.wait_within(STOP_TIMEOUT)?.is_some(), child.pid())?;
        }
        match &self.init {
            Init::Child(child) => {
                self.ended(child.wait_within(STOP_TIMEOUT)?.is_some(), child.pid())
            }
            Init::Other(handle) => self.ended(handle.ends_within(STOP_TIMEOUT), handle.pid()),
        }
    }

    fn ended(&self, ended: bool, pid: u32) -> Result<(), Error> {
        if ended { Ok(()) } else { Err(Error::Stuck { lab: self.lab.clone(), pid }) }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.ends_on_drop.load(Ordering::Relaxed)
            && let Err(error) = self.stop()
        {
            eprintln!("the host {} is not all gone: {error}", self.name);
        }
    }
}

/// The inits of a lab, or of one of its hosts, that are running.
///
/// A command line is easily imitated, so only processes of this user count.
pub(super) fn marked(lab: &str, host: Option<&str>) -> Result<Vec<Handle>, Error> {
    use std::os::unix::fs::MetadataExt;

    let matches = |arguments: &[String]| match arguments {
        [_, mark, its_lab, its_host] => {
            mark == INIT_ARGUMENT && its_lab == lab && host.is_none_or(|host| its_host == host)
        }
        _ => false,
    };
    let all = Path::new("/proc");
    let user = nix::unistd::geteuid().as_raw();
    let found = process::find(matches).map_err(Error::io("list", all))?;
    Ok(found
        .into_iter()
        .filter(|process| process.inner_pid == 1)
        .map(|process| process.handle)
        .filter(|handle| {
            std::fs::metadata(all.join(handle.pid().to_string()))
                .is_ok_and(|metadata| metadata.uid() == user)
        })
        .collect())
}

/// Kills every init of a lab, whoever started it, and with it its host.
pub(super) fn kill_marked(lab: &str) -> Result<(), Error> {
    loop {
        let inits = marked(lab, None)?;
        if inits.is_empty() {
            return Ok(());
        }
        for init in &inits {
            init.signal(Signal::SIGKILL)?;
        }
        for init in &inits {
            if !init.ends_within(STOP_TIMEOUT) {
                return Err(Error::Stuck { lab: lab.to_owned(), pid: init.pid() });
            }
        }
    }
}

fn search_path(program: &Path) -> OsString {
    let inherited = std::env::var_os("PATH")
        .unwrap_or_else(|| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
    let own = program.parent().map(Path::to_owned);
    let all: Vec<PathBuf> = own.into_iter().chain(std::env::split_paths(&inherited)).collect();
    std::env::join_paths(all).unwrap_or(inherited)
}
