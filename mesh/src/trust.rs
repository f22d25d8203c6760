//! The network documents that this node holds, and what follows from them.
//!
//! A grow-only set: every document whose signer may sign it is kept for ever,
//! and every question is answered from the set alone, so that members with
//! equal sets agree. What a revoked admin signed stays in the set; it has no
//! effect any more, but for its revocations.

use std::collections::{BTreeMap, BTreeSet};

use epsilon_proto::clock::Timestamp;
use epsilon_proto::document::{DocumentError, Signed, Verified};
use epsilon_proto::id::{DeviceId, Digest, NetworkId, NodeId, PublicKey};
use epsilon_proto::key::SignatureCheck;
use epsilon_proto::trust::{
    AdminGrant, Charter, Departure, GateEpoch, GenesisBlock, Invite, NetworkDocument, Pin,
    Revocation, Revoked,
};

/// How many documents of one admin a node keeps: far above what people make,
/// far below what would hurt. Each admin has a share of its own, so that a
/// stolen key keeps nothing of the others out. What the root signed always
/// fits.
pub(crate) const MAX_PER_ADMIN: usize = 8_192;

/// How many departures a node keeps. They have a share of their own: who holds
/// a token can let made-up keys in and have them leave, and those must not
/// keep a revocation out. To revoke the invite with its members clears them.
const MAX_DEPARTURES: usize = 4_096;
/// How many of those may have come by one invite.
const MAX_DEPARTURES_BY_INVITE: usize = 1_024;

/// How many members a network admits when no charter says otherwise.
const DEFAULT_MAX_MEMBERS: u32 = 1024;

/// Why a document was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// Its signer is no admin that this node knows; a grant may be missing.
    #[error("its signer {0} is no known admin")]
    UnknownSigner(String),
    /// The invite that it builds on is not known; it may be missing.
    #[error("the invite {0} it builds on is not known")]
    UnknownInvite(String),
    /// A node says that another one left.
    #[error("it speaks of another node than the one that signed it")]
    OtherNode,
    /// The document does not hold.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// Too many already.
    #[error("the network holds as many documents as it may")]
    Full,
}

/// The set and its indexes.
pub struct Trust {
    network: NetworkId,
    founded: Timestamp,
    documents: BTreeMap<Digest, NetworkDocument>,
    grants: BTreeMap<PublicKey, Verified<AdminGrant>>,
    revocations: Vec<Verified<Revocation>>,
    revoked_admins: BTreeSet<PublicKey>,
    /// Counts the changes of whose word is an authority's.
    authority: u64,
    revoked_devices: BTreeSet<DeviceId>,
    revoked_nodes: BTreeSet<NodeId>,
    revoked_invites: BTreeSet<PublicKey>,
    revoked_members: BTreeSet<PublicKey>,
    /// One departure a node: the one with the lowest hash; and by which
    /// invite the node had come.
    departed: BTreeMap<NodeId, (Digest, PublicKey)>,
    /// Who came by an invite and was revoked or left.
    gone: BTreeMap<PublicKey, BTreeSet<NodeId>>,
    genesis: BTreeMap<Digest, Verified<GenesisBlock>>,
    charters: BTreeMap<Digest, Verified<Charter>>,
    invites: BTreeMap<PublicKey, BTreeMap<Digest, Verified<Invite>>>,
    pins: BTreeMap<NodeId, BTreeMap<Digest, Verified<Pin>>>,
    gate_epochs: BTreeMap<Digest, Verified<GateEpoch>>,
    digest: Option<Digest>,
    /// How many documents each key signed.
    signed_by: BTreeMap<PublicKey, usize>,
    /// The newest time that each root or admin key signed.
    signed_times: BTreeMap<PublicKey, Timestamp>,
}

