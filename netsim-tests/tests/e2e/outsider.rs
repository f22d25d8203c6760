//! Somebody without a token on the same network: learns nothing, disturbs
//! nobody.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use epsilon_cli::lab::Host;
use epsilon_proto::address::DEFAULT_PORT;
use nix::libc;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::support::{Dice, Fleet, holds, until, within};

const DATAGRAMS: usize = 100_000;
const CONNECTIONS: usize = 10_000;
/// What a daemon's resident memory may grow by, in kilobytes.
const GROWTH: u64 = 20 * 1024;

/// What a process's resident memory is (`VmRSS`), or was at most (`VmHWM`), in
/// kilobytes.
fn memory(pid: u32, which: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(which)).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The processor time that a process has used, in hundredths of a second.
fn used(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let field = |index: usize| -> u64 {
        fields.split_ascii_whitespace().nth(index).unwrap().parse().unwrap()
    };
    field(11) + field(12)
}

/// Waits until a process does next to nothing.
async fn idles(pid: u32) {
    until("the daemon is idle", async || {
        let before = used(pid);
        tokio::time::sleep(Duration::from_millis(500)).await;
        let spent = used(pid) - before;
        holds(spent <= 3, format!("{spent} % of half a second"))
    })
    .await;
}

/// Runs `flood` on `host` while `from` pings `to` through the mesh, and checks
/// that not one ping is lost.
async fn nobody_notices<T: Send + 'static>(
    fleet: &Fleet,
    host: &Host,
    flood: impl FnOnce() -> T + Send + 'static,
) -> T {
    let target = fleet.node("n1").network().await.unwrap().node;
    let outsider = host.clone();
    let flooding = tokio::task::spawn_blocking(move || within(&outsider, flood));
    let node = fleet.node("n2");
    let mut rounds = 0;
    let addresses = [target.ipv4.unwrap().to_string(), target.ipv6.unwrap().to_string()];
    while !flooding.is_finished() || rounds == 0 {
        for address in &addresses {
            let ran = node.execute("ping", &format!("-n -q -c 20 -i 0.05 -W 2 {address}")).await;
            assert!(ran.stdout.contains(" 0% packet loss"), "{ran:?}");
        }
        rounds += 1;
    }
    flooding.await.unwrap()
}

/// Sends junk to the data port of `addresses`; gives back how many datagrams
/// went out and how many bytes were answered.
fn datagrams(dice: &Dice, addresses: &[IpAddr]) -> (usize, usize) {
    let sockets: Vec<UdpSocket> = addresses
        .iter()
        .map(|to| {
            let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
            let socket = UdpSocket::bind((any, 0)).unwrap();
            socket.connect((*to, DEFAULT_PORT)).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        })
        .collect();
    // Everything that the data port tells apart, and lengths that fit it.
    let first = [1, 2, 3, 4, 0x80, 0x81, 0x82, 0x83, 0x00, 0xff];
    let lengths = [0, 1, 32, 64, 92, 148, 600, 1400];
    let mut junk = vec![0; 1400];
    let (mut sent, mut answered, mut buffer) = (0, 0, [0; 2048]);
    for number in 0..DATAGRAMS {
        if number % 50 == 0 {
            dice.fill(&mut junk);
            // A pace that leaves the processor to others on two cores.
            thread::sleep(Duration::from_millis(3));
        }
        junk[0] = first[number % first.len()];
        // As a WireGuard message has it, mostly.
        if number % 3 != 0 {
            junk[1..4].fill(0);
        }
        // Every kind in every length to every address.
        let (kinds, sizes) = (first.len(), lengths.len());
        let socket = &sockets[number / kinds / sizes % sockets.len()];
        let length = lengths[number / kinds % sizes];
        // A full buffer on the way only means to wait a little.
        loop {
            match socket.send(&junk[..length]) {
                Ok(_) => break sent += 1,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    thread::sleep(Duration::from_millis(1));
                }
                Err(error) => panic!("{error}"),
            }
        }
        if number % 16 == 0 {
            answered += socket.recv(&mut buffer).unwrap_or(0);
        }
    }
    thread::sleep(Duration::from_millis(200));
    for socket in &sockets {
        while let Ok(length) = socket.recv(&mut buffer) {
            answered += length.max(1);
        }
    }
    (sent, answered)
}

/// So much processor time, in microseconds, may a piece of junk cost a daemon:
/// in debug builds as well, on a machine that is busy.
fn costs_less_than(micros: u128, hundredths: u64, pieces: usize) {
    let each = Duration::from_millis(hundredths * 10).as_micros() / pieces.max(1) as u128;
    eprintln!("{each} µs of processor time for each piece of junk");
    assert!(each < micros, "{each} µs of processor time for each of {pieces} pieces of junk");
}

