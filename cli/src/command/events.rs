//! `events`: what happened, alarms included.

use std::fmt::Write as _;

use epsilon_proto::api::{Event, Problem, ProblemKind, Severity, paths};

use super::Context;
use crate::human::{self, clean};
use crate::screen::Look;
use crate::style::Tone;
use crate::{Exit, Failure};

pub(super) async fn run(context: &Context, follow: bool) -> Result<Exit, Failure> {
    let query: &[(&str, &str)] = if follow { &[("follow", "true")] } else { &[] };
    context
        .client
        .events(paths::EVENTS, query, |event| {
            context.screen.show_next(&event, |look| line(&event, look))
        })
        .await?;
    if follow {
        return Err(Problem::new(
            ProblemKind::DaemonNotRunning,
            "meshd ended, and its events with it",
        )
        .hint("see why with: systemctl status meshd")
        .into());
    }
    Ok(Exit::OK)
}

fn line(event: &Event, look: Look) -> String {
    let paint = |tone, text: &str| look.palette.paint(tone, text).into_owned();
    let (word, tone) = match event.severity {
        Severity::Info => ("info   ", Tone::Plain),
        Severity::Warning => ("warning", Tone::Fair),
        Severity::Alarm => ("ALARM  ", Tone::Bad),
    };
    let mut text = format!(
        "{}  {}  {}  {}\n",
        paint(Tone::Faint, &human::moment(event.at)),
        paint(tone, word),
        clean(event.network.as_deref().unwrap_or("-")),
        paint(tone, &clean(&event.message))
    );
    if let Some(hint) = &event.hint {
        let _ = writeln!(text, "{:21}{} {}", "", paint(Tone::Strong, "next:"), clean(hint));
    }
    text
}
