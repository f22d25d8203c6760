//! The control plane on loopback, with real sockets: links from their first to their last connection.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod control_support;

use std::time::{Duration, Instant};

use control_support::{Node, Setup, Wire, key};
use meshd::control::{Command, DialError, Event, Limits, RequestError, Timing};

/// Liveness fast enough for a test.
fn quick() -> Timing {
    Timing {
        ping_interval: Duration::from_millis(200),
        ping_timeout: Duration::from_millis(400),
        ..Timing::default()
    }
}

#[tokio::test]
async fn two_nodes_that_dial_each_other_at_once_keep_one_connection_and_never_flap() {
    for _ in 0..3 {
        let timing = Timing { duplicate_grace: Duration::from_millis(200), ..Timing::default() };
        let setup = || Setup { timing: timing.clone(), ..Setup::default() };
        let (mut a, mut b) = (Node::with(1, setup()).await, Node::with(2, setup()).await);
        let (to_a, to_b) = (Wire::to(a.address).await, Wire::to(b.address).await);
        let (a_key, b_key) = (a.key, b.key);
        tokio::join!(
            a.begin_dial(Some(b_key), to_b.address),
            b.begin_dial(Some(a_key), to_a.address)
        );
        // Requests flow all the while, and none may be lost to the tidying.
        let b = b.serve();
        let (mut ups, mut dialled, mut answers) = (0, 0, 0_u32);
        let begun = Instant::now();
        a.until(|event| matches!(event, Event::LinkUp { .. }).then_some(())).await;
        ups += 1;
        while begun.elapsed() < Duration::from_millis(1500) {
            a.send(Command::Request { id: 1000, peer: b.key, bytes: b"xy".to_vec() }).await;
            loop {
                match a.next().await {
                    Event::Response { result, .. } => {
                        assert_eq!(result.unwrap(), b"yx");
                        answers += 1;
                        break;
                    }
                    Event::LinkUp { .. } => ups += 1,
                    Event::Dialled { .. } => dialled += 1,
                    other => panic!("{other:?}"),
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!((ups, dialled), (1, 1));
        assert!(answers > 10);
        let seen = b.seen.lock().unwrap().clone();
        let count = |name: &str| seen.iter().filter(|text| text.starts_with(name)).count();
        assert_eq!((count("LinkUp"), count("LinkDown")), (1, 0), "{seen:?}");
        assert_eq!(count("Dialled"), 1, "{seen:?}");
        let smaller_dialled = if a.key < b.key { &to_b } else { &to_a };
        let larger_dialled = if a.key < b.key { &to_a } else { &to_b };
        assert_eq!(smaller_dialled.open(), 1);
        assert_eq!(larger_dialled.open(), 0);
    }
}

#[tokio::test]
async fn dialling_a_linked_peer_again_changes_nothing_for_the_engine() {
    let timing = Timing { duplicate_grace: Duration::from_millis(50), ..Timing::default() };
    let mut a = Node::with(1, Setup { timing, ..Setup::default() }).await;
    let b = Node::new(2).await.serve();
    let wire = Wire::to(b.address).await;
    for _ in 0..4 {
        a.dial(Some(b.key), wire.address).await.unwrap();
    }
    let one_left = async {
        while wire.open() > 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), one_left).await.expect("the others are closed");
    assert_eq!(a.ask(b.key, b"12").await.unwrap(), b"21");
    let seen = b.seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 1, "{seen:?}");
}

#[tokio::test]
async fn gossip_goes_at_once_also_when_the_first_connection_was_the_surplus_one() {
    let timing = Timing { duplicate_grace: Duration::from_millis(50), ..Timing::default() };
    // Only gossip itself may bring it, not the stir of a liveness probe.
    assert!(timing.ping_interval > Duration::from_secs(5));
    let mut a = Node::with(1, Setup { timing, ..Setup::default() }).await;
    let mut b = Node::new(2).await;
    let (first, second) = (Wire::to(b.address).await, Wire::to(b.address).await);
    a.dial(Some(b.key), first.address).await.unwrap();
    hears(&a, &mut b, b"before").await;
    a.dial(Some(b.key), second.address).await.unwrap();
    let settled = async {
        while first.open() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), settled).await.expect("the first is closed");
    assert_eq!(second.open(), 1);
    // Whatever the tidying stirred up has settled.
    tokio::time::sleep(Duration::from_millis(500)).await;
    a.send(Command::Publish(b"after".to_vec())).await;
    let heard = b.until(|event| {
        matches!(event, Event::Gossip { bytes, .. } if bytes == b"after").then_some(())
    });
    tokio::time::timeout(Duration::from_secs(2), heard).await.expect("gossip goes at once");
}

