//! A TCP connection that reads ahead: rustls asks for 4 KiB at a time, and each time would be a
//! call of the kernel. The buffer exists only while there is something in it, so that thousands of
//! quiet connections cost nothing.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

/// Four records of TLS, and what fast links deliver between two wake-ups.
const AHEAD_LEN: usize = 64 * 1024;

#[derive(Debug)]
pub struct ReadAhead {
    tcp: TcpStream,
    ahead: BytesMut,
}

impl ReadAhead {
    pub(crate) fn new(tcp: TcpStream) -> Self {
        Self { tcp, ahead: BytesMut::new() }
    }
}

impl AsyncRead for ReadAhead {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { tcp, ahead } = &mut *self;
        if ahead.is_empty() {
            // A buffer that was drained goes back before we wait.
            *ahead = BytesMut::new();
            ready!(tcp.poll_read_ready(cx))?;
            let mut fresh = BytesMut::with_capacity(AHEAD_LEN);
            ready!(poll_read_buf(Pin::new(tcp), cx, &mut fresh))?;
            *ahead = fresh;
        }
        let take = ahead.len().min(buf.remaining());
        buf.put_slice(&ahead[..take]);
        ahead.advance(take);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ReadAhead {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
