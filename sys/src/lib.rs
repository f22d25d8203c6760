//! The one place for atomic files, child processes, netlink and namespaces.
//!
//! Everything here is mechanism: what is written, which address is set and
//! which process is started is decided by the caller. This is the only crate
//! of the workspace in which `unsafe` is allowed, module by module and with
//! the reason beside each use.
//!
//! * [`mod@file`]: files that survive a crash, private directories, locks, secrets
//! * [`frames`]: whole Ethernet frames
//! * [`netlink`]: links, addresses and routes, and their changes as a stream
//! * [`namespace`]: processes in new or existing Linux namespaces
//! * [`udp`]: many datagrams in one system call
//! * [`process`]: processes held by handles, so that a recycled process id is
//!   never hit

#![allow(
    clippy::disallowed_methods,
    reason = "the system's clock is one of the things wrapped here"
)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod file;
pub mod frames;
pub mod namespace;
pub mod netlink;
pub mod process;
pub mod udp;

/// What a person can do about an error of the operating system.
fn next_step(source: &std::io::Error, capability: &str) -> String {
    match source.raw_os_error() {
        Some(nix::libc::EPERM | nix::libc::EACCES) => {
            format!("; run as root or grant {capability}")
        }
        _ => String::new(),
    }
}
