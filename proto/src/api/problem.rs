use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The kinds of failure. Each one is an exit code of the command `epsilon`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProblemKind {
    /// 1: it was understood and could not be done.
    Error,
    /// 2: the request makes no sense as it stands.
    Usage,
    /// 3: nobody answers at the socket.
    DaemonNotRunning,
    /// 4: this machine is in no network, or not in the one that was named.
    NotJoined,
    /// 5: it works, but not all of it.
    Degraded,
    /// 6: the time that was allowed is over.
    TimedOut,
    /// 7: the peer does not answer.
    Unreachable,
    /// 8: the peer answers, through a relay.
    Relayed,
    /// 9: the caller may not do that.
    Permission,
}

impl ProblemKind {
    /// Every kind, in the order of the exit codes.
    pub const ALL: [Self; 9] = [
        Self::Error,
        Self::Usage,
        Self::DaemonNotRunning,
        Self::NotJoined,
        Self::Degraded,
        Self::TimedOut,
        Self::Unreachable,
        Self::Relayed,
        Self::Permission,
    ];

    /// The exit code of `epsilon` for this kind, 1 to 9.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Error => 1,
            Self::Usage => 2,
            Self::DaemonNotRunning => 3,
            Self::NotJoined => 4,
            Self::Degraded => 5,
            Self::TimedOut => 6,
            Self::Unreachable => 7,
            Self::Relayed => 8,
            Self::Permission => 9,
        }
    }
}

/// Why something failed, on what, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
pub struct Problem {
    /// The kind, which decides the exit code.
    pub kind: ProblemKind,
    /// What failed, and on what: one sentence without a full stop.
    #[schema(example = "no member is called \"n7\"")]
    pub message: String,
    /// The next step, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "list the members with: epsilon peers")]
    pub hint: Option<String>,
}

impl Problem {
    /// A problem without a hint.
    pub fn new(kind: ProblemKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// The same problem with the next step.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(formatter, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl From<crate::token::TokenError> for Problem {
    /// A text that is no token is a mistake in usage, a forged one an error.
    fn from(error: crate::token::TokenError) -> Self {
        use crate::token::TokenError;
        let kind = match &error {
            TokenError::Tampered(_) | TokenError::Secret => ProblemKind::Error,
            _ => ProblemKind::Usage,
        };
        Self::new(kind, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::ProblemKind;

    #[test]
    fn the_exit_codes_are_one_to_nine_in_order() {
        let codes: Vec<u8> = ProblemKind::ALL.iter().map(|kind| kind.exit_code()).collect();
        assert_eq!(codes, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    }
}
