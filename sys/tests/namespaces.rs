//! Namespaces, netlink and processes against the real kernel.
//!
//! Every test makes namespaces of its own and touches no other. Making them
//! takes root; `EPSILON_E2E=off` leaves these tests out.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;

use epsilon_sys::frames::Frames;
use epsilon_sys::namespace::{Child, Command, Error};
use epsilon_sys::netlink::{self, Action, Change, MAIN_TABLE, Mark, Netlink, Prefix, Rule, Veth};
use epsilon_sys::process::{Handle, Signal, same_pid_namespace};
use epsilon_sys::udp::{Datagram, Sender};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};

const SOON: Duration = Duration::from_secs(10);

/// The first process of new namespaces: ends when its standard input does.
struct Init(Child);

impl Init {
    fn start() -> Option<Self> {
        if std::env::var_os("EPSILON_E2E").is_some_and(|value| value == "off") {
            eprintln!("not tested: EPSILON_E2E is off");
            return None;
        }
        assert!(
            nix::unistd::geteuid().is_root(),
            "namespaces take root; or leave these tests out with EPSILON_E2E=off"
        );
        // The first process of a pid namespace reaps the others.
        let script = "mount --make-rprivate / && mount -t proc proc /proc && echo ready \
                      && while read -r _; do :; done; exit 7";
        let mut command = Command::as_init("/bin/sh");
        command.args(["-c", script]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Some(Self(child))
    }

    fn handle(&self) -> &Handle {
        self.0.process.handle()
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::inside(self.handle(), program).unwrap();
        command.args(arguments).stdin(Stdio::null());
        command
    }

    async fn print(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = self.command(program, arguments);
        command.stdout(Stdio::piped());
        let output = command.spawn().unwrap().output().await.unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    fn netlink(&self) -> Netlink {
        Netlink::open_in(self.handle().network_namespace().unwrap().as_fd()).unwrap()
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        self.0.process.signal(Signal::SIGKILL).unwrap();
        let ended = self.0.process.wait_within(SOON).unwrap();
        // A child that nobody awaited would keep its init from ending.
        assert!(ended.is_some() || std::thread::panicking());
    }
}

fn prefix(text: &str) -> Prefix {
    let (address, length) = text.split_once('/').unwrap();
    Prefix::new(address.parse::<IpAddr>().unwrap(), length.parse().unwrap())
}

#[tokio::test]
async fn a_command_runs_inside_all_the_namespaces_of_an_init() {
    let Some(init) = Init::start() else { return };
    for namespace in ["net", "mnt", "uts", "pid"] {
        let path = format!("/proc/self/ns/{namespace}");
        let inside = init.print("readlink", &[&path]).await;
        let outside = std::fs::read_link(&path).unwrap();
        assert_ne!(inside.trim(), outside.to_str().unwrap(), "{namespace}");
        let path = format!("/proc/{}/ns/{namespace}", init.handle().pid());
        let theirs = std::fs::read_link(&path).unwrap();
        assert_eq!(inside.trim(), theirs.to_str().unwrap(), "{namespace}");
    }
    // /bin/sh is process 1, and only what runs there is seen there.
    assert_eq!(init.print("cat", &["/proc/1/comm"]).await, "sh\n");
}

#[tokio::test]
async fn a_child_is_ours_with_its_streams_status_and_signals() {
    let Some(init) = Init::start() else { return };
    let mut command = init.command("sh", &["-c", "cat; echo oops >&2; exit 3"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"through").unwrap();
    let output = child.output().await.unwrap();
    assert_eq!(output.stdout, b"through");
    assert_eq!(output.stderr, b"oops\n");
    assert_eq!(output.status.code(), Some(3));

    let child = init.command("sleep", &["60"]).spawn().unwrap();
    assert_eq!(child.process.try_wait().unwrap(), None);
    child.process.signal(Signal::SIGTERM).unwrap();
    let status = child.process.wait().await.unwrap();
    assert_eq!(status.signal(), Some(Signal::SIGTERM as i32));
    assert_eq!(child.process.wait().await.unwrap(), status);
}

#[tokio::test]
async fn the_environment_and_directory_of_a_command_are_as_asked() {
    let Some(init) = Init::start() else { return };
    let mut command = init.command("/bin/sh", &["-c", "echo $GREETING; pwd"]);
    command.env_clear().env("GREETING", "hello").current_dir("/proc/1").stdout(Stdio::piped());
    let output = command.spawn().unwrap().output().await.unwrap();
    assert_eq!(output.stdout, b"hello\n/proc/1\n");
}

#[tokio::test]
async fn no_descriptor_is_inherited_but_the_streams() {
    let Some(init) = Init::start() else { return };
    // Made without the mark that exec closes it.
    let (_reader, writer) = std::io::pipe().unwrap();
    let leaky = nix::unistd::dup(&writer).unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&leaky);
    let flags = nix::fcntl::fcntl(&leaky, nix::fcntl::FcntlArg::F_GETFD).unwrap();
    assert_eq!(flags, 0, "{fd} must be inherited by ordinary children");
    let open = init.print("ls", &["/proc/self/fd"]).await;
    // The fourth is what lists them.
    assert_eq!(open, "0\n1\n2\n3\n");
}

#[tokio::test]
async fn a_missing_program_is_named_and_leaves_no_zombie() {
    let Some(init) = Init::start() else { return };
    let error = init.command("/nonexistent", &[]).spawn().unwrap_err();
    assert!(matches!(error, Error::Execute { .. }), "{error}");
    assert!(error.to_string().contains("/nonexistent"), "{error}");
    let left = same_pid_namespace(init.handle()).unwrap();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[tokio::test]
async fn a_detached_command_is_a_child_of_the_init_and_in_its_own_session() {
    let Some(init) = Init::start() else { return };
    let mut command = init.command("sleep", &["60"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let detached = command.spawn_detached().unwrap();
    let pid = detached.process.pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = format!("PPid:\t{}\n", init.handle().pid());
    assert!(status.contains(&parent), "{status}");
    let inside = same_pid_namespace(init.handle()).unwrap();
    let listed = inside.iter().find(|process| process.handle.pid() == pid).unwrap();
    assert_eq!(listed.arguments, ["sleep", "60"]);
    assert!(listed.inner_pid > 1 && listed.inner_pid < pid);
    // Everything in the pid namespace dies with its init.
    init.0.process.signal(Signal::SIGKILL).unwrap();
    detached.process.ended().await.unwrap();
}

#[tokio::test]
async fn the_namespaces_of_the_dead_cannot_be_entered() {
    let Some(mut init) = Init::start() else { return };
    drop(init.0.stdin.take());
    assert_eq!(init.0.process.wait().await.unwrap().code(), Some(7));
    let error = Command::inside(init.handle(), "true").unwrap_err();
    assert!(matches!(error, Error::Enter { .. }), "{error}");
}

#[tokio::test]
async fn addresses_and_routes_are_set_listed_and_removed_twice_over() {
    let Some(init) = Init::start() else { return };
    let netlink = init.netlink();
    let links = netlink.links().await.unwrap();
    assert!(links.iter().any(|link| link.name == "lo" && link.loopback));
    for _ in 0..2 {
        netlink.add_bridge("br0").await.unwrap();
        netlink.add_address("br0", prefix("10.1.2.3/24")).await.unwrap();
        netlink.add_address("br0", prefix("fd00:1::3/64")).await.unwrap();
        let on_link = prefix("10.9.0.0/16");
        netlink.add_route("br0", on_link, None).await.unwrap();
        let gateway = Some(IpAddr::from(Ipv4Addr::new(10, 1, 2, 1)));
        let default = prefix("0.0.0.0/0");
        netlink.add_route("br0", default, gateway).await.unwrap();
        let gateway6 = Some("fd00:1::1".parse::<Ipv6Addr>().unwrap().into());
        // The host bits are the caller's business, not an error.
        let wide = prefix("fd09::7/32");
        netlink.add_route("br0", wide, gateway6).await.unwrap();
    }
    netlink.set_mtu("br0", 1400).await.unwrap();
    netlink.set_alias("br0", "the bridge").await.unwrap();

    let link = netlink.link("br0").await.unwrap();
    assert_eq!(link.kind.as_deref(), Some("bridge"));
    assert_eq!(link.alias.as_deref(), Some("the bridge"));
    assert_eq!(link.mtu, 1400);
    assert!(link.up);

    let addresses = netlink.addresses().await.unwrap();
    for expected in ["10.1.2.3/24", "fd00:1::3/64"] {
        let found = addresses.iter().find(|address| address.prefix == prefix(expected)).unwrap();
        assert_eq!(found.interface, link.index);
        assert!(found.usable, "{expected} waits for duplicate detection");
    }

    let routes = netlink.routes().await.unwrap();
    let route = |destination: &str| {
        let found: Vec<_> =
            routes.iter().filter(|route| route.destination == prefix(destination)).collect();
        assert_eq!(found.len(), 1, "{destination} in {routes:?}");
        assert_eq!(found[0].interface, Some(link.index));
        found[0].gateway.map(|gateway| gateway.to_string())
    };
    assert_eq!(route("10.9.0.0/16"), None);
    assert_eq!(route("10.1.2.0/24"), None);
    assert_eq!(route("0.0.0.0/0").as_deref(), Some("10.1.2.1"));
    assert_eq!(route("fd09::/32").as_deref(), Some("fd00:1::1"));

    for _ in 0..2 {
        netlink.remove_route("br0", prefix("10.9.0.0/16"), None).await.unwrap();
        netlink.remove_address("br0", prefix("10.1.2.3/24")).await.unwrap();
        netlink.remove_address("br0", prefix("fd00:1::3/64")).await.unwrap();
    }
    let left = netlink.addresses().await.unwrap();
    assert!(
        left.iter().all(|address| address.prefix.address != prefix("10.1.2.3/24").address),
        "{left:?}"
    );
    for _ in 0..2 {
        netlink.delete_link("br0").await.unwrap();
    }
}

#[tokio::test]
async fn rules_and_tables_of_our_own_are_set_kept_and_removed() {
    let Some(init) = Init::start() else { return };
    let netlink = init.netlink();
    netlink.set_up("lo").await.unwrap();
    netlink.add_bridge("br0").await.unwrap();
    netlink.add_address("br0", prefix("10.1.2.3/24")).await.unwrap();
    let rule = |priority, is_v4, action| Rule {
        priority,
        is_v4,
        from: None,
        mark: None,
        is_local: false,
        action,
    };
    let from: IpAddr = "10.1.2.3".parse().unwrap();
    let mark = |excludes| Some(Mark { value: 0x55, mask: 0xff, excludes });
    let all = |is_v4| {
        [
            rule(7752, is_v4, Action::LookBesidesDefault(MAIN_TABLE)),
            Rule { mark: mark(true), ..rule(7753, is_v4, Action::Look(7755)) },
            Rule { mark: mark(false), ..rule(7754, is_v4, Action::Unreachable) },
            Rule { is_local: true, ..rule(7755, is_v4, Action::Look(7755)) },
        ]
    };
    let first = Rule { from: Some(from), ..rule(7751, true, Action::Look(MAIN_TABLE)) };
    let rules = [&[first][..], &all(true), &all(false)].concat();
    let routes = [prefix("192.168.10.0/24"), prefix("0.0.0.0/0"), prefix("fd12::/64")];
    let exceptions = [prefix("192.168.0.0/16"), prefix("fc00::/7")];
    for _ in 0..2 {
        netlink.set_rules(7750..=7755, &rules).await.unwrap();
        netlink.set_table(7755, "br0", &routes, &exceptions).await.unwrap();
    }
    let shown = init.print("ip", &["rule"]).await;
    let ours: Vec<&str> = shown.lines().filter(|line| line.starts_with("775")).collect();
    assert_eq!(ours.len(), 5, "{shown}");
    assert!(ours[0].contains("from 10.1.2.3 lookup main"), "{shown}");
    assert!(ours[1].contains("from all lookup main suppress_prefixlength 0"), "{shown}");
    assert!(ours[2].contains("not from all fwmark 0x55/0xff lookup 7755"), "{shown}");
    assert!(ours[3].contains("from all fwmark 0x55/0xff unreachable"), "{shown}");
    assert!(ours[4].contains("from all iif lo lookup 7755"), "{shown}");
    let way = init.print("ip", &["route", "get", "192.168.10.7"]).await;
    assert!(way.contains("dev br0 table 7755 src 10.1.2.3"), "{way}");
    let way = init.print("ip", &["route", "show", "table", "7755"]).await;
    assert!(way.contains("192.168.10.0/24 dev br0"), "{way}");
    assert!(way.contains("throw 192.168.0.0/16"), "{way}");
    let main = netlink.routes().await.unwrap();
    assert!(main.iter().all(|route| !routes.contains(&route.destination)), "{main:?}");

    netlink.set_table(7755, "br0", &routes[2..], &[]).await.unwrap();
    netlink.set_rules(7750..=7755, &rules[..1]).await.unwrap();
    let shown = init.print("ip", &["rule"]).await;
    assert_eq!(shown.lines().filter(|line| line.starts_with("775")).count(), 1, "{shown}");
    let way = init.print("ip", &["-6", "route", "show", "table", "7755"]).await;
    assert!(way.contains("fd12::/64 dev br0"), "{way}");
}

#[tokio::test]
async fn a_route_of_somebody_else_is_named_and_not_replaced() {
    let Some(init) = Init::start() else { return };
    let netlink = init.netlink();
    netlink.add_bridge("br0").await.unwrap();
    netlink.add_bridge("br1").await.unwrap();
    for range in [prefix("10.9.0.0/16"), prefix("fd09::/48")] {
        netlink.add_route("br0", range, None).await.unwrap();
    }
    let range = prefix("10.9.0.0/16");
    let error = netlink.add_route("br1", range, None).await.unwrap_err();
    assert!(matches!(error, netlink::Error::RouteTaken { .. }), "{error}");
    assert!(error.to_string().contains("10.9.0.0/16"), "{error}");
    let first = netlink.link("br0").await.unwrap().index;
    let routes = netlink.routes().await.unwrap();
    let owners: Vec<_> = routes
        .iter()
        .filter(|route| route.destination == range)
        .map(|route| route.interface)
        .collect();
    assert_eq!(owners, [Some(first)]);
}

#[tokio::test]
async fn a_message_that_is_too_long_for_its_route_goes_one_by_one_and_others_stay_joined() {
    let Some(init) = Init::start() else { return };
    let netlink = init.netlink();
    netlink.set_up("lo").await.unwrap();
    let namespace = init.handle().network_namespace().unwrap();
    let sockets = std::thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap())
    });
    let [from, to] = sockets.join().unwrap();
    let address = to.local_addr().unwrap();
    to.set_read_timeout(Some(SOON)).unwrap();
    let mut sender = Sender::default();
    let mut send = |size: usize| {
        let before = sender.carried();
        let payload = vec![size as u8; size];
        let datagrams =
            (0..8).map(|_| Datagram { address, own: None, ecn: 0, whole: false, bytes: &payload });
        sender.send(|_, _| Some(from.as_fd()), datagrams, |error, _| panic!("{error}"));
        let mut got = vec![0; 2000];
        for _ in 0..8 {
            let length = to.recv(&mut got).unwrap();
            assert!(got[..length] == payload, "{size}");
        }
        assert!(sender.segments());
        sender.carried().messages - before.messages
    };
    assert_eq!(send(1400), 1);
    netlink.set_mtu("lo", 1300).await.unwrap();
    assert_eq!(send(1400), 8);
    assert_eq!(send(1200), 1);
}

#[tokio::test]
async fn a_missing_interface_is_named() {
    let Some(init) = Init::start() else { return };
    let netlink = init.netlink();
    for error in [
        netlink.link("eth7").await.unwrap_err(),
        netlink.set_up("eth7").await.unwrap_err(),
        netlink.set_mtu("eth7", 1400).await.unwrap_err(),
        netlink.add_address("eth7", prefix("10.0.0.1/24")).await.unwrap_err(),
        netlink.add_route("eth7", prefix("10.0.0.0/24"), None).await.unwrap_err(),
    ] {
        assert!(error.to_string().contains("eth7"), "{error}");
    }
    let error = netlink.set_up(4711).await.unwrap_err();
    assert!(error.to_string().contains("index 4711"), "{error}");
}

#[tokio::test]
async fn what_the_kernel_refuses_says_what_and_to_whom() {
    let Some(init) = Init::start() else { return };
    let netlink = init.netlink();
    let error = netlink.add_address("lo", prefix("10.0.0.1/33")).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("10.0.0.1/33") && text.contains("lo"), "{text}");
    assert_eq!(error.errno(), Some(nix::libc::EINVAL));
}

#[tokio::test]
async fn an_address_of_another_length_is_not_taken_for_the_one_asked_for() {
    let Some(init) = Init::start() else { return };
    let netlink = init.netlink();
    netlink.add_bridge("br0").await.unwrap();
    netlink.add_address("br0", prefix("fd00:1::3/64")).await.unwrap();
    let error = netlink.add_address("br0", prefix("fd00:1::3/48")).await.unwrap_err();
    assert_eq!(error.errno(), Some(nix::libc::EEXIST));
    assert!(error.to_string().contains("fd00:1::3/48"), "{error}");
}

#[tokio::test]
async fn a_veth_pair_spans_two_namespaces_and_dies_as_one() {
    let (Some(left), Some(right)) = (Init::start(), Init::start()) else {
        return;
    };
    let (near, far) = (left.netlink(), right.netlink());
    let namespace = right.handle().network_namespace().unwrap();
    near.add_bridge("br0").await.unwrap();
    near.add_veth(Veth { name: "port1", peer: "eth0", peer_namespace: Some(namespace.as_fd()) })
        .await
        .unwrap();
    near.attach("port1", "br0").await.unwrap();
    near.set_up("port1").await.unwrap();
    far.set_up("eth0").await.unwrap();
    let bridge = near.link("br0").await.unwrap().index;
    assert_eq!(near.link("port1").await.unwrap().controller, Some(bridge));
    assert!(far.link("eth0").await.unwrap().carrier);
    near.set_down("port1").await.unwrap();
    assert!(!far.link("eth0").await.unwrap().carrier);
    near.set_down("port1").await.unwrap();
    near.set_name("port1", "port2").await.unwrap();

    far.add_bridge("br1").await.unwrap();
    let home = left.handle().network_namespace().unwrap();
    far.move_to("br1", home.as_fd()).await.unwrap_err();
    far.move_to("eth0", home.as_fd()).await.unwrap();
    near.link("eth0").await.unwrap();
    near.delete_link("port2").await.unwrap();
    assert!(near.link("eth0").await.is_err());
}

#[tokio::test]
async fn frames_pass_whole_and_what_is_sent_is_not_seen_by_the_sender() {
    let (Some(left), Some(right)) = (Init::start(), Init::start()) else {
        return;
    };
    let namespace = right.handle().network_namespace().unwrap();
    let near = left.netlink();
    near.add_veth(Veth { name: "eth0", peer: "eth0", peer_namespace: Some(namespace.as_fd()) })
        .await
        .unwrap();
    near.set_up("eth0").await.unwrap();
    right.netlink().set_up("eth0").await.unwrap();
    near.set_offload("eth0", false).unwrap();
    near.set_offload("eth0", true).unwrap();
    let error = near.set_offload("eth7", false).unwrap_err();
    assert!(error.to_string().contains("eth7"), "{error}");
    assert!(near.set_offload("a-name-longer-than-any-interface", false).is_err());

    let open = |init: &Init| {
        let namespace = init.handle().network_namespace().unwrap();
        let opening = std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            assert!(Frames::open("eth7").is_err());
            Frames::open("eth0").unwrap()
        });
        opening.join().unwrap()
    };
    let (from, to) = (open(&left), open(&right));
    // Of a kind for experiments, so that it is told apart from what the kernel says.
    let frame =
        |byte| [[0xff; 6].as_slice(), &[2, 0, 0, 0, 0, 1, 0x88, 0xb5], &[byte; 1500]].concat();
    for byte in [1, 2] {
        from.send(&frame(byte)).unwrap();
    }
    assert!(from.send(&[0; 2000]).is_err());
    to.send(&frame(3)).unwrap();
    let next = |frames: &Frames| {
        let mut room = [0; 2048];
        loop {
            let mut fds = [PollFd::new(frames.as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut fds, PollTimeout::try_from(SOON).unwrap()), Ok(1));
            let length = frames.recv(&mut room).unwrap();
            if room[12..14] == [0x88, 0xb5] {
                return room[..length].to_vec();
            }
        }
    };
    assert!(next(&to) == frame(1) && next(&to) == frame(2));
    assert!(next(&from) == frame(3));
}

