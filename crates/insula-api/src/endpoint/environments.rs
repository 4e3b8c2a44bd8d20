//! Environments of a project: production, staging, preview-42.

use insula_model::app;
use insula_model::{EnvironmentId, EnvironmentName, OrgId};
use insula_store::{Tx, environments};
use insula_wire::rest::project::{CreateEnvironment, Environment};

use crate::context::{Cx, page_of, shown};
use crate::endpoint::projects;
use crate::error::ApiError;
use crate::reply::{Reply, Whole};
use crate::route::{ADMIN, Route, VIEWER, delete, post, read};
use crate::write::{Deed, Happened};

pub fn routes() -> Vec<Route> {
    const ALL: &str = "/v1/orgs/{org}/projects/{project}/environments";
    const ONE: &str = "/v1/orgs/{org}/projects/{project}/environments/{environment}";
    vec![
        read(ALL, "list_environments", VIEWER, list)
            .about("A project's environments")
            .paged()
            .answers_page::<Environment>(),
        post(ALL, "create_environment", ADMIN, create)
            .about("Makes an environment")
            .takes::<CreateEnvironment>()
            .answers::<Environment>(201),
        read(ONE, "show_environment", VIEWER, show)
            .about("An environment, by id or name")
            .answers::<Environment>(200),
        delete(ONE, "delete_environment", ADMIN, end)
            .about("Ends an environment that has no apps")
            .answers_nothing(),
    ]
}

/// The environment that the path means, by id or name.
pub fn find(tx: &Tx, org: OrgId, project: &str, text: &str) -> Result<app::Environment, ApiError> {
    let project = projects::find(tx, org, project)?;
    let found = match (text.parse::<EnvironmentId>(), text.parse::<EnvironmentName>()) {
        (Ok(id), _) => environments::get(tx, org, id)?.filter(|e| e.project == project.id),
        (_, Ok(name)) => environments::by_name(tx, org, project.id, &name)?,
        (Err(_), Err(_)) => None,
    };
    found.ok_or_else(|| {
        ApiError::not_found("environment").hint("`insula envs` shows those that there are")
    })
}

async fn list(cx: Cx) -> Result<Reply, ApiError> {
    let (org, project): (_, String) = (cx.org_id()?, cx.param("project", "project")?);
    let page = cx.page()?;
    let paged = cx
        .read(move |tx| {
            let project = projects::find(tx, org, &project)?;
            Ok(environments::list(tx, org, Some(project.id), &page)?)
        })
        .await?;
    shown(&page_of(paged, |environment| Environment::from(&environment)))
}

/// Makes an environment of the project, and tells of it.
pub fn make(
    tx: &mut Tx,
    deed: &Deed,
    project: &app::Project,
    name: &EnvironmentName,
) -> Result<app::Environment, ApiError> {
    let environment = app::Environment {
        id: deed.id(EnvironmentId::from_parts),
        org: project.org,
        project: project.id,
        name: name.clone(),
        created: deed.now,
    };
    environments::create(tx, &environment)?;
    deed.tell(
        tx,
        Happened {
            kind: "environment.created",
            subject: environment.id.to_string(),
            message: format!("the environment {} of {} was made", environment.name, project.name),
            ..Happened::default()
        },
    )?;
    Ok(environment)
}

async fn create(cx: Cx) -> Result<Reply, ApiError> {
    let asked: CreateEnvironment = cx.json()?;
    let (org, project): (_, String) = (cx.org_id()?, cx.param("project", "project")?);
    cx.write(move |tx, deed| {
        let project = projects::find(tx, org, &project)?;
        Whole::created(&Environment::from(&make(tx, deed, &project, &asked.name)?))
    })
    .await
}

async fn show(cx: Cx) -> Result<Reply, ApiError> {
    let org = cx.org_id()?;
    let (project, text) = names(&cx)?;
    let environment = cx.read(move |tx| find(tx, org, &project, &text)).await?;
    shown(&Environment::from(&environment))
}

async fn end(cx: Cx) -> Result<Reply, ApiError> {
    let org = cx.org_id()?;
    let (project, text) = names(&cx)?;
    cx.write(move |tx, deed| {
        let environment = find(tx, org, &project, &text)?;
        environments::delete(tx, org, environment.id)?;
        deed.tell(
            tx,
            Happened {
                kind: "environment.deleted",
                subject: environment.id.to_string(),
                message: format!("the environment {} was ended", environment.name),
                ..Happened::default()
            },
        )?;
        Ok(Whole::nothing())
    })
    .await
}

fn names(cx: &Cx) -> Result<(String, String), ApiError> {
    Ok((cx.param("project", "project")?, cx.param("environment", "environment")?))
}
