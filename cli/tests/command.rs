//! The real command against a daemon that answers from a script.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Daemon, Seen, epsilon, status};

fn node() -> Value {
    status()["networks"][0]["node"].clone()
}

fn healthy() -> Value {
    let mut status = status();
    let network = &mut status["networks"][0];
    network["health"] = "ok".into();
    network["alarms"] = json!([]);
    network["problems"] = json!([]);
    network["storage"] = json!({"state": "ok", "path": "/var/lib/epsilon/blue"});
    status
}

fn joined(reachable: bool) -> Value {
    json!({
        "network": "blue", "id": "y6", "node": node(), "reachable": reachable, "already": false,
        "members": {"total": 4, "up": 3, "connecting": 0, "down": 1},
    })
}

fn created(root_key: Option<&str>) -> Value {
    let mut created = json!({
        "network": "blue", "id": "y6", "node": node(), "token": "epsilon1_abc",
        "invite": {
            "id": "inv", "state": "active", "roles": ["member"], "uses": 0,
            "created_at": "2026-11-20T10:04:13Z", "expires_at": "2026-11-21T10:04:13Z",
        },
    });
    if let Some(key) = root_key {
        created["root_key"] = key.into();
    }
    created
}

fn pong(kind: &str, rtt_us: Option<u64>) -> Value {
    let mut ping = json!({
        "peer": {"id": "n2aaaaaaaaaaaaaa", "name": "n2"}, "address": "10.77.200.31",
        "path": {"kind": kind, "endpoint": "192.0.2.8:7755"},
    });
    if let Some(rtt) = rtt_us {
        ping["rtt_us"] = rtt.into();
    }
    ping
}

// --- exit codes -----------------------------------------------------------

#[test]
fn each_kind_of_problem_is_its_exit_code_and_names_the_next_step() {
    for (kind, code) in [
        ("error", 1),
        ("usage", 2),
        ("daemon_not_running", 3),
        ("not_joined", 4),
        ("degraded", 5),
        ("timed_out", 6),
        ("unreachable", 7),
        ("relayed", 8),
        ("permission", 9),
    ] {
        let daemon = Daemon::refusing(kind, "it broke", "mend it");
        let ended = daemon.run(&["peers"]);
        assert_eq!(ended.code, code, "{kind}: {ended:?}");
        assert_eq!(ended.err, "error: it broke\nnext: mend it\n");
        assert_eq!(ended.out, "");

        let ended = daemon.run(&["peers", "-o", "json"]);
        assert_eq!(ended.code, code);
        let problem: Value = serde_json::from_str(&ended.err).unwrap();
        assert_eq!(
            problem,
            json!({"schema": "epsilon/v1", "kind": kind, "message": "it broke", "hint": "mend it"})
        );
    }
}

#[test]
fn without_a_daemon_the_code_is_3_and_the_hint_starts_it() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("epsilon.sock");
    let stale = directory.path().join("stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    for socket in [missing, stale] {
        let socket = socket.to_str().unwrap();
        let ended = epsilon(&["status"], "", &[("EPSILON_SOCKET", socket)]);
        assert_eq!(ended.code, 3, "{ended:?}");
        assert!(ended.err.contains(socket), "{}", ended.err);
        assert!(ended.err.contains("systemctl start meshd"), "{}", ended.err);
    }
}

#[test]
fn a_socket_without_permission_is_code_9_and_names_the_group() {
    let daemon = Daemon::saying(status());
    let target = env!("CARGO_BIN_EXE_epsilon");
    let closed = || fs::set_permissions(daemon.socket(), fs::Permissions::from_mode(0o600));
    closed().unwrap();
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(daemon.socket().parent().unwrap(), open).unwrap();
    // Root may do anything, so the command runs as somebody else. It has to be
    // where that user can reach it.
    let copy = daemon.file("epsilon");
    // By another process: a test that forks meanwhile would keep the copy open
    // for writing, and nobody can run that.
    assert!(Command::new("cp").arg(target).arg(&copy).status().unwrap().success());
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(&copy);
    command.arg("--socket").arg(daemon.socket()).arg("status");
    if nix::unistd::geteuid().is_root() {
        std::os::unix::process::CommandExt::uid(&mut command, 65_534);
    } else {
        fs::set_permissions(daemon.socket(), fs::Permissions::from_mode(0o000)).unwrap();
    }
    let output = command.output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(9), "{err}");
    assert!(err.contains("group: usermod -aG epsilon"), "{err}");
}

