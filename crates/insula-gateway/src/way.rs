//! How an instance is reached: at its address on this machine, or through the relay of its node.
//!
//! An address means something on one node only: every node gives out the same ones. So an instance
//! of another node is asked for by its identity, and the far relay says whether it still is there.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use insula_kit::metrics::Metrics;
use insula_kit::tls::Credentials;
use insula_model::routes::{Endpoint, RouteTable};
use insula_model::{InstanceId, NodeId};
use insula_relay::{CallCounts, Caller, CallerSettings, Health};
use tokio::sync::watch;

/// Where an instance is, as this gateway can get to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Way {
    /// On this machine.
    Here(SocketAddr),
    /// On a node that has a relay.
    There { node: NodeId, relay: SocketAddr, instance: InstanceId },
    /// On a node that nobody can reach from elsewhere.
    Nowhere(NodeId),
}

/// On which machine a gateway stands.
#[derive(Debug, Clone)]
pub enum Ground {
    /// There is one machine only, and every instance is on it.
    Alone,
    /// Beside the node whose id stands in this file, once an agent has written it.
    Beside(PathBuf),
    /// On a machine without instances.
    Apart,
}

/// Between looks for the node beside us. Visitors may be waiting, and it is one open of a file.
const NEXT_LOOK: Duration = Duration::from_millis(50);
/// Ids are shorter than a line.
const NODE_ID_BYTES_MAX: u64 = 64;

/// What all threads know of the ground: the node beside us, looked for until it is there.
#[derive(Debug)]
pub(crate) struct Surroundings {
    ground: Ground,
    own: Mutex<Option<NodeId>>,
}

impl Surroundings {
    pub(crate) fn new(ground: Ground) -> Self {
        Self { ground, own: Mutex::default() }
    }

    fn own(&self) -> Option<NodeId> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if own.is_none()
            && let Ground::Beside(path) = &self.ground
        {
            *own = read_node(path);
        }
        *own
    }

    /// Whether it is known which node is beside us, if any.
    pub(crate) fn is_settled(&self) -> bool {
        !matches!(self.ground, Ground::Beside(_)) || self.own().is_some()
    }

    /// Ready once that is so. An agent writes the file when it begins, which may be after us: on
    /// the first start of a machine, and on the first one after an upgrade.
    pub(crate) async fn settled(&self) {
        while !self.is_settled() {
            tokio::time::sleep(NEXT_LOOK).await;
        }
    }

    /// The ways of a table, for one look at the ground.
    pub(crate) fn compass<'t>(&self, table: &'t RouteTable) -> Compass<'t> {
        let alone = matches!(self.ground, Ground::Alone);
        Compass { alone, own: self.own(), relays: &table.relays }
    }
}

/// Nothing if it is not there, or not yet whole.
fn read_node(path: &PathBuf) -> Option<NodeId> {
    use std::io::Read;
    let mut text = String::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(NODE_ID_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[derive(Debug)]
pub(crate) struct Compass<'t> {
    alone: bool,
    own: Option<NodeId>,
    relays: &'t BTreeMap<NodeId, SocketAddr>,
}

impl Compass<'_> {
    pub(crate) fn way(&self, endpoint: &Endpoint) -> Way {
        let node = endpoint.node;
        if self.alone || self.own == Some(node) {
            return Way::Here(endpoint.address);
        }
        match self.relays.get(&node) {
            Some(relay) => Way::There { node, relay: *relay, instance: endpoint.instance },
            None => Way::Nowhere(node),
        }
    }

    /// The relays that this gateway has a use for: its own node needs none.
    pub(crate) fn relays(&self) -> BTreeMap<NodeId, SocketAddr> {
        let needed = self.relays.iter().filter(|(node, _)| !self.alone && self.own != Some(**node));
        needed.map(|(node, relay)| (*node, *relay)).collect()
    }
}

/// One thread's way to other nodes: nothing until the gateway has a certificate.
#[derive(Debug)]
pub(crate) struct Far {
    credentials: watch::Receiver<Option<Arc<Credentials>>>,
    caller: std::cell::RefCell<Option<Caller>>,
    relays: std::cell::RefCell<BTreeMap<NodeId, SocketAddr>>,
    metrics: Metrics,
}

impl Far {
    pub(crate) fn new(
        credentials: watch::Receiver<Option<Arc<Credentials>>>,
        metrics: Metrics,
    ) -> Rc<Self> {
        Rc::new(Self {
            credentials,
            caller: std::cell::RefCell::default(),
            relays: std::cell::RefCell::default(),
            metrics,
        })
    }

