mod cables;
mod links;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use epsilon_sys::file::Lock;

pub use cables::{Cable, Cut};

use super::host::{Command, Host};
use super::init::Orders;
use super::machine::{Machine, kill_marked};
use super::plan::{Lan, MOST_HOSTS, MOST_SITES};
use super::spec::{Gateway, Lifetime, Spec};
use super::store::{self, Connection, Description, Place, SCHEMA, Store};
use super::wiring::Wired;
use super::{Error, wiring};

/// The machine that is the network between the sites.
const INTERNET: &str = "internet";

/// A running lab.
///
/// Dropping the value ends an ephemeral lab, and one that did not come up; a
/// lab that lives until it is taken down stays.
#[derive(Debug)]
pub struct Lab {
    name: String,
    store: Store,
    description: Description,
    internet: Arc<Machine>,
    sites: BTreeMap<u8, Wired>,
    hosts: Vec<Host>,
    /// Beside the cables that are worse than others.
    links: BTreeMap<Cable, Arc<Machine>>,
    /// Held while this process may change the lab.
    lock: Option<Lock>,
    ends_on_drop: bool,
}

/// How a host of a lab is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostStatus {
    /// `n1`.
    pub name: String,
    /// The number of its site.
    pub site: u8,
    /// Its address in the lab.
    pub ipv4: Ipv4Addr,
    /// Its address in the lab.
    pub ipv6: Ipv6Addr,
    /// The process id of its init, while that runs.
    pub init: Option<u32>,
    /// The command lines of what runs on it besides, in order of their start.
    pub processes: Vec<String>,
}

impl Lab {
    /// Brings a lab up: its hosts run, and all of them reach one another.
    ///
    /// When this fails, nothing is left unless the spec says so; when it is
    /// cancelled, nothing is. When the process is killed in the middle,
    /// [`Lab::down`] finds what there is.
    pub async fn up(spec: Spec) -> Result<Self, Error> {
        spec.check()?;
        store::sweep();
        let (store, lock) = Store::create(&spec.name)?;
        let description = Description {
            schema: SCHEMA.to_owned(),
            lifetime: spec.lifetime,
            init: spec.init.clone(),
            sites: Vec::new(),
            hosts: Vec::new(),
            separated: Vec::new(),
            links: BTreeMap::new(),
        };
        if let Err(error) = store.write(&description) {
            store.remove()?;
            return Err(error);
        }
        // From here on whatever is there belongs to something that cleans up.
        let wreck = Wreck(Some((&spec.name, &store)));
        let internet = start(&spec.name, &description, INTERNET, false, "").await?;
        wiring::switch(&internet).await?;
        let mut lab = Self {
            name: spec.name.clone(),
            store: store.clone(),
            description,
            internet: Arc::new(internet),
            sites: BTreeMap::new(),
            hosts: Vec::new(),
            links: BTreeMap::new(),
            lock: Some(lock),
            ends_on_drop: true,
        };
        wreck.disarm();
        let built = lab.build(&spec).await;
        let stays = built.is_ok() || spec.keep_going;
        if stays && spec.lifetime == Lifetime::UntilDown {
            lab.release();
        }
        built.map(|()| lab)
    }

    async fn build(&mut self, spec: &Spec) -> Result<(), Error> {
        for site in &spec.sites {
            let number = self.add_site(site.gateway.clone()).await?;
            for name in &site.hosts {
                self.add_named(name, number).await?;
            }
        }
        for (cable, link) in &spec.links {
            self.set_link(cable, *link).await?;
        }
        Ok(())
    }

