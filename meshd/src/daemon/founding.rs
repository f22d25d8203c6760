//! Networks that are made, joined and left.

use std::path::{Path, PathBuf};
use std::time::Duration;

use epsilon_mesh::control::Operation;
use epsilon_mesh::founding::{Plan, found, join};
use epsilon_mesh::saved::{Saved, Settings};
use epsilon_proto::address::{DEFAULT_RANGE, Ipv4Range};
use epsilon_proto::api::{
    ClusterKind, CreateRequest, Created, EventKind, JoinRequest, Joined, Left, OwnNode, Problem,
    ProblemKind, Severity, Time,
};
use epsilon_proto::clock::Timestamp;
use epsilon_proto::key::{SecretKey, Strict};
use epsilon_proto::name::{Domain, NetworkName};
use epsilon_proto::record::{Label, MAX_LABELS};
use epsilon_proto::token::{HostPort, Token};
use epsilon_proto::trust::{Distribution, Roles};
use epsilon_sys::file;

use super::answer::{Asked, TOKEN_LIFE, root_to_text, stopped, usage};
use super::place::Place;
use super::{Daemon, not_removed, render};
use crate::api::{Answer, Entry, Reply};
use crate::network::{self, IDENTITY_FILE, JoinError, Network, ROOT_FILE, provisional};
use crate::store::{FILE, Store};
use crate::{clock, random};

/// The name of a network that nobody named.
const DEFAULT_NAME: &str = "mesh";
/// The DNS domain under which networks have theirs.
const DEFAULT_DOMAIN: &str = "epsilon.internal";
/// How long a node that leaves waits for the others to hear of it.
const FAREWELL: Duration = Duration::from_secs(1);
/// How many members a new network admits.
const MAX_MEMBERS: u32 = 1024;

/// A join came to its end.
pub(super) struct Settled {
    name: NetworkName,
    client: network::Client,
    token_expired: Option<Timestamp>,
    outcome: Result<Result<network::Joined, JoinError>, network::Stopped>,
    answer: Answer,
}

pub(super) fn error(message: impl std::fmt::Display) -> Problem {
    Problem::new(ProblemKind::Error, message.to_string())
}

/// What the operator said about this machine.
struct Wishes {
    name: Option<String>,
    advertise: Vec<String>,
    site: Option<String>,
    labels: std::collections::BTreeMap<String, String>,
}

impl Wishes {
    fn settings(self, place: &Place, token_addresses: Vec<HostPort>) -> Result<Settings, Problem> {
        if self.labels.len() > MAX_LABELS {
            return Err(usage(format!(
                "{} labels are too many; a node has at most {MAX_LABELS}",
                self.labels.len()
            )));
        }
        let label = |(key, value): (String, String)| -> Result<Label, Problem> {
            Ok(Label { key: key.parse().map_err(usage)?, value: value.parse().map_err(usage)? })
        };
        Ok(Settings {
            name: self.name.map(|name| name.parse()).transpose().map_err(usage)?,
            site: self.site.map(|site| site.parse()).transpose().map_err(usage)?,
            labels: self.labels.into_iter().map(label).collect::<Result<_, _>>()?,
            advertise: addresses(&self.advertise)?,
            port: place.port,
            interface: place.interface.clone(),
            token_addresses,
        })
    }
}

fn addresses(texts: &[String]) -> Result<Vec<HostPort>, Problem> {
    texts.iter().map(|text| text.parse().map_err(usage)).collect()
}

