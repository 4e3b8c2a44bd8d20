//! The session with the server: dial, say who we are, report what changed, take Targets.
//!
//! Losing it changes nothing on the node. What the node holds is in the `Board`; whenever a session
//! begins, all of it is reported. Targets are handed on as they came; whoever takes them refuses
//! the past.

mod builds;
mod logs;

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{PollNext, select_with_strategy};
use insula_kit::backoff::Backoff;
use insula_kit::random::Random;
use insula_kit::shutdown::Shutdown;
use insula_model::observed::NodeReport;
use insula_model::{NodeId, NodeName};
use insula_wire::facts::NodeFacts;
use insula_wire::node::agent_message::Message as Up;
use insula_wire::node::server_message::Message as Down;
use insula_wire::node::{self as wire, HEARTBEAT_MS, PROTOCOL};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::board::{Board, BoardWatch};
use crate::error::chain;
use crate::log::LogRoot;
use crate::server::Server;
use logs::LogStreams;

/// A server that restarts is back within an instant; one that is gone is not asked all the time.
const RECONNECT: Backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
/// Reports and heartbeats that wait for the socket; a report is complete, so one is enough.
const CONTROL_QUEUE: usize = 4;
/// Pieces of logs that wait for the socket; readers stop when it is full.
const BULK_QUEUE: usize = 16;
/// Heartbeats without an answer after which the server counts as gone.
const HEARTBEATS_LOST_MAX: u32 = 5;
/// From dialling to `Welcome`.
const GREETING_TIME_MAX: Duration = Duration::from_secs(10);
/// A report names everything, so a node that starts a thousand instances at once would say a
/// million things; a twentieth of a second later it says most of them once. With ten instances
/// this is half a millisecond.
const REPORT_PAUSE_PER_INSTANCE: Duration = Duration::from_micros(50);
/// Between usage reports: figures for people.
const USAGE_INTERVAL: Duration = Duration::from_secs(10);

