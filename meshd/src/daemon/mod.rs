//! The daemon: the networks of this machine, and what clients ask of them.

mod answer;
mod dataplane;
mod device;
mod founding;
mod netcheck;
mod place;
mod render;
mod routes;
mod select;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use epsilon_proto::api::{
    BrokenNetwork, DaemonStatus, NetworkList, Problem, ProblemKind, Reloaded, Status, Time, Version,
};
use epsilon_proto::name::NetworkName;
use epsilon_sys::file;
use tokio::sync::mpsc;

use crate::api::{Answer, Call, Journal, Reply, choose_network};
use crate::clock;
use crate::config::{Config, Source};
use crate::network::{self, Network, provisional};

/// A network that ended by itself is started again after this.
const RESTART: Duration = Duration::from_secs(5);

/// The daemon's state; one task owns it.
pub struct Daemon {
    config: Config,
    source: Source,
    journal: Journal,
    networks: BTreeMap<NetworkName, Network>,
    /// Networks that could not be served, and why.
    broken: BTreeMap<String, String>,
    restart: tokio::time::Instant,
    started: Time,
    settled: mpsc::Receiver<founding::Settled>,
    settle: mpsc::Sender<founding::Settled>,
    _lock: Option<file::Lock>,
}

/// Why the daemon cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Its state directory.
    #[error(transparent)]
    File(#[from] file::Error),
    /// Its state directory cannot be listed.
    #[error("cannot list {path}: {source}; check that it is a readable directory")]
    List {
        /// The directory.
        path: PathBuf,
        /// What the kernel says.
        source: std::io::Error,
    },
}

impl Daemon {
    /// Serves every network whose state is on disk.
    pub async fn start(config: Config, source: Source, journal: Journal) -> Result<Self, Error> {
        let lock = lock(&config)?;
        let (settle, settled) = mpsc::channel(8);
        let mut daemon = Self {
            config,
            source,
            journal,
            networks: BTreeMap::new(),
            broken: BTreeMap::new(),
            restart: tokio::time::Instant::now() + RESTART,
            started: Time::from_unix_ms(clock::wall().0),
            settled,
            settle,
            _lock: lock,
        };
        daemon.start_networks().await?;
        Ok(daemon)
    }

    async fn start_networks(&mut self) -> Result<(), Error> {
        if let Err(error) = provisional::sweep(&self.config.state_dir) {
            tracing::warn!(%error, "cannot remove the rest of a network that was left");
        }
        let directories = self.directories()?;
        self.broken.retain(|name, _| directories.iter().any(|(there, _)| there == name));
        for (name, dir) in directories {
            if self.networks.keys().any(|served| served.as_str() == name) {
                continue;
            }
            if let Some(interface) = provisional::marked(&dir) {
                tracing::warn!(network = name, "removing the rest of what was cut off");
                match provisional::remove(&dir, &interface).await {
                    Ok(()) => drop(self.broken.remove(&name)),
                    Err(error) => self.note_broken(&name, not_removed(&error)),
                }
                continue;
            }
            match self.start_network(dir, false).await {
                Ok(network) => {
                    self.broken.remove(&name);
                    self.networks.insert(network.name().clone(), network);
                }
                Err(error) => self.note_broken(&name, error.to_string()),
            }
        }
        Ok(())
    }

    fn note_broken(&mut self, name: &str, reason: String) {
        if self.broken.get(name) != Some(&reason) {
            tracing::error!(network = name, "cannot serve the network: {reason}");
        }
        self.broken.insert(name.to_owned(), reason);
    }

