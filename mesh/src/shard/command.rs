//! What Control tells a shard, and what a shard tells Control.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use epsilon_proto::address::is_stream;
use epsilon_proto::datagram::Channel;
use epsilon_proto::id::NodeId;
use epsilon_proto::key::AgreementKey;
use epsilon_proto::prefix::Prefix;

use super::probe::ProbeKeys;
use super::prober::canonical;

/// A way to a peer. Every datagram that a shard sends names one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Path {
    /// Straight to an address of the underlay.
    Direct(SocketAddr),
    /// To the address of a member that passes it on.
    Relayed(SocketAddr, Channel),
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct(address) | Self::Relayed(address, _) if is_stream(*address) => {
                let relay = if matches!(self, Self::Direct(_)) { "" } else { "a relay by " };
                write!(f, "{relay}TLS")
            }
            Self::Direct(address) => address.fmt(f),
            Self::Relayed(address, _) => write!(f, "the relay at {address}"),
        }
    }
}

impl Path {
    /// The address of the underlay to which datagrams go.
    pub fn address(self) -> SocketAddr {
        match self {
            Self::Direct(address) | Self::Relayed(address, _) => address,
        }
    }

    /// The same with the one form of an address that can be compared.
    pub(super) fn canonical(self) -> Self {
        match self {
            Self::Direct(address) => Self::Direct(canonical(address)),
            Self::Relayed(address, channel) => Self::Relayed(canonical(address), channel),
        }
    }
}

/// Somebody with whom a shard has sessions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PeerId {
    /// A member: Control says where it is.
    Node(NodeId),
    /// A device that this node serves, or may have to: it is where it was last
    /// heard, as with any WireGuard.
    Device(AgreementKey),
}

impl PeerId {
    /// Whether it is a device.
    pub fn is_device(self) -> bool {
        matches!(self, Self::Device(_))
    }
}

/// An order from Control. Orders for a peer that was not admitted by
/// [`Command::SetPeer`] do nothing.
#[derive(Clone, Debug)]
pub enum Command {
    /// Says which addresses are this node's own.
    SetOwn {
        /// Where packets from peers may go to. Packets for them never leave
        /// for a peer.
        addresses: Vec<Prefix>,
        /// Addresses that every node has for itself (DNS, cluster API):
        /// neither sent to a peer nor accepted from one.
        reserved: Vec<Prefix>,
        /// All addresses of the mesh, which no network outside of it has.
        mesh: Vec<Prefix>,
    },
    /// Says which networks lie beyond peers, in place of all that were said before. The
    /// peers' own addresses go before these.
    SetSubnets(Vec<SubnetRoute>),
    /// Says to which networks the host passes on what peers send, in place of all before.
    /// A default route stands for public addresses alone.
    SetBehind {
        /// To these.
        open: Vec<Prefix>,
        /// But not to these within them, where they are longer.
        closed: Vec<Prefix>,
    },
    /// Admits a peer, or replaces its prefixes.
    ///
    /// The prefixes are the routes to the peer and the only sources that its
    /// packets may have. A prefix has one owner: the last that was given it.
    /// Another key for a known peer ends its session.
    SetPeer {
        /// The peer.
        node: NodeId,
        /// Its WireGuard key.
        key: AgreementKey,
        /// Its addresses inside the mesh.
        prefixes: Vec<Prefix>,
    },
    /// Cuts a peer off: session closed, routes gone, waiting packets dropped,
    /// its datagrams no longer answered.
    RemovePeer {
        /// The peer.
        node: NodeId,
    },
    /// Admits a device, or replaces its prefixes: none where another node
    /// serves it, so that it is heard, but neither sent to nor listened to.
    SetDevice {
        /// Its WireGuard key.
        key: AgreementKey,
        /// Its addresses inside the mesh.
        prefixes: Vec<Prefix>,
    },
    /// Cuts a device off.
    RemoveDevice {
        /// Its WireGuard key.
        key: AgreementKey,
    },
    /// Says how datagrams for the peer travel from now on. Waiting packets
    /// leave at once. `None` makes packets wait, and is reported as
    /// [`Report::NoPath`] as soon as one does.
    SetPath {
        /// The peer.
        node: NodeId,
        /// The way to it.
        path: Option<Path>,
        /// The largest packet that goes there in one datagram, in bytes. What is larger
        /// is answered with an ICMP error, or goes in parts where nobody would
        /// understand one.
        mtu: u16,
    },
    /// Forgets the session, because the peer's daemon was started again. A
    /// new handshake starts at once if there was traffic lately or packets
    /// wait.
    ResetSession {
        /// The peer.
        node: NodeId,
    },
    /// Gives the keys of [`super::probe_keys`], from which on probes can be
    /// sent to and answered for the peer. Giving the same keys again keeps
    /// the replay window.
    SetProbeKeys {
        /// The peer.
        node: NodeId,
        /// The keys.
        keys: ProbeKeys,
    },
    /// Neither sends nor answers probes of the peer until it has keys again.
    ClearProbeKeys {
        /// The peer.
        node: NodeId,
    },
    /// Passes datagrams on between two others from now on, whose addresses they have
    /// proven to this node; or their addresses are others than before.
    SetChannel {
        /// The number by which they come.
        channel: Channel,
        /// The two.
        ends: [SocketAddr; 2],
    },
    /// Passes nothing on any more on a channel.
    RemoveChannel {
        /// Its number.
        channel: Channel,
    },
    /// How much may be passed on.
    SetRelaying(Relaying),
    /// Sends one probe. Without keys nothing is sent; an answer that comes
    /// within [`super::PROBE_TIMEOUT`] is reported.
    SendProbe {
        /// The peer.
        node: NodeId,
        /// The path to try.
        to: Path,
        /// Makes it as long as the datagram of a packet of so many bytes.
        size: Option<u16>,
        /// Comes back in [`Report::ProbeAnswered`]. Unique per peer.
        transaction: u64,
    },
}

