//! The documents that members sign and keep, and the values in them.

use std::net::SocketAddr;

use epsilon_proto::address::Ipv4Range;
use epsilon_proto::clock::HybridTime;
use epsilon_proto::device::DeviceList;
use epsilon_proto::document::{Document, Signed};
use epsilon_proto::gate::GateSecret;
use epsilon_proto::id::NetworkId;
use epsilon_proto::key::Strict;
use epsilon_proto::message::SealedGate;
use epsilon_proto::record::{Endpoint, Label, NodeRecord};
use epsilon_proto::sealed::SealedBox;
use epsilon_proto::token::HostPort;
use epsilon_proto::trust::{
    AdminGrant, Charter, Departure, GateEpoch, GenesisBlock, Introduction, Invite,
    MemberCertificate, NetworkBlock, NetworkDocument, Pin, Revocation, Revoked, Roles,
};
use epsilon_proto::wire;

use crate::decoding::{self, Kind, kinds};
use crate::samples as sample;

const PLAIN: &[Kind] = kinds! {
    NetworkBlock: (*sample::founding().token.network.peek().unwrap()).clone(),
    GenesisBlock: sample::genesis(),
    AdminGrant: sample::grant(),
    Charter: sample::charter(),
    Invite: sample::invite(),
    MemberCertificate: sample::certificate(),
    Introduction: sample::introduction(),
    Revocation: sample::revocation(Revoked::Node(sample::key(3).node())),
    Departure: sample::departure(),
    Pin: sample::pin(),
    GateEpoch: sample::gate_epoch(),
    NodeRecord: sample::record(),
    DeviceList: sample::devices(),
    SealedGate: crate::messages::sealed_gate(),
    SealedBox: sample::sealed_box(),
    GateSecret: GateSecret::generate(3, &mut sample::random()),
    HostPort: "vpn.example.org:7755".parse().unwrap(),
    Ipv4Range: "10.77.0.0/16".parse().unwrap(),
    Roles: Roles::ALL,
    SocketAddr: "[2001:db8::9]:7755".parse().unwrap(),
    HybridTime: sample::pin().at,
    Endpoint: sample::record().endpoints[1],
    Label: sample::label(),
};

macro_rules! signed_kinds {
    ($($type:ty: $sample:expr),+ $(,)?) => {
        &[$(Kind {
            check: signed::<$type>,
            sample: || wire::encode(&sample::signed(&$sample, &sample::key(1))),
        }),+]
    };
}

const SIGNED: &[Kind] = signed_kinds! {
    NetworkBlock: (*sample::founding().token.network.peek().unwrap()).clone(),
    GenesisBlock: sample::genesis(),
    AdminGrant: sample::grant(),
    Charter: sample::charter(),
    Invite: sample::invite(),
    MemberCertificate: sample::certificate(),
    Introduction: sample::introduction(),
    Revocation: sample::revocation(Revoked::Admin(sample::key(3).public())),
    Departure: sample::departure(),
    Pin: sample::pin(),
    GateEpoch: sample::gate_epoch(),
    NodeRecord: sample::record(),
    DeviceList: sample::devices(),
    SealedGate: crate::messages::sealed_gate(),
};

/// The envelope, then what is in it, then the signature and the key.
fn signed<T: Document>(bytes: &[u8]) {
    let Some(signed) = decoding::decode::<Signed<T>>(bytes) else { return };
    if let Ok(document) = signed.peek() {
        // What was in it may have skippable fields; what it is now has none.
        let again = wire::encode(&*document);
        assert!(wire::decode::<T>(&again).is_ok());
    }
    let _ = signed.signer().agreement();
    let _ = signed.verify(NetworkId([1; 32]), &Strict);
}

fn network_document(bytes: &[u8]) {
    if let Some(document) = decoding::decode::<NetworkDocument>(bytes) {
        assert!(document.rank() <= 3);
        let _ = document.digest();
    }
}

/// Signed and plain documents, network documents, and single values.
pub fn documents(input: &[u8]) {
    match input {
        [0, rest @ ..] => decoding::choose(PLAIN, rest),
        [1, rest @ ..] => decoding::choose(SIGNED, rest),
        [_, rest @ ..] => network_document(rest),
        [] => {}
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let group = |first: u8, seeds: Vec<Vec<u8>>| {
        seeds.into_iter().map(move |seed| [&[first][..], &seed].concat())
    };
    group(0, decoding::seeds(PLAIN))
        .chain(group(1, decoding::seeds(SIGNED)))
        .chain(group(2, sample::documents().iter().map(wire::encode).collect()))
        .collect()
}
