//! The local API: HTTP and JSON on a Unix socket.
//!
//! This module knows sockets, paths and bodies and decides nothing: each
//! request becomes a [`Call`] in a bounded queue, and whatever comes back
//! through its [`Answer`] is sent to the client.
//!
//! ```text
//! client ── HTTP ──► serve ── (Call, Answer) ──► the daemon
//!                      ▲                            │
//!                      └── events ── Journal ◄──────┘
//! ```
//!
//! It promises that bodies and waiting times are bounded, that unknown
//! fields are refused, that every error is a `Problem` with a next step, and
//! that the OpenAPI document describes exactly what is served, since both
//! are made from one table.

mod call;
mod journal;
mod openapi;
mod routes;
mod server;
mod socket;
#[cfg(test)]
mod tests;

pub use call::{Answer, Call, Reply, choose_network};
pub use journal::{Entry, Journal};
pub use openapi::openapi_json;
pub use server::{Limits, serve};
pub use socket::{DEFAULT_GROUP, DEFAULT_PATH, Socket, SocketError, bind};
