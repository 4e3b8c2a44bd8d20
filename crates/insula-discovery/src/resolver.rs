//! The resolver: sockets, UDP and TCP, and the way of a question through zone, cache and upstreams.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use insula_kit::random::Random;
use insula_kit::shutdown::Shutdown;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::bounds::Bounds;
use crate::cache::{Cache, Key};
use crate::forward::{self, Forwarder};
use crate::message::{self, Query, Rcode, Reject, TYPE_A, read_query};
use crate::zone::{Ruling, Zone};

/// Questions of one source that wait for an upstream: more than any program asks at once.
const WAITING_PER_SOURCE_MAX: usize = 64;
/// Some 5 KiB each, and below the usual limit of open files.
const WAITING_MAX: usize = 512;
const CONNECTIONS_PER_SOURCE_MAX: usize = 8;
const CONNECTIONS_MAX: usize = 128;
/// Between two questions of a connection, and for one to arrive.
const CONNECTION_IDLE_MAX: Duration = Duration::from_secs(10);
/// A question is a name and an OPT record; the rest of 64 KiB is nobody's need.
const QUERY_BYTES_MAX: usize = 1_024;
/// An instance that moved is found again at once, and its address may be somebody else's soon.
const OWN_TTL_S: u32 = 1;
/// Between two tries after the kernel refused to receive or accept (out of memory, out of files).
const RECOVERY: Duration = Duration::from_millis(20);
/// A port that the kernel chose for TCP may be taken for UDP.
const BIND_TRIES: u32 = 16;

/// What the resolver is told once; the zone comes by its channel.
#[derive(Debug, Clone)]
pub struct Config {
    pub listen: Vec<SocketAddr>,
    /// See [`crate::upstreams()`].
    pub upstreams: Vec<SocketAddr>,
}

#[derive(Debug, thiserror::Error)]
pub enum ResolverError {
    #[error("listen for names on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
}

/// The names of one node. Made by [`Resolver::bind`], at work during [`Resolver::run`].
#[derive(Debug)]
pub struct Resolver {
    doors: Vec<Door>,
    core: Arc<Core>,
}

#[derive(Debug)]
struct Door {
    udp: Arc<UdpSocket>,
    tcp: TcpListener,
}

#[derive(Debug)]
struct Core {
    zone: watch::Receiver<Arc<Zone>>,
    forwarder: Forwarder,
    cache: Mutex<Cache>,
    waiting: Bounds,
    connections: Bounds,
    random: Arc<dyn Random>,
}

/// How a question came, and how its answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
}

/// What a question needs: nothing more, or an upstream.
enum Step {
    Done(Vec<u8>),
    Ask(Box<Query>),
}

impl Resolver {
    /// The sockets are open when this returns; questions wait in them until `run`.
    pub async fn bind(
        config: Config,
        zone: watch::Receiver<Arc<Zone>>,
        random: Arc<dyn Random>,
    ) -> Result<Self, ResolverError> {
        let mut doors = Vec::with_capacity(config.listen.len());
        for address in config.listen {
            let door = Door::open(address).await;
            doors.push(door.map_err(|source| ResolverError::Listen { address, source })?);
        }
        let core = Core {
            zone,
            forwarder: Forwarder::new(config.upstreams, Arc::clone(&random)),
            cache: Mutex::default(),
            waiting: Bounds::new(WAITING_PER_SOURCE_MAX, WAITING_MAX),
            connections: Bounds::new(CONNECTIONS_PER_SOURCE_MAX, CONNECTIONS_MAX),
            random,
        };
        Ok(Self { doors, core: Arc::new(core) })
    }

    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.doors.iter().map(|door| door.udp.local_addr()).collect()
    }

    /// Answers until the end is asked for; what is under way then is dropped, clients ask again.
    pub async fn run(self, shutdown: Shutdown) {
        let _guard = shutdown.guard("resolver");
        let mut loops = JoinSet::new();
        for door in self.doors {
            loops.spawn(serve_udp(door.udp, Arc::clone(&self.core)));
            loops.spawn(serve_tcp(door.tcp, Arc::clone(&self.core)));
        }
        shutdown.requested().await;
        loops.shutdown().await;
    }
}

impl Door {
    async fn open(address: SocketAddr) -> io::Result<Self> {
        let mut tries = 0;
        loop {
            let tcp = TcpListener::bind(address).await?;
            tries += 1;
            match UdpSocket::bind(tcp.local_addr()?).await {
                Ok(udp) => return Ok(Self { udp: Arc::new(udp), tcp }),
                Err(_) if address.port() == 0 && tries < BIND_TRIES => {}
                Err(error) => return Err(error),
            }
        }
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, core: Arc<Core>) {
    let mut buffer = [0; QUERY_BYTES_MAX + 1];
    // Dropped with this loop, and every question under way with it.
    let mut waiting = JoinSet::new();
    loop {
        let received = tokio::select! {
            Some(_) = waiting.join_next() => continue,
            received = socket.recv_from(&mut buffer) => received,
        };
        let (length, source) = match received {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "receive a question");
                sleep(RECOVERY).await;
                continue;
            }
        };
        match core.step(&buffer[..length], source.ip(), Transport::Udp) {
            None => {}
            // Never waits: a full send buffer loses the answer, and the client asks again.
            Some(Step::Done(answer)) => drop(socket.try_send_to(&answer, source)),
            Some(Step::Ask(query)) => {
                let Some(place) = core.waiting.enter(source.ip()) else {
                    drop(socket.try_send_to(&query.fail(Rcode::Refused), source));
                    continue;
                };
                let (socket, core) = (Arc::clone(&socket), Arc::clone(&core));
                waiting.spawn(async move {
                    let answer = fit(&query, core.ask(&query).await);
                    drop(socket.try_send_to(&answer, source));
                    drop(place);
                });
            }
        }
    }
}

