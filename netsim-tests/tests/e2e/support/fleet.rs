use std::collections::BTreeMap;
use std::ops::Deref;
use std::time::Duration;

use epsilon_cli::lab::{Daemon, Lab, Program, Site, Spec};

use super::{Node, holds, possible, program, until};

/// What `epsilon` exits with while nobody answers at the socket.
const DAEMON_NOT_RUNNING: i32 = 3;

/// A lab and the daemons on its hosts.
///
/// When a test fails, dropping it prints every log.
pub(crate) struct Fleet {
    pub(crate) lab: Lab,
    daemons: BTreeMap<String, Daemon>,
}

impl Fleet {
    /// A lab with so many hosts in each site; nothing runs on them yet.
    /// `None` where these tests are switched off.
    pub(crate) async fn up(sites: impl IntoIterator<Item = u16>) -> Option<Self> {
        Self::up_behind(sites, &[]).await
    }

    /// The same, and a host in a site of its own for each of these gateways.
    pub(crate) async fn up_behind(
        sites: impl IntoIterator<Item = u16>,
        gateways: &[&str],
    ) -> Option<Self> {
        if !possible() {
            return None;
        }
        let mut spec = Spec::ephemeral(sites, program("epsilon"));
        for gateway in gateways {
            let name =
                format!("n{}", spec.sites.iter().map(|site| site.hosts.len()).sum::<usize>() + 1);
            spec.sites.push(Site { hosts: vec![name], gateway: gateway.parse().unwrap() });
        }
        let lab = Lab::up(spec).await.unwrap();
        Some(Self { lab, daemons: BTreeMap::new() })
    }

    /// A lab on whose hosts daemons run, all of them members of one network
    /// that the first made. Also gives its token.
    pub(crate) async fn joined(sites: impl IntoIterator<Item = u16>) -> Option<(Self, String)> {
        Self::joined_behind(sites, &[]).await
    }

    /// The same, and a host in a site of its own for each of these gateways.
    pub(crate) async fn joined_behind(
        sites: impl IntoIterator<Item = u16>,
        gateways: &[&str],
    ) -> Option<(Self, String)> {
        let mut fleet = Self::up_behind(sites, gateways).await?;
        let token = fleet.start_and_join().await;
        Some((fleet, token))
    }

    /// Starts daemons on all hosts and makes them members of a network of the first; gives
    /// its token.
    pub(crate) async fn start_and_join(&mut self) -> String {
        let names = self.names();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for name in &names {
            self.start(name).await;
        }
        let token = self.node("n1").create("").await;
        for name in names.iter().skip(1) {
            self.node(name).join(&token).await;
        }
        self.meets(&names).await;
        token
    }

    /// The names of all hosts.
    pub(crate) fn names(&self) -> Vec<String> {
        self.lab.hosts().iter().map(|host| host.name().to_owned()).collect()
    }

    /// A host, to be asked and told.
    pub(crate) fn node(&self, name: &str) -> Node {
        Node::new(self.lab.host(name).unwrap().clone())
    }

    /// Starts the daemon of a host and waits until it answers.
    pub(crate) async fn start(&mut self, name: &str) {
        self.launch(name);
        self.answers(name).await;
    }

    /// Starts the daemon of a host.
    pub(crate) fn launch(&mut self, name: &str) {
        self.launch_with(name, &[]);
    }

    /// Starts the daemon of a host with these variables in its environment.
    pub(crate) fn launch_with(&mut self, name: &str, environment: &[(&str, String)]) {
        let host = self.lab.host(name).unwrap();
        let program = environment
            .iter()
            .fold(Program::new("meshd", program("meshd")), |program, (key, value)| {
                program.env(key, value)
            });
        let daemon = host.start(program).unwrap();
        self.daemons.insert(name.to_owned(), daemon);
    }

    /// Waits until the daemon of a host answers.
    pub(crate) async fn answers(&self, name: &str) {
        let node = self.node(name);
        let daemon = self.daemon(name);
        until("the daemon answers", async || {
            assert!(daemon.is_running(), "the daemon of {name} ended at once");
            let ran = node.run("status").await;
            holds(ran.code != DAEMON_NOT_RUNNING, ran)
        })
        .await;
    }

    /// The daemon of a host.
    pub(crate) fn daemon(&self, name: &str) -> &Daemon {
        &self.daemons[name]
    }

    /// Kills the daemon of a host as a power cut would.
    pub(crate) async fn kill(&self, name: &str) {
        self.daemon(name).kill9().await.unwrap();
    }

    /// Kills the daemon of a host and starts it again.
    pub(crate) async fn restart(&mut self, name: &str) {
        self.kill(name).await;
        self.start(name).await;
    }

    /// Asks the daemon of a host to end, and checks that it does as it should.
    pub(crate) async fn stop(&self, name: &str) {
        let ended = self.daemon(name).term(Duration::from_secs(5)).await.unwrap();
        assert!(ended.is_some_and(|status| status.success()), "{name} ended with {ended:?}");
    }

    /// Waits until each of these nodes has contact with all the others.
    pub(crate) async fn meets(&self, names: &[&str]) {
        for name in names {
            let node = self.node(name);
            let others = names.len() - 1;
            until(&format!("{name} has contact with {others} others"), async || {
                let network = node.network().await?;
                let up = network.members.up as usize;
                if up > others { Ok(()) } else { Err(format!("{up}: {:?}", network.peers)) }
            })
            .await;
        }
    }

    /// Waits until each of these nodes reaches each other one through the
    /// mesh, in both families.
    pub(crate) async fn all_reach(&self, names: &[&str]) {
        for from in names {
            for to in names.iter().filter(|to| *to != from) {
                self.reaches(from, to).await;
            }
        }
    }

    /// Waits until `from` reaches `to` through the mesh in both families.
    pub(crate) async fn reaches(&self, from: &str, to: &str) {
        let target = self.node(to).network().await.unwrap().node;
        let (ipv4, ipv6) = (target.ipv4.unwrap().to_string(), target.ipv6.unwrap().to_string());
        let node = self.node(from);
        for address in [ipv4, ipv6] {
            until(&format!("{from} reaches {to} at {address}"), async || node.echo(&address).await)
                .await;
        }
    }
}

impl Deref for Fleet {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.lab
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.lab.dump_logs();
        }
    }
}
