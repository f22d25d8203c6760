//! From hosts to a mesh: the daemons are started, one makes the network, the
//! others join it.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use epsilon_proto::api::{
    CreateRequest, Created, Health, JoinRequest, Joined, NetworkStatus, Problem, ProblemKind,
    Secret, Status, Version, paths,
};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::matrix::Pings;
use crate::Exit;
use crate::client::Client;
use crate::human;
use crate::lab::program;
use crate::lab::{Daemon, Host, HostStatus};
use crate::screen::{Look, Screen};
use crate::style::Tone;
use crate::table::{Cell, Table};

/// For one step of one host.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// From one look to the next.
const PAUSE: Duration = Duration::from_millis(20);
/// Where meshd listens unless told.
const PORT: u16 = 7755;

/// A host of the lab and what its daemon says.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Seen {
    pub(super) host: String,
    pub(super) site: u8,
    pub(super) underlay: Ipv4Addr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ipv4: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ipv6: Option<Ipv6Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) health: Option<Health>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) peers_up: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) problem: Option<String>,
}

/// What `lab up` and `lab status` show.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Report {
    pub(super) hosts: Vec<Seen>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pings: Option<Pings>,
}

impl Report {
    /// Whether every host is a member that works and reaches the others.
    pub(super) fn verdict(&self) -> Exit {
        let well = self.hosts.iter().all(|seen| seen.health == Some(Health::Ok));
        let lost = self.pings.as_ref().is_some_and(|pings| pings.lost() > 0);
        if well && !lost { Exit::OK } else { ProblemKind::Degraded.into() }
    }
}

/// Starts `meshd` on every host and makes them one network.
///
/// With `keep_going` a host that fails is left as it is, and the first
/// problem comes back when the others are done.
pub(super) async fn join_all(
    hosts: &[Host],
    meshd: &Path,
    keep_going: bool,
    screen: &Screen,
) -> Result<(), Problem> {
    let mut failed = None;
    let mut settle = |result: Result<(), Problem>| match result {
        Err(problem) if !keep_going => Err(problem),
        Err(problem) => {
            failed.get_or_insert(problem);
            Ok(())
        }
        Ok(()) => Ok(()),
    };

    let mut daemons = Vec::new();
    for host in hosts {
        match host.start_meshd(meshd) {
            Ok(daemon) => daemons.push(Arc::new(daemon)),
            Err(error) => settle(Err(error.into()))?,
        }
    }
    let Some((first, others)) = daemons.split_first() else { return failed.map_or(Ok(()), Err) };
    let created = screen.progress("making a network", create(first)).await?;
    let joining = on_each(others.to_vec(), |daemon| {
        let token = created.token.clone();
        async move { join(&daemon, token).await }
    });
    for result in screen.progress("joining", joining).await {
        settle(result)?;
    }
    let wanted = u32::try_from(others.len()).unwrap_or(u32::MAX);
    let meeting =
        on_each(daemons.clone(), |daemon| async move { meet(daemon.host(), wanted).await });
    for result in screen.progress("waiting for a full mesh", meeting).await {
        settle(result)?;
    }
    failed.map_or(Ok(()), Err)
}

/// What the daemons say now, host by host.
pub(super) async fn look(hosts: impl Iterator<Item = (HostStatus, Option<Host>)>) -> Vec<Seen> {
    on_each(hosts, |(place, host)| async move {
        let mut seen = Seen {
            host: place.name,
            site: place.site,
            underlay: place.ipv4,
            name: None,
            ipv4: None,
            ipv6: None,
            health: None,
            peers_up: None,
            problem: None,
        };
        let Some(host) = host else {
            seen.problem = Some("the host has ended".into());
            return seen;
        };
        match status(&host).await {
            Ok(network) => {
                seen.name = network.node.name;
                seen.ipv4 = network.node.ipv4;
                seen.ipv6 = network.node.ipv6;
                seen.health = Some(network.health);
                seen.peers_up = Some(network.members.up.saturating_sub(1));
                seen.problem = network.problems.into_iter().next().map(|finding| finding.message);
            }
            Err(problem) => seen.problem = Some(problem.message),
        }
        seen
    })
    .await
}

