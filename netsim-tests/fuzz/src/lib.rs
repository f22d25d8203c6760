//! Fuzz targets for everything that a node reads from the network, a file or
//! an argument.
//!
//! Each function here is one target; `fuzz_targets/` only names them. `run`
//! builds and runs them all. Every target plants real documents, messages and
//! datagrams in its corpus before it starts, so none are kept in the
//! repository.
//!
//! What must hold for all bytes: nothing panics, what is built is bounded by
//! what was read, and what decodes encodes to the same bytes again unless
//! fields were skipped.

mod bounded;
mod control;
mod datagrams;
mod decoding;
mod documents;
mod messages;
mod offload;
mod packets;
mod samples;
mod saved;
mod script;
mod seals;
pub mod seeds;
mod text;
mod token;
mod trust;

pub use control::control;
pub use datagrams::datagrams;
pub use documents::documents;
pub use messages::messages;
pub use offload::offload;
pub use packets::packets;
pub use saved::saved;
pub use seals::seals;
pub use text::text;
pub use token::token;
pub use trust::trust;

/// A fuzz target by the name of its function.
#[macro_export]
macro_rules! target {
    ($name:ident) => {
        libfuzzer_sys::fuzz_target!(
            init: $crate::seeds::plant(stringify!($name)),
            |input: &[u8]| $crate::$name(input)
        );
    };
}
