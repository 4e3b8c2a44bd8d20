//! What the hub knows of its sessions, in the words of the core.

use std::time::Instant;

use insula_link::Hub;
use insula_model::NodeId;
use insula_model::fleet::Member;
use insula_plan::Measured;

/// When each node with a session was heard last.
pub(crate) fn heard(hub: &Hub) -> Vec<(NodeId, Instant)> {
    let now = Instant::now();
    hub.nodes_connected().into_iter().map(|node| (node, now)).collect()
}

pub(crate) fn measured(_hub: &Hub) -> Vec<(NodeId, Measured)> {
    Vec::new()
}

pub(crate) fn expel(_hub: &Hub, _member: Member) {}

pub(crate) fn set_servers(_hub: &Hub, _addresses: Vec<String>) {}
