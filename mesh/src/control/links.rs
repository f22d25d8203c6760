//! Who is linked, and what linked members spread.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use epsilon_proto::clock::Now;
use epsilon_proto::id::NodeId;
use epsilon_proto::message::Change;
use epsilon_proto::wire;

use super::documents::{Source, Taken};
use super::peer::{FORWARD_EVERY, Link, Peer};
use super::vouching::Wish;
use super::{Control, Output};
use crate::dial::Callee;
use crate::event::Event;
use crate::membership::Word;
use crate::saved::Write;

/// A link that broke may come back so long before the peer counts as down.
pub(super) const GRACE: Duration = Duration::from_millis(1500);
/// After a link came up, when to sync once more: soon, as who was started together has to
/// know the other's new run before it can tell it anything, and again.
const RESYNC: [Duration; 2] = [Duration::from_millis(400), Duration::from_secs(2)];
impl Control {
    /// A control connection with an admitted node is up.
    pub fn handle_link_up(&mut self, node: NodeId, remote: SocketAddr, outbound: bool, now: Now) {
        if self.is_peer_banned(node) || !self.is_admitted(node) {
            self.outputs.push_back(Output::Disconnect(node));
            return;
        }
        self.near.insert(node);
        self.paths(node).rouse(now.instant);
        let peer = self.peer(node);
        peer.link = Some(Link { remote, since: now.wall, up: now.instant });
        peer.awaited = None;
        peer.was_linked = true;
        peer.last_seen = Some(now.wall);
        peer.wish = Wish::default();
        peer.resync = outbound.then(|| now.instant + RESYNC[0]);
        let port = peer.port;
        self.link_changed(node);
        self.dialer.forget(Callee::Node(node));
        self.hub_linked(node, now.instant);
        self.refresh_token_calls(now);
        if outbound && self.contacts.insert(node, remote) != Some(remote) {
            self.persist(vec![Write::contact(node, remote)], None);
        }
        if let Some(port) = port.filter(|_| outbound) {
            let mut address = remote;
            address.set_port(port);
            self.prefer_path(node, address);
        }
        self.begin_to_settle(now.instant);
        self.call_again(now.instant);
        if self.is_relay_news(node) {
            self.choose_relays(now);
        }
        if !outbound {
            self.reached_from(remote.ip(), now);
        }
        self.event(Event::PeerUp(node));
        self.plane.touch(node);
        self.refresh_members(now);
        if outbound || !self.own_record.has_synced() {
            self.start_sync(node);
        }
        self.vouch_for_orphans(now);
        self.advance_own(now);
        self.advance_paths(now);
    }

