//! Sends nodes what they should hold: to those whom a change concerns, if it is another than they
//! were sent. Takes no input but the World.

use std::collections::BTreeSet;

use insula_kit::digest::sha256;
use insula_model::target::NodeTarget;
use insula_model::{Generation, InstanceId, NodeId, schema};
use tracing::error;

use super::ingest::Asked;
use super::report::{Pass, Reconciler};
use super::{Core, Now, Send, Turn};

/// What a node was sent last in its session: not all of it, only what is compared.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sent {
    generation: Generation,
    digest: [u8; 32],
    /// Everything that was placed on the node then, whether the Target names it or not.
    covers: BTreeSet<InstanceId>,
}

impl Sent {
    pub(super) fn asked(&self) -> Asked<'_> {
        Asked { generation: self.generation, covers: &self.covers }
    }
}

impl Core {
    pub(super) fn pass_targets(&mut self, now: Now, turn: &mut Turn) {
        self.pass_marked(now, turn);
        self.pass_safety(now, turn);
        self.concern.secrets.clear();
    }

    fn pass_marked(&mut self, now: Now, turn: &mut Turn) {
        let marked = self.marked();
        let every = std::mem::take(&mut self.concern.every_node);
        if !every && marked.is_empty() {
            return;
        }
        let nodes: Vec<NodeId> = match every {
            true => self.sessions.keys().copied().collect(),
            false => marked.into_iter().filter(|n| self.sessions.contains_key(n)).collect(),
        };
        let mut pass = self.pass();
        for node in nodes {
            // Its greeting is not stored yet; the row will mark it again.
            if self.world.nodes.contains_key(&node) {
                let sent = self.send_if_changed(node, &mut pass, turn);
                pass.did("target sent", usize::from(sent));
            }
        }
        self.note(Reconciler::Targets, pass, now);
    }

    pub(super) fn send_if_changed(
        &mut self,
        node: NodeId,
        pass: &mut Pass,
        turn: &mut Turn,
    ) -> bool {
        match self.look_at_target(node) {
            Ok(Some(target)) => {
                turn.targets.push(Send { target });
                true
            }
            Ok(None) => false,
            Err(problem) => {
                error!(%node, %problem, "a node's target cannot be written");
                pass.error = Some(format!("the target of {node} cannot be written: {problem}"));
                false
            }
        }
    }

    /// The nodes that changes since the last pass concern.
    fn marked(&mut self) -> BTreeSet<NodeId> {
        let mut nodes = std::mem::take(&mut self.concern.nodes);
        let environments = std::mem::take(&mut self.concern.environments);
        // Without relays nobody has neighbours.
        if !environments.is_empty() && self.world.nodes.values().any(|node| node.relay.is_some()) {
            for environment in environments {
                nodes.extend(self.environments.nodes(&self.world, environment));
            }
        }
        nodes
    }

    /// The node's Target, if it is another than it was sent.
    fn look_at_target(
        &mut self,
        node: NodeId,
    ) -> Result<Option<NodeTarget>, schema::DocumentError> {
        let mut target = insula_plan::target::node(&self.world, node);
        let covers = self.world.instances.of_node(node).map(|instance| instance.id).collect();
        // The generation moves with each commit, whomever that concerns.
        let generation = std::mem::take(&mut target.generation);
        let digest = sha256(schema::encode(&target)?.as_bytes());
        target.generation = generation;
        let Some(session) = self.sessions.get_mut(&node) else { return Ok(None) };
        let mut orgs = target.instances.iter().map(|i| i.place.org);
        let mut built = target.builds.iter().map(|b| b.place.org);
        let stale = orgs.any(|org| self.concern.secrets.contains(&org))
            || built.any(|org| self.concern.secrets.contains(&org));
        if let Some(sent) = session.sent.as_mut().filter(|sent| sent.digest == digest && !stale) {
            sent.covers = covers;
            return Ok(None);
        }
        session.sent = Some(Sent { generation, digest, covers });
        Ok(Some(target))
    }
}