impl Daemon {
    pub(super) async fn create(&mut self, request: CreateRequest) -> Result<Reply, Problem> {
        let now = clock::wall();
        let name = request.name.as_deref().unwrap_or(DEFAULT_NAME);
        let name: NetworkName = name.parse().map_err(usage)?;
        let range = match &request.range {
            Some(range) => range.parse::<Ipv4Range>().map_err(usage)?,
            None => DEFAULT_RANGE,
        };
        let domain = request.domain.unwrap_or_else(|| format!("{name}.{DEFAULT_DOMAIN}"));
        let domain: Domain = domain.parse().map_err(usage)?;
        if request.cluster != ClusterKind::None {
            return Err(usage("this version has no cluster driver yet").hint(
                "leave --cluster out, or say none; a cluster can be added to the network later",
            ));
        }
        if request.offline && !request.export_root_key {
            return Err(usage("nobody would keep the root key of an offline network")
                .hint("say where it shall be written: --root-key FILE"));
        }
        let advertise = addresses(&request.advertise)?;
        let key = SecretKey::generate(&mut random::system());
        // Offline, this key signs the first token and is thrown away: the
        // root makes a member an admin later.
        let plan = Plan {
            name: name.clone(),
            range,
            domain,
            distribution: Distribution::None,
            mode: None,
            roles: Roles::MEMBER,
            tags: Vec::new(),
            expires: Some(now.after(TOKEN_LIFE)),
            uses: None,
            advertise: advertise.clone(),
            max_members: MAX_MEMBERS,
        };
        let mut founding = found(plan, &key, now, &mut random::system());
        let id = founding.root.network();
        let root_key = request.export_root_key.then(|| root_to_text(&founding.root));
        if request.offline {
            let token = founding.token.clone();
            return Ok(Reply::Create(Created {
                network: name.to_string(),
                id: id.to_string(),
                node: None,
                invite: offline_invite(&token)?,
                token: epsilon_proto::api::Secret::new(token.to_text().to_string()),
                root_key,
            }));
        }
        self.refuse_known(&name, id)?;
        let place = self.find_place(range).await?;
        if founding.token.addresses.is_empty() {
            founding.token.addresses = self.own_addresses(place.port).await?;
        }
        let wishes = Wishes {
            name: None,
            advertise: request.advertise,
            site: None,
            labels: std::collections::BTreeMap::new(),
        };
        let settings = wishes.settings(&place, Vec::new())?;
        let saved = founding.first_member(&key, settings, now, &mut random::system());
        let root = (!request.export_root_key).then_some(&founding.root);
        let network = self.settle_in(&name, &key, root, &saved, true).await?;
        // Nobody else is there: alone is as good as admitted.
        let asked =
            Asked { name: name.clone(), dir: network.dir().to_owned(), client: network.client() };
        self.broken.remove(name.as_str());
        self.networks.insert(name.clone(), network);
        let made = match asked.client.joined().await {
            Ok(Ok(_)) => self.keep(&name),
            Ok(Err(reason)) => Err(error(reason)),
            Err(ended) => Err(stopped(ended)),
        };
        if let Err(problem) = made {
            self.discard(&name).await;
            return Err(problem);
        }
        let node = render::own(&asked.client.snapshot().await.map_err(stopped)?);
        let token = asked.token_created(&founding.token).await?;
        self.record(EventKind::NetworkCreated, &name, format!("made network {name}"));
        Ok(Reply::Create(Created {
            network: name.to_string(),
            id: id.to_string(),
            node: Some(node),
            invite: token.invite,
            token: token.token,
            root_key,
        }))
    }

    pub(super) async fn join(&mut self, request: JoinRequest, answer: Answer) {
        match self.begin_join(request).await {
            Ok(Begun::Under(name, client, token_expired)) => {
                let settle = self.settle.clone();
                tokio::spawn(async move {
                    let outcome = client.joined().await;
                    // The daemon may be stopping.
                    let settled = Settled { name, client, token_expired, outcome, answer };
                    let _ = settle.send(settled).await;
                });
            }
            // The client may have hung up.
            Ok(Begun::Already(joined)) => drop(answer.send(Ok(Reply::Join(*joined)))),
            Err(problem) => drop(answer.send(Err(problem))),
        }
    }