/// Publishes anew until it is heard: subscriptions take a moment to be known.
async fn hears(a: &Node, b: &mut Node, word: &[u8]) {
    let talk = async {
        for number in 0_u32.. {
            let message = [word, &number.to_be_bytes()].concat();
            a.send(Command::Publish(message)).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let heard = b.until(|event| matches!(event, Event::Gossip { .. }).then_some(()));
    tokio::select! {
        () = heard => {}
        () = talk => unreachable!(),
    }
}

#[test]
fn the_death_of_a_node_is_seen_within_two_seconds() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    };
    let (here, there) = (runtime(), runtime());
    let victim = there.block_on(Node::new(2));
    here.block_on(async {
        let mut a = Node::new(1).await;
        a.dial(Some(victim.key), victim.address).await.unwrap();
        let begun = Instant::now();
        there.shutdown_background();
        assert_eq!(a.link_down().await, key(2));
        assert!(begun.elapsed() < Duration::from_secs(2));
    });
    drop(victim);
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_given_up_and_a_living_one_is_not() {
    let setup = || Setup { timing: quick(), ..Setup::default() };
    let (mut a, mut b) = (Node::with(1, setup()).await, Node::with(2, setup()).await);
    let wire = Wire::to(b.address).await;
    a.dial(Some(b.key), wire.address).await.unwrap();
    b.link_up().await;
    // Many intervals in good health.
    assert!(a.events_for(Duration::from_secs(2)).await.is_empty());
    wire.cut();
    let begun = Instant::now();
    assert_eq!(a.link_down().await, b.key);
    assert_eq!(b.link_down().await, a.key);
    assert!(begun.elapsed() < Duration::from_millis(1500), "{begun:?}");
}

#[tokio::test]
async fn links_that_are_checked_go_at_once_if_nothing_comes_through_and_stay_if_it_does() {
    let mut a = Node::new(1).await;
    let (b, c) = (Node::new(2).await, Node::new(3).await.serve());
    let wire = Wire::to(b.address).await;
    a.dial(Some(b.key), wire.address).await.unwrap();
    a.dial(Some(c.key), c.address).await.unwrap();
    a.send(Command::CheckLinks).await;
    assert!(a.events_for(Duration::from_secs(2)).await.is_empty());
    wire.cut();
    let begun = Instant::now();
    a.send(Command::CheckLinks).await;
    assert_eq!(a.link_down().await, b.key);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(a.events_for(Duration::from_secs(1)).await.is_empty());
    assert_eq!(a.ask(c.key, b"?").await.map(|answer| answer.len()), Ok(1));
}

#[tokio::test]
async fn a_disconnected_peer_is_down_at_once_on_both_sides() {
    let (mut a, mut b) = (Node::new(1).await, Node::new(2).await);
    a.dial(Some(b.key), b.address).await.unwrap();
    b.link_up().await;
    a.send(Command::Disconnect(b.key)).await;
    a.send(Command::Request { id: 7, peer: b.key, bytes: Vec::new() }).await;
    assert!(matches!(a.next().await, Event::LinkDown { peer } if peer == b.key));
    let answer = a.next().await;
    assert!(
        matches!(answer, Event::Response { id: 7, result: Err(RequestError::NotLinked) }),
        "{answer:?}"
    );
    assert_eq!(b.link_down().await, a.key);
    // And it may come back.
    b.dial(Some(a.key), a.address).await.unwrap();
    assert_eq!(a.link_up().await, b.key);
}

#[tokio::test]
async fn shutdown_says_goodbye_to_every_peer_and_ends_the_events() {
    let (mut a, mut b) = (Node::new(1).await, Node::new(2).await);
    a.dial(Some(b.key), b.address).await.unwrap();
    b.link_up().await;
    let begun = Instant::now();
    a.send(Command::Shutdown).await;
    assert_eq!(b.link_down().await, a.key);
    assert!(begun.elapsed() < Duration::from_millis(500));
    while a.events.recv().await.is_some() {}
    assert!(a.handle.send(Command::Shutdown).await.is_err());
    assert_eq!(b.dial(None, a.address).await, Err(DialError::Closed));
}

#[tokio::test]
async fn a_control_plane_that_its_engine_has_left_stops_and_peers_see_it() {
    let (mut a, mut b, mut c) = (Node::new(1).await, Node::new(2).await, Node::new(3).await);
    a.dial(Some(b.key), b.address).await.unwrap();
    c.dial(Some(b.key), b.address).await.unwrap();
    drop(a.handle);
    while a.events.recv().await.is_some() {}
    assert_eq!(b.link_down().await, a.key);
    drop(c.events);
    // It notices with the next thing that it has to tell.
    while c.handle.send(Command::Request { id: 1, peer: a.key, bytes: Vec::new() }).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(b.link_down().await, c.key);
}

#[tokio::test]
async fn a_dead_connection_beside_a_new_one_is_found_out_quickly() {
    let setup = || Setup {
        // Probes of a suspect take a quarter of this.
        timing: Timing { ping_timeout: Duration::from_secs(2), ..Timing::default() },
        ..Setup::default()
    };
    for (first, second, same_direction) in
        [(1, 2, true), (2, 1, true), (1, 2, false), (2, 1, false)]
    {
        let mut a = Node::with(first, setup()).await;
        let (a_key, a_address) = (a.key, a.address);
        let b = Node::with(second, setup()).await.serve();
        let old = Wire::to(b.address).await;
        a.dial(Some(b.key), old.address).await.unwrap();
        b.seen("LinkUp").await;
        old.cut();
        if same_direction {
            a.dial(Some(b.key), b.address).await.unwrap();
        } else {
            let dial =
                Command::Dial { attempt: 1, peer: Some(a_key), address: a_address, secret: 0 };
            b.handle.send(dial).await.unwrap();
            b.seen("Dialled").await;
            // Once it has been asked over the new connection, A knows of it too.
            let request = Command::Request { id: 7, peer: a_key, bytes: Vec::new() };
            b.handle.send(request).await.unwrap();
            let Event::Request { channel, .. } = a.next().await else {
                panic!("nothing else is new");
            };
            a.send(Command::Respond { channel, bytes: Vec::new() }).await;
            b.seen("Response { id: 7, result: Ok").await;
        }
        // Requests must not meet the dead one, found out or not.
        for _ in 0..4 {
            assert_eq!(a.ask(b.key, b"12").await.unwrap(), b"21");
        }
        let found_out = async {
            while old.ended() < 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let found_out = tokio::time::timeout(Duration::from_secs(2), found_out).await;
        found_out.expect("both ends hang up");
        assert_eq!(a.ask(b.key, b"12").await.unwrap(), b"21");
        let seen = b.seen.lock().unwrap().clone();
        let flaps = seen.iter().filter(|event| event.starts_with("Link")).count();
        assert_eq!(flaps, 1, "one LinkUp and nothing else: {seen:?}");
        let rest = a.events_for(Duration::from_millis(100)).await;
        assert!(rest.is_empty(), "{rest:?}");
    }
}

#[tokio::test]
async fn a_peer_has_only_so_many_connections() {
    let mut a = Node::with(
        1,
        Setup {
            limits: Limits { connections_per_peer: 2, ..Limits::default() },
            timing: Timing { duplicate_grace: Duration::from_mins(1), ..Timing::default() },
            ..Setup::default()
        },
    )
    .await;
    let b = Node::new(2).await.serve();
    for _ in 0..2 {
        a.dial(Some(b.key), b.address).await.unwrap();
    }
    let result = a.dial(Some(b.key), b.address).await;
    assert!(matches!(result, Err(DialError::Protocol(_))), "{result:?}");
    assert_eq!(a.ask(b.key, b"12").await.unwrap(), b"21");
}

#[tokio::test]
async fn an_engine_that_does_not_listen_holds_up_the_network_and_not_itself() {
    let mut a = Node::new(1).await;
    let mut b = Node::new(2).await;
    a.dial(Some(b.key), b.address).await.unwrap();
    // More answers than all queues hold, and nobody fetches any.
    for id in 0..2000 {
        a.send(Command::Request { id, peer: key(9), bytes: Vec::new() }).await;
    }
    for expected in 0..2000 {
        match a.next().await {
            Event::Response { id, result } => {
                assert_eq!((id, result), (expected, Err(RequestError::NotLinked)));
            }
            other => panic!("{other:?}"),
        }
    }
    b.link_up().await;
    let b = b.serve();
    assert_eq!(a.ask(b.key, b"12").await.unwrap(), b"21");
}

#[tokio::test]
async fn an_idle_link_costs_one_small_exchange_per_interval() {
    let interval = Duration::from_millis(100);
    let setup = || Setup {
        timing: Timing {
            ping_interval: interval,
            ping_timeout: Duration::from_secs(5),
            ..Timing::default()
        },
        ..Setup::default()
    };
    let mut a = Node::with(1, setup()).await;
    let b = Node::with(2, setup()).await;
    let wire = Wire::to(b.address).await;
    a.dial(Some(b.key), wire.address).await.unwrap();
    // What a new link has to say is said by then.
    a.events_for(Duration::from_secs(2)).await;
    let before = wire.bytes();
    let idle = a.events_for(interval * 30).await;
    assert!(idle.is_empty(), "{idle:?}");
    let bytes = wire.bytes() - before;
    // Each way 8 bytes, with 12 of yamux and 18 of Noise around them.
    let exchange = 2 * (8 + 12 + 18);
    assert!(bytes > 10 * exchange, "the link is watched: {bytes}");
    assert!(bytes < 45 * exchange, "and by one side at a time: {bytes}");
}
