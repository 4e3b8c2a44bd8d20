//! `insula cancel`: ends a deployment or a run that has not ended; what served goes on serving.

use insula_wire::rest::deployment::Deployment;
use insula_wire::rest::run::Run;

use crate::context::{Cx, Guess};
use crate::failure::{Failure, Outcome};

/// An app has one open deployment at most; older ones are superseded.
const LOOKED_AT: usize = 20;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A deployment or a run, by id [default: the app's deployment that is under way]
    id: Option<String>,
}

pub async fn run(args: Args, cx: &Cx) -> Outcome {
    cx.require_sign_in()?;
    let id = match args.id {
        Some(id) if id.starts_with("run_") => {
            let ended: Run = cx.client().act(&cx.org(&["runs", &id, "cancel"])).await?;
            return cx.terminal.answer(&ended, |_| format!("{} is {}\n", ended.id, ended.state));
        }
        Some(id) => id,
        None => {
            let app = cx.app(Guess::No).await?;
            let target = cx.of_app(&app, &["deployments"]);
            let newest: Vec<Deployment> = cx.client().some(&target, LOOKED_AT).await?;
            let open = newest.into_iter().find(|deployment| !deployment.done).ok_or_else(|| {
                Failure::not_found(format!("no deployment of {} is under way", app.name))
                    .hint("to go back to what served before: insula rollback")
            })?;
            open.id.to_string()
        }
    };
    let ended: Deployment = cx.client().act(&cx.org(&["deployments", &id, "cancel"])).await?;
    cx.terminal.answer(&ended, |_| format!("{} is {}\n", ended.id, ended.state))
}
