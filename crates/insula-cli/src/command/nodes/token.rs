//! `insula nodes token`: how a machine gets in.

use insula_model::{LabelName, LabelValue, NodeName, PoolName, Timestamp, ZoneName};
use insula_wire::rest::join::{CreateJoin, JoinCreated, JoinRole};
use insula_wire::rest::node::Node;

use crate::client::Target;
use crate::context::Cx;
use crate::failure::Outcome;
use crate::when;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// What will join with it
    #[arg(long = "for", value_enum, default_value = "node", value_name = "ROLE")]
    role: For,
    /// What the node will be called, if no other is [default: what it calls itself]
    #[arg(long)]
    name: Option<NodeName>,
    /// The pool that it is set apart for [default: the common one]
    #[arg(long)]
    pool: Option<PoolName>,
    /// Where it is: what fails together, as a rack or a building does [default: none]
    #[arg(long)]
    zone: Option<ZoneName>,
    /// What it can be chosen by: `disk=ssd` (may be given again)
    #[arg(long = "label", value_parser = super::site::parse_label, value_name = "NAME=VALUE")]
    labels: Vec<(LabelName, LabelValue)>,
    /// When it ends: a span (30m) or a time [default: in an hour]
    #[arg(long, value_parser = when::parse_future, value_name = "WHEN")]
    expires: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum For {
    Node,
    Gateway,
}

/// A name is one node's; the other is told apart by the end of its id. No refusal: the node that has
/// it may be the one that joins again.
fn name_taken(name: &NodeName, nodes: &[Node]) -> Option<String> {
    let taken = nodes.iter().find(|node| node.name == *name)?;
    Some(format!(
        "a node is called {name} already, {}: unless it is that one that joins again, the new one gets \
         another name",
        taken.id
    ))
}

pub(super) async fn run(args: Args, cx: &Cx) -> Outcome {
    if let (Some(name), For::Node) = (&args.name, args.role)
        && let Some(words) = name_taken(name, &super::all(cx).await?)
    {
        cx.terminal.say(&words);
    }
    let body = CreateJoin {
        role: match args.role {
            For::Node => JoinRole::Node,
            For::Gateway => JoinRole::Gateway,
        },
        name: args.name,
        pool: args.pool,
        zone: args.zone,
        labels: args.labels.into_iter().collect(),
        expires: args.expires,
    };
    let made: JoinCreated = cx.client().post(&Target::v1(&["joins"]), &body).await?;
    let servers = match made.servers.as_slice() {
        [] => "HOST:PORT".to_owned(),
        some => some.join(","),
    };
    let role = match args.role {
        For::Node => "agent",
        For::Gateway => "gateway",
    };
    cx.terminal.say(&format!(
        "It works once, until {}. On the machine that joins:\n  insula {role} --server {servers} --token {}",
        made.join.expires,
        // It is on stdout too, for programs; here it is what to type.
        made.secret.0
    ));
    if made.servers.is_empty() {
        cx.terminal.say(
            "No server of yours listens to other machines yet: start it with `insula up --fleet ADDR`",
        );
    }
    cx.terminal.answer(&made, |_| format!("{}\n", made.secret.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_another_node_has_is_told_of() {
        let nodes = [super::super::show::tests::node()];
        let taken = &nodes[0].name;
        let said = name_taken(taken, &nodes).unwrap();
        assert!(said.contains(taken.as_str()) && said.contains(&nodes[0].id.to_string()), "{said}");
        assert_eq!(name_taken(&"another".parse().unwrap(), &nodes), None);
    }
}
