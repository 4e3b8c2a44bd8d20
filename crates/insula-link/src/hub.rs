//! Who is connected, and the way to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use insula_kit::clock::{Clock, SystemClock};
use insula_model::fleet::Member;
use insula_model::observed::NodeReport;
use insula_model::routes::RouteTable;
use insula_model::schema;
use insula_model::target::NodeTarget;
use insula_model::{BuildId, GatewayId, Generation, InstanceId, NodeId, NodeName};
use insula_wire::facts::NodeFacts;
use insula_wire::node as wire;
use tokio::sync::{mpsc, oneshot, watch};
use tonic::Status;

use crate::contest::{Contest, Takeovers};
use crate::forward::Leader;
use crate::logs::LogStreams;
use crate::reach::Reach;
use crate::usage::{NodeUsage, Usage};

/// Messages to the control plane that wait. A full queue slows the sessions down, nothing else.
const INBOUND_WAITING_MAX: usize = 1_024;
pub(crate) const OTHER_LEADS: &str = "another server of the fleet leads now";

/// What sessions tell the control plane.
#[derive(Debug)]
pub enum Inbound {
    NodeHello { node: NodeId, name: NodeName, version: String, facts: NodeFacts },
    NodeReport { node: NodeId, report: NodeReport },
    NodeGone { node: NodeId },
    GatewayHello { gateway: GatewayId },
    RouteAck { gateway: GatewayId, generation: Generation, busy: BTreeSet<InstanceId> },
    GatewayGone { gateway: GatewayId },
}

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

/// When a node was heard last, by the clock that never steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    pub at: Instant,
    /// Whether it has a session.
    pub open: bool,
}

#[derive(Debug, Clone)]
pub struct Hub {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    inbound: mpsc::Sender<Inbound>,
    state: Mutex<State>,
    routes: watch::Sender<Option<Arc<wire::RouteMessage>>>,
    servers: watch::Sender<Arc<Vec<String>>>,
    leadership: watch::Sender<Leadership>,
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

/// What the session of a node gets from the hub.
pub(crate) struct NodeEntry {
    pub(crate) number: u64,
    pub(crate) target: watch::Receiver<Option<Arc<wire::Target>>>,
    pub(crate) pulse: Arc<Pulse>,
    /// Resolves with the words to end with; dropped when a newer session takes over.
    pub(crate) ended: oneshot::Receiver<Status>,
}

/// Who reconciles: this server, or one that it passes its sessions on to.
#[derive(Debug, Clone)]
pub(crate) enum Leadership {
    Ours,
    /// Nobody is known while the lease passes from one to another.
    Theirs(Option<Leader>),
}

/// Written at each message without a lock and without waking anybody.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    /// Since the hub began.
    at_ms: AtomicU64,
}

