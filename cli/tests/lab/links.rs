//! Links that are worse than a cable.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use epsilon_cli::lab::{Cable, Host, Lab, Link, Spec};

use crate::commands::Told;
use crate::{
    SOON, assert_does_not_reach, assert_nothing_left_of, assert_reaches, ephemeral, on, possible,
};

/// What a link of 40 ms adds to a round trip.
const FAR: Duration = Duration::from_millis(80);
/// More than what a busy machine adds, and less than [`FAR`].
const NEAR: Duration = Duration::from_millis(40);

fn link(text: &str) -> Link {
    text.parse().unwrap()
}

/// A lab in which site 1 has this link.
fn behind<const SITES: usize>(sites: [u16; SITES], text: &str) -> Spec {
    let mut spec = ephemeral(sites);
    spec.links.insert(Cable::Site(1), link(text));
    spec
}

/// The shortest of some round trips.
async fn round_trip(from: &Host, to: impl Into<IpAddr>) -> Duration {
    let to = to.into().to_string();
    let arguments = ["-n", "-q", "-c", "5", "-i", "0.05", "-W", "5", &to];
    let output = from.run("ping", arguments).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (_, times) = text.split_once("rtt min/avg/max/mdev = ").expect(&text);
    let (least, _) = times.split_once('/').unwrap();
    Duration::from_secs_f64(least.parse::<f64>().unwrap() / 1000.0)
}

/// Sends a thousand datagrams and gives the numbers of those that arrive, in order.
fn datagrams(from: &Host, to: &Host) -> Vec<u16> {
    const LAST: u16 = 1000;
    // From here on neighbours know each other: asking may take a second where much is lost.
    assert_reaches(from, to);
    let receiver = on(to, || UdpSocket::bind((to.ipv4(), 0)).unwrap());
    let sender = on(from, || UdpSocket::bind((from.ipv4(), 0)).unwrap());
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    receiver.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut arrived = Vec::new();
    let mut number = [0; 2];
    let deadline = Instant::now() + SOON;
    for sent in (0..LAST).chain(std::iter::repeat(LAST)) {
        assert!(Instant::now() < deadline, "the last one does not arrive");
        sender.send(&sent.to_be_bytes()).unwrap();
        // A few at a time, so that none is lost at the receiver.
        let is_due = sent % 50 == 0;
        while is_due && receiver.recv(&mut number).is_ok() {
            match u16::from_be_bytes(number) {
                LAST => return arrived,
                number => arrived.push(number),
            }
        }
    }
    arrived
}

/// Sends so many bytes by TCP, checks that they arrive as they were sent, and gives how
/// long that took.
fn transfer(from: &Host, to: &Host, length: usize) -> Duration {
    let bytes: Vec<u8> =
        (0_u64..length as u64).map(|place| (place.wrapping_mul(place) >> 7) as u8).collect();
    let address = (to.ipv4(), 9);
    let listener = on(to, || TcpListener::bind(address).unwrap());
    let mut sender = on(from, || TcpStream::connect(address).unwrap());
    let (mut receiver, _) = listener.accept().unwrap();
    let started = Instant::now();
    thread::scope(|scope| {
        let arrived = scope.spawn(move || {
            receiver.set_read_timeout(Some(SOON)).unwrap();
            let mut arrived = Vec::new();
            receiver.read_to_end(&mut arrived).unwrap();
            arrived
        });
        sender.write_all(&bytes).unwrap();
        drop(sender);
        assert!(arrived.join().unwrap() == bytes, "what arrives is not what was sent");
    });
    started.elapsed()
}

#[tokio::test]
async fn delay_holds_for_each_direction_and_for_nobody_else() {
    if !possible() {
        return;
    }
    let mut lab = Lab::up(behind([2, 1], "delay=40ms")).await.unwrap();
    let [one, two, three] = <[Host; 3]>::try_from(lab.hosts().to_vec()).unwrap();
    for (from, to) in [(&one, &three), (&three, &one)] {
        for address in [IpAddr::from(to.ipv4()), to.ipv6().into()] {
            let took = round_trip(from, address).await;
            assert!(took >= FAR && took < FAR + NEAR, "{took:?} to {address}");
        }
    }
    assert!(round_trip(&one, two.ipv4()).await < NEAR);
    lab.set_link(&Cable::Host("n2".to_owned()), link("delay=40ms,jitter=5ms")).await.unwrap();
    let took = round_trip(&one, two.ipv4()).await;
    assert!(took >= FAR && took < FAR + NEAR, "{took:?}");
    assert!(round_trip(&two, three.ipv4()).await >= FAR * 2);
    for cable in [Cable::Site(1), Cable::Host("n2".to_owned())] {
        lab.set_link(&cable, Link::default()).await.unwrap();
    }
    assert!(round_trip(&two, three.ipv4()).await < NEAR);
    assert!(round_trip(&two, three.ipv6()).await < NEAR);
}

