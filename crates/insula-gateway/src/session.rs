//! The session with the server: tables come in, acknowledgements and traffic go out.
//!
//! A table is acknowledged when every thread serves by it and it is on disk, and again whenever
//! one of the instances that it no longer names comes to rest. Without a server the last table
//! goes on being served, for as long as it takes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use insula_kit::backoff::Backoff;
use insula_kit::random::Random;
use insula_member::{REFUSED, Refusal, Uplink};
use insula_model::routes::RouteTable;
use insula_model::target::accept;
use insula_model::{GatewayId, Generation, InstanceId, schema};
use insula_relay::CallCounts;
use insula_wire::node as wire;
use insula_wire::node::edge_client::EdgeClient;
use insula_wire::node::gateway_message::Message;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tracing::{info, warn};

use crate::keep::Folder;
use crate::worker::{Common, NewTable};

/// The server is on this machine and restarts within a second or two.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
/// Acknowledgements and reports under way; more means that the server does not read.
const OUTGOING_MAX: usize = 16;

#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("begin a session with the server")]
    Begin(#[source] Box<tonic::Status>),
    #[error("read from the server")]
    Read(#[source] Box<tonic::Status>),
    #[error("the server ended the session")]
    Ended,
}

impl SessionError {
    /// What the server says for good, if it does.
    fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Begin(status) | Self::Read(status) => Refusal::of(status),
            Self::Ended => None,
        }
    }

    /// The server's own words, if it had any.
    fn words(&self) -> Option<&str> {
        match self {
            Self::Begin(status) | Self::Read(status) => Some(status.message()),
            Self::Ended => None,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) uplink: Uplink,
    pub(crate) gateway: GatewayId,
    pub(crate) folder: Folder,
    pub(crate) threads: Vec<mpsc::UnboundedSender<NewTable>>,
    pub(crate) common: Arc<Common>,
    pub(crate) random: Arc<dyn Random>,
    /// In force on every thread, if there is one.
    pub(crate) held: Option<Arc<RouteTable>>,
}

impl Session {
    /// For as long as the process lives.
    pub(crate) async fn run(mut self) {
        let mut failures = 0;
        let mut told = false;
        loop {
            let mut heard = false;
            let Err(error) = self.hold(&mut heard).await;
            failures = if heard { 1 } else { failures + 1 };
            let refusal = error.refusal();
            // Once per absence, not once per attempt.
            if heard || !told {
                let hint = refusal.map(Refusal::hint);
                info!(
                    error = &error as &dyn std::error::Error,
                    words = error.words(),
                    hint,
                    "without the server; serving on"
                );
                told = true;
            }
            if heard {
                self.uplink.redial();
            } else {
                self.uplink.leave();
            }
            let backoff = if refusal.is_some() { REFUSED } else { BACKOFF };
            tokio::time::sleep(backoff.delay(failures, self.random.fraction())).await;
        }
    }

    async fn hold(&mut self, heard: &mut bool) -> Result<std::convert::Infallible, SessionError> {
        let (outgoing, receiver) = mpsc::channel(OUTGOING_MAX);
        let mut incoming = self.begin(&outgoing, receiver).await?;
        let mut acknowledged: Option<(Generation, BTreeSet<InstanceId>)> = None;
        let common = Arc::clone(&self.common);
        let interval = common.limits.traffic_interval;
        // What was counted without a server has told nobody that it was.
        let mut relay_told: Option<wire::RelayUsage> = None;
        let mut report_at = Some(tokio::time::Instant::now() + interval);
        loop {
            tokio::select! {
                received = incoming.message() => {
                    let received = received
                        .map_err(|status| SessionError::Read(Box::new(status)))?
                        .ok_or(SessionError::Ended)?;
                    *heard = true;
                    self.uplink.learn(&received.servers);
                    if let Some(generation) = self.receive(&received).await {
                        acknowledged = Some((generation, common.ledger.busy()));
                        tell(&outgoing, ack(acknowledged.as_ref())).await?;
                    }
                }
                () = common.ledger.shrunk() => {
                    if let Some((_, before)) = &mut acknowledged {
                        let busy = common.ledger.busy();
                        if busy != *before {
                            *before = busy;
                            tell(&outgoing, ack(acknowledged.as_ref())).await?;
                        }
                    }
                }
                () = common.traffic.changed() => {
                    report_at.get_or_insert_with(|| tokio::time::Instant::now() + interval);
                }
                () = until(report_at), if report_at.is_some() => {
                    report_at = None;
                    let mut report = common.traffic.take();
                    report.relay = common.credentials.borrow().is_some().then(|| {
                        insula_relay::usage(&CallCounts::new(&common.metrics), None)
                    });
                    if !report.apps.is_empty() || report.relay != relay_told {
                        relay_told = report.relay;
                        tell(&outgoing, Some(Message::Traffic(report))).await?;
                    }
                }
            }
        }
    }

