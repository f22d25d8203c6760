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

use super::{is_mesh_name, routing};

const MARKER: &str = "provisional";
/// What the name of a directory begins with that is being removed; no network
/// can have such a name.
const GONE: &str = ".gone-";
/// The same of one that is being made, until it has its marker.
const NEW: &str = ".new-";
/// The longest name that an interface can have.
const MAX: usize = 15;

/// Makes the directory `dir`, which appears with its marker: it is never there
/// without, whenever this is cut off.
pub(crate) fn begin(dir: &Path, interface: &str) -> Result<(), file::Error> {
    let failed = |action| move |source| file::Error::Io { action, path: dir.to_owned(), source };
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
        return Err(failed("create")(io::ErrorKind::InvalidInput.into()));
    };
    let new = parent.join(format!("{NEW}{}", name.to_string_lossy()));
    remove_all(&new).map_err(failed("create"))?;
    let begun = file::create_private_dir(&new)
        .and_then(|()| mark(&new, interface))
        .and_then(|()| std::fs::rename(&new, dir).map_err(failed("create")))
        .and_then(|()| {
            std::fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed("sync"))
        });
    if begun.is_err() {
        // The first failure is the one to tell; the next start sweeps.
        let _ = remove_all(&new);
    }
    begun
}

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
        let deleted = async {
            let netlink = Netlink::open()?;
            netlink.delete_link(interface).await?;
            routing::forget(&netlink, interface).await
        }
        .await;
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

/// Removes what [`begin`] and [`remove`] left because they were cut off.
pub(crate) fn sweep(state: &Path) -> Result<(), io::Error> {
    for entry in std::fs::read_dir(state)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if [GONE, NEW].iter().any(|prefix| name.starts_with(prefix)) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_appears_with_its_marker_and_what_was_cut_off_before_is_swept() {
        let state = tempfile::tempdir().unwrap();
        let dir = state.path().join("home");
        // Cut off before the marker was there, and in the middle of a removal.
        for cut_off in [".new-home", ".new-other", ".gone-home"] {
            std::fs::create_dir(state.path().join(cut_off)).unwrap();
            std::fs::write(state.path().join(cut_off).join("x"), "x").unwrap();
        }
        begin(&dir, "eps7").unwrap();
        assert_eq!(marked(&dir).as_deref(), Some("eps7"));
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
        sweep(state.path()).unwrap();
        let left: Vec<_> =
            std::fs::read_dir(state.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, std::slice::from_ref(&dir));
        keep(&dir).unwrap();
        assert_eq!(marked(&dir), None);
        // One that is there is not taken.
        std::fs::write(dir.join("identity.key"), "x").unwrap();
        assert!(begin(&dir, "eps8").is_err());
        assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 1);
    }
}
