//! Labs: fleets of hosts on one machine, for trying things out and for tests.
//!
//! A lab host has network, mount, host name and process namespaces of its
//! own. To what runs on it, it is a machine: its own interfaces and loopback,
//! host name, machine id, `/proc`, an empty `/run`, `/etc/epsilon` and
//! `/var/lib/epsilon`, so that default paths work on every host, and an `/etc`
//! and `/var/lib` that look like the machine's but keep every change to
//! themselves. All else is shared, `/tmp` too: a host is not a sandbox.
//!
//! What a lab promises:
//!
//! * **Nothing leaves it.** The machine's own network namespace gets no
//!   interface, and no host has a route to it.
//! * **Nothing stays.** Everything on a host dies with its init. Every init
//!   carries the lab's name in its command line, so [`Lab::down`] finds all of
//!   it whatever became of the process that made it. An ephemeral lab ends
//!   with its owner, even if that is killed.
//! * **Labs do not meet.** Any number run side by side with the same
//!   addresses.
//!
//! ```text
//!   site 1, 10.1.0.0/24, fd00:1::/64        site 2, 10.2.0.0/24, fd00:2::/64
//!   n1 ─┐                                                          ┌─ n3
//!       ├─ gw1 ──────────────── internet ───────────────── gw2 ────┤
//!   n2 ─┘      198.18.0.1                      198.18.0.2          └─ n4
//! ```
//!
//! Cables can be pulled ([`Lab::apply`]), and made as bad as real ones ([`Lab::set_link`]).
//!
//! ```no_run
//! # async fn example() -> Result<(), epsilon_cli::lab::Error> {
//! use epsilon_cli::lab::{Lab, Spec};
//!
//! let lab = Lab::up(Spec::ephemeral([2, 1], "/usr/bin/epsilon")).await?;
//! let daemon = lab.host("n1")?.start_meshd("/usr/bin/meshd")?;
//! lab.cut(2).await?;
//! daemon.kill9().await?;
//! # Ok(())
//! # }
//! ```

mod daemon;
mod error;
mod fleet;
mod host;
mod init;
mod link;
mod machine;
mod nat;
mod plan;
mod preflight;
mod spec;
mod store;
mod wiring;

pub use daemon::{Daemon, Program};
pub use error::Error;
pub(crate) use error::program;
pub use fleet::{Cable, Cut, HostStatus, Lab};
pub use host::{Command, Host};
pub use init::init_main;
pub use link::carry::{LINK_ARGUMENT, link_main};
pub use link::{Link, Links, Share};
pub use machine::INIT_ARGUMENT;
pub use nat::{Kind, Nat};
pub use preflight::preflight;
pub use spec::{Behind, Families, Gateway, Lifetime, Site, Spec};
pub use store::names;
