use std::io;

use nix::libc;

use crate::next_step;

/// Why the network configuration could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection to the kernel.
    #[error("cannot open a netlink socket: {source}{}", next_step(source, "CAP_NET_ADMIN"))]
    Open {
        /// The kernel's reason.
        source: io::Error,
    },
    /// The kernel refused.
    #[error("cannot {action}: {source}{}", next_step(source, "CAP_NET_ADMIN"))]
    Refused {
        /// What was to be done and to what: `add address 10.0.0.1/24 to eth0`.
        action: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// There is no such interface.
    #[error("no network interface {interface}; `ip link` lists those there are")]
    NoSuchInterface {
        /// Its name, or its index as `index 7`.
        interface: String,
    },
    /// The destination is already routed differently.
    #[error("cannot {action}: {existing} is there already; remove it or choose another range")]
    RouteTaken {
        /// What was to be done: `add route 10.0.0.0/24 on eth0`.
        action: String,
        /// The route in the way.
        existing: String,
    },
    /// The kernel's answer could not be understood, or the connection closed.
    #[error("cannot {action}: the netlink connection failed: {reason}")]
    Connection {
        /// What was to be done and to what.
        action: String,
        /// What went wrong.
        reason: String,
    },
}

impl Error {
    /// Wraps what rtnetlink reports while doing `action`.
    pub(super) fn during(action: impl Into<String>, error: &rtnetlink::Error) -> Self {
        let action = action.into();
        match errno(error) {
            Some(errno) => Self::Refused { action, source: io::Error::from_raw_os_error(errno) },
            None => Self::Connection { action, reason: error.to_string() },
        }
    }

    /// The error number of the kernel, where it was the kernel that refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Open { source } | Self::Refused { source, .. } => source.raw_os_error(),
            Self::NoSuchInterface { .. } => Some(libc::ENODEV),
            Self::RouteTaken { .. } => Some(libc::EEXIST),
            Self::Connection { .. } => None,
        }
    }
}

/// The positive error number in a refusal of the kernel.
pub(super) fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.code.map(|code| code.get().abs()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_was_refused_and_what_would_help() {
        let refused = |errno| Error::Refused {
            action: "add address 10.0.0.1/24 to eps0".into(),
            source: io::Error::from_raw_os_error(errno),
        };
        let text = refused(libc::EPERM).to_string();
        assert!(text.starts_with("cannot add address 10.0.0.1/24 to eps0: "), "{text}");
        assert!(text.ends_with("; run as root or grant CAP_NET_ADMIN"), "{text}");
        assert!(!refused(libc::EINVAL).to_string().contains("root"));
    }
}
