//! Who is a member: one record per node, the newest counts.
//!
//! Merging is commutative, associative and idempotent once the introducers
//! are known; a record whose introducer is not known yet is refused and comes
//! again with anti-entropy. What is revoked or departed never comes back.

mod buckets;
mod claims;
mod devices;
mod ground;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use epsilon_proto::address::{Ipv4Range, Ipv6Range};
use epsilon_proto::document::{DocumentError, Signed, Verified};
use epsilon_proto::id::{Digest, NetworkId, NodeId, PublicKey};
use epsilon_proto::key::{AgreementKey, SignatureCheck};
use epsilon_proto::name::NodeName;
use epsilon_proto::record::NodeRecord;
use epsilon_proto::trust::{Introduction, MemberCertificate, Roles};
use epsilon_proto::wire_struct;

use crate::trust::Trust;

pub use buckets::BUCKETS;
pub use claims::Rank;
pub use devices::{DeviceChange, PlacedDevice};
pub use ground::Grounded;

/// A member: its record and what was verified in it.
#[derive(Debug, Clone)]
pub struct Member {
    /// The newest record.
    pub record: Verified<NodeRecord>,
    /// That it is a member.
    pub certificate: Verified<MemberCertificate>,
    /// The introductions in the record that hold.
    pub introductions: Vec<Verified<Introduction>>,
    /// Its WireGuard key.
    pub key: AgreementKey,
    /// The hash of the signed record.
    pub digest: Digest,
}

impl Member {
    /// The invite by which it came.
    pub fn invite(&self) -> PublicKey {
        self.certificate.signer()
    }

    /// What it may be.
    pub fn roles(&self) -> Roles {
        self.certificate.roles
    }

    /// The introductions that say it came by its invite.
    fn words(&self) -> impl Iterator<Item = &Verified<Introduction>> {
        let invite = Some(self.invite());
        self.introductions.iter().filter(move |introduction| introduction.facts.invite == invite)
    }

    /// Who spoke them.
    fn introducers(&self) -> Vec<PublicKey> {
        self.words().map(Verified::signer).collect()
    }

    /// The one of them by a key.
    fn word(&self, by: PublicKey) -> Option<&Verified<Introduction>> {
        self.words().find(|introduction| introduction.signer() == by)
    }
}

