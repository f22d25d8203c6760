use std::process::Stdio;

use epsilon_cli::lab::Host;
use epsilon_proto::api::{Health, NetworkStatus, NodeList, Status};

/// A host, asked and told through `epsilon`.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) host: Host,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ran {
    /// What was run, for whoever reads why a test failed.
    #[allow(dead_code)]
    command: String,
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Its output; fails the test when the command failed.
    pub(crate) fn ok(self) -> String {
        self.exits(0).stdout
    }

    /// Fails the test when the command ended otherwise.
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    /// Fails the test unless the command said this on standard error.
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "{text:?} is not in {self:?}");
        self
    }

    pub(crate) fn succeeded(&self) -> Result<(), String> {
        if self.code == 0 { Ok(()) } else { Err(format!("{self:?}")) }
    }
}

impl Node {
    pub(crate) fn new(host: Host) -> Self {
        Self { host }
    }

    /// Runs `epsilon` with these arguments, parted by blanks.
    pub(crate) async fn run(&self, arguments: &str) -> Ran {
        self.execute("epsilon", arguments).await
    }

    /// Runs a program with these arguments, parted by blanks.
    pub(crate) async fn execute(&self, program: &str, arguments: &str) -> Ran {
        let output = self.host.run(program, arguments.split_ascii_whitespace()).await.unwrap();
        Ran {
            command: format!("{}: {program} {arguments}", self.host.name()),
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs a line of shell, for what needs redirections and variables.
    pub(crate) async fn shell(&self, line: &str) -> Ran {
        let mut command = self.host.command("sh").unwrap();
        command.args(["-c", line]).stdin(Stdio::null());
        let output = command.output().await.unwrap();
        Ran {
            command: format!("{}: {line}", self.host.name()),
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Makes a network with further arguments and gives its token.
    pub(crate) async fn create(&self, arguments: &str) -> String {
        let token = self.run(&format!("mesh create {arguments}")).await.ok();
        token.trim_end().to_owned()
    }

    /// Joins.
    pub(crate) async fn join(&self, token: &str) {
        self.run(&format!("mesh join {token}")).await.ok();
    }

    /// Tries to join, and checks that it fails with this exit code and text
    /// and that nothing of it is left.
    pub(crate) async fn refused(&self, token: &str, code: i32, text: &str) {
        self.run(&format!("mesh join {token}")).await.exits(code).says(text);
        self.is_untouched().await;
    }

    /// Checks that no network left anything on this host.
    pub(crate) async fn is_untouched(&self) {
        let files = self.shell("ls -A /var/lib/epsilon").await.ok();
        assert_eq!(files.trim(), "lock", "files are left on {}", self.host.name());
        let links = self.host.netlink().unwrap().links().await.unwrap();
        let left: Vec<_> = links.iter().filter(|link| link.name.starts_with("eps")).collect();
        assert!(left.is_empty(), "on {}: {left:?}", self.host.name());
        self.run("status").await.exits(4);
    }

    /// What the daemon says of all of its networks.
    pub(crate) async fn status(&self) -> Result<Status, String> {
        let ran = self.run("-o json status").await;
        serde_json::from_str(&ran.stdout).map_err(|error| format!("{error}: {ran:?}"))
    }

    /// What the daemon says of its only network.
    pub(crate) async fn network(&self) -> Result<NetworkStatus, String> {
        let mut networks = self.status().await?.networks;
        match networks.len() {
            1 => Ok(networks.remove(0)),
            number => Err(format!("{} is in {number} networks", self.host.name())),
        }
    }

    /// `Ok` while all is well.
    pub(crate) async fn is_well(&self) -> Result<NetworkStatus, String> {
        let network = self.network().await?;
        if network.health == Health::Ok { Ok(network) } else { Err(format!("{network:?}")) }
    }

    /// The nodes that it knows.
    pub(crate) async fn nodes(&self) -> Result<NodeList, String> {
        let ran = self.run("-o json node list").await;
        serde_json::from_str(&ran.stdout).map_err(|error| format!("{error}: {ran:?}"))
    }

    /// One ping through the kernel of the host, with a second for its answer.
    pub(crate) async fn echo(&self, address: &str) -> Result<(), String> {
        self.execute("ping", &format!("-n -c 1 -W 1 {address}")).await.succeeded()
    }
}
