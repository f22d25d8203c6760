//! State that does not count: of a network that is being made or joined, or
//! that is being left.
//!
//! A marker in the network's directory says so and names the interface. Who
//! finds one at the start of the daemon removes both: what was under way was
//! cut off, and nobody was told that it had succeeded.

use std::io;
use std::path::Path;

use epsilon_sys::file;
use epsilon_sys::netlink::Netlink;

use super::is_mesh_name;

const MARKER: &str = "provisional";
/// What the name of a directory begins with that is being removed; no network
/// can have such a name.
const GONE: &str = ".gone-";
/// The longest name that an interface can have.
const MAX: usize = 15;

/// Marks the state in `dir`, which uses `interface`.
pub(crate) fn mark(dir: &Path, interface: &str) -> Result<(), file::Error> {
    file::write_atomic(&dir.join(MARKER), interface.as_bytes(), 0o600)
}

/// The interface that the state in `dir` uses, if that state does not count.
pub(crate) fn marked(dir: &Path) -> Option<String> {
    let path = dir.join(MARKER);
    let text = file::read_limited(&path, MAX).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    path.exists().then(|| text.unwrap_or_default())
}

/// From now on the state in `dir` counts, if it did not before.
pub(crate) fn keep(dir: &Path) -> Result<(), io::Error> {
    match std::fs::remove_file(dir.join(MARKER)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => std::fs::File::open(dir)?.sync_all(),
    }
}

/// Removes `interface` and the state in `dir`, in this order, so that what is
/// cut off in between still has its marker: the directory goes all at once, by
/// another name, and is emptied then.
pub(crate) async fn remove(dir: &Path, interface: &str) -> Result<(), io::Error> {
    if is_mesh_name(interface) {
        let deleted = async { Netlink::open()?.delete_link(interface).await }.await;
        if let Err(error) = deleted {
            tracing::warn!(interface, %error, "cannot delete the interface");
        }
    }
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else { return Ok(()) };
    let gone = parent.join(format!("{GONE}{}", name.to_string_lossy()));
    remove_all(&gone)?;
    match std::fs::rename(dir, &gone) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        renamed => renamed?,
    }
    std::fs::File::open(parent)?.sync_all()?;
    remove_all(&gone)
}

/// Empties what [`remove`] could not because it was cut off.
pub(crate) fn sweep(state: &Path) -> Result<(), io::Error> {
    for entry in std::fs::read_dir(state)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(GONE)) {
            remove_all(&path)?;
        }
    }
    Ok(())
}

fn remove_all(dir: &Path) -> Result<(), io::Error> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
