//! The control plane on loopback, with real sockets: who gets in, and what travels.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod control_support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use control_support::{Node, Setup, TestGate, key, knock, secret};
use meshd::control::{
    Accept, AdmissionEvent, Command, Config, DialError, Error, Event, Gate, Limits, RequestError,
    Timing, start,
};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

fn stranger() -> Setup {
    Setup { gate: TestGate { key: [66; 32], slow: None }, ..Setup::default() }
}

#[tokio::test]
async fn two_nodes_link_and_ask_each_other() {
    let (mut a, mut b) = (Node::new(1).await, Node::new(2).await);
    a.begin_dial(Some(b.key), b.address).await;
    let Event::LinkUp { peer, remote, outbound, .. } = a.next().await else {
        panic!("the link comes first");
    };
    assert_eq!((peer, remote, outbound), (b.key, b.address, true));
    assert!(matches!(a.next().await, Event::Dialled { attempt: 1, .. }));
    let Event::LinkUp { peer, local, outbound, .. } = b.next().await else {
        panic!("the link comes first");
    };
    assert_eq!((peer, local, outbound), (a.key, Some(b.address), false));
    let a = a.serve();
    assert_eq!(b.ask(a.key, b"abc").await.unwrap(), b"cba");
    let large = vec![5; 1024 * 1024];
    assert_eq!(b.ask(a.key, &large).await.unwrap(), large);
    assert_eq!(b.ask(a.key, b"").await.unwrap(), b"");
}