#[test]
fn status_is_0_when_all_is_well_4_before_a_join_and_5_when_degraded() {
    let mut joining = healthy();
    joining["networks"][0]["health"] = "joining".into();
    let mut none = healthy();
    none["networks"] = json!([]);
    for (document, code) in [(healthy(), 0), (joining, 4), (none, 4), (status(), 5)] {
        let daemon = Daemon::saying(document);
        for arguments in [&["status"][..], &["status", "-q"], &["status", "-o", "json"]] {
            let ended = daemon.run(arguments);
            assert_eq!(ended.code, code, "{arguments:?} {ended:?}");
        }
    }
}

#[test]
fn a_daemon_that_does_not_answer_in_time_is_code_6() {
    let daemon = Daemon::start(|_| {
        std::thread::sleep(Duration::from_secs(3));
        (200, json!({}))
    });
    let ended = daemon.run(&["peers", "--timeout", "100ms"]);
    assert_eq!(ended.code, 6, "{ended:?}");
    assert!(ended.err.contains("/v1/peers within 100 ms"), "{}", ended.err);
}

#[test]
fn ping_is_7_without_an_answer_8_through_a_relay_and_0_directly() {
    for (kind, rtt, code) in
        [("none", None, 7), ("relayed", Some(900), 8), ("direct", Some(250), 0)]
    {
        let daemon = Daemon::saying(pong(kind, rtt));
        let ended = daemon.run(&["ping", "n2", "-c", "2", "-i", "1ms"]);
        assert_eq!(ended.code, code, "{ended:?}");
    }
}

#[test]
fn arguments_that_make_no_sense_are_code_2() {
    for arguments in [
        &[][..],
        &["nonsense"],
        &["status", "--nonsense"],
        &["status", "-o", "xml"],
        &["mesh", "create", "--cluster", "nomad"],
        &["mesh", "join", "t", "--role", "king"],
        &["mesh", "join", "t", "--label", "novalue"],
        &["token", "create", "--expires", "tomorrow"],
        &["token", "create", "--uses", "0"],
        &["ping"],
        &["ping", "n2", "-i", "0"],
        &["ping", "n2", "-c", "0"],
        &["peers", "--timeout", "soon"],
        &["wait", "--for", "peers=many"],
        &["wait", "n2", "--for", "joined"],
        &["ip", "-4", "-6"],
        &["man", "nonsense"],
        &["mesh", "join"],
    ] {
        let ended = epsilon(arguments, "", &[]);
        assert_eq!(ended.code, 2, "{arguments:?}: {ended:?}");
        assert_eq!(ended.out, "");
        assert!(!ended.err.is_empty());
    }
}

// --- what people see ------------------------------------------------------

#[test]
fn status_shows_what_is_wrong_and_the_next_step() {
    let ended = Daemon::saying(status()).run(&["status"]);
    assert_eq!(
        ended.out,
        "\
● blue  degraded: 1 alarm, 1 problem
  node       n1, member, admin, site attic
  ipv4       10.77.12.5
  ipv6       fd5e:1a2b:3c4d:89ab:cdef:123:4567:89ab
  interface  eps0 up, MTU 1420, port 7755
  router     203.0.113.9:7755 (UDP and TCP), by NAT-PMP
  members    4: 3 up, 1 down
  invites    1 active of 2
  storage    full: no space left on device (/var/lib/epsilon/blue)
  since      2026-11-18 10:04:13 UTC (2 d ago), daemon 0.1.0 up 60 min

  ! alarm, 3 min ago: two machines run under the identity of n4
    next: stop one of them, or revoke it with: epsilon node revoke n4

  ! the state directory /var/lib/epsilon/blue is full
    next: free some space; nothing that was acknowledged is lost

  PEER        ADDRESS                   STATE  PATH                   RTT      MTU   SEEN      HANDSHAKE  RX       TX
  n2          10.77.200.31              up     direct 192.0.2.8:7755  0.25 ms  1380  now       60 s ago   1.4 KiB  20 MiB
  n3          10.77.9.9                 up     relayed by n2          12.3 ms  -     12 s ago  -          0 B      148 B
  n4cccccccc  fd5e:1a2b:3c4d:b:c:d:e:f  down   -                      -        -     never     -          0 B      0 B
"
    );
    assert_eq!(ended.err, "");
}

