use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Error;
use super::plan::{MOST_HOSTS, MOST_SITES};

/// What a lab shall be.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Lower-case letters, digits and hyphens, at most 32.
    pub name: String,
    /// The sites, numbered from 1. Their hosts are named `n1`, `n2`, … across
    /// all of them.
    pub sites: Vec<Site>,
    /// When the lab ends.
    pub lifetime: Lifetime,
    /// Whether what was made stays when the rest cannot be, so that it can be
    /// looked at. An ephemeral lab never stays.
    pub keep_going: bool,
    /// The program whose subcommand [`super::INIT_ARGUMENT`] calls
    /// [`super::init_main`]: the path of the `epsilon` binary. Its directory
    /// comes first in the `PATH` of the hosts.
    pub init: PathBuf,
}

/// One site: a LAN behind a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// How many hosts it has at first.
    pub hosts: u16,
    /// How it is connected to the others.
    pub gateway: Gateway,
}

/// How a site is connected to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Gateway {
    /// Every host can be reached from every site at its own address.
    Routed,
}

/// When a lab ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lifetime {
    /// At [`super::Lab::down`]; it outlives the process that made it.
    UntilDown,
    /// With the [`super::Lab`] value, or with the process that holds it,
    /// however that ends.
    WithOwner,
}

impl Spec {
    /// A lab that lives until it is taken down, with `hosts` spread over
    /// `sites` as evenly as possible.
    pub fn new(name: impl Into<String>, hosts: u16, sites: u16, init: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            sites: spread(hosts, sites),
            lifetime: Lifetime::UntilDown,
            keep_going: false,
            init: init.into(),
        }
    }

    /// A lab for one test: of a name that no other has, ending with its owner.
    pub fn ephemeral(sites: impl IntoIterator<Item = u16>, init: impl Into<PathBuf>) -> Self {
        static COUNTER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNTER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Self {
            name: format!("test-{}-{count}", std::process::id()),
            sites: sites
                .into_iter()
                .map(|hosts| Site { hosts, gateway: Gateway::Routed })
                .collect(),
            lifetime: Lifetime::WithOwner,
            keep_going: false,
            init: init.into(),
        }
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        check_name(&self.name)?;
        if self.sites.is_empty() || self.sites.len() > usize::from(MOST_SITES) {
            return Err(Error::Spec(format!(
                "a lab has 1 to {MOST_SITES} sites, not {}",
                self.sites.len()
            )));
        }
        if let Some(site) = self.sites.iter().find(|site| site.hosts > u16::from(MOST_HOSTS)) {
            return Err(Error::Spec(format!(
                "a site has at most {MOST_HOSTS} hosts, not {}",
                site.hosts
            )));
        }
        if !self.init.is_absolute() || !self.init.is_file() {
            return Err(Error::Spec(format!(
                "{} is not the absolute path of a program; give that of epsilon",
                self.init.display()
            )));
        }
        Ok(())
    }
}

/// Whether `name` can be the name of a lab: it becomes a directory and an
/// argument that must be found again.
pub(super) fn check_name(name: &str) -> Result<(), Error> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=32).contains(&name.len()) && name.bytes().all(fits) && !name.starts_with('-') {
        return Ok(());
    }
    Err(Error::Spec(format!(
        "{name:?} cannot name a lab; use 1 to 32 lower-case letters, digits and hyphens"
    )))
}

fn spread(hosts: u16, sites: u16) -> Vec<Site> {
    (0..sites)
        .map(|site| Site {
            hosts: hosts / sites + u16::from(site < hosts % sites),
            gateway: Gateway::Routed,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_spread_evenly_and_the_first_sites_take_what_is_left() {
        let counts = |hosts, sites| -> Vec<u16> {
            spread(hosts, sites).into_iter().map(|site| site.hosts).collect()
        };
        assert_eq!(counts(3, 1), [3]);
        assert_eq!(counts(3, 2), [2, 1]);
        assert_eq!(counts(7, 3), [3, 2, 2]);
        assert_eq!(counts(1, 2), [1, 0]);
        assert!(counts(3, 0).is_empty());
    }

    #[test]
    fn a_name_that_could_leave_its_directory_is_refused() {
        for name in ["", "..", "a/b", "-a", "A", "ä", "a b", &"a".repeat(33)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in ["a", "0", "lab-1", &"a".repeat(32)] {
            check_name(name).unwrap();
        }
    }
}
