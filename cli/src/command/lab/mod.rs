//! `lab up | exec | status | cut | …`: a fleet on this machine, by the library
//! [`crate::lab`].

mod change;
mod fleet;
mod matrix;

use std::env;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use crate::args;
use crate::lab::{Behind, Error, Host, Lab, Links, Spec, preflight, program};
use crate::screen::Screen;
use crate::{Exit, Failure};
use epsilon_proto::api::{Problem, ProblemKind};

/// The lab of the command line.
fn name() -> String {
    env::var("EPSILON_LAB").unwrap_or_else(|_| "lab".to_owned())
}

fn next() -> String {
    let epsilon = program();
    format!(
        "Try next:\n  \
         {epsilon} lab exec n1 -- epsilon status\n  \
         {epsilon} lab exec n1 -- epsilon ping n2\n  \
         {epsilon} lab down\n"
    )
}

pub(super) async fn run(command: args::Lab, screen: &Screen) -> Result<Exit, Failure> {
    match command {
        args::Lab::Up { nodes, sites, nat, link, keep_going } => {
            let spec = spec(nodes, sites, nat, link)?;
            tokio::select! {
                ended = up(Spec { keep_going, ..spec }, screen) => ended,
                _ = tokio::signal::ctrl_c() => {
                    Lab::down(&name())?;
                    Err(Problem::new(ProblemKind::Error, "interrupted; the lab is down again").into())
                }
            }
        }
        args::Lab::Exec { host, command } => {
            let Some((program, arguments)) = command.split_first() else {
                return Err(Problem::new(ProblemKind::Usage, "no command to run").into());
            };
            let host = Lab::open_host(&name(), &host)?;
            let ended = host.run_in_foreground(program, arguments).await?;
            let code = ended.code().or(ended.signal().map(|signal| 128 + signal)).unwrap_or(1);
            Ok(Exit(u8::try_from(code).unwrap_or(1)))
        }
        args::Lab::Status => show(screen).await,
        args::Lab::Cut { cable, other } => change::cut(&name(), cable, other, screen).await,
        args::Lab::Heal { cable, other } => change::heal(&name(), cable, other, screen).await,
        args::Lab::Link { cable, link } => change::link(&name(), cable.zip(link), screen).await,
        args::Lab::Move { host, site } => change::carry(&name(), &host, &site, screen).await,
        args::Lab::Kill { host } => change::kill(&name(), &host, screen).await,
        args::Lab::Start { host } => change::start(&name(), &host, screen).await,
        args::Lab::RestartGateway { site } => change::restart_gateway(&name(), &site, screen).await,
        args::Lab::Down => {
            Lab::down(&name())?;
            screen.note("Nothing is left of the lab.");
            Ok(Exit::OK)
        }
    }
}

/// How many entries the kernel's table of IPv6 neighbours has room for (arp(7)).
const NEIGHBOURS: &str = "/proc/sys/net/ipv6/neigh/default/gc_thresh3";

/// How many it needs: each host of a site knows each other, and the gateway, by two
/// addresses.
fn neighbours(spec: &Spec) -> u32 {
    spec.sites.iter().map(|site| 2 * (site.hosts.len() * site.hosts.len()) as u32).sum()
}

fn spec(nodes: u16, sites: u16, nats: Vec<Behind>, links: Vec<Links>) -> Result<Spec, Failure> {
    let links = links
        .into_iter()
        .flat_map(|Links { cables, link }| cables.into_iter().map(move |cable| (cable, link)));
    let spec = Spec::new(name(), nodes, sites, own_path()?).with(nats)?;
    Ok(Spec { links: links.collect(), ..spec })
}

async fn up(spec: Spec, screen: &Screen) -> Result<Exit, Failure> {
    preflight()?;
    let (meshd, keep_going) = (find_meshd()?, spec.keep_going);
    let room = std::fs::read_to_string(NEIGHBOURS).ok().and_then(|text| text.trim().parse().ok());
    if room.is_some_and(|room| neighbours(&spec) > room) {
        screen.note(
            "So many hosts on one network overflow the kernel's table of neighbours, which all \
             namespaces share: some will not reach each other. Spread them with --sites, or \
             raise net.ipv4.neigh.default.gc_thresh3 and that of ipv6.",
        );
    }
    let lab = screen.progress("building hosts", Lab::up(spec)).await?;
    let joined = fleet::join_all(lab.hosts(), &meshd, keep_going, screen).await;
    if let Err(problem) = joined {
        if !keep_going {
            lab.dump_logs();
            drop(lab);
            Lab::down(&name())?;
            screen.note(&format!(
                "The lab is down again; keep it with: {} lab up --keep-going",
                program()
            ));
            return Err(problem.into());
        }
        screen.problem(&problem);
        show(screen).await?;
        return Ok(Exit::from(problem.kind));
    }
    let exit = show(screen).await?;
    if exit == Exit::OK {
        screen.note(&next());
    }
    Ok(exit)
}

/// Shows the hosts and who reaches whom.
async fn show(screen: &Screen) -> Result<Exit, Failure> {
    let places = Lab::status(&name())?;
    // One that has ended is shown as such.
    let open: Vec<Option<Host>> =
        places.iter().map(|place| Lab::open_host(&name(), &place.name).ok()).collect();
    let hosts = fleet::look(places.into_iter().zip(open.iter().cloned())).await;
    let pings = screen.progress("pinging", matrix::measure(&open, &hosts)).await;
    let report = fleet::Report { hosts, pings };
    screen.show(&report, |look| {
        let mut text = fleet::table(&report.hosts, look);
        if let Some(pings) = &report.pings {
            text.push('\n');
            text.push_str(&matrix::table(pings, look));
        }
        text
    })?;
    if report.pings.is_none() {
        screen.note("No ping matrix: there is no ping here. next: apt install iputils-ping");
    }
    Ok(report.verdict())
}

fn own_path() -> Result<PathBuf, Problem> {
    env::current_exe().map_err(|error| {
        Problem::new(ProblemKind::Error, format!("cannot find out where epsilon is: {error}"))
            .hint("is /proc mounted?")
    })
}

/// The daemon that belongs to this command: beside it, or in the `PATH`.
fn find_meshd() -> Result<PathBuf, Problem> {
    let epsilon = own_path()?;
    let beside = epsilon.parent().map(Path::to_owned);
    let path = env::var_os("PATH").unwrap_or_default();
    beside
        .into_iter()
        .chain(env::split_paths(&path))
        .map(|directory| directory.join("meshd"))
        .find(|meshd| meshd.is_file())
        .ok_or_else(|| {
            Problem::new(
                ProblemKind::Error,
                format!("there is no meshd beside {} nor in the PATH", epsilon.display()),
            )
            .hint("build it with: cargo build -p meshd")
        })
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Unprivileged { .. } => ProblemKind::Permission,
            Error::Spec(_) | Error::NoSuchHost { .. } | Error::NoSuchSite { .. } => {
                ProblemKind::Usage
            }
            _ => ProblemKind::Error,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Problem(error.into())
    }
}
