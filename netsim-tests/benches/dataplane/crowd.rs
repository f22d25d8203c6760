//! A node with a thousand peers against one with a single peer: 950 devices that
//! are silent, and 50 members of which 49 are pinged while the figures of the
//! other, on the same local network, are taken.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use epsilon_cli::lab::{Daemon, Host, Lab, Spec};
use epsilon_sys::process::Signal;

use crate::measure::{self, Figures, Tunnel};
use crate::support::{answers, resident, text, until};

const DEVICES: usize = 950;
/// Members by site, with the one that is measured and its partner in the first.
/// On one network they would overflow the kernel's neighbour tables, which all
/// namespaces of a machine share.
const SITES: [u16; 8] = [2, 7, 7, 7, 7, 7, 7, 7];
/// Seconds from one ping of a member to the next.
const EVERY: &str = "0.2";
const PATIENCE: Duration = Duration::from_mins(2);

/// The figures of every round, and how much memory the first daemon has at the
/// end, in MB: with one peer, and with a thousand.
pub(crate) struct Compared {
    pub(crate) pairs: Vec<(Figures, Figures)>,
    pub(crate) resident: [f64; 2],
}

struct Fleet {
    lab: Lab,
    daemons: Vec<Daemon>,
}

impl Fleet {
    /// A fleet in which everybody has contact with everybody.
    async fn of(sites: &[u16], meshd: &Path, epsilon: &Path) -> Self {
        let spec = Spec::ephemeral(sites.iter().copied(), epsilon);
        let lab = Lab::up(spec).await.expect("lab");
        let mut daemons = Vec::new();
        for host in lab.hosts() {
            daemons.push(host.start_meshd(meshd).expect("meshd"));
        }
        for host in lab.hosts() {
            until(PATIENCE, || answers(host));
        }
        let fleet = Self { lab, daemons };
        let first = fleet.host("n1");
        let token = text(first, epsilon, &["mesh", "create", "--name", "bench"]).await;
        for host in fleet.lab.hosts().iter().skip(1) {
            text(host, epsilon, &["mesh", "join", &token]).await;
        }
        let others = format!("peers={}", sites.iter().sum::<u16>() - 1);
        text(first, epsilon, &["wait", "--timeout", "120s", "--for", &others]).await;
        fleet
    }

    fn host(&self, name: &str) -> &Host {
        self.lab.host(name).expect("host")
    }

    /// Between the first two.
    async fn figures(&self, epsilon: &Path, length: Duration) -> Figures {
        let hosts = [self.host("n1"), self.host("n2")];
        let target = text(hosts[1], epsilon, &["ip", "-4"]).await;
        let tunnel = Tunnel { hosts, daemons: &self.daemons[..2], target: &target };
        measure::all(&tunnel, length).await
    }
}

/// Takes turns between the two fleets.
pub(crate) async fn compare(
    meshd: &Path,
    epsilon: &Path,
    rounds: u64,
    length: Duration,
) -> Compared {
    let pair = Fleet::of(&SITES[..1], meshd, epsilon).await;
    let crowd = Fleet::of(&SITES, meshd, epsilon).await;
    let add = format!(
        "for number in $(seq {DEVICES}); do {} device add d$number > /dev/null 2>&1 || exit 1; done",
        epsilon.display()
    );
    text(crowd.host("n1"), "sh", &["-c", &add]).await;
    let listed = text(crowd.host("n1"), epsilon, &["-o", "json", "device", "list"]).await;
    assert_eq!(listed.matches("\"given_name\"").count(), DEVICES, "devices");
    let center = text(crowd.host("n1"), epsilon, &["ip", "-4"]).await;

    let mut pairs = Vec::new();
    for round in 1..=rounds {
        let alone = pair.figures(epsilon, length).await;
        let mut pings = Vec::new();
        for host in crowd.lab.hosts().iter().skip(2) {
            let mut command = host.command("ping").expect("ping");
            command.args(["-q", "-i", EVERY, &center]).stdout(Stdio::null());
            pings.push(command.spawn().expect("ping"));
        }
        let crowded = crowd.figures(epsilon, length).await;
        for ping in &mut pings {
            ping.process.signal(Signal::SIGINT).expect("signal");
            let ended = ping.process.wait().await.expect("ping");
            // With no answer at all it fails: then it was no active peer.
            assert!(ended.success(), "a member's pings were not answered");
        }
        eprintln!("round {round} of {rounds}: one peer {alone}");
        eprintln!("round {round} of {rounds}: 1 000 peers {crowded}");
        pairs.push((alone, crowded));
    }
    let megabytes = |fleet: &Fleet| resident(&fleet.daemons[0]) as f64 / 1e3;
    let resident = [megabytes(&pair), megabytes(&crowd)];
    pair.lab.end().expect("end of the lab");
    crowd.lab.end().expect("end of the lab");
    Compared { pairs, resident }
}
