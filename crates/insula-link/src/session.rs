//! The session of one agent: what it says is taken apart here, what it must hear is put together.
//!
//! A heartbeat costs one wake of the task that reads, a number that is stored without a lock, and
//! now and then an acknowledgement. Nobody else is woken.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use futures_util::{Stream, StreamExt};
use insula_model::fleet::Member;
use insula_model::limits::REPORT_INSTANCES_MAX;
use insula_model::observed::NodeReport;
use insula_model::{NodeId, Timestamp};
use insula_wire::facts::NodeFacts;
use insula_wire::node as wire;
use insula_wire::node::agent_message::Message as FromAgent;
use insula_wire::node::server_message::Message as ToAgent;
use tokio::sync::mpsc;
use tokio_stream::wrappers::WatchStream;
use tonic::{Status, Streaming};
use tracing::{info, warn};

use crate::caller::{Caller, expiry};
use crate::hub::{Hub, NodeEntry, ToNode};
use crate::inbox::{Inbound, Newest};
use crate::node::parse;

/// Messages to one agent that wait: log requests mostly. What comes on top is not sent.
const MESSAGES_WAITING_MAX: usize = 256;
/// A host's runtimes and labels; a longer greeting is not one.
const FACTS_LEN_MAX: usize = 64 * 1024;
/// Builds that one node has under way, many times over.
const REPORT_BUILDS_MAX: usize = 1_024;
/// One of each kind, many times over.
const REPORT_AILMENTS_MAX: usize = 64;

/// A Hello that makes sense.
pub(crate) struct Greeting {
    node: NodeId,
    hello: Inbound,
    facts: NodeFacts,
}

impl Greeting {
    pub(crate) fn read(node: NodeId, hello: wire::Hello, caller: &Caller) -> Result<Self, Status> {
        if hello.facts.len() > FACTS_LEN_MAX {
            return Err(Status::invalid_argument("the facts of a host are not that many"));
        }
        let mut facts: NodeFacts = serde_json::from_str(&hello.facts)
            .map_err(|error| Status::invalid_argument(format!("facts: {error}")))?;
        if !caller.is_local() {
            // Its token said where it belongs.
            facts.site = None;
        }
        let name = parse(&hello.name)?;
        let told = facts.clone();
        let hello = Inbound::NodeHello { node, name, version: hello.version, facts: told };
        Ok(Self { node, hello, facts })
    }
}

/// Begins a session; what comes back is what the agent hears, until either side ends.
pub(crate) fn begin(
    hub: &Hub,
    caller: &Caller,
    greeting: Greeting,
    incoming: Streaming<wire::AgentMessage>,
) -> Result<Outgoing, Status> {
    let node = greeting.node;
    let (messages, queue) = mpsc::channel(MESSAGES_WAITING_MAX);
    let entry = hub
        .node_joined(node, greeting.facts, caller.from(), messages.clone())
        .inspect_err(|refusal| {
            warn!(%node, from = caller.from(), words = refusal.message(), "a node was refused");
        })?;
    info!(%node, from = caller.from(), "a node is connected");
    let ack_every = if caller.is_local() { 1 } else { wire::ACK_EVERY };
    let welcome = ToAgent::Welcome(wire::Welcome {
        server_version: env!("CARGO_PKG_VERSION").to_owned(),
        heartbeat_ms: wire::HEARTBEAT_MS,
        ack_every,
    });
    let acks = Arc::new(Acks::default());
    let outgoing = Outgoing {
        hub: hub.clone(),
        welcome: Some(welcome),
        acks: acks.clone(),
        queue,
        servers: WatchStream::new(hub.servers()),
        servers_said: false,
        target: Some(WatchStream::new(entry.target.clone())),
    };
    let session = Session {
        hub: hub.clone(),
        node,
        ack_every,
        beats: 0,
        not_after_ms: caller.not_after_ms(),
        acks,
        messages,
        newest: Arc::default(),
    };
    tokio::spawn(session.run(greeting.hello, entry, incoming));
    Ok(outgoing)
}

struct Session {
    hub: Hub,
    node: NodeId,
    ack_every: u32,
    beats: u32,
    not_after_ms: i64,
    acks: Arc<Acks>,
    messages: ToNode,
    /// Its report that the control plane has not taken yet.
    newest: Arc<Newest>,
}

impl Session {
    async fn run(
        mut self,
        hello: Inbound,
        entry: NodeEntry,
        incoming: Streaming<wire::AgentMessage>,
    ) {
        let NodeEntry { number, pulse, ended, target } = entry;
        drop(target);
        let hub = self.hub.clone();
        hub.tell(hello).await;
        let words = tokio::select! {
            biased;
            words = ended => Some(words.unwrap_or_else(|_| {
                Status::aborted("a newer session of this node has taken over")
            })),
            words = expiry(&hub, self.not_after_ms) => Some(words),
            words = self.read(incoming, &pulse) => words,
        };
        let node = self.node;
        if let Some(words) = words {
            info!(%node, words = words.message(), "the session of a node is ended");
            // An agent that does not read gets no words, only the end.
            let _ = self.messages.try_send(Box::new(Err(words)));
        }
        self.hub.logs_streams().node_left(node);
        if self.hub.node_left(node, number) {
            self.hub.forget_relay(Member::Node(node));
            info!(%node, "a node is gone");
            self.hub.tell(Inbound::NodeGone { node }).await;
        }
    }

    /// Until it ends; with words, if they are ours.
    async fn read(
        &mut self,
        mut incoming: Streaming<wire::AgentMessage>,
        pulse: &crate::hub::Pulse,
    ) -> Option<Status> {
        let began = self.hub.began();
        while let Some(Ok(received)) = incoming.next().await {
            pulse.beat(began);
            self.hub.said().count();
            if let Err(words) = self.take(received).await {
                return Some(words);
            }
        }
        None
    }

