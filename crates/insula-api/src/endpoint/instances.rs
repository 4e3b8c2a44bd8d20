//! Instances of an app: what runs, where, and how it is.

use insula_model::{AppId, InstanceId};
use insula_store::instances;
use insula_wire::rest::instance::Instance;

use crate::context::{Cx, page_of, shown};
use crate::endpoint::apps;
use crate::error::ApiError;
use crate::reply::Reply;
use crate::route::{Route, VIEWER, read};

pub fn routes() -> Vec<Route> {
    vec![
        read("/v1/orgs/{org}/apps/{app}/instances", "list_instances", VIEWER, list)
            .about("An app's instances, the oldest first")
            .paged()
            .answers_page::<Instance>(),
        read("/v1/orgs/{org}/instances/{instance}", "show_instance", VIEWER, show)
            .about("An instance")
            .answers::<Instance>(200),
    ]
}

async fn list(cx: Cx) -> Result<Reply, ApiError> {
    let (org, page) = (cx.org_id()?, cx.page()?);
    let id: AppId = cx.param("app", "app")?;
    let paged = cx
        .read(move |tx| {
            apps::find(tx, org, id)?;
            Ok(instances::list(tx, org, Some(id), &page)?)
        })
        .await?;
    shown(&page_of(paged, |instance| Instance::from(&instance)))
}

async fn show(cx: Cx) -> Result<Reply, ApiError> {
    let org = cx.org_id()?;
    let id: InstanceId = cx.param("instance", "instance")?;
    let found = cx.read(move |tx| Ok(instances::get(tx, org, id)?)).await?;
    let instance = found.ok_or_else(|| ApiError::not_found("instance"))?;
    shown(&Instance::from(&instance))
}