#[test]
fn status_shows_a_network_that_cannot_be_served_and_is_code_5() {
    for networks in [json!([]), healthy()["networks"].clone()] {
        let mut document = healthy();
        document["networks"] = networks;
        document["broken"] = json!([{"network": "red", "reason": "its disk is gone"}]);
        let ended = Daemon::saying(document).run(&["status"]);
        assert_eq!(ended.code, 5, "{ended:?}");
        for shown in ["red", "cannot be served", "its disk is gone", "mesh leave --network red"] {
            assert!(ended.out.contains(shown), "{}", ended.out);
        }
    }
}

#[test]
fn status_of_a_machine_without_a_network_says_how_to_get_one() {
    let mut document = status();
    document["networks"] = json!([]);
    let ended = Daemon::saying(document).run(&["status"]);
    assert_eq!(ended.code, 4);
    assert!(ended.err.contains("in no network"), "{}", ended.err);
    assert!(ended.err.contains("epsilon mesh join"), "{}", ended.err);
}

#[test]
fn peers_are_a_table_with_all_columns_where_there_is_no_terminal() {
    let peers = status()["networks"][0]["peers"].clone();
    let ended = Daemon::saying(json!({"network": "blue", "peers": peers})).run(&["peers"]);
    let lines: Vec<Vec<&str>> =
        ended.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        lines[0],
        [
            "NAME",
            "IPV4",
            "STATE",
            "PATH",
            "RTT",
            "MTU",
            "SEEN",
            "HANDSHAKE",
            "RX",
            "TX",
            "ROLES",
            "SITE",
            "IPV6",
            "LABELS"
        ]
    );
    let first = ["n2", "10.77.200.31", "up", "direct", "192.0.2.8:7755", "0.25", "ms", "1380"];
    assert_eq!(lines[1][..8], first);
    assert_eq!(lines[3][..4], ["n4cccccccc", "-", "down", "-"]);
    assert_eq!(ended.code, 0);
}

#[test]
fn ping_shows_each_probe_and_a_summary() {
    let count = std::sync::atomic::AtomicU64::new(0);
    let daemon = Daemon::start(move |_| {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        (200, pong("direct", (number != 1).then_some(200 + number * 100)))
    });
    let ended = daemon.run(&["ping", "n2", "-c", "3", "-i", "1ms", "--timeout", "700ms"]);
    assert_eq!(
        ended.out,
        "\
PING n2 (10.77.200.31)
answer from n2: seq=1 time=0.20 ms path=direct 192.0.2.8:7755
no answer from n2: seq=2
answer from n2: seq=3 time=0.40 ms path=direct 192.0.2.8:7755
--- n2 ---
3 sent, 2 answered, 33% loss
round trip min/avg/max 0.20 ms / 0.30 ms / 0.40 ms
"
    );
    assert_eq!(daemon.seen()[0].body, json!({"peer": "n2", "timeout_ms": 700}));

    let ended = daemon.run(&["ping", "n2", "-c", "1", "-q"]);
    assert!(ended.out.starts_with("--- n2 ---\n1 sent"), "{}", ended.out);
}

