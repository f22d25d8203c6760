//! `completion` and `man`, made from the arguments' own description.

use std::path::Path;

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use epsilon_proto::api::{Problem, ProblemKind};

use crate::args::{Cli, Shell};
use crate::screen::print;
use crate::{Exit, Failure};

pub(super) fn completion(shell: Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    let shell = clap_complete::Shell::from(shell);
    clap_complete::generate(shell, &mut Cli::command(), "epsilon", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::OK)
}

/// Prints the page of `command`, or writes all pages into `directory`.
pub(super) fn man(command: &[String], directory: Option<&Path>) -> Result<Exit, Failure> {
    let mut root = Cli::command();
    root.build();
    if let Some(directory) = directory {
        let failed = |error: std::io::Error| {
            Problem::new(
                ProblemKind::Error,
                format!("cannot write manual pages to {}: {error}", directory.display()),
            )
            .hint("choose a directory that exists and that you may write to")
        };
        clap_mangen::generate_to(root, directory).map_err(failed)?;
        return Ok(Exit::OK);
    }
    let page = command.iter().try_fold(&root, |page, name| {
        page.find_subcommand(name).ok_or_else(|| unknown(page, name))
    })?;
    let mut text = Vec::new();
    Man::new(page.clone()).render(&mut text).map_err(|error| {
        Problem::new(ProblemKind::Error, format!("cannot write the manual page: {error}"))
    })?;
    print(&String::from_utf8_lossy(&text))?;
    Ok(Exit::OK)
}

fn unknown(page: &Command, name: &str) -> Problem {
    let known: Vec<&str> = page
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
        .map(Command::get_name)
        .collect();
    Problem::new(ProblemKind::Usage, format!("{} has no command {name:?}", page.get_name())).hint(
        if known.is_empty() {
            "it has none".into()
        } else {
            format!("it has: {}", known.join(", "))
        },
    )
}
