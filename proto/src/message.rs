//! What members say to one another on the control plane.
//!
//! A new connection goes through the admission, rounds in lock step:
//! [`Hello`], as many of [`Bans`] as the two need, none when both hold the
//! same, [`Credentials`], [`Verdict`]. An admitted one carries [`Request`] and
//! [`Response`]; changes are spread as [`Change`].

use std::net::Ipv4Addr;

use crate::clock::Timestamp;
use crate::device::DeviceList;
use crate::document::{Document, Signed};
use crate::id::{BootId, Digest, NodeId};
use crate::letter::Letter;
use crate::name::NodeName;
use crate::record::{MAX_INTRODUCTIONS, NodeRecord};
use crate::sealed::SealedBox;
use crate::trust::{
    AdminGrant, GateEpoch, Introduction, Invite, MemberCertificate, NetworkDocument,
};
use crate::wire::{WireError, wire_enum, wire_struct, wire_unit_enum};

/// The first round: who speaks, and which revocations it knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The run of the daemon.
    pub boot: BootId,
    /// What its clock shows.
    pub clock: Timestamp,
    /// The port of its data plane.
    pub port: u16,
    /// The hash of its grants and revocations.
    pub bans: Digest,
}
wire_struct!(Hello { 0 => boot, 1 => clock, 2 => port, 3 => bans });

/// Between the first round and the next, when the two hold different ones:
/// grants and revocations, before anything else is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bans {
    /// A part of them.
    pub documents: Vec<NetworkDocument>,
    /// Whether there are more.
    pub more: bool,
}
wire_struct!(Bans { 0 => documents, 1 => more });

/// The next round: why the speaker is a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The admin who signed the invite.
    pub grant: Signed<AdminGrant>,
    /// The invite.
    pub invite: Signed<Invite>,
    /// The certificate.
    pub certificate: Signed<MemberCertificate>,
    /// By whom the speaker was met before.
    pub introductions: Vec<Signed<Introduction>>,
    /// How that leads to the root or an admin: who introduced the speaker, who
    /// introduced that one, and so on. Empty when it does not.
    pub chain: Vec<Signed<Introduction>>,
    /// The newest gate secret that the speaker has: its epoch and its hash.
    pub gate: Option<(u32, Digest)>,
}
wire_struct!(Credentials {
    0 => grant,
    1 => invite,
    2 => certificate,
    3 => introductions,
    4 => chain,
    5 => gate,
} check |shown| if shown.introductions.len() > MAX_INTRODUCTIONS {
    Err(WireError::Invalid("credentials: too many introductions"))
} else if shown.chain.len() > Credentials::MAX_CHAIN {
    Err(WireError::Invalid("credentials: too long a chain"))
} else {
    Ok(())
});
impl Credentials {
    /// The most introductions that a chain to the root or an admin may have.
    pub const MAX_CHAIN: usize = 64;
}

/// The last round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Welcome; with the current gate epoch where the other side lacks it.
    Accepted(Box<Welcome>),
    /// Refused, and why.
    Refused(Refusal),
}
wire_enum!(Verdict { 0 => Accepted, 1 => Refused });

/// What comes with an accepting verdict.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Welcome {
    /// The current gate secret, sealed.
    pub gate: Option<Signed<SealedGate>>,
    /// The admin's word that it is one.
    pub epoch: Option<Signed<GateEpoch>>,
}
wire_struct!(Welcome { 0 => gate, 1 => epoch });

/// A gate secret sealed to one node, by a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedGate {
    /// For whom.
    pub to: NodeId,
    /// Which epoch.
    pub epoch: u32,
    /// The hash of the secret.
    pub check: Digest,
    /// The secret.
    pub sealed: SealedBox,
}
wire_struct!(SealedGate { 0 => to, 1 => epoch, 2 => check, 3 => sealed });
impl Document for SealedGate {
    const TYPE: &'static str = "sealed-gate";
}

/// Why a node is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The node was revoked.
    #[error(
        "this node was revoked; it can come back only with a new identity: remove its state directory and join with a new token"
    )]
    NodeRevoked,
    /// The invite was revoked.
    #[error("the invite in the token was revoked; ask an admin for a new token")]
    InviteRevoked,
    /// The invite expired, and nobody introduced the node before that.
    #[error("the invite in the token has expired; ask an admin for a new token")]
    InviteExpired,
    /// The invite has admitted as many nodes as it may.
    #[error("the invite in the token is used up; ask an admin for a new token")]
    InviteUsedUp,
    /// The certificate does not hold.
    #[error(
        "the membership certificate does not hold: it, or the token it came from, was tampered with; leave, and join with a new token"
    )]
    Certificate,
    /// Another machine runs with the same identity.
    #[error(
        "another machine runs with this node's identity (a cloned disk?); stop one of them, remove its state directory and join it again"
    )]
    Cloned,
    /// The network holds as many members as it may.
    #[error(
        "the network holds as many members as it may; revoke nodes that are gone for good, see epsilon node list"
    )]
    Full,
    /// The node left.
    #[error(
        "this node has left the network; it can come back only with a new identity: join again"
    )]
    Departed,
    /// The other side does not speak the protocol.
    #[error("the other side does not speak this version of the protocol; update both")]
    Protocol,
}
wire_unit_enum!(Refusal {
    0 => NodeRevoked,
    1 => InviteRevoked,
    2 => InviteExpired,
    3 => InviteUsedUp,
    4 => Certificate,
    5 => Cloned,
    6 => Full,
    7 => Departed,
    8 => Protocol,
});

