//! Labs against the real kernel.
//!
//! Making them takes root or a user namespace; `EPSILON_E2E=off` leaves these
//! tests out.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod commands;
mod links;

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use epsilon_cli::lab::{
    Error, Host, INIT_ARGUMENT, Lab, Lifetime, Program, Spec, names, preflight,
};
use epsilon_sys::netlink::Netlink;
use epsilon_sys::process::{self, Signal};
use nix::sched::{CloneFlags, setns};

const EPSILON: &str = env!("CARGO_BIN_EXE_epsilon");
const SOON: Duration = Duration::from_secs(20);

fn possible() -> bool {
    if std::env::var_os("EPSILON_E2E").is_some_and(|value| value == "off") {
        eprintln!("not tested: EPSILON_E2E is off");
        return false;
    }
    if let Err(error) = preflight() {
        panic!("{error}; or leave these tests out with EPSILON_E2E=off");
    }
    true
}

fn ephemeral<const SITES: usize>(sites: [u16; SITES]) -> Spec {
    Spec::ephemeral(sites, EPSILON)
}

/// The inits of a lab that are running.
fn inits(lab: &str) -> usize {
    process::find(
        |arguments| matches!(arguments, [_, mark, name, _] if mark == INIT_ARGUMENT && name == lab),
    )
    .unwrap()
    .len()
}

fn assert_nothing_left_of(lab: &str) {
    assert_eq!(inits(lab), 0, "processes of {lab} are left");
    assert!(!names().iter().any(|name| name == lab), "files of {lab} are left");
}

/// Takes a lasting lab down, even if its test failed.
struct Down(String);

