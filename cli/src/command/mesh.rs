//! `mesh create | join | leave`.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use epsilon_proto::api::{
    CreateRequest, Created, JoinRequest, Joined, Left, OwnNode, Problem, ProblemKind, paths,
};
use epsilon_sys::file;
use serde_json::json;
use zeroize::Zeroizing;

use super::{Context, count};
use crate::args::{Create, Format, Join, Mesh};
use crate::human;
use crate::screen::{complain, print};
use crate::{Exit, Failure, secret};

/// How long a machine may take to become a member.
const PATIENCE: Duration = Duration::from_mins(1);

pub(super) async fn run(command: Mesh, context: &Context) -> Result<Exit, Failure> {
    match command {
        Mesh::Create(create) => self::create(create, context).await,
        Mesh::Join(join) => self::join(join, context).await,
        Mesh::Leave => leave(context).await,
    }
}

async fn create(create: Create, context: &Context) -> Result<Exit, Failure> {
    if let Some(path) = &create.root_key {
        check_room(path)?;
    }
    let request = CreateRequest {
        name: create.name,
        range: create.range,
        domain: create.domain,
        advertise: create.advertise,
        offline: create.offline,
        export_root_key: create.root_key.is_some(),
        cluster: create.cluster.into(),
    };
    let client = context.patient(PATIENCE);
    let work = client.post_unbound::<_, Created>(paths::CREATE, &request);
    let mut created = context.screen.progress("making a network", work).await?;

    let screen = &context.screen;
    if let Some(path) = &create.root_key {
        let Some(key) = created.root_key.take() else {
            return Err(Problem::new(
                ProblemKind::Error,
                format!("meshd did not hand out the root key of {}", created.network),
            )
            .hint("epsilon and meshd may differ in version; compare: epsilon version")
            .into());
        };
        let line = Zeroizing::new(format!("{}\n", key.expose()));
        if let Err(error) = file::write_atomic(path, line.as_bytes(), 0o600) {
            // It exists nowhere else: shown is better than lost.
            complain(&format!("the root key of {}: {}", created.network, key.expose()));
            return Err(Problem::new(
                ProblemKind::Error,
                format!("the root key is not in a file: {error}"),
            )
            .hint("store the key that is printed above: it is the only copy")
            .into());
        }
        screen.note(&format!("The root key is in {}: keep it offline.", path.display()));
    }
    match (screen.format, &created.node) {
        (Format::Table, node) => {
            let this = match node {
                Some(node) => format!("this machine is its member {}", own_name(node)),
                None => "this machine has not joined it".into(),
            };
            screen.note(&format!("Network {} is made; {this}.", created.network));
            if let Some(expires) = created.invite.expires_at {
                screen.note(&format!(
                    "The token admits machines until {} UTC.",
                    human::moment(expires)
                ));
            }
            screen.note("On every other machine: epsilon mesh join TOKEN");
            print(&format!("{}\n", created.token.expose()))?;
        }
        _ => screen.show(&created, |_| String::new())?,
    }
    Ok(Exit::OK)
}

/// Refuses a place for the root key before there is a key to lose.
fn check_room(path: &Path) -> Result<(), Problem> {
    if path.symlink_metadata().is_ok() {
        return Err(Problem::new(
            ProblemKind::Usage,
            format!("{} exists and might be another network's root key", path.display()),
        )
        .hint("choose another file for --root-key"));
    }
    let probe = file::write_atomic(path, b"", 0o600);
    let removed = std::fs::remove_file(path);
    probe.map_err(|error| {
        Problem::new(ProblemKind::Error, format!("no place for the root key: {error}"))
            .hint("choose another file for --root-key")
    })?;
    removed.map_err(|error| {
        Problem::new(
            ProblemKind::Error,
            format!("no place for the root key: cannot remove {}: {error}", path.display()),
        )
        .hint("choose another file for --root-key")
    })
}

async fn join(join: Join, context: &Context) -> Result<Exit, Failure> {
    let request = JoinRequest {
        token: secret::token(join.token.as_deref())?,
        name: join.name,
        role: join.role,
        advertise: join.advertise,
        site: join.site,
        labels: join.label.into_iter().map(|label| (label.key, label.value)).collect(),
    };
    let client = context.patient(PATIENCE);
    let work = client.post_unbound::<_, Joined>(paths::JOIN, &request);
    let joined = context.screen.progress("joining", work).await?;

    let screen = &context.screen;
    screen.show(&joined, |_| {
        let verb = if joined.already { "Already in" } else { "Joined" };
        let mut text = format!("{verb} {} as {}", joined.network, own_name(&joined.node));
        let others = joined.members.total.saturating_sub(1) as usize;
        if others > 0 {
            let _ = write!(text, ", with {}", count(others, "other member"));
        }
        human::clean(&text) + "\n" + &human::lines(&own_addresses(&joined.node))
    })?;
    if !joined.reachable {
        screen.note(
            "No other member was reached so far: this machine works alone and keeps trying.\n\
             next: epsilon status",
        );
        if let Some(expired) = &joined.token_expired_at {
            screen.note(&format!(
                "By this machine's clock the token expired at {expired}: then no member will let \
                 it in.\nnext: epsilon mesh leave, and join with a new token"
            ));
        }
    }
    Ok(Exit::OK)
}

async fn leave(context: &Context) -> Result<Exit, Failure> {
    let nothing = json!({});
    let work = context.client.post::<_, Left>(paths::LEAVE, &nothing);
    let left = context.screen.progress("leaving", work).await?;
    context.screen.show(&left, |_| {
        format!("Left {}; its state on this machine is deleted.\n", human::clean(&left.network))
    })?;
    if !left.announced {
        context.screen.note(
            "No other member heard of it: they will list this machine as down.\n\
             next: on one of them: epsilon node revoke NAME",
        );
    }
    Ok(Exit::OK)
}

fn own_name(node: &OwnNode) -> String {
    human::name(node.name.as_deref(), &node.id)
}

fn own_addresses(node: &OwnNode) -> Vec<IpAddr> {
    let ipv4 = node.ipv4.map(IpAddr::V4);
    ipv4.into_iter().chain(node.ipv6.map(IpAddr::V6)).collect()
}
