//! What a node's report changes, decided as a pure function.
//!
//! A report is complete: what it does not name is not there. That is believed only of a report that
//! answers the Target that was sent last, and only of what was placed by then: an older one was made
//! before the node could know. Only transitions are written, so a node that repeats itself costs
//! nothing. What a node says of others' instances, or of none that we know, is passed over.

use std::collections::{BTreeMap, BTreeSet};

use insula_model::build::{Build, BuildState, Turn};
use insula_model::instance::Instance;
use insula_model::observed::{BuildPhase, InstancePhase, InstanceReport, NodeReport, Observed};
use insula_model::{Generation, InstanceId, NodeId, Timestamp};
use insula_plan::World;
use insula_plan::effect::Told;

/// Something that a report changes.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    Instance {
        id: InstanceId,
        observed: Observed<Box<InstanceReport>>,
        told: Vec<Told>,
    },
    Build {
        row: Box<Build>,
        told: Told,
    },
    /// The row as it was, and what its node says of its turn now.
    Turn {
        row: Box<Build>,
        turn: Turn,
    },
}

/// What was made of a report.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Understood {
    pub(super) seen: Vec<Seen>,
    /// Whether it speaks of the Target that was sent last.
    pub(super) answers: bool,
    /// What it named that is not this node's, or twice: passed over.
    pub(super) nonsense: usize,
}

/// What the node was sent last.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Asked<'a> {
    pub(super) generation: Generation,
    /// Everything that was placed on it then. Only of these is it believed that they are not there.
    pub(super) covers: &'a BTreeSet<InstanceId>,
}

pub(super) fn report(
    world: &World,
    node: NodeId,
    report: &NodeReport,
    asked: Option<Asked<'_>>,
    now: Timestamp,
) -> Understood {
    let asked = asked.filter(|asked| report.generation >= asked.generation);
    let mut out = Understood { answers: asked.is_some(), ..Understood::default() };
    let mut named: BTreeMap<InstanceId, &InstanceReport> = BTreeMap::new();
    for told in &report.instances {
        let ours = world.instances.get(&told.id).is_some_and(|row| row.node == node);
        if !ours || named.insert(told.id, told).is_some() {
            out.nonsense += 1;
        }
    }
    for instance in world.instances.of_node(node) {
        let reported = named.get(&instance.id).copied();
        let believed = asked.as_ref().is_some_and(|asked| asked.covers.contains(&instance.id));
        if reported.is_some() || believed {
            out.seen.extend(changed(instance, reported, now));
        }
    }
    let mut builds = BTreeSet::new();
    for told in &report.builds {
        let build = world.builds.get(&told.id);
        let Some(build) = build.filter(|_| builds.insert(told.id)) else {
            out.nonsense += 1;
            continue;
        };
        let here = matches!(build.state, BuildState::Running { node: on, .. } if on == node);
        if !here {
            continue;
        }
        let state = match &told.phase {
            BuildPhase::Waiting | BuildPhase::Running { .. } => {
                let turn = turn(build.turn, &told.phase, now);
                if turn != build.turn {
                    out.seen.push(Seen::Turn { row: Box::new((**build).clone()), turn });
                }
                continue;
            }
            BuildPhase::Done { artifact } => BuildState::Done { artifact: *artifact },
            BuildPhase::Failed { cause } => BuildState::Failed { cause: cause.clone() },
        };
        let told = build_told(build, &state);
        let row = Build { state, updated: now, ..(**build).clone() };
        out.seen.push(Seen::Build { row: Box::new(row), told });
    }
    out
}

/// A node that begins anew may put a build into its queue again; then its time begins anew, too.
fn turn(before: Turn, phase: &BuildPhase, now: Timestamp) -> Turn {
    match (before, phase) {
        (_, BuildPhase::Waiting) => Turn::Waiting,
        (Turn::Unknown | Turn::Waiting, BuildPhase::Running { .. }) => Turn::Begun { at: now },
        (Turn::Begun { .. }, BuildPhase::Running { .. })
        | (_, BuildPhase::Done { .. } | BuildPhase::Failed { .. }) => before,
    }
}

