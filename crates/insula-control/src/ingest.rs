//! What a node's report changes, decided as a pure function.
//!
//! A report is complete: what it does not name is not there. That is believed only of a report that
//! answers the Target that was sent last: an older one was made before the node could know. Only
//! transitions are written, so a node that repeats itself costs nothing.

use insula_model::build::{Build, BuildState, Turn};
use insula_model::instance::Instance;
use insula_model::observed::{BuildPhase, InstancePhase, InstanceReport, NodeReport, Observed};
use insula_model::{Generation, InstanceId, NodeId, Timestamp};
use insula_plan::World;
use insula_plan::effect::Told;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Seen {
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

pub(crate) fn report(
    world: &World,
    node: NodeId,
    report: &NodeReport,
    sent: Option<Generation>,
    now: Timestamp,
) -> Vec<Seen> {
    let answers = sent.is_some_and(|sent| report.generation >= sent);
    let mut seen = Vec::new();
    for instance in world.instances.of_node(node) {
        let reported = report.instances.iter().find(|r| r.id == instance.id);
        if reported.is_some() || answers {
            seen.extend(changed(instance, reported, now));
        }
    }
    for told in &report.builds {
        let Some(build) = world.builds.get(&told.id) else { continue };
        let here = matches!(build.state, BuildState::Running { node: on, .. } if on == node);
        if !here {
            continue;
        }
        let state = match &told.phase {
            BuildPhase::Waiting | BuildPhase::Running { .. } => {
                let turn = turn(build.turn, &told.phase, now);
                if turn != build.turn {
                    seen.push(Seen::Turn { row: Box::new((**build).clone()), turn });
                }
                continue;
            }
            BuildPhase::Done { artifact } => BuildState::Done { artifact: *artifact },
            BuildPhase::Failed { cause } => BuildState::Failed { cause: cause.clone() },
        };
        let told = build_told(build, &state);
        let row = Build { state, updated: now, ..(**build).clone() };
        seen.push(Seen::Build { row: Box::new(row), told });
    }
    seen
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
        org: build.org,
        app: build.app,
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
            org: instance.org,
            app: instance.app,
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
        let seen = report(
            &world(&[ours.clone(), theirs]),
            node(1),
            &complete(vec![]),
            Some(Generation(1)),
            NOW,
        );
        let observed = Observed::Absent { seen: NOW };
        assert_eq!(seen, [Seen::Instance { id: ours.id, observed, told: vec![] }]);
    }

    #[test]
    fn absence_is_not_believed_of_a_report_from_before_the_target() {
        let row = instance(1, node(1));
        let early = complete(vec![]);
        let sent = Some(Generation(2));
        assert_eq!(report(&world(std::slice::from_ref(&row)), node(1), &early, sent, NOW), []);
        assert_eq!(report(&world(&[row]), node(1), &early, None, NOW), []);
    }

    #[test]
    fn a_node_that_repeats_itself_changes_nothing() {
        let mut row = instance(1, node(1));
        let value = said(row.id, InstancePhase::Ready);
        row.observed =
            Observed::Present { value: Box::new(value.clone()), seen: Timestamp::from_millis(1) };
        let mut gone = instance(2, node(1));
        gone.observed = Observed::Absent { seen: Timestamp::from_millis(1) };
        let seen =
            report(&world(&[row, gone]), node(1), &complete(vec![value]), Some(Generation(1)), NOW);
        assert_eq!(seen, []);
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
        let seen =
            report(&world(&[row]), node(1), &complete(vec![after]), Some(Generation(1)), NOW);
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
        report(&world, node(1), &said, Some(Generation(1)), NOW).iter().map(turn).collect()
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
    fn an_instance_that_a_node_makes_up_is_passed_over() {
        let made_up = said(instance(9, node(1)).id, InstancePhase::Ready);
        assert_eq!(
            report(&world(&[]), node(1), &complete(vec![made_up]), Some(Generation(1)), NOW),
            []
        );
    }
}
