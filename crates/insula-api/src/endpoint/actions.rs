//! What is done to an app: scaled, stopped, started, restarted, rolled back.

use insula_model::app::App as ModelApp;
use insula_model::deployment::Source;
use insula_model::limits::INSTANCES_MAX;
use insula_model::release::Release;
use insula_model::{AppId, OrgId, ReleaseId};
use insula_store::releases::KeptRelease;
use insula_store::{Tx, apps as rows, deployments as deployed, releases};
use insula_wire::problem::{Code, Mistake};
use insula_wire::rest::app::{App, Rollback, Scale};
use insula_wire::rest::deployment::Deployment;

use crate::context::Cx;
use crate::endpoint::{apps, deployments, quota};
use crate::error::ApiError;
use crate::reply::{Reply, Whole};
use crate::route::{DEVELOPER, Route, post};
use crate::write::Happened;

pub fn routes() -> Vec<Route> {
    vec![
        post("/v1/orgs/{org}/apps/{app}/scale", "scale_app", DEVELOPER, scale)
            .about("Sets how many instances of each component run")
            .conditional()
            .takes::<Scale>()
            .answers::<App>(200),
        post("/v1/orgs/{org}/apps/{app}/stop", "stop_app", DEVELOPER, stop)
            .about("Stops all instances, until it is started again")
            .answers::<App>(200),
        post("/v1/orgs/{org}/apps/{app}/start", "start_app", DEVELOPER, start)
            .about("Starts what was stopped")
            .answers::<App>(200),
        post("/v1/orgs/{org}/apps/{app}/restart", "restart_app", DEVELOPER, restart)
            .about("Replaces all instances, new ones first, with the live release")
            .answers::<Deployment>(201),
        post("/v1/orgs/{org}/apps/{app}/rollback", "roll_back_app", DEVELOPER, rollback)
            .about("Goes back to an earlier release")
            .may_take::<Rollback>()
            .answers::<Deployment>(201),
    ]
}

fn not_live() -> ApiError {
    ApiError::new(Code::NotLive, "nothing of this app is live yet").hint("deploy it first")
}

/// The release that serves now.
pub fn live_release(tx: &Tx, app: &ModelApp) -> Result<Release, ApiError> {
    let live = app.live.as_ref().ok_or_else(not_live)?;
    let kept = releases::get(tx, app.org, live.release)?.ok_or_else(not_live)?;
    Ok(kept.release)
}

async fn scale(cx: Cx) -> Result<Reply, ApiError> {
    let asked: Scale = cx.json()?;
    let (org, api, if_match) = (cx.org_id()?, cx.api.clone(), cx.if_match()?);
    let id: AppId = cx.param("app", "app")?;
    cx.write(move |tx, deed| {
        let before = apps::find(tx, org, id)?;
        Cx::unchanged(if_match.as_deref(), &Whole::ok(&apps::view(tx, &api, &before)?)?)?;
        let release = live_release(tx, &before)?;
        check_scale(&asked, &release)?;
        let mut after = before.clone();
        after.scale.extend(asked.components.clone());
        quota::fits_as_it_is(tx, &after)?;
        rows::set_scale(tx, org, id, &after.scale)?;
        let wanted = asked.components.iter().map(|(name, count)| format!("{name}={count}"));
        let wanted: Vec<_> = wanted.collect();
        deed.tell(
            tx,
            Happened {
                kind: "app.scaled",
                subject: id.to_string(),
                app: Some(id),
                message: format!("{}: scaled to {}", before.name, wanted.join(" ")),
                before: serde_json::to_value(&before.scale).ok(),
                after: serde_json::to_value(&after.scale).ok(),
            },
        )?;
        Whole::ok(&apps::view(tx, &api, &after)?)
    })
    .await
}

