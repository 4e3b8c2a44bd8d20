//! Asks the host's resolvers. Forgers outside the path have to guess port, id and letter case at once.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use insula_kit::random::Random;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::message::{Answer, NotTheAnswer, Query, Rcode, UDP_BYTES_MAX, Verdict, read_answer};

/// How long one upstream gets, in the first round and in the second. With three upstreams all of it ends
/// before most clients give up (5 s).
const PATIENCE: [Duration; 2] = [Duration::from_millis(600), Duration::from_millis(1_000)];
/// More wrong datagrams than a misconfigured server sends: somebody is guessing, so TCP is taken.
const WRONG_DATAGRAMS_MAX: u32 = 16;
/// One byte more than we asked for, so that a longer datagram is not taken for a whole one.
const DATAGRAM_BYTES: usize = UDP_BYTES_MAX as usize + 1;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    #[error("no upstream is configured")]
    NoUpstream,
    #[error("no upstream answered")]
    Exhausted(#[source] Option<AskError>),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error("talk to the upstream {upstream}")]
    Io {
        upstream: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("the upstream {upstream} did not answer in time")]
    Silent { upstream: SocketAddr },
    #[error("the upstream {upstream} answered something else")]
    Wrong {
        upstream: SocketAddr,
        #[source]
        source: NotTheAnswer,
    },
}

#[derive(Debug)]
pub(crate) struct Forwarder {
    upstreams: Vec<SocketAddr>,
    /// Who answered last is asked first, so that a dead upstream costs one question and not all.
    preferred: AtomicUsize,
    random: Arc<dyn Random>,
}

impl Forwarder {
    pub(crate) fn new(upstreams: Vec<SocketAddr>, random: Arc<dyn Random>) -> Self {
        Self { upstreams, preferred: AtomicUsize::new(0), random }
    }

    /// The first good answer; a failure that an upstream reported only when nobody knows better.
    pub(crate) async fn ask(&self, query: &Query) -> Result<Answer, ForwardError> {
        if self.upstreams.is_empty() {
            return Err(ForwardError::NoUpstream);
        }
        let mut failed = None;
        let mut last = None;
        for patience in PATIENCE {
            let first = self.preferred.load(Ordering::Relaxed);
            let count = self.upstreams.len();
            for index in (first..first + count).map(|index| index % count) {
                let upstream = self.upstreams[index];
                match self.ask_one(query, upstream, patience).await {
                    Ok(answer) if answer.verdict == Verdict::Final => {
                        self.preferred.store(index, Ordering::Relaxed);
                        return Ok(answer);
                    }
                    Ok(answer) => failed = Some(answer),
                    Err(error) => {
                        tracing::debug!(%upstream, error = &error as &dyn std::error::Error, "next");
                        last = Some(error);
                    }
                }
            }
            // All of them answered, even if with a failure: asking again says the same.
            if last.is_none() {
                break;
            }
        }
        failed.ok_or(ForwardError::Exhausted(last))
    }

    async fn ask_one(
        &self,
        query: &Query,
        upstream: SocketAddr,
        patience: Duration,
    ) -> Result<Answer, AskError> {
        let asked = self.disguise(query);
        let silent = |_| AskError::Silent { upstream };
        let by_udp = timeout(patience, by_udp(&asked, upstream)).await.map_err(silent)??;
        match by_udp {
            Some(answer) => Ok(answer),
            None => timeout(patience, by_tcp(&asked, upstream)).await.map_err(silent)?,
        }
    }

    /// The client's question under an id of ours and in a letter case of ours.
    fn disguise(&self, query: &Query) -> Query {
        let mut coins = [0; 32];
        self.random.fill(&mut coins);
        let mut asked = query.clone();
        // The low half of a u64 that nobody sees otherwise.
        asked.id = (self.random.next_u64() & 0xffff) as u16;
        asked.question.name = query.question.name.with_case(&coins);
        asked
    }
}

/// `None`: the whole answer has to be fetched by TCP.
async fn by_udp(asked: &Query, upstream: SocketAddr) -> Result<Option<Answer>, AskError> {
    let failed = |source| AskError::Io { upstream, source };
    let any = match upstream {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    // A new socket each time: the kernel picks a port at random, and lets in nobody but the upstream.
    let socket = UdpSocket::bind((any, 0)).await.map_err(failed)?;
    socket.connect(upstream).await.map_err(failed)?;
    socket.send(&asked.write()).await.map_err(failed)?;
    let mut buffer = [0; DATAGRAM_BYTES];
    for _ in 0..WRONG_DATAGRAMS_MAX {
        let length = socket.recv(&mut buffer).await.map_err(failed)?;
        match read_answer(asked, buffer[..length].to_vec()) {
            Ok(answer) if answer.verdict == Verdict::Truncated => return Ok(None),
            Ok(answer) => return Ok(Some(answer)),
            // Some servers do not keep the case. TCP cannot be forged from afar, so it decides.
            Err(NotTheAnswer::Case) => return Ok(None),
            // Too long for us, or cut by the path; a forger gains nothing by sending us to TCP.
            Err(NotTheAnswer::Malformed(_)) => return Ok(None),
            Err(NotTheAnswer::Other) => {}
        }
    }
    Ok(None)
}

async fn by_tcp(asked: &Query, upstream: SocketAddr) -> Result<Answer, AskError> {
    let failed = |source| AskError::Io { upstream, source };
    let mut stream = TcpStream::connect(upstream).await.map_err(failed)?;
    let question = asked.write();
    let length = u16::try_from(question.len()).unwrap_or(u16::MAX);
    let framed = [length.to_be_bytes().as_slice(), &question].concat();
    stream.write_all(&framed).await.map_err(failed)?;
    let length = stream.read_u16().await.map_err(failed)?;
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await.map_err(failed)?;
    let read = read_answer(asked, bytes.clone()).or_else(|reason| match reason {
        NotTheAnswer::Case => read_answer(asked, in_our_case(asked, bytes)),
        other => Err(other),
    });
    read.map_err(|source| AskError::Wrong { upstream, source })
}

/// The question in the case in which we asked it; the names are the same but for that.
fn in_our_case(asked: &Query, mut bytes: Vec<u8>) -> Vec<u8> {
    let name = asked.question.name.wire();
    let start = crate::message::HEADER_BYTES;
    if let Some(place) = bytes.get_mut(start..start + name.len()) {
        place.copy_from_slice(name);
    }
    bytes
}

/// What a client is told when all upstreams failed.
pub(crate) fn failure(query: &Query) -> Vec<u8> {
    query.fail(Rcode::ServerFailure)
}
