use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::NodeRef;

/// Networks beyond the mesh, as this node reaches them and leads to them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RouteList {
    /// The network.
    pub network: String,
    /// The networks behind this node that it leads to.
    #[serde(default)]
    pub advertised: Vec<AdvertisedRoute>,
    /// The blocks within which networks behind others are accepted; those of all addresses
    /// stand for every network.
    #[serde(default)]
    pub accepted: Vec<AcceptedRoutes>,
    /// The networks behind others, accepted or not.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// By whom everything else is reached.
    pub exit: ExitState,
    /// Why this machine does not route or forward as it should, if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A network behind this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdvertisedRoute {
    /// Its addresses.
    #[schema(example = "192.168.10.0/24")]
    pub prefix: String,
    /// Whether its hosts see this node's address in place of those of members.
    pub masquerade: bool,
    /// Why members will hardly reach it, where that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Networks behind others that are accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AcceptedRoutes {
    /// All within this block.
    #[schema(example = "192.168.10.0/24")]
    pub prefix: String,
    /// Behind this node only; behind any when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<NodeRef>,
}

/// A network behind other nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Route {
    /// Its addresses.
    #[schema(example = "192.168.10.0/24")]
    pub prefix: String,
    /// Whether it is accepted here.
    pub accepted: bool,
    /// The node through which it is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<NodeRef>,
    /// The nodes that lead to it.
    pub providers: Vec<NodeRef>,
    /// What of this machine's own goes before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict: Option<RouteConflict>,
}

/// Routes of this machine that go before one through the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RouteConflict {
    /// Whether nothing of the network is reached through the mesh.
    pub total: bool,
    /// The routes.
    #[schema(example = json!(["192.168.10.0/24 on eth0"]))]
    pub routes: Vec<String>,
}

/// By whom everything is reached that is neither in the mesh nor near.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExitState {
    /// Whether this node offers to be an exit.
    pub offered: bool,
    /// The exit that this node uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub using: Option<NodeRef>,
    /// Whether that is up and still offers to be one.
    pub works: bool,
    /// The nodes that offer to be one.
    #[serde(default)]
    pub offers: Vec<NodeRef>,
}

/// What to change about routes. What is not mentioned stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteChangeRequest {
    /// Networks behind this node to lead to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub advertise: Vec<String>,
    /// Show their hosts the addresses of members: they need a route to the mesh then.
    #[serde(default)]
    pub no_masquerade: bool,
    /// Networks behind this node not to lead to any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub withdraw: Vec<String>,
    /// Networks behind others to accept, or `all`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accept: Vec<String>,
    /// Accept them behind these nodes only: name, mesh address or id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<String>,
    /// Networks behind others not to accept any more, or `all`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reject: Vec<String>,
    /// The exit to use: name, mesh address or id of a node, or nothing for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<String>,
    /// Whether to offer to be an exit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offer_exit: Option<bool>,
    /// Accept what a route of this machine goes before, and use an exit that is down.
    #[serde(default)]
    pub force: bool,
}