impl Trust {
    /// An empty set for a network.
    pub fn new(network: NetworkId, founded: Timestamp) -> Self {
        Self {
            network,
            founded,
            documents: BTreeMap::new(),
            grants: BTreeMap::new(),
            revocations: Vec::new(),
            revoked_admins: BTreeSet::new(),
            authority: 0,
            revoked_devices: BTreeSet::new(),
            revoked_nodes: BTreeSet::new(),
            revoked_invites: BTreeSet::new(),
            revoked_members: BTreeSet::new(),
            departed: BTreeMap::new(),
            gone: BTreeMap::new(),
            genesis: BTreeMap::new(),
            charters: BTreeMap::new(),
            invites: BTreeMap::new(),
            pins: BTreeMap::new(),
            gate_epochs: BTreeMap::new(),
            digest: None,
            signed_by: BTreeMap::new(),
            signed_times: BTreeMap::new(),
        }
    }

    /// Takes a document; says whether it was new.
    pub fn merge(
        &mut self,
        document: &NetworkDocument,
        check: &dyn SignatureCheck,
    ) -> Result<bool, TrustError> {
        let digest = document.digest();
        if self.documents.contains_key(&digest) {
            return Ok(false);
        }
        let network = self.network;
        match document {
            NetworkDocument::Grant(signed) => {
                let grant = signed.verify_by(network.root(), network, check)?;
                self.note_time(grant.signer(), grant.issued);
                self.authority += 1;
                // Two grants for one key differ in nothing that matters; the
                // lower hash counts, so that all agree on the name.
                match self.grants.get(&grant.key) {
                    Some(known) if known.signed().digest() < signed.digest() => {}
                    _ => drop(self.grants.insert(grant.key, grant)),
                }
            }
            NetworkDocument::Revocation(signed) => {
                let is_of_admin =
                    signed.peek().is_ok_and(|said| matches!(said.revoked, Revoked::Admin(_)));
                let revocation = if is_of_admin {
                    signed.verify_by(network.root(), network, check)?
                } else {
                    self.by_admin(signed, check)?
                };
                self.note_time(revocation.signer(), revocation.issued);
                self.authority += 1;
                match &revocation.revoked {
                    Revoked::Node(node) => {
                        self.revoked_nodes.insert(*node);
                        if let Some(invite) = revocation.came_by {
                            self.gone.entry(invite).or_default().insert(*node);
                        }
                    }
                    Revoked::Invite(key) => drop(self.revoked_invites.insert(*key)),
                    Revoked::InviteAndMembers(key) => {
                        self.revoked_invites.insert(*key);
                        self.revoked_members.insert(*key);
                        self.forget_departures(*key);
                    }
                    Revoked::Admin(key) => drop(self.revoked_admins.insert(*key)),
                    Revoked::Device(key) => drop(self.revoked_devices.insert(*key)),
                }
                self.revocations.push(revocation);
            }
            NetworkDocument::Genesis(signed) => {
                let genesis = signed.verify_by(network.root(), network, check)?;
                self.note_time(genesis.signer(), genesis.created);
                self.genesis.insert(digest, genesis);
            }
            NetworkDocument::Charter(signed) => {
                let charter = self.by_admin(signed, check)?;
                self.note_time(charter.signer(), charter.issued);
                self.charters.insert(digest, charter);
            }
            NetworkDocument::Invite(signed) => {
                let invite = self.by_admin(signed, check)?;
                self.note_time(invite.signer(), invite.issued);
                self.invites.entry(invite.key).or_default().insert(digest, invite);
            }
            NetworkDocument::Pin(signed) => {
                // Its reading is an order, no evidence of the time.
                let pin = self.by_admin(signed, check)?;
                self.pins.entry(pin.node).or_default().insert(digest, pin);
            }
            NetworkDocument::GateEpoch(signed) => {
                let epoch = if signed.signer() == network.root() {
                    signed.verify_by(network.root(), network, check)?
                } else {
                    self.by_admin(signed, check)?
                };
                self.gate_epochs.insert(digest, epoch);
            }
            NetworkDocument::Departure(signed) => {
                let departure: Verified<Departure> = signed.verify(network, check)?;
                let node = departure.signer().into();
                let invite = self.invite_of_departed(node, &departure, check)?;
                if self.revoked_members.contains(&invite) {
                    // Banned with its invite, which is one document for all.
                    return Ok(false);
                }
                let by_invite = self.gone(invite);
                match self.departed.get(&node) {
                    Some((known, _)) if *known < digest => return Ok(false),
                    Some((known, came_by)) => {
                        self.documents.remove(known);
                        if let Some(gone) = self.gone.get_mut(came_by) {
                            gone.remove(&node);
                        }
                    }
                    None if self.departed.len() >= MAX_DEPARTURES
                        || by_invite >= MAX_DEPARTURES_BY_INVITE =>
                    {
                        return Err(TrustError::Full);
                    }
                    None => {}
                }
                self.departed.insert(node, (digest, invite));
                self.gone.entry(invite).or_default().insert(node);
            }
        }
        self.documents.insert(digest, document.clone());
        self.digest = None;
        Ok(true)
    }

