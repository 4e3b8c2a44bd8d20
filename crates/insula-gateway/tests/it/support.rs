//! A server that hands out routes, apps that do as they are told, and visitors who write bytes.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use insula_gateway::{Doors, Gateway, GatewayConfig, Limits, Options};
use insula_kit::uds::{self, SocketAccess};
use insula_model::routes::{Endpoint, Route, RouteTable};
use insula_model::{AppId, Generation, InstanceId, NodeId, OrgId, Timestamp, schema};
use insula_wire::node as wire;
use insula_wire::node::edge_server::{Edge, EdgeServer};
use insula_wire::node::gateway_message::Message;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// Far beyond what anything here takes; a test that meets it has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

pub fn instance(n: u8) -> InstanceId {
    InstanceId::from_parts(Timestamp::from_millis(1), [n; 10])
}

pub fn app() -> AppId {
    AppId::from_parts(Timestamp::from_millis(1), [9; 10])
}

/// A route to numbered instances.
pub fn route(host: &str, path: &str, endpoints: &[(u8, SocketAddr)]) -> Route {
    Route {
        host: host.parse().unwrap(),
        path: path.to_owned(),
        preserve: false,
        org: OrgId::from_parts(Timestamp::from_millis(1), [1; 10]),
        app: app(),
        component: "web".parse().unwrap(),
        endpoints: endpoints
            .iter()
            .map(|(n, address)| Endpoint {
                instance: instance(*n),
                node: NodeId::from_parts(Timestamp::from_millis(1), [2; 10]),
                address: *address,
            })
            .collect(),
    }
}

/// The server's side of the protocol.
pub struct Server {
    tables: watch::Sender<Option<wire::RouteMessage>>,
    messages: mpsc::UnboundedReceiver<Message>,
    serving: JoinHandle<()>,
}

struct EdgeService {
    tables: watch::Sender<Option<wire::RouteMessage>>,
    messages: mpsc::UnboundedSender<Message>,
}

#[tonic::async_trait]
impl Edge for EdgeService {
    type RoutesStream = ReceiverStream<Result<wire::RouteMessage, Status>>;

