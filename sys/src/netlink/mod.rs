//! Links, addresses and routes of one network namespace, over rtnetlink.
//!
//! A [`Netlink`] is a cheap handle to a connection that runs as a task of its
//! own. Interfaces are named by name or by index ([`Interface`]). Adding what
//! is already there and removing what is already gone succeed, so that every
//! call can be repeated after a crash. No error leaves open which interface,
//! address or route it was about.
//!
//! [`Netlink::changes`] says when any of it changes, by whomever.

mod address;
mod changes;
mod conntrack;
mod counters;
mod error;
mod link;
mod model;
mod offload;
mod route;
mod rule;

pub use changes::{Change, Changes};
pub use conntrack::forget_connections;
pub use counters::Counters;
pub use error::Error;
pub use link::Veth;
pub use model::{Address, Interface, Link, Prefix, Route};
pub use rule::{Action, MAIN_TABLE, Mark, Rule};

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::sched::{CloneFlags, setns};
use rtnetlink::Handle;

/// A handle to the network configuration of one namespace.
///
/// Clones share one connection, which closes with the last of them.
#[derive(Debug, Clone)]
pub struct Netlink {
    handle: Handle,
    /// `None` for the namespace of this process.
    namespace: Option<Arc<OwnedFd>>,
}

impl Netlink {
    /// Connects to the namespace of this process.
    ///
    /// Must be called within a tokio runtime with I/O enabled.
    pub fn open() -> Result<Self, Error> {
        Self::connect(None)
    }

    /// Connects to the network namespace `namespace`, which needs
    /// `CAP_SYS_ADMIN` there.
    ///
    /// Must be called within a tokio runtime with I/O enabled.
    pub fn open_in(namespace: BorrowedFd<'_>) -> Result<Self, Error> {
        let namespace = namespace.try_clone_to_owned().map_err(|source| Error::Open { source })?;
        Self::connect(Some(Arc::new(namespace)))
    }

    fn connect(namespace: Option<Arc<OwnedFd>>) -> Result<Self, Error> {
        let (connection, handle, _) = inside(namespace.as_deref(), rtnetlink::new_connection)
            .map_err(|source| Error::Open { source })?;
        tokio::spawn(connection);
        Ok(Self { handle, namespace })
    }
}

/// Runs `open` in `namespace`.
///
/// A socket belongs for ever to the namespace in which it was made, so only
/// its making needs to happen there: on a thread that enters, makes it and
/// ends, because a thread that tokio uses again must not stay behind.
fn inside<T: Send>(
    namespace: Option<&OwnedFd>,
    open: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let Some(namespace) = namespace else {
        return open();
    };
    let runtime = tokio::runtime::Handle::current();
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
                let _runtime = runtime.enter();
                open()
            })
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the opening thread panicked")))
    })
}
