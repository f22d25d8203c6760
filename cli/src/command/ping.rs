//! `ping`: round trip, path and loss, probe by probe.

use std::fmt::Write as _;
use std::time::Duration;

use epsilon_proto::api::{PathKind, Ping, PingRequest, Problem, ProblemKind, paths};
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};

use super::Context;
use crate::client::Client;
use crate::human;
use crate::{Exit, Failure};

/// How long one probe may take, unless told.
const PROBE: Duration = Duration::from_secs(2);
/// How long it may take at most; also in the daemon.
const LONGEST: Duration = Duration::from_mins(1);
/// What the daemon may take on top of it.
const MARGIN: Duration = Duration::from_secs(5);

/// So many probes find a direct path, or there is none.
const UNTIL_DIRECT: u64 = 30;

/// Which probes are sent.
pub(super) struct Probes {
    /// How many.
    pub(super) count: Option<u64>,
    /// From one to the next.
    pub(super) every: Duration,
    /// Whether the first answer is the last that comes directly.
    pub(super) until_direct: bool,
}

pub(super) async fn run(context: &Context, peer: &str, probes: Probes) -> Result<Exit, Failure> {
    let Probes { count, every, until_direct } = probes;
    let count = count.or(until_direct.then_some(UNTIL_DIRECT));
    let screen = &context.screen;
    let wait = context.timeout.unwrap_or(PROBE);
    if wait > LONGEST {
        let longest = human::duration(LONGEST);
        return Err(Problem::new(
            ProblemKind::Usage,
            format!("a probe waits for its answer for {longest} at most"),
        )
        .hint("give a shorter --timeout")
        .into());
    }
    let client = Client { timeout: wait.saturating_add(MARGIN), ..context.client.clone() };
    let request = PingRequest {
        peer: peer.to_owned(),
        timeout_ms: Some(u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1)),
    };
    let mut summary = Summary::new(peer);
    let mut last_path = None;
    let mut interrupted_by_hand = false;
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);

    while count.is_none_or(|count| summary.sent < count) {
        let answer = tokio::select! {
            _ = &mut interrupted => {
                interrupted_by_hand = true;
                break;
            }
            answer = async {
                ticks.tick().await;
                client.post::<_, Ping>(paths::PING, &request).await
            } => answer,
        };
        let number = summary.sent + 1;
        match answer {
            Ok(ping) => {
                if number == 1 {
                    summary.peer = human::clean(&human::node(&ping.peer));
                }
                summary.add(ping.rtt_us);
                if !screen.quiet {
                    screen.show_next(&Probe { probe: number, ping: &ping }, |_| {
                        line(&summary.peer, number, &ping)
                    })?;
                }
                if ping.rtt_us.is_some() {
                    let is_direct = ping.path.kind == PathKind::Direct;
                    last_path = Some(ping.path);
                    if until_direct && is_direct {
                        break;
                    }
                }
            }
            // A peer that is not known now will not be known in a second.
            Err(problem) if number == 1 => return Err(problem.into()),
            // The daemon may be back for the next one.
            Err(problem) if problem.kind != ProblemKind::Usage => {
                summary.add(None);
                screen.problem(&problem);
            }
            Err(problem) => return Err(problem.into()),
        }
    }

    summary.close();
    screen.show_next(&summary, |_| {
        // The terminal has shown ^C without a line feed.
        let feed = if interrupted_by_hand { "\n" } else { "" };
        format!("{feed}{}", summary.text())
    })?;
    let last = last_path.map(|path| path.kind);
    if until_direct && !interrupted_by_hand && last.is_some_and(|kind| kind != PathKind::Direct) {
        screen.problem(
            &Problem::new(
                ProblemKind::Relayed,
                format!("no packet reaches {} directly", summary.peer),
            )
            .hint("see what is in the way: epsilon netcheck"),
        );
        return Ok(ProblemKind::Relayed.into());
    }
    Ok(verdict(&summary, last))
}

fn verdict(summary: &Summary, last: Option<PathKind>) -> Exit {
    match last {
        _ if summary.sent == 0 => Exit::OK,
        None => ProblemKind::Unreachable.into(),
        Some(PathKind::Relayed) => ProblemKind::Relayed.into(),
        Some(PathKind::Direct | PathKind::Tls | PathKind::None) => Exit::OK,
    }
}

