//! Who is connected, and the way to them.

mod leading;
mod presence;
mod sessions;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use insula_kit::clock::{Clock, SystemClock};
use insula_model::fleet::Member;
use insula_model::routes::RouteTable;
use insula_model::schema;
use insula_model::target::NodeTarget;
use insula_model::{BuildId, GatewayId, InstanceId, NodeId};
use insula_wire::facts::NodeFacts;
use insula_wire::node as wire;
use tokio::sync::{mpsc, oneshot, watch};
use tonic::Status;

use crate::contest::Takeovers;
use crate::gather::Said;
use crate::inbox::{Inbound, Inbox, Newest, Telling};
use crate::logs::LogStreams;
use crate::reach::Reach;
use crate::usage::{NodeUsage, Usage};

use leading::Sure;
pub(crate) use leading::{Leadership, OTHER_LEADS};
pub use presence::Heard;
pub(crate) use presence::Pulse;
pub(crate) use sessions::NodeEntry;

/// Messages to the control plane that wait. A full queue slows the sessions down, nothing else.
const INBOUND_WAITING_MAX: usize = 1_024;

/// Values of secrets by the instance or build that names them. Never printed.
#[derive(Clone, Default)]
pub struct Secrets {
    pub of: BTreeMap<String, BTreeMap<String, String>>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets of {} subjects", self.of.len())
    }
}

#[derive(Debug, Clone)]
pub struct Hub {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    inbound: Telling,
    state: Mutex<State>,
    routes: watch::Sender<Option<Arc<wire::RouteMessage>>>,
    servers: watch::Sender<Arc<Vec<String>>>,
    leadership: watch::Sender<Leadership>,
    sure: Sure,
    said: Said,
    began: Instant,
    clock: Arc<dyn Clock>,
    pub(crate) usage: Usage,
    pub(crate) logs: LogStreams,
}

#[derive(Debug, Default)]
struct State {
    nodes: BTreeMap<NodeId, NodeSession>,
    gateways: BTreeMap<GatewayId, GatewaySession>,
    pulses: BTreeMap<NodeId, Arc<Pulse>>,
    /// With the number of the session that it came through.
    reach: BTreeMap<NodeId, (u64, Arc<Reach>)>,
    takeovers: BTreeMap<NodeId, Takeovers>,
    /// Removed from the fleet while this server ran. The registry knows of all.
    expelled: BTreeSet<Member>,
    /// Counts sessions, so that the end of an old one does not end its successor.
    sessions: u64,
}

#[derive(Debug)]
struct NodeSession {
    number: u64,
    facts: NodeFacts,
    from: String,
    usage: Option<NodeUsage>,
    /// The newest Target only: one that was not sent yet is replaced by the next.
    target: watch::Sender<Option<Arc<wire::Target>>>,
    messages: ToNode,
    end: Option<oneshot::Sender<Status>>,
}

#[derive(Debug)]
struct GatewaySession {
    number: u64,
    end: Option<oneshot::Sender<Status>>,
}

/// Boxed: a channel keeps places for 32 at once, and most of a large fleet's sessions are silent.
pub(crate) type ToNode = mpsc::Sender<Box<Result<wire::ServerMessage, Status>>>;

impl Hub {
    pub fn new() -> (Self, Inbox) {
        Self::with_clock(Arc::new(SystemClock))
    }

