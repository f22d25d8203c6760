use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::Error;
use crate::process::Identity;

/// How long a lock may be held by what its killed owner was just starting.
const INHERITED: Duration = Duration::from_secs(1);

/// An exclusive lock on a file, held until dropped or until the process dies.
///
/// The file holds the owner's process id as text, so that whoever comes second
/// can say who was first. It stays after the lock is released: removing it
/// would let two processes each lock a file of the same name.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock at `path`, creating the file, or says who holds it.
    ///
    /// Blocks for at most a second, and only while the holder that the file
    /// names is dead: a process that is killed while it starts another leaves
    /// the lock to that one until it becomes its program.
    pub fn acquire(path: &Path) -> Result<Self, Error> {
        let deadline = Instant::now() + INHERITED;
        loop {
            match Self::try_acquire(path) {
                Err(Error::Locked { pid: Some(pid), .. })
                    if Identity::of(pid).is_none() && Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_millis(10));
                }
                result => return result,
            }
        }
    }

    fn try_acquire(path: &Path) -> Result<Self, Error> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(Error::io("open", path))?;
        let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((mut file, Errno::EWOULDBLOCK)) => {
                return Err(Error::Locked { path: path.to_owned(), pid: holder(&mut file) });
            }
            Err((_, errno)) => return Err(Error::io("lock", path)(errno.into())),
        };
        write_pid(&mut file).map_err(Error::io("write", path))?;
        Ok(Self { path: path.to_owned(), _file: file })
    }

    /// The file that is locked.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn write_pid(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_to_come_is_told_who_was_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = Lock::acquire(&path).unwrap();
        let error = Lock::acquire(&path).unwrap_err();
        let expected = format!("already running as pid {}", std::process::id());
        assert!(error.to_string().starts_with(&expected), "{error}");
        drop(first);
        assert_eq!(Lock::acquire(&path).unwrap().path(), path);
    }

    #[test]
    fn a_lock_that_the_dead_left_to_a_child_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = Lock::acquire(&path).unwrap();
        std::fs::write(&path, "4194305\n").unwrap();
        let (waits, waiting) = std::sync::mpsc::channel();
        let second = std::thread::spawn({
            let path = path.clone();
            move || {
                assert!(matches!(Lock::try_acquire(&path), Err(Error::Locked { .. })));
                waits.send(()).unwrap();
                Lock::acquire(&path)
            }
        });
        waiting.recv().unwrap();
        drop(first);
        second.join().unwrap().unwrap();
    }

    #[test]
    fn a_lock_file_left_by_the_dead_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        std::fs::write(&path, "4194304999\n").unwrap();
        let _lock = Lock::acquire(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
    }
}
