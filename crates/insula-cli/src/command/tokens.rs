//! `insula tokens`: credentials of machines.

use insula_model::tenancy::Role;
use insula_model::{Timestamp, TokenName};
use insula_wire::rest::token::{CreateToken, Token, TokenCreated};

use super::done;
use crate::context::Cx;
use crate::failure::{Failure, Outcome};
use crate::show::{Table, pairs, units};
use crate::when;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List tokens, without their text (what `insula tokens` alone does)
    List,
    /// Make a token; its text goes to stdout, once
    Create {
        /// What it is for
        name: TokenName,
        /// viewer, developer, admin or owner; one's own at most
        #[arg(long, default_value = "developer")]
        role: Role,
        /// When it ends: a span (90d) or a time [default: never]
        #[arg(long, value_parser = when::parse_future, value_name = "WHEN")]
        expires: Option<Timestamp>,
    },
    /// Show a token, without its text
    Show {
        /// By name or id
        #[arg(value_name = "TOKEN")]
        named: String,
    },
    /// Revoke a token, at once
    Delete {
        /// By name or id
        #[arg(value_name = "TOKEN")]
        named: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

pub async fn run(args: Args, cx: &Cx) -> Outcome {
    cx.require_sign_in()?;
    match args.verb.unwrap_or(Verb::List) {
        Verb::List => {
            let all: Vec<Token> = cx.client().all(&cx.org(&["tokens"])).await?;
            cx.terminal.list(&all, "no tokens", |all| {
                let now = units::now();
                let mut table = Table::new(&["NAME", "ROLE", "AGE", "EXPIRES", "ID"]);
                for one in all {
                    table.row([
                        one.name.to_string(),
                        one.role.clone().unwrap_or_else(|| "-".into()),
                        units::age(one.created, now),
                        expires(one),
                        one.id.to_string(),
                    ]);
                }
                table
            })
        }
        Verb::Create { name, role, expires } => {
            let body = CreateToken { name, role, expires };
            let made: TokenCreated = cx.client().post(&cx.org(&["tokens"]), &body).await?;
            cx.terminal.say("keep it now: it is not shown again");
            cx.terminal.answer(&made, |_| format!("{}\n", made.secret.0))
        }
        Verb::Show { named } => {
            let found = find(cx, &named).await?;
            cx.terminal.answer(&found, |paint| {
                let lines = [
                    ("name", found.name.to_string()),
                    ("id", found.id.to_string()),
                    ("role", found.role.clone().unwrap_or_else(|| "-".into())),
                    ("created", found.created.to_string()),
                    ("expires", expires(&found)),
                ];
                pairs(&lines, paint)
            })
        }
        Verb::Delete { named, yes } => {
            let found = find(cx, &named).await?;
            let what =
                format!("this revokes the token {}: whatever uses it stops working", found.name);
            cx.terminal.confirm(&what, yes)?;
            cx.client().delete(&cx.org(&["tokens", &found.id.to_string()])).await?;
            done(cx, &format!("revoked the token {}", found.name))
        }
    }
}

fn expires(token: &Token) -> String {
    token.expires.map_or_else(|| "never".into(), |at| at.to_string())
}

async fn find(cx: &Cx, named: &str) -> Result<Token, Failure> {
    let all: Vec<Token> = cx.client().all(&cx.org(&["tokens"])).await?;
    let is = |one: &Token| one.id.to_string() == named || one.name.as_str() == named;
    all.into_iter().find(is).ok_or_else(|| {
        Failure::not_found(format!("there is no token `{named}` in {}", cx.place.org))
            .hint("insula tokens")
    })
}