    /// The lab of that name, made earlier.
    pub fn open(name: &str) -> Result<Self, Error> {
        let (store, description) = described(name)?;
        let find = |host: &str| Machine::find(&description.init, name, host).map(Arc::new);
        let internet = find(INTERNET)?;
        let mut sites = BTreeMap::new();
        for (site, connection) in (1..).zip(&description.sites) {
            let gateway = connection.gateway.clone();
            let names = machine_names(site, &gateway);
            let machines = names.iter().map(|name| find(name)).collect::<Result<_, _>>()?;
            sites.insert(site, Wired { site, gateway, machines });
        }
        let mut hosts = Vec::new();
        for place in &description.hosts {
            let machine = find(&place.name)?;
            hosts.push(Host::new(place.clone(), machine, store.clone(), description.lifetime));
        }
        let beside = |cable: &Cable| Ok((cable.clone(), find(&links::beside(cable))?));
        let links = description.links.keys().map(beside).collect::<Result<_, Error>>()?;
        Ok(Self {
            name: name.to_owned(),
            store,
            description,
            internet,
            sites,
            hosts,
            links,
            lock: None,
            ends_on_drop: false,
        })
    }

    /// One host of the lab of that name, whatever became of the others.
    pub fn open_host(name: &str, host: &str) -> Result<Host, Error> {
        let (store, description) = described(name)?;
        let place = description.hosts.iter().find(|place| place.name == host).cloned();
        let place = place.ok_or_else(|| no_such_host(name, host, &description))?;
        let machine = Machine::find(&description.init, name, host)?;
        Ok(Host::new(place, Arc::new(machine), store, description.lifetime))
    }

    /// How the lab of that name is doing, host by host.
    pub fn status(name: &str) -> Result<Vec<HostStatus>, Error> {
        let (store, description) = described(name)?;
        description
            .hosts
            .iter()
            .map(|place| {
                let pair = place.addresses();
                let mut status = HostStatus {
                    name: place.name.clone(),
                    site: place.site,
                    ipv4: pair.v4,
                    ipv6: pair.v6,
                    init: None,
                    processes: Vec::new(),
                };
                match Machine::find(&description.init, name, &place.name) {
                    Ok(machine) => {
                        let machine = Arc::new(machine);
                        let (place, store) = (place.clone(), store.clone());
                        let host = Host::new(place, machine, store, description.lifetime);
                        let mut processes = host.processes()?;
                        processes.retain(|process| process.inner_pid != 1);
                        processes.sort_by_key(|process| process.inner_pid);
                        status.init = Some(host.pid());
                        status.processes =
                            processes.iter().map(|process| process.arguments.join(" ")).collect();
                    }
                    Err(Error::HostEnded { .. }) => {}
                    Err(error) => return Err(error),
                }
                Ok(status)
            })
            .collect()
    }

