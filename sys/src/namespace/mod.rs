//! Processes in new or existing Linux namespaces.
//!
//! [`Command`] is like the one of the standard library, with one more choice:
//! its program runs as the first process of new network, mount, host name and
//! process id namespaces ([`Command::as_init`]), or inside those of another
//! process ([`Command::inside`]).
//!
//! A process may enter a pid namespace only through a child, and a mount
//! namespace only while it has one thread, which a tokio process never has.
//! So the work is done between fork and exec, in children that do nothing but
//! system calls, and in as many of them as it takes:
//!
//! ```text
//! this process ──fork──► A: enters ──clone(CLONE_PARENT)──► B: exec
//!                        exits                   child of this process,
//!                                                member of the namespaces
//! detached:              A: enters ──► B: exits ──fork──► C: exec
//!                                                child of the namespace's init
//! ```
//!
//! B and C each write a byte to a socket on which the kernel attests the
//! sender's process id, translated to the namespace of this process.

#![allow(unsafe_code)]

mod command;

pub use command::{Child, Command, Detached, Output};

use std::io;

use crate::process;

/// Why a program could not be started in namespaces.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// New namespaces were refused.
    #[error("cannot make namespaces for {program}: {source}{}", hint(source))]
    Make {
        /// The program to be started in them.
        program: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Entering the namespaces of a process was refused.
    #[error(
        "cannot enter the namespaces of process {pid} to run {program}: {source}{}",
        hint(source)
    )]
    Enter {
        /// The process in the namespaces.
        pid: u32,
        /// The program to be started in them.
        program: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The program itself could not be started.
    #[error("cannot run {program}: {source}{}", crate::next_step(source, "execution"))]
    Execute {
        /// The program.
        program: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The process was started but then could not be observed.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// The output of the program could not be read.
    #[error("cannot read what {program} prints: {source}")]
    Output {
        /// The program.
        program: String,
        /// The reason.
        source: io::Error,
    },
}

fn hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(nix::libc::EPERM) => "; run as root, or inside: unshare --user --map-root-user",
        Some(nix::libc::ENOSPC) => "; raise the limits in /proc/sys/user/",
        Some(nix::libc::ESRCH) => "; it has ended",
        _ => "",
    }
}
