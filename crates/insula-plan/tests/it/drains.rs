//! Stories of nodes that are drained and cordoned.

use expect_test::{Expect, expect};

use crate::script::play;

fn check(line: &str, expect: Expect) {
    expect.assert_eq(&play(line));
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
