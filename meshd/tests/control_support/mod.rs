//! Nodes for the tests of the control plane: the real one, on loopback, under a
//! toy engine that admits whom the test says, and wires that can be watched
//! and cut.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meshd::control::{
    AdmissionEvent, AdmissionStep, Command, Config, DialError, Event, GREETING, Gate, Handle, Lane,
    Limits, NodeKey, Refusal, RequestError, Timing, start,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use zeroize::Zeroizing;

/// Longer than anything may take; a test that gets here has failed.
const TOO_LONG: Duration = Duration::from_secs(20);

/// A gate by keyed hash: good enough to be opened and not to be guessed.
pub(crate) struct TestGate {
    pub(crate) key: [u8; 32],
    /// Greetings under this key open the slow lane.
    pub(crate) slow: Option<[u8; 32]>,
}

fn mac(key: &[u8; 32], nonce: &[u8]) -> [u8; 32] {
    *blake3::keyed_hash(key, nonce).as_bytes()
}

impl Gate for TestGate {
    fn greet(&self, _: usize) -> [u8; GREETING] {
        let mut greeting = [0; GREETING];
        getrandom::fill(&mut greeting[..32]).unwrap();
        let mac = mac(&self.key, &greeting[..32]);
        greeting[32..].copy_from_slice(&mac);
        greeting
    }

    fn check(&self, greeting: &[u8; GREETING]) -> Option<Lane> {
        let (nonce, found) = greeting.split_at(32);
        if mac(&self.key, nonce) == found {
            return Some(Lane::Current);
        }
        self.slow.is_some_and(|slow| mac(&slow, nonce) == found).then_some(Lane::Slow)
    }
}

/// Whom a node refuses, and with which words.
pub(crate) type Policy = Arc<dyn Fn(&NodeKey) -> Result<(), Vec<u8>> + Send + Sync>;

/// How a node is made; the fields are what tests vary.
pub(crate) struct Setup {
    pub(crate) gate: TestGate,
    pub(crate) limits: Limits,
    pub(crate) timing: Timing,
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) policy: Policy,
    /// What the node says first in an admission exchange.
    pub(crate) hello: Vec<u8>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            gate: TestGate { key: [9; 32], slow: None },
            limits: Limits::default(),
            timing: Timing::default(),
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            policy: Arc::new(|_| Ok(())),
            hello: b"hello".to_vec(),
        }
    }
}

/// What the toy engine has seen of admission.
#[derive(Default)]
pub(crate) struct Admissions {
    pub(crate) begun: AtomicUsize,
    pub(crate) ended: AtomicUsize,
    pub(crate) slow: AtomicUsize,
}

/// One running control plane.
pub(crate) struct Node {
    pub(crate) key: NodeKey,
    pub(crate) handle: Handle,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) address: SocketAddr,
    pub(crate) admissions: Arc<Admissions>,
    attempts: u64,
}

/// The key pair that belongs to a number.
pub(crate) fn secret(number: u8) -> Zeroizing<[u8; 32]> {
    Zeroizing::new([number; 32])
}

/// The public key of [`secret`].
pub(crate) fn key(number: u8) -> NodeKey {
    let pair = libp2p::identity::Keypair::ed25519_from_bytes(secret(number).as_mut_slice());
    let public = pair.unwrap().public().try_into_ed25519().unwrap();
    public.to_bytes()
}

impl Node {
    pub(crate) async fn new(number: u8) -> Self {
        Self::with(number, Setup::default()).await
    }

    pub(crate) async fn with(number: u8, setup: Setup) -> Self {
        let (admissions, asked) = mpsc::channel(16);
        let config = Config {
            secret: secret(number),
            listen: setup.listen,
            topic: "test".into(),
            limits: setup.limits,
            timing: setup.timing,
        };
        let (handle, mut events) =
            start(config, Arc::new(setup.gate), admissions, mpsc::channel(1).0).unwrap();
        let seen = Arc::new(Admissions::default());
        tokio::spawn(admit(asked, setup.policy, setup.hello, Arc::clone(&seen)));
        let Some(Event::Listening(address)) = events.recv().await else {
            panic!("a node listens first of all");
        };
        Self { key: key(number), handle, events, address, admissions: seen, attempts: 0 }
    }

