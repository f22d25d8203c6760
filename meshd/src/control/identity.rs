//! The one place where node keys and socket addresses meet libp2p's names for them.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use libp2p::identity::{Keypair, PublicKey, ed25519};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use zeroize::Zeroizing;

use super::api::{Error, NodeKey};

/// The key pair of this node, for the Noise handshake.
pub(super) fn keypair(secret: &Zeroizing<[u8; 32]>) -> Result<Keypair, Error> {
    // The library wipes the copy that it is handed.
    let mut copy = Zeroizing::new(**secret);
    Keypair::ed25519_from_bytes(&mut *copy)
        .map_err(|error| Error::Setup(format!("the node's secret key is unusable: {error}")))
}

/// libp2p's name for a node; `None` when the bytes are no ed25519 public key.
pub(super) fn peer_id(key: &NodeKey) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(key).ok()?;
    Some(PeerId::from_public_key(&PublicKey::from(key)))
}

/// The node behind a libp2p name; `None` for any other kind of key.
pub(super) fn node_key(peer: &PeerId) -> Option<NodeKey> {
    let key = PublicKey::try_decode_protobuf(peer.as_ref().digest()).ok()?;
    Some(key.try_into_ed25519().ok()?.to_bytes())
}

/// A TCP address in libp2p's form; the scope of a link-local address is kept.
pub(super) fn to_multiaddr(address: SocketAddr) -> Multiaddr {
    let mut multiaddr = Multiaddr::empty();
    if let SocketAddr::V6(v6) = address
        && v6.scope_id() != 0
    {
        multiaddr.push(Protocol::Ip6zone(v6.scope_id().to_string().into()));
    }
    multiaddr.push(address.ip().into());
    multiaddr.push(Protocol::Tcp(address.port()));
    multiaddr
}

/// The same for a dial, with the place of the gate's secret to greet with:
/// the only thing that libp2p carries from a dial to the transport.
pub(super) fn to_dial(address: SocketAddr, secret: usize) -> Multiaddr {
    to_multiaddr(address).with(Protocol::Memory(secret as u64))
}

/// The secret that [`to_dial`] named.
pub(super) fn secret_of(multiaddr: &Multiaddr) -> usize {
    let named = multiaddr.iter().find_map(|part| match part {
        Protocol::Memory(secret) => usize::try_from(secret).ok(),
        _ => None,
    });
    named.unwrap_or(0)
}

/// The TCP address in a multiaddr that [`to_multiaddr`] made, and the node named behind it.
pub(super) fn from_multiaddr(multiaddr: &Multiaddr) -> Option<(SocketAddr, Option<PeerId>)> {
    let mut parts = multiaddr.iter().peekable();
    let scope = match parts.peek() {
        Some(Protocol::Ip6zone(zone)) => {
            let scope = zone.parse().ok()?;
            parts.next();
            scope
        }
        _ => 0,
    };
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::from(ip),
        Protocol::Ip6(ip) => IpAddr::from(ip),
        _ => return None,
    };
    let Protocol::Tcp(port) = parts.next()? else {
        return None;
    };
    let peer = match parts.find(|part| !matches!(part, Protocol::Memory(_))) {
        None => None,
        Some(Protocol::P2p(peer)) => Some(peer),
        Some(_) => return None,
    };
    let address = match ip {
        IpAddr::V4(_) => SocketAddr::new(ip, port),
        IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, scope).into(),
    };
    Some((address, peer))
}

/// The address without the disguise that a dual-stack socket gives IPv4.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_key_survives_the_way_through_a_peer_id() {
        let pair = keypair(&Zeroizing::new([7; 32])).unwrap();
        let peer = PeerId::from_public_key(&pair.public());
        let key = node_key(&peer).unwrap();
        assert_eq!(peer_id(&key), Some(peer));
        assert_eq!(node_key(&PeerId::random()), None);
    }

    #[test]
    fn an_address_survives_the_way_through_a_multiaddr() {
        for text in ["10.1.2.3:7755", "[fd00::1]:1", "[fe80::1%7]:7755"] {
            let address: SocketAddr = text.parse().unwrap();
            let multiaddr = to_multiaddr(address);
            assert_eq!(from_multiaddr(&multiaddr), Some((address, None)), "{text}");
            let peer = PeerId::random();
            let named = multiaddr.with_p2p(peer).unwrap();
            assert_eq!(from_multiaddr(&named), Some((address, Some(peer))));
        }
        for text in ["/ip4/1.2.3.4", "/dns/a/tcp/1", "/ip4/1.2.3.4/tcp/1/ws"] {
            assert_eq!(from_multiaddr(&text.parse().unwrap()), None, "{text}");
        }
    }
}
