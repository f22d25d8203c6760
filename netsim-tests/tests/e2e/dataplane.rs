//! The data plane under loads that are not nice.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use epsilon_cli::lab::Host;
use epsilon_proto::address::DEFAULT_PORT;
use epsilon_proto::api::Dataplane;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::support::{Dice, Fleet, Node, Stream, holds, until, within};

/// Tests that load the machine take turns: what they ask for takes a part of it.
static LOAD: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn mesh_address(node: &Node) -> IpAddr {
    node.network().await.unwrap().node.ipv4.unwrap().into()
}

async fn counted(node: &Node) -> Result<Dataplane, String> {
    let ran = node.run("debug dataplane -o json").await;
    ran.succeeded()?;
    serde_json::from_str(&ran.stdout).map_err(|error| format!("{error}: {}", ran.stdout))
}

fn dropped(counted: &Dataplane, reason: &str) -> u64 {
    counted.dropped.iter().find(|drops| drops.reason == reason).map_or(0, |drops| drops.packets)
}

/// Sends datagrams as fast as it can until told to stop; gives how many.
struct Flood {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<u64>,
}

impl Flood {
    /// From a host to an address, cycling through these datagrams.
    fn start(from: &Host, to: SocketAddr, datagrams: Vec<Vec<u8>>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let host = from.clone();
        let thread = thread::spawn(move || {
            within(&host, || {
                let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any).unwrap();
                let mut sent = 0;
                for datagram in datagrams.iter().cycle() {
                    if stopped.load(Ordering::Relaxed) {
                        break;
                    }
                    // What is too long or comes too fast is refused; others follow.
                    sent += u64::from(socket.send_to(datagram, to).is_ok());
                }
                sent
            })
        });
        Self { stop, thread }
    }

    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// The thread itself may have to wait for a core that other tests are using.
#[tokio::test]
async fn one_busy_peer_does_not_starve_another() {
    busy_beside_pings(24).await;
}

/// Without shares a fifth of the pings is lost, and more.
#[tokio::test]
#[ignore = "it measures, on release binaries: make soak"]
async fn one_busy_peer_costs_another_next_to_nothing() {
    busy_beside_pings(36).await;
}

/// At least so many of forty pings to a peer come back while another is busy.
async fn busy_beside_pings(least: u32) {
    let _turn = LOAD.lock().await;
    let Some((fleet, _)) = Fleet::joined([3]).await else { return };
    let (first, third) = (fleet.node("n1"), fleet.node("n3"));
    let addresses = [
        mesh_address(&first).await,
        mesh_address(&fleet.node("n2")).await,
        mesh_address(&third).await,
    ];
    // What it sends, and what it is sent.
    let floods = [("n1", addresses[1], 64), ("n1", addresses[1], 1372), ("n2", addresses[0], 64)];
    for (from, to, length) in floods {
        let stream = Stream::open(&first.host, &third.host, addresses[2]);
        stream.flows().await;
        let flood =
            Flood::start(fleet.host(from).unwrap(), SocketAddr::new(to, 9), vec![vec![7; length]]);
        let pings = format!("-n -q -c 40 -i 0.05 -W 2 {}", addresses[2]);
        let ran = first.execute("ping", &pings).await;
        let sent = flood.end();
        stream.flows().await;
        let travelled = stream.close();
        assert!(sent > 20_000, "only {sent} datagrams");
        let received = ran.stdout.split(" received").next().unwrap().rsplit(' ').next().unwrap();
        let received: u32 = received.parse().unwrap();
        assert!(received >= least, "{from} floods {to} with {length} bytes: {ran:?}");
        assert!(travelled.longest_stall < Duration::from_secs(6), "{from}: {travelled:?}");
    }
    // What was too much of what it sends was the flood's.
    let counted = counted(&first).await.unwrap();
    assert!(dropped(&counted, "share") > 1000, "{counted:?}");
}