/// All mistakes at once.
fn check_scale(asked: &Scale, release: &Release) -> Result<(), ApiError> {
    let mut mistakes = Vec::new();
    let mut wrong = |name: &insula_model::ComponentName, message: String, fix: Option<String>| {
        let key = Some(format!("components.{name}"));
        mistakes.push(Mistake { key, message, fix, ..Mistake::default() });
    };
    for (name, count) in &asked.components {
        let Some(component) = release.spec.components.get(name) else {
            let known: Vec<_> = release.spec.components.keys().map(|name| name.as_str()).collect();
            wrong(name, "there is no such component".into(), Some(known.join(", ")));
            continue;
        };
        if !component.kind.stays() {
            wrong(name, "a job has no instances of its own".into(), Some("run it".into()));
        } else if *count > INSTANCES_MAX {
            wrong(name, format!("{INSTANCES_MAX} at most"), None);
        } else if component.single && *count > 1 {
            wrong(name, "it is `single`: never two at once".into(), Some("0 or 1".into()));
        }
    }
    if asked.components.is_empty() {
        return Err(ApiError::field("components", "name at least one"));
    }
    if mistakes.is_empty() {
        return Ok(());
    }
    Err(ApiError::new(Code::InvalidField, "it cannot be scaled like this").mistakes(mistakes))
}

async fn stop(cx: Cx) -> Result<Reply, ApiError> {
    set_running(cx, false).await
}

async fn start(cx: Cx) -> Result<Reply, ApiError> {
    set_running(cx, true).await
}

async fn set_running(cx: Cx, running: bool) -> Result<Reply, ApiError> {
    let (org, api) = (cx.org_id()?, cx.api.clone());
    let id: AppId = cx.param("app", "app")?;
    cx.write(move |tx, deed| {
        let before = apps::find(tx, org, id)?;
        let after = ModelApp { running, ..before.clone() };
        if before.running != running {
            quota::fits_as_it_is(tx, &after)?;
            rows::set_running(tx, org, id, running)?;
            let (kind, word) =
                if running { ("app.started", "started") } else { ("app.stopped", "stopped") };
            deed.tell(
                tx,
                Happened {
                    kind,
                    subject: id.to_string(),
                    app: Some(id),
                    message: format!("{} was {word}", before.name),
                    ..Happened::default()
                },
            )?;
        }
        Whole::ok(&apps::view(tx, &api, &after)?)
    })
    .await
}

async fn restart(cx: Cx) -> Result<Reply, ApiError> {
    let (org, api) = (cx.org_id()?, cx.api.clone());
    let id: AppId = cx.param("app", "app")?;
    cx.write(move |tx, deed| {
        let app = apps::find(tx, org, id)?;
        let release = live_release(tx, &app)?;
        deployments::may_begin(&app)?;
        quota::fits(tx, &app, &release.spec)?;
        let source = Source::Release { release: release.id };
        let deployment = deployments::begin(tx, deed, &app, source, Vec::new())?;
        Whole::created(&deployments::view(tx, &api, &deployment)?)
    })
    .await
}

async fn rollback(cx: Cx) -> Result<Reply, ApiError> {
    let asked: Rollback = cx.json_or_default()?;
    let (org, api) = (cx.org_id()?, cx.api.clone());
    let id: AppId = cx.param("app", "app")?;
    cx.write(move |tx, deed| {
        let app = apps::find(tx, org, id)?;
        let kept = match asked.number {
            Some(number) => releases::by_number(tx, org, id, number)?
                .ok_or_else(|| ApiError::not_found(&format!("release as {number}")))?,
            None => before_live(tx, org, &app)?,
        };
        if !kept.artifact_kept {
            let text = format!("the files of {} were cleared away", kept.release.number);
            return Err(ApiError::new(Code::ReleaseGone, text)
                .hint("`insula releases` marks those that can still be started"));
        }
        deployments::may_begin(&app)?;
        quota::fits(tx, &app, &kept.release.spec)?;
        let source = Source::Release { release: kept.release.id };
        let deployment = deployments::begin(tx, deed, &app, source, Vec::new())?;
        Whole::created(&deployments::view(tx, &api, &deployment)?)
    })
    .await
}

/// What was live before what is live now.
fn before_live(tx: &Tx, org: OrgId, app: &ModelApp) -> Result<KeptRelease, ApiError> {
    let live = app.live.as_ref().ok_or_else(not_live)?;
    let previous: Option<ReleaseId> =
        deployed::get(tx, org, live.deployment)?.and_then(|deployment| deployment.previous);
    let previous = previous.filter(|id| *id != live.release);
    let kept = match previous {
        Some(id) => releases::get(tx, org, id)?,
        None => None,
    };
    kept.ok_or_else(|| {
        ApiError::new(Code::NotLive, "nothing was live before what is live now")
            .hint("name the release to go back to")
    })
}
