//! Deployments: asked for, followed, cancelled.

use insula_model::app;
use insula_model::deployment::{self, DeploymentState, Phase, PhaseMark, Source};
use insula_model::tenancy::Org;
use insula_model::{AppId, DeploymentId, OrgId};
use insula_store::{Tx, deployments, orgs, quotas, releases};
use insula_wire::problem::Code;
use insula_wire::rest::Page;
use insula_wire::rest::deployment::{CreateDeployment, Deployment, Plan};
use insula_wire::rest::release::Component;

use crate::archive;
use crate::context::{Cx, page_of, shown};
use crate::endpoint::{apps, quota};
use crate::error::ApiError;
use crate::limits;
use crate::reply::{Reply, Whole};
use crate::route::{DEVELOPER, Route, VIEWER, post, read};
use crate::source::{self, Checked};
use crate::state::Api;
use crate::write::{Deed, Happened};

pub fn routes() -> Vec<Route> {
    const ALL: &str = "/v1/orgs/{org}/apps/{app}/deployments";
    vec![
        read(ALL, "list_deployments", VIEWER, list)
            .about("An app's deployments, the newest first")
            .paged()
            .answers_page::<Deployment>(),
        post(ALL, "create_deployment", DEVELOPER, create)
            .about("Deploys a folder whose chunks have been uploaded")
            .takes_up_to::<CreateDeployment>(limits::MANIFEST_BODY_BYTES_MAX)
            .answers::<Deployment>(201),
        post("/v1/orgs/{org}/apps/{app}/deployments/plan", "plan_deployment", DEVELOPER, plan)
            .about("What a deployment of this folder would do; changes nothing")
            .harmless()
            .takes_up_to::<CreateDeployment>(limits::MANIFEST_BODY_BYTES_MAX)
            .answers::<Plan>(200),
        post(
            "/v1/orgs/{org}/apps/{app}/deployments/archive",
            "deploy_archive",
            DEVELOPER,
            deploy_archive,
        )
        .about("Deploys a .tar.gz or a .zip; a single top folder is stripped")
        .takes_stream(archive::MEDIA_TYPES)
        .answers::<Deployment>(201),
        read("/v1/orgs/{org}/deployments/{deployment}", "show_deployment", VIEWER, show)
            .about("A deployment: how far it is, or why it failed")
            .answers::<Deployment>(200),
        post(
            "/v1/orgs/{org}/deployments/{deployment}/cancel",
            "cancel_deployment",
            DEVELOPER,
            cancel,
        )
        .about("Ends a deployment before traffic moves to it; what served goes on serving")
        .answers::<Deployment>(200),
    ]
}

/// A deployment as it is shown.
pub fn view(
    tx: &Tx,
    api: &Api,
    deployment: &deployment::Deployment,
) -> Result<Deployment, ApiError> {
    let app = apps::find(tx, deployment.org, deployment.app)?;
    let own = match deployment.release {
        Some(id) => releases::get(tx, deployment.org, id)?,
        None => None,
    };
    // Until one is cut, what serves is the best guess at where the next one will answer.
    let serving = match (&own, deployment.previous) {
        (None, Some(id)) => releases::get(tx, deployment.org, id)?,
        (None, None) | (Some(_), _) => None,
    };
    let shown = own.as_ref().or(serving.as_ref()).map(|kept| &kept.release);
    let url = api.url_of(&app, shown);
    Ok(Deployment::new(deployment, own.map(|kept| kept.release.number), url))
}

/// Writes down that `app` is to become `source`. One that is under way is superseded by the
/// control plane.
pub fn begin(
    tx: &mut Tx,
    deed: &Deed,
    app: &app::App,
    source: Source,
    warnings: Vec<String>,
) -> Result<deployment::Deployment, ApiError> {
    let what = match &source {
        Source::Folder { .. } => "a folder",
        Source::Release { .. } => "an earlier release",
        Source::Reconfigure { .. } => "its release with new variables and secrets",
    };
    let deployment = deployment::Deployment {
        id: deed.id(DeploymentId::from_parts),
        org: app.org,
        app: app.id,
        source,
        state: DeploymentState::Queued,
        build: None,
        release: None,
        previous: app.live.as_ref().map(|live| live.release),
        actor: deed.actor.clone(),
        trace: deed.trace.clone(),
        created: deed.now,
        updated: deed.now,
        phases: vec![PhaseMark { phase: Phase::Queue, started: deed.now, ended: None }],
        warnings,
    };
    deployments::create(tx, &deployment)?;
    deed.tell(
        tx,
        Happened {
            kind: "deployment.created",
            subject: deployment.id.to_string(),
            app: Some(app.id),
            message: format!("{}: a deployment of {what} was asked for", app.name),
            ..Happened::default()
        },
    )?;
    Ok(deployment)
}

async fn list(cx: Cx) -> Result<Reply, ApiError> {
    let (org, page, api) = (cx.org_id()?, cx.page()?, cx.api.clone());
    let id: AppId = cx.param("app", "app")?;
    let shown_page = cx
        .read(move |tx| {
            apps::find(tx, org, id)?;
            let paged = deployments::list(tx, org, Some(id), &page)?;
            let items = paged.items.iter().map(|one| view(tx, &api, one));
            let items = items.collect::<Result<Vec<_>, _>>()?;
            Ok(Page { items, next: page_of(paged, |_| ()).next })
        })
        .await?;
    shown(&shown_page)
}

