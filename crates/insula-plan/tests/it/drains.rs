//! Stories of nodes that are drained and cordoned.

use expect_test::{Expect, expect};
use insula_model::instance::Intent;
use insula_model::node::NodeState;
use insula_model::observed::InstancePhase;
use insula_model::{InstanceId, NodeId};
use insula_plan::nodes::{self, DrainPreview, Ending};

use crate::script::{Script, play};

fn check(line: &str, expect: Expect) {
    expect.assert_eq(&play(line));
}

/// What is said beforehand of a drain.
pub fn preview(s: &Script, node: &str) -> String {
    let found = nodes::drain_preview(&s.scene.world, s.scene.node_id(node));
    let name = |id: &InstanceId| s.scene.name_of(*id);
    let mut said = String::new();
    found.moves.iter().for_each(|id| said += &format!("{} moves\n", name(id)));
    let first = found.leave_first.iter();
    first.for_each(|(id, why)| said += &format!("{} leaves first: {why}\n", name(id)));
    found.cannot.iter().for_each(|(id, why)| said += &format!("{} stays: {why}\n", name(id)));
    for (what, how) in &found.goes_on {
        said += &match what {
            Ending::Instance(id) => format!("{}: {how}\n", name(id)),
            Ending::Build(_) => format!("{how}\n"),
        };
    }
    s.scene.told(&said)
}

/// Drains a node to the end, and holds what was said of it beforehand against what happened.
fn said_and_done(line: &str, node: &str, expect: Expect) {
    let mut s = Script::new(line);
    expect.assert_eq(&preview(&s, node));
    let id = s.scene.node_id(node);
    let said = nodes::drain_preview(&s.scene.world, id);
    let there: Vec<InstanceId> = s.scene.world.instances.of_node(id).map(|i| i.id).collect();
    let ready: Vec<InstanceId> = there.iter().copied().filter(|i| is_ready(&s, *i)).collect();
    let mut named = instances_of(&said);
    named.sort_unstable();
    assert_eq!(named, there, "everything that is there is spoken of once");

    let told = s.then(&format!("drain {node}; obey"));
    let is_gone = |one: &InstanceId| s.scene.world.instances.get(one).is_none();
    let serving = |ids: &mut dyn Iterator<Item = InstanceId>| -> Vec<InstanceId> {
        ids.filter(|id| ready.contains(id)).collect()
    };
    for one in &said.moves {
        assert!(is_gone(one), "{} was to move:\n{told}", s.scene.name_of(*one));
    }
    for one in serving(&mut said.moves.iter().copied()) {
        let (leaves, started) = left(&s, &told, one);
        assert!(started >= leaves, "others were there first:\n{told}");
    }
    for (one, _) in &said.leave_first {
        let (leaves, started) = left(&s, &told, *one);
        assert!(is_gone(one) && started < leaves, "it was to leave first:\n{told}");
    }
    for (one, why) in &said.cannot {
        let moved = format!("drain {}: its node is being drained", s.scene.name_of(*one));
        assert!(!told.contains(&moved), "{moved}, and was to stay: {why}");
        assert_eq!(is_gone(one), why.contains("dep_"), "it stays but for a deployment:\n{told}");
    }
    for (what, how) in &said.goes_on {
        let goes_on = match what {
            Ending::Instance(one) => !is_gone(one),
            Ending::Build(_) => builds(&s, id),
        };
        assert_eq!(goes_on, how.contains("goes on"), "it {how}:\n{told}");
    }
    let drained = nodes::state(&s.scene.world, &s.scene.world.nodes[&id]) == NodeState::Drained;
    assert_eq!(drained, there.iter().all(is_gone) && !builds(&s, id));
}

fn instances_of(said: &DrainPreview) -> Vec<InstanceId> {
    let pairs = said.leave_first.iter().chain(&said.cannot).map(|(one, _)| *one);
    let ends = said.goes_on.iter().filter_map(|(what, _)| match what {
        Ending::Instance(one) => Some(*one),
        Ending::Build(_) => None,
    });
    said.moves.iter().copied().chain(pairs).chain(ends).collect()
}

fn is_ready(s: &Script, one: InstanceId) -> bool {
    let row = s.scene.world.instances.get(&one).expect("it is there");
    let ready = row.observed.present().is_some_and(|r| r.phase == InstancePhase::Ready);
    ready && row.intent == Intent::Run
}

