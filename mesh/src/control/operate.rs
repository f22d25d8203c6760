//! What the operator orders is done: each operation makes documents, which are in force
//! and spread only once they are durable; then it is done.

use epsilon_proto::clock::Now;
use epsilon_proto::document::Signed;
use epsilon_proto::gate::GateSecret;
use epsilon_proto::id::NodeId;
use epsilon_proto::key::SecretKey;
use epsilon_proto::name::NodeName;
use epsilon_proto::sealed::{Purpose, SealedBox};
use epsilon_proto::token::{HostPort, Token, invite_key};
use epsilon_proto::trust::{
    AdminGrant, Charter, Departure, GateEpoch, Invite, NetworkDocument, Pin, Revocation, Revoked,
};

use super::operations::{Operation, OperationError, OperationId, Outcome, TokenRequest};
use super::storage::Then;
use super::{Control, Output};
use crate::membership::Member;
use crate::saved::{IdentityState, Settings, Write};

impl Control {
    /// Starts an operation; [`Output::Done`] says how it ended.
    pub fn operate(&mut self, operation: Operation, now: Now) -> OperationId {
        self.operations += 1;
        let id = self.operations;
        if let Err(error) = self.start(id, operation, now) {
            self.outputs.push_back(Output::Done { operation: id, result: Err(error) });
        }
        id
    }

    fn start(
        &mut self,
        id: OperationId,
        operation: Operation,
        now: Now,
    ) -> Result<(), OperationError> {
        match operation {
            Operation::CreateToken(request) => self.create_token(id, request, now),
            Operation::RevokeInvite { invite, with_members } => {
                self.trust.invite(invite).ok_or(OperationError::UnknownInvite)?;
                if with_members && invite == self.certificate.signer() {
                    return Err(OperationError::OwnNode);
                }
                let revoked = if with_members {
                    Revoked::InviteAndMembers(invite)
                } else {
                    Revoked::Invite(invite)
                };
                let stays = |_: NodeId, member: &Member| !with_members || member.invite() != invite;
                self.revoke(id, revoked, None, Vec::new(), stays, now)
            }
            Operation::RevokeNode(node) => {
                if node == self.own {
                    return Err(OperationError::OwnNode);
                }
                self.known_node(node)?;
                let stays = move |other: NodeId, _: &Member| other != node;
                self.revoke(id, Revoked::Node(node), None, Vec::new(), stays, now)
            }
            Operation::Rename { node, name } => self.rename(id, node, name, now),
            Operation::Replace { old, new } => self.replace(id, old, new, now),
            Operation::AddAdmin { key, name, root } => {
                self.is_root(&root)?;
                let grant = AdminGrant { key, name, issued: self.trusted_time(now) };
                let grant = NetworkDocument::Grant(Signed::sign(&grant, self.id, &root));
                self.commit(id, vec![grant], Outcome::Done);
                Ok(())
            }
            Operation::RevokeAdmin { key, root } => {
                self.is_root(&root)?;
                self.trust.grant(key).ok_or(OperationError::UnknownAdmin)?;
                self.revoke(id, Revoked::Admin(key), Some(&root), Vec::new(), |_, _| true, now)
            }
            Operation::AddDevice { name, key, fallbacks } => {
                self.add_device(id, name, key, fallbacks, now)
            }
            Operation::ChangeRoutes(change) => self.change_routes(id, change),
            Operation::RemoveDevice(device) => self.remove_device(id, device, now),
            Operation::Leave => {
                let certificate = self.certificate.signed().clone();
                let departure = Departure { at: now.wall, certificate };
                let departure = Signed::sign(&departure, self.id, &self.config.key);
                self.commit(id, vec![NetworkDocument::Departure(departure)], Outcome::Done);
                Ok(())
            }
        }
    }

    fn is_root(&self, root: &SecretKey) -> Result<(), OperationError> {
        if root.network() == self.id { Ok(()) } else { Err(OperationError::NotRoot) }
    }

    pub(super) fn admin(&self) -> Result<&SecretKey, OperationError> {
        let key = &self.config.key;
        if !self.trust.is_admin(key.public()) {
            Err(OperationError::NotAdmin)
        } else if !self.trust.has_room(key.public()) {
            Err(OperationError::TooMany)
        } else {
            Ok(key)
        }
    }