/// Bytes that arrived over one TCP stream between two hosts in so much time.
pub(crate) fn transfer(from: &Host, to: &Host, address: IpAddr, length: Duration) -> usize {
    let listener = within(to, || TcpListener::bind((address, 0)).unwrap());
    let target = listener.local_addr().unwrap();
    let stream = within(from, || TcpStream::connect(target).unwrap());
    let (arriving, _) = listener.accept().unwrap();
    let end = arriving.try_clone().unwrap();
    let arrived = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&arrived);
    let reader = thread::spawn(move || {
        let (mut arriving, mut buffer) = (arriving, vec![0; 1 << 17]);
        while let Ok(count @ 1..) = arriving.read(&mut buffer) {
            counter.fetch_add(count, Ordering::Relaxed);
        }
    });
    let writer = thread::spawn(move || {
        let (mut stream, data) = (stream, vec![1; 1 << 17]);
        // Ends when the other end does.
        while stream.write_all(&data).is_ok() {}
    });
    thread::sleep(length);
    let total = arrived.load(Ordering::Relaxed);
    // Nothing is waited for: a reset ends both.
    SockRef::from(&end).set_linger(Some(Duration::ZERO)).unwrap();
    end.shutdown(Shutdown::Both).unwrap();
    reader.join().unwrap();
    drop(end);
    writer.join().unwrap();
    total
}

/// Each with its own number of threads, and then another.
#[tokio::test]
async fn nodes_with_several_threads_carry_what_those_with_one_do() {
    let _turn = LOAD.lock().await;
    let Some(mut fleet) = Fleet::up([4]).await else { return };
    let names = ["n1", "n2", "n3", "n4"];
    for (name, threads) in names.iter().zip([3, 2, 1, 16]) {
        let line = format!("printf '[data]\\nthreads = {threads}\\n' > /etc/epsilon/meshd.toml");
        fleet.node(name).shell(&line).await.ok();
        fleet.start(name).await;
    }
    let token = fleet.node("n1").create("").await;
    for name in &names[1..] {
        fleet.node(name).join(&token).await;
    }
    fleet.meets(&names).await;
    fleet.all_reach(&names).await;
    let threads = async |name: &str| counted(&fleet.node(name)).await.unwrap().threads;
    for (name, wanted) in names.iter().zip([3, 2, 1, 16]) {
        assert_eq!(threads(name).await, wanted);
    }
    let length = Duration::from_millis(300);
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    for from in names {
        pairs.extend(names.iter().filter(|to| **to != from).map(|to| (from, *to)));
    }
    for (from, to) in pairs {
        let address = mesh_address(&fleet.node(to)).await;
        let (from_host, to_host) = (fleet.host(from).unwrap(), fleet.host(to).unwrap());
        let arrived = transfer(from_host, to_host, address, length);
        assert!(arrived > 1_000_000, "{from} to {to}: {arrived}");
    }
    for name in names {
        until("no packet is lost between threads", async || {
            let counted = counted(&fleet.node(name)).await?;
            holds(dropped(&counted, "passed") == 0, counted)
        })
        .await;
    }
    // An interface with three queues of which one is used, one with one queue that is
    // made anew for two.
    for (name, threads) in [("n1", 1), ("n3", 2)] {
        fleet.stop(name).await;
        let line = format!("printf '[data]\\nthreads = {threads}\\n' > /etc/epsilon/meshd.toml");
        fleet.node(name).shell(&line).await.ok();
        fleet.start(name).await;
        assert_eq!(counted(&fleet.node(name)).await.unwrap().threads, threads);
    }
    fleet.meets(&names).await;
    fleet.all_reach(&names).await;
}

/// WireGuard's data messages that come to a host, recorded while somebody sends.
fn recorded(host: &Host, sending: impl FnOnce()) -> Vec<Vec<u8>> {
    const EVERYTHING: i32 = 0x0003;
    let socket = within(host, || {
        let protocol = Protocol::from(EVERYTHING.to_be() >> 16);
        Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol)).unwrap()
    });
    socket.set_nonblocking(true).unwrap();
    sending();
    let (mut messages, mut buffer) = (Vec::new(), vec![0; 1 << 17]);
    while let Ok(length) = (&socket).read(&mut buffer) {
        // IPv4 and UDP headers; what the kernel joined is cut by the usual length.
        let Some(payload) = buffer[..length].get(28..) else { continue };
        if buffer[0] == 0x45 && buffer[9] == 17 && payload.first() == Some(&4) {
            messages.extend(payload.chunks(1452).map(<[u8]>::to_vec));
        }
        if messages.len() >= 256 {
            break;
        }
    }
    messages
}

/// Nothing but the first byte of one of WireGuard's messages.
fn junk(dice: &Dice, length: usize, kind: u8) -> Vec<u8> {
    let mut bytes = vec![0; length];
    dice.fill(&mut bytes);
    bytes[0] = kind;
    bytes[1..4].fill(0);
    bytes
}

