//! A small fleet: an authority, members with certificates, a relay, instances behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use insula_kit::clock::{Clock, SystemClock};
use insula_kit::metrics::Metrics;
use insula_kit::pki::{Authority, Identity, KeyPair, Subject, Validity, Whom};
use insula_kit::tls::{ClientStream, Connector, Credentials};
use insula_model::fleet::Member;
use insula_model::{GatewayId, InstanceId, NodeId};
use insula_relay::{
    AnswerCounts, Answerer, CallCounts, Caller, CallerSettings, Doors, Limits, NoDoor, answer,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

pub const NODE: NodeId = NodeId::from_u128(0x0a);
pub const OTHER_NODE: NodeId = NodeId::from_u128(0x0b);
pub const GATEWAY: Member = Member::Gateway(GatewayId::from_u128(0x0c));
pub const WEB: InstanceId = InstanceId::from_u128(0x11);
pub const DB: InstanceId = InstanceId::from_u128(0x12);
pub const OK: u8 = 0x82;

/// Longer than anything here takes; a test that waits for it fails.
const PATIENCE: Duration = Duration::from_secs(20);

pub async fn soon<T>(work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.expect("it takes too long")
}

pub struct Fleet {
    pub authority: Authority,
    clock: Arc<dyn Clock>,
}

impl Fleet {
    pub fn new() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        Self { authority: Authority::generate(clock.now_ms()).unwrap(), clock }
    }

    /// The certificate of that number of a member.
    pub fn credentials(&self, member: Member, serial: u64) -> Arc<Credentials> {
        self.valid(member, serial, Validity::of_member(self.clock.now_ms()))
    }

    pub fn valid(&self, member: Member, serial: u64, validity: Validity) -> Arc<Credentials> {
        let key = KeyPair::generate();
        let subject = Subject::new(member.role(), &member.to_string()).unwrap();
        let certificate =
            self.authority.issue(&key.public_key(), &subject, serial, validity).unwrap();
        let authorities = vec![self.authority.certificate().to_vec()];
        Credentials::new(&Identity { key, certificate, authorities }, self.clock.clone()).unwrap()
    }

    pub fn caller(&self, member: Member, heartbeat: Duration) -> (Caller, CallCounts) {
        let counts = CallCounts::new(&Metrics::new());
        let settings = CallerSettings { heartbeat };
        (Caller::new(&self.credentials(member, 1), settings, counts.clone()), counts)
    }

    pub async fn relay(&self, doors: &Arc<TestDoors>, limits: Limits) -> TestRelay {
        self.relay_of(NODE, doors, limits).await
    }

    pub async fn relay_of(
        &self,
        node: NodeId,
        doors: &Arc<TestDoors>,
        limits: Limits,
    ) -> TestRelay {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        let counts = AnswerCounts::new(&Metrics::new());
        let answerer = Answerer {
            credentials: self.credentials(Member::Node(node), 1),
            clock: self.clock.clone(),
            doors: doors.clone(),
            limits,
            counts: counts.clone(),
        };
        let end = CancellationToken::new();
        tokio::spawn(answer(listener, answerer, end.clone()));
        TestRelay { at, counts, end: end.drop_guard() }
    }

    /// A connection that says whatever a test wants.
    pub async fn raw(&self, member: Member, serial: u64, at: SocketAddr) -> Raw {
        self.raw_with(&self.credentials(member, serial), at).await
    }

    pub async fn raw_with(&self, credentials: &Arc<Credentials>, at: SocketAddr) -> Raw {
        let tcp = TcpStream::connect(at).await.unwrap();
        let whom = Whom::one("node", &NODE.to_string()).unwrap();
        let connector = Connector::new(credentials, insula_relay::ALPN);
        Raw(connector.connect(tcp, &whom).await.unwrap().0)
    }
}

pub struct TestRelay {
    pub at: SocketAddr,
    pub counts: AnswerCounts,
    /// Ends it when dropped.
    pub end: DropGuard,
}

pub struct Raw(pub ClientStream<TcpStream>);

impl Raw {
    pub async fn say(&mut self, kind: u8, body: u128) {
        let _ = self.0.write_all(&[&[kind][..], &body.to_be_bytes()].concat()).await;
        let _ = self.0.flush().await;
    }

    /// The kind of the next answer; nothing when the connection was closed instead.
    pub async fn hear(&mut self) -> Option<u8> {
        let mut answer = [0; 17];
        soon(self.0.read_exact(&mut answer)).await.ok()?;
        Some(answer[0])
    }

