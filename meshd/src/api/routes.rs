//! The one table of what is served. The router and the OpenAPI document are
//! both made from it.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{self, MethodRouter};
use epsilon_proto::api::{
    AdminAddRequest, AdminAdded, AdminList, AdminRevokeRequest, AdminRevoked, CreateRequest,
    Created, Dataplane, DeviceAddRequest, DeviceAdded, DeviceList, DeviceRemoveRequest,
    DeviceRemoved, Event, JoinRequest, Joined, Left, Netcheck, NetworkList, NodeDetail, NodeList,
    NodeRemoved, NodeRenamed, NodeReplaced, PeerList, Ping, PingRequest, Problem, ProblemKind,
    Reloaded, RenameRequest, ReplaceRequest, RevokeRequest, RouteChangeRequest, RouteList, Status,
    TokenCreateRequest, TokenCreated, TokenList, TokenRevokeRequest, TokenRevoked, Version, paths,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::{IntoParams, ToSchema};

use super::openapi::Operation;
use super::server::{self, Shell, refuse, refuse_as};
use super::{Call, openapi_json};

/// One path: who serves it and how it is described.
pub(super) struct Route {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) service: MethodRouter<Shell>,
    pub(super) operation: Operation,
}

/// Takes no query.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct NoQuery {}

/// Chooses a network.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct NetworkQuery {
    /// The network; may be left out where there is only one.
    network: Option<String>,
}

/// Chooses a node.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct WhoisQuery {
    /// The network; may be left out where there is only one.
    network: Option<String>,
    /// Name, mesh address or id of the node.
    of: String,
}

/// Chooses events.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventsQuery {
    /// Only what concerns this network or none in particular.
    pub(super) network: Option<String>,
    /// Keep the connection open for what is to come.
    #[serde(default)]
    pub(super) follow: bool,
}

/// An empty body, or `{}`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// Everything that is served, in the order of the documentation.
pub(super) fn table() -> Vec<Route> {
    vec![
        get::<NoQuery, Version>(paths::VERSION, "The daemon's version", |_| Call::Version),
        get::<NoQuery, NetworkList>(paths::NETWORKS, "The networks of this machine", |_| {
            Call::Networks
        }),
        post::<NoQuery, CreateRequest, Created>(paths::CREATE, "Make a network", |_, request| {
            Call::Create(request)
        }),
        post::<NoQuery, JoinRequest, Joined>(paths::JOIN, "Join a network", |_, request| {
            Call::Join(request)
        }),
        post::<NetworkQuery, Nothing, Left>(paths::LEAVE, "Leave a network", |query, _| {
            Call::Leave { network: query.network }
        }),
        get::<NetworkQuery, Status>(
            paths::STATUS,
            "How all networks, or the named one, are doing",
            |query| Call::Status { network: query.network },
        ),
        get::<NetworkQuery, Dataplane>(paths::DATAPLANE, "What the data plane counted", |query| {
            Call::Dataplane { network: query.network }
        }),
        get::<NetworkQuery, PeerList>(paths::PEERS, "The other members", |query| Call::Peers {
            network: query.network,
        }),
        get::<WhoisQuery, NodeDetail>(paths::WHOIS, "Everything about one node", |query| {
            Call::Whois { network: query.network, of: query.of }
        }),
        post::<NetworkQuery, PingRequest, Ping>(
            paths::PING,
            "Send one probe to a peer",
            |query, request| Call::Ping { network: query.network, request },
        ),
        get::<NetworkQuery, NodeList>(
            paths::NODES,
            "All members, the own node included",
            |query| Call::Nodes { network: query.network },
        ),
        post::<NetworkQuery, RevokeRequest, NodeRemoved>(
            paths::NODE_REVOKE,
            "Revoke a node",
            |query, request| Call::NodeRevoke { network: query.network, request },
        ),
        post::<NetworkQuery, RenameRequest, NodeRenamed>(
            paths::NODE_RENAME,
            "Rename a node",
            |query, request| Call::NodeRename { network: query.network, request },
        ),
        post::<NetworkQuery, ReplaceRequest, NodeReplaced>(
            paths::NODE_REPLACE,
            "Hand a node's address and name to another one",
            |query, request| Call::NodeReplace { network: query.network, request },
        ),
        get::<NetworkQuery, DeviceList>(
            paths::DEVICES,
            "All devices: members that have WireGuard, but not the daemon",
            |query| Call::Devices { network: query.network },
        ),
        post::<NetworkQuery, DeviceAddRequest, DeviceAdded>(
            paths::DEVICE_ADD,
            "Add a device that this node serves",
            |query, request| Call::DeviceAdd { network: query.network, request },
        ),
        post::<NetworkQuery, DeviceRemoveRequest, DeviceRemoved>(
            paths::DEVICE_REMOVE,
            "Remove a device of this node, or revoke another node's",
            |query, request| Call::DeviceRemove { network: query.network, request },
        ),
        get::<NetworkQuery, Netcheck>(
            paths::NETCHECK,
            "How this machine is connected, measured while the call lasts",
            |query| Call::Netcheck { network: query.network },
        ),
        get::<NetworkQuery, RouteList>(
            paths::ROUTES,
            "Networks beyond the mesh: those behind this node, and those behind others",
            |query| Call::Routes { network: query.network },
        ),
        post::<NetworkQuery, RouteChangeRequest, RouteList>(
            paths::ROUTES_CHANGE,
            "Change which networks are reached through this node, or through others",
            |query, request| Call::RoutesChange { network: query.network, request },
        ),
        get::<NetworkQuery, TokenList>(paths::TOKENS, "All invites", |query| Call::Tokens {
            network: query.network,
        }),
        post::<NetworkQuery, TokenCreateRequest, TokenCreated>(
            paths::TOKEN_CREATE,
            "Make an invite and its token",
            |query, request| Call::TokenCreate { network: query.network, request },
        ),
        post::<NetworkQuery, TokenRevokeRequest, TokenRevoked>(
            paths::TOKEN_REVOKE,
            "Revoke an invite",
            |query, request| Call::TokenRevoke { network: query.network, request },
        ),
        get::<NetworkQuery, AdminList>(paths::ADMINS, "All admin keys", |query| Call::Admins {
            network: query.network,
        }),
        post::<NetworkQuery, AdminAddRequest, AdminAdded>(
            paths::ADMIN_ADD,
            "Make a member an admin",
            |query, request| Call::AdminAdd { network: query.network, request },
        ),
        post::<NetworkQuery, AdminRevokeRequest, AdminRevoked>(
            paths::ADMIN_REVOKE,
            "Revoke an admin key",
            |query, request| Call::AdminRevoke { network: query.network, request },
        ),
        Route {
            method: "GET",
            path: paths::EVENTS,
            service: routing::get(server::events),
            operation: Operation::lines::<EventsQuery, Event>(
                "What happened since the daemon started, one JSON document per line",
            ),
        },
        post::<NoQuery, Nothing, Reloaded>(
            paths::RELOAD,
            "Read the configuration again",
            |_, _| Call::Reload,
        ),
        Route {
            method: "GET",
            path: paths::OPENAPI,
            service: routing::get(async || {
                ([(axum::http::header::CONTENT_TYPE, "application/json")], openapi_json())
                    .into_response()
            }),
            operation: Operation::undescribed::<NoQuery>("This document"),
        },
    ]
}