type Wanted<'a> = dyn Fn(&Change) -> bool + 'a;

#[tokio::test]
async fn changes_are_reported_as_they_happen() {
    let Some(init) = Init::start() else { return };
    let netlink = init.netlink();
    let mut changes = netlink.changes().unwrap();
    netlink.add_bridge("br0").await.unwrap();
    let address = prefix("10.1.2.3/24");
    netlink.add_address("br0", address).await.unwrap();
    let route = prefix("10.9.0.0/16");
    netlink.add_route("br0", route, None).await.unwrap();
    netlink.remove_route("br0", route, None).await.unwrap();
    netlink.remove_address("br0", address).await.unwrap();
    netlink.delete_link("br0").await.unwrap();

    let expected: [(&str, &Wanted<'_>); 6] = [
        ("link set", &|change| matches!(change, Change::LinkSet(link) if link.name == "br0")),
        (
            "address set",
            &|change| matches!(change, Change::AddressSet(found) if found.prefix == address),
        ),
        (
            "route set",
            &|change| matches!(change, Change::RouteSet(found) if found.destination == route),
        ),
        (
            "route gone",
            &|change| matches!(change, Change::RouteGone(found) if found.destination == route),
        ),
        (
            "address gone",
            &|change| matches!(change, Change::AddressGone(found) if found.prefix == address),
        ),
        ("link gone", &|change| matches!(change, Change::LinkGone(link) if link.name == "br0")),
    ];
    for (what, wanted) in expected {
        let seen = async { while !wanted(&changes.next().await.unwrap()) {} };
        tokio::time::timeout(SOON, seen).await.expect(what);
    }
}

#[tokio::test]
async fn this_namespace_can_be_read_without_privilege() {
    let netlink = Netlink::open().unwrap();
    let links = netlink.links().await.unwrap();
    assert!(links.iter().any(|link| link.loopback));
    netlink.addresses().await.unwrap();
    netlink.routes().await.unwrap();
}
