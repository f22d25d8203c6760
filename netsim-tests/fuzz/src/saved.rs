//! The rows of a network's store.

use epsilon_mesh::saved::{Saved, Table, Write};

use crate::script::{self, Script};
use crate::{bounded, samples};

type Row = (Table, Vec<u8>, Vec<u8>);

fn rows(input: &[u8]) -> Vec<Row> {
    let mut script = Script(input);
    std::iter::from_fn(|| {
        let table = Table::ALL[usize::from(script.byte()?) % Table::ALL.len()];
        Some((table, script.bytes()?.to_vec(), script.bytes()?.to_vec()))
    })
    .collect()
}

fn rows_of(writes: Vec<Write>) -> Vec<Row> {
    writes
        .into_iter()
        .filter_map(|write| Some((write.table, write.key, write.value?.to_vec())))
        .collect()
}

/// What is read is written down as it was, however often.
pub fn saved(input: &[u8]) {
    let rows = rows(input);
    let read = bounded::by_length(input.len(), || Saved::read(rows));
    match read {
        Ok(saved) => {
            let once = rows_of(saved.writes());
            let again = Saved::read(once.clone()).expect("what was written can be read");
            assert_eq!(rows_of(again.writes()), once);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let record = samples::signed(&samples::record(), &samples::key(3));
    let more = [
        (Table::Records, samples::key(3).node().0.to_vec(), epsilon_proto::wire::encode(&record)),
        (Table::Contacts, samples::key(3).node().0.to_vec(), vec![0x46, 192, 0, 2, 7, 0x1e, 0x4b]),
    ];
    let rows = rows_of(samples::saved().writes()).into_iter().chain(more);
    let number = |table: Table| Table::ALL.iter().position(|other| *other == table).unwrap_or(0);
    let seed = rows.flat_map(|(table, key, value)| {
        [vec![number(table) as u8], script::bytes(&key), script::bytes(&value)].concat()
    });
    vec![seed.collect()]
}
