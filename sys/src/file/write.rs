use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::unistd::geteuid;

use super::Error;

/// Replaces `path` with `bytes` and permission bits `mode`.
///
/// After a crash at any instant the file holds either its old or its new
/// content. When this returns, the new content is on disk and so is its name.
/// A symbolic link at `path` is replaced, not followed.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let directory = parent(path);
    let (file, temporary) = temporary(path)?;
    let written = fill(file, bytes, mode)
        .map_err(Error::io("write", &temporary))
        .and_then(|()| fs::rename(&temporary, path).map_err(Error::io("replace", path)));
    if let Err(error) = written {
        // The first failure is the one to tell; a file that cannot be removed
        // is overwritten by nobody and read by nobody.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_directory(directory).map_err(Error::io("sync", directory))
}

/// Makes `path`, with its parents, as a directory of mode 0700.
///
/// An existing directory must belong to this process's user; its mode is
/// narrowed to 0700.
pub fn create_private_dir(path: &Path) -> Result<(), Error> {
    if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
        fs::create_dir_all(above).map_err(Error::io("create", above))?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {
            let directory = parent(path);
            sync_directory(directory).map_err(Error::io("sync", directory))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => narrow(path),
        Err(error) => Err(Error::io("create", path)(error)),
    }
}

fn narrow(path: &Path) -> Result<(), Error> {
    let metadata = fs::metadata(path).map_err(Error::io("inspect", path))?;
    if !metadata.is_dir() {
        return Err(Error::NotADirectory { path: path.to_owned() });
    }
    let expected = geteuid().as_raw();
    if metadata.uid() != expected {
        return Err(Error::ForeignOwner { path: path.to_owned(), owner: metadata.uid(), expected });
    }
    if metadata.mode() & 0o777 == 0o700 {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(Error::io("restrict", path))
}

fn fill(mut file: File, bytes: &[u8], mode: u32) -> io::Result<()> {
    file.write_all(bytes)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A new file beside `path`, readable by nobody else until it is complete.
fn temporary(path: &Path) -> Result<(File, PathBuf), Error> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    loop {
        let mut name = OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        name.push(format!(".{}.{count}.new", std::process::id()));
        let temporary = path.with_file_name(name);
        let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary);
        match created {
            Ok(file) => return Ok((file, temporary)),
            // Left by an earlier process of this id that died before its rename.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io("write", &temporary)(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_written_file_has_its_bytes_and_mode_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_atomic(&path, b"first", 0o600).unwrap();
        write_atomic(&path, b"second", 0o666).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(mode(&path), 0o666);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_keeps_the_old_content_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), b"kept").unwrap();
        let error = write_atomic(&path, b"new", 0o600).unwrap_err();
        assert!(error.to_string().contains("taken"), "{error}");
        assert_eq!(fs::read(path.join("inside")).unwrap(), b"kept");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_symbolic_link_is_replaced_and_its_target_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        let link = dir.path().join("link");
        fs::write(&target, b"theirs").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        write_atomic(&link, b"ours", 0o600).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"theirs");
        assert!(fs::symlink_metadata(&link).unwrap().is_file());
    }

    #[test]
    fn a_private_directory_is_made_with_its_parents_and_an_open_one_narrowed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        create_private_dir(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        create_private_dir(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
    }

    #[test]
    fn a_file_in_place_of_a_private_directory_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, b"").unwrap();
        assert!(matches!(create_private_dir(&path), Err(Error::NotADirectory { .. })));
    }
}
