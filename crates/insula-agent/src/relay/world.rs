//! Two nodes on a wire of the test's own making: an instance here talks to one over there by what its
//! resolver says, and nobody else gets there.
//!
//! The wire is a network of ours as well, and the nodes are attached to it like instances: so they have
//! addresses, a loopback, and nothing of the machine's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use insula_kit::clock::{Clock, SystemClock};
use insula_kit::metrics::Metrics;
use insula_kit::pki::{Authority, Identity, KeyPair, Subject, Validity};
use insula_kit::tls::Credentials;
use insula_model::fleet::Member;
use insula_model::target::{FleetTarget, Neighbour, RemoteInstance};
use insula_model::{BuildId, EnvironmentId, InstanceId, NodeId};
use insula_sandbox::net::{NetConfig, attach, ensure_host};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags, move_into_thread_name_spaces};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

use super::{Settings, start};
use crate::names::{NameBoard, Names, Presence, ServiceName, Source, Tenant};
use crate::places::{Held, Places};

const NEAR: NodeId = NodeId::from_u128(1);
const FAR: NodeId = NodeId::from_u128(2);
const FAR_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 87, 0, 3);
const RED: EnvironmentId = EnvironmentId::from_u128(0x4ed);
const BLUE: EnvironmentId = EnvironmentId::from_u128(0xb10e);
const DB: InstanceId = InstanceId::from_u128(0xdb);
/// Only what nobody answers waits for so long; then the test fails.
const SILENCE: Duration = Duration::from_secs(20);

pub(super) struct Namespace {
    file: File,
}

impl Namespace {
    /// Nothing where none can be made.
    pub(super) fn or_skip() -> Option<Self> {
        match Self::new() {
            Ok(made) => Some(made),
            Err(errno) => {
                let all = std::env::var_os("INSULA_TEST_ALL").is_some_and(|value| value == "1");
                assert!(!all, "no network namespaces: {errno}");
                eprintln!("SKIPPED: needs root to make network namespaces ({errno})");
                None
            }
        }
    }

    fn new() -> rustix::io::Result<Self> {
        std::thread::scope(|scope| {
            let born = scope.spawn(|| {
                // Its safe name is deprecated for flags that unshare memory or files, which this is not.
                #[expect(deprecated)]
                rustix::thread::unshare(UnshareFlags::NEWNET)?;
                Ok(Self { file: File::open("/proc/thread-self/ns/net").expect("our namespace") })
            });
            born.join().expect("no panic")
        })
    }

    fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let network = ThreadNameSpaceType::NETWORK;
                move_into_thread_name_spaces(self.file.as_fd(), network).expect("our namespace");
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A runtime whose every thread lives in here.
    pub(super) fn block_on<T: Send>(&self, work: impl Future<Output = T> + Send) -> T {
        self.run(|| {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().expect("a runtime");
            runtime.block_on(async {
                tokio::time::timeout(SILENCE * 2, work).await.expect("it takes too long")
            })
        })
    }
}

pub(super) fn config(tag: &str, pool: &str) -> NetConfig {
    NetConfig::new(tag.parse().unwrap(), pool.parse().unwrap(), vec![]).unwrap()
}

/// Two nodes that reach each other, and the wire between them. Nothing where namespaces cannot be made.
fn two_nodes() -> Option<[Namespace; 3]> {
    let (wire, near, far) = (Namespace::or_skip()?, Namespace::or_skip()?, Namespace::or_skip()?);
    let net = config("wire", "10.87.0.0/16");
    wire.run(|| {
        ensure_host(&net).unwrap();
        for (last, node) in [(2, &near), (3, &far)] {
            let place = net.attachment(Ipv4Addr::new(10, 87, 0, last), 1);
            attach(&place, node.file.as_fd()).unwrap();
        }
    });
    Some([near, far, wire])
}

pub(super) fn credentials(authority: &Authority, node: NodeId) -> Arc<Credentials> {
    let (key, clock) = (KeyPair::generate(), SystemClock);
    let subject = Subject::new(Member::Node(node).role(), &node.to_string()).unwrap();
    let validity = Validity::of_member(clock.now_ms());
    let certificate = authority.issue(&key.public_key(), &subject, 1, validity).unwrap();
    let authorities = vec![authority.certificate().to_vec()];
    Credentials::new(&Identity { key, certificate, authorities }, Arc::new(clock)).unwrap()
}

fn db() -> ServiceName {
    ServiceName { app: "shop".parse().unwrap(), component: "db".parse().unwrap() }
}

/// The far node: a database behind a relay, until it is told to go.
struct Far {
    names: NameBoard,
    fleet: watch::Sender<Arc<FleetTarget>>,
}

