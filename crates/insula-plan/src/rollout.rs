//! Moves a deployment towards its verdict.
//!
//! Queued → building → starting → shifting → live; the old release serves until the new one has
//! proved itself. Components that roll are exchanged while the deployment is starting, the others
//! in the one moment of the shift. The newest deployment of an app wins. What a deployment that
//! failed leaves behind is `steady`'s.

use insula_model::app::App;
use insula_model::build::Artifact;
use insula_model::deployment::{Cause, CauseCode, Deployment, DeploymentState, Phase, Source};
use insula_model::instance::{Instance, Intent};
use insula_model::observed::InstancePhase;
use insula_model::release::Release;
use insula_model::spec::{ComponentSpec, RolloutSpec};
use insula_model::{AppId, ComponentName, Millis, ReleaseId, Timestamp};

use crate::action::{Action, Plan};
use crate::crew::{self, Asked, Crew, Pace, serves};
use crate::placement::{Ask, NoRoom, Why};
use crate::verdict::{fail, hopeless, lost_release, too_late};
use crate::world::World;
use crate::{builds, nodes, routes, single};

/// Beyond an instance's own start-up time: fetching its artifact, a node that has to come back.
pub(crate) const START_SLACK: Millis = Millis::secs(30);
/// How long a shift waits for a gateway that does not answer before it goes on without it.
const SHIFT_TIME_MAX: Millis = Millis::secs(20);
/// How long a deployment may look for room before it says that there is none. Long enough for an
/// agent that restarts.
pub(crate) const PLACE_TIME_MAX: Millis = Millis::secs(15);
/// After a start of the control plane, until nodes have come back and told what they hold. Until
/// then nothing is late.
const RETURN_TIME_MAX: Millis = Millis::secs(15);
/// The same while instances are on their way out: a drain and a grace, as they are by default.
const LEAVING_TIME_MAX: Millis = Millis::secs(45);
/// The same while a node that had some of the deployment's instances is lost: that is not the
/// app's fault, and most nodes that are lost are back within minutes.
const LOST_TIME_MAX: Millis = Millis::secs(300);

pub(crate) fn step(world: &World, app: &App, now: Timestamp, plan: &mut Plan) {
    let Some(newest) = world.pending(app.id).last() else { return };
    for deployment in world.pending(app.id) {
        // One that shifts already is done in a moment, and turning round would cost requests.
        let shifting = deployment.state == DeploymentState::Shifting;
        if deployment.id != newest.id && !shifting {
            plan.act(Action::Supersede { deployment: deployment.id, by: newest.id });
        } else {
            advance(world, app, deployment, now, plan);
        }
    }
}

/// The release that a deployment begins with, if it names one.
pub fn source_release(deployment: &Deployment) -> Option<ReleaseId> {
    match &deployment.source {
        Source::Folder { .. } => None,
        Source::Release { release } | Source::Reconfigure { release } => Some(*release),
    }
}

/// How many instances of a component an app wants now.
pub fn wanted(app: &App, component: &ComponentName, spec: &ComponentSpec) -> u32 {
    if !app.running || !spec.kind.stays() {
        return 0;
    }
    app.scale.get(component).copied().unwrap_or(spec.instances)
}

fn advance(world: &World, app: &App, deployment: &Deployment, now: Timestamp, plan: &mut Plan) {
    match &deployment.state {
        DeploymentState::Queued => queued(world, deployment, now, plan),
        DeploymentState::Building => builds::step(world, deployment, now, plan),
        DeploymentState::Starting => starting(world, app, deployment, now, plan),
        DeploymentState::Shifting => shifting(world, app, deployment, now, plan),
        DeploymentState::Live
        | DeploymentState::Failed { .. }
        | DeploymentState::Superseded { .. }
        | DeploymentState::Cancelled { .. } => {}
    }
}

