//! Stories of rollouts that exchange instances one by one, and of those that go back.

use expect_test::{Expect, expect};

use crate::script::play;

fn check(line: &str, expect: Expect) {
    expect.assert_eq(&play(line));
}

#[test]
fn three_are_exchanged_one_by_one_and_the_new_ones_serve_while_it_rolls() {
    check(
        "nodes a b; app web x3 rolling 1/0; deploy web x3 rolling 1/0; ready; follow; gone; obey",
        expect![[r#"
            deploy web x3 rolling 1/0:
                cut a release for d2
                start web.4 on b
                wait d2: `web` rolls: 0 of 3 new ones are ready, 3 old left
                wait d2: `web` is not reported yet
            ready:
                drain web.3: replaced
                wait d2: `web` rolls: 1 of 3 new ones are ready, 2 old left
                wait web.3: draining: requests are under way
            follow:
                stop web.3: drained
                wait d2: `web` rolls: 1 of 3 new ones are ready, 2 old left
            gone:
                forget web.3
                start web.5 on a
                wait d2: `web` rolls: 1 of 3 new ones are ready, 2 old left
                wait d2: `web` is not reported yet
            obey:
                drain web.2: replaced
                stop web.2: drained
                forget web.2
                start web.6 on b
                drain web.1: replaced
                shift to d2, drain []
                d2 is live []
                stop web.1: drained
                forget web.1
        "#]],
    );
}

#[test]
fn without_a_surge_an_old_one_leaves_first() {
    check(
        "nodes a b; app web x3 rolling 0/1; deploy web x3 rolling 0/1; follow; gone; obey",
        expect![[r#"
            deploy web x3 rolling 0/1:
                cut a release for d2
                drain web.3: replaced
                wait d2: `web` rolls: 0 of 3 new ones are ready, 2 old left
                wait web.3: draining: requests are under way
            follow:
                stop web.3: drained
                wait d2: `web` rolls: 0 of 3 new ones are ready, 2 old left
            gone:
                forget web.3
                start web.4 on a
                wait d2: `web` rolls: 0 of 3 new ones are ready, 2 old left
                wait d2: `web` is not reported yet
            obey:
                drain web.2: replaced
                stop web.2: drained
                forget web.2
                start web.5 on b
                drain web.1: replaced
                stop web.1: drained
                forget web.1
                start web.6 on a
                shift to d2, drain []
                d2 is live []
        "#]],
    );
}

#[test]
fn neither_surge_nor_unavailable_counts_as_a_surge_of_one() {
    check(
        "nodes a b; app web x2 rolling 0/0; deploy web x2 rolling 0/0; obey",
        expect![[r#"
            deploy web x2 rolling 0/0:
                cut a release for d2
                start web.3 on a
                wait d2: `web` rolls: 0 of 2 new ones are ready, 2 old left
                wait d2: `web` is not reported yet
            obey:
                drain web.2: replaced
                stop web.2: drained
                forget web.2
                start web.4 on b
                drain web.1: replaced
                shift to d2, drain []
                d2 is live []
                stop web.1: drained
                forget web.1
        "#]],
    );
}

#[test]
fn a_failure_midway_goes_back_and_the_new_ones_leave_as_the_old_ones_are_back() {
    check(
        "nodes a b; app web x4 rolling 1/0; deploy web x4 rolling 1/0; ready; follow; gone; ready; follow; gone; crash web.7; settle; ready; follow; gone; ready; obey",
        expect![[r#"
            deploy web x4 rolling 1/0:
                cut a release for d2
                start web.5 on a
                wait d2: `web` rolls: 0 of 4 new ones are ready, 4 old left
                wait d2: `web` is not reported yet
            ready:
                drain web.4: replaced
                wait d2: `web` rolls: 1 of 4 new ones are ready, 3 old left
                wait web.4: draining: requests are under way
            follow:
                stop web.4: drained
                wait d2: `web` rolls: 1 of 4 new ones are ready, 3 old left
            gone:
                forget web.4
                start web.6 on b
                wait d2: `web` rolls: 1 of 4 new ones are ready, 3 old left
                wait d2: `web` is not reported yet
            ready:
                drain web.3: replaced
                wait d2: `web` rolls: 2 of 4 new ones are ready, 2 old left
                wait web.3: draining: requests are under way
            follow:
                stop web.3: drained
                wait d2: `web` rolls: 2 of 4 new ones are ready, 2 old left
            gone:
                forget web.3
                start web.7 on a
                wait d2: `web` rolls: 2 of 4 new ones are ready, 2 old left
                wait d2: `web` is not reported yet
            crash web.7:
                d2 failed: exited: `web` ended 2 times before it was ready: exit code 1
                stop web.7: its deployment did not become live
            settle:
            ready:
            follow:
            gone:
                forget web.7
                start web.8 on a
            ready:
                drain web.6: replaced
                wait web.6: draining: requests are under way
            obey:
                stop web.6: drained
                forget web.6
                start web.9 on b
                drain web.5: replaced
                stop web.5: drained
                forget web.5
        "#]],
    );
}

#[test]
fn one_that_is_overtaken_is_held_until_the_next_takes_its_place() {
    check(
        "nodes a b; app web x2 rolling 1/0; deploy web x2 rolling 1/0; ready; follow; gone; deploy web x2 rolling 1/0; obey",
        expect![[r#"
            deploy web x2 rolling 1/0:
                cut a release for d2
                start web.3 on a
                wait d2: `web` rolls: 0 of 2 new ones are ready, 2 old left
                wait d2: `web` is not reported yet
            ready:
                drain web.2: replaced
                wait d2: `web` rolls: 1 of 2 new ones are ready, 1 old left
                wait web.2: draining: requests are under way
            follow:
                stop web.2: drained
                wait d2: `web` rolls: 1 of 2 new ones are ready, 1 old left
            gone:
                forget web.2
                start web.4 on b
                wait d2: `web` rolls: 1 of 2 new ones are ready, 1 old left
                wait d2: `web` is not reported yet
            deploy web x2 rolling 1/0:
                supersede d2 by d3
                cut a release for d3
                drain web.4: replaced
                stop web.4: drained
                wait d3: `web` rolls: 0 of 2 new ones are ready, 2 old left
            obey:
                forget web.4
                start web.5 on b
                drain web.3: replaced
                stop web.3: drained
                forget web.3
                start web.6 on a
                drain web.1: replaced
                shift to d3, drain []
                d3 is live []
                stop web.1: drained
                forget web.1
        "#]],
    );
}

#[test]
fn while_the_next_one_builds_what_is_there_serves() {
    check(
        "nodes a b; app web x2 rolling 1/0; deploy web x2 rolling 1/0; ready; follow; gone; build web x2 rolling 1/0; settle; built; obey",
        expect![[r#"
            deploy web x2 rolling 1/0:
                cut a release for d2
                start web.3 on a
                wait d2: `web` rolls: 0 of 2 new ones are ready, 2 old left
                wait d2: `web` is not reported yet
            ready:
                drain web.2: replaced
                wait d2: `web` rolls: 1 of 2 new ones are ready, 1 old left
                wait web.2: draining: requests are under way
            follow:
                stop web.2: drained
                wait d2: `web` rolls: 1 of 2 new ones are ready, 1 old left
            gone:
                forget web.2
                start web.4 on b
                wait d2: `web` rolls: 1 of 2 new ones are ready, 1 old left
                wait d2: `web` is not reported yet
            build web x2 rolling 1/0:
                supersede d2 by d3
                build d3 on node b
                stop web.4: its deployment did not become live
                wait d3: the build is running
            settle:
                wait d3: the build is running
            built:
                cut a release for d3
                wait d3: `web` rolls: 0 of 2 new ones are ready, 2 old left
            obey:
                forget web.4
                start web.5 on b
                drain web.3: replaced
                stop web.3: drained
                forget web.3
                start web.6 on a
                drain web.1: replaced
                shift to d3, drain []
                d3 is live []
                stop web.1: drained
                forget web.1
        "#]],
    );
}

#[test]
fn one_component_rolls_and_another_waits_for_the_shift() {
    check(
        "nodes a b; app web x2 rolling 1/0, api x2; deploy web x2 rolling 1/0, api x2; obey",
        expect![[r#"
            deploy web x2 rolling 1/0, api x2:
                cut a release for d2
                start api.3 on a
                start api.4 on b
                start web.3 on a
                wait d2: `api` is not reported yet
                wait d2: `api` is not reported yet
                wait d2: `web` rolls: 0 of 2 new ones are ready, 2 old left
                wait d2: `web` is not reported yet
            obey:
                drain web.2: replaced
                stop web.2: drained
                forget web.2
                start web.4 on b
                drain web.1: replaced
                shift to d2, drain ["api.1", "api.2"]
                d2 is live []
                stop web.1: drained
                forget web.1
                wait api.1: draining: requests are under way
                wait api.2: draining: requests are under way
        "#]],
    );
}

#[test]
fn scale_changes_while_it_rolls() {
    check(
        "nodes a b; app web x2 rolling 1/0; deploy web x2 rolling 1/0; scale web 4; obey; scale web 1; obey",
        expect![[r#"
            deploy web x2 rolling 1/0:
                cut a release for d2
                start web.3 on a
                wait d2: `web` rolls: 0 of 2 new ones are ready, 2 old left
                wait d2: `web` is not reported yet
            scale web 4:
                start web.4 on b
                start web.5 on a
                wait d2: `web` rolls: 0 of 4 new ones are ready, 2 old left
                wait d2: `web` is not reported yet
                wait d2: `web` is not reported yet
                wait d2: `web` is not reported yet
            obey:
                drain web.2: replaced
                stop web.2: drained
                forget web.2
                start web.6 on b
                drain web.1: replaced
                shift to d2, drain []
                d2 is live []
                stop web.1: drained
                forget web.1
            scale web 1:
                drain web.6: more of them than are asked for
                drain web.5: more of them than are asked for
                drain web.4: more of them than are asked for
                wait web.4: draining: requests are under way
                wait web.5: draining: requests are under way
                wait web.6: draining: requests are under way
            obey:
                stop web.4: drained
                stop web.5: drained
                stop web.6: drained
                forget web.4
                forget web.5
                forget web.6
        "#]],
    );
}

#[test]
fn scale_shrinks_while_it_rolls() {
    check(
        "nodes a b; app web x4 rolling 1/0; deploy web x4 rolling 1/0; ready; scale web 1; obey",
        expect![[r#"
            deploy web x4 rolling 1/0:
                cut a release for d2
                start web.5 on a
                wait d2: `web` rolls: 0 of 4 new ones are ready, 4 old left
                wait d2: `web` is not reported yet
            ready:
                drain web.4: replaced
                wait d2: `web` rolls: 1 of 4 new ones are ready, 3 old left
                wait web.4: draining: requests are under way
            scale web 1:
                drain web.3: replaced
                drain web.2: replaced
                drain web.1: replaced
                shift to d2, drain []
                wait d2: the gateways have not confirmed the new routes yet
                wait web.1: draining: requests are under way
                wait web.2: draining: requests are under way
                wait web.3: draining: requests are under way
                wait web.4: draining: requests are under way
            obey:
                d2 is live []
                stop web.1: drained
                stop web.2: drained
                stop web.3: drained
                stop web.4: drained
                forget web.1
                forget web.2
                forget web.3
                forget web.4
        "#]],
    );
}

#[test]
fn scale_changes_while_all_start_at_once() {
    check(
        "nodes a b; app web x1; deploy web x1; scale web 3; scale web 2; obey",
        expect![[r#"
            deploy web x1:
                cut a release for d2
                start web.2 on b
                wait d2: `web` is not reported yet
            scale web 3:
                start web.3 on a
                start web.4 on b
                start web.5 on a
                start web.6 on b
                wait d2: `web` is not reported yet
                wait d2: `web` is not reported yet
                wait d2: `web` is not reported yet
            scale web 2:
                drain web.4: more of them than are asked for
                drain web.6: more of them than are asked for
                stop web.4: drained
                stop web.6: drained
                wait d2: `web` is not reported yet
                wait d2: `web` is not reported yet
            obey:
                shift to d2, drain ["web.1", "web.5"]
                forget web.4
                forget web.6
                d2 is live []
                stop web.1: drained
                stop web.5: drained
                forget web.1
                forget web.5
        "#]],
    );
}

#[test]
fn a_node_that_is_lost_midway_costs_no_deployment() {
    check(
        "nodes a b c; app web x3 rolling 1/0; deploy web x3 rolling 1/0; ready; lose b; obey; back b; obey",
        expect![[r#"
            deploy web x3 rolling 1/0:
                cut a release for d2
                start web.4 on a
                wait d2: `web` rolls: 0 of 3 new ones are ready, 3 old left
                wait d2: `web` is not reported yet
            ready:
                drain web.3: replaced
                wait d2: `web` rolls: 1 of 3 new ones are ready, 2 old left
                wait web.3: draining: requests are under way
            lose b:
                give up node b
                start web.5 on c
                wait d2: `web` rolls: 1 of 3 new ones are ready, 1 old left
                wait d2: `web` is not reported yet
                wait web.3: draining: requests are under way
            obey:
                stop web.3: drained
                forget web.3
                start web.6 on c
                drain web.1: replaced
                shift to d2, drain []
                d2 is live []
                stop web.1: drained
                forget web.1
            back b:
                welcome node b
                drain web.2: replaced
                stop web.2: drained
            obey:
                forget web.2
        "#]],
    );
}

#[test]
fn a_full_fleet_without_unavailable_says_so_at_once() {
    check(
        "nodes a=1GiB; app web x3 rolling 1/0, pad; deploy web x3 rolling 1/0, pad; settle",
        expect![[r#"
            deploy web x3 rolling 1/0, pad:
                cut a release for d2
                d2 failed: no_capacity: `pad` cannot be placed: no node has 256MiB free: a 0B
            settle:
        "#]],
    );
}

#[test]
fn a_full_fleet_with_unavailable_rolls() {
    check(
        "nodes a=1GiB; app web x4 rolling 1/1; deploy web x4 rolling 1/1; obey",
        expect![[r#"
            deploy web x4 rolling 1/1:
                cut a release for d2
                drain web.4: replaced
                wait d2: `web` rolls: 0 of 4 new ones are ready, 3 old left
                wait web.4: draining: requests are under way
            obey:
                stop web.4: drained
                forget web.4
                start web.5 on a
                drain web.3: replaced
                stop web.3: drained
                forget web.3
                start web.6 on a
                drain web.2: replaced
                stop web.2: drained
                forget web.2
                start web.7 on a
                drain web.1: replaced
                stop web.1: drained
                forget web.1
                start web.8 on a
                shift to d2, drain []
                d2 is live []
        "#]],
    );
}

#[test]
fn what_no_node_could_ever_take_fails_at_once_though_others_leave() {
    check(
        "nodes a b=1GiB; app web x2; scale web 1; deploy web 9GiB; settle",
        expect![[r#"
            scale web 1:
                drain web.2: more of them than are asked for
                wait web.2: draining: requests are under way
            deploy web 9GiB:
                cut a release for d2
                d2 failed: no_capacity: `web` cannot be placed: no node has 9GiB free: a 7936MiB, b 768MiB
                wait web.2: draining: requests are under way
            settle:
                wait web.2: draining: requests are under way
        "#]],
    );
}

#[test]
fn the_app_stops_while_it_rolls() {
    check(
        "nodes a b; app web x2 rolling 1/0; deploy web x2 rolling 1/0; stop; obey",
        expect![[r#"
            deploy web x2 rolling 1/0:
                cut a release for d2
                start web.3 on a
                wait d2: `web` rolls: 0 of 2 new ones are ready, 2 old left
                wait d2: `web` is not reported yet
            stop:
                drain web.3: more of them than are asked for
                drain web.2: replaced
                drain web.1: replaced
                shift to d2, drain []
                stop web.3: drained
                wait d2: the gateways have not confirmed the new routes yet
                wait web.1: draining: requests are under way
                wait web.2: draining: requests are under way
            obey:
                d2 is live []
                stop web.1: drained
                stop web.2: drained
                forget web.3
                forget web.1
                forget web.2
        "#]],
    );
}
