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
    /// Make an app that was named with --app and is not there without asking
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
    let mut phases = vec![prepared.read.clone()];
    let mut sendings = 0;
    let deployment: Deployment = loop {
        sendings += 1;
        let began = Instant::now();
        upload::upload(cx, &prepared).await?;
        phases.push(report::local_phase("upload", began.elapsed()));
        let target = cx.of_app(&app, &["deployments"]);
        let body = CreateDeployment { manifest: prepared.manifest_json()? };
        match cx.client().post(&target, &body).await {
            Err(error) if is_incomplete(&error) && sendings < SENDINGS_MAX => {}
            outcome => break outcome?,
        }
    };
    if args.detach {
        return Ok(leave(cx, &app, &deployment, &phases));
    }
    let ending = follow(cx, deployment, Follow { local_phases: phases }).await?;
    Ok(end(cx, &app, ending).await)
}

fn is_incomplete(error: &ClientError) -> bool {
    error.code() == Some(Code::SourceIncomplete.as_str())
}

/// The app, made if it is not there. A name that was typed may be a slip of the fingers: if there
/// are others, somebody at a terminal is asked.
async fn app(cx: &Cx, name: &str, yes: bool) -> Result<App, Failure> {
    if name.starts_with("app_") {
        return cx.app_named(name).await;
    }
    let name: insula_model::AppName = name.parse()?;
    if let Some(app) = cx.find(&name).await? {
        return Ok(app);
    }
    let was_typed = cx.global.app.as_deref() == Some(name.as_str());
    if was_typed && !yes && cx.terminal.can_ask() {
        let others: Vec<App> = cx.client().some(&cx.apps_here(), 1).await?;
        if !others.is_empty() {
            let what = format!("there is no app {name} in {} yet; this makes it", cx.here());
            cx.terminal.confirm(&what, false)?;
        }
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
