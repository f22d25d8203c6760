use super::*;

const MINUTE: Duration = Duration::from_mins(1);
const HOME: Place =
    Place { router: Ipv4Addr::new(192, 168, 1, 1), own: Ipv4Addr::new(192, 168, 1, 7) };

/// A router that gives what it is asked for.
struct Scene {
    plan: Plan,
    now: Instant,
    /// The protocols that it knows.
    knows: Vec<Protocol>,
    /// The outer ports of others.
    taken: Vec<u16>,
    outside: Ipv4Addr,
    lifetime: Duration,
    started: Instant,
    /// What it was asked, in order.
    asked: Vec<(Protocol, Transport, u16)>,
}

impl Scene {
    fn knowing(knows: &[Protocol]) -> Self {
        let now = Instant(MINUTE * 1000);
        let mut plan = Plan::new(7755, [7; 32]);
        plan.handle_place(Some(HOME), true, now);
        Self {
            plan,
            now,
            knows: knows.to_vec(),
            taken: Vec::new(),
            outside: Ipv4Addr::new(203, 0, 113, 9),
            lifetime: LIFETIME,
            started: Instant::default(),
            asked: Vec::new(),
        }
    }

    fn answer(&self, request: &Request) -> Result<Granted, Refusal> {
        if !self.knows.contains(&request.protocol) {
            return Err(Refusal::Failed("no answer".to_owned()));
        }
        if self.taken.contains(&request.outer) {
            return Err(Refusal::Taken);
        }
        Ok(Granted {
            outside: SocketAddrV4::new(self.outside, request.outer),
            lifetime: self.lifetime,
            epoch: Some(self.now.since(self.started).as_secs() as u32),
        })
    }

    /// Asks what is to be asked now.
    fn ask(&mut self) -> State {
        self.plan.handle_timeout(self.now);
        while let Some(request) = self.plan.next_request(self.now) {
            assert_eq!(self.plan.next_request(self.now), None, "one at a time");
            self.asked.push((request.protocol, request.transport, request.outer));
            let answer = self.answer(&request);
            self.plan.handle_answer(answer, self.now);
        }
        self.plan.state()
    }

    /// Lets time pass; gives when rounds began.
    fn pass(&mut self, time: Duration) -> Vec<Duration> {
        let (begin, end) = (self.now, self.now + time);
        let mut rounds = Vec::new();
        while let Some(due) = self.plan.due().filter(|due| *due <= end) {
            let asked = self.asked.len();
            self.now = self.now.max(due);
            self.ask();
            if self.asked.len() > asked {
                rounds.push(self.now.since(begin));
            }
        }
        self.now = end;
        self.ask();
        rounds
    }
}

fn outside(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 9), port)
}

#[test]
fn both_ports_are_asked_for_by_the_first_protocol_that_answers() {
    use Protocol::{NatPmp, Pcp, Upnp};
    use Transport::{Tcp, Udp};
    for (place, protocol) in PROTOCOLS.into_iter().enumerate() {
        let mut scene = Scene::knowing(&[protocol]);
        let state = scene.ask();
        assert_eq!(
            (state.protocol, state.udp, state.tcp),
            (Some(protocol), Some(outside(7755)), Some(outside(7755)))
        );
        assert_eq!(state.problem, None);
        let mut wanted: Vec<_> =
            [Pcp, NatPmp, Upnp][..=place].iter().map(|one| (*one, Udp, 7755)).collect();
        wanted.push((protocol, Tcp, 7755));
        assert_eq!(scene.asked, wanted);
        // From then on it is the first.
        scene.asked.clear();
        assert_eq!(scene.pass(LIFETIME / 2), [LIFETIME / 2]);
        assert_eq!(scene.asked, [(protocol, Udp, 7755), (protocol, Tcp, 7755)]);
    }
}

#[test]
fn nobody_is_asked_without_a_router_and_a_new_one_at_once() {
    let mut scene = Scene::knowing(&PROTOCOLS);
    scene.ask();
    scene.plan.handle_place(None, true, scene.now);
    assert_eq!(scene.ask(), State::default());
    assert_eq!(scene.plan.due(), None);
    let asked = scene.asked.len();
    let place = Place { own: Ipv4Addr::new(192, 168, 1, 8), ..HOME };
    scene.plan.handle_place(Some(place), false, scene.now);
    assert!(scene.ask().udp.is_some());
    assert_eq!(scene.asked.len(), asked + 2);
}

#[test]
fn an_answer_of_another_router_counts_for_nothing() {
    let mut scene = Scene::knowing(&PROTOCOLS);
    let request = scene.plan.next_request(scene.now).unwrap();
    let place = Place { router: Ipv4Addr::new(192, 168, 1, 2), ..HOME };
    scene.plan.handle_place(Some(place), true, scene.now);
    assert_eq!(scene.plan.next_request(scene.now), None, "one at a time");
    scene.plan.handle_answer(scene.answer(&request), scene.now);
    assert_eq!(scene.plan.state().udp, None);
    assert_eq!(scene.ask().router, Some(place.router));
    assert_eq!(scene.plan.removals().iter().filter(|one| one.place == place).count(), 2);
}

