use std::sync::Arc;

use expect_test::{Expect, expect};
use insula_model::deployment::{CauseCode, Source};
use insula_model::instance::RunState;
use insula_model::observed::{Exit, ExitNote, InstancePhase};
use insula_model::spec::{ComponentKind, ComponentSpec};
use insula_model::{Bytes, Millis};
use insula_plan::Presence;

use crate::scene::{Scene, component, spec};

fn check(said: &str, expect: Expect) {
    expect.assert_eq(said);
}

fn web(instances: u32) -> ComponentSpec {
    component(ComponentKind::Service, instances)
}

/// A scene whose app is live with one web instance.
fn live(instances: u32) -> (Scene, insula_model::DeploymentId) {
    let mut s = Scene::new();
    let d = s.deploy(spec(&[("web", web(instances))]));
    s.settle();
    s.all_ready();
    s.settle();
    s.gateway_follows();
    s.settle();
    assert!(s.world.apps[&s.app].live.is_some());
    (s, d)
}

#[test]
fn a_folder_without_a_build_goes_live_when_it_is_ready_and_the_gateway_knows() {
    let mut s = Scene::new();
    s.deploy(spec(&[("web", web(2))]));
    check(
        &s.settle(),
        expect![[r#"
            cut a release for d1
            place web of d1 on node a, node a
            wait d1: `web` is not reported yet
            wait d1: `web` is not reported yet
        "#]],
    );
    s.all_ready();
    check(
        &s.settle(),
        expect![[r#"
            shift to d1, drain []
            wait d1: the gateways have not confirmed the new routes yet
        "#]],
    );
    s.gateway_follows();
    check(
        &s.settle(),
        expect![[r#"
            d1 is live []
        "#]],
    );
}

#[test]
fn the_old_release_serves_until_the_new_one_has_proved_itself_and_is_drained_after() {
    let (mut s, first) = live(1);
    let old = s.running(first)[0];
    let second = s.deploy(spec(&[("web", web(1))]));
    s.settle();
    let routed = |s: &Scene| insula_plan::routes::table(&s.world).routes[0].endpoints.clone();
    assert_eq!(routed(&s)[0].instance, old, "the old one serves while the new one starts");
    s.ready(s.running(second)[0]);
    check(
        &s.settle(),
        expect![[r#"
            shift to d2, drain ["i1 (web)"]
            wait d2: the gateways have not confirmed the new routes yet
            wait i1 (web): draining: requests are under way
        "#]],
    );
    assert_eq!(routed(&s).len(), 1, "one set takes over from the other in one table");
    s.gateway_follows();
    s.world.edge.busy.insert(old);
    check(
        &s.settle(),
        expect![[r#"
            d2 is live []
            wait i1 (web): draining: requests are under way
        "#]],
    );
    s.world.edge.busy.clear();
    check(
        &s.settle(),
        expect![[r#"
        stop i1 (web): drained
    "#]],
    );
    s.all_stopped_are_gone();
    check(
        &s.settle(),
        expect![[r#"
        forget i1 (web)
    "#]],
    );
}

#[test]
fn a_request_that_never_ends_is_cut_off_after_the_drain() {
    let (mut s, first) = live(1);
    let old = s.running(first)[0];
    let second = s.deploy(spec(&[("web", web(1))]));
    s.settle();
    s.ready(s.running(second)[0]);
    s.settle();
    s.gateway_follows();
    s.world.edge.busy.insert(old);
    s.settle();
    s.later(Millis::secs(15));
    check(
        &s.settle(),
        expect![[r#"
        stop i1 (web): its time to drain is over
    "#]],
    );
}

#[test]
fn two_exits_before_it_was_ready_fail_the_deployment_and_the_old_one_stays() {
    let (mut s, first) = live(1);
    let second = s.deploy(spec(&[("web", web(1))]));
    s.settle();
    let new = s.running(second)[0];
    s.exit_early(new, 1);
    check(
        &s.settle(),
        expect![[r#"
            wait d2: `web` is backing off
        "#]],
    );
    s.exit_early(new, 1);
    check(
        &s.settle(),
        expect![[r#"
            d2 failed: exited: `web` ended 2 times before it was ready: exit code 1
            stop i2 (web): its deployment did not become live
        "#]],
    );
    assert_eq!(s.running(first).len(), 1);
    assert_eq!(insula_plan::routes::table(&s.world).routes[0].endpoints.len(), 1);
}

#[test]
fn an_instance_that_is_never_ready_fails_the_deployment_in_time() {
    let mut s = Scene::new();
    s.deploy(spec(&[("web", web(1))]));
    s.settle();
    s.later(Millis::secs(90));
    check(
        &s.settle(),
        expect![[r#"
            d1 failed: probe_failed: `web` was not ready within 1m: its node has not reported it
            stop i1 (web): its deployment did not become live
        "#]],
    );
}

#[test]
fn the_later_of_two_deployments_wins() {
    let mut s = Scene::new();
    s.deploy(spec(&[("web", web(1))]));
    s.settle();
    s.deploy(spec(&[("web", web(1))]));
    check(
        &s.settle(),
        expect![[r#"
            supersede d1 by d2
            cut a release for d2
            place web of d2 on node a
            stop i1 (web): its deployment did not become live
            wait d2: `web` is not reported yet
        "#]],
    );
}

#[test]
fn one_that_shifts_is_done_before_the_next_begins() {
    let mut s = Scene::new();
    s.deploy(spec(&[("web", web(1))]));
    s.settle();
    s.all_ready();
    s.settle();
    s.deploy(spec(&[("web", web(1))]));
    check(
        &s.settle(),
        expect![[r#"
            wait d1: the gateways have not confirmed the new routes yet
            wait d2: the deployment before it is shifting traffic
        "#]],
    );
    s.gateway_follows();
    check(
        &s.settle(),
        expect![[r#"
            d1 is live []
            cut a release for d2
            place web of d2 on node a
            wait d2: `web` is not reported yet
        "#]],
    );
}

#[test]
fn a_single_component_is_never_there_twice() {
    let mut s = Scene::new();
    let single = ComponentSpec { single: true, ..component(ComponentKind::Worker, 1) };
    s.deploy(spec(&[("clock", single.clone())]));
    s.settle();
    s.all_ready();
    s.settle();
    s.deploy(spec(&[("clock", single)]));
    check(
        &s.settle(),
        expect![[r#"
            cut a release for d2
            drain i1 (clock): makes way for the next one
            stop i1 (clock): replaced
            wait d2: `clock` is single: the old one has to end first
        "#]],
    );
    s.all_stopped_are_gone();
    check(
        &s.settle(),
        expect![[r#"
            forget i1 (clock)
            place clock of d2 on node a
            wait d2: `clock` is not reported yet
        "#]],
    );
    // It fails: what was live comes back.
    let new = s.instances()[0].id;
    s.exit_early(new, 1);
    s.exit_early(new, 1);
    check(
        &s.settle(),
        expect![[r#"
            d2 failed: exited: `clock` ended 2 times before it was ready: exit code 1
            stop i2 (clock): its deployment did not become live
            wait shop: `clock` is single: the old one has to end first
        "#]],
    );
    s.all_stopped_are_gone();
    check(
        &s.settle(),
        expect![[r#"
            forget i2 (clock)
            place clock of d1 on node a
        "#]],
    );
}

#[test]
fn builds_wait_for_their_org_and_failures_end_the_deployment() {
    let mut s = Scene::new();
    s.deploy_built(spec(&[("web", web(1))]));
    check(
        &s.settle(),
        expect![[r#"
            build d1 on node a
            wait d1: the build is running
        "#]],
    );
    s.build_ends(|| Scene::build_failed(CauseCode::BuildInterrupted));
    check(
        &s.settle(),
        expect![[r#"
            build d1 again, attempt 2
            wait d1: the build is running
        "#]],
    );
    s.build_ends(|| Scene::build_failed(CauseCode::BuildFailed));
    check(
        &s.settle(),
        expect![[r#"
            d1 failed: build_failed: pip said no
        "#]],
    );
    s.builds_at_once(0);
    s.deploy_built(spec(&[("web", web(1))]));
    check(
        &s.settle(),
        expect![[r#"
            wait d2: 0 builds of its org are running, of 0 at once
        "#]],
    );
    s.builds_at_once(1);
    s.settle();
    s.build_ends(Scene::built);
    check(
        &s.settle(),
        expect![[r#"
            cut a release for d2
            place web of d2 on node a
            wait d2: `web` is not reported yet
        "#]],
    );
}

#[test]
fn no_room_says_what_every_node_lacks() {
    let mut s = Scene::new();
    s.node("b", Bytes::mib(100));
    let big = ComponentSpec { memory: Bytes::gib(9), ..web(1) };
    s.deploy(spec(&[("web", big)]));
    check(
        &s.settle(),
        expect![[r#"
            cut a release for d1
            d1 failed: no_capacity: `web` cannot be placed: no node has 9GiB free: a 8GiB, b 100MiB
        "#]],
    );
}

#[test]
fn a_node_that_is_away_is_waited_for_a_little() {
    let mut s = Scene::new();
    s.world.heard.clear();
    s.deploy(spec(&[("web", web(1))]));
    check(
        &s.settle(),
        expect![[r#"
            cut a release for d1
            wait d1: `web` cannot be placed: no node answers: a
        "#]],
    );
    s.later(Millis::secs(15));
    check(
        &s.settle(),
        expect![[r#"
            d1 failed: no_capacity: `web` cannot be placed: no node answers: a
        "#]],
    );
}

#[test]
fn losing_contact_with_a_node_changes_nothing() {
    let (mut s, _) = live(2);
    s.world.heard.clear();
    s.later(Millis::secs(3600));
    check(&s.settle(), expect![""]);
}

#[test]
fn losing_the_gateways_stops_nothing_that_serves() {
    let (mut s, _) = live(2);
    s.world.edge = insula_plan::Edge::default();
    s.later(Millis::secs(3600));
    check(&s.settle(), expect![""]);
}

#[test]
fn scaling_adds_and_drains_the_youngest() {
    let (mut s, d) = live(1);
    let scale = |s: &mut Scene, n| {
        s.app_mut().scale.insert("web".parse().unwrap(), n);
    };
    scale(&mut s, 3);
    check(
        &s.settle(),
        expect![[r#"
            place web of d1 on node a, node a
        "#]],
    );
    s.all_ready();
    s.gateway_follows();
    scale(&mut s, 1);
    check(
        &s.settle(),
        expect![[r#"
            drain i3 (web): more of them than are asked for
            drain i2 (web): more of them than are asked for
            wait i2 (web): draining: requests are under way
            wait i3 (web): draining: requests are under way
        "#]],
    );
    assert_eq!(s.running(d).len(), 1);
}

#[test]
fn a_stopped_app_runs_nothing_and_comes_back() {
    let (mut s, _) = live(1);
    s.app_mut().running = false;
    s.settle();
    s.gateway_follows();
    s.settle();
    s.all_stopped_are_gone();
    check(
        &s.settle(),
        expect![[r#"
        forget i1 (web)
    "#]],
    );
    s.app_mut().running = true;
    check(
        &s.settle(),
        expect![[r#"
        place web of d1 on node a
    "#]],
    );
}

#[test]
fn a_rollback_uses_the_release_as_it_was() {
    let (mut s, _) = live(1);
    let first = s.world.apps[&s.app].live.clone().unwrap().release;
    s.deploy(spec(&[("web", web(2))]));
    s.settle();
    s.all_ready();
    s.settle();
    s.gateway_follows();
    s.settle();
    s.all_stopped_are_gone();
    s.settle();
    s.start(Source::Release { release: first });
    check(
        &s.settle(),
        expect![[r#"
            use a release for d3
            place web of d3 on node a
            wait d3: `web` is not reported yet
        "#]],
    );
}

#[test]
fn a_run_ends_with_its_exit_code_and_leaves_nothing() {
    let mut s = Scene::new();
    s.deploy(spec(&[("tidy", component(ComponentKind::Job, 1))]));
    check(
        &s.settle(),
        expect![[r#"
            cut a release for d1
            shift to d1, drain []
            d1 is live []
        "#]],
    );
    s.run_job("tidy");
    check(
        &s.settle(),
        expect![[r#"
        start the run on node a
    "#]],
    );
    let at = s.now;
    let instance = s.instances()[0].id;
    s.report(instance, |r| {
        r.phase = InstancePhase::Finished;
        r.last_exit = Some(ExitNote { exit: Exit::Code { code: 3 }, at, tail: vec![] });
    });
    check(
        &s.settle(),
        expect![[r#"
            the run ended: exit code 3
            stop i1 (tidy): its run is over
        "#]],
    );
    s.all_stopped_are_gone();
    check(
        &s.settle(),
        expect![[r#"
        forget i1 (tidy)
    "#]],
    );
}

#[test]
fn a_run_that_no_node_can_take_ends_with_the_reason() {
    let mut s = Scene::new();
    let job = ComponentSpec { memory: Bytes::gib(9), ..component(ComponentKind::Job, 1) };
    s.deploy(spec(&[("tidy", job)]));
    s.settle();
    s.run_job("tidy");
    let waiting = s.settle();
    check(
        &waiting,
        expect![[r#"
            wait the run: it cannot be placed: no node has 9GiB free: a 8GiB
        "#]],
    );
    s.later(Millis::secs(599));
    assert_eq!(s.settle(), waiting);
    s.later(Millis::secs(1));
    check(
        &s.settle(),
        expect![[r#"
            the run ended: not started: it could not be placed within 10m: no node has 9GiB free: a 8GiB
        "#]],
    );
}

#[test]
fn a_run_waits_for_a_node_that_is_away() {
    let mut s = Scene::new();
    s.deploy(spec(&[("tidy", component(ComponentKind::Job, 1))]));
    s.settle();
    let node = *s.world.heard.keys().next().unwrap();
    s.world.heard.clear();
    s.run_job("tidy");
    s.later(Millis::secs(3_600));
    check(
        &s.settle(),
        expect![[r#"
            wait the run: it cannot be placed: no node answers: a
        "#]],
    );
    s.world.heard.insert(node, Presence::Here);
    check(
        &s.settle(),
        expect![[r#"
            start the run on node a
        "#]],
    );
}

#[test]
fn a_run_that_was_cancelled_is_stopped() {
    let mut s = Scene::new();
    s.deploy(spec(&[("tidy", component(ComponentKind::Job, 1))]));
    s.settle();
    let run = s.run_job("tidy");
    s.settle();
    Arc::make_mut(s.world.runs.get_mut(&run).unwrap()).state = RunState::Cancelled;
    check(
        &s.settle(),
        expect![[r#"
            stop i1 (tidy): its run is over
        "#]],
    );
    s.all_stopped_are_gone();
    check(
        &s.settle(),
        expect![[r#"
            forget i1 (tidy)
        "#]],
    );
}

#[test]
fn a_deleted_app_leaves_nothing() {
    let (mut s, _) = live(2);
    s.world.apps.remove(&s.app);
    s.world.prune();
    check(
        &s.settle(),
        expect![[r#"
            stop i1 (web): its app was deleted
            stop i2 (web): its app was deleted
        "#]],
    );
    s.all_stopped_are_gone();
    s.settle();
    assert!(s.instances().is_empty());
}

#[test]
fn a_gateway_that_does_not_answer_delays_a_deployment_but_does_not_hold_it() {
    let mut s = Scene::new();
    s.world.edge = insula_plan::Edge::default();
    s.deploy(spec(&[("web", web(1))]));
    s.settle();
    s.all_ready();
    s.settle();
    s.later(Millis::secs(20));
    check(
        &s.settle(),
        expect![[r#"
            d1 is live ["no gateway confirmed the new routes within 20s"]
        "#]],
    );
}
