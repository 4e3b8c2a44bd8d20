//! What is told: routes, names, events, and the reasons that `why` gives, while a fleet fares badly.

use expect_test::{Expect, expect};
use insula_model::node::NodeState;
use insula_model::{GatewayId, Timestamp};
use insula_plan::{nodes, target, why};

use crate::drains::preview;
use crate::script::Script;

fn check(said: impl AsRef<str>, expect: Expect) {
    expect.assert_eq(said.as_ref());
}

fn lines(said: &[String]) -> String {
    said.iter().map(|line| format!("{line}\n")).collect()
}

/// Gives every node a relay, as nodes of a fleet have.
fn with_relays(s: &mut Script) {
    s.scene.all_nodes(|node| node.relay = Some(([10, 1, 0, 1], 7_000).into()));
}

#[test]
fn old_and_new_serve_side_by_side_while_a_component_rolls_and_not_after() {
    let mut s = Script::new("nodes a b; app web x3 rolling 1/0; deploy web x3 rolling 1/0; ready");
    let names = |s: &Script, names: &[&str]| -> Vec<_> {
        names.iter().map(|name| s.scene.named(name)).collect()
    };
    assert_eq!(s.routed(), names(&s, &["web.1", "web.2", "web.4"]));
    s.then("obey");
    assert_eq!(s.routed(), names(&s, &["web.4", "web.5", "web.6"]));
}

#[test]
fn what_starts_beside_the_live_release_serves_only_from_the_shift_on() {
    let mut s = Script::new("nodes a b; app web, api; deploy web, api; ready web.2");
    assert_eq!(s.routed(), vec![s.scene.named("web.1")]);
    s.then("ready; obey");
    assert_eq!(s.routed(), vec![s.scene.named("web.2")]);
}

#[test]
fn a_lost_node_has_no_routes_unless_there_is_nothing_else() {
    let mut s = Script::new("nodes a b; app web x2; lose b");
    assert_eq!(s.routed(), vec![s.scene.named("web.1")]);
    // Cut off from all of them, the control plane takes nothing from the gateways.
    s.then("lose a");
    assert_eq!(s.routed(), vec![s.scene.named("web.1"), s.scene.named("web.2")]);
    s.then("back a; back b; obey");
    assert_eq!(s.routed(), vec![s.scene.named("web.1"), s.scene.named("web.2")]);
}

#[test]
fn a_lost_node_may_call_and_is_not_called() {
    let mut s = Script::new("nodes a b c; app web x2");
    with_relays(&mut s);
    let gateway = GatewayId::from_parts(Timestamp::from_millis(7), [7; 10]);
    let row = insula_model::fleet::Gateway {
        id: gateway,
        version: "0".into(),
        joined: s.scene.now,
        hello: s.scene.now,
    };
    s.scene.world.apply(insula_model::feed::Change::Gateway(Box::new(row)));
    let fleet = |s: &Script, node: &str| target::node(&s.scene.world, s.scene.node_id(node)).fleet;
    let b = s.scene.node_id("b");
    assert_eq!(fleet(&s, "a").gateways, [gateway].into());
    assert!(fleet(&s, "a").neighbours[&b].instances.contains_key(&s.scene.named("web.2")));
    assert!(fleet(&s, "c").neighbours.is_empty(), "it runs nothing of that environment");
    s.then("lose b");
    assert!(fleet(&s, "a").neighbours[&b].instances.is_empty());
}

#[test]
fn nobody_of_another_environment_is_a_neighbour() {
    let mut s = Script::new("nodes a b; app web x1");
    with_relays(&mut s);
    s.scene.another_environment();
    s.then("deploy web x2; obey");
    let node = |name: &str| s.scene.node_id(name);
    let ours = target::node(&s.scene.world, node("a")).fleet.neighbours;
    let reached: Vec<_> = ours[&node("b")].instances.values().map(|r| r.environment).collect();
    let theirs = s.scene.world.apps[&s.scene.app].environment;
    assert_eq!(reached, vec![theirs], "only what shares an environment with something here");
    assert_eq!(s.scene.world.environments.len(), 2);
}

