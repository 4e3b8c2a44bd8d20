//! `insula nodes drain`: what would move, then moving it.

use std::time::{Duration, Instant};

use insula_wire::rest::node::{DrainPreview, Ending, Moving, Node};

use super::{act, find, target};
use crate::context::Cx;
use crate::failure::{Exit, Failure, Outcome};
use crate::show::{clean, units};

/// Between looks at a drain that is under way.
const LOOK: Duration = Duration::from_millis(500);
/// How long what has no place elsewhere may keep its node alone before somebody who waits is told:
/// a node that was restarted is back by then.
const STUCK_TIME_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// By name or id
    node: String,
    /// Say what would move, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not wait until it is empty
    #[arg(long)]
    detach: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

pub(super) async fn run(args: Args, cx: &Cx) -> Outcome {
    let found = find(cx, &args.node).await?;
    let preview: DrainPreview = cx.client().get(&target(&found, &["drain"])).await?;
    if args.dry_run {
        return cx.terminal.answer(&preview, |_| told(&preview));
    }
    cx.terminal.say(told(&preview).trim_end());
    cx.terminal.confirm(&format!("this drains {}", found.name), args.yes)?;
    let after = act(cx, &found, "drain").await?;
    if args.detach {
        cx.terminal.say(&format!("{} is draining", after.name));
        return cx.terminal.answer(&after, |_| String::new());
    }
    tokio::select! {
        drained = until_empty(cx, &after) => {
            let drained = drained?;
            cx.terminal.end_progress();
            cx.terminal.say(&format!("{} is drained: it may be stopped or removed", drained.name));
            cx.terminal.answer(&drained, |_| String::new())
        }
        _ = tokio::signal::ctrl_c() => {
            cx.terminal.end_progress();
            cx.terminal.say("it goes on draining; `insula nodes uncordon` takes it back");
            Ok(Exit::FAILED)
        }
    }
}

async fn until_empty(cx: &Cx, node: &Node) -> Result<Node, Failure> {
    let (mut left, mut stuck_since) = (None, None);
    loop {
        let now: Node = cx.client().get(&target(node, &[])).await?;
        match now.state.as_str() {
            "drained" => return Ok(now),
            "draining" | "lost" => {}
            other => {
                let text = format!("{} is {other} now: somebody took it back", now.name);
                return Err(Failure::failed(text));
            }
        }
        if left != Some(now.reserved.instances) {
            left = Some(now.reserved.instances);
            let n = units::count(now.reserved.instances as usize, "instance", "instances");
            cx.terminal.progress(&format!("{n} left on {}", now.name));
        }
        let preview: DrainPreview = cx.client().get(&target(node, &["drain"])).await?;
        if only_stays(&preview) {
            let since = *stuck_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= STUCK_TIME_MAX {
                cx.terminal.end_progress();
                cx.terminal.say(told(&preview).trim_end());
                return Err(stuck(&now, preview.stays.len()));
            }
        } else {
            stuck_since = None;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Nothing moves and nothing ends, and something is there.
fn only_stays(preview: &DrainPreview) -> bool {
    let DrainPreview { moves, singles, stays, goes_on } = preview;
    moves.is_empty() && singles.is_empty() && goes_on.is_empty() && !stays.is_empty()
}

fn stuck(node: &Node, left: usize) -> Failure {
    let name = &node.name;
    let left = units::count(left, "instance stays", "instances stay");
    Failure::failed(format!("{name} is not drained: {left}")).hint(format!(
        "it goes on draining, and moves them once there is a place; `insula nodes uncordon {name}` takes it back"
    ))
}

/// What will move, what stops first, what ends by itself, and what cannot move.
fn told(preview: &DrainPreview) -> String {
    let movings = |of: &[Moving]| -> Vec<String> {
        let line = |one: &Moving| {
            let why = one.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            format!("{} ({}){why}", one.what, one.instance)
        };
        of.iter().map(line).collect()
    };
    let ending = |one: &Ending| format!("{} ({}): {}", one.what, one.subject, one.how);
    let lists = [
        ("These are started elsewhere first, then stopped here:", movings(&preview.moves)),
        ("These stop here before they are there again elsewhere:", movings(&preview.singles)),
        ("These stay until there is a place for them:", movings(&preview.stays)),
        (
            "These are not moved, and the node is drained when they have ended:",
            preview.goes_on.iter().map(ending).collect(),
        ),
    ];
    let mut text = String::new();
    for (title, lines) in lists.iter().filter(|(_, lines)| !lines.is_empty()) {
        text.push_str(&format!("{title}\n"));
        for line in lines {
            text.push_str(&format!("{}\n", clean::line(&format!("  {line}"))));
        }
    }
    if text.is_empty() {
        text.push_str("Nothing runs there.\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn moving(n: u8, what: &str, why: Option<&str>) -> Moving {
        let at = insula_model::Timestamp::from_millis(1);
        let instance = insula_model::InstanceId::from_parts(at, [n; 10]);
        Moving { instance, what: what.into(), why: why.map(str::to_owned) }
    }

    #[test]
    fn what_will_move_and_what_cannot_is_said_beforehand() {
        let preview = DrainPreview {
            moves: vec![moving(1, "acme/shop web", None)],
            singles: vec![moving(2, "acme/shop clock", Some("it is single"))],
            stays: vec![moving(3, "acme/big web", Some("no node has 8GiB free: b 2GiB"))],
            goes_on: vec![Ending {
                subject: "bld_1".into(),
                what: "acme/shop".into(),
                how: "a build goes on to its end".into(),
            }],
        };
        expect![[r#"
            These are started elsewhere first, then stopped here:
              acme/shop web (ins_0000000001e40r2081040g2081)
            These stop here before they are there again elsewhere:
              acme/shop clock (ins_0000000001e81840g2081040g2): it is single
            These stay until there is a place for them:
              acme/big web (ins_0000000001ec1r60r30c1g60r3): no node has 8GiB free: b 2GiB
            These are not moved, and the node is drained when they have ended:
              acme/shop (bld_1): a build goes on to its end
        "#]]
        .assert_eq(&told(&preview));
        assert_eq!(told(&DrainPreview::default()), "Nothing runs there.\n");
        assert!(!only_stays(&preview) && !only_stays(&DrainPreview::default()));
        let stays = DrainPreview { stays: preview.stays, ..DrainPreview::default() };
        assert!(only_stays(&stays), "whoever waits is told");
    }
}
