//! A node whose relay is away: its agent begins again, and visitors wait for it; or it does not.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use insula_gateway::{Doors, Gateway, GatewayConfig, Ground, Limits, Options, Server as Wing};
use insula_kit::clock::{Clock, SystemClock};
use insula_kit::metrics::Metrics;
use insula_kit::pki::{Authority, Identity, KeyPair, Subject, Validity};
use insula_kit::tls::Credentials;
use insula_model::fleet::Member;
use insula_model::routes::Route;
use insula_model::{AppId, GatewayId, InstanceId, NodeId};
use insula_relay::{AnswerCounts, Answerer, NoDoor, answer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::{self, App, Bench, PATIENCE, Server, Visitor, read_head, route, soon};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GATEWAY: GatewayId = GatewayId::from_u128(7);
const NODE: NodeId = NodeId::from_u128(1);
const OTHER_NODE: NodeId = NodeId::from_u128(2);

/// A node of the fleet and its relay, which comes and goes at one address.
struct Node {
    at: SocketAddr,
    answerer: Arc<dyn Fn() -> Answerer + Send + Sync>,
    state: State,
}

enum State {
    /// The address is taken and nobody listens there: dials are refused.
    Away(TcpSocket),
    There {
        _end: DropGuard,
    },
    Between,
}

/// Everybody may go to the one address where something runs.
struct Door(SocketAddr, watch::Sender<u64>);

impl insula_relay::Doors for Door {
    fn admits(&self, _: Member) -> bool {
        true
    }

    fn find(&self, _: Member, _: InstanceId) -> Result<SocketAddr, NoDoor> {
        Ok(self.0)
    }

    fn holds(&self, _: Member, _: InstanceId, at: SocketAddr) -> bool {
        at == self.0
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.1.subscribe()
    }
}

fn identity(authority: &Authority, member: Member) -> Identity {
    let key = KeyPair::generate();
    let subject = Subject::new(member.role(), &member.to_string()).unwrap();
    let validity = Validity::of_member(SystemClock.now_ms());
    let certificate = authority.issue(&key.public_key(), &subject, 1, validity).unwrap();
    Identity { key, certificate, authorities: vec![authority.certificate().to_vec()] }
}

fn taken(at: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(at).unwrap();
    socket
}

impl Node {
    /// One that nobody has heard of yet.
    fn away(authority: &Authority, node: NodeId, app: SocketAddr) -> Self {
        let socket = taken("127.0.0.1:0".parse().unwrap());
        let at = socket.local_addr().unwrap();
        let identity = identity(authority, Member::Node(node));
        let credentials = Credentials::new(&identity, Arc::new(SystemClock)).unwrap();
        let answerer = move || Answerer {
            credentials: Arc::clone(&credentials),
            clock: Arc::new(SystemClock),
            doors: Arc::new(Door(app, watch::Sender::new(0))),
            limits: insula_relay::Limits::default(),
            counts: AnswerCounts::new(&Metrics::new()),
        };
        Self { at, answerer: Arc::new(answerer), state: State::Away(socket) }
    }

    fn come(&mut self) {
        let State::Away(socket) = std::mem::replace(&mut self.state, State::Between) else {
            panic!("it is there");
        };
        let listener: TcpListener = socket.listen(64).unwrap();
        let end = CancellationToken::new();
        tokio::spawn(answer(listener, (self.answerer)(), end.clone()));
        self.state = State::There { _end: end.drop_guard() };
    }

    /// With everything that is open through it.
    async fn go(&mut self) {
        self.state = State::Between;
        let gone = async {
            while tokio::net::TcpStream::connect(self.at).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        soon("the end of the relay", gone).await;
        self.state = State::Away(taken(self.at));
    }
}

/// A route of an app of its own to instances on nodes.
fn far(host: &str, app: u8, endpoints: &[(u8, NodeId)]) -> Route {
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let numbered: Vec<_> = endpoints.iter().map(|(number, _)| (*number, nowhere)).collect();
    let mut route = route(host, "/", &numbered);
    route.app = AppId::from_u128(app.into());
    for (endpoint, (_, node)) in route.endpoints.iter_mut().zip(endpoints) {
        endpoint.node = *node;
    }
    route
}

/// A gateway on a machine without instances, which is a member of a fleet.
async fn gateway(authority: &Authority, change: impl FnOnce(&mut Limits)) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("gateway");
    std::fs::create_dir(&own).unwrap();
    let id = format!("{{\"gateway\":\"{GATEWAY}\"}}");
    std::fs::write(own.join("gateway.json"), id).unwrap();
    identity(authority, Member::Gateway(GATEWAY)).save(&own.join("credentials.json")).unwrap();
    let server = Server::start(&support::socket(&folder)).await;
    let mut options = Options::default();
    change(&mut options.limits);
    let config = GatewayConfig {
        server: Wing::Unix(support::socket(&folder)),
        folder: own,
        ground: Ground::Apart,
    };
    // One thread alone, so that it is known who has which place.
    let doors = Doors::take(&["127.0.0.1:0".parse().unwrap()], Some(1)).unwrap();
    let gateway = Gateway::start(doors, config, options).await.unwrap();
    let address = gateway.addresses()[0];
    Bench { gateway: Some(gateway), address, server, folder }
}

/// Answers everything, switches protocols where that is asked for, and remembers what it was asked.
async fn app() -> (App, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let app = App::start({
        let asked = Arc::clone(&asked);
        move |mut stream| {
            let asked = Arc::clone(&asked);
            async move {
                while let Some(head) = read_head(&mut stream).await {
                    let upgrade = head.to_ascii_lowercase().contains("upgrade: websocket");
                    let mut body = [0; 4];
                    if head.starts_with("POST") && stream.read_exact(&mut body).await.is_err() {
                        return;
                    }
                    asked.lock().unwrap().push(head.lines().next().unwrap().to_owned());
                    let answer: &[u8] = if upgrade {
                        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
                    } else {
                        OK
                    };
                    if stream.write_all(answer).await.is_err() || upgrade {
                        return;
                    }
                }
            }
        }
    })
    .await;
    (app, asked)
}

/// The gateway's one thread has seen what was sent before, and has done with it what it can.
async fn turns(bench: &Bench) {
    for _ in 0..8 {
        assert_eq!(bench.get("nobody.example", "/").await.status, 404);
    }
}

async fn sent(bench: &Bench, request: &str) -> Visitor {
    let mut visitor = Visitor::connect(bench.address).await;
    visitor.send(request).await;
    turns(bench).await;
    visitor
}

fn get(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

fn authority() -> Authority {
    Authority::generate(SystemClock.now_ms()).unwrap()
}

#[tokio::test]
async fn what_may_be_sent_waits_for_an_agent_that_begins_again() {
    let authority = authority();
    let mut bench = gateway(&authority, |limits| {
        limits.hold = PATIENCE;
        limits.held_per_app_max = 1;
    })
    .await;
    let (app, asked) = app().await;
    let mut node = Node::away(&authority, NODE, app.address);
    node.come();
    let hosts = ["get.example", "post.example", "socket.example"];
    let routes = hosts.iter().zip(1..).map(|(host, n)| far(host, n, &[(1, NODE)])).collect();
    bench.server.put_with(1, routes, [(NODE, node.at)].into()).await;
    for host in hosts {
        assert_eq!(bench.get(host, "/before").await.status, 200);
    }

    node.go().await;
    let post = "POST /held HTTP/1.1\r\nHost: post.example\r\nContent-Length: 4\r\n\r\nbody";
    let socket = "GET /held HTTP/1.1\r\nHost: socket.example\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    let mut held = Vec::new();
    for request in [&get("get.example", "/held"), post, socket] {
        held.push(sent(&bench, request).await);
    }
    for host in hosts {
        // The one place of its app is taken: that one waits, and nobody beside it.
        let refused = bench.get(host, "/other").await;
        assert_eq!(refused.status, 502, "{refused:?}");
    }
    node.come();
    for (visitor, status) in held.iter_mut().zip(["200", "200", "101"]) {
        let head = visitor.head().await;
        assert_eq!(head.split(' ').nth(1), Some(status), "{head}");
    }
    let asked = asked.lock().unwrap();
    let mut of_held: Vec<_> = asked.iter().filter(|line| line.contains("/held")).collect();
    of_held.sort();
    assert_eq!(of_held, ["GET /held HTTP/1.1", "GET /held HTTP/1.1", "POST /held HTTP/1.1"]);
    assert!(!asked.iter().any(|line| line.contains("/other")));
}

#[tokio::test]
async fn who_waits_for_a_node_that_stays_away_is_told_when_the_time_is_up() {
    let authority = authority();
    let hold = Duration::from_millis(300);
    let mut bench = gateway(&authority, |limits| limits.hold = hold).await;
    let (app, asked) = app().await;
    let mut node = Node::away(&authority, NODE, app.address);
    node.come();
    let routes = vec![far("a.example", 1, &[(1, NODE)])];
    bench.server.put_with(1, routes, [(NODE, node.at)].into()).await;
    assert_eq!(bench.get("a.example", "/").await.status, 200);
    node.go().await;
    let began = Instant::now();
    assert_eq!(bench.get("a.example", "/").await.status, 502);
    let took = began.elapsed();
    // A machine under load wakes us late.
    assert!(took < hold * 10, "{took:?}");
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(bench.get("a.example", "/").await.status, 502);
    }
    let took = began.elapsed();
    assert!(took < hold * 10, "who comes later waits for nobody: {took:?}");
    assert_eq!(asked.lock().unwrap().len(), 1);
    node.come();
    let back = async { while bench.get("a.example", "/").await.status != 200 {} };
    soon("the node is used again", back).await;
}

#[tokio::test]
async fn nobody_waits_while_another_instance_can_be_asked() {
    let authority = authority();
    let mut bench = gateway(&authority, |limits| limits.held_per_thread_max = 0).await;
    let ((gone, _), (stays, asked)) = (app().await, app().await);
    let mut node = Node::away(&authority, NODE, gone.address);
    let mut other = Node::away(&authority, OTHER_NODE, stays.address);
    node.come();
    other.come();
    let routes = vec![far("a.example", 1, &[(1, NODE), (2, OTHER_NODE)])];
    let relays = [(NODE, node.at), (OTHER_NODE, other.at)].into();
    bench.server.put_with(1, routes, relays).await;
    for _ in 0..4 {
        assert_eq!(bench.get("a.example", "/before").await.status, 200);
    }
    node.go().await;
    for _ in 0..20 {
        assert_eq!(bench.get("a.example", "/after").await.status, 200);
    }
    let asked = asked.lock().unwrap();
    assert_eq!(asked.iter().filter(|line| line.contains("/after")).count(), 20);
}

#[tokio::test]
async fn who_goes_away_waits_no_longer_and_is_not_asked_for() {
    let authority = authority();
    let mut bench = gateway(&authority, |limits| {
        limits.hold = PATIENCE;
        limits.held_per_thread_max = 1;
    })
    .await;
    let (app, asked) = app().await;
    let mut node = Node::away(&authority, NODE, app.address);
    node.come();
    let routes = vec![far("a.example", 1, &[(1, NODE)])];
    bench.server.put_with(1, routes, [(NODE, node.at)].into()).await;
    assert_eq!(bench.get("a.example", "/before").await.status, 200);
    node.go().await;
    let leaver = sent(&bench, &get("a.example", "/left")).await;
    assert_eq!(bench.get("a.example", "/refused").await.status, 502, "the place is taken");
    drop(leaver);
    turns(&bench).await;
    let mut next = sent(&bench, &get("a.example", "/next")).await;
    assert_eq!(bench.get("a.example", "/refused").await.status, 502, "it is taken again");
    node.come();
    assert_eq!(next.answer().await.status, 200);
    let asked = asked.lock().unwrap();
    assert_eq!(*asked, ["GET /before HTTP/1.1", "GET /next HTTP/1.1"]);
}

#[tokio::test]
async fn an_app_that_hangs_up_through_a_relay_that_is_there_is_asked_once() {
    let authority = authority();
    let mut bench = gateway(&authority, |_| {}).await;
    let app = App::start(|mut stream| async move {
        read_head(&mut stream).await;
    })
    .await;
    let mut node = Node::away(&authority, NODE, app.address);
    node.come();
    let routes = vec![far("a.example", 1, &[(1, NODE)])];
    bench.server.put_with(1, routes, [(NODE, node.at)].into()).await;
    assert_eq!(bench.get("a.example", "/").await.status, 502);
    assert_eq!(app.connections(), 1);
}

#[tokio::test]
async fn what_ends_every_instance_that_it_meets_does_not_meet_them_all() {
    let authority = authority();
    let mut bench = gateway(&authority, |limits| limits.attempts_max = 3).await;
    let app = App::start(|mut stream| async move {
        read_head(&mut stream).await;
    })
    .await;
    let mut node = Node::away(&authority, NODE, app.address);
    node.come();
    let instances: Vec<_> = (1..=8).map(|instance| (instance, NODE)).collect();
    let routes = vec![far("a.example", 1, &instances)];
    bench.server.put_with(1, routes, [(NODE, node.at)].into()).await;
    assert_eq!(bench.get("a.example", "/poison").await.status, 502);
    assert_eq!(app.connections(), 3);
}

#[tokio::test]
async fn a_new_table_ends_the_waiting() {
    let authority = authority();
    let mut bench = gateway(&authority, |limits| {
        limits.hold = PATIENCE;
        limits.held_per_app_max = 1;
    })
    .await;
    let ((before, _), (after, asked)) = (app().await, app().await);
    let mut node = Node::away(&authority, NODE, before.address);
    let mut other = Node::away(&authority, OTHER_NODE, after.address);
    node.come();
    other.come();
    let relays = [(NODE, node.at), (OTHER_NODE, other.at)];
    let routes = vec![far("a.example", 1, &[(1, NODE)]), far("b.example", 2, &[(2, OTHER_NODE)])];
    bench.server.put_with(1, routes, relays.into()).await;
    for host in ["a.example", "b.example"] {
        assert_eq!(bench.get(host, "/before").await.status, 200);
    }
    node.go().await;
    let mut held = sent(&bench, &get("a.example", "/held")).await;
    assert_eq!(bench.get("a.example", "/other").await.status, 502);
    // The server has replaced the instance.
    let routes = vec![far("a.example", 1, &[(2, OTHER_NODE)])];
    bench.server.put_with(2, routes, relays.into()).await;
    assert_eq!(held.answer().await.status, 200);
    assert!(asked.lock().unwrap().contains(&"GET /held HTTP/1.1".to_owned()));
}

#[tokio::test]
async fn what_an_app_may_have_seen_is_not_sent_again_if_that_may_do_harm() {
    let authority = authority();
    let mut bench = gateway(&authority, |limits| limits.hold = PATIENCE).await;
    let arrived = Arc::new(Semaphore::new(0));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let app = App::start({
        let (arrived, asked) = (Arc::clone(&arrived), Arc::clone(&asked));
        move |mut stream| {
            let (arrived, asked) = (Arc::clone(&arrived), Arc::clone(&asked));
            async move {
                let Some(head) = read_head(&mut stream).await else { return };
                let is_again = {
                    let mut asked = asked.lock().unwrap();
                    asked.push(head.split(' ').next().unwrap().to_owned());
                    asked.len() > 2
                };
                arrived.add_permits(1);
                // The first two are still at work when their relay goes.
                if is_again {
                    let _ = stream.write_all(OK).await;
                } else {
                    std::future::pending().await
                }
            }
        }
    })
    .await;
    let mut node = Node::away(&authority, NODE, app.address);
    node.come();
    let routes = vec![far("a.example", 1, &[(1, NODE)])];
    bench.server.put_with(1, routes, [(NODE, node.at)].into()).await;
    let post = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n";
    let (mut reads, mut writes) =
        (Visitor::connect(bench.address).await, Visitor::connect(bench.address).await);
    reads.send(get("a.example", "/")).await;
    writes.send(post).await;
    soon("both are at work", arrived.acquire_many(2)).await.unwrap().forget();
    node.go().await;
    assert_eq!(writes.answer().await.status, 502);
    node.come();
    assert_eq!(reads.answer().await.status, 200);
    let mut asked = asked.lock().unwrap().clone();
    asked.sort();
    assert_eq!(asked, ["GET", "GET", "POST"]);
}
