//! The set of network documents and the members, with signatures that always
//! hold: whoever signed what, the order must not matter and nothing may
//! panic.

use epsilon_mesh::membership::{Membership, Word};
use epsilon_mesh::trust::Trust;
use epsilon_proto::address::DEFAULT_RANGE;
use epsilon_proto::id::{NetworkId, PublicKey};
use epsilon_proto::key::{Signature, SignatureCheck};
use epsilon_proto::message::Delivery;
use epsilon_proto::trust::NetworkDocument;
use epsilon_proto::wire;

use crate::{messages, samples};

pub(crate) struct Holds;

impl SignatureCheck for Holds {
    fn holds(&self, _key: &PublicKey, _message: &[u8], _signature: &Signature) -> bool {
        true
    }
}

thread_local! {
    static NETWORK: NetworkId = samples::network();
}

fn merged<'d>(documents: impl Iterator<Item = &'d NetworkDocument> + Clone) -> Trust {
    let mut trust = Trust::new(NETWORK.with(|network| *network), samples::NOW);
    // A grant lets in what was refused before.
    while documents.clone().any(|document| trust.merge(document, &Holds) == Ok(true)) {}
    trust
}

/// A delivery, taken in two orders.
pub fn trust(input: &[u8]) {
    let Ok(delivery) = wire::decode::<Delivery>(input) else { return };
    let mut one = merged(delivery.documents.iter());
    let mut other = merged(delivery.documents.iter().rev());
    assert_eq!(one.digest(), other.digest());
    assert_eq!(one.digests(), other.digests());
    assert!(one.admins().eq(other.admins()));
    assert!(one.invites().eq(other.invites()));
    assert_eq!(one.charter(), other.charter());
    assert_eq!(one.genesis(), other.genesis());
    assert_eq!(one.contradictory_generations(), other.contradictory_generations());
    assert_eq!(one.newest_signed(), other.newest_signed());
    assert_eq!(one.bans(), other.bans());
    assert_eq!(one.bans_digest(), other.bans_digest());

    let network = NETWORK.with(|network| *network);
    let mut members = Membership::new(network, DEFAULT_RANGE, samples::key(1).node());
    for record in delivery.records.iter().chain(&delivery.records) {
        let word = Word { invite: samples::key(1).public(), is_out: false };
        members.vouch(record.signer().into(), word);
        let _ = members.merge(record, &one, &Holds);
    }
    for list in delivery.devices.iter().chain(&delivery.devices) {
        let _ = members.merge_devices(list, &one, &Holds);
    }
    members.place_devices(&one);
    assert!(members.place_devices(&one).is_empty());
    for device in members.devices() {
        assert!(device.is_for(device.server));
        if let Some(address) = device.ipv4 {
            assert_eq!(members.owner_of_ipv4(address, &one), None);
        }
        if let Some(name) = &device.name {
            assert_eq!(members.owner_of_name(name, &one), None);
        }
    }
    let _ = members.digest();
    let nodes: Vec<_> = members.iter().map(|(node, _)| node).collect();
    for node in nodes {
        assert_eq!(one.pin(node), other.pin(node));
        if let Some(address) = members.ipv4_of(node, &one) {
            assert_eq!(members.owner_of_ipv4(address, &one), Some(node));
        }
        if let Some(name) = members.name_of(node, &one) {
            assert_eq!(members.owner_of_name(&name, &one), Some(node));
        }
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut delivery = messages::delivery();
    // The invite is not revoked in the first one, so that its records count.
    let revoked = delivery.documents.split_off(8);
    let admitted = wire::encode(&delivery);
    delivery.documents.extend(revoked);
    vec![admitted, wire::encode(&delivery)]
}
