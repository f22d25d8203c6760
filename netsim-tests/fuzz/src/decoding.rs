//! What must hold for every type of the wire encoding.

use std::fmt::Debug;

use epsilon_proto::wire::{self, FIRST_SKIPPABLE_FIELD, Wire};
use minicbor::Decoder;
use minicbor::data::Type;

use crate::bounded;

/// A type with a sample, chosen by the first byte of an input.
pub(crate) struct Kind {
    pub(crate) check: fn(&[u8]),
    pub(crate) sample: fn() -> Vec<u8>,
}

/// Kinds from types and samples.
macro_rules! kinds {
    ($($type:ty: $sample:expr),+ $(,)?) => {
        &[$($crate::decoding::Kind {
            check: |bytes| {
                let _ = $crate::decoding::decode::<$type>(bytes);
            },
            sample: || epsilon_proto::wire::encode::<$type>(&$sample),
        }),+]
    };
}
pub(crate) use kinds;

/// Hands what follows the first byte to the kind that it chooses.
pub(crate) fn choose(kinds: &[Kind], input: &[u8]) {
    if let Some((first, bytes)) = input.split_first() {
        (kinds[usize::from(*first) % kinds.len()].check)(bytes);
    }
}

/// One input per kind.
pub(crate) fn seeds(kinds: &[Kind]) -> Vec<Vec<u8>> {
    let inputs = kinds.iter().enumerate();
    inputs.map(|(index, kind)| [&[index as u8][..], &(kind.sample)()].concat()).collect()
}

/// Decodes, and checks that encoding gives the same bytes again.
pub(crate) fn decode<T: Wire + PartialEq + Debug>(bytes: &[u8]) -> Option<T> {
    let value = bounded::by_length(bytes.len(), || wire::decode::<T>(bytes)).ok()?;
    let again = wire::encode(&value);
    if skips(bytes) {
        assert!(again.len() <= bytes.len());
        assert_eq!(wire::decode::<T>(&again).as_ref(), Ok(&value));
    } else {
        assert_eq!(again, bytes, "{value:?}");
    }
    Some(value)
}

/// Whether some structure in an encoding has a field that a reader skips.
pub(crate) fn skips(bytes: &[u8]) -> bool {
    search(&mut Decoder::new(bytes)).unwrap_or(false)
}

fn search(decoder: &mut Decoder<'_>) -> Option<bool> {
    let mut found = false;
    match decoder.datatype().ok()? {
        Type::Array => {
            for _ in 0..decoder.array().ok()?? {
                found |= search(decoder)?;
            }
        }
        Type::Map => {
            for _ in 0..decoder.map().ok()?? {
                found |= decoder.u64().ok()? >= FIRST_SKIPPABLE_FIELD;
                found |= search(decoder)?;
            }
        }
        _ => decoder.skip().ok()?,
    }
    Some(found)
}
