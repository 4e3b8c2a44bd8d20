//! How the installation is, for the operator.

use std::collections::BTreeMap;

use insula_model::observed::InstancePhase;
use insula_plan::World;
use insula_store::{leases, servers};
use insula_wire::rest::status::{Server, Status};

use crate::context::{Cx, shown};
use crate::error::ApiError;
use crate::reply::Reply;
use crate::route::{Route, Rule, read};

/// The right to decide, as it is called in the store.
const CONTROL: &str = "control";

pub fn routes() -> Vec<Route> {
    vec![
        read("/v1/status", "status", Rule::Operator, status)
            .about("How the installation is, and what its reconcilers did last")
            .live()
            .answers::<Status>(200),
    ]
}

async fn status(cx: Cx) -> Result<Reply, ApiError> {
    let view = cx.api.state.view.borrow().clone();
    let world = &view.0;
    let ready = world.instances.values().filter(|instance| {
        instance.observed.present().is_some_and(|report| report.phase == InstancePhase::Ready)
    });
    let open = world.deployments.values().filter(|deployment| !deployment.state.is_final());
    let servers = cx
        .read(|tx| {
            let leader = leases::get(tx, CONTROL)?.map(|lease| lease.holder);
            let all = servers::list(tx)?.into_iter().map(|server| Server {
                id: server.id,
                fleet: server.fleet.map(|at| at.to_string()),
                version: server.version,
                seen: server.seen,
                leads: leader == Some(server.id),
            });
            Ok(all.collect())
        })
        .await?;
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
        nodes_by_state: by_state(world),
        gateways: count(cx.api.state.hub.gateways_connected().len()),
        servers,
        reconcilers: cx.api.state.fleet.reconcilers(),
    })
}

fn by_state(world: &World) -> BTreeMap<String, u32> {
    let mut states = BTreeMap::new();
    for node in world.nodes.values() {
        let state = insula_plan::nodes::state(world, node);
        *states.entry(state.as_str().to_owned()).or_default() += 1;
    }
    states
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
