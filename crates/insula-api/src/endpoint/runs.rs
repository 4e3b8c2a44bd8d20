//! Runs: a job, or a command in a copy of a component, executed once.

use insula_model::instance::{self, RunState};
use insula_model::spec::ComponentKind;
use insula_model::{AppId, OrgId, RunId};
use insula_store::{Tx, runs};
use insula_wire::problem::Code;
use insula_wire::rest::run::{CreateRun, Run};

use crate::context::{Cx, page_of, shown};
use crate::endpoint::actions::live_release;
use crate::endpoint::{apps, quota};
use crate::error::ApiError;
use crate::limits;
use crate::reply::{Reply, Whole};
use crate::route::{DEVELOPER, Route, VIEWER, post, read};
use crate::write::Happened;

pub fn routes() -> Vec<Route> {
    vec![
        read("/v1/orgs/{org}/apps/{app}/runs", "list_runs", VIEWER, list)
            .about("An app's runs, the newest first")
            .paged()
            .answers_page::<Run>(),
        post("/v1/orgs/{org}/apps/{app}/runs", "create_run", DEVELOPER, create)
            .about("Runs a job, or a command in a copy of a component, with the live release")
            .takes::<CreateRun>()
            .answers::<Run>(201),
        read("/v1/orgs/{org}/runs/{run}", "show_run", VIEWER, show)
            .about("A run, and how it ended")
            .answers::<Run>(200),
        post("/v1/orgs/{org}/runs/{run}/cancel", "cancel_run", DEVELOPER, cancel)
            .about("Ends a run that has not ended")
            .answers::<Run>(200),
    ]
}

async fn list(cx: Cx) -> Result<Reply, ApiError> {
    let (org, page) = (cx.org_id()?, cx.page()?);
    let id: AppId = cx.param("app", "app")?;
    let paged = cx
        .read(move |tx| {
            apps::find(tx, org, id)?;
            Ok(runs::list(tx, org, Some(id), &page)?)
        })
        .await?;
    shown(&page_of(paged, |run| Run::from(&run)))
}

async fn show(cx: Cx) -> Result<Reply, ApiError> {
    let org = cx.org_id()?;
    let id: RunId = cx.param("run", "run")?;
    let found = cx.read(move |tx| find(tx, org, id)).await?;
    shown(&Run::from(&found))
}

fn find(tx: &Tx, org: OrgId, id: RunId) -> Result<instance::Run, ApiError> {
    runs::get(tx, org, id)?.ok_or_else(|| ApiError::not_found("run"))
}

async fn create(cx: Cx) -> Result<Reply, ApiError> {
    let asked: CreateRun = cx.json()?;
    if let Some(command) = &asked.command {
        check_command(command)?;
    }
    let org = cx.org_id()?;
    let id: AppId = cx.param("app", "app")?;
    cx.write(move |tx, deed| {
        let app = apps::find(tx, org, id)?;
        let release = live_release(tx, &app)?;
        let Some(component) = release.spec.components.get(&asked.component) else {
            let known: Vec<_> = release.spec.components.keys().map(|name| name.as_str()).collect();
            let text = format!("there is no such component; there are {}", known.join(", "));
            return Err(ApiError::field("component", text));
        };
        if component.kind != ComponentKind::Job && asked.command.is_none() {
            return Err(ApiError::new(
                Code::Conflict,
                format!("`{}` is a {}, not a job", asked.component, component.kind),
            )
            .hint("give a command to run in a copy of it, or name a job"));
        }
        quota::run_fits(tx, org, component)?;
        let run = instance::Run {
            id: deed.id(RunId::from_parts),
            org,
            app: id,
            component: asked.component.clone(),
            release: release.id,
            command: asked.command.clone(),
            state: RunState::Queued,
            instance: None,
            created: deed.now,
            ended: None,
        };
        runs::create(tx, &run)?;
        deed.tell(
            tx,
            Happened {
                kind: "run.created",
                subject: run.id.to_string(),
                app: Some(id),
                // The command may hold what is nobody's business; the run shows it to members.
                message: format!("{}: a run of `{}` was asked for", app.name, run.component),
                ..Happened::default()
            },
        )?;
        Whole::created(&Run::from(&run))
    })
    .await
}

/// Its instance is stopped by the control plane, which sees that the run is over.
async fn cancel(cx: Cx) -> Result<Reply, ApiError> {
    let org = cx.org_id()?;
    let id: RunId = cx.param("run", "run")?;
    cx.write(move |tx, deed| {
        let before = find(tx, org, id)?;
        if before.state.is_final() {
            return Err(ApiError::new(Code::Conflict, "the run has ended"));
        }
        let after =
            instance::Run { state: RunState::Cancelled, ended: Some(deed.now), ..before.clone() };
        runs::update(tx, &before.state, &after)?;
        let app = apps::find(tx, org, before.app)?.name;
        deed.tell(
            tx,
            Happened {
                kind: "run.cancelled",
                subject: id.to_string(),
                app: Some(before.app),
                message: format!("{app}: a run of `{}` was cancelled", before.component),
                ..Happened::default()
            },
        )?;
        Whole::ok(&Run::from(&after))
    })
    .await
}

fn check_command(command: &[String]) -> Result<(), ApiError> {
    let (count_max, bytes_max) = (limits::RUN_ARGUMENTS_MAX, limits::RUN_COMMAND_BYTES_MAX);
    if command.is_empty() || command[0].is_empty() {
        return Err(ApiError::field("command", "name a program"));
    }
    if command.len() > count_max || command.iter().map(String::len).sum::<usize>() > bytes_max {
        let text = format!("{count_max} arguments and {bytes_max} bytes together at most");
        return Err(ApiError::field("command", text));
    }
    if command.iter().any(|argument| argument.contains('\0')) {
        return Err(ApiError::field("command", "an argument cannot hold a NUL"));
    }
    Ok(())
}
