use epsilon_proto::datagram::DATA;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zeroize::Zeroizing;

use super::*;
use crate::control::{self, Config, GREETING, Lane, Limits, Timing};
use crate::data::Taken;

/// Opens for greetings that end in ones, which the first secret makes.
struct Plain;

impl Gate for Plain {
    fn greet(&self, secret: usize) -> [u8; GREETING] {
        let mut greeting = [0; GREETING];
        greeting[..32].copy_from_slice(&crate::random::bytes::<32>());
        greeting[GREETING - 1] = if secret == 0 { 1 } else { 2 };
        greeting
    }

    fn check(&self, greeting: &[u8; GREETING]) -> Option<Lane> {
        (greeting[GREETING - 1] == 1).then_some(Lane::Current)
    }
}

struct Node {
    streams: Streams,
    data: data::Streams,
    taken: Taken,
    address: SocketAddr,
    _control: control::Handle,
    _events: mpsc::Receiver<control::Event>,
}

impl Node {
    async fn new(number: u8) -> Self {
        let (knocks, knocking) = mpsc::channel(16);
        let (admissions, _) = mpsc::channel(16);
        let config = Config {
            secret: Zeroizing::new([number; 32]),
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            topic: "test".into(),
            limits: Limits::default(),
            timing: Timing::default(),
        };
        let (control, mut events) =
            control::start(config, Arc::new(Plain), admissions, knocks).unwrap();
        let Some(control::Event::Listening(address)) = events.recv().await else {
            panic!("a node listens first of all");
        };
        let (data, taken) = data::Streams::alone();
        let streams = Streams::start(Arc::new(Plain), data.clone(), knocking).unwrap();
        Self { streams, data, taken, address, _control: control, _events: events }
    }

    async fn event(&mut self) -> Event {
        let event = self.streams.event();
        timeout(Duration::from_secs(5), event).await.expect("something happens").unwrap()
    }

    /// What came by a stream, in the order in which it was sent.
    async fn takes(&mut self, by: SocketAddr, count: usize) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while all.len() < count {
            match (self.taken)() {
                Some((stream, bytes)) => {
                    assert_eq!(stream, by);
                    all.push(bytes);
                }
                None => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
        all
    }
}

/// The same stream, as each of the two sees it.
async fn open(one: &mut Node, other: &mut Node) -> [SocketAddr; 2] {
    one.streams.open(7, other.address, 0);
    let Event::Opened { attempt: 7, stream: ours } = one.event().await else { panic!("not open") };
    let Event::Accepted { stream: theirs, remote } = other.event().await else {
        panic!("not accepted")
    };
    assert!(remote.ip().is_loopback());
    [ours, theirs]
}

#[tokio::test]
async fn datagrams_travel_both_ways_until_one_end_closes() {
    let (mut one, mut other) = (Node::new(1).await, Node::new(2).await);
    let [ours, theirs] = open(&mut one, &mut other).await;
    // Data keeps its order.
    let data = |number| [&[DATA][..], &[number; 1451]].concat();
    let datagrams: Vec<Vec<u8>> = (0..100).map(data).collect();
    for datagram in &datagrams {
        one.data.send(ours, datagram);
        other.data.send(theirs, datagram);
    }
    assert!(other.takes(theirs, 100).await == datagrams);
    assert!(one.takes(ours, 100).await == datagrams);
    one.streams.close(ours);
    assert!(matches!(one.event().await, Event::Closed { stream } if stream == ours));
    assert!(matches!(other.event().await, Event::Closed { stream } if stream == theirs));
    // There is no such stream any more.
    one.data.send(ours, b"lost");
    // Streams end with the network.
    let [_, theirs] = open(&mut other, &mut one).await;
    drop(other);
    assert!(matches!(one.event().await, Event::Closed { stream } if stream == theirs));
}

#[tokio::test]
async fn where_the_gate_is_shut_or_nobody_is_there_that_is_said() {
    let (mut one, other) = (Node::new(1).await, Node::new(2).await);
    one.streams.open(1, other.address, 1);
    let event = one.event().await;
    assert!(matches!(event, Event::Failed { attempt: 1, shut: true, .. }), "{event:?}");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    one.streams.open(2, nobody, 0);
    let event = one.event().await;
    assert!(matches!(event, Event::Failed { attempt: 2, shut: false, .. }), "{event:?}");
}

#[tokio::test]
async fn who_says_hello_without_a_greeting_gets_not_a_byte() {
    let node = Node::new(1).await;
    let record = |length: u16| {
        let mut bytes = vec![22, 3, 1];
        bytes.extend(length.to_be_bytes());
        bytes.resize(5 + usize::from(length), 1);
        bytes
    };
    for bytes in [record(200), record(0), record(u16::MAX), record(1019), record(59)] {
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        // It may be reset before all is written.
        let _ = stream.write_all(&bytes).await;
        let mut answer = Vec::new();
        let end = stream.read_to_end(&mut answer);
        let end = timeout(Duration::from_secs(5), end).await.expect("it ends");
        assert!(end.is_err() && answer.is_empty(), "{} bytes: {end:?}", bytes.len());
    }
}