impl Drop for Down {
    fn drop(&mut self) {
        let down = Lab::down(&self.0);
        assert!(down.is_ok() || thread::panicking(), "{down:?}");
    }
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {SOON:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Calls `work` in the network namespace of a host.
fn on<T: Send>(host: &Host, work: impl FnOnce() -> T + Send) -> T {
    let namespace = std::fs::File::open(format!("/proc/{}/ns/net", host.pid())).unwrap();
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

/// Whether a datagram from `from` to `to` is answered within `patience`.
fn answers(from: &Host, to: &Host, address: IpAddr, patience: Duration) -> bool {
    let server = on(to, || UdpSocket::bind(SocketAddr::new(address, 0)).unwrap());
    server.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let target = server.local_addr().unwrap();
    let (stop, stopped) = mpsc::channel::<()>();
    let echo = thread::spawn(move || {
        let mut buffer = [0; 16];
        while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
            if let Ok((length, sender)) = server.recv_from(&mut buffer) {
                // Unreachable for now is what some tests are about.
                let _ = server.send_to(&buffer[..length], sender);
            }
        }
    });
    let client = on(from, || {
        let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        UdpSocket::bind(any).unwrap()
    });
    client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let deadline = Instant::now() + patience;
    let mut answered = false;
    while !answered && Instant::now() < deadline {
        let _ = client.send_to(b"hello", target);
        answered = client.recv_from(&mut [0; 16]).is_ok();
    }
    drop(stop);
    echo.join().unwrap();
    answered
}

fn assert_reaches(from: &Host, to: &Host) {
    for address in [IpAddr::from(to.ipv4()), to.ipv6().into()] {
        assert!(
            answers(from, to, address, SOON),
            "{} does not reach {} at {address}",
            from.name(),
            to.name()
        );
    }
}

fn assert_does_not_reach(from: &Host, to: &Host) {
    for address in [IpAddr::from(to.ipv4()), to.ipv6().into()] {
        assert!(
            !answers(from, to, address, Duration::from_millis(300)),
            "{} reaches {} at {address}",
            from.name(),
            to.name()
        );
    }
}

async fn print(host: &Host, program: &str, arguments: &[&str]) -> String {
    let output = host.run(program, arguments).await.unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn hosts_of_all_sites_reach_one_another_in_both_families() {
    if !possible() {
        return;
    }
    let lab = movable(Lab::up(ephemeral([2, 1]))).await.unwrap();
    assert_eq!(lab.hosts().iter().map(Host::site).collect::<Vec<_>>(), [1, 1, 2]);
    for from in lab.hosts() {
        for to in lab.hosts() {
            assert_reaches(from, to);
        }
    }
}

#[tokio::test]
async fn a_cut_site_is_alone_but_whole_and_heals() {
    if !possible() {
        return;
    }
    let lab = Lab::up(ephemeral([2, 1])).await.unwrap();
    let [one, two, three] = lab.hosts() else { panic!("three hosts") };
    lab.cut(1).await.unwrap();
    assert_does_not_reach(one, three);
    assert_does_not_reach(three, two);
    assert_reaches(one, two);
    lab.heal(1).await.unwrap();
    assert_reaches(one, three);
    assert_reaches(three, two);
    assert!(matches!(lab.cut(3).await, Err(Error::NoSuchSite { site: 3, .. })));
}

#[tokio::test]
async fn an_unplugged_host_keeps_its_addresses_and_comes_back() {
    if !possible() {
        return;
    }
    let lab = Lab::up(ephemeral([3])).await.unwrap();
    let [one, two, three] = lab.hosts() else { panic!("three hosts") };
    let before = one.netlink().unwrap().addresses().await.unwrap();
    lab.unplug("n1").await.unwrap();
    assert!(!one.netlink().unwrap().link("eth0").await.unwrap().carrier);
    assert_does_not_reach(one, two);
    assert_does_not_reach(two, one);
    assert_reaches(two, three);
    let during = one.netlink().unwrap().addresses().await.unwrap();
    for kept in [IpAddr::from(one.ipv4()), one.ipv6().into()] {
        assert!(during.iter().any(|address| address.prefix.address == kept));
    }
    lab.plug("n1").await.unwrap();
    assert_reaches(one, two);
    assert_reaches(two, one);
    assert_eq!(one.netlink().unwrap().addresses().await.unwrap().len(), before.len());
}

#[tokio::test]
async fn a_host_is_a_machine_of_its_own() {
    if !possible() {
        return;
    }
    let machine_id = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let lab = Lab::up(ephemeral([2])).await.unwrap();
    let [one, two] = lab.hosts() else { panic!("two hosts") };
    assert_eq!(
        print(one, "cat", &["/proc/sys/kernel/hostname", "/etc/hostname"]).await,
        "n1\nn1\n"
    );
    let ids = [
        print(one, "cat", &["/etc/machine-id"]).await,
        print(two, "cat", &["/etc/machine-id"]).await,
        machine_id.clone(),
    ];
    assert!(ids[0] != ids[1] && ids[0] != ids[2] && ids[1] != ids[2], "{ids:?}");
    assert_eq!(ids[0].trim().len(), 32);

    // Own files in the default places, and an /etc whose changes stay inside.
    for directory in ["/run", "/etc/epsilon", "/var/lib/epsilon"] {
        assert_eq!(print(one, "ls", &["-A", directory]).await, "", "{directory}");
        print(one, "touch", &[&format!("{directory}/mark")]).await;
        assert_eq!(print(two, "ls", &["-A", directory]).await, "", "{directory}");
        assert!(!Path::new(directory).join("mark").exists(), "{directory}");
    }
    print(one, "sh", &["-c", "echo mine > /etc/new && mv /etc/new /etc/resolv.conf"]).await;
    assert_eq!(print(one, "cat", &["/etc/resolv.conf"]).await, "mine\n");
    assert_eq!(print(two, "cat", &["/etc/resolv.conf"]).await, "");
    assert_eq!(std::fs::read_to_string("/etc/machine-id").unwrap_or_default(), machine_id);

    // Own processes and interfaces, and no way out.
    assert_eq!(
        print(one, "sh", &["-c", "tr '\\0' ' ' < /proc/1/cmdline"]).await.trim(),
        format!("{EPSILON} {INIT_ARGUMENT} {} n1", lab.name())
    );
    assert_eq!(print(one, "ls", &["/sys/class/net"]).await, "eth0\nlo\n");
    let links = Netlink::open().unwrap().links().await.unwrap();
    assert!(links.iter().all(|link| !["n1", "n2", "lan", "ix", "site1"].contains(&&*link.name)));
    let routes = one.netlink().unwrap().routes().await.unwrap();
    assert!(routes.iter().any(|route| route.destination.length == 0));
    let outside: SocketAddr = "192.0.2.1:9".parse().unwrap();
    let refused = on(one, || TcpStream::connect_timeout(&outside, SOON).unwrap_err());
    // The gateway knows no way and says so.
    assert_eq!(refused.raw_os_error(), Some(nix::libc::ENETUNREACH), "{refused}");
}

#[tokio::test]
async fn hosts_come_and_go_while_the_lab_runs() {
    if !possible() {
        return;
    }
    let mut lab = Lab::up(ephemeral([1, 1])).await.unwrap();
    let third = lab.add_host(2).await.unwrap();
    assert_eq!((third.name(), third.site()), ("n3", 2));
    assert_reaches(lab.host("n1").unwrap(), &third);
    let second = lab.host("n2").unwrap().clone();
    lab.remove_host("n2").await.unwrap();
    assert!(!second.is_running());
    assert_eq!(inits(lab.name()), 2 + 3);
    let error = lab.host("n2").unwrap_err();
    assert!(error.to_string().contains("n1, n3"), "{error}");
    let again = lab.add_host(2).await.unwrap();
    assert_eq!((again.name(), again.ipv4()), ("n2", second.ipv4()));
    assert_reaches(&third, &again);
}

#[tokio::test]
async fn a_daemon_is_killed_restarted_and_logged() {
    if !possible() {
        return;
    }
    let lab = Lab::up(ephemeral([1])).await.unwrap();
    let host = lab.host("n1").unwrap();
    let script = "trap 'echo bye; exit 5' TERM; echo up $GREETING; echo err >&2; sleep 1000 & wait";
    let program = Program::new("meshd", "/bin/sh").arg("-c").arg(script).env("GREETING", "hello");
    let mut daemon = host.start(program).unwrap();
    wait_until("the daemon is up", || daemon.log().unwrap().contains("err"));
    let inner = daemon.pid_in_host().unwrap();
    assert_ne!(inner, daemon.pid());
    let name = print(host, "cat", &[&format!("/proc/{inner}/comm")]).await;
    assert_eq!(name, "sh\n");

    let status = daemon.kill9().await.unwrap().unwrap();
    assert_eq!(status.signal(), Some(9));
    assert!(!daemon.is_running() && daemon.pid_in_host().is_none());
    daemon.restart().await.unwrap();
    wait_until("it is up again", || daemon.log().unwrap().matches("err").count() == 2);
    let status = daemon.term(SOON).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(5));
    assert_eq!(daemon.log().unwrap(), "up hello\nerr\nup hello\nerr\nbye\n");
    let logs = lab.logs();
    assert!(logs.contains("n1/meshd.log <==") && logs.contains("bye"), "{logs}");
}

#[tokio::test]
async fn a_dropped_lab_leaves_nothing_though_children_were_not_awaited() {
    if !possible() {
        return;
    }
    let lab = Lab::up(ephemeral([2])).await.unwrap();
    let name = lab.name().to_owned();
    let host = lab.host("n1").unwrap().clone();
    let mut command = host.command("sleep").unwrap();
    command.arg("1000");
    let child = command.spawn().unwrap();
    let daemon = host.start(Program::new("sleeper", "/bin/sleep").arg("1000")).unwrap();
    drop(lab);
    assert_nothing_left_of(&name);
    assert!(!daemon.is_running() && !host.is_running());
    assert_eq!(child.process.wait().await.unwrap().signal(), Some(9));
}

#[tokio::test]
async fn labs_with_the_same_addresses_do_not_meet() {
    if !possible() {
        return;
    }
    let (one, two) = tokio::join!(Lab::up(ephemeral([2])), Lab::up(ephemeral([2])));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_ne!(one.name(), two.name());
    one.unplug("n2").await.unwrap();
    assert_does_not_reach(one.host("n1").unwrap(), one.host("n2").unwrap());
    assert_reaches(two.host("n1").unwrap(), two.host("n2").unwrap());
}

#[tokio::test]
async fn a_lasting_lab_is_opened_looked_at_and_taken_down() {
    if !possible() {
        return;
    }
    let name = format!("last-{}", std::process::id());
    let _down = Down(name.clone());
    let lab = Lab::up(Spec::new(&name, 2, 2, EPSILON)).await.unwrap();
    // Nobody takes down what somebody is working on.
    assert!(Lab::down(&name).unwrap_err().to_string().contains("already running"));
    let program = Program::new("sleeper", "/bin/sleep").arg("1000");
    let daemon = lab.host("n2").unwrap().start(program).unwrap();
    let pid = daemon.pid();
    assert!(daemon.log_path().unwrap().ends_with("n2/sleeper.log"));
    drop((lab, daemon));
    assert_eq!(inits(&name), 2 + 2 + 1);
    assert!(names().contains(&name));
    let again = Lab::up(Spec::new(&name, 1, 1, EPSILON)).await.unwrap_err();
    assert!(matches!(again, Error::Exists { .. }), "{again}");

    let status = Lab::status(&name).unwrap();
    assert_eq!(status.len(), 2);
    assert_eq!((status[1].name.as_str(), status[1].site), ("n2", 2));
    assert!(status.iter().all(|host| host.init.is_some()));
    assert_eq!(status[0].processes, [""; 0]);
    assert_eq!(status[1].processes, ["/bin/sleep 1000"]);

    let mut lab = Lab::open(&name).unwrap();
    let [one, two] = lab.hosts() else { panic!("two hosts") };
    assert_reaches(one, two);
    lab.add_host(1).await.unwrap();
    drop(lab);
    let host = Lab::open_host(&name, "n3").unwrap();
    assert_eq!(print(&host, "cat", &["/etc/hostname"]).await, "n3\n");
    assert!(matches!(Lab::open_host(&name, "n4"), Err(Error::NoSuchHost { .. })));

    Lab::down(&name).unwrap();
    assert_nothing_left_of(&name);
    wait_until("the daemon is gone", || !Path::new(&format!("/proc/{pid}")).exists());
    Lab::down(&name).unwrap();
    assert!(matches!(Lab::open(&name), Err(Error::NoSuchLab { .. })));
}

#[tokio::test]
async fn a_lasting_lab_is_ended_by_who_made_it() {
    if !possible() {
        return;
    }
    let name = format!("ended-{}", std::process::id());
    let _down = Down(name.clone());
    let lab = Lab::up(Spec::new(&name, 1, 1, EPSILON)).await.unwrap();
    lab.host("n1").unwrap().start(Program::new("sleeper", "/bin/sleep").arg("1000")).unwrap();
    lab.end().unwrap();
    assert_nothing_left_of(&name);
}

#[tokio::test]
async fn what_was_made_of_a_failed_lab_stays_if_asked() {
    if !possible() {
        return;
    }
    // An init that refuses to be the second host.
    let directory = tempfile::tempdir().unwrap();
    let init = directory.path().join("epsilon");
    let script = format!("#!/bin/sh\n[ \"$3\" = n2 ] || exec {EPSILON} \"$@\"\n");
    epsilon_sys::file::write_atomic(&init, script.as_bytes(), 0o755).unwrap();
    for keep_going in [false, true] {
        let mut spec = Spec::new(format!("kept-{}", std::process::id()), 3, 1, &init);
        spec.keep_going = keep_going;
        let _down = Down(spec.name.clone());
        let error = Lab::up(spec.clone()).await.unwrap_err();
        assert!(matches!(&error, Error::Start { host, .. } if host == "n2"), "{error}");
        if keep_going {
            let running: Vec<bool> =
                Lab::status(&spec.name).unwrap().iter().map(|host| host.init.is_some()).collect();
            assert_eq!(running, [true, false]);
            let host = Lab::open_host(&spec.name, "n1").unwrap();
            assert_eq!(print(&host, "cat", &["/etc/hostname"]).await, "n1\n");
            assert!(matches!(Lab::open_host(&spec.name, "n2"), Err(Error::HostEnded { .. })));
        } else {
            assert_nothing_left_of(&spec.name);
        }
    }
}

#[tokio::test]
async fn a_lab_that_cannot_come_up_leaves_nothing() {
    if !possible() {
        return;
    }
    let mut spec = Spec::new(format!("bad-{}", std::process::id()), 1, 1, "/bin/false");
    for lifetime in [Lifetime::UntilDown, Lifetime::WithOwner] {
        spec.lifetime = lifetime;
        let error = Lab::up(spec.clone()).await.unwrap_err();
        assert!(error.to_string().contains("internet"), "{error}");
        assert_nothing_left_of(&spec.name);
    }
    spec.init = "/nonexistent".into();
    let error = Lab::up(spec.clone()).await.unwrap_err();
    assert!(error.to_string().contains("/nonexistent"), "{error}");
    assert_nothing_left_of(&spec.name);
}

#[tokio::test]
async fn a_cancelled_up_leaves_nothing() {
    if !possible() {
        return;
    }
    // Of a lab this size none is up after the longest of these.
    for milliseconds in [0, 1, 3, 10, 30] {
        let name = format!("cancel-{}-{milliseconds}", std::process::id());
        let _down = Down(name.clone());
        let up = Lab::up(Spec::new(&name, 200, 8, EPSILON));
        let result = tokio::time::timeout(Duration::from_millis(milliseconds), up).await;
        assert!(result.is_err(), "{result:?}");
        assert_nothing_left_of(&name);
    }
}

#[tokio::test]
async fn multicast_reaches_the_own_site_and_no_other() {
    if !possible() {
        return;
    }
    let lab = Lab::up(ephemeral([2, 1])).await.unwrap();
    let [sender, near, far] = lab.hosts() else { panic!("three hosts") };
    let groups = [IpAddr::from([239, 77, 55, 1]), "ff02::7755".parse().unwrap()];
    for group in groups {
        let join = |host: &Host| {
            on(host, || {
                let index = nix::net::if_::if_nametoindex("eth0").unwrap();
                let socket = match group {
                    IpAddr::V4(v4) => {
                        let socket = UdpSocket::bind("0.0.0.0:7755").unwrap();
                        socket.join_multicast_v4(&v4, &host.ipv4()).unwrap();
                        socket
                    }
                    IpAddr::V6(v6) => {
                        let socket = UdpSocket::bind("[::]:7755").unwrap();
                        socket.join_multicast_v6(&v6, index).unwrap();
                        socket
                    }
                };
                socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
                (socket, index)
            })
        };
        let (sending, index) = join(sender);
        let ((near, _), (far, _)) = (join(near), join(far));
        let target = match group {
            IpAddr::V4(v4) => SocketAddr::from((v4, 7755)),
            IpAddr::V6(v6) => std::net::SocketAddrV6::new(v6, 7755, 0, index).into(),
        };
        wait_until(&format!("{group} is heard"), || {
            sending.send_to(b"beacon", target).unwrap();
            near.recv_from(&mut [0; 16]).is_ok()
        });
        assert!(far.recv_from(&mut [0; 16]).is_err(), "{group} leaves its site");
    }
}

/// Holds a future to what a task that may move between threads needs.
fn movable<T: Send>(future: T) -> T {
    future
}

/// Starts this test program again to be the owner of a lab, and returns it
/// once the lab has so many inits.
fn owner(name: &str, lifetime: &str, started: usize) -> std::process::Child {
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "owns_a_lab", "--ignored", "--nocapture"])
        .env("LAB_NAME", name)
        .env("LAB_LIFETIME", lifetime)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("the lab has some hosts", || inits(name) >= started);
    child
}

