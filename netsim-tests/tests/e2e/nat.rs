//! Members behind real NATs.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use epsilon_proto::address::DEFAULT_PORT;
use epsilon_proto::api::{Path, PathKind};

use crate::dataplane::transfer;
use crate::support::{Fleet, Stream, holds, until, until_within, within};

/// A socket of a host.
fn socket(fleet: &Fleet, host: &str, port: u16) -> UdpSocket {
    let host = fleet.lab.host(host).unwrap();
    let socket = within(host, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

/// Takes what came: from where, and what it says.
fn take(socket: &UdpSocket) -> (SocketAddr, u8) {
    let mut byte = [0];
    let (length, from) = socket.recv_from(&mut byte).unwrap();
    assert_eq!(length, 1);
    (from, byte[0])
}

/// What came up to a last one.
fn all_up_to(socket: &UdpSocket, last: u8) -> Vec<u8> {
    let mut all: Vec<u8> =
        std::iter::repeat_with(|| take(socket).1).take_while(|byte| *byte != last).collect();
    all.sort_unstable();
    all
}

/// Without daemons: mapping and filtering of RFC 4787, sections 4.1, 5 and 6.
#[tokio::test]
async fn the_nats_of_the_lab_are_what_they_are_called() {
    let kinds = [
        ("endpoint-independent+hairpin", true, vec![1, 2]),
        ("address-restricted+hairpin", true, vec![1]),
        ("port-restricted+hairpin", true, vec![]),
        ("port-restricted", true, vec![]),
        ("carrier-grade", true, vec![]),
        ("symmetric", false, vec![]),
    ];
    let gateways: Vec<&str> = kinds.iter().map(|(kind, ..)| *kind).collect();
    let Some(mut fleet) = Fleet::up_behind([2], &gateways).await else { return };
    let (first, other) = (socket(&fleet, "n1", 5000), socket(&fleet, "n1", 5001));
    let stranger = socket(&fleet, "n2", 5000);
    let at = |name: &str, port: u16| (fleet.lab.host(name).unwrap().ipv4(), port);
    let (first_at, stranger_at) = (at("n1", 5000), at("n2", 5000));
    for (place, (kind, is_same, lets_in)) in kinds.iter().enumerate() {
        let inside = socket(&fleet, &format!("n{}", place + 3), DEFAULT_PORT);
        inside.send_to(&[0], first_at).unwrap();
        let (outside, _) = take(&first);
        assert_ne!(outside.port(), DEFAULT_PORT, "{kind}");
        other.send_to(&[1], outside).unwrap();
        stranger.send_to(&[2], outside).unwrap();
        first.send_to(&[9], outside).unwrap();
        assert_eq!(all_up_to(&inside, 9), *lets_in, "{kind}");
        inside.send_to(&[0], stranger_at).unwrap();
        assert_eq!(take(&stranger).0 == outside, *is_same, "{kind}");
        // A neighbour, by the outer address.
        let site = u8::try_from(place).unwrap() + 2;
        let neighbour = fleet.lab.add_host(site).await.unwrap().name().to_owned();
        let neighbour = socket(&fleet, &neighbour, DEFAULT_PORT);
        neighbour.send_to(&[0], first_at).unwrap();
        let (beside, _) = take(&first);
        assert_ne!(beside, outside, "{kind}");
        inside.send_to(&[3], beside).unwrap();
        neighbour.send_to(&[4], outside).unwrap();
        inside.send_to(&[5], beside).unwrap();
        first.send_to(&[9], beside).unwrap();
        let came = all_up_to(&neighbour, 9);
        let wanted: &[u8] = match *kind {
            "endpoint-independent+hairpin" => &[3, 5],
            // Once it has sent there, too.
            _ if kind.contains("hairpin") => &[5],
            _ => &[],
        };
        assert_eq!(came, wanted, "{kind}");
        // Started again it knows nothing, and has other ports.
        fleet.lab.restart_gateway(site).await.unwrap();
        first.send_to(&[6], outside).unwrap();
        inside.send_to(&[0], first_at).unwrap();
        let (anew, _) = take(&first);
        assert_ne!(anew, outside, "{kind}");
        first.send_to(&[9], anew).unwrap();
        let before: &[u8] = if kind.contains("hairpin") { &[4] } else { &[] };
        assert_eq!(all_up_to(&inside, 9), before, "{kind}");
    }
}

/// The kinds of gateway, two of each with one host behind it: `n2` and the next; `n1` can
/// be reached by all.
const GATEWAYS: [&str; 10] = [
    "endpoint-independent",
    "endpoint-independent",
    "address-restricted",
    "address-restricted",
    "port-restricted",
    "port-restricted",
    "symmetric",
    "symmetric",
    "carrier-grade",
    "carrier-grade",
];

/// Whether two find a way without a relay: a random port is guessed by nobody, and let in
/// by whoever does not mind ports.
fn is_direct(one: &str, other: &str) -> bool {
    let minds_ports =
        |kind: &str| ["port-restricted", "symmetric", "carrier-grade"].contains(&kind);
    let is_random = |kind: &str| kind == "symmetric";
    !(is_random(one) && minds_ports(other) || is_random(other) && minds_ports(one))
}

pub(crate) async fn path(fleet: &Fleet, from: &str, to: &str) -> Result<Path, String> {
    let network = fleet.node(from).network().await?;
    let peer = network.peers.into_iter().find(|peer| peer.name.as_deref() == Some(to));
    peer.map(|peer| peer.path).ok_or_else(|| format!("{from} does not know {to}"))
}

#[tokio::test]
async fn every_pair_behind_nats_is_connected_and_directly_where_that_can_be() {
    let Some((fleet, _)) = Fleet::joined_behind([1], &GATEWAYS).await else { return };
    let hosts: Vec<(String, &str)> = GATEWAYS
        .iter()
        .enumerate()
        .map(|(place, kind)| (format!("n{}", place + 2), *kind))
        .collect();
    let names = fleet.names();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    fleet.all_reach(&names).await;
    for (from, kind) in &hosts {
        for (to, other) in hosts.iter().filter(|(to, _)| to != from) {
            let wanted = if is_direct(kind, other) { PathKind::Direct } else { PathKind::Relayed };
            until(&format!("{from} ({kind}) to {to} ({other}) is {wanted:?}"), async || {
                let path = path(&fleet, from, to).await?;
                let relay = path.relay.as_ref().and_then(|relay| relay.name.as_deref());
                // Whoever sent anything is reached by all behind the first kind.
                let is_by = wanted == PathKind::Direct || matches!(relay, Some("n1" | "n2" | "n3"));
                holds(path.kind == wanted && is_by, path.clone())
            })
            .await;
        }
    }
}

/// Nothing is sent for so long: a way through two NATs is left after 15 s, and they forget
/// it 20 s later.
const PAUSE: Duration = Duration::from_secs(40);

#[tokio::test]
async fn through_nats_in_a_row_and_such_that_forget_soon_all_are_there_and_reached_after_a_pause() {
    let gateways = [
        "port-restricted/port-restricted/port-restricted",
        "port-restricted+lasts=20s/endpoint-independent/symmetric+lasts=20s",
        "port-restricted+lasts=20s",
        "symmetric+lasts=20s",
    ];
    let Some((fleet, _)) = Fleet::joined_behind([1], &gateways).await else { return };
    let names = fleet.names();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    fleet.all_reach(&names).await;
    let begun = Instant::now();
    while begun.elapsed() < PAUSE {
        for name in &names {
            let network = fleet.node(name).network().await.unwrap();
            assert_eq!(network.members.up, 5, "{name}: {:?}", network.peers);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    for from in &names {
        for to in names.iter().filter(|to| *to != from) {
            let address = fleet.node(to).network().await.unwrap().node.ipv4.unwrap();
            // The first packet arrives.
            let reached = fleet.node(from).echo(&address.to_string()).await;
            assert_eq!(reached, Ok(()), "{from} to {to}");
        }
    }
    // Who is gone is not taken for one who is silent.
    fleet.kill("n3").await;
    for name in ["n1", "n2", "n4", "n5"] {
        until(&format!("{name} misses n3"), async || {
            let up = fleet.node(name).network().await?.members.up;
            holds(up == 4, up)
        })
        .await;
    }
}

#[tokio::test]
async fn a_way_that_is_cut_is_left_for_a_relay_and_taken_again() {
    let gateways = ["port-restricted", "port-restricted"];
    let Some((mut fleet, _)) = Fleet::joined_behind([1], &gateways).await else { return };
    fleet.reaches("n2", "n3").await;
    let is = async |fleet: &Fleet, wanted: PathKind| {
        let minute = Duration::from_mins(1);
        until_within(minute, &format!("the way is {wanted:?}"), async || {
            // What is used is looked after.
            fleet.reaches("n2", "n3").await;
            let path = path(fleet, "n2", "n3").await?;
            holds(path.kind == wanted, path.clone())
        })
        .await;
    };
    is(&fleet, PathKind::Direct).await;
    fleet.lab.cut_between(2, 3).await.unwrap();
    is(&fleet, PathKind::Relayed).await;
    fleet.lab.heal_between(2, 3).await.unwrap();
    is(&fleet, PathKind::Direct).await;
    fleet.lab.restart_gateway(2).await.unwrap();
    is(&fleet, PathKind::Direct).await;
    fleet.lab.move_host("n3", 1).await.unwrap();
    is(&fleet, PathKind::Direct).await;
}

/// What a connection may stand still for: packets take another way, and TCP sends again
/// what it sent to nowhere, after times that double.
const OTHER_WAY: Duration = Duration::from_secs(3);
const MOVED: Duration = Duration::from_secs(2);

/// Kills the relay between `n3` and `n4`: their connection goes on over another in time.
async fn kill_relay(fleet: &Fleet, relay: &str, stream: &Stream) {
    fleet.kill(relay).await;
    until("another relay is used", async || {
        let ways = [path(fleet, "n3", "n4").await?, path(fleet, "n4", "n3").await?];
        let is_other = |way: &Path| {
            way.relay.as_ref().and_then(|one| one.name.clone()).is_some_and(|name| name != relay)
        };
        holds(ways.iter().all(is_other), ways)
    })
    .await;
    let stall = stream.stall().await;
    println!("{relay} is killed: {stall:?}");
    assert!(stall <= OTHER_WAY, "{relay} is killed: {stall:?}");
}

#[tokio::test]
async fn a_running_connection_outlives_cuts_dead_relays_and_moves() {
    // Two that everybody reaches, and two behind NATs.
    let gateways = ["port-restricted", "port-restricted"];
    let Some((mut fleet, _)) = Fleet::joined_behind([1, 1], &gateways).await else { return };
    fleet.all_reach(&["n1", "n2", "n3", "n4"]).await;
    let address = fleet.node("n4").network().await.unwrap().node.ipv4.unwrap().into();
    let stream = Stream::open(fleet.host("n3").unwrap(), fleet.host("n4").unwrap(), address);
    let is = async |fleet: &Fleet, wanted: PathKind| {
        until_within(Duration::from_mins(1), &format!("the ways are {wanted:?}"), async || {
            let ways = [path(fleet, "n3", "n4").await?, path(fleet, "n4", "n3").await?];
            holds(ways.iter().all(|way| way.kind == wanted), ways.clone())?;
            let [way, _] = ways;
            Ok(way)
        })
        .await
    };
    is(&fleet, PathKind::Direct).await;
    stream.stall().await;
    fleet.lab.cut_between(3, 4).await.unwrap();
    let way = is(&fleet, PathKind::Relayed).await;
    let stall = stream.stall().await;
    println!("the direct way is cut: {stall:?}");
    assert!(stall <= OTHER_WAY, "the direct way is cut: {stall:?}");
    let relay = way.relay.and_then(|relay| relay.name).unwrap();
    kill_relay(&fleet, &relay, &stream).await;
    fleet.lab.heal_between(3, 4).await.unwrap();
    is(&fleet, PathKind::Direct).await;
    let stall = stream.stall().await;
    println!("the direct way is back: {stall:?}");
    assert!(stall <= Duration::from_secs(1), "the direct way is back: {stall:?}");
    let site = if relay == "n1" { 2 } else { 1 };
    fleet.lab.move_host("n4", site).await.unwrap();
    is(&fleet, PathKind::Direct).await;
    let stall = stream.stall().await;
    println!("n4 is somewhere else: {stall:?}");
    assert!(stall <= MOVED, "n4 is somewhere else: {stall:?}");
    // Where it has the same address as before.
    let before = fleet.host("n3").unwrap().ipv4();
    fleet.lab.move_host("n3", 4).await.unwrap();
    assert_eq!(fleet.host("n3").unwrap().ipv4(), before);
    is(&fleet, PathKind::Direct).await;
    let stall = stream.stall().await;
    println!("n3 is somewhere else: {stall:?}");
    assert!(stall <= MOVED, "n3 is somewhere else: {stall:?}");
    stream.close();
}

#[tokio::test]
async fn where_no_udp_passes_packets_travel_by_tls() {
    // One that everybody reaches, and two where only TCP gets out.
    let gateways = ["udp-blocked", "udp-blocked", "port-restricted"];
    let Some((fleet, _)) = Fleet::joined_behind([2], &gateways).await else { return };
    let names = fleet.names();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    fleet.all_reach(&names).await;
    let is = async |fleet: &Fleet, from: &str, to: &str, wanted: PathKind| {
        until(&format!("{from} reaches {to}: {wanted:?}"), async || {
            let path = path(fleet, from, to).await?;
            holds(path.kind == wanted, path)
        })
        .await;
    };
    for (from, to) in [("n3", "n4"), ("n3", "n5"), ("n5", "n4")] {
        is(&fleet, from, to, PathKind::Relayed).await;
    }
    // Each blocked one has streams to both that can be its relays.
    for relay in ["n1", "n2"] {
        is(&fleet, "n3", relay, PathKind::Tls).await;
        let way = path(&fleet, relay, "n3").await.unwrap();
        assert_eq!(way.kind, PathKind::Tls, "{way:?}");
    }
    let address = fleet.node("n4").network().await.unwrap().node.ipv4.unwrap().into();
    let (from, to) = (fleet.host("n3").unwrap(), fleet.host("n4").unwrap());
    let arrived = transfer(from, to, address, Duration::from_secs(2));
    println!("by TLS to a relay and by TLS from there: {} MB in 2 s", arrived >> 20);
    assert!(arrived > 10 << 20, "{arrived}");
    let stream = Stream::open(from, to, address);
    let way = path(&fleet, "n3", "n4").await.unwrap();
    let relay = way.relay.and_then(|relay| relay.name).unwrap();
    stream.stall().await;
    kill_relay(&fleet, &relay, &stream).await;
    stream.close();
}

#[tokio::test]
async fn a_network_that_lets_nothing_but_port_443_out_is_no_obstacle() {
    let Some(mut fleet) = Fleet::up([2]).await else { return };
    let line = "mkdir -p /etc/epsilon && printf 'tcp_port = 443\\n' > /etc/epsilon/meshd.toml";
    fleet.node("n1").shell(line).await.ok();
    fleet.start("n1").await;
    fleet.start("n2").await;
    let token = fleet.node("n1").create("").await;
    fleet.node("n2").join(&token).await;
    fleet.meets(&["n1", "n2"]).await;
    fleet.kill("n2").await;
    let rules = "table inet closed { chain out { type filter hook output priority filter; policy accept; \
                 meta l4proto udp drop; tcp dport != 443 ct state new drop; }; \
                 chain in { type filter hook input priority filter; policy accept; \
                 meta l4proto udp drop; tcp flags syn / syn,ack drop; }; }";
    fleet.node("n2").shell(&format!("echo '{rules}' | nft -f -")).await.ok();
    fleet.start("n2").await;
    for (from, to) in [("n2", "n1"), ("n1", "n2")] {
        until(&format!("{from} reaches {to} by TLS"), async || {
            // What is used is looked after.
            fleet.reaches(from, to).await;
            let path = path(&fleet, from, to).await?;
            holds(path.kind == PathKind::Tls, path)
        })
        .await;
    }
    let way = path(&fleet, "n2", "n1").await.unwrap();
    assert_eq!(way.endpoint.map(|endpoint| endpoint.port()), Some(443), "{way:?}");
}

/// The port at which [`echo`] answers.
const ECHO: u16 = 7;
/// The medians over all pairs.
const FIRST_REPLY: Duration = Duration::from_millis(1500);
const BEST_WAY: Duration = Duration::from_secs(3);

/// From now on a host sends back what comes to it.
fn echo(fleet: &Fleet, host: &str) {
    let socket = socket(fleet, host, ECHO);
    std::thread::spawn(move || {
        let mut bytes = [0; 64];
        // As long as the tests run.
        loop {
            if let Ok((length, from)) = socket.recv_from(&mut bytes) {
                // What is lost is asked for again.
                let _ = socket.send_to(&bytes[..length], from);
            }
        }
    });
}

/// Datagrams from one host to another all the time.
struct Talk {
    stop: Arc<AtomicBool>,
    replied: Arc<OnceLock<Instant>>,
    thread: JoinHandle<()>,
}

impl Talk {
    fn begin(fleet: &Fleet, from: &str, to: Ipv4Addr) -> Self {
        let socket = socket(fleet, from, 0);
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let (stop, replied) = (Arc::<AtomicBool>::default(), Arc::<OnceLock<Instant>>::default());
        let (stopped, noted) = (Arc::clone(&stop), Arc::clone(&replied));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // Refused as long as nobody knows where to.
                let _ = socket.send_to(&[7; 20], (to, ECHO));
                if socket.recv(&mut [0; 64]).is_ok() {
                    noted.get_or_init(Instant::now);
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        });
        Self { stop, replied, thread }
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Each kind against each other and itself: two daemons are started again, and talk as
/// soon as each has contact with a third one.
#[tokio::test]
#[ignore = "it measures, with seventeen daemons: make soak"]
async fn the_table_of_all_kinds_of_gateways() {
    const KINDS: [&str; 8] = [
        "none",
        "endpoint-independent",
        "address-restricted",
        "port-restricted",
        "symmetric",
        "carrier-grade",
        "ipv6-only",
        "udp-blocked",
    ];
    let gateways: Vec<&str> = KINDS.iter().flat_map(|kind| [*kind, *kind]).collect();
    let Some((mut fleet, _)) = Fleet::joined_behind([1], &gateways).await else { return };
    let host = |kind: usize, which: usize| format!("n{}", 2 + kind * 2 + which);
    (0..KINDS.len()).for_each(|kind| echo(&fleet, &host(kind, 1)));
    let has_v4 = |kind: &str| kind != "ipv6-only";
    let has_v6 = |kind: &str| matches!(kind, "none" | "ipv6-only");
    let mut table = Vec::new();
    let (mut firsts, mut bests) = (Vec::new(), Vec::new());
    for (one, first_kind) in KINDS.into_iter().enumerate() {
        for (other, other_kind) in KINDS.into_iter().enumerate().skip(one) {
            let (from, to) = (host(one, 0), host(other, 1));
            let kinds = (first_kind, other_kind);
            let meet = has_v4(kinds.0) && has_v4(kinds.1) || has_v6(kinds.0) && has_v6(kinds.1);
            let is_blocked = [kinds.0, kinds.1].contains(&"udp-blocked");
            let is_direct = meet && !is_blocked && is_direct(kinds.0, kinds.1);
            let wanted = match (is_direct, is_blocked) {
                (true, _) => &[PathKind::Direct][..],
                (false, false) => &[PathKind::Relayed],
                (false, true) => &[PathKind::Relayed, PathKind::Tls],
            };
            let address = fleet.node(&to).network().await.unwrap().node.ipv4.unwrap();
            for name in [&from, &to] {
                fleet.kill(name).await;
                fleet.launch(name);
            }
            for name in [&from, &to] {
                fleet.answers(name).await;
                until(&format!("{name} has contact"), async || {
                    let up = fleet.node(name).network().await?.members.up;
                    holds(up > 1, up)
                })
                .await;
            }
            let begun = Instant::now();
            let talk = Talk::begin(&fleet, &from, address);
            until(&format!("{from} and {to} ({kinds:?}) are {wanted:?}"), async || {
                let ways = [path(&fleet, &from, &to).await?, path(&fleet, &to, &from).await?];
                holds(ways.iter().all(|way| wanted.contains(&way.kind)), ways)
            })
            .await;
            let best = begun.elapsed();
            until("there was a reply", async || holds(talk.replied.get().is_some(), ())).await;
            let first = talk.replied.get().unwrap().duration_since(begun);
            talk.end();
            let kind = match (is_direct, is_blocked) {
                (true, _) => "direct",
                (false, false) => "relayed",
                (false, true) => "by TLS",
            };
            table.push(format!(
                "| {} | {} | {:.2} s | {kind} | {:.2} s |",
                kinds.0,
                kinds.1,
                first.as_secs_f64(),
                best.as_secs_f64()
            ));
            firsts.push(first);
            bests.extend(is_direct.then_some(best));
        }
    }
    println!("| one | other | first reply after | best way | after |\n|---|---|---|---|---|");
    println!("{}", table.join("\n"));
    let (first, best) = (median(firsts), median(bests));
    println!("medians: first reply after {first:.2?}, direct after {best:.2?}");
    assert!(first <= FIRST_REPLY && best <= BEST_WAY);
}
