//! The first process of a host: it sets the host up from within, says so, and
//! from then on only reaps orphans. When it ends, the kernel ends the host.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd;
use serde::{Deserialize, Serialize};

/// The line that says that the host is set up.
pub(super) const READY: &str = "ready";

/// What an init reads from its standard input, as one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Orders {
    /// The text of `/etc/hosts`.
    pub(super) hosts: String,
    /// 32 hexadecimal digits.
    pub(super) machine_id: String,
    /// Whether it passes on what is not for itself.
    pub(super) forwards: bool,
    /// Whether the end of its standard input is the end of the host.
    pub(super) ends_with_owner: bool,
    /// The directory of all labs, in which the lab's own is removed when the
    /// owner is gone.
    pub(super) removes_from: Option<PathBuf>,
}

/// What failed inside a host.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}: {source}")]
pub(super) struct Failure {
    action: String,
    source: io::Error,
}

pub(super) fn during<E: Into<io::Error>>(action: impl Into<String>) -> impl FnOnce(E) -> Failure {
    let action = action.into();
    move |source| Failure { action, source: source.into() }
}

/// Runs as the init of a lab host, called with what follows
/// [`super::INIT_ARGUMENT`] on the command line, the lab and the host, and
/// returns the exit code.
///
/// Must be called before the process has a second thread. Not for people: it
/// does nothing unless it is the first process of a pid namespace.
pub fn init_main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let names: Vec<String> =
        arguments.into_iter().filter_map(|argument| argument.into_string().ok()).collect();
    let [lab, host] = names.as_slice() else {
        return 2;
    };
    if std::process::id() != 1 {
        return 2;
    }
    match run(lab, host) {
        Ok(()) => 0,
        Err(failure) => {
            // The owner reads it and tells; there is nobody else to tell.
            let _ = writeln!(io::stdout(), "{failure}");
            1
        }
    }
}

fn run(lab: &str, host: &str) -> Result<(), Failure> {
    let mut line = String::new();
    io::stdin().read_line(&mut line).map_err(during("read the orders"))?;
    let orders: Orders = serde_json::from_str(&line).map_err(during("understand the orders"))?;
    // A keyboard signal to the owner's terminal is not for the hosts.
    unistd::setsid().map_err(during("start a session"))?;
    let signals = signals().map_err(during("block signals"))?;
    if let Some(directory) = &orders.removes_from {
        // Entered now, because the host's own /run is about to hide it.
        let path = directory.display();
        unistd::chdir(directory).map_err(during(format!("enter {path}")))?;
    }
    unistd::sethostname(host).map_err(during("set the host name"))?;
    mount_all(host, &orders)?;
    set_network_options(orders.forwards)?;
    writeln!(io::stdout(), "{READY}").map_err(during("say that the host is ready"))?;
    let owner = io::stdin();
    let owner = orders.ends_with_owner.then(|| owner.as_fd());
    silence(owner.is_some()).map_err(during("let go of the terminal"))?;
    reap_until_orphaned(&signals, owner).map_err(during("wait for events"))?;
    if let Some(directory) = &orders.removes_from {
        remove(lab, directory);
    }
    Ok(())
}

/// Gives the host files of its own: empty `/run`, `/etc/epsilon` and
/// `/var/lib/epsilon`, an `/etc` and `/var/lib` whose changes stay in the
/// host, and `/proc` and `/sys` of its own namespaces. Everything else,
/// `/tmp` too, is the machine's.
fn mount_all(host: &str, orders: &Orders) -> Result<(), Failure> {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .map_err(during("make the mounts private"))?;
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), quiet, None::<&str>)
        .map_err(during("mount /proc"))?;

    // The scratch space of the overlays, hidden below the host's /run later.
    tmpfs(Path::new("/run"), 0o755)?;
    mount_sys(quiet)?;
    for target in ["/etc", "/var/lib"] {
        overlay(Path::new(target))?;
    }
    tmpfs(Path::new("/run"), 0o755)?;
    for own in ["/etc/epsilon", "/var/lib/epsilon"] {
        let own = Path::new(own);
        make_dir(own, 0o700)?;
        tmpfs(own, 0o700)?;
    }

    replace(Path::new("/etc/hostname"), &format!("{host}\n"))?;
    replace(Path::new("/etc/hosts"), &orders.hosts)?;
    replace(Path::new("/etc/machine-id"), &format!("{}\n", orders.machine_id))?;
    // The machine's name servers cannot be reached from here.
    replace(Path::new("/etc/resolv.conf"), "")
}

fn tmpfs(target: &Path, mode: u32) -> Result<(), Failure> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let options = format!("mode={mode:04o}");
    mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(options.as_str()))
        .map_err(during(format!("mount a tmpfs on {}", target.display())))
}

