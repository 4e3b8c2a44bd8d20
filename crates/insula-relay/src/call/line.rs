//! Everything between us and one node: spare connections, dials, and openings.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use insula_kit::tls::ClientStream;
use insula_model::{InstanceId, NodeId};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{CONNECTION_LIFE_MAX, Common, Health, OpenError, RelayStream, Unreachable, socket};
use crate::ahead::ReadAhead;
use crate::framed::Framed;
use crate::member::whom;
use crate::message::{Answer, Request, Verdict};

/// Spare connections to one node: what a burst leaves behind, at 40 KiB each.
const SPARE_MAX: usize = 128;
/// A spare connection that nobody wanted for so long; the far end would close it after twice that.
const SPARE_TIME_MAX: Duration = Duration::from_secs(60);
/// Handshakes with one node at once: two processors at the far end are busy with eight.
const DIALS_PER_NODE_MAX: usize = 8;
/// A network that takes longer for one round trip is of no use for a request.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);
/// For an opening with all that it takes; the far end gives the instance three seconds of it.
const OPEN_TIME_MAX: Duration = Duration::from_secs(5);
/// Streams to one node that are being brought to their end so that the connection can be used again.
const ENDING_MAX: usize = 256;

#[derive(Debug)]
pub(super) struct Line {
    pub(super) node: NodeId,
    pub(super) relay: SocketAddr,
    pub(super) common: Arc<Common>,
    pub(super) health: watch::Sender<Health>,
    /// When its relay was last heard no more; stays when it is back.
    lost: Mutex<Option<Instant>>,
    pub(super) end: CancellationToken,
    spare: Mutex<Vec<Spare>>,
    dials: Semaphore,
    ending: AtomicUsize,
}

/// A connection between two streams.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) framed: Framed<ClientStream<ReadAhead>>,
    born: Instant,
}

#[derive(Debug)]
struct Spare {
    connection: Connection,
    since: Instant,
}

impl Line {
    pub(super) fn new(node: NodeId, relay: SocketAddr, common: Arc<Common>) -> Arc<Self> {
        Arc::new(Self {
            node,
            relay,
            common,
            health: watch::Sender::new(Health::Unknown),
            lost: Mutex::default(),
            end: CancellationToken::new(),
            spare: Mutex::default(),
            dials: Semaphore::new(DIALS_PER_NODE_MAX),
            ending: AtomicUsize::new(0),
        })
    }

    pub(super) async fn open(
        self: &Arc<Self>,
        instance: InstanceId,
    ) -> Result<RelayStream, OpenError> {
        let node = self.node;
        let unreachable = |source| OpenError::Unreachable { node, source };
        let relay = self.relay;
        let mut health = self.health.subscribe();
        let opened = tokio::select! {
            biased;
            _ = health.wait_for(|health| *health == Health::Dead) => Err(Unreachable::Dead { relay }),
            opened = timeout(OPEN_TIME_MAX, self.ask(instance)) => {
                opened.unwrap_or(Err(Unreachable::Slow { relay }))
            }
        };
        let (connection, verdict) = opened.map_err(unreachable)?;
        match verdict {
            Verdict::Ok => return Ok(RelayStream::new(connection, Arc::clone(self))),
            Verdict::Gone => self.put(connection),
            Verdict::Denied => self.put(connection),
            Verdict::Refused(_) => self.put(connection),
        }
        Err(match verdict {
            Verdict::Denied => OpenError::Denied { instance, node },
            Verdict::Refused(why) => OpenError::Refused { instance, node, why },
            Verdict::Ok | Verdict::Gone => OpenError::Gone { instance, node },
        })
    }

    async fn ask(&self, instance: InstanceId) -> Result<(Connection, Verdict), Unreachable> {
        loop {
            let spare = self.take();
            let was_spare = spare.is_some();
            let mut connection = match spare {
                Some(connection) => connection,
                None => self.dial().await?,
            };
            match connection.ask(Request::Open(instance)).await {
                Ok(Answer::Open(of, verdict)) if of == instance => {
                    if was_spare {
                        self.common.counts.reused.increment();
                    }
                    return Ok((connection, verdict));
                }
                Ok(_) => return Err(Unreachable::Nonsense { relay: self.relay }),
                // It was closed while it lay here. Nothing was said on it, so it may be said again.
                Err(_) if was_spare => {}
                Err(source) => return Err(Unreachable::Ask { relay: self.relay, source }),
            }
        }
    }

