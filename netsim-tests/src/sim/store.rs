//! What a machine has on disk.

use std::collections::BTreeMap;

use epsilon_mesh::saved::{Saved, SavedError, Table, Write};

/// The durable rows of one network, as the daemon's store keeps them.
#[derive(Clone, Default)]
pub(crate) struct Store(BTreeMap<(Table, Vec<u8>), Vec<u8>>);

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
        self.0.get(&(table, key.to_vec())).map(Vec::as_slice)
    }

    pub(crate) fn keys(&self, table: Table) -> impl Iterator<Item = &[u8]> {
        self.0.keys().filter(move |(other, _)| *other == table).map(|(_, key)| key.as_slice())
    }

    pub(crate) fn saved(&self) -> Result<Saved, SavedError> {
        Saved::read(self.0.iter().map(|((table, key), value)| (*table, key.clone(), value.clone())))
    }
}
