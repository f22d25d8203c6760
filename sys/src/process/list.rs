use std::fs;
use std::io;

use super::{Error, Handle};

/// A process and its command line.
#[derive(Debug)]
#[non_exhaustive]
pub struct Listed {
    /// The process.
    pub handle: Handle,
    /// Its id within its own pid namespace.
    pub inner_pid: u32,
    /// Its program and arguments. Text that is not UTF-8 is replaced.
    pub arguments: Vec<String>,
}

/// The running processes whose command line `matches`.
///
/// Processes of other users may be among them; processes that end meanwhile
/// are left out.
pub fn find(matches: impl Fn(&[String]) -> bool) -> io::Result<Vec<Listed>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if !arguments(pid).is_some_and(|arguments| matches(&arguments)) {
            continue;
        }
        let process = listed(pid).map_err(io::Error::other)?;
        found.extend(process.filter(|process| matches(&process.arguments)));
    }
    Ok(found)
}

/// The processes in the pid namespace of which `process` is a member.
pub fn same_pid_namespace(process: &Handle) -> io::Result<Vec<Listed>> {
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid"));
    let theirs = namespace(process.pid())?;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if namespace(pid).is_ok_and(|namespace| namespace == theirs) {
            found.extend(listed(pid).map_err(io::Error::other)?);
        }
    }
    Ok(found)
}

/// The process that has `pid`, with its command line; `None` when there is
/// none or it has ended.
pub fn listed(pid: u32) -> Result<Option<Listed>, Error> {
    let Some(handle) = Handle::open(pid)? else {
        return Ok(None);
    };
    // Read after the handle is held, and believed only if it is still held by
    // a living process: otherwise it may be of one that took the id.
    let Some(arguments) = arguments(pid) else {
        return Ok(None);
    };
    let inner_pid = inner_pid(pid).unwrap_or(pid);
    Ok(handle.is_running().then_some(Listed { handle, inner_pid, arguments }))
}

/// `None` for kernel threads, zombies and processes that are gone.
fn arguments(pid: u32) -> Option<Vec<String>> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let bytes = bytes.strip_suffix(b"\0")?;
    Some(
        bytes
            .split(|byte| *byte == 0)
            .map(|argument| String::from_utf8_lossy(argument).into_owned())
            .collect(),
    )
}

fn inner_pid(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    ids.split_ascii_whitespace().last()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_found_by_its_exact_arguments_until_it_ends() {
        let marker = format!("61.{}", std::process::id());
        let wanted = |arguments: &[String]| arguments == ["sleep", marker.as_str()];
        let mut child = Command::new("sleep").arg(&marker).spawn().unwrap();
        // The kernel lets a parent go on before the child's arguments stand.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let found = loop {
            let found = find(wanted).unwrap();
            if !found.is_empty() || std::time::Instant::now() > deadline {
                break found;
            }
        };
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].handle.pid(), child.id());
        assert_eq!(found[0].inner_pid, child.id());
        child.kill().unwrap();
        assert!(found[0].handle.ends_within(std::time::Duration::from_secs(10)));
        assert!(find(wanted).unwrap().is_empty());
        child.wait().unwrap();
    }

    #[test]
    fn this_process_shares_its_pid_namespace_with_itself() {
        let this = Handle::open(std::process::id()).unwrap().unwrap();
        let all = same_pid_namespace(&this).unwrap();
        assert!(all.iter().any(|process| process.handle.pid() == this.pid()));
    }
}
