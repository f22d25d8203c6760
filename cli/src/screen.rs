//! Where output goes: results to standard output, everything else to
//! standard error.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::time::Duration;

use epsilon_proto::api::{Document, Problem, ProblemKind};
use serde::Serialize;
use tokio::time::Instant;

use crate::Failure;
use crate::args::{Format, Global};
use crate::human::{clean, duration};
use crate::style::{Palette, Tone};

/// Work that ends sooner shows no progress.
const PATIENCE: Duration = Duration::from_millis(400);

/// How things look on standard output.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    pub(crate) palette: Palette,
    /// Columns, on a terminal.
    pub(crate) width: Option<usize>,
}

#[derive(Debug, Clone)]
pub(crate) struct Screen {
    pub(crate) format: Format,
    pub(crate) quiet: bool,
    pub(crate) look: Look,
    errors: Palette,
    progress: bool,
}

impl Screen {
    pub(crate) fn new(global: &Global) -> Self {
        let terminal = io::stdout().is_terminal();
        let error_terminal = io::stderr().is_terminal();
        Self {
            format: global.output,
            quiet: global.quiet,
            look: Look {
                palette: Palette::for_stream(terminal),
                width: terminal
                    .then(terminal_size::terminal_size)
                    .flatten()
                    .map(|(width, _)| usize::from(width.0)),
            },
            errors: Palette::for_stream(error_terminal),
            progress: error_terminal && !global.quiet,
        }
    }

    /// Prints `body` in the chosen format; `people` writes it for people.
    pub(crate) fn show<T: Serialize>(
        &self,
        body: &T,
        people: impl FnOnce(Look) -> String,
    ) -> Result<(), Failure> {
        let text = match self.format {
            Format::Table => people(self.look),
            Format::Json => {
                let document = serde_json::to_string_pretty(&Document::new(body));
                format!("{}\n", document.map_err(|error| unwritable(&error))?)
            }
            Format::Yaml => {
                yaml_serde::to_string(&Document::new(body)).map_err(|error| unwritable(&error))?
            }
        };
        print(&text)
    }

    /// The same for one of many: JSON in one line each, YAML as documents.
    pub(crate) fn show_next<T: Serialize>(
        &self,
        body: &T,
        people: impl FnOnce(Look) -> String,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Table => print(&people(self.look)),
            Format::Json => {
                let document = serde_json::to_string(&Document::new(body));
                print(&format!("{}\n", document.map_err(|error| unwritable(&error))?))
            }
            Format::Yaml => {
                print("---\n")?;
                self.show(body, people)
            }
        }
    }

    /// Tells a person something that is no part of the result.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            complain(text);
        }
    }

    /// Says what failed and what to do: as text, or as a document where
    /// documents were asked for.
    pub(crate) fn problem(&self, problem: &Problem) {
        let text = match self.format {
            Format::Json => serde_json::to_string(&Document::new(problem)).ok(),
            Format::Yaml => yaml_serde::to_string(&Document::new(problem)).ok(),
            Format::Table => None,
        };
        let text = text.unwrap_or_else(|| problem_text(problem, self.errors));
        let _ = writeln!(io::stderr(), "{}", text.trim_end());
    }

    /// Waits for `work` and meanwhile shows on a terminal that it goes on.
    pub(crate) async fn progress<R>(&self, what: &str, work: impl Future<Output = R>) -> R {
        let started = Instant::now();
        let mut frames = ["-", "\\", "|", "/"].iter().cycle();
        let mut drawn = false;
        tokio::pin!(work);
        loop {
            tokio::select! {
                result = &mut work => {
                    if drawn {
                        let _ = write!(io::stderr(), "\r\u{1b}[K");
                    }
                    return result;
                }
                () = tokio::time::sleep(Duration::from_millis(100)), if self.progress => {
                    let elapsed = started.elapsed();
                    if elapsed >= PATIENCE
                        && let Some(frame) = frames.next()
                    {
                        drawn = true;
                        let text = format!("{frame} {} ({})", clean(what), duration(elapsed));
                        let text = self.errors.paint(Tone::Faint, &text);
                        let _ = write!(io::stderr(), "\r\u{1b}[K{text}");
                        let _ = io::stderr().flush();
                    }
                }
            }
        }
    }
}

/// Says the lines of `text` on standard error whatever was asked for.
pub(crate) fn complain(text: &str) {
    for line in text.lines() {
        // Nobody is left to tell that standard error is closed.
        let _ = writeln!(io::stderr(), "{}", clean(line));
    }
}

/// Writes `text` to standard output, at once.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::NobodyReads),
        Err(error) => Err(Problem::new(
            ProblemKind::Error,
            format!("cannot write to standard output: {error}"),
        )
        .hint("is the disk full?")
        .into()),
    }
}

fn problem_text(problem: &Problem, palette: Palette) -> String {
    let error = palette.paint(Tone::Bad, "error:");
    let message = clean(&problem.message);
    match &problem.hint {
        Some(hint) => {
            let next = palette.paint(Tone::Strong, "next:");
            format!("{error} {message}\n{next} {}", clean(hint))
        }
        None => format!("{error} {message}"),
    }
}

fn unwritable(error: &dyn std::error::Error) -> Problem {
    Problem::new(ProblemKind::Error, format!("the result cannot be written: {error}"))
}