    fn known_node(&self, node: NodeId) -> Result<&Member, OperationError> {
        self.members.get(node).ok_or_else(|| OperationError::UnknownNode(node.short()))
    }

    pub(super) fn commit(
        &mut self,
        operation: OperationId,
        documents: Vec<NetworkDocument>,
        outcome: Outcome,
    ) {
        let writes = documents.iter().map(Write::document).collect();
        self.persist(writes, Some(Then::Commit { documents, operation, outcome }));
    }

    fn create_token(
        &mut self,
        id: OperationId,
        request: TokenRequest,
        now: Now,
    ) -> Result<(), OperationError> {
        self.admin()?;
        let key = invite_key(&mut self.random);
        let invite = Invite {
            key: key.public(),
            roles: request.roles,
            tags: request.tags,
            issued: self.trusted_time(now),
            expires: request.expires,
            uses: request.uses,
        };
        let admin = self.admin()?;
        let invite = Signed::sign(&invite, self.id, admin);
        let (Some(genesis), Some(grant), Some(gate)) =
            (self.trust.genesis(), self.trust.grant(admin.public()), self.gate.newest())
        else {
            return Err(OperationError::NotAdmin);
        };
        let mut documents = vec![NetworkDocument::Invite(invite.clone())];
        // The charter of an admin that no longer is one is void.
        let charter = if let Some(charter) = self.trust.charter() {
            charter.signed().clone()
        } else {
            let charter = Charter {
                version: 1,
                issued: self.trusted_time(now),
                max_members: self.trust.max_members(),
            };
            let charter = Signed::sign(&charter, self.id, admin);
            documents.push(NetworkDocument::Charter(charter.clone()));
            charter
        };
        let addresses =
            if request.addresses.is_empty() { self.advertised() } else { request.addresses };
        let token = Token::new(
            self.network.signed().clone(),
            genesis.signed().clone(),
            grant.signed().clone(),
            charter,
            invite,
            &key,
            gate.clone(),
            addresses,
        );
        let outcome = Outcome::Token(Box::new(token));
        self.commit(id, documents, outcome);
        Ok(())
    }

    /// Where a newcomer may reach this fleet: what operators configured,
    /// here and on other members, then this node's own addresses, then what routers
    /// pass on to others.
    pub fn advertised(&self) -> Vec<HostPort> {
        let mut addresses = self.settings.advertise.clone();
        let records = self.members.iter().flat_map(|(node, member)| {
            let own = node == self.own;
            member.record.endpoints.iter().filter(move |endpoint| {
                endpoint.source == epsilon_proto::record::EndpointSource::Configured || own
            })
        });
        let mapped = self.members.iter().flat_map(|(_, member)| {
            let all = member.record.endpoints.iter();
            all.filter(|one| one.source.is_mapped() && one.source.takes_tcp())
        });
        let mut mapped: Vec<HostPort> = mapped.map(|one| HostPort::from(one.address)).collect();
        let mut local: Vec<HostPort> = self
            .local
            .iter()
            .map(|(ip, _)| std::net::SocketAddr::new(*ip, self.settings.port))
            .filter(|address| epsilon_proto::address::is_usable_endpoint(*address))
            .map(HostPort::from)
            .collect();
        let mut others: Vec<HostPort> =
            records.map(|endpoint| HostPort::from(endpoint.address)).collect();
        addresses.append(&mut others);
        addresses.append(&mut local);
        addresses.append(&mut mapped);
        let mut seen = std::collections::BTreeSet::new();
        addresses.retain(|address| seen.insert(address.clone()));
        addresses.truncate(epsilon_proto::record::MAX_ENDPOINTS);
        addresses
    }

