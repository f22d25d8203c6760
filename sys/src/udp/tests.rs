use std::io;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

use super::*;

fn pair(address: &str) -> (UdpSocket, UdpSocket) {
    let sockets = [(); 2].map(|()| UdpSocket::bind(address).unwrap());
    for socket in &sockets {
        Receiver::prepare(socket, socket.local_addr().unwrap().is_ipv4());
    }
    let [one, other] = sockets;
    (one, other)
}

fn received(socket: &UdpSocket, count: usize) -> Vec<(SocketAddr, u8, Vec<u8>)> {
    let (mut receiver, mut all) = (Receiver::default(), Vec::new());
    while all.len() < count {
        match receiver.receive(socket, usize::MAX) {
            Ok(_) => all
                .extend(receiver.datagrams().map(|one| (one.address, one.ecn, one.bytes.to_vec()))),
            // Loopback delivers at once, but in another context.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
    all
}

#[test]
fn datagrams_of_all_lengths_arrive_in_order_and_whole_in_both_families() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (from, to) = pair(address);
        let target = to.local_addr().unwrap();
        let lengths = [1400_usize; 100].iter().chain(&[700, 700, 3, 1400, 1]).chain(&[64; 90]);
        let sent: Vec<(u8, Vec<u8>)> = lengths
            .enumerate()
            .map(|(number, length)| ((number / 30 % 4) as u8, vec![number as u8; *length]))
            .collect();
        let mut sender = Sender::default();
        let datagrams = sent.iter().map(|(ecn, bytes)| Datagram {
            address: target,
            own: None,
            ecn: *ecn,
            whole: false,
            bytes,
        });
        sender.send(|_, _| Some(from.as_fd()), datagrams, |error, _| panic!("{error}"));
        assert!(sender.segments());
        let own = from.local_addr().unwrap();
        let got = received(&to, sent.len());
        let expected: Vec<_> = sent.into_iter().map(|(ecn, bytes)| (own, ecn, bytes)).collect();
        assert!(got == expected, "{address}");
    }
}

#[test]
fn targets_that_alternate_and_empty_datagrams_are_kept_apart() {
    let (from, one) = pair("127.0.0.1:0");
    let (_, other) = pair("127.0.0.1:0");
    let payloads: Vec<Vec<u8>> = (0..20).map(|number| vec![number; number.into()]).collect();
    let targets = [one.local_addr().unwrap(), other.local_addr().unwrap()];
    let datagrams = payloads.iter().flat_map(|bytes| {
        targets.map(|address| Datagram { address, own: None, ecn: 0, whole: false, bytes })
    });
    Sender::default().send(|_, _| Some(from.as_fd()), datagrams, |error, _| panic!("{error}"));
    for socket in [one, other] {
        let mut got = vec![[0; 100]; 20];
        for (number, buffer) in got.iter_mut().enumerate() {
            let (length, _) = socket.recv_from(buffer).unwrap();
            assert_eq!(&buffer[..length], payloads[number]);
        }
    }
}

#[test]
fn what_is_refused_is_said_and_the_rest_goes_on() {
    let (from, to) = pair("127.0.0.1:0");
    let target = to.local_addr().unwrap();
    let nowhere = "[::1]:9".parse().unwrap();
    // Longer than any datagram may be.
    let (long, short) = (vec![0; 65_530], vec![7; 10]);
    let all = [(nowhere, &short), (target, &long), (target, &short)];
    let datagrams = all.iter().map(|(address, bytes)| Datagram {
        address: *address,
        own: None,
        ecn: 0,
        whole: false,
        bytes,
    });
    let mut failures = Vec::new();
    Sender::default().send(
        |to, _| to.is_ipv4().then(|| from.as_fd()),
        datagrams,
        |error, count| failures.push((error.raw_os_error(), count)),
    );
    assert_eq!(failures, [(Some(libc::EAFNOSUPPORT), 1), (Some(libc::EMSGSIZE), 1)]);
    assert_eq!(received(&to, 1)[0].2, short);
}

