//! Projects: apps that belong together.

use insula_model::app;
use insula_model::{OrgId, ProjectId, ProjectName};
use insula_store::{Tx, projects};
use insula_wire::rest::project::{CreateProject, Project};

use crate::context::{Cx, page_of, shown};
use crate::error::ApiError;
use crate::reply::{Reply, Whole};
use crate::route::{ADMIN, Route, VIEWER, delete, post, read};
use crate::write::Happened;

pub fn routes() -> Vec<Route> {
    vec![
        read("/v1/orgs/{org}/projects", "list_projects", VIEWER, list)
            .about("The org's projects")
            .paged()
            .answers_page::<Project>(),
        post("/v1/orgs/{org}/projects", "create_project", ADMIN, create)
            .about("Makes a project")
            .takes::<CreateProject>()
            .answers::<Project>(201),
        read("/v1/orgs/{org}/projects/{project}", "show_project", VIEWER, show)
            .about("A project, by id or name")
            .answers::<Project>(200),
        delete("/v1/orgs/{org}/projects/{project}", "delete_project", ADMIN, end)
            .about("Ends a project that has no environments")
            .answers_nothing(),
    ]
}

/// The project that the path means, by id or name.
pub fn find(tx: &Tx, org: OrgId, text: &str) -> Result<app::Project, ApiError> {
    let found = match (text.parse::<ProjectId>(), text.parse::<ProjectName>()) {
        (Ok(id), _) => projects::get(tx, org, id)?,
        (_, Ok(name)) => projects::by_name(tx, org, &name)?,
        (Err(_), Err(_)) => None,
    };
    found.ok_or_else(|| ApiError::not_found("project"))
}

async fn list(cx: Cx) -> Result<Reply, ApiError> {
    let (org, page) = (cx.org_id()?, cx.page()?);
    let paged = cx.read(move |tx| Ok(projects::list(tx, org, &page)?)).await?;
    shown(&page_of(paged, |project| Project::from(&project)))
}

async fn create(cx: Cx) -> Result<Reply, ApiError> {
    let asked: CreateProject = cx.json()?;
    let org = cx.org_id()?;
    cx.write(move |tx, deed| {
        let project = app::Project {
            id: deed.id(ProjectId::from_parts),
            org,
            name: asked.name.clone(),
            created: deed.now,
        };
        projects::create(tx, &project)?;
        deed.tell(
            tx,
            Happened {
                kind: "project.created",
                subject: project.id.to_string(),
                message: format!("the project {} was made", project.name),
                ..Happened::default()
            },
        )?;
        Whole::created(&Project::from(&project))
    })
    .await
}

async fn show(cx: Cx) -> Result<Reply, ApiError> {
    let (org, text): (_, String) = (cx.org_id()?, cx.param("project", "project")?);
    let project = cx.read(move |tx| find(tx, org, &text)).await?;
    shown(&Project::from(&project))
}

async fn end(cx: Cx) -> Result<Reply, ApiError> {
    let (org, text): (_, String) = (cx.org_id()?, cx.param("project", "project")?);
    cx.write(move |tx, deed| {
        let project = find(tx, org, &text)?;
        projects::delete(tx, org, project.id)?;
        deed.tell(
            tx,
            Happened {
                kind: "project.deleted",
                subject: project.id.to_string(),
                message: format!("the project {} was ended", project.name),
                ..Happened::default()
            },
        )?;
        Ok(Whole::nothing())
    })
    .await
}
