//! Sessions that begin and end: of each member the newest counts.

use std::sync::Arc;
use std::time::Instant;

use insula_model::fleet::Member;
use insula_model::{GatewayId, NodeId};
use insula_wire::facts::NodeFacts;
use insula_wire::node as wire;
use tokio::sync::{oneshot, watch};
use tonic::Status;

use super::{GatewaySession, Hub, NodeSession, Pulse, State, ToNode};
use crate::reach::Reach;

/// What the session of a node gets from the hub.
pub(crate) struct NodeEntry {
    pub(crate) number: u64,
    pub(crate) target: watch::Receiver<Option<Arc<wire::Target>>>,
    pub(crate) pulse: Arc<Pulse>,
    /// Resolves with the words to end with; dropped when a newer session takes over.
    pub(crate) ended: oneshot::Receiver<Status>,
}

impl State {
    fn drop_reach(&mut self, node: NodeId, number: u64) {
        if self.reach.get(&node).is_some_and(|(of, _)| *of == number) {
            self.reach.remove(&node);
        }
    }
}

impl Hub {
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

    /// Ends what a member has open, at once, and lets it in no more. For one that was removed.
    pub fn expel(&self, member: Member) {
        let words = Status::permission_denied(format!("{member} was removed from this fleet"));
        let mut state = self.state();
        state.expelled.insert(member);
        let end = match member {
            Member::Node(id) => {
                // Nobody asks after it any more; what is left of its session beats in vain.
                state.pulses.remove(&id);
                state.takeovers.remove(&id);
                state.nodes.get_mut(&id).and_then(|session| session.end.take())
            }
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
}

#[cfg(test)]
mod tests {
    use insula_model::node::{Architecture, Capacity, NodeMode, Offer};
    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn of_one_that_was_removed_nothing_is_remembered_but_that() {
        let (hub, _inbound) = Hub::new();
        let node = NodeId::from_u128(1);
        let offer = Offer {
            capacity: Capacity::default(),
            mode: NodeMode::Full,
            runtimes: vec![],
            architecture: Architecture::Unknown,
            isolation: [].into(),
        };
        let facts = NodeFacts { offer, relay: None, clock: None, site: None };
        let join = || hub.node_joined(node, facts.clone(), "here", mpsc::channel(1).0);
        let mut first = join().unwrap();
        // A second machine of that name.
        let _second = join().unwrap();
        assert!(first.ended.try_recv().is_err(), "it hears nothing but the end");
        hub.expel(Member::Node(node));
        assert!(hub.heard().is_empty() && hub.state().takeovers.is_empty());
        let refused = join().map(|_| ()).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
        assert!(hub.heard().is_empty(), "who knocks in vain is not remembered either");
    }
}