fn queued(world: &World, deployment: &Deployment, now: Timestamp, plan: &mut Plan) {
    // A shift that is under way ends first, so that there is one set of instances to take over from.
    let shifting = |d: &Deployment| d.state == DeploymentState::Shifting;
    if world.pending(deployment.app).any(shifting) {
        return plan.wait(deployment.id, "the deployment before it is shifting traffic");
    }
    match &deployment.source {
        Source::Folder { manifest, size, plan: build, .. } if build.steps.is_empty() => {
            let artifact = Artifact { source: *manifest, built: None, size: *size };
            plan.act(Action::CutRelease { deployment: deployment.id, artifact });
        }
        Source::Folder { plan: build, .. } => builds::begin(world, deployment, build, now, plan),
        Source::Release { release } => {
            plan.act(Action::UseRelease { deployment: deployment.id, release: *release });
        }
        Source::Reconfigure { release } => match world.releases.get(release) {
            Some(release) => plan
                .act(Action::CutRelease { deployment: deployment.id, artifact: release.artifact }),
            None => fail(deployment, lost_release(), plan),
        },
    }
}

fn release_of<'a>(world: &'a World, deployment: &Deployment) -> Option<&'a Release> {
    deployment.release.and_then(|id| world.releases.get(&id)).map(AsRef::as_ref)
}

/// Whether a deployment that is starting exchanges the live instances of a component itself.
pub(crate) fn takes_over(
    world: &World,
    app: &App,
    starting: &Deployment,
    name: &ComponentName,
) -> bool {
    let spec = release_of(world, starting).and_then(|r| r.spec.components.get(name));
    spec.is_some_and(|spec| is_rolling(spec.rollout) || single::applies(world, app, name, spec))
}

fn is_rolling(rollout: RolloutSpec) -> bool {
    match rollout {
        RolloutSpec::Rolling { .. } => true,
        RolloutSpec::BlueGreen => false,
    }
}

fn starting(world: &World, app: &App, deployment: &Deployment, now: Timestamp, plan: &mut Plan) {
    let Some(release) = release_of(world, deployment) else {
        return fail(deployment, lost_release(), plan);
    };
    let own: Vec<&Instance> =
        world.instances_of(app.id).filter(|i| i.deployment == deployment.id).collect();
    // What a silent node said last may not be true any more.
    let mut heard = own.iter().filter(|i| world.is_here(i.node));
    if let Some(cause) = heard.find_map(|i| hopeless(i)) {
        return fail(deployment, cause, plan);
    }
    let mut all_ready = true;
    for (name, spec) in &release.spec.components {
        let want = wanted(app, name, spec) as usize;
        let asked = Asked { app, name, goal: deployment.id, spec, want };
        let (done, no) = component(world, deployment, &asked, now, plan);
        if let Some(no) = no {
            let ask = Ask::of(spec, app.org);
            let search = Search { component: Some(name), ask: &ask };
            return no_room(world, deployment, &search, &no, now, plan);
        }
        all_ready &= done;
        for one in counted(world, &own, name).filter(|i| !serves(world, i)) {
            // What is ready elsewhere is enough; these may still be wanted to leave.
            if done && !is_ready(one) {
                continue;
            }
            if let Some(cause) = wait_for(world, deployment, one, spec, now, plan) {
                return fail(deployment, cause, plan);
            }
        }
    }
    if all_ready {
        shift(world, app, deployment, &own, plan);
    }
}

/// Those of a component that count: wanted, and not on a lost node.
fn counted<'a>(
    world: &World,
    own: &[&'a Instance],
    name: &ComponentName,
) -> impl Iterator<Item = &'a Instance> {
    own.iter().copied().filter(move |i| {
        i.component == *name && i.intent == Intent::Run && !nodes::is_lost(world, i.node)
    })
}

/// Takes a component a step further; whether it has arrived, and what has no room.
fn component(
    world: &World,
    deployment: &Deployment,
    asked: &Asked<'_>,
    now: Timestamp,
    plan: &mut Plan,
) -> (bool, Option<NoRoom>) {
    if single::applies(world, asked.app, asked.name, asked.spec) {
        let no = single::step(world, asked, &deployment.id.to_string(), true, plan);
        let mut own = world.instances_of(asked.app.id).filter(|i| i.component == *asked.name);
        let there = own
            .any(|i| i.deployment == deployment.id && i.intent == Intent::Run && serves(world, i));
        return (there || asked.want == 0, no);
    }
    let rolling = is_rolling(asked.spec.rollout);
    let crew = Crew::of(world, asked, |_| rolling, now, plan);
    let no = crew::step(world, asked, Pace::of(asked.spec.rollout), &crew, now, plan);
    let ready = crew.own_ready(world);
    if !crew.old.is_empty() {
        let (name, want, old) = (asked.name, asked.want, crew.old.len());
        let said = format!("`{name}` rolls: {ready} of {want} new ones are ready, {old} old left");
        plan.wait(deployment.id, said);
    }
    (ready >= asked.want && crew.old.is_empty(), no)
}