    /// Until the other side closes it.
    pub async fn closed(&mut self) {
        let mut rest = Vec::new();
        let _ = soon(self.0.read_to_end(&mut rest)).await;
    }
}

/// What runs here, and who may. As the agent does it, without an agent.
pub struct TestDoors {
    inner: Mutex<Inner>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    members: BTreeSet<Member>,
    instances: BTreeMap<InstanceId, Instance>,
}

struct Instance {
    at: SocketAddr,
    listens: bool,
    not_for: BTreeSet<Member>,
}

impl TestDoors {
    pub fn new() -> Arc<Self> {
        let doors = Self { inner: Mutex::default(), changes: watch::Sender::new(0) };
        doors.change(|inner| {
            inner.members.insert(GATEWAY);
        });
        Arc::new(doors)
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.inner.lock().unwrap());
        self.changes.send_modify(|count| *count += 1);
    }

    pub fn put(&self, id: InstanceId, at: SocketAddr) {
        let instance = Instance { at, listens: true, not_for: BTreeSet::new() };
        self.change(|inner| {
            inner.instances.insert(id, instance);
        });
    }

    pub fn end(&self, id: InstanceId) {
        self.change(|inner| {
            inner.instances.remove(&id);
        });
    }

    pub fn unready(&self, id: InstanceId) {
        self.change(|inner| inner.instances.get_mut(&id).unwrap().listens = false);
    }

    pub fn deny(&self, id: InstanceId, member: Member) {
        self.change(|inner| {
            inner.instances.get_mut(&id).unwrap().not_for.insert(member);
        });
    }

    pub fn admit(&self, member: Member) {
        self.change(|inner| {
            inner.members.insert(member);
        });
    }

    pub fn remove(&self, member: Member) {
        self.change(|inner| {
            inner.members.remove(&member);
        });
    }
}

impl Doors for TestDoors {
    fn admits(&self, member: Member) -> bool {
        self.inner.lock().unwrap().members.contains(&member)
    }

    fn find(&self, member: Member, instance: InstanceId) -> Result<SocketAddr, NoDoor> {
        let inner = self.inner.lock().unwrap();
        let found = inner.instances.get(&instance).ok_or(NoDoor::Gone)?;
        if !inner.members.contains(&member) || found.not_for.contains(&member) {
            return Err(NoDoor::Denied);
        }
        if found.listens { Ok(found.at) } else { Err(NoDoor::NotListening) }
    }

    fn holds(&self, member: Member, instance: InstanceId, at: SocketAddr) -> bool {
        let inner = self.inner.lock().unwrap();
        inner.members.contains(&member)
            && inner
                .instances
                .get(&instance)
                .is_some_and(|found| found.at == at && !found.not_for.contains(&member))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// An instance that says its name first and then everything back, and ends when told.
pub async fn echo(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = tcp.write_all(name.as_bytes()).await;
                let (mut read, mut write) = tcp.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    at
}

/// Says its name, which is four bytes long.
pub async fn name_of(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut name = [0; 4];
    soon(stream.read_exact(&mut name)).await.unwrap();
    String::from_utf8(name.to_vec()).unwrap()
}

/// Until it is so. Each look is after something happened or a turn of the runtime.
pub async fn until(is_so: impl Fn() -> bool) {
    soon(async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Stands between a caller and a relay: writes down what goes by, and can hold it back.
pub struct Tap {
    pub at: SocketAddr,
    seen: Arc<Mutex<Vec<u8>>>,
    frozen: watch::Sender<bool>,
}

impl Tap {
    pub async fn before(to: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (frozen, held) = watch::channel(false);
        let log = seen.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(to).await else { continue };
                let (near_read, near_write) = near.into_split();
                let (far_read, far_write) = far.into_split();
                tokio::spawn(pass(near_read, far_write, log.clone(), held.clone()));
                tokio::spawn(pass(far_read, near_write, log.clone(), held.clone()));
            }
        });
        Self { at, seen, frozen }
    }

    /// As a machine that is stopped: connections stay, and nothing moves.
    pub fn freeze(&self, frozen: bool) {
        self.frozen.send_replace(frozen);
    }

    pub fn seen(&self) -> Vec<u8> {
        self.seen.lock().unwrap().clone()
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    log: Arc<Mutex<Vec<u8>>>,
    mut held: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(count) = from.read(&mut buffer).await else { return };
        if held.wait_for(|frozen| !frozen).await.is_err() || count == 0 {
            return;
        }
        log.lock().unwrap().extend_from_slice(&buffer[..count]);
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
