//! What each command does.

mod admin;
mod debug;
mod device;
mod events;
mod lab;
mod manual;
mod mesh;
mod netcheck;
mod node;
mod peers;
mod ping;
mod routes;
mod status;
mod token;
mod version;
mod wait;

use std::io;
use std::time::{Duration, SystemTime};

use epsilon_proto::api::{NetworkStatus, Problem, ProblemKind, Status, Time};

use crate::args::{Cli, Command, Local, Remote};
use crate::client::Client;
use crate::screen::Screen;
use crate::{Exit, Failure};

/// What every command works with.
struct Context {
    client: Client,
    screen: Screen,
    /// `--timeout`, if given.
    timeout: Option<Duration>,
}

impl Context {
    /// The client with another time limit where none was given.
    fn patient(&self, timeout: Duration) -> Client {
        Client { timeout: self.timeout.unwrap_or(timeout), ..self.client.clone() }
    }
}

/// Does what `cli` says.
pub(crate) fn run(cli: Cli, screen: Screen) -> Result<Exit, Failure> {
    let remote = match cli.command {
        Command::Local(local) => return here(local, &screen),
        Command::Remote(remote) => remote,
    };
    let context = Context {
        client: Client {
            socket: cli.global.socket,
            network: cli.global.network,
            timeout: cli.global.timeout.unwrap_or(Duration::from_secs(30)),
        },
        screen,
        timeout: cli.global.timeout,
    };
    runtime()?.block_on(ask(remote, &context))
}

fn here(command: Local, screen: &Screen) -> Result<Exit, Failure> {
    match command {
        Local::Completion { shell } => manual::completion(shell),
        Local::Man { command, directory } => manual::man(&command, directory.as_deref()),
        Local::Lab(lab) => runtime()?.block_on(lab::run(lab, screen)),
    }
}

async fn ask(command: Remote, context: &Context) -> Result<Exit, Failure> {
    match command {
        Remote::Mesh(mesh) => mesh::run(mesh, context).await,
        Remote::Token(token) => token::run(token, context).await,
        Remote::Status => status::run(context).await,
        Remote::Peers => peers::peers(context).await,
        Remote::Ip { node, ipv4, ipv6 } => peers::ip(context, node.as_deref(), ipv4, ipv6).await,
        Remote::Whois { node } => peers::whois(context, &node).await,
        Remote::Ping { peer, count, interval, until_direct } => {
            let probes = ping::Probes { count, every: interval, until_direct };
            ping::run(context, &peer, probes).await
        }
        Remote::Node(node) => node::run(node, context).await,
        Remote::Device(device) => device::run(device, context).await,
        Remote::Netcheck => netcheck::run(context).await,
        Remote::Routes(routes) => routes::run(routes, context).await,
        Remote::Exit(exit) => routes::exit(exit, context).await,
        Remote::Admin(admin) => admin::run(admin, context).await,
        Remote::Wait { name, condition } => wait::run(context, name, condition).await,
        Remote::Events { follow } => events::run(context, follow).await,
        Remote::Debug(debug) => debug::run(debug, context).await,
        Remote::Version => version::run(context).await,
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Problem> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(
        |error: io::Error| {
            Problem::new(ProblemKind::Error, format!("cannot wait for input and output: {error}"))
        },
    )
}

/// This machine's clock, for "3 h ago".
fn now() -> Time {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    Time::from_unix_ms(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The network in `status`, where there has to be exactly one.
fn only_network(status: &Status) -> Result<&NetworkStatus, Problem> {
    match status.networks.as_slice() {
        [network] => Ok(network),
        [] => Err(not_joined()),
        several => {
            let names: Vec<&str> = several.iter().map(|network| network.network.as_str()).collect();
            Err(Problem::new(
                ProblemKind::Usage,
                format!("this machine is in {} networks", names.len()),
            )
            .hint(format!("choose one with --network: {}", names.join(", "))))
        }
    }
}

fn not_joined() -> Problem {
    Problem::new(ProblemKind::NotJoined, "this machine is in no network")
        .hint("make one with: epsilon mesh create, or join one with: epsilon mesh join TOKEN")
}

/// `1 member`, `2 members`.
fn count(number: usize, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}
