//! What stands between a visitor's socket and the parser of his requests.
//!
//! Lets one whole, strictly checked head through at a time, then exactly the body it announced;
//! the next head waits until the answer is out. Puts an end to visitors that are slow to ask, slow
//! to take, or idle. A head that is refused reaches the parser as a harmless one of ours, with the
//! refusal beside it, so that it is answered in its turn. HTTP/2 has its own framing: of it only
//! time is watched here.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_util::io::poll_read_buf;

use crate::limits::Limits;
use crate::strict::Refusal;
use crate::strict::chunk::Chunks;
use crate::strict::head::{Announced, check, find_end};

/// What the parser sees of a head that was refused.
const SUBSTITUTE: &[u8] = b"GET / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";
/// Read at once; most heads fit.
const READ_BYTES: usize = 4 * 1024;
/// After the last byte of an answer that closes: a reset would destroy what is still under way.
const LINGER: Duration = Duration::from_secs(1);
/// Of a body that nobody wants any more.
const LINGER_BYTES_MAX: usize = 512 * 1024;

/// What the connection and the requests on it know of each other.
#[derive(Debug, Default)]
pub(crate) struct Link {
    in_flight: AtomicU32,
    tunnel: AtomicBool,
    ending: AtomicBool,
    refusal: Mutex<Option<Refusal>>,
    waker: AtomicWaker,
}

/// A request that is not answered to its end; given back when dropped.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Link>);

#[derive(Debug)]
pub(crate) struct Front {
    stream: TcpStream,
    link: Arc<Link>,
    limits: Arc<Limits>,
    /// Read from the socket and not yet passed on.
    buffer: BytesMut,
    state: State,
    /// Since when nothing is asked, or a head is incomplete.
    waiting_since: Option<Instant>,
    read_alarm: Alarm,
    blocked_since: Option<Instant>,
    write_alarm: Alarm,
    linger: Option<(Instant, usize)>,
}

#[derive(Debug)]
enum State {
    Head {
        scanned: usize,
    },
    /// This much of the buffer is checked and may go.
    Release {
        left: usize,
        then: Body,
    },
    Body(Body),
    Refused,
    /// Bytes that are no business of ours: an upgraded connection.
    Tunnel,
    Http2,
}

#[derive(Debug)]
enum Body {
    Length(u64),
    Chunked(Box<Chunks>),
    Refused,
}

#[derive(Debug, Default)]
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Link {
    /// For HTTP/1, takes over the count that letting the head through has begun.
    pub(crate) fn adopt_request(self: &Arc<Self>) -> InFlight {
        InFlight(Arc::clone(self))
    }

    pub(crate) fn begin_request(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    pub(crate) fn take_refusal(&self) -> Option<Refusal> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// From the next byte on this is no HTTP any more.
    pub(crate) fn become_tunnel(&self) {
        self.tunnel.store(true, Ordering::Relaxed);
    }

    /// No new request, please; one that is half here may still come.
    pub(crate) fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
        self.waker.wake();
    }

    fn busy(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) > 0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.0.in_flight.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.waker.wake();
        }
    }
}

impl Front {
    /// `buffer` is what was read to find out which protocol it is.
    pub(crate) fn http1(stream: TcpStream, buffer: BytesMut, limits: Arc<Limits>) -> Self {
        Self::new(stream, buffer, limits, State::Head { scanned: 0 })
    }

    pub(crate) fn http2(stream: TcpStream, buffer: BytesMut, limits: Arc<Limits>) -> Self {
        Self::new(stream, buffer, limits, State::Http2)
    }

    fn new(stream: TcpStream, buffer: BytesMut, limits: Arc<Limits>, state: State) -> Self {
        Self {
            stream,
            link: Arc::default(),
            limits,
            buffer,
            state,
            waiting_since: None,
            read_alarm: Alarm::default(),
            blocked_since: None,
            write_alarm: Alarm::default(),
            linger: None,
        }
    }

    pub(crate) fn link(&self) -> Arc<Link> {
        Arc::clone(&self.link)
    }

    fn refuse(&mut self, refusal: Refusal) {
        *self.link.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
        self.buffer = BytesMut::from(SUBSTITUTE);
        self.let_through(SUBSTITUTE.len(), Body::Refused);
    }

