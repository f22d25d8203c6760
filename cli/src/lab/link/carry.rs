//! The process beside a cable: takes frames at each end, and sends them out of the other
//! when their line says so.

#![allow(clippy::disallowed_methods, reason = "here the clock is handed to the lines")]

use std::ffi::OsString;
use std::fs;
use std::io::{self, PipeReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use epsilon_sys::frames::Frames;
use epsilon_sys::process::{Signal, same_pid_namespace};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe::Receiver;

use super::Link;
use super::line::Line;
use crate::lab::Error;
use crate::lab::init::{Failure, READY, during};
use crate::lab::machine::Machine;

/// The subcommand of the init program under which a link runs, followed by how bad it is
/// and a seed.
pub const LINK_ARGUMENT: &str = "lab-link";

/// The end of the cable towards the switch, in the machine beside it.
pub(in crate::lab) const NEAR: &str = "near";
/// The end towards the machine that is connected.
pub(in crate::lab) const FAR: &str = "far";

/// The most that is taken from one end before the other has its turn.
const BATCH: usize = 64;
/// More than the largest frame.
const LARGEST: usize = 1 << 16;
/// How long a link may take to start, or to end, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts the process in the machine beside a cable, in place of the one that runs there.
/// What is on its way is lost.
pub(in crate::lab) async fn start(
    program: &Path,
    beside: &Machine,
    link: Link,
    seed: &str,
) -> Result<(), Error> {
    let failed = |reason: String| Error::Start { host: beside.name().to_owned(), reason };
    let all = same_pid_namespace(beside.init()).map_err(Error::io("list", "/proc".as_ref()))?;
    for process in all {
        if process.arguments.get(1).is_some_and(|mark| mark == LINK_ARGUMENT) {
            process.handle.signal(Signal::SIGKILL)?;
            if !process.handle.ends_within(PATIENCE) {
                let pid = process.handle.pid();
                return Err(Error::Stuck { lab: beside.lab().to_owned(), pid });
            }
        }
    }
    let (says, stdout) = io::pipe().map_err(|error| failed(error.to_string()))?;
    let mut command = beside.command(program)?;
    command.args([LINK_ARGUMENT, &link.to_string(), seed]);
    command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::null());
    command.spawn_detached()?;
    let said = match tokio::time::timeout(PATIENCE, first_line(says)).await {
        Ok(said) => said.map_err(|error| failed(error.to_string()))?,
        Err(_) => return Err(failed(format!("it is not ready after {} s", PATIENCE.as_secs()))),
    };
    match said.trim_end() {
        READY => Ok(()),
        "" => Err(failed("it ended without a word".to_owned())),
        reason => Err(failed(reason.to_owned())),
    }
}

async fn first_line(from: PipeReader) -> io::Result<String> {
    let mut line = String::new();
    let from = Receiver::from_owned_fd(OwnedFd::from(from))?;
    BufReader::new(from).read_line(&mut line).await?;
    Ok(line)
}

/// Runs as the link of a lab, called with what follows [`LINK_ARGUMENT`] on the command
/// line, and returns the exit code. Not for people.
pub fn link_main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let arguments: Vec<String> =
        arguments.into_iter().filter_map(|argument| argument.into_string().ok()).collect();
    let [link, seed] = arguments.as_slice() else { return 2 };
    let (Ok(link), Ok(seed)) = (link.parse(), u64::from_str_radix(seed, 16)) else { return 2 };
    let Err(failure) = run(link, seed);
    // The one who started it reads it and tells; later there is nobody else to tell.
    let _ = writeln!(io::stdout(), "{failure}");
    1
}

fn run(link: Link, seed: u64) -> Result<std::convert::Infallible, Failure> {
    // The kernel shall say nothing of its own at the ends.
    match fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(during("switch IPv6 off")(error));
        }
        _ => {}
    }
    let open =
        |end| Frames::open(end).map_err(during(format!("take the frames of interface {end}")));
    let ends = [open(NEAR)?, open(FAR)?];
    let mut lines = [Line::new(link, seed), Line::new(link, !seed)];
    writeln!(io::stdout(), "{READY}").map_err(during("say that the link is ready"))?;
    let mut room = vec![0; LARGEST];
    loop {
        let now = Instant::now();
        for (line, to) in lines.iter_mut().zip(ends.iter().rev()) {
            while let Some(frame) = line.arrived(now) {
                // What an interface does not take is lost, as it is on a wire.
                let _ = to.send(&frame);
            }
        }
        let next = lines.iter().filter_map(Line::next).min();
        wait(&ends, next).map_err(during("wait for frames"))?;
        for (line, from) in lines.iter_mut().zip(&ends) {
            take(line, from, &mut room).map_err(during("take a frame"))?;
        }
    }
}

/// Waits for a frame at either end, or for the next one to arrive.
fn wait(ends: &[Frames; 2], next: Option<Instant>) -> io::Result<()> {
    let timeout = next.map(|next| next.saturating_duration_since(Instant::now()).into());
    let mut fds = ends.each_ref().map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN));
    match ppoll(&mut fds, timeout, None) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn take(line: &mut Line, from: &Frames, room: &mut [u8]) -> io::Result<()> {
    for _ in 0..BATCH {
        match from.recv(room) {
            Ok(length) => line.send(Instant::now(), &room[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // Said once when the interface is switched off, and there is nothing to take.
            Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