impl Far {
    fn new() -> Self {
        let near = Neighbour {
            relay: "10.87.0.2:1".parse().unwrap(),
            environments: BTreeSet::from([RED]),
            // It runs nothing with a name: its workers call us all the same.
            instances: BTreeMap::new(),
        };
        let neighbours = BTreeMap::from([(NEAR, near)]);
        let fleet = FleetTarget { neighbours, ..FleetTarget::default() };
        Self {
            names: NameBoard::new(watch::Sender::new(Names::default())),
            fleet: watch::Sender::new(Arc::new(fleet)),
        }
    }

    fn put(&self, at: SocketAddr) {
        let presence = Presence {
            environment: RED,
            app: Some(db().app),
            address: at.ip(),
            serves: Some((db(), at)),
            routed: false,
        };
        self.names.set(Tenant::Instance(DB), Some(presence));
    }

    async fn run(
        &self,
        credentials: Arc<Credentials>,
        up: oneshot::Sender<SocketAddr>,
        go: oneshot::Receiver<()>,
    ) {
        let instance = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        self.put(instance.local_addr().unwrap());
        let listener = TcpListener::bind((FAR_ADDRESS, 0)).await.unwrap();
        up.send(listener.local_addr().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let _relay = start(Settings {
            listener: Some(listener),
            credentials,
            clock: Arc::new(SystemClock),
            names: self.names.clone(),
            places: Places::new(None, folder.path().join("last-address")),
            net: None,
            fleet: self.fleet.subscribe(),
            metrics: Metrics::new(),
        });
        let serving = async {
            while let Ok((mut tcp, _)) = instance.accept().await {
                tokio::spawn(async move {
                    let _ = tcp.write_all(b"db").await;
                    let (mut read, mut write) = tcp.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                    let _ = write.shutdown().await;
                });
            }
        };
        tokio::select! {
            _ = go => {}
            () = serving => {}
        }
    }
}

/// A sandbox's network without the sandbox, and whose it is.
struct Sandbox {
    namespace: Arc<Namespace>,
    _held: Held,
}

impl Sandbox {
    async fn new(net: &Near, tenant: Tenant, environment: EnvironmentId) -> Self {
        let held = net.places.take(environment).await.unwrap();
        let namespace = Arc::new(Namespace::new().unwrap());
        attach(held.place.attachment.as_ref().unwrap(), namespace.file.as_fd()).unwrap();
        let app = match tenant {
            Tenant::Instance(_) => Some(db().app),
            Tenant::Build(_) => None,
        };
        let address = held.place.address();
        net.names
            .set(tenant, Some(Presence { environment, app, address, serves: None, routed: false }));
        Self { namespace, _held: held }
    }