/// A network beyond peers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SubnetRoute {
    /// Its addresses; a default route stands for public ones alone.
    pub prefix: Prefix,
    /// The peer to which packets for it go.
    pub via: Option<NodeId>,
    /// The peers from which packets of it may come.
    pub from: Vec<NodeId>,
}

/// How much a node passes on for others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Relaying {
    /// On each channel, both ways together, in bytes per second.
    pub each: u64,
    /// On all of them.
    pub all: u64,
}

/// What a shard saw. Reports can be lost when Control does not keep up; none
/// is the only way to learn something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Report {
    /// The peer answered a probe by the very path that the probe took.
    ProbeAnswered {
        /// The peer.
        node: NodeId,
        /// As given in [`Command::SendProbe`].
        transaction: u64,
        /// How the probe was sent and the answer came.
        to: Path,
        /// This node's address as the peer saw it; the relay's where it was relayed.
        observed: SocketAddr,
        /// From sending the probe to its answer.
        rtt: Duration,
    },
    /// An authenticated probe of the peer came by this path, which may
    /// be worth a probe of our own. At most a few a second per peer.
    ProbeReceived {
        /// The peer.
        node: NodeId,
        /// The way back.
        from: Path,
    },
    /// An authenticated data packet of the peer came by a way that is
    /// not its path. The path has not moved: only an answered probe may move
    /// it. At most once a second per peer.
    NewSource {
        /// The peer.
        node: NodeId,
        /// The way back.
        from: Path,
    },
    /// A device is there: it sent something in a new session, or packets where it
    /// is not served. Once a session, and then once a second.
    DeviceHeard {
        /// Its WireGuard key.
        key: AgreementKey,
    },
    /// Packets or handshakes went to the peer, and nothing came back for
    /// [`super::UNANSWERED`]. Again in every such time in which something was sent:
    /// what flows one way only is answered every ten seconds.
    Unanswered {
        /// The peer.
        node: NodeId,
    },
    /// Something is sent to the peer, for the first time since it was admitted or
    /// idle.
    Busy {
        /// The peer.
        node: NodeId,
    },
    /// Nothing was sent to the peer, or heard of it, for [`super::IDLE`].
    Idle {
        /// The peer.
        node: NodeId,
    },
    /// Packets for the peer wait and there is no path. At most once a second
    /// per peer; [`Report::Idle`] follows when no more come.
    NoPath {
        /// The peer.
        node: NodeId,
    },
    /// Something was passed on on a channel. At most once in every [`super::CHANNEL_USED`]
    /// per channel.
    ChannelUsed {
        /// Its number.
        channel: Channel,
    },
    /// A datagram of the kind [`epsilon_proto::datagram::BEACON`], unread.
    /// At most [`super::BEACONS_PER_SECOND`] over all sources.
    Beacon {
        /// Its source.
        from: SocketAddr,
        /// All of it, with its first byte.
        datagram: Vec<u8>,
    },
}
