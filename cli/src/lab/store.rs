//! The files of a lab: one directory with its lock, its description, and the
//! logs of its daemons in a directory for each host.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use epsilon_sys::file::{self, Lock};
use nix::unistd::{AccessFlags, access, getuid};
use serde::{Deserialize, Serialize};

use super::Error;
use super::fleet::Cable;
use super::link::Link;
use super::plan::{Lan, Pair};
use super::spec::{Gateway, Lifetime, check_name};

const MOST_BYTES: usize = 1 << 20;
const DESCRIPTION: &str = "lab.json";

/// What is written down of a lab before any of it is made.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Description {
    pub(super) schema: String,
    pub(super) lifetime: Lifetime,
    pub(super) init: PathBuf,
    /// In order of their numbers, from 1.
    pub(super) sites: Vec<Connection>,
    pub(super) hosts: Vec<Place>,
    /// Sites between which nothing passes.
    pub(super) separated: Vec<(u8, u8)>,
    /// Cables that are worse than others.
    #[serde(default)]
    pub(super) links: BTreeMap<Cable, Link>,
}

/// How a site is connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Connection {
    pub(super) gateway: Gateway,
    /// How often the NATs were started again.
    pub(super) reboots: u32,
}

/// A host and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Place {
    pub(super) name: String,
    pub(super) site: u8,
    /// Its number within the site.
    pub(super) number: u8,
    /// Whether that is behind a NAT.
    pub(super) is_private: bool,
}

impl Place {
    pub(super) fn addresses(&self) -> Pair {
        Lan { site: self.site, is_private: self.is_private }.host(self.number)
    }
}

pub(super) const SCHEMA: &str = "epsilon-lab/2";

/// The directory of a lab.
#[derive(Debug, Clone)]
pub(super) struct Store {
    directory: PathBuf,
}

impl Store {
    pub(super) fn of(lab: &str) -> Result<Self, Error> {
        check_name(lab)?;
        Ok(Self { directory: labs().join(lab) })
    }

    /// Makes the directory and takes its lock.
    pub(super) fn create(lab: &str) -> Result<(Self, Lock), Error> {
        let store = Self::of(lab)?;
        let all = labs();
        file::create_private_dir(&all)?;
        match fs::create_dir(&store.directory) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::Exists { name: lab.to_owned() });
            }
            Err(error) => return Err(Error::io("create", &store.directory)(error)),
        }
        let lock = store.lock()?;
        Ok((store, lock))
    }

    pub(super) fn exists(&self) -> bool {
        self.directory.is_dir()
    }

    pub(super) fn lock(&self) -> Result<Lock, Error> {
        Ok(Lock::acquire(&self.directory.join("lock"))?)
    }

    pub(super) fn write(&self, description: &Description) -> Result<(), Error> {
        let path = self.directory.join(DESCRIPTION);
        let mut bytes = serde_json::to_vec_pretty(description)
            .map_err(|error| Error::io("describe the lab in", &path)(error.into()))?;
        bytes.push(b'\n');
        Ok(file::write_atomic(&path, &bytes, 0o600)?)
    }

    pub(super) fn read(&self) -> Result<Description, Error> {
        let path = self.directory.join(DESCRIPTION);
        let damaged = |reason: String| Error::Damaged { path: path.clone(), reason };
        let bytes = match file::read_limited(&path, MOST_BYTES) {
            Err(error) if error.is_not_found() => return Err(damaged("it is missing".into())),
            bytes => bytes?,
        };
        let description: Description =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if description.schema != SCHEMA {
            return Err(damaged(format!("it is of the form {}", description.schema)));
        }
        Ok(description)
    }

    /// The file that the daemon `name` of `host` writes to, in a directory
    /// that is made if need be.
    pub(super) fn log(&self, host: &str, name: &str) -> Result<PathBuf, Error> {
        let directory = self.directory.join(host);
        fs::create_dir_all(&directory).map_err(Error::io("create", &directory))?;
        Ok(directory.join(format!("{name}.log")))
    }

    /// Every log, by host and name.
    pub(super) fn logs(&self) -> Vec<PathBuf> {
        let list = |directory: &Path| -> Vec<PathBuf> {
            fs::read_dir(directory)
                .into_iter()
                .flatten()
                .filter_map(|entry| Some(entry.ok()?.path()))
                .collect()
        };
        let mut logs: Vec<PathBuf> = list(&self.directory)
            .iter()
            .flat_map(|host| list(host))
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
            .collect();
        logs.sort();
        logs
    }

    pub(super) fn remove_host(&self, host: &str) -> Result<(), Error> {
        gone(fs::remove_dir_all(self.directory.join(host)))
            .map_err(Error::io("remove", &self.directory.join(host)))
    }

    /// Removes everything, and the directory of all labs with the last.
    pub(super) fn remove(&self) -> Result<(), Error> {
        gone(fs::remove_dir_all(&self.directory)).map_err(Error::io("remove", &self.directory))?;
        // Refused while there are other labs, which is as it should be.
        let _ = fs::remove_dir(labs());
        Ok(())
    }
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// The names of the labs of this user, sorted.
pub fn names() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(labs())
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| check_name(name).is_ok())
        .collect();
    names.sort();
    names
}