    /// Connects, reads so many bytes, and what is said comes back.
    async fn talk(&self, to: SocketAddr) -> std::io::Result<TcpStream> {
        let namespace = Arc::clone(&self.namespace);
        let talking = tokio::task::spawn_blocking(move || {
            namespace.run(|| {
                let mut tcp = TcpStream::connect_timeout(&to, SILENCE)?;
                tcp.set_read_timeout(Some(SILENCE))?;
                let mut name = [0; 2];
                tcp.read_exact(&mut name)?;
                assert_eq!(&name, b"db");
                tcp.write_all(b"select 1")?;
                let mut back = [0; 8];
                tcp.read_exact(&mut back)?;
                assert_eq!(&back, b"select 1");
                Ok(tcp)
            })
        });
        talking.await.unwrap()
    }
}

struct Near {
    names: NameBoard,
    published: watch::Receiver<Names>,
    places: Arc<Places>,
}

impl Near {
    /// What `db` is in an environment, once that is as expected.
    async fn resolved(&self, environment: EnvironmentId, some: bool) -> Option<SocketAddr> {
        let mut published = self.published.clone();
        let find = |names: &Names| {
            let found = names.environments.get(&environment)?.get(&db())?;
            found.first().copied()
        };
        let names = published.wait_for(|names| find(names).is_some() == some).await.unwrap();
        find(&names)
    }
}

async fn on_thread(
    work: impl FnOnce() -> std::io::Result<usize> + Send + 'static,
) -> std::io::Result<usize> {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[test]
fn components_of_one_environment_reach_each_other_by_name_on_any_node() {
    let Some([near, far, _wire]) = two_nodes() else { return };
    let authority = Authority::generate(SystemClock.now_ms()).unwrap();
    let (up, far_relay) = oneshot::channel();
    let (go, gone) = oneshot::channel();
    let over_there = Far::new();
    let far_credentials = credentials(&authority, FAR);
    std::thread::scope(|scope| {
        scope.spawn(|| far.block_on(over_there.run(far_credentials, up, gone)));
        near.block_on(story(&authority, &over_there, far_relay, go));
    });
}

async fn story(
    authority: &Authority,
    over_there: &Far,
    far_relay: oneshot::Receiver<SocketAddr>,
    go: oneshot::Sender<()>,
) {
    let folder = tempfile::tempdir().unwrap();
    let net = config("near", "10.99.0.0/16");
    ensure_host(&net).unwrap();
    let (sender, published) = watch::channel(Names::default());
    let names = NameBoard::new(sender);
    let places = Places::new(Some(net.clone()), folder.path().join("last-address"));
    let here = Near { names: names.clone(), published, places: Arc::clone(&places) };
    let red = Sandbox::new(&here, Tenant::Instance(InstanceId::from_u128(1)), RED).await;
    let blue = Sandbox::new(&here, Tenant::Instance(InstanceId::from_u128(2)), BLUE).await;
    let build = Sandbox::new(&here, Tenant::Build(BuildId::from_u128(3)), RED).await;

    let relay = far_relay.await.unwrap();
    let remote =
        RemoteInstance { environment: RED, app: db().app, component: db().component, port: 5432 };
    let neighbour = Neighbour {
        relay,
        environments: BTreeSet::from([RED]),
        instances: BTreeMap::from([(DB, remote)]),
    };
    let fleet = FleetTarget {
        neighbours: BTreeMap::from([(FAR, neighbour.clone())]),
        ..FleetTarget::default()
    };
    let fleet = watch::Sender::new(Arc::new(fleet));
    let _relay = start(Settings {
        listener: None,
        credentials: credentials(authority, NEAR),
        clock: Arc::new(SystemClock),
        names,
        places,
        net: Some(net.clone()),
        fleet: fleet.subscribe(),
        metrics: Metrics::new(),
    });

    let at = here.resolved(RED, true).await.unwrap();
    assert_eq!(at.port(), 5432);
    assert!(matches!(at.ip(), IpAddr::V4(address) if net.remote_range().contains(address)));
    assert!(!here.published.borrow().environments.contains_key(&BLUE));
    let source: Option<Source> = here.names.source(at.ip());
    assert_eq!(source, None, "nobody can ask from there");

    // Half-closed, and to its end.
    let mut tcp = red.talk(at).await.unwrap();
    let rest = on_thread(move || {
        tcp.shutdown(Shutdown::Write)?;
        tcp.read(&mut [0; 8])
    });
    assert_eq!(rest.await.unwrap(), 0, "an end is an end");

    // The kernel refuses another environment; the listener refuses a build of the same.
    let refused = blue.talk(at).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let refused = build.talk(at).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionReset);

    // No longer ready: no name, and who is connected goes on, also by the address that he knows.
    let mut open = red.talk(at).await.unwrap();
    let silent = Neighbour { instances: BTreeMap::new(), ..neighbour.clone() };
    let neighbours = |it| {
        Arc::new(FleetTarget { neighbours: BTreeMap::from([(FAR, it)]), ..FleetTarget::default() })
    };
    fleet.send_replace(neighbours(silent));
    assert_eq!(here.resolved(RED, false).await, None);
    drop(red.talk(at).await.unwrap());
    fleet.send_replace(neighbours(neighbour));
    assert_eq!(here.resolved(RED, true).await, Some(at), "it has the address that it had");

    // It ends over there, and what has its address now is somebody else's.
    let its = over_there.names.instance(DB).unwrap().serves.unwrap().1;
    over_there.names.set(Tenant::Instance(DB), None);
    let other = Presence {
        environment: BLUE,
        app: None,
        address: its.ip(),
        serves: Some((db(), its)),
        routed: false,
    };
    let stranger = Tenant::Instance(InstanceId::from_u128(0xbad));
    over_there.names.set(stranger, Some(other));
    let cut = on_thread(move || open.read(&mut [0; 8])).await.unwrap_err();
    assert_eq!(cut.kind(), ErrorKind::ConnectionReset);
    let gone = red.talk(at).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::ConnectionReset);
    over_there.names.set(stranger, None);
    over_there.put(its);
    drop(red.talk(at).await.unwrap());

    // The far end decides for itself: it does not know that we have anything in common.
    over_there.fleet.send_replace(Arc::new(FleetTarget::default()));
    let denied = red.talk(at).await.unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::ConnectionReset);
    assert_eq!(here.resolved(RED, false).await, None, "nobody is named whose relay turns us away");
    let knows_us = Far::new().fleet.borrow().clone();
    over_there.fleet.send_replace(knows_us);
    assert_eq!(here.resolved(RED, true).await, Some(at));
    drop(red.talk(at).await.unwrap());

    // The whole node goes.
    go.send(()).unwrap();
    assert_eq!(here.resolved(RED, false).await, None);
    let dead = red.talk(at).await.unwrap_err();
    assert_eq!(dead.kind(), ErrorKind::ConnectionReset);
}
