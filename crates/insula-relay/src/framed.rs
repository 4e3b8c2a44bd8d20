//! One stream at a time on a connection that outlives it.
//!
//! `[length: u16][bytes]`, both ways; length 0 ends a direction. When both have ended, the
//! connection is as it was before and can carry the next stream. A connection that closes before
//! is a stream that was broken off, and is never taken for its end.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncBufRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::message::MESSAGE_LEN;

pub(crate) const HEADER_LEN: usize = 2;
/// With its header exactly four records of TLS.
pub(crate) const FRAME_LEN_MAX: usize = 4 * 16 * 1024 - HEADER_LEN;
/// Head, body and a few pieces: what HTTP writers hand over at once.
const SLICES_MAX: usize = 16;

/// What carries streams: TLS over TCP, and in tests whatever has two ends.
pub trait Carrier: AsyncBufRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncBufRead + AsyncWrite + Unpin + Send> Carrier for T {}

#[derive(Debug)]
pub(crate) struct Framed<S> {
    io: S,
    reading: Reading,
    writing: Writing,
}

#[derive(Debug, Default)]
struct Reading {
    header: [u8; HEADER_LEN],
    /// Bytes of the header that are here.
    have: usize,
    /// Bytes of the frame that are not read yet.
    left: usize,
    ended: bool,
}

#[derive(Debug, Default)]
struct Writing {
    /// What was accepted from the writer and not yet by the connection.
    pending: Vec<u8>,
    sent: usize,
    ended: bool,
}

/// However the connection says that it went without an end.
fn reset(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::UnexpectedEof { broken_off() } else { error }
}

fn broken_off() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the stream was broken off")
}

impl<S: Carrier> Framed<S> {
    pub(crate) fn new(io: S) -> Self {
        Self { io, reading: Reading::default(), writing: Writing::default() }
    }

    /// Both directions have ended, and nothing waits to be sent.
    pub(crate) fn is_over(&self) -> bool {
        self.reading.ended && self.writing.ended && self.writing.pending.is_empty()
    }

    /// After a stream that is over: ready for the next.
    pub(crate) fn renew(&mut self) {
        debug_assert!(self.is_over());
        self.reading = Reading::default();
        self.writing = Writing::default();
    }

    /// Bytes of the stream that are here; none at its end. Follow with `consume`.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        while !self.reading.ended && self.reading.left == 0 {
            let found = ready!(Pin::new(&mut self.io).poll_fill_buf(cx)).map_err(reset)?;
            if found.is_empty() {
                return Poll::Ready(Err(broken_off()));
            }
            let reading = &mut self.reading;
            let take = found.len().min(HEADER_LEN - reading.have);
            reading.header[reading.have..reading.have + take].copy_from_slice(&found[..take]);
            reading.have += take;
            Pin::new(&mut self.io).consume(take);
            if reading.have == HEADER_LEN {
                reading.have = 0;
                reading.left = usize::from(u16::from_be_bytes(reading.header));
                reading.ended = reading.left == 0;
            }
        }
        if self.reading.ended {
            return Poll::Ready(Ok(&[]));
        }
        let found = ready!(Pin::new(&mut self.io).poll_fill_buf(cx)).map_err(reset)?;
        if found.is_empty() {
            return Poll::Ready(Err(broken_off()));
        }
        Poll::Ready(Ok(&found[..found.len().min(self.reading.left)]))
    }

    pub(crate) fn consume(&mut self, count: usize) {
        // More than was shown would eat the next frame's header.
        let count = count.min(self.reading.left);
        self.reading.left -= count;
        Pin::new(&mut self.io).consume(count);
    }

    /// Accepts the beginning of `slices` as one frame. What the connection does not take at once is
    /// kept here, so that a frame that was begun is always finished.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.writing.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ready!(self.poll_pending(cx))?;
        let mut frame = [IoSlice::new(&[]); SLICES_MAX + 1];
        let (mut count, mut len) = (1, 0);
        for slice in slices.iter().filter(|slice| !slice.is_empty()).take(SLICES_MAX) {
            let take = slice.len().min(FRAME_LEN_MAX - len);
            if take == 0 {
                break;
            }
            frame[count] = IoSlice::new(&slice[..take]);
            (count, len) = (count + 1, len + take);
        }
        if len == 0 {
            return Poll::Ready(Ok(0));
        }
        let header = (len as u16).to_be_bytes();
        frame[0] = IoSlice::new(&header);
        let frame = &frame[..count];
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, frame))?;
        let mut skip = written;
        for slice in frame {
            let skipped = skip.min(slice.len());
            skip -= skipped;
            self.writing.pending.extend_from_slice(&slice[skipped..]);
        }
        Poll::Ready(Ok(len))
    }

    /// Writes what is framed already, from `sent` on.
    pub(crate) fn poll_write_framed(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        sent: &mut usize,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_pending(cx))?;
        while *sent < bytes.len() {
            *sent += written(ready!(Pin::new(&mut self.io).poll_write(cx, &bytes[*sent..]))?)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Ends our direction; done when the end is on its way.
    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.writing.ended {
            self.writing.pending.extend_from_slice(&[0; HEADER_LEN]);
            self.writing.ended = true;
        }
        self.poll_flush(cx)
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pending(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Writing { pending, sent, .. } = &mut self.writing;
        while *sent < pending.len() {
            *sent += written(ready!(Pin::new(&mut self.io).poll_write(cx, &pending[*sent..]))?)?;
        }
        if *sent > 0 {
            // Given back: most streams never need it.
            (*pending, *sent) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }

    /// A message between two streams. Nothing at the orderly end of the connection.
    pub(crate) async fn read_message(&mut self) -> io::Result<Option<[u8; MESSAGE_LEN]>> {
        let mut message = [0; MESSAGE_LEN];
        let first = self.io.read(&mut message).await?;
        if first == 0 {
            return Ok(None);
        }
        self.io.read_exact(&mut message[first..]).await?;
        Ok(Some(message))
    }

    /// Waits until the other side says something, or goes.
    pub(crate) async fn heard(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| Pin::new(&mut self.io).poll_fill_buf(cx).map_ok(drop)).await
    }

    pub(crate) async fn write_message(&mut self, message: [u8; MESSAGE_LEN]) -> io::Result<()> {
        self.io.write_all(&message).await?;
        self.io.flush().await
    }
}

