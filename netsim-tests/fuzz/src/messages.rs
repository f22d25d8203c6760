//! What members say to one another on the control plane.

use epsilon_proto::id::{BootId, Digest};
use epsilon_proto::message::{
    Bans, Bucket, Change, Claims, Comparison, Credentials, Delivery, Difference, DigestList, Hello,
    Introduced, Inventory, Listed, Newest, Refusal, Request, Response, SealedGate, Summary, Taken,
    Verdict, Welcome,
};
use epsilon_proto::trust::NetworkDocument;

use crate::decoding::{self, Kind, kinds};
use crate::samples as sample;

const KINDS: &[Kind] = kinds! {
    Hello: hello(),
    Bans: bans(),
    Credentials: credentials(),
    Verdict: Verdict::Accepted(Box::new(welcome())),
    Verdict: Verdict::Refused(Refusal::InviteUsedUp),
    Change: Change::Record(sample::signed(&sample::record(), &sample::key(3))),
    Change: Change::Devices(sample::signed(&sample::devices(), &sample::key(3))),
    Change: Change::Document(sample::documents().remove(4)),
    Request: Request::Compare(Summary { documents: Digest([1; 32]), records: Digest([2; 32]) }),
    Request: Request::Exchange(inventory()),
    Request: Request::Push(delivery()),
    Request: Request::Introduce(Claims {
        ipv4: sample::record().ipv4,
        name: sample::record().name,
    }),
    Request: Request::Gate(Newest { gate: Some((3, Digest([4; 32]))) }),
    Request: Request::Vouch(sample::signed(&sample::introduction(), &sample::key(1))),
    Response: Response::Compared(Comparison { documents: true, buckets: vec![Digest([3; 32]); 3] }),
    Response: Response::Difference(difference()),
    Response: Response::Introduced(Introduced {
        introduction: Some(sample::signed(&sample::introduction(), &sample::key(1))),
        ipv4_taken: true,
        name_taken: false,
    }),
    Response: Response::Taken(Taken { incomplete: true }),
    Response: Response::Gate(Box::new(welcome())),
};

pub(crate) fn sealed_gate() -> SealedGate {
    let check = Digest([4; 32]);
    SealedGate { to: sample::key(3).node(), epoch: 2, check, sealed: sample::sealed_box() }
}

fn welcome() -> Welcome {
    Welcome {
        gate: Some(sample::signed(&sealed_gate(), &sample::key(1))),
        epoch: Some(sample::signed(&sample::gate_epoch(), &sample::key(1))),
    }
}

pub(crate) fn hello() -> Hello {
    Hello { boot: BootId([6; 16]), clock: sample::NOW, port: 7755, bans: Digest([7; 32]) }
}

pub(crate) fn bans() -> Bans {
    Bans { documents: sample::documents().into_iter().filter(is_first_word).collect(), more: false }
}

fn is_first_word(document: &NetworkDocument) -> bool {
    matches!(document, NetworkDocument::Grant(_) | NetworkDocument::Revocation(_))
}

pub(crate) fn credentials() -> Credentials {
    let token = sample::founding().token;
    Credentials {
        grant: token.grant,
        invite: token.invite,
        certificate: sample::record().certificate,
        introductions: sample::record().introductions,
        chain: sample::record().introductions,
        gate: Some((1, Digest([4; 32]))),
    }
}

pub(crate) fn delivery() -> Delivery {
    Delivery {
        documents: sample::documents(),
        records: vec![sample::signed(&sample::record(), &sample::key(3))],
        devices: vec![sample::signed(&sample::devices(), &sample::key(3))],
    }
}

pub(crate) fn inventory() -> Inventory {
    let node = sample::key(3).node();
    Inventory {
        documents: Some(DigestList { digests: vec![Digest([1; 32]), Digest([2; 32])] }),
        buckets: vec![Bucket {
            index: 5,
            records: vec![(node, Digest([3; 32]))],
            devices: vec![Listed { node, sequence: 2, digest: Digest([4; 32]) }],
        }],
    }
}

pub(crate) fn difference() -> Difference {
    Difference {
        delivery: Delivery { documents: sample::documents().split_off(9), ..Delivery::default() },
        wanted_documents: vec![Digest([1; 32])],
        wanted_records: vec![sample::key(3).node()],
        wanted_devices: vec![sample::key(3).node()],
        more: true,
    }
}

/// Admission, gossip, and the requests and responses of anti-entropy.
pub fn messages(input: &[u8]) {
    decoding::choose(KINDS, input);
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    decoding::seeds(KINDS)
}
