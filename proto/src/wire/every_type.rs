//! Every type that travels or is kept: what is encoded decodes to the same,
//! and no alteration of an encoding panics or decodes to something that has
//! another encoding.

use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};

use minicbor::data::Type;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};
use rand_core::SeedableRng as _;

use super::*;
use crate::address::Ipv4Range;
use crate::clock::{HybridTime, Timestamp};
use crate::device::{Device, DeviceList, Serving};
use crate::document::{Document, Signed};
use crate::gate::GateSecret;
use crate::id::{BootId, DeviceId, Digest, NetworkId, NodeId, PublicKey};
use crate::key::{AgreementKey, SecretKey};
use crate::letter::{Answer, Ask, Call, Letter, MAX_HOPS, Words};
use crate::message::{
    Bans, Bucket, Change, Claims, Comparison, Credentials, Delivery, Difference, DigestList, Hello,
    Introduced, Inventory, Listed, Refusal, Request, Response, SealedGate, Summary, Taken, Verdict,
    Welcome,
};
use crate::name::{Domain, LabelKey, LabelValue, NetworkName, NodeName, Site, Tag};
use crate::prefix::Prefix;
use crate::record::{Endpoint, EndpointSource, Label, Lost, NodeRecord};
use crate::sealed::{Purpose, SealedBox};
use crate::token::{HostPort, Token};
use crate::trust::{
    AdminGrant, Charter, Departure, Distribution, GateEpoch, GenesisBlock, GenesisMode,
    Introduction, Invite, MemberCertificate, NetworkBlock, NetworkDocument, NodeFacts, Pin,
    Revocation, Revoked, Roles,
};

/// Whether some structure in an encoding has a field that a reader skips.
fn has_skippable_field(bytes: &[u8]) -> bool {
    fn search(decoder: &mut Decoder<'_>) -> Option<bool> {
        let mut found = false;
        match decoder.datatype().ok()? {
            Type::Array => {
                for _ in 0..decoder.array().ok()?? {
                    found |= search(decoder)?;
                }
            }
            Type::Map => {
                for _ in 0..decoder.map().ok()?? {
                    found |= decoder.u64().ok()? >= FIRST_SKIPPABLE_FIELD;
                    found |= search(decoder)?;
                }
            }
            _ => decoder.skip().ok()?,
        }
        Some(found)
    }
    search(&mut Decoder::new(bytes)).unwrap_or(false)
}

/// One change to an encoding.
#[derive(Debug, Clone)]
enum Alteration {
    Set(Index, u8),
    Flip(Index, u8),
    Insert(Index, u8),
    Delete(Index),
    Cut(Index),
    Repeat(Index, Index),
}

fn alteration() -> impl Strategy<Value = Alteration> {
    use Alteration::{Cut, Delete, Flip, Insert, Repeat, Set};
    prop_oneof![
        any::<(Index, u8)>().prop_map(|(at, byte)| Set(at, byte)),
        (any::<Index>(), 0u8..8).prop_map(|(at, bit)| Flip(at, 1 << bit)),
        any::<(Index, u8)>().prop_map(|(at, byte)| Insert(at, byte)),
        any::<Index>().prop_map(Delete),
        any::<Index>().prop_map(Cut),
        any::<(Index, Index)>().prop_map(|(from, to)| Repeat(from, to)),
    ]
}

impl Alteration {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let at = |index: &Index| index.index(bytes.len());
        match self {
            Self::Set(index, byte) => {
                let at = at(index);
                bytes[at] = *byte;
            }
            Self::Flip(index, bit) => {
                let at = at(index);
                bytes[at] ^= bit;
            }
            Self::Insert(index, byte) => bytes.insert(at(index), *byte),
            Self::Delete(index) => drop(bytes.remove(at(index))),
            Self::Cut(index) => bytes.truncate(at(index)),
            Self::Repeat(from, to) => {
                let (from, to) = (at(from).min(at(to)), at(from).max(at(to)));
                let piece = bytes[from..to].to_vec();
                bytes.splice(from..from, piece);
            }
        }
    }
}