#[test]
fn what_is_not_to_be_fragmented_is_never_joined() {
    let (from, to) = pair("127.0.0.1:0");
    let target = to.local_addr().unwrap();
    let payload = vec![1; 1000];
    let datagrams = (0..6).map(|n| Datagram {
        address: target,
        own: None,
        ecn: 0,
        whole: n < 3,
        bytes: &payload,
    });
    let mut sender = Sender::default();
    sender.send(|_, _| Some(from.as_fd()), datagrams, |error, _| panic!("{error}"));
    assert_eq!(received(&to, 6).len(), 6);
    assert_eq!(sender.carried().messages, 4);
}

#[test]
fn datagrams_that_are_too_long_for_one_message_go_one_by_one() {
    let (from, to) = pair("127.0.0.1:0");
    let target = to.local_addr().unwrap();
    let payload = vec![1; 40_000];
    let datagrams = (0..4).map(|_| Datagram {
        address: target,
        own: None,
        ecn: 0,
        whole: false,
        bytes: &payload,
    });
    Sender::default().send(|_, _| Some(from.as_fd()), datagrams, |error, _| panic!("{error}"));
    assert_eq!(received(&to, 4).len(), 4);
}

/// A kernel that cuts up no messages: it leaves out the checksums of this socket,
/// and refuses to cut up what has none.
fn without_segments(socket: &UdpSocket) {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is one int, which lives during the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NO_CHECK,
            (&raw const on).cast(),
            size_of_val(&on) as _,
        )
    };
    assert_eq!(set, 0);
}

#[test]
fn where_the_kernel_cuts_up_no_messages_datagrams_go_one_by_one_from_then_on() {
    let (from, to) = pair("127.0.0.1:0");
    without_segments(&from);
    let target = to.local_addr().unwrap();
    let payloads: Vec<Vec<u8>> = (0..20).map(|number| vec![number; 1000]).collect();
    let mut sender = Sender::default();
    for round in 1..=3 {
        let datagrams = payloads.iter().map(|bytes| Datagram {
            address: target,
            own: None,
            ecn: 0,
            whole: false,
            bytes,
        });
        sender.send(|_, _| Some(from.as_fd()), datagrams, |error, _| panic!("{error}"));
        assert!(matches!(sender.refusal(), Some(libc::EIO | libc::EINVAL)));
        let got: Vec<Vec<u8>> = received(&to, 20).into_iter().map(|one| one.2).collect();
        assert!(got == payloads, "round {round}");
    }
    assert_eq!((sender.carried().messages, sender.carried().packets), (60, 60));
    // In the first round one by one, after the refusal; then all in one call.
    assert_eq!(sender.carried().calls, 20 + 2);
}

#[test]
fn who_asks_one_of_several_addresses_is_answered_by_it() {
    for (bound, asked) in [("0.0.0.0:0", "127.0.0.2"), ("[::]:0", "::1")] {
        let server = UdpSocket::bind(bound).unwrap();
        let is_v4 = server.local_addr().unwrap().is_ipv4();
        Receiver::prepare(&server, is_v4);
        Receiver::tell_own(&server, is_v4);
        let asked: IpAddr = asked.parse().unwrap();
        let client = UdpSocket::bind(if is_v4 { "127.0.0.1:0" } else { "[::1]:0" }).unwrap();
        let port = server.local_addr().unwrap().port();
        client.send_to(b"question", (asked, port)).unwrap();
        let mut receiver = Receiver::default();
        while receiver.receive(&server, usize::MAX).is_err() {
            std::thread::yield_now();
        }
        let question = receiver.datagrams().next().unwrap();
        assert_eq!(question.own, Some(asked));
        let mut sender = Sender::default();
        let answers = [b"one", b"two"].map(|bytes| Datagram { bytes, ..question });
        sender.send(|_, _| Some(server.as_fd()), answers.into_iter(), |error, _| panic!("{error}"));
        for _ in answers {
            let (_, from) = client.recv_from(&mut [0; 8]).unwrap();
            assert_eq!(from, SocketAddr::new(asked, port));
        }
        assert_eq!(sender.take_strange(), []);
        // An address that the host had once.
        let gone: IpAddr = if is_v4 { "192.0.2.7" } else { "2001:db8::7" }.parse().unwrap();
        let answers = answers.map(|one| Datagram { own: Some(gone), ..one });
        sender.send(|_, _| Some(server.as_fd()), answers.into_iter(), |error, _| panic!("{error}"));
        for _ in answers {
            client.recv_from(&mut [0; 8]).unwrap();
        }
        assert_eq!(sender.take_strange(), [question.address]);
    }
}
