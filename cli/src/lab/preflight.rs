use std::process::{Command, Stdio};
use std::time::Duration;

use epsilon_sys::namespace;
use nix::unistd::{AccessFlags, access, geteuid};

use super::Error;
use super::error::program;

/// Whether this process can make lab hosts that can run meshd; if not, the
/// error says what would work for this user.
pub fn preflight() -> Result<(), Error> {
    let device = access("/dev/net/tun", AccessFlags::R_OK | AccessFlags::W_OK);
    let reason = match (device, try_namespaces()) {
        (Ok(()), Ok(())) => return Ok(()),
        (Ok(()), Err(reason)) => reason,
        (Err(errno), _) => {
            let reason = format!("/dev/net/tun cannot be opened: {errno}");
            let remedy = match errno {
                nix::errno::Errno::ENOENT => "load the kernel module tun: sudo modprobe tun",
                _ => return Err(Error::Unprivileged { reason, remedy: as_root() }),
            };
            return Err(Error::Unprivileged { reason, remedy: remedy.to_owned() });
        }
    };
    let remedy = if geteuid().is_root() {
        "give this container CAP_SYS_ADMIN and CAP_NET_ADMIN, or run it on the machine itself"
            .to_owned()
    } else if user_namespaces_work() {
        format!("run: unshare --user --map-root-user {} lab up", program())
    } else {
        as_root()
    };
    Err(Error::Unprivileged { reason, remedy })
}

fn as_root() -> String {
    format!("run it as root: sudo {} lab up", program())
}

/// The only sure way to know is to try.
fn try_namespaces() -> Result<(), String> {
    let mut command = namespace::Command::as_init("/bin/true");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().map_err(|error| match error {
        namespace::Error::Make { source, .. } => format!("namespaces are refused: {source}"),
        other => other.to_string(),
    })?;
    let ended = child.process.wait_within(Duration::from_secs(10));
    ended.map(drop).map_err(|error| error.to_string())
}

fn user_namespaces_work() -> bool {
    Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--mount", "--uts", "--pid", "--fork"])
        .arg("true")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
