//! `insula nodes remove`: what it means, then taking a node out for ever.

use insula_wire::rest::node::Node;

use super::{find, target};
use crate::command::done;
use crate::context::Cx;
use crate::failure::Outcome;
use crate::show::units;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// By name or id
    node: String,
    /// Also while it is well and runs what must never run twice, and then would: for a machine
    /// that is stolen or speaks in another's name
    #[arg(long)]
    force: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

pub(super) async fn run(args: Args, cx: &Cx) -> Outcome {
    let found = find(cx, &args.node).await?;
    cx.terminal.confirm(&question(&found, args.force), args.yes)?;
    let target = target(&found, &[]).with_some("force", args.force.then_some(true));
    cx.client().delete(&target).await?;
    let name = &found.name;
    done(cx, &format!("removed {name}; `insula down` on it ends what it still runs"))
}

fn question(node: &Node, force: bool) -> String {
    let what = match node.reserved.instances {
        0 => "nothing runs on it".to_owned(),
        n => {
            let n = units::count(n as usize, "instance is", "instances are");
            format!("its {n} replaced on other nodes")
        }
    };
    let twice = match (node.reserved.instances, node.connected || force) {
        (0, _) => "",
        (_, true) => ", while it goes on with them until `insula down` there",
        (_, false) => ", also what must never run twice: be sure that the machine is off",
    };
    format!(
        "this removes {} for ever: its certificate is refused from now on, and {what}{twice}",
        node.name
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::nodes::show::tests::node;

    #[test]
    fn the_question_says_what_goes_on_there_and_what_may_run_twice() {
        let mut node = node();
        node.reserved.instances = 2;
        node.connected = true;
        let asked = question(&node, false);
        assert!(asked.contains("2 instances are replaced on other nodes, while it goes on"));
        node.connected = false;
        let asked = question(&node, false);
        assert!(asked.ends_with("never run twice: be sure that the machine is off"), "{asked}");
        node.reserved.instances = 0;
        assert!(question(&node, false).ends_with("and nothing runs on it"));
    }
}
