//! The log: structured, for people or for machines, on standard error, with a
//! level that can change while the daemon runs.

use std::sync::OnceLock;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::config::{Format, Log};

static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

fn filter(level: &str) -> Result<EnvFilter, String> {
    level.parse().map_err(|error| format!("log.level: {error}; use for example `info`"))
}

/// Starts the log. Under systemd, which stamps each line, text lines carry no
/// time of their own.
pub fn start(log: &Log) -> Result<(), String> {
    let (filter, handle) = reload::Layer::new(filter(&log.level)?);
    let registry = tracing_subscriber::registry().with(filter);
    let under_systemd = std::env::var_os("JOURNAL_STREAM").is_some();
    let text = fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(false);
    let started = match (log.format, under_systemd) {
        (Format::Json, _) => {
            registry.with(fmt::layer().json().with_writer(std::io::stderr)).try_init()
        }
        (Format::Text, true) => registry.with(text.without_time()).try_init(),
        (Format::Text, false) => registry.with(text).try_init(),
    };
    started.map_err(|error| error.to_string())?;
    // A second start was refused above.
    let _ = FILTER.set(handle);
    Ok(())
}

/// Changes the level.
pub fn set_level(level: &str) -> Result<(), String> {
    let filter = filter(level)?;
    match FILTER.get() {
        Some(handle) => handle.reload(filter).map_err(|error| error.to_string()),
        None => Ok(()),
    }
}
