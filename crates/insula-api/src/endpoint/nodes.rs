//! Nodes and the state of the installation, for the operator; runtimes, for everybody.

use std::collections::BTreeSet;

use insula_model::observed::InstancePhase;
use insula_model::{MilliCpu, NodeId, node};
use insula_plan::World;
use insula_store::nodes;
use insula_wire::rest::node::{Capacity, Node, Runtime};
use insula_wire::rest::status::Status;

use crate::context::{Cx, page_of, shown};
use crate::endpoint::public::whole_list;
use crate::error::ApiError;
use crate::reply::Reply;
use crate::route::{Route, Rule, read};

pub fn routes() -> Vec<Route> {
    vec![
        read("/v1/runtimes", "list_runtimes", Rule::SignedIn, runtimes)
            .about("What apps can be written in here")
            .answers_page::<Runtime>(),
        read("/v1/nodes", "list_nodes", Rule::Operator, list)
            .about("The nodes")
            .paged()
            .answers_page::<Node>(),
        read("/v1/nodes/{node}", "show_node", Rule::Operator, show)
            .about("A node, and what is reserved on it")
            .answers::<Node>(200),
        read("/v1/status", "status", Rule::Operator, status)
            .about("How the installation is")
            .answers::<Status>(200),
    ]
}

async fn runtimes(cx: Cx) -> Result<Reply, ApiError> {
    let page = insula_store::Page::first(insula_model::limits::PAGE_MAX);
    let found = cx.read(move |tx| Ok(nodes::list(tx, &page)?)).await?;
    let all: BTreeSet<Runtime> =
        found.items.iter().flat_map(|node| &node.offer.runtimes).map(Runtime::from).collect();
    whole_list(all.into_iter().collect())
}

fn view(cx: &Cx, world: &World, node: &node::Node) -> Node {
    let connected = cx.api.state.hub.nodes_connected().contains(&node.id);
    let placed = world.instances.values().filter(|instance| instance.node == node.id);
    let reserved = placed.fold(Capacity::default(), |sum, instance| {
        let MilliCpu(cpu) = instance.cpu;
        Capacity {
            cpu_millis: sum.cpu_millis.saturating_add(cpu),
            memory_bytes: sum.memory_bytes.saturating_add(instance.memory.0),
            instances: sum.instances + 1,
        }
    });
    Node::new(node, connected, reserved)
}

async fn list(cx: Cx) -> Result<Reply, ApiError> {
    let page = cx.page()?;
    let paged = cx.read(move |tx| Ok(nodes::list(tx, &page)?)).await?;
    let world = cx.api.state.view.borrow().clone();
    shown(&page_of(paged, |node| view(&cx, &world.0, &node)))
}

async fn show(cx: Cx) -> Result<Reply, ApiError> {
    let id: NodeId = cx.param("node", "node")?;
    let found = cx.read(move |tx| Ok(nodes::get(tx, id)?)).await?;
    let node = found.ok_or_else(|| ApiError::not_found("node"))?;
    let world = cx.api.state.view.borrow().clone();
    shown(&view(&cx, &world.0, &node))
}

async fn status(cx: Cx) -> Result<Reply, ApiError> {
    let view = cx.api.state.view.borrow().clone();
    let world = &view.0;
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let ready = world.instances.values().filter(|instance| {
        instance.observed.present().is_some_and(|report| report.phase == InstancePhase::Ready)
    });
    let open = world.deployments.values().filter(|deployment| !deployment.state.is_final());
    shown(&Status {
        version: cx.api.config.version.clone(),
        started: cx.api.started,
        development: cx.api.config.development,
        suffix: cx.api.config.suffix.to_string(),
        orgs: count(world.orgs.len()),
        apps: count(world.apps.len()),
        nodes: count(world.nodes.len()),
        nodes_connected: count(cx.api.state.hub.nodes_connected().len()),
        instances: count(world.instances.len()),
        instances_ready: count(ready.count()),
        deployments_open: count(open.count()),
    })
}
