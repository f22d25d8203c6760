//! The binary: arguments, log, signals; everything else is the library's.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use meshd::api::{self, Journal};
use meshd::config::{Config, Source};
use meshd::daemon::Daemon;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// The epsilon node daemon: joins this machine to encrypted meshes.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration file [default: /etc/epsilon/meshd.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The Unix socket of the local API
    #[arg(long, value_name = "PATH", env = "EPSILON_SOCKET")]
    socket: Option<PathBuf>,
    /// The directory of the state
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Print the OpenAPI description of the local API and end
    #[arg(long)]
    print_openapi: bool,
}

/// Calls that may wait for the daemon.
const CALLS: usize = 64;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.print_openapi {
        print!("{}", api::openapi_json());
        return ExitCode::SUCCESS;
    }
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("meshd: {}", explain(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes, but for those that it names already.
fn explain(error: &anyhow::Error) -> String {
    error.chain().skip(1).map(ToString::to_string).fold(error.to_string(), |text, cause| {
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let source =
        Source { file: arguments.config, socket: arguments.socket, state_dir: arguments.state_dir };
    let config = source.read()?;
    meshd::log::start(&config.log).map_err(anyhow::Error::msg)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    runtime.block_on(serve(config, source))
}

async fn serve(config: Config, source: Source) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot handle SIGHUP")?;
    let journal = Journal::new();
    let daemon = Daemon::start(config.clone(), source, journal.clone()).await?;
    let socket = api::bind(&config.socket, &config.group)?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), socket = %config.socket.display(), "ready");
    notify(sd_notify::NotifyState::Ready);

    let (calls, queue) = mpsc::channel(CALLS);
    let (hangups, hung_up) = mpsc::channel(1);
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            // One that waits already will do.
            let _ = hangups.try_send(());
        }
    });
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        notify(sd_notify::NotifyState::Stopping);
    };
    let server = tokio::spawn(api::serve(socket, calls, journal, api::Limits::default(), stop));
    Box::pin(daemon.run(queue, hung_up)).await;
    server.await.context("the local API ended badly")?;
    tracing::info!("stopped");
    Ok(())
}

fn notify(state: sd_notify::NotifyState<'_>) {
    // Says nothing, and succeeds, where no systemd listens.
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}