/// The kinds of junk that an outsider can send to a data port.
fn kinds_of_junk(dice: &Dice, recorded: Vec<Vec<u8>>) -> [(&'static str, Vec<Vec<u8>>); 6] {
    let random = |length, kind| junk(dice, length, kind);
    // For a session that stands, with counters that are still to come: that the seal is
    // wrong is found out by opening it.
    let mut forged = recorded.clone();
    for counter in forged.iter_mut().filter_map(|bytes| bytes.get_mut(8..16)) {
        counter[5] = 1;
    }
    [
        ("junk", (0..64).map(|number| random(40 + number * 20, 4)).collect()),
        ("handshakes", (0..64).map(|_| random(148, 1)).collect()),
        (
            "truncated",
            (0..64).map(|number| random(4 + number % 12, 1 + number as u8 % 4)).collect(),
        ),
        ("oversized", vec![random(8_000, 4)]),
        ("forged", forged),
        ("replayed", recorded),
    ]
}

/// Two members, and a host that never was one.
async fn two_and_an_outsider() -> Option<Fleet> {
    let mut fleet = Fleet::up([3]).await?;
    for name in ["n1", "n2"] {
        fleet.start(name).await;
    }
    let token = fleet.node("n1").create("").await;
    fleet.node("n2").join(&token).await;
    fleet.meets(&["n1", "n2"]).await;
    fleet.all_reach(&["n1", "n2"]).await;
    Some(fleet)
}

/// How many pairs of transfers are compared for a kind of junk.
const PAIRS: usize = 11;

/// How much junk of each kind to a data port lowers a transfer, compared with the
/// same junk to another socket on that host.
#[tokio::test]
#[ignore = "it measures, on release binaries: make soak"]
async fn junk_costs_a_transfer_little_more_than_at_any_socket() {
    let Some(fleet) = two_and_an_outsider().await else { return };
    let (first, second) = (fleet.node("n1"), fleet.node("n2"));
    let target = mesh_address(&second).await;
    let outsider = fleet.host("n3").unwrap().clone();
    let underlay: IpAddr = second.host.ipv4().into();
    let plain = within(&second.host, || UdpSocket::bind((underlay, 0)).unwrap());
    plain.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let port = plain.local_addr().unwrap().port();
    let ended = Arc::new(AtomicBool::new(false));
    let reading = Arc::clone(&ended);
    let reader = thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while !reading.load(Ordering::Relaxed) {
            let _ = plain.recv(&mut buffer);
        }
    });
    let length = Duration::from_millis(600);
    let messages = recorded(&second.host, || {
        transfer(&first.host, &second.host, target, length / 3);
    });
    assert!(messages.len() > 50, "only {} messages were recorded", messages.len());
    for (kind, datagrams) in kinds_of_junk(&Dice::shown(), messages) {
        let before = counted(&second).await.unwrap();
        let (mut ratios, mut junk) = (Vec::new(), 0);
        for pair in 0..PAIRS {
            let speed = |port| {
                let flood =
                    Flood::start(&outsider, SocketAddr::new(underlay, port), datagrams.clone());
                let arrived = transfer(&first.host, &second.host, target, length);
                (f64::from(u32::try_from(arrived).unwrap()), flood.end())
            };
            // In turns, who comes first.
            let first = (pair % 2 == 1).then(|| speed(DEFAULT_PORT));
            let (beside, _) = speed(port);
            let (under, sent) = first.unwrap_or_else(|| speed(DEFAULT_PORT));
            assert!(sent > 0, "{kind}");
            junk += sent;
            ratios.push(under / beside);
        }
        ratios.sort_by(f64::total_cmp);
        eprintln!("{kind}: {:.2} of the speed beside the same junk elsewhere", ratios[PAIRS / 2]);
        assert!(ratios[PAIRS / 2] >= 0.7, "{kind}: {ratios:?}");
        until("the junk is counted", async || {
            let now = counted(&second).await?;
            let grown = ["kernel", "unknown", "unopened"]
                .map(|reason| dropped(&now, reason) - dropped(&before, reason));
            let seen = grown[1] + grown[2];
            holds(seen > 100 && seen + grown[0] >= junk / 2, (kind, junk, now.dropped))
        })
        .await;
    }
    ended.store(true, Ordering::Relaxed);
    reader.join().unwrap();
}