    async fn take(&mut self, received: wire::AgentMessage) -> Result<(), Status> {
        match received.message {
            Some(FromAgent::Heartbeat(beat)) => self.acknowledge(beat.sequence)?,
            Some(FromAgent::Report(report)) => {
                let report = read_report(&report.document).map_err(|error| {
                    Status::invalid_argument(format!("the report makes no sense: {error}"))
                })?;
                let told = Inbound::NodeReport { node: self.node, report };
                self.hub.tell_newest(&self.newest, told).await;
            }
            Some(FromAgent::Log(chunk)) => {
                let stream = chunk.stream;
                let now = Timestamp::from_millis(self.hub.now_ms());
                if !self.hub.logs_streams().take(self.node, chunk, now) {
                    self.say(ToAgent::LogCancel(wire::LogCancel { stream }));
                }
            }
            Some(FromAgent::Usage(usage)) => {
                self.hub.note_usage(self.node, &usage);
                self.hub.note_relay(Member::Node(self.node), usage.relay.as_ref());
            }
            // A message of a later version, or a greeting twice: nothing to do with it.
            Some(FromAgent::Hello(_)) | None => {}
        }
        Ok(())
    }

    fn acknowledge(&mut self, sequence: u64) -> Result<(), Status> {
        let due = self.beats.is_multiple_of(self.ack_every);
        self.beats = self.beats.wrapping_add(1);
        if !due {
            return Ok(());
        }
        if self.hub.now_ms() > self.not_after_ms {
            // A clock that was set is noticed here first.
            return Err(Status::unauthenticated("the certificate has expired"));
        }
        // Whoever leads next will say that he has heard it, or nobody has.
        if self.hub.is_sure() {
            self.acks.owe(sequence);
        }
        Ok(())
    }

    /// Unless the agent is so far behind that it would not hear it in time.
    fn say(&self, said: ToAgent) {
        let _ = self.messages.try_send(Box::new(Ok(message(said))));
    }
}

fn read_report(document: &str) -> Result<NodeReport, String> {
    let report: NodeReport = serde_json::from_str(document).map_err(|e| e.to_string())?;
    let counts = [
        ("instances", report.instances.len(), REPORT_INSTANCES_MAX),
        ("builds", report.builds.len(), REPORT_BUILDS_MAX),
        ("ailments", report.ailments.len(), REPORT_AILMENTS_MAX),
    ];
    match counts.iter().find(|(_, count, most)| count > most) {
        Some((what, count, most)) => Err(format!("{count} {what} are more than {most}")),
        None => Ok(report),
    }
}

fn message(message: ToAgent) -> wire::ServerMessage {
    wire::ServerMessage { message: Some(message) }
}

/// The newest heartbeat that is to be acknowledged: one place, no queue, nothing to allocate.
#[derive(Debug)]
struct Acks {
    owed: AtomicU64,
    waker: AtomicWaker,
}

/// Nothing is owed. Agents count from one; whoever sends this number goes without an answer.
const NOTHING: u64 = u64::MAX;

impl Default for Acks {
    fn default() -> Self {
        Self { owed: AtomicU64::new(NOTHING), waker: AtomicWaker::new() }
    }
}

impl Acks {
    fn owe(&self, sequence: u64) {
        self.owed.store(sequence, Ordering::Release);
        self.waker.wake();
    }

    fn poll_owed(&self, cx: &Context<'_>) -> Option<u64> {
        // First the waker: what is owed after this look wakes.
        self.waker.register(cx.waker());
        match self.owed.swap(NOTHING, Ordering::AcqRel) {
            NOTHING => None,
            sequence => Some(sequence),
        }
    }
}

/// What an agent hears: the welcome, what is put into its queue, and of servers and Targets the
/// newest. Ends when its queue does.
pub(crate) struct Outgoing {
    hub: Hub,
    welcome: Option<ToAgent>,
    acks: Arc<Acks>,
    queue: mpsc::Receiver<Box<Result<wire::ServerMessage, Status>>>,
    servers: WatchStream<Arc<Vec<String>>>,
    servers_said: bool,
    /// Nothing once a newer session gets the Targets.
    target: Option<WatchStream<Option<Arc<wire::Target>>>>,
}

impl Stream for Outgoing {
    type Item = Result<wire::ServerMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(welcome) = self.welcome.take() {
            return Poll::Ready(Some(Ok(message(welcome))));
        }
        if let Some(sequence) = self.acks.poll_owed(cx) {
            let ack = wire::HeartbeatAck { sequence, clock_ms: self.hub.now_ms() };
            return Poll::Ready(Some(Ok(message(ToAgent::HeartbeatAck(ack)))));
        }
        if let Poll::Ready(next) = self.queue.poll_recv(cx) {
            return Poll::Ready(next.map(|said| *said));
        }
        while let Poll::Ready(Some(addresses)) = self.servers.poll_next_unpin(cx) {
            // On a machine that is alone there is nowhere else to go, and nothing to say.
            if self.servers_said || !addresses.is_empty() {
                self.servers_said = true;
                let servers = wire::Servers { addresses: addresses.to_vec() };
                return Poll::Ready(Some(Ok(message(ToAgent::Servers(servers)))));
            }
        }
        while let Some(target) = &mut self.target {
            match target.poll_next_unpin(cx) {
                Poll::Ready(Some(Some(newest))) => {
                    let target = ToAgent::Target((*newest).clone());
                    return Poll::Ready(Some(Ok(message(target))));
                }
                Poll::Ready(Some(None)) => {}
                Poll::Ready(None) => self.target = None,
                Poll::Pending => break,
            }
        }
        Poll::Pending
    }
}
