//! What is measured in a turn: `iperf3` and `ping` between the two hosts, and
//! the processor time of the two daemons.

use std::fmt;
use std::time::Duration;

use epsilon_cli::lab::{Daemon, Host};
use serde_json::Value;

use crate::support::{median, text, ticks};

/// The usual one, whatever this machine is set to.
pub(crate) const CONGESTION: &str = "cubic";
const PACED: u64 = 100_000;
/// The kernel's signs of packets out of order (`/proc/net/netstat`).
const REORDERED: [&str; 3] = ["TCPSACKReorder", "TCPTSReorder", "TCPDSACKRecv"];

/// What is measured.
pub(crate) struct Tunnel<'a> {
    /// Its ends.
    pub(crate) hosts: [&'a Host; 2],
    /// The daemons on them.
    pub(crate) daemons: &'a [Daemon],
    /// The second host's address in the tunnel.
    pub(crate) target: &'a str,
}

/// One turn's figures.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    /// Gbit/s of one TCP stream.
    pub(crate) tcp_one: f64,
    /// Gbit/s of four.
    pub(crate) tcp_four: f64,
    /// Gbit/s of one each way, together.
    pub(crate) tcp_both: f64,
    /// Thousands of 64-byte datagrams delivered a second, of as many as can be
    /// sent.
    pub(crate) delivered: f64,
    /// Percent lost of 100 000 a second.
    pub(crate) paced_loss: f64,
    /// Median round trip in milliseconds.
    pub(crate) round_trip: f64,
    /// Processor seconds of both daemons per GB of one TCP stream.
    pub(crate) cpu_per_gb: f64,
    /// Signs of packets out of order in the TCP runs.
    pub(crate) reordered: f64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.2} {:.2} {:.2} Gbit/s, {:.0} k/s, {:.3} % lost, {:.3} ms, {:.2} s/GB, {} reordered",
            self.tcp_one,
            self.tcp_four,
            self.tcp_both,
            self.delivered,
            self.paced_loss,
            self.round_trip,
            self.cpu_per_gb,
            self.reordered
        )
    }
}

pub(crate) async fn all(tunnel: &Tunnel<'_>, length: Duration) -> Figures {
    let server = tunnel.hosts[1].command("iperf3");
    let mut server = server.expect("iperf3");
    server.args(["-s"]);
    let server = server.spawn().expect("iperf3");
    let mut figures = Figures { round_trip: round_trip(tunnel).await, ..Figures::default() };
    let before = reordered(tunnel.hosts).await;
    let cpu = || tunnel.daemons.iter().map(ticks).sum::<u64>() as f64 / 100.0;
    let begun = cpu();
    let one = iperf(tunnel, length, &[]).await;
    let received = sum(&one, "sum_received", "bytes");
    figures.cpu_per_gb = (cpu() - begun) / (received / 1e9);
    figures.tcp_one = rate(&one, "sum_received");
    figures.tcp_four = rate(&iperf(tunnel, length, &["-P", "4"]).await, "sum_received");
    let both = iperf(tunnel, length, &["--bidir"]).await;
    figures.tcp_both = rate(&both, "sum_received") + rate(&both, "sum_received_bidir_reverse");
    figures.reordered = reordered(tunnel.hosts).await - before;
    let small = ["-u", "-l", "64", "-b"];
    let overload = iperf(tunnel, length, &[&small[..], &["0"]].concat()).await;
    let arrived = sum(&overload, "sum", "packets") - sum(&overload, "sum", "lost_packets");
    figures.delivered = arrived / sum(&overload, "sum", "seconds") / 1e3;
    let bits = (PACED * 64 * 8).to_string();
    let pace = [&small[..], &[&bits, "--pacing-timer", "100"]].concat();
    figures.paced_loss = sum(&iperf(tunnel, length, &pace).await, "sum", "lost_percent");
    server.process.signal(epsilon_sys::process::Signal::SIGTERM).expect("signal");
    server.process.wait().await.expect("iperf3");
    figures
}

/// Runs `iperf3` against the second host.
async fn iperf(tunnel: &Tunnel<'_>, length: Duration, more: &[&str]) -> Value {
    let seconds = length.as_secs().to_string();
    let usual = ["-c", tunnel.target, "-J", "-t", &seconds, "-C", CONGESTION];
    for _ in 0..50 {
        let arguments = [&usual[..], more].concat();
        let output = tunnel.hosts[0].run("iperf3", &arguments).await.expect("iperf3");
        let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let Some(error) = value.get("error").and_then(Value::as_str) else { return value };
        // The server is not there yet, or still busy with the run before.
        assert!(error.contains("refused") || error.contains("busy"), "{error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the server of iperf3 takes nobody");
}

fn sum(value: &Value, part: &str, field: &str) -> f64 {
    let found = value.get("end").and_then(|end| end.get(part)).and_then(|part| part.get(field));
    found.and_then(Value::as_f64).unwrap_or_else(|| panic!("no {part}.{field} in {value}"))
}

fn rate(value: &Value, part: &str) -> f64 {
    sum(value, part, "bits_per_second") / 1e9
}

async fn round_trip(tunnel: &Tunnel<'_>) -> f64 {
    let said = text(tunnel.hosts[0], "ping", &["-c200", "-i0.01", tunnel.target]).await;
    let times: Vec<f64> = said
        .lines()
        .filter_map(|line| line.split_once("time=")?.1.split_whitespace().next()?.parse().ok())
        .collect();
    median(&times)
}

/// How often the kernel of either host saw packets out of order.
async fn reordered(hosts: [&Host; 2]) -> f64 {
    let mut sum = 0;
    for host in hosts {
        let table = text(host, "cat", &["/proc/net/netstat"]).await;
        let lines: Vec<Vec<&str>> =
            table.lines().map(|line| line.split_whitespace().collect()).collect();
        for pair in lines.chunks(2) {
            for (name, value) in pair[0].iter().zip(&pair[1]) {
                if REORDERED.contains(name) {
                    sum += value.parse::<u64>().expect("a number");
                }
            }
        }
    }
    sum as f64
}