/// Not a test: what [`owner`] runs.
#[tokio::test]
#[ignore = "run by other tests, in a process of its own"]
async fn owns_a_lab() {
    let Ok(name) = std::env::var("LAB_NAME") else { return };
    let mut spec = Spec::new(name, 20, 2, EPSILON);
    if std::env::var("LAB_LIFETIME").unwrap() == "with-owner" {
        spec.lifetime = Lifetime::WithOwner;
    }
    let lab = Lab::up(spec).await.unwrap();
    lab.host("n1").unwrap().start(Program::new("sleeper", "/bin/sleep").arg("1000")).unwrap();
    println!("lab is up");
    std::future::pending::<()>().await;
}

#[test]
fn an_ephemeral_lab_dies_with_its_killed_owner() {
    if !possible() {
        return;
    }
    let name = format!("killed-{}", std::process::id());
    let mut owner = owner(&name, "with-owner", 23);
    let lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("lab is up")));
    owner.kill().unwrap();
    owner.wait().unwrap();
    wait_until("the hosts are gone", || inits(&name) == 0);
    wait_until("the files are gone", || !names().contains(&name));
}

#[test]
fn down_removes_what_a_killed_up_left_behind() {
    if !possible() {
        return;
    }
    for started in [1, 4] {
        let name = format!("crash-{}-{started}", std::process::id());
        let _down = Down(name.clone());
        let mut owner = owner(&name, "until-down", started);
        owner.kill().unwrap();
        owner.wait().unwrap();
        Lab::down(&name).unwrap();
        assert_nothing_left_of(&name);
    }
}

#[tokio::test]
async fn a_program_in_the_foreground_gives_its_status() {
    if !possible() {
        return;
    }
    let lab = Lab::up(ephemeral([1])).await.unwrap();
    let host = lab.host("n1").unwrap();
    let status = host.run_in_foreground("sh", ["-c", "exit 9"]).await.unwrap();
    assert_eq!(status.code(), Some(9));
    let status = host.run_in_foreground("sh", ["-c", "kill -15 $$"]).await.unwrap();
    assert_eq!(status.signal(), Some(Signal::SIGTERM as i32));
    let error = host.run_in_foreground("/nonexistent", [""; 0]).await.unwrap_err();
    assert!(error.to_string().contains("/nonexistent"), "{error}");
}