/// Waits for a new instance to become ready, or says why no longer.
fn wait_for(
    world: &World,
    deployment: &Deployment,
    one: &Instance,
    spec: &ComponentSpec,
    now: Timestamp,
    plan: &mut Plan,
) -> Option<Cause> {
    let name = &one.component;
    if !world.is_here(one.node) {
        let on = nodes::name(world, one.node);
        plan.wait(deployment.id, format!("`{name}` is on {on}, which is not heard"));
        return None;
    }
    // From when it was placed: a single one waits for the old one's end first. A node that came
    // back may have had no way to fetch what it needs before.
    let back = world.nodes.get(&one.node).map_or(one.created, |node| node.hello);
    let began = started(deployment).max(one.created).max(back);
    let late = seen_by(world, began.plus(spec.health.startup).plus(START_SLACK));
    if now >= late {
        return Some(too_late(one, spec));
    }
    plan.wake_at(late);
    plan.wait(deployment.id, format!("`{name}` is {}", phase_of(one)));
    None
}

fn shift(world: &World, app: &App, deployment: &Deployment, own: &[&Instance], plan: &mut Plan) {
    let drain = outgoing(world, app.id, deployment).map(|i| i.id).collect();
    let mut warnings: Vec<String> = own
        .iter()
        .filter_map(|i| i.observed.present())
        .flat_map(|report| report.warnings.iter().cloned())
        .collect();
    if !app.running {
        warnings.push("the app is stopped: nothing of this release was started or proved".into());
    }
    plan.act(Action::Shift { deployment: deployment.id, drain, warnings });
}

/// What the new ones take over from. Not on nodes that are not heard: what is there is out of the
/// routes by the shift itself, and is drained when its node is back.
fn outgoing<'a>(
    world: &'a World,
    app: AppId,
    deployment: &'a Deployment,
) -> impl Iterator<Item = &'a Instance> {
    world.instances_of(app).filter(|i| {
        i.deployment != deployment.id && i.intent == Intent::Run && world.is_here(i.node)
    })
}

fn shifting(world: &World, app: &App, deployment: &Deployment, now: Timestamp, plan: &mut Plan) {
    let since = deployment
        .phases
        .iter()
        .rev()
        .find(|m| m.phase == Phase::Shift)
        .map_or(deployment.updated, |m| m.started);
    let routed = || world.instances_of(app.id).filter(|i| routes::has_route(world, i));
    let arrived = routed()
        .filter(|i| i.deployment == deployment.id && routes::may_serve(world, app, i))
        .all(|i| world.edge.routed_by_all.contains(&i.id));
    let left = !world
        .instances_of(app.id)
        .filter(|i| i.deployment != deployment.id)
        .any(|i| world.edge.routed_by_any.contains(&i.id));
    let any = routed().any(|i| i.kind.listens());
    if !any || (world.edge.known && world.edge.gateways > 0 && arrived && left) {
        return plan.act(Action::GoLive { deployment: deployment.id, warnings: vec![] });
    }
    let deadline = seen_by(world, since.plus(SHIFT_TIME_MAX));
    if now >= deadline {
        let warning = format!("no gateway confirmed the new routes within {SHIFT_TIME_MAX}");
        return plan.act(Action::GoLive { deployment: deployment.id, warnings: vec![warning] });
    }
    plan.wake_at(deadline);
    plan.wait(deployment.id, "the gateways have not confirmed the new routes yet");
}

/// A deadline, or when nodes had the time to say that it was met while nobody listened.
pub(crate) fn seen_by(world: &World, deadline: Timestamp) -> Timestamp {
    deadline.max(world.since.plus(RETURN_TIME_MAX))
}

