//! The local API of the daemon, as plain types.
//!
//! A client needs nothing but these types and JSON over HTTP on the daemon's
//! Unix socket: node ids, networks and keys are strings, addresses the types
//! of `std::net`, points in time RFC 3339 in UTC with milliseconds.
//!
//! ```text
//! request   {"name": "n3"}                               unknown fields are refused
//! reply     {"schema": "epsilon/v1", "networks": [...]}  a Document<T>
//! problem   {"schema": "epsilon/v1", "kind": ...}        a Document<Problem>, status >= 400
//! event     {"schema": "epsilon/v1", "sequence": 7, ...} one line per event
//! ```
//!
//! Replies may gain fields within `epsilon/v1`, so a client skips the fields
//! that it does not know. Secrets travel as [`Secret`], which is redacted in
//! `Debug` output and wiped when it is dropped.

mod access;
mod dataplane;
mod device;
mod document;
mod event;
mod netcheck;
mod network;
mod node;
pub mod paths;
mod problem;
mod route;
mod secret;
mod status;
mod time;

pub use access::{
    Admin, AdminAddRequest, AdminAdded, AdminList, AdminRevokeRequest, AdminRevoked, AdminState,
    Expiry, Invite, InviteState, TokenCreateRequest, TokenCreated, TokenFacts, TokenList,
    TokenRevokeRequest, TokenRevoked,
};
pub use dataplane::{Batches, Dataplane, Drops};
pub use device::{
    Device, DeviceAddRequest, DeviceAdded, DeviceConfig, DeviceList, DeviceRemoveRequest,
    DeviceRemoved,
};
pub use document::{Document, SCHEMA, Schema};
pub use event::{Event, EventKind, Severity};
pub use netcheck::{FamilyCheck, Filtering, HubCheck, Mapping, Netcheck, Udp};
pub use network::{
    ClusterKind, CreateRequest, Created, JoinRequest, Joined, Left, NetworkList, NetworkSummary,
    Reloaded, Version,
};
pub use node::{
    Certificate, Introduction, Membership, Node, NodeDetail, NodeList, NodeRef, NodeRemoved,
    NodeRenamed, NodeReplaced, Path, PathKind, Peer, PeerList, PeerState, Ping, PingRequest,
    RenameRequest, ReplaceRequest, RevokeRequest, Role,
};
pub use problem::{Problem, ProblemKind};
pub use route::{
    AcceptedRoutes, AdvertisedRoute, ExitState, Route, RouteChangeRequest, RouteConflict, RouteList,
};
pub use secret::Secret;
pub use status::{
    Alarm, BrokenNetwork, DaemonStatus, Finding, Health, InterfaceStatus, InviteCounts,
    MemberCounts, NetworkStatus, OwnNode, PortMapping, PortMappingProtocol, Status, StorageState,
    StorageStatus,
};
pub use time::{Time, TimeError};
