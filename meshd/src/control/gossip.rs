//! Gossip: one topic, messages that carry their own signatures.
//!
//! Messages are anonymous and named by the hash of their content. Each waits
//! for the engine's verdict before it is passed on. Nothing is sent while
//! there is nothing to say.

use std::collections::HashSet;
use std::time::Duration;

use libp2p::gossipsub::{
    self, ConfigBuilder, IdentTopic, IdentityTransform, MessageAuthenticity, ValidationMode,
    Version, WhitelistSubscriptionFilter,
};

use super::api::{Error, Limits};

/// Room for gossipsub's own framing beside one largest message.
const FRAMING: usize = 4096;

/// Mesh upkeep: slow, since publishing floods and anti-entropy repairs.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// How many linked members a node asks to pass everything on to it, and how many may
/// ask it: a hub of a large fleet passes on to all that link with it.
const MESH: usize = 4;
const MOST_IN_MESH: usize = 1024;

/// After this many heartbeats an unjudged message is forgotten.
const REMEMBERED_HEARTBEATS: usize = 6;

/// Messages that may wait for a slow peer.
const QUEUE: usize = 512;

/// gossipsub, for one topic only: others cannot make this node remember theirs.
pub(super) type Behaviour = gossipsub::Behaviour<IdentityTransform, WhitelistSubscriptionFilter>;

/// The name of a message, which is the hash of its content.
pub(super) fn name(bytes: &[u8]) -> gossipsub::MessageId {
    gossipsub::MessageId::from(blake3::hash(bytes).as_bytes().to_vec())
}

/// gossipsub, subscribed to `topic`.
pub(super) fn subscribed(topic: &IdentTopic, limits: &Limits) -> Result<Behaviour, Error> {
    let config = ConfigBuilder::default()
        .protocol_id("/epsilon/gossip/1", Version::V1_1)
        .validation_mode(ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(|message| name(&message.data))
        .max_transmit_size(limits.gossip + FRAMING)
        .flood_publish(true)
        .mesh_n_low(MESH)
        .mesh_n(MESH)
        .mesh_n_high(MOST_IN_MESH)
        .heartbeat_initial_delay(Duration::from_secs(1))
        .heartbeat_interval(HEARTBEAT)
        .history_length(REMEMBERED_HEARTBEATS)
        .connection_handler_queue_len(QUEUE)
        .build()
        .map_err(|error| Error::Setup(format!("gossip: {error}")))?;
    let only = WhitelistSubscriptionFilter(HashSet::from([topic.hash()]));
    let mut behaviour =
        Behaviour::new_with_subscription_filter(MessageAuthenticity::Anonymous, config, only)
            .map_err(|error| Error::Setup(format!("gossip: {error}")))?;
    behaviour.subscribe(topic).map_err(|error| Error::Setup(format!("gossip: {error}")))?;
    Ok(behaviour)
}
