//! Projects: apps that belong together.

use insula_model::app;
use insula_model::limits::PAGE_MAX;
use insula_model::{OrgId, ProjectId, ProjectName};
use insula_store::{Page as Paging, Tx, apps, environments, projects};
use insula_wire::problem::Code;
use insula_wire::rest::project::{CreateProject, Project};

use crate::bootstrap::Bootstrap;
use crate::context::{Cx, page_of, shown};
use crate::endpoint;
use crate::error::ApiError;
use crate::reply::{Reply, Whole};
use crate::route::{ADMIN, Route, VIEWER, delete, post, read};
use crate::write::{Deed, Happened};

pub fn routes() -> Vec<Route> {
    vec![
        read("/v1/orgs/{org}/projects", "list_projects", VIEWER, list)
            .about("The org's projects")
            .paged()
            .answers_page::<Project>(),
        post("/v1/orgs/{org}/projects", "create_project", ADMIN, create)
            .about("Makes a project, with the environment `production`")
            .takes::<CreateProject>()
            .answers::<Project>(201),
        read("/v1/orgs/{org}/projects/{project}", "show_project", VIEWER, show)
            .about("A project, by id or name")
            .answers::<Project>(200),
        delete("/v1/orgs/{org}/projects/{project}", "delete_project", ADMIN, end)
            .about("Ends a project that has no apps, with its environments")
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
    found.ok_or_else(|| {
        ApiError::not_found("project").hint("`insula projects` shows those that there are")
    })
}

async fn list(cx: Cx) -> Result<Reply, ApiError> {
    let (org, page) = (cx.org_id()?, cx.page()?);
    let paged = cx.read(move |tx| Ok(projects::list(tx, org, &page)?)).await?;
    shown(&page_of(paged, |project| Project::from(&project)))
}

/// Makes a project with the environment that one deploys to if none is named, and tells of both.
pub fn make(
    tx: &mut Tx,
    deed: &Deed,
    org: OrgId,
    name: &ProjectName,
) -> Result<app::Project, ApiError> {
    let first = Bootstrap::usual().map_err(ApiError::internal)?;
    let id = deed.id(ProjectId::from_parts);
    let project = app::Project { id, org, name: name.clone(), created: deed.now };
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
    endpoint::environments::make(tx, deed, &project, &first.environment)?;
    Ok(project)
}

async fn create(cx: Cx) -> Result<Reply, ApiError> {
    let asked: CreateProject = cx.json()?;
    let org = cx.org_id()?;
    cx.write(move |tx, deed| Whole::created(&Project::from(&make(tx, deed, org, &asked.name)?)))
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
        end_empty_environments(tx, &project)?;
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

/// What holds no app goes with its project; what holds one has to be decided on by a person.
fn end_empty_environments(tx: &mut Tx, project: &app::Project) -> Result<(), ApiError> {
    let within = apps::Filter { project: Some(project.id), ..apps::Filter::default() };
    if !apps::list(tx, project.org, &within, &Paging::first(1))?.items.is_empty() {
        return Err(ApiError::new(Code::NotEmpty, "the project still has apps")
            .hint("delete its apps first"));
    }
    loop {
        let page = Paging::first(PAGE_MAX);
        let some = environments::list(tx, project.org, Some(project.id), &page)?.items;
        if some.is_empty() {
            return Ok(());
        }
        for environment in some {
            environments::delete(tx, project.org, environment.id)?;
        }
    }
}
