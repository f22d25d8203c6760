//! When something is due for which peer, so that an event costs as much as the peers that
//! it is about, however many others there are.

use std::collections::{BTreeMap, BTreeSet};

use epsilon_proto::address::is_stream;
use epsilon_proto::clock::{Instant, Now};
use epsilon_proto::id::NodeId;

use super::Control;
use crate::event::Event;
use crate::path::{Paths, Step};
use crate::shard::Path;

/// Who is due when.
#[derive(Default)]
pub(super) struct Dues {
    due: BTreeSet<(Instant, NodeId)>,
    of: BTreeMap<NodeId, Instant>,
}

impl Dues {
    pub(super) fn set(&mut self, node: NodeId, due: Option<Instant>) {
        let before = match due {
            Some(due) => self.of.insert(node, due),
            None => self.of.remove(&node),
        };
        if before == due {
            return;
        }
        if let Some(before) = before {
            self.due.remove(&(before, node));
        }
        if let Some(due) = due {
            self.due.insert((due, node));
        }
    }

    pub(super) fn first(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Who is due.
    pub(super) fn until(&self, now: Instant) -> impl Iterator<Item = NodeId> {
        self.due.iter().take_while(move |(due, _)| *due <= now).map(|(_, node)| *node)
    }
}

/// Who is due when for its paths.
#[derive(Default)]
pub(super) struct Agenda {
    /// Something was changed, so that anything may be due.
    touched: BTreeSet<NodeId>,
    dues: Dues,
}

impl Agenda {
    pub(super) fn touch(&mut self, node: NodeId) {
        self.touched.insert(node);
    }

    fn set(&mut self, node: NodeId, due: Option<Instant>) {
        self.dues.set(node, due);
    }

    fn first(&self, now: Instant) -> Option<Instant> {
        if self.touched.is_empty() { self.dues.first() } else { Some(now) }
    }

    /// Who was touched or is due, once.
    fn take(&mut self, now: Instant) -> BTreeSet<NodeId> {
        let mut nodes = std::mem::take(&mut self.touched);
        nodes.extend(self.dues.until(now));
        nodes
    }
}

impl Control {
    /// The paths to a node, to be changed.
    pub(super) fn paths(&mut self, node: NodeId) -> &mut Paths {
        self.agenda.touch(node);
        &mut self.peer(node).paths
    }

    /// The same if it is known.
    pub(super) fn known_paths(&mut self, node: NodeId) -> Option<&mut Paths> {
        let peer = self.peers.get_mut(&node)?;
        self.agenda.touch(node);
        Some(&mut peer.paths)
    }

    /// When something is due for a path.
    pub(super) fn paths_due(&self, now: Instant) -> Option<Instant> {
        self.agenda.first(now)
    }

    /// Does for paths what is due.
    pub(super) fn advance_paths(&mut self, now: Now) {
        let mut steps = Vec::new();
        let is_lazy = self.is_large();
        for node in self.agenda.take(now.instant) {
            // Nobody else can be probed.
            let is_keyed = self.is_keyed(node);
            let paths = self.peers.get_mut(&node).filter(|_| is_keyed).map(|peer| &mut peer.paths);
            let due = paths.and_then(|paths| {
                paths.be_lazy(is_lazy);
                let all = std::iter::from_fn(|| paths.next(now.instant));
                steps.extend(all.map(|step| (node, step)));
                paths.due(now.instant)
            });
            self.agenda.set(node, due);
        }
        for (node, step) in steps {
            match step {
                Step::Probe(to) => {
                    if let Path::Direct(address) = to
                        && !is_stream(address)
                    {
                        self.sent_to(address, now.instant);
                    }
                    self.send_probe(node, to, None);
                }
                Step::Measure(to, size) => drop(self.send_probe(node, to, Some(size))),
                Step::Resize => {
                    let active = self.peers.get(&node).and_then(|peer| peer.paths.active());
                    self.set_path(node, active);
                }
                Step::Use(path) => {
                    self.set_path(node, path);
                    self.refresh_channels(node, now);
                    self.event(Event::PathMoved(node, path));
                    if self.relays.own.contains(&node) {
                        self.choose_relays(now);
                    }
                }
                Step::Call => {
                    self.call(node, true);
                    if self.peers.get(&node).is_some_and(|peer| peer.paths.is_called_in_vain()) {
                        self.doubt_openness(now);
                    }
                    self.need_relays(now);
                    if self.peers.get(&node).is_some_and(|peer| peer.paths.is_wanted()) {
                        self.want_stream(node, now.instant);
                    }
                }
                Step::Relay => self.seek_relay(node, now),
                // What cut it may have cut links, too, by which others are asked.
                Step::Failed(way) => {
                    self.check_links(now.instant);
                    self.check_relays(now.instant);
                    self.check_beyond(node, now.instant);
                    self.renew_stream(node, way, now);
                    if self.relays.own.contains(&node) {
                        self.choose_relays(now);
                    }
                }
            }
        }
        self.advance_routes(now);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn everybody_has_one_turn_and_who_was_touched_the_next() {
        let (one, other) = (NodeId([1; 32]), NodeId([2; 32]));
        let at = |second| Instant(Duration::from_secs(second));
        let mut agenda = Agenda::default();
        assert_eq!(agenda.first(at(1)), None);
        agenda.set(one, Some(at(10)));
        agenda.set(other, Some(at(20)));
        agenda.set(one, Some(at(30)));
        assert_eq!(agenda.first(at(1)), Some(at(20)));
        assert_eq!(agenda.take(at(19)), [].into());
        assert_eq!(agenda.take(at(20)), [other].into());
        agenda.set(other, None);
        assert_eq!(agenda.first(at(20)), Some(at(30)));
        agenda.touch(other);
        assert_eq!(agenda.first(at(21)), Some(at(21)));
        assert_eq!(agenda.take(at(30)), [one, other].into());
        agenda.set(one, None);
        assert_eq!(agenda.first(at(30)), None);
    }
}