    async fn begin(
        &self,
        outgoing: &mpsc::Sender<wire::GatewayMessage>,
        receiver: mpsc::Receiver<wire::GatewayMessage>,
    ) -> Result<Streaming<wire::RouteMessage>, SessionError> {
        let hello = wire::GatewayHello {
            gateway: self.gateway.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: wire::PROTOCOL,
            generation: self.held.as_ref().map_or(0, |table| table.generation.0),
        };
        tell(outgoing, Some(Message::Hello(hello))).await?;
        let mut client = EdgeClient::new(self.uplink.channel())
            .max_decoding_message_size(wire::MESSAGE_LEN_MAX)
            .max_encoding_message_size(wire::MESSAGE_LEN_MAX);
        let answer = client.routes(ReceiverStream::new(receiver)).await;
        Ok(answer.map_err(|status| SessionError::Begin(Box::new(status)))?.into_inner())
    }

    /// The generation to acknowledge, if the table is in force now.
    async fn receive(&mut self, received: &wire::RouteMessage) -> Option<Generation> {
        let offered = Generation(received.generation);
        if let Some(held) = &self.held
            && let Err(stale) = accept(held.generation, offered)
        {
            warn!(%stale, "refused a route table");
            return None;
        }
        let table: RouteTable = match schema::decode(&received.document) {
            Ok(table) => table,
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "cannot read a route table");
                return None;
            }
        };
        if table.generation != offered {
            warn!(%offered, inside = %table.generation, "a route table does not match its envelope");
            return None;
        }
        // A server that was started with another suffix speaks of other hosts without a decision.
        if self.held.as_deref() == Some(&table) {
            return Some(offered);
        }
        let table = Arc::new(table);
        self.put_in_force(&table).await;
        self.held = Some(table);
        if let Err(error) = self.folder.keep_routes(&received.document) {
            warn!(error = &error as &dyn std::error::Error, "cannot keep the routes on disk");
        }
        info!(generation = %offered, trace = received.trace, "routes are in force");
        Some(offered)
    }

    async fn put_in_force(&self, table: &Arc<RouteTable>) {
        self.common.ledger.adopt(table);
        let mut waiting = Vec::with_capacity(self.threads.len());
        for thread in &self.threads {
            let (done, in_force) = oneshot::channel();
            // A thread that is gone serves nobody.
            if thread.send((Arc::clone(table), done)).is_ok() {
                waiting.push(in_force);
            }
        }
        for in_force in waiting {
            let _ = in_force.await;
        }
    }
}

fn ack(acknowledged: Option<&(Generation, BTreeSet<InstanceId>)>) -> Option<Message> {
    acknowledged.map(|(generation, busy)| {
        let busy = busy.iter().map(ToString::to_string).collect();
        Message::Ack(wire::RouteAck { generation: generation.0, busy })
    })
}

async fn tell(
    outgoing: &mpsc::Sender<wire::GatewayMessage>,
    message: Option<Message>,
) -> Result<(), SessionError> {
    outgoing.send(wire::GatewayMessage { message }).await.map_err(|_| SessionError::Ended)
}

async fn until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    use insula_kit::metrics::Metrics;
    use insula_kit::random::SeededRandom;
    use insula_member::Dial;
    use insula_model::Timestamp;

    use super::*;
    use crate::endpoint::Ledger;
    use crate::limits::Limits;
    use crate::traffic::Traffic;
    use crate::way::{Ground, Surroundings};

    #[tokio::test]
    async fn a_table_is_in_force_when_the_last_thread_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let (one, mut first) = mpsc::unbounded_channel::<NewTable>();
        let (two, mut second) = mpsc::unbounded_channel::<NewTable>();
        let (gone, _) = mpsc::unbounded_channel::<NewTable>();
        let mut session = Session {
            uplink: Uplink::new(Dial::Unix(folder.path().join("edge.sock"))),
            gateway: GatewayId::from_parts(Timestamp::from_millis(0), [0; 10]),
            folder: Folder::open(folder.path()).unwrap(),
            threads: vec![one, two, gone],
            common: Arc::new(Common {
                limits: Arc::new(Limits::default()),
                trusted_proxies: Arc::new([]),
                ledger: Ledger::default(),
                traffic: Traffic::default(),
                surroundings: Arc::new(Surroundings::new(Ground::Alone)),
                credentials: tokio::sync::watch::channel(None).1,
                metrics: Metrics::new(),
            }),
            random: Arc::new(SeededRandom::new(1)),
            held: None,
        };
        let table = RouteTable { generation: Generation(4), routes: Vec::new(), relays: [].into() };
        let message = wire::RouteMessage {
            generation: 4,
            document: schema::encode(&table).unwrap(),
            trace: String::new(),
            servers: Vec::new(),
        };
        {
            let mut receiving = pin!(session.receive(&message));
            let mut in_force =
                async || poll_fn(|cx| Poll::Ready(receiving.as_mut().poll(cx))).await;
            assert!(in_force().await.is_pending());
            let kept = || folder.path().join("routes.json").exists();
            second.recv().await.unwrap().1.send(()).unwrap();
            assert!(in_force().await.is_pending() && !kept());
            first.recv().await.unwrap().1.send(()).unwrap();
            assert_eq!(in_force().await, Poll::Ready(Some(Generation(4))));
            assert!(kept(), "acknowledged is on disk");
        }
        let older = wire::RouteMessage { generation: 3, ..message };
        assert_eq!(session.receive(&older).await, None);
    }
}