#[tokio::test]
async fn gossip_reaches_the_third_node_only_with_the_second_ones_consent() {
    let (mut a, mut b, mut c) = (Node::new(1).await, Node::new(2).await, Node::new(3).await);
    a.dial(Some(b.key), b.address).await.unwrap();
    c.dial(Some(b.key), b.address).await.unwrap();
    // Subscriptions take a moment to be known: say something new until it is heard.
    let (bad, good) = (b"bad".to_vec(), b"good".to_vec());
    let talk = async {
        for number in 0_u32.. {
            for word in [&bad, &good] {
                let message = [&word[..], &number.to_be_bytes()].concat();
                a.send(Command::Publish(message)).await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let judge = async {
        loop {
            let event = b.next().await;
            if let Event::Gossip { from, message, bytes } = event {
                assert_eq!(from, key(1));
                let accept =
                    if bytes.starts_with(b"good") { Accept::Accept } else { Accept::Reject };
                b.send(Command::Verdict { message, accept }).await;
            }
        }
    };
    let hear = async {
        for _ in 0..5 {
            let (from, bytes) = c
                .until(|event| match event {
                    Event::Gossip { from, bytes, .. } => Some((*from, bytes.clone())),
                    _ => None,
                })
                .await;
            assert_eq!(from, key(2));
            assert!(bytes.starts_with(b"good"), "{bytes:?}");
        }
    };
    tokio::select! {
        () = hear => {}
        () = talk => unreachable!(),
        () = judge => unreachable!(),
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_is_not_delivered_and_the_link_stays() {
    let limits = Limits { gossip: 200 * 1024, ..Limits::default() };
    let mut a = Node::with(1, Setup { limits, ..Setup::default() }).await;
    let mut b = Node::new(2).await;
    a.dial(Some(b.key), b.address).await.unwrap();
    let heard = |event: &Event| match event {
        Event::Gossip { bytes, .. } => Some(bytes.len()),
        _ => None,
    };
    // Once a small message is heard, B is known to listen.
    let talk = async {
        for number in 0_u32.. {
            a.send(Command::Publish(number.to_be_bytes().to_vec())).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        length = b.until(heard) => assert_eq!(length, 4),
        () = talk => unreachable!(),
    }
    b.events_for(Duration::from_millis(200)).await;
    a.send(Command::Publish(vec![7; 64 * 1024])).await;
    assert_eq!(b.until(heard).await, 64 * 1024, "the largest is heard");
    // One that only the engine's limit stops, and one that no decoder takes in.
    for length in [65 * 1024, 150 * 1024] {
        a.send(Command::Publish(vec![8; length])).await;
    }
    let events = b.events_for(Duration::from_secs(1)).await;
    assert!(events.is_empty(), "{events:?}");
    let b = b.serve();
    assert_eq!(a.ask(b.key, b"12").await.unwrap(), b"21");
}

#[tokio::test]
async fn a_node_with_another_networks_key_is_told_so_within_three_seconds() {
    let (mut a, mut b) = (Node::new(1).await, Node::with(2, stranger()).await);
    let (here, there) = (a.address, b.address);
    for (dialler, target) in [(&mut a, there), (&mut b, here)] {
        let begun = Instant::now();
        let result = dialler.dial(None, target).await;
        assert_eq!(result, Err(DialError::NotOurNetwork));
        assert!(begun.elapsed() < Duration::from_secs(3));
    }
}

#[tokio::test]
async fn a_stranger_gets_not_one_byte_whatever_it_sends() {
    let node = Node::new(1).await;
    let long = [7; 200];
    for bytes in [&b""[..], &b"GET / HTTP/1.1\r\n\r\n"[..], &long[..64], &long] {
        assert_eq!(knock(node.address, bytes).await, b"", "{bytes:?}");
    }
    assert_eq!(node.admissions.begun.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_recorded_greeting_opens_the_gate_once() {
    // The first message of the handshake is any 32 bytes behind their length.
    let gate = Setup::default().gate;
    let recorded = [&gate.greet(0)[..], &[0, 32], &[9; 32]].concat();
    let node = Node::new(1).await;
    let first = knock(node.address, &recorded).await;
    assert!(!first.is_empty(), "the gate was open");
    assert_eq!(knock(node.address, &recorded).await, b"");
}

#[tokio::test]
async fn a_silent_listener_a_closed_port_and_an_outsider_are_told_apart() {
    let mut node = Node::new(1).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let begun = Instant::now();
    let result = node.dial(None, silent.local_addr().unwrap()).await;
    assert_eq!(result, Err(DialError::TimedOut));
    assert!(begun.elapsed() < Duration::from_secs(3));

    let closed = silent.local_addr().unwrap();
    drop(silent);
    assert_eq!(node.dial(None, closed).await, Err(DialError::Closed));

    let chatty = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = chatty.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = chatty.accept().await.unwrap();
        let banner = b"SSH-2.0-OpenSSH_9.9\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut stream, banner).await.unwrap();
        let mut greeting = [0; 64];
        stream.read_exact(&mut greeting).await.unwrap();
    });
    assert_eq!(node.dial(None, address).await, Err(DialError::NotOurNetwork));
    let unroutable = "[fe80::1]:1".parse().unwrap();
    assert_eq!(node.dial(None, unroutable).await, Err(DialError::Unreachable));
}

#[tokio::test]
async fn whichever_side_refuses_the_dialler_learns_why_and_nobody_is_linked() {
    for (refuser, reason) in [(1, "not here"), (2, "revoked")] {
        let setup = |number: u8| Setup {
            policy: Arc::new(move |_| {
                if number == refuser { Err(reason.as_bytes().to_vec()) } else { Ok(()) }
            }),
            ..Setup::default()
        };
        let mut dialler = Node::with(1, setup(1)).await;
        let mut listener = Node::with(2, setup(2)).await;
        let number = dialler.begin_dial(Some(listener.key), listener.address).await;
        match dialler.next().await {
            Event::DialFailed { attempt, reason: DialError::Refused(found), .. } => {
                assert_eq!((attempt, &found[..]), (number, reason.as_bytes()));
            }
            other => panic!("{other:?}"),
        }
        for node in [&mut dialler, &mut listener] {
            let later = node.events_for(Duration::from_millis(500)).await;
            assert!(later.is_empty(), "{later:?}");
        }
        assert_eq!(listener.admissions.begun.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn another_member_than_the_expected_one_is_not_linked() {
    let (mut a, mut b) = (Node::new(1).await, Node::new(2).await);
    let result = a.dial(Some(key(3)), b.address).await;
    let expected = DialError::OtherIdentity { expected: key(3), found: key(2) };
    assert_eq!(result, Err(expected));
    assert!(b.events_for(Duration::from_millis(300)).await.is_empty());
    let no_point = (0..=255)
        .map(|byte| [byte; 32])
        .find(|bytes| libp2p::identity::ed25519::PublicKey::try_from_bytes(bytes).is_err())
        .expect("half of all strings are no key");
    let no_key = a.dial(Some(no_point), b.address).await;
    assert!(matches!(no_key, Err(DialError::Protocol(_))), "{no_key:?}");
}

#[tokio::test]
async fn a_node_that_dials_itself_is_told_so() {
    let mut a =
        Node::with(1, Setup { listen: vec!["0.0.0.0:0".parse().unwrap()], ..Setup::default() })
            .await;
    for address in [a.address, format!("127.0.0.1:{}", a.address.port()).parse().unwrap()] {
        assert_eq!(a.dial(None, address).await, Err(DialError::Myself));
    }
}

#[tokio::test]
async fn an_oversize_admission_frame_ends_the_exchange() {
    let limits = Limits { admission_frame: 1000, ..Limits::default() };
    let mut a = Node::with(1, Setup { hello: vec![0; 2000], ..Setup::default() }).await;
    let b = Node::with(2, Setup { limits, ..Setup::default() }).await;
    let result = a.dial(None, b.address).await;
    assert!(matches!(result, Err(DialError::Protocol(_))), "{result:?}");
    assert_eq!(b.admissions.begun.load(Ordering::SeqCst), 1);
    let ended = async {
        while b.admissions.ended.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(2), ended).await.expect("the engine is told");
}

#[tokio::test]
async fn a_peer_that_stalls_in_admission_is_given_up() {
    let timing = Timing { admission: Duration::from_millis(300), ..Timing::default() };
    let mut a = Node::with(1, Setup { timing, ..Setup::default() }).await;
    // An engine that is never asked for its opinion.
    let (admissions, mut unread) = mpsc::channel(16);
    let config = Config {
        secret: secret(2),
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        topic: "test".into(),
        limits: Limits::default(),
        timing: Timing::default(),
    };
    let gate = Arc::new(Setup::default().gate);
    let (_handle, mut events) = start(config, gate, admissions, mpsc::channel(1).0).unwrap();
    let Some(Event::Listening(address)) = events.recv().await else {
        panic!("a node listens first of all");
    };
    let result = a.dial(None, address).await;
    assert!(matches!(result, Err(DialError::Protocol(_))), "{result:?}");
    assert_eq!(a.admissions.ended.load(Ordering::SeqCst), 1);
    assert!(matches!(unread.recv().await, Some(AdmissionEvent::Begin { .. })));
}

#[tokio::test]
async fn requests_beyond_the_limits_fail_with_a_reason() {
    let mut a = Node::with(
        1,
        Setup { limits: Limits { request: 5000, ..Limits::default() }, ..Setup::default() },
    )
    .await;
    let b = Node::with(
        2,
        Setup { limits: Limits { request: 1000, ..Limits::default() }, ..Setup::default() },
    )
    .await;
    a.dial(Some(b.key), b.address).await.unwrap();
    let b = b.serve();
    for size in [2000, 5001] {
        let result = a.ask(b.key, &vec![0; size]).await;
        assert!(matches!(result, Err(RequestError::Failed(_))), "{size}: {result:?}");
    }
    assert_eq!(a.ask(b.key, b"ok").await.unwrap(), b"ko", "still linked");
    assert_eq!(a.ask(key(9), b"?").await, Err(RequestError::NotLinked));
}

#[tokio::test]
async fn a_request_that_nobody_answers_times_out_and_a_dropped_one_fails() {
    let timing = Timing { request: Duration::from_millis(300), ..Timing::default() };
    let mut a = Node::with(1, Setup { timing, ..Setup::default() }).await;
    let mut b = Node::new(2).await;
    a.dial(Some(b.key), b.address).await.unwrap();
    let channel = async {
        b.until(|event| matches!(event, Event::Request { .. }).then_some(())).await;
    };
    // `until` drops the event and the channel in it.
    let (dropped, ()) = tokio::join!(a.ask(key(2), b"?"), channel);
    assert!(matches!(dropped, Err(RequestError::Failed(_))), "{dropped:?}");
    let unanswered = async {
        loop {
            if let request @ Event::Request { .. } = b.next().await {
                return request;
            }
        }
    };
    let (silent, kept) = tokio::join!(a.ask(key(2), b"?"), unanswered);
    assert_eq!(silent, Err(RequestError::TimedOut));
    drop(kept);
}

#[tokio::test]
async fn a_busy_port_is_named_with_the_next_step() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let (admissions, _asked) = mpsc::channel(1);
    let config = Config {
        secret: secret(1),
        listen: vec![address],
        topic: "test".into(),
        limits: Limits::default(),
        timing: Timing::default(),
    };
    let error = start(config, Arc::new(Setup::default().gate), admissions, mpsc::channel(1).0)
        .expect_err("the port is taken");
    assert!(matches!(error, Error::Listen { .. }));
    let text = error.to_string();
    for part in [&address.to_string(), "another process", "--port"] {
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test]
async fn one_socket_serves_both_families() {
    let setup = Setup { listen: vec!["[::]:0".parse().unwrap()], ..Setup::default() };
    let mut b = Node::with(2, setup).await;
    let port = b.address.port();
    let mut hosts = vec!["127.0.0.1"];
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        hosts.push("[::1]");
    }
    for (number, host) in hosts.into_iter().enumerate() {
        let mut a = Node::new(number as u8 + 10).await;
        let address = format!("{host}:{port}").parse().unwrap();
        a.dial(Some(b.key), address).await.unwrap();
        let (remote, local) = b
            .until(|event| match event {
                Event::LinkUp { remote, local, .. } => Some((*remote, local.unwrap())),
                _ => None,
            })
            .await;
        assert_eq!(local, address, "without the disguise of a mapped address");
        assert_eq!(remote.ip(), address.ip());
    }
}

#[tokio::test]
async fn the_slow_lane_has_few_seats() {
    let old = [8; 32];
    let slow_gate = || TestGate { key: old, slow: None };
    let listener = Node::with(
        1,
        Setup {
            gate: TestGate { key: [9; 32], slow: Some(old) },
            limits: Limits { pending_slow: 2, ..Limits::default() },
            ..Setup::default()
        },
    )
    .await;
    // Two that passed the gate and then say nothing more hold both seats.
    let mut holders = Vec::new();
    for _ in 0..2 {
        let mut stream = tokio::net::TcpStream::connect(listener.address).await.unwrap();
        let hello = [&slow_gate().greet(0)[..], &[0, 32], &[9; 32]].concat();
        tokio::io::AsyncWriteExt::write_all(&mut stream, &hello).await.unwrap();
        let mut first = [0];
        stream.read_exact(&mut first).await.unwrap();
        holders.push(stream);
    }
    let member =
        |number, gate| async move { Node::with(number, Setup { gate, ..Setup::default() }).await };
    let mut late = member(2, slow_gate()).await;
    assert_eq!(late.dial(None, listener.address).await, Err(DialError::NotOurNetwork));
    let mut current = member(3, Setup::default().gate).await;
    current.dial(None, listener.address).await.unwrap();
    drop(holders);
    let mut found = late.dial(None, listener.address).await;
    for _ in 0..50 {
        if found.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        found = late.dial(None, listener.address).await;
    }
    found.unwrap();
    assert_eq!(listener.admissions.slow.load(Ordering::SeqCst), 1);
}
