//! Makes a connection to a server: by a socket on this machine, or to any server of a fleet.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use insula_kit::pki::Whom;
use insula_kit::tls::{ALPN_H2, Connector, Credentials};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::servers::Servers;

/// From the first packet to the end of the handshake.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// A server that has not answered by then is not waited for alone: the next one is tried beside it
/// (as RFC 8305 does with addresses), so one behind a black hole costs this and no more.
const NEXT_AFTER: Duration = Duration::from_millis(250);

/// A connection, whatever it runs over.
pub trait Wire: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Wire for T {}

#[derive(Debug, Clone)]
pub enum Dial {
    Unix(PathBuf),
    Fleet(Fleet),
}

/// Any server that the fleet's authority signed for.
#[derive(Clone)]
pub struct Fleet {
    pub servers: Servers,
    connector: Connector,
}

impl Fleet {
    /// As the member that these credentials speak for.
    pub fn new(servers: Servers, credentials: &Arc<Credentials>) -> Self {
        Self { servers, connector: Connector::new(credentials, ALPN_H2) }
    }

    /// As nobody, for the one call that makes us somebody.
    pub(crate) fn with(servers: Servers, connector: Connector) -> Self {
        Self { servers, connector }
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet").field("servers", &self.servers.all()).finish_non_exhaustive()
    }
}

impl Dial {
    pub async fn connect(&self) -> io::Result<Pin<Box<dyn Wire>>> {
        match self {
            Self::Unix(path) => {
                let connecting = insula_kit::uds::connect(path);
                let stream = tokio::time::timeout(CONNECT_TIME_MAX, connecting).await?;
                Ok(Box::pin(stream.map_err(io::Error::other)?))
            }
            Self::Fleet(fleet) => {
                let one = |address: String| connect(fleet.connector.clone(), address);
                let (address, stream) = race(fleet.servers.all(), one).await?;
                fleet.servers.prefer(&address);
                Ok(stream)
            }
        }
    }
}

async fn connect(connector: Connector, address: String) -> io::Result<Pin<Box<dyn Wire>>> {
    let stream = TcpStream::connect(&address).await?;
    // Heartbeats are small, and late ones count as lost.
    stream.set_nodelay(true)?;
    let whom = Whom::any("server").map_err(io::Error::other)?;
    let (stream, _) = connector.connect(stream, &whom).await.map_err(io::Error::other)?;
    Ok(Box::pin(stream))
}

/// The first that succeeds. Each begins when the one before it has failed, or is slow.
async fn race<T, F>(
    addresses: Vec<String>,
    connect: impl Fn(String) -> F,
) -> io::Result<(String, T)>
where
    F: Future<Output = io::Result<T>>,
{
    let mut waiting = addresses.into_iter();
    let mut dialling = FuturesUnordered::new();
    let mut failed = io::Error::other("no server is known");
    loop {
        match waiting.next() {
            Some(address) => {
                let connecting = tokio::time::timeout(CONNECT_TIME_MAX, connect(address.clone()));
                dialling.push(async move { (address, connecting.await) });
            }
            None if dialling.is_empty() => return Err(failed),
            None => {}
        }
        tokio::select! {
            biased;
            Some((address, outcome)) = dialling.next() => match outcome {
                Ok(Ok(connection)) => return Ok((address, connection)),
                Ok(Err(error)) => failed = named(&address, error),
                Err(late) => failed = named(&address, late.into()),
            },
            () = tokio::time::sleep(NEXT_AFTER), if waiting.len() > 0 => {}
        }
    }
}

fn named(address: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), Unreached { address: address.to_owned(), error })
}

#[derive(Debug, thiserror::Error)]
#[error("connect to {address}")]
struct Unreached {
    address: String,
    #[source]
    error: io::Error,
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    /// `up`, `refuses`, `hole`, `slow` (answers after 400 ms): who is reached, and after how long.
    async fn reached(servers: &str) -> (String, u128) {
        let began = Instant::now();
        let list = servers.split_whitespace().map(ToOwned::to_owned).collect();
        let connect = async |address: String| {
            if address.starts_with("refuses") {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            if address.starts_with("hole") {
                std::future::pending::<()>().await;
            }
            if address.starts_with("slow") {
                tokio::time::sleep(Duration::from_millis(400)).await;
            }
            Ok(())
        };
        let outcome = race(list, connect).await;
        let who = outcome.map_or_else(|error| error.to_string(), |(address, ())| address);
        (who, began.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_costs_nothing_and_a_black_hole_a_quarter_of_a_second() {
        assert_eq!(reached("up1 up2").await, ("up1".into(), 0));
        assert_eq!(reached("refuses1 refuses2 up").await, ("up".into(), 0));
        assert_eq!(reached("hole up").await, ("up".into(), 250));
        assert_eq!(reached("hole1 hole2 up").await, ("up".into(), 500));
        assert_eq!(reached("slow").await, ("slow".into(), 400));
        assert_eq!(reached("slow hole").await, ("slow".into(), 400));
        assert_eq!(reached("slow up").await, ("up".into(), 250));
    }

    #[tokio::test(start_paused = true)]
    async fn when_nobody_answers_it_says_so_after_a_bounded_time() {
        assert_eq!(reached("").await, ("no server is known".into(), 0));
        assert_eq!(reached("refuses").await, ("connect to refuses".into(), 0));
        let (error, took) = reached("hole1 hole2").await;
        assert_eq!(error, "connect to hole2");
        assert_eq!(took, 5_250);
    }
}
