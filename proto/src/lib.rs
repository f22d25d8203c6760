//! The vocabulary of an epsilon fleet.
//!
//! What members sign, say and send: identities and keys, the documents that
//! lead from the root key to a member, tokens, addresses, names, clocks, the
//! wire encoding, and the types of the local API. No I/O, no clock, and no
//! randomness that was not handed in.
//!
//! The rule of the house: bytes become a [`document::Signed`], a signature
//! check makes it a [`document::Verified`], and only that is believed.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod address;
pub mod api;
pub mod beacon;
pub mod clock;
pub mod datagram;
pub mod device;
pub mod document;
pub mod gate;
pub mod id;
pub mod key;
pub mod letter;
pub mod message;
pub mod name;
pub mod prefix;
pub mod record;
pub mod sealed;
pub mod token;
pub mod trust;
pub mod wire;
