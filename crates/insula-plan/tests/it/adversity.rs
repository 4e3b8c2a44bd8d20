//! Stories of a bad day: servers that come back late, nodes that are slow or gone, room that is
//! on its way.

use expect_test::{Expect, expect};
use insula_model::build::Turn;
use insula_model::deployment::{Cause, CauseCode, Source};
use insula_model::feed::Change;
use insula_model::observed::InstancePhase;
use insula_model::spec::{AppSpec, ComponentKind, ComponentSpec};
use insula_model::{AppId, Bytes, DeploymentId, Millis, Timestamp};
use insula_plan::Watched;

use crate::scene::{Scene, component, spec};

fn check(said: &str, expect: Expect) {
    expect.assert_eq(said);
}

fn web(instances: u32) -> ComponentSpec {
    component(ComponentKind::Service, instances)
}

/// Deploys and brings it to life.
fn live(s: &mut Scene, spec: AppSpec) -> DeploymentId {
    let deployment = s.deploy(spec);
    finish(s);
    assert!(s.world.apps[&s.app].live.is_some());
    deployment
}

fn finish(s: &mut Scene) {
    s.settle();
    s.all_ready();
    s.settle();
    s.gateway_follows();
    s.settle();
}

#[test]
fn a_server_that_was_away_gives_nodes_time_to_come_back_before_it_says_no_room() {
    let mut s = Scene::new();
    s.deploy_built(spec(&[("web", web(1))]));
    s.later(Millis::secs(600));
    s.world.heard.clear();
    s.world.since = s.now;
    check(
        &s.settle(),
        expect![[r#"
            wait d1: the build cannot be placed: no node answers: a
        "#]],
    );
    s.later(Millis::secs(15));
    check(
        &s.settle(),
        expect![[r#"
            d1 failed: no_capacity: the build cannot be placed: no node answers: a
        "#]],
    );
}

#[test]
fn an_instance_that_became_ready_while_the_server_was_away_is_not_late() {
    let mut s = Scene::new();
    let d = s.deploy(spec(&[("web", web(1))]));
    s.settle();
    s.later(Millis::secs(600));
    s.world.since = s.now;
    check(
        &s.settle(),
        expect![[r#"
        wait d1: `web` is not reported yet
    "#]],
    );
    s.ready(s.running(d)[0]);
    check(
        &s.settle(),
        expect![[r#"
        shift to d1, drain []
        wait d1: the gateways have not confirmed the new routes yet
    "#]],
    );
}

#[test]
fn the_time_of_a_single_component_begins_when_the_old_one_is_gone() {
    let mut s = Scene::new();
    let single = ComponentSpec { single: true, drain: Millis::secs(120), ..web(1) };
    live(&mut s, spec(&[("web", single.clone())]));
    let second = s.deploy(spec(&[("web", single)]));
    s.settle();
    s.gateway_follows();
    let old = s.instances()[0].id;
    s.world.edge.busy.insert(old);
    s.later(Millis::secs(120));
    s.settle();
    s.all_stopped_are_gone();
    check(
        &s.settle(),
        expect![[r#"
        forget i1 (web)
        place web of d2 on node a
        wait d2: `web` is not reported yet
    "#]],
    );
    assert_eq!(s.running(second).len(), 1);
}

#[test]
fn room_that_is_being_given_back_is_waited_for() {
    let mut s = Scene::new();
    s.all_nodes(|node| node.offer.capacity.memory = Bytes::mib(600));
    live(&mut s, spec(&[("web", web(1))]));
    let old = s.instances()[0].id;
    let second = s.deploy(spec(&[("web", web(1))]));
    s.settle();
    s.ready(s.running(second)[0]);
    s.settle();
    s.gateway_follows();
    s.world.edge.busy.insert(old);
    s.settle();
    s.deploy(spec(&[("web", web(1))]));
    check(
        &s.settle(),
        expect![[r#"
            cut a release for d3
            wait d3: `web` cannot be placed: no node has 256MiB free: a 88MiB
            wait i1 (web): draining: requests are under way
        "#]],
    );
    s.world.edge.busy.clear();
    s.settle();
    s.all_stopped_are_gone();
    check(
        &s.settle(),
        expect![[r#"
        forget i1 (web)
        place web of d3 on node a
        wait d3: `web` is not reported yet
    "#]],
    );
}

#[test]
fn builds_of_one_org_are_counted_within_a_plan_too() {
    let mut s = Scene::new();
    s.builds_at_once(1);
    let mut other = (*s.world.apps[&s.app]).clone();
    other.id = AppId::from_parts(Timestamp::from_millis(2), [0; 10]);
    other.name = "other".parse().unwrap();
    s.deploy_built(spec(&[("web", web(1))]));
    s.app = other.id;
    s.world.apply(Change::App(Box::new(other)));
    s.deploy_built(spec(&[("web", web(1))]));
    check(
        &s.settle(),
        expect![[r#"
        build d1 on node a
        wait d1: the build is running
        wait d2: 1 builds of its org are running, of 1 at once
    "#]],
    );
}

#[test]
fn what_others_find_by_name_keeps_its_drain() {
    let mut s = Scene::new();
    let parts = || spec(&[("web", web(1)), ("internal", web(1))]);
    live(&mut s, parts());
    let second = s.deploy(parts());
    s.settle();
    s.running(second).into_iter().for_each(|id| s.ready(id));
    s.settle();
    s.gateway_follows();
    check(
        &s.settle(),
        expect![[r#"
        d2 is live []
        stop i2 (web): drained
        wait i1 (internal): draining: requests are under way
    "#]],
    );
    s.later(Millis::secs(15));
    check(
        &s.settle(),
        expect![[r#"
        stop i1 (internal): its time to drain is over
    "#]],
    );
}

#[test]
fn a_node_that_will_not_come_back_gives_up_what_it_had() {
    let mut s = Scene::new();
    live(&mut s, spec(&[("web", web(1)), ("job", component(ComponentKind::Job, 1))]));
    s.run_job("job");
    s.settle();
    let gone = *s.world.nodes.keys().next().unwrap();
    s.world.heard.clear();
    s.node("b", Bytes::gib(8));
    s.world.apply(Change::NodeGone(gone));
    check(
        &s.settle(),
        expect![[r#"
            place web of d1 on node b
            forget i1 (web)
            forget i2 (job)
            the run ended: gone without a trace (a reboot?)
        "#]],
    );
}

#[test]
fn a_build_whose_node_is_gone_begins_again_elsewhere() {
    let mut s = Scene::new();
    s.deploy_built(spec(&[("web", web(1))]));
    s.settle();
    let gone = *s.world.nodes.keys().next().unwrap();
    s.world.apply(Change::NodeGone(gone));
    check(
        &s.settle(),
        expect![[r#"
        wait d1: no node for another attempt: there is no node
    "#]],
    );
    s.node("b", Bytes::gib(8));
    check(
        &s.settle(),
        expect![[r#"
        build d1 again, attempt 2
        wait d1: the build is running
    "#]],
    );
}

#[test]
fn a_build_that_waits_for_its_turn_is_not_late() {
    let mut s = Scene::new();
    s.deploy_built(spec(&[("web", web(1))]));
    s.settle();
    s.build_turn(Turn::Waiting);
    s.later(Millis::secs(24 * 60 * 60));
    check(
        &s.settle(),
        expect![[r#"
        wait d1: the build waits for its turn on its node
    "#]],
    );
    let at = s.now;
    s.build_turn(Turn::Begun { at });
    s.later(Millis::secs(15 * 60));
    check(
        &s.settle(),
        expect![[r#"
        wait d1: the build is running
    "#]],
    );
    s.later(Millis::secs(60));
    check(
        &s.settle(),
        expect![[r#"
        d1 failed: build_timeout: the build took longer than 15m
    "#]],
    );
}

#[test]
fn the_queue_of_a_node_that_is_away_is_not_waited_in_for_ever() {
    let mut s = Scene::new();
    s.deploy_built(spec(&[("web", web(1))]));
    s.settle();
    s.build_turn(Turn::Waiting);
    s.world.heard.clear();
    s.later(Millis::secs(16 * 60));
    check(
        &s.settle(),
        expect![[r#"
        wait d1: the build waits for its turn on its node
    "#]],
    );
    s.later(Millis::secs(44 * 60));
    check(
        &s.settle(),
        expect![[r#"
        d1 failed: build_timeout: its node is away, and its turn did not come in 1h
    "#]],
    );
}

#[test]
fn an_attempt_begins_with_a_turn_of_its_own() {
    let mut s = Scene::new();
    s.deploy_built(spec(&[("web", web(1))]));
    s.settle();
    let at = s.now;
    s.build_turn(Turn::Begun { at });
    s.later(Millis::secs(10 * 60));
    s.build_ends(|| Scene::build_failed(CauseCode::BuildInterrupted));
    s.settle();
    assert!(s.world.builds.values().all(|build| build.turn == Turn::Unknown));
}

#[test]
fn a_run_that_cannot_begin_ends_and_says_so() {
    let mut s = Scene::new();
    live(&mut s, spec(&[("web", web(1)), ("job", component(ComponentKind::Job, 1))]));
    s.run_job("job");
    s.settle();
    let id = s.instances().iter().find(|i| i.run.is_some()).unwrap().id;
    let cause = Cause::new(CauseCode::SourceLost, "its artifact is gone");
    s.report(id, |r| r.phase = InstancePhase::Stuck { cause });
    check(
        &s.settle(),
        expect![[r#"
        the run ended: not started: its artifact is gone
        stop i2 (job): its run is over
    "#]],
    );
}

#[test]
fn after_a_restart_one_still_goes_back_to_what_was_before() {
    let mut s = Scene::new();
    let first = live(&mut s, spec(&[("web", web(1))]));
    let first = s.world.deployments[&first].release;
    s.deploy(spec(&[("web", web(1))]));
    finish(&mut s);
    let now = s.world.apps[&s.app].live.clone().unwrap();
    let restart = s.start(Source::Release { release: now.release });
    finish(&mut s);
    assert_eq!(s.world.deployments[&restart].previous, first);
}

#[test]
fn why_tells_of_the_last_failure_and_of_restarts() {
    let mut s = Scene::new();
    live(&mut s, spec(&[("web", web(1))]));
    let id = s.instances()[0].id;
    s.report(id, |r| r.restarts = 11);
    let second = s.deploy(spec(&[("web", web(1))]));
    s.settle();
    let new = s.running(second)[0];
    s.exit_early(new, 1);
    s.exit_early(new, 1);
    s.settle();
    let newest = s.world.deployments[&second].clone();
    let plan = insula_plan::plan(&s.world, s.now);
    let said = insula_plan::why::app(&s.world, s.app, Some(&newest), &plan).join("\n");
    assert!(said.contains("ended 2 times before it was ready: exit code 1"), "{said}");
    assert!(said.contains("it is ready, after 11 restarts"), "{said}");
}

/// Waits for room, as a control plane sees it that has watched it for so long.
fn waits_for_room(span: Millis, whole: bool) -> (Scene, DeploymentId) {
    let mut s = Scene::new();
    let deployment = s.deploy_built(spec(&[("web", web(1))]));
    s.world.heard.clear();
    s.world.watched.insert(deployment, Watched { span, whole });
    (s, deployment)
}

#[test]
fn a_clock_that_is_set_changes_nothing_about_how_long_room_is_waited_for() {
    const HOUR_MS: i64 = 3_600_000;
    for set_ms in [-HOUR_MS, 0, HOUR_MS] {
        let (mut s, _) = waits_for_room(Millis::secs(14), true);
        s.now = Timestamp::from_millis(s.now.as_millis() + 14_000 + set_ms);
        check(
            &s.settle(),
            expect![[r#"
                wait d1: the build cannot be placed: no node answers: a
            "#]],
        );
        let next = insula_plan::plan(&s.world, s.now).next;
        assert_eq!(next, Some(s.now.plus(Millis::secs(1))), "the rest of its patience");
        let (mut s, _) = waits_for_room(Millis::secs(15), true);
        s.now = Timestamp::from_millis(s.now.as_millis() + 15_000 + set_ms);
        check(
            &s.settle(),
            expect![[r#"
                d1 failed: no_capacity: the build cannot be placed: no node answers: a
            "#]],
        );
    }
}

#[test]
fn of_a_wait_that_began_unseen_it_is_enough_that_either_clock_says_it_is_over() {
    let fails = |span: u64, later: i64| {
        let (mut s, _) = waits_for_room(Millis::secs(span), false);
        s.now = Timestamp::from_millis(s.now.as_millis() + later * 1_000);
        s.settle().contains("failed: no_capacity")
    };
    assert!(!fails(14, 14));
    // Whoever led before us had watched it for a while.
    assert!(fails(1, 15));
    // Its clock was an hour ahead.
    assert!(fails(15, -3_600));
}