fn get<Q, R>(path: &'static str, summary: &'static str, call: fn(Q) -> Call) -> Route
where
    Q: DeserializeOwned + IntoParams + Send + 'static,
    R: ToSchema,
{
    let handler = move |State(shell): State<Shell>, query: Result<Query<Q>, QueryRejection>| async move {
        match query {
            Ok(Query(query)) => server::ask(shell, call(query)).await,
            Err(rejection) => refuse(&bad_query(&rejection)),
        }
    };
    Route {
        method: "GET",
        path,
        service: routing::get(handler),
        operation: Operation::new::<Q, R>(summary),
    }
}

fn post<Q, B, R>(path: &'static str, summary: &'static str, call: fn(Q, B) -> Call) -> Route
where
    Q: DeserializeOwned + IntoParams + Send + 'static,
    B: DeserializeOwned + ToSchema + Send + 'static,
    R: ToSchema,
{
    let handler = move |State(shell): State<Shell>,
                        query: Result<Query<Q>, QueryRejection>,
                        body: Result<Bytes, BytesRejection>| async move {
        let query = match query {
            Ok(Query(query)) => query,
            Err(rejection) => return refuse(&bad_query(&rejection)),
        };
        match read_body(body, path) {
            Ok(body) => server::ask(shell, call(query, body)).await,
            Err(response) => *response,
        }
    };
    Route {
        method: "POST",
        path,
        service: routing::post(handler),
        operation: Operation::new::<Q, R>(summary).takes::<B>(),
    }
}

pub(super) fn bad_query(rejection: &QueryRejection) -> Problem {
    Problem::new(ProblemKind::Usage, rejection.body_text())
        .hint(format!("the API is described at {}", paths::OPENAPI))
}

fn read_body<B: DeserializeOwned>(
    body: Result<Bytes, BytesRejection>,
    path: &str,
) -> Result<B, Box<Response>> {
    let body = body.map_err(|rejection| {
        let problem = Problem::new(
            ProblemKind::Usage,
            format!("the body of {path} cannot be read: {}", rejection.body_text()),
        );
        let problem = if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            problem.hint("send less")
        } else {
            problem
        };
        Box::new(refuse_as(rejection.status(), &problem))
    })?;
    let body: &[u8] = if body.is_empty() { b"{}" } else { &body };
    serde_json::from_slice(body).map_err(|error| {
        Box::new(refuse(
            &Problem::new(
                ProblemKind::Usage,
                format!("the body of {path} is not what is expected: {error}"),
            )
            .hint(format!("the API is described at {}", paths::OPENAPI)),
        ))
    })
}
