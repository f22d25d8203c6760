//! A real socket and real HTTP; only the daemon behind the queue is a double.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use epsilon_proto::api::{
    Admin, AdminAdded, AdminList, AdminRevoked, AdminState, Batches, Created, DaemonStatus,
    Dataplane, Device, DeviceAdded, DeviceConfig, DeviceList, DeviceRemoved, EventKind, ExitState,
    FamilyCheck, Filtering, Invite, InviteState, Joined, Left, Mapping, MemberCounts, Membership,
    Netcheck, NetworkList, Node, NodeDetail, NodeList, NodeRef, NodeRemoved, NodeRenamed,
    NodeReplaced, OwnNode, Path, PathKind, PeerList, PeerState, Ping, Problem, ProblemKind,
    Reloaded, RouteList, SCHEMA, Secret, Severity, Status, Time, TokenCreated, TokenList,
    TokenRevoked, Udp, Version, paths,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::{
    Answer, Call, Entry, Journal, Limits, Reply, SocketError, bind, openapi_json, routes, serve,
};

struct Server {
    _directory: TempDir,
    path: PathBuf,
    journal: Journal,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<()>,
}

/// Serves with `backend` as the daemon.
fn start(limits: Limits, backend: impl Fn(Call, Answer) + Send + 'static) -> Server {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/epsilon.sock");
    let socket = bind(&path, "a-group-that-is-not-there").unwrap();
    let (calls, mut inbox) = mpsc::channel::<(Call, Answer)>(4);
    tokio::spawn(async move {
        while let Some((call, answer)) = inbox.recv().await {
            backend(call, answer);
        }
    });
    let journal = Journal::new();
    let (stop, stopped) = oneshot::channel();
    let running = tokio::spawn(serve(socket, calls, journal.clone(), limits, async {
        let _ = stopped.await;
    }));
    Server { _directory: directory, path, journal, stop: Some(stop), running }
}

fn scripted() -> Server {
    start(Limits::default(), |call, answer| {
        let _ = answer.send(Ok(reply_to(&call)));
    })
}

async fn request(socket: &FilePath, method: &str, target: &str, body: &str) -> (u16, Value) {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nhost: meshd\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    // The server may answer and hang up before it has read a body that is too large.
    let _ = stream.write_all(head.as_bytes()).await;
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text).await;
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap())
}

#[tokio::test]
async fn every_path_reaches_its_call_and_carries_the_schema_tag() {
    let node = json!({"node": "n2"}).to_string();
    let rename = json!({"node": "n2", "name": "x"}).to_string();
    let replace = json!({"old": "n2", "new": "n3"}).to_string();
    let token = json!({"token": "epsilon1x"}).to_string();
    let ping = json!({"peer": "n2"}).to_string();
    let invite = json!({"invite": "ab"}).to_string();
    let admin = json!({"admin": "n2"}).to_string();
    let device = json!({"name": "phone", "fallbacks": ["n2"]}).to_string();
    let removal = json!({"device": "phone"}).to_string();
    let cases = [
        ("GET", paths::VERSION, "", "version"),
        ("GET", paths::NETWORKS, "", "networks"),
        ("POST", paths::CREATE, "", "token"),
        ("POST", paths::JOIN, &token, "already"),
        ("POST", paths::LEAVE, "", "announced"),
        ("GET", paths::STATUS, "", "daemon"),
        ("GET", paths::PEERS, "", "peers"),
        ("GET", paths::DATAPLANE, "", "dropped"),
        ("GET", "/v1/whois?of=n2", "", "node"),
        ("POST", paths::PING, &ping, "rtt_us"),
        ("GET", paths::NODES, "", "nodes"),
        ("POST", paths::NODE_REVOKE, &node, "informed"),
        ("POST", paths::NODE_RENAME, &rename, "previous"),
        ("POST", paths::NODE_REPLACE, &replace, "old"),
        ("GET", paths::DEVICES, "", "devices"),
        ("POST", paths::DEVICE_ADD, &device, "configs"),
        ("POST", paths::DEVICE_REMOVE, &removal, "given_name"),
        ("GET", paths::NETCHECK, "", "meaning"),
        ("GET", paths::ROUTES, "", "exit"),
        ("POST", paths::ROUTES_CHANGE, "{}", "exit"),
        ("GET", paths::TOKENS, "", "invites"),
        ("POST", paths::TOKEN_CREATE, "{}", "token"),
        ("POST", paths::TOKEN_REVOKE, &invite, "members"),
        ("GET", paths::ADMINS, "", "admins"),
        ("POST", paths::ADMIN_ADD, &node, "admin"),
        ("POST", paths::ADMIN_REVOKE, &admin, "admin"),
        ("POST", paths::RELOAD, "", "pending"),
    ];
    // Events and the OpenAPI document do not go to the daemon.
    assert_eq!(cases.len() + 2, routes::table().len());

    let server = scripted();
    for (method, target, body, field) in cases {
        let (status, document) = request(&server.path, method, target, body).await;
        assert_eq!(status, 200, "{target}: {document}");
        assert_eq!(document["schema"], SCHEMA, "{target}");
        assert!(document.get(field).is_some(), "{target}: {document}");
    }
}