async fn show(cx: Cx) -> Result<Reply, ApiError> {
    let (org, api) = (cx.org_id()?, cx.api.clone());
    let id: DeploymentId = cx.param("deployment", "deployment")?;
    let said = cx.read(move |tx| view(tx, &api, &find(tx, org, id)?)).await?;
    Ok(Whole::ok(&said)?.tagged().into())
}

pub fn find(tx: &Tx, org: OrgId, id: DeploymentId) -> Result<deployment::Deployment, ApiError> {
    deployments::get(tx, org, id)?.ok_or_else(|| ApiError::not_found("deployment"))
}

/// The app has to be there before anything of its source is looked at.
async fn app_of(cx: &Cx) -> Result<app::App, ApiError> {
    let (org, id): (_, AppId) = (cx.org_id()?, cx.param("app", "app")?);
    cx.read(move |tx| apps::find(tx, org, id)).await
}

async fn create(cx: Cx) -> Result<Reply, ApiError> {
    let app = app_of(&cx).await?;
    let asked: CreateDeployment = cx.json()?;
    let checked = source::check_manifest(&cx.api, app.org, asked.manifest).await?;
    let manifest = checked.manifest.to_string();
    deploy(&cx, app.id, checked, manifest).await
}

async fn plan(cx: Cx) -> Result<Reply, ApiError> {
    let app = app_of(&cx).await?;
    let asked: CreateDeployment = cx.json()?;
    let checked = source::check_manifest(&cx.api, app.org, asked.manifest).await?;
    let (spec, build) = (checked.spec.clone(), checked.plan.clone());
    cx.read(move |tx| {
        may_begin(&app)?;
        quota::fits(tx, &app, &spec)?;
        quota::build_fits(&org_of(tx, app.org)?, &build)
    })
    .await?;
    shown(&Plan {
        components: Component::all(&checked.spec),
        steps: checked.plan.steps.iter().map(|step| step.name.clone()).collect(),
        warnings: checked.warnings,
    })
}

async fn deploy_archive(cx: Cx) -> Result<Reply, ApiError> {
    let app = app_of(&cx).await?;
    let body = cx.body.take_stream()?;
    let checked = archive::check_archive(&cx.api, app.org, body).await?;
    let manifest = checked.manifest.to_string();
    deploy(&cx, app.id, checked, manifest).await
}

async fn deploy(
    cx: &Cx,
    id: AppId,
    checked: Checked,
    recognised_by: String,
) -> Result<Reply, ApiError> {
    let (org, api) = (cx.org_id()?, cx.api.clone());
    cx.write_of(recognised_by, move |tx, deed| {
        let app = apps::find(tx, org, id)?;
        may_begin(&app)?;
        quota::fits(tx, &app, &checked.spec)?;
        let tenant = org_of(tx, org)?;
        quota::build_fits(&tenant, &checked.plan)?;
        let known = insula_store::blobs::is_referenced(tx, org, &checked.manifest)?;
        if !known {
            quota::disk_fits(&tenant, quotas::usage(tx, org)?.disk, checked.size)?;
        }
        let source = Source::Folder {
            manifest: checked.manifest,
            size: checked.size,
            spec: Box::new(checked.spec.clone()),
            plan: checked.plan.clone(),
        };
        let deployment = begin(tx, deed, &app, source, checked.warnings.clone())?;
        Whole::created(&view(tx, &api, &deployment)?)
    })
    .await
}

fn org_of(tx: &Tx, org: OrgId) -> Result<Org, ApiError> {
    orgs::get(tx, org)?.ok_or_else(|| ApiError::not_found("org"))
}

/// Refuses to move an app that is stopped: nothing of the new release would be started, so nothing
/// would be proved. One that has never been live has nothing to start, and may be stopped before.
pub fn may_begin(app: &app::App) -> Result<(), ApiError> {
    if app.running || app.live.is_none() {
        return Ok(());
    }
    Err(ApiError::new(Code::Conflict, "the app is stopped").hint("start it first: `insula start`"))
}

/// Why a deployment cannot be cancelled any more, if it cannot.
fn too_late(state: &DeploymentState) -> Option<String> {
    match state {
        DeploymentState::Queued | DeploymentState::Building | DeploymentState::Starting => None,
        // What served is being drained; ending this one now would leave nothing that serves.
        DeploymentState::Shifting => Some("traffic is moving to it already".into()),
        DeploymentState::Live
        | DeploymentState::Failed { .. }
        | DeploymentState::Superseded { .. }
        | DeploymentState::Cancelled { .. } => {
            Some(format!("the deployment has ended: it is {state}"))
        }
    }
}

async fn cancel(cx: Cx) -> Result<Reply, ApiError> {
    let (org, api) = (cx.org_id()?, cx.api.clone());
    let id: DeploymentId = cx.param("deployment", "deployment")?;
    cx.write(move |tx, deed| {
        let before = find(tx, org, id)?;
        if let Some(why) = too_late(&before.state) {
            return Err(ApiError::new(Code::Conflict, why).hint("to go back, use rollback"));
        }
        let mut after = before.clone();
        after.state = DeploymentState::Cancelled { by: deed.actor.clone() };
        after.updated = deed.now;
        if let Some(last) = after.phases.last_mut() {
            last.ended.get_or_insert(deed.now);
        }
        deployments::update(tx, &before.state, &after)?;
        let app = apps::find(tx, org, before.app)?.name;
        deed.tell(
            tx,
            Happened {
                kind: "deployment.cancelled",
                subject: id.to_string(),
                app: Some(before.app),
                message: format!("{app}: a deployment that was {} was cancelled", before.state),
                ..Happened::default()
            },
        )?;
        Whole::ok(&view(tx, &api, &after)?)
    })
    .await
}
