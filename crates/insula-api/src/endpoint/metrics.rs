//! What Prometheus reads: the counters of this process, and how things are at this moment.
//!
//! What is told of the moment is put together anew for each reading, from the control plane's last
//! view, the hub and the store, so that what is gone is not told of any more. Only what the world
//! knows becomes a label: names that a gateway or a node made up do not.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, header};
use insula_kit::metrics::Metrics;
use insula_link::Hub;
use insula_model::instance::Instance;
use insula_model::observed::{InstancePhase, Observed};
use insula_model::{AppId, ComponentName};
use insula_plan::World;
use insula_store::Store;

use crate::context::Cx;
use crate::error::ApiError;
use crate::reply::Reply;
use crate::route::{Route, Rule, read};

pub fn routes() -> Vec<Route> {
    vec![
        read("/metrics", "metrics", Rule::Operator, metrics)
            .about("What Prometheus reads")
            .answers_text("text/plain"),
    ]
}

async fn metrics(cx: Cx) -> Result<Reply, ApiError> {
    let state = &cx.api.state;
    cx.api.outcomes.count(&state.store, &state.metrics).await?;
    let view = state.view.borrow().clone();
    let moment = moment(&view.0, &state.hub, &state.store, state.fleet.decides());
    let text = state.metrics.render() + &moment.render();
    let mut response = Response::new(Body::from(text));
    let media_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    Ok(Reply::Raw(response))
}

/// How things are now. Of the fleet only the server that decides knows; from another one no figure
/// is better than a nought.
fn moment(world: &World, hub: &Hub, store: &Store, decides: bool) -> Metrics {
    let page = Metrics::new();
    set(&page, "insula_server_decides", "Whether this server decides.", usize::from(decides));
    storage(&page, world, store);
    if !decides {
        return page;
    }
    fleet(&page, world, hub);
    let known = components(world);
    hub.retain_traffic(|app, component| known.contains(&(*app, component)));
    traffic(&page, world, hub);
    instances(&page, world, hub);
    page
}

fn set(page: &Metrics, name: &'static str, help: &'static str, to: usize) {
    page.gauge(name, help, &[]).set(i64::try_from(to).unwrap_or(i64::MAX));
}

fn fleet(page: &Metrics, world: &World, hub: &Hub) {
    set(page, "insula_nodes", "Nodes that have joined.", world.nodes.len());
    set(page, "insula_nodes_connected", "Nodes with a session.", hub.nodes_connected().len());
    let gateways = hub.gateways_connected().len();
    set(page, "insula_gateways_connected", "Gateways with a session.", gateways);
    set(page, "insula_orgs", "Orgs.", world.orgs.len());
    set(page, "insula_apps", "Apps of all orgs.", world.apps.len());
    let by_phase = |phase| {
        let help = "Instances by the phase that their nodes reported last.";
        page.gauge("insula_instances", help, &[("phase", phase)])
    };
    // Also when there is none: somebody may want to be woken by that.
    by_phase(InstancePhase::Ready.as_str()).set(0);
    world.instances.values().for_each(|instance| by_phase(phase_of(instance)).add(1));
    for deployment in world.deployments.values().filter(|one| !one.state.is_final()) {
        let labels = [("state", deployment.state.as_str())];
        page.gauge("insula_deployments_open", "Deployments that have not ended.", &labels).add(1);
    }
}

fn phase_of(instance: &Instance) -> &'static str {
    match &instance.observed {
        Observed::Unknown => "unknown",
        Observed::Absent { .. } => "absent",
        Observed::Present { value, .. } => value.phase.as_str(),
    }
}

fn storage(page: &Metrics, world: &World, store: &Store) {
    let counts = store.write_counts();
    page.counter("insula_store_mutations_total", "Mutations that were committed.", &[])
        .add(counts.mutations);
    page.counter("insula_store_commits_total", "Commits, each of one mutation or more.", &[])
        .add(counts.commits);
    let position = |generation: u64| i64::try_from(generation).unwrap_or(i64::MAX);
    let head = store.head().borrow().0;
    page.gauge("insula_feed_head", "Position of the last commit.", &[]).set(position(head));
    page.gauge("insula_world_generation", "Position that the control plane has seen.", &[])
        .set(position(world.generation.0));
}

fn traffic(page: &Metrics, world: &World, hub: &Hub) {
    for ((app, component), seen) in hub.traffic() {
        let place = Place::of(world, app);
        let labels = place.labels(&component);
        let help = "Requests that gateways have passed on.";
        page.counter("insula_app_requests_total", help, &labels).add(seen.requests);
        let help = "Requests that were answered with 500 or more.";
        page.counter("insula_app_errors_5xx_total", help, &labels).add(seen.errors_5xx);
        let help = "Bytes that were sent to clients.";
        page.counter("insula_app_bytes_out_total", help, &labels).add(seen.bytes_out);
    }
}

fn instances(page: &Metrics, world: &World, hub: &Hub) {
    let usage = hub.usage();
    for instance in world.instances.values() {
        let (place, id) = (Place::of(world, instance.app), instance.id.to_string());
        let [org, project, environment, app, component] = place.labels(&instance.component);
        let labels = [org, project, environment, app, component, ("instance", &*id)];
        if let Some(report) = instance.observed.present() {
            let help = "Starts again after an exit.";
            page.counter("insula_instance_restarts_total", help, &labels)
                .add(report.restarts.into());
        }
        // Added, not set: past the number of series that we keep, the rest is told together.
        if let Some(used) = usage.get(&instance.id) {
            let memory = i64::try_from(used.memory_bytes).unwrap_or(i64::MAX);
            page.gauge("insula_instance_memory_bytes", "Memory in use.", &labels).add(memory);
            let help = "Processor time in microseconds.";
            page.counter("insula_instance_cpu_microseconds_total", help, &labels)
                .add(used.cpu_usec);
            let help = "Log bytes over the org's rate.";
            page.counter("insula_instance_log_dropped_bytes_total", help, &labels)
                .add(used.log_dropped_bytes);
        }
    }
}

/// The components of the releases that are in use, of apps that are there.
fn components(world: &World) -> BTreeSet<(AppId, &ComponentName)> {
    let there = world.releases.values().filter(|release| world.apps.contains_key(&release.app));
    there.flat_map(|r| r.spec.components.keys().map(|name| (r.app, name))).collect()
}

/// What an app is known by; by its id where it was deleted and its instances still end.
struct Place {
    org: String,
    project: String,
    environment: String,
    app: String,
}

impl Place {
    fn of(world: &World, id: AppId) -> Self {
        let app = world.apps.get(&id);
        let org = app.and_then(|app| world.orgs.get(&app.org));
        let project = app.and_then(|app| world.projects.get(&app.project));
        let environment = app.and_then(|app| world.environments.get(&app.environment));
        Self {
            org: org.map_or_else(String::new, |org| org.name.to_string()),
            project: project.map_or_else(String::new, |project| project.name.to_string()),
            environment: environment.map_or_else(String::new, |known| known.name.to_string()),
            app: app.map_or_else(|| id.to_string(), |app| app.name.to_string()),
        }
    }

    fn labels<'a>(&'a self, component: &'a ComponentName) -> [(&'static str, &'a str); 5] {
        [
            ("org", &self.org),
            ("project", &self.project),
            ("environment", &self.environment),
            ("app", &self.app),
            ("component", component.as_str()),
        ]
    }
}
