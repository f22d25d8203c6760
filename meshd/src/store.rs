//! The store of one network: a redb file whose transactions survive a kill at
//! any instant.
//!
//! A thread of its own owns the file, so that a slow disk holds up nothing but
//! what waits for it. Batches that queue up meanwhile become one transaction,
//! in their order. After an error the file is opened anew before the next
//! batch, because redb refuses a file whose last write failed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use epsilon_mesh::control::Ticket;
use epsilon_mesh::saved::{Saved, SavedError, Table, Write};
use redb::backends::InMemoryBackend;
use redb::{
    Builder, Database, ReadableDatabase as _, ReadableTable as _, StorageBackend as _,
    TableDefinition,
};

type Row = (Table, Vec<u8>, Vec<u8>);
type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// redb's cache; the whole state of a large fleet is about a megabyte.
const CACHE: usize = 1024 * 1024;

/// The name of the file in a network's directory.
pub const FILE: &str = "state.redb";

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// redb says no.
    #[error("cannot {action} {path}: {source}")]
    Database {
        /// What was being done.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What redb says.
        source: Box<redb::Error>,
    },
    /// redb finds other bytes than it wrote.
    #[error("{path} is damaged; restore it from a backup, or leave the network and join again")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// A row is not what it should be.
    #[error("{path}: {source}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: SavedError,
    },
    /// The thread could not be started.
    #[error("cannot start the thread that writes {path}: {source}")]
    Thread {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        source: std::io::Error,
    },
}

fn definition(table: Table) -> Definition {
    TableDefinition::new(table.name())
}

fn failed<E: Into<redb::Error>>(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(E) -> StoreError + use<E> {
    let path = path.to_owned();
    move |error| StoreError::Database { action, path, source: Box::new(error.into()) }
}

/// A store that is open, before its thread runs.
pub struct Store {
    path: PathBuf,
    database: Option<Database>,
}

impl Store {
    /// Makes a store with these rows.
    pub fn create(path: &Path, writes: &[Write]) -> Result<Self, StoreError> {
        let database = builder().create(path).map_err(failed("create", path))?;
        restrict(path);
        write(&database, path, writes)?;
        Ok(Self { path: path.to_owned(), database: Some(database) })
    }

    /// Opens a store and reads it. On a file system that takes no writes it is
    /// read all the same; then every batch fails until writing works again.
    pub fn open(path: &Path) -> Result<(Self, Saved), StoreError> {
        let (store, rows) = Self::load(path)?;
        let content = |source| StoreError::Content { path: path.to_owned(), source };
        Ok((store, Saved::read(rows).map_err(content)?))
    }

    fn load(path: &Path) -> Result<(Self, Vec<Row>), StoreError> {
        unharmed(path, || {
            let opened = builder().open(path).and_then(|database| checked(database, path));
            let (database, is_writable) = match opened {
                Ok(database) => (database, true),
                // Somebody else's: only one may have it.
                Err(open @ redb::DatabaseError::DatabaseAlreadyOpen) => {
                    return Err(failed("open", path)(open));
                }
                // Opening and checking may need to write.
                Err(open) => match open_copy(path).and_then(|copy| Ok(checked(copy, path)?)) {
                    Ok(copy) => (copy, false),
                    Err(_) => return Err(failed("open", path)(open)),
                },
            };
            let rows = read(&database).map_err(|error| failed("read", path)(error))?;
            Ok((Self { path: path.to_owned(), database: is_writable.then_some(database) }, rows))
        })
    }

    /// Writes, after opening the file anew where the last write failed.
    fn write_again(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => builder().open(&self.path).map_err(failed("open", &self.path))?,
        };
        write(&database, &self.path, writes)?;
        self.database = Some(database);
        Ok(())
    }

    /// Starts the thread; `persisted` is called there with every batch's end.
    pub fn start(
        mut self,
        name: &str,
        persisted: impl Fn(Ticket, Result<(), String>) + Send + 'static,
    ) -> Result<Writer, StoreError> {
        let (batches, queue) = mpsc::channel::<(Ticket, Vec<Write>)>();
        let path = self.path.clone();
        let run = move || {
            while let Ok(first) = queue.recv() {
                let mut tickets = vec![first.0];
                let mut writes = first.1;
                for (ticket, more) in queue.try_iter() {
                    tickets.push(ticket);
                    writes.extend(more);
                }
                let path = self.path.clone();
                let result = unharmed(&path, || self.write_again(&writes));
                let result = result.map_err(|error| error.to_string());
                for ticket in tickets {
                    persisted(ticket, result.clone());
                }
            }
        };
        let thread = thread::Builder::new()
            .name(format!("store-{name}"))
            .spawn(run)
            .map_err(|source| StoreError::Thread { path, source })?;
        Ok(Writer { batches: Some(batches), thread: Some(thread) })
    }
}

