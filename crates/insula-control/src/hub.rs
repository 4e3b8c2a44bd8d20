//! What the hub knows of its sessions, in the words of the core.

use std::collections::BTreeMap;

use insula_link::Hub;
use insula_model::NodeId;
use insula_model::fleet::Member;
use insula_plan::Measured;

pub(crate) fn measured(hub: &Hub) -> impl Iterator<Item = (NodeId, Measured)> {
    let usage = hub.node_usage().into_iter();
    usage.map(|(node, used)| (node, Measured { cpu: used.cpu, memory: used.memory }))
}

/// Nodes as which more than one machine speaks, and where these call from.
pub(crate) fn contested(hub: &Hub) -> BTreeMap<NodeId, String> {
    let contests = hub.contested().into_iter();
    let from = |(node, contest): (NodeId, insula_link::Contest)| {
        (node, contest.from.into_iter().collect::<Vec<_>>().join(", "))
    };
    contests.map(from).collect()
}

/// For one that was removed: it is let in no more.
pub(crate) fn expel(hub: &Hub, member: Member) {
    hub.expel(member);
    match member {
        Member::Node(node) => hub.forget_node(node),
        Member::Gateway(_) | Member::Server(_) => {}
    }
}
