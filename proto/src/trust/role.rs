//! What a member may be.

use std::fmt;
use std::str::FromStr;

use crate::wire::{Reader, Wire, WireError, Writer};

/// A set of roles.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Roles(u8);

/// A text that names no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a role: use member, worker or server, several with commas")]
pub struct RoleError(String);

const NAMES: [(Roles, &str); 3] =
    [(Roles::MEMBER, "member"), (Roles::WORKER, "worker"), (Roles::SERVER, "server")];

impl Roles {
    /// Part of the mesh only.
    pub const MEMBER: Self = Self(1);
    /// May run workloads of the cluster.
    pub const WORKER: Self = Self(2);
    /// May run the control plane of the cluster and vote.
    pub const SERVER: Self = Self(4);
    /// Everything.
    pub const ALL: Self = Self(7);

    /// Whether all of `other` are in this set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the set is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Both sets together.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl FromStr for Roles {
    type Err = RoleError;
    fn from_str(text: &str) -> Result<Self, RoleError> {
        text.split(',').try_fold(Self::default(), |roles, word| {
            NAMES
                .iter()
                .find(|(_, name)| *name == word.trim())
                .map(|(role, _)| roles.union(*role))
                .ok_or_else(|| RoleError(word.trim().to_owned()))
        })
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> =
            NAMES.iter().filter(|(role, _)| self.contains(*role)).map(|(_, name)| *name).collect();
        f.write_str(&names.join(","))
    }
}

impl fmt::Debug for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Roles({self})")
    }
}

impl Wire for Roles {
    fn write(&self, to: &mut Writer) {
        to.unsigned(u64::from(self.0));
    }
    fn read(from: &mut Reader<'_>) -> Result<Self, WireError> {
        match u8::read(from)? {
            bits @ 1..=7 => Ok(Self(bits)),
            _ => Err(WireError::Invalid("set of roles")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_read_as_they_print() {
        for bits in 1..=7 {
            assert_eq!(Roles(bits).to_string().parse(), Ok(Roles(bits)));
        }
        assert!("".parse::<Roles>().is_err());
        assert_eq!("member,root".parse::<Roles>(), Err(RoleError("root".into())));
    }
}
