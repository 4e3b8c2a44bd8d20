//! Builds of an app.

use insula_model::{AppId, BuildId};
use insula_store::builds;
use insula_wire::rest::build::Build;

use crate::context::{Cx, page_of, shown};
use crate::endpoint::apps;
use crate::error::ApiError;
use crate::reply::Reply;
use crate::route::{Route, VIEWER, read};

pub fn routes() -> Vec<Route> {
    vec![
        read("/v1/orgs/{org}/apps/{app}/builds", "list_builds", VIEWER, list)
            .about("An app's builds, the newest first")
            .paged()
            .answers_page::<Build>(),
        read("/v1/orgs/{org}/builds/{build}", "show_build", VIEWER, show)
            .about("A build")
            .answers::<Build>(200),
    ]
}

async fn list(cx: Cx) -> Result<Reply, ApiError> {
    let (org, page) = (cx.org_id()?, cx.page()?);
    let id: AppId = cx.param("app", "app")?;
    let paged = cx
        .read(move |tx| {
            apps::find(tx, org, id)?;
            Ok(builds::list(tx, org, Some(id), &page)?)
        })
        .await?;
    shown(&page_of(paged, |build| Build::from(&build)))
}

async fn show(cx: Cx) -> Result<Reply, ApiError> {
    let org = cx.org_id()?;
    let id: BuildId = cx.param("build", "build")?;
    let found = cx.read(move |tx| Ok(builds::get(tx, org, id)?)).await?;
    let build = found.ok_or_else(|| ApiError::not_found("build"))?;
    shown(&Build::from(&build))
}