#[test]
fn the_operator_reads_of_nodes_that_are_lost_welcomed_and_drained() {
    let mut s = Script::new("nodes a b; app web x2; lose b; obey; back b; obey; drain b; obey");
    s.then("settle");
    check(
        lines(&s.scene.events),
        expect![[r#"
            node.lost: b was not heard for 3s: it is given up
            node.welcomed: b is back, and was welcomed
            node.drained: b is drained: it holds no instance any more
        "#]],
    );
}

#[test]
fn one_word_says_how_a_node_fares() {
    let mut s = Script::new("nodes a b; app web x2");
    let mut said = String::new();
    let story =
        ["settle", "silent b 1", "lose b", "back b", "cordon b", "drain b", "obey", "uncordon b"];
    for line in story {
        s.then(line);
        let id = s.scene.node_id("b");
        let state: NodeState = nodes::state(&s.scene.world, &s.scene.world.nodes[&id]);
        said += &format!("{line}: {state}\n");
    }
    check(
        said,
        expect![[r#"
        settle: ready
        silent b 1: suspect
        lose b: lost
        back b: ready
        cordon b: cordoned
        drain b: draining
        obey: drained
        uncordon b: ready
    "#]],
    );
}

#[test]
fn a_drain_says_beforehand_what_moves_and_what_cannot() {
    let s = Script::new(
        "nodes a b=600MiB; app web x2 300MiB, clock single, big 1GiB, tidy job; run tidy",
    );
    check(
        preview(&s, "a"),
        expect![[r#"
            web.2 moves
            big.1 stays: no node has 1GiB free: b 344MiB, a draining
            web.1 stays: no node has 300MiB free: b 44MiB, a draining
            tidy.1: a run goes on to its end
        "#]],
    );
    check(
        preview(&s, "b"),
        expect![[r#"
            clock.1 leaves first: there may never be two of it
        "#]],
    );
}

#[test]
fn a_lost_node_is_no_node_to_drain() {
    let s = Script::new("nodes a b; app web x2; lose a");
    let found = nodes::drain_preview(&s.scene.world, s.scene.node_id("a"));
    assert!(found.moves.is_empty() && found.leave_first.is_empty());
    check(&found.cannot[0].1, expect!["its node is lost: nothing there can be told to end"]);
}

#[test]
fn why_tells_of_a_node() {
    let mut s = Script::new("nodes a b=300MiB; app web x3; drain a; obey");
    let why_of = |s: &Script, node: &str| {
        let plan = insula_plan::plan(&s.scene.world, s.scene.now);
        lines(&why::node(&s.scene.world, &plan, s.scene.node_id(node)))
    };
    check(
        why_of(&s, "a"),
        expect![[r#"
        it is being drained since 1970-01-01T00:16:40.000Z: what it has moves to others
        instances that should run: 2
        `web` of shop stays: no node has 256MiB free: b 44MiB, a draining
        `web` of shop stays: no node has 256MiB free: b 44MiB, a draining
    "#]],
    );
    check(
        why_of(&s, "b"),
        expect![[r#"
        it is ready and gets new instances
        instances that should run: 1
    "#]],
    );
    s.then("lose b");
    check(
        why_of(&s, "b"),
        expect![[r#"
        it is lost since 1970-01-01T00:16:43.000Z: what it has is replaced elsewhere, but for single instances and runs; nothing there is stopped
        instances that should run: 1
    "#]],
    );
}

#[test]
fn why_tells_of_a_drained_node_that_builds() {
    let s = Script::new("nodes a b; app web x2; build web x2; drain a; obey");
    let plan = insula_plan::plan(&s.scene.world, s.scene.now);
    check(
        lines(&why::node(&s.scene.world, &plan, s.scene.node_id("a"))),
        expect![[r#"
        it is being drained since 1970-01-01T00:16:40.000Z: what it has moves to others
        builds under way: 1
        a build of shop goes on to its end
    "#]],
    );
}

#[test]
fn why_tells_an_app_of_its_lost_node_and_what_to_do() {
    let s = Script::new("nodes a b; app web x2, clock single; lose a");
    let plan = insula_plan::plan(&s.scene.world, s.scene.now);
    let said = why::app(&s.scene.world, s.scene.app, None, &plan);
    check(
        s.scene.told(&lines(&said)),
        expect![[r#"
        d1 is live since 1970-01-01T00:16:40.000Z
        `clock` is single and its node a is lost since 1970-01-01T00:16:43.000Z: it is replaced once that is back or removed (`failover = "lease"` would replace it by itself)
        clock.1 (clock): a is lost since 1970-01-01T00:16:43.000Z; this is what it said last; there may never be two of it, so it is not replaced yet; it should run; it is ready
        web.2 (web): a is lost since 1970-01-01T00:16:43.000Z; this is what it said last; it is replaced elsewhere, and what is too many ends once that is back; it should run; it is ready
        web.3 (web): it should run; its node has not reported it yet
    "#]],
    );
}

#[test]
fn why_tells_a_deployment_which_node_lacks_what() {
    let s = Script::new("nodes a=300MiB b=1GiB c; app web; cordon c; lose b; deploy web 512MiB");
    let plan = insula_plan::plan(&s.scene.world, s.scene.now);
    let newest = s.scene.world.deployments.values().next_back().unwrap();
    check(
        lines(&why::deployment(newest, &plan)),
        expect![[r#"
        it is starting
        `web` cannot be placed: no node has 512MiB free: a 300MiB, b lost, c cordoned
    "#]],
    );
}
