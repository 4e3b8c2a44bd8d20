//! Everything that one node should hold.

use std::collections::{BTreeMap, BTreeSet};

use insula_model::app::App;
use insula_model::build::{Build, BuildState};
use insula_model::deployment::{Deployment, Source};
use insula_model::instance::{Instance, Intent};
use insula_model::release::Release;
use insula_model::spec::ComponentKind;
use insula_model::target::{
    BuildTarget, Command, FleetTarget, InstanceIntent, InstanceTarget, Neighbour, NodeTarget,
    Place, RemoteInstance,
};
use insula_model::{Bytes, EnvironmentId, NodeId, limits};

use crate::nodes;
use crate::world::World;

pub fn node(world: &World, node: NodeId) -> NodeTarget {
    let instances = world.instances.of_node(node).filter_map(|i| instance(world, i));
    let builds = world.builds_under_way().filter_map(|b| match &b.state {
        BuildState::Running { node: on, attempt } if *on == node => build(world, b, *attempt),
        BuildState::Running { .. }
        | BuildState::Queued
        | BuildState::Done { .. }
        | BuildState::Failed { .. }
        | BuildState::Cancelled => None,
    });
    NodeTarget {
        node,
        generation: world.generation,
        instances: instances.collect(),
        builds: builds.collect(),
        fleet: fleet(world, node),
    }
}

/// Whom the node's relay listens to, and what the node reaches through the relays of others.
fn fleet(world: &World, node: NodeId) -> FleetTarget {
    if world.nodes.get(&node).is_none_or(|n| n.relay.is_none()) {
        return FleetTarget::default();
    }
    let here: BTreeSet<EnvironmentId> =
        world.instances.of_node(node).map(|i| i.environment).collect();
    let mut neighbours: BTreeMap<NodeId, Neighbour> = BTreeMap::new();
    let apps = here.iter().flat_map(|environment| world.apps_of(*environment));
    for remote in apps.flat_map(|app| world.instances_of(app.id)).filter(|i| i.node != node) {
        let Some(relay) = world.nodes.get(&remote.node).and_then(|n| n.relay) else { continue };
        let neighbour = neighbours.entry(remote.node).or_insert_with(|| Neighbour {
            relay,
            environments: BTreeSet::new(),
            instances: BTreeMap::new(),
        });
        neighbour.environments.insert(remote.environment);
        // A lost node may still call us; that we should call it, nobody can say.
        if !nodes::is_lost(world, remote.node) {
            neighbour.instances.extend(remote_instance(world, remote).map(|it| (remote.id, it)));
        }
    }
    FleetTarget { gateways: world.gateways.keys().copied().collect(), neighbours }
}

/// Nothing for one that has no name: not ready, or on its way out.
fn remote_instance(world: &World, instance: &Instance) -> Option<RemoteInstance> {
    let spec = crate::rollout::spec_of(world, instance)?;
    let named = instance.intent == Intent::Run
        && instance.kind.listens()
        && crate::rollout::is_ready(instance);
    named.then_some(RemoteInstance {
        environment: instance.environment,
        app: world.apps.get(&instance.app)?.name.clone(),
        component: instance.component.clone(),
        port: spec.port,
    })
}

/// Nothing for an instance whose app or release is gone: what a Target does not name is ended.
fn instance(world: &World, instance: &Instance) -> Option<InstanceTarget> {
    let app = world.apps.get(&instance.app)?;
    let release: &Release = world.releases.get(&instance.release)?;
    let spec = release.spec.components.get(&instance.component)?;
    let run = instance.run.and_then(|id| world.runs.get(&id));
    let over = crate::runs::is_over(world, instance);
    let command = match (run.and_then(|r| r.command.clone()), spec.kind, &spec.run) {
        (Some(argv), _, _) => Command::Exec { argv },
        (None, ComponentKind::Static, _) => Command::Serve,
        (None, ComponentKind::Service | ComponentKind::Worker | ComponentKind::Job, line) => {
            Command::Shell { line: line.clone()? }
        }
    };
    let mut variables = release.variables.clone();
    variables.extend(spec.variables.iter().map(|(k, v)| (k.clone(), v.clone())));
    let listens = spec.kind.listens() && instance.run.is_none();
    Some(InstanceTarget {
        id: instance.id,
        place: place(world, app)?,
        component: instance.component.clone(),
        kind: instance.kind,
        runtime: spec.runtime,
        release: release.id,
        release_number: release.number,
        deployment: instance.deployment,
        run: instance.run,
        artifact: release.artifact,
        command,
        root: spec.root.clone(),
        port: listens.then_some(spec.port),
        variables,
        secrets: release.secrets.iter().cloned().collect(),
        cpu: spec.cpu,
        memory: spec.memory,
        pids: spec.pids,
        disk: spec.disk,
        health: spec.health.clone(),
        liveness: spec.liveness.clone(),
        isolation: spec.isolation,
        stop: spec.stop.clone(),
        log_rate: log_rate(world, app),
        intent: match instance.intent {
            Intent::Run | Intent::Drain { .. } if !over => InstanceIntent::Run,
            Intent::Run | Intent::Drain { .. } | Intent::Stop { .. } => InstanceIntent::Stop,
        },
        routed: listens && crate::routes::has_route(world, instance),
        failover: spec.failover,
        trace: world
            .deployments
            .get(&instance.deployment)
            .map_or_else(String::new, |d| d.trace.clone()),
    })
}

fn log_rate(world: &World, app: &App) -> Bytes {
    world.orgs.get(&app.org).map_or(Bytes::mib(1), |org| org.quota.log_rate)
}

fn build(world: &World, build: &Build, attempt: u32) -> Option<BuildTarget> {
    let app = world.apps.get(&build.app)?;
    let deployment: &Deployment = world.deployments.get(&build.deployment)?;
    if deployment.state.is_final() {
        return None;
    }
    let variables = match &deployment.source {
        Source::Folder { spec, .. } => spec
            .components
            .values()
            .flat_map(|c| c.variables.iter().map(|(k, v)| (k.clone(), v.clone())))
            .collect(),
        Source::Release { .. } | Source::Reconfigure { .. } => BTreeMap::new(),
    };
    Some(BuildTarget {
        id: build.id,
        place: place(world, app)?,
        deployment: build.deployment,
        source: build.source,
        plan: build.plan.clone(),
        variables,
        secrets: Vec::new(),
        time_limit: limits::BUILD_TIME_MAX,
        memory: limits::BUILD_MEMORY,
        cpu: limits::BUILD_CPU,
        pids: limits::BUILD_PIDS,
        output_max: limits::BUILD_OUTPUT_MAX,
        attempt,
        trace: deployment.trace.clone(),
    })
}

fn place(world: &World, app: &App) -> Option<Place> {
    let environment = world.environments.get(&app.environment)?;
    Some(Place {
        org: app.org,
        org_name: world.orgs.get(&app.org)?.name.clone(),
        project_name: world.projects.get(&app.project)?.name.clone(),
        environment: app.environment,
        environment_name: environment.name.clone(),
        app: app.id,
        app_name: app.name.clone(),
    })
}