/// A flood of what looks like handshakes to a data port does not keep out those of members,
/// nor their probes.
#[tokio::test]
#[ignore = "it floods a daemon that was built for speed: make soak"]
async fn members_get_through_a_flood_of_handshakes() {
    let _turn = LOAD.lock().await;
    let Some(mut fleet) = two_and_an_outsider().await else { return };
    let (first, second) = (fleet.node("n1"), fleet.node("n2"));
    let target = mesh_address(&second).await;
    let outsider = fleet.host("n3").unwrap().clone();
    // Of all lengths that handshakes have, one after the other, so that the kernel does not
    // join them; to each address, as whoever has another way takes that.
    let dice = Dice::shown();
    let datagrams: Vec<Vec<u8>> = (0..64)
        .flat_map(|_| [(3, 64), (1, 148), (2, 92)])
        .map(|(kind, length)| junk(&dice, length, kind))
        .collect();
    let hosts: [IpAddr; 2] = [second.host.ipv4().into(), second.host.ipv6().into()];
    let floods = hosts.map(|host| {
        Flood::start(&outsider, SocketAddr::new(host, DEFAULT_PORT), datagrams.clone())
    });
    // Beside a transfer, when the thread has most to do.
    let (from, to) = (first.host.clone(), second.host.clone());
    let length = Duration::from_secs(5);
    let transfer = thread::spawn(move || transfer(&from, &to, target, length));
    let probes = first.run("ping n2 -c 40 -i 100ms -o json").await;
    let arrived = transfer.join().unwrap();
    let began = std::time::Instant::now();
    fleet.stop("n1").await;
    fleet.start("n1").await;
    let restarted = fleet.node("n1");
    let ping = format!("-n -q -c 1 -W 1 {target}");
    until("a new session", async || {
        let ran = restarted.execute("ping", &ping).await;
        ran.succeeded()
    })
    .await;
    let took = began.elapsed();
    let sent: u64 = floods.into_iter().map(Flood::end).sum();
    let answered = probes.stdout.matches("rtt_us\":").count() - 1;
    eprintln!(
        "flood: {sent} messages beside {} MB; {answered} of 40 probes answered; a new session after {took:?}",
        arrived >> 20
    );
    assert!(sent > 500_000, "only {sent}");
    assert!(answered >= 10, "{}", probes.stdout);
    assert!(took < Duration::from_secs(10), "{took:?}");
}

/// The kernel's signs of packets out of order.
const REORDERED: [&str; 3] = ["TCPSACKReorder", "TCPTSReorder", "TCPDSACKRecv"];

/// What the kernel of a host counted of those.
async fn reordered(node: &Node) -> u64 {
    let ran = node
        .execute("nstat", "-asz TcpExtTCPSACKReorder TcpExtTCPTSReorder TcpExtTCPDSACKRecv")
        .await;
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next()?.strip_prefix("TcpExt")?;
        REORDERED.contains(&name).then(|| words.next()?.parse::<u64>().ok())?
    };
    let counted: Vec<u64> = ran.stdout.lines().filter_map(line).collect();
    assert_eq!(counted.len(), REORDERED.len(), "{ran:?}");
    counted.iter().sum()
}

/// When the last handshake with the other member was.
async fn last_handshake(node: &Node) -> Result<String, String> {
    let ran = node.run("peers -o json").await;
    let peers: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    peers.pointer("/peers/0/last_handshake").map(ToString::to_string).ok_or(ran.stdout)
}

/// New keys under a transfer at full speed: it does not stop, and nothing comes twice or
/// late.
#[tokio::test]
#[ignore = "it takes as long as keys last: make soak"]
async fn a_transfer_at_full_speed_goes_on_over_new_keys() {
    let _turn = LOAD.lock().await;
    let Some((fleet, _)) = Fleet::joined([2]).await else { return };
    let (first, second) = (fleet.node("n1"), fleet.node("n2"));
    let target = mesh_address(&second).await;
    let before = reordered(&first).await + reordered(&second).await;
    let stream = Stream::open(&first.host, &second.host, target);
    stream.flows().await;
    let began = until("a handshake", async || last_handshake(&first).await).await;
    let (from, to) = (first.host.clone(), second.host.clone());
    // Keys are made anew after two minutes, and by the other end's a little later.
    let length = Duration::from_secs(150);
    let arrived = thread::spawn(move || transfer(&from, &to, target, length)).join().unwrap();
    stream.flows().await;
    let travelled = stream.close();
    let after = reordered(&first).await + reordered(&second).await;
    let renewed = last_handshake(&first).await.unwrap();
    eprintln!(
        "new keys: {} GB in {length:?}, longest stall {:?}, {} signs of packets out of order",
        arrived >> 30,
        travelled.longest_stall,
        after - before,
    );
    assert!(renewed != began && arrived > 1 << 30, "{arrived}, {began} {renewed}");
    assert!(travelled.longest_stall < Duration::from_secs(1), "{travelled:?}");
    assert!(after - before <= 20, "{} signs", after - before);
}