async fn serve_tcp(listener: TcpListener, core: Arc<Core>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let (stream, source) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "accept a connection for names");
                sleep(RECOVERY).await;
                continue;
            }
        };
        // One too many is closed at once.
        let Some(place) = core.connections.enter(source.ip()) else { continue };
        let core = Arc::clone(&core);
        connections.spawn(async move {
            if let Err(error) = serve_connection(stream, source.ip(), &core).await {
                tracing::debug!(%error, %source, "a connection for names ended");
            }
            drop(place);
        });
    }
}

/// One question after the other, each answered before the next is read.
async fn serve_connection(mut stream: TcpStream, source: IpAddr, core: &Core) -> io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        let question = timeout(CONNECTION_IDLE_MAX, read_framed(&mut stream, &mut bytes)).await;
        if !question.map_err(io::Error::from)?? {
            return Ok(());
        }
        let answer = match core.step(&bytes, source, Transport::Tcp) {
            None => return Ok(()),
            Some(Step::Done(answer)) => answer,
            Some(Step::Ask(query)) => match core.waiting.enter(source) {
                Some(_place) => core.ask(&query).await,
                None => query.fail(Rcode::Refused),
            },
        };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let framed = [length.to_be_bytes().as_slice(), &answer].concat();
        // A client that does not read its answers is let go.
        timeout(CONNECTION_IDLE_MAX, stream.write_all(&framed))
            .await
            .map_err(io::Error::from)??;
    }
}

/// `false`: the client has no more questions, or one that is too long.
async fn read_framed(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<bool> {
    let length = match stream.read_u16().await {
        Ok(length) => usize::from(length),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(error),
    };
    if length > QUERY_BYTES_MAX {
        return Ok(false);
    }
    bytes.resize(length, 0);
    stream.read_exact(bytes).await?;
    Ok(true)
}

/// A datagram that the client can take.
fn fit(query: &Query, answer: Vec<u8>) -> Vec<u8> {
    if answer.len() <= query.udp_limit() { answer } else { query.truncated() }
}

impl Core {
    /// Everything that needs no waiting. `None`: no answer at all.
    fn step(&self, bytes: &[u8], source: IpAddr, transport: Transport) -> Option<Step> {
        let query = match read_query(bytes) {
            Ok(query) => query,
            Err(Reject::Silently) => return None,
            Err(Reject::With(id, rcode)) => {
                return Some(Step::Done(message::bare_failure(id, rcode)));
            }
        };
        if query.edns.is_some_and(|edns| edns.version > 0) {
            return Some(Step::Done(query.fail(Rcode::BadVersion)));
        }
        let answer = {
            let zone = self.zone.borrow();
            match zone.rule(ipv4(source), &query.question.name) {
                Ruling::Known(addresses) if query.question.kind == TYPE_A => {
                    query.answer(&self.rotated(addresses), OWN_TTL_S)
                }
                // The name is there; what was asked about it is not.
                Ruling::Known(_) => query.answer(&[], OWN_TTL_S),
                Ruling::Unknown => query.no_such_name(),
                Ruling::Stranger => query.fail(Rcode::Refused),
                Ruling::Forward => match self.cached(&query) {
                    Some(answer) => answer,
                    None => return Some(Step::Ask(Box::new(query))),
                },
            }
        };
        Some(Step::Done(match transport {
            Transport::Udp => fit(&query, answer),
            Transport::Tcp => answer,
        }))
    }

    /// Most programs take the first address, so each answer begins with another one.
    fn rotated(&self, addresses: &[Ipv4Addr]) -> Vec<Ipv4Addr> {
        let mut addresses = addresses.to_vec();
        if addresses.len() > 1 {
            let places = addresses.len() as u64;
            let start = usize::try_from(self.random.next_u64() % places).unwrap_or(0);
            addresses.rotate_left(start);
        }
        addresses
    }

    fn cached(&self, query: &Query) -> Option<Vec<u8>> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let (answer, age_s) = cache.find(&Key::of(query), Instant::now())?;
        Some(answer.for_query(query, age_s))
    }

    async fn ask(&self, query: &Query) -> Vec<u8> {
        match self.forwarder.ask(query).await {
            Ok(answer) => {
                let answer = Arc::new(answer);
                let bytes = answer.for_query(query, 0);
                let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
                cache.put(Key::of(query), answer, Instant::now());
                bytes
            }
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "ask the upstreams");
                forward::failure(query)
            }
        }
    }
}

/// A dual-stack socket shows IPv4 sources in IPv6 clothes; real IPv6 sources are nobody of ours.
fn ipv4(source: IpAddr) -> Ipv4Addr {
    match source.to_canonical() {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}