    pub(crate) async fn send(&self, command: Command) {
        self.handle.send(command).await.unwrap();
    }

    /// Dials without waiting for what becomes of it.
    pub(crate) async fn begin_dial(&mut self, peer: Option<NodeKey>, address: SocketAddr) -> u64 {
        self.attempts += 1;
        let attempt = self.attempts;
        self.send(Command::Dial { attempt, peer, address, secret: 0 }).await;
        attempt
    }

    /// Dials and waits for what becomes of it; every other event is lost.
    pub(crate) async fn dial(
        &mut self,
        peer: Option<NodeKey>,
        address: SocketAddr,
    ) -> Result<NodeKey, DialError> {
        let number = self.begin_dial(peer, address).await;
        self.until(|event| match event {
            Event::Dialled { attempt, peer } if *attempt == number => Some(Ok(*peer)),
            Event::DialFailed { attempt, reason, .. } if *attempt == number => {
                Some(Err(reason.clone()))
            }
            _ => None,
        })
        .await
    }

    pub(crate) async fn next(&mut self) -> Event {
        let next = timeout(TOO_LONG, self.events.recv()).await;
        next.expect("no event came").expect("the node has stopped")
    }

    /// The first event that `wanted` makes something of; others are lost.
    pub(crate) async fn until<T>(&mut self, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
        loop {
            let event = self.next().await;
            if let Some(found) = wanted(&event) {
                return found;
            }
        }
    }

    pub(crate) async fn link_up(&mut self) -> NodeKey {
        self.until(|event| match event {
            Event::LinkUp { peer, .. } => Some(*peer),
            _ => None,
        })
        .await
    }

    pub(crate) async fn link_down(&mut self) -> NodeKey {
        self.until(|event| match event {
            Event::LinkDown { peer } => Some(*peer),
            _ => None,
        })
        .await
    }

    /// All events of a while.
    pub(crate) async fn events_for(&mut self, time: Duration) -> Vec<Event> {
        let mut events = Vec::new();
        let end = tokio::time::Instant::now() + time;
        while let Ok(Some(event)) = tokio::time::timeout_at(end, self.events.recv()).await {
            events.push(event);
        }
        events
    }

    /// Asks and waits for the answer; every other event is lost.
    pub(crate) async fn ask(
        &mut self,
        peer: NodeKey,
        bytes: &[u8],
    ) -> Result<Vec<u8>, RequestError> {
        self.attempts += 1;
        let number = self.attempts;
        self.send(Command::Request { id: number, peer, bytes: bytes.to_vec() }).await;
        loop {
            if let Event::Response { id, result } = self.next().await
                && id == number
            {
                return result;
            }
        }
    }

    /// Answers requests with their reverse and accepts gossip, for ever.
    pub(crate) fn serve(mut self) -> Served {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let handle = self.handle.clone();
        let (key, address) = (self.key, self.address);
        tokio::spawn(async move {
            while let Some(event) = self.events.recv().await {
                let command = match event {
                    Event::Request { bytes, channel, .. } => {
                        Command::Respond { channel, bytes: bytes.into_iter().rev().collect() }
                    }
                    Event::Gossip { message, .. } => {
                        Command::Verdict { message, accept: meshd::control::Accept::Accept }
                    }
                    other => {
                        log.lock().unwrap().push(format!("{other:?}"));
                        continue;
                    }
                };
                if self.handle.send(command).await.is_err() {
                    return;
                }
            }
        });
        Served { key, address, handle, seen }
    }
}

/// A node that looks after itself.
pub(crate) struct Served {
    pub(crate) key: NodeKey,
    pub(crate) address: SocketAddr,
    pub(crate) handle: Handle,
    /// All other events, as text.
    pub(crate) seen: Arc<Mutex<Vec<String>>>,
}

