//! Calls about one network that is served.

use std::path::PathBuf;
use std::time::Duration;

use epsilon_mesh::control::{Operation, OperationError, Outcome, TokenRequest};
use epsilon_proto::api::{
    AdminAdded, AdminList, AdminRevoked, Expiry, NodeList, NodeRemoved, NodeRenamed, NodeReplaced,
    PeerList, Ping, Problem, ProblemKind, Secret, TokenCreateRequest, TokenCreated, TokenList,
    TokenRevoked,
};
use epsilon_proto::clock::Timestamp;
use epsilon_proto::id::NetworkId;
use epsilon_proto::key::SecretKey;
use epsilon_proto::name::{NetworkName, NodeName, Tag};
use epsilon_proto::token::Token;
use epsilon_proto::trust::Roles;
use epsilon_sys::file;
use zeroize::Zeroizing;

use super::{dataplane, render, select};
use crate::api::{Call, Reply};
use crate::clock;
use crate::network::{Client, ROOT_FILE, Snapshot, Stopped};

/// How long a token admits nodes when nothing is said.
pub(super) const TOKEN_LIFE: Duration = Duration::from_hours(30 * 24);

/// The network that a call names.
pub(super) fn network_of(call: &Call) -> Option<&str> {
    match call {
        Call::Version | Call::Networks | Call::Create(_) | Call::Join(_) | Call::Reload => None,
        Call::Leave { network }
        | Call::Status { network }
        | Call::Peers { network }
        | Call::Dataplane { network }
        | Call::Whois { network, .. }
        | Call::Ping { network, .. }
        | Call::Nodes { network }
        | Call::NodeRevoke { network, .. }
        | Call::NodeRename { network, .. }
        | Call::NodeReplace { network, .. }
        | Call::Devices { network }
        | Call::DeviceAdd { network, .. }
        | Call::DeviceRemove { network, .. }
        | Call::Netcheck { network }
        | Call::Routes { network }
        | Call::RoutesChange { network, .. }
        | Call::Tokens { network }
        | Call::TokenCreate { network, .. }
        | Call::TokenRevoke { network, .. }
        | Call::Admins { network }
        | Call::AdminAdd { network, .. }
        | Call::AdminRevoke { network, .. } => network.as_deref(),
    }
}

pub(super) fn stopped(_: Stopped) -> Problem {
    Problem::new(ProblemKind::Error, "the network stopped while it was asked")
        .hint("look at the daemon's log: journalctl -u meshd")
}

fn failed(error: &OperationError) -> Problem {
    let kind = match error {
        OperationError::NotAdmin | OperationError::NotRoot | OperationError::NotOwner(_) => {
            ProblemKind::Permission
        }
        OperationError::Storage(_) | OperationError::NotPublished => ProblemKind::Degraded,
        _ => ProblemKind::Error,
    };
    Problem::new(kind, error.to_string())
}

pub(super) fn usage(error: impl std::fmt::Display) -> Problem {
    Problem::new(ProblemKind::Usage, error.to_string())
}

/// The tags of a request.
pub(super) fn tags(texts: &[String]) -> Result<Vec<Tag>, Problem> {
    texts.iter().map(|text| text.parse().map_err(usage)).collect()
}

/// When an invite made now expires.
pub(super) fn expiry(expires: Option<Expiry>, now: Timestamp) -> Option<Timestamp> {
    match expires {
        Some(Expiry::Never) => None,
        Some(Expiry::InSeconds(seconds)) => Some(now.after(Duration::from_secs(seconds))),
        None => Some(now.after(TOKEN_LIFE)),
    }
}

/// The roles of a request; member when it names none.
pub(super) fn roles(requested: &[epsilon_proto::api::Role]) -> Roles {
    let named = requested.iter().map(|role| match role {
        epsilon_proto::api::Role::Member => Roles::MEMBER,
        epsilon_proto::api::Role::Worker => Roles::WORKER,
        epsilon_proto::api::Role::Server => Roles::SERVER,
    });
    let roles = named.fold(Roles::default(), Roles::union);
    if roles.is_empty() { Roles::MEMBER } else { roles }
}

/// The text form of a root key, as `mesh create --root-key` hands it out.
pub(super) fn root_to_text(root: &SecretKey) -> Secret {
    Secret::new(data_encoding::BASE64URL_NOPAD.encode(&*root.seed()))
}

fn root_from_text(text: &str) -> Result<SecretKey, Problem> {
    let bytes = data_encoding::BASE64URL_NOPAD.decode(text.trim().as_bytes()).map(Zeroizing::new);
    let seed =
        bytes.ok().and_then(|bytes| <[u8; 32]>::try_from(&bytes[..]).ok().map(Zeroizing::new));
    seed.map(|seed| SecretKey::from_seed(&seed)).ok_or_else(|| {
        usage("this is not a root key")
            .hint("pass the file that `epsilon mesh create --root-key FILE` wrote")
    })
}

