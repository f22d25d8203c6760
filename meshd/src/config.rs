//! The configuration file, `/etc/epsilon/meshd.toml`.
//!
//! Everything has a default; a key that is not known is an error, so that a
//! typing mistake is noticed.

use std::path::{Path, PathBuf};

use epsilon_mesh::shard::Relaying;
use serde::Deserialize;

/// Where it is looked for unless the command line says otherwise.
pub const DEFAULT_PATH: &str = "/etc/epsilon/meshd.toml";

/// The configuration of a daemon.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The Unix socket of the local API.
    pub socket: PathBuf,
    /// The group that may use the socket, besides root.
    pub group: String,
    /// Where networks keep their state.
    pub state_dir: PathBuf,
    /// The port of the first network, UDP and TCP.
    pub port: u16,
    /// Another TCP port at which members are let in, such as 443: for those whose networks
    /// let nothing else out.
    pub tcp_port: Option<u16>,
    /// What is logged and how.
    pub log: Log,
    /// Finding members on local networks.
    pub discovery: Discovery,
    /// Ports of the router.
    pub port_mapping: PortMapping,
    /// Carrying packets.
    pub data: Data,
    /// Passing on what other members send each other.
    pub relay: Relay,
}

/// Passing on what other members send each other and cannot without this node.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Relay {
    /// Whether to, once this node is seen to be reachable. A node labelled
    /// `metered=true` or `power=battery` never does.
    pub enabled: bool,
    /// How much between two members, both ways together, in Mbit/s.
    pub pair_mbit: u32,
    /// How much between all of them, in Mbit/s.
    pub total_mbit: u32,
}

impl Default for Relay {
    fn default() -> Self {
        Self { enabled: true, pair_mbit: 500, total_mbit: 1000 }
    }
}

impl Relay {
    /// The limits, unless it is switched off.
    pub fn relaying(&self) -> Option<Relaying> {
        let bytes = |mbit| u64::from(mbit) * 1_000_000 / 8;
        self.enabled.then(|| Relaying { each: bytes(self.pair_mbit), all: bytes(self.total_mbit) })
    }
}

/// Carrying packets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Data {
    /// How many threads carry the packets of a network; 0 for one for every two
    /// cores, up to eight. At most 16.
    pub threads: u8,
}

impl Data {
    /// The number of threads on this machine.
    pub fn lanes(&self) -> u8 {
        match self.threads {
            0 => {
                let cores = std::thread::available_parallelism();
                crate::data::lanes_for(cores.map_or(1, usize::from))
            }
            threads => threads.min(epsilon_mesh::shard::Lane::MOST),
        }
    }
}

/// What is logged and how.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// Like `info` or `info,meshd::control=debug`.
    pub level: String,
    /// For people or for machines.
    pub format: Format,
}

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Finding members on local networks.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Discovery {
    /// Whether sealed beacons are sent and heard.
    pub multicast: bool,
}

/// Ports of the router that leads out, by which others reach this node behind its NAT.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PortMapping {
    /// Whether it is asked for any.
    pub enabled: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            socket: crate::api::DEFAULT_PATH.into(),
            group: crate::api::DEFAULT_GROUP.to_owned(),
            state_dir: "/var/lib/epsilon".into(),
            port: epsilon_proto::address::DEFAULT_PORT,
            tcp_port: None,
            log: Log::default(),
            discovery: Discovery::default(),
            port_mapping: PortMapping::default(),
            data: Data::default(),
            relay: Relay::default(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: Format::Text }
    }
}

impl Default for Discovery {
    fn default() -> Self {
        Self { multicast: true }
    }
}

impl Default for PortMapping {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file is there and cannot be read.
    #[error("cannot read the configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: epsilon_sys::file::Error,
    },
    /// The file does not say what it may.
    #[error("{path}: {reason}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        reason: String,
    },
}

/// Larger files are not read.
const MAX: usize = 1024 * 1024;