impl Served {
    /// Waits for an event whose text starts like this.
    pub(crate) async fn seen(&self, start: &str) {
        let come = async {
            while !self.seen.lock().unwrap().iter().any(|event| event.starts_with(start)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(TOO_LONG, come).await.expect("the event comes");
    }
}

/// The toy engine: hello both ways, verdict both ways.
async fn admit(
    mut events: mpsc::Receiver<AdmissionEvent>,
    policy: Policy,
    hello: Vec<u8>,
    seen: Arc<Admissions>,
) {
    let mut exchanges: BTreeMap<u64, (NodeKey, bool)> = BTreeMap::new();
    while let Some(event) = events.recv().await {
        let (reply, step) = match event {
            AdmissionEvent::Begin { exchange, peer, lane, reply, .. } => {
                seen.begun.fetch_add(1, Ordering::Relaxed);
                if lane == Lane::Slow {
                    seen.slow.fetch_add(1, Ordering::Relaxed);
                }
                exchanges.insert(exchange, (peer, false));
                let step = AdmissionStep { send: Some(hello.clone()), outcome: None };
                (reply, step)
            }
            AdmissionEvent::Frame { exchange, bytes, reply } => {
                let (peer, accepted) = exchanges.get_mut(&exchange).unwrap();
                let step = if *accepted {
                    AdmissionStep {
                        send: None,
                        outcome: Some(match bytes.split_first() {
                            Some((1, _)) => Ok(()),
                            _ => Err(Refusal(bytes[1..].to_vec())),
                        }),
                    }
                } else if let Err(reason) = policy(peer) {
                    AdmissionStep {
                        send: Some([&[0], &reason[..]].concat()),
                        outcome: Some(Err(Refusal(reason))),
                    }
                } else {
                    *accepted = true;
                    AdmissionStep { send: Some(vec![1]), outcome: None }
                };
                (reply, step)
            }
            AdmissionEvent::Ended { exchange } => {
                seen.ended.fetch_add(1, Ordering::Relaxed);
                exchanges.remove(&exchange);
                continue;
            }
            _ => continue,
        };
        // The exchange may have been cut off meanwhile.
        let _ = reply.send(step);
    }
}

/// A forwarder that counts, and that can fall silent.
pub(crate) struct Wire {
    pub(crate) address: SocketAddr,
    state: Arc<WireState>,
}

#[derive(Default)]
struct WireState {
    open: AtomicUsize,
    bytes: AtomicU64,
    ended: AtomicUsize,
    silent: AtomicBool,
}

impl Wire {
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(WireState::default());
        let wire = Self { address, state: Arc::clone(&state) };
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(target).await.unwrap();
                near.set_nodelay(true).unwrap();
                far.set_nodelay(true).unwrap();
                let state = Arc::clone(&state);
                state.open.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let (near_in, near_out) = near.into_split();
                    let (far_in, far_out) = far.into_split();
                    tokio::join!(
                        forward(near_in, far_out, &state),
                        forward(far_in, near_out, &state)
                    );
                    state.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        wire
    }

    /// From now on nothing comes through, in either direction, not even an end.
    pub(crate) fn cut(&self) {
        self.state.silent.store(true, Ordering::SeqCst);
    }

    /// Connections that are up.
    pub(crate) fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// Ends that have hung up, two per connection.
    pub(crate) fn ended(&self) -> usize {
        self.state.ended.load(Ordering::SeqCst)
    }

    /// Bytes that came through, both ways together.
    pub(crate) fn bytes(&self) -> u64 {
        self.state.bytes.load(Ordering::SeqCst)
    }
}

async fn forward(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    state: &WireState,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if state.silent.load(Ordering::SeqCst) {
            continue;
        }
        state.bytes.fetch_add(count as u64, Ordering::SeqCst);
        if to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    state.ended.fetch_add(1, Ordering::SeqCst);
    if state.silent.load(Ordering::SeqCst) {
        std::future::pending::<()>().await;
    }
    let _ = to.shutdown().await;
}

/// What a stranger gets who sends these bytes: all that comes back.
pub(crate) async fn knock(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ =
        timeout(TOO_LONG, stream.read_to_end(&mut answer)).await.expect("a stranger is not kept");
    answer
}
