//! The command `epsilon`: arguments, the client of meshd's local socket, and
//! what people see; and [`lab`], the library that builds lab hosts.
//!
//! Results go to standard output, everything else to standard error, and how
//! it ended is the exit code: 0, or that of a
//! [`ProblemKind`]. Whatever another client
//! of the API would need too is the daemon's job and not done here.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod args;
mod client;
mod command;
mod human;
pub mod lab;
mod screen;
mod secret;
mod style;
mod table;
mod value;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use epsilon_proto::api::{Problem, ProblemKind};

/// How a command ended that had nothing to complain about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Exit(u8);

impl Exit {
    const OK: Self = Self(0);
}

impl From<ProblemKind> for Exit {
    fn from(kind: ProblemKind) -> Self {
        Self(kind.exit_code())
    }
}

/// Why a command did not come to its end.
#[derive(Debug)]
enum Failure {
    /// Something failed; people are told.
    Problem(Problem),
    /// The reader of standard output has gone, and has what it wanted.
    NobodyReads,
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

/// Runs `epsilon` with these arguments, the first of which is its name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    // Not among the commands: what runs in a lab by itself, and has to stay small.
    match arguments.as_slice() {
        [_, mark, names @ ..] if mark == lab::INIT_ARGUMENT => {
            return lab::init_main(names.iter().cloned()).into();
        }
        [_, mark, link @ ..] if mark == lab::LINK_ARGUMENT => {
            return lab::link_main(link.iter().cloned()).into();
        }
        _ => {}
    }
    let cli = match args::Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // There is nowhere left to complain to.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let screen = screen::Screen::new(&cli.global);
    match command::run(cli, screen.clone()) {
        Ok(Exit(code)) => ExitCode::from(code),
        Err(Failure::NobodyReads) => ExitCode::SUCCESS,
        Err(Failure::Problem(problem)) => {
            screen.problem(&problem);
            ExitCode::from(problem.kind.exit_code())
        }
    }
}