/// One network, asked.
pub(super) struct Asked {
    pub(super) name: NetworkName,
    pub(super) dir: PathBuf,
    pub(super) client: Client,
}

impl Asked {
    pub(super) async fn snapshot(&self) -> Result<Snapshot, Problem> {
        self.client.snapshot().await.map_err(stopped)
    }

    pub(super) async fn operate(&self, operation: Operation) -> Result<Outcome, Problem> {
        let result = self.client.operate(operation).await.map_err(stopped)?;
        result.map_err(|error| failed(&error))
    }

    /// The root key: from the request, or from this machine's file.
    fn root(&self, given: Option<&Secret>, id: NetworkId) -> Result<SecretKey, Problem> {
        let root = if let Some(text) = given {
            root_from_text(text.expose())?
        } else {
            let path = self.dir.join(ROOT_FILE);
            let bytes = file::read_secret(&path, 64).map_err(|error| {
                let problem = Problem::new(
                    ProblemKind::Permission,
                    format!("this machine does not keep the root key: {error}"),
                );
                problem.hint("run the command where the network was made, or pass --root-key FILE")
            })?;
            let seed = bytes.first_chunk::<32>().filter(|_| bytes.len() == 32);
            seed.map(SecretKey::from_seed).ok_or_else(|| {
                Problem::new(ProblemKind::Error, format!("{} is not a root key", path.display()))
                    .hint("restore it from a backup, or pass --root-key FILE")
            })?
        };
        if root.network() == id { Ok(root) } else { Err(failed(&OperationError::NotRoot)) }
    }

    pub(super) async fn answer(self, call: Call) -> Result<Reply, Problem> {
        let network = self.name.to_string();
        let snapshot = self.snapshot().await?;
        match call {
            Call::Dataplane { .. } => Ok(Reply::Dataplane(dataplane::of(&snapshot, network))),
            Call::Peers { .. } => {
                Ok(Reply::Peers(PeerList { network, peers: render::peers(&snapshot) }))
            }
            Call::Whois { of, .. } => {
                let member = select::member(&snapshot, &of)?;
                Ok(Reply::Whois(render::detail(member, &snapshot)))
            }
            Call::Ping { request, .. } => self.ping(&snapshot, &request).await.map(Reply::Ping),
            Call::Nodes { .. } => {
                let members = snapshot.view.members.iter();
                let nodes = members.map(|member| render::node(member, &snapshot)).collect();
                Ok(Reply::Nodes(NodeList { network, nodes }))
            }
            Call::NodeRevoke { request, .. } => {
                let member = select::member(&snapshot, &request.node)?;
                let node = render::reference(member);
                self.operate(Operation::RevokeNode(member.node)).await?;
                // Those that are still up: the revoked one was cut off.
                let now = self.client.snapshot().await.map_err(stopped)?;
                let informed = render::counts(&now).up.saturating_sub(1);
                Ok(Reply::NodeRevoke(NodeRemoved { network, node, informed }))
            }
            Call::NodeRename { request, .. } => {
                let member = select::member(&snapshot, &request.node)?;
                let name: NodeName = request.name.parse().map_err(usage)?;
                let previous = member.name.as_ref().map(ToString::to_string);
                let mut node = render::reference(member);
                node.name = Some(name.to_string());
                self.operate(Operation::Rename { node: member.node, name }).await?;
                Ok(Reply::NodeRename(NodeRenamed { network, node, previous }))
            }
            Call::NodeReplace { request, .. } => {
                let old = select::member(&snapshot, &request.old)?;
                let new = select::member(&snapshot, &request.new)?;
                let (mut old_node, mut new_node) = (render::reference(old), render::reference(new));
                let operation = Operation::Replace { old: old.node, new: new.node };
                self.operate(operation).await?;
                new_node.name = old_node.name.take();
                Ok(Reply::NodeReplace(NodeReplaced {
                    network,
                    old: old_node,
                    new: new_node,
                    ipv4: old.ipv4,
                }))
            }
            Call::Devices { .. } => Ok(Reply::Devices(self.devices(&snapshot))),
            Call::DeviceAdd { request, .. } => {
                self.add_device(&snapshot, request).await.map(Reply::DeviceAdd)
            }
            Call::DeviceRemove { request, .. } => {
                self.remove_device(&snapshot, request).await.map(Reply::DeviceRemove)
            }
            Call::Netcheck { .. } => self.netcheck(&snapshot).await.map(Reply::Netcheck),
            Call::Routes { .. } => self.routes(&snapshot).await.map(Reply::Routes),
            Call::RoutesChange { request, .. } => {
                self.change_routes(&snapshot, request).await.map(Reply::RoutesChange)
            }
            Call::Tokens { .. } => {
                let now = snapshot.view.trusted_time;
                let invites = snapshot.invites.iter().map(|one| render::invite(one, now)).collect();
                Ok(Reply::Tokens(TokenList { network, invites }))
            }
            Call::TokenCreate { request, .. } => {
                self.create_token(&snapshot, request).await.map(Reply::TokenCreate)
            }
            Call::TokenRevoke { request, .. } => {
                let invite = select::invite(&snapshot, &request.invite)?;
                let members = snapshot.view.members.iter();
                let members = members
                    .filter(|member| request.members && member.invite == invite.key)
                    .map(render::reference)
                    .collect();
                let with_members = request.members;
                let operation = Operation::RevokeInvite { invite: invite.key, with_members };
                let invite = invite.key.to_string();
                self.operate(operation).await?;
                Ok(Reply::TokenRevoke(TokenRevoked { network, invite, members }))
            }
            Call::Admins { .. } => {
                let admins = snapshot.admins.iter();
                let admins = admins.map(|admin| render::admin(admin, &snapshot)).collect();
                Ok(Reply::Admins(AdminList { network, admins }))
            }
            Call::AdminAdd { request, .. } => {
                let member = select::member(&snapshot, &request.node)?;
                let root = self.root(request.root_key.as_ref(), snapshot.view.id)?;
                let key = member.node.key();
                let name = member.name.as_ref().map_or_else(|| key.short(), ToString::to_string);
                self.operate(Operation::AddAdmin { key, name, root }).await?;
                self.admin(key).await.map(|admin| Reply::AdminAdd(AdminAdded { network, admin }))
            }
            Call::AdminRevoke { request, .. } => {
                let key = select::admin(&snapshot, &request.admin)?;
                let root = self.root(request.root_key.as_ref(), snapshot.view.id)?;
                self.operate(Operation::RevokeAdmin { key, root }).await?;
                self.admin(key)
                    .await
                    .map(|admin| Reply::AdminRevoke(AdminRevoked { network, admin }))
            }
            Call::Version
            | Call::Networks
            | Call::Create(_)
            | Call::Join(_)
            | Call::Leave { .. }
            | Call::Status { .. }
            | Call::Reload => Err(usage("this is not about one network")),
        }
    }

