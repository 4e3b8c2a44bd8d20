//! `insula runtimes`: what apps can be written in here.

use insula_wire::rest::node::Runtime;

use crate::client::Target;
use crate::context::Cx;
use crate::failure::Outcome;
use crate::show::Table;

#[derive(Debug, clap::Args)]
pub struct Args {}

pub async fn run(_args: Args, cx: &Cx) -> Outcome {
    cx.require_sign_in()?;
    let all: Vec<Runtime> = cx.client().whole(&Target::v1(&["runtimes"])).await?;
    cx.terminal.list(
        &all,
        "no node has a runtime; the operator installs them: insula doctor",
        |all| {
            let mut table = Table::new(&["RUNTIME", "VERSION", "PATH"]);
            for one in all {
                table.row([one.runtime.clone(), one.version.clone(), one.path.clone()]);
            }
            table
        },
    )
}
