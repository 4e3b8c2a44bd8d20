//! Who is connected, and the way to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use insula_model::observed::NodeReport;
use insula_model::routes::RouteTable;
use insula_model::schema;
use insula_model::target::NodeTarget;
use insula_model::{
    AppId, BuildId, ComponentName, GatewayId, Generation, InstanceId, NodeId, NodeName,
};
use insula_wire::facts::NodeFacts;
use insula_wire::node as wire;
use tokio::sync::{mpsc, watch};

use crate::logs::LogStreams;

/// Messages to the control plane that wait. A full queue slows the sessions down, nothing else.
const INBOUND_WAITING_MAX: usize = 1_024;
/// Components whose traffic is counted: more than an installation has. Gateways parse strangers'
/// bytes, so what they name is not believed without end.
const TRAFFIC_COMPONENTS_MAX: usize = 8_192;

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

/// What an instance used, as its node saw it last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InstanceUsage {
    pub memory_bytes: u64,
    pub cpu_usec: u64,
    pub pids: u32,
    pub log_dropped_bytes: u64,
}

#[derive(Debug, Clone)]
pub struct Hub {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    inbound: mpsc::Sender<Inbound>,
    state: Mutex<State>,
    routes: watch::Sender<Option<Arc<wire::RouteMessage>>>,
    pub(crate) logs: LogStreams,
}

#[derive(Debug, Default)]
struct State {
    nodes: BTreeMap<NodeId, NodeSession>,
    gateways: BTreeMap<GatewayId, u64>,
    usage: BTreeMap<InstanceId, InstanceUsage>,
    traffic: BTreeMap<(AppId, ComponentName), Traffic>,
    /// Counts sessions, so that the end of an old one does not end its successor.
    sessions: u64,
}

#[derive(Debug)]
struct NodeSession {
    number: u64,
    facts: NodeFacts,
    /// The newest Target only: one that was not sent yet is replaced by the next.
    target: watch::Sender<Option<Arc<wire::Target>>>,
    messages: mpsc::Sender<wire::ServerMessage>,
}

/// Requests that gateways have counted for a component since the server began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    pub requests: u64,
    pub errors_5xx: u64,
    pub bytes_out: u64,
}

