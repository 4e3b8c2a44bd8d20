//! A node with two environments, and clients that speak DNS by hand.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use insula_discovery::{AppNames, Asker, Config, Resolver, Zone};
use insula_kit::random::SystemRandom;
use insula_kit::shutdown::{Cause, Shutdown};
use insula_model::{AppName, EnvironmentId, Timestamp, ids::ID_RANDOM_BYTES};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub const RED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
pub const BLUE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
pub const BUILD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 4);
pub const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 5);
pub const DB: Ipv4Addr = Ipv4Addr::new(10, 87, 0, 9);

pub const A: u16 = 1;
pub const AAAA: u16 = 28;
pub const NO_ERROR: u8 = 0;
pub const SERVER_FAILURE: u8 = 2;
pub const NO_SUCH_NAME: u8 = 3;
pub const REFUSED: u8 = 5;

/// Only a hung resolver waits this long; then the test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct World {
    pub resolver: SocketAddr,
    pub zone: watch::Sender<Arc<Zone>>,
    shutdown: Shutdown,
    running: JoinHandle<()>,
}

impl World {
    pub async fn new(upstreams: Vec<SocketAddr>) -> Self {
        let (sender, zone) = watch::channel(Arc::new(zone()));
        let config = Config { listen: vec![(Ipv4Addr::LOCALHOST, 0).into()], upstreams };
        let resolver = Resolver::bind(config, zone, Arc::new(SystemRandom::new())).await.unwrap();
        let address = resolver.addresses().unwrap()[0];
        let shutdown = Shutdown::new();
        let running = tokio::spawn(resolver.run(shutdown.clone()));
        Self { resolver: address, zone: sender, shutdown, running }
    }

    pub async fn end(self) {
        self.shutdown.begin(Cause::Own);
        timeout(PATIENCE, self.running).await.unwrap().unwrap();
    }

    pub async fn client(&self, source: Ipv4Addr) -> UdpSocket {
        let socket = UdpSocket::bind((source, 0)).await.unwrap();
        socket.connect(self.resolver).await.unwrap();
        socket
    }

    pub async fn connection(&self, source: Ipv4Addr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((source, 0).into()).unwrap();
        socket.connect(self.resolver).await.unwrap()
    }

    pub async fn ask(&self, source: Ipv4Addr, name: &str, kind: u16) -> Reply {
        let socket = self.client(source).await;
        socket.send(&question(7, name, kind)).await.unwrap();
        receive(&socket).await
    }

    pub async fn ask_by_tcp(&self, source: Ipv4Addr, name: &str, kind: u16) -> Reply {
        let mut stream = self.connection(source).await;
        let question = question(7, name, kind);
        stream.write_u16(u16::try_from(question.len()).unwrap()).await.unwrap();
        stream.write_all(&question).await.unwrap();
        let length = timeout(PATIENCE, stream.read_u16()).await.unwrap().unwrap();
        let mut bytes = vec![0; usize::from(length)];
        stream.read_exact(&mut bytes).await.unwrap();
        Reply { bytes }
    }
}

pub async fn receive(socket: &UdpSocket) -> Reply {
    let mut buffer = vec![0; 4_096];
    let length = timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
    buffer.truncate(length);
    Reply { bytes: buffer }
}

pub struct Reply {
    pub bytes: Vec<u8>,
}

impl Reply {
    pub fn id(&self) -> u16 {
        u16::from_be_bytes([self.bytes[0], self.bytes[1]])
    }

    pub fn code(&self) -> u8 {
        self.bytes[3] & 0x0f
    }

    pub fn truncated(&self) -> bool {
        self.bytes[2] & 2 != 0
    }

    /// The addresses in the answer section, whose names all point at the question.
    pub fn addresses(&self) -> Vec<Ipv4Addr> {
        let count = usize::from(u16::from_be_bytes([self.bytes[6], self.bytes[7]]));
        let records = question_end(&self.bytes);
        let record = |index| &self.bytes[records + 16 * index..][..16];
        (0..count).map(|index| <[u8; 4]>::try_from(&record(index)[12..]).unwrap().into()).collect()
    }
}

pub fn question(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

pub fn question_end(message: &[u8]) -> usize {
    let mut at = 12;
    while message[at] != 0 {
        at += 1 + usize::from(message[at]);
    }
    at + 5
}

/// What an honest upstream says to `question`.
pub fn answer(question: &[u8], addresses: &[Ipv4Addr]) -> Vec<u8> {
    let mut bytes = question[..question_end(question)].to_vec();
    bytes[2] |= 0x80;
    bytes[6..8].copy_from_slice(&u16::try_from(addresses.len()).unwrap().to_be_bytes());
    bytes[10..12].fill(0);
    for address in addresses {
        bytes.extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04");
        bytes.extend(address.octets());
    }
    bytes
}

fn zone() -> Zone {
    let environment =
        |number| EnvironmentId::from_parts(Timestamp::default(), [number; ID_RANDOM_BYTES]);
    let shop: AppName = "shop".parse().unwrap();
    let mut zone = Zone::default();
    for (address, number) in [(RED, 1), (BLUE, 2)] {
        let asker = Asker::Instance { environment: environment(number), app: shop.clone() };
        zone.askers.insert(address, asker);
    }
    zone.askers.insert(BUILD, Asker::Build);
    let db = "db".parse().unwrap();
    let names = AppNames { components: BTreeMap::from([(db, vec![DB])]), front: None };
    zone.environments.insert(environment(1), BTreeMap::from([(shop.clone(), names)]));
    zone.environments.insert(environment(2), BTreeMap::from([(shop, AppNames::default())]));
    zone
}