fn builds(s: &Script, node: NodeId) -> bool {
    let state = |build: &insula_model::build::Build| format!("{:?}", build.state);
    s.scene.world.builds_under_way().any(|build| state(build).contains(&format!("{node:?}")))
}

/// As which of its component an instance had to leave, and how many others had been started by then.
fn left(s: &Script, told: &str, one: InstanceId) -> (usize, usize) {
    let name = s.scene.name_of(one);
    let component = name.split('.').next().expect("web.1");
    let leaves = format!("drain {component}.");
    let starts = format!("start {component}.");
    let (mut gone, mut started) = (0, 0);
    for line in told.lines().map(str::trim) {
        started += usize::from(line.starts_with(&starts));
        gone += usize::from(line.starts_with(&leaves));
        if line.starts_with(&format!("drain {name}:")) {
            return (gone, started);
        }
    }
    panic!("{name} never left:\n{told}")
}

#[test]
fn each_one_leaves_when_its_replacement_is_ready() {
    check(
        "nodes a b; app web x3; drain a; ready; obey; uncordon a",
        expect![[r#"
            drain a:
                start web.4 on b
                wait node a: `web` of shop waits until its replacement on b is ready
                wait node a: `web` of shop waits until its replacement on b is ready
            ready:
                drain web.3: its node is being drained
                start web.5 on b
                wait node a: `web` of shop finishes its requests
                wait node a: `web` of shop waits until its replacement on b is ready
                wait web.3: draining: requests are under way
            obey:
                drain web.1: its node is being drained
                stop web.3: drained
                stop web.1: drained
                forget web.3
                forget web.1
            uncordon a:
        "#]],
    );
}

#[test]
fn what_has_no_room_elsewhere_stays_and_says_why() {
    check(
        "nodes a b=300MiB; app web x3; drain a; obey",
        expect![[r#"
            drain a:
                start web.4 on b
                wait node a: `web` of shop waits until its replacement on b is ready
                wait node a: `web` of shop waits until its replacement on b is ready
                wait node a: `web` of shop waits until its replacement on b is ready
            obey:
                drain web.3: its node is being drained
                stop web.3: drained
                forget web.3
                wait node a: `web` of shop stays: no node has 256MiB free: b 44MiB, a draining
                wait node a: `web` of shop stays: no node has 256MiB free: b 44MiB, a draining
        "#]],
    );
}

#[test]
fn an_app_that_is_never_ready_does_not_keep_a_node() {
    check(
        "nodes a b; app web x1; drain a; later 89; later 1; obey",
        expect![[r#"
            drain a:
                start web.2 on b
                wait node a: `web` of shop waits until its replacement on b is ready
            later 89:
                wait node a: `web` of shop waits until its replacement on b is ready
            later 1:
                drain web.1: its node is being drained
                wait node a: `web` of shop finishes its requests
                wait web.1: draining: requests are under way
            obey:
                stop web.1: drained
                forget web.1
        "#]],
    );
}

#[test]
fn nothing_leaves_a_drained_node_that_is_silent() {
    check(
        "nodes a b; app web x2; drain a; silent a 1; ready; back a; obey",
        expect![[r#"
            drain a:
                start web.3 on b
                wait node a: `web` of shop waits until its replacement on b is ready
            silent a 1:
                wait node a: `web` of shop waits until its node is heard again
            ready:
                wait node a: `web` of shop waits until its node is heard again
            back a:
                drain web.1: its node is being drained
                wait node a: `web` of shop finishes its requests
                wait web.1: draining: requests are under way
            obey:
                stop web.1: drained
                forget web.1
        "#]],
    );
}

#[test]
fn a_cordoned_node_keeps_what_it_has() {
    check(
        "nodes a b; app web x2; cordon a; scale web 4; uncordon a; scale web 6",
        expect![[r#"
            cordon a:
            scale web 4:
                start web.3 on b
                start web.4 on b
            uncordon a:
            scale web 6:
                start web.5 on a
                start web.6 on a
        "#]],
    );
}

#[test]
fn a_drain_that_is_called_off_takes_back_what_is_too_many() {
    check(
        "nodes a b; app web x2; drain a; uncordon a; obey",
        expect![[r#"
            drain a:
                start web.3 on b
                wait node a: `web` of shop waits until its replacement on b is ready
            uncordon a:
                drain web.3: more of them than are asked for
                stop web.3: drained
            obey:
                forget web.3
        "#]],
    );
}

#[test]
fn a_drained_node_that_is_lost_is_drained_when_it_is_back() {
    check(
        "nodes a b c; app web x3; drain a; lose a; obey; back a; obey",
        expect![[r#"
            drain a:
                start web.4 on b
                wait node a: `web` of shop waits until its replacement on b is ready
            lose a:
                give up node a
            obey:
            back a:
                welcome node a
                drain web.1: its node is being drained
                stop web.1: drained
                wait node a: `web` of shop is ending
            obey:
                forget web.1
        "#]],
    );
}

#[test]
fn a_deployment_under_way_moves_too() {
    check(
        "nodes a b; app web x2; deploy web x2; drain a; obey",
        expect![[r#"
            deploy web x2:
                cut a release for d2
                start web.3 on a
                start web.4 on b
                wait d2: `web` is not reported yet
                wait d2: `web` is not reported yet
            drain a:
                start web.5 on b
                drain web.3: its node is being drained
                stop web.3: drained
                wait node a: `web` of shop is ending
                wait d2: `web` is not reported yet
                wait d2: `web` is not reported yet
                wait node a: `web` of shop waits for the deployment that replaces it
            obey:
                shift to d2, drain ["web.1", "web.2"]
                forget web.3
                d2 is live []
                stop web.1: drained
                stop web.2: drained
                forget web.1
                forget web.2
        "#]],
    );
}

#[test]
fn a_rolling_deployment_leaves_a_drained_node() {
    check(
        "nodes a b c; app web x3 rolling 1/0; deploy web x3 rolling 1/0; drain a; obey",
        expect![[r#"
            deploy web x3 rolling 1/0:
                cut a release for d2
                start web.4 on a
                wait d2: `web` rolls: 0 of 3 new ones are ready, 3 old left
                wait d2: `web` is not reported yet
            drain a:
                drain web.4: its node is being drained
                stop web.4: drained
                wait node a: `web` of shop is ending
                wait d2: `web` rolls: 0 of 3 new ones are ready, 3 old left
            obey:
                forget web.4
                start web.5 on b
                drain web.3: replaced
                stop web.3: drained
                forget web.3
                start web.6 on c
                drain web.2: replaced
                stop web.2: drained
                forget web.2
                start web.7 on b
                drain web.1: replaced
                shift to d2, drain []
                d2 is live []
                stop web.1: drained
                forget web.1
        "#]],
    );
}

#[test]
fn a_run_on_a_drained_node_goes_on_to_its_end() {
    check(
        "nodes a b; app tidy job; run tidy; drain a; finished tidy.1; obey",
        expect![[r#"
            run tidy:
                start the run on node a
            drain a:
                wait node a: `tidy` of shop is a run: it goes on to its end
            finished tidy.1:
                the run ended: exit code 0
                stop tidy.1: its run is over
                wait node a: `tidy` of shop is ending
            obey:
                forget tidy.1
        "#]],
    );
}

#[test]
fn every_node_drained_at_once_moves_nothing() {
    check(
        "nodes a b; app web x2; drain a; drain b; obey",
        expect![[r#"
            drain a:
                start web.3 on b
                wait node a: `web` of shop waits until its replacement on b is ready
            drain b:
                drain web.3: its node is being drained
                stop web.3: drained
                wait node b: `web` of shop is ending
                wait node b: `web` of shop stays: every node is draining: a, b
                wait node a: `web` of shop stays: every node is draining: a, b
            obey:
                forget web.3
                wait node b: `web` of shop stays: every node is draining: a, b
                wait node a: `web` of shop stays: every node is draining: a, b
        "#]],
    );
}

#[test]
fn a_move_that_had_begun_is_called_off_when_a_deployment_replaces_all() {
    check(
        "nodes a b; app web x2; drain a; deploy web x2; obey; settle",
        expect![[r#"
            drain a:
                start web.3 on b
                wait node a: `web` of shop waits until its replacement on b is ready
            deploy web x2:
                cut a release for d2
                start web.4 on b
                start web.5 on b
                drain web.3: more of them than are asked for
                stop web.3: drained
                wait d2: `web` is not reported yet
                wait d2: `web` is not reported yet
                wait node a: `web` of shop waits for the deployment that replaces it
            obey:
                shift to d2, drain ["web.1", "web.2"]
                forget web.3
                d2 is live []
                stop web.1: drained
                stop web.2: drained
                forget web.1
                forget web.2
            settle:
        "#]],
    );
}

#[test]
fn what_was_not_replaced_after_all_moves() {
    check(
        "nodes a b; app web x2; deploy web x2; drain a; crash web.4; obey; settle",
        expect![[r#"
            deploy web x2:
                cut a release for d2
                start web.3 on a
                start web.4 on b
                wait d2: `web` is not reported yet
                wait d2: `web` is not reported yet
            drain a:
                start web.5 on b
                drain web.3: its node is being drained
                stop web.3: drained
                wait node a: `web` of shop is ending
                wait d2: `web` is not reported yet
                wait d2: `web` is not reported yet
                wait node a: `web` of shop waits for the deployment that replaces it
            crash web.4:
                d2 failed: exited: `web` ended 2 times before it was ready: exit code 1
                stop web.4: its deployment did not become live
                stop web.5: its deployment did not become live
                start web.6 on b
                wait node a: `web` of shop is ending
                wait node a: `web` of shop waits until its replacement on b is ready
            obey:
                drain web.1: its node is being drained
                forget web.3
                forget web.4
                forget web.5
                stop web.1: drained
                forget web.1
            settle:
        "#]],
    );
}

#[test]
fn what_was_said_of_a_drain_is_what_it_does() {
    said_and_done(
        "nodes a b; app web x3",
        "a",
        expect![[r#"
        web.3 moves
        web.1 moves
    "#]],
    );
}

#[test]
fn who_has_room_elsewhere_is_said_and_moves() {
    said_and_done(
        "nodes a b=300MiB; app web x3",
        "a",
        expect![[r#"
        web.3 moves
        web.2 stays: no node has 256MiB free: b 44MiB, a draining
        web.1 stays: no node has 256MiB free: b 44MiB, a draining
    "#]],
    );
}

#[test]
fn of_several_components_those_with_room_are_said_and_move() {
    said_and_done(
        "nodes a b=600MiB; app web x2 300MiB, clock single, big 1GiB",
        "a",
        expect![[r#"
            web.2 moves
            big.1 stays: no node has 1GiB free: b 344MiB, a draining
            web.1 stays: no node has 300MiB free: b 44MiB, a draining
        "#]],
    );
}

#[test]
fn a_single_one_leaves_first_as_was_said() {
    said_and_done(
        "nodes a b; app clock single",
        "a",
        expect![[r#"
        clock.1 leaves first: there may never be two of it
    "#]],
    );
}

#[test]
fn what_may_be_unavailable_leaves_first_as_was_said() {
    said_and_done(
        "nodes a b; app web x2 rolling 0/1",
        "a",
        expect![[r#"
        web.1 leaves first: 1 of its component may be unavailable
    "#]],
    );
}

#[test]
fn what_rolls_with_a_surge_moves_as_was_said() {
    said_and_done(
        "nodes a b; app web x3 rolling 1/0",
        "a",
        expect![[r#"
        web.3 moves
        web.1 moves
    "#]],
    );
}

#[test]
fn what_a_deployment_replaces_waits_for_it_as_was_said() {
    said_and_done(
        "nodes a b; app web x2; deploy web x2",
        "a",
        expect![[r#"
        web.3 moves
        web.1 stays: it waits for d2, which is about to replace it
    "#]],
    );
}

#[test]
fn what_a_rolling_deployment_replaces_waits_for_it_as_was_said() {
    said_and_done(
        "nodes a b c; app web x3 rolling 1/0; deploy web x3 rolling 1/0",
        "a",
        expect![[r#"
            web.4 moves
            web.1 stays: it waits for d2, which is about to replace it
        "#]],
    );
}

#[test]
fn a_run_goes_on_as_was_said() {
    said_and_done(
        "nodes a b; app tidy job; run tidy",
        "a",
        expect![[r#"
        tidy.1: a run goes on to its end
    "#]],
    );
}

#[test]
fn a_build_goes_on_as_was_said() {
    said_and_done(
        "nodes a b; app web x2; build web x2",
        "a",
        expect![[r#"
        web.1 moves
        a build goes on to its end
    "#]],
    );
}

#[test]
fn what_leaves_already_is_said_to_leave() {
    said_and_done(
        "nodes a b; app web x2; scale web 1",
        "b",
        expect![[r#"
        web.2: it finishes its requests
    "#]],
    );
}

#[test]
fn what_is_not_heard_waits_as_was_said() {
    said_and_done(
        "nodes a b; app web x2; silent a 1",
        "a",
        expect![[r#"
        web.1 stays: its node is not heard: it moves once that answers
    "#]],
    );
}

#[test]
fn an_empty_node_is_said_to_be_empty() {
    said_and_done("nodes a b; app web x1", "b", expect![[r#""#]]);
}