fn holds_for_every<T: Wire + PartialEq + Debug>(values: impl Strategy<Value = T>) {
    let mut runner =
        TestRunner::new(Config { cases: 96, failure_persistence: None, ..Config::default() });
    runner
        .run(&(values, vec(alteration(), 1..4)), |(value, alterations)| {
            let bytes = encode(&value);
            prop_assert_eq!(&decode::<T>(&bytes), &Ok(value));
            let mut altered = bytes;
            for alteration in &alterations {
                alteration.apply(&mut altered);
                let Ok(read) = decode::<T>(&altered) else { continue };
                let again = encode(&read);
                if has_skippable_field(&altered) {
                    prop_assert!(again.len() <= altered.len());
                    prop_assert_eq!(decode::<T>(&again), Ok(read));
                } else {
                    prop_assert_eq!(&again, &altered);
                }
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

macro_rules! every_type {
    ($($name:ident: $type:ty = $values:expr;)+) => {$(
        #[test]
        fn $name() {
            holds_for_every::<$type>($values);
        }
    )+};
}

every_type! {
    a_network_block_keeps_its_encoding: NetworkBlock = network_block();
    a_genesis_block_keeps_its_encoding: GenesisBlock = genesis_block();
    an_admin_grant_keeps_its_encoding: AdminGrant = admin_grant();
    a_charter_keeps_its_encoding: Charter = charter();
    an_invite_keeps_its_encoding: Invite = invite();
    a_member_certificate_keeps_its_encoding: MemberCertificate = certificate();
    an_introduction_keeps_its_encoding: Introduction = introduction();
    a_revocation_keeps_its_encoding: Revocation = revocation();
    a_departure_keeps_its_encoding: Departure = departure();
    a_pin_keeps_its_encoding: Pin = pin();
    a_gate_epoch_keeps_its_encoding: GateEpoch = gate_epoch();
    a_network_document_keeps_its_encoding: NetworkDocument = network_document();
    a_node_record_keeps_its_encoding: NodeRecord = node_record();
    a_signed_record_keeps_its_encoding: Signed<NodeRecord> = signed(node_record());
    a_letter_keeps_its_encoding: Words = words();
    a_list_of_devices_keeps_its_encoding: DeviceList = device_list();
    a_sealed_gate_keeps_its_encoding: SealedGate = sealed_gate();
    a_sealed_box_keeps_its_encoding: SealedBox = sealed_box();
    a_gate_secret_keeps_its_encoding: GateSecret = gate_secret();
    a_token_keeps_its_encoding: Token = token();
    a_hello_keeps_its_encoding: Hello = hello();
    bans_keep_their_encoding: Bans = bans();
    credentials_keep_their_encoding: Credentials = credentials();
    a_verdict_keeps_its_encoding: Verdict = verdict();
    a_change_keeps_its_encoding: Change = change();
    a_request_keeps_its_encoding: Request = request();
    a_response_keeps_its_encoding: Response = response();
    a_host_with_port_keeps_its_encoding: HostPort = host_port();
    a_range_keeps_its_encoding: Ipv4Range = range();
    a_prefix_keeps_its_encoding: Prefix = prefix();
    roles_keep_their_encoding: Roles = roles();
    a_socket_address_keeps_its_encoding: SocketAddr = socket_address();
    a_hybrid_time_keeps_its_encoding: HybridTime = hybrid_time();
}

#[test]
fn a_token_keeps_its_text_form() {
    let mut runner =
        TestRunner::new(Config { cases: 96, failure_persistence: None, ..Config::default() });
    runner
        .run(&(token(), alteration()), |(token, alteration)| {
            let text = token.to_text();
            prop_assert_eq!(text.parse::<Token>(), Ok(token));
            let mut altered = text.as_bytes().to_vec();
            alteration.apply(&mut altered);
            // Blanks do not count: terminals and mails put them in.
            let altered = String::from_utf8_lossy(&altered).replace(char::is_whitespace, "");
            if altered != *text {
                prop_assert!(altered.parse::<Token>().is_err());
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

fn parsed<T>(pattern: &'static str) -> impl Strategy<Value = T>
where
    T: std::str::FromStr + Debug,
{
    pattern.prop_filter_map("a reserved name", |text| text.parse().ok())
}

const DNS_LABEL: &str = "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?";

fn node_name() -> impl Strategy<Value = NodeName> {
    parsed(DNS_LABEL)
}

fn site() -> impl Strategy<Value = Site> {
    parsed(DNS_LABEL)
}

fn tags() -> impl Strategy<Value = Vec<Tag>> {
    vec(parsed(DNS_LABEL), 0..4)
}

fn time() -> impl Strategy<Value = Timestamp> {
    any::<u64>().prop_map(Timestamp)
}

fn hybrid_time() -> impl Strategy<Value = HybridTime> {
    (time(), any::<u32>()).prop_map(|(wall, count)| HybridTime { wall, count })
}

fn key() -> impl Strategy<Value = SecretKey> {
    any::<[u8; 32]>().prop_map(|seed| SecretKey::from_seed(&seed))
}

fn public_key() -> impl Strategy<Value = PublicKey> {
    any::<[u8; 32]>().prop_map(PublicKey)
}

fn node() -> impl Strategy<Value = NodeId> {
    any::<[u8; 32]>().prop_map(NodeId)
}

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest)
}

fn roles() -> impl Strategy<Value = Roles> {
    select(vec![Roles::MEMBER, Roles::WORKER, Roles::SERVER.union(Roles::MEMBER), Roles::ALL])
}

fn range() -> impl Strategy<Value = Ipv4Range> {
    (any::<u32>(), 12u8..=22).prop_filter_map("not a private range", |(bits, prefix)| {
        let base = (10 << 24 | bits >> 8) & (u32::MAX << (32 - prefix));
        Ipv4Range::new(base.into(), prefix).ok()
    })
}

fn socket_address() -> impl Strategy<Value = SocketAddr> {
    any::<(IpAddr, u16)>().prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn host_port() -> impl Strategy<Value = HostPort> {
    let address = socket_address().prop_filter_map("no port", |address| {
        (address.port() != 0).then(|| HostPort::from(address))
    });
    prop_oneof![
        address,
        parsed("[a-z]([a-z0-9-]{0,9}[a-z0-9])?(\\.[a-z]{2,5}){0,2}:[1-9][0-9]{0,3}")
    ]
}

fn signed<T: Document + Debug>(
    documents: impl Strategy<Value = T>,
) -> impl Strategy<Value = Signed<T>> {
    (documents, key(), any::<[u8; 32]>())
        .prop_map(|(document, key, network)| Signed::sign(&document, NetworkId(network), &key))
}

fn network_block() -> impl Strategy<Value = NetworkBlock> {
    let name = parsed::<NetworkName>(DNS_LABEL);
    let domain = parsed::<Domain>("[a-z0-9]{1,9}(\\.[a-z]{1,9}){0,3}");
    (name, range(), domain, time()).prop_map(|(name, range, domain, founded)| NetworkBlock {
        name,
        range,
        domain,
        founded,
    })
}

fn genesis_block() -> impl Strategy<Value = GenesisBlock> {
    let mode = prop_oneof![
        node().prop_map(GenesisMode::Founder),
        any::<(u8, u8)>().prop_map(GenesisMode::Servers),
    ];
    let distribution = select(vec![Distribution::Etcd, Distribution::K3s, Distribution::Kubeadm]);
    let cluster = of((1..=u32::MAX, mode, distribution));
    (cluster, time()).prop_map(|(cluster, created)| match cluster {
        None => {
            GenesisBlock { generation: 0, mode: None, distribution: Distribution::None, created }
        }
        Some((generation, mode, distribution)) => {
            GenesisBlock { generation, mode: Some(mode), distribution, created }
        }
    })
}

fn admin_grant() -> impl Strategy<Value = AdminGrant> {
    (public_key(), "\\PC{0,12}", time()).prop_map(|(key, name, issued)| AdminGrant {
        key,
        name,
        issued,
    })
}

fn charter() -> impl Strategy<Value = Charter> {
    (any::<u64>(), time(), any::<u32>()).prop_map(|(version, issued, max_members)| Charter {
        version,
        issued,
        max_members,
    })
}

fn invite() -> impl Strategy<Value = Invite> {
    (public_key(), roles(), tags(), time(), of(time()), any::<Option<u32>>()).prop_map(
        |(key, roles, tags, issued, expires, uses)| Invite {
            key,
            roles,
            tags,
            issued,
            expires,
            uses,
        },
    )
}

fn certificate() -> impl Strategy<Value = MemberCertificate> {
    (node(), roles(), tags(), time()).prop_map(|(node, roles, tags, issued)| MemberCertificate {
        node,
        roles,
        tags,
        issued,
    })
}

fn introduction() -> impl Strategy<Value = Introduction> {
    let facts = (of(public_key()), any::<Option<std::net::Ipv4Addr>>(), of(node_name()))
        .prop_map(|(invite, ipv4, name)| NodeFacts { invite, ipv4, name });
    (node(), time(), facts).prop_map(|(node, at, facts)| Introduction { node, at, facts })
}

fn revocation() -> impl Strategy<Value = Revocation> {
    let revoked = prop_oneof![
        node().prop_map(Revoked::Node),
        public_key().prop_map(Revoked::Invite),
        public_key().prop_map(Revoked::InviteAndMembers),
        public_key().prop_map(Revoked::Admin),
        any::<[u8; 32]>().prop_map(|id| Revoked::Device(DeviceId(id))),
    ];
    (revoked, time(), prop::option::of(public_key()))
        .prop_map(|(revoked, issued, came_by)| Revocation { revoked, issued, came_by })
}

fn departure() -> impl Strategy<Value = Departure> {
    (time(), signed(certificate())).prop_map(|(at, certificate)| Departure { at, certificate })
}

fn pin() -> impl Strategy<Value = Pin> {
    let inherited = vec(any::<std::net::Ipv6Addr>(), 0..3);
    (node(), hybrid_time(), any::<Option<std::net::Ipv4Addr>>(), of(node_name()), inherited)
        .prop_map(|(node, at, ipv4, name, inherited)| Pin { node, at, ipv4, name, inherited })
}

fn sealed_box() -> impl Strategy<Value = SealedBox> {
    (vec(any::<u8>(), 0..40), key(), any::<[u8; 32]>()).prop_map(|(message, key, seed)| {
        let mut random = rand_chacha::ChaCha20Rng::from_seed(seed);
        let network = NetworkId([1; 32]);
        SealedBox::seal(&message, Purpose::GateSecret, network, key.node(), &mut random).unwrap()
    })
}

fn gate_epoch() -> impl Strategy<Value = GateEpoch> {
    (any::<u32>(), digest(), vec((node(), sealed_box()), 0..3))
        .prop_map(|(epoch, check, boxes)| GateEpoch { epoch, check, boxes })
}

fn gate_secret() -> impl Strategy<Value = GateSecret> {
    any::<(u32, [u8; 32])>().prop_map(|(epoch, seed)| {
        GateSecret::generate(epoch, &mut rand_chacha::ChaCha20Rng::from_seed(seed))
    })
}

fn network_document() -> impl Strategy<Value = NetworkDocument> {
    prop_oneof![
        signed(admin_grant()).prop_map(NetworkDocument::Grant),
        signed(revocation()).prop_map(NetworkDocument::Revocation),
        signed(genesis_block()).prop_map(NetworkDocument::Genesis),
        signed(charter()).prop_map(NetworkDocument::Charter),
        signed(invite()).prop_map(NetworkDocument::Invite),
        signed(pin()).prop_map(NetworkDocument::Pin),
        signed(gate_epoch()).prop_map(NetworkDocument::GateEpoch),
        signed(departure()).prop_map(NetworkDocument::Departure),
    ]
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let sources = [
        EndpointSource::Local,
        EndpointSource::Configured,
        EndpointSource::Observed,
        EndpointSource::Mapped,
        EndpointSource::MappedUdp,
        EndpointSource::MappedTcp,
    ];
    (select(sources.to_vec()), socket_address())
        .prop_filter("not usable", |(_, address)| crate::address::is_usable_endpoint(*address))
        .prop_map(|(source, address)| Endpoint { source, address })
}

fn label() -> impl Strategy<Value = Label> {
    let key = parsed::<LabelKey>("[a-z][a-z0-9./_-]{0,9}[A-Z0-9]");
    let value = parsed::<LabelValue>("([A-Za-z0-9][a-z0-9._-]{0,9}[a-z0-9])?");
    (key, value).prop_map(|(key, value)| Label { key, value })
}

fn prefix() -> impl Strategy<Value = Prefix> {
    any::<(std::net::IpAddr, u8)>().prop_map(|(address, length)| Prefix::new(address, length))
}

fn route() -> impl Strategy<Value = Prefix> {
    prefix().prop_filter("routable", |prefix| prefix.is_routable())
}

fn node_record() -> impl Strategy<Value = NodeRecord> {
    let trust = (signed(certificate()), vec(signed(introduction()), 0..=3));
    let claims = (any::<Option<std::net::Ipv4Addr>>(), of(node_name()));
    let place = (vec(endpoint(), 0..=8), of(site()), vec(label(), 0..4));
    let lost = (node(), any::<(u64, u64)>()).prop_map(|(node, (incarnation, sequence))| Lost {
        node,
        incarnation,
        sequence,
    });
    let reach = (any::<(bool, bool)>(), vec(node(), 0..=2), vec(node(), 0..=4), vec(lost, 0..4));
    let said = ("\\PC{0,12}", reach, (any::<Option<u16>>(), vec(route(), 0..4)));
    (any::<(u64, u64, [u8; 16])>(), trust, claims, place, said).prop_map(
        |(
            stamp,
            (certificate, introductions),
            (ipv4, name),
            place,
            (version, reach, (tcp_port, routes)),
        )| {
            NodeRecord {
                incarnation: stamp.0,
                sequence: stamp.1,
                boot: BootId(stamp.2),
                certificate,
                introductions,
                ipv4,
                name,
                endpoints: place.0,
                site: place.1,
                labels: place.2,
                version,
                is_open: reach.0.0,
                is_relay: reach.0.1,
                relays: reach.1,
                hubs: reach.2,
                lost: reach.3,
                tcp_port,
                routes,
            }
        },
    )
}

fn token() -> impl Strategy<Value = Token> {
    let documents = (
        signed(network_block()),
        signed(genesis_block()),
        signed(admin_grant()),
        signed(charter()),
        signed(invite()),
    );
    (documents, key(), gate_secret(), vec(host_port(), 0..4)).prop_map(
        |((network, genesis, grant, charter, invite), key, gate, addresses)| {
            Token::new(network, genesis, grant, charter, invite, &key, gate, addresses)
        },
    )
}

fn hello() -> impl Strategy<Value = Hello> {
    (any::<[u8; 16]>(), time(), any::<u16>(), digest())
        .prop_map(|(boot, clock, port, bans)| Hello { boot: BootId(boot), clock, port, bans })
}

fn bans() -> impl Strategy<Value = Bans> {
    (vec(network_document(), 0..3), any::<bool>())
        .prop_map(|(documents, more)| Bans { documents, more })
}

fn credentials() -> impl Strategy<Value = Credentials> {
    let certified = (signed(admin_grant()), signed(invite()), signed(certificate()));
    let introductions = || vec(signed(introduction()), 0..3);
    let gate = prop::option::of((any::<u32>(), digest()));
    (certified, introductions(), introductions(), gate).prop_map(
        |((grant, invite, certificate), introductions, chain, gate)| Credentials {
            grant,
            invite,
            certificate,
            introductions,
            chain,
            gate,
        },
    )
}

fn sealed_gate() -> impl Strategy<Value = SealedGate> {
    (node(), any::<u32>(), digest(), sealed_box())
        .prop_map(|(to, epoch, check, sealed)| SealedGate { to, epoch, check, sealed })
}

fn verdict() -> impl Strategy<Value = Verdict> {
    let refusals = select(vec![
        Refusal::NodeRevoked,
        Refusal::InviteRevoked,
        Refusal::InviteExpired,
        Refusal::InviteUsedUp,
        Refusal::Certificate,
        Refusal::Cloned,
        Refusal::Full,
        Refusal::Departed,
        Refusal::Protocol,
    ]);
    prop_oneof![
        (of(signed(sealed_gate())), of(signed(gate_epoch())))
            .prop_map(|(gate, epoch)| Verdict::Accepted(Box::new(Welcome { gate, epoch }))),
        refusals.prop_map(Verdict::Refused),
    ]
}

fn device_list() -> impl Strategy<Value = DeviceList> {
    let rest = (any::<std::net::Ipv4Addr>(), vec(node(), 0..=3), time());
    let devices = prop::collection::btree_map(any::<[u8; 32]>(), (node_name(), rest), 0..3);
    let serving = prop::collection::btree_map(any::<[u8; 32]>(), any::<u64>(), 0..3);
    (any::<u64>(), devices, serving)
        .prop_map(|(sequence, devices, serving)| DeviceList {
            sequence,
            devices: devices
                .into_iter()
                .map(|(key, (name, (ipv4, fallbacks, added)))| {
                    let key = AgreementKey(key);
                    Device { key, name, ipv4, fallbacks, added }
                })
                .collect(),
            serving: serving
                .into_iter()
                .map(|(device, turn)| Serving { device: DeviceId(device), turn })
                .collect(),
        })
        .prop_filter("two with one name", |list| decode::<DeviceList>(&encode(list)).is_ok())
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        signed(node_record()).prop_map(Change::Record),
        network_document().prop_map(Change::Document),
        signed(device_list()).prop_map(Change::Devices),
    ]
}

fn delivery() -> impl Strategy<Value = Delivery> {
    (
        vec(network_document(), 0..3),
        vec(signed(node_record()), 0..2),
        vec(signed(device_list()), 0..2),
    )
        .prop_map(|(documents, records, devices)| Delivery { documents, records, devices })
}

fn inventory() -> impl Strategy<Value = Inventory> {
    let documents = of(vec(digest(), 0..4).prop_map(|digests| DigestList { digests }));
    let listed = (node(), any::<u64>(), digest()).prop_map(|(node, sequence, digest)| Listed {
        node,
        sequence,
        digest,
    });
    let bucket = (any::<u8>(), vec((node(), digest()), 0..4), vec(listed, 0..3))
        .prop_map(|(index, records, devices)| Bucket { index, records, devices });
    (documents, vec(bucket, 0..4)).prop_map(|(documents, buckets)| Inventory { documents, buckets })
}

fn request() -> impl Strategy<Value = Request> {
    let claims = (any::<Option<std::net::Ipv4Addr>>(), of(node_name()));
    prop_oneof![
        (digest(), digest())
            .prop_map(|(documents, records)| Request::Compare(Summary { documents, records })),
        inventory().prop_map(Request::Exchange),
        delivery().prop_map(Request::Push),
        claims.prop_map(|(ipv4, name)| Request::Introduce(Claims { ipv4, name })),
        signed(introduction()).prop_map(Request::Vouch),
        letter().prop_map(Request::Letter),
    ]
}

fn letter() -> impl Strategy<Value = Letter> {
    (node(), node(), 0..=MAX_HOPS, any::<u64>(), vec(any::<u8>(), 0..40)).prop_map(
        |(from, to, hops, counter, sealed)| Letter {
            from,
            to,
            hops,
            counter,
            sealed: Bytes(sealed),
        },
    )
}

fn words() -> impl Strategy<Value = Words> {
    let usable = socket_address()
        .prop_filter("not usable", |address| crate::address::is_usable_endpoint(*address));
    let call = (vec(usable, 0..=12), any::<bool>());
    prop_oneof![
        call.prop_map(|(addresses, wants_answer)| Words::Call(Call { addresses, wants_answer })),
        node().prop_map(|peer| Words::Ask(Ask { peer })),
        (node(), any::<Option<u32>>())
            .prop_map(|(peer, channel)| Words::Answer(Answer { peer, channel })),
    ]
}

fn response() -> impl Strategy<Value = Response> {
    let wanted = (vec(digest(), 0..3), vec(node(), 0..3), vec(node(), 0..3));
    let difference = (delivery(), wanted, any::<bool>());
    prop_oneof![
        (any::<bool>(), vec(digest(), 0..4)).prop_map(|(documents, buckets)| {
            Response::Compared(Comparison { documents, buckets })
        }),
        difference.prop_map(|(delivery, wanted, more)| {
            let (wanted_documents, wanted_records, wanted_devices) = wanted;
            Response::Difference(Difference {
                delivery,
                wanted_documents,
                wanted_records,
                wanted_devices,
                more,
            })
        }),
        (of(signed(introduction())), any::<bool>(), any::<bool>()).prop_map(
            |(introduction, ipv4_taken, name_taken)| {
                Response::Introduced(Introduced { introduction, ipv4_taken, name_taken })
            }
        ),
        any::<bool>().prop_map(|incomplete| Response::Taken(Taken { incomplete })),
    ]
}
