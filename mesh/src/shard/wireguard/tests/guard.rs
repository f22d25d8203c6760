//! Under load: who has to prove its address, how, and for how long.

use super::*;

/// Uses up what passes without proof at this time.
fn exhaust(engine: &mut WireGuard, own: usize, now: Instant) {
    let peer = engine_key(own);
    for _ in 0..250 {
        let mut message = vec![0; HANDSHAKE_LENGTH];
        message[0] = 1;
        mac::seal(&peer, None, &mut message).unwrap();
        let _ = engine.initiator(address(1 - own), &message, now, &mut [0; HANDSHAKE_LENGTH]);
    }
}

fn engine_key(side: usize) -> PublicKey {
    PublicKey::from(agreement(side).0)
}

/// A message of a handshake to side 0, with a proof of address where there is a
/// cookie; its first seal, and how it was judged.
struct Knock {
    guard: Guard,
    now: Instant,
}

impl Knock {
    fn under_load() -> Self {
        let now = Instant(Duration::from_secs(1000));
        let mut knock = Self { guard: Guard::new(&engine_key(0), entropy()), now };
        while knock.at(address(1), None).0 == Verdict::Passes {}
        knock
    }

    fn at(
        &mut self,
        from: SocketAddr,
        cookie: Option<&mac::Cookie>,
    ) -> (Verdict, Option<mac::Cookie>) {
        let mut message = vec![7; HANDSHAKE_LENGTH];
        let seal = mac::seal(&engine_key(0), cookie, &mut message).unwrap();
        let mut reply = vec![0; HANDSHAKE_LENGTH];
        let verdict = self.guard.judge(from, &message, self.now, &mut reply);
        let given = match verdict {
            Verdict::Challenged(length) => {
                mac::open_cookie(&engine_key(0), &seal, &reply[..length])
            }
            _ => None,
        };
        (verdict, given)
    }

    /// The same, under load again.
    fn later(&mut self, after: Duration) {
        self.now = self.now + after;
        for _ in 0..300 {
            self.at("198.51.100.1:1".parse().unwrap(), None);
        }
    }
}

#[test]
fn a_cookie_is_good_for_its_address_and_port_and_for_two_minutes() {
    for (from, other_port, other_host) in [
        ("192.0.2.9:1000", "192.0.2.9:1001", "192.0.2.10:1000"),
        ("[2001:db8::9]:1000", "[2001:db8::9]:1001", "[2001:db8::a]:1000"),
    ] {
        let mut knock = Knock::under_load();
        let from = from.parse().unwrap();
        let cookie = knock.at(from, None).1.unwrap();
        assert_eq!(knock.at(from, Some(&cookie)).0, Verdict::Passes);
        for other in [other_port, other_host] {
            let judged = knock.at(other.parse().unwrap(), Some(&cookie)).0;
            assert!(matches!(judged, Verdict::Challenged(_)), "{other}");
        }
        knock.later(Duration::from_secs(119));
        assert_eq!(knock.at(from, Some(&cookie)).0, Verdict::Passes);
        knock.later(Duration::from_secs(2));
        let (judged, next) = knock.at(from, Some(&cookie));
        assert!(matches!(judged, Verdict::Challenged(_)));
        assert_ne!(next, Some(cookie));
        assert_eq!(knock.at(from, next.as_ref()).0, Verdict::Passes);
    }
    let given = mac::Given { cookie: [1; 16], at: Instant(Duration::from_secs(1000)) };
    assert!(given.usable(Instant(Duration::from_secs(1119))).is_some());
    assert!(given.usable(Instant(Duration::from_secs(1120))).is_none());
}

#[test]
fn a_source_that_proved_itself_and_asks_too_often_takes_nothing_from_others() {
    let mut knock = Knock::under_load();
    let greedy: SocketAddr = "192.0.2.9:1000".parse().unwrap();
    let cookie = knock.at(greedy, None).1.unwrap();
    let passed = (0..50).filter(|_| knock.at(greedy, Some(&cookie)).0 == Verdict::Passes).count();
    assert_eq!(passed, 5);
    // Another port of the host shares its limit, other hosts do not.
    let sibling: SocketAddr = "192.0.2.9:2000".parse().unwrap();
    let cookie = knock.at(sibling, None).1.unwrap();
    assert_eq!(knock.at(sibling, Some(&cookie)).0, Verdict::Refused);
    let others = (1..=20).filter(|host| {
        let other = SocketAddr::from(([198, 51, 100, *host], 7755));
        let cookie = knock.at(other, None).1.unwrap();
        knock.at(other, Some(&cookie)).0 == Verdict::Passes
    });
    // Some may share a place with it.
    assert!(others.count() >= 18);
}

/// Waits for the next answer to the side that began, and lets it arrive under
/// load.
fn answer_arrives_under_load(link: &mut Link) {
    let is_answer = |link: &Link| {
        link.on_the_way.values().next().is_some_and(|(to, bytes)| *to == 0 && bytes[0] == 2)
    };
    while !is_answer(link) {
        link.pass(Duration::from_millis(1));
        assert!(link.begun.len() < 4, "nobody answers");
    }
    let (_, (_, answer)) = link.on_the_way.pop_first().unwrap();
    let now = link.clock(0);
    exhaust(&mut link.sides[0].engine, 0, now);
    link.arrive(0, &answer);
}

#[test]
fn an_answer_under_load_is_challenged_too_and_counts_with_the_cookie() {
    let mut link = Link::new(Duration::from_millis(20), 0);
    link.send(0, 1);
    answer_arrives_under_load(&mut link);
    assert!(link.sides[0].completed.is_empty());
    link.pass(Duration::from_millis(25));
    assert!(link.sides[1].tunnel.has_cookie());
    // The next one shows it.
    answer_arrives_under_load(&mut link);
    link.pass(Duration::from_secs(1));
    assert_eq!((link.begun.len(), link.sides[0].completed.len()), (2, 1));
    assert_eq!(link.numbers(1), [1]);
}
