//! `insula why`: why something is as it is.

use std::fmt::Write as _;

use insula_wire::rest::why::Why;

use crate::client::Target;
use crate::context::{Cx, Guess};
use crate::failure::Outcome;
use crate::show::clean;
use crate::show::paint::Paint;

/// Ids of what can be explained. A name has no underscore.
const ID_PREFIXES: [&str; 4] = ["app_", "dep_", "ins_", "run_"];

/// Of no org: the operator's.
const NODE_ID_PREFIX: &str = "node_";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The id of an app, a deployment, an instance, a run or a node, or an app's name [default: the
    /// app]
    thing: Option<String>,
}

pub async fn run(args: Args, cx: &Cx) -> Outcome {
    cx.require_sign_in()?;
    if let Some(node) = args.thing.as_deref().filter(|thing| thing.starts_with(NODE_ID_PREFIX)) {
        let why: Why = cx.client().get(&Target::v1(&["nodes", node, "why"])).await?;
        return cx.terminal.answer(&why, |paint| render(&why, paint));
    }
    let subject = match args.thing {
        Some(thing) if ID_PREFIXES.iter().any(|prefix| thing.starts_with(prefix)) => thing,
        Some(name) => cx.app_named(&name).await?.id.to_string(),
        None => cx.app(Guess::Harmless).await?.id.to_string(),
    };
    let why: Why = cx.client().get(&cx.org(&["why"]).with("subject", subject)).await?;
    cx.terminal.answer(&why, |paint| render(&why, paint))
}

fn render(why: &Why, paint: Paint) -> String {
    let mut text = format!("{}\n", paint.bold(&clean::line(&why.summary)));
    for reason in &why.reasons {
        let _ = writeln!(text, "  {}", clean::line(reason));
    }
    if let Some(hint) = &why.hint {
        let _ = writeln!(text, "{} {}", paint.green("hint:"), clean::line(hint));
    }
    text
}
