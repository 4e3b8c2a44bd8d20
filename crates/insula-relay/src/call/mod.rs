//! Calls the relays of other nodes: a pool of connections to each, and a pulse that tells a dead or
//! frozen node from a quiet one before anybody asks for it.

mod line;
mod pulse;
pub(crate) mod socket;
mod stream;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use insula_kit::metrics::{Counter, Metrics};
use insula_kit::tls::{Connector, Credentials};
use insula_model::{InstanceId, NodeId};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::message::Refused;
use line::Line;
pub use stream::RelayStream;

/// After this a connection is not used for another stream: what a certificate allowed when it began
/// is examined again.
pub(crate) const CONNECTION_LIFE_MAX: Duration = Duration::from_secs(3_600);
/// Dials under way at once, to all nodes; those to one are bounded in `line`.
const DIALS_MAX: usize = 64;

#[derive(Debug, Clone)]
pub struct CallerSettings {
    /// Between two pings; one that is not answered within another is a dead node.
    pub heartbeat: Duration,
}

impl Default for CallerSettings {
    fn default() -> Self {
        Self { heartbeat: Duration::from_millis(insula_model::limits::HEARTBEAT.0) }
    }
}

/// What the pulse says of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It was not heard yet, and has not had the time to be.
    Unknown,
    Alive,
    /// It cannot be dialled, or does not answer. It is tried again and again.
    Dead,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{instance} does not run on {node}")]
    Gone { instance: InstanceId, node: NodeId },
    #[error("{node} does not let us reach {instance}")]
    Denied { instance: InstanceId, node: NodeId },
    #[error("{node} could not reach {instance}: {}", why.as_str())]
    Refused { instance: InstanceId, node: NodeId, why: Refused },
    /// Nothing was asked, or nothing was answered.
    #[error("reach the relay of {node}")]
    Unreachable {
        node: NodeId,
        #[source]
        source: Unreachable,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    #[error("dial {relay}")]
    Dial {
        relay: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("make a secure connection to {relay}")]
    Tls {
        relay: SocketAddr,
        #[source]
        source: insula_kit::tls::TlsError,
    },
    #[error("ask {relay}")]
    Ask {
        relay: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("{relay} said something that was not asked")]
    Nonsense { relay: SocketAddr },
    #[error("{relay} took too long")]
    Slow { relay: SocketAddr },
    #[error("{relay} does not answer pings")]
    Dead { relay: SocketAddr },
}

/// Handles on a caller's counters.
#[derive(Debug, Clone)]
pub struct CallCounts {
    /// Openings on a connection that was there.
    pub reused: Counter,
    /// Handshakes, the pulse's included.
    pub dialled: Counter,
    pub dials_failed: Counter,
    pub deaths: Counter,
}

impl CallCounts {
    pub fn new(metrics: &Metrics) -> Self {
        let connections = |how| {
            let help = "Connections to relays of other nodes, by how they were come by.";
            metrics.counter("insula_relay_connections_total", help, &[("how", how)])
        };
        let help = "Times that a node's relay stopped answering.";
        Self {
            reused: connections("reused"),
            dialled: connections("dialled"),
            dials_failed: connections("failed"),
            deaths: metrics.counter("insula_relay_deaths_total", help, &[]),
        }
    }
}

/// Clones share the connections.
#[derive(Debug, Clone)]
pub struct Caller {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    common: Arc<Common>,
    lines: Mutex<HashMap<NodeId, Arc<Line>>>,
}

/// What the lines to all nodes share.
#[derive(Debug)]
struct Common {
    connector: Connector,
    settings: CallerSettings,
    counts: CallCounts,
    dials: Semaphore,
    changes: watch::Sender<u64>,
}

impl Caller {
    /// Dials nobody yet. To be used inside of a runtime.
    pub fn new(
        credentials: &Arc<Credentials>,
        settings: CallerSettings,
        counts: CallCounts,
    ) -> Self {
        let connector = Connector::new(credentials, crate::ALPN);
        let dials = Semaphore::new(DIALS_MAX);
        let changes = watch::Sender::new(0);
        let common = Arc::new(Common { connector, settings, counts, dials, changes });
        Self { inner: Arc::new(Inner { common, lines: Mutex::default() }) }
    }

    /// The nodes that may be called, and where: the pulse of each is felt from now on, and whoever
    /// is not named is let go. Streams that are open go on.
    pub fn set_relays(&self, relays: &BTreeMap<NodeId, SocketAddr>) {
        let mut lines = self.lock();
        lines.retain(|node, line| {
            let stays = relays.get(node) == Some(&line.relay);
            if !stays {
                line.let_go();
            }
            stays
        });
        for (node, relay) in relays {
            self.line_in(&mut lines, *node, *relay);
        }
    }

    /// Begins to feel the node's pulse if nobody did.
    pub fn health(&self, node: NodeId, relay: SocketAddr) -> watch::Receiver<Health> {
        self.line(node, relay).health.subscribe()
    }

    /// When the node was last heard no more, whether or not it is back since: an agent that begins
    /// again may be back before it counts as dead.
    pub fn lost(&self, node: NodeId, relay: SocketAddr) -> Option<Instant> {
        let lines = self.lock();
        lines.get(&node).filter(|line| line.relay == relay)?.lost()
    }

    /// Moves whenever the health of some node does, or it is lost for a moment.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.common.changes.subscribe()
    }

    /// A stream to the instance, if it runs on that node and we may. Fails at once when the node is
    /// known to be dead.
    pub async fn open(
        &self,
        node: NodeId,
        relay: SocketAddr,
        instance: InstanceId,
    ) -> Result<RelayStream, OpenError> {
        let line = self.line(node, relay);
        line.open(instance).await
    }

    fn line(&self, node: NodeId, relay: SocketAddr) -> Arc<Line> {
        self.line_in(&mut self.lock(), node, relay)
    }

    fn line_in(
        &self,
        lines: &mut HashMap<NodeId, Arc<Line>>,
        node: NodeId,
        relay: SocketAddr,
    ) -> Arc<Line> {
        if let Some(line) = lines.get(&node).filter(|line| line.relay == relay) {
            return Arc::clone(line);
        }
        let line = Line::new(node, relay, Arc::clone(&self.inner.common));
        tokio::spawn(pulse::feel(Arc::clone(&line)));
        if let Some(before) = lines.insert(node, Arc::clone(&line)) {
            before.let_go();
        }
        line
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Arc<Line>>> {
        self.inner.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let lines = self.lines.get_mut().unwrap_or_else(PoisonError::into_inner);
        lines.values().for_each(|line| line.let_go());
    }
}
