//! The wire encoding: a strict subset of CBOR (RFC 8949).
//!
//! Every value has exactly one encoding, so a hash or a signature over the
//! bytes is a hash or a signature over the value:
//!
//! * definite lengths, shortest integers, no tags, floats or nulls;
//! * structures are maps with unsigned keys in ascending order, each once;
//! * an absent optional field and an empty list are left out, never written;
//! * nothing follows the value.
//!
//! Unknown fields with a number below 64 are refused, because they may
//! restrict what the known ones mean; from 64 up they are skipped.
//!
//! Decoding never panics and never allocates more than the input is long.

mod canonical;
mod types;

use minicbor::{Decoder, Encoder};

pub use canonical::MAX_DEPTH;
pub use types::Bytes;

/// The first field number that a reader may skip when it does not know it.
pub const FIRST_SKIPPABLE_FIELD: u64 = 64;

/// Why bytes are not a value of the type that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The input ends inside the value, or a length points past its end.
    #[error("the encoding ends too early")]
    Truncated,
    /// Bytes follow the value.
    #[error("the encoding has bytes behind its end")]
    Trailing,
    /// The bytes break the strict subset.
    #[error("the encoding is not canonical: {0}")]
    NotCanonical(&'static str),
    /// A field that this version does not know and must not ignore.
    #[error("{structure} has the unknown field {field}; a newer version wrote it")]
    UnknownField {
        /// The structure that was being read.
        structure: &'static str,
        /// The number of the field.
        field: u64,
    },
    /// A field that the structure cannot do without.
    #[error("{structure} lacks the field {field}")]
    MissingField {
        /// The structure that was being read.
        structure: &'static str,
        /// The number of the field.
        field: u64,
    },
    /// A value of the wrong shape or outside its range.
    #[error("not a valid {0}")]
    Invalid(&'static str),
}

/// A value with exactly one encoding.
pub trait Wire: Sized {
    /// Appends the encoding.
    fn write(&self, to: &mut Writer);

    /// Reads one value; whether the input is canonical was checked before.
    fn read(from: &mut Reader<'_>) -> Result<Self, WireError>;

    /// What a structure's field of this type is when it is left out; `None`
    /// when it must be there.
    fn absent() -> Option<Self> {
        None
    }

    /// Whether a structure leaves a field with this value out.
    fn is_absent(&self) -> bool {
        false
    }
}

/// Encodes a value.
pub fn encode<T: Wire>(value: &T) -> Vec<u8> {
    let mut writer = Writer(Encoder::new(Vec::new()));
    value.write(&mut writer);
    writer.0.into_writer()
}

/// Decodes a value that makes up the whole input.
///
/// # Errors
/// Any departure from the one encoding of a valid value.
pub fn decode<T: Wire>(bytes: &[u8]) -> Result<T, WireError> {
    canonical::check(bytes)?;
    let mut reader = Reader(Decoder::new(bytes));
    let value = T::read(&mut reader)?;
    if reader.0.position() == bytes.len() { Ok(value) } else { Err(WireError::Trailing) }
}

/// Where an encoding is appended.
pub struct Writer(Encoder<Vec<u8>>);

/// Writing to a vector cannot fail.
type Written<'a> =
    Result<&'a mut Encoder<Vec<u8>>, minicbor::encode::Error<core::convert::Infallible>>;

fn done(written: &Written<'_>) {
    debug_assert!(written.is_ok(), "a vector takes every byte");
}

impl Writer {
    /// Opens a map of `fields` fields.
    pub fn map(&mut self, fields: u64) {
        done(&self.0.map(fields));
    }
    /// Opens a list of `items` items.
    pub fn list(&mut self, items: u64) {
        done(&self.0.array(items));
    }
    /// An unsigned number; also a field's number.
    pub fn unsigned(&mut self, value: u64) {
        done(&self.0.u64(value));
    }
    /// A byte string.
    pub fn bytes(&mut self, value: &[u8]) {
        done(&self.0.bytes(value));
    }
    /// A text string.
    pub fn text(&mut self, value: &str) {
        done(&self.0.str(value));
    }
    /// A truth value.
    pub fn truth(&mut self, value: bool) {
        done(&self.0.bool(value));
    }
}

/// What is left of an input.
pub struct Reader<'b>(Decoder<'b>);

impl<'b> Reader<'b> {
    /// The number of fields of a map.
    pub fn map(&mut self) -> Result<u64, WireError> {
        self.0.map().ok().flatten().ok_or(WireError::Invalid("map"))
    }
    /// The number of items of a list.
    pub fn list(&mut self) -> Result<u64, WireError> {
        self.0.array().ok().flatten().ok_or(WireError::Invalid("list"))
    }
    /// An unsigned number.
    pub fn unsigned(&mut self) -> Result<u64, WireError> {
        self.0.u64().map_err(|_| WireError::Invalid("unsigned number"))
    }
    /// A byte string.
    pub fn bytes(&mut self) -> Result<&'b [u8], WireError> {
        self.0.bytes().map_err(|_| WireError::Invalid("byte string"))
    }
    /// A text string.
    pub fn text(&mut self) -> Result<&'b str, WireError> {
        self.0.str().map_err(|_| WireError::Invalid("text string"))
    }
    /// A truth value.
    pub fn truth(&mut self) -> Result<bool, WireError> {
        self.0.bool().map_err(|_| WireError::Invalid("truth value"))
    }
    /// Passes over one value of any shape.
    pub fn skip(&mut self) -> Result<(), WireError> {
        self.0.skip().map_err(|_| WireError::Truncated)
    }
}