    fn by_admin<T: epsilon_proto::document::Document>(
        &mut self,
        signed: &Signed<T>,
        check: &dyn SignatureCheck,
    ) -> Result<Verified<T>, TrustError> {
        if !self.grants.contains_key(&signed.signer()) {
            return Err(TrustError::UnknownSigner(signed.signer().short()));
        }
        let share = self.signed_by.entry(signed.signer()).or_default();
        if *share >= MAX_PER_ADMIN {
            return Err(TrustError::Full);
        }
        let verified = signed.verify(self.network, check)?;
        *share += 1;
        Ok(verified)
    }

    /// By which invite a node came that says it left.
    fn invite_of_departed(
        &self,
        node: NodeId,
        departure: &Departure,
        check: &dyn SignatureCheck,
    ) -> Result<PublicKey, TrustError> {
        let invite = departure.certificate.signer();
        if !self.invites.contains_key(&invite) {
            return Err(TrustError::UnknownInvite(invite.short()));
        }
        let certificate = departure.certificate.verify(self.network, check)?;
        if certificate.node == node { Ok(invite) } else { Err(TrustError::OtherNode) }
    }

    /// Those who came by a revoked invite need no tombstones of their own.
    fn forget_departures(&mut self, revoked: PublicKey) {
        let documents = &mut self.documents;
        self.departed.retain(|_, (digest, invite)| {
            let stays = *invite != revoked;
            if !stays {
                documents.remove(digest);
            }
            stays
        });
    }

    fn note_time(&mut self, signer: PublicKey, time: Timestamp) {
        let newest = self.signed_times.entry(signer).or_default();
        *newest = time.max(*newest);
    }

    /// Whether a key may act as an admin now.
    pub fn is_admin(&self, key: PublicKey) -> bool {
        self.grants.contains_key(&key)
            && !self.revoked_admins.contains(&key)
            && !self.revoked_nodes.contains(&NodeId::from(key))
    }

    /// Whether a key is the root's or an admin's.
    pub(crate) fn is_authority(&self, key: PublicKey) -> bool {
        key == self.network.root() || self.is_admin(key)
    }

    /// Another number after every change of who is an authority.
    pub(crate) fn authority(&self) -> u64 {
        self.authority
    }

    /// Every grant, with whether it still holds.
    pub fn admins(&self) -> impl Iterator<Item = (&Verified<AdminGrant>, bool)> {
        self.grants.values().map(|grant| (grant, self.is_admin(grant.key)))
    }

    /// The grant of an admin.
    pub fn grant(&self, key: PublicKey) -> Option<&Verified<AdminGrant>> {
        self.grants.get(&key)
    }

    /// An invite, revoked or not. Of several with one key, one by an admin
    /// that still is one counts, among equals the one with the lowest hash.
    pub fn invite(&self, key: PublicKey) -> Option<&Verified<Invite>> {
        self.invites
            .get(&key)?
            .iter()
            .min_by_key(|(digest, invite)| (!self.is_admin(invite.signer()), **digest))
            .map(|(_, invite)| invite)
    }

    /// Every invite, revoked or not.
    pub fn invites(&self) -> impl Iterator<Item = &Verified<Invite>> {
        self.invites.keys().filter_map(|key| self.invite(*key))
    }

