//! Real interfaces and sockets, in network namespaces of the tests' own;
//! they need root.
#![allow(clippy::disallowed_methods)] // Real things run in real time.

use epsilon_proto::address::DEFAULT_MTU;
use std::any::Any;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::{Arc, mpsc as std_mpsc};
use std::time::{Duration, Instant};

use epsilon_mesh::shard::{
    AdmitAll, Command, Entropy, Lane, Path, PeerId, Prefix, Report, Shard, WireGuard,
};
use epsilon_proto::key::SecretKey;
use epsilon_sys::netlink::{self, Netlink, Veth};
use epsilon_sys::udp::Carried;
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

mod interop;

use super::*;
use crate::{clock, random};

const PATIENCE: Duration = Duration::from_secs(20);
const UNDERLAY: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
const V4: [&str; 2] = ["10.77.1.1", "10.77.1.2"];
const V6: [&str; 2] = ["fd00::1:1", "fd00::1:2"];

/// Runs `act` in a thread of its own with a network of its own.
fn in_namespace<R: Send + 'static>(
    act: impl AsyncFnOnce(Netlink) -> R + Send + 'static,
) -> std::thread::JoinHandle<R> {
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let netlink = Netlink::open().unwrap();
            netlink.set_up("lo").await.unwrap();
            act(netlink).await
        })
    })
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn key(node: usize) -> SecretKey {
    SecretKey::from_seed(&[node as u8 + 1; 32])
}

/// How a node is made.
struct Make {
    offload: bool,
    lanes: u8,
    entropy: Entropy,
}

impl Default for Make {
    fn default() -> Self {
        Self { offload: true, lanes: 1, entropy: random::entropy() }
    }
}

impl Make {
    fn without_offload() -> Self {
        Self { offload: false, ..Self::default() }
    }

    /// With so many threads.
    fn lanes(lanes: u8) -> Self {
        Self { lanes, ..Self::default() }
    }

    /// Of the node's part of the peers.
    fn shard(&self, node: usize, lane: Lane) -> Shard {
        let entropy = Arc::clone(&self.entropy);
        Shard::new(epsilon_mesh::shard::Config {
            lane,
            wireguard: WireGuard::new(&key(node), entropy, clock::since_1970()),
            filter: Box::new(AdmitAll),
            seed: 1,
        })
    }
}

