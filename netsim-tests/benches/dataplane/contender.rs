//! Who is compared, and how each is brought up between the two hosts.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use epsilon_cli::lab::{Daemon, Host, Program};
use epsilon_sys::netlink::Prefix;

use crate::UNDERLAY;
use crate::measure::Tunnel;
use crate::support::{answers, text, until};

const INTERFACE: &str = "rival0";
const INNER: [&str; 2] = ["10.88.0.1", "10.88.0.2"];
/// The same for everybody.
const MTU: u16 = 1420;
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    Epsilon,
    WireGuardGo,
    BoringTun,
    Nebula,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] =
        [Self::Epsilon, Self::WireGuardGo, Self::BoringTun, Self::Nebula];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Epsilon => "epsilon",
            Self::WireGuardGo => "wireguard-go",
            Self::BoringTun => "boringtun-cli",
            Self::Nebula => "nebula",
        }
    }

    pub(crate) fn named(name: &str) -> Self {
        let known = Self::ALL.into_iter().find(|kind| kind.name() == name);
        known.unwrap_or_else(|| panic!("nobody is called {name}"))
    }
}

/// Two daemons with a tunnel between them.
pub(crate) struct Contender<'a> {
    hosts: [&'a Host; 2],
    daemons: Vec<Daemon>,
    /// The second host's address in the tunnel.
    target: String,
}

/// Makes a network of the two hosts, to be started again for every turn.
pub(crate) async fn found_network(hosts: [&Host; 2], meshd: &Path, epsilon: &Path) {
    let mut daemons = Vec::new();
    for host in hosts {
        daemons.push(host.start_meshd(meshd).expect("meshd"));
        until(PATIENCE, || answers(host));
    }
    let token = text(hosts[0], epsilon, &["mesh", "create", "--name", "bench"]).await;
    text(hosts[1], epsilon, &["mesh", "join", &token]).await;
    stop(&daemons).await;
}

async fn stop(daemons: &[Daemon]) {
    for daemon in daemons {
        daemon.term(PATIENCE).await.expect("stop");
    }
}

/// What it says of itself.
pub(crate) async fn version(kind: Kind, host: &Host, program: &Path) -> String {
    let (name, argument) = match kind {
        Kind::Epsilon => {
            let version = text(host, program, &["--version"]).await;
            // Of an unpacked archive there is none.
            let git = std::process::Command::new("git")
                .args(["describe", "--always", "--dirty"])
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .output();
            let commit = git.map(|git| String::from_utf8_lossy(&git.stdout).into_owned());
            return format!("{version}, commit {}", commit.unwrap_or_default().trim());
        }
        Kind::WireGuardGo => ("wireguard-go", "--version"),
        Kind::BoringTun => ("boringtun-cli", "--version"),
        Kind::Nebula => ("nebula", "-version"),
    };
    let said = text(host, program.join(name), &[argument]).await;
    said.lines().next().unwrap_or_default().to_owned()
}

impl<'a> Contender<'a> {
    /// Starts both ends, and waits until a ping comes back.
    pub(crate) async fn start(kind: Kind, hosts: [&'a Host; 2], program: &Path) -> Self {
        let (daemons, target) = match kind {
            Kind::Epsilon => epsilon(hosts, program).await,
            Kind::WireGuardGo => wireguard(hosts, &program.join("wireguard-go"), &["-f"]).await,
            Kind::BoringTun => {
                let arguments = ["--foreground", "--disable-drop-privileges"];
                wireguard(hosts, &program.join("boringtun-cli"), &arguments).await
            }
            Kind::Nebula => nebula(hosts, program).await,
        };
        let contender = Self { hosts, daemons, target };
        let begun = std::time::Instant::now();
        loop {
            let ping = ["-c1", "-W1", &contender.target];
            if hosts[0].run("ping", ping).await.expect("ping").status.success() {
                return contender;
            }
            assert!(begun.elapsed() < PATIENCE, "{}: no ping comes back", kind.name());
        }
    }

    pub(crate) fn tunnel(&self) -> Tunnel<'_> {
        Tunnel { hosts: self.hosts, daemons: &self.daemons, target: &self.target }
    }

    pub(crate) async fn stop(self) {
        stop(&self.daemons).await;
    }
}

async fn epsilon(hosts: [&Host; 2], meshd: &Path) -> (Vec<Daemon>, String) {
    let mut daemons = Vec::new();
    for host in hosts {
        daemons.push(host.start_meshd(meshd).expect("meshd"));
        until(PATIENCE, || answers(host));
    }
    let epsilon = meshd.with_file_name("epsilon");
    (daemons, text(hosts[1], epsilon, &["ip", "-4"]).await)
}

/// A directory of the host's own.
fn directory(host: &Host) -> PathBuf {
    let inside = PathBuf::from("/run/rival");
    std::fs::create_dir_all(seen_from_here(host, &inside)).expect("directory");
    inside
}

fn seen_from_here(host: &Host, inside: &Path) -> PathBuf {
    let relative = inside.strip_prefix("/").expect("absolute");
    PathBuf::from(format!("/proc/{}/root", host.pid())).join(relative)
}