pub(super) fn table(hosts: &[Seen], look: Look) -> String {
    let mut table =
        Table::new(&["HOST", "SITE", "UNDERLAY", "IPV4", "STATE", "PEERS", "IPV6", "PROBLEM"])
            .dispensable(&["UNDERLAY"]);
    let or_dash = |text: Option<String>| human::or_dash(text.unwrap_or_default());
    for seen in hosts {
        let (state, tone) = match seen.health {
            Some(Health::Ok) => ("ok", Tone::Good),
            Some(Health::Joining) => ("joining", Tone::Fair),
            Some(Health::Degraded) => ("degraded", Tone::Fair),
            None => ("down", Tone::Bad),
        };
        table.row([
            seen.host.as_str().into(),
            seen.site.to_string().into(),
            seen.underlay.to_string().into(),
            or_dash(seen.ipv4.map(|address| address.to_string())).into(),
            Cell::new(state, tone),
            or_dash(seen.peers_up.map(|number| number.to_string())).into(),
            or_dash(seen.ipv6.map(|address| address.to_string())).into(),
            seen.problem.clone().unwrap_or_default().into(),
        ]);
    }
    table.render(look.palette, look.width)
}

async fn create(daemon: &Daemon) -> Result<Created, Problem> {
    let host = daemon.host();
    let client = ready(daemon).await?;
    let request = CreateRequest {
        name: Some("lab".into()),
        advertise: vec![format!("{}:{PORT}", host.ipv4()), format!("[{}]:{PORT}", host.ipv6())],
        ..CreateRequest::default()
    };
    client.post_unbound(paths::CREATE, &request).await.map_err(on(host))
}

async fn join(daemon: &Daemon, token: Secret) -> Result<(), Problem> {
    let host = daemon.host();
    let client = ready(daemon).await?;
    let request = JoinRequest {
        token,
        name: None,
        role: None,
        advertise: Vec::new(),
        site: Some(format!("site{}", host.site())),
        labels: std::collections::BTreeMap::new(),
    };
    client.post_unbound::<_, Joined>(paths::JOIN, &request).await.map(drop).map_err(on(host))
}

/// Waits until `wanted` other members are up, as `host` sees it.
async fn meet(host: &Host, wanted: u32) -> Result<(), Problem> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let up = status(host).await.map_err(on(host))?.members.up.saturating_sub(1);
        if up >= wanted {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(on(host)(
                Problem::new(
                    ProblemKind::TimedOut,
                    format!("{up} of {wanted} other members are up"),
                )
                .hint(format!("see why with: {} lab exec HOST -- epsilon status", program())),
            ));
        }
        sleep(PAUSE).await;
    }
}

async fn status(host: &Host) -> Result<NetworkStatus, Problem> {
    let status: Status = client(host).get_unbound(paths::STATUS).await?;
    let network = status.networks.into_iter().next();
    network.ok_or_else(super::super::not_joined)
}

/// Waits until `daemon` answers.
pub(super) async fn ready(daemon: &Daemon) -> Result<Client, Problem> {
    let host = daemon.host();
    let client = client(host);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = client.get_unbound::<Version>(paths::VERSION).await;
        match answer {
            Ok(_) => return Ok(client),
            Err(_) if !daemon.is_running() => {
                let problem = Problem::new(ProblemKind::DaemonNotRunning, "meshd ended at once");
                return Err(on(host)(problem.hint("its log says why")));
            }
            Err(problem)
                if problem.kind == ProblemKind::DaemonNotRunning && Instant::now() < deadline =>
            {
                sleep(PAUSE).await;
            }
            Err(problem) => return Err(on(host)(problem)),
        }
    }
}

/// A client of the daemon on `host`, through the root directory of its init.
fn client(host: &Host) -> Client {
    let socket = format!("/proc/{}/root/run/epsilon/epsilon.sock", host.pid());
    Client { socket: PathBuf::from(socket), network: None, timeout: PATIENCE }
}

/// Names the host in a problem.
fn on(host: &Host) -> impl FnOnce(Problem) -> Problem {
    let name = host.name().to_owned();
    move |problem| Problem { message: format!("on {name}: {}", problem.message), ..problem }
}

/// Does `work` on all at once; the results are in their order.
async fn on_each<T, R, F>(all: impl IntoIterator<Item = T>, work: impl Fn(T) -> F) -> Vec<R>
where
    R: Send + 'static,
    F: Future<Output = R> + Send + 'static,
{
    let mut set = JoinSet::new();
    for (number, one) in all.into_iter().enumerate() {
        let work = work(one);
        set.spawn(async move { (number, work.await) });
    }
    let mut results = set.join_all().await;
    results.sort_by_key(|(number, _)| *number);
    results.into_iter().map(|(_, result)| result).collect()
}