/// A field of a structure that was just read; for [`wire_struct!`].
///
/// # Errors
/// When it is not valid, or written although it is absent.
pub fn present<T: Wire>(from: &mut Reader<'_>) -> Result<T, WireError> {
    let value = T::read(from)?;
    if value.is_absent() {
        return Err(WireError::NotCanonical("an empty field is written"));
    }
    Ok(value)
}

/// Implements [`Wire`] for a structure as a map of numbered fields, which
/// must be listed in ascending order.
#[macro_export]
macro_rules! wire_struct {
    ($name:ident { $($number:literal => $field:ident),+ $(,)? }) => {
        $crate::wire_struct!($name { $($number => $field),+ } check |_| Ok(()));
    };
    ($name:ident { $($number:literal => $field:ident),+ $(,)? } check $check:expr) => {
        impl $crate::wire::Wire for $name {
            fn write(&self, to: &mut $crate::wire::Writer) {
                let fields = 0 $(+ u64::from(!$crate::wire::Wire::is_absent(&self.$field)))+;
                to.map(fields);
                $(if !$crate::wire::Wire::is_absent(&self.$field) {
                    to.unsigned($number);
                    $crate::wire::Wire::write(&self.$field, to);
                })+
            }
            fn read(from: &mut $crate::wire::Reader<'_>) -> Result<Self, $crate::wire::WireError> {
                $(let mut $field = None;)+
                for _ in 0..from.map()? {
                    match from.unsigned()? {
                        $($number => $field = Some($crate::wire::present(from)?),)+
                        field if field < $crate::wire::FIRST_SKIPPABLE_FIELD => {
                            return Err($crate::wire::WireError::UnknownField {
                                structure: stringify!($name),
                                field,
                            });
                        }
                        _ => from.skip()?,
                    }
                }
                let value = Self {
                    $($field: $field.or_else($crate::wire::Wire::absent).ok_or(
                        $crate::wire::WireError::MissingField {
                            structure: stringify!($name),
                            field: $number,
                        },
                    )?,)+
                };
                let check: fn(&Self) -> Result<(), $crate::wire::WireError> = $check;
                check(&value)?;
                Ok(value)
            }
        }
    };
}

/// Implements [`Wire`] for an enum whose variants each hold one value, as a
/// list of the variant's number and the value.
#[macro_export]
macro_rules! wire_enum {
    ($name:ident { $($number:literal => $variant:ident),+ $(,)? }) => {
        impl $crate::wire::Wire for $name {
            fn write(&self, to: &mut $crate::wire::Writer) {
                to.list(2);
                match self {
                    $(Self::$variant(value) => {
                        to.unsigned($number);
                        $crate::wire::Wire::write(value, to);
                    })+
                }
            }
            fn read(from: &mut $crate::wire::Reader<'_>) -> Result<Self, $crate::wire::WireError> {
                if from.list()? != 2 {
                    return Err($crate::wire::WireError::Invalid(stringify!($name)));
                }
                match from.unsigned()? {
                    $($number => Ok(Self::$variant($crate::wire::Wire::read(from)?)),)+
                    _ => Err($crate::wire::WireError::Invalid(stringify!($name))),
                }
            }
        }
    };
}

/// Implements [`Wire`] for an enum without payloads, as its number.
#[macro_export]
macro_rules! wire_unit_enum {
    ($name:ident { $($number:literal => $variant:ident),+ $(,)? }) => {
        impl $crate::wire::Wire for $name {
            fn write(&self, to: &mut $crate::wire::Writer) {
                to.unsigned(match self { $(Self::$variant => $number,)+ });
            }
            fn read(from: &mut $crate::wire::Reader<'_>) -> Result<Self, $crate::wire::WireError> {
                match from.unsigned()? {
                    $($number => Ok(Self::$variant),)+
                    _ => Err($crate::wire::WireError::Invalid(stringify!($name))),
                }
            }
        }
    };
}

/// Implements [`Wire`] for a wrapper of a byte array as a byte string of just
/// that length.
#[macro_export]
macro_rules! wire_bytes {
    ($name:ident, $length:literal) => {
        impl $crate::wire::Wire for $name {
            fn write(&self, to: &mut $crate::wire::Writer) {
                to.bytes(&self.0);
            }
            fn read(from: &mut $crate::wire::Reader<'_>) -> Result<Self, $crate::wire::WireError> {
                let bytes: [u8; $length] = from
                    .bytes()?
                    .try_into()
                    .map_err(|_| $crate::wire::WireError::Invalid(stringify!($name)))?;
                Ok(Self(bytes))
            }
        }
    };
}

pub use {wire_bytes, wire_enum, wire_struct, wire_unit_enum};

#[cfg(test)]
mod every_type;
#[cfg(test)]
mod tests;
