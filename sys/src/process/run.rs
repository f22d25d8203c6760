use std::io::{self, Write as _};
use std::process::{Command, ExitStatus, Stdio};

/// Why a program did not do what it was run for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// There is no such program.
    #[error("there is no program {0}; install it")]
    Missing(String),
    /// It could not be run.
    #[error("cannot run {program}: {source}")]
    Run {
        /// Which.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It failed.
    #[error("{program} failed ({status}): {said}")]
    Failed {
        /// Which.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The first line that it said about it.
        said: String,
    },
}

/// Runs a program to its end, with `input` as its standard input.
///
/// Blocks for as long as that takes.
pub fn run(program: &str, arguments: &[&str], input: &str) -> Result<(), RunError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => RunError::Missing(program.to_owned()),
        _ => RunError::Run { program: program.to_owned(), source },
    };
    let mut child = Command::new(program)
        .args(arguments)
        // Where administrators' programs are, whoever started this one.
        .env("PATH", path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // What it does not read it does not need, and it says why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or("it said nothing").to_owned();
    Err(RunError::Failed { program: program.to_owned(), status: output.status, said })
}

fn path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/local/sbin:/usr/sbin:/sbin")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_says_when_it_fails_is_in_the_error() {
        run("sh", &["-c", "read line; test \"$line\" = hello"], "hello\n").unwrap();
        let error = run("sh", &["-c", "echo no such thing >&2; exit 3"], "").unwrap_err();
        let text = error.to_string();
        assert!(text.contains("sh failed (exit status: 3): no such thing"), "{text}");
        let error = run("there-is-no-such-program", &[], "").unwrap_err();
        assert!(matches!(error, RunError::Missing(_)), "{error}");
    }
}
