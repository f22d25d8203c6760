//! The control plane under a flood of strangers.
//!
//! Alone in its process, because it looks at the memory of all of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod control_support;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use control_support::{Node, Setup, TestGate};
use meshd::control::Gate;
use socket2::{Domain, Socket, Type};

/// Junk connections in all.
const JUNK: usize = 10_000;

/// Junk connections that are held open at the same time.
const HELD: usize = 300;

/// Resident memory of this process in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Connects from an address of its own for each number, or always from the same.
fn connect(target: SocketAddr, spread: bool, number: usize) -> std::io::Result<TcpStream> {
    let (high, low) = if spread { (1 + number / 250, 1 + number % 250) } else { (0, 1) };
    let from = SocketAddr::from(([127, 0, high as u8, low as u8], 0));
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&from.into())?;
    // A full backlog lets a connect wait: the flood goes on without it.
    socket.connect_timeout(&target.into(), Duration::from_secs(1))?;
    Ok(socket.into())
}

/// Connects again and again: silent ones, slow ones, rubbish, a wrong key.
///
/// Gives back how many bytes it was ever sent.
fn flood(target: SocketAddr, spread: bool, done: &AtomicUsize, stop: &AtomicBool) -> usize {
    let wrong = TestGate { key: [66; 32], slow: None };
    let mut held: VecDeque<TcpStream> = VecDeque::new();
    let mut received = 0;
    let mut drain = |mut stream: TcpStream| {
        stream.set_nonblocking(true).unwrap();
        received += stream.read(&mut [0; 64]).unwrap_or(0);
    };
    for number in 0..JUNK {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let Ok(mut stream) = connect(target, spread, number) else {
            continue;
        };
        // Being hung up on is what this is about.
        let _ = match number % 4 {
            0 => Ok(()),
            1 => stream.write_all(&[7]),
            2 => stream.write_all(&[number as u8; 200]),
            _ => stream.write_all(&wrong.greet(0)),
        };
        held.push_back(stream);
        if held.len() > HELD
            && let Some(oldest) = held.pop_front()
        {
            drain(oldest);
        }
        done.fetch_add(1, Ordering::SeqCst);
    }
    held.into_iter().for_each(drain);
    received
}

/// Within so long a member is let in, whatever others do.
const PATIENCE: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_junk_connections_keep_no_member_out_and_cost_little_memory() {
    let listener = Node::new(1).await;
    let admissions = Arc::clone(&listener.admissions);
    let listener = listener.serve();
    let mut linked = Node::new(2).await;
    linked.dial(Some(listener.key), listener.address).await.unwrap();

    let before = resident();
    let target = listener.address;
    let done = Arc::new(AtomicUsize::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let floods: Vec<_> = [false, true]
        .into_iter()
        .map(|spread| {
            let (done, stop) = (Arc::clone(&done), Arc::clone(&stop));
            std::thread::spawn(move || flood(target, spread, &done, &stop))
        })
        .collect();

    let (mut members, mut slowest, mut largest) = (0_u8, Duration::ZERO, 0);
    while floods.iter().any(|flood| !flood.is_finished()) {
        members += 1;
        assert!(members < 100, "the flood does not end");
        let mut member = Node::with(100 + members % 100, Setup::default()).await;
        let begun = Instant::now();
        // Who comes to greet late, as on a busy machine, may have given way to others: a
        // daemon dials again then.
        while let Err(error) = member.dial(Some(listener.key), listener.address).await {
            assert!(begun.elapsed() < PATIENCE, "a member is not let in: {error:?}");
        }
        slowest = slowest.max(begun.elapsed());
        largest = largest.max(resident().saturating_sub(before));
        assert_eq!(linked.ask(listener.key, b"ab").await.unwrap(), b"ba");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stop.store(true, Ordering::SeqCst);
    let received: usize = floods.into_iter().map(|flood| flood.join().unwrap()).sum();
    let done = done.load(Ordering::SeqCst);
    println!("{done} junk connections, {members} members, slowest {slowest:?}, {largest} bytes");
    assert!(done >= JUNK, "{done}");
    assert!(members > 3, "members came while it lasted: {members}");
    assert!(slowest < PATIENCE, "{slowest:?}");
    assert!(largest < 24 << 20, "{largest} bytes");
    assert_eq!(received, 0, "a stranger was sent something");
    let begun = admissions.begun.load(Ordering::SeqCst);
    assert_eq!(begun, usize::from(members) + 1, "only members came so far");
}