/// What spreads to everybody when it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A node's new record.
    Record(Signed<NodeRecord>),
    /// A new network document.
    Document(NetworkDocument),
    /// A node's new list of devices.
    Devices(Signed<DeviceList>),
}
wire_enum!(Change { 0 => Record, 1 => Document, 2 => Devices });

/// A question to a linked member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Do we hold the same?
    Compare(Summary),
    /// What do you have that I lack?
    Exchange(Inventory),
    /// Here is what you asked for.
    Push(Delivery),
    /// Please vouch for me.
    Introduce(Claims),
    /// I vouch for you; put it into your record.
    Vouch(Signed<Introduction>),
    /// An epoch came that has no box for me.
    Gate(Newest),
    /// Here is a letter for you, or for you to pass on.
    Letter(Letter),
}
wire_enum!(Request {
    0 => Compare,
    1 => Exchange,
    2 => Push,
    3 => Introduce,
    4 => Vouch,
    5 => Gate,
    6 => Letter,
});

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// To [`Request::Compare`].
    Compared(Comparison),
    /// To [`Request::Exchange`].
    Difference(Difference),
    /// To [`Request::Introduce`].
    Introduced(Introduced),
    /// To the others: taken; what was sent is on its way to the disk.
    Taken(Taken),
    /// To [`Request::Gate`]: the newest secret, where the asker lacks it.
    Gate(Box<Welcome>),
}
wire_enum!(Response { 0 => Compared, 1 => Difference, 2 => Introduced, 3 => Taken, 4 => Gate });

/// The newest gate secret that somebody has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Newest {
    /// Its epoch and its hash.
    pub gate: Option<(u32, Digest)>,
}
wire_struct!(Newest { 0 => gate });

/// The hashes of everything that a member holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Of the network documents.
    pub documents: Digest,
    /// Of the records.
    pub records: Digest,
}
wire_struct!(Summary { 0 => documents, 1 => records });

/// Where two members differ.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Comparison {
    /// In the network documents.
    pub documents: bool,
    /// In the records: the answerer's hash of every bucket.
    pub buckets: Vec<Digest>,
}
wire_struct!(Comparison { 0 => documents, 1 => buckets });

/// What a member holds, where it differs from another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    /// All its network documents; absent when they do not differ.
    pub documents: Option<DigestList>,
    /// The records of the buckets that differ.
    pub buckets: Vec<Bucket>,
}
wire_struct!(Inventory { 0 => documents, 1 => buckets });

/// Digests, possibly none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DigestList {
    /// The digests.
    pub digests: Vec<Digest>,
}
wire_struct!(DigestList { 0 => digests });

/// The records and lists of devices of one bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Its number.
    pub index: u8,
    /// Node and digest of its record.
    pub records: Vec<(NodeId, Digest)>,
    /// The lists of devices.
    pub devices: Vec<Listed>,
}
wire_struct!(Bucket { 0 => index, 1 => records, 2 => devices });

/// A node's list of devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// Whose.
    pub node: NodeId,
    /// Which, so that nobody is sent what it has newer.
    pub sequence: u64,
    /// The hash of the signed list.
    pub digest: Digest,
}
wire_struct!(Listed { 0 => node, 1 => sequence, 2 => digest });

/// What one member lacks and another has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Difference {
    /// What the asker lacked.
    pub delivery: Delivery,
    /// Documents that the answerer lacks.
    pub wanted_documents: Vec<Digest>,
    /// Nodes whose records the answerer lacks, or has in another version.
    pub wanted_records: Vec<NodeId>,
    /// Nodes whose lists of devices the answerer lacks.
    pub wanted_devices: Vec<NodeId>,
    /// Whether there is more than fits one message.
    pub more: bool,
}
wire_struct!(Difference {
    0 => delivery,
    1 => wanted_documents,
    2 => wanted_records,
    3 => more,
    4 => wanted_devices,
});

/// Documents, records and lists of devices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delivery {
    /// Network documents.
    pub documents: Vec<NetworkDocument>,
    /// Records.
    pub records: Vec<Signed<NodeRecord>>,
    /// Lists of devices.
    pub devices: Vec<Signed<DeviceList>>,
}
wire_struct!(Delivery { 0 => documents, 1 => records, 2 => devices });

/// What a node claims.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Claims {
    /// An address.
    pub ipv4: Option<Ipv4Addr>,
    /// A name.
    pub name: Option<NodeName>,
}
wire_struct!(Claims { 0 => ipv4, 1 => name });

/// The answer of a member that was asked to vouch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Introduced {
    /// The introduction; absent when a claim is taken.
    pub introduction: Option<Signed<Introduction>>,
    /// Whether the address belongs to somebody else.
    pub ipv4_taken: bool,
    /// Whether the name belongs to somebody else.
    pub name_taken: bool,
}
wire_struct!(Introduced { 0 => introduction, 1 => ipv4_taken, 2 => name_taken });

/// Whether what was pushed is known now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Taken {
    /// Some of it could not be used.
    pub incomplete: bool,
}
wire_struct!(Taken { 0 => incomplete });