fn build_told(build: &Build, state: &BuildState) -> Told {
    let (kind, message) = match state {
        BuildState::Done { artifact } => {
            ("build.done", format!("the build is done: {}", artifact.size))
        }
        BuildState::Failed { cause } => {
            ("build.failed", format!("the build failed: {}", cause.message))
        }
        BuildState::Queued | BuildState::Running { .. } | BuildState::Cancelled => {
            ("build.changed", "the build changed".to_owned())
        }
    };
    Told {
        kind,
        org: Some(build.org),
        app: Some(build.app),
        subject: build.id.to_string(),
        message,
        trace: None,
    }
}

fn changed(instance: &Instance, reported: Option<&InstanceReport>, now: Timestamp) -> Option<Seen> {
    let before = instance.observed.present().map(Box::as_ref);
    let observed = match (reported, &instance.observed) {
        (Some(report), _) if before == Some(report) => return None,
        (Some(report), _) => Observed::Present { value: Box::new(report.clone()), seen: now },
        (None, Observed::Absent { .. }) => return None,
        (None, Observed::Unknown | Observed::Present { .. }) => Observed::Absent { seen: now },
    };
    let told = reported.map(|after| history(instance, before, after)).unwrap_or_default();
    Some(Seen::Instance { id: instance.id, observed, told })
}

