use std::io;
use std::path::{Path, PathBuf};

use epsilon_sys::{file, namespace, netlink, process};

/// This program, as a shell finds it: by its name where that is in the search
/// path, else by the way to it.
pub(crate) fn program() -> String {
    let Ok(path) = std::env::current_exe() else { return "epsilon".to_owned() };
    let search = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&search).map(|directory| directory.join("epsilon"));
    let here = std::env::current_dir().unwrap_or_default();
    if found.into_iter().find(|found| found.exists()).is_some_and(|found| found == path) {
        return "epsilon".to_owned();
    }
    path.strip_prefix(here).unwrap_or(&path).display().to_string()
}

/// Why a lab could not be made, used or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What was asked for is no lab.
    #[error("{0}")]
    Spec(String),
    /// This user cannot make lab hosts.
    #[error("cannot make lab hosts: {reason}; {remedy}")]
    Unprivileged {
        /// What was refused.
        reason: String,
        /// What would work.
        remedy: String,
    },
    /// A lab of that name is there already.
    #[error("the lab {name} exists already; `{} lab down` removes it", program())]
    Exists {
        /// Its name.
        name: String,
    },
    /// There is no lab of that name.
    #[error("there is no lab named {name}; `{} lab up` makes one", program())]
    NoSuchLab {
        /// The name.
        name: String,
    },
    /// There is no host of that name.
    #[error("the lab {lab} has no host {host}; it has {}", known.join(", "))]
    NoSuchHost {
        /// The lab.
        lab: String,
        /// The name.
        host: String,
        /// The hosts there are.
        known: Vec<String>,
    },
    /// There is no site of that number.
    #[error("the lab {lab} has no site{site}; it has site1 to site{last}")]
    NoSuchSite {
        /// The lab.
        lab: String,
        /// The number.
        site: u8,
        /// The number of the last one.
        last: usize,
    },
    /// A host that should run does not.
    #[error(
        "the host {host} of the lab {lab} has ended; `{} lab down` removes the rest",
        program()
    )]
    HostEnded {
        /// The lab.
        lab: String,
        /// The host.
        host: String,
    },
    /// A host could not be set up from within.
    #[error("the host {host} could not start: {reason}")]
    Start {
        /// The host.
        host: String,
        /// What its init reported.
        reason: String,
    },
    /// A process of the lab did not end when killed.
    #[error("process {pid} of the lab {lab} does not end; see /proc/{pid}/stack")]
    Stuck {
        /// The lab.
        lab: String,
        /// The process.
        pid: u32,
    },
    /// The lab's description cannot be understood.
    #[error("{path} is damaged: {reason}; `{} lab down` removes the lab all the same", program())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file or directory of the lab.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was being done, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The reason given by the operating system.
        source: io::Error,
    },
    /// A file of the lab.
    #[error(transparent)]
    File(#[from] file::Error),
    /// A program in a host.
    #[error(transparent)]
    Namespace(#[from] namespace::Error),
    /// The network of a host.
    #[error("on the host {host}: {source}")]
    Network {
        /// The host.
        host: String,
        /// What failed there.
        source: netlink::Error,
    },
    /// A process of the lab.
    #[error(transparent)]
    Process(#[from] process::Error),
}

impl Error {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    pub(super) fn network(host: &str) -> impl FnOnce(netlink::Error) -> Self {
        let host = host.to_owned();
        move |source| Self::Network { host, source }
    }
}
