//! Apps: made in an environment, listed, ended.

use insula_model::app;
use insula_model::{AppId, AppName, OrgId};
use insula_store::{Tx, apps, environments, projects, releases};
use insula_wire::rest::Page;
use insula_wire::rest::app::{App, AppContext, CreateApp};

use crate::context::{Cx, page_of, shown};
use crate::endpoint;
use crate::error::ApiError;
use crate::reply::{Reply, Whole};
use crate::route::{ADMIN, DEVELOPER, Route, VIEWER, delete, post, read, text};
use crate::state::Api;
use crate::write::Happened;

pub fn routes() -> Vec<Route> {
    vec![
        read("/v1/orgs/{org}/apps", "list_apps", VIEWER, list)
            .about("The org's apps")
            .paged()
            .query(&[
                text("project", "only those of this project, by id or name"),
                text("environment", "only those of this environment, by id or name, with project"),
                text("name", "only those of this name"),
            ])
            .answers_page::<App>(),
        post("/v1/orgs/{org}/apps", "create_app", DEVELOPER, create)
            .about("Makes an app, with nothing in it yet")
            .takes::<CreateApp>()
            .answers::<App>(201),
        read("/v1/orgs/{org}/apps/{app}", "show_app", VIEWER, show)
            .about("An app, by id")
            .answers::<App>(200),
        delete("/v1/orgs/{org}/apps/{app}", "delete_app", ADMIN, end)
            .about("Ends an app with all its releases, variables and domains")
            .conditional()
            .answers_nothing(),
    ]
}

/// The app of the path.
pub fn find(tx: &Tx, org: OrgId, id: AppId) -> Result<app::App, ApiError> {
    apps::get(tx, org, id)?.ok_or_else(|| ApiError::not_found("app"))
}

/// An app as it is shown.
pub fn view(tx: &Tx, api: &Api, app: &app::App) -> Result<App, ApiError> {
    let gone = || ApiError::not_found("app");
    let project = projects::get(tx, app.org, app.project)?.ok_or_else(gone)?;
    let environment = environments::get(tx, app.org, app.environment)?.ok_or_else(gone)?;
    let live = match &app.live {
        Some(live) => releases::get(tx, app.org, live.release)?,
        None => None,
    };
    let context = AppContext {
        project_name: project.name,
        environment_name: environment.name,
        live_number: live.as_ref().map(|kept| kept.release.number),
        url: api.url_of(app, live.as_ref().map(|kept| &kept.release)),
    };
    Ok(App::new(app, context))
}

async fn list(cx: Cx) -> Result<Reply, ApiError> {
    let (org, page, api) = (cx.org_id()?, cx.page()?, cx.api.clone());
    let (project, environment): (Option<String>, Option<String>) =
        (cx.query("project")?, cx.query("environment")?);
    let name: Option<AppName> = cx.query("name")?;
    if environment.is_some() && project.is_none() {
        return Err(ApiError::query("environment", "say of which project, too"));
    }
    let shown_page = cx
        .read(move |tx| {
            let mut filter = apps::Filter { name, ..apps::Filter::default() };
            if let Some(project) = project {
                filter.project = Some(endpoint::projects::find(tx, org, &project)?.id);
                if let Some(text) = environment {
                    let found = endpoint::environments::find(tx, org, &project, &text)?;
                    filter.environment = Some(found.id);
                }
            }
            let paged = apps::list(tx, org, &filter, &page)?;
            let items = paged.items.iter().map(|app| view(tx, &api, app));
            let items = items.collect::<Result<Vec<_>, _>>()?;
            Ok(Page { items, next: page_of(paged, |_| ()).next })
        })
        .await?;
    shown(&shown_page)
}

async fn create(cx: Cx) -> Result<Reply, ApiError> {
    let asked: CreateApp = cx.json()?;
    let (org, api) = (cx.org_id()?, cx.api.clone());
    cx.write(move |tx, deed| {
        let project = projects::by_name(tx, org, &asked.project)?.ok_or_else(|| {
            ApiError::field("project", format!("there is no `{}`", asked.project))
        })?;
        let environment = environments::by_name(tx, org, project.id, &asked.environment)?
            .ok_or_else(|| {
                let text = format!("there is no `{}` in `{}`", asked.environment, project.name);
                ApiError::field("environment", text)
            })?;
        let app = app::App {
            id: deed.id(AppId::from_parts),
            org,
            project: project.id,
            environment: environment.id,
            name: asked.name.clone(),
            created: deed.now,
            running: true,
            scale: Default::default(),
            live: None,
        };
        let host = app
            .default_host(&api.config.suffix)
            .ok_or_else(|| ApiError::field("name", "with the domain suffix it is no host name"))?;
        apps::create(tx, &app, &host)?;
        deed.tell(
            tx,
            Happened {
                kind: "app.created",
                subject: app.id.to_string(),
                app: Some(app.id),
                message: format!(
                    "the app {} was made in {}/{}",
                    app.name, project.name, environment.name
                ),
                ..Happened::default()
            },
        )?;
        Whole::created(&view(tx, &api, &app)?)
    })
    .await
}

async fn show(cx: Cx) -> Result<Reply, ApiError> {
    let (org, api) = (cx.org_id()?, cx.api.clone());
    let id: AppId = cx.param("app", "app")?;
    let app = cx.read(move |tx| view(tx, &api, &find(tx, org, id)?)).await?;
    Ok(Whole::ok(&app)?.tagged().into())
}

async fn end(cx: Cx) -> Result<Reply, ApiError> {
    let (org, api, if_match) = (cx.org_id()?, cx.api.clone(), cx.if_match()?);
    let id: AppId = cx.param("app", "app")?;
    cx.write(move |tx, deed| {
        let app = find(tx, org, id)?;
        Cx::unchanged(if_match.as_deref(), &Whole::ok(&view(tx, &api, &app)?)?)?;
        apps::delete(tx, org, id)?;
        deed.tell(
            tx,
            Happened {
                kind: "app.deleted",
                subject: id.to_string(),
                app: Some(id),
                message: format!("the app {} was ended", app.name),
                ..Happened::default()
            },
        )?;
        Ok(Whole::nothing())
    })
    .await
}