/// What of a transition belongs in the history.
fn history(
    instance: &Instance,
    before: Option<&InstanceReport>,
    after: &InstanceReport,
) -> Vec<Told> {
    let mut told = Vec::new();
    let mut tell = |kind, message| {
        told.push(Told {
            kind,
            org: Some(instance.org),
            app: Some(instance.app),
            subject: instance.id.to_string(),
            message,
            trace: None,
        });
    };
    let component = &instance.component;
    let exit_before = before.and_then(|b| b.last_exit.as_ref());
    if let Some(note) = &after.last_exit
        && exit_before != Some(note)
        && instance.run.is_none()
    {
        tell("instance.exited", format!("`{component}` ended: {}", note.exit));
    }
    if after.restarts > before.map_or(0, |b| b.restarts) {
        tell(
            "instance.restarted",
            format!("`{component}` was started again, restart {}", after.restarts),
        );
    }
    let phase_before = before.map(|b| &b.phase);
    if phase_before != Some(&after.phase) {
        match &after.phase {
            InstancePhase::Ready => tell("instance.ready", format!("`{component}` is ready")),
            InstancePhase::Unready { reason } => {
                tell("instance.unready", format!("`{component}` fails its probe: {reason}"));
            }
            InstancePhase::BackingOff { until } => {
                tell("instance.backing_off", format!("`{component}` is started again at {until}"));
            }
            InstancePhase::Stuck { cause } => {
                tell(
                    "instance.stuck",
                    format!("`{component}` cannot become ready: {}", cause.message),
                );
            }
            InstancePhase::Preparing
            | InstancePhase::Starting
            | InstancePhase::Stopping
            | InstancePhase::Finished => {}
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use insula_model::feed::Change;
    use insula_model::instance::Intent;
    use insula_model::observed::{Exit, ExitNote};
    use insula_model::spec::ComponentKind;
    use insula_model::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(5_000);

    fn node(n: u8) -> NodeId {
        NodeId::from_parts(Timestamp::from_millis(1), [n; 10])
    }

    fn instance(n: u8, on: NodeId) -> Instance {
        let at = Timestamp::from_millis(1);
        Instance {
            id: InstanceId::from_parts(at, [n; 10]),
            org: OrgId::from_parts(at, [0; 10]),
            project: ProjectId::from_parts(at, [0; 10]),
            environment: EnvironmentId::from_parts(at, [0; 10]),
            app: AppId::from_parts(at, [0; 10]),
            component: "web".parse().unwrap(),
            kind: ComponentKind::Service,
            release: ReleaseId::from_parts(at, [0; 10]),
            deployment: DeploymentId::from_parts(at, [0; 10]),
            run: None,
            node: on,
            cpu: MilliCpu(1),
            memory: Bytes(1),
            pids: 1,
            disk: Bytes(1),
            intent: Intent::Run,
            created: at,
            observed: Observed::Unknown,
        }
    }

    fn world(instances: &[Instance]) -> World {
        let mut world = World::new("localhost".parse().unwrap());
        instances.iter().for_each(|i| world.instances.insert(i.clone()));
        world
    }

    fn said(id: InstanceId, phase: InstancePhase) -> InstanceReport {
        InstanceReport {
            id,
            phase,
            endpoint: None,
            restarts: 0,
            exits_before_ready: 0,
            last_exit: None,
            started: None,
            ready_since: None,
            warnings: vec![],
        }
    }

    /// What the report of node 1 changes, if it was asked for these at this generation.
    fn seen(world: &World, told: &NodeReport, asked: Option<(u64, &[InstanceId])>) -> Vec<Seen> {
        let covers: BTreeSet<InstanceId> =
            asked.into_iter().flat_map(|(_, ids)| ids.iter().copied()).collect();
        let asked = asked
            .map(|(generation, _)| Asked { generation: Generation(generation), covers: &covers });
        report(world, node(1), told, asked, NOW).seen
    }

    fn complete(instances: Vec<InstanceReport>) -> NodeReport {
        NodeReport { generation: Generation(1), instances, builds: vec![], ailments: vec![] }
    }

    fn kinds(seen: &[Seen]) -> Vec<&'static str> {
        seen.iter()
            .flat_map(|s| match s {
                Seen::Instance { told, .. } => told.iter().map(|t| t.kind).collect::<Vec<_>>(),
                Seen::Build { told, .. } => vec![told.kind],
                Seen::Turn { .. } => vec![],
            })
            .collect()
    }

    #[test]
    fn what_a_report_does_not_name_is_not_there_and_other_nodes_are_not_touched() {
        let (ours, theirs) = (instance(1, node(1)), instance(2, node(2)));
        let world = world(&[ours.clone(), theirs.clone()]);
        let seen = seen(&world, &complete(vec![]), Some((1, &[ours.id, theirs.id])));
        let observed = Observed::Absent { seen: NOW };
        assert_eq!(seen, [Seen::Instance { id: ours.id, observed, told: vec![] }]);
    }

    #[test]
    fn absence_is_not_believed_of_a_report_from_before_the_target() {
        let row = instance(1, node(1));
        let early = complete(vec![]);
        let id = row.id;
        let world = world(&[row]);
        assert_eq!(seen(&world, &early, Some((2, &[id]))), []);
        assert_eq!(seen(&world, &early, None), []);
        // Placed since: the Target that names it is still to be sent.
        assert_eq!(seen(&world, &early, Some((1, &[]))), []);
    }

    #[test]
    fn a_node_that_repeats_itself_changes_nothing() {
        let mut row = instance(1, node(1));
        let value = said(row.id, InstancePhase::Ready);
        row.observed =
            Observed::Present { value: Box::new(value.clone()), seen: Timestamp::from_millis(1) };
        let mut gone = instance(2, node(1));
        gone.observed = Observed::Absent { seen: Timestamp::from_millis(1) };
        let ids = [row.id, gone.id];
        let world = world(&[row, gone]);
        assert_eq!(seen(&world, &complete(vec![value]), Some((1, &ids))), []);
    }

    #[test]
    fn a_crash_is_told_with_its_exit_and_the_restart_after_it() {
        let mut row = instance(1, node(1));
        let before = said(row.id, InstancePhase::Ready);
        row.observed =
            Observed::Present { value: Box::new(before), seen: Timestamp::from_millis(1) };
        let mut after = said(row.id, InstancePhase::Starting);
        after.restarts = 1;
        after.last_exit = Some(ExitNote { exit: Exit::OutOfMemory, at: NOW, tail: vec![] });
        let seen = seen(&world(&[row]), &complete(vec![after]), None);
        assert_eq!(kinds(&seen), ["instance.exited", "instance.restarted"]);
        let Seen::Instance { told, .. } = &seen[0] else { panic!("not an instance") };
        assert_eq!(told[0].message, "`web` ended: out of memory");
    }

    fn building(on: NodeId, turn: Turn) -> Build {
        let at = Timestamp::from_millis(1);
        Build {
            id: BuildId::from_parts(at, [0; 10]),
            org: OrgId::from_parts(at, [0; 10]),
            app: AppId::from_parts(at, [0; 10]),
            deployment: DeploymentId::from_parts(at, [0; 10]),
            source: Digest::from_sha256([1; 32]),
            plan: insula_model::build::BuildPlan { steps: vec![], warnings: vec![] },
            state: BuildState::Running { node: on, attempt: 1 },
            turn,
            created: at,
            updated: at,
        }
    }

    /// What a report of this phase from node 1 makes of the turn of a build on that node.
    fn turns(on: NodeId, before: Turn, phase: BuildPhase) -> Vec<Turn> {
        let build = building(on, before);
        let mut world = world(&[]);
        world.apply(Change::Build(Box::new(build.clone())));
        let builds = vec![insula_model::observed::BuildReport { id: build.id, phase }];
        let said =
            NodeReport { generation: Generation(1), instances: vec![], builds, ailments: vec![] };
        let turn = |seen: &Seen| match seen {
            Seen::Turn { row, turn } => {
                assert_eq!(**row, build);
                *turn
            }
            Seen::Instance { .. } | Seen::Build { .. } => panic!("{seen:?}"),
        };
        seen(&world, &said, None).iter().map(turn).collect()
    }

    #[test]
    fn the_time_of_a_build_begins_when_its_node_begins_with_it() {
        let step = |step: &str| BuildPhase::Running { step: step.into() };
        let begun = Turn::Begun { at: NOW };
        let before = Turn::Begun { at: Timestamp::from_millis(7) };
        assert_eq!(turns(node(1), Turn::Unknown, BuildPhase::Waiting), [Turn::Waiting]);
        assert_eq!(turns(node(1), Turn::Waiting, BuildPhase::Waiting), []);
        assert_eq!(turns(node(1), Turn::Waiting, step("install")), [begun]);
        // It began while nobody listened.
        assert_eq!(turns(node(1), Turn::Unknown, step("install")), [begun]);
        assert_eq!(turns(node(1), before, step("compile")), []);
        // The agent began anew, and the build stands at the end of its queue.
        assert_eq!(turns(node(1), before, BuildPhase::Waiting), [Turn::Waiting]);
        // Another node has no say.
        assert_eq!(turns(node(2), Turn::Unknown, step("install")), []);
    }

    #[test]
    fn what_a_node_makes_up_or_takes_from_others_or_says_twice_is_passed_over_and_counted() {
        let (ours, theirs) = (instance(1, node(1)), instance(2, node(2)));
        let made_up = instance(9, node(1)).id;
        let ready = |id| said(id, InstancePhase::Ready);
        let told = complete(vec![ready(made_up), ready(theirs.id), ready(ours.id), ready(ours.id)]);
        let understood = report(&world(&[ours.clone(), theirs]), node(1), &told, None, NOW);
        assert_eq!(understood.nonsense, 3);
        assert_eq!(understood.seen.len(), 1);
        assert!(matches!(&understood.seen[0], Seen::Instance { id, .. } if *id == ours.id));
    }
}
