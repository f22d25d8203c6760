//! `wait`: until something holds.

use std::time::Duration;

use epsilon_proto::api::{Health, NetworkStatus, PeerState, Problem, ProblemKind, Status, paths};
use tokio::time::{Instant, sleep, timeout_at};

use super::{Context, only_network};
use crate::human;
use crate::value::WaitFor;
use crate::{Exit, Failure};

/// How long it takes to give up, unless told.
const PATIENCE: Duration = Duration::from_mins(1);
/// From one look to the next.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn run(
    context: &Context,
    name: Option<String>,
    condition: Option<WaitFor>,
) -> Result<Exit, Failure> {
    let condition = name.map(WaitFor::Peer).or(condition).unwrap_or(WaitFor::Joined);
    let patience = context.timeout.unwrap_or(PATIENCE);
    let deadline = Instant::now() + patience;
    let mut missing = "meshd did not answer".to_owned();
    let watch = async {
        loop {
            let status = context.client.get::<Status>(paths::STATUS, &[]).await;
            match status.and_then(|status| lacking(&status, &condition)) {
                Ok(None) => return Ok(()),
                Ok(Some(lack)) => missing = lack,
                Err(problem) => match problem.kind {
                    ProblemKind::DaemonNotRunning
                    | ProblemKind::NotJoined
                    | ProblemKind::TimedOut => missing = problem.message,
                    _ => return Err(problem),
                },
            }
            sleep(PAUSE).await;
        }
    };
    let what = format!("waiting for {}", text(&condition));
    let ended = context.screen.progress(&what, timeout_at(deadline, watch)).await;
    match ended {
        Ok(result) => result.map(|()| Exit::OK).map_err(Failure::from),
        Err(_) => Err(Problem::new(
            ProblemKind::TimedOut,
            format!("waited {} for {}: {missing}", human::duration(patience), text(&condition)),
        )
        .hint("wait longer with --timeout, or see what is missing with: epsilon status")
        .into()),
    }
}

fn text(condition: &WaitFor) -> String {
    match condition {
        WaitFor::Joined => "this machine to have joined".into(),
        WaitFor::Peers(1) => "1 peer to be up".into(),
        WaitFor::Peers(number) => format!("{number} peers to be up"),
        WaitFor::Peer(name) => format!("{name} to be up"),
    }
}

/// What `condition` still lacks; nothing once it holds.
fn lacking(status: &Status, condition: &WaitFor) -> Result<Option<String>, Problem> {
    let network = only_network(status)?;
    Ok(match condition {
        WaitFor::Joined => not_yet_joined(network).map(Into::into),
        WaitFor::Peers(wanted) => {
            let up = network.peers.iter().filter(|peer| peer.state == PeerState::Up).count();
            ((up as u64) < u64::from(*wanted)).then(|| match up {
                0 => "none is".into(),
                1 => "only 1 is".into(),
                up => format!("only {up} are"),
            })
        }
        WaitFor::Peer(wanted) => {
            let peer = network.peers.iter().find(|peer| {
                peer.name.as_ref() == Some(wanted)
                    || peer.id == *wanted
                    || peer.ipv4.is_some_and(|address| address.to_string() == *wanted)
                    || peer.ipv6.is_some_and(|address| wanted.parse() == Ok(address))
            });
            match peer {
                None => Some("no such peer is known".into()),
                Some(peer) if peer.state == PeerState::Up => None,
                Some(peer) => Some(format!("it is {}", human::state(peer.state))),
            }
        }
    })
}

fn not_yet_joined(network: &NetworkStatus) -> Option<&'static str> {
    let node = &network.node;
    if network.health == Health::Joining {
        Some("it is joining")
    } else if node.ipv4.is_none() || node.ipv6.is_none() {
        Some("it has not got its addresses yet")
    } else if !network.interface.up {
        Some("its interface is down")
    } else {
        None
    }
}