fn write(database: &Database, path: &Path, writes: &[Write]) -> Result<(), StoreError> {
    let transaction = database.begin_write().map_err(failed("write", path))?;
    for table in Table::ALL {
        let mut rows = transaction.open_table(definition(table)).map_err(failed("write", path))?;
        for write in writes.iter().filter(|write| write.table == table) {
            match &write.value {
                Some(value) => {
                    rows.insert(&write.key[..], &value[..]).map_err(failed("write", path))?;
                }
                None => {
                    rows.remove(&write.key[..]).map_err(failed("write", path))?;
                }
            }
        }
    }
    transaction.commit().map_err(failed("write", path))
}

/// redb panics at some kinds of damage in its file.
fn unharmed<T>(path: &Path, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let damaged =
        |_: Box<dyn std::any::Any + Send>| Err(StoreError::Damaged { path: path.to_owned() });
    match catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(damaged) {
        Err(StoreError::Database { source, .. })
            if matches!(*source, redb::Error::Corrupted(_)) =>
        {
            damaged(Box::new(()))
        }
        result => result,
    }
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE);
    builder
}

/// Checks every page, which redb itself does only after a crash.
fn checked(mut database: Database, path: &Path) -> Result<Database, redb::DatabaseError> {
    if !database.check_integrity()? {
        tracing::error!(
            path = %path.display(),
            "the store was damaged and is repaired; what was written last may be missing"
        );
    }
    Ok(database)
}

/// Opens a copy in memory: redb reads a file whose writer was killed only
/// after a repair, which needs to write.
fn open_copy(path: &Path) -> Result<Database, redb::Error> {
    let bytes = std::fs::read(path)?;
    let memory = InMemoryBackend::new();
    memory.set_len(bytes.len() as u64)?;
    memory.write(0, &bytes)?;
    Ok(builder().create_with_backend(memory)?)
}

/// The directory is private already; this is the second lock on the door.
fn restrict(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    if let Err(error) = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)) {
        tracing::warn!(path = %path.display(), %error, "cannot restrict the store to its owner");
    }
}

fn read(database: &Database) -> Result<Vec<Row>, redb::Error> {
    let transaction = database.begin_read()?;
    let mut rows = Vec::new();
    for table in Table::ALL {
        let opened = match transaction.open_table(definition(table)) {
            Ok(opened) => opened,
            // An earlier version did not have it.
            Err(redb::TableError::TableDoesNotExist(_)) => continue,
            Err(error) => return Err(error.into()),
        };
        for row in opened.iter()? {
            let (key, value) = row?;
            rows.push((table, key.value().to_vec(), value.value().to_vec()));
        }
    }
    Ok(rows)
}

/// The way to a store's thread. Dropping it waits until everything is written.
pub struct Writer {
    batches: Option<mpsc::Sender<(Ticket, Vec<Write>)>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Writer {
    /// Hands a batch over; its end is reported.
    pub fn persist(&self, ticket: Ticket, writes: Vec<Write>) {
        if let Some(batches) = &self.batches
            && batches.send((ticket, writes)).is_err()
        {
            tracing::error!("the thread that writes the store is gone");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.batches.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that wrote the store panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(number: u8) -> Write {
        Write { table: Table::Records, key: vec![number], value: Some([number; 100].into()) }
    }

    fn rows(database: &Database) -> usize {
        let transaction = database.begin_read().unwrap();
        transaction.open_table(definition(Table::Records)).unwrap().iter().unwrap().count()
    }

    #[test]
    fn a_damaged_file_is_an_error_or_gives_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let rows: Vec<Row> =
            (0..50).map(|number| (Table::Records, vec![number], vec![number; 100])).collect();
        drop(Store::create(&path, &(0..50).map(row).collect::<Vec<_>>()).unwrap());
        let whole = std::fs::read(&path).unwrap();
        let (mut refused, mut read) = (0, 0);
        // Most of the file is free space.
        let used = (0..whole.len()).filter(|at| whole[*at] != 0 || at % 499 == 0);
        for position in used.step_by(41) {
            let mut damaged = whole.clone();
            damaged[position] ^= 0xff;
            std::fs::write(&path, &damaged).unwrap();
            match Store::load(&path) {
                Ok((_, found)) => {
                    assert_eq!(found, rows, "byte {position}");
                    read += 1;
                }
                Err(_) => refused += 1,
            }
        }
        assert!(refused > 100 && read > 100, "{refused} and {read}");
    }

    #[test]
    fn a_file_whose_writer_was_killed_after_any_commit_can_be_read_where_nothing_can_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        drop(Store::create(&path, &[row(0)]).unwrap());
        assert_eq!(rows(&open_copy(&path).unwrap()), 1, "closed cleanly");
        let database = builder().open(&path).unwrap();
        let killed = dir.path().join("killed");
        for number in 1..20 {
            std::fs::copy(&path, &killed).unwrap();
            let before = std::fs::read(&killed).unwrap();
            assert_eq!(rows(&open_copy(&killed).unwrap()), usize::from(number));
            assert_eq!(std::fs::read(&killed).unwrap(), before, "it was only read");
            write(&database, &path, &[row(number)]).unwrap();
        }
    }
}