/// Removes what ephemeral labs left whose owner was killed before their hosts
/// could clean up behind it.
pub(super) fn sweep() {
    for name in names() {
        let Ok(store) = Store::of(&name) else { continue };
        // Written after the lock is taken: where there is a description, a
        // free lock means that the owner is gone.
        let Ok(description) = store.read() else { continue };
        if description.lifetime == Lifetime::WithOwner
            && let Ok(_lock) = store.lock()
        {
            // What cannot be removed now is left to the next one.
            let _ = store.remove();
        }
    }
}

/// The directory of all labs.
///
/// Root in a user namespace is somebody else outside, who may not write to
/// `/run`; both must come to the same place.
pub(super) fn labs() -> PathBuf {
    if access("/run", AccessFlags::W_OK).is_ok() {
        return PathBuf::from("/run/epsilon-lab");
    }
    let user = outer_user();
    let own = PathBuf::from(format!("/run/user/{user}"));
    if access(&own, AccessFlags::W_OK).is_ok() {
        return own.join("epsilon-lab");
    }
    PathBuf::from(format!("/tmp/epsilon-lab-{user}"))
}

/// The id of this process's user outside any user namespace.
fn outer_user() -> u32 {
    let inner = getuid().as_raw();
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.lines().find_map(|line| mapped(line, inner)).unwrap_or(inner)
}

/// What a line of a uid map, `inside outside count`, says of `inner`.
fn mapped(line: &str, inner: u32) -> Option<u32> {
    let mut numbers = line.split_ascii_whitespace().map(str::parse::<u32>);
    let inside = numbers.next()?.ok()?;
    let outside = numbers.next()?.ok()?;
    let count = numbers.next()?.ok()?;
    let offset = inner.checked_sub(inside)?;
    (offset < count).then(|| outside.checked_add(offset))?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left_behind(lifetime: Lifetime) -> (Store, Lock) {
        let word = format!("{lifetime:?}").to_lowercase();
        let (store, lock) = Store::create(&format!("{word}-{}", std::process::id())).unwrap();
        let description = Description {
            schema: SCHEMA.to_owned(),
            lifetime,
            init: PathBuf::from("/bin/true"),
            sites: vec![Connection { gateway: Gateway::routed(), reboots: 0 }],
            hosts: vec![Place { name: "n1".into(), site: 1, number: 1, is_private: false }],
            separated: Vec::new(),
            links: BTreeMap::from([(Cable::Site(1), "loss=1%".parse().unwrap())]),
        };
        store.write(&description).unwrap();
        let read = store.read().unwrap();
        assert_eq!((read.hosts, read.links), (description.hosts, description.links));
        (store, lock)
    }

    #[test]
    fn only_ephemeral_labs_whose_owner_is_gone_are_swept_away() {
        let (lasting, lock) = left_behind(Lifetime::UntilDown);
        drop(lock);
        let (ephemeral, lock) = left_behind(Lifetime::WithOwner);
        sweep();
        assert!(lasting.exists() && ephemeral.exists());
        drop(lock);
        sweep();
        assert!(lasting.exists() && !ephemeral.exists());
        lasting.remove().unwrap();
    }

    #[test]
    fn a_damaged_description_is_named_with_the_way_out() {
        let (store, _lock) = Store::create(&format!("damaged-{}", std::process::id())).unwrap();
        for bytes in [&b""[..], b"{", b"null", br#"{"schema":"epsilon-lab/9"}"#] {
            fs::write(store.directory.join(DESCRIPTION), bytes).unwrap();
            let error = store.read().unwrap_err().to_string();
            assert!(error.contains("lab.json") && error.contains("lab down"), "{error}");
        }
        fs::remove_file(store.directory.join(DESCRIPTION)).unwrap();
        assert!(store.read().unwrap_err().to_string().contains("missing"));
        store.remove().unwrap();
    }

    #[test]
    fn a_user_is_found_outside_of_its_namespace() {
        assert_eq!(mapped("         0       1000          1", 0), Some(1000));
        assert_eq!(mapped("0 1000 1", 1), None);
        assert_eq!(mapped("0 0 4294967295", 1000), Some(1000));
        assert_eq!(mapped("100 4294967290 100", 150), None);
        assert_eq!(mapped("", 0), None);
        assert_eq!(mapped("a b c", 0), None);
    }
}
