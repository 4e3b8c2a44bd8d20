//! `insula envs`: a project's environments: list, make, show, delete.

use insula_model::EnvironmentName;
use insula_wire::rest::project::{CreateEnvironment, Environment};

use super::done;
use crate::client::Target;
use crate::context::Cx;
use crate::failure::Outcome;
use crate::show::{Table, pairs, units};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List environments (what `insula envs` alone does)
    List,
    /// Make an environment: its apps reach each other, and no other's
    Create {
        /// Small letters, digits and single hyphens, beginning with a letter
        name: EnvironmentName,
    },
    /// Show an environment
    Show {
        /// By name or id [default: the chosen one]
        environment: Option<String>,
    },
    /// End an environment that has no apps
    Delete {
        /// By name or id
        environment: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

fn target(cx: &Cx, environment: Option<&str>) -> Target {
    let mut parts = vec!["projects", cx.place.project.as_str(), "environments"];
    parts.extend(environment);
    cx.org(&parts)
}

pub async fn run(args: Args, cx: &Cx) -> Outcome {
    cx.require_sign_in()?;
    match args.verb.unwrap_or(Verb::List) {
        Verb::List => {
            let all: Vec<Environment> = cx.client().all(&target(cx, None)).await?;
            cx.terminal.list(&all, "no environments", |all| {
                let now = units::now();
                let mut table = Table::new(&["ENVIRONMENT", "AGE", "ID"]);
                for one in all {
                    table.row([
                        one.name.to_string(),
                        units::age(one.created, now),
                        one.id.to_string(),
                    ]);
                }
                table
            })
        }
        Verb::Create { name } => {
            let body = CreateEnvironment { name };
            let made: Environment = cx.client().post(&target(cx, None), &body).await?;
            cx.terminal.answer(&made, |_| format!("{}\n", made.name))
        }
        Verb::Show { environment } => {
            let named = environment.as_deref().unwrap_or(&cx.place.env);
            let found: Environment = cx.client().get(&target(cx, Some(named))).await?;
            cx.terminal.answer(&found, |paint| {
                let lines = [
                    ("environment", found.name.to_string()),
                    ("id", found.id.to_string()),
                    ("project", found.project.to_string()),
                    ("created", found.created.to_string()),
                ];
                pairs(&lines, paint)
            })
        }
        Verb::Delete { environment, yes } => {
            let target = target(cx, Some(&environment));
            let found: Environment = cx.client().get(&target).await?;
            let what = format!(
                "this deletes the environment {} of {}/{} with its variables and secrets",
                found.name, cx.place.org, cx.place.project
            );
            cx.terminal.confirm(&what, yes)?;
            cx.client().delete(&target).await?;
            done(cx, &format!("deleted the environment {}", found.name))
        }
    }
}