impl Pulse {
    pub(crate) fn beat(&self, began: Instant) {
        self.at_ms.store(began.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn at(&self, began: Instant) -> Instant {
        began + Duration::from_millis(self.at_ms.load(Ordering::Relaxed))
    }
}

impl State {
    fn drop_reach(&mut self, node: NodeId, number: u64) {
        if self.reach.get(&node).is_some_and(|(of, _)| *of == number) {
            self.reach.remove(&node);
        }
    }
}

impl Hub {
    pub fn new() -> (Self, mpsc::Receiver<Inbound>) {
        Self::with_clock(Arc::new(SystemClock))
    }

    /// A hub whose acknowledgements and refusals tell another time.
    pub fn with_clock(clock: Arc<dyn Clock>) -> (Self, mpsc::Receiver<Inbound>) {
        let (inbound, receiver) = mpsc::channel(INBOUND_WAITING_MAX);
        let shared = Shared {
            inbound,
            state: Mutex::default(),
            routes: watch::Sender::new(None),
            servers: watch::Sender::default(),
            leadership: watch::Sender::new(Leadership::Ours),
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

    /// When each node was heard last since this hub began, or began to lead. Nodes without a
    /// session stay until they are forgotten.
    pub fn heard(&self) -> BTreeMap<NodeId, Heard> {
        let (state, began) = (self.state(), self.began());
        let heard = |(id, pulse): (&NodeId, &Arc<Pulse>)| {
            (*id, Heard { at: pulse.at(began), open: state.nodes.contains_key(id) })
        };
        state.pulses.iter().map(heard).collect()
    }

    /// Of a node that is no more.
    pub fn forget_node(&self, node: NodeId) {
        let mut state = self.state();
        if !state.nodes.contains_key(&node) {
            state.pulses.remove(&node);
            state.takeovers.remove(&node);
        }
    }

    /// Nodes as which more than one machine speaks.
    pub fn contested(&self) -> BTreeMap<NodeId, Contest> {
        let now = Instant::now();
        let contest = |(id, t): (&NodeId, &Takeovers)| Some((*id, t.contest(now)?));
        self.state().takeovers.iter().filter_map(contest).collect()
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

    /// Ends what a member has open, at once, and lets it in no more. For one that was removed.
    pub fn expel(&self, member: Member) {
        let words = Status::permission_denied(format!("{member} was removed from this fleet"));
        let mut state = self.state();
        state.expelled.insert(member);
        let end = match member {
            Member::Node(id) => state.nodes.get_mut(&id).and_then(|session| session.end.take()),
            Member::Gateway(id) => state.gateways.get_mut(&id).and_then(|s| s.end.take()),
            Member::Server(_) => None,
        };
        if let Some(end) = end {
            // A session that has ended meanwhile needs no word.
            let _ = end.send(words);
        }
    }

    pub(crate) fn is_expelled(&self, member: Member) -> bool {
        self.state().expelled.contains(&member)
    }

    /// Where agents and gateways may go when this server is gone: now and when they connect.
    pub fn set_servers(&self, addresses: Vec<String>) {
        if **self.shared.servers.borrow() == addresses {
            return;
        }
        self.shared.servers.send_replace(Arc::new(addresses.clone()));
        self.shared.routes.send_if_modified(|table| {
            let Some(held) = table else { return false };
            *table = Some(Arc::new(wire::RouteMessage { servers: addresses, ..(**held).clone() }));
            true
        });
    }

    pub(crate) fn servers(&self) -> watch::Receiver<Arc<Vec<String>>> {
        self.shared.servers.subscribe()
    }

    /// From now on this server decides; until it is told otherwise, a hub does.
    pub fn lead(&self) {
        let leads = |now: &mut Leadership| match now {
            Leadership::Ours => false,
            Leadership::Theirs(_) => {
                *now = Leadership::Ours;
                true
            }
        };
        if self.shared.leadership.send_if_modified(leads) {
            self.begin_anew();
        }
    }

    /// From now on another server decides, and sessions are passed on to it.
    pub fn follow(&self, leader: Option<Leader>) {
        let follows = |now: &mut Leadership| match now {
            Leadership::Theirs(known) if *known == leader => false,
            Leadership::Theirs(_) | Leadership::Ours => {
                *now = Leadership::Theirs(leader);
                true
            }
        };
        if self.shared.leadership.send_if_modified(follows) {
            self.begin_anew();
        }
    }

    pub(crate) fn leadership(&self) -> watch::Receiver<Leadership> {
        self.shared.leadership.subscribe()
    }

    /// The server that decides now, if it is another one and is known.
    pub fn leader(&self) -> Option<Leader> {
        match &*self.shared.leadership.borrow() {
            Leadership::Ours => None,
            Leadership::Theirs(leader) => leader.clone(),
        }
    }

    /// Asked under the lock: whoever stops leading takes it afterwards and ends what is there.
    fn still_leads(&self) -> Result<(), Status> {
        match &*self.shared.leadership.borrow() {
            Leadership::Ours => Ok(()),
            Leadership::Theirs(_) => Err(Status::unavailable(OTHER_LEADS)),
        }
    }

    fn begin_anew(&self) {
        self.end_sessions(OTHER_LEADS);
        self.shared.routes.send_replace(None);
        let mut state = self.state();
        state.pulses.clear();
        state.takeovers.clear();
    }

    /// Ends every session with these words, for the other side to dial again.
    pub fn end_sessions(&self, words: &str) {
        let mut state = self.state();
        let nodes = std::mem::take(&mut state.nodes).into_values().map(|session| session.end);
        let gateways = std::mem::take(&mut state.gateways).into_values().map(|s| s.end);
        for end in nodes.chain(gateways).flatten() {
            let _ = end.send(Status::unavailable(words));
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

    /// What a node that is connected here has to do with, once it is known.
    pub(crate) fn reach(&self, node: NodeId) -> Option<Arc<Reach>> {
        self.state().reach.get(&node).map(|(_, reach)| reach.clone())
    }

    /// The number of a session that is passed on.
    pub(crate) fn number(&self) -> u64 {
        let mut state = self.state();
        state.sessions += 1;
        state.sessions
    }

    /// Of a node whose Target passes by on its way from the leader.
    pub(crate) fn set_reach(&self, node: NodeId, number: u64, reach: Reach) {
        self.state().reach.insert(node, (number, Arc::new(reach)));
    }

    pub(crate) fn drop_reach(&self, node: NodeId, number: u64) {
        self.state().drop_reach(node, number);
    }

    /// Gives every gateway the table, now and when it connects.
    pub fn publish_routes(
        &self,
        table: &RouteTable,
        trace: String,
    ) -> Result<(), schema::DocumentError> {
        let document = schema::encode(table)?;
        let generation = table.generation.0;
        let servers = self.shared.servers.borrow().to_vec();
        let message = wire::RouteMessage { generation, document, trace, servers };
        self.shared.routes.send_replace(Some(Arc::new(message)));
        Ok(())
    }

    pub(crate) fn routes(&self) -> watch::Receiver<Option<Arc<wire::RouteMessage>>> {
        self.shared.routes.subscribe()
    }

    /// Makes this session the node's, unless another machine speaks as the same node.
    pub(crate) fn node_joined(
        &self,
        node: NodeId,
        facts: NodeFacts,
        from: &str,
        messages: ToNode,
    ) -> Result<NodeEntry, Status> {
        let (began, now) = (self.began(), Instant::now());
        let target = watch::Sender::new(None);
        let receiver = target.subscribe();
        let (end, ended) = oneshot::channel();
        let mut guard = self.state();
        let state = &mut *guard;
        self.still_leads()?;
        if state.expelled.contains(&Member::Node(node)) {
            return Err(Status::permission_denied(format!("{node} was removed from this fleet")));
        }
        if let (Some(present), Some(pulse)) = (state.nodes.get(&node), state.pulses.get(&node)) {
            let silent = now.saturating_duration_since(pulse.at(began));
            let takeovers = state.takeovers.entry(node).or_default();
            if !takeovers.may_take(now, silent, [&present.from, from]) {
                return Err(Status::already_exists(format!(
                    "another machine is connected as {node}, from {}: was its disk cloned? Remove \
                     the identity of one of them and let it join with a token of its own",
                    present.from
                )));
            }
        }
        state.sessions += 1;
        let number = state.sessions;
        let pulse = state.pulses.entry(node).or_default().clone();
        pulse.beat(began);
        let from = from.to_owned();
        let end = Some(end);
        let session = NodeSession { number, facts, from, usage: None, target, messages, end };
        state.nodes.insert(node, session);
        Ok(NodeEntry { number, target: receiver, pulse, ended })
    }

    /// Whether this session was still the node's.
    pub(crate) fn node_left(&self, node: NodeId, number: u64) -> bool {
        let mut state = self.state();
        let ours = state.nodes.get(&node).is_some_and(|s| s.number == number);
        if ours {
            state.nodes.remove(&node);
        }
        state.drop_reach(node, number);
        ours
    }

    /// A newer session of a gateway ends the old one.
    pub(crate) fn gateway_joined(
        &self,
        gateway: GatewayId,
    ) -> Result<(u64, oneshot::Receiver<Status>), Status> {
        let (end, ended) = oneshot::channel();
        let mut state = self.state();
        self.still_leads()?;
        if state.expelled.contains(&Member::Gateway(gateway)) {
            let words = format!("{gateway} was removed from this fleet");
            return Err(Status::permission_denied(words));
        }
        state.sessions += 1;
        let number = state.sessions;
        state.gateways.insert(gateway, GatewaySession { number, end: Some(end) });
        Ok((number, ended))
    }

    pub(crate) fn gateway_left(&self, gateway: GatewayId, number: u64) -> bool {
        let mut state = self.state();
        let ours = state.gateways.get(&gateway).is_some_and(|s| s.number == number);
        if ours {
            state.gateways.remove(&gateway);
        }
        ours
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