pub(crate) fn is_ready(instance: &Instance) -> bool {
    instance.observed.present().is_some_and(|r| r.phase == InstancePhase::Ready)
}

fn phase_of(instance: &Instance) -> &'static str {
    instance.observed.present().map_or("not reported yet", |r| r.phase.as_str())
}

fn started(deployment: &Deployment) -> Timestamp {
    deployment
        .phases
        .iter()
        .rev()
        .find(|m| m.phase == Phase::Start)
        .map_or(deployment.updated, |m| m.started)
}

/// When a deployment came further last, found room for something, say: from then on it looks for more.
pub fn last_step(world: &World, deployment: &Deployment) -> Timestamp {
    let own = world.instances_of(deployment.app).filter(|i| i.deployment == deployment.id);
    own.map(|i| i.created).fold(deployment.updated, Timestamp::max)
}

/// When a deployment has waited for so long. Times in rows are by clocks that somebody may have set
/// since, so what was seen from its beginning on is counted without them; of a wait that began
/// unseen it is enough that either says so.
fn has_waited(
    world: &World,
    deployment: &Deployment,
    patience: Millis,
    now: Timestamp,
) -> Timestamp {
    let told = || seen_by(world, last_step(world, deployment).plus(patience));
    let Some(watched) = world.watched.get(&deployment.id) else { return told() };
    let counted = now.plus(Millis(patience.0.saturating_sub(watched.span.0)));
    if watched.whole { counted } else { told().min(counted) }
}

/// A search for room that found none.
pub(crate) struct Search<'a> {
    /// Nothing for the build.
    pub(crate) component: Option<&'a ComponentName>,
    pub(crate) ask: &'a Ask,
}

pub(crate) fn no_room(
    world: &World,
    deployment: &Deployment,
    search: &Search<'_>,
    no: &NoRoom,
    now: Timestamp,
    plan: &mut Plan,
) {
    let mut own = world.instances_of(deployment.app).filter(|i| i.deployment == deployment.id);
    let hit = own.any(|i| i.intent == Intent::Run && nodes::is_lost(world, i.node));
    let patience = if hit {
        LOST_TIME_MAX
    } else if room_may_come(world, search.ask, no) {
        LEAVING_TIME_MAX
    } else if no.may_pass() {
        PLACE_TIME_MAX
    } else {
        Millis(0)
    };
    let what = search.component.map_or_else(|| "the build".to_owned(), |c| format!("`{c}`"));
    let message = format!("{what} cannot be placed: {no}");
    let deadline = has_waited(world, deployment, patience, now);
    if patience > Millis(0) && now < deadline {
        plan.wake_at(deadline);
        return plan.wait(deployment.id, message);
    }
    let component = search.component.cloned();
    let cause = Cause { component, ..Cause::new(CauseCode::NoCapacity, message) };
    fail(deployment, cause, plan);
}

/// Whether what is on its way out may give its room back, and that would be enough.
pub(crate) fn room_may_come(world: &World, ask: &Ask, no: &NoRoom) -> bool {
    let amounts = [Why::Memory, Why::Cpu, Why::Pids, Why::Disk, Why::Instances, Why::Org];
    let short = amounts.iter().any(|why| no.counts().contains_key(why));
    let fits = |node: &insula_model::node::Node| {
        let (all, rules) = (&node.offer.capacity, &world.rules);
        let times = |n: u64, hundredths: u32| n.saturating_mul(u64::from(hundredths)) / 100;
        times(all.memory.0, rules.memory_overcommit) >= ask.memory.0
            && times(u64::from(all.cpu.0), rules.cpu_overcommit) >= u64::from(ask.cpu.0)
            && all.pids >= ask.pids
            && all.disk >= ask.disk
    };
    short
        && world.instances.leaving().next().is_some()
        && world.nodes.values().any(|node| fits(node))
}

/// The spec that an instance was started with.
pub(crate) fn spec_of<'a>(world: &'a World, instance: &Instance) -> Option<&'a ComponentSpec> {
    let release: &Release = world.releases.get(&instance.release)?;
    release.spec.components.get(&instance.component)
}