#[tokio::test]
async fn the_network_in_the_query_reaches_the_daemon() {
    let server = start(Limits::default(), |call, answer| {
        assert_eq!(call, Call::Peers { network: Some("blue sky".into()) });
        let _ = answer.send(Ok(reply_to(&call)));
    });
    let (status, _) = request(&server.path, "GET", "/v1/peers?network=blue%20sky", "").await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_problem_keeps_its_kind_and_its_hint() {
    for kind in ProblemKind::ALL {
        let server = start(Limits::default(), move |_, answer| {
            let _ = answer.send(Err(Problem::new(kind, "no such thing").hint("look again")));
        });
        let (status, document) = request(&server.path, "GET", paths::STATUS, "").await;
        assert!(status >= 400, "{kind:?}: {status}");
        assert_eq!(document["schema"], SCHEMA);
        assert_eq!(document["kind"], json!(kind));
        assert_eq!(document["hint"], "look again");
    }
}

#[tokio::test]
async fn bad_requests_are_usage_problems_with_a_next_step() {
    let server = scripted();
    for (method, target, body, expected) in [
        ("GET", "/v1/nothing", "", 404),
        ("GET", "/", "", 404),
        ("POST", paths::STATUS, "", 405),
        ("GET", paths::JOIN, "", 405),
        ("GET", "/v1/status?netwrok=blue", "", 400),
        ("GET", paths::WHOIS, "", 400),
        ("GET", "/v1/events?follow=perhaps", "", 400),
        ("POST", paths::JOIN, "", 400),
        ("POST", paths::JOIN, "not json", 400),
        ("POST", paths::JOIN, "[]", 400),
        ("POST", paths::JOIN, r#"{"token":"t","tokne":"t"}"#, 400),
        ("POST", paths::JOIN, r#"{"token":7}"#, 400),
        ("POST", paths::JOIN, r#"{"token":"t","role":"king"}"#, 400),
        ("POST", paths::LEAVE, r#"{"force":true}"#, 400),
    ] {
        let (status, document) = request(&server.path, method, target, body).await;
        assert_eq!(status, expected, "{method} {target} {body}: {document}");
        assert_eq!(document["kind"], "usage", "{document}");
        assert!(document["hint"].is_string(), "{document}");
    }
}

#[tokio::test]
async fn an_unknown_path_lists_the_known_ones() {
    let server = scripted();
    let (_, document) = request(&server.path, "GET", "/v2/status", "").await;
    let hint = document["hint"].as_str().unwrap();
    for route in routes::table() {
        assert!(hint.contains(route.path), "{}: {hint}", route.path);
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let server = scripted();
    let body = format!("{{\"token\":\"{}\"}}", "a".repeat(300 * 1024));
    let (status, document) = request(&server.path, "POST", paths::JOIN, &body).await;
    assert_eq!((status, &document["kind"]), (413, &json!("usage")));
}

#[tokio::test]
async fn a_call_that_is_not_answered_in_time_is_a_timeout() {
    let limits = Limits { time: Duration::from_millis(50), ..Limits::default() };
    let (keep, kept) = std::sync::mpsc::channel();
    let server = start(limits, move |_, answer| {
        let _ = keep.send(answer);
    });
    let (status, document) = request(&server.path, "GET", paths::STATUS, "").await;
    assert_eq!((status, &document["kind"]), (504, &json!("timed_out")));
    drop(kept);
}

#[tokio::test]
async fn a_daemon_that_drops_a_call_is_an_error_and_not_a_hang() {
    let server = start(Limits::default(), |_, answer| drop(answer));
    let (status, document) = request(&server.path, "GET", paths::STATUS, "").await;
    assert_eq!((status, &document["kind"]), (500, &json!("error")));
}

#[tokio::test]
async fn a_client_that_hangs_up_closes_its_answer() {
    let (hand, mut handed) = mpsc::unbounded_channel();
    let server = start(Limits::default(), move |_, answer| {
        let _ = hand.send(answer);
    });
    let mut stream = UnixStream::connect(&server.path).await.unwrap();
    stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost: meshd\r\n\r\n").await.unwrap();
    let mut answer = handed.recv().await.unwrap();
    assert!(!answer.is_closed());
    drop(stream);
    tokio::time::timeout(Duration::from_secs(5), answer.closed()).await.unwrap();
}

#[tokio::test]
async fn events_come_from_the_start_and_go_on_until_shutdown() {
    let mut server = scripted();
    server.journal.record(entry("blue", "first"));
    server.journal.record(entry("red", "elsewhere"));

    let mut stream = UnixStream::connect(&server.path).await.unwrap();
    stream.write_all(b"GET /v1/events?network=blue&follow=true HTTP/1.0\r\n\r\n").await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    while !lines.next_line().await.unwrap().unwrap().is_empty() {}

    let first: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
    assert_eq!(first["schema"], SCHEMA);
    assert_eq!(first["message"], "first");
    assert_eq!(first["sequence"], 1);

    server.journal.record(entry("blue", "second"));
    let second: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
    assert_eq!(second["message"], "second");
    assert_eq!(second["sequence"], 3);

    server.stop.take().unwrap().send(()).unwrap();
    assert_eq!(lines.next_line().await.unwrap(), None);
    server.running.await.unwrap();
    assert!(!server.path.exists());
}

#[tokio::test]
async fn shutdown_does_not_wait_for_ever_for_an_answer() {
    let (hand, mut handed) = mpsc::unbounded_channel();
    let mut server = start(Limits::default(), move |_, answer| {
        let _ = hand.send(answer);
    });
    let mut stream = UnixStream::connect(&server.path).await.unwrap();
    stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost: meshd\r\n\r\n").await.unwrap();
    let _unanswered = handed.recv().await.unwrap();
    server.stop.take().unwrap().send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(10), server.running).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_follower_that_is_too_slow_is_told_what_it_missed() {
    let journal = Journal::new();
    let (_, incoming) = journal.follow();
    for _ in 0..1500 {
        journal.record(entry("blue", "one of many"));
    }
    let (stop, stopping) = tokio::sync::watch::channel(false);
    let live = super::server::live(Some(incoming), stopping);
    let seen: Vec<_> = futures::StreamExt::collect(futures::StreamExt::take(live, 2)).await;
    assert_eq!(seen[0].kind, EventKind::Skipped);
    assert!(seen[0].message.starts_with("476 events"), "{}", seen[0].message);
    assert_eq!(seen[1].sequence, 477);
    drop(stop);
}

#[test]
fn the_journal_keeps_the_newest_events_only() {
    let journal = Journal::new();
    for _ in 0..1500 {
        journal.record(entry("blue", "one of many"));
    }
    let (kept, _) = journal.follow();
    assert_eq!(kept.len(), 1024);
    assert_eq!(kept[0].sequence, 477);
}

#[tokio::test]
async fn the_socket_is_for_owner_and_group_and_goes_with_its_server() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/b/epsilon.sock");
    let socket = bind(&path, "root").unwrap();
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    drop(socket);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_socket_in_use_is_left_alone_and_a_stale_one_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("epsilon.sock");
    let first = bind(&path, "root").unwrap();
    assert!(matches!(bind(&path, "root"), Err(SocketError::InUse { .. })));
    drop(first);

    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let second = bind(&path, "root").unwrap();
    UnixStream::connect(&path).await.unwrap();
    drop(second);

    fs::write(&path, "precious").unwrap();
    assert!(matches!(bind(&path, "root"), Err(SocketError::NotASocket { .. })));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn the_served_openapi_document_is_the_one_that_is_checked_in() {
    let server = scripted();
    let (status, document) = request(&server.path, "GET", paths::OPENAPI, "").await;
    assert_eq!(status, 200);
    assert_eq!(document, serde_json::from_str::<Value>(&openapi_json()).unwrap());

    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
    let checked_in = fs::read_to_string(path).unwrap_or_default();
    assert!(
        checked_in == openapi_json(),
        "docs/openapi.json is not up to date; regenerate it with:\n\
         cargo run -p meshd -- --print-openapi > docs/openapi.json"
    );
}

#[test]
fn the_openapi_document_has_no_dangling_reference() {
    let document: Value = serde_json::from_str(&openapi_json()).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let mut references = Vec::new();
    collect_references(&document, &mut references);
    assert!(references.len() > 40, "{}", references.len());
    for reference in references {
        let pointer = reference.trim_start_matches('#');
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

fn collect_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get("$ref") {
                found.push(reference.clone());
            }
            fields.values().for_each(|value| collect_references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| collect_references(value, found)),
        _ => {}
    }
}

fn entry(network: &str, message: &str) -> Entry {
    Entry {
        at: Time::from_unix_ms(1_795_169_053_000),
        kind: EventKind::PeerUp,
        severity: Severity::Info,
        network: Some(network.into()),
        node: None,
        message: message.into(),
        hint: None,
    }
}

fn reply_to(call: &Call) -> Reply {
    let network = "blue".to_owned();
    let node = NodeRef { id: "node2".into(), name: Some("n2".into()) };
    let at = Time::from_unix_ms(1_795_169_053_000);
    let invite = Invite {
        id: "abcd".into(),
        state: InviteState::Active,
        roles: vec![],
        tags: vec![],
        created_at: at,
        expires_at: None,
        max_uses: None,
        uses: 0,
        admin: None,
    };
    let admin = Admin {
        key: "key".into(),
        node: Some(node.clone()),
        state: AdminState::Active,
        added_at: at,
        own: false,
    };
    let device = Device {
        id: "device1".into(),
        given_name: "phone".into(),
        name: None,
        key: "key".into(),
        ipv4: None,
        ipv6: "fd00::1".parse().unwrap(),
        owner: node.clone(),
        server: node.clone(),
        fallbacks: vec![],
        added_at: at,
        served_here: true,
        endpoint: None,
        last_handshake: None,
        rx_bytes: 0,
        tx_bytes: 0,
    };
    let path = Path {
        kind: PathKind::Direct,
        endpoint: "192.0.2.1:7755".parse().ok(),
        relay: None,
        mtu: Some(1420),
    };
    match call {
        Call::Version => {
            Reply::Version(Version { version: "0.1.0".into(), schemas: vec![SCHEMA.into()] })
        }
        Call::Networks => Reply::Networks(NetworkList { networks: vec![] }),
        Call::Create(_) => Reply::Create(Created {
            network,
            id: "id".into(),
            node: None,
            invite,
            token: Secret::new("epsilon1x".into()),
            root_key: None,
        }),
        Call::Join(_) => Reply::Join(Joined {
            token_expired_at: None,
            network,
            id: "id".into(),
            node: OwnNode {
                id: "node1".into(),
                name: None,
                ipv4: None,
                ipv6: None,
                roles: vec![],
                tags: vec![],
                site: None,
                labels: BTreeMap::new(),
                admin: false,
            },
            members: MemberCounts { total: 1, up: 1, connecting: 0, down: 0 },
            reachable: false,
            already: false,
        }),
        Call::Leave { .. } => Reply::Leave(Left { network, announced: true }),
        Call::Status { .. } => Reply::Status(Status {
            daemon: DaemonStatus { version: "0.1.0".into(), pid: 7, started_at: at, now: at },
            networks: vec![],
            broken: vec![],
        }),
        Call::Dataplane { .. } => Reply::Dataplane(Dataplane {
            network,
            interface: "eps0".into(),
            threads: 1,
            interface_offload: true,
            udp_segmentation: true,
            network_in: Batches::default(),
            network_out: Batches::default(),
            host_in: Batches::default(),
            host_out: Batches::default(),
            dropped: vec![],
        }),
        Call::Peers { .. } => Reply::Peers(PeerList { network, peers: vec![] }),
        Call::Whois { .. } => Reply::Whois(NodeDetail {
            network,
            node: Node {
                id: node.id,
                name: node.name,
                own: false,
                membership: Membership::Active,
                state: PeerState::Up,
                ipv4: None,
                ipv6: None,
                roles: vec![],
                tags: vec![],
                site: None,
                labels: BTreeMap::new(),
                admin: false,
                last_seen: None,
            },
            certificate: None,
            introduction: None,
            path: Some(path),
            endpoints: vec![],
        }),
        Call::Ping { .. } => {
            Reply::Ping(Ping { peer: node, address: None, rtt_us: Some(250), path })
        }
        Call::Nodes { .. } => Reply::Nodes(NodeList { network, nodes: vec![] }),
        Call::NodeRevoke { .. } => Reply::NodeRevoke(NodeRemoved { network, node, informed: 1 }),
        Call::NodeRename { .. } => {
            Reply::NodeRename(NodeRenamed { network, node, previous: Some("n1".into()) })
        }
        Call::NodeReplace { .. } => {
            Reply::NodeReplace(NodeReplaced { network, old: node.clone(), new: node, ipv4: None })
        }
        Call::Devices { .. } => Reply::Devices(DeviceList { network, devices: vec![device] }),
        Call::DeviceAdd { .. } => Reply::DeviceAdd(DeviceAdded {
            network,
            device,
            key_made: true,
            configs: vec![DeviceConfig {
                server: node,
                endpoint: "192.0.2.1:7755".into(),
                public: true,
                config: Secret::new("[Interface]".into()),
            }],
        }),
        Call::DeviceRemove { .. } => Reply::DeviceRemove(DeviceRemoved {
            network,
            given_name: "phone".into(),
            id: "device1".into(),
            revoked: false,
        }),
        Call::Netcheck { .. } => Reply::Netcheck(Netcheck {
            network,
            udp: Udp::Unknown,
            ipv4: FamilyCheck { addresses: Vec::new(), seen_as: Vec::new() },
            ipv6: FamilyCheck { addresses: Vec::new(), seen_as: Vec::new() },
            mapping: Mapping::Unknown,
            filtering: Filtering::Unknown,
            port_mapping: None,
            open: false,
            mtu: None,
            hubs: Vec::new(),
            relays: Vec::new(),
            meaning: "Nothing can be said.".into(),
            advice: None,
        }),
        Call::Routes { .. } => Reply::Routes(route_list(network)),
        Call::RoutesChange { .. } => Reply::RoutesChange(route_list(network)),
        Call::Tokens { .. } => Reply::Tokens(TokenList { network, invites: vec![invite] }),
        Call::TokenCreate { .. } => Reply::TokenCreate(TokenCreated {
            network,
            invite,
            token: Secret::new("epsilon1x".into()),
        }),
        Call::TokenRevoke { .. } => {
            Reply::TokenRevoke(TokenRevoked { network, invite: "abcd".into(), members: vec![] })
        }
        Call::Admins { .. } => Reply::Admins(AdminList { network, admins: vec![admin] }),
        Call::AdminAdd { .. } => Reply::AdminAdd(AdminAdded { network, admin }),
        Call::AdminRevoke { .. } => Reply::AdminRevoke(AdminRevoked { network, admin }),
        Call::Reload => Reply::Reload(Reloaded { applied: vec![], pending: vec![] }),
    }
}

fn route_list(network: String) -> RouteList {
    let exit = ExitState { offered: false, using: None, works: false, offers: Vec::new() };
    RouteList {
        network,
        advertised: Vec::new(),
        accepted: Vec::new(),
        routes: Vec::new(),
        exit,
        problem: None,
    }
}
