//! Whether bytes keep to the strict subset, before anything is built from
//! them.

use super::WireError;

/// How deep lists and maps may nest.
pub const MAX_DEPTH: usize = 16;

/// Checks that `bytes` hold one value of the strict subset and nothing else.
pub(super) fn check(bytes: &[u8]) -> Result<(), WireError> {
    let mut cursor = Cursor { rest: bytes };
    cursor.value(0)?;
    if cursor.rest.is_empty() { Ok(()) } else { Err(WireError::Trailing) }
}

struct Cursor<'b> {
    rest: &'b [u8],
}

impl<'b> Cursor<'b> {
    fn take(&mut self, length: u64) -> Result<&'b [u8], WireError> {
        let length = usize::try_from(length).map_err(|_| WireError::Truncated)?;
        let (head, rest) = self.rest.split_at_checked(length).ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    /// The major type and the argument in its shortest form.
    fn head(&mut self) -> Result<(u8, u64), WireError> {
        let first = self.take(1)?[0];
        let width = match first & 0x1f {
            small @ 0..=23 => return Ok((first >> 5, u64::from(small))),
            24 => 1,
            25 => 2,
            26 => 4,
            27 => 8,
            _ => return Err(WireError::NotCanonical("an indefinite or reserved length")),
        };
        let argument = self.take(width)?.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        let least = match width {
            1 => 24,
            2 => 1 << 8,
            4 => 1 << 16,
            _ => 1 << 32,
        };
        if argument < least {
            return Err(WireError::NotCanonical("a number is not in its shortest form"));
        }
        Ok((first >> 5, argument))
    }

    fn value(&mut self, depth: usize) -> Result<(), WireError> {
        if depth > MAX_DEPTH {
            return Err(WireError::NotCanonical("nested too deep"));
        }
        if matches!(self.rest.first(), Some(0xf4 | 0xf5)) {
            self.take(1)?;
            return Ok(());
        }
        let (major, argument) = self.head()?;
        match major {
            0 => Ok(()),
            2 => self.take(argument).map(drop),
            3 => {
                let text = self.take(argument)?;
                std::str::from_utf8(text)
                    .map(drop)
                    .map_err(|_| WireError::NotCanonical("a text is not UTF-8"))
            }
            4 => (0..argument).try_for_each(|_| self.value(depth + 1)),
            5 => {
                let mut last = None;
                for _ in 0..argument {
                    let (major, key) = self.head()?;
                    if major != 0 {
                        return Err(WireError::NotCanonical("a field's number is no number"));
                    }
                    if last.is_some_and(|last| last >= key) {
                        return Err(WireError::NotCanonical("fields out of order or doubled"));
                    }
                    last = Some(key);
                    self.value(depth + 1)?;
                }
                Ok(())
            }
            _ => Err(WireError::NotCanonical("a type that is not in use")),
        }
    }
}