    /// Whether an invite admits nobody new, whatever its expiry says.
    pub fn is_invite_revoked(&self, invite: &Verified<Invite>) -> bool {
        self.revoked_invites.contains(&invite.key) || !self.is_admin(invite.signer())
    }

    /// Whether those who came by an invite are revoked with it.
    pub fn are_members_revoked(&self, invite: PublicKey) -> bool {
        self.revoked_members.contains(&invite)
    }

    /// Whether a node is revoked by name.
    pub fn is_node_revoked(&self, node: NodeId) -> bool {
        self.revoked_nodes.contains(&node)
    }

    /// Whether a device is revoked.
    pub fn is_device_revoked(&self, device: DeviceId) -> bool {
        self.revoked_devices.contains(&device)
    }

    /// Whether a node left.
    pub fn has_departed(&self, node: NodeId) -> bool {
        self.departed.contains_key(&node)
    }

    /// The epochs and hashes of gate secrets that nobody minted but admins
    /// that no longer are, or will not be without this one.
    pub(crate) fn void_gate_epochs(&self, without: Option<PublicKey>) -> BTreeSet<(u32, Digest)> {
        let counts = |key: PublicKey| self.is_authority(key) && Some(key) != without;
        let minted = |by: &dyn Fn(PublicKey) -> bool| -> BTreeSet<(u32, Digest)> {
            // Nobody mints the secret of the founding.
            let epochs = self.gate_epochs.values().filter(|epoch| epoch.epoch > 0);
            let epochs = epochs.filter(|epoch| by(epoch.signer()));
            epochs.map(|epoch| (epoch.epoch, epoch.check)).collect()
        };
        // Anybody can repeat what an honest admin minted.
        &minted(&|key| !counts(key)) - &minted(&counts)
    }

    /// Whether an epoch and hash is one of those.
    pub(crate) fn is_void(&self, stamp: (u32, Digest)) -> bool {
        let of = |epoch: &&Verified<GateEpoch>| (epoch.epoch, epoch.check) == stamp;
        let counts = |epoch: &Verified<GateEpoch>| self.is_authority(epoch.signer());
        stamp.0 > 0
            && self.gate_epochs.values().any(|epoch| of(&epoch))
            && !self.gate_epochs.values().filter(of).any(counts)
    }

    /// Whether one more document by an admin is kept.
    pub(crate) fn has_room(&self, admin: PublicKey) -> bool {
        // The most that one operation makes.
        const OPERATION: usize = 4;
        self.signed_by.get(&admin).is_none_or(|signed| signed + OPERATION <= MAX_PER_ADMIN)
    }

    /// How many came by an invite and are members no more.
    pub(crate) fn gone(&self, invite: PublicKey) -> usize {
        self.gone.get(&invite).map_or(0, BTreeSet::len)
    }

    /// What is revoked.
    pub fn revocations(&self) -> &[Verified<Revocation>] {
        &self.revocations
    }

    /// The pin that counts for a node: the latest by an admin that still is
    /// one.
    pub fn pin(&self, node: NodeId) -> Option<&Verified<Pin>> {
        self.pins
            .get(&node)?
            .iter()
            .filter(|(_, pin)| self.is_admin(pin.signer()))
            .max_by_key(|(digest, pin)| (pin.at, **digest))
            .map(|(_, pin)| pin)
    }

    /// The newest reading of the hybrid clock among the pins.
    pub(crate) fn newest_pin(&self) -> epsilon_proto::clock::HybridTime {
        let pins = self.pins.values().flat_map(BTreeMap::values);
        let counting = pins.filter(|pin| self.is_admin(pin.signer()));
        counting.map(|pin| pin.at).max().unwrap_or_default()
    }

    /// The nodes with a pin.
    pub(crate) fn pinned(&self) -> impl Iterator<Item = NodeId> {
        self.pins.keys().copied()
    }

    /// The IPv6 addresses that a node inherited.
    pub(crate) fn inherited(&self, node: NodeId) -> &[std::net::Ipv6Addr] {
        self.pin(node).map_or(&[], |pin| &pin.inherited)
    }

