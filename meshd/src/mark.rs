//! What tells the daemon's own traffic from that of the host.

use socket2::SockRef;

/// The mark of its sockets: what they send never goes into the mesh that it makes up. It
/// has none of the bits that kube-proxy (0xc000), Cilium (0xff00), Calico (0xffff0000) and
/// Tailscale (0xff0000) give a meaning.
pub(crate) const MARK: u32 = 0x55;
/// The bits that belong to it.
pub(crate) const MASK: u32 = 0xff;

/// Marks a socket.
///
/// It needs `CAP_NET_ADMIN`, as everything that routes into a mesh does.
pub(crate) fn mark(socket: &SockRef<'_>) {
    if let Err(error) = socket.set_mark(MARK) {
        tracing::debug!(%error, "cannot mark a socket");
    }
}