/// Why a record was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The node, or its invite with its members, was revoked.
    #[error("the node was revoked")]
    Revoked,
    /// The node left.
    #[error("the node has left")]
    Departed,
    /// Something that it builds on is not known yet; anti-entropy will bring
    /// it.
    #[error("the {0} it builds on is not known yet")]
    Missing(&'static str),
    /// Nobody that this node knows has introduced the node.
    #[error("no member that is known here has introduced the node")]
    Unintroduced,
    /// It does not hold.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// It says what it may not.
    #[error("the record is not valid: {0}")]
    Invalid(&'static str),
    /// The network, or the node's invite, has as many members as it may.
    #[error("the network has as many members as it may")]
    Full,
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merged {
    /// It is newer than what was known.
    New,
    /// It is what was known.
    Known,
    /// It is older than what was known.
    Stale,
    /// It has the stamp of the known one and another content: two machines
    /// sign as this node. The one with the higher hash counts.
    Contradicts,
}

/// That this node itself decided to let a node in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word {
    /// By which invite.
    pub invite: PublicKey,
    /// Whether the node has it in its hands, as an introduction that others
    /// believe: then it is one of the invite's uses, also while nothing more
    /// is heard of the node.
    pub is_out: bool,
}
wire_struct!(Word { 0 => invite, 1 => is_out });

/// Boxed, as in a tree of a thousand half of the room is for those to come.
type Members = BTreeMap<NodeId, Box<Member>>;

/// All members, oneself included.
pub struct Membership {
    network: NetworkId,
    range: Ipv4Range,
    range6: Ipv6Range,
    own: NodeId,
    members: Members,
    /// Nodes whose admission this node decided itself.
    vouched: BTreeMap<NodeId, Word>,
    buckets: buckets::Buckets,
    claims: claims::Claims,
    devices: devices::Devices,
    ground: ground::Ground,
    /// Nodes whose address or name may have changed.
    affected: BTreeSet<NodeId>,
}

impl Membership {
    /// Nobody yet.
    pub fn new(network: NetworkId, range: Ipv4Range, own: NodeId) -> Self {
        Self {
            network,
            range,
            range6: Ipv6Range::of(network),
            own,
            members: BTreeMap::new(),
            vouched: BTreeMap::new(),
            buckets: buckets::Buckets::default(),
            claims: claims::Claims::default(),
            devices: devices::Devices::default(),
            ground: ground::Ground::default(),
            affected: BTreeSet::new(),
        }
    }

    /// Takes a record, of a new node only if somebody has introduced it.
    pub fn merge(
        &mut self,
        signed: &Signed<NodeRecord>,
        trust: &Trust,
        check: &dyn SignatureCheck,
    ) -> Result<Merged, Refused> {
        self.merge_from(false, signed, trust, check)
    }

    /// Takes a record that a member handed over as a member's, or that was a
    /// member's before this node restarted.
    ///
    /// The word of that member counts like an introduction by it. Without
    /// this rule a node whose introducer was banned later would be a member
    /// for those who knew it before, and for nobody else.
    pub fn merge_believed(
        &mut self,
        signed: &Signed<NodeRecord>,
        trust: &Trust,
        check: &dyn SignatureCheck,
    ) -> Result<Merged, Refused> {
        self.merge_from(true, signed, trust, check)
    }

    fn merge_from(
        &mut self,
        is_believed: bool,
        signed: &Signed<NodeRecord>,
        trust: &Trust,
        check: &dyn SignatureCheck,
    ) -> Result<Merged, Refused> {
        let node = NodeId::from(signed.signer());
        refuse_banned(node, trust)?;
        let known = self.get(node);
        if known.is_some_and(|known| known.record.signed() == signed) {
            return Ok(Merged::Known);
        }
        let record = signed.verify(self.network, check)?;
        let digest = signed.digest();
        let outcome = match known {
            None => Merged::New,
            Some(known) => match record.stamp().cmp(&known.record.stamp()) {
                std::cmp::Ordering::Less => return Ok(Merged::Stale),
                std::cmp::Ordering::Equal if digest < known.digest => {
                    return Ok(Merged::Contradicts);
                }
                std::cmp::Ordering::Equal => Merged::Contradicts,
                std::cmp::Ordering::Greater => Merged::New,
            },
        };
        let certificate = match known {
            Some(known) if known.certificate.signed() == &record.certificate => {
                known.certificate.clone()
            }
            _ => self.verify_certificate(node, &record.certificate, trust, check)?,
        };
        if trust.are_members_revoked(certificate.signer()) {
            return Err(Refused::Revoked);
        }
        let introductions = self.verify_introductions(node, &record, known, check)?;
        // A member stays under the invite that was judged when it came.
        if known.is_some_and(|known| known.invite() != certificate.signer()) {
            return Err(Refused::Invalid("the certificate is under another invite than before"));
        }
        let introduced = is_believed
            || known.is_some()
            || node == self.own
            || self.has_vouched(node, certificate.signer())
            || introductions.iter().any(|introduction| {
                introduction.facts.invite == Some(certificate.signer())
                    && self.may_introduce(introduction.signer(), trust)
            });
        if !introduced {
            return Err(Refused::Unintroduced);
        }
        if known.is_none() && node != self.own {
            self.refuse_too_many(certificate.signer(), trust)?;
        }
        if record.endpoints.iter().any(|endpoint| self.is_inside(endpoint.address.ip())) {
            return Err(Refused::Invalid("an endpoint lies inside the mesh"));
        }
        let key = match known {
            Some(known) => known.key,
            None => node.key().agreement().ok_or(Refused::Invalid("the node's key is weak"))?,
        };
        let member = Member { record, certificate, introductions, key, digest };
        let known = self.get(node);
        let is_met_as_before =
            known.is_some_and(|known| known.introductions == member.introductions);
        let claims_the_same = known.is_some_and(|known| {
            (known.record.ipv4, &known.record.name) == (member.record.ipv4, &member.record.name)
        });
        if !is_met_as_before {
            let former = known.map(Member::introducers).unwrap_or_default();
            self.ground.update(node, &former, &member.introducers(), trust);
        }
        if !is_met_as_before || !claims_the_same {
            self.devices.touch();
        }
        let known = self.members.get(&node).map(|known| &**known);
        self.affected.extend(self.claims.update(node, known, Some(&member)));
        if let Some(pin) = trust.pin(node) {
            self.affected.extend(self.claims.claimants(pin.ipv4, pin.name.as_ref()));
        }
        self.buckets.touch(node);
        self.members.insert(node, Box::new(member));
        Ok(outcome)
    }

    /// Checks a certificate up to the root.
    pub fn verify_certificate(
        &self,
        node: NodeId,
        signed: &Signed<MemberCertificate>,
        trust: &Trust,
        check: &dyn SignatureCheck,
    ) -> Result<Verified<MemberCertificate>, Refused> {
        let invite = trust.invite(signed.signer()).ok_or(Refused::Missing("invite"))?;
        let certificate = signed.verify(self.network, check)?;
        if certificate.node != node {
            return Err(Refused::Invalid("the certificate is another node's"));
        }
        if !certificate.is_within(invite) {
            return Err(Refused::Invalid("the certificate says more than its invite allows"));
        }
        Ok(certificate)
    }

    /// The introductions in a record that hold, whoever signed them; those of
    /// the known record are not checked again.
    fn verify_introductions(
        &self,
        node: NodeId,
        record: &NodeRecord,
        known: Option<&Member>,
        check: &dyn SignatureCheck,
    ) -> Result<Vec<Verified<Introduction>>, Refused> {
        let known = known.map_or(&[][..], |known| &known.introductions);
        let mut introductions = Vec::new();
        for signed in &record.introductions {
            let introduction = match known.iter().find(|known| known.signed() == signed) {
                Some(known) => known.clone(),
                None => signed.verify(self.network, check)?,
            };
            if introduction.node != node || introduction.signer() == node.key() {
                return Err(Refused::Invalid("an introduction is not about the node"));
            }
            introductions.push(introduction);
        }
        Ok(introductions)
    }

    /// Whether the word of a key introduces a node: the root's, an admin's,
    /// one's own, or that of a member that is not revoked.
    pub fn may_introduce(&self, signer: PublicKey, trust: &Trust) -> bool {
        let node = NodeId::from(signer);
        signer == self.network.root()
            || trust.is_admin(signer)
            || node == self.own
            || (self.members.contains_key(&node) && !trust.is_node_revoked(node))
    }

    fn refuse_too_many(&self, invite: PublicKey, trust: &Trust) -> Result<(), Refused> {
        if self.members.len() >= trust.max_members() as usize {
            return Err(Refused::Full);
        }
        // Each introducer holds to the number of uses; two halves of a
        // divided network may each have used them up, but not more.
        let uses = trust.invite(invite).and_then(|invite| invite.uses);
        match uses {
            Some(uses) if self.members_by(invite) >= (uses as usize).saturating_mul(2) => {
                Err(Refused::Full)
            }
            _ => Ok(()),
        }
    }

    /// How many came by an invite, those who are members no more included.
    pub fn uses_of(&self, invite: PublicKey, trust: &Trust) -> usize {
        self.members_by(invite) + trust.gone(invite)
    }

    fn members_by(&self, invite: PublicKey) -> usize {
        self.members.values().filter(|member| member.invite() == invite).count()
    }

    /// Whether an address lies inside the mesh.
    pub fn is_inside(&self, address: std::net::IpAddr) -> bool {
        match address {
            std::net::IpAddr::V4(address) => self.range.contains(address),
            std::net::IpAddr::V6(address) => self.range6.contains(address),
        }
    }

    /// Remembers that this node itself decided to let a node in.
    pub fn vouch(&mut self, node: NodeId, word: Word) {
        self.vouched.insert(node, word);
    }

    /// The word for a node is in its hands, and with it whoever it shows it to
    /// lets it in; says whether that is news.
    pub fn hand_out(&mut self, node: NodeId) -> bool {
        self.vouched.get_mut(&node).is_some_and(|word| !std::mem::replace(&mut word.is_out, true))
    }

    /// Takes back the word for a node that does not have it in its hands; says
    /// whether there was one.
    pub fn take_back(&mut self, node: NodeId) -> bool {
        let goes = self.vouched.get(&node).is_some_and(|word| !word.is_out);
        goes && self.vouched.remove(&node).is_some()
    }

    /// Takes back the word for those that are no members and that `keeps` does
    /// not name; says whether there were any.
    pub fn forget_vouched(&mut self, keeps: impl Fn(NodeId, &Word) -> bool) -> bool {
        let before = self.vouched.len();
        let members = &self.members;
        self.vouched.retain(|node, word| members.contains_key(node) || keeps(*node, word));
        self.vouched.len() != before
    }

    /// The nodes that this node itself let in.
    pub fn vouched(&self) -> &BTreeMap<NodeId, Word> {
        &self.vouched
    }

    /// Whether this node itself let a node in by an invite.
    pub fn has_vouched(&self, node: NodeId, invite: PublicKey) -> bool {
        self.vouched.get(&node).is_some_and(|word| word.invite == invite)
    }

    /// Removes a node; gives back what was known of it.
    pub fn remove(&mut self, node: NodeId) -> Option<Member> {
        self.vouched.remove(&node);
        let member = self.members.remove(&node)?;
        self.affected.extend(self.claims.update(node, Some(&member), None));
        self.devices.remove(node);
        self.ground.touch();
        self.buckets.touch(node);
        Some(*member)
    }

    /// A pin changed whose this address and this name are.
    pub fn affect_claimants(&mut self, ipv4: Option<Ipv4Addr>, name: Option<&NodeName>) {
        self.affected.extend(self.claims.claimants(ipv4, name));
        self.devices.touch();
    }

    /// The nodes whose address or name may have changed since this was asked
    /// last.
    pub fn take_affected(&mut self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.affected)
    }

    /// The members that must go, by what is revoked or departed.
    pub fn banned(&self, trust: &Trust) -> Vec<NodeId> {
        self.members
            .iter()
            .filter(|(node, member)| {
                refuse_banned(**node, trust).is_err() || trust.are_members_revoked(member.invite())
            })
            .map(|(node, _)| *node)
            .collect()
    }

    /// A member.
    pub fn get(&self, node: NodeId) -> Option<&Member> {
        self.members.get(&node).map(|member| &**member)
    }

    /// All members, oneself included, by node.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &Member)> {
        self.members.iter().map(|(node, member)| (*node, &**member))
    }

    /// How many members there are, oneself included.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is nobody, not even oneself.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The IPv4 address that a node has: the one it claims, unless another's
    /// claim ranks higher, or the one it was pinned to.
    pub fn ipv4_of(&self, node: NodeId, trust: &Trust) -> Option<Ipv4Addr> {
        let pinned = trust.pin(node).and_then(|pin| pin.ipv4);
        let address = pinned.or_else(|| self.get(node)?.record.ipv4)?;
        (self.range.assignable(address) && self.owner_of_ipv4(address, trust) == Some(node))
            .then_some(address)
    }

    /// The name that a node has.
    pub fn name_of(&self, node: NodeId, trust: &Trust) -> Option<NodeName> {
        let pinned = trust.pin(node).and_then(|pin| pin.name.clone());
        let name = pinned.or_else(|| self.get(node)?.record.name.clone())?;
        (self.owner_of_name(&name, trust) == Some(node)).then_some(name)
    }

    /// Whose an address is.
    pub fn owner_of_ipv4(&self, address: Ipv4Addr, trust: &Trust) -> Option<NodeId> {
        self.claims.winner_of_ipv4(address, self.network, &self.members, trust)
    }

    /// Whose a name is.
    pub fn owner_of_name(&self, name: &NodeName, trust: &Trust) -> Option<NodeId> {
        self.claims.winner_of_name(name, self.network, &self.members, trust)
    }

    /// The hash over all records and lists of devices.
    pub fn digest(&mut self) -> Digest {
        self.buckets.root(&self.members, &self.devices)
    }

    /// The hash of every bucket.
    pub fn bucket_digests(&mut self) -> Vec<Digest> {
        self.buckets.digests(&self.members, &self.devices)
    }

    /// Node and record digest of every member in a bucket.
    pub fn bucket(&self, index: u8) -> Vec<(NodeId, Digest)> {
        buckets::entries(&self.members, index)
            .map(|(node, member)| (*node, member.digest))
            .collect()
    }
}

fn refuse_banned(node: NodeId, trust: &Trust) -> Result<(), Refused> {
    if trust.is_node_revoked(node) {
        return Err(Refused::Revoked);
    }
    if trust.has_departed(node) {
        return Err(Refused::Departed);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
