//! Looks at every node, whatever marked it or not, and says what the look at what was marked had
//! missed: nothing, or there is a mistake. Takes no input but the World.

use std::collections::BTreeSet;

use insula_model::NodeId;

use super::report::Reconciler;
use super::{Core, Now, Turn};

/// Nodes that one turn looks at although nothing marked them: the rest has its turn soon, and nobody
/// waits for it.
const SAFETY_NODES_PER_TURN: usize = 64;

/// A look at every node, some in each turn.
#[derive(Debug, Default)]
pub(super) struct Safety {
    left: BTreeSet<NodeId>,
    missed: usize,
}

impl Safety {
    pub(super) fn of(nodes: impl Iterator<Item = NodeId>) -> Self {
        Self { left: nodes.collect(), missed: 0 }
    }

    pub(super) fn is_done(&self) -> bool {
        self.left.is_empty()
    }
}

impl Core {
    /// Looks at some of those that nothing marked: a Target that is another all the same was missed.
    pub(super) fn pass_safety(&mut self, now: Now, turn: &mut Turn) {
        if self.safety.left.is_empty() {
            return;
        }
        let mut pass = self.pass();
        for _ in 0..SAFETY_NODES_PER_TURN {
            let Some(node) = self.safety.left.pop_first() else { break };
            if self.sessions.contains_key(&node) && self.world.nodes.contains_key(&node) {
                self.safety.missed += usize::from(self.send_if_changed(node, &mut pass, turn));
            }
        }
        if self.safety.left.is_empty() {
            pass.did("target found stale", self.safety.missed);
            self.note(Reconciler::Safety, pass, now);
        }
    }
}
