use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Error;
use super::fleet::Cable;
use super::link::Link;
use super::nat::Nat;
use super::plan::{MOST_HOSTS, MOST_SITES};

/// What a lab shall be.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Lower-case letters, digits and hyphens, at most 32.
    pub name: String,
    /// The sites, numbered from 1. Their hosts are named `n1`, `n2`, … across
    /// all of them.
    pub sites: Vec<Site>,
    /// Cables that are worse than others.
    pub links: BTreeMap<Cable, Link>,
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// The hosts that it has at first.
    pub hosts: Vec<String>,
    /// How it is connected to the others.
    pub gateway: Gateway,
}

/// How a site is connected to the others: where there is a NAT, with IPv6 only where that
/// is said, and nobody comes in who was not asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateway {
    /// The NATs of IPv4, from inside to outside. Without one, every host can be reached
    /// from every site at its own address.
    pub nats: Vec<Nat>,
    /// What the site has.
    pub families: Families,
    /// The largest packet that passes, in bytes; larger ones are swallowed without a word.
    pub mtu: Option<u16>,
}

/// Families of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Families {
    /// Both.
    Dual,
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
}

impl Families {
    pub(super) fn has(self, address: IpAddr) -> bool {
        match self {
            Self::Dual => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

/// What gateways can be made to take: IPv6 needs 1280 bytes.
const NARROW: std::ops::RangeInclusive<u16> = 1280..=1500;

/// The most NATs in a row.
const MOST_NATS: usize = 4;

impl Gateway {
    /// One through which every host is reached, in both families.
    pub fn routed() -> Self {
        Self { nats: Vec::new(), families: Families::Dual, mtu: None }
    }

    /// A NAT of IPv4, without IPv6.
    pub fn nat(nat: Nat) -> Self {
        Self { nats: vec![nat], families: Families::V4, mtu: None }
    }

    /// Whether hosts behind it are reached by whoever they did not ask.
    pub fn is_open(&self) -> bool {
        self.nats.is_empty() && self.families == Families::Dual
    }
}

/// `none`, `symmetric`, `port-restricted+ipv6`, `ipv6-only`, `carrier-grade`, or NATs in a
/// row from inside to outside: `port-restricted/symmetric`. With `+mtu=1280` at the end
/// nothing larger passes.
impl FromStr for Gateway {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (text, mtu) = match text.rsplit_once("+mtu=") {
            Some((text, mtu)) => {
                let mtu = mtu.parse().ok().filter(|mtu| NARROW.contains(mtu));
                let (least, most) = (NARROW.start(), NARROW.end());
                let wrong = || format!("an MTU is a number from {least} to {most}");
                (text, Some(mtu.ok_or_else(wrong)?))
            }
            None => (text, None),
        };
        match text {
            "none" => return Ok(Self { mtu, ..Self::routed() }),
            "ipv6-only" => return Ok(Self { nats: Vec::new(), families: Families::V6, mtu }),
            _ => {}
        }
        let (text, families) = match text.strip_suffix("+ipv6") {
            Some(text) => (text, Families::Dual),
            None => (text, Families::V4),
        };
        let text = match text {
            "carrier-grade" => "port-restricted/port-restricted",
            "carrier-grade+hairpin" => "port-restricted+hairpin/port-restricted+hairpin",
            text => text,
        };
        let nats: Vec<Nat> = text.split('/').map(str::parse).collect::<Result<_, _>>()?;
        if nats.len() > MOST_NATS {
            return Err(format!("more than {MOST_NATS} NATs in a row"));
        }
        if nats.len() > 1 && families == Families::Dual {
            return Err("IPv6 goes with one NAT only".to_owned());
        }
        Ok(Self { nats, families, mtu })
    }
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
            sites: numbered(spread(hosts, sites)),
            links: BTreeMap::new(),
            lifetime: Lifetime::UntilDown,
            keep_going: false,
            init: init.into(),
        }
    }

    /// The same with some of the hosts in sites of their own, the others spread as before.
    pub fn with(self, behind: Vec<Behind>) -> Result<Self, Error> {
        let hosts = self.sites.iter().map(|site| site.hosts.len()).sum();
        let sites = placed(hosts, self.sites.len(), behind)?;
        Ok(Self { sites, ..self })
    }