    fn directories(&self) -> Result<Vec<(String, PathBuf)>, Error> {
        let path = &self.config.state_dir;
        let failed = |source| Error::List { path: path.clone(), source };
        let mut directories = Vec::new();
        for entry in std::fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.parse::<NetworkName>().is_ok() && entry.path().is_dir() {
                directories.push((name, entry.path()));
            }
        }
        directories.sort();
        Ok(directories)
    }

    async fn start_network(&self, dir: PathBuf, founding: bool) -> Result<Network, network::Error> {
        Network::start(network::Config {
            dir,
            multicast: self.config.discovery.multicast,
            lanes: self.config.data.lanes(),
            relaying: self.config.relay.relaying(),
            tcp_port: self.config.tcp_port,
            port_mapping: self.config.port_mapping.enabled,
            journal: self.journal.clone(),
            founding,
        })
        .await
    }

    /// Answers calls until the channel ends, which is when the daemon shall
    /// stop; then stops every network.
    pub async fn run(
        mut self,
        mut calls: mpsc::Receiver<(Call, Answer)>,
        mut hangups: mpsc::Receiver<()>,
    ) {
        loop {
            tokio::select! {
                call = calls.recv() => match call {
                    Some((call, answer)) => self.call(call, answer).await,
                    None => break,
                },
                Some(()) = hangups.recv() => {
                    if let Err(problem) = self.reload() {
                        tracing::error!("{problem}");
                    }
                }
                Some(settled) = self.settled.recv() => self.settle_join(settled).await,
                () = tokio::time::sleep_until(self.restart) => self.look_after_networks().await,
            }
        }
        for (name, network) in std::mem::take(&mut self.networks) {
            if let Err(error) = network.stop().await {
                tracing::error!(network = %name, "{error}");
            }
        }
    }

    /// Starts again what ended by itself or could not be served.
    async fn look_after_networks(&mut self) {
        self.restart = tokio::time::Instant::now() + RESTART;
        let ended: Vec<_> = self
            .networks
            .iter()
            .filter(|(_, network)| network.has_ended())
            .map(|(name, _)| name.clone())
            .collect();
        for name in &ended {
            if let Some(network) = self.networks.remove(name)
                && let Err(error) = network.stop().await
            {
                tracing::error!(network = %name, "{error}; starting it again");
            }
        }
        if (!ended.is_empty() || !self.broken.is_empty())
            && let Err(error) = self.start_networks().await
        {
            tracing::error!("{error}");
        }
    }

    async fn call(&mut self, call: Call, answer: Answer) {
        let result = match call {
            Call::Version => Ok(Reply::Version(version())),
            Call::Networks => self.list().await,
            Call::Status { network } => self.status(network).await,
            Call::Create(request) => self.create(request).await,
            Call::Join(request) => return self.join(request, answer).await,
            Call::Leave { network } => self.leave(network).await,
            Call::Reload => self.reload().map(Reply::Reload),
            call => {
                // These may take long; they wait beside the others.
                match self.choose(answer::network_of(&call)) {
                    Ok(network) => {
                        let asked = answer::Asked {
                            name: network.name().clone(),
                            dir: network.dir().to_owned(),
                            client: network.client(),
                        };
                        tokio::spawn(async move {
                            // The client may have hung up.
                            let _ = answer.send(asked.answer(call).await);
                        });
                    }
                    Err(problem) => drop(answer.send(Err(problem))),
                }
                return;
            }
        };
        // The client may have hung up.
        let _ = answer.send(result);
    }

    fn choose(&self, requested: Option<&str>) -> Result<&Network, Problem> {
        let served: Vec<&str> = self.networks.keys().map(NetworkName::as_str).collect();
        if let Some((name, reason)) =
            self.broken.iter().find(|(name, _)| requested.is_none_or(|wanted| wanted == *name))
            && (requested.is_some() || served.is_empty())
        {
            return Err(Problem::new(
                ProblemKind::Degraded,
                format!("network {name} cannot be served: {reason}"),
            )
            .hint(format!(
                "mend that, it is tried again every {} s; or give the network up: epsilon mesh leave --network {name}",
                RESTART.as_secs()
            )));
        }
        let name = choose_network(requested, &served)?;
        self.networks
            .iter()
            .find(|(served, _)| served.as_str() == name)
            .map(|(_, network)| network)
            .ok_or_else(|| {
                Problem::new(ProblemKind::NotJoined, format!("no network {name:?}"))
                    .hint("epsilon status shows those of this machine")
            })
    }

    async fn list(&self) -> Result<Reply, Problem> {
        let mut networks = Vec::new();
        for network in self.networks.values() {
            let snapshot = network.client().snapshot().await.map_err(answer::stopped)?;
            networks.push(render::summary(&snapshot));
        }
        Ok(Reply::Networks(NetworkList { networks }))
    }

    async fn status(&self, requested: Option<String>) -> Result<Reply, Problem> {
        let daemon = DaemonStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_at: self.started,
            now: Time::from_unix_ms(clock::wall().0),
        };
        let mut networks = Vec::new();
        let mut broken = Vec::new();
        if requested.is_some() {
            let network = self.choose(requested.as_deref())?;
            let snapshot = network.client().snapshot().await.map_err(answer::stopped)?;
            networks.push(render::status(&snapshot));
        } else {
            for network in self.networks.values() {
                let snapshot = network.client().snapshot().await.map_err(answer::stopped)?;
                networks.push(render::status(&snapshot));
            }
            let broken_one = |(network, reason): (&String, &String)| BrokenNetwork {
                network: network.clone(),
                reason: reason.clone(),
            };
            broken = self.broken.iter().map(broken_one).collect();
        }
        Ok(Reply::Status(Status { daemon, networks, broken }))
    }

    /// Reads the configuration again. What cannot change while the daemon
    /// runs waits for a restart.
    fn reload(&mut self) -> Result<Reloaded, Problem> {
        let config = self
            .source
            .read()
            .map_err(|error| Problem::new(ProblemKind::Error, error.to_string()))?;
        let changed = self.config.differences(&config);
        let (applied, pending): (Vec<_>, Vec<_>) =
            changed.into_iter().partition(|key| *key == "log.level");
        if !applied.is_empty() {
            crate::log::set_level(&config.log.level)
                .map_err(|error| Problem::new(ProblemKind::Error, error))?;
            self.config.log.level = config.log.level;
        }
        tracing::info!(?applied, ?pending, "configuration read again");
        let owned = |keys: Vec<&str>| keys.into_iter().map(str::to_owned).collect();
        Ok(Reloaded { applied: owned(applied), pending: owned(pending) })
    }
}

/// Why a network is broken that was left, or never joined.
fn not_removed(error: &std::io::Error) -> String {
    format!("it was left, or never joined, and its state cannot be removed: {error}")
}

fn version() -> Version {
    Version {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        schemas: vec![epsilon_proto::api::SCHEMA.to_owned()],
    }
}

/// One daemon per state directory. A directory that takes no writes cannot be
/// locked; then whoever wrote to it last is not running, or is read-only too.
fn lock(config: &Config) -> Result<Option<file::Lock>, Error> {
    let path = &config.state_dir;
    match file::create_private_dir(path).and_then(|()| file::Lock::acquire(&path.join("lock"))) {
        Ok(lock) => Ok(Some(lock)),
        Err(error) if error.is_unwritable() && path.is_dir() => {
            tracing::error!("{error}; serving what is there, nothing new can be kept");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}
