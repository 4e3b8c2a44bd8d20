//! How nodes are shown.

use insula_wire::rest::node::Node;

use crate::show::paint::Paint;
use crate::show::{Table, clean, pairs, units};

fn of(used: String, all: String) -> String {
    format!("{used} of {all}")
}

/// `north/gpu`: the zone and the pool, where there are any.
fn site(node: &Node) -> String {
    let names = [node.zone.as_ref().map(|z| z.as_str()), node.pool.as_ref().map(|p| p.as_str())];
    let named: Vec<&str> = names.into_iter().flatten().collect();
    if named.is_empty() { "-".into() } else { named.join("/") }
}

pub(super) fn table(nodes: &[Node]) -> Table {
    let mut table =
        Table::new(&["NODE", "STATE", "SITE", "INSTANCES", "MEMORY", "CPU", "VERSION", "NOTES"]);
    for node in nodes {
        let (used, all) = (node.reserved, node.capacity);
        table.row_with_state(
            1,
            [
                node.name.to_string(),
                node.state.clone(),
                site(node),
                of(used.instances.to_string(), all.instances.to_string()),
                of(units::size(used.memory_bytes), units::size(all.memory_bytes)),
                of(units::cores(used.cpu_millis), units::cores(all.cpu_millis)),
                node.agent_version.clone(),
                if node.notes.is_empty() { "-".into() } else { node.notes.join("; ") },
            ],
        );
    }
    table
}

pub(super) fn one(node: &Node, paint: Paint) -> String {
    let (used, all) = (node.reserved, node.capacity);
    let labels: Vec<String> = node.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let mut lines = vec![
        ("node", node.name.to_string()),
        ("id", node.id.to_string()),
        ("state", paint.state(&clean::line(&node.state))),
    ];
    lines.extend(node.notes.iter().map(|note| ("", clean::line(note).into_owned())));
    lines.extend(node.pool.as_ref().map(|pool| ("pool", pool.to_string())));
    lines.extend(node.zone.as_ref().map(|zone| ("zone", zone.to_string())));
    if !labels.is_empty() {
        lines.push(("labels", labels.join(", ")));
    }
    let machine = format!("{} ({})", clean::line(&node.architecture), clean::line(&node.mode));
    lines.extend([
        ("machine", machine),
        ("isolation", clean::line(&node.isolation.join(", ")).into_owned()),
        ("instances", of(used.instances.to_string(), all.instances.to_string())),
        ("memory", of(units::size(used.memory_bytes), units::size(all.memory_bytes))),
        ("cpu", of(units::cores(used.cpu_millis), units::cores(all.cpu_millis))),
        ("relay", node.relay.map_or_else(|| "-".into(), |at| at.to_string())),
        ("version", clean::line(&node.agent_version).into_owned()),
        ("joined", node.joined.to_string()),
        ("connected", node.hello.to_string()),
    ]);
    for one in &node.runtimes {
        let text = format!("{} {} ({})", one.runtime, one.version, one.path);
        lines.push(("runtime", clean::line(&text).into_owned()));
    }
    pairs(&lines, paint)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn node() -> Node {
        let at = insula_model::Timestamp::from_millis(1);
        let node = serde_json::json!({
            "id": insula_model::NodeId::from_parts(at, [1; 10]), "name": "one", "state": "ready",
            "notes": [], "connected": true, "zone": "north", "labels": {}, "mode": "full",
            "architecture": "x86_64", "isolation": ["standard"], "runtimes": [],
            "capacity": { "cpu_millis": 2_000, "memory_bytes": 1 << 30, "instances": 9 },
            "reserved": { "cpu_millis": 500, "memory_bytes": 1 << 20, "instances": 1 },
            "agent_version": "0.1.0", "joined": at, "hello": at,
        });
        serde_json::from_value(node).unwrap()
    }

    #[test]
    fn what_a_node_says_of_itself_drives_no_terminal() {
        let notes = vec!["full\u{1b}[2J".to_owned()];
        let hostile = Node { notes, mode: "\u{1b}]0;x\u{7}".into(), ..node() };
        let shown = one(&hostile, Paint::PLAIN) + &table(&[hostile]).render(Paint::PLAIN, None);
        assert!(shown.contains("north") && !shown.contains('\u{1b}'), "{shown:?}");
    }
}
