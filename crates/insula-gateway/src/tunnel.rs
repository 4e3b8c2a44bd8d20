//! An upgraded connection: bytes both ways, until both sides have ended or neither says anything.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};

use crate::codec::{Bytes, Upgrade};

/// Each way: a large WebSocket message takes a few rounds, an idle one costs little.
const BUFFER_BYTES: usize = 8 * 1024;

pub(crate) async fn join(
    visitor: Upgrade,
    app: Upgrade,
    patience: Duration,
) -> io::Result<(u64, u64)> {
    let (visitor, app) = tokio::try_join!(visitor, app)?;
    let last = Rc::new(Cell::new(Instant::now()));
    let mut visitor = Watched { inner: visitor, last: Rc::clone(&last) };
    let mut app = Watched { inner: app, last: Rc::clone(&last) };
    tokio::select! {
        copied = copy_bidirectional_with_sizes(&mut visitor, &mut app, BUFFER_BYTES, BUFFER_BYTES) => copied,
        () = silence(&last, patience) => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn silence(last: &Cell<Instant>, patience: Duration) {
    loop {
        let deadline = last.get() + patience;
        if Instant::now() >= deadline {
            return;
        }
        tokio::time::sleep_until(deadline.into()).await;
    }
}

struct Watched {
    inner: Box<dyn Bytes>,
    last: Rc<Cell<Instant>>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        self.last.set(Instant::now());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
