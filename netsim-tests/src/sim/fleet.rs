//! What scenarios do to a fleet: found, join, operate, crash, divide.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use epsilon_mesh::control::{
    Config, Control, Operation, OperationError, OperationId, Outcome, PeerState, TokenRequest,
};
use epsilon_mesh::event::Event;
use epsilon_mesh::founding::{self, Plan};
use epsilon_mesh::saved::{Saved, Settings};
use epsilon_mesh::shard::{Relaying, Report};
use epsilon_proto::address::DEFAULT_RANGE;
use epsilon_proto::clock::Timestamp;
use epsilon_proto::id::{BootId, NodeId};
use epsilon_proto::key::{AgreementKey, SecretKey};
use epsilon_proto::token::{HostPort, Token};
use epsilon_proto::trust::{Distribution, Roles};

use super::machine::Traffic;
use super::store::Store;
use super::topology::{NetworkId, Topology};
use super::world::{Input, World};

/// How a daemon dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// The process is killed: the kernel closes its connections.
    Process,
    /// The machine loses its power: peers hear nothing.
    Power,
}

impl World {
    /// Founds a network on the first machine; gives back its token.
    pub fn found(&mut self) -> Token {
        self.found_with(None, None).1
    }

    /// Founds a network on the first machine, whose first token expires and
    /// is used up; gives back its root key and that token.
    pub fn found_with(
        &mut self,
        expires: Option<Duration>,
        uses: Option<u32>,
    ) -> (SecretKey, Token) {
        let at = self.now();
        let now = self.machines[0].wall(at);
        let key = self.machines[0].key.clone();
        let founding = self.plan(&key, expires, uses);
        let random = self.random.generator();
        let saved = founding.first_member(&key, settings(Vec::new()), now, random);
        self.machines[0].invite = Some(saved.certificate.signer());
        self.install(0, &saved);
        self.start(0);
        (founding.root.clone(), founding.token)
    }

    /// Founds a network none of whose machines is an admin's; gives back its
    /// token.
    pub fn found_offline(&mut self, expires: Option<Duration>) -> Token {
        let admin = SecretKey::generate(self.random.generator());
        self.plan(&admin, expires, None).token
    }

    fn plan(
        &mut self,
        admin: &SecretKey,
        expires: Option<Duration>,
        uses: Option<u32>,
    ) -> founding::Founding {
        let at = self.now();
        let now = self.machines[0].wall(at);
        // Narrow, so that nodes want the same address now and then.
        let range = if self.machines.len() > 200 { DEFAULT_RANGE } else { parse("10.77.0.0/22") };
        let plan = Plan {
            name: parse("sim"),
            range,
            domain: parse("epsilon.internal"),
            distribution: Distribution::None,
            mode: None,
            roles: Roles::ALL,
            tags: Vec::new(),
            expires: expires.map(|after| now.after(after)),
            uses,
            advertise: vec![HostPort::from(self.machines[0].address)],
            max_members: 4096,
        };
        founding::found(plan, admin, now, self.random.generator())
    }

    fn install(&mut self, machine: usize, saved: &Saved) {
        let mut store = Store::default();
        store.apply(saved.writes());
        self.machines[machine].store = Some(store);
    }

    /// A machine joins by a token and starts.
    pub fn join(&mut self, machine: usize, token: &Token) {
        let at = self.now();
        let token = match token.verify(&self.check) {
            Ok(token) => token,
            Err(error) => panic!("the token does not hold: {error}"),
        };
        let one = &mut self.machines[machine];
        one.invite = Some(token.invite.key);
        one.token_addresses = token.addresses.iter().filter_map(HostPort::address).collect();
        let addresses = token.addresses.clone();
        let (key, now) = (one.key.clone(), one.wall(at));
        let saved = founding::join(token, &key, Roles::MEMBER, settings(addresses), now);
        self.install(machine, &saved);
        self.start(machine);
    }

    /// A machine's daemon starts from what is on its disk.
    pub fn start(&mut self, machine: usize) {
        let at = self.now();
        let boot = BootId(self.random.bytes());
        let seed = self.random.bytes();
        let local: IpAddr = self.machines[machine].address.ip();
        let check = Box::new(self.check.clone());
        let one = &mut self.machines[machine];
        one.stop();
        one.powered = true;
        one.started = at;
        let now = one.now(at);
        let saved = one.store.as_ref().map(Store::saved);
        let Some(Ok(saved)) = saved else { panic!("n{machine} has no readable state: {saved:?}") };
        let config = Config {
            key: one.key.clone(),
            boot,
            hostname: Some(one.hostname.clone()),
            version: "0.1.0".to_owned(),
            check,
            relaying: Some(Relaying { each: 1 << 30, all: 1 << 30 }),
            tcp_port: None,
        };
        let mut control = match Control::new(config, saved, seed, now) {
            Ok(control) => control,
            Err(error) => panic!("n{machine} does not start: {error}"),
        };
        control.handle_local_addresses(vec![(local, 24)], false, now);
        control.handle_token_addresses(one.token_addresses.clone(), now);
        one.control = Some(control);
        self.trace.note(at, machine, "start", &boot.0);
        self.remember_bans(machine);
        self.drain(machine);
    }

