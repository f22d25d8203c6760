use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::libc;
use nix::unistd::geteuid;
use zeroize::Zeroizing;

use super::Error;

/// The content of `path`, at most `max` bytes.
pub fn read_limited(path: &Path, max: usize) -> Result<Vec<u8>, Error> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let mut bytes = Vec::new();
    take(file, path, max, &mut bytes)?;
    Ok(bytes)
}

/// The content of a secret file, at most `max` bytes, erased when dropped.
///
/// The file must be a regular file, owned by this process's user and closed
/// to everybody else: a secret that others could read or replace is refused.
pub fn read_secret(path: &Path, max: usize) -> Result<Zeroizing<Vec<u8>>, Error> {
    // Without O_NONBLOCK opening a FIFO would wait for its writer.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(Error::io("open", path))?;
    let metadata = file.metadata().map_err(Error::io("inspect", path))?;
    if !metadata.is_file() {
        return Err(Error::NotAFile { path: path.to_owned() });
    }
    let expected = geteuid().as_raw();
    if metadata.uid() != expected {
        return Err(Error::ForeignOwner { path: path.to_owned(), owner: metadata.uid(), expected });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(Error::Exposed { path: path.to_owned(), mode });
    }
    // A vector that grows leaves copies of the secret behind it.
    let capacity = usize::try_from(metadata.len()).unwrap_or(max).min(max) + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    take(file, path, max, &mut bytes)?;
    Ok(bytes)
}

fn take(file: File, path: &Path, max: usize, bytes: &mut Vec<u8>) -> Result<(), Error> {
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(bytes).map_err(Error::io("read", path))?;
    if bytes.len() > max {
        return Err(Error::TooLarge { path: path.to_owned(), limit: max });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(mode: u32, bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    #[test]
    fn a_file_of_exactly_the_limit_is_read_and_one_byte_more_is_refused() {
        let (_dir, path) = file(0o644, b"12345");
        assert_eq!(read_limited(&path, 5).unwrap(), b"12345");
        assert!(matches!(read_limited(&path, 4), Err(Error::TooLarge { limit: 4, .. })));
    }

    #[test]
    fn an_endless_file_is_refused_at_the_limit() {
        assert!(matches!(read_limited(Path::new("/dev/zero"), 1000), Err(Error::TooLarge { .. })));
    }

    #[test]
    fn a_missing_file_says_its_path_and_that_it_is_missing() {
        let error = read_limited(Path::new("/nonexistent/file"), 1).unwrap_err();
        assert!(error.is_not_found());
        assert!(error.to_string().contains("/nonexistent/file"));
    }

    #[test]
    fn a_private_secret_is_read_and_an_exposed_one_refused() {
        let (_dir, path) = file(0o600, b"secret");
        assert_eq!(read_secret(&path, 64).unwrap().as_slice(), b"secret");
        for mode in [0o640, 0o604, 0o620, 0o601] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = read_secret(&path, 64).unwrap_err();
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
    }

    #[test]
    fn a_secret_of_another_user_is_refused() {
        if !geteuid().is_root() {
            return;
        }
        let (_dir, path) = file(0o600, b"planted");
        std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
        assert!(matches!(read_secret(&path, 64), Err(Error::ForeignOwner { owner: 12345, .. })));
    }

    #[test]
    fn a_fifo_in_place_of_a_secret_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(matches!(read_secret(&path, 64), Err(Error::NotAFile { .. })));
    }
}
