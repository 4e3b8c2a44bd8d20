//! Carries bytes between a stream of ours and a TCP connection, both ways at once.
//!
//! Each direction ends by itself, as on one connection from end to end. A reset on one side is a
//! reset on the other. One side that no longer listens does not cut off what it still has to say:
//! servers refuse an upload that way.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::io::poll_read_buf;

use crate::framed::{Carrier, FRAME_LEN_MAX, Framed, HEADER_LEN};

/// How long the far end may go on sending to who no longer listens and has said all it had to say.
const LINGER: Duration = Duration::from_secs(1);

/// Bytes that went each way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    /// From the stream to the connection.
    pub out: u64,
    /// From the connection to the stream.
    pub back: u64,
}

#[derive(Debug)]
struct Out {
    /// The connection takes nothing any more; what comes for it is thrown away.
    deaf: bool,
    done: bool,
}

#[derive(Debug)]
struct Back {
    /// A frame with room for its header, while there is something to send.
    frame: Option<BytesMut>,
    sent: usize,
    ending: bool,
    done: bool,
}

/// Resets a connection that is let go before its time: whoever is there must not take it for an end.
struct Guarded<'a> {
    tcp: &'a mut TcpStream,
    over: bool,
}

impl Drop for Guarded<'_> {
    fn drop(&mut self) {
        if !self.over {
            let _ = self.tcp.set_zero_linger();
        }
    }
}

/// Until both directions have ended; an error is a stream that was broken off, as one that is dropped
/// before, and the connection beneath it is of no more use.
pub(crate) async fn carry<S: Carrier>(
    framed: &mut Framed<S>,
    tcp: &mut TcpStream,
    carried: &mut Carried,
) -> io::Result<()> {
    let mut guarded = Guarded { tcp, over: false };
    let tcp = &mut *guarded.tcp;
    let mut out = Out { deaf: false, done: false };
    let mut back = Back { frame: None, sent: 0, ending: false, done: false };
    poll_fn(|cx| {
        if !out.done && poll_out(cx, framed, tcp, &mut out, carried)?.is_ready() {
            out.done = true;
        }
        if !back.done && poll_back(cx, framed, tcp, &mut back, carried)?.is_ready() {
            back.done = true;
        }
        let over = back.done && (out.done || out.deaf);
        if over { Poll::Ready(Ok::<(), io::Error>(())) } else { Poll::Pending }
    })
    .await?;
    if !out.done {
        let rest = poll_fn(|cx| poll_out(cx, framed, tcp, &mut out, carried));
        timeout(LINGER, rest).await.map_err(|_| io::ErrorKind::TimedOut)??;
    }
    guarded.over = true;
    Ok(())
}

fn poll_out<S: Carrier>(
    cx: &mut Context<'_>,
    framed: &mut Framed<S>,
    tcp: &mut TcpStream,
    out: &mut Out,
    carried: &mut Carried,
) -> Poll<io::Result<()>> {
    loop {
        let found = ready!(framed.poll_fill(cx))?;
        if found.is_empty() {
            // Who is gone already needs no end.
            let _ = ready!(Pin::new(&mut *tcp).poll_shutdown(cx));
            return Poll::Ready(Ok(()));
        }
        let taken = if out.deaf {
            found.len()
        } else {
            match ready!(Pin::new(&mut *tcp).poll_write(cx, found)) {
                Ok(taken) => taken,
                Err(_) => {
                    out.deaf = true;
                    found.len()
                }
            }
        };
        framed.consume(taken);
        carried.out += taken as u64;
    }
}

fn poll_back<S: Carrier>(
    cx: &mut Context<'_>,
    framed: &mut Framed<S>,
    tcp: &mut TcpStream,
    back: &mut Back,
    carried: &mut Carried,
) -> Poll<io::Result<()>> {
    loop {
        if back.ending {
            return framed.poll_end(cx);
        }
        if let Some(frame) = &mut back.frame
            && frame.len() > HEADER_LEN
        {
            ready!(framed.poll_write_framed(cx, frame, &mut back.sent))?;
            frame.clear();
            back.sent = 0;
        }
        match poll_frame(cx, tcp, &mut back.frame) {
            Poll::Ready(read) => match read? {
                0 => back.ending = true,
                count => carried.back += count as u64,
            },
            Poll::Pending => {
                back.frame = None;
                ready!(framed.poll_flush(cx))?;
                return Poll::Pending;
            }
        }
    }
}

/// Reads what is there as one frame.
fn poll_frame(
    cx: &mut Context<'_>,
    tcp: &mut TcpStream,
    frame: &mut Option<BytesMut>,
) -> Poll<io::Result<usize>> {
    ready!(tcp.poll_read_ready(cx))?;
    let frame = frame.get_or_insert_with(|| BytesMut::with_capacity(HEADER_LEN + FRAME_LEN_MAX));
    frame.clear();
    frame.extend_from_slice(&[0; HEADER_LEN]);
    let count = ready!(poll_read_buf(Pin::new(tcp), cx, frame))?;
    frame[..HEADER_LEN].copy_from_slice(&(count as u16).to_be_bytes());
    Poll::Ready(Ok(count))
}