impl Config {
    /// Reads the file, or that at the default path. Where that is missing
    /// everything has its default, unless it was asked for by name.
    fn read(asked: Option<&Path>, default: &Path) -> Result<Self, ConfigError> {
        let path = asked.unwrap_or(default);
        match epsilon_sys::file::read_limited(path, MAX) {
            Ok(bytes) => Self::parse(&bytes)
                .map_err(|reason| ConfigError::Content { path: path.to_owned(), reason }),
            Err(error) if error.is_not_found() && asked.is_none() => Ok(Self::default()),
            Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
        }
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())?;
        let config: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        if config.port == 0 {
            return Err("port: 0 is not a port; leave it out for 7755".to_owned());
        }
        if config.tcp_port == Some(0) {
            return Err("tcp_port: 0 is not a port; leave it out for none".to_owned());
        }
        let Relay { pair_mbit, total_mbit, .. } = config.relay;
        if pair_mbit == 0 || total_mbit == 0 {
            return Err(
                "relay: 0 Mbit/s is no limit; use `enabled = false` to pass on nothing".to_owned()
            );
        }
        config
            .log
            .level
            .parse::<tracing_subscriber::EnvFilter>()
            .map_err(|error| format!("log.level: {error}; use for example `info`"))?;
        Ok(config)
    }

    /// The keys in which two configurations differ.
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        [
            ("socket", self.socket != other.socket),
            ("group", self.group != other.group),
            ("state_dir", self.state_dir != other.state_dir),
            ("port", self.port != other.port),
            ("tcp_port", self.tcp_port != other.tcp_port),
            ("log.level", self.log.level != other.log.level),
            ("log.format", self.log.format != other.log.format),
            ("discovery.multicast", self.discovery != other.discovery),
            ("port_mapping.enabled", self.port_mapping != other.port_mapping),
            ("data.threads", self.data != other.data),
            ("relay", self.relay != other.relay),
        ]
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key))
        .collect()
    }
}

/// Where the configuration comes from.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// The file; the default one, which need not exist, unless given.
    pub file: Option<PathBuf>,
    /// What the command line says instead of the file.
    pub socket: Option<PathBuf>,
    /// What the command line says instead of the file.
    pub state_dir: Option<PathBuf>,
}

impl Source {
    /// Reads it.
    pub fn read(&self) -> Result<Config, ConfigError> {
        let mut config = Config::read(self.file.as_deref(), Path::new(DEFAULT_PATH))?;
        if let Some(socket) = &self.socket {
            config.socket.clone_from(socket);
        }
        if let Some(state_dir) = &self.state_dir {
            config.state_dir.clone_from(state_dir);
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_means_the_defaults() {
        assert_eq!(Config::parse(b""), Ok(Config::default()));
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let error = Config::parse(b"sokcet = \"/tmp/x\"").unwrap_err();
        assert!(error.contains("sokcet") && error.contains("line 1"), "{error}");
        assert!(Config::parse(b"[log]\nlevle = \"info\"").unwrap_err().contains("levle"));
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        assert!(Config::parse(b"port = 0").is_err());
        assert!(Config::parse(b"port = 70000").is_err());
        assert!(Config::parse(b"[log]\nlevel = \"=,=\"").is_err());
        let error = Config::parse(b"[relay]\npair_mbit = 0").unwrap_err();
        assert!(error.contains("enabled = false"), "{error}");
        assert!(Config::parse(b"\xff").is_err());
    }

    #[test]
    fn threads_are_as_many_as_told_within_bounds_or_follow_the_cores() {
        let lanes = |text: &str| Config::parse(text.as_bytes()).unwrap().data.lanes();
        assert_eq!([lanes("[data]\nthreads = 3"), lanes("[data]\nthreads = 200")], [3, 16]);
        let cores = std::thread::available_parallelism().unwrap().get();
        assert_eq!(lanes(""), crate::data::lanes_for(cores));
    }

    #[test]
    fn limits_of_a_relay_are_in_bits_and_it_can_be_switched_off() {
        let relaying = |text: &str| Config::parse(text.as_bytes()).unwrap().relay.relaying();
        let limits = |each, all| Some(Relaying { each, all });
        assert_eq!(relaying(""), limits(62_500_000, 125_000_000));
        assert_eq!(
            relaying("[relay]\npair_mbit = 8\ntotal_mbit = 80"),
            limits(1_000_000, 10_000_000)
        );
        assert_eq!(relaying("[relay]\nenabled = false"), None);
    }

    #[test]
    fn differences_are_named() {
        let other = Config::parse(b"port = 7000\n[log]\nlevel = \"debug\"").unwrap();
        assert_eq!(Config::default().differences(&other), ["port", "log.level"]);
    }

    #[test]
    fn a_missing_file_is_an_error_only_when_asked_for() {
        let missing = Path::new("/nonexistent/meshd.toml");
        assert!(Config::read(Some(missing), missing).is_err());
        assert_eq!(Config::read(None, missing).unwrap(), Config::default());
    }

    #[test]
    fn what_the_command_line_says_is_no_difference_to_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("meshd.toml");
        std::fs::write(&file, "port = 7000").unwrap();
        let source = Source {
            file: Some(file.clone()),
            socket: Some("/run/other.sock".into()),
            state_dir: Some("/srv/state".into()),
        };
        let config = source.read().unwrap();
        assert_eq!((config.port, &*config.state_dir), (7000, Path::new("/srv/state")));
        std::fs::write(&file, "port = 7001\nsocket = \"/run/x\"").unwrap();
        assert_eq!(config.differences(&source.read().unwrap()), ["port"]);
    }
}