#[test]
fn mappings_are_renewed_at_half_of_their_time_neither_often_nor_late() {
    for (granted, renewal) in [
        (LIFETIME, LIFETIME / 2),
        (MINUTE * 2, MINUTE),
        (Duration::from_secs(3), LEAST_RENEWAL),
        (Duration::from_secs(u32::MAX.into()), LIFETIME / 2),
    ] {
        let mut scene = Scene::knowing(&[Protocol::Pcp]);
        scene.lifetime = granted;
        scene.ask();
        assert_eq!(scene.pass(renewal), [renewal], "{granted:?}");
    }
}

#[test]
fn a_router_that_knows_nothing_is_asked_rarely_and_said_to() {
    let mut scene = Scene::knowing(&[]);
    let problem = scene.ask().problem.unwrap();
    for protocol in PROTOCOLS {
        assert!(problem.contains(protocol.name()), "{problem}");
    }
    // A NAT that forgets says nothing new; a network that is another one does.
    scene.plan.handle_doubt(scene.now);
    assert_eq!(scene.pass(MINUTE * 35), [MINUTE, MINUTE * 11, MINUTE * 21, MINUTE * 31]);
    scene.plan.handle_place(Some(HOME), true, scene.now);
    assert_eq!(scene.pass(MINUTE), [Duration::ZERO]);
    assert!(scene.plan.removals().is_empty());
}

#[test]
fn a_router_that_does_not_answer_any_more_is_asked_less_and_less_often() {
    let mut scene = Scene::knowing(&[Protocol::NatPmp]);
    scene.ask();
    scene.knows.clear();
    let rounds = scene.pass(MINUTE * 60);
    let seconds: Vec<u64> = rounds.iter().map(Duration::as_secs).collect();
    assert_eq!(seconds, [900, 910, 930, 970, 1050, 1210, 1530, 2130, 2730, 3330]);
    let state = scene.plan.state();
    assert_eq!((state.protocol, state.udp, state.tcp), (None, None, None), "its lease has ended");
    scene.knows.push(Protocol::Upnp);
    scene.pass(RARELY);
    assert_eq!(scene.plan.state().protocol, Some(Protocol::Upnp));
    assert_eq!(scene.plan.state().problem, None);
}

#[test]
fn a_router_that_answered_is_known_again_after_a_cut() {
    let mut scene = Scene::knowing(&[Protocol::Upnp]);
    scene.ask();
    scene.plan.handle_place(None, true, scene.now);
    assert_eq!(scene.ask(), State::default());
    scene.knows.clear();
    scene.asked.clear();
    scene.plan.handle_place(Some(HOME), true, scene.now);
    scene.ask();
    assert_eq!(scene.asked[0].0, Protocol::Upnp);
    // It is not ready yet.
    scene.knows.push(Protocol::Upnp);
    assert_eq!(scene.pass(MINUTE), [GAP]);
    assert!(scene.plan.state().udp.is_some());
}

#[test]
fn what_ends_is_not_said_any_longer() {
    let mut scene = Scene::knowing(&[Protocol::Pcp]);
    scene.ask();
    scene.knows.clear();
    scene.pass(LIFETIME * 9 / 10);
    assert_eq!(scene.plan.state().endpoints().len(), 1);
    scene.pass(LIFETIME / 10);
    assert!(scene.plan.state().endpoints().is_empty());
}

#[test]
fn a_doubt_or_a_cut_brings_a_round_but_not_one_after_the_other() {
    let mut scene = Scene::knowing(&[Protocol::Pcp]);
    scene.ask();
    for _ in 0..3 {
        scene.plan.handle_doubt(scene.now);
    }
    assert_eq!(scene.pass(MINUTE), [DOUBT_GAP]);
    for _ in 0..3 {
        scene.plan.handle_place(Some(HOME), true, scene.now);
    }
    assert_eq!(scene.pass(MINUTE), [GAP]);
    scene.plan.handle_doubt(scene.now);
    assert_eq!(scene.pass(MINUTE), [GAP]);
}

#[test]
fn a_port_that_another_has_is_left_for_one_that_stays_the_same() {
    let mut scene = Scene::knowing(&[Protocol::Upnp]);
    scene.taken = vec![7755];
    let state = scene.ask();
    let given = state.udp.unwrap();
    assert!(HIGH.contains(&given.port()));
    assert_eq!(state.tcp, Some(given), "the same for both");
    let mut again = Scene::knowing(&[Protocol::Upnp]);
    again.taken = vec![7755];
    assert_eq!(again.ask().udp, Some(given), "in the next run, too");
    // Renewed is what was given.
    scene.asked.clear();
    scene.pass(LIFETIME / 2);
    assert!(scene.asked.iter().all(|(.., outer)| *outer == given.port()), "{:?}", scene.asked);
    // Then that is another's as well.
    scene.taken.push(given.port());
    scene.pass(LIFETIME / 2);
    let other = scene.plan.state().udp.unwrap();
    assert!(![7755, given.port()].contains(&other.port()));
}

