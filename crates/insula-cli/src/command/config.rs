//! `insula vars` and `insula secrets`: what they share: where a value is set, and what that starts.

use clap::ValueEnum;
use insula_wire::rest::app::App;
use insula_wire::rest::deployment::{Deployment, Started};
use serde::Serialize;

use super::deploy::{self, Report};
use crate::client::Target;
use crate::context::{Cx, Guess};
use crate::failure::{Exit, Failure, Outcome};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scope {
    /// One app
    App,
    /// All apps of the environment
    Env,
    /// All apps of the project
    Project,
}

#[derive(Debug, clap::Args)]
pub struct Change {
    /// Where it is set; the nearest counts: app, then env, then project
    #[arg(long, value_enum, default_value = "app")]
    scope: Scope,
    /// Let it count from the next deployment on, instead of deploying what is live anew
    #[arg(long)]
    no_deploy: bool,
    /// Return once a new deployment is asked for, without waiting for its end
    #[arg(long)]
    detach: bool,
}

/// The path of variables or secrets in a scope.
pub async fn target(cx: &Cx, scope: Scope, noun: &str, guess: Guess) -> Result<Target, Failure> {
    let (project, env) = (cx.place.project.as_str(), cx.place.env.as_str());
    Ok(match scope {
        Scope::App => cx.of_app(&cx.app(guess).await?, &[noun]),
        Scope::Env => cx.org(&["projects", project, "environments", env, noun]),
        Scope::Project => cx.org(&["projects", project, noun]),
    })
}

/// All three, the farthest first; without an app, the other two.
pub async fn targets(cx: &Cx, noun: &str) -> Result<Vec<Target>, Failure> {
    let mut targets = vec![
        target(cx, Scope::Project, noun, Guess::Harmless).await?,
        target(cx, Scope::Env, noun, Guess::Harmless).await?,
    ];
    match target(cx, Scope::App, noun, Guess::Harmless).await {
        Ok(target) => targets.push(target),
        // Somebody who names an app means it.
        Err(failure) if cx.place.app.is_some() => return Err(failure),
        Err(_) => {}
    }
    Ok(targets)
}

/// What `--json` prints of a change.
#[derive(Debug, Serialize)]
struct Changed {
    deployments: Vec<Report>,
}

pub async fn change<B: Serialize>(cx: &Cx, with: &Change, noun: &str, body: &B) -> Outcome {
    let target = target(cx, with.scope, noun, Guess::No).await?;
    let target = if with.no_deploy { target.with("deploy", false) } else { target };
    let started: Started = cx.client().patch(&target, body).await?;
    if started.deployments.is_empty() {
        cx.terminal.say(match with.no_deploy {
            true => "set; it counts from the next deployment on",
            false => "set; nothing is live, so nothing was deployed",
        });
    }
    let mut reports = Vec::new();
    let mut failed: Option<Failure> = None;
    for deployment in started.deployments {
        let target = cx.org(&["apps", &deployment.app.to_string()]);
        let app: App = cx.client().get(&target).await?;
        let deployment: Deployment = if with.detach {
            cx.terminal.say(&format!("{}: deployment {} has begun", app.name, deployment.id));
            deployment
        } else {
            cx.terminal.say(&format!("{}: deploying with it", app.name));
            let ending = deploy::follow(cx, deployment, deploy::Follow::default()).await?;
            if ending.interrupted {
                return deploy::end(cx, &app, ending).await;
            }
            if let Err(failure) = deploy::tell(cx, &app, &ending).await {
                // Every one is told of; the last one is the verdict.
                if let Some(earlier) = failed.replace(failure) {
                    cx.terminal.say(&crate::failure::words(&earlier, cx.terminal.err_paint()));
                }
            }
            ending.deployment
        };
        reports.push(Report::new(&deployment, app.name.as_str(), &[]));
    }
    if cx.terminal.json {
        cx.terminal.print_json(&Changed { deployments: reports })?;
    }
    failed.map_or(Ok(Exit::OK), Err)
}