    /// Signs a revocation, and a gate epoch for those who stay.
    fn revoke(
        &mut self,
        id: OperationId,
        revoked: Revoked,
        root: Option<&SecretKey>,
        mut documents: Vec<NetworkDocument>,
        stays: impl Fn(NodeId, &Member) -> bool,
        now: Now,
    ) -> Result<(), OperationError> {
        let signer = match root {
            Some(root) => root.clone(),
            None => self.admin()?.clone(),
        };
        let revoked_key = match &revoked {
            Revoked::Admin(key) => Some(*key),
            Revoked::Node(node) => Some(node.key()),
            Revoked::Invite(_) | Revoked::InviteAndMembers(_) | Revoked::Device(_) => None,
        };
        let came_by = match &revoked {
            Revoked::Node(node) => self.members.get(*node).map(Member::invite),
            Revoked::Invite(_)
            | Revoked::InviteAndMembers(_)
            | Revoked::Admin(_)
            | Revoked::Device(_) => None,
        };
        let revocation = Revocation { revoked, issued: self.trusted_time(now), came_by };
        documents.push(NetworkDocument::Revocation(Signed::sign(&revocation, self.id, &signer)));
        let recipients =
            self.members.iter().filter(|(node, member)| stays(*node, member)).map(|(node, _)| node);
        let epoch = self.mint(self.next_epoch(revoked_key), recipients.collect());
        documents.push(NetworkDocument::GateEpoch(Signed::sign(&epoch, self.id, &signer)));
        self.commit(id, documents, Outcome::Done);
        Ok(())
    }

    /// A new secret for the gate, sealed to these nodes.
    fn mint(&mut self, epoch: u32, recipients: Vec<NodeId>) -> GateEpoch {
        let (id, random) = (self.id, &mut self.random);
        let secret = GateSecret::generate(epoch, random);
        let sealed = recipients.into_iter().filter_map(|node| {
            let sealed = SealedBox::seal(secret.bytes(), Purpose::GateSecret, id, node, random);
            // Whoever has a key that nothing can be sealed to must not keep
            // the others from being told.
            Some((node, sealed.ok()?))
        });
        let boxes = sealed.collect();
        GateEpoch { epoch, check: secret.check(), boxes }
    }

    fn rename(
        &mut self,
        id: OperationId,
        node: NodeId,
        name: NodeName,
        now: Now,
    ) -> Result<(), OperationError> {
        self.known_node(node)?;
        let owner = self.members.owner_of_name(&name, &self.trust);
        if owner.is_some_and(|owner| owner != node) || self.members.device_named(&name).is_some() {
            return Err(OperationError::NameTaken(name));
        }
        let is_pinned = self.trust.pin(node).is_some_and(|pin| pin.name.is_some());
        if node == self.own && !is_pinned {
            let settings = Settings { name: Some(name.clone()), ..self.settings.clone() };
            let identity = IdentityState { name: Some(name.clone()), ..self.identity.clone() };
            let writes = vec![Write::settings(&settings), Write::identity_state(&identity)];
            self.persist(writes, Some(Then::OwnName { name, operation: id }));
            return Ok(());
        }
        let pin = self.next_pin(node, now, |pin| pin.name = Some(name.clone()))?;
        self.commit(id, vec![pin], Outcome::Done);
        Ok(())
    }

    fn replace(
        &mut self,
        id: OperationId,
        old: NodeId,
        new: NodeId,
        now: Now,
    ) -> Result<(), OperationError> {
        self.known_node(old)?;
        self.known_node(new)?;
        if old == self.own || old == new {
            return Err(OperationError::OwnNode);
        }
        let ipv4 = self.members.ipv4_of(old, &self.trust);
        let name = self.members.name_of(old, &self.trust);
        let mut inherited = self.trust.inherited(old).to_vec();
        inherited.push(self.range6.node(old));
        let pin = self.next_pin(new, now, |pin| {
            pin.ipv4 = ipv4;
            pin.name.clone_from(&name);
            let mut all = [pin.inherited.clone(), inherited.clone()].concat();
            // The latest are the likeliest to be still in use.
            all.drain(..all.len().saturating_sub(Pin::MAX_INHERITED));
            pin.inherited = all;
        })?;
        let stays = move |other: NodeId, _: &Member| other != old;
        self.revoke(id, Revoked::Node(old), None, vec![pin], stays, now)
    }

    /// A pin after all others, that keeps what the node's last one said.
    fn next_pin(
        &self,
        node: NodeId,
        now: Now,
        change: impl Fn(&mut Pin),
    ) -> Result<NetworkDocument, OperationError> {
        let admin = self.admin()?;
        let at = self.trust.newest_pin().tick(self.trusted_time(now));
        let mut pin = match self.trust.pin(node) {
            Some(pin) => Pin { at, ..(**pin).clone() },
            None => Pin { node, at, ipv4: None, name: None, inherited: Vec::new() },
        };
        change(&mut pin);
        Ok(NetworkDocument::Pin(Signed::sign(&pin, self.id, admin)))
    }
}
