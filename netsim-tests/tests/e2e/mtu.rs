//! Paths that carry less than the interface, where nobody says so.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use epsilon_cli::lab::Host;
use epsilon_proto::api::PeerList;

use crate::support::{Dice, Fleet, Node, holds, until, within};

/// How much is transferred, in bytes.
const LENGTH: usize = 10_000_000;
/// Nothing takes longer.
const PATIENCE: Duration = Duration::from_mins(1);

/// Something that nobody sends by chance.
fn content() -> Vec<u8> {
    let mut content = vec![0; LENGTH];
    Dice::shown().fill(&mut content);
    content
}

/// Sends it over a TCP connection.
fn by_tcp(from: &Host, to: &Host, address: IpAddr, content: &[u8]) -> bool {
    let listener = within(to, || TcpListener::bind((address, 0)).unwrap());
    let target = listener.local_addr().unwrap();
    let mut stream = within(from, || TcpStream::connect_timeout(&target, PATIENCE).unwrap());
    let (mut arriving, _) = listener.accept().unwrap();
    arriving.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    thread::scope(|scope| {
        scope.spawn(move || stream.write_all(content).unwrap());
        let mut arrived = vec![0; content.len()];
        arriving.read_exact(&mut arrived).unwrap();
        arrived == content
    })
}

/// Sends it in datagrams that fill the interface's MTU, each again and again until it
/// is acknowledged.
fn by_udp(from: &Host, to: &Host, address: IpAddr, content: &[u8]) -> bool {
    let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let receiver = within(to, || UdpSocket::bind((address, 0)).unwrap());
    let sender = within(from, || UdpSocket::bind((any, 0)).unwrap());
    let target = receiver.local_addr().unwrap();
    sender.connect(target).unwrap();
    sender.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let size = if address.is_ipv4() { 1420 - 28 - 4 } else { 1420 - 48 - 4 };
    let pieces: Vec<&[u8]> = content.chunks(size).collect();
    thread::scope(|scope| {
        let receiving = scope.spawn(|| collect(&receiver, pieces.len()));
        let begun = Instant::now();
        let mut left: BTreeSet<u32> = (0..pieces.len() as u32).collect();
        while !left.is_empty() && begun.elapsed() < PATIENCE {
            // So many at once as a socket holds.
            for number in left.iter().copied().take(64).collect::<Vec<u32>>() {
                let piece = pieces[number as usize];
                // What the path does not take the kernel makes smaller from the next one on.
                let _ = sender.send(&[&number.to_le_bytes(), piece].concat());
            }
            let mut number = [0; 4];
            for _ in 0..64 {
                let Ok(4) = sender.recv(&mut number) else { break };
                left.remove(&u32::from_le_bytes(number));
            }
        }
        // The last acknowledgement may be lost, but not what it is for.
        assert!(left.is_empty(), "{} of {} pieces are missing", left.len(), pieces.len());
        receiving.join().unwrap().concat() == content
    })
}

/// Takes so many pieces and acknowledges each.
fn collect(receiver: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
    let mut pieces: Vec<Option<Vec<u8>>> = vec![None; count];
    let mut missing = count;
    let mut buffer = [0; 2000];
    while missing > 0 {
        let (length, from): (usize, SocketAddr) = receiver.recv_from(&mut buffer).unwrap();
        let (number, piece) = buffer[..length].split_first_chunk().unwrap();
        let place = &mut pieces[u32::from_le_bytes(*number) as usize];
        missing -= usize::from(place.is_none());
        *place = Some(piece.to_vec());
        receiver.send_to(number, from).unwrap();
    }
    pieces.into_iter().flatten().collect()
}

async fn addresses(node: &Node) -> [IpAddr; 2] {
    let own = node.network().await.unwrap().node;
    [own.ipv4.unwrap().into(), own.ipv6.unwrap().into()]
}

/// How large a packet a node sends whole to another.
async fn mtu(node: &Node, peer: &str) -> Result<Option<u16>, String> {
    let ran = node.run("peers -o json").await;
    ran.succeeded()?;
    let list: PeerList =
        serde_json::from_str(&ran.stdout).map_err(|error| format!("{error}: {}", ran.stdout))?;
    let peer = list.peers.into_iter().find(|one| one.name.as_deref() == Some(peer));
    Ok(peer.and_then(|peer| peer.path.mtu))
}

#[tokio::test]
async fn large_transfers_complete_over_paths_that_swallow_large_packets() {
    let gateways = ["none+mtu=1280", "none+mtu=1400", "port-restricted+mtu=1280", "symmetric"];
    let Some((fleet, _)) = Fleet::joined_behind([1], &gateways).await else { return };
    let names = ["n1", "n2", "n3", "n4", "n5"];
    fleet.all_reach(&names).await;
    let content = content();
    // The sizes are those that packets of IPv4 and of IPv6 outside leave.
    for (from, to, sizes) in [
        ("n1", "n2", [1216, 1200]),
        ("n2", "n1", [1216, 1200]),
        ("n1", "n3", [1340, 1320]),
        ("n3", "n2", [1216, 1200]),
        // Over a relay.
        ("n5", "n4", [1216, 1200]),
        ("n1", "n5", [1420, 1420]),
    ] {
        for address in addresses(&fleet.node(to)).await {
            let (sender, receiver) = (fleet.host(from).unwrap(), fleet.host(to).unwrap());
            assert!(by_tcp(sender, receiver, address, &content), "TCP from {from} to {address}");
            assert!(by_udp(sender, receiver, address, &content), "UDP from {from} to {address}");
        }
        until(&format!("{from} knows what the path to {to} takes"), async || {
            let mtu = mtu(&fleet.node(from), to).await?;
            holds(mtu.is_some_and(|mtu| sizes.contains(&mtu)), format!("{mtu:?}"))
        })
        .await;
    }
}