fn written(count: usize) -> io::Result<usize> {
    if count == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(count) }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{BufReader, DuplexStream, duplex};

    use super::*;

    type Piped = Framed<BufReader<DuplexStream>>;

    /// Two ends of a pipe that holds so many bytes, read so many at a time.
    fn pair(holds: usize, reads: usize) -> (Piped, Piped) {
        let (near, far) = duplex(holds);
        let framed = |io| Framed::new(BufReader::with_capacity(reads, io));
        (framed(near), framed(far))
    }

    async fn write_all(framed: &mut Piped, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let slices =
                [IoSlice::new(&bytes[..bytes.len() / 2]), IoSlice::new(&bytes[bytes.len() / 2..])];
            let count = poll_fn(|cx| framed.poll_write(cx, &slices)).await.unwrap();
            bytes = &bytes[count..];
        }
        poll_fn(|cx| framed.poll_end(cx)).await.unwrap();
    }

    async fn read_all(framed: &mut Piped) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let count = poll_fn(|cx| {
                framed.poll_fill(cx).map_ok(|found| {
                    all.extend_from_slice(found);
                    found.len()
                })
            })
            .await?;
            if count == 0 {
                return Ok(all);
            }
            framed.consume(count);
        }
    }

    fn noise(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at * 7 + at / 251) as u8).collect()
    }

    #[tokio::test]
    async fn streams_of_all_sizes_follow_each_other_on_one_connection() {
        for (holds, reads) in [(1, 1), (3, 2), (64, 17), (1 << 20, 1 << 16)] {
            let (mut near, mut far) = pair(holds, reads);
            for len in [0, 1, 2, 300, FRAME_LEN_MAX, FRAME_LEN_MAX + 1, 200_000] {
                let len = if holds < 64 { len.min(400) } else { len };
                let (sent, back) = (noise(len), noise(len / 2));
                let ((), there) = tokio::join!(write_all(&mut near, &sent), async {
                    read_all(&mut far).await.unwrap()
                });
                assert!(there == sent, "{len} bytes through a pipe of {holds}");
                assert!(!near.is_over() && !far.is_over(), "one direction is half a stream");
                let ((), here) = tokio::join!(write_all(&mut far, &back), async {
                    read_all(&mut near).await.unwrap()
                });
                assert!(here == back);
                assert!(near.is_over() && far.is_over());
                near.renew();
                far.renew();
            }
        }
    }

    #[tokio::test]
    async fn a_connection_that_goes_is_never_taken_for_an_end() {
        // Nothing, half a header, a header, half a frame, a frame without an end.
        for sent in [&[][..], &[0], &[0, 3], &[0, 3, 1], &[0, 1, 1]] {
            let (near, mut far) = pair(64, 64);
            let mut near = near.io;
            near.write_all(sent).await.unwrap();
            drop(near);
            let error = read_all(&mut far).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{sent:?}");
        }
    }

    #[tokio::test]
    async fn nothing_is_written_after_the_end() {
        let (mut near, _far) = pair(64, 64);
        poll_fn(|cx| near.poll_end(cx)).await.unwrap();
        let after = poll_fn(|cx| near.poll_write(cx, &[IoSlice::new(b"x")])).await;
        assert_eq!(after.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn a_reader_that_consumes_too_much_does_not_eat_the_next_frame() {
        let (near, mut far) = pair(64, 64);
        let mut near = near.io;
        near.write_all(&[0, 1, b'a', 0, 1, b'b', 0, 0]).await.unwrap();
        let seen = poll_fn(|cx| far.poll_fill(cx).map_ok(<[u8]>::to_vec)).await.unwrap();
        assert_eq!(seen, b"a");
        far.consume(1_000);
        assert_eq!(read_all(&mut far).await.unwrap(), b"b");
    }
}
