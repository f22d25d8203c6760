//! What the benchmarks have in common.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use epsilon_cli::lab::{Daemon, Host};

pub(crate) fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a whole number"))
}

/// `meshd` and `epsilon` of this profile.
pub(crate) fn binaries() -> (PathBuf, PathBuf) {
    let own = std::env::current_exe().expect("own path");
    let directory = own.ancestors().nth(2).expect("target/<profile>");
    let (meshd, epsilon) = (directory.join("meshd"), directory.join("epsilon"));
    assert!(meshd.exists() && epsilon.exists(), "run: make release");
    (meshd, epsilon)
}

/// The middle of some values.
pub(crate) fn median<T: PartialOrd + Copy>(values: &[T]) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).expect("comparable"));
    sorted[sorted.len() / 2]
}

pub(crate) fn until(limit: Duration, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < limit, "nothing within {limit:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
    start.elapsed()
}

/// The daemon's socket as seen from outside of the host.
pub(crate) fn answers(host: &Host) -> bool {
    let socket = format!("/proc/{}/root/run/epsilon/epsilon.sock", host.pid());
    UnixStream::connect(socket).is_ok()
}

/// What a program prints on a host.
pub(crate) async fn text(host: &Host, program: impl AsRef<Path>, arguments: &[&str]) -> String {
    let program = program.as_ref();
    let output = host.run(program, arguments).await.expect("run");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{} {arguments:?}: {printed}{error}", program.display());
    printed.trim().to_owned()
}

/// Processor time used so far, in clock ticks of 10 ms.
pub(crate) fn ticks(daemon: &Daemon) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).expect("stat");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime")
}

/// Memory in use, in kB.
pub(crate) fn resident(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("status");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("VmRSS");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}