    /// A machine's daemon dies; its disk stays as it is at this instant.
    pub fn crash(&mut self, machine: usize, how: Death) {
        let at = self.now();
        self.trace.note(at, machine, "crash", &[u8::from(how == Death::Power)]);
        self.machines[machine].powered = how != Death::Power;
        self.cut(machine, how == Death::Power);
        self.machines[machine].stop();
    }

    /// A machine loses its disk as well: it will be another node.
    pub fn wipe(&mut self, machine: usize) {
        self.crash(machine, Death::Power);
        let key = SecretKey::generate(self.random.generator());
        let one = &mut self.machines[machine];
        one.node = key.node();
        one.key = key;
        one.store = None;
        one.invite = None;
    }

    /// Copies the disk of one machine to another, which then has the same
    /// identity.
    pub fn clone_disk(&mut self, from: usize, to: usize) {
        let original = &self.machines[from];
        let (key, store) = (original.key.clone(), original.store.clone());
        let hostname = original.hostname.clone();
        let copy = &mut self.machines[to];
        copy.node = key.node();
        copy.key = key;
        copy.store = store;
        copy.hostname = hostname;
    }

    /// The networks that there are.
    pub fn topology(&mut self) -> &mut Topology {
        &mut self.topology
    }

    /// Puts a machine, which is off or will learn of it by itself, at an address
    /// of a network.
    pub fn place(&mut self, machine: usize, network: NetworkId, address: IpAddr) {
        let one = &mut self.machines[machine];
        self.topology.detach(one.network, one.address.ip());
        one.network = network;
        one.address.set_ip(address);
        self.topology.attach(machine, network, address);
        let now = one.now(self.queue.now());
        self.strand(machine);
        if let Some(control) = &mut self.machines[machine].control {
            control.handle_local_addresses(vec![(address, 24)], true, now);
            self.drain(machine);
        }
    }

    /// Sets a machine's wall clock off by so many milliseconds.
    pub fn set_clock(&mut self, machine: usize, skew: i64) {
        self.machines[machine].skew = skew;
    }

    /// What a machine is called, before it joins.
    pub fn set_hostname(&mut self, machine: usize, hostname: &str) {
        self.machines[machine].hostname = parse(hostname);
    }

    /// Whether a machine's disk takes nothing any more.
    pub fn set_disk_full(&mut self, machine: usize, full: bool) {
        self.machines[machine].disk_full = full;
    }

    /// Only machines on the same side reach each other from now on.
    pub fn divide(&mut self, side: impl Fn(usize) -> usize) {
        self.divide = Some((0..self.machines.len()).map(side).collect());
        self.divided();
    }

    /// Two machines reach each other no longer.
    pub fn cut_between(&mut self, one: usize, other: usize) {
        self.cuts.insert((one.min(other), one.max(other)));
        self.divided();
    }

    /// Between two machines nothing larger than this gets through any more, and nobody
    /// says so; or everything does.
    pub fn narrow_between(&mut self, one: usize, other: usize, most: Option<u16>) {
        let pair = (one.min(other), one.max(other));
        match most {
            Some(most) => drop(self.narrow.insert(pair, most)),
            None => drop(self.narrow.remove(&pair)),
        }
    }

    /// Everybody reaches everybody again.
    pub fn heal(&mut self) {
        self.divide = None;
        self.cuts.clear();
        self.divided();
    }

    /// Starts an operation on a machine.
    pub fn operate(&mut self, machine: usize, operation: Operation) -> OperationId {
        let at = self.now();
        let one = &mut self.machines[machine];
        let now = one.now(at);
        let Some(control) = &mut one.control else { panic!("n{machine} is not up") };
        let id = control.operate(operation, now);
        self.drain(machine);
        id
    }

    /// Whether an operation is done, for good.
    pub fn is_done(&self, machine: usize, operation: OperationId) -> bool {
        self.machines[machine].done.get(&operation).is_some_and(Result::is_ok)
    }

    /// Runs an operation on a machine to its end.
    pub fn perform(
        &mut self,
        machine: usize,
        operation: Operation,
    ) -> Result<Outcome, OperationError> {
        let id = self.operate(machine, operation);
        self.run_until(Duration::from_secs(20), "an operation ends", |world| {
            world.machines[machine].done.contains_key(&id)
        });
        match self.machines[machine].done.remove(&id) {
            Some(result) => result,
            None => panic!("n{machine} was stopped while it worked"),
        }
    }

    /// A device sends something in a new session with a machine, which hears it
    /// where it is up and may have to serve it.
    pub fn device_calls(&mut self, machine: usize, key: AgreementKey) {
        if self.machines[machine].plane.devices.contains_key(&key) {
            self.input(machine, Input::Report(Report::DeviceHeard { key }));
        }
    }