    /// The last control connection with a node is gone.
    pub fn handle_link_down(&mut self, node: NodeId, now: Now) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if peer.link.take().is_none() {
            return;
        }
        peer.last_seen = Some(now.wall);
        peer.unlinked = Some(now.wall);
        peer.awaited = peer.awaited.max(Some(now.instant + GRACE));
        peer.wish = Wish::default();
        peer.resync = None;
        self.link_changed(node);
        if self.relays.own.contains(&node) {
            // It may be gone, which is found out late where nothing is sent.
            self.paths(node).check(now.instant);
        }
        self.sync.forget(node);
        self.refresh_calls(node, now);
        self.refresh_token_calls(now);
        self.make_calls(now);
    }

    /// What is awaited of a peer's link changed.
    fn link_changed(&mut self, node: NodeId) {
        let peer = self.peers.get(&node).filter(|_| self.near.contains(&node));
        self.link_dues.set(node, peer.and_then(|peer| peer.due()));
    }

    pub(super) fn expire_links(&mut self, now: Now) {
        let (mut gone, mut due) = (Vec::new(), Vec::new());
        let nodes: BTreeSet<NodeId> = self.link_dues.until(now.instant).collect();
        for node in nodes {
            let Some(peer) = self.peers.get_mut(&node) else { continue };
            if peer.awaited.take_if(|until| now.instant >= *until).is_some() {
                gone.push((node, std::mem::take(&mut peer.was_linked)));
            }
            if peer.resync.take_if(|resync| now.instant >= *resync).is_some() {
                due.push(node);
                let again = peer.link.map(|link| link.up + RESYNC[1]);
                peer.resync = again.filter(|again| *again > now.instant);
            }
            self.link_changed(node);
        }
        for (node, was_linked) in gone {
            self.near.remove(&node);
            self.link_changed(node);
            if was_linked && self.hub_unlinked(node, now.instant) {
                self.event(Event::PeerDown(node));
            }
            self.forget_stranger(node);
        }
        for node in due {
            self.start_sync(node);
        }
    }

    /// A call ended, in a link or in nothing, perhaps because the gate there
    /// was shut.
    pub fn handle_dial_ended(&mut self, attempt: u64, shut: bool, now: Now) {
        if shut {
            self.dialer.shut(attempt, self.gate.len(), now.instant);
        } else {
            self.dialer.ended(attempt);
        }
        self.make_calls(now);
    }

    /// A linked member spread a change. Says whether others shall have it:
    /// `None` when it does not matter, `Some(false)` when it is wrong.
    pub fn handle_gossip(&mut self, from: NodeId, bytes: &[u8], now: Now) -> Option<bool> {
        match wire::decode::<Change>(bytes) {
            Ok(change) => self.handle_change(from, &change, now),
            Err(_) => Some(false),
        }
    }

    /// The same, for who has read it already.
    pub fn handle_change(&mut self, from: NodeId, change: &Change, now: Now) -> Option<bool> {
        let taken = match change {
            Change::Document(document) => self.take_document(document, Source::Gossip, now),
            Change::Record(record) => {
                let owner = NodeId::from(record.signer());
                if let Some(known) = self.members.get(owner) {
                    let said = record.peek().ok()?;
                    let is_older = said.stamp() < known.record.stamp();
                    let is_twin = said.incarnation == known.record.incarnation
                        && said.boot != known.record.boot;
                    if known.record.signed() == record || (is_older && !is_twin) {
                        return None;
                    }
                    // Nobody but its owner spends the budget.
                    if record.verify(self.id, &*self.config.check).is_err() {
                        return Some(false);
                    }
                    if is_older {
                        let boots = [known.record.boot, said.boot];
                        return self.saw_twin(owner, boots, now).then_some(true);
                    }
                }
                // Only members have a budget, so that strangers cost nothing.
                if self.members.get(owner).is_some()
                    && let Err(outcome) = self.may_forward(from, owner, now)
                {
                    return outcome;
                }
                self.take_record(record, Source::Gossip, now)
            }
            Change::Devices(list) => {
                if let Err(outcome) = self.is_devices_news(from, list, now) {
                    return outcome;
                }
                let taken = self.take_devices(list);
                self.refresh_members(now);
                taken
            }
        };
        self.advance_own(now);
        self.advance_paths(now);
        self.make_calls(now);
        match taken {
            Taken::New => Some(true),
            // A record may be bad here only because its ban arrived first.
            Taken::Known | Taken::Bad => None,
            Taken::Incomplete => {
                self.start_sync(from);
                None
            }
        }
    }

    /// Whether a member's budget allows one more of its changes. What is not
    /// taken now is fetched once it does.
    pub(super) fn may_forward(
        &mut self,
        from: NodeId,
        owner: NodeId,
        now: Now,
    ) -> Result<(), Option<bool>> {
        if self.peer(owner).forward.allows(now.instant) {
            return Ok(());
        }
        let resync = now.instant + FORWARD_EVERY;
        self.peer(from).resync.get_or_insert(resync);
        self.link_changed(from);
        Err(None)
    }

    /// Forgets one that is no member, not linked or about to be, and not being
    /// judged: new keys cost nothing, and must leave nothing. Whether it is
    /// called is decided elsewhere.
    pub(super) fn forget_stranger(&mut self, node: NodeId) {
        let is_known =
            self.members.get(node).is_some() || self.near.contains(&node) || self.is_judged(node);
        if is_known {
            return;
        }
        self.forget_peer(node);
        self.admitted.remove(&node);
        if self.members.take_back(node) {
            self.save_vouched();
        }
    }

    /// Whether an admission of a node is under way.
    fn is_judged(&self, node: NodeId) -> bool {
        self.admissions.values().any(|admission| admission.node() == node)
    }

    /// Ends everything with a node that is no member, or must come again.
    pub(super) fn cut(&mut self, node: NodeId) {
        self.outputs.push_back(Output::Disconnect(node));
        self.dialer.remove(Callee::Node(node));
        self.forget_peer(node);
        self.admitted.remove(&node);
    }

    /// A node was let in: its link comes up, or not.
    pub(super) fn await_link(&mut self, node: NodeId, now: Now) {
        self.near.insert(node);
        let peer = self.peer(node);
        if peer.link.is_none() {
            peer.awaited = peer.awaited.max(Some(now.instant + GRACE));
        }
        self.link_changed(node);
    }

    /// Takes back the word of an earlier run for those that never came, and any
    /// that is one of no token's uses more. Whoever has it in hands is known by
    /// that.
    pub(super) fn forget_vouched(&mut self, now: Now) {
        let (trust, admitted, time) = (&self.trust, &self.admitted, self.trusted_time(now));
        let admits = |invite| {
            trust.invite(invite).is_some_and(|invite| {
                !trust.is_invite_revoked(invite)
                    && invite.expires.is_none_or(|expires| expires > time)
            })
        };
        let keeps = |node: NodeId, word: &Word| {
            let counts = !trust.is_node_revoked(node) && !trust.has_departed(node);
            admitted.contains_key(&node) || (word.is_out && counts && admits(word.invite))
        };
        if self.members.forget_vouched(keeps) {
            self.save_vouched();
        }
    }

    /// Whether this node knows by itself that it is no member any more. A
    /// refusal by one member is no such knowledge.
    pub(super) fn is_banned(&self) -> bool {
        self.trust.is_node_revoked(self.own)
            || self.trust.has_departed(self.own)
            || self.trust.are_members_revoked(self.certificate.signer())
    }

    /// Where a member may be called: where it was reached last, what its
    /// record says.
    pub(super) fn control_addresses(&self, node: NodeId) -> Vec<SocketAddr> {
        let mut addresses: Vec<SocketAddr> =
            self.contacts.get(&node).copied().into_iter().collect();
        let record = self.members.get(node).map(|member| &member.record);
        for endpoint in record.into_iter().flat_map(|record| &record.endpoints) {
            if endpoint.source.takes_tcp() && !addresses.contains(&endpoint.address) {
                addresses.push(endpoint.address);
            }
        }
        if let Some(port) = record.and_then(|record| record.tcp_port) {
            let hosts: BTreeSet<IpAddr> = addresses.iter().map(SocketAddr::ip).collect();
            addresses.extend(hosts.into_iter().map(|host| SocketAddr::new(host, port)));
        }
        addresses
    }

    /// Calls a member that is not linked; stops calling who is no member.
    pub(super) fn refresh_calls(&mut self, node: NodeId, now: Now) {
        let is_member = self.members.get(node).is_some();
        if node == self.own || self.is_linked(node) || !self.is_wanted(node) {
            self.dialer.forget(Callee::Node(node));
        } else if is_member {
            let addresses = self.control_addresses(node);
            self.dialer.want(Callee::Node(node), addresses, now.instant);
        }
    }

    /// Calls the addresses of the token while nobody is linked, or only such
    /// as this node cannot tell from intruders, or who do not know those that
    /// let it in. Not where somebody answered who is linked now.
    pub(super) fn refresh_token_calls(&mut self, now: Now) {
        let is_alone = self.near().all(|(_, peer)| peer.link.is_none());
        let is_lost = is_alone || !self.is_grounded || !self.knows_introducer();
        let lonely = !self.is_banned() && is_lost;
        for address in self.token_addresses.clone() {
            let answers = self.answered.get(&address).is_some_and(|node| {
                // Others may answer there as well, whom a newcomer needs.
                let is_proven = self.admitted.get(node).is_some_and(|one| one.is_proven);
                let is_linked = self.peers.get(node).is_some_and(|peer| peer.link.is_some());
                is_linked && (is_proven || !self.is_newcomer(now))
            });
            if lonely && !answers {
                self.dialer.want(Callee::Address(address), vec![address], now.instant);
            } else {
                self.dialer.forget(Callee::Address(address));
            }
        }
        self.make_calls(now);
    }

    /// Forgets what was known of a peer in this run.
    fn forget_peer(&mut self, node: NodeId) {
        self.sync.forget(node);
        self.peers.remove(&node);
        self.near.remove(&node);
        self.link_changed(node);
        self.own_record.forget_promise(node);
        if self.contacts.remove(&node).is_some() {
            self.persist(vec![Write::forget_contact(node)], None);
        }
        self.plane.touch(node);
    }

    /// The linked peers.
    pub(super) fn linked(&self) -> Vec<NodeId> {
        self.near().filter(|(_, peer)| peer.link.is_some()).map(|(node, _)| node).collect()
    }

    /// The peers that are linked, or were until just now.
    pub(super) fn near(&self) -> impl Iterator<Item = (NodeId, &Peer)> {
        self.near.iter().filter_map(|node| Some((*node, &**self.peers.get(node)?)))
    }
}
