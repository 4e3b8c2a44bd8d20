//! `insula deploy`: a folder becomes a URL.

mod follow;
mod prepare;
mod report;
mod upload;

use std::path::PathBuf;
use std::time::Instant;

use insula_wire::problem::Code;
use insula_wire::rest::app::{App, CreateApp};
use insula_wire::rest::deployment::{CreateDeployment, Deployment, Plan};

pub use follow::{Follow, end, follow, leave, tell, watch};
pub use report::Report;

use self::prepare::Prepared;
use crate::client::ClientError;
use crate::context::Cx;
use crate::failure::{Failure, Outcome};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder of the app
    #[arg(default_value = ".")]
    pub path: PathBuf,
    /// Return once the deployment is asked for, without waiting for its end
    #[arg(long)]
    detach: bool,
    /// Show what was found and what would be sent, and deploy nothing
    #[arg(long, conflicts_with = "detach")]
    plan: bool,
    /// Deploy an image instead of a folder (not yet)
    #[arg(long, value_name = "REF")]
    image: Option<String>,
    /// Make the app without asking, should it not be there yet
    #[arg(long, short)]
    yes: bool,
}

/// One more question for what lacks, if a chunk was cleared away between question and use.
const SENDINGS_MAX: u32 = 2;

pub async fn run(args: Args, cx: &Cx) -> Outcome {
    if args.image.is_some() {
        return Err(Failure::usage("images cannot be deployed yet").hint("give a folder"));
    }
    let outcome = deploy(&args, cx).await;
    if let (Err(failure), true, false) = (&outcome, cx.terminal.json, args.plan)
        && !failure.silent
    {
        // Programs find everything in one place, also when nothing was begun.
        cx.terminal.print_json(&Report::refused(failure))?;
    }
    // What was told in the report of a deployment that has ended is not told twice.
    match outcome {
        Ok(ended) => ended,
        Err(failure) => Err(failure),
    }
}

/// The outer error: there is no deployment. The inner one: there is, and it was reported.
async fn deploy(args: &Args, cx: &Cx) -> Result<Outcome, Failure> {
    cx.require_sign_in()?;
    let terminal = &cx.terminal;
    let prepared = prepare::prepare(&args.path, terminal)?;
    terminal.say(&prepared.found(terminal.err_paint()));
    let name = match &cx.place.app {
        Some(named) => named.clone(),
        None => prepared.name.to_string(),
    };
    if args.plan {
        return plan(cx, &prepared, &name).await.map(Ok);
    }
    let app = app(cx, &name, args.yes).await?;
    let began = Instant::now();
    let mut sendings = 0;
    let deployment: Deployment = loop {
        sendings += 1;
        upload::upload(cx, &prepared).await?;
        let target = cx.of_app(&app, &["deployments"]);
        let body = CreateDeployment { manifest: prepared.manifest_json()? };
        match cx.client().post(&target, &body).await {
            Err(error) if is_incomplete(&error) && sendings < SENDINGS_MAX => {}
            outcome => break outcome?,
        }
    };
    let mut local = prepared.phases.clone();
    local.push(report::local_phase("upload", began.elapsed()));
    if args.detach {
        return Ok(leave(cx, &app, &deployment, &local));
    }
    let ending = follow(cx, deployment, Follow { local_phases: local }).await?;
    Ok(end(cx, &app, ending))
}

fn is_incomplete(error: &ClientError) -> bool {
    error.code() == Some(Code::SourceIncomplete.as_str())
}

/// The app, made if it is not there. A name that was typed is more likely a slip of the fingers
/// than one that the folder gives, but a deploy of a new app is what both mean.
async fn app(cx: &Cx, name: &str, _yes: bool) -> Result<App, Failure> {
    if name.starts_with("app_") {
        return cx.app_named(name).await;
    }
    let name: insula_model::AppName = name.parse()?;
    if let Some(app) = cx.find(&name).await? {
        return Ok(app);
    }
    let body = CreateApp {
        name: name.clone(),
        project: cx.place.project.parse()?,
        environment: cx.place.env.parse()?,
    };
    match cx.client().post(&cx.org(&["apps"]), &body).await {
        Ok(app) => {
            cx.terminal.say(&format!("made the app {name} in {}", cx.here()));
            Ok(app)
        }
        // Somebody else made it a moment ago.
        Err(error) if error.code() == Some(Code::NameTaken.as_str()) => {
            cx.app_named(name.as_str()).await
        }
        Err(error) => Err(error.into()),
    }
}

/// What would be done. Nothing is changed, so an app that is not there stays away.
async fn plan(cx: &Cx, prepared: &Prepared, name: &str) -> Outcome {
    let missing = upload::missing(cx, prepared).await?;
    let app = match name.parse() {
        Ok(name) => cx.find(&name).await?,
        Err(_) => Some(cx.app_named(name).await?),
    };
    // The server looks at the same files; it can do so only once it has them.
    let checked: Option<Plan> = match (&app, missing.is_empty()) {
        (Some(app), true) => {
            let body = CreateDeployment { manifest: prepared.manifest_json()? };
            Some(cx.client().ask(&cx.of_app(app, &["deployments", "plan"]), &body).await?)
        }
        _ => None,
    };
    let plan = report::Planned::new(prepared, name, app.is_some(), &missing, checked);
    cx.terminal.answer(&plan, |paint| plan.render(paint))
}
