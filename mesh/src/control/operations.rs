//! An order of the operator, and what comes of it.

use epsilon_proto::clock::Timestamp;
use epsilon_proto::device::{Device, MAX_DEVICES, MAX_FALLBACKS};
use epsilon_proto::id::{DeviceId, NodeId, PublicKey};
use epsilon_proto::key::{AgreementKey, SecretKey};
use epsilon_proto::name::{NodeName, Tag};
use epsilon_proto::prefix::Prefix;
use epsilon_proto::record::MAX_ROUTES;
use epsilon_proto::token::{HostPort, Token};
use epsilon_proto::trust::Roles;
use zeroize::Zeroizing;

use super::routes::RouteChange;

/// Tells an operation from others.
pub type OperationId = u64;

/// An order of the operator.
#[derive(Debug)]
pub enum Operation {
    /// Makes a token.
    CreateToken(TokenRequest),
    /// Revokes an invite, and its members where so said.
    RevokeInvite {
        /// The invite's key.
        invite: PublicKey,
        /// Whether those who came by it are cut off too.
        with_members: bool,
    },
    /// Revokes a node.
    RevokeNode(NodeId),
    /// Gives a node a name.
    Rename {
        /// Which.
        node: NodeId,
        /// The name.
        name: NodeName,
    },
    /// Hands the addresses and the name of a node to another, and revokes it.
    Replace {
        /// The node that is gone.
        old: NodeId,
        /// The node in its place.
        new: NodeId,
    },
    /// Makes a key an admin's.
    AddAdmin {
        /// The key.
        key: PublicKey,
        /// Whose it is, for people.
        name: String,
        /// The root key.
        root: SecretKey,
    },
    /// Revokes an admin's key.
    RevokeAdmin {
        /// The key.
        key: PublicKey,
        /// The root key.
        root: SecretKey,
    },
    /// Adds a device to those that this node owns.
    AddDevice {
        /// Its name.
        name: NodeName,
        /// Its WireGuard key; made here when absent.
        key: Option<AgreementKey>,
        /// Who else may serve it.
        fallbacks: Vec<NodeId>,
    },
    /// Removes a device of this node, or revokes another's.
    RemoveDevice(DeviceId),
    /// Changes which networks are reached through this node, or through others.
    ChangeRoutes(RouteChange),
    /// Leaves the network.
    Leave,
}

/// A device that was added.
#[derive(Debug)]
pub struct NewDevice {
    /// The device.
    pub device: Device,
    /// Its X25519 secret, where it was made here. Nobody keeps it.
    pub secret: Option<Zeroizing<[u8; 32]>>,
}

/// What a new token shall be.
#[derive(Debug, Clone)]
pub struct TokenRequest {
    /// What it may give.
    pub roles: Roles,
    /// What its members are tagged with.
    pub tags: Vec<Tag>,
    /// When it expires.
    pub expires: Option<Timestamp>,
    /// How many nodes it admits.
    pub uses: Option<u32>,
    /// Where members may be reached; this node's own endpoints when empty.
    pub addresses: Vec<HostPort>,
}

/// What an operation gives back.
#[derive(Debug)]
pub enum Outcome {
    /// A token.
    Token(Box<Token>),
    /// A device.
    Device(Box<NewDevice>),
    /// Nothing but that it is done.
    Done,
}

/// Why an operation was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OperationError {
    /// This node's key may not act as an admin.
    #[error(
        "this node is no admin of the network; run the command on an admin's node, or make this one an admin there with `epsilon admin add`"
    )]
    NotAdmin,
    /// The key handed in is not the root's.
    #[error(
        "the key is not the root key of this network; pass the file that `epsilon mesh create --root-key` wrote"
    )]
    NotRoot,
    /// No such member.
    #[error("no member has the id {0}; `epsilon node list` shows them")]
    UnknownNode(String),
    /// No such invite.
    #[error("no invite has this key; `epsilon token list` shows them")]
    UnknownInvite,
    /// No such admin.
    #[error("no admin has this key; `epsilon admin list` shows them")]
    UnknownAdmin,
    /// The name belongs to another.
    #[error(
        "the name `{0}` belongs to another node or device; choose another, or rename that one first"
    )]
    NameTaken(NodeName),
    /// A node cannot revoke or replace itself.
    #[error(
        "this node would revoke itself; use `epsilon mesh leave`, or revoke it from another admin's node"
    )]
    OwnNode,
    /// Members keep no more documents of this admin.
    #[error(
        "this admin has decided as many things as members keep; make another node an admin with `epsilon admin add NODE`, and go on there"
    )]
    TooMany,
    /// The node has no record of its own yet.
    #[error(
        "this node is no full member yet; see `epsilon status` for what is missing, then try again"
    )]
    NotPublished,
    /// The device is another node's, and this one is no admin.
    #[error("the device belongs to {0}; remove it there, or on an admin's node")]
    NotOwner(String),
    /// No such device.
    #[error("no device has the id {0}; `epsilon device list` shows them")]
    UnknownDevice(String),
    /// The key is one that everybody can compute with.
    #[error("the key is not a usable WireGuard key; make one with `wg genkey | wg pubkey`")]
    WeakKey,
    /// The key is a member's or another device's.
    #[error("the key belongs to a member or another device; make one with `wg genkey | wg pubkey`")]
    KeyTaken,
    /// The key was revoked.
    #[error("the key was revoked by an admin; use another")]
    KeyRevoked,
    /// This node owns as many as it may.
    #[error(
        "this node owns {MAX_DEVICES} devices, which is as many as it may; add the device on another node, or remove one"
    )]
    TooManyDevices,
    /// More fallbacks than allowed.
    #[error("a device can have at most {MAX_FALLBACKS} fallback nodes")]
    TooManyFallbacks,
    /// Not among the networks behind this node.
    #[error("{0} is not advertised here; `epsilon routes list` shows what is")]
    NotAdvertised(Prefix),
    /// Not among those that are accepted.
    #[error("{0} is not accepted here; `epsilon routes list` shows what is")]
    NotAccepted(Prefix),
    /// No network that packets can be routed to.
    #[error("{0} cannot be routed: it is for groups, for the host itself or for its link")]
    NotRoutable(Prefix),
    /// The mesh's own.
    #[error("{0} has addresses of the mesh itself; take a network outside of it")]
    InsideMesh(Prefix),
    /// More than allowed.
    #[error("a node advertises and accepts at most {MAX_ROUTES} networks each; take larger blocks")]
    TooManyRoutes,
    /// A node cannot be its own exit.
    #[error("this node cannot be its own exit; name another")]
    OwnExit,
    /// The member is no exit.
    #[error("{0} does not offer to be an exit; run `epsilon exit offer` there")]
    NoExit(String),
    /// No address is left.
    #[error("no IPv4 address is left in the network's range")]
    NoAddress,
    /// It could not be made durable.
    #[error(
        "the change could not be written to disk, nothing was changed: {0}; make room or make the file system writable, then try again"
    )]
    Storage(String),
}
