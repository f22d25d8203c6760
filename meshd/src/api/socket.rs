use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process;

use nix::unistd::Group;
use tokio::net::UnixListener;

/// Where the daemon listens unless told.
pub const DEFAULT_PATH: &str = "/run/epsilon/epsilon.sock";
/// Whose members may use the socket without being root.
pub const DEFAULT_GROUP: &str = "epsilon";

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// Somebody answers there.
    #[error("another meshd answers on {path}; stop it or choose another socket")]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else lies there.
    #[error("{path} exists and is not a socket; move it away or choose another socket")]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {action} {path}: {source}; run as root or choose another socket")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The listening socket. Its file goes when it is dropped, unless another
/// daemon has put its own there.
#[derive(Debug)]
pub struct Socket {
    pub(super) listener: UnixListener,
    pub(super) file: SocketFile,
}

#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Socket {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.file.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            // A socket that stays is replaced by the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens on `path`, for the owner and, where it exists, for `group`
/// (mode 0660).
///
/// A socket at which nobody listens any more is replaced. The new one is
/// made under another name and renamed, so that it is never there with
/// other rights. Needs a tokio runtime.
pub fn bind(path: &Path, group: &str) -> Result<Socket, SocketError> {
    let failed = |action| move |source| SocketError::Io { action, path: path.to_owned(), source };
    if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(|source| {
            SocketError::Io { action: "create directory", path: directory.to_owned(), source }
        })?;
    }
    make_room(path)?;

    // Short, since the path of a socket has at most 107 bytes.
    let unnamed = path.with_file_name(format!(".{}", process::id()));
    remove(&unnamed).map_err(failed("replace"))?;
    let listener = UnixListener::bind(&unnamed).map_err(failed("listen on"))?;
    let ready = set_rights(&unnamed, group)
        .and_then(|()| fs::rename(&unnamed, path))
        .and_then(|()| identity(path));
    match ready {
        Ok(identity) => {
            Ok(Socket { listener, file: SocketFile { path: path.to_owned(), identity } })
        }
        Err(source) => {
            let _ = remove(&unnamed);
            Err(failed("set the rights of")(source))
        }
    }
}

fn make_room(path: &Path) -> Result<(), SocketError> {
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::InUse { path: path.to_owned() }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(_) => {
            use std::os::unix::fs::FileTypeExt;
            let metadata = fs::symlink_metadata(path).map_err(|source| SocketError::Io {
                action: "look at",
                path: path.to_owned(),
                source,
            })?;
            if metadata.file_type().is_socket() {
                Ok(())
            } else {
                Err(SocketError::NotASocket { path: path.to_owned() })
            }
        }
    }
}

fn set_rights(path: &Path, group: &str) -> io::Result<()> {
    // A group that cannot be looked up is a group that is not there: the
    // socket stays the owner's alone.
    if let Ok(Some(group)) = Group::from_name(group) {
        match chown(path, None, Some(group.gid.as_raw())) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
            other => other?,
        }
    }
    fs::set_permissions(path, Permissions::from_mode(0o660))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}