#[tokio::test]
async fn the_share_is_lost_or_comes_twice_in_each_direction() {
    if !possible() {
        return;
    }
    let mut lab = Lab::up(behind([1, 1], "loss=30%")).await.unwrap();
    let [one, two] = <[Host; 2]>::try_from(lab.hosts().to_vec()).unwrap();
    let mut lost = Vec::new();
    for (from, to) in [(&one, &two), (&two, &one)] {
        let arrived = datagrams(from, to);
        assert!((600..800).contains(&arrived.len()), "{} of 1000", arrived.len());
        assert!(arrived.is_sorted());
        lost.push(arrived);
    }
    assert_ne!(lost[0], lost[1]);
    lab.set_link(&Cable::Site(1), link("duplicate=30%")).await.unwrap();
    for (from, to) in [(&one, &two), (&two, &one)] {
        let arrived = datagrams(from, to);
        assert!((1200..1400).contains(&arrived.len()), "{} of 1000", arrived.len());
        assert!(arrived.is_sorted());
    }
}

#[tokio::test]
async fn no_more_passes_than_the_rate() {
    if !possible() {
        return;
    }
    let lab = Lab::up(behind([1, 1], "rate=20mbit")).await.unwrap();
    let [one, two] = lab.hosts() else { panic!("two hosts") };
    for (from, to) in [(one, two), (two, one)] {
        let took = transfer(from, to, 5_000_000);
        println!("5 MB at 20 Mbit/s: {took:?}");
        assert!(took >= Duration::from_secs(2), "{took:?}");
    }
}

#[tokio::test]
async fn what_is_reordered_and_doubled_arrives_as_it_was_sent() {
    if !possible() {
        return;
    }
    let terrible = "delay=2ms,jitter=1ms,loss=0.5%,reorder=5%,duplicate=1%";
    let lab = Lab::up(behind([1, 1], terrible)).await.unwrap();
    let [one, two] = lab.hosts() else { panic!("two hosts") };
    println!("8 MB by a terrible link: {:?}", transfer(one, two, 8_000_000));
    println!("and back: {:?}", transfer(two, one, 8_000_000));
}

#[tokio::test]
async fn a_link_stays_through_cuts_and_moves_until_it_is_made_good() {
    if !possible() {
        return;
    }
    let told = Told::up("links", 3, 2).await;
    assert_eq!(told.says("link"), "No link is worse than another.\n");
    assert_eq!(told.says("link n1 delay=40ms"), "n1: delay=40ms\n");
    told.says("cut site1");
    told.says("link site1 delay=1ms,jitter=0.5ms");
    let [one, two, three] = <[Host; 3]>::try_from(told.lab().hosts().to_vec()).unwrap();
    assert!(round_trip(&one, two.ipv4()).await >= FAR);
    assert_does_not_reach(&two, &three);
    assert_eq!(told.says("heal"), "Healed: site1.\n");
    assert_reaches(&two, &three);
    told.says("cut n1");
    assert_does_not_reach(&one, &two);
    told.says("heal n1");
    assert_reaches(&one, &two);

    told.says("move n1 site2");
    assert_eq!(told.says("link"), "n1: delay=40ms\nsite1: delay=1ms,jitter=0.5ms\n");
    assert!(round_trip(&three, told.lab().host("n1").unwrap().ipv4()).await >= FAR);
    told.says("link site1 none");
    assert_reaches(&two, &three);
    let mut lab = told.lab();
    lab.remove_host("n1").await.unwrap();
    let again = lab.add_host(2).await.unwrap();
    assert_eq!(again.name(), "n1");
    // By its own question others learn who has the address now.
    assert!(round_trip(&again, three.ipv4()).await < NEAR);
    drop(lab);
    assert_eq!(told.says("link"), "No link is worse than another.\n");
    told.says("link site2 loss=100%");
    assert_does_not_reach(&two, &three);
    told.says("down");
    assert_nothing_left_of(told.name());
}
