//! Real documents of one small network, the same in every run.

use epsilon_mesh::founding::{Founding, Plan, found};
use epsilon_mesh::saved::{Saved, Settings};
use epsilon_proto::address::DEFAULT_RANGE;
use epsilon_proto::clock::{HybridTime, Timestamp};
use epsilon_proto::device::{Device, DeviceList, Serving};
use epsilon_proto::document::{Document, Signed};
use epsilon_proto::id::{BootId, DeviceId, Digest, NetworkId};
use epsilon_proto::key::{AgreementKey, SecretKey, Strict};
use epsilon_proto::prefix::Prefix;
use epsilon_proto::record::{Endpoint, EndpointSource, Label, Lost, NodeRecord};
use epsilon_proto::sealed::{Purpose, SealedBox};
use epsilon_proto::trust::{
    AdminGrant, Charter, Departure, Distribution, GateEpoch, GenesisBlock, GenesisMode,
    Introduction, Invite, MemberCertificate, NetworkDocument, NodeFacts, Pin, Revocation, Revoked,
    Roles,
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;

pub(crate) const NOW: Timestamp = Timestamp(1_800_000_000_000);

pub(crate) fn random() -> ChaCha20Rng {
    ChaCha20Rng::from_seed([5; 32])
}

pub(crate) fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

/// Node 1 is the first admin.
pub(crate) fn founding() -> Founding {
    let plan = Plan {
        name: "home".parse().unwrap(),
        range: DEFAULT_RANGE,
        domain: "epsilon.internal".parse().unwrap(),
        distribution: Distribution::None,
        mode: None,
        roles: Roles::ALL,
        tags: vec!["edge".parse().unwrap()],
        expires: Some(Timestamp(1_900_000_000_000)),
        uses: Some(20),
        advertise: vec![
            "vpn.example.org:7755".parse().unwrap(),
            "[2001:db8::7]:1".parse().unwrap(),
        ],
        max_members: 64,
    };
    found(plan, &key(1), NOW, &mut random())
}

pub(crate) fn network() -> NetworkId {
    founding().root.network()
}

pub(crate) fn settings() -> Settings {
    Settings {
        name: Some("n1".parse().unwrap()),
        site: Some("attic".parse().unwrap()),
        labels: vec![label()],
        advertise: vec!["192.0.2.7:7755".parse().unwrap()],
        port: 7755,
        interface: "eps0".to_owned(),
        token_addresses: vec!["vpn.example.org:7755".parse().unwrap()],
    }
}

pub(crate) fn saved() -> Saved {
    founding().first_member(&key(1), settings(), NOW, &mut random())
}

pub(crate) fn label() -> Label {
    Label { key: "example.org/rack".parse().unwrap(), value: "A-1".parse().unwrap() }
}

pub(crate) fn signed<T: Document>(document: &T, signer: &SecretKey) -> Signed<T> {
    Signed::sign(document, network(), signer)
}

pub(crate) fn genesis() -> GenesisBlock {
    GenesisBlock {
        generation: 1,
        mode: Some(GenesisMode::Servers((5, 1))),
        distribution: Distribution::K3s,
        created: NOW,
    }
}

pub(crate) fn grant() -> AdminGrant {
    AdminGrant { key: key(2).public(), name: "Zoë".to_owned(), issued: NOW }
}

pub(crate) fn charter() -> Charter {
    Charter { version: 2, issued: NOW, max_members: 9 }
}

pub(crate) fn invite() -> Invite {
    (*founding().token.invite.peek().unwrap()).clone()
}

/// Node 3's, as its invite signed it.
pub(crate) fn signed_certificate() -> Signed<MemberCertificate> {
    let token = founding().token.verify(&Strict).expect("a real token");
    token.admit(key(3).node(), Roles::WORKER, NOW).signed().clone()
}

pub(crate) fn certificate() -> MemberCertificate {
    (*signed_certificate().peek().unwrap()).clone()
}

pub(crate) fn introduction() -> Introduction {
    let facts = NodeFacts {
        invite: Some(invite().key),
        ipv4: Some([10, 77, 1, 2].into()),
        name: Some("n3".parse().unwrap()),
    };
    Introduction { node: key(3).node(), at: NOW, facts }
}

pub(crate) fn revocation(revoked: Revoked) -> Revocation {
    Revocation { revoked, issued: NOW, came_by: Some(key(4).public()) }
}

pub(crate) fn departure() -> Departure {
    Departure { at: NOW, certificate: signed_certificate() }
}

pub(crate) fn pin() -> Pin {
    Pin {
        node: key(3).node(),
        at: HybridTime { wall: NOW, count: 3 },
        ipv4: Some([10, 77, 9, 9].into()),
        name: Some("db".parse().unwrap()),
        inherited: vec!["fd00::7".parse().unwrap()],
    }
}

pub(crate) fn sealed_box() -> SealedBox {
    let (purpose, to) = (Purpose::GateSecret, key(3).node());
    SealedBox::seal(&[7; 32], purpose, network(), to, &mut random()).unwrap()
}

pub(crate) fn gate_epoch() -> GateEpoch {
    let check = Digest([4; 32]);
    GateEpoch { epoch: 2, check, boxes: vec![(key(3).node(), sealed_box())] }
}

pub(crate) fn record() -> NodeRecord {
    let endpoint = |source, address: &str| Endpoint { source, address: address.parse().unwrap() };
    NodeRecord {
        incarnation: 2,
        sequence: 7,
        boot: BootId([6; 16]),
        certificate: signed_certificate(),
        introductions: vec![signed(&introduction(), &key(1))],
        ipv4: Some([10, 77, 1, 2].into()),
        name: Some("n3".parse().unwrap()),
        endpoints: vec![
            endpoint(EndpointSource::Local, "192.168.1.7:7755"),
            endpoint(EndpointSource::Configured, "[2001:db8::9]:7755"),
            endpoint(EndpointSource::Observed, "198.51.100.9:41000"),
            endpoint(EndpointSource::Mapped, "203.0.113.9:7755"),
        ],
        site: Some("attic".parse().unwrap()),
        labels: vec![label()],
        version: "0.1.0".to_owned(),
        is_open: true,
        is_relay: true,
        relays: vec![key(5).node()],
        hubs: vec![key(5).node()],
        lost: vec![Lost { node: key(6).node(), incarnation: 3, sequence: 4 }],
        tcp_port: Some(443),
        routes: vec![Prefix::ALL_V4, Prefix::host([192, 168, 10, 7])],
    }
}

pub(crate) fn devices() -> DeviceList {
    let keys = [1, 2].map(|number| AgreementKey::of_secret(&[number; 32]));
    let device = |index: usize, name: &str| Device {
        key: keys[index],
        name: name.parse().unwrap(),
        ipv4: [10, 77, 2, index as u8].into(),
        fallbacks: vec![key(1).node()],
        added: NOW,
    };
    let mut devices = vec![device(0, "phone"), device(1, "n3")];
    devices.sort_by_key(|device| device.key);
    let serving = vec![Serving { device: DeviceId::of(key(1).node(), keys[0]), turn: 3 }];
    DeviceList { sequence: 5, devices, serving }
}

/// One network document of each kind.
pub(crate) fn documents() -> Vec<NetworkDocument> {
    let founding = founding();
    let (root, admin) = (&founding.root, &key(1));
    let first = AdminGrant { key: admin.public(), name: "first".to_owned(), issued: NOW };
    let revoke =
        |revoked, signer| NetworkDocument::Revocation(signed(&revocation(revoked), signer));
    vec![
        NetworkDocument::Grant(signed(&first, root)),
        NetworkDocument::Grant(signed(&grant(), root)),
        NetworkDocument::Genesis(signed(&genesis(), root)),
        NetworkDocument::Charter(signed(&charter(), admin)),
        NetworkDocument::Invite(signed(&invite(), admin)),
        NetworkDocument::Pin(signed(&pin(), admin)),
        NetworkDocument::GateEpoch(signed(&gate_epoch(), admin)),
        NetworkDocument::Departure(signed(&departure(), &key(3))),
        revoke(Revoked::Node(key(3).node()), admin),
        revoke(Revoked::Invite(invite().key), admin),
        revoke(Revoked::InviteAndMembers(invite().key), admin),
        revoke(Revoked::Device(DeviceId([5; 32])), admin),
        revoke(Revoked::Admin(key(2).public()), root),
    ]
}
