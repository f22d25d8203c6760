//! The data plane against others: `meshd`, wireguard-go, boringtun-cli and
//! nebula take turns between the same two hosts, over one veth cable.
//!
//! Every round measures epsilon right before each rival, so that a machine
//! whose speed drifts does so for both; what counts is the median of the
//! ratios. Then a node with a thousand peers against one with a single peer, in
//! the same way. Prints a table, and writes it to `target/bench` with a drawing. It
//! passes or fails on no figure.
//!
//! Runs as root, on the release binaries. `BENCH_PAIRS` (5) is the number of
//! rounds, `BENCH_SECONDS` (3) how long each part of one takes, `BENCH_RIVALS`
//! (`wireguard-go,boringtun-cli,nebula`) who is compared, `BENCH_TOOLS` where
//! their programs are; `BENCH_CROWD=0` leaves the thousand peers out.
#![allow(clippy::disallowed_methods, reason = "it measures time")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a figure that fails stops the run")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "each benchmark takes its part")]
mod support;

mod contender;
mod crowd;
mod measure;
mod report;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use contender::{Contender, Kind};
use epsilon_cli::lab::{Host, Lab, Spec};
use epsilon_sys::netlink::{Prefix, Veth};
use measure::Figures;
use report::Report;
use support::{binaries, number};

/// The cable's ends, and the addresses on it.
const CABLE: &str = "cable";
const UNDERLAY: [&str; 2] = ["192.0.2.1", "192.0.2.2"];

fn main() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(bench());
}

/// Lays a cable between two hosts and pulls the others, so that nothing but
/// the tunnel's two ends works on a packet.
async fn cable(lab: &Lab) -> [&Host; 2] {
    let hosts = [lab.host("n1").expect("n1"), lab.host("n2").expect("n2")];
    let namespace = std::fs::File::open(format!("/proc/{}/ns/net", hosts[1].pid())).expect("ns");
    let near = hosts[0].netlink().expect("netlink");
    let veth = Veth { name: CABLE, peer: CABLE, peer_namespace: Some(namespace.as_fd()) };
    near.add_veth(veth).await.expect("veth");
    for (host, address) in hosts.into_iter().zip(UNDERLAY) {
        let netlink = host.netlink().expect("netlink");
        let prefix = Prefix::new(address.parse::<std::net::Ipv4Addr>().expect("address"), 24);
        netlink.add_address(CABLE, prefix).await.expect("address");
        netlink.set_up(CABLE).await.expect("up");
        lab.unplug(host.name()).await.expect("unplug");
    }
    hosts
}

fn rivals() -> Vec<Kind> {
    let named = std::env::var("BENCH_RIVALS");
    let named = named.as_deref().unwrap_or("wireguard-go,boringtun-cli,nebula");
    named.split(',').filter(|name| !name.is_empty()).map(Kind::named).collect()
}

async fn bench() {
    let (meshd, epsilon) = binaries();
    let rounds = number("BENCH_PAIRS", 5);
    let length = Duration::from_secs(number("BENCH_SECONDS", 3));
    let tools = std::env::var_os("BENCH_TOOLS").map_or_else(|| meshd.clone(), PathBuf::from);
    let lab = Lab::up(Spec::ephemeral([2], &epsilon)).await.expect("lab");
    let hosts = cable(&lab).await;
    contender::found_network(hosts, &meshd, &epsilon).await;

    let rivals = rivals();
    let mut report = Report::new(rounds, length);
    for kind in [Kind::Epsilon].into_iter().chain(rivals.iter().copied()) {
        let program = if kind == Kind::Epsilon { &meshd } else { &tools };
        report.version(kind, contender::version(kind, hosts[0], program).await);
    }
    for round in 1..=rounds {
        for kind in &rivals {
            // Each begins as often as the other, but for one.
            let early = if round % 2 == 1 {
                Some(turn(Kind::Epsilon, hosts, &meshd, length).await)
            } else {
                None
            };
            let other = turn(*kind, hosts, &tools, length).await;
            let own = match early {
                Some(own) => own,
                None => turn(Kind::Epsilon, hosts, &meshd, length).await,
            };
            eprintln!("round {round} of {rounds}: epsilon {own}");
            eprintln!("round {round} of {rounds}: {} {other}", kind.name());
            report.add(*kind, own, other);
        }
    }
    lab.end().expect("end of the lab");
    if number("BENCH_CROWD", 1) > 0 {
        report.crowd(crowd::compare(&meshd, &epsilon, rounds, length).await);
    }
    let directory = meshd.ancestors().nth(2).map_or(Path::new("target"), |path| path);
    report.write(&directory.join("bench"));
}

/// One contender's turn.
async fn turn(kind: Kind, hosts: [&Host; 2], program: &Path, length: Duration) -> Figures {
    let contender = Contender::start(kind, hosts, program).await;
    let figures = measure::all(&contender.tunnel(), length).await;
    contender.stop().await;
    figures
}