    /// A connection for a stream: a new one, or one that came back while we waited for our turn.
    async fn dial(&self) -> Result<Connection, Unreachable> {
        let _own = self.dials.acquire().await;
        let _all = self.common.dials.acquire().await;
        match self.take() {
            Some(connection) => Ok(connection),
            None => self.dial_now().await,
        }
    }

    pub(super) async fn dial_now(&self) -> Result<Connection, Unreachable> {
        let dialled = Box::pin(self.connect()).await;
        let counts = &self.common.counts;
        if dialled.is_ok() { &counts.dialled } else { &counts.dials_failed }.increment();
        dialled
    }

    async fn connect(&self) -> Result<Connection, Unreachable> {
        let relay = self.relay;
        let connected = timeout(CONNECT_TIME_MAX, TcpStream::connect(relay)).await;
        let tcp = connected
            .map_err(|_| Unreachable::Slow { relay })?
            .map_err(|source| Unreachable::Dial { relay, source })?;
        socket::tune(&tcp);
        let shaken = self.common.connector.connect(ReadAhead::new(tcp), &whom(self.node)).await;
        let (stream, _) = shaken.map_err(|source| Unreachable::Tls { relay, source })?;
        Ok(Connection { framed: Framed::new(stream), born: Instant::now() })
    }

    /// The one that was used last, so that the others can go.
    fn take(&self) -> Option<Connection> {
        loop {
            let mut spare = self.lock().pop()?;
            if spare.connection.is_quiet() {
                return Some(spare.connection);
            }
        }
    }

    /// For the next stream. What is beneath it has carried its last one to the end.
    pub(super) fn put(&self, connection: Connection) {
        if connection.is_old() || self.end.is_cancelled() || *self.health.borrow() == Health::Dead {
            return;
        }
        let mut spare = self.lock();
        if spare.len() < SPARE_MAX {
            spare.push(Spare { connection, since: Instant::now() });
        }
    }

    /// Lets go of what nobody wants.
    pub(super) fn prune(&self) {
        self.lock()
            .retain(|spare| spare.since.elapsed() < SPARE_TIME_MAX && !spare.connection.is_old());
    }

    pub(super) fn lost(&self) -> Option<Instant> {
        *self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It was heard and is not any more, which may be over before anybody calls it dead.
    pub(super) fn lose(&self) {
        *self.lost.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.common.changes.send_modify(|count| *count += 1);
    }

    pub(super) fn say(&self, health: Health) {
        if health == Health::Dead && *self.health.borrow() != Health::Dead {
            // Known before anybody hears of it.
            self.lose();
        }
        let changed = self.health.send_replace(health) != health;
        if changed {
            self.common.changes.send_modify(|count| *count += 1);
        }
        if health == Health::Dead {
            self.lock().clear();
            if changed {
                self.common.counts.deaths.increment();
                tracing::warn!(node = %self.node, relay = %self.relay, "the relay does not answer");
            }
        } else if changed {
            tracing::info!(node = %self.node, relay = %self.relay, "the relay answers");
        }
    }

    pub(super) fn let_go(&self) {
        self.end.cancel();
        self.lock().clear();
    }

    /// Whether one more stream may be brought to its end behind everybody's back.
    pub(super) fn begin_ending(&self) -> bool {
        let begun = self.ending.fetch_add(1, Ordering::Relaxed) < ENDING_MAX;
        if !begun {
            self.ending.fetch_sub(1, Ordering::Relaxed);
        }
        begun
    }

    pub(super) fn end_ending(&self) {
        self.ending.fetch_sub(1, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Spare>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    pub(super) async fn ask(&mut self, request: Request) -> io::Result<Answer> {
        self.framed.write_message(request.encode()).await?;
        let message = self.framed.read_message().await?.ok_or(io::ErrorKind::ConnectionReset)?;
        Answer::decode(&message).map_err(io::Error::other)
    }

    /// Still open, and nobody said anything without being asked.
    fn is_quiet(&mut self) -> bool {
        let heard = pin!(self.framed.heard());
        matches!(heard.poll(&mut Context::from_waker(Waker::noop())), Poll::Pending)
    }

    pub(super) fn is_old(&self) -> bool {
        self.born.elapsed() >= CONNECTION_LIFE_MAX
    }
}