    /// How many members the network admits.
    pub fn max_members(&self) -> u32 {
        self.charter().map_or(DEFAULT_MAX_MEMBERS, |charter| charter.max_members)
    }

    /// The charter that counts.
    pub fn charter(&self) -> Option<&Verified<Charter>> {
        self.charters
            .iter()
            .filter(|(_, charter)| self.is_admin(charter.signer()))
            .max_by_key(|(digest, charter)| (charter.version, **digest))
            .map(|(_, charter)| charter)
    }

    /// The genesis block of the highest generation.
    pub fn genesis(&self) -> Option<&Verified<GenesisBlock>> {
        self.genesis.values().max_by_key(|genesis| genesis.generation)
    }

    /// Generations for which the root signed more than one block: a reason
    /// for alarm, and for nobody to act.
    pub fn contradictory_generations(&self) -> BTreeSet<u32> {
        let mut seen = BTreeSet::new();
        self.genesis
            .values()
            .filter(|genesis| !seen.insert(genesis.generation))
            .map(|genesis| genesis.generation)
            .collect()
    }

    /// The gate epochs by the root and by admins that still are.
    pub(crate) fn gate_epochs(&self) -> impl Iterator<Item = &Verified<GateEpoch>> {
        self.gate_epochs.values().filter(|epoch| self.is_authority(epoch.signer()))
    }

    /// The newest time that the root, or an admin that still is one, signed.
    pub fn newest_signed(&self) -> Timestamp {
        let counting = self.signed_times.iter().filter(|(key, _)| self.is_authority(**key));
        counting.map(|(_, time)| *time).max().unwrap_or_default().max(self.founded)
    }

    /// When the network was founded.
    pub fn founded(&self) -> Timestamp {
        self.founded
    }

    /// Grants and revocations: what is exchanged before anything else.
    pub fn bans(&self) -> Vec<NetworkDocument> {
        self.in_order(is_ban)
    }

    /// The hash of [`Trust::bans`].
    pub fn bans_digest(&self) -> Digest {
        let bans = self.documents.iter().filter(|(_, document)| is_ban(document));
        let digests: Vec<&[u8]> = bans.map(|(digest, _)| &digest.0[..]).collect();
        Digest::of_parts("epsilon/1 bans", &digests)
    }

    /// The documents of the set that fit, those first on which others depend.
    fn in_order(&self, fits: impl Fn(&NetworkDocument) -> bool) -> Vec<NetworkDocument> {
        let mut documents: Vec<_> =
            self.documents.values().filter(|document| fits(document)).cloned().collect();
        documents.sort_by_key(|document| self.urgency(document));
        documents
    }

    /// What comes first when there is no room for all: what others build on,
    /// and of that what revoked admins signed last.
    pub(crate) fn urgency(&self, document: &NetworkDocument) -> (u8, bool) {
        (
            document.rank(),
            self.grants.contains_key(&document.signer()) && !self.is_admin(document.signer()),
        )
    }

    /// The digests of all documents.
    pub fn digests(&self) -> Vec<Digest> {
        self.documents.keys().copied().collect()
    }

    /// A document by its digest.
    pub fn document(&self, digest: &Digest) -> Option<&NetworkDocument> {
        self.documents.get(digest)
    }

    /// The documents that a holder of `known` lacks.
    pub fn lacking(&self, known: &BTreeSet<Digest>) -> Vec<NetworkDocument> {
        self.in_order(|document| !known.contains(&document.digest()))
    }

    /// The hash of the whole set.
    pub fn digest(&mut self) -> Digest {
        *self.digest.get_or_insert_with(|| {
            let digests: Vec<&[u8]> = self.documents.keys().map(|digest| &digest.0[..]).collect();
            Digest::of_parts("epsilon/1 network documents", &digests)
        })
    }
}

/// Whether a document is exchanged before anything else.
pub(crate) fn is_ban(document: &NetworkDocument) -> bool {
    matches!(document, NetworkDocument::Grant(_) | NetworkDocument::Revocation(_))
}

#[cfg(test)]
mod tests;
