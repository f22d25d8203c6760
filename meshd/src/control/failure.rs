//! What libp2p says when something failed, in the words of this module.

use std::io;

use libp2p::PeerId;
use libp2p::core::transport::TransportError;
use libp2p::swarm;

use super::alive;
use super::api::DialError;
use super::upgrade::other_identity;

/// The reason that our own transport gave, unpacked.
fn own_error(error: io::Error) -> DialError {
    let text = error.to_string();
    error
        .into_inner()
        .and_then(|inner| inner.downcast::<DialError>().ok())
        .map_or(DialError::Protocol(text), |own| *own)
}

/// The same for people.
pub(super) fn failure_text(error: io::Error) -> String {
    match own_error(error) {
        DialError::Protocol(text) => text,
        other => other.to_string(),
    }
}

/// Why a dial that hoped for `expected` failed.
pub(super) fn dial_error(expected: Option<PeerId>, error: swarm::DialError) -> DialError {
    use swarm::DialError as Dial;
    let protocol = |text: String| DialError::Protocol(text);
    match error {
        // libp2p leaves out the addresses that it listens on itself.
        Dial::LocalPeerId { .. } | Dial::NoAddresses => DialError::Myself,
        Dial::WrongPeerId { obtained, .. } => match expected {
            Some(expected) => other_identity(&expected, &obtained),
            None => protocol("an unexpected peer answered".into()),
        },
        Dial::Transport(errors) => match errors.into_iter().next() {
            Some((_, TransportError::Other(error))) => own_error(error),
            Some((address, TransportError::MultiaddrNotSupported(_))) => {
                protocol(format!("{address} is not an address that can be dialled"))
            }
            None => protocol("it failed without a reason".into()),
        },
        Dial::Denied { cause } => match cause.downcast_ref::<alive::TooMany>() {
            Some(too_many) => protocol(too_many.to_string()),
            None => protocol(cause.to_string()),
        },
        other @ (Dial::Aborted | Dial::DialPeerConditionFalse(_)) => protocol(other.to_string()),
    }
}