fn heading(peer: &str, ping: &Ping) -> String {
    match ping.address {
        Some(address) => format!("PING {peer} ({address})\n"),
        None => format!("PING {peer}\n"),
    }
}

/// The line for one probe; the first one has a heading.
fn line(peer: &str, number: u64, ping: &Ping) -> String {
    let heading = if number == 1 { heading(peer, ping) } else { String::new() };
    match ping.rtt_us {
        Some(rtt) => format!(
            "{heading}answer from {peer}: seq={number} time={} path={}\n",
            human::round_trip(rtt),
            human::clean(&human::path(&ping.path))
        ),
        None => format!("{heading}no answer from {peer}: seq={number}\n"),
    }
}

/// One probe as a document.
#[derive(Serialize)]
struct Probe<'a> {
    probe: u64,
    #[serde(flatten)]
    ping: &'a Ping,
}

/// What all probes together say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Summary {
    #[serde(rename = "summary")]
    peer: String,
    sent: u64,
    answered: u64,
    loss_percent: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    rtt_us: Option<Spread>,
    #[serde(skip)]
    total_us: u128,
}

/// The shortest, the mean and the longest round trip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Spread {
    min: u64,
    avg: u64,
    max: u64,
}

impl Summary {
    fn new(peer: &str) -> Self {
        Self {
            peer: peer.to_owned(),
            sent: 0,
            answered: 0,
            loss_percent: 0,
            rtt_us: None,
            total_us: 0,
        }
    }

    fn add(&mut self, rtt_us: Option<u64>) {
        self.sent += 1;
        let Some(rtt) = rtt_us else { return };
        self.answered += 1;
        self.total_us += u128::from(rtt);
        let before = self.rtt_us.unwrap_or(Spread { min: rtt, avg: rtt, max: rtt });
        self.rtt_us = Some(Spread { min: before.min.min(rtt), avg: rtt, max: before.max.max(rtt) });
    }

    /// Works out what needs all probes.
    fn close(&mut self) {
        if let Some(lost) = ((self.sent - self.answered) * 100).checked_div(self.sent) {
            self.loss_percent = lost;
        }
        if let Some(spread) = &mut self.rtt_us {
            spread.avg =
                u64::try_from(self.total_us / u128::from(self.answered)).unwrap_or(u64::MAX);
        }
    }

    fn text(&self) -> String {
        let mut text = format!(
            "--- {} ---\n{} sent, {} answered, {}% loss\n",
            self.peer, self.sent, self.answered, self.loss_percent
        );
        if let Some(Spread { min, avg, max }) = self.rtt_us {
            let _ = writeln!(
                text,
                "round trip min/avg/max {} / {} / {}",
                human::round_trip(min),
                human::round_trip(avg),
                human::round_trip(max)
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(round_trips: &[Option<u64>]) -> Summary {
        let mut summary = Summary::new("n2");
        for rtt in round_trips {
            summary.add(*rtt);
        }
        summary.close();
        summary
    }

    #[test]
    fn the_summary_counts_loss_and_spread() {
        assert_eq!(
            summary(&[Some(200), None, Some(400), Some(300)]).text(),
            "--- n2 ---\n4 sent, 3 answered, 25% loss\n\
             round trip min/avg/max 0.20 ms / 0.30 ms / 0.40 ms\n"
        );
        assert_eq!(summary(&[None, None]).text(), "--- n2 ---\n2 sent, 0 answered, 100% loss\n");
        assert_eq!(summary(&[]).text(), "--- n2 ---\n0 sent, 0 answered, 0% loss\n");
    }

    #[test]
    fn the_exit_code_says_how_the_peer_was_last_reached() {
        let answered = summary(&[None, Some(200)]);
        assert_eq!(verdict(&answered, Some(PathKind::Direct)), Exit(0));
        assert_eq!(verdict(&answered, Some(PathKind::Relayed)), Exit(8));
        assert_eq!(verdict(&summary(&[None]), None), Exit(7));
    }
}