    /// A hub whose acknowledgements and refusals tell another time.
    pub fn with_clock(clock: Arc<dyn Clock>) -> (Self, Inbox) {
        let (inbound, receiver) = Inbox::channel(INBOUND_WAITING_MAX);
        let shared = Shared {
            inbound,
            state: Mutex::default(),
            routes: watch::Sender::new(None),
            servers: watch::Sender::default(),
            leadership: watch::Sender::new(Leadership::Ours),
            sure: Sure::default(),
            said: Said::default(),
            began: Instant::now(),
            clock,
            usage: Usage::default(),
            logs: LogStreams::default(),
        };
        (Self { shared: Arc::new(shared) }, receiver)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock; if it did, the maps are still maps.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn logs_streams(&self) -> &LogStreams {
        &self.shared.logs
    }

    pub(crate) fn said(&self) -> &Said {
        &self.shared.said
    }

    pub(crate) fn began(&self) -> Instant {
        self.shared.began
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.shared.clock.now_ms()
    }

    pub(crate) async fn tell(&self, message: Inbound) {
        // The receiver lives as long as the server; when it ends, so do the sessions.
        let _ = self.shared.inbound.send(message).await;
    }

    /// The same of what makes earlier messages of its kind idle.
    pub(crate) async fn tell_newest(&self, newest: &Arc<Newest>, message: Inbound) {
        let _ = self.shared.inbound.send_newest(newest, message).await;
    }

    pub fn nodes_connected(&self) -> BTreeSet<NodeId> {
        self.state().nodes.keys().copied().collect()
    }

    pub fn gateways_connected(&self) -> BTreeSet<GatewayId> {
        self.state().gateways.keys().copied().collect()
    }

    /// What the connected nodes said of themselves.
    pub fn facts(&self) -> BTreeMap<NodeId, NodeFacts> {
        self.state().nodes.iter().map(|(id, s)| (*id, s.facts.clone())).collect()
    }

    /// What the hosts of connected nodes have to do, as they said last.
    pub fn node_usage(&self) -> BTreeMap<NodeId, NodeUsage> {
        self.state().nodes.iter().filter_map(|(id, s)| Some((*id, s.usage?))).collect()
    }

    pub(crate) fn set_node_usage(&self, node: NodeId, usage: NodeUsage) {
        if let Some(session) = self.state().nodes.get_mut(&node) {
            session.usage = Some(usage);
        }
    }

    /// Sends a node its Target, if it is connected; a later one replaces it on the way.
    pub fn send_target(
        &self,
        target: &NodeTarget,
        secrets: &Secrets,
    ) -> Result<(), schema::DocumentError> {
        let document = schema::encode(target)?;
        let message = Arc::new(wire::Target {
            generation: target.generation.0,
            document,
            secrets: secrets
                .of
                .iter()
                .map(|(subject, values)| wire::SecretBundle {
                    subject: subject.clone(),
                    values: values.clone().into_iter().collect(),
                })
                .collect(),
        });
        let reach = Arc::new(Reach::of(target));
        let mut state = self.state();
        if let Some(session) = state.nodes.get(&target.node) {
            session.target.send_replace(Some(message));
            let number = session.number;
            state.reach.insert(target.node, (number, reach));
        }
        Ok(())
    }

    /// Gives every gateway the table, now and when it connects.
    pub fn publish_routes(
        &self,
        table: &RouteTable,
        trace: String,
    ) -> Result<(), schema::DocumentError> {
        let document = schema::encode(table)?;
        let generation = table.generation.0;
        self.shared.routes.send_modify(|routes| {
            // Under the lock: whoever changes the servers changes the table after them.
            let servers = self.shared.servers.borrow().to_vec();
            *routes = Some(Arc::new(wire::RouteMessage { generation, document, trace, servers }));
        });
        Ok(())
    }

    pub(crate) fn routes(&self) -> watch::Receiver<Option<Arc<wire::RouteMessage>>> {
        self.shared.routes.subscribe()
    }

    pub(crate) fn way(&self, node: NodeId) -> Option<ToNode> {
        self.state().nodes.get(&node).map(|session| session.messages.clone())
    }

    pub(crate) fn ways(&self) -> Vec<(NodeId, ToNode)> {
        self.state().nodes.iter().map(|(id, s)| (*id, s.messages.clone())).collect()
    }
}

/// The subject of a bundle of secrets.
impl Secrets {
    pub fn for_instance(&mut self, id: InstanceId, values: BTreeMap<String, String>) {
        self.of.insert(id.to_string(), values);
    }

    pub fn for_build(&mut self, id: BuildId, values: BTreeMap<String, String>) {
        self.of.insert(id.to_string(), values);
    }
}
