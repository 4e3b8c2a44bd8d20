//! One probe: a TCP connection, or an HTTP GET of which only the status line is read.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Outcome;

/// `HTTP/1.1 200 ` and a reason; what is longer is not a status line.
const STATUS_LINE_MAX: usize = 1_024;
/// Frameworks in debug modes and most checks of `Host` let this one through.
const HOST: &str = "localhost";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub address: SocketAddr,
    /// Nothing: a connection is enough.
    pub path: Option<String>,
    pub timeout: Duration,
}

pub async fn ask(question: &Question) -> Outcome {
    match tokio::time::timeout(question.timeout, exchange(question)).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => match error.kind() {
            io::ErrorKind::ConnectionRefused => Outcome::Refused,
            io::ErrorKind::TimedOut => Outcome::TimedOut,
            kind => Outcome::Broken(kind),
        },
        Err(_) => Outcome::TimedOut,
    }
}

async fn exchange(question: &Question) -> io::Result<Outcome> {
    let mut stream = TcpStream::connect(question.address).await?;
    let Some(path) = &question.path else { return Ok(Outcome::Ok) };
    // The path was checked when the spec was read; a line end in it would be a second header.
    if path.bytes().any(|byte| byte.is_ascii_control() || byte == b' ') {
        return Ok(Outcome::NotHttp);
    }
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: insula-probe\r\nAccept: */*\r\n\
         X-Forwarded-Proto: https\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut line = Vec::with_capacity(64);
    let mut buffer = [0; 256];
    loop {
        let read = stream.read(&mut buffer).await?;
        line.extend_from_slice(&buffer[..read]);
        if read == 0 || line.contains(&b'\n') || line.len() > STATUS_LINE_MAX {
            return Ok(judge(&line));
        }
    }
}

fn judge(line: &[u8]) -> Outcome {
    match status(line) {
        Some(code) if code < 400 => Outcome::Ok,
        Some(code) => Outcome::Status(code),
        None => Outcome::NotHttp,
    }
}

fn status(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let code = rest.get(2..5)?;
    // `HTTP/1.1 200` with or without a reason after it.
    let ends = rest.get(5).is_none_or(|byte| byte.is_ascii_whitespace());
    if rest.get(1) != Some(&b' ') || !ends || !code.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(code).ok()?.parse().ok().filter(|code| (100..600).contains(code))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A server that answers one connection with these bytes.
    async fn serving(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 1_024];
            let read = stream.read(&mut head).await.unwrap();
            if head[..read].starts_with(b"GET /up HTTP/1.1\r\n") {
                stream.write_all(answer).await.unwrap();
            }
        });
        address
    }

    async fn outcome(answer: &'static [u8]) -> Outcome {
        let (address, path) = (serving(answer).await, Some("/up".to_owned()));
        ask(&Question { address, path, timeout: Duration::from_secs(5) }).await
    }

    #[tokio::test]
    async fn the_status_line_decides() {
        assert_eq!(outcome(b"HTTP/1.1 204 No Content\r\n\r\n").await, Outcome::Ok);
        assert_eq!(outcome(b"HTTP/1.0 302\r\n\r\n").await, Outcome::Ok);
        assert_eq!(outcome(b"HTTP/1.1 503 Nope\r\n\r\n").await, Outcome::Status(503));
        assert_eq!(outcome(b"SSH-2.0-OpenSSH\r\n").await, Outcome::NotHttp);
        assert_eq!(outcome(b"HTTP/1.1 20x\r\n").await, Outcome::NotHttp);
        assert_eq!(outcome(b"HTTP/1.1 2000\r\n").await, Outcome::NotHttp);
        assert_eq!(outcome(b"").await, Outcome::NotHttp);
    }

    #[tokio::test]
    async fn silence_is_a_time_out_and_a_closed_port_a_refusal() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let timeout = Duration::from_millis(20);
        let question = Question { address, path: Some("/".into()), timeout };
        assert_eq!(ask(&question).await, Outcome::TimedOut);
        assert_eq!(ask(&Question { path: None, ..question.clone() }).await, Outcome::Ok);
        drop(listener);
        assert_eq!(ask(&question).await, Outcome::Refused);
    }

    #[tokio::test]
    async fn a_path_cannot_smuggle_a_header() {
        let address = serving(b"HTTP/1.1 200 OK\r\n\r\n").await;
        let path = Some("/up HTTP/1.1\r\nX: y".to_owned());
        let timeout = Duration::from_secs(5);
        assert_eq!(ask(&Question { address, path, timeout }).await, Outcome::NotHttp);
    }
}
