//! What is sealed: beacons, greetings at the gate, boxes.

use epsilon_proto::beacon::{self, Beacon};
use epsilon_proto::gate::{GREETING, GateSecret};
use epsilon_proto::id::BootId;
use epsilon_proto::sealed::{Purpose, SealedBox};
use epsilon_proto::wire;

use crate::{decoding, samples};

struct Fixture {
    secret: GateSecret,
    beacon: Beacon,
    datagram: Vec<u8>,
    greeting: [u8; GREETING],
}

fn fixture() -> Fixture {
    let mut random = samples::random();
    let secret = GateSecret::generate(3, &mut random);
    let beacon = Beacon { node: samples::key(1).node(), boot: BootId([2; 16]), port: 7755 };
    let datagram = beacon.seal(&secret, samples::network(), &mut random);
    assert_eq!(datagram.len(), beacon::LENGTH);
    let greeting = secret.greeting(samples::network(), [9; 32]);
    Fixture { secret, beacon, datagram, greeting }
}

thread_local! {
    static FIXTURE: Fixture = fixture();
    static NETWORK: epsilon_proto::id::NetworkId = samples::network();
}

/// Junk, and real ones with some bits changed: only the real ones open.
pub fn seals(input: &[u8]) {
    let network = NETWORK.with(|network| *network);
    FIXTURE.with(|fixture| match input {
        [0, junk @ ..] => {
            let opened = Beacon::open(junk, &fixture.secret, network);
            assert!(opened.is_none() || junk == fixture.datagram);
        }
        [1, mask @ ..] => {
            let datagram = masked(&fixture.datagram, mask);
            let opened = Beacon::open(&datagram, &fixture.secret, network);
            assert_eq!(opened, (datagram == fixture.datagram).then_some(fixture.beacon));
        }
        [2, mask @ ..] => {
            let greeting = masked(&fixture.greeting, mask);
            let is_real = greeting == fixture.greeting;
            let greeting = greeting.try_into().unwrap_or([0; GREETING]);
            assert_eq!(fixture.secret.admits(network, &greeting), is_real);
        }
        [_, bytes @ ..] => {
            if let Some(sealed) = decoding::decode::<SealedBox>(bytes) {
                let opened = sealed.open(Purpose::GateSecret, network, &samples::key(3));
                assert_eq!(opened.is_ok(), bytes == wire::encode(&samples::sealed_box()));
            }
        }
        [] => {}
    });
}

fn masked(bytes: &[u8], mask: &[u8]) -> Vec<u8> {
    let mask = mask.iter().copied().chain(std::iter::repeat(0));
    bytes.iter().zip(mask).map(|(byte, mask)| byte ^ mask).collect()
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let fixture = fixture();
    let mut last_bit = vec![0; GREETING];
    last_bit[GREETING - 1] = 1;
    vec![
        [&[0][..], &fixture.datagram].concat(),
        vec![1],
        [&[2][..], &last_bit].concat(),
        [&[3][..], &wire::encode(&samples::sealed_box())].concat(),
    ]
}
