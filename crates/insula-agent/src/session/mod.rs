//! The session with the server: dial, say who we are, report what changed, take Targets.
//!
//! Losing it changes nothing on the node. What the node holds is in the `Board`; whenever a session
//! begins, all of it is reported, and only then does anything new come: first we say what is, then
//! we obey. Targets are handed on as they came; whoever takes them refuses the past.

mod beats;
mod builds;
mod logs;
mod mailbox;
mod report;

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{PollNext, select_with_strategy};
use insula_kit::clock::Clock;
use insula_kit::random::Random;
use insula_kit::shutdown::Shutdown;
use insula_member::{RECONNECT, REFUSED, Refusal};
use insula_model::observed::NodeReport;
use insula_model::{NodeId, NodeName, Timestamp};
use insula_wire::facts::NodeFacts;
use insula_wire::node::agent_message::Message as Up;
use insula_wire::node::server_message::Message as Down;
use insula_wire::node::{self as wire, HEARTBEAT_MS, PROTOCOL};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::board::{Board, BoardWatch};
use crate::contact::Contact;
use crate::error::chain;
use crate::health::Vitals;
use crate::log::LogRoot;
use crate::node::Received;
use crate::server::Server;
use beats::{Beats, LOST_MAX};
use logs::LogStreams;

pub use mailbox::Mailbox;

/// Reports and heartbeats that wait for the socket; a report is complete, so one is enough.
const CONTROL_QUEUE: usize = 4;
/// Pieces of logs that wait for the socket; readers stop when it is full.
const BULK_QUEUE: usize = 16;
/// From dialling to `Welcome`: longer than a handshake with the last of several servers takes.
const GREETING_TIME_MAX: Duration = Duration::from_secs(10);
/// A report names everything, so a node that starts a thousand instances at once would say a
/// million things; a twentieth of a second later it says most of them once. With ten instances
/// this is half a millisecond.
const REPORT_PAUSE_PER_INSTANCE: Duration = Duration::from_micros(50);
/// A connection that breaks after so long without a word was given up for its silence: pings a
/// heartbeat apart, and two heartbeats for an answer. Less is how long a server that is well says
/// nothing to a node that has nothing to do.
const SILENCE: Duration = Duration::from_millis(HEARTBEAT_MS as u64 * LOST_MAX as u64);
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
    pub targets: Mailbox,
    pub contact: Contact,
    pub vitals: Vitals,
    pub clock: Arc<dyn Clock>,
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
    #[error("the server fell silent")]
    Silent,
    /// What was said of instances that depend on contact counts no more, for there was none. Who
    /// asks again is told again.
    #[error("the server's answers took longer than a lease")]
    Late,
    #[error("write a document for the server")]
    Document(#[from] serde_json::Error),
}

impl SessionError {
    fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Open(status) | Self::Broken(status) => Refusal::of(status),
            Self::Ended | Self::NoGreeting | Self::Silent | Self::Late | Self::Document(_) => None,
        }
    }

    /// Another machine has a session as this node, and keeps it. It may end at any moment, so this
    /// is no refusal; but nobody here would ever learn of it.
    fn is_contest(&self) -> bool {
        match self {
            Self::Open(status) | Self::Broken(status) => status.code() == Code::AlreadyExists,
            Self::Ended | Self::NoGreeting | Self::Silent | Self::Late | Self::Document(_) => false,
        }
    }
}