    fn let_through(&mut self, bytes: usize, then: Body) {
        self.link.in_flight.fetch_add(1, Ordering::Relaxed);
        self.waiting_since = None;
        self.state = State::Release { left: bytes, then };
    }

    /// Moves on to `Release`, or says that there is no head: the end, or nothing yet.
    fn poll_head(&mut self, cx: &mut Context<'_>, scanned: usize) -> Poll<io::Result<Step>> {
        if self.link.tunnel.load(Ordering::Relaxed) {
            self.state = State::Tunnel;
            return Poll::Ready(Ok(Step::On));
        }
        self.link.waker.register(cx.waker());
        if self.link.busy() {
            // Read on all the same, within bounds: that is how we notice that he has gone.
            if self.buffer.len() >= self.limits.head_bytes_max {
                return Poll::Pending;
            }
            return Poll::Ready(Ok(match ready!(self.poll_fill(cx))? {
                0 => Step::End,
                _ => Step::On,
            }));
        }
        if scanned == 0 {
            // RFC 9112 §2.2: an empty line before a request is an old client's habit.
            while self.buffer.starts_with(b"\r\n") {
                self.buffer.advance(2);
            }
        }
        if let Some(end) = find_end(&self.buffer, scanned) {
            if end > self.limits.head_bytes_max {
                self.refuse(Refusal::HeadTooLarge);
                return Poll::Ready(Ok(Step::On));
            }
            match check(&self.buffer[..end], self.limits.headers_max) {
                Ok(head) => self.let_through(
                    end,
                    match head.body {
                        Announced::Length(length) => Body::Length(length),
                        Announced::Chunked => Body::Chunked(Box::new(Chunks::new())),
                    },
                ),
                Err(refusal) => self.refuse(refusal),
            }
            return Poll::Ready(Ok(Step::On));
        }
        if self.buffer.len() > self.limits.head_bytes_max {
            self.refuse(Refusal::HeadTooLarge);
            return Poll::Ready(Ok(Step::On));
        }
        // A lone CR may be the half of an empty line, which `scanned` would hide.
        let scanned = if self.buffer.len() < 2 { 0 } else { self.buffer.len() };
        self.state = State::Head { scanned };
        if self.buffer.is_empty() && self.link.ending.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(Step::End));
        }
        let began = self.buffer.is_empty();
        match self.poll_fill(cx)? {
            Poll::Ready(0) => Poll::Ready(Ok(Step::End)),
            Poll::Ready(_) => {
                if began {
                    self.waiting_since = None;
                }
                Poll::Ready(Ok(Step::On))
            }
            Poll::Pending => {
                let patience =
                    if began { self.limits.idle_timeout } else { self.limits.head_read_timeout };
                let since = *self.waiting_since.get_or_insert_with(Instant::now);
                if !self.read_alarm.due(cx, since + patience) {
                    return Poll::Pending;
                }
                if began {
                    return Poll::Ready(Ok(Step::End));
                }
                self.refuse(Refusal::TooSlow);
                Poll::Ready(Ok(Step::On))
            }
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.buffer.reserve(READ_BYTES);
        poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.buffer)
    }

    /// From the buffer if there is something in it, or from the socket; at most `max` bytes.
    fn poll_pass(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        let max = max.min(buf.remaining());
        if !self.buffer.is_empty() {
            let taken = max.min(self.buffer.len());
            buf.put_slice(&self.buffer[..taken]);
            self.buffer.advance(taken);
            if self.buffer.is_empty() {
                // Held only while there is something in it.
                self.buffer = BytesMut::new();
            }
            return Poll::Ready(Ok(taken));
        }
        let before = buf.filled().len();
        if max == buf.remaining() {
            ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
            return Poll::Ready(Ok(buf.filled().len() - before));
        }
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(max));
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
        let taken = part.filled().len();
        buf.advance(taken);
        Poll::Ready(Ok(taken))
    }

    fn poll_http2(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.link.waker.register(cx.waker());
        if self.link.busy() {
            self.waiting_since = None;
        } else {
            // Bytes that are no request do not count: neither pings nor half a head.
            let since = *self.waiting_since.get_or_insert_with(Instant::now);
            if self.read_alarm.due(cx, since + self.limits.idle_timeout) {
                return Poll::Ready(Ok(()));
            }
        }
        self.poll_pass(cx, buf, usize::MAX).map_ok(drop)
    }

    fn poll_unblocked<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.blocked_since = None;
            return written;
        }
        let since = *self.blocked_since.get_or_insert_with(Instant::now);
        let patience = match self.state {
            State::Tunnel => self.limits.upgrade_idle_timeout,
            State::Head { .. }
            | State::Release { .. }
            | State::Body(_)
            | State::Refused
            | State::Http2 => self.limits.stall_timeout,
        };
        if self.write_alarm.due(cx, since + patience) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

