//! Connections from elsewhere: accepted, shaken hands with, bounded.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use insula_kit::tls::{Acceptor, Peer, ServerStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Sleep;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tracing::debug;

use crate::shares::{Share, Shares};

/// Twice the nodes of the largest fleet we simulate; each holds some 50 KiB.
const CONNECTIONS_MAX: usize = 32_768;
/// Connections that have not said yet who they are: sixteen times the handshakes under way, which a
/// fleet that returns as a whole waits in; and of one address, what waits for four turns.
const STRANGERS_MAX: usize = 4_096;
const STRANGERS_PER_ADDRESS_MAX: usize = 256;
/// Connections that show no certificate: newcomers, and whoever tries.
const NEWCOMERS_MAX: usize = 128;
const NEWCOMERS_PER_ADDRESS_MAX: usize = 32;
/// A newcomer asks one question.
const NEWCOMER_TIME_MAX: Duration = Duration::from_secs(15);
/// After a failed `accept` (no descriptors left, say): not at once again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Handshakes that are done and wait for the server's loop.
const DONE_WAITING_MAX: usize = 64;

/// Who is at the other end, for each request of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) peer: Option<Peer>,
    pub(crate) address: SocketAddr,
}

pub(crate) struct FleetStream {
    inner: ServerStream<TcpStream>,
    connection: Connection,
    /// A newcomer's.
    deadline: Option<Pin<Box<Sleep>>>,
    _places: (OwnedSemaphorePermit, Option<Share>),
}

/// Accepts for as long as somebody takes what comes out.
pub(crate) fn incoming(
    listener: TcpListener,
    acceptor: Acceptor,
) -> ReceiverStream<io::Result<FleetStream>> {
    let (done, ready) = mpsc::channel(DONE_WAITING_MAX);
    tokio::spawn(async move {
        tokio::select! {
            () = accept(listener, acceptor, done.clone()) => {}
            () = done.closed() => {}
        }
    });
    ReceiverStream::new(ready)
}

async fn accept(
    listener: TcpListener,
    acceptor: Acceptor,
    done: mpsc::Sender<io::Result<FleetStream>>,
) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let strangers = Shares::new(STRANGERS_MAX, STRANGERS_PER_ADDRESS_MAX);
    let newcomers = Shares::new(NEWCOMERS_MAX, NEWCOMERS_PER_ADDRESS_MAX);
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Over the bound: closed at once, which its caller notices.
        let Some(stranger) = strangers.take(address.ip()) else { continue };
        let (acceptor, done) = (acceptor.clone(), done.clone());
        let (connections, newcomers) = (connections.clone(), newcomers.clone());
        tokio::spawn(async move {
            let shaken = shake(stream, address, &acceptor, &connections, &newcomers).await;
            drop(stranger);
            match shaken {
                Ok(Some(stream)) => drop(done.send(Ok(stream)).await),
                Ok(None) => debug!(%address, "too many connections"),
                Err(error) => debug!(%address, error = %words(&error), "a caller was refused"),
            }
        });
    }
}

async fn shake(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: &Acceptor,
    connections: &Arc<Semaphore>,
    newcomers: &Arc<Shares>,
) -> Result<Option<FleetStream>, insula_kit::tls::TlsError> {
    // Heartbeats and acknowledgements are small and must not wait for company.
    let _ = stream.set_nodelay(true);
    let (inner, peer) = acceptor.accept(stream, address.ip()).await?;
    let (newcomer, deadline) = match &peer {
        Some(_) => (None, None),
        None => match newcomers.take(address.ip()) {
            Some(place) => (Some(place), Some(Box::pin(tokio::time::sleep(NEWCOMER_TIME_MAX)))),
            None => return Ok(None),
        },
    };
    // Not before: who has shown nothing takes no member's place.
    let Ok(place) = connections.clone().try_acquire_owned() else { return Ok(None) };
    let connection = Connection { peer, address };
    Ok(Some(FleetStream { inner, connection, deadline, _places: (place, newcomer) }))
}

fn words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        words = format!("{words}: {inner}");
        source = inner.source();
    }
    words
}

impl Connected for FleetStream {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Connection {
        self.connection.clone()
    }
}

impl AsyncRead for FleetStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl AsyncWrite for FleetStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
