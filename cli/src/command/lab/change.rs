//! `lab cut | heal | link | move | kill | start | restart-gateway`: what happens to a
//! running lab.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use epsilon_proto::api::{Problem, ProblemKind};
use epsilon_sys::process::{Listed, Signal};
use serde::Serialize;

use super::{find_meshd, fleet};
use crate::lab::{Cable, Cut, Error, Host, Lab, Link, program};
use crate::screen::Screen;
use crate::{Exit, Failure};

pub(super) async fn cut(
    lab: &str,
    cable: Cable,
    other: Option<Cable>,
    screen: &Screen,
) -> Result<Exit, Failure> {
    let cut = named(cable, other)?;
    Lab::open(lab)?.apply(&cut).await?;
    let text = match &cut {
        Cut::Off(cable) => format!("{cable} is cut off.\n"),
        Cut::Between(..) => format!("Nothing passes between {cut}.\n"),
    };
    screen.show(&Made { cut: ends(&cut) }, |_| text)?;
    Ok(Exit::OK)
}

pub(super) async fn heal(
    lab: &str,
    cable: Option<Cable>,
    other: Option<Cable>,
    screen: &Screen,
) -> Result<Exit, Failure> {
    let mut lab = Lab::open(lab)?;
    let cuts = match cable {
        Some(cable) => vec![named(cable, other)?],
        None => lab.cuts().await?,
    };
    for cut in &cuts {
        lab.undo(cut).await?;
    }
    let names: Vec<String> = cuts.iter().map(Cut::to_string).collect();
    let text = match names.as_slice() {
        [] => "Nothing is cut.\n".to_owned(),
        names => format!("Healed: {}.\n", names.join(", ")),
    };
    screen.show(&Healed { healed: cuts.iter().map(ends).collect() }, |_| text)?;
    Ok(Exit::OK)
}

/// Changes a link, if told which, and shows what is changed, or all there are.
pub(super) async fn link(
    lab: &str,
    change: Option<(Cable, Link)>,
    screen: &Screen,
) -> Result<Exit, Failure> {
    let mut lab = Lab::open(lab)?;
    let shown = match change {
        Some((cable, link)) => {
            lab.set_link(&cable, link).await?;
            BTreeMap::from([(cable, link)])
        }
        None => lab.links().clone(),
    };
    let row = |(cable, link): (&Cable, &Link)| format!("{cable}: {link}\n");
    let mut text: String = shown.iter().map(row).collect();
    if text.is_empty() {
        text.push_str("No link is worse than another.\n");
    }
    screen.show(&Shown { links: shown }, |_| text)?;
    Ok(Exit::OK)
}

pub(super) async fn carry(
    lab: &str,
    host: &str,
    site: &Cable,
    screen: &Screen,
) -> Result<Exit, Failure> {
    let site = site_number(site)?;
    let mut lab = Lab::open(lab)?;
    if lab.host(host)?.site() == site {
        let problem = Problem::new(ProblemKind::Usage, format!("{host} is at site{site} already"));
        return Err(problem.into());
    }
    lab.move_host(host, site).await?;
    let underlay = lab.host(host)?.ipv4();
    let moved = Moved { host: host.to_owned(), site, underlay };
    screen
        .show(&moved, |_| format!("{host} is at site{site} now, with the address {underlay}.\n"))?;
    Ok(Exit::OK)
}

pub(super) async fn kill(lab: &str, name: &str, screen: &Screen) -> Result<Exit, Failure> {
    let host = Lab::open_host(lab, name)?;
    let daemons = daemons(&host)?;
    let start = format!("{} lab start {name}", program());
    if daemons.is_empty() {
        let problem = Problem::new(ProblemKind::Error, format!("meshd does not run on {name}"));
        return Err(problem.hint(format!("start it with: {start}")).into());
    }
    for Listed { handle, .. } in daemons {
        handle.signal(Signal::SIGKILL).map_err(Error::from)?;
        let ended = tokio::time::timeout(fleet::PATIENCE, handle.ended()).await;
        let stuck = |_| Error::Stuck { lab: lab.to_owned(), pid: handle.pid() };
        ended.map_err(stuck)?.map_err(Error::from)?;
    }
    let killed = Daemon { host: name.to_owned(), running: false };
    screen
        .show(&killed, |_| format!("meshd on {name} is killed; start it again with: {start}\n"))?;
    Ok(Exit::OK)
}

pub(super) async fn start(lab: &str, name: &str, screen: &Screen) -> Result<Exit, Failure> {
    let host = Lab::open_host(lab, name)?;
    if !daemons(&host)?.is_empty() {
        let problem = Problem::new(ProblemKind::Error, format!("meshd runs on {name} already"));
        return Err(problem.hint(format!("kill it with: {} lab kill {name}", program())).into());
    }
    let daemon = host.start_meshd(find_meshd()?)?;
    screen.progress("starting meshd", fleet::ready(&daemon)).await?;
    let started = Daemon { host: name.to_owned(), running: true };
    screen.show(&started, |_| format!("meshd runs on {name}.\n"))?;
    Ok(Exit::OK)
}

pub(super) async fn restart_gateway(
    lab: &str,
    site: &Cable,
    screen: &Screen,
) -> Result<Exit, Failure> {
    let site = site_number(site)?;
    Lab::open(lab)?.restart_gateway(site).await?;
    screen.show(&Restarted { site }, |_| {
        format!("The gateway of site{site} was restarted: it knows of no connection any more.\n")
    })?;
    Ok(Exit::OK)
}

/// What `lab cut` shows: a host or site, or two sites.
#[derive(Debug, Serialize)]
struct Made {
    cut: Vec<String>,
}

/// What `lab heal` shows.
#[derive(Debug, Serialize)]
struct Healed {
    healed: Vec<Vec<String>>,
}

/// What `lab link` shows.
#[derive(Debug, Serialize)]
struct Shown {
    links: BTreeMap<Cable, Link>,
}

/// What `lab move` shows.
#[derive(Debug, Serialize)]
struct Moved {
    host: String,
    site: u8,
    underlay: Ipv4Addr,
}

/// What `lab kill` and `lab start` show.
#[derive(Debug, Serialize)]
struct Daemon {
    host: String,
    running: bool,
}

/// What `lab restart-gateway` shows.
#[derive(Debug, Serialize)]
struct Restarted {
    site: u8,
}

fn ends(cut: &Cut) -> Vec<String> {
    match cut {
        Cut::Off(cable) => vec![cable.to_string()],
        Cut::Between(one, other) => [*one, *other].map(|site| Cable::Site(site).to_string()).into(),
    }
}

/// The cut that is meant.
fn named(cable: Cable, other: Option<Cable>) -> Result<Cut, Problem> {
    match other {
        None => Ok(Cut::Off(cable)),
        Some(other) => Ok(Cut::Between(site_number(&cable)?, site_number(&other)?)),
    }
}

fn site_number(cable: &Cable) -> Result<u8, Problem> {
    match cable {
        Cable::Site(number) => Ok(*number),
        Cable::Host(name) => {
            let problem = Problem::new(ProblemKind::Usage, format!("{name} is no site"));
            Err(problem.hint(format!(
                "name a site, such as site2; `{} lab status` says which host is where",
                program()
            )))
        }
    }
}

/// The daemons that run on a host.
fn daemons(host: &Host) -> Result<Vec<Listed>, Error> {
    let is_meshd = |process: &Listed| {
        let program = process.arguments.first().and_then(|program| Path::new(program).file_name());
        program.is_some_and(|name| name == "meshd")
    };
    Ok(host.processes()?.into_iter().filter(is_meshd).collect())
}
