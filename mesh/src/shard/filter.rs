use super::command::PeerId;

/// Looks at every packet that a peer sent, after it was opened and its inner
/// source address was found to belong to the peer, before it reaches the
/// host or is forwarded. This is where a packet filter sits.
pub trait ReceiveFilter: Send {
    /// Whether the packet may go on.
    fn admits(&self, peer: PeerId, packet: &[u8]) -> bool;
}

/// Admits every packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct AdmitAll;

impl ReceiveFilter for AdmitAll {
    fn admits(&self, _peer: PeerId, _packet: &[u8]) -> bool {
        true
    }
}