    async fn begin_join(&mut self, request: JoinRequest) -> Result<Begun, Problem> {
        let now = clock::wall();
        let token: Token = request.token.expose().parse().map_err(Problem::from)?;
        let token = token.verify(&Strict).map_err(Problem::from)?;
        let (name, id) = (token.network.name.clone(), token.id);
        if let Some(network) = self.networks.get(&name) {
            let snapshot = network.client().snapshot().await.map_err(stopped)?;
            if snapshot.view.id == id && provisional::marked(network.dir()).is_some() {
                // Under way: both hear how it ends.
                return Ok(Begun::Under(name, network.client(), token.expired(now)));
            }
            if snapshot.view.id == id {
                return Ok(Begun::Already(Box::new(joined(&snapshot, true, None))));
            }
        }
        self.refuse_known(&name, id)?;
        let roles = match request.role {
            None => token.invite.roles,
            Some(role) => {
                let role = super::answer::roles(&[role]);
                if !token.invite.roles.contains(role) {
                    return Err(error(format!(
                        "the token does not give the role {role}, only {}",
                        token.invite.roles
                    ))
                    .hint("leave --role out, or ask an admin for a token with it"));
                }
                role
            }
        };
        let place = self.find_place(token.network.range).await?;
        let wishes = Wishes {
            name: request.name,
            advertise: request.advertise,
            site: request.site,
            labels: request.labels,
        };
        let settings = wishes.settings(&place, token.addresses.clone())?;
        let key = SecretKey::generate(&mut random::system());
        // Whether this clock is right the members know: they decide.
        let token_expired = token.expired(now);
        let saved = join(token, &key, roles, settings, now);
        let network = self.settle_in(&name, &key, None, &saved, false).await?;
        let client = network.client();
        self.broken.remove(name.as_str());
        self.networks.insert(name.clone(), network);
        Ok(Begun::Under(name, client, token_expired))
    }

    /// A join is decided: keeps the network, or leaves nothing of it.
    pub(super) async fn settle_join(&mut self, settled: Settled) {
        let Settled { name, client, token_expired, outcome, answer } = settled;
        // There may be another network of that name by now.
        let is_here =
            self.networks.get(&name).is_some_and(|network| network.client().is_same(&client));
        if is_here && !matches!(outcome, Ok(Ok(_))) {
            self.discard(&name).await;
        }
        let result = match outcome {
            Ok(Ok(_)) if is_here => self.joined(&name, token_expired).await,
            Ok(Ok(_)) => Err(left_meanwhile(&name)),
            Ok(Err(reason)) => Err(error(format!("cannot join {name}: {reason}"))),
            Err(ended) => Err(stopped(ended)),
        };
        // The client may have hung up.
        let _ = answer.send(result.map(Reply::Join));
    }

    async fn joined(
        &mut self,
        name: &NetworkName,
        token_expired: Option<Timestamp>,
    ) -> Result<Joined, Problem> {
        if let Err(problem) = self.keep(name) {
            self.discard(name).await;
            return Err(problem);
        }
        let network = self.networks.get(name).ok_or_else(|| left_meanwhile(name))?;
        let snapshot = network.client().snapshot().await.map_err(stopped)?;
        self.record(EventKind::Joined, name, format!("joined network {name}"));
        Ok(joined(&snapshot, false, token_expired))
    }

    /// From now on the network is one of this machine's.
    fn keep(&self, name: &NetworkName) -> Result<(), Problem> {
        let network = self.networks.get(name).ok_or_else(|| left_meanwhile(name))?;
        let dir = network.dir();
        provisional::keep(dir).map_err(|reason| {
            error(format!("cannot keep the state in {}: {reason}", dir.display()))
                .hint("make room or make the file system writable, then try again")
        })
    }