#[test]
fn ping_ends_with_its_summary_when_it_is_interrupted() {
    let daemon = Daemon::saying(pong("direct", Some(250)));
    let mut child = Command::new(env!("CARGO_BIN_EXE_epsilon"))
        .args(["--socket", daemon.socket().to_str().unwrap(), "ping", "n2", "-i", "60s"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut text = String::new();
    let mut byte = [0];
    while !text.contains("seq=1") {
        assert_eq!(out.read(&mut byte).unwrap(), 1, "{text}");
        text.push(char::from(byte[0]));
    }
    let child_id = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(child_id, nix::sys::signal::Signal::SIGINT).unwrap();
    out.read_to_string(&mut text).unwrap();
    assert!(text.contains("1 sent, 1 answered, 0% loss"), "{text}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn nothing_that_another_machine_says_drives_the_terminal() {
    let mut document = healthy();
    document["networks"][0]["peers"][0]["name"] = "n2\u{1b}]0;owned\u{7}".into();
    document["networks"][0]["network"] = "blue\r\u{9b}31m".into();
    document["networks"][0]["problems"] = json!([{"message": "a\nb\u{1b}[2J"}]);
    let ended = Daemon::saying(document).run(&["status"]);
    let control: Vec<char> =
        ended.out.chars().filter(|letter| letter.is_control() && *letter != '\n').collect();
    assert!(control.is_empty(), "{control:?} in {}", ended.out);
    assert!(ended.out.contains("a\u{fffd}b"), "{}", ended.out);
}

// --- documents ------------------------------------------------------------

#[test]
fn json_and_yaml_carry_the_schema_tag_and_the_same_content() {
    let daemon = Daemon::saying(status());
    let ended = daemon.run(&["status", "-o", "json"]);
    assert!(ended.out.starts_with("{\n  \"schema\": \"epsilon/v1\",\n"), "{}", ended.out);
    assert_eq!(ended.document(), status());

    let ended = daemon.run(&["status", "-o", "yaml"]);
    assert!(ended.out.starts_with("schema: epsilon/v1\n"), "{}", ended.out);
    let yaml: Value = yaml_serde::from_str(&ended.out).unwrap();
    assert_eq!(yaml, status());
}

#[test]
fn a_field_of_a_newer_daemon_is_no_error_and_another_schema_is() {
    let mut newer = healthy();
    newer["networks"][0]["weather"] = "fine".into();
    assert_eq!(Daemon::saying(newer).run(&["status"]).code, 0);

    let other = healthy().to_string().replace("epsilon/v1", "epsilon/v2");
    let ended = Daemon::saying(Value::String(other)).run(&["status"]);
    assert_eq!(ended.code, 1);
    assert!(ended.err.contains("epsilon version"), "{}", ended.err);
}

#[test]
fn whatever_answers_at_the_socket_the_command_does_not_panic() {
    for text in ["", "not json", "{}", "[]", "null", r#"{"schema":"epsilon/v1"}"#, "\u{0}"] {
        for arguments in [&["status"][..], &["peers"], &["whois", "n2"], &["ping", "n2"]] {
            for code in [200, 500] {
                let text = Value::String(text.into());
                let ended = Daemon::start(move |_| (code, text.clone())).run(arguments);
                assert_eq!(ended.code, 1, "{arguments:?} {ended:?}");
                assert!(ended.err.starts_with("error: "), "{ended:?}");
            }
        }
    }
}

#[test]
fn ping_in_json_is_one_document_per_line() {
    let ended =
        Daemon::saying(pong("direct", Some(250))).run(&["ping", "n2", "-c", "1", "-o", "json"]);
    let lines: Vec<Value> =
        ended.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().all(|line| line["schema"] == "epsilon/v1"), "{}", ended.out);
    assert_eq!(lines[0]["rtt_us"], 250);
    assert_eq!(lines[1]["summary"], "n2");
    assert_eq!(lines[1]["rtt_us"]["avg"], 250);
}

#[test]
fn events_are_lines_and_alarms_stand_out() {
    let event = |sequence: u64, severity: &str, hint: Option<&str>| {
        json!({
            "schema": "epsilon/v1", "sequence": sequence, "at": "2026-11-20T10:04:13.250Z",
            "kind": "peer_up", "severity": severity, "network": "blue", "message": "n2 is up",
            "hint": hint,
        })
    };
    let lines = format!("{}\n{}\n", event(1, "info", None), event(2, "alarm", Some("look at it")));
    let daemon = Daemon::saying(Value::String(lines));
    let ended = daemon.run(&["events"]);
    assert_eq!(
        ended.out,
        "\
2026-11-20 10:04:13  info     blue  n2 is up
2026-11-20 10:04:13  ALARM    blue  n2 is up
                     next: look at it
"
    );
    assert_eq!(ended.code, 0);
    assert_eq!(daemon.seen()[0].line, "GET /v1/events");

    // Following ends only with the daemon, which is worth an exit code.
    let ended = daemon.run(&["events", "--follow", "-o", "json"]);
    assert_eq!(ended.out.lines().count(), 2);
    assert_eq!(ended.code, 3);
    assert_eq!(daemon.seen()[1].line, "GET /v1/events?follow=true");
}

// --- requests -------------------------------------------------------------

#[test]
fn the_network_goes_into_the_query_whatever_its_name() {
    let daemon = Daemon::saying(json!({"network": "x", "peers": []}));
    daemon.run(&["peers", "--network", "a b&c=ü"]);
    assert_eq!(daemon.seen()[0].line, "GET /v1/peers?network=a%20b%26c%3D%C3%BC");
}

#[test]
fn join_takes_the_token_from_everywhere_and_sends_its_flags() {
    let daemon = Daemon::saying(joined(true));
    let file = daemon.file("token");
    fs::write(&file, "epsilon1_abc\n").unwrap();
    let file = file.to_str().unwrap();
    let at_file = format!("@{file}");
    for (arguments, variables) in [
        (&["mesh", "join", "epsilon1_abc"][..], &[][..]),
        (&["mesh", "join", "-"], &[]),
        (&["mesh", "join", &at_file], &[]),
        (&["mesh", "join"], &[("EPSILON_TOKEN", "epsilon1_abc")]),
        (&["mesh", "join"], &[("EPSILON_TOKEN_FILE", file)]),
    ] {
        let ended = daemon.run_with(arguments, "epsilon1_abc\n", variables);
        assert_eq!(ended.code, 0, "{ended:?}");
        let seen = daemon.seen().pop().unwrap();
        assert_eq!(seen.line, "POST /v1/networks/join");
        assert_eq!(seen.body["token"], "epsilon1_abc", "{arguments:?}");
    }

    let ended = daemon.run(&[
        "mesh",
        "join",
        "epsilon1_abc",
        "--role",
        "worker",
        "--name",
        "n9",
        "--site",
        "attic",
        "--advertise",
        "a:1",
        "--advertise",
        "b:2",
        "--label",
        "disk=nvme",
    ]);
    assert_eq!(
        daemon.seen().pop().unwrap().body,
        json!({
            "token": "epsilon1_abc", "role": "worker", "name": "n9", "site": "attic",
            "advertise": ["a:1", "b:2"], "labels": {"disk": "nvme"},
        })
    );
    assert_eq!(
        ended.out,
        "Joined blue as n1, with 3 other members\n\
         10.77.12.5\nfd5e:1a2b:3c4d:89ab:cdef:123:4567:89ab\n"
    );
}

#[test]
fn a_join_that_reaches_nobody_works_and_says_so() {
    let ended = Daemon::saying(joined(false)).run(&["mesh", "join", "t"]);
    assert_eq!(ended.code, 0);
    assert!(ended.err.contains("works alone"), "{}", ended.err);
    let ended = Daemon::saying(joined(false)).run(&["mesh", "join", "t", "-q"]);
    assert_eq!(ended.err, "");
}

#[test]
fn create_prints_the_token_alone_on_standard_output() {
    let daemon = Daemon::saying(created(None));
    let ended = daemon.run(&["mesh", "create"]);
    assert_eq!(ended.out, "epsilon1_abc\n");
    assert!(ended.err.contains("Network blue is made"), "{}", ended.err);
    let seen = daemon.seen().pop().unwrap();
    assert_eq!(
        seen,
        Seen {
            line: "POST /v1/networks/create".into(),
            body: json!({
                "advertise": [], "offline": false, "export_root_key": false, "cluster": "none",
            }),
        }
    );

    let flags = [
        "mesh",
        "create",
        "--name",
        "blue",
        "--range",
        "10.9.0.0/16",
        "--domain",
        "d.internal",
        "--advertise",
        "h:7755",
        "--cluster",
        "k3s",
        "-o",
        "json",
    ];
    assert_eq!(daemon.run(&flags).document()["token"], "epsilon1_abc");
    assert_eq!(
        daemon.seen().pop().unwrap().body,
        json!({
            "name": "blue", "range": "10.9.0.0/16", "domain": "d.internal",
            "advertise": ["h:7755"], "offline": false, "export_root_key": false, "cluster": "k3s",
        })
    );
    let ended = daemon.run(&["mesh", "create", "--offline"]);
    assert!(ended.code == 2 && ended.err.contains("--root-key"), "{ended:?}");
}

#[test]
fn the_root_key_goes_into_its_file_and_nowhere_else() {
    let daemon = Daemon::saying(created(Some("root-secret")));
    let path = daemon.file("root.key");
    let ended = daemon.run(&["mesh", "create", "--root-key", path.to_str().unwrap(), "-o", "json"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "root-secret\n");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!ended.out.contains("root-secret") && !ended.err.contains("root-secret"));
    assert_eq!(daemon.seen()[0].body["export_root_key"], true);

    // A second network must not overwrite the first one's root.
    let ended = daemon.run(&["mesh", "create", "--root-key", path.to_str().unwrap()]);
    assert_eq!(ended.code, 2, "{ended:?}");
    assert_eq!(daemon.seen().len(), 1, "no network is made whose key has no place");

    let ended = daemon.run(&["mesh", "create", "--root-key", "/nonexistent/root.key"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert_eq!(daemon.seen().len(), 1);
}

#[test]
fn an_admin_is_added_with_a_root_key_that_is_nobody_elses() {
    let admin = json!({
        "key": "adminkey12345", "node": {"id": "n2a", "name": "n2"}, "state": "active",
        "added_at": "2026-11-20T10:04:13Z", "own": false,
    });
    let daemon = Daemon::saying(json!({"network": "blue", "admin": admin}));
    let path = daemon.file("root.key");
    fs::write(&path, "root-secret\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let arguments = ["admin", "add", "n2", "--root-key", path.to_str().unwrap()];
    let ended = daemon.run(&arguments);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(daemon.seen().is_empty());

    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let ended = daemon.run(&arguments);
    assert_eq!(ended.out, "n2 is an admin of blue, with the key adminkey12.\n");
    assert_eq!(daemon.seen()[0].body, json!({"node": "n2", "root_key": "root-secret"}));
}

#[test]
fn commands_that_change_a_node_send_what_they_were_told() {
    let node = json!({"id": "n2aaaaaaaaaaaaaa", "name": "n2"});
    for (arguments, reply, line, body, out) in [
        (
            &["node", "revoke", "n2"][..],
            json!({"network": "blue", "node": node, "informed": 2}),
            "POST /v1/nodes/revoke",
            json!({"node": "n2"}),
            "n2 is revoked; it was sent to 2 connected members, the others follow.\n",
        ),
        (
            &["node", "rename", "x", "n2"],
            json!({"network": "blue", "node": node, "previous": "x"}),
            "POST /v1/nodes/rename",
            json!({"node": "x", "name": "n2"}),
            "x is now n2.\n",
        ),
        (
            &["node", "replace", "n1", "n2"],
            json!({"network": "blue", "old": {"id": "n1k"}, "new": node, "ipv4": "10.77.1.1"}),
            "POST /v1/nodes/replace",
            json!({"old": "n1", "new": "n2"}),
            "n2 (n2aaaaaaaa) takes the place of node n1k and has its address 10.77.1.1.\n",
        ),
        (
            &["token", "revoke", "inv", "--members"],
            json!({"network": "blue", "invite": "inv", "members": [node]}),
            "POST /v1/tokens/revoke",
            json!({"invite": "inv", "members": true}),
            "Invite inv is revoked, and 1 member with it.\n",
        ),
        (
            &["mesh", "leave"],
            json!({"network": "blue", "announced": true}),
            "POST /v1/networks/leave",
            json!({}),
            "Left blue; its state on this machine is deleted.\n",
        ),
    ] {
        let daemon = Daemon::saying(reply);
        let ended = daemon.run(arguments);
        assert_eq!((ended.code, ended.out.as_str()), (0, out), "{ended:?}");
        assert_eq!(daemon.seen(), [Seen { line: line.into(), body }]);
    }
}

#[test]
fn token_create_sends_its_flags_and_prints_the_token_alone() {
    let daemon = Daemon::saying(created(None));
    let ended = daemon.run(&[
        "token",
        "create",
        "--role",
        "worker",
        "--role",
        "server",
        "--tag",
        "gpu",
        "--expires",
        "7d",
        "--uses",
        "5",
    ]);
    assert_eq!(ended.out, "epsilon1_abc\n");
    assert_eq!(
        daemon.seen()[0].body,
        json!({
            "roles": ["worker", "server"], "tags": ["gpu"], "expires": {"in_seconds": 604_800},
            "uses": 5,
        })
    );
    daemon.run(&["token", "create", "--expires", "never"]);
    assert_eq!(daemon.seen()[1].body["expires"], "never");
}

#[test]
fn ip_prints_one_address_per_line() {
    let daemon = Daemon::saying(status());
    let v4 = "10.77.12.5\n";
    let v6 = "fd5e:1a2b:3c4d:89ab:cdef:123:4567:89ab\n";
    for (arguments, out) in
        [(&["ip"][..], format!("{v4}{v6}")), (&["ip", "-4"], v4.into()), (&["ip", "-6"], v6.into())]
    {
        assert_eq!(daemon.run(arguments).out, out);
    }
    let mut bare = status();
    bare["networks"][0]["node"]["ipv4"] = Value::Null;
    let ended = Daemon::saying(bare).run(&["ip", "-4"]);
    assert_eq!(ended.code, 1, "{ended:?}");
}

// --- waiting --------------------------------------------------------------

#[test]
fn wait_ends_when_the_condition_holds() {
    let count = std::sync::atomic::AtomicU64::new(0);
    let daemon = Daemon::start(move |_| {
        let mut document = healthy();
        if count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 3 {
            document["networks"] = json!([]);
        }
        (200, document)
    });
    let ended = daemon.run(&["wait"]);
    assert_eq!((ended.code, ended.out.as_str()), (0, ""), "{ended:?}");
    assert_eq!(daemon.seen().len(), 4);
    for arguments in [
        &["wait", "n2"][..],
        &["wait", "10.77.200.31"],
        &["wait", "--for", "n3"],
        &["wait", "--for", "peers=2"],
        &["wait", "--for", "joined"],
    ] {
        assert_eq!(daemon.run(arguments).code, 0, "{arguments:?}");
    }
}

#[test]
fn wait_is_code_6_when_time_is_up_and_says_what_is_missing() {
    let daemon = Daemon::saying(healthy());
    for (condition, missing) in [
        ("peers=3", "3 peers to be up: only 2 are"),
        ("n4cccccccccccccc", "n4cccccccccccccc to be up: it is down"),
        ("n7", "n7 to be up: no such peer is known"),
    ] {
        let ended = daemon.run(&["wait", "--for", condition, "--timeout", "150ms"]);
        assert_eq!(ended.code, 6, "{ended:?}");
        assert!(ended.err.contains(missing), "{}", ended.err);
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the command waits in real time")]
fn wait_begins_before_there_is_a_daemon() {
    let started = Instant::now();
    let ended = epsilon(&["--socket", "/nonexistent", "wait", "--timeout", "300ms"], "", &[]);
    assert_eq!(ended.code, 6, "{ended:?}");
    assert!(ended.err.contains("meshd is not running"), "{}", ended.err);
    assert!(started.elapsed() >= Duration::from_millis(300));
}

// --- without a daemon -----------------------------------------------------

#[test]
fn completions_and_manual_pages_come_without_a_daemon() {
    for shell in ["bash", "zsh", "fish"] {
        let ended = epsilon(&["completion", shell], "", &[]);
        assert_eq!(ended.code, 0);
        assert!(ended.out.contains("token"), "{shell}");
        assert!(ended.out.len() > 2_000, "{shell}");
    }
    let page = epsilon(&["man"], "", &[]).out;
    assert!(page.contains(".TH epsilon 1"), "{page}");
    let page = epsilon(&["man", "mesh", "join"], "", &[]).out;
    assert!(page.contains("EPSILON_TOKEN_FILE"), "{page}");

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    assert_eq!(epsilon(&["man", "--directory", path], "", &[]).code, 0);
    assert!(directory.path().join("epsilon-mesh-join.1").exists());
    assert!(!directory.path().join("epsilon-lab-init.1").exists());
}

#[test]
fn the_own_version_comes_without_a_daemon() {
    let ended = epsilon(&["version", "--socket", "/nonexistent", "-o", "json"], "", &[]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(ended.document()["client"], env!("CARGO_PKG_VERSION"));

    let daemon = Daemon::saying(json!({"version": "9.9.9", "schemas": ["epsilon/v1"]}));
    let ended = daemon.run(&["version"]);
    assert_eq!(ended.out, format!("epsilon {}\nmeshd   9.9.9\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn each_wrong_token_has_an_error_of_its_own() {
    for (token, expected) in [
        ("nonsense", "not an epsilon token"),
        ("epsilon7_abc", "format 7"),
        ("epsilon1_ab", "cut off"),
        ("epsilon1_a!c", "wrong character"),
    ] {
        let ended = epsilon(&["token", "inspect", "-"], token, &[]);
        assert_eq!(ended.code, 2, "{ended:?}");
        assert!(ended.err.contains(expected), "{}", ended.err);
        assert_eq!(ended.err.matches("error:").count(), 1);
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let (gone, wait) = std::sync::mpsc::channel::<()>();
    let daemon = Daemon::start(move |_| {
        let _ = wait.recv();
        (200, healthy())
    });
    let mut child = Command::new(env!("CARGO_BIN_EXE_epsilon"))
        .args(["--socket", daemon.socket().to_str().unwrap(), "status"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    drop(gone);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}
