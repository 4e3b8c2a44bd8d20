//! Thousands of nodes that are nothing but their sessions: greeting, report, heartbeat, usage.
//!
//! They come in as a second server passes on the sessions of its agents: over few connections that
//! show a server's certificate, each stream naming the node that it speaks for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use hyper_util::rt::TokioIo;
use insula_kit::pki::Whom;
use insula_kit::tls::Connector;
use insula_model::node::{Architecture, Capacity, NodeMode, Offer};
use insula_model::observed::NodeReport;
use insula_model::spec::Isolation;
use insula_model::{Bytes, Generation, MilliCpu, NodeId, Timestamp};
use insula_wire::facts::NodeFacts;
use insula_wire::node as wire;
use insula_wire::node::agent_message::Message as Up;
use insula_wire::node::node_client::NodeClient;
use insula_wire::node::server_message::Message as Down;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

/// As agents do: see `insula-agent`.
const USAGE_INTERVAL: Duration = Duration::from_secs(10);
/// Greetings under way at once.
const GREETINGS_MAX: usize = 256;
/// A greeting and a report wait for the first poll; a heartbeat waits for none.
const WAITING_MAX: usize = 4;

/// Where to, and as whom.
#[derive(Clone)]
#[allow(missing_debug_implementations)]
pub struct Door {
    pub address: SocketAddr,
    pub connector: Connector,
}

/// What happened so far.
#[derive(Debug, Default)]
pub struct Seen {
    pub greeted: AtomicU64,
    pub reports: AtomicU64,
    pub beats: AtomicU64,
    pub acks: AtomicU64,
    /// Sessions that ended; none should.
    pub ended: AtomicU64,
}

impl Seen {
    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub fn read(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

/// Lives until `stop` is ready; a session that ends before is an error.
pub async fn live(
    door: Door,
    nodes: usize,
    connections: usize,
    seen: Arc<Seen>,
    stop: impl Future<Output = ()>,
) -> Result<()> {
    let channels: Vec<Channel> = (0..connections).map(|_| door.channel()).collect();
    let greetings = Arc::new(Semaphore::new(GREETINGS_MAX));
    let began = Instant::now();
    let mut sessions = tokio::task::JoinSet::new();
    for number in 0..nodes {
        let channel = channels[number % connections].clone();
        let (seen, greetings) = (Arc::clone(&seen), Arc::clone(&greetings));
        let phase = Duration::from_secs(1).mul_f64(number as f64 / nodes as f64);
        sessions.spawn(async move {
            let node = Node { number, began: began + phase };
            let error = node.session(channel, &greetings, &seen).await.err();
            Seen::count(&seen.ended);
            (number, error)
        });
    }
    tokio::select! {
        () = stop => Ok(()),
        Some(ended) = sessions.join_next() => {
            let (number, error) = ended?;
            let error = error.unwrap_or_else(|| anyhow!("the server ended it without a word"));
            Err(error.context(format!("the session of simulated node {number} ended")))
        }
    }
}

impl Door {
    fn channel(&self) -> Channel {
        let Self { address, connector } = self.clone();
        let dial = tower::service_fn(move |_| {
            let connector = connector.clone();
            async move {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                let server = Whom::any("server").map_err(std::io::Error::other)?;
                let (stream, _) =
                    connector.connect(stream, &server).await.map_err(std::io::Error::other)?;
                Ok::<_, std::io::Error>(TokioIo::new(stream))
            }
        });
        Endpoint::from_static("http://insula").connect_with_connector_lazy(dial)
    }
}

struct Node {
    number: usize,
    /// The beginning of its seconds: a fleet's hearts do not beat together.
    began: Instant,
}

impl Node {
    fn id(&self) -> NodeId {
        let mut random = [0; 10];
        random[2..].copy_from_slice(&(self.number as u64).to_be_bytes());
        NodeId::from_parts(Timestamp::from_millis(1_700_000_000_000), random)
    }

    fn hello(&self) -> Result<wire::Hello> {
        let capacity = Capacity {
            cpu: MilliCpu(4_000),
            memory: Bytes::mib(16_384),
            instances: 200,
            ..Capacity::default()
        };
        let offer = Offer {
            capacity,
            mode: NodeMode::Full,
            runtimes: vec![],
            architecture: Architecture::X86,
            isolation: [Isolation::Standard].into(),
        };
        let facts = NodeFacts { offer, relay: None, clock: None, site: None };
        Ok(wire::Hello {
            node: self.id().to_string(),
            name: format!("simulated-{}", self.number),
            version: env!("CARGO_PKG_VERSION").into(),
            protocol: wire::PROTOCOL,
            facts: serde_json::to_string(&facts)?,
            generation: 0,
        })
    }

    async fn session(&self, channel: Channel, greetings: &Semaphore, seen: &Seen) -> Result<()> {
        let turn = greetings.acquire().await?;
        let (queue, up) = mpsc::channel(WAITING_MAX);
        let say = async |said: Up| -> Result<()> {
            let message = wire::AgentMessage { message: Some(said) };
            queue.send(message).await.context("say something")
        };
        say(Up::Hello(self.hello()?)).await?;
        let mut request = Request::new(ReceiverStream::new(up));
        request.metadata_mut().insert(wire::MEMBER_METADATA, self.id().to_string().parse()?);
        let mut client = NodeClient::new(channel);
        let begun = client.session(request).await;
        let mut down = begun.context("begin a session")?.into_inner();
        Seen::count(&seen.greeted);
        drop(turn);
        let heartbeat = Duration::from_millis(wire::HEARTBEAT_MS.into());
        let (mut heart, mut usage) = (self.every(heartbeat), self.every(USAGE_INTERVAL));
        let (mut beat, mut report) = (0, 0);
        loop {
            tokio::select! {
                received = down.message() => match received?.context("the server ended it")?.message {
                    Some(Down::Target(target)) => {
                        report += 1;
                        let told = NodeReport {
                            generation: Generation(target.generation),
                            instances: vec![],
                            builds: vec![],
                            ailments: vec![],
                        };
                        let document = serde_json::to_string(&told)?;
                        say(Up::Report(wire::Report { document, sequence: report })).await?;
                        Seen::count(&seen.reports);
                    }
                    Some(Down::HeartbeatAck(_)) => Seen::count(&seen.acks),
                    _ => {}
                },
                _ = heart.tick() => {
                    beat += 1;
                    say(Up::Heartbeat(wire::Heartbeat { sequence: beat })).await?;
                    Seen::count(&seen.beats);
                }
                _ = usage.tick() => say(Up::Usage(self.usage(beat))).await?,
            }
        }
    }

    /// From the next whole interval on, counted from this node's own beginning.
    fn every(&self, interval: Duration) -> tokio::time::Interval {
        let now = Instant::now();
        let passed = now.saturating_duration_since(self.began);
        let next = self.began + interval * (passed.div_duration_f64(interval) as u32 + 1);
        let mut every = tokio::time::interval_at(next, interval);
        every.set_missed_tick_behavior(MissedTickBehavior::Skip);
        every
    }

    /// A node that breathes.
    fn usage(&self, beat: u64) -> wire::UsageReport {
        let breath = (beat + self.number as u64) % 100;
        let node = wire::NodeUsage {
            cpu_milli: 1_000 + breath as u32,
            memory_bytes: Bytes::mib(4_096 + breath).0,
            disk_free_bytes: Bytes::mib(65_536).0,
        };
        wire::UsageReport { node: Some(node), ..Default::default() }
    }
}
