//! `version`: this command's and the daemon's.

use epsilon_proto::api::{ProblemKind, Version, paths};
use serde::Serialize;

use super::Context;
use crate::{Exit, Failure};

#[derive(Serialize)]
struct Versions {
    client: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    daemon: Option<String>,
}

pub(super) async fn run(context: &Context) -> Result<Exit, Failure> {
    let daemon = match context.client.get_unbound::<Version>(paths::VERSION).await {
        Ok(version) => Some(version.version),
        // The own version is there without a daemon, too.
        Err(problem) => match problem.kind {
            ProblemKind::DaemonNotRunning | ProblemKind::Permission => {
                context.screen.note(&problem.to_string());
                None
            }
            _ => return Err(problem.into()),
        },
    };
    let versions = Versions { client: env!("CARGO_PKG_VERSION"), daemon };
    context.screen.show(&versions, |_| match &versions.daemon {
        Some(daemon) => format!("epsilon {}\nmeshd   {daemon}\n", versions.client),
        None => format!("epsilon {}\n", versions.client),
    })?;
    Ok(Exit::OK)
}
