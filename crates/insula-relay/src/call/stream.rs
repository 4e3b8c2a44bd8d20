//! A stream to one instance, as whoever asked for it sees it: like a TCP connection.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use insula_model::NodeId;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::Health;
use super::line::{Connection, Line};
use crate::carry::{Carried, carry};

/// A stream that was dropped has this long to end on the other side as well; then its connection
/// goes with it.
const ENDING_TIME_MAX: Duration = Duration::from_secs(1);
/// What may still come meanwhile: an answer's last piece, not a download that nobody wants.
const ENDING_BYTES_MAX: usize = 64 * 1024;

/// Dropping it ends it as a socket that is closed; see [`RelayStream::abort`] for the other way. Its
/// connection goes back to the pool when both directions have ended.
#[derive(Debug)]
pub struct RelayStream {
    /// Nothing once it is on its way back.
    connection: Option<Connection>,
    line: Arc<Line>,
    broken: bool,
}

impl RelayStream {
    pub(super) fn new(connection: Connection, line: Arc<Line>) -> Self {
        Self { connection: Some(connection), line, broken: false }
    }

    pub fn node(&self) -> NodeId {
        self.line.node
    }

    /// What the pulse of its node says. A frozen node breaks no stream by itself: whoever waits for
    /// an answer decides how long.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.line.health.subscribe()
    }

    /// Breaks the stream off: the instance sees a reset, and no end that could be taken for one.
    pub fn abort(mut self) {
        self.connection = None;
    }

    /// Carries everything between this stream and a connection, until both directions have ended.
    /// When one side is broken off, so is the other.
    pub async fn join(mut self, mut tcp: TcpStream) -> (Carried, io::Result<()>) {
        let mut carried = Carried::default();
        let Some(connection) = &mut self.connection else {
            return (carried, Err(io::ErrorKind::NotConnected.into()));
        };
        // Dropped half way, this future breaks both sides off.
        self.broken = true;
        let done = carry(&mut connection.framed, &mut tcp, &mut carried).await;
        self.broken = done.is_err();
        (carried, done)
    }

    fn with<T>(
        &mut self,
        step: impl FnOnce(&mut Connection) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let Some(connection) = &mut self.connection else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let done = step(connection);
        if matches!(done, Poll::Ready(Err(_))) {
            self.broken = true;
        }
        done
    }
}

impl AsyncRead for RelayStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.get_mut().with(|connection| {
            let found = ready!(connection.framed.poll_fill(cx))?;
            let take = found.len().min(buf.remaining());
            buf.put_slice(&found[..take]);
            connection.framed.consume(take);
            Poll::Ready(Ok(()))
        })
    }
}

impl AsyncBufRead for RelayStream {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        ready!(this.with(|connection| connection.framed.poll_fill(cx).map_ok(drop)))?;
        match &mut this.connection {
            // What was there a moment ago is there still.
            Some(connection) => connection.framed.poll_fill(cx),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn consume(self: Pin<&mut Self>, count: usize) {
        if let Some(connection) = &mut self.get_mut().connection {
            connection.framed.consume(count);
        }
    }
}

impl AsyncWrite for RelayStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().with(|connection| connection.framed.poll_write(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().with(|connection| connection.framed.poll_flush(cx))
    }

    /// Ends our direction; the other goes on.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().with(|connection| connection.framed.poll_end(cx))
    }
}

impl Drop for RelayStream {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        if self.broken {
            return;
        }
        if connection.framed.is_over() {
            connection.framed.renew();
            return self.line.put(connection);
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if !self.line.begin_ending() {
            return;
        }
        let line = Arc::clone(&self.line);
        runtime.spawn(async move {
            if let Ok(Ok(())) = timeout(ENDING_TIME_MAX, end(&mut connection)).await {
                connection.framed.renew();
                line.put(connection);
            }
            line.end_ending();
        });
    }
}

/// Brings both directions to their end.
async fn end(connection: &mut Connection) -> io::Result<()> {
    let framed = &mut connection.framed;
    poll_fn(|cx| framed.poll_end(cx)).await?;
    let mut left = ENDING_BYTES_MAX;
    loop {
        let count = poll_fn(|cx| framed.poll_fill(cx).map_ok(<[u8]>::len)).await?;
        if count == 0 {
            return Ok(());
        }
        left = left.checked_sub(count).ok_or(io::ErrorKind::QuotaExceeded)?;
        framed.consume(count);
    }
}
