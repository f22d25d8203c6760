//! What a machine has on disk.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use epsilon_mesh::saved::{Saved, SavedError, Table, Write};

/// The durable rows of one network, as the daemon's store keeps them.
#[derive(Clone, Default)]
pub(crate) struct Store(BTreeMap<(Table, Vec<u8>), Arc<[u8]>>);

/// The rows that machines have on their disks, once for all that have the same.
#[derive(Default)]
pub(crate) struct Rows {
    rows: HashSet<Arc<[u8]>>,
    /// With how many those are swept that nobody has any more.
    most: usize,
}

impl Rows {
    pub(crate) fn shared(&mut self, mut writes: Vec<Write>) -> Vec<Write> {
        for value in writes.iter_mut().filter_map(|write| write.value.as_mut()) {
            match self.rows.get(value) {
                Some(known) => *value = Arc::clone(known),
                None => drop(self.rows.insert(Arc::clone(value))),
            }
        }
        if self.rows.len() > self.most {
            self.rows.retain(|row| Arc::strong_count(row) > 1);
            self.most = self.rows.len() * 2 + 1024;
        }
        writes
    }
}

impl Store {
    pub(crate) fn apply(&mut self, writes: Vec<Write>) {
        for write in writes {
            let key = (write.table, write.key);
            match write.value {
                Some(value) => drop(self.0.insert(key, value)),
                None => drop(self.0.remove(&key)),
            }
        }
    }

    pub(crate) fn row(&self, table: Table, key: &[u8]) -> Option<&[u8]> {
        self.0.get(&(table, key.to_vec())).map(|row| &**row)
    }

    pub(crate) fn keys(&self, table: Table) -> impl Iterator<Item = &[u8]> {
        self.0.keys().filter(move |(other, _)| *other == table).map(|(_, key)| key.as_slice())
    }

    pub(crate) fn saved(&self) -> Result<Saved, SavedError> {
        Saved::read(
            self.0.iter().map(|((table, key), value)| (*table, key.clone(), value.to_vec())),
        )
    }
}
