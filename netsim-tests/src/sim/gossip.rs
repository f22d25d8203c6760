//! A declared double of gossipsub (v1.1, with flood publishing): a published message
//! goes to every linked member, is passed on along the mesh once the engine said that
//! it is good, and is heard once, by its content hash. Everybody grafts some of those that
//! it is linked with, who never prune. Copies are lost, doubled and overtake one
//! another; nobody tells later what it has.

use std::collections::{HashSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use epsilon_proto::id::{Digest, NodeId};
use epsilon_proto::message::Change;

use super::connection::{ConnectionId, Side, Stage};
use super::world::{Event, Input, World};

/// How long gossip is remembered, so that it is heard once.
const REMEMBERED: Duration = Duration::from_mins(1);
/// How many linked members everybody grafts, as the daemon does.
const MESH: usize = 4;

/// What is spread, hashed and read once for all who hear it.
pub(crate) struct Gossip {
    pub(crate) bytes: Vec<u8>,
    what: Digest,
    pub(crate) change: Change,
}

impl Gossip {
    pub(crate) fn new(bytes: Vec<u8>, change: Change) -> Rc<Self> {
        Rc::new(Self { what: Digest::of(&bytes), bytes, change })
    }
}

/// A connection, the other's end of it, and its machine.
type Way = (ConnectionId, Side, usize);

/// What a machine heard, in the order in which it did.
#[derive(Default)]
pub(crate) struct Heard {
    known: HashSet<Digest>,
    order: VecDeque<(Duration, Digest)>,
}

impl Heard {
    /// Notes it, and says whether it was not heard lately.
    fn is_new(&mut self, what: Digest, now: Duration) -> bool {
        while let Some((_, old)) = self.order.pop_front_if(|(at, _)| *at + REMEMBERED <= now) {
            self.known.remove(&old);
        }
        let is_new = self.known.insert(what);
        if is_new {
            self.order.push_back((now, what));
        }
        is_new
    }
}

impl World {
    /// Passes gossip on that the engine found good.
    pub(crate) fn pass_on(&mut self, machine: usize, gossip: &Rc<Gossip>) {
        let own = self.machines[machine].node;
        self.graft(machine);
        for (node, way) in self.ways(machine) {
            let (_, _, target) = way;
            let is_grafted = self.machines[machine].grafted.contains(&node) || {
                self.graft(target);
                self.machines[target].grafted.contains(&own)
            };
            if is_grafted {
                self.send(machine, way, gossip);
            }
        }
    }

    /// Sends gossip to the linked members.
    pub(crate) fn publish(&mut self, machine: usize, gossip: &Rc<Gossip>) {
        let now = self.now();
        if self.machines[machine].heard.is_new(gossip.what, now) {
            for (_, way) in self.ways(machine) {
                self.send(machine, way, gossip);
            }
        }
    }

    /// Replaces those that are not linked any more.
    fn graft(&mut self, machine: usize) {
        let one = &mut self.machines[machine];
        if std::mem::take(&mut one.lost_links) {
            one.grafted.retain(|node| one.links.contains_key(node));
        }
        if one.grafted.len() < MESH.min(one.links.len()) {
            let mut others: Vec<NodeId> =
                one.links.keys().copied().filter(|node| !one.grafted.contains(node)).collect();
            self.random.shuffle(&mut others);
            others.truncate(MESH - one.grafted.len());
            one.grafted.extend(others);
        }
    }

    /// The ways to all who are linked.
    fn ways(&self, machine: usize) -> Vec<(NodeId, Way)> {
        let links = self.machines[machine].links.iter();
        let way = |(node, connections): (&NodeId, &Vec<ConnectionId>)| {
            let connection = *connections.last()?;
            let ends = &self.connections[&connection].ends;
            let to = usize::from(ends[0].machine == machine);
            Some((*node, (connection, to, ends[to].machine)))
        };
        links.filter_map(way).collect()
    }

    fn send(&mut self, machine: usize, (connection, to, target): Way, gossip: &Rc<Gossip>) {
        let copies = if self.random.chance(self.options.loss / 4) { 2 } else { 1 };
        for _ in 0..copies {
            self.count(machine, gossip.bytes.len());
            if !self.random.chance(self.options.loss) {
                let delay = self.delay(machine, target);
                self.queue.after(delay, Event::Gossip(connection, to, Rc::clone(gossip)));
            }
        }
    }

    /// Gossip arrives.
    pub(crate) fn gossip(&mut self, connection: ConnectionId, side: Side, gossip: Rc<Gossip>) {
        let now = self.now();
        let Some(open) = self.connections.get(&connection) else { return };
        let end = &open.ends[side];
        if open.stalled || end.stage != Stage::Established {
            return;
        }
        let (machine, from) = (end.machine, open.ends[1 - side].node);
        if self.machines[machine].heard.is_new(gossip.what, now) {
            self.feed(machine, Input::Gossip(from, gossip));
        }
    }
}
