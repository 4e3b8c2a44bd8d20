//! Stories of nodes that are lost, come back, and are lost again.

use expect_test::{Expect, expect};

use crate::script::play;

fn check(line: &str, expect: Expect) {
    expect.assert_eq(&play(line));
}

#[test]
fn a_lost_node_gives_up_its_instances_once() {
    check(
        "nodes a b c; app web x3; lose b; obey",
        expect![[r#"
            lose b:
                give up node b
                start web.4 on a
            obey:
        "#]],
    );
}

#[test]
fn instances_of_a_lost_node_go_to_zones_that_have_none() {
    check(
        "nodes a@north b@north c@south d@east; app web x3; lose c; obey",
        expect![[r#"
            lose c:
                give up node c
                start web.4 on b
            obey:
        "#]],
    );
}

#[test]
fn what_comes_back_is_welcomed_and_only_the_surplus_leaves() {
    check(
        "nodes a b c; app web x3; lose b; obey; back b; obey",
        expect![[r#"
            lose b:
                give up node b
                start web.4 on a
            obey:
            back b:
                welcome node b
                drain web.4: more of them than are asked for
                wait web.4: draining: requests are under way
            obey:
                stop web.4: drained
                forget web.4
        "#]],
    );
}

#[test]
fn one_that_returns_before_its_replacement_is_ready_keeps_its_instance() {
    check(
        "nodes a b c; app web x3; lose b; back b; obey",
        expect![[r#"
            lose b:
                give up node b
                start web.4 on a
            back b:
                welcome node b
                drain web.4: more of them than are asked for
                stop web.4: drained
            obey:
                forget web.4
        "#]],
    );
}

#[test]
fn what_is_not_ready_leaves_before_what_is_younger() {
    check(
        "nodes a b c; app web x3; lose b; ready; unready web.1; back b; obey",
        expect![[r#"
            lose b:
                give up node b
                start web.4 on a
            ready:
            unready web.1:
            back b:
                welcome node b
                drain web.1: more of them than are asked for
                wait web.1: draining: requests are under way
            obey:
                stop web.1: drained
                forget web.1
        "#]],
    );
}

#[test]
fn no_surplus_leaves_while_fewer_than_wanted_are_ready() {
    check(
        "nodes a b c; app web x2; lose b; ready; unready web.1; silent a 1; back b; back a; obey",
        expect![[r#"
            lose b:
                give up node b
                start web.3 on c
            ready:
            unready web.1:
            silent a 1:
            back b:
                welcome node b
            back a:
                drain web.1: more of them than are asked for
                wait web.1: draining: requests are under way
            obey:
                stop web.1: drained
                forget web.1
        "#]],
    );
}

#[test]
fn a_node_that_flaps_starts_no_ping_pong() {
    check(
        "nodes a b; app web x2; lose b; obey; back b; obey; lose b; obey; back b; obey",
        expect![[r#"
            lose b:
                give up node b
                start web.3 on a
            obey:
            back b:
                welcome node b
                drain web.3: more of them than are asked for
                wait web.3: draining: requests are under way
            obey:
                stop web.3: drained
                forget web.3
            lose b:
                give up node b
                start web.4 on a
            obey:
            back b:
                welcome node b
                drain web.4: more of them than are asked for
                wait web.4: draining: requests are under way
            obey:
                stop web.4: drained
                forget web.4
        "#]],
    );
}

#[test]
fn a_suspect_node_changes_nothing_and_nothing_of_it_is_drained() {
    check(
        "nodes a b; app web x2; silent b 2; scale web 1; back b",
        expect![[r#"
            silent b 2:
            scale web 1:
            back b:
                drain web.2: more of them than are asked for
                wait web.2: draining: requests are under way
        "#]],
    );
}

#[test]
fn a_server_cut_off_from_every_node_stops_and_starts_nothing() {
    check(
        "nodes a b c; app web x3; lose a b c; later 3600; back a; back b; back c; obey",
        expect![[r#"
            lose a b c:
                give up node a
                give up node b
                give up node c
                wait shop: `web` cannot be placed: every node is lost: a, b, c
            later 3600:
                wait shop: `web` cannot be placed: every node is lost: a, b, c
            back a:
                welcome node a
                wait shop: `web`: no node was heard for a while, and 2 are on some that may be back in a moment
            back b:
                welcome node b
                wait shop: `web`: no node was heard for a while, and 1 are on some that may be back in a moment
            back c:
                welcome node c
            obey:
        "#]],
    );
}

#[test]
fn what_is_not_back_a_while_after_the_others_is_replaced() {
    check(
        "nodes a b c; app web x3; lose a b c; back a; back b; later 13; later 1; obey",
        expect![[r#"
            lose a b c:
                give up node a
                give up node b
                give up node c
                wait shop: `web` cannot be placed: every node is lost: a, b, c
            back a:
                welcome node a
                wait shop: `web`: no node was heard for a while, and 2 are on some that may be back in a moment
            back b:
                welcome node b
                wait shop: `web`: no node was heard for a while, and 1 are on some that may be back in a moment
            later 13:
                wait shop: `web`: no node was heard for a while, and 1 are on some that may be back in a moment
            later 1:
                start web.4 on a
            obey:
        "#]],
    );
}

#[test]
fn where_nothing_else_has_room_it_waits_for_the_node() {
    check(
        "nodes a=300MiB b=300MiB; app web x2; lose b; back b",
        expect![[r#"
            lose b:
                give up node b
                wait shop: `web` cannot be placed: no node has 256MiB free: a 44MiB, b lost
            back b:
                welcome node b
        "#]],
    );
}

#[test]
fn a_deployment_under_way_replaces_its_own_instances_too() {
    check(
        "nodes a b c; app web x2; deploy web x2; lose c; obey; back c; obey",
        expect![[r#"
            deploy web x2:
                cut a release for d2
                start web.3 on c
                start web.4 on a
                wait d2: `web` is not reported yet
                wait d2: `web` is not reported yet
            lose c:
                give up node c
                start web.5 on b
                wait d2: `web` is not reported yet
                wait d2: `web` is not reported yet
            obey:
                shift to d2, drain ["web.1", "web.2"]
                d2 is live []
                stop web.1: drained
                stop web.2: drained
                forget web.1
                forget web.2
            back c:
                welcome node c
                drain web.3: more of them than are asked for
                stop web.3: drained
            obey:
                forget web.3
        "#]],
    );
}

#[test]
fn a_deployment_is_not_failed_for_what_a_silent_node_did_not_say() {
    check(
        "nodes a b; app web; deploy web; silent b 2; later 120; back b; later 60; obey",
        expect![[r#"
            deploy web:
                cut a release for d2
                start web.2 on b
                wait d2: `web` is not reported yet
            silent b 2:
                wait d2: `web` is on b, which is not heard
            later 120:
                wait d2: `web` is on b, which is not heard
            back b:
                wait d2: `web` is not reported yet
            later 60:
                wait d2: `web` is not reported yet
            obey:
                shift to d2, drain ["web.1"]
                d2 is live []
                stop web.1: drained
                forget web.1
        "#]],
    );
}

#[test]
fn a_deployment_waits_a_while_for_a_node_that_had_the_only_room() {
    check(
        "nodes a=600MiB b=600MiB; app web x2; deploy web x2; lose b; later 296; later 1; back b; obey",
        expect![[r#"
            deploy web x2:
                cut a release for d2
                start web.3 on a
                start web.4 on b
                wait d2: `web` is not reported yet
                wait d2: `web` is not reported yet
            lose b:
                give up node b
                wait d2: `web` cannot be placed: no node has 256MiB free: a 88MiB, b lost
                wait shop: `web` cannot be placed: no node has 256MiB free: a 88MiB, b lost
            later 296:
                wait d2: `web` cannot be placed: no node has 256MiB free: a 88MiB, b lost
                wait shop: `web` cannot be placed: no node has 256MiB free: a 88MiB, b lost
            later 1:
                d2 failed: no_capacity: `web` cannot be placed: no node has 256MiB free: a 88MiB, b lost
                stop web.3: its deployment did not become live
                wait shop: `web` cannot be placed: no node has 256MiB free: a 88MiB, b lost
            back b:
                welcome node b
                stop web.4: its deployment did not become live
            obey:
                forget web.3
                forget web.4
        "#]],
    );
}

#[test]
fn a_removed_node_is_forgotten_and_replaced() {
    check(
        "nodes a b; app web x2; remove b; obey",
        expect![[r#"
            remove b:
                start web.3 on a
                forget web.2
            obey:
        "#]],
    );
}

#[test]
fn what_comes_back_with_an_older_release_is_drained() {
    check(
        "nodes a b; app web x2; lose b; obey; deploy web x2; obey; back b; obey",
        expect![[r#"
            lose b:
                give up node b
                start web.3 on a
            obey:
            deploy web x2:
                cut a release for d2
                start web.4 on a
                start web.5 on a
                wait d2: `web` is not reported yet
                wait d2: `web` is not reported yet
            obey:
                shift to d2, drain ["web.1", "web.3"]
                d2 is live []
                stop web.1: drained
                stop web.3: drained
                forget web.1
                forget web.3
            back b:
                welcome node b
                drain web.2: another release took over
                stop web.2: drained
            obey:
                forget web.2
        "#]],
    );
}

#[test]
fn a_run_on_a_lost_node_counts_as_running_until_it_is_back() {
    check(
        "nodes a b; app tidy job; run tidy; lose a; later 3600; back a; finished tidy.1; obey",
        expect![[r#"
            run tidy:
                start the run on node a
            lose a:
                give up node a
                wait the run: its node a is lost since 1970-01-01T00:16:43.000Z: it may still be running, and must not run twice; it ends as lost if a comes back without it or is removed
            later 3600:
                wait the run: its node a is lost since 1970-01-01T00:16:43.000Z: it may still be running, and must not run twice; it ends as lost if a comes back without it or is removed
            back a:
                welcome node a
            finished tidy.1:
                the run ended: exit code 0
                stop tidy.1: its run is over
            obey:
                forget tidy.1
        "#]],
    );
}

#[test]
fn a_run_ends_as_lost_when_its_node_comes_back_without_it() {
    check(
        "nodes a b; app tidy job; run tidy; ready; lose a; later 3600; back a; absent tidy.1; obey",
        expect![[r#"
            run tidy:
                start the run on node a
            ready:
            lose a:
                give up node a
                wait the run: its node a is lost since 1970-01-01T00:16:43.000Z: it may still be running, and must not run twice; it ends as lost if a comes back without it or is removed
            later 3600:
                wait the run: its node a is lost since 1970-01-01T00:16:43.000Z: it may still be running, and must not run twice; it ends as lost if a comes back without it or is removed
            back a:
                welcome node a
            absent tidy.1:
                the run ended: gone without a trace (a reboot?)
                stop tidy.1: its run is over
                forget tidy.1
            obey:
        "#]],
    );
}

#[test]
fn a_run_ends_as_lost_when_its_node_is_removed() {
    check(
        "nodes a b; app tidy job; run tidy; lose a; remove a; obey",
        expect![[r#"
            run tidy:
                start the run on node a
            lose a:
                give up node a
                wait the run: its node a is lost since 1970-01-01T00:16:43.000Z: it may still be running, and must not run twice; it ends as lost if a comes back without it or is removed
            remove a:
                forget tidy.1
                the run ended: gone without a trace (a reboot?)
            obey:
        "#]],
    );
}

#[test]
fn a_build_on_a_lost_node_begins_again_elsewhere_at_once() {
    check(
        "nodes a b; build web; lose a; built; obey",
        expect![[r#"
            build web:
                build d1 on node a
                wait d1: the build is running
            lose a:
                give up node a
                build d1 again, attempt 2
                wait d1: the build is running
            built:
                cut a release for d1
                start web.1 on b
                wait d1: `web` is not reported yet
            obey:
                shift to d1, drain []
                d1 is live []
        "#]],
    );
}

#[test]
fn a_build_that_nobody_else_can_take_goes_on_if_its_node_is_back() {
    check(
        "nodes a; build web; lose a; later 60; back a; built; obey",
        expect![[r#"
            build web:
                build d1 on node a
                wait d1: the build is running
            lose a:
                give up node a
                wait d1: the node of its build is lost, and no other can take it: every node is lost: a
            later 60:
                wait d1: the node of its build is lost, and no other can take it: every node is lost: a
            back a:
                welcome node a
                wait d1: the build is running
            built:
                cut a release for d1
                start web.1 on a
                wait d1: `web` is not reported yet
            obey:
                shift to d1, drain []
                d1 is live []
        "#]],
    );
}
