//! Who reaches whom through the mesh, with real packets of both families.

use std::env;
use std::fmt::Write as _;
use std::net::IpAddr;

use serde::Serialize;
use tokio::task::JoinSet;

use super::fleet::Seen;
use crate::lab::Host;
use crate::screen::Look;
use crate::style::Tone;
use crate::table::{Cell, Table};

/// Larger fleets are counted, not listed.
const MOST_LISTED: usize = 8;
/// How many pings run at once.
const AT_ONCE: usize = 32;

/// Round trips from each host to each other one.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Pings {
    hosts: Vec<String>,
    pairs: Vec<Pair>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Pair {
    from: String,
    to: String,
    /// Milliseconds; absent when no answer came.
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv4_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv6_ms: Option<f64>,
}

impl Pings {
    /// How many of the pings, two for each pair, had no answer.
    pub(super) fn lost(&self) -> usize {
        let lost =
            |pair: &Pair| usize::from(pair.ipv4_ms.is_none()) + usize::from(pair.ipv6_ms.is_none());
        self.pairs.iter().map(lost).sum()
    }
}

/// Pings from each host to each other one; nothing where there is no `ping`.
pub(super) async fn measure(hosts: &[Option<Host>], seen: &[Seen]) -> Option<Pings> {
    let path = env::var_os("PATH").unwrap_or_default();
    if !env::split_paths(&path).any(|directory| directory.join("ping").is_file()) {
        return None;
    }
    let mut pairs = Vec::new();
    let mut running = JoinSet::new();
    for (host, from) in hosts.iter().zip(seen) {
        for to in seen.iter().filter(|to| to.host != from.host) {
            let (host, number) = (host.clone(), pairs.len());
            let (ipv4, ipv6) = (to.ipv4.map(IpAddr::V4), to.ipv6.map(IpAddr::V6));
            pairs.push(Pair {
                from: from.host.clone(),
                to: to.host.clone(),
                ipv4_ms: None,
                ipv6_ms: None,
            });
            if running.len() >= AT_ONCE {
                settle(&mut pairs, running.join_next().await.and_then(Result::ok));
            }
            running.spawn(async move {
                (number, ping(host.as_ref(), ipv4).await, ping(host.as_ref(), ipv6).await)
            });
        }
    }
    while let Some(ended) = running.join_next().await {
        settle(&mut pairs, ended.ok());
    }
    Some(Pings { hosts: seen.iter().map(|seen| seen.host.clone()).collect(), pairs })
}

type Measured = (usize, Option<f64>, Option<f64>);

fn settle(pairs: &mut [Pair], measured: Option<Measured>) {
    if let Some((number, ipv4_ms, ipv6_ms)) = measured
        && let Some(pair) = pairs.get_mut(number)
    {
        pair.ipv4_ms = ipv4_ms;
        pair.ipv6_ms = ipv6_ms;
    }
}

/// The second of two round trips: the first one may have had to wait for a
/// handshake.
async fn ping(host: Option<&Host>, to: Option<IpAddr>) -> Option<f64> {
    let to = to?.to_string();
    let output = host?.run("ping", ["-n", "-c", "2", "-i", "0.2", "-W", "2", &to]).await.ok()?;
    last_round_trip(&String::from_utf8_lossy(&output.stdout))
}

fn last_round_trip(output: &str) -> Option<f64> {
    let (_, rest) = output.rsplit_once("time=")?;
    rest.split_whitespace().next()?.parse().ok()
}

pub(super) fn table(pings: &Pings, look: Look) -> String {
    if pings.pairs.is_empty() {
        return String::new();
    }
    let lost = pings.lost();
    let mut text = format!(
        "Pings through the mesh, IPv4/IPv6 in ms: {} of {} answered\n",
        pings.pairs.len() * 2 - lost,
        pings.pairs.len() * 2
    );
    if pings.hosts.len() > MOST_LISTED {
        for pair in &pings.pairs {
            if pair.ipv4_ms.is_none() || pair.ipv6_ms.is_none() {
                let _ = writeln!(text, "  {} to {}: {}", pair.from, pair.to, cell(pair).0);
            }
        }
        return text;
    }
    let mut table = Table::grid("FROM \\ TO", &pings.hosts);
    for from in &pings.hosts {
        let mut row = vec![Cell::from(from.as_str())];
        for to in &pings.hosts {
            let pair = pings.pairs.iter().find(|pair| pair.from == *from && pair.to == *to);
            row.push(pair.map_or(Cell::new("-", Tone::Faint), |pair| {
                let (text, tone) = cell(pair);
                Cell::new(text, tone)
            }));
        }
        table.push(row);
    }
    text.push_str(&table.render(look.palette, None));
    text
}

fn cell(pair: &Pair) -> (String, Tone) {
    let one = |time: Option<f64>| time.map_or("lost".to_owned(), |time| format!("{time:.2}"));
    let tone = match (pair.ipv4_ms, pair.ipv6_ms) {
        (Some(_), Some(_)) => Tone::Good,
        (None, None) => Tone::Bad,
        _ => Tone::Fair,
    };
    (format!("{}/{}", one(pair.ipv4_ms), one(pair.ipv6_ms)), tone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::style::Palette;

    fn pair(from: &str, to: &str, ipv4_ms: Option<f64>, ipv6_ms: Option<f64>) -> Pair {
        Pair { from: from.into(), to: to.into(), ipv4_ms, ipv6_ms }
    }

    #[test]
    fn the_round_trip_is_the_last_one_that_ping_prints() {
        let output = "64 bytes from 10.77.1.1: icmp_seq=1 ttl=64 time=1.20 ms\n\
                      64 bytes from 10.77.1.1: icmp_seq=2 ttl=64 time=0.345 ms\n\n--- statistics";
        assert_eq!(last_round_trip(output), Some(0.345));
        assert_eq!(last_round_trip("2 packets transmitted, 0 received"), None);
    }

    #[test]
    fn the_matrix_shows_both_families_and_counts_what_is_lost() {
        let pings = Pings {
            hosts: vec!["n1".into(), "n2".into()],
            pairs: vec![
                pair("n1", "n2", Some(0.3), Some(0.456)),
                pair("n2", "n1", Some(12.0), None),
            ],
        };
        assert_eq!(pings.lost(), 1);
        assert_eq!(
            table(&pings, Look { palette: Palette::PLAIN, width: None }),
            "Pings through the mesh, IPv4/IPv6 in ms: 3 of 4 answered\n\
             FROM \\ TO  n1          n2\n\
             n1         -           0.30/0.46\n\
             n2         12.00/lost  -\n"
        );
    }
}