/// Shows the network interfaces of this host in `/sys`, with the machine's
/// control groups, which are mounted below and would be hidden.
fn mount_sys(flags: MsFlags) -> Result<(), Failure> {
    let (groups, kept) = (Path::new("/sys/fs/cgroup"), Path::new("/run/cgroup"));
    let has_groups = groups.is_dir();
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    if has_groups {
        make_dir(kept, 0o755)?;
        mount(Some(groups), kept, None::<&str>, bind, None::<&str>)
            .map_err(during("keep /sys/fs/cgroup"))?;
    }
    mount(Some("sysfs"), "/sys", Some("sysfs"), flags, None::<&str>)
        .map_err(during("mount /sys"))?;
    if has_groups {
        mount(Some(kept), groups, None::<&str>, bind, None::<&str>)
            .map_err(during("mount /sys/fs/cgroup"))?;
    }
    Ok(())
}

/// Lets changes below `target` stay in the host.
fn overlay(target: &Path) -> Result<(), Failure> {
    let scratch = Path::new("/run/overlay").join(target.strip_prefix("/").unwrap_or(target));
    let (upper, work) = (scratch.join("upper"), scratch.join("work"));
    make_dir(&upper, 0o755)?;
    make_dir(&work, 0o755)?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        target.display(),
        upper.display(),
        work.display()
    );
    // In a user namespace overlayfs may keep its notes only as user
    // attributes; kernels before 5.11 do not know the option, nor the need.
    let unprivileged = format!("{options},userxattr");
    let try_mount = |options: &str| {
        mount(Some("overlay"), target, Some("overlay"), MsFlags::empty(), Some(options))
    };
    try_mount(&unprivileged)
        .or_else(|_| try_mount(&options))
        .map_err(during(format!("mount an overlay on {}", target.display())))
}

fn make_dir(path: &Path, mode: u32) -> Result<(), Failure> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(during(format!("create {}", path.display())))
}

/// Puts a plain file in place of whatever is there: it may be a symbolic link
/// to nowhere.
fn replace(path: &Path, text: &str) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(during(format!("remove {}", path.display()))(error));
        }
        _ => {}
    }
    fs::write(path, text)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o644)))
        .map_err(during(format!("write {}", path.display())))
}

fn set_network_options(forwards: bool) -> Result<(), Failure> {
    let forwards = if forwards { "1" } else { "0" };
    for (option, value) in [
        ("ipv4/ip_forward", forwards),
        ("ipv6/conf/all/forwarding", forwards),
        // Addresses are set by hand and usable at once.
        ("ipv6/conf/default/accept_ra", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        // A cable that is pulled and put back takes no address with it.
        ("ipv6/conf/default/keep_addr_on_down", "1"),
        // What one host of a site sends to another is no business of a NAT's rules.
        ("bridge/bridge-nf-call-iptables", "0"),
        ("bridge/bridge-nf-call-ip6tables", "0"),
    ] {
        let path = Path::new("/proc/sys/net").join(option);
        match fs::write(&path, value) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(during(format!("write {}", path.display()))(error));
            }
            // A kernel without IPv6 says so where an address is added; bridges are let alone
            // where the kernel cannot do otherwise.
            _ => {}
        }
    }
    Ok(())
}

/// What wakes an init: an orphan that ended, and a polite end.
fn signals() -> nix::Result<SignalFd> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Lets go of the streams that this process was started with, so that nobody
/// waits for their end.
fn silence(keeps_stdin: bool) -> io::Result<()> {
    let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    if !keeps_stdin {
        unistd::dup2_stdin(&null)?;
    }
    unistd::dup2_stdout(&null)?;
    unistd::dup2_stderr(&null)?;
    Ok(())
}

/// Takes the status of every orphan until a polite end or that of `owner`.
fn reap_until_orphaned(signals: &SignalFd, owner: Option<BorrowedFd<'_>>) -> io::Result<()> {
    loop {
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(owner.map(|owner| PollFd::new(owner, PollFlags::POLLIN)));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        // Whatever happens to the owner's end, it is not another order.
        if fds.get(1).is_some_and(|owner| owner.any().unwrap_or(true)) {
            return Ok(());
        }
        while let Some(signal) = signals.read_signal()? {
            if signal.ssi_signo == Signal::SIGTERM as u32 {
                return Ok(());
            }
        }
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => break,
                // One whose status has no name in nix was taken all the same.
                Ok(_) | Err(_) => {}
            }
        }
    }
}

/// Removes the files of a lab whose owner is gone, from the directory of all
/// labs, which is the working directory.
fn remove(lab: &str, directory: &Path) {
    // Nobody is left to be told of a failure.
    let _ = fs::remove_dir_all(lab);
    if let Some(name) = directory.file_name() {
        // Succeeds only if it is empty.
        let _ = fs::remove_dir(Path::new("..").join(name));
    }
}
