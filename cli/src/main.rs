//! The command `epsilon`.

use std::process::ExitCode;

fn main() -> ExitCode {
    epsilon_cli::run(std::env::args_os())
}
