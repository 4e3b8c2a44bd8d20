//! Instances of an app: what runs, where, and how it is.

use std::collections::{BTreeMap, BTreeSet};

use insula_model::{AppId, InstanceId, NodeId, NodeName};
use insula_store::{Tx, instances, nodes};
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
    let (paged, names) = cx
        .read(move |tx| {
            apps::find(tx, org, id)?;
            let paged = instances::list(tx, org, Some(id), &page)?;
            let nodes: BTreeSet<NodeId> = paged.items.iter().map(|found| found.node).collect();
            let names = nodes.into_iter().map(|node| Ok((node, name(tx, node)?)));
            let names = names.collect::<Result<BTreeMap<_, _>, ApiError>>()?;
            Ok((paged, names))
        })
        .await?;
    shown(&page_of(paged, |instance| {
        Instance::from(&instance).on(names.get(&instance.node).cloned().flatten())
    }))
}

fn name(tx: &Tx, node: NodeId) -> Result<Option<NodeName>, ApiError> {
    Ok(nodes::get(tx, node)?.map(|node| node.name))
}

async fn show(cx: Cx) -> Result<Reply, ApiError> {
    let org = cx.org_id()?;
    let id: InstanceId = cx.param("instance", "instance")?;
    let found = cx.read(move |tx| {
        let Some(instance) = instances::get(tx, org, id)? else { return Ok(None) };
        let name = name(tx, instance.node)?;
        Ok(Some(Instance::from(&instance).on(name)))
    });
    shown(&found.await?.ok_or_else(|| ApiError::not_found("instance"))?)
}
