//! `insula gateways`: edges that joined from elsewhere, for the operator.

use insula_wire::rest::Page;
use insula_wire::rest::join::Gateway;

use super::done;
use crate::client::Target;
use crate::context::Cx;
use crate::failure::{Failure, Outcome};
use crate::show::{Table, units};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List gateways that joined (what `insula gateways` alone does)
    List,
    /// Take a gateway out of the fleet for ever
    Remove {
        /// By id
        gateway: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

pub async fn run(args: Args, cx: &Cx) -> Outcome {
    cx.require_sign_in()?;
    // Always whole: there are few.
    let page: Page<Gateway> = cx.client().get(&Target::v1(&["gateways"])).await?;
    let all = page.items;
    match args.verb.unwrap_or(Verb::List) {
        Verb::List => {
            let none = "no gateway has joined; the one that `insula up` runs needs no token";
            cx.terminal.list(&all, none, table)
        }
        Verb::Remove { gateway, yes } => {
            let found = all.iter().find(|one| one.id.to_string() == gateway).ok_or_else(|| {
                Failure::not_found(format!("there is no gateway `{gateway}`"))
                    .hint("insula gateways")
            })?;
            let what = format!("this removes {} for ever: its certificate is refused", found.id);
            cx.terminal.confirm(&what, yes)?;
            cx.client().delete(&Target::v1(&["gateways", &gateway])).await?;
            done(cx, &format!("removed {gateway}"))
        }
    }
}

fn table(all: &[Gateway]) -> Table {
    let now = units::now();
    let mut table = Table::new(&["GATEWAY", "STATE", "JOINED", "VERSION"]);
    for one in all {
        let state = if one.connected { "connected" } else { "gone" };
        let joined = units::age(one.joined, now);
        table.row_with_state(1, [one.id.to_string(), state.into(), joined, one.version.clone()]);
    }
    table
}
