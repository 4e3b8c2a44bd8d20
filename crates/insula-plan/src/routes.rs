//! The table that gateways serve.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use insula_model::app::App;
use insula_model::deployment::DeploymentState;
use insula_model::instance::{Instance, Intent};
use insula_model::observed::InstancePhase;
use insula_model::release::Release;
use insula_model::routes::{Endpoint, Route, RouteTable};
use insula_model::spec::{ComponentSpec, RouteSpec};
use insula_model::{HostName, NodeId};

use crate::rollout::spec_of;
use crate::world::World;

/// Hosts and paths to the instances that may serve them now.
pub fn table(world: &World) -> RouteTable {
    let mut routes = Vec::new();
    for app in world.apps.values() {
        let Some(release) = serving(world, app) else { continue };
        let hosts = hosts(world, app);
        for (name, spec) in &release.spec.components {
            let endpoints = endpoints(world, app, name.as_str());
            for route in effective_routes(release, spec) {
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
    }
    routes.sort_by(|a, b| {
        (&a.host, Reverse(a.path.len()), &a.path).cmp(&(&b.host, Reverse(b.path.len()), &b.path))
    });
    RouteTable { generation: world.generation, relays: relays(world, &routes), routes }
}

/// The hosts that an app answers at.
pub fn hosts(world: &World, app: &App) -> Vec<HostName> {
    let domains = world.domains.values().filter(|d| d.app == app.id).map(|d| d.host.clone());
    app.default_host(&world.suffix).into_iter().chain(domains).collect()
}

/// The release whose routes count: that of the deployment that shifts, else the live one.
fn serving<'a>(world: &'a World, app: &App) -> Option<&'a Release> {
    let shifting = world.pending(app.id).filter(|d| d.state == DeploymentState::Shifting).last();
    let id = shifting.and_then(|d| d.release).or(app.live.as_ref().map(|l| l.release))?;
    world.releases.get(&id).map(Arc::as_ref)
}

/// Where each node with an endpoint in the table is reached from elsewhere.
fn relays(world: &World, routes: &[Route]) -> BTreeMap<NodeId, SocketAddr> {
    let nodes = routes.iter().flat_map(|r| r.endpoints.iter().map(|e| e.node));
    nodes.filter_map(|id| Some((id, world.nodes.get(&id)?.relay?))).collect()
}

fn endpoints(world: &World, app: &App, component: &str) -> Vec<Endpoint> {
    world
        .instances_of(app.id)
        .filter(|i| i.component.as_str() == component && may_serve(world, app, i))
        .filter_map(|i| {
            let address = i.observed.present()?.endpoint?;
            Some(Endpoint { instance: i.id, node: i.node, address })
        })
        .collect()
}

/// Whether an instance belongs in the routes: wanted, ready, and of a deployment that has shifted.
fn may_serve(world: &World, app: &App, instance: &Instance) -> bool {
    let live = app.live.as_ref().is_some_and(|l| l.deployment == instance.deployment);
    let shifting = world
        .deployments
        .get(&instance.deployment)
        .is_some_and(|d| d.state == DeploymentState::Shifting);
    let ready = instance.observed.present().is_some_and(|r| match &r.phase {
        InstancePhase::Ready => true,
        InstancePhase::Preparing
        | InstancePhase::Starting
        | InstancePhase::Unready { .. }
        | InstancePhase::BackingOff { .. }
        | InstancePhase::Stuck { .. }
        | InstancePhase::Stopping
        | InstancePhase::Finished => false,
    });
    instance.intent == Intent::Run && instance.kind.listens() && ready && (live || shifting)
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