async fn addresses(hosts: [&Host; 2]) {
    for (host, inner) in hosts.into_iter().zip(INNER) {
        let netlink = host.netlink().expect("netlink");
        let prefix = Prefix::new(inner.parse::<Ipv4Addr>().expect("address"), 24);
        netlink.add_address(INTERFACE, prefix).await.expect("address");
        netlink.set_mtu(INTERFACE, MTU).await.expect("mtu");
        netlink.set_up(INTERFACE).await.expect("up");
    }
}

/// Those that are configured by `wg`.
async fn wireguard(hosts: [&Host; 2], program: &Path, arguments: &[&str]) -> (Vec<Daemon>, String) {
    let mut daemons = Vec::new();
    let mut keys = Vec::new();
    for host in hosts {
        let start = arguments
            .iter()
            .fold(Program::new("rival", program), |program, argument| program.arg(*argument))
            .arg(INTERFACE);
        daemons.push(host.start(start).expect("start"));
        let socket = PathBuf::from(format!("/run/wireguard/{INTERFACE}.sock"));
        until(PATIENCE, || seen_from_here(host, &socket).exists());
        let secret = text(host, "wg", &["genkey"]).await;
        let command = format!("echo {secret} | wg pubkey");
        let public = text(host, "sh", &["-c", &command]).await;
        keys.push((secret, public));
    }
    for (index, host) in hosts.into_iter().enumerate() {
        let other = 1 - index;
        let configuration = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = 51820\n[Peer]\nPublicKey = {}\n\
             Endpoint = {}:51820\nAllowedIPs = {}/32\n",
            keys[index].0, keys[other].1, UNDERLAY[other], INNER[other]
        );
        let file = directory(host).join("wg.conf");
        std::fs::write(seen_from_here(host, &file), configuration).expect("configuration");
        text(host, "wg", &["setconf", INTERFACE, file.to_str().expect("UTF-8")]).await;
    }
    addresses(hosts).await;
    (daemons, INNER[1].to_owned())
}

async fn nebula(hosts: [&Host; 2], tools: &Path) -> (Vec<Daemon>, String) {
    let (program, certificates) = (tools.join("nebula"), tools.join("nebula-cert"));
    let first = directory(hosts[0]);
    let path = |directory: &Path, name: &str| directory.join(name).display().to_string();
    let authority = (path(&first, "ca.crt"), path(&first, "ca.key"));
    for file in ["ca.crt", "ca.key", "0.crt", "0.key", "1.crt", "1.key"] {
        let _ = std::fs::remove_file(seen_from_here(hosts[0], &first.join(file)));
    }
    let make = ["ca", "-name", "bench", "-out-crt", &authority.0, "-out-key", &authority.1];
    text(hosts[0], &certificates, &make).await;
    let mut daemons = Vec::new();
    for (index, host) in hosts.into_iter().enumerate() {
        let own = directory(host);
        let (certificate, key) =
            (path(&first, &format!("{index}.crt")), path(&first, &format!("{index}.key")));
        let network = format!("{}/24", INNER[index]);
        let name = format!("host{index}");
        let sign = [
            "sign",
            "-ca-crt",
            &authority.0,
            "-ca-key",
            &authority.1,
            "-name",
            &name,
            "-ip",
            &network,
            "-out-crt",
            &certificate,
            "-out-key",
            &key,
        ];
        text(hosts[0], &certificates, &sign).await;
        for file in ["ca.crt".to_owned(), format!("{index}.crt"), format!("{index}.key")] {
            let from = seen_from_here(hosts[0], &first.join(&file));
            let to = seen_from_here(host, &own.join(&file));
            if from != to {
                std::fs::copy(from, to).expect("copy");
            }
        }
        let lighthouses =
            if index == 0 { String::new() } else { format!("  hosts: [\"{}\"]\n", INNER[0]) };
        let configuration = format!(
            "pki:\n  ca: {own}/ca.crt\n  cert: {own}/{index}.crt\n  key: {own}/{index}.key\n\
             static_host_map:\n  \"{}\": [\"{}:4242\"]\n\
             lighthouse:\n  am_lighthouse: {}\n{lighthouses}\
             listen:\n  host: 0.0.0.0\n  port: 4242\n  read_buffer: 4194304\n  write_buffer: 4194304\n\
             tun:\n  dev: {INTERFACE}\n  mtu: {MTU}\n\
             firewall:\n  outbound:\n    - {{port: any, proto: any, host: any}}\n  \
             inbound:\n    - {{port: any, proto: any, host: any}}\n",
            INNER[0],
            UNDERLAY[0],
            index == 0,
            own = own.display(),
        );
        let file = own.join("nebula.yml");
        std::fs::write(seen_from_here(host, &file), configuration).expect("configuration");
        let start = Program::new("rival", &program).arg("-config").arg(&file);
        daemons.push(host.start(start).expect("start"));
    }
    (daemons, INNER[1].to_owned())
}
