//! What the relay costs beside a direct connection and beside a plain copy through a process: CPU per
//! byte, CPU and time per small exchange. All ends are in this process, so each figure is of both.
//!
//! `cargo run --release -p insula-relay --example cost`

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use insula_kit::clock::{Clock, SystemClock};
use insula_kit::metrics::Metrics;
use insula_kit::pki::{Authority, Identity, KeyPair, Subject, Validity};
use insula_kit::tls::Credentials;
use insula_model::fleet::Member;
use insula_model::{GatewayId, InstanceId, NodeId};
use insula_relay::{
    AnswerCounts, Answerer, CallCounts, Caller, CallerSettings, Doors, Limits, NoDoor, answer,
};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const NODE: NodeId = NodeId::from_u128(1);
const INSTANCE: InstanceId = InstanceId::from_u128(2);
const BULK_BYTES: u64 = 1 << 30;
const EXCHANGES: u32 = 20_000;
const EXCHANGE_BYTES: usize = 512;

struct Open {
    at: SocketAddr,
    changes: watch::Sender<u64>,
}

impl Doors for Open {
    fn admits(&self, _: Member) -> bool {
        true
    }

    fn find(&self, _: Member, _: InstanceId) -> Result<SocketAddr, NoDoor> {
        Ok(self.at)
    }

    fn holds(&self, _: Member, _: InstanceId, _: SocketAddr) -> bool {
        true
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

fn credentials(authority: &Authority, member: Member) -> Arc<Credentials> {
    let (key, clock) = (KeyPair::generate(), SystemClock);
    let subject = Subject::new(member.role(), &member.to_string()).expect("a subject");
    let validity = Validity::of_member(clock.now_ms());
    let certificate =
        authority.issue(&key.public_key(), &subject, 1, validity).expect("a certificate");
    let authorities = vec![authority.certificate().to_vec()];
    Credentials::new(&Identity { key, certificate, authorities }, Arc::new(clock)).expect("ours")
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let at = listener.local_addr().expect("an address");
    (listener, at)
}

/// First byte 0: answers each exchange; 1: sends as much as there is to send.
async fn instance() -> SocketAddr {
    let (listener, at) = listen().await;
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let _ = tcp.set_nodelay(true);
            tokio::spawn(async move {
                if tcp.read_u8().await? == 0 {
                    let mut buffer = [0; EXCHANGE_BYTES];
                    while tcp.read_exact(&mut buffer).await.is_ok() {
                        tcp.write_all(&buffer).await?;
                    }
                } else {
                    let buffer = vec![7; 256 * 1024];
                    for _ in 0..BULK_BYTES / buffer.len() as u64 {
                        tcp.write_all(&buffer).await?;
                    }
                }
                Ok::<(), std::io::Error>(())
            });
        }
    });
    at
}

async fn plain_proxy(to: SocketAddr) -> SocketAddr {
    let (listener, at) = listen().await;
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let _ = near.set_nodelay(true);
            tokio::spawn(async move {
                let mut far = TcpStream::connect(to).await?;
                far.set_nodelay(true)?;
                tokio::io::copy_bidirectional_with_sizes(&mut near, &mut far, 65_536, 65_536).await
            });
        }
    });
    at
}

fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

async fn measure<S: AsyncRead + AsyncWrite + Unpin>(name: &str, mut bulk: S, mut small: S) {
    let (began, cpu_before) = (Instant::now(), cpu());
    bulk.write_all(&[1]).await.expect("asked");
    bulk.flush().await.expect("asked");
    let (mut left, mut buffer) = (BULK_BYTES, vec![0; 256 * 1024]);
    while left > 0 {
        let count = bulk.read(&mut buffer).await.expect("bytes") as u64;
        assert!(count > 0, "it ended early");
        left -= count;
    }
    let (took, spent) = (began.elapsed(), cpu() - cpu_before);
    let per_byte = spent.as_nanos() as f64 / BULK_BYTES as f64;
    let gib = BULK_BYTES as f64 / (1 << 30) as f64 / took.as_secs_f64();
    small.write_all(&[0]).await.expect("asked");
    let mut buffer = [0; EXCHANGE_BYTES];
    let (began, cpu_before) = (Instant::now(), cpu());
    for _ in 0..EXCHANGES {
        small.write_all(&buffer).await.expect("asked");
        small.flush().await.expect("asked");
        small.read_exact(&mut buffer).await.expect("answered");
    }
    let (took, spent) = (began.elapsed() / EXCHANGES, (cpu() - cpu_before) / EXCHANGES);
    println!(
        "{name:7} {per_byte:.2} ns CPU/byte  {gib:.2} GiB/s   exchange {took:?}, {spent:?} CPU"
    );
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let at = instance().await;
    let connect = async |at| {
        let tcp = TcpStream::connect(at).await.expect("a connection");
        tcp.set_nodelay(true).expect("a socket");
        tcp
    };
    measure("direct", connect(at).await, connect(at).await).await;
    let proxy = plain_proxy(at).await;
    measure("copy", connect(proxy).await, connect(proxy).await).await;

    let authority = Authority::generate(SystemClock.now_ms()).expect("an authority");
    let (listener, relay) = listen().await;
    let answerer = Answerer {
        credentials: credentials(&authority, Member::Node(NODE)),
        clock: Arc::new(SystemClock),
        doors: Arc::new(Open { at, changes: watch::Sender::new(0) }),
        limits: Limits::default(),
        counts: AnswerCounts::new(&Metrics::new()),
    };
    tokio::spawn(answer(listener, answerer, CancellationToken::new()));
    let gateway = credentials(&authority, Member::Gateway(GatewayId::from_u128(3)));
    let counts = CallCounts::new(&Metrics::new());
    let caller = Caller::new(&gateway, CallerSettings::default(), counts);
    let open = async || caller.open(NODE, relay, INSTANCE).await.expect("a stream");
    measure("relay", open().await, open().await).await;

    let began = Instant::now();
    for _ in 0..1_000 {
        let mut stream = open().await;
        stream.write_all(&[0; 1 + EXCHANGE_BYTES]).await.expect("asked");
        stream.shutdown().await.expect("ended");
        stream.read_to_end(&mut Vec::new()).await.expect("answered");
    }
    println!("open, one exchange, end: {:?}", began.elapsed() / 1_000);
}