    pub(super) async fn leave(&mut self, requested: Option<String>) -> Result<Reply, Problem> {
        if let Some(name) = self.broken_one(requested.as_deref()) {
            return self.give_up(name).await;
        }
        let network = self.choose(requested.as_deref())?;
        let name = network.name().clone();
        let client = network.client();
        let snapshot = client.snapshot().await.map_err(stopped)?;
        let reachable = render::is_reachable(&snapshot);
        // If this is cut off, the next start goes on with it.
        match provisional::mark(network.dir(), network.interface()) {
            Err(reason) if is_read_only(&reason) => {
                return Err(Problem::new(
                    ProblemKind::Degraded,
                    format!("cannot leave {name}, its state cannot be removed: {reason}"),
                )
                .hint("make the file system writable, then leave again"));
            }
            // A full disk is no reason to stay.
            Err(reason) => tracing::warn!(network = %name, "{reason}"),
            Ok(()) => {}
        }
        let left = client.operate(Operation::Leave).await.map_err(stopped)?;
        let announced = match left {
            Ok(_) => reachable && heard_of(&client).await,
            Err(reason) => {
                tracing::warn!(network = %name, %reason, "leaving without saying so");
                false
            }
        };
        if !self.discard(&name).await {
            return Err(error(format!("the state of network {name} cannot be removed")).hint(
                format!(
                    "remove {} by hand; the daemon's log says why it failed",
                    self.dir_of(&name).display()
                ),
            ));
        }
        self.record(EventKind::Left, &name, format!("left network {name}"));
        Ok(Reply::Leave(Left { network: name.to_string(), announced }))
    }

    /// Leaves a network that cannot be served: nobody can be told.
    async fn give_up(&mut self, name: NetworkName) -> Result<Reply, Problem> {
        let dir = self.dir_of(&name);
        let interface = Store::open(&dir.join(FILE)).map(|(_, saved)| saved.settings.interface);
        let interface = interface.unwrap_or_default();
        // Where nothing can be written, the removal says so.
        let _ = provisional::mark(&dir, &interface);
        provisional::remove(&dir, &interface).await.map_err(|reason| {
            error(format!("the state of network {name} cannot be removed: {reason}"))
                .hint(format!("remove {} by hand", dir.display()))
        })?;
        self.broken.remove(name.as_str());
        self.record(EventKind::Left, &name, format!("left network {name}, which was broken"));
        Ok(Reply::Leave(Left { network: name.to_string(), announced: false }))
    }

    /// The broken network that is meant, if one is.
    fn broken_one(&self, requested: Option<&str>) -> Option<NetworkName> {
        let name = match requested {
            Some(name) => self.broken.get_key_value(name).map(|(name, _)| name),
            None if self.networks.is_empty() && self.broken.len() == 1 => self.broken.keys().next(),
            None => None,
        };
        name?.parse().ok()
    }

    /// Stops a network and removes its state and its interface; says whether
    /// the state is gone.
    async fn discard(&mut self, name: &NetworkName) -> bool {
        let Some(network) = self.networks.remove(name) else { return true };
        let (dir, interface) = (network.dir().to_owned(), network.interface().to_owned());
        // If this is cut off, the next start goes on with it; where nothing
        // can be written, the removal below says so.
        let _ = provisional::mark(&dir, &interface);
        if let Err(reason) = network.stop().await {
            tracing::warn!(network = %name, "{reason}");
        }
        let removed = provisional::remove(&dir, &interface).await;
        if let Err(reason) = &removed {
            self.note_broken(name.as_str(), not_removed(reason));
        }
        removed.is_ok()
    }

    fn record(&self, kind: EventKind, name: &NetworkName, message: String) {
        let entry = Entry {
            at: Time::from_unix_ms(clock::wall().0),
            kind,
            severity: Severity::Info,
            network: Some(name.to_string()),
            node: None,
            message,
            hint: None,
        };
        crate::journal::log(&entry);
        self.journal.record(entry);
    }

