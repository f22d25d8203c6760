//! How a network begins, and how a node becomes a member of one.

use epsilon_proto::address::Ipv4Range;
use epsilon_proto::clock::Timestamp;
use epsilon_proto::document::Signed;
use epsilon_proto::gate::GateSecret;
use epsilon_proto::id::PublicKey;
use epsilon_proto::key::SecretKey;
use epsilon_proto::name::{Domain, NetworkName, Tag};
use epsilon_proto::token::{HostPort, Token, VerifiedToken, invite_key};
use epsilon_proto::trust::{
    AdminGrant, Charter, Distribution, GenesisBlock, GenesisMode, Introduction, Invite,
    MemberCertificate, NetworkBlock, NetworkDocument, NodeFacts, Roles,
};
use rand_core::CryptoRng;

use crate::saved::{Saved, Settings};

/// What a new network shall be.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its name.
    pub name: NetworkName,
    /// Where IPv4 addresses come from.
    pub range: Ipv4Range,
    /// The DNS domain.
    pub domain: Domain,
    /// What the cluster is made of.
    pub distribution: Distribution,
    /// Who may initialise it; the creator when absent and there is a cluster.
    pub mode: Option<GenesisMode>,
    /// What the first token may give.
    pub roles: Roles,
    /// What its members are tagged with.
    pub tags: Vec<Tag>,
    /// When it expires.
    pub expires: Option<Timestamp>,
    /// How many nodes it admits.
    pub uses: Option<u32>,
    /// Where members may be reached.
    pub advertise: Vec<HostPort>,
    /// How many members the network admits.
    pub max_members: u32,
}

/// A network that was just founded.
pub struct Founding {
    /// The root key.
    pub root: SecretKey,
    /// The first token.
    pub token: Token,
    documents: Vec<NetworkDocument>,
}

/// The documents of a new network, whose first admin has this key.
pub fn found(
    plan: Plan,
    admin: &SecretKey,
    now: Timestamp,
    random: &mut impl CryptoRng,
) -> Founding {
    let root = SecretKey::generate(random);
    let id = root.network();
    let network =
        NetworkBlock { name: plan.name, range: plan.range, domain: plan.domain, founded: now };
    let has_cluster = plan.distribution != Distribution::None;
    let genesis = GenesisBlock {
        generation: u32::from(has_cluster),
        mode: has_cluster.then(|| plan.mode.unwrap_or_else(|| GenesisMode::Founder(admin.node()))),
        distribution: plan.distribution,
        created: now,
    };
    let grant = AdminGrant { key: admin.public(), name: "creator".to_owned(), issued: now };
    let charter = Charter { version: 1, issued: now, max_members: plan.max_members };
    let key = invite_key(random);
    let invite = Invite {
        key: key.public(),
        roles: plan.roles,
        tags: plan.tags,
        issued: now,
        expires: plan.expires,
        uses: plan.uses,
    };
    let token = Token::new(
        Signed::sign(&network, id, &root),
        Signed::sign(&genesis, id, &root),
        Signed::sign(&grant, id, &root),
        Signed::sign(&charter, id, admin),
        Signed::sign(&invite, id, admin),
        &key,
        GateSecret::generate(0, random),
        plan.advertise,
    );
    let documents = documents_of(&token);
    Founding { root, token, documents }
}

fn documents_of(token: &Token) -> Vec<NetworkDocument> {
    vec![
        NetworkDocument::Grant(token.grant.clone()),
        NetworkDocument::Genesis(token.genesis.clone()),
        NetworkDocument::Charter(token.charter.clone()),
        NetworkDocument::Invite(token.invite.clone()),
    ]
}

impl Founding {
    /// The state of the node that founds the network and is its first member.
    ///
    /// It comes by an invite of its own, used up at once, so that revoking the
    /// first token never hits the founder. The root introduces it.
    pub fn first_member(
        &self,
        key: &SecretKey,
        settings: Settings,
        now: Timestamp,
        random: &mut impl CryptoRng,
    ) -> Saved {
        let id = self.root.network();
        let own_invite = invite_key(random);
        let invite = Invite {
            key: own_invite.public(),
            roles: Roles::ALL,
            tags: Vec::new(),
            issued: now,
            expires: None,
            uses: Some(1),
        };
        let certificate = MemberCertificate {
            node: key.node(),
            roles: Roles::ALL,
            tags: Vec::new(),
            issued: now,
        };
        let certificate = Signed::sign(&certificate, id, &own_invite);
        let introduction = introduce(&self.root, key.node().key(), own_invite.public(), now);
        let mut documents = self.documents.clone();
        documents.push(NetworkDocument::Invite(Signed::sign(&invite, id, key)));
        Saved::first(
            self.token.network.clone(),
            certificate,
            settings,
            documents,
            vec![introduction],
            self.token.gate.clone(),
        )
    }
}

fn introduce(
    root: &SecretKey,
    node: PublicKey,
    invite: PublicKey,
    now: Timestamp,
) -> Signed<Introduction> {
    let facts = NodeFacts { invite: Some(invite), ipv4: None, name: None };
    let introduction = Introduction { node: node.into(), at: now, facts };
    Signed::sign(&introduction, root.network(), root)
}

/// The state of a node that joins by a token; the invite's key is erased.
pub fn join(
    token: VerifiedToken,
    key: &SecretKey,
    roles: Roles,
    settings: Settings,
    now: Timestamp,
) -> Saved {
    let network = token.network.signed().clone();
    let documents = vec![
        NetworkDocument::Grant(token.grant.signed().clone()),
        NetworkDocument::Genesis(token.genesis.signed().clone()),
        NetworkDocument::Charter(token.charter.signed().clone()),
        NetworkDocument::Invite(token.invite.signed().clone()),
    ];
    let gate = token.gate.clone();
    let certificate = token.admit(key.node(), roles, now).signed().clone();
    Saved::first(network, certificate, settings, documents, Vec::new(), gate)
}