#[test]
fn who_finds_every_port_taken_gives_up_and_says_so() {
    let mut scene = Scene::knowing(&[Protocol::Upnp]);
    scene.taken = (1..=u16::MAX).collect();
    let problem = scene.ask().problem.unwrap();
    assert!(problem.contains("taken"), "{problem}");
    let asked = scene.asked.iter().filter(|(protocol, ..)| *protocol == Protocol::Upnp).count();
    assert_eq!(asked, PORTS as usize);
}

#[test]
fn a_router_that_was_started_again_in_the_middle_is_asked_for_both_again() {
    let mut scene = Scene::knowing(&[Protocol::NatPmp]);
    scene.ask();
    scene.asked.clear();
    scene.plan.handle_doubt(scene.now);
    scene.now = scene.now + MINUTE;
    // The failed PCP is not asked: NAT-PMP worked.
    let request = scene.plan.next_request(scene.now).unwrap();
    scene.plan.handle_answer(scene.answer(&request), scene.now);
    scene.started = scene.now;
    scene.ask();
    let transports: Vec<Transport> =
        scene.asked.iter().map(|(_, transport, _)| *transport).collect();
    assert_eq!(transports, [Transport::Tcp, Transport::Udp, Transport::Tcp]);
    // A clock that always goes back changes nothing more.
    scene.plan.epoch = Some((u32::MAX, scene.now));
    scene.asked.clear();
    scene.pass(LIFETIME / 2);
    assert!(scene.asked.len() <= 4, "{:?}", scene.asked);
}

#[test]
fn one_port_is_better_than_none_and_told_apart() {
    use EndpointSource::{Mapped, MappedTcp, MappedUdp};
    let said = |udp: Option<u16>, tcp: Option<u16>| {
        let state = State { udp: udp.map(outside), tcp: tcp.map(outside), ..State::default() };
        state.endpoints().iter().map(|one| one.source).collect::<Vec<_>>()
    };
    assert_eq!(said(Some(1), Some(1)), [Mapped]);
    assert_eq!(said(Some(1), Some(2)), [MappedUdp, MappedTcp]);
    assert_eq!(said(Some(1), None), [MappedUdp]);
    assert_eq!(said(None, Some(2)), [MappedTcp]);
    assert_eq!(said(None, None), []);
    let mut scene = Scene::knowing(&[Protocol::Pcp]);
    let request = scene.plan.next_request(scene.now).unwrap();
    scene.plan.handle_answer(scene.answer(&request), scene.now);
    scene.knows.clear();
    let state = scene.ask();
    assert_eq!((state.udp, state.tcp), (Some(outside(7755)), None));
    assert!(state.problem.unwrap().contains("PCP"));
}

#[test]
fn an_address_that_is_none_is_not_taken_and_one_behind_another_nat_is_said_to_be() {
    let mut scene = Scene::knowing(&[Protocol::Pcp]);
    scene.outside = Ipv4Addr::UNSPECIFIED;
    let state = scene.ask();
    assert!(state.udp.is_none() && state.problem.unwrap().contains("0.0.0.0"));
    for hidden in [[100, 64, 3, 2], [192, 168, 0, 2], [10, 0, 0, 2]] {
        let mut scene = Scene::knowing(&[Protocol::Pcp]);
        scene.outside = hidden.into();
        let state = scene.ask();
        assert!(state.udp.is_some() && state.problem.unwrap().contains("another NAT"));
    }
}

#[test]
fn at_the_end_goes_what_is_there_and_what_may_be_there() {
    let mut scene = Scene::knowing(&[Protocol::Pcp]);
    scene.ask();
    let transports = |plan: &Plan| -> Vec<Transport> {
        plan.removals().iter().map(|request| request.transport).collect()
    };
    assert_eq!(transports(&scene.plan), [Transport::Udp, Transport::Tcp]);
    scene.now = scene.now + LIFETIME / 2;
    scene.plan.next_request(scene.now).unwrap();
    assert_eq!(transports(&scene.plan), [Transport::Udp, Transport::Tcp]);
    let mut scene = Scene::knowing(&[Protocol::Pcp]);
    assert!(transports(&scene.plan).is_empty());
    let request = scene.plan.next_request(scene.now).unwrap();
    assert_eq!(scene.plan.removals(), [request]);
}

#[test]
fn pcp_knows_a_mapping_by_a_number_that_stays_and_that_nobody_guesses() {
    let nonce = |secret: u8, place: Place| {
        let mut plan = Plan::new(7755, [secret; 32]);
        plan.handle_place(Some(place), false, Instant::default());
        plan.next_request(Instant::default()).unwrap().nonce
    };
    let elsewhere = Place { own: Ipv4Addr::new(192, 168, 1, 8), ..HOME };
    assert_eq!(nonce(1, HOME), nonce(1, HOME));
    assert_ne!(nonce(1, HOME), nonce(2, HOME));
    assert_ne!(nonce(1, HOME), nonce(1, elsewhere));
}