    /// A network's name is a directory: two of one name cannot live here.
    fn refuse_known(
        &self,
        name: &NetworkName,
        id: epsilon_proto::id::NetworkId,
    ) -> Result<(), Problem> {
        if self.networks.contains_key(name) || self.dir_of(name).exists() {
            return Err(error(format!(
                "this machine is already in a network named {name}, another one than {}",
                id.short()
            ))
            .hint(format!("leave it with `epsilon mesh leave --network {name}`, or give the new one another name")));
        }
        Ok(())
    }

    fn dir_of(&self, name: &NetworkName) -> PathBuf {
        self.config.state_dir.join(name.as_str())
    }

    /// Writes a network's first state and serves it; leaves nothing behind
    /// when that fails.
    async fn settle_in(
        &self,
        name: &NetworkName,
        key: &SecretKey,
        root: Option<&SecretKey>,
        saved: &Saved,
        founding: bool,
    ) -> Result<Network, Problem> {
        let dir = self.dir_of(name);
        let result = match write_state(&dir, key, root, saved) {
            Ok(()) => self.start_network(dir.clone(), founding).await.map_err(error),
            Err(reason) => Err(error(reason)),
        };
        if result.is_err()
            && let Err(reason) = provisional::remove(&dir, &saved.settings.interface).await
        {
            tracing::error!(dir = %dir.display(), %reason, "cannot remove the state");
        }
        result
    }
}

enum Begun {
    Under(NetworkName, network::Client, Option<Timestamp>),
    Already(Box<Joined>),
}

fn write_state(
    dir: &Path,
    key: &SecretKey,
    root: Option<&SecretKey>,
    saved: &Saved,
) -> Result<(), network::Error> {
    provisional::begin(dir, &saved.settings.interface)?;
    file::write_atomic(&dir.join(IDENTITY_FILE), &*key.seed(), 0o600)?;
    if let Some(root) = root {
        file::write_atomic(&dir.join(ROOT_FILE), &*root.seed(), 0o600)?;
    }
    Store::create(&dir.join(FILE), &saved.writes())?;
    Ok(())
}

fn is_read_only(error: &file::Error) -> bool {
    let kind = std::io::ErrorKind::ReadOnlyFilesystem;
    matches!(error, file::Error::Io { source, .. } if source.kind() == kind)
}

/// Waits until every member that is linked has heard that this node left:
/// then it ends the link. Says whether one did.
async fn heard_of(client: &network::Client) -> bool {
    let links = async || {
        client.snapshot().await.map_or(0, |snapshot| render::counts(&snapshot).up.saturating_sub(1))
    };
    let before = links().await;
    let deadline = tokio::time::Instant::now() + FAREWELL;
    let mut left = before;
    while left > 0 && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(FAREWELL / 50).await;
        left = links().await;
    }
    left < before
}

fn left_meanwhile(name: &NetworkName) -> Problem {
    error(format!("network {name} was left meanwhile"))
}

fn joined(snapshot: &network::Snapshot, already: bool, token_expired: Option<Timestamp>) -> Joined {
    let node: OwnNode = render::own(snapshot);
    Joined {
        network: snapshot.view.network.name.to_string(),
        id: snapshot.view.id.to_string(),
        node,
        members: render::counts(snapshot),
        reachable: render::is_reachable(snapshot),
        already,
        token_expired_at: token_expired.map(render::time),
    }
}

fn offline_invite(token: &Token) -> Result<epsilon_proto::api::Invite, Problem> {
    let invite = token.invite.peek().map_err(usage)?;
    Ok(epsilon_proto::api::Invite {
        id: invite.key.to_string(),
        state: epsilon_proto::api::InviteState::Active,
        roles: render::roles(invite.roles),
        tags: invite.tags.iter().map(ToString::to_string).collect(),
        created_at: render::time(invite.issued),
        expires_at: invite.expires.map(render::time),
        max_uses: invite.uses,
        uses: 0,
        admin: Some(token.invite.signer().to_string()),
    })
}
