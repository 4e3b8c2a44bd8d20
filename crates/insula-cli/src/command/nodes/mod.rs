//! `insula nodes`: the machines, for the operator.

mod drain;
mod remove;
mod show;
mod site;
mod token;

use insula_model::names::excerpt;
use insula_wire::rest::node::Node;
use insula_wire::rest::why::Why;

use crate::client::Target;
use crate::context::Cx;
use crate::failure::{Failure, Outcome};
use crate::show::clean;

/// Below the help: how a machine gets in, and what a state means.
const AFTER_HELP: &str = "\
A machine joins in two steps: run `insula nodes token` here, and on that machine, as root, the line
that it prints. The server has to let others in: `insula up --fleet ADDR`, or `insula server --fleet ADDR`.

States: ready takes new instances; suspect missed a heartbeat, and gets nothing new for now; lost was
silent for three, and what it ran is started elsewhere; degraded says itself what it lacks (`insula
nodes why NAME`); cordoned, draining and drained are as you said.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

/// Names in a hint; more are a list of their own.
const HINT_NODES_MAX: usize = 10;

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List nodes (what `insula nodes` alone does)
    List,
    /// Show a node, its runtimes and what is reserved on it
    Show {
        /// By name or id
        node: String,
    },
    /// Make a token with which one node, or one gateway, joins; it works once
    Token(token::Args),
    /// Say in which pool and zone a node is, and what its labels are
    Site(site::Args),
    /// Let a node keep what it has and give it nothing new
    Cordon {
        /// By name or id
        node: String,
    },
    /// Let a node serve again, after a cordon or a drain
    Uncordon {
        /// By name or id
        node: String,
    },
    /// Move everything off a node, new instances first; says beforehand what will move
    Drain(drain::Args),
    /// Take a node out of the fleet for ever; what it runs is replaced elsewhere
    Remove(remove::Args),
    /// Explain why a node is as it is
    Why {
        /// By name or id
        node: String,
    },
}

pub async fn run(args: Args, cx: &Cx) -> Outcome {
    cx.require_sign_in()?;
    match args.verb.unwrap_or(Verb::List) {
        Verb::List => cx.terminal.list(&all(cx).await?, "no node has joined yet", show::table),
        Verb::Show { node } => {
            let found = find(cx, &node).await?;
            cx.terminal.answer(&found, |paint| show::one(&found, paint))
        }
        Verb::Token(args) => token::run(args, cx).await,
        Verb::Site(args) => site::run(args, cx).await,
        Verb::Cordon { node } => {
            let after = act(cx, &find(cx, &node).await?, "cordon").await?;
            told(cx, &after, "keeps what it has and gets nothing new")
        }
        Verb::Uncordon { node } => {
            let after = act(cx, &find(cx, &node).await?, "uncordon").await?;
            told(cx, &after, "serves again")
        }
        Verb::Drain(args) => drain::run(args, cx).await,
        Verb::Remove(args) => remove::run(args, cx).await,
        Verb::Why { node } => {
            let found = find(cx, &node).await?;
            let why: Why = cx.client().get(&target(&found, &["why"])).await?;
            cx.terminal.answer(&why, |_| {
                why.reasons.iter().map(|said| format!("{}\n", clean::line(said))).collect()
            })
        }
    }
}

fn told(cx: &Cx, node: &Node, what: &str) -> Outcome {
    cx.terminal.say(&format!("{} {what}", node.name));
    cx.terminal.answer(node, |_| String::new())
}

async fn all(cx: &Cx) -> Result<Vec<Node>, Failure> {
    Ok(cx.client().all(&Target::v1(&["nodes"])).await?)
}

async fn find(cx: &Cx, named: &str) -> Result<Node, Failure> {
    let is = |one: &Node| one.id.to_string() == named || one.name.as_str() == named;
    let mut all = all(cx).await?;
    match all.iter().position(is) {
        Some(at) => Ok(all.swap_remove(at)),
        None => Err(no_such(named, &all)),
    }
}

fn no_such(named: &str, all: &[Node]) -> Failure {
    let mut names: Vec<&str> =
        all.iter().take(HINT_NODES_MAX).map(|one| one.name.as_str()).collect();
    if all.len() > names.len() {
        names.push("…");
    }
    let hint = match names.as_slice() {
        [] => "none has joined yet: insula nodes token".to_owned(),
        names => format!("there are: {}", names.join(", ")),
    };
    Failure::not_found(format!("there is no node `{}`", excerpt(named))).hint(hint)
}

fn target(node: &Node, more: &[&str]) -> Target {
    let id = node.id.to_string();
    Target::v1(&[&["nodes", &id], more].concat())
}

async fn act(cx: &Cx, node: &Node, verb: &str) -> Result<Node, Failure> {
    Ok(cx.client().act(&target(node, &[verb])).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_there_is_told_who_is() {
        let node = show::tests::node();
        let hint = |all: &[Node]| no_such("nope", all).hint.unwrap();
        assert_eq!(hint(&[]), "none has joined yet: insula nodes token");
        assert_eq!(hint(std::slice::from_ref(&node)), format!("there are: {}", node.name));
        let many = vec![node; HINT_NODES_MAX + 1];
        assert!(hint(&many).ends_with(", …"));
    }
}