/// Opens connections to the control port: with junk, silent, and slow. Gives
/// back how many were made, how many bytes were answered, and those that are
/// still open.
fn connections(dice: &Dice, addresses: &[SocketAddr]) -> (usize, usize, Vec<TcpStream>) {
    const OPEN: usize = 200;
    let mut open: Vec<TcpStream> = Vec::new();
    let (mut made, mut answered) = (0, 0);
    let mut junk = [0; 512];
    for number in 0..CONNECTIONS {
        let address = &addresses[number % addresses.len()];
        let Ok(mut stream) = TcpStream::connect_timeout(address, Duration::from_secs(5)) else {
            continue;
        };
        made += 1;
        if number % 3 == 0 {
            dice.fill(&mut junk);
            // It may be closed already, as it should.
            let _ = stream.write_all(&junk[..=number % junk.len()]);
        }
        // The others say nothing, or something now and then. What is answered
        // is looked for when there was time to answer.
        stream.set_nonblocking(true).unwrap();
        open.push(stream);
        if open.len() > OPEN {
            let mut oldest = open.remove(0);
            answered += read_what_is_there(&mut oldest);
        }
        if let Some(slow) = open.get_mut(number % OPEN).filter(|_| number % 2 == 0) {
            let _ = slow.write(&junk[..1]);
        }
    }
    for stream in &mut open {
        answered += read_what_is_there(stream);
    }
    (made, answered, open)
}

