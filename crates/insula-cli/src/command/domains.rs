//! `insula domains`: host names of an app beside its own.

use insula_model::HostName;
use insula_wire::rest::domain::{AddDomain, Domain};

use super::done;
use crate::context::{Cx, Guess};
use crate::failure::{Failure, Outcome};
use crate::show::{Table, units};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List domains (what `insula domains` alone does)
    List,
    /// Give the app a host name
    Add {
        /// As in shop.example.com
        host: HostName,
    },
    /// Take a host name from the app; it stays reserved for the org
    Remove {
        /// As in shop.example.com
        host: HostName,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

pub async fn run(args: Args, cx: &Cx) -> Outcome {
    cx.require_sign_in()?;
    match args.verb.unwrap_or(Verb::List) {
        Verb::List => {
            let app = cx.app(Guess::Harmless).await?;
            let all: Vec<Domain> = cx.client().all(&cx.of_app(&app, &["domains"])).await?;
            cx.terminal.list(&all, "no domains; add one: insula domains add HOST", |all| {
                let now = units::now();
                let mut table = Table::new(&["HOST", "AGE", "ID"]);
                for one in all {
                    table.row([
                        one.host.to_string(),
                        units::age(one.created, now),
                        one.id.to_string(),
                    ]);
                }
                table
            })
        }
        Verb::Add { host } => {
            let app = cx.app(Guess::No).await?;
            let target = cx.of_app(&app, &["domains"]);
            let domain: Domain = cx.client().post(&target, &AddDomain { host }).await?;
            cx.terminal.say(&format!("point the name {} at the gateway's address", domain.host));
            cx.terminal.answer(&domain, |_| format!("{}\n", domain.host))
        }
        Verb::Remove { host, yes } => {
            let app = cx.app(Guess::No).await?;
            let all: Vec<Domain> = cx.client().all(&cx.of_app(&app, &["domains"])).await?;
            let found = all.into_iter().find(|one| one.host == host).ok_or_else(|| {
                Failure::not_found(format!("{} has no domain {host}", app.name))
                    .hint("insula domains")
            })?;
            let what = format!("{host} will lead to {} no more", app.name);
            cx.terminal.confirm(&what, yes)?;
            cx.client().delete(&cx.org(&["domains", &found.id.to_string()])).await?;
            done(cx, &format!("removed {host}"))
        }
    }
}
