//! Files that survive a crash, private directories, locks and secrets.
//!
//! * [`write_atomic`] replaces a file so that after a crash at any instant
//!   either the old or the new bytes are there, never a mixture.
//! * [`create_private_dir`] makes a directory that only its owner may enter.
//! * [`read_limited`] never reads more than its caller can hold.
//! * [`read_secret`] refuses a secret that others could have read or placed.
//! * [`Lock`] lets one process at a time own a directory, and names the other.

mod lock;
mod read;
mod write;

pub use lock::Lock;
pub use read::{read_limited, read_secret};
pub use write::{create_private_dir, write_atomic};

use std::io;
use std::path::{Path, PathBuf};

/// Why a file operation failed, and on which file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} {path}: {source}{}", hint(source))]
    Io {
        /// What was being done, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The reason given by the operating system.
        source: io::Error,
    },
    /// The file is larger than its reader accepts.
    #[error("{path} is larger than {limit} bytes; it is not what belongs there")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most bytes that were acceptable.
        limit: usize,
    },
    /// A secret can be read by other users.
    #[error("{path} can be read by others (mode {mode:04o}); run: chmod 600 {path}")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A secret or private directory belongs to another user.
    #[error(
        "{path} belongs to user {owner}, not to this process's user {expected}; run: chown {expected} {path}"
    )]
    ForeignOwner {
        /// The file or directory.
        path: PathBuf,
        /// The user id that owns it.
        owner: u32,
        /// The user id that should.
        expected: u32,
    },
    /// Something that is not a regular file stands where one belongs.
    #[error("{path} is not a regular file; move it away")]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// Something that is not a directory stands where one belongs.
    #[error("{path} is not a directory; move it away")]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// Another process holds the lock.
    #[error("already running as pid {}: it holds {path}; stop it first", pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string()))]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// The holder, where it could be read.
        pid: Option<u32>,
    },
}

impl Error {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// Whether the file system takes no writes now: read-only, or full.
    pub fn is_unwritable(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        let kinds = [ReadOnlyFilesystem, StorageFull, QuotaExceeded];
        matches!(self, Self::Io { source, .. } if kinds.contains(&source.kind()))
    }

    /// Whether the file does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => "; run as root or as the user that owns it",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; free some space",
        io::ErrorKind::ReadOnlyFilesystem => "; remount it writable or choose another directory",
        _ => "",
    }
}