    /// Takes the lab of that name down, or what is left of it: no process,
    /// namespace, interface or file of it stays. Succeeds when there is none.
    ///
    /// Fails while a [`Lab`] value that may change it lives, in whichever
    /// process; who holds one calls [`Lab::end`].
    pub fn down(name: &str) -> Result<(), Error> {
        let store = Store::of(name)?;
        let _lock = if store.exists() { Some(store.lock()?) } else { None };
        kill_marked(name)?;
        store.remove()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its hosts, in order of their making.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The host of that name.
    pub fn host(&self, name: &str) -> Result<&Host, Error> {
        self.hosts
            .iter()
            .find(|host| host.name() == name)
            .ok_or_else(|| no_such_host(&self.name, name, &self.description))
    }

    /// A command to run on the gateway of a site, the one to which its hosts are connected:
    /// without input, its output captured, unless set otherwise.
    pub fn gateway_command(
        &self,
        site: u8,
        program: impl AsRef<std::ffi::OsStr>,
    ) -> Result<Command, Error> {
        Command::on(&self.site(site)?.machines[0], program)
    }

    /// Adds a site without hosts and returns its number.
    pub async fn add_site(&mut self, gateway: Gateway) -> Result<u8, Error> {
        self.own()?;
        let number = u8::try_from(self.description.sites.len() + 1)
            .ok()
            .filter(|number| *number <= MOST_SITES)
            .ok_or_else(|| Error::Spec(format!("a lab has at most {MOST_SITES} sites")))?;
        self.description.sites.push(Connection { gateway: gateway.clone(), reboots: 0 });
        self.store.write(&self.description)?;
        let mut machines = Vec::new();
        for name in machine_names(number, &gateway) {
            let machine = start(&self.name, &self.description, &name, true, "").await?;
            machines.push(Arc::new(machine));
        }
        let wired = Wired { site: number, gateway, machines };
        wiring::gateway(&self.internet, &wired, 0, self.sites.values()).await?;
        for machine in &wired.machines {
            self.keep(machine);
        }
        self.sites.insert(number, wired);
        Ok(number)
    }

    /// Adds a host to a site. It is named by the first number that is free.
    pub async fn add_host(&mut self, site: u8) -> Result<Host, Error> {
        self.own()?;
        let taken = &self.description.hosts;
        // One more number than there are hosts, so that one of them is free.
        let name = (1..=taken.len() + 1)
            .map(|number| format!("n{number}"))
            .find(|name| taken.iter().all(|place| place.name != *name))
            .unwrap_or_default();
        self.add_named(&name, site).await
    }

    async fn add_named(&mut self, name: &str, site: u8) -> Result<Host, Error> {
        let wired = self.site(site)?;
        let place = self.free_place(name, wired)?;
        self.description.hosts.push(place.clone());
        self.store.write(&self.description)?;
        let addresses = place.addresses();
        let names = format!("{} {name}\n{} {name}\n", addresses.v4, addresses.v6);
        let machine = start(&self.name, &self.description, name, false, &names).await?;
        wiring::host(self.site(site)?, &machine, place.number).await?;
        let machine = Arc::new(machine);
        self.keep(&machine);
        let lifetime = self.description.lifetime;
        let host = Host::new(place, machine, self.store.clone(), lifetime);
        self.hosts.push(host.clone());
        Ok(host)
    }

    /// Ends a host, as if its machine had been scrapped.
    pub async fn remove_host(&mut self, name: &str) -> Result<(), Error> {
        self.own()?;
        self.host(name)?;
        self.take_link(&Cable::Host(name.to_owned())).await?;
        let host = self.host(name)?;
        let wired = self.site(host.site())?;
        host.stop()?;
        wiring::unplug_for_good(wired.inner(), name).await?;
        self.hosts.retain(|host| host.name() != name);
        self.description.hosts.retain(|place| place.name != name);
        self.store.write(&self.description)?;
        self.store.remove_host(name)
    }

    /// Ends the lab, whatever its lifetime: nothing of it stays.
    pub fn end(mut self) -> Result<(), Error> {
        self.own()?;
        self.ends_on_drop = false;
        self.stop()
    }

    /// A place in a site that nobody has.
    fn free_place(&self, name: &str, wired: &Wired) -> Result<Place, Error> {
        let Lan { site, is_private } = wired.lan();
        let taken = &self.description.hosts;
        let number = (1..=MOST_HOSTS)
            .find(|number| !taken.iter().any(|place| (place.site, place.number) == (site, *number)))
            .ok_or_else(|| Error::Spec(format!("a site has at most {MOST_HOSTS} hosts")))?;
        Ok(Place { name: name.to_owned(), site, number, is_private })
    }

    /// Everything that the daemons of the lab have printed, each under the
    /// path of its log.
    pub fn logs(&self) -> String {
        let mut all = String::new();
        for path in self.store.logs() {
            let text = std::fs::read(&path).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            all.extend(["==> ", &path.to_string_lossy(), " <==\n", text.trim_end(), "\n"]);
        }
        all
    }

    /// Prints [`Lab::logs`] to the standard error of this process, for a test
    /// that failed.
    pub fn dump_logs(&self) {
        eprint!("{}", self.logs());
    }

    /// The machines between the hosts and the internet, and beside cables.
    fn between(&self) -> impl Iterator<Item = &Arc<Machine>> {
        let gateways = self.sites.values().flat_map(|wired| &wired.machines);
        gateways.chain(self.links.values())
    }

    /// Lets everything live on when this value is dropped.
    fn release(&mut self) {
        self.ends_on_drop = false;
        self.internet.release();
        for machine in self.between() {
            machine.release();
        }
        for host in &self.hosts {
            host.release();
        }
    }

    /// Lets one that was added to a lab that lives on live on, too.
    fn keep(&self, machine: &Machine) {
        if !self.ends_on_drop {
            machine.release();
        }
    }

    fn site(&self, site: u8) -> Result<&Wired, Error> {
        let error = || Error::NoSuchSite {
            lab: self.name.clone(),
            site,
            last: self.description.sites.len(),
        };
        self.sites.get(&site).ok_or_else(error)
    }

    /// Sees to it that no other process changes the lab meanwhile.
    fn own(&mut self) -> Result<(), Error> {
        if self.lock.is_none() {
            self.lock = Some(self.store.lock()?);
        }
        Ok(())
    }

    fn stop(&self) -> Result<(), Error> {
        for host in &self.hosts {
            host.stop()?;
        }
        for machine in self.between() {
            machine.stop()?;
        }
        self.internet.stop()?;
        // One that was started but is in no list, because wiring it failed.
        kill_marked(&self.name)?;
        self.store.remove()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.ends_on_drop
            && let Err(error) = self.stop()
        {
            eprintln!("the lab {} is not all gone: {error}", self.name);
        }
    }
}

/// Removes the files of a failed beginning, unless disarmed.
struct Wreck<'a>(Option<(&'a str, &'a Store)>);

impl Wreck<'_> {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Wreck<'_> {
    fn drop(&mut self) {
        if let Some((name, store)) = self.0
            && let Err(error) = store.remove()
        {
            eprintln!("the lab {name} is not all gone: {error}");
        }
    }
}

fn described(name: &str) -> Result<(Store, Description), Error> {
    let store = Store::of(name)?;
    if !store.exists() {
        return Err(Error::NoSuchLab { name: name.to_owned() });
    }
    let description = store.read()?;
    Ok((store, description))
}

fn no_such_host(lab: &str, host: &str, description: &Description) -> Error {
    Error::NoSuchHost {
        lab: lab.to_owned(),
        host: host.to_owned(),
        known: description.hosts.iter().map(|place| place.name.clone()).collect(),
    }
}

/// The names of the machines that connect a site, from inside to outside: `gw1`, and
/// `gw1-2` for the second NAT.
fn machine_names(site: u8, gateway: &Gateway) -> Vec<String> {
    let inner = format!("gw{site}");
    let more = (2..=gateway.nats.len()).map(|layer| format!("gw{site}-{layer}"));
    std::iter::once(inner).chain(more).collect()
}

/// Starts the init of a host, gateway or switch; `names` goes to its
/// `/etc/hosts`.
async fn start(
    lab: &str,
    description: &Description,
    name: &str,
    forwards: bool,
    names: &str,
) -> Result<Machine, Error> {
    let ends_with_owner = description.lifetime == Lifetime::WithOwner;
    let orders = Orders {
        hosts: format!("127.0.0.1 localhost\n::1 localhost\n{names}"),
        machine_id: random_id()?,
        forwards,
        ends_with_owner,
        // One of them is enough, and this one every lab has.
        removes_from: (ends_with_owner && name == INTERNET).then(store::labs),
    };
    Machine::start(&description.init, lab, name, &orders).await
}

/// 32 hexadecimal digits, different every time.
fn random_id() -> Result<String, Error> {
    let source = Path::new("/proc/sys/kernel/random/uuid");
    let uuid = std::fs::read_to_string(source).map_err(Error::io("read", source))?;
    Ok(uuid.chars().filter(char::is_ascii_hexdigit).collect())
}
