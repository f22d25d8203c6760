//! Who may do what: the documents that lead from the root key to a member.
//!
//! ```text
//! root ──► admin grant ──► invite ──► member certificate
//!   │            │                         ▲
//!   │            └──► charter, pins,       │ introduction, by a member that
//!   │                 revocations,         │ met the node, with its trusted
//!   │                 gate epochs          │ time
//!   └──► network block, genesis block
//! ```
//!
//! Every member can verify any other with these alone, offline.

mod admission;
mod blocks;
mod governance;
mod role;

pub use admission::{Introduction, Invite, MemberCertificate, NodeFacts};
pub use blocks::{Distribution, GenesisBlock, GenesisMode, NetworkBlock};
pub use governance::{
    AdminGrant, Charter, Departure, GateEpoch, NetworkDocument, Pin, Revocation, Revoked,
};
pub use role::{RoleError, Roles};