    async fn routes(
        &self,
        request: Request<Streaming<wire::GatewayMessage>>,
    ) -> Result<Response<Self::RoutesStream>, Status> {
        let mut incoming = request.into_inner();
        let messages = self.messages.clone();
        tokio::spawn(async move {
            while let Ok(Some(received)) = incoming.message().await {
                let _ = messages.send(received.message.expect("a message says something"));
            }
        });
        let (outgoing, receiver) = mpsc::channel(1);
        let mut tables = self.tables.subscribe();
        tables.mark_changed();
        tokio::spawn(async move {
            while tables.changed().await.is_ok() {
                let newest = tables.borrow_and_update().clone();
                if let Some(table) = newest
                    && outgoing.send(Ok(table)).await.is_err()
                {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

impl Server {
    pub async fn start(socket: &std::path::Path) -> Self {
        let listener = uds::bind(socket, SocketAccess::PRIVATE).await.unwrap();
        let (tables, _) = watch::channel(None);
        let (sender, messages) = mpsc::unbounded_channel();
        let service = EdgeService { tables: tables.clone(), messages: sender };
        let serving = tokio::spawn(async move {
            tonic::transport::Server::builder()
                .add_service(EdgeServer::new(service))
                .serve_with_incoming(UnixListenerStream::new(listener))
                .await
                .unwrap();
        });
        Self { tables, messages, serving }
    }

    pub fn offer(&self, generation: u64, routes: Vec<Route>) {
        self.offer_with(generation, routes, [].into());
    }

    fn offer_with(
        &self,
        generation: u64,
        routes: Vec<Route>,
        relays: BTreeMap<NodeId, SocketAddr>,
    ) {
        let table = RouteTable { generation: Generation(generation), routes, relays };
        let document = schema::encode(&table).unwrap();
        self.tables.send_replace(Some(wire::RouteMessage {
            generation,
            document,
            trace: String::new(),
            servers: Vec::new(),
        }));
    }

    /// Offers a table and waits until it is in force; says who is still busy.
    pub async fn put(&mut self, generation: u64, routes: Vec<Route>) -> Vec<String> {
        self.put_with(generation, routes, [].into()).await
    }

    /// The same, with the relays of nodes.
    pub async fn put_with(
        &mut self,
        generation: u64,
        routes: Vec<Route>,
        relays: BTreeMap<NodeId, SocketAddr>,
    ) -> Vec<String> {
        self.offer_with(generation, routes, relays);
        loop {
            let ack = self.ack().await;
            if ack.generation == generation {
                return ack.busy;
            }
        }
    }

    pub async fn message(&mut self) -> Message {
        soon("a message of the gateway", self.messages.recv()).await.expect("the server runs")
    }

    pub async fn ack(&mut self) -> wire::RouteAck {
        loop {
            if let Message::Ack(ack) = self.message().await {
                return ack;
            }
        }
    }

    pub async fn hello(&mut self) -> wire::GatewayHello {
        loop {
            if let Message::Hello(hello) = self.message().await {
                return hello;
            }
        }
    }

    pub async fn traffic(&mut self) -> wire::TrafficReport {
        loop {
            if let Message::Traffic(traffic) = self.message().await {
                return traffic;
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// A gateway and what it lives in.
pub struct Bench {
    pub gateway: Option<Gateway>,
    pub address: SocketAddr,
    pub server: Server,
    pub folder: TempDir,
}

pub fn config(folder: &TempDir) -> GatewayConfig {
    GatewayConfig {
        server: insula_gateway::Server::Unix(socket(folder)),
        folder: folder.path().join("gateway"),
        ground: insula_gateway::Ground::Alone,
    }
}

/// On a port that is free.
pub fn doors() -> Doors {
    Doors::take(&["127.0.0.1:0".parse().unwrap()], Some(2)).unwrap()
}

pub fn socket(folder: &TempDir) -> PathBuf {
    folder.path().join("edge.sock")
}

impl Bench {
    pub async fn start() -> Self {
        Self::with(Options::default()).await
    }

    pub async fn limited(change: impl FnOnce(&mut Limits)) -> Self {
        let mut options = Options::default();
        change(&mut options.limits);
        Self::with(options).await
    }

    pub async fn with(options: Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(&socket(&folder)).await;
        let gateway = Gateway::start(doors(), config(&folder), options).await.unwrap();
        let address = gateway.addresses()[0];
        Self { gateway: Some(gateway), address, server, folder }
    }

    /// One request on a connection of its own.
    pub async fn ask(&self, request: &str) -> Answer {
        let mut visitor = Visitor::connect(self.address).await;
        visitor.send(request).await;
        visitor.answer().await
    }

    pub async fn get(&self, host: &str, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await
    }
}

/// A browser that sees every byte.
pub struct Visitor {
    pub stream: BufReader<TcpStream>,
}

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (given, value) = line.split_once(':')?;
            given.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

impl Visitor {
    pub async fn connect(address: SocketAddr) -> Self {
        Self { stream: BufReader::new(TcpStream::connect(address).await.unwrap()) }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    pub async fn head(&mut self) -> String {
        soon("a head", read_head(&mut self.stream)).await.expect("an answer")
    }

    /// The next answer to anything but HEAD.
    pub async fn answer(&mut self) -> Answer {
        let head = self.head().await;
        let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Answer { status, head, body: String::new() };
        let body = soon("a body", self.body(&answer)).await;
        answer.body = String::from_utf8(body).unwrap();
        answer
    }

    async fn body(&mut self, answer: &Answer) -> Vec<u8> {
        if answer.status < 200 || answer.status == 204 || answer.status == 304 {
            return Vec::new();
        }
        if let Some(length) = answer.header("content-length") {
            let mut body = vec![0; length.parse().unwrap()];
            self.stream.read_exact(&mut body).await.unwrap();
            return body;
        }
        let mut body = Vec::new();
        if answer.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk().await {
                body.extend(chunk);
            }
        } else {
            self.stream.read_to_end(&mut body).await.unwrap();
        }
        body
    }

    /// One chunk, or nothing at the last one (whose trailers, if any, are left to read).
    pub async fn chunk(&mut self) -> Option<Vec<u8>> {
        let mut line = String::new();
        soon("a chunk", self.stream.read_line(&mut line)).await.unwrap();
        let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
        if size == 0 {
            self.stream.read_line(&mut line).await.unwrap();
            return None;
        }
        let mut chunk = vec![0; size + 2];
        soon("a chunk", self.stream.read_exact(&mut chunk)).await.unwrap();
        chunk.truncate(size);
        Some(chunk)
    }

    /// What still comes: until the gateway hangs up, or one whole answer.
    pub async fn rest_or_answer(&mut self) -> Vec<u8> {
        match soon("a head or the end", read_head(&mut self.stream)).await {
            None => Vec::new(),
            Some(head) => {
                let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                let answer = Answer { status, head, body: String::new() };
                let body = soon("a body", self.body(&answer)).await;
                [answer.head.into_bytes(), body].concat()
            }
        }
    }

    /// What still comes until the gateway hangs up.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset is hanging up as well.
        let _ = soon("the end", self.stream.read_to_end(&mut rest)).await;
        rest
    }
}

/// Up to the empty line; nothing if the other side ends first.
pub async fn read_head(stream: &mut (impl AsyncBufReadExt + Unpin)) -> Option<String> {
    let mut head = String::new();
    loop {
        let before = head.len();
        if stream.read_line(&mut head).await.ok()? == 0 {
            return None;
        }
        if head[before..].trim_end().is_empty() {
            return Some(head);
        }
    }
}

/// An app: each connection is handed to what the test brings.
pub struct App {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
    ended: watch::Sender<bool>,
}

pub type Accepted = BufReader<TcpStream>;

impl App {
    pub async fn start<F>(serve: impl Fn(Accepted) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let (ended, ending) = watch::channel(false);
        let accepting = tokio::spawn({
            let connections = Arc::clone(&connections);
            async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    connections.fetch_add(1, Ordering::SeqCst);
                    stream.set_nodelay(true).unwrap();
                    let serving = serve(BufReader::new(stream));
                    let mut ending = ending.clone();
                    tokio::spawn(async move {
                        tokio::select! {
                            () = serving => {}
                            _ = ending.wait_for(|ended| *ended) => {}
                        }
                    });
                }
            }
        });
        Self { address, connections, accepting, ended }
    }

    /// Answers every request with its name, and says what it was asked.
    pub async fn named(name: &'static str) -> Self {
        Self::start(move |mut stream| async move {
            while let Some(head) = read_head(&mut stream).await {
                let length = head
                    .lines()
                    .find_map(|line| {
                        line.to_ascii_lowercase()
                            .strip_prefix("content-length:")
                            .map(|l| l.trim().parse().unwrap())
                    })
                    .unwrap_or(0);
                let mut body = vec![0; length];
                stream.read_exact(&mut body).await.unwrap();
                let text = format!("{name}\n{head}{}", String::from_utf8_lossy(&body));
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nX-App: {name}\r\n\r\n{text}",
                    text.len()
                );
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        })
        .await
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Takes no connection any more and cuts those that are open.
    pub fn end(self) {
        self.ended.send_replace(true);
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// An address at which nobody listens.
pub async fn nowhere() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}