    async fn admin(
        &self,
        key: epsilon_proto::id::PublicKey,
    ) -> Result<epsilon_proto::api::Admin, Problem> {
        let snapshot = self.snapshot().await?;
        let admin = snapshot.admins.iter().find(|(known, ..)| *known == key);
        admin
            .map(|admin| render::admin(admin, &snapshot))
            .ok_or_else(|| failed(&OperationError::UnknownAdmin))
    }

    async fn ping(
        &self,
        snapshot: &Snapshot,
        request: &epsilon_proto::api::PingRequest,
    ) -> Result<Ping, Problem> {
        let member = select::member(snapshot, &request.peer)?;
        if member.node == snapshot.view.own {
            return Err(
                usage("that is this node itself").hint("ping another member: epsilon peers")
            );
        }
        let wait =
            Duration::from_millis(u64::from(request.timeout_ms.unwrap_or(1000).clamp(1, 60_000)));
        let pong = self.client.ping(member.node, wait).await.map_err(stopped)?;
        let rtt = pong.and_then(|pong| pong.rtt);
        let endpoint = pong.map(|pong| pong.to).or(member.path);
        let address = member.ipv4.map(std::net::IpAddr::V4);
        Ok(Ping {
            peer: render::reference(member),
            address: address.or_else(|| member.ipv6.first().copied().map(std::net::IpAddr::V6)),
            rtt_us: rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
            path: render::path_to(endpoint, member, snapshot),
        })
    }

    async fn create_token(
        &self,
        snapshot: &Snapshot,
        request: TokenCreateRequest,
    ) -> Result<TokenCreated, Problem> {
        if request.uses == Some(0) {
            return Err(usage("a token with 0 uses admits nobody")
                .hint("leave --uses out, or give 1 or more"));
        }
        let operation = Operation::CreateToken(TokenRequest {
            roles: roles(&request.roles),
            tags: tags(&request.tags)?,
            expires: expiry(request.expires, clock::wall().max(snapshot.view.trusted_time)),
            uses: request.uses,
            addresses: Vec::new(),
        });
        match self.operate(operation).await? {
            Outcome::Token(token) => self.token_created(&token).await,
            Outcome::Device(_) | Outcome::Done => {
                Err(Problem::new(ProblemKind::Error, "no token was made"))
            }
        }
    }

    /// A token and what is known of its invite.
    pub(super) async fn token_created(&self, token: &Token) -> Result<TokenCreated, Problem> {
        let key = token.invite.peek().map_err(usage)?.key;
        let snapshot = self.snapshot().await?;
        let invite = snapshot.invites.iter().find(|invite| invite.key == key);
        let invite = invite.ok_or_else(|| failed(&OperationError::UnknownInvite))?;
        Ok(TokenCreated {
            network: self.name.to_string(),
            invite: render::invite(invite, snapshot.view.trusted_time),
            token: Secret::new(token.to_text().to_string()),
        })
    }
}
