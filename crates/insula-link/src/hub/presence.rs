//! When nodes were heard, and whether more than one machine speaks as a node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use insula_model::NodeId;

use super::Hub;
use crate::contest::{Contest, Takeovers};

/// When a node was heard last, by the clock that never steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    pub at: Instant,
    /// Whether it has a session.
    pub open: bool,
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

    pub(super) fn at(&self, began: Instant) -> Instant {
        began + Duration::from_millis(self.at_ms.load(Ordering::Relaxed))
    }
}

impl Hub {
    /// When each node was heard last since this hub began, or began to lead. Nodes without a
    /// session stay until they are forgotten.
    pub fn heard(&self) -> BTreeMap<NodeId, Heard> {
        let (state, began) = (self.state(), self.began());
        let heard = |(id, pulse): (&NodeId, &Arc<Pulse>)| {
            (*id, Heard { at: pulse.at(began), open: state.nodes.contains_key(id) })
        };
        state.pulses.iter().map(heard).collect()
    }

    /// The same of these nodes, without whether they have a session: what is asked several times a
    /// second in a fleet of ten thousand, of a few of them.
    pub fn heard_at(&self, nodes: impl IntoIterator<Item = NodeId>) -> Vec<(NodeId, Instant)> {
        let (state, began) = (self.state(), self.began());
        let at = |id| Some((id, state.pulses.get(&id)?.at(began)));
        nodes.into_iter().filter_map(at).collect()
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
}
