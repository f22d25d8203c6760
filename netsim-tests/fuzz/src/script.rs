//! Inputs that are a series of steps.

/// What is left of an input.
pub(crate) struct Script<'i>(pub(crate) &'i [u8]);

impl<'i> Script<'i> {
    /// The next byte; `None` at the end.
    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// A length in two bytes, and as many bytes or all that are left.
    pub(crate) fn bytes(&mut self) -> Option<&'i [u8]> {
        let length = u16::from_be_bytes([self.byte()?, self.byte()?]);
        let (bytes, rest) = self.0.split_at(usize::from(length).min(self.0.len()));
        self.0 = rest;
        Some(bytes)
    }
}

/// Bytes as [`Script::bytes`] reads them.
pub(crate) fn bytes(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}