/// What a session speaks for.
#[derive(Clone)]
pub struct Session {
    pub node: NodeId,
    pub name: NodeName,
    pub version: &'static str,
    pub facts: NodeFacts,
    pub server: Server,
    pub board: Board,
    pub logs: LogRoot,
    pub targets: mpsc::Sender<wire::Target>,
    pub usage: Arc<dyn Fn() -> wire::UsageReport + Send + Sync>,
    pub random: Arc<dyn Random>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("node", &self.node).finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("open a session")]
    Open(#[source] Box<Status>),
    #[error("the session broke")]
    Broken(#[source] Box<Status>),
    #[error("the server ended the session")]
    Ended,
    #[error("the server did not greet within {GREETING_TIME_MAX:?}")]
    NoGreeting,
    #[error("the server missed {HEARTBEATS_LOST_MAX} heartbeats")]
    Silent,
    #[error("write a document for the server")]
    Document(#[from] serde_json::Error),
    /// Nobody takes Targets any more: the agent is ending.
    #[error("the agent is ending")]
    Ending,
}

impl Session {
    /// Holds a session whenever there is a server, until the end is asked for.
    pub async fn keep(self, shutdown: Shutdown) {
        let mut failures = 0u32;
        loop {
            let mut greeted = false;
            let ended = tokio::select! {
                () = async { let _ = shutdown.requested().await; } => return,
                ended = self.hold(&mut greeted) => ended,
            };
            let Err(error) = ended;
            if greeted {
                failures = 0;
                tracing::warn!(error = %chain(&error), "lost the server; nothing here changes");
            } else if failures == 0 {
                tracing::debug!(error = %chain(&error), "no server yet");
            }
            failures = failures.saturating_add(1);
            let pause = RECONNECT.delay(failures, self.random.fraction());
            tokio::select! {
                () = async { let _ = shutdown.requested().await; } => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn hold(&self, greeted: &mut bool) -> Result<std::convert::Infallible, SessionError> {
        let (control, control_queue) = mpsc::channel(CONTROL_QUEUE);
        let (bulk, bulk_queue) = mpsc::channel(BULK_QUEUE);
        // Logs wait for reports, never the other way round.
        let outbound = select_with_strategy(
            ReceiverStream::new(control_queue),
            ReceiverStream::new(bulk_queue),
            |(): &mut ()| PollNext::Left,
        );
        send(&control, Up::Hello(self.hello()?)).await?;
        let opening = self.server.client();
        let opened = tokio::time::timeout(GREETING_TIME_MAX, async move {
            let mut client = opening;
            client.session(outbound).await
        });
        let mut inbound = opened
            .await
            .map_err(|_| SessionError::NoGreeting)?
            .map_err(|status| SessionError::Open(Box::new(status)))?
            .into_inner();
        let mut logs = LogStreams::new(self.logs.clone(), bulk);
        let mut board = self.board.watch();
        let mut heart = interval(Duration::from_millis(HEARTBEAT_MS.into()));
        let mut usage = interval(USAGE_INTERVAL);
        let greeting = tokio::time::sleep(GREETING_TIME_MAX);
        tokio::pin!(greeting);
        let (mut sequence, mut sent, mut answered) = (0u64, 0u64, 0u64);
        let mut quiet_until = Instant::now();
        loop {
            tokio::select! {
                message = inbound.message() => {
                    let message = message
                        .map_err(|status| SessionError::Broken(Box::new(status)))?
                        .ok_or(SessionError::Ended)?;
                    match message.message {
                        Some(Down::Welcome(welcome)) => {
                            *greeted = true;
                            heart = interval(heartbeat(welcome.heartbeat_ms));
                            tracing::info!(server = welcome.server_version, "joined the server");
                        }
                        Some(Down::Target(target)) => {
                            self.targets.send(target).await.map_err(|_| SessionError::Ending)?;
                        }
                        Some(Down::LogRequest(request)) => logs.begin(request),
                        Some(Down::LogCancel(cancel)) => logs.cancel(cancel.stream),
                        Some(Down::HeartbeatAck(ack)) => answered = ack.sequence,
                        // Of a later version: ignored, as the protocol says.
                        Some(Down::Servers(_)) | None => {}
                    }
                }
                report = next_report(quiet_until, &mut board), if *greeted => {
                    sequence += 1;
                    let instances = u32::try_from(report.instances.len()).unwrap_or(u32::MAX);
                    quiet_until = Instant::now() + REPORT_PAUSE_PER_INSTANCE * instances;
                    let document = serde_json::to_string(&report)?;
                    send(&control, Up::Report(wire::Report { document, sequence })).await?;
                }
                _ = heart.tick() => {
                    if sent.saturating_sub(answered) >= HEARTBEATS_LOST_MAX.into() {
                        return Err(SessionError::Silent);
                    }
                    sent += 1;
                    send(&control, Up::Heartbeat(wire::Heartbeat { sequence: sent })).await?;
                }
                _ = usage.tick() => {
                    let report = (self.usage)();
                    if !report.instances.is_empty() {
                        send(&control, Up::Usage(report)).await?;
                    }
                }
                () = &mut greeting, if !*greeted => return Err(SessionError::NoGreeting),
            }
        }
    }

    fn hello(&self) -> Result<wire::Hello, SessionError> {
        Ok(wire::Hello {
            node: self.node.to_string(),
            name: self.name.to_string(),
            version: self.version.into(),
            protocol: PROTOCOL,
            facts: serde_json::to_string(&self.facts)?,
            generation: self.board.report().generation.0,
        })
    }
}

async fn next_report(quiet_until: Instant, board: &mut BoardWatch) -> NodeReport {
    tokio::time::sleep_until(quiet_until).await;
    board.next().await
}

async fn send(queue: &mpsc::Sender<wire::AgentMessage>, message: Up) -> Result<(), SessionError> {
    let message = wire::AgentMessage { message: Some(message) };
    let patience = Duration::from_millis(HEARTBEAT_MS.into()) * HEARTBEATS_LOST_MAX;
    match queue.send_timeout(message, patience).await {
        Ok(()) => Ok(()),
        Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(SessionError::Silent),
        Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(SessionError::Ended),
    }
}

/// What the server asks for, within reason: its word must not turn into a busy loop.
fn heartbeat(asked_ms: u32) -> Duration {
    let ms = if asked_ms == 0 { HEARTBEAT_MS } else { asked_ms };
    Duration::from_millis(ms.clamp(100, 60_000).into())
}

fn interval(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
