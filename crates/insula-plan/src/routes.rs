//! The table that gateways serve.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use insula_model::app::App;
use insula_model::deployment::{Deployment, DeploymentState};
use insula_model::instance::{Instance, Intent};
use insula_model::release::Release;
use insula_model::routes::{Endpoint, Route, RouteTable};
use insula_model::spec::{ComponentSpec, RolloutSpec, RouteSpec};
use insula_model::{DeploymentId, HostName, NodeId, ReleaseId};

use crate::nodes;
use crate::rollout::{is_ready, spec_of};
use crate::world::World;

/// Hosts and paths to the instances that may serve them now.
pub fn table(world: &World) -> RouteTable {
    let parts: Vec<Vec<Route>> = world.apps.values().map(|app| of_app(world, app)).collect();
    assemble(world, parts.iter())
}

/// The routes of one app. They depend on nothing but the app, its domains, releases, deployments
/// and instances, and on which of their nodes are lost.
pub fn of_app(world: &World, app: &App) -> Vec<Route> {
    let mut routes = Vec::new();
    let Some(release) = serving(world, app) else { return routes };
    let hosts = hosts(world, app);
    for (name, spec) in &release.spec.components {
        let paths = effective_routes(release, spec);
        if paths.is_empty() {
            continue;
        }
        let endpoints = endpoints(world, app, name.as_str());
        for route in paths {
            for host in &hosts {
                routes.push(Route {
                    host: host.clone(),
                    path: route.path.clone(),
                    preserve: route.preserve,
                    org: app.org,
                    app: app.id,
                    component: name.clone(),
                    endpoints: endpoints.clone(),
                });
            }
        }
    }
    routes
}

/// One table of the routes of all apps, the longest path of a host first.
pub fn assemble<'a>(world: &World, parts: impl Iterator<Item = &'a Vec<Route>>) -> RouteTable {
    let mut routes: Vec<Route> = parts.flatten().cloned().collect();
    routes.sort_by(|a, b| {
        (&a.host, Reverse(a.path.len()), &a.path).cmp(&(&b.host, Reverse(b.path.len()), &b.path))
    });
    RouteTable { generation: world.generation, relays: relays(world, &routes), routes }
}

/// The hosts that an app answers at.
pub fn hosts(world: &World, app: &App) -> Vec<HostName> {
    let domains = world.domains_of(app.id).map(|d| d.host.clone());
    app.default_host(&world.suffix).into_iter().chain(domains).collect()
}

/// The deployment that has the routes, and its release: the one that shifts, else the live one.
fn in_charge(world: &World, app: &App) -> Option<(DeploymentId, ReleaseId)> {
    let shifting = shifting(world, app).and_then(|d| Some((d.id, d.release?)));
    shifting.or(app.live.as_ref().map(|live| (live.deployment, live.release)))
}

fn shifting<'a>(world: &'a World, app: &App) -> Option<&'a Deployment> {
    world.pending(app.id).filter(|d| d.state == DeploymentState::Shifting).last()
}

/// The release whose routes count.
fn serving<'a>(world: &'a World, app: &App) -> Option<&'a Release> {
    let (_, release) = in_charge(world, app)?;
    world.releases.get(&release).map(Arc::as_ref)
}

/// Where each node with an endpoint in the table is reached from elsewhere.
fn relays(world: &World, routes: &[Route]) -> BTreeMap<NodeId, SocketAddr> {
    let nodes = routes.iter().flat_map(|r| r.endpoints.iter().map(|e| e.node));
    nodes.filter_map(|id| Some((id, world.nodes.get(&id)?.relay?))).collect()
}

/// Those on lost nodes only as long as there are no others: a control plane that is cut off from
/// every node must not take from the gateways what they may still reach.
fn endpoints(world: &World, app: &App, component: &str) -> Vec<Endpoint> {
    let (lost, there): (Vec<&Instance>, Vec<&Instance>) = world
        .instances_of(app.id)
        .filter(|i| i.component.as_str() == component && belongs(world, app, i))
        .partition(|i| nodes::is_lost(world, i.node));
    let best = if there.is_empty() { lost } else { there };
    let endpoint = |i: &Instance| {
        let address = i.observed.present()?.endpoint?;
        Some(Endpoint { instance: i.id, node: i.node, address })
    };
    best.into_iter().filter_map(endpoint).collect()
}

/// Whether an instance belongs in the routes, and its node is not lost.
pub(crate) fn may_serve(world: &World, app: &App, instance: &Instance) -> bool {
    belongs(world, app, instance) && !nodes::is_lost(world, instance.node)
}

/// Whether an instance belongs in the routes: wanted, ready, and of the deployment that is in
/// charge. Components that roll serve from both releases until the shift.
fn belongs(world: &World, app: &App, instance: &Instance) -> bool {
    let own = in_charge(world, app).is_some_and(|(id, _)| id == instance.deployment);
    let beside = || shifting(world, app).is_none() && rolls(world, instance);
    instance.intent == Intent::Run
        && instance.kind.listens()
        && is_ready(instance)
        && (own || beside())
}

fn rolls(world: &World, instance: &Instance) -> bool {
    spec_of(world, instance).is_some_and(|spec| match spec.rollout {
        RolloutSpec::Rolling { .. } => true,
        RolloutSpec::BlueGreen => false,
    })
}

/// Whether the release of an instance gives its component any route.
pub(crate) fn has_route(world: &World, instance: &Instance) -> bool {
    let release = world.releases.get(&instance.release);
    release.zip(spec_of(world, instance)).is_some_and(|(r, s)| !effective_routes(r, s).is_empty())
}

/// The routes of a component. The only one that listens, or the one named `web`, gets `/` if no
/// component of the release asks for anything.
pub fn effective_routes(release: &Release, spec: &ComponentSpec) -> Vec<RouteSpec> {
    if !spec.routes.is_empty() || !spec.kind.listens() {
        return spec.routes.clone();
    }
    let components = &release.spec.components;
    if components.values().any(|c| !c.routes.is_empty()) {
        return Vec::new();
    }
    let listening = components.values().filter(|c| c.kind.listens()).count();
    let is_web = components.get("web").is_some_and(|web| std::ptr::eq(web, spec));
    let web_listens = components.get("web").is_some_and(|web| web.kind.listens());
    if listening == 1 || (is_web && web_listens) {
        vec![RouteSpec { path: "/".into(), preserve: false }]
    } else {
        Vec::new()
    }
}
