//! wireguard-go, as Debian has it, on the other side.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Child, Command as Process, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;

/// How long packets flow; rekeys come every two minutes.
fn length() -> Duration {
    let seconds = std::env::var("EPSILON_INTEROP_SECONDS").ok();
    Duration::from_secs(seconds.map_or(3, |text| text.parse().unwrap()))
}

/// A wireguard-go; ends with the value.
struct WireGuardGo {
    process: Child,
    interface: String,
}

impl Drop for WireGuardGo {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_file(socket(&self.interface));
    }
}

/// Where it is configured: the same directory for all namespaces.
fn socket(interface: &str) -> PathBuf {
    PathBuf::from(format!("/var/run/wireguard/{interface}.sock"))
}

fn text(key: &[u8; 32]) -> String {
    data_encoding::BASE64.encode(key)
}

/// Node 1, with node 0 as its peer.
async fn start_wireguard_go(netlink: &Netlink) -> WireGuardGo {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let interface = format!("wg{}-{count}", std::process::id());
    let process = Process::new("wireguard-go")
        .args(["-f", &interface])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("wireguard-go is needed: apt-get install wireguard-go");
    let other = WireGuardGo { process, interface };
    let begun = Instant::now();
    while !socket(&other.interface).exists() {
        assert!(begun.elapsed() < PATIENCE, "wireguard-go does not start");
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut set = Process::new("wg")
        .args(["setconf", &other.interface, "/dev/stdin"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("wg is needed: apt-get install wireguard-tools");
    let configuration = format!(
        "[Interface]\nPrivateKey = {}\nListenPort = 7755\n\
         [Peer]\nPublicKey = {}\nEndpoint = {}:7755\nAllowedIPs = {}/32, {}/128\n",
        text(&key(1).agreement_secret()),
        text(&key(0).public().agreement().unwrap().0),
        UNDERLAY[0],
        V4[0],
        V6[0],
    );
    set.stdin.take().unwrap().write_all(configuration.as_bytes()).unwrap();
    assert!(set.wait().unwrap().success());
    for (own, length) in [(V4[1], 16), (V6[1], 48)] {
        let prefix = netlink::Prefix::new(address(own), length);
        netlink.add_address(&*other.interface, prefix).await.unwrap();
    }
    netlink.set_up(&*other.interface).await.unwrap();
    other
}

/// Sends a numbered datagram every few milliseconds; gives how many.
fn send_numbers(from: &str, to: &str, length: Duration) -> u64 {
    let socket = UdpSocket::bind((address(from), 0)).unwrap();
    let (begun, mut number) = (Instant::now(), 0_u64);
    while begun.elapsed() < length {
        socket.send_to(&number.to_be_bytes(), (address(to), 9)).unwrap();
        number += 1;
        std::thread::sleep(Duration::from_millis(3));
    }
    // The end, which may not be lost either.
    socket.send_to(&u64::MAX.to_be_bytes(), (address(to), 9)).unwrap();
    number
}

/// So many may be lost before there is a session: two seconds' worth on a machine whose
/// cores are busy.
const FIRST: u64 = 600;

/// Takes numbered datagrams until the end, in order; gives how many were sent if none
/// is missing from the first on: before there is a session only some can wait, and the
/// oldest give way.
fn take_numbers(socket: &UdpSocket) -> u64 {
    let (mut count, mut last) = (0, None);
    loop {
        let mut datagram = [0; 8];
        socket.recv(&mut datagram).unwrap();
        let number = u64::from_be_bytes(datagram);
        if number == u64::MAX {
            return count;
        }
        assert!(last < Some(number), "{number} after {last:?}");
        if last.is_none() {
            assert!(number < FIRST, "{number} before the first that arrived");
            count = number;
        }
        last = Some(number);
        count += 1;
    }
}

/// Numbers flow both ways at once in both families; who begins has the first
/// handshake.
fn numbers_flow(begins_here: bool) {
    static SENT_THERE: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
    static SENT_HERE: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
    static BEGUN: [AtomicBool; 2] = [AtomicBool::new(false), AtomicBool::new(false)];
    let test = usize::from(begins_here);
    linked(
        async move |netlink| {
            let other = start_wireguard_go(&netlink).await;
            let sockets = [bind(V4[1]), bind(V6[1])];
            Box::new(move || {
                if begins_here {
                    while !BEGUN[test].load(Ordering::Acquire) {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
                let sender = std::thread::spawn(move || send_numbers(V4[1], V4[0], length()));
                if !begins_here {
                    BEGUN[test].store(true, Ordering::Release);
                }
                let arrived = take_numbers(&sockets[1]);
                SENT_THERE[test].store(sender.join().unwrap(), Ordering::Release);
                while SENT_HERE[test].load(Ordering::Acquire) == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
                assert_eq!(arrived, SENT_HERE[test].load(Ordering::Acquire));
                Box::new(other) as Box<dyn Any + Send>
            }) as Serve
        },
        async move |netlink| {
            let started = start_node(0, &netlink).await;
            introduce(&started, 0, 1);
            let socket = bind(V4[0]);
            if begins_here {
                BEGUN[test].store(true, Ordering::Release);
            } else {
                while !BEGUN[test].load(Ordering::Acquire) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            let sender = std::thread::spawn(move || send_numbers(V6[0], V6[1], length()));
            let mut handshakes = BTreeSet::new();
            let taker = std::thread::spawn(move || take_numbers(&socket));
            while !sender.is_finished() {
                let peers = started.handle.stats().shard.peers;
                handshakes.extend(peers.first().and_then(|peer| peer.last_handshake));
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            let arrived = taker.join().unwrap();
            let sent = sender.join().unwrap();
            assert!(sent > 10, "{sent}");
            SENT_HERE[test].store(sent, Ordering::Release);
            // Keys are new every two minutes.
            let rekeys = length().as_secs() / 130;
            assert!(handshakes.len() as u64 > rekeys, "handshakes at {handshakes:?}");
            while SENT_THERE[test].load(Ordering::Acquire) == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(arrived, SENT_THERE[test].load(Ordering::Acquire));
            started.handle.stop().await.unwrap();
        },
    );
}

#[test]
fn numbers_flow_both_ways_to_and_from_wireguard_go_when_this_node_begins() {
    numbers_flow(true);
}

#[test]
fn numbers_flow_both_ways_to_and_from_wireguard_go_when_it_begins() {
    numbers_flow(false);
}

#[test]
fn bulk_to_and_from_wireguard_go_comes_back_whole() {
    linked(
        async move |netlink| {
            let other = start_wireguard_go(&netlink).await;
            let serve = echo_streams();
            Box::new(move || {
                serve();
                Box::new(other) as Box<dyn Any + Send>
            }) as Serve
        },
        async move |netlink| {
            let started = start_node(0, &netlink).await;
            introduce(&started, 0, 1);
            streams_come_back_whole();
            started.handle.stop().await.unwrap();
        },
    );
}
