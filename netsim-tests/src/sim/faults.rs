//! What partitions and deaths do to connections.
//!
//! TCP carries a connection over a short partition; a longer one, and a
//! machine that lost its power, is noticed by silence. A process that dies is
//! noticed at once, for the kernel closes its connections.

use std::time::Duration;

use super::connection::{Connection, ConnectionId, Message, Side, Stage};
use super::topology::NatId;
use super::world::{Event, World};

/// Silent death is noticed after a time in here.
const SILENCE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(40));
/// The same where it asks at once.
const AT_ONCE: Duration = Duration::from_millis(1200);

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
        self.break_streams(|stream| stream.nats.contains(&nat));
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

    /// A machine's connections, which began at an address that it does not have any more,
    /// carry nothing; nobody hears of it.
    pub(crate) fn strand(&mut self, machine: usize) {
        self.break_streams(|stream| stream.ends.iter().any(|end| end.0 == machine));
        for (connection, side) in self.connections_of(machine) {
            let Some(open) = self.connections.get_mut(&connection) else { continue };
            open.spell += 1;
            (open.stalled, open.dead) = (true, true);
            let spell = open.spell;
            let silence = self.random.between(SILENCE.0, SILENCE.1);
            self.queue.after(silence, Event::Silence(connection, 1 - side, spell));
            let silence = self.random.between(SILENCE.0, SILENCE.1);
            self.queue.after(silence, Event::Silence(connection, side, spell));
        }
    }

    /// A machine finds out which of its connections carry nothing.
    pub(crate) fn check_links(&mut self, machine: usize) {
        for (connection, side) in self.connections_of(machine) {
            let Some(open) = self.connections.get(&connection) else { continue };
            if open.dead {
                let spell = open.spell;
                self.queue.after(AT_ONCE, Event::Silence(connection, side, spell));
            }
        }
    }

    /// A machine's connections, and which end of them it is.
    fn connections_of(&self, machine: usize) -> Vec<(ConnectionId, Side)> {
        let side = |open: &Connection| open.ends.iter().position(|end| end.machine == machine);
        let all = self.connections.iter();
        all.filter_map(|(connection, open)| Some((*connection, side(open)?))).collect()
    }

    /// What becomes of a machine's connections when its daemon dies.
    pub(crate) fn cut(&mut self, machine: usize, silently: bool) {
        self.cut_streams(machine, silently);
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