    /// Needs a runtime around it: the first call begins to feel the pulse of the nodes.
    pub(crate) fn caller(&self) -> Option<Caller> {
        if let Some(caller) = &*self.caller.borrow() {
            return Some(caller.clone());
        }
        let credentials = self.credentials.borrow().clone()?;
        let counts = CallCounts::new(&self.metrics);
        let caller = Caller::new(&credentials, CallerSettings::default(), counts);
        caller.set_relays(&self.relays.borrow());
        self.caller.replace(Some(caller.clone()));
        Some(caller)
    }

    pub(crate) fn adopt(&self, relays: BTreeMap<NodeId, SocketAddr>) {
        self.relays.replace(relays);
        if let Some(caller) = self.caller() {
            caller.set_relays(&self.relays.borrow());
        }
    }

    /// Whether `health` has an answer.
    pub(crate) fn feels(&self, way: &Way) -> bool {
        matches!(way, Way::There { .. }) && self.caller().is_some()
    }

    /// How the node at the end of a way fares; nothing to watch for what is here.
    pub(crate) fn health(&self, way: &Way) -> Option<watch::Receiver<Health>> {
        match way {
            Way::There { node, relay, .. } => Some(self.caller()?.health(*node, *relay)),
            Way::Here(_) | Way::Nowhere(_) => None,
        }
    }

    /// When the node at the end of a way was last heard no more, whether or not it is back since.
    pub(crate) fn lost(&self, way: &Way) -> Option<Instant> {
        match way {
            Way::There { node, relay, .. } => Some(self.caller()?.lost(*node, *relay)?.into_std()),
            Way::Here(_) | Way::Nowhere(_) => None,
        }
    }

    /// Moves whenever some node is lost or returns; nothing while no node can be reached.
    pub(crate) fn changes(&self) -> Option<watch::Receiver<u64>> {
        Some(self.caller()?.changes())
    }
}

/// Every way that a table has.
pub(crate) fn all<'k>(keys: impl Iterator<Item = &'k (InstanceId, Way)>) -> HashSet<Way> {
    keys.map(|(_, way)| *way).collect()
}

#[cfg(test)]
mod tests {
    use insula_model::{Generation, Timestamp};

    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId::from_parts(Timestamp::from_millis(1), [n; 10])
    }

    fn endpoint(on: NodeId) -> Endpoint {
        let instance = InstanceId::from_parts(Timestamp::from_millis(1), [9; 10]);
        Endpoint { instance, node: on, address: ([10, 87, 0, 2], 8080).into() }
    }

    #[test]
    fn an_address_is_used_on_its_own_node_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("node");
        let relay: SocketAddr = ([192, 0, 2, 1], 7444).into();
        let relays = BTreeMap::from([(node(1), relay), (node(2), relay)]);
        let table = RouteTable { generation: Generation(1), routes: vec![], relays };
        let there = |on: NodeId| Way::There { node: on, relay, instance: endpoint(on).instance };
        let here = Way::Here(endpoint(node(1)).address);

        let apart = Surroundings::new(Ground::Apart);
        assert_eq!(apart.compass(&table).way(&endpoint(node(1))), there(node(1)));
        assert_eq!(apart.compass(&table).way(&endpoint(node(3))), Way::Nowhere(node(3)));

        let beside = Surroundings::new(Ground::Beside(file.clone()));
        assert_eq!(beside.compass(&table).way(&endpoint(node(1))), there(node(1)), "not yet");
        assert!(!beside.is_settled());
        std::fs::write(&file, format!("{}\n", node(1))).unwrap();
        assert!(beside.is_settled());
        let compass = beside.compass(&table);
        assert_eq!(compass.way(&endpoint(node(1))), here);
        assert_eq!(compass.way(&endpoint(node(2))), there(node(2)));
        assert_eq!(compass.relays().keys().copied().collect::<Vec<_>>(), [node(2)]);

        let alone = Surroundings::new(Ground::Alone);
        assert_eq!(alone.compass(&table).way(&endpoint(node(3))), here);
        assert!(alone.compass(&table).relays().is_empty());
        assert!(alone.is_settled() && apart.is_settled());
    }

    #[tokio::test]
    async fn the_node_beside_is_found_when_its_agent_has_begun() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("node");
        let beside = Surroundings::new(Ground::Beside(file.clone()));
        let mut settled = std::pin::pin!(beside.settled());
        let early = std::future::poll_fn(|cx| std::task::Poll::Ready(settled.as_mut().poll(cx)));
        assert!(early.await.is_pending());
        std::fs::write(&file, format!("{}\n", node(1))).unwrap();
        settled.await;
        assert_eq!(beside.own(), Some(node(1)));
    }
}