impl Session {
    /// Holds a session whenever there is a server, until the end is asked for.
    pub async fn keep(self, shutdown: Shutdown) {
        let (mut failures, mut refusals) = (0u32, 0u32);
        let mut contested = false;
        loop {
            let mut greeted = false;
            let ended = tokio::select! {
                () = async { let _ = shutdown.requested().await; } => return,
                ended = self.hold(&mut greeted) => ended,
            };
            let Err(error) = ended;
            let refusal = error.refusal();
            if greeted {
                failures = 0;
            }
            let was_contested = std::mem::replace(&mut contested, error.is_contest());
            match refusal {
                Some(refusal) if refusals == 0 => {
                    let (error, hint) = (chain(&error), refusal.hint());
                    tracing::error!(error, hint, "the server refuses this node; apps go on");
                }
                Some(_) => {}
                None if greeted => {
                    let error = chain(&error);
                    tracing::warn!(error, "lost the server; nothing here changes");
                }
                None if contested && !was_contested => {
                    tracing::error!(error = %chain(&error), "this node is kept out; apps go on");
                }
                None if failures == 0 => {
                    tracing::debug!(error = %chain(&error), "no server yet");
                }
                None => {}
            }
            refusals = if refusal.is_some() { refusals.saturating_add(1) } else { 0 };
            failures = failures.saturating_add(1);
            self.turn_from(&error, greeted);
            let jitter = self.random.fraction();
            let pause = match refusals {
                0 => RECONNECT.delay(failures, jitter),
                refused => REFUSED.delay(refused, jitter),
            };
            tokio::select! {
                () = async { let _ = shutdown.requested().await; } => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// What it means that the stream broke, so long after the last word. What the server says
    /// itself has no cause beneath.
    fn broken(status: Status, quiet: Duration) -> SessionError {
        let is_said = std::error::Error::source(&status).is_none();
        match quiet >= SILENCE && !is_said {
            true => SessionError::Silent,
            false => SessionError::Broken(Box::new(status)),
        }
    }

    /// Where to dial next, after this.
    fn turn_from(&self, error: &SessionError, greeted: bool) {
        match error {
            SessionError::Silent => {
                self.vitals.silence();
                self.server.uplink.leave();
            }
            SessionError::NoGreeting => self.server.uplink.leave(),
            SessionError::Open(_) | SessionError::Broken(_) if !greeted => {
                self.server.uplink.leave()
            }
            // It was there until now: perhaps it is back already, and if not, it refuses at once.
            SessionError::Open(_) | SessionError::Broken(_) => self.server.uplink.redial(),
            SessionError::Ended if greeted => {}
            SessionError::Ended => self.server.uplink.leave(),
            SessionError::Late | SessionError::Document(_) => {}
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
        let began = self.contact.now();
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
        let (mut sequence, mut beats) = (0u64, Beats::new());
        // Of this session: what was said in it counts in no other.
        let mut epoch = None;
        let mut unreported = None;
        let mut cut = 0;
        let mut quiet_until = Instant::now();
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                message = inbound.message() => {
                    let message = message
                        .map_err(|status| Self::broken(status, heard.elapsed()))?
                        .ok_or(SessionError::Ended)?;
                    heard = Instant::now();
                    match message.message {
                        Some(Down::Welcome(welcome)) => {
                            *greeted = true;
                            // It has heard our Hello.
                            self.contact.answered(began);
                            epoch = self.contact.epoch();
                            heart = interval(heartbeat(welcome.heartbeat_ms));
                            beats.expect(welcome.ack_every);
                            tracing::info!(server = welcome.server_version, "joined the server");
                        }
                        Some(Down::Target(target)) => {
                            if sequence == 0 {
                                unreported = Some(target);
                            } else {
                                self.targets.put(Received { target, epoch });
                            }
                        }
                        Some(Down::LogRequest(request)) => logs.begin(request),
                        Some(Down::LogCancel(cancel)) => logs.cancel(cancel.stream),
                        Some(Down::HeartbeatAck(ack)) => {
                            if let Some(beat) = beats.answered(ack.sequence) {
                                self.contact.answered(beat.uptime);
                                if self.contact.epoch() != epoch {
                                    return Err(SessionError::Late);
                                }
                                let ours = self.clock.now_ms();
                                self.vitals.round_trip(beat.took(), ack.clock_ms, ours);
                            }
                        }
                        Some(Down::Servers(servers)) => self.server.uplink.learn(&servers.addresses),
                        // Of a later version: ignored, as the protocol says.
                        None => {}
                    }
                }
                report = next_report(quiet_until, &mut board), if *greeted => {
                    sequence += 1;
                    let instances = u32::try_from(report.instances.len()).unwrap_or(u32::MAX);
                    quiet_until = Instant::now() + REPORT_PAUSE_PER_INSTANCE * instances;
                    let written = report::write(report, wire::REPORT_LEN_MAX)?;
                    if written.cut > 0 && cut == 0 {
                        let of = written.cut;
                        tracing::warn!(of, "more to say than a report may carry: cut short");
                    }
                    cut = written.cut;
                    let document = written.document;
                    send(&control, Up::Report(wire::Report { document, sequence })).await?;
                    if let Some(target) = unreported.take() {
                        self.targets.put(Received { target, epoch });
                    }
                }
                _ = heart.tick() => {
                    let next = beats.next(self.contact.now());
                    let sequence = next.ok_or(SessionError::Silent)?;
                    send(&control, Up::Heartbeat(wire::Heartbeat { sequence })).await?;
                }
                _ = usage.tick() => {
                    send(&control, Up::Usage((self.usage)())).await?;
                }
                () = &mut greeting, if !*greeted => return Err(SessionError::NoGreeting),
            }
        }
    }

    fn hello(&self) -> Result<wire::Hello, SessionError> {
        let clock = Some(Timestamp::from_millis(self.clock.now_ms()));
        let facts = NodeFacts { clock, ..self.facts.clone() };
        Ok(wire::Hello {
            node: self.node.to_string(),
            name: self.name.to_string(),
            version: self.version.into(),
            protocol: PROTOCOL,
            facts: serde_json::to_string(&facts)?,
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
    let patience = Duration::from_millis(HEARTBEAT_MS.into()) * LOST_MAX;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_was_given_up_for_its_silence_is_no_broken_one() {
        let pipe = || Status::from_error(Box::new(std::io::Error::other("broken pipe")));
        let heartbeat = Duration::from_millis(HEARTBEAT_MS.into());
        // Every third heartbeat is answered, and a server may die just before that.
        let usual = heartbeat * LOST_MAX - Duration::from_millis(1);
        assert!(matches!(Session::broken(pipe(), usual), SessionError::Broken(_)));
        assert!(matches!(Session::broken(pipe(), heartbeat * LOST_MAX), SessionError::Silent));
        // Whoever says something is not silent.
        for said in [
            Status::unavailable("another server of the fleet leads now"),
            Status::already_exists("another machine"),
            Status::permission_denied("removed"),
        ] {
            let broken = Session::broken(said, heartbeat * 60);
            assert!(matches!(broken, SessionError::Broken(_)), "{broken:?}");
        }
    }
}
