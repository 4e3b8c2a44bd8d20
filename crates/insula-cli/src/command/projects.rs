//! `insula projects`: list, make, show, delete.

use insula_model::ProjectName;
use insula_wire::rest::project::{CreateProject, Project};

use super::done;
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
    /// List projects (what `insula projects` alone does)
    List,
    /// Make a project
    Create {
        /// Small letters, digits and single hyphens, beginning with a letter
        name: ProjectName,
    },
    /// Show a project
    Show {
        /// By name or id [default: the chosen one]
        #[arg(value_name = "PROJECT")]
        named: Option<String>,
    },
    /// End a project that has no apps, with its environments
    Delete {
        /// By name or id
        #[arg(value_name = "PROJECT")]
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
            let all: Vec<Project> = cx.client().all(&cx.org(&["projects"])).await?;
            cx.terminal.list(&all, "no projects", |all| {
                let now = units::now();
                let mut table = Table::new(&["PROJECT", "AGE", "ID"]);
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
            let made: Project =
                cx.client().post(&cx.org(&["projects"]), &CreateProject { name }).await?;
            cx.terminal.answer(&made, |_| format!("{}\n", made.name))
        }
        Verb::Show { named } => {
            let named = named.as_ref().unwrap_or(&cx.place.project);
            let found: Project = cx.client().get(&cx.org(&["projects", named])).await?;
            cx.terminal.answer(&found, |paint| {
                let lines = [
                    ("project", found.name.to_string()),
                    ("id", found.id.to_string()),
                    ("created", found.created.to_string()),
                ];
                pairs(&lines, paint)
            })
        }
        Verb::Delete { named, yes } => {
            let target = cx.org(&["projects", &named]);
            let found: Project = cx.client().get(&target).await?;
            let what = format!(
                "this deletes the project {} of the org {} with its variables and secrets",
                found.name, cx.place.org
            );
            cx.terminal.confirm(&what, yes)?;
            cx.client().delete(&target).await?;
            done(cx, &format!("deleted the project {}", found.name))
        }
    }
}
