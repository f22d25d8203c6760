//! What is pulled and put back while a lab runs.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Lab;
use crate::lab::Error;
use crate::lab::host::Host;
use crate::lab::wiring::{self, Port};

/// A cable that can be pulled: that of a host to its site, `n1`, or that of a site to
/// the others, `site2`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Cable {
    /// Of the host of that name.
    Host(String),
    /// Of the site of that number.
    Site(u8),
}

impl fmt::Display for Cable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => f.write_str(name),
            Self::Site(number) => write!(f, "site{number}"),
        }
    }
}

impl FromStr for Cable {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let site = text.strip_prefix("site").and_then(|number| number.parse().ok());
        match site {
            Some(number) => Ok(Self::Site(number)),
            None if text.is_empty() => {
                Err("use a host, such as n1, or a site, such as site2".into())
            }
            None => Ok(Self::Host(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Cable {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Cable> for String {
    fn from(cable: Cable) -> Self {
        cable.to_string()
    }
}

/// What is cut in a lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cut {
    /// A cable is pulled.
    Off(Cable),
    /// Nothing passes between two sites, while both reach the others.
    Between(u8, u8),
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off(cable) => write!(f, "{cable}"),
            Self::Between(one, other) => write!(f, "site{one} and site{other}"),
        }
    }
}

impl Lab {
    /// Makes a cut.
    pub async fn apply(&mut self, cut: &Cut) -> Result<(), Error> {
        self.set_cut(cut, true).await
    }

    /// Undoes a cut; succeeds when there is none.
    pub async fn undo(&mut self, cut: &Cut) -> Result<(), Error> {
        self.set_cut(cut, false).await
    }

    /// What is cut.
    pub async fn cuts(&self) -> Result<Vec<Cut>, Error> {
        let hosts = self.hosts.iter().map(|host| Cable::Host(host.name().to_owned()));
        let mut cuts = Vec::new();
        for cable in hosts.chain(self.sites.keys().copied().map(Cable::Site)) {
            if !self.port(&cable)?.is_plugged().await? {
                cuts.push(Cut::Off(cable));
            }
        }
        let separated = self.description.separated.iter();
        cuts.extend(separated.map(|(one, other)| Cut::Between(*one, *other)));
        Ok(cuts)
    }

    /// Cuts a site off from the others. Within it, nothing changes.
    pub async fn cut(&self, site: u8) -> Result<(), Error> {
        self.set_plugged(&Cable::Site(site), false).await
    }

    /// Undoes [`Lab::cut`].
    pub async fn heal(&self, site: u8) -> Result<(), Error> {
        self.set_plugged(&Cable::Site(site), true).await
    }

    /// Pulls the network cable of a host.
    pub async fn unplug(&self, host: &str) -> Result<(), Error> {
        self.set_plugged(&Cable::Host(host.to_owned()), false).await
    }

    /// Undoes [`Lab::unplug`].
    pub async fn plug(&self, host: &str) -> Result<(), Error> {
        self.set_plugged(&Cable::Host(host.to_owned()), true).await
    }

    /// Lets nothing pass between two sites, while both reach the others.
    pub async fn cut_between(&mut self, one: u8, other: u8) -> Result<(), Error> {
        self.set_separated(one, other, true).await
    }

    /// Undoes [`Lab::cut_between`].
    pub async fn heal_between(&mut self, one: u8, other: u8) -> Result<(), Error> {
        self.set_separated(one, other, false).await
    }

    /// Starts the NATs of a site again: they know of no connection any more, and ports
    /// are others than before.
    pub async fn restart_gateway(&mut self, site: u8) -> Result<(), Error> {
        self.own()?;
        let wired = self.site(site)?.clone();
        let connection = usize::from(site).checked_sub(1);
        let connection = connection.and_then(|place| self.description.sites.get_mut(place));
        let Some(connection) = connection else { return Ok(()) };
        connection.reboots += 1;
        let reboots = connection.reboots;
        self.store.write(&self.description)?;
        wiring::translate(&wired, reboots).await
    }

    /// Carries a host to another site, where it gets other addresses. What runs on it
    /// runs on.
    pub async fn move_host(&mut self, name: &str, site: u8) -> Result<(), Error> {
        self.own()?;
        let place = self.free_place(name, self.site(site)?)?;
        self.host(name)?;
        let cable = Cable::Host(name.to_owned());
        let link = self.take_link(&cable).await?;
        let host = self.host(name)?;
        let before = self.site(host.site())?;
        wiring::unplug_for_good(before.inner(), name).await?;
        wiring::host(self.site(site)?, host.machine(), place.number).await?;
        let host = Host::new(
            place.clone(),
            Arc::clone(host.machine()),
            self.store.clone(),
            self.description.lifetime,
        );
        self.hosts.iter_mut().filter(|known| known.name() == name).for_each(|known| {
            *known = host.clone();
        });
        let places = self.description.hosts.iter_mut();
        places.filter(|known| known.name == name).for_each(|known| *known = place.clone());
        self.store.write(&self.description)?;
        match link {
            Some(link) => self.set_link(&cable, link).await,
            None => Ok(()),
        }
    }

    async fn set_cut(&mut self, cut: &Cut, is_cut: bool) -> Result<(), Error> {
        match cut {
            Cut::Off(cable) => self.set_plugged(cable, !is_cut).await,
            Cut::Between(one, other) => self.set_separated(*one, *other, is_cut).await,
        }
    }

    async fn set_plugged(&self, cable: &Cable, plugged: bool) -> Result<(), Error> {
        self.port(cable)?.set_plugged(plugged).await
    }

    async fn set_separated(&mut self, one: u8, other: u8, is_cut: bool) -> Result<(), Error> {
        self.own()?;
        self.site(one)?;
        self.site(other)?;
        if one == other {
            return Err(Error::Spec(format!("site{one} cannot be parted from itself; name two")));
        }
        let pair = (one.min(other), one.max(other));
        self.description.separated.retain(|known| *known != pair);
        if is_cut {
            self.description.separated.push(pair);
        }
        self.store.write(&self.description)?;
        wiring::separate(&self.internet, &self.description.separated).await
    }

    /// Where a cable begins and ends.
    pub(super) fn port(&self, cable: &Cable) -> Result<Port<'_>, Error> {
        match cable {
            Cable::Host(name) => {
                let host = self.host(name)?;
                Ok(Port::of_host(self.site(host.site())?, host.machine()))
            }
            Cable::Site(site) => Ok(Port::of_site(&self.internet, self.site(*site)?)),
        }
    }
}
