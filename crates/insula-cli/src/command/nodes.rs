//! `insula nodes`: the machines, for the operator.

use insula_wire::rest::node::Node;

use crate::client::Target;
use crate::context::Cx;
use crate::failure::{Failure, Outcome};
use crate::show::paint::Paint;
use crate::show::{Table, clean, pairs, units};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List nodes (what `insula nodes` alone does)
    List,
    /// Show a node, its runtimes and what is reserved on it
    Show {
        /// By name or id
        node: String,
    },
}

pub async fn run(args: Args, cx: &Cx) -> Outcome {
    cx.require_sign_in()?;
    let all: Vec<Node> = cx.client().all(&Target::v1(&["nodes"])).await?;
    match args.verb.unwrap_or(Verb::List) {
        Verb::List => cx.terminal.list(&all, "no node has joined yet", table),
        Verb::Show { node } => {
            let is = |one: &Node| one.id.to_string() == node || one.name.as_str() == node;
            let found = all.into_iter().find(is).ok_or_else(|| {
                Failure::not_found(format!("there is no node `{node}`")).hint("insula nodes")
            })?;
            cx.terminal.answer(&found, |paint| show(&found, paint))
        }
    }
}

fn state(node: &Node) -> &'static str {
    if node.connected { "connected" } else { "lost" }
}

fn of(used: String, all: String) -> String {
    format!("{used} of {all}")
}

fn table(nodes: &[Node]) -> Table {
    let mut table = Table::new(&["NODE", "STATE", "MODE", "INSTANCES", "MEMORY", "CPU", "VERSION"]);
    for node in nodes {
        let (used, all) = (node.reserved, node.capacity);
        table.row_with_state(
            1,
            [
                node.name.to_string(),
                state(node).into(),
                node.mode.clone(),
                of(used.instances.to_string(), all.instances.to_string()),
                of(units::size(used.memory_bytes), units::size(all.memory_bytes)),
                of(units::cores(used.cpu_millis), units::cores(all.cpu_millis)),
                node.agent_version.clone(),
            ],
        );
    }
    table
}

fn show(node: &Node, paint: Paint) -> String {
    let (used, all) = (node.reserved, node.capacity);
    let mut lines = vec![
        ("node", node.name.to_string()),
        ("id", node.id.to_string()),
        ("state", paint.state(state(node))),
        ("mode", clean::line(&node.mode).into_owned()),
        ("instances", of(used.instances.to_string(), all.instances.to_string())),
        ("memory", of(units::size(used.memory_bytes), units::size(all.memory_bytes))),
        ("cpu", of(units::cores(used.cpu_millis), units::cores(all.cpu_millis))),
        ("version", clean::line(&node.agent_version).into_owned()),
        ("joined", node.joined.to_string()),
        ("connected", node.hello.to_string()),
    ];
    for one in &node.runtimes {
        let text = format!("{} {} ({})", one.runtime, one.version, one.path);
        lines.push(("runtime", clean::line(&text).into_owned()));
    }
    pairs(&lines, paint)
}
