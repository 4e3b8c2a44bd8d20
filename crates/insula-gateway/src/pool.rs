//! Connections to instances: one thread's own, kept open between requests.
//!
//! Connections that are not in use are kept per way to an instance, the freshest on top. They are dropped
//! when their time is over or their address leaves the routes, and do not count as busy.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use insula_model::NodeId;
use insula_relay::{Health, OpenError};
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::body::RequestBody;
use crate::limits::Limits;
use crate::way::{Far, Way};

#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("connect to {address}")]
    Connect {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("connect to {address}: no answer in time")]
    Silent { address: SocketAddr },
    #[error("begin HTTP with an instance")]
    Handshake(#[source] hyper::Error),
    #[error("open a stream through a relay")]
    Relay(#[source] OpenError),
    #[error("there is no way to {node} from here: it has no relay, or we have no certificate")]
    NoWay { node: NodeId },
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) sender: http1::SendRequest<RequestBody>,
    way: Way,
    /// Not its owner: the connection's task is. Nothing for one through a relay.
    socket: Weak<TcpStream>,
    /// Of the node, if it is another.
    pub(crate) health: Option<watch::Receiver<Health>>,
    pub(crate) reused: bool,
}

/// Of one thread.
#[derive(Debug)]
pub(crate) struct Pool {
    idle: RefCell<HashMap<Way, Vec<Idle>>>,
    sweeping: Cell<bool>,
    limits: Arc<Limits>,
    far: Rc<Far>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

/// A connection that goes back when its answer has been read.
#[derive(Debug)]
pub(crate) struct Returning {
    pool: Rc<Pool>,
    connection: Connection,
}

impl Connection {
    pub(crate) fn returning(self, pool: &Rc<Pool>) -> Returning {
        Returning { pool: Rc::clone(pool), connection: self }
    }

    /// Whether the other side has not hung up, asked of the socket itself: for requests that
    /// cannot be repeated if it has. One through a relay cannot be asked; a new stream through it
    /// costs one round trip and no handshake.
    pub(crate) fn alive(&self) -> bool {
        let Some(socket) = self.socket.upgrade() else { return false };
        let peek = recv(&*socket, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        // An end, or bytes that nobody asked for: neither is fit for a request.
        matches!(peek, Err(rustix::io::Errno::AGAIN))
    }
}

impl Returning {
    pub(crate) fn give_back(self) {
        let Self { pool, connection } = self;
        pool.put(connection);
    }
}

impl Pool {
    pub(crate) fn new(limits: Arc<Limits>, far: Rc<Far>) -> Self {
        Self { idle: RefCell::default(), sweeping: Cell::new(false), limits, far }
    }

    /// One that is open and unused, if there is.
    pub(crate) fn take(&self, way: Way) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        let kept = idle.get_mut(&way)?;
        kept.retain(|idle| !idle.connection.sender.is_closed());
        let at = kept.iter().rposition(|idle| idle.connection.sender.is_ready())?;
        Some(Connection { reused: true, ..kept.remove(at).connection })
    }

    pub(crate) async fn connect(&self, way: Way) -> Result<Connection, ConnectError> {
        match way {
            Way::Here(address) => self.connect_here(way, address).await,
            Way::There { node, relay, instance } => {
                let caller = self.far.caller().ok_or(ConnectError::NoWay { node })?;
                let opened = caller.open(node, relay, instance).await;
                let stream = opened.map_err(ConnectError::Relay)?;
                let health = Some(stream.health());
                self.begin(way, stream, Weak::new(), health).await
            }
            Way::Nowhere(node) => Err(ConnectError::NoWay { node }),
        }
    }

    async fn connect_here(
        &self,
        way: Way,
        address: SocketAddr,
    ) -> Result<Connection, ConnectError> {
        let stream = tokio::time::timeout(self.limits.connect_timeout, TcpStream::connect(address))
            .await
            .map_err(|_| ConnectError::Silent { address })?
            .map_err(|source| ConnectError::Connect { address, source })?;
        // A failure costs speed alone.
        let _ = stream.set_nodelay(true);
        let stream = Arc::new(stream);
        let socket = Arc::downgrade(&stream);
        self.begin(way, Socket(stream), socket, None).await
    }

    /// Begins HTTP on a stream that is open.
    async fn begin<S>(
        &self,
        way: Way,
        stream: S,
        socket: Weak<TcpStream>,
        health: Option<watch::Receiver<Health>>,
    ) -> Result<Connection, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::Builder::new()
            .max_headers(self.limits.headers_max)
            .max_buf_size(2 * self.limits.head_bytes_max.max(8 * 1024))
            .handshake(TokioIo::new(stream))
            .await
            .map_err(ConnectError::Handshake)?;
        // Its errors are those of the request on it, and told there.
        tokio::task::spawn_local(async move {
            let _ = connection.with_upgrades().await;
        });
        Ok(Connection { sender, way, socket, health, reused: false })
    }

    /// Drops what is open to where no route leads any more.
    pub(crate) fn keep_only(&self, ways: &HashSet<Way>) {
        self.idle.borrow_mut().retain(|way, _| ways.contains(way));
    }

    pub(crate) fn clear(&self) {
        self.idle.borrow_mut().clear();
    }

    fn put(self: &Rc<Self>, connection: Connection) {
        if connection.sender.is_closed() {
            return;
        }
        {
            let mut idle = self.idle.borrow_mut();
            let kept = idle.entry(connection.way).or_default();
            if kept.len() >= self.limits.upstream_idle_max {
                kept.remove(0);
            }
            kept.push(Idle { connection, since: Instant::now() });
        }
        if !self.sweeping.replace(true) {
            tokio::task::spawn_local(Rc::clone(self).sweep());
        }
    }

    /// Runs only while something is kept, so that an idle gateway sleeps.
    async fn sweep(self: Rc<Self>) {
        loop {
            tokio::time::sleep(self.limits.upstream_idle_timeout / 2).await;
            let mut idle = self.idle.borrow_mut();
            let limit = self.limits.upstream_idle_timeout;
            idle.retain(|_, kept| {
                kept.retain(|idle| {
                    idle.since.elapsed() < limit && !idle.connection.sender.is_closed()
                });
                !kept.is_empty()
            });
            if idle.is_empty() {
                self.sweeping.set(false);
                return;
            }
        }
    }
}

/// A stream whose owner lets others ask after its health.
#[derive(Debug)]
struct Socket(Arc<TcpStream>);

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read_buf(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read.map(drop)),
            }
        }
    }
}

impl Socket {
    fn poll_try(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match write(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_try(cx, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_try(cx, |stream| stream.try_write_vectored(pieces))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match rustix::net::shutdown(&*self.0, rustix::net::Shutdown::Write) {
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_tells_of_its_end_before_anybody_has_read_it() {
        let connected = async {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let (_, no_certificate) = watch::channel(None);
            let far = Far::new(no_certificate, insula_kit::metrics::Metrics::new());
            let pool = Rc::new(Pool::new(Arc::new(Limits::default()), far));
            let way = Way::Here(listener.local_addr().unwrap());
            let connection = pool.connect(way).await.unwrap();
            let (app, _) = listener.accept().unwrap();
            assert!(connection.alive());
            drop(app);
            // No other task has run since: what the connection's own knows is the past.
            assert!(!connection.sender.is_closed());
            assert!(!connection.alive());
        };
        tokio::task::LocalSet::new().run_until(connected).await;
    }
}