fn read_what_is_there(stream: &mut TcpStream) -> usize {
    stream.set_nonblocking(true).unwrap();
    let mut buffer = [0; 256];
    match stream.read(&mut buffer) {
        Ok(length) => length,
        Err(error) => {
            let kinds = [ErrorKind::WouldBlock, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
            assert!(kinds.contains(&error.kind()), "{error}");
            0
        }
    }
}

/// The sum of RFC 1071 over what a TCP checksum covers.
fn tcp_checksum(from: IpAddr, to: IpAddr, segment: &[u8]) -> u16 {
    let octets = |address| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let length = u8::try_from(segment.len()).unwrap();
    let whole = [&octets(from)[..], &octets(to), &[0, 6, 0, length], segment].concat();
    let words = whole.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// The first segment of a TCP handshake, from whatever address is wanted.
fn opening(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let [from_port, to_port] = [from, to].map(|address| address.port().to_be_bytes());
    let mut segment =
        [&from_port[..], &to_port, &[0; 8], &[5 << 4, 2, 0xff, 0xff, 0, 0, 0, 0]].concat();
    let sum = tcp_checksum(from.ip(), to.ip(), &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    let header = match (from.ip(), to.ip()) {
        // The kernel fills in length, identification and checksum.
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            [&[0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0][..], &from.octets(), &to.octets()].concat()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            [&[0x60, 0, 0, 0, 0, 20, 6, 64][..], &from.octets(), &to.octets()].concat()
        }
        _ => panic!("two families"),
    };
    [header, segment].concat()
}

/// Opens TCP handshakes with the control port from addresses where nobody is,
/// and leaves them half open.
fn half_open(dice: &Dice, targets: &[SocketAddr]) {
    let sockets = targets.iter().map(|target| {
        // Raw: packets come with their headers.
        let (domain, raw) = (Domain::for_address(*target), Protocol::from(libc::IPPROTO_RAW));
        Socket::new(domain, Type::RAW, Some(raw)).unwrap()
    });
    let sockets: Vec<Socket> = sockets.collect();
    let mut random = [0; 4];
    for number in 0..CONNECTIONS {
        if number % 50 == 0 {
            thread::sleep(Duration::from_millis(3));
        }
        let target = targets[number % targets.len()];
        dice.fill(&mut random);
        let from = match target.ip() {
            IpAddr::V4(address) => {
                let [a, b, c, _] = address.octets();
                IpAddr::from([a, b, c, 100 + random[0] % 100])
            }
            IpAddr::V6(address) => {
                let mut octets = address.octets();
                octets[14..].copy_from_slice(&[0x77, random[0]]);
                IpAddr::from(octets)
            }
        };
        let from = SocketAddr::from((from, u16::from_be_bytes([random[2] | 4, random[3]])));
        // The port of a raw socket's address means something else.
        let to = SockAddr::from(SocketAddr::from((target.ip(), 0)));
        let socket = &sockets[number % sockets.len()];
        socket.send_to(&opening(from, target), &to).unwrap();
    }
}

/// How many handshakes with the control port of a host are half open.
fn half_open_at(host: &Host) -> usize {
    const SYN_RECV: &str = "03";
    let tables = ["tcp", "tcp6"].map(|table| {
        let path = format!("/proc/{}/net/{table}", host.pid());
        std::fs::read_to_string(path).unwrap()
    });
    let lines = tables.iter().flat_map(|table| table.lines());
    let port = format!(":{DEFAULT_PORT:04X}");
    lines
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields[1].ends_with(&port) && fields[3] == SYN_RECV)
        .count()
}

#[tokio::test]
async fn ten_thousand_half_open_handshakes_keep_nobody_out() {
    let Some((mut fleet, token)) = Fleet::joined([2]).await else { return };
    let outsider = fleet.lab.add_host(1).await.unwrap();
    fleet.all_reach(&["n1", "n2"]).await;
    let daemon = fleet.daemon("n1").pid();
    let (before, cost) = (memory(daemon, "VmRSS"), used(daemon));
    let host = fleet.host("n1").unwrap().clone();
    let targets = [IpAddr::V4(host.ipv4()), IpAddr::V6(host.ipv6())]
        .map(|address| SocketAddr::from((address, DEFAULT_PORT)));
    let dice = Dice::shown();
    nobody_notices(&fleet, &outsider, move || half_open(&dice, &targets)).await;
    costs_less_than(50, used(daemon) - cost, CONNECTIONS);
    let waiting = half_open_at(&host);
    assert!(waiting >= 100, "only {waiting} handshakes are half open");
    // Members and newcomers get in all the same.
    fleet.restart("n2").await;
    let late = fleet.lab.add_host(1).await.unwrap();
    fleet.start(late.name()).await;
    fleet.node(late.name()).join(&token).await;
    fleet.meets(&["n1", "n2", late.name()]).await;
    let waiting = half_open_at(&host);
    assert!(waiting >= 100, "only {waiting} handshakes are still half open");
    let most = memory(daemon, "VmHWM");
    assert!(most < before + GROWTH, "from {before} kB to {most} kB");
    fleet.node("n1").is_well().await.unwrap();
}

#[tokio::test]
async fn a_hundred_thousand_junk_datagrams_get_no_answer_and_disturb_nobody() {
    let Some((mut fleet, _)) = Fleet::joined([2]).await else { return };
    let outsider = fleet.lab.add_host(1).await.unwrap();
    fleet.all_reach(&["n1", "n2"]).await;
    let daemon = fleet.daemon("n1").pid();
    let before = memory(daemon, "VmRSS");
    let target = fleet.host("n1").unwrap();
    let addresses = [IpAddr::V4(target.ipv4()), IpAddr::V6(target.ipv6())];
    let dice = Dice::shown();
    let begun = Instant::now();
    let cost = used(daemon);
    let (sent, answered) =
        nobody_notices(&fleet, &outsider, move || datagrams(&dice, &addresses)).await;
    costs_less_than(50, used(daemon) - cost, sent);
    eprintln!("{sent} datagrams took {:?}", begun.elapsed());
    assert_eq!((sent, answered), (DATAGRAMS, 0), "bytes were answered");
    let most = memory(daemon, "VmHWM");
    assert!(most < before + GROWTH, "from {before} kB to {most} kB");
    idles(daemon).await;
    fleet.node("n1").is_well().await.unwrap();
}

#[tokio::test]
async fn ten_thousand_junk_connections_get_no_answer_and_disturb_nobody() {
    let Some((mut fleet, token)) = Fleet::joined([2]).await else { return };
    let outsider = fleet.lab.add_host(1).await.unwrap();
    fleet.all_reach(&["n1", "n2"]).await;
    let daemon = fleet.daemon("n1").pid();
    let before = memory(daemon, "VmRSS");
    let target = fleet.host("n1").unwrap();
    let targets = [IpAddr::V4(target.ipv4()), IpAddr::V6(target.ipv6())]
        .map(|address| SocketAddr::from((address, DEFAULT_PORT)));
    let dice = Dice::shown();
    let (begun, cost) = (Instant::now(), used(daemon));
    let (made, answered, open) =
        nobody_notices(&fleet, &outsider, move || connections(&dice, &targets)).await;
    costs_less_than(500, used(daemon) - cost, made);
    eprintln!("{made} connections took {:?}", begun.elapsed());
    assert_eq!((made, answered), (CONNECTIONS, 0), "bytes were answered");
    let most = memory(daemon, "VmHWM");
    assert!(most < before + GROWTH, "from {before} kB to {most} kB");
    // Members get in while all those connections are open.
    let late = fleet.lab.add_host(1).await.unwrap();
    fleet.start(late.name()).await;
    fleet.node(late.name()).join(&token).await;
    fleet.meets(&["n1", "n2", late.name()]).await;
    drop(open);
    idles(daemon).await;
    fleet.node("n1").is_well().await.unwrap();
}
