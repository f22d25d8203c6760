//! Where each request goes. Client and server both take the paths from here.
//!
//! Where a network has to be chosen, the query `?network=NAME` does so; the
//! daemon falls back to the only network that it serves.

/// `GET`: [`Version`](super::Version).
pub const VERSION: &str = "/v1/version";
/// `GET`: the generated OpenAPI 3.1 document.
pub const OPENAPI: &str = "/v1/openapi.json";
/// `GET`: [`NetworkList`](super::NetworkList).
pub const NETWORKS: &str = "/v1/networks";
/// `POST` [`CreateRequest`](super::CreateRequest): [`Created`](super::Created).
pub const CREATE: &str = "/v1/networks/create";
/// `POST` [`JoinRequest`](super::JoinRequest): [`Joined`](super::Joined).
pub const JOIN: &str = "/v1/networks/join";
/// `POST`, `?network`: [`Left`](super::Left).
pub const LEAVE: &str = "/v1/networks/leave";
/// `GET`, `?network` narrows it down: [`Status`](super::Status).
pub const STATUS: &str = "/v1/status";
/// `GET`, `?network`: [`PeerList`](super::PeerList).
pub const PEERS: &str = "/v1/peers";
/// `GET`, `?network`: [`Dataplane`](super::Dataplane).
pub const DATAPLANE: &str = "/v1/debug/dataplane";
/// `GET`, `?network&of=NAME|ADDRESS|ID`: [`NodeDetail`](super::NodeDetail).
pub const WHOIS: &str = "/v1/whois";
/// `POST`, `?network`, [`PingRequest`](super::PingRequest): [`Ping`](super::Ping).
pub const PING: &str = "/v1/ping";
/// `GET`, `?network`: [`NodeList`](super::NodeList).
pub const NODES: &str = "/v1/nodes";
/// `POST`, `?network`, [`RevokeRequest`](super::RevokeRequest): [`NodeRemoved`](super::NodeRemoved).
pub const NODE_REVOKE: &str = "/v1/nodes/revoke";
/// `POST`, `?network`, [`RenameRequest`](super::RenameRequest): [`NodeRenamed`](super::NodeRenamed).
pub const NODE_RENAME: &str = "/v1/nodes/rename";
/// `POST`, `?network`, [`ReplaceRequest`](super::ReplaceRequest): [`NodeReplaced`](super::NodeReplaced).
pub const NODE_REPLACE: &str = "/v1/nodes/replace";
/// `GET`, `?network`: [`DeviceList`](super::DeviceList).
pub const DEVICES: &str = "/v1/devices";
/// `POST`, `?network`, [`DeviceAddRequest`](super::DeviceAddRequest): [`DeviceAdded`](super::DeviceAdded).
pub const DEVICE_ADD: &str = "/v1/devices/add";
/// `POST`, `?network`, [`DeviceRemoveRequest`](super::DeviceRemoveRequest): [`DeviceRemoved`](super::DeviceRemoved).
pub const DEVICE_REMOVE: &str = "/v1/devices/remove";
/// `GET`: how this machine is connected.
pub const NETCHECK: &str = "/v1/netcheck";
/// `GET`: networks beyond the mesh.
pub const ROUTES: &str = "/v1/routes";
/// `POST`: change what is reached how.
pub const ROUTES_CHANGE: &str = "/v1/routes/change";
/// `GET`, `?network`: [`TokenList`](super::TokenList).
pub const TOKENS: &str = "/v1/tokens";
/// `POST`, `?network`, [`TokenCreateRequest`](super::TokenCreateRequest): [`TokenCreated`](super::TokenCreated).
pub const TOKEN_CREATE: &str = "/v1/tokens/create";
/// `POST`, `?network`, [`TokenRevokeRequest`](super::TokenRevokeRequest): [`TokenRevoked`](super::TokenRevoked).
pub const TOKEN_REVOKE: &str = "/v1/tokens/revoke";
/// `GET`, `?network`: [`AdminList`](super::AdminList).
pub const ADMINS: &str = "/v1/admins";
/// `POST`, `?network`, [`AdminAddRequest`](super::AdminAddRequest): [`AdminAdded`](super::AdminAdded).
pub const ADMIN_ADD: &str = "/v1/admins/add";
/// `POST`, `?network`, [`AdminRevokeRequest`](super::AdminRevokeRequest): [`AdminRevoked`](super::AdminRevoked).
pub const ADMIN_REVOKE: &str = "/v1/admins/revoke";
/// `GET`, `?network&follow=true`: one [`Event`](super::Event) per line, since the daemon started.
pub const EVENTS: &str = "/v1/events";
/// `POST`: [`Reloaded`](super::Reloaded).
pub const RELOAD: &str = "/v1/reload";