enum Step {
    On,
    End,
}

impl AsyncRead for Front {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match &mut this.state {
                State::Head { scanned } => {
                    let scanned = *scanned;
                    match ready!(this.poll_head(cx, scanned))? {
                        Step::On => {}
                        Step::End => return Poll::Ready(Ok(())),
                    }
                }
                State::Release { left: 0, then } => {
                    this.state = match std::mem::replace(then, Body::Refused) {
                        Body::Refused => State::Refused,
                        body => State::Body(body),
                    };
                }
                State::Release { left, .. } => {
                    let taken = (*left).min(buf.remaining());
                    *left -= taken;
                    buf.put_slice(&this.buffer[..taken]);
                    this.buffer.advance(taken);
                    return Poll::Ready(Ok(()));
                }
                State::Body(Body::Length(0)) => this.state = State::Head { scanned: 0 },
                State::Body(Body::Length(left)) => {
                    let max = usize::try_from(*left).unwrap_or(usize::MAX);
                    let taken = ready!(this.poll_pass(cx, buf, max))?;
                    if let State::Body(Body::Length(left)) = &mut this.state {
                        *left -= taken as u64;
                    }
                    return Poll::Ready(Ok(()));
                }
                State::Body(Body::Chunked(chunks)) if chunks.done() => {
                    this.state = State::Head { scanned: 0 };
                }
                State::Body(Body::Chunked(_)) => {
                    let start = buf.filled().len();
                    ready!(this.poll_pass(cx, buf, usize::MAX))?;
                    let State::Body(Body::Chunked(chunks)) = &mut this.state else { continue };
                    let fresh = &buf.filled()[start..];
                    let body = chunks.follow(fresh).map_err(|_| {
                        io::Error::new(io::ErrorKind::InvalidData, "a chunk is malformed")
                    })?;
                    if body < fresh.len() {
                        // The beginning of the next head.
                        let mut held = BytesMut::from(&fresh[body..]);
                        held.extend_from_slice(&this.buffer);
                        this.buffer = held;
                        buf.set_filled(start + body);
                    }
                    return Poll::Ready(Ok(()));
                }
                State::Refused | State::Body(Body::Refused) => {
                    this.link.waker.register(cx.waker());
                    return if this.link.busy() { Poll::Pending } else { Poll::Ready(Ok(())) };
                }
                State::Tunnel => return this.poll_pass(cx, buf, usize::MAX).map_ok(drop),
                State::Http2 => return this.poll_http2(cx, buf),
            }
        }
    }
}

impl AsyncWrite for Front {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.poll_unblocked(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.poll_unblocked(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        let this = &mut *self;
        if matches!(this.state, State::Tunnel | State::Http2 | State::Head { .. }) {
            return Poll::Ready(Ok(()));
        }
        // He may still be sending. Closing now would reset the connection, and with it destroy
        // the answer that he has not read yet.
        let (since, mut bytes) = *this.linger.get_or_insert_with(|| (Instant::now(), 0));
        loop {
            if this.read_alarm.due(cx, since + LINGER) || bytes > LINGER_BYTES_MAX {
                return Poll::Ready(Ok(()));
            }
            this.buffer.clear();
            match this.poll_fill(cx) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(more)) => {
                    bytes += more;
                    this.linger = Some((since, bytes));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl Alarm {
    /// Whether it is past `deadline`; if not, the task is woken then. Moving a deadline further
    /// away costs nothing, which is what happens with every request.
    fn due(&mut self, cx: &mut Context<'_>, deadline: Instant) -> bool {
        if Instant::now() >= deadline {
            return true;
        }
        let deadline = tokio::time::Instant::from_std(deadline);
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if tokio::time::Instant::now() >= deadline {
                return true;
            }
            sleep.as_mut().reset(deadline);
        }
        false
    }
}
