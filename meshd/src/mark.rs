//! What tells the daemon's own traffic from that of the host.

use socket2::SockRef;

/// The mark of its sockets: what they send never goes into the mesh that it makes up.
pub(crate) const MARK: u32 = 0x7755;

/// Marks a socket.
///
/// It needs `CAP_NET_ADMIN`, as everything that routes into a mesh does.
pub(crate) fn mark(socket: &SockRef<'_>) {
    if let Err(error) = socket.set_mark(MARK) {
        tracing::debug!(%error, "cannot mark a socket");
    }
}
