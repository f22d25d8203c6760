//! What partitions and deaths do to connections.
//!
//! TCP carries a connection over a short partition; a longer one, and a
//! machine that lost its power, is noticed by silence. A process that dies is
//! noticed at once, for the kernel closes its connections.

use std::time::Duration;

use super::connection::{ConnectionId, Message, Side, Stage};
use super::topology::NatId;
use super::world::{Event, World};

/// Silent death is noticed after a time in here.
const SILENCE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(40));

impl World {
    /// What a partition does to connections when it begins, changes or ends.
    pub(crate) fn divided(&mut self) {
        let all: Vec<ConnectionId> = self.connections.keys().copied().collect();
        for connection in all {
            let open = &self.connections[&connection];
            let reachable = self.is_reachable(open.ends[0].machine, open.ends[1].machine);
            if open.dead || open.stalled != reachable {
                continue;
            }
            let Some(open) = self.connections.get_mut(&connection) else { continue };
            open.stalled = !reachable;
            open.spell += 1;
            let spell = open.spell;
            for side in [0, 1] {
                if reachable {
                    // What is held is sent again a moment later.
                    let delay =
                        self.random.between(Duration::from_millis(200), Duration::from_secs(3));
                    self.queue.after(delay, Event::Silence(connection, side, spell));
                } else {
                    let silence = self.random.between(SILENCE.0, SILENCE.1);
                    self.queue.after(silence, Event::Silence(connection, side, spell));
                }
            }
        }
    }

    /// A NAT is started again: it forgets everything, and with that the
    /// connections that go through it.
    pub fn restart_nat(&mut self, nat: NatId) {
        self.topology.nat(nat).forget();
        let all = self.connections.iter().filter(|(_, open)| open.nats.contains(&nat));
        let lost: Vec<ConnectionId> = all.map(|(connection, _)| *connection).collect();
        for connection in lost {
            let Some(open) = self.connections.get_mut(&connection) else { continue };
            open.spell += 1;
            (open.stalled, open.dead) = (true, true);
            let spell = open.spell;
            for side in [0, 1] {
                let silence = self.random.between(SILENCE.0, SILENCE.1);
                self.queue.after(silence, Event::Silence(connection, side, spell));
            }
        }
    }

    /// The other end was silent for too long; or it can be heard again.
    pub(crate) fn silence(&mut self, connection: ConnectionId, side: Side, spell: u64) {
        let Some(open) = self.connections.get_mut(&connection) else { return };
        if open.spell != spell {
            return;
        }
        if open.stalled {
            return self.close(connection, side);
        }
        while let Some(open) = self.connections.get_mut(&connection)
            && let Some(message) = open.ends[side].held.pop_front()
        {
            if open.ends[side].stage != Stage::Closed {
                open.ends[side].inbox.push_back(message);
            }
        }
        self.read(connection, side);
    }

    /// A machine closes its connections, which began at an address that it does not
    /// have any more; the others hear nothing.
    pub(crate) fn abandon(&mut self, machine: usize) {
        let all: Vec<ConnectionId> = self.connections.keys().copied().collect();
        for connection in all {
            let Some(open) = self.connections.get_mut(&connection) else { continue };
            let Some(side) = open.ends.iter().position(|end| end.machine == machine) else {
                continue;
            };
            open.spell += 1;
            (open.stalled, open.dead) = (true, true);
            let spell = open.spell;
            let silence = self.random.between(SILENCE.0, SILENCE.1);
            self.queue.after(silence, Event::Silence(connection, 1 - side, spell));
            self.end(connection, side);
        }
        self.connections.retain(|_, connection| !connection.is_closed());
    }

    /// What becomes of a machine's connections when its daemon dies.
    pub(crate) fn cut(&mut self, machine: usize, silently: bool) {
        let all: Vec<ConnectionId> = self.connections.keys().copied().collect();
        for connection in all {
            for side in [0, 1] {
                let Some(open) = self.connections.get_mut(&connection) else { break };
                if open.ends[side].machine != machine || open.ends[side].stage == Stage::Closed {
                    continue;
                }
                open.ends[side].stage = Stage::Closed;
                if silently {
                    open.spell += 1;
                    (open.stalled, open.dead) = (true, true);
                    let spell = open.spell;
                    let silence = self.random.between(SILENCE.0, SILENCE.1);
                    self.queue.after(silence, Event::Silence(connection, 1 - side, spell));
                } else {
                    self.post(connection, 1 - side, Message::Close);
                }
            }
        }
        self.connections.retain(|_, connection| !connection.is_closed());
    }
}
