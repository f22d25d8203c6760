//! The figures that people feel: how long a join takes, what an idle daemon
//! costs. Prints medians; passes or fails on none of the times, because machines
//! are noisy, but on what idling may cost.
//!
//! Runs as root, on the release binaries. `BENCH_RUNS` sets how often the
//! timed parts are repeated, `BENCH_IDLE_SECONDS` how long idling is watched.
#![allow(clippy::disallowed_methods, reason = "it measures time")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a figure that fails stops the run")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

#[path = "../support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use epsilon_cli::lab::{Host, Lab, Spec};
use support::{answers, binaries, median, number, resident, text, ticks, until};

/// What an idle daemon may spend, in percent of a core.
const MOST_IDLE: f64 = 0.2;

/// IP bytes in both directions at the host's underlay interface: what the
/// kernel counts there, less the Ethernet headers.
async fn traffic(host: &Host) -> u64 {
    let mut sum = 0;
    for (counter, packets) in [("rx_bytes", "rx_packets"), ("tx_bytes", "tx_packets")] {
        let read = async |name: &str| -> u64 {
            let path = format!("/sys/class/net/eth0/statistics/{name}");
            let output = host.run("cat", [path]).await.expect("cat");
            String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number")
        };
        sum += read(counter).await - 14 * read(packets).await;
    }
    sum
}

fn main() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(bench());
}

async fn bench() {
    let runs = number("BENCH_RUNS", 7);
    let idle = Duration::from_secs(number("BENCH_IDLE_SECONDS", 60));
    let (meshd, epsilon) = binaries();
    let lab = Lab::up(Spec::ephemeral([3], &epsilon)).await.expect("lab");
    let (first, third) = (&lab.hosts()[0], &lab.hosts()[2]);

    let mut daemons = Vec::new();
    for host in lab.hosts() {
        daemons.push(host.start_meshd(&meshd).expect("meshd"));
        until(Duration::from_secs(10), || answers(host));
    }
    let token = text(first, &epsilon, &["mesh", "create", "--name", "bench"]).await;
    text(&lab.hosts()[1], &epsilon, &["mesh", "join", &token]).await;
    // The socket is there once the networks are served.
    let mut starts = Vec::new();
    for _ in 0..runs {
        daemons[0].term(Duration::from_secs(5)).await.expect("stop");
        let start = Instant::now();
        daemons[0] = first.start_meshd(&meshd).expect("meshd");
        until(Duration::from_secs(10), || answers(first));
        starts.push(start.elapsed());
    }
    let target = text(first, &epsilon, &["ip", "-4"]).await;

    let mut joins = Vec::new();
    for run in 0..runs {
        let start = Instant::now();
        text(third, &epsilon, &["mesh", "join", &token]).await;
        while !third.run("ping", ["-c1", "-W1", &target]).await.expect("ping").status.success() {
            assert!(start.elapsed() < Duration::from_secs(30), "no ping arrives");
        }
        joins.push(start.elapsed());
        if run + 1 < runs {
            text(third, &epsilon, &["mesh", "leave"]).await;
        }
    }

    let (mut statuses, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..runs * 3 {
        let start = Instant::now();
        text(first, &epsilon, &["status"]).await;
        statuses.push(start.elapsed());
        // What entering a host and running any program there costs by itself.
        let start = Instant::now();
        first.run("true", [""; 0]).await.expect("true");
        bare.push(start.elapsed());
    }

    // Lets the first beacons and probes pass.
    tokio::time::sleep(Duration::from_secs(15)).await;
    let mut before = Vec::new();
    for (host, daemon) in lab.hosts().iter().zip(&daemons) {
        before.push((traffic(host).await, ticks(daemon)));
    }
    tokio::time::sleep(idle).await;

    let millis = |duration: Duration| format!("{:.1} ms", duration.as_secs_f64() * 1e3);
    println!("start of a member to ready, median of {runs}: {}", millis(median(&starts)));
    println!("join to first ping, median of {runs}: {}", millis(median(&joins)));
    println!(
        "epsilon status, median of {}: {} (running true there: {})",
        runs * 3,
        millis(median(&statuses)),
        millis(median(&bare))
    );
    println!("idle for {} s, three members:", idle.as_secs());
    for ((host, daemon), (bytes, used)) in lab.hosts().iter().zip(&daemons).zip(before) {
        let per_hour = (traffic(host).await - bytes) as f64 * 3600.0 / idle.as_secs_f64() / 1e3;
        let cpu = (ticks(daemon) - used) as f64 / idle.as_secs_f64();
        assert!(cpu <= MOST_IDLE, "{} spends {cpu:.2} % of a core on nothing", host.name());
        println!(
            "  {}: {per_hour:.0} kB/h, CPU {cpu:.2} %, resident {:.1} MB",
            host.name(),
            resident(daemon) as f64 / 1e3
        );
    }
    for daemon in &daemons {
        daemon.term(Duration::from_secs(5)).await.expect("stop");
    }
    lab.end().expect("end of the lab");
}