impl Hub {
    pub fn new() -> (Self, mpsc::Receiver<Inbound>) {
        let (inbound, receiver) = mpsc::channel(INBOUND_WAITING_MAX);
        let shared = Shared {
            inbound,
            state: Mutex::default(),
            routes: watch::Sender::new(None),
            logs: LogStreams::default(),
        };
        (Self { shared: Arc::new(shared) }, receiver)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock; if it did, the maps are still maps.
        self.shared.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn logs_streams(&self) -> &LogStreams {
        &self.shared.logs
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

    pub fn usage(&self) -> BTreeMap<InstanceId, InstanceUsage> {
        self.state().usage.clone()
    }

    pub fn traffic(&self) -> BTreeMap<(AppId, ComponentName), Traffic> {
        self.state().traffic.clone()
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
        if let Some(session) = self.state().nodes.get(&target.node) {
            session.target.send_replace(Some(message));
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
        self.shared.routes.send_replace(Some(Arc::new(wire::RouteMessage {
            generation,
            document,
            trace,
            servers: Vec::new(),
        })));
        Ok(())
    }

    pub(crate) fn routes(&self) -> watch::Receiver<Option<Arc<wire::RouteMessage>>> {
        self.shared.routes.subscribe()
    }

    pub(crate) fn node_joined(
        &self,
        node: NodeId,
        facts: NodeFacts,
        messages: mpsc::Sender<wire::ServerMessage>,
    ) -> (u64, watch::Receiver<Option<Arc<wire::Target>>>) {
        let target = watch::Sender::new(None);
        let receiver = target.subscribe();
        let mut state = self.state();
        state.sessions += 1;
        let number = state.sessions;
        state.nodes.insert(node, NodeSession { number, facts, target, messages });
        (number, receiver)
    }

    /// Whether this session was still the node's.
    pub(crate) fn node_left(&self, node: NodeId, number: u64) -> bool {
        let mut state = self.state();
        let ours = state.nodes.get(&node).is_some_and(|s| s.number == number);
        if ours {
            state.nodes.remove(&node);
        }
        ours
    }

    pub(crate) fn gateway_joined(&self, gateway: GatewayId) -> u64 {
        let mut state = self.state();
        state.sessions += 1;
        let number = state.sessions;
        state.gateways.insert(gateway, number);
        number
    }

    pub(crate) fn gateway_left(&self, gateway: GatewayId, number: u64) -> bool {
        let mut state = self.state();
        let ours = state.gateways.get(&gateway) == Some(&number);
        if ours {
            state.gateways.remove(&gateway);
        }
        ours
    }

    pub(crate) fn note_usage(&self, report: &wire::UsageReport) {
        for seen in &report.instances {
            let Ok(id) = seen.instance.parse() else { continue };
            let usage = InstanceUsage {
                memory_bytes: seen.memory_bytes,
                cpu_usec: seen.cpu_usec,
                pids: seen.pids,
                log_dropped_bytes: seen.log_dropped_bytes,
            };
            self.set_usage(id, usage);
        }
    }

    pub fn set_usage(&self, id: InstanceId, usage: InstanceUsage) {
        self.state().usage.insert(id, usage);
    }

    /// Forgets the usage of instances that are no more.
    pub fn retain_usage(&self, keep: impl Fn(&InstanceId) -> bool) {
        self.state().usage.retain(|id, _| keep(id));
    }

    pub(crate) fn note_traffic(&self, report: &wire::TrafficReport) {
        for seen in &report.apps {
            let (Ok(app), Ok(component)) = (seen.app.parse(), seen.component.parse()) else {
                continue;
            };
            let more = Traffic {
                requests: seen.requests,
                errors_5xx: seen.errors_5xx,
                bytes_out: seen.bytes_out,
            };
            self.add_traffic(app, component, more);
        }
    }

    /// Counts on. What is new is left out while as many are counted as may be.
    pub fn add_traffic(&self, app: AppId, component: ComponentName, more: Traffic) {
        let mut state = self.state();
        let (full, key) = (state.traffic.len() >= TRAFFIC_COMPONENTS_MAX, (app, component));
        if full && !state.traffic.contains_key(&key) {
            return;
        }
        let sum = state.traffic.entry(key).or_default();
        // A gateway may say any number.
        sum.requests = sum.requests.saturating_add(more.requests);
        sum.errors_5xx = sum.errors_5xx.saturating_add(more.errors_5xx);
        sum.bytes_out = sum.bytes_out.saturating_add(more.bytes_out);
    }

    /// Forgets the traffic of what is no more, or never was.
    pub fn retain_traffic(&self, keep: impl Fn(&AppId, &ComponentName) -> bool) {
        self.state().traffic.retain(|(app, component), _| keep(app, component));
    }

    pub(crate) fn ways(&self) -> Vec<(NodeId, mpsc::Sender<wire::ServerMessage>)> {
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

#[cfg(test)]
mod tests {
    use insula_model::Timestamp;

    use super::*;

    fn report(apps: &[(&str, &str, u64)]) -> wire::TrafficReport {
        let apps = apps.iter().map(|(app, component, requests)| wire::AppTraffic {
            app: (*app).to_owned(),
            component: (*component).to_owned(),
            requests: *requests,
            errors_5xx: 1,
            bytes_out: u64::MAX,
        });
        wire::TrafficReport { apps: apps.collect() }
    }

    fn app(n: u32) -> AppId {
        let mut random = [0; 10];
        random[6..].copy_from_slice(&n.to_be_bytes());
        AppId::from_parts(Timestamp::from_millis(1), random)
    }

    #[test]
    fn a_gateway_may_say_anything_and_only_names_and_sums_remain() {
        let (hub, _inbound) = Hub::new();
        let id = app(1).to_string();
        let odd = [(&*id, "web", 2), ("../etc", "web", 1), (&*id, "a\"b\n", 1), ("", "", 1)];
        hub.note_traffic(&report(&odd));
        hub.note_traffic(&report(&[(&id, "web", 3)]));
        let sum = Traffic { requests: 5, errors_5xx: 2, bytes_out: u64::MAX };
        assert_eq!(hub.traffic(), [((app(1), "web".parse().unwrap()), sum)].into());
    }

    #[test]
    fn made_up_apps_end_at_a_limit_and_leave_room_once_they_are_let_go() {
        let (hub, _inbound) = Hub::new();
        let web: ComponentName = "web".parse().unwrap();
        let one = Traffic { requests: 1, ..Traffic::default() };
        let max = TRAFFIC_COMPONENTS_MAX as u32;
        (0..max + 10).for_each(|n| hub.add_traffic(app(n), web.clone(), one));
        assert_eq!(hub.traffic().len(), TRAFFIC_COMPONENTS_MAX);
        hub.add_traffic(app(0), web.clone(), one);
        assert_eq!(hub.traffic()[&(app(0), web.clone())].requests, 2, "what is known counts on");
        hub.retain_traffic(|id, _| *id == app(0));
        hub.add_traffic(app(max), web.clone(), one);
        assert_eq!(hub.traffic().len(), 2);
    }
}