    /// A lab for one test: of a name that no other has, ending with its owner.
    pub fn ephemeral(sites: impl IntoIterator<Item = u16>, init: impl Into<PathBuf>) -> Self {
        static COUNTER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNTER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Self {
            name: format!("test-{}-{count}", std::process::id()),
            sites: numbered(sites),
            links: BTreeMap::new(),
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
        let hosts = |site: &Site| site.hosts.len();
        if let Some(site) = self.sites.iter().find(|site| hosts(site) > usize::from(MOST_HOSTS)) {
            return Err(Error::Spec(format!(
                "a site has at most {MOST_HOSTS} hosts, not {}",
                site.hosts.len()
            )));
        }
        let has = |cable: &Cable| match cable {
            Cable::Host(name) => self.sites.iter().any(|site| site.hosts.contains(name)),
            Cable::Site(number) => (1..=self.sites.len()).contains(&usize::from(*number)),
        };
        if let Some(cable) = self.links.keys().find(|cable| !has(cable)) {
            return Err(Error::Spec(format!(
                "{cable} cannot have a link of its own: it is none of the hosts and sites"
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

/// Hosts with a site of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behind {
    /// Which.
    pub hosts: Vec<String>,
    /// How it is connected.
    pub gateway: Gateway,
}

/// `n1=symmetric`, `n1+n2=port-restricted+hairpin`.
impl FromStr for Behind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (hosts, gateway) =
            text.split_once('=').ok_or("say which hosts, such as n1=symmetric")?;
        let hosts = hosts.split('+').map(str::to_owned).collect();
        Ok(Self { hosts, gateway: gateway.parse()? })
    }
}

/// The sites of `n1` to so many: those of whom nothing is said are spread evenly.
fn placed(hosts: usize, sites: usize, behind: Vec<Behind>) -> Result<Vec<Site>, Error> {
    let mut left: Vec<String> = (1..=hosts).map(|number| format!("n{number}")).collect();
    let mut own = Vec::new();
    for Behind { hosts, gateway } in behind {
        for host in &hosts {
            let place = left.iter().position(|known| known == host).ok_or_else(|| {
                Error::Spec(format!("{host} is none of the hosts, or stands there twice"))
            })?;
            left.remove(place);
        }
        own.push(Site { hosts, gateway });
    }
    let counts: Vec<u16> = spread(left.len() as u16, sites as u16).collect();
    let mut left = left.into_iter();
    let routed = counts.into_iter().map(|count| Site {
        hosts: left.by_ref().take(usize::from(count)).collect(),
        gateway: Gateway::routed(),
    });
    let mut all: Vec<Site> = routed.collect();
    all.retain(|site| own.is_empty() || !site.hosts.is_empty());
    all.extend(own);
    if all.iter().all(|site| site.hosts.is_empty() || !site.gateway.is_open()) {
        return Err(Error::Spec(
            "nobody can be reached from other sites; leave one host out of --nat".to_owned(),
        ));
    }
    // The first host makes the network: others have to reach it.
    all.sort_by_key(|site| !site.gateway.is_open());
    Ok(all)
}

/// Sites with so many hosts each, named `n1`, `n2`, … across all of them.
fn numbered(counts: impl IntoIterator<Item = u16>) -> Vec<Site> {
    let mut names = (1..).map(|number: u32| format!("n{number}"));
    let mut site = |count: u16| Site {
        hosts: names.by_ref().take(usize::from(count)).collect(),
        gateway: Gateway::routed(),
    };
    counts.into_iter().map(&mut site).collect()
}

fn spread(hosts: u16, sites: u16) -> impl Iterator<Item = u16> {
    (0..sites).map(move |site| hosts / sites + u16::from(site < hosts % sites))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::nat::Kind;

    #[test]
    fn hosts_are_spread_evenly_and_the_first_sites_take_what_is_left() {
        let counts = |hosts, sites| -> Vec<u16> { spread(hosts, sites).collect() };
        assert_eq!(counts(3, 1), [3]);
        assert_eq!(counts(3, 2), [2, 1]);
        assert_eq!(counts(7, 3), [3, 2, 2]);
        assert_eq!(counts(1, 2), [1, 0]);
        assert!(counts(3, 0).is_empty());
    }

    #[test]
    fn hosts_behind_a_nat_have_a_site_of_their_own() {
        let placed = |hosts, sites, text: &str| {
            let behind = text.split(',').filter(|text| !text.is_empty());
            placed(hosts, sites, behind.map(|text| text.parse().unwrap()).collect())
        };
        let sites = |hosts, sites, text| -> Vec<String> {
            let placed: Vec<Site> = placed(hosts, sites, text).unwrap();
            placed.iter().map(|site| site.hosts.join("+")).collect()
        };
        assert_eq!(sites(3, 2, ""), ["n1+n2", "n3"]);
        assert_eq!(sites(3, 1, "n1=symmetric,n2=port-restricted"), ["n3", "n1", "n2"]);
        assert_eq!(sites(3, 1, "n1=symmetric,n2=none,n3=ipv6-only"), ["n2", "n1", "n3"]);
        assert_eq!(sites(5, 2, "n2+n4=carrier-grade"), ["n1+n3", "n5", "n2+n4"]);
        for wrong in ["n9=symmetric", "n1=symmetric,n1=symmetric", "n1+n2+n3=symmetric"] {
            assert!(placed(3, 1, wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn gateways_are_read() {
        let read = |text: &str| text.parse::<Gateway>();
        assert_eq!(read("none"), Ok(Gateway::routed()));
        let nat = Nat::new(Kind::PortRestricted);
        assert_eq!(read("port-restricted+hairpin"), Ok(Gateway::nat(nat.hairpin())));
        let dual = Gateway { families: Families::Dual, ..Gateway::nat(nat) };
        assert_eq!(read("port-restricted+ipv6"), Ok(dual.clone()));
        let both = "port-restricted+hairpin/port-restricted+hairpin";
        assert_eq!(read("carrier-grade+hairpin"), read(both));
        assert_eq!(read("carrier-grade").map(|gateway| gateway.nats), Ok(vec![nat; 2]));
        assert!(!read("ipv6-only").unwrap().is_open());
        let narrow = Gateway { mtu: Some(1280), ..dual };
        assert_eq!(read("port-restricted+ipv6+mtu=1280"), Ok(narrow));
        assert!(read("none+mtu=1400").unwrap().is_open());
        for wrong in [
            "",
            "symmetric/",
            "carrier-grade+ipv6",
            "none+ipv6",
            "symmetric+hairpin",
            "none+mtu=576",
            "none+mtu=",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
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