/// A double of a kernel whose interfaces offload nothing: it refuses this thread, and
/// those that it starts, to ask for it.
fn refuse_offload() {
    let argument = |number, relation, value| {
        SeccompCondition::new(number, SeccompCmpArgLen::Dword, relation, value).unwrap()
    };
    // TUNSETOFFLOAD, of linux/if_tun.h, with anything.
    let asks = argument(1, SeccompCmpOp::Eq, 0x4004_54d0);
    let rule = SeccompRule::new(vec![asks, argument(2, SeccompCmpOp::Ne, 0)]).unwrap();
    let filter = SeccompFilter::new(
        [(libc::SYS_ioctl, vec![rule])].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EINVAL as u32),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

/// Brings the mesh interface up with this node's addresses, and starts.
async fn start_node(node: usize, netlink: &Netlink) -> Started {
    start_with(node, netlink, &Make::default()).await
}

async fn start_with(node: usize, netlink: &Netlink, make: &Make) -> Started {
    if !make.offload {
        refuse_offload();
    }
    let tuns = Tun::open("eps0", 1420, make.lanes).unwrap();
    assert_eq!(tuns.len(), usize::from(make.lanes));
    assert!(tuns.iter().all(|tun| tun.has_offload() == make.offload));
    for (text, length) in [(V4[node], 16), (V6[node], 48)] {
        let prefix = netlink::Prefix::new(address(text), length);
        netlink.add_address("eps0", prefix).await.unwrap();
    }
    netlink.set_up("eps0").await.unwrap();
    let sockets = Sockets::open(7755, make.lanes).unwrap();
    let parts = Lane::all(make.lanes).zip(tuns).zip(sockets);
    let lanes = parts.map(|((lane, tun), sockets)| LaneConfig {
        shard: make.shard(node, lane),
        tun,
        sockets,
    });
    start(lanes.collect()).unwrap()
}

/// Waits until the counters say it.
async fn counts(started: &Started, holds: impl Fn(&DataStats) -> bool) -> DataStats {
    let begun = Instant::now();
    loop {
        let stats = started.handle.stats();
        if holds(&stats) {
            return stats;
        }
        assert!(begun.elapsed() < PATIENCE, "{stats:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn prefixes(node: usize) -> Vec<Prefix> {
    vec![Prefix::host(address(V4[node])), Prefix::host(address(V6[node]))]
}

fn introduce(started: &Started, own: usize, peer: usize) {
    let node = key(peer).node();
    let agreement = key(peer).public().agreement().unwrap();
    let path = Path::Direct(SocketAddr::new(address(UNDERLAY[peer]), 7755));
    for command in [
        Command::SetOwn { addresses: prefixes(own), reserved: Vec::new(), mesh: Vec::new() },
        Command::SetPeer { node, key: agreement, prefixes: prefixes(peer) },
        Command::SetPath { node, path: Some(path), mtu: DEFAULT_MTU },
    ] {
        started.handle.command(command);
    }
    started.handle.settle();
}

fn bind(text: &str) -> UdpSocket {
    let socket = UdpSocket::bind((address(text), 9)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// What the second of two nodes does while the first does its part; gives what
/// must last until that is done.
type Serve = Box<dyn FnOnce() -> Box<dyn Any + Send> + Send>;

/// Two namespaces with an underlay between them: what `there` makes of the
/// second is done when `here` is called in the first.
fn linked(
    there: impl AsyncFnOnce(Netlink) -> Serve + Send + 'static,
    here: impl AsyncFnOnce(Netlink) + Send + 'static,
) {
    let (namespace_sender, namespace) = std_mpsc::channel();
    let (linked_sender, linked) = std_mpsc::channel();
    let (done_sender, done) = std_mpsc::channel();
    let other = in_namespace(async move |netlink| {
        namespace_sender.send(std::fs::File::open("/proc/thread-self/ns/net").unwrap()).unwrap();
        linked.recv_timeout(PATIENCE).unwrap();
        let prefix = netlink::Prefix::new(address(UNDERLAY[1]), 24);
        netlink.add_address("there", prefix).await.unwrap();
        netlink.set_up("there").await.unwrap();
        let serve = there(netlink).await;
        done_sender.send(()).unwrap();
        serve()
    });
    let one = in_namespace(async move |netlink| {
        let namespace = namespace.recv_timeout(PATIENCE).unwrap();
        let peer_namespace = Some(namespace.as_fd());
        netlink.add_veth(Veth { name: "here", peer: "there", peer_namespace }).await.unwrap();
        let prefix = netlink::Prefix::new(address(UNDERLAY[0]), 24);
        netlink.add_address("here", prefix).await.unwrap();
        netlink.set_up("here").await.unwrap();
        linked_sender.send(()).unwrap();
        done.recv_timeout(PATIENCE).unwrap();
        here(netlink).await;
    });
    one.join().unwrap();
    drop(other.join().unwrap());
}

/// Two nodes of this daemon.
fn two_nodes(
    make: fn() -> Make,
    there: impl FnOnce(&Started) -> Box<dyn FnOnce() + Send> + Send + 'static,
    here: impl AsyncFnOnce(Started) + Send + 'static,
) {
    linked(
        async move |netlink| {
            let started = start_with(1, &netlink, &make()).await;
            introduce(&started, 1, 0);
            let serve = there(&started);
            Box::new(move || {
                serve();
                Box::new(started) as Box<dyn Any + Send>
            }) as Serve
        },
        async move |netlink| {
            let started = start_with(0, &netlink, &make()).await;
            introduce(&started, 0, 1);
            here(started).await;
        },
    );
}

fn two_nodes_talk(make: fn() -> Make) {
    let echo = |_: &Started| {
        let sockets = [bind(V4[1]), bind(V6[1])];
        Box::new(move || {
            for socket in &sockets {
                let mut datagram = [0; 2000];
                let (length, from) = socket.recv_from(&mut datagram).unwrap();
                socket.send_to(&datagram[..length], from).unwrap();
            }
        }) as Box<dyn FnOnce() + Send>
    };
    two_nodes(make, echo, async |mut started| {
        for (own, peer) in [(V4[0], V4[1]), (V6[0], V6[1])] {
            let socket = bind(own);
            // Fills the interface's MTU in the larger of the two headers.
            let question = [7; 1420 - 48];
            socket.send_to(&question, (address(peer), 9)).unwrap();
            let mut answer = [0; 2000];
            let (length, from) = socket.recv_from(&mut answer).unwrap();
            assert_eq!((&answer[..length], from.ip()), (&question[..], address(peer)));
        }
        counts(&started, |stats| {
            stats.shard.peers.first().is_some_and(|peer| peer.received.packets >= 2)
        })
        .await;
        // A connection to an address of nobody fails at once.
        for nobody in ["10.77.9.9", "fd00::9:9"] {
            let to = SocketAddr::new(address(nobody), 9);
            let error = TcpStream::connect_timeout(&to, PATIENCE).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::HostUnreachable, "{to}");
        }
        started.handle.stop().await.unwrap();
        assert_eq!(news(&mut started.reports).await, None);
    });
}

#[test]
fn two_nodes_talk_over_the_mesh_in_both_families() {
    two_nodes_talk(Make::default);
}

/// The routes of the second prefer its first address.
#[test]
fn who_calls_one_of_several_addresses_is_answered_by_it() {
    const SECOND: &str = "192.0.2.77";
    linked(
        async move |netlink| {
            netlink.add_address("there", netlink::Prefix::new(address(SECOND), 24)).await.unwrap();
            let started = start_node(1, &netlink).await;
            introduce(&started, 1, 0);
            let socket = bind(V4[1]);
            Box::new(move || {
                let mut datagram = [0; 8];
                let (length, from) = socket.recv_from(&mut datagram).unwrap();
                socket.send_to(&datagram[..length], from).unwrap();
                Box::new(started) as Box<dyn Any + Send>
            }) as Serve
        },
        async move |netlink| {
            let mut started = start_node(0, &netlink).await;
            introduce(&started, 0, 1);
            let path = Some(Path::Direct(SocketAddr::new(address(SECOND), 7755)));
            let node = key(1).node();
            started.handle.command(Command::SetPath { node, path, mtu: DEFAULT_MTU });
            started.handle.settle();
            let socket = bind(V4[0]);
            socket.send_to(b"question", (address(V4[1]), 9)).unwrap();
            socket.recv_from(&mut [0; 8]).unwrap();
            started.handle.stop().await.unwrap();
            // Or it would be told of another address from where data comes.
            assert_eq!(news(&mut started.reports).await, None);
        },
    );
}

/// With three threads neither of the two peers is the first one's.
#[test]
fn two_nodes_talk_whichever_thread_has_the_peer() {
    let lanes = Lane::all(3).next().unwrap();
    assert!([0, 1].iter().any(|node| lanes.of(PeerId::Node(key(*node).node())) != 0));
    two_nodes_talk(|| Make::lanes(3));
}

/// Bytes that tell where they belong.
fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32).flat_map(|word| word.wrapping_mul(0x9e37_79b9).to_be_bytes()).collect()
}

/// How much is sent, in words of four bytes.
const WORDS: usize = 2_000_000;

/// Sends back what arrives over TCP, once in each family.
fn echo_streams() -> Box<dyn FnOnce() + Send> {
    let listeners = [V4[1], V6[1]].map(|own| TcpListener::bind((address(own), 9)).unwrap());
    Box::new(move || {
        for listener in &listeners {
            let (mut from, _) = listener.accept().unwrap();
            let mut to = from.try_clone().unwrap();
            io::copy(&mut from, &mut to).unwrap();
            to.shutdown(Shutdown::Write).unwrap();
        }
    })
}

/// Sends much over TCP to a node that sends it back, in both families.
fn streams_come_back_whole() {
    for peer in [V4[1], V6[1]] {
        let to = SocketAddr::new(address(peer), 9);
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut sending = stream.try_clone().unwrap();
        let sender = std::thread::spawn(move || {
            sending.write_all(&pattern(WORDS)).unwrap();
            sending.shutdown(Shutdown::Write).unwrap();
        });
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        sender.join().unwrap();
        assert!(back == pattern(WORDS), "{} bytes came back from {peer}", back.len());
    }
}

fn a_transfer_comes_back_whole(make: fn() -> Make) {
    two_nodes(
        make,
        |_| echo_streams(),
        async |started| {
            streams_come_back_whole();
            let joined = |all: &[Carried]| all.iter().all(|one| one.packets > one.messages);
            // What was counted is published every second.
            let stats = counts(&started, |stats| {
                let of_host = joined(&[stats.host_in, stats.host_out]);
                joined(&[stats.network_in, stats.network_out]) && of_host == stats.interface_offload
            })
            .await;
            assert_eq!((stats.malformed, stats.host.count), (0, 0), "{stats:?}");
            assert_eq!(stats.shard.dropped.passed, 0, "{stats:?}");
            started.handle.stop().await.unwrap();
        },
    );
}

#[test]
fn a_transfer_comes_back_whole_with_offload() {
    a_transfer_comes_back_whole(Make::default);
}

#[test]
fn a_transfer_comes_back_whole_where_the_interface_has_no_offload() {
    a_transfer_comes_back_whole(Make::without_offload);
}

#[test]
fn a_transfer_comes_back_whole_with_several_threads() {
    a_transfer_comes_back_whole(|| Make::lanes(2));
    a_transfer_comes_back_whole(|| Make::lanes(3));
}

#[test]
fn the_interface_outlives_its_owner_with_its_addresses_until_it_is_deleted() {
    in_namespace(async |netlink| {
        let first = start_node(0, &netlink).await;
        let before = netlink.link("eps0").await.unwrap();
        let busy = Tun::open("eps0", 1420, 1).err().unwrap().to_string();
        assert!(busy.contains("another process holds the interface"), "{busy}");
        first.handle.stop().await.unwrap();
        // One queue it has, whatever is asked for now.
        let again = Tun::open("eps0", 1420, 3).unwrap();
        assert_eq!(again.len(), 1);
        let after = netlink.link("eps0").await.unwrap();
        assert_eq!((before.index, after.up), (after.index, true));
        let addresses = netlink.addresses().await.unwrap();
        for own in [V4[0], V6[0]] {
            assert!(addresses.iter().any(|other| other.prefix.address == address(own)), "{own}");
        }
        drop(again);
        netlink.delete_link("eps0").await.unwrap();
        assert!(netlink.link("eps0").await.is_err());
    })
    .join()
    .unwrap();
}

#[test]
fn an_interface_with_several_queues_is_taken_again_with_any_number() {
    in_namespace(async |netlink| {
        for queues in [3, 1, 2] {
            let make = Make::lanes(queues);
            let started = start_with(0, &netlink, &make).await;
            started.handle.stop().await.unwrap();
        }
        netlink.delete_link("eps0").await.unwrap();
    })
    .join()
    .unwrap();
}

#[test]
fn a_deleted_interface_ends_the_thread_and_one_that_is_down_does_not() {
    in_namespace(async |netlink| {
        let mut started = start_node(0, &netlink).await;
        netlink.set_down("eps0").await.unwrap();
        // It still answers orders.
        started.handle.command(Command::SetPeer {
            node: key(1).node(),
            key: key(1).public().agreement().unwrap(),
            prefixes: prefixes(1),
        });
        counts(&started, |stats| stats.shard.peers.len() == 1).await;
        netlink.delete_link("eps0").await.unwrap();
        let end = tokio::time::timeout(PATIENCE, started.reports.recv()).await.unwrap();
        assert_eq!(end, None);
        let error = started.handle.stop().await.unwrap_err().to_string();
        assert!(error.contains("interface eps0 was deleted"), "{error}");
    })
    .join()
    .unwrap();
}

#[test]
fn an_interface_of_another_kind_is_not_taken() {
    in_namespace(async |netlink| {
        netlink.add_bridge("eps0").await.unwrap();
        let error = Tun::open("eps0", 1420, 1).err().unwrap().to_string();
        assert!(error.contains("is no TUN interface"), "{error}");
    })
    .join()
    .unwrap();
}

/// The next report but for who is busy, and does not reply yet.
async fn news(reports: &mut tokio::sync::mpsc::Receiver<Report>) -> Option<Report> {
    loop {
        match reports.recv().await {
            Some(Report::Busy { .. } | Report::Unanswered { .. } | Report::Idle { .. }) => {}
            report => return report,
        }
    }
}

#[test]
fn beacons_reach_control_and_unsendable_datagrams_do_no_harm() {
    in_namespace(async |netlink| {
        let mut started = start_node(0, &netlink).await;
        introduce(&started, 0, 1);
        // There is no route to the underlay in this namespace.
        bind(V4[0]).send_to(b"hello", (address(V4[1]), 9)).unwrap();
        let errno = counts(&started, |stats| stats.network.count > 0).await.network;
        assert_eq!(errno.last_errno, Some(nix::libc::ENETUNREACH));
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(&[0x82, 1, 2], "127.0.0.1:7755").unwrap();
        let report = tokio::time::timeout(PATIENCE, news(&mut started.reports)).await.unwrap();
        let from = sender.local_addr().unwrap();
        assert_eq!(report, Some(Report::Beacon { from, datagram: vec![0x82, 1, 2] }));
        started.handle.stop().await.unwrap();
    })
    .join()
    .unwrap();
}

#[test]
fn a_panic_in_the_thread_is_told() {
    in_namespace(async |netlink| {
        // A handshake cannot begin without.
        let entropy = Arc::new(|_: &mut [u8]| panic!("on purpose"));
        let make = Make { entropy, ..Make::lanes(2) };
        let mut started = start_with(0, &netlink, &make).await;
        introduce(&started, 0, 1);
        bind(V4[0]).send_to(b"hello", (address(V4[1]), 9)).unwrap();
        let end = tokio::time::timeout(PATIENCE, started.reports.recv()).await.unwrap();
        assert_eq!(end, None);
        let error = started.handle.stop().await.unwrap_err().to_string();
        assert!(error.contains("eps0 panicked: on purpose"), "{error}");
    })
    .join()
    .unwrap();
}
