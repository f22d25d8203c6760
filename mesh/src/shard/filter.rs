use epsilon_proto::id::NodeId;

/// Looks at every packet that a peer sent, after it was opened and its inner
/// source address was found to belong to the peer, before it reaches the
/// host. This is where a packet filter sits.
pub trait ReceiveFilter: Send {
    /// Whether the packet may reach the host.
    fn admits(&self, peer: NodeId, packet: &[u8]) -> bool;
}

/// Admits every packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct AdmitAll;

impl ReceiveFilter for AdmitAll {
    fn admits(&self, _peer: NodeId, _packet: &[u8]) -> bool {
        true
    }
}
