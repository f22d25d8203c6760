use epsilon_proto::api::{
    AdminAddRequest, AdminAdded, AdminList, AdminRevokeRequest, AdminRevoked, CreateRequest,
    Created, Dataplane, DeviceAddRequest, DeviceAdded, DeviceList, DeviceRemoveRequest,
    DeviceRemoved, JoinRequest, Joined, Left, Netcheck, NetworkList, NodeDetail, NodeList,
    NodeRemoved, NodeRenamed, NodeReplaced, PeerList, Ping, PingRequest, Problem, ProblemKind,
    Reloaded, RenameRequest, ReplaceRequest, RevokeRequest, RouteChangeRequest, RouteList, Status,
    TokenCreateRequest, TokenCreated, TokenList, TokenRevokeRequest, TokenRevoked, Version,
};
use serde::Serialize;
use tokio::sync::oneshot;

/// What a client asks of the daemon; each call is answered by the reply of
/// the same name.
///
/// `network` is the name as the client gave it: [`choose_network`] turns it
/// into one of the networks that are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// The daemon's version.
    Version,
    /// The networks that it serves.
    Networks,
    /// Make a network.
    Create(CreateRequest),
    /// Join a network.
    Join(JoinRequest),
    /// Leave a network.
    Leave {
        /// Which one.
        network: Option<String>,
    },
    /// How all networks, or the named one, are doing.
    Status {
        /// Which one; all of them if absent.
        network: Option<String>,
    },
    /// The other members.
    Peers {
        /// In which network.
        network: Option<String>,
    },
    /// The data plane's counters.
    Dataplane {
        /// In which network.
        network: Option<String>,
    },
    /// Everything about one node.
    Whois {
        /// In which network.
        network: Option<String>,
        /// Its name, mesh address or id.
        of: String,
    },
    /// One probe to a peer.
    Ping {
        /// In which network.
        network: Option<String>,
        /// To whom, and for how long.
        request: PingRequest,
    },
    /// All nodes.
    Nodes {
        /// In which network.
        network: Option<String>,
    },
    /// Revoke a node.
    NodeRevoke {
        /// In which network.
        network: Option<String>,
        /// Which one.
        request: RevokeRequest,
    },
    /// Rename a node.
    NodeRename {
        /// In which network.
        network: Option<String>,
        /// Which one, to what.
        request: RenameRequest,
    },
    /// Hand a node's address and name to another one.
    NodeReplace {
        /// In which network.
        network: Option<String>,
        /// Which one, by which.
        request: ReplaceRequest,
    },
    /// All devices.
    Devices {
        /// In which network.
        network: Option<String>,
    },
    /// Add a device.
    DeviceAdd {
        /// In which network.
        network: Option<String>,
        /// Which one.
        request: DeviceAddRequest,
    },
    /// Remove a device.
    DeviceRemove {
        /// In which network.
        network: Option<String>,
        /// Which one.
        request: DeviceRemoveRequest,
    },
    /// How this machine is connected.
    Netcheck {
        /// In which network.
        network: Option<String>,
    },
    /// Networks beyond the mesh.
    Routes {
        /// In which network.
        network: Option<String>,
    },
    /// Change what is reached how.
    RoutesChange {
        /// In which network.
        network: Option<String>,
        /// What.
        request: RouteChangeRequest,
    },
    /// All invites.
    Tokens {
        /// In which network.
        network: Option<String>,
    },
    /// Make an invite and its token.
    TokenCreate {
        /// In which network.
        network: Option<String>,
        /// For whom.
        request: TokenCreateRequest,
    },
    /// Revoke an invite.
    TokenRevoke {
        /// In which network.
        network: Option<String>,
        /// Which one.
        request: TokenRevokeRequest,
    },
    /// All admin keys.
    Admins {
        /// In which network.
        network: Option<String>,
    },
    /// Make a member an admin.
    AdminAdd {
        /// In which network.
        network: Option<String>,
        /// Which one.
        request: AdminAddRequest,
    },
    /// Revoke an admin key.
    AdminRevoke {
        /// In which network.
        network: Option<String>,
        /// Which one.
        request: AdminRevokeRequest,
    },
    /// Read the configuration file again.
    Reload,
}

