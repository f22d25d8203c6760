//! A declared double of gossipsub: a published message goes to every linked
//! member, is passed on to some of them once the engine said that it is good,
//! and is heard once, by its content hash. Copies are lost, doubled and
//! overtake one another.

use std::collections::{HashSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use epsilon_proto::id::{Digest, NodeId};

use super::connection::{ConnectionId, Side, Stage};
use super::world::{Event, Input, World};

/// How long gossip is remembered, so that it is heard once.
const REMEMBERED: Duration = Duration::from_mins(1);
/// To how many linked members gossip is passed on.
const MESH: usize = 8;

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
    pub(crate) fn pass_on(&mut self, machine: usize, bytes: &Rc<[u8]>) {
        self.spread(machine, bytes, Some(MESH));
    }

    /// Sends gossip to the linked members, or to some of them.
    pub(crate) fn spread(&mut self, machine: usize, bytes: &Rc<[u8]>, most: Option<usize>) {
        let now = self.now();
        let is_new = self.machines[machine].heard.is_new(Digest::of(bytes), now);
        if most.is_none() && !is_new {
            return;
        }
        let mut nodes: Vec<NodeId> = self.machines[machine].links.keys().copied().collect();
        if let Some(most) = most {
            self.random.shuffle(&mut nodes);
            nodes.truncate(most);
        }
        for node in nodes {
            let Some(connection) = self.link(machine, node) else { continue };
            let to = 1 - self.side(machine, connection);
            let target = self.connections[&connection].ends[to].machine;
            let copies = if self.random.chance(self.options.loss / 4) { 2 } else { 1 };
            for _ in 0..copies {
                self.count(machine, bytes.len());
                if !self.random.chance(self.options.loss) {
                    let delay = self.delay(machine, target);
                    self.queue.after(delay, Event::Gossip(connection, to, Rc::clone(bytes)));
                }
            }
        }
    }

    /// Gossip arrives.
    pub(crate) fn gossip(&mut self, connection: ConnectionId, side: Side, bytes: Rc<[u8]>) {
        let now = self.now();
        let Some(open) = self.connections.get(&connection) else { return };
        let end = &open.ends[side];
        if open.stalled || end.stage != Stage::Established {
            return;
        }
        let (machine, from) = (end.machine, open.ends[1 - side].node);
        if self.machines[machine].heard.is_new(Digest::of(&bytes), now) {
            self.feed(machine, Input::Gossip(from, bytes));
        }
    }
}