    /// A new token, by a machine that is an admin's.
    pub fn token(&mut self, machine: usize, expires: Option<Duration>, uses: Option<u32>) -> Token {
        let now = self.machines[machine].wall(self.now());
        let request = TokenRequest {
            roles: Roles::ALL,
            tags: Vec::new(),
            expires: expires.map(|after| now.after(after)),
            uses,
            addresses: vec![HostPort::from(self.machines[machine].address)],
        };
        match self.perform(machine, Operation::CreateToken(request)) {
            Ok(Outcome::Token(token)) => *token,
            other => panic!("no token: {other:?}"),
        }
    }

    /// Runs until all views are equal and stay so; checks what must hold
    /// then. Gives back how long it took.
    pub fn settle(&mut self, limit: Duration) -> Duration {
        let took = self.run_until(limit, "all views are equal", World::has_converged);
        // What is under way may still change something.
        self.run_for(Duration::from_secs(3));
        self.run_until(limit, "all views are equal again", World::has_converged);
        self.check_quiet();
        took
    }

    /// Whether two machines are linked, as both see it.
    pub fn are_linked(&self, one: usize, other: usize) -> bool {
        let [a, b] = [&self.machines[one], &self.machines[other]];
        a.links.contains_key(&b.node) && b.links.contains_key(&a.node)
    }

    /// Whether all of these are linked with one another and each other's
    /// peers on the data plane.
    pub fn is_full_mesh(&self, machines: &[usize]) -> bool {
        machines.iter().all(|one| {
            machines.iter().all(|other| {
                let node = self.machines[*other].node;
                one == other
                    || (self.are_linked(*one, *other)
                        && self.machines[*one].plane.peers.contains_key(&node))
            })
        })
    }

    /// The node on a machine.
    pub fn node(&self, machine: usize) -> NodeId {
        self.machines[machine].node
    }

    /// The IPv4 address and the name that a machine sees another have.
    pub fn seen(&mut self, by: usize, machine: usize) -> Option<(Option<IpAddr>, Option<String>)> {
        let now = self.machines[by].now(self.queue.now());
        let node = self.machines[machine].node;
        let view = self.machines[by].control.as_ref()?.member_view(node, now)?;
        Some((view.ipv4.map(IpAddr::V4), view.name.map(|name| name.to_string())))
    }

    /// A machine's view.
    pub fn view(&mut self, machine: usize) -> epsilon_mesh::control::View {
        let now = self.machines[machine].now(self.queue.now());
        match &mut self.machines[machine].control {
            Some(control) => control.view(now),
            None => panic!("n{machine} is not up"),
        }
    }

    /// Whether a machine has another as a peer on the data plane.
    pub fn is_peer(&self, of: usize, machine: usize) -> bool {
        self.machines[of].plane.peers.contains_key(&self.machines[machine].node)
    }

    /// What happened on a machine, and when, since the run began.
    pub fn happened(&self, machine: usize) -> &[(Duration, Event)] {
        &self.machines[machine].events
    }

    /// What a machine sent on the control plane.
    pub fn traffic(&self, machine: usize) -> Traffic {
        self.machines[machine].traffic
    }

    /// How many probes a machine sent in its present run.
    pub fn probes(&self, machine: usize) -> u64 {
        self.machines[machine].plane.probes
    }

    /// How many diallers came with a greeting that opens no gate.
    pub fn wrong_gates(&self) -> u64 {
        self.wrong_gates
    }

    /// What a machine's wall clock shows.
    pub fn wall(&self, machine: usize) -> Timestamp {
        self.machines[machine].wall(self.now())
    }

    /// Whether a machine's daemon runs.
    pub fn is_up(&self, machine: usize) -> bool {
        self.machines[machine].is_up()
    }

    /// Where a machine can be reached.
    pub fn address(&self, machine: usize) -> SocketAddr {
        self.machines[machine].address
    }

    /// What a machine believes of a node.
    pub fn state(&self, by: usize, node: NodeId) -> Option<PeerState> {
        let now = self.machines[by].now(self.queue.now());
        Some(self.machines[by].control.as_ref()?.member_view(node, now)?.state)
    }

    /// With how many others a machine is linked.
    pub fn links(&self, machine: usize) -> usize {
        self.machines[machine].links.len()
    }

    /// Chance, for a scenario.
    pub fn random(&mut self) -> &mut super::random::Random {
        &mut self.random
    }
}

fn parse<T>(text: &str) -> T
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    match text.parse() {
        Ok(value) => value,
        Err(error) => panic!("`{text}`: {error}"),
    }
}

fn settings(token_addresses: Vec<HostPort>) -> Settings {
    Settings {
        name: None,
        site: None,
        labels: Vec::new(),
        advertise: Vec::new(),
        port: 7755,
        interface: "eps0".to_owned(),
        token_addresses,
    }
}