/// The answer to the [`Call`] of the same name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
#[expect(missing_docs, reason = "each variant is the call of the same name, answered")]
pub enum Reply {
    Version(Version),
    Networks(NetworkList),
    Create(Created),
    Join(Joined),
    Leave(Left),
    Status(Status),
    Peers(PeerList),
    Dataplane(Dataplane),
    Whois(NodeDetail),
    Ping(Ping),
    Nodes(NodeList),
    NodeRevoke(NodeRemoved),
    NodeRename(NodeRenamed),
    NodeReplace(NodeReplaced),
    Devices(DeviceList),
    DeviceAdd(DeviceAdded),
    DeviceRemove(DeviceRemoved),
    Netcheck(Netcheck),
    Routes(RouteList),
    RoutesChange(RouteList),
    Tokens(TokenList),
    TokenCreate(TokenCreated),
    TokenRevoke(TokenRevoked),
    Admins(AdminList),
    AdminAdd(AdminAdded),
    AdminRevoke(AdminRevoked),
    Reload(Reloaded),
}

/// Where the answer to a call goes. It is closed once the client has hung up.
pub type Answer = oneshot::Sender<Result<Reply, Problem>>;

/// The network that a call means, out of those that are served.
///
/// Without a name it is the only one. None served is
/// [`ProblemKind::NotJoined`], several are [`ProblemKind::Usage`], and a
/// name that is not served is [`ProblemKind::NotJoined`]; the last two list
/// the names to choose from.
pub fn choose_network<'a>(requested: Option<&str>, served: &[&'a str]) -> Result<&'a str, Problem> {
    let join = "join one with: epsilon mesh join TOKEN";
    match (requested, served) {
        (Some(name), _) => {
            served.iter().find(|served| **served == name).copied().ok_or_else(|| {
                let problem = Problem::new(
                    ProblemKind::NotJoined,
                    format!("this machine is not in a network named {name:?}"),
                );
                if served.is_empty() {
                    problem.hint(join)
                } else {
                    problem.hint(format!("it is in: {}", served.join(", ")))
                }
            })
        }
        (None, [only]) => Ok(only),
        (None, []) => {
            Err(Problem::new(ProblemKind::NotJoined, "this machine is in no network").hint(join))
        }
        (None, several) => Err(Problem::new(
            ProblemKind::Usage,
            format!("this machine is in {} networks", several.len()),
        )
        .hint(format!("choose one with --network: {}", several.join(", ")))),
    }
}

#[cfg(test)]
mod tests {
    use super::{Problem, ProblemKind, choose_network};

    fn kind_and_hint(result: Result<&str, Problem>) -> (ProblemKind, String) {
        let problem = result.unwrap_err();
        (problem.kind, problem.hint.unwrap_or_default())
    }

    #[test]
    fn the_only_network_is_meant_when_none_is_named() {
        assert_eq!(choose_network(None, &["blue"]), Ok("blue"));
    }

    #[test]
    fn a_named_network_is_found_among_several() {
        assert_eq!(choose_network(Some("red"), &["blue", "red"]), Ok("red"));
    }

    #[test]
    fn several_networks_without_a_name_are_listed() {
        let (kind, hint) = kind_and_hint(choose_network(None, &["blue", "red"]));
        assert_eq!(kind, ProblemKind::Usage);
        assert!(hint.contains("blue, red"), "{hint}");
    }

    #[test]
    fn an_unknown_name_is_not_joined_and_lists_the_known_ones() {
        let (kind, hint) = kind_and_hint(choose_network(Some("green"), &["blue", "red"]));
        assert_eq!(kind, ProblemKind::NotJoined);
        assert!(hint.contains("blue, red"), "{hint}");
    }

    #[test]
    fn a_machine_without_a_network_is_told_how_to_join() {
        for name in [None, Some("green")] {
            let (kind, hint) = kind_and_hint(choose_network(name, &[]));
            assert_eq!(kind, ProblemKind::NotJoined);
            assert!(hint.contains("mesh join"), "{hint}");
        }
    }
}
