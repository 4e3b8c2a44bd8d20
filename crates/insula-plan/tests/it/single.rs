//! Stories of components of which there are never two at once.

use expect_test::{Expect, expect};

use crate::script::play;

fn check(line: &str, expect: Expect) {
    expect.assert_eq(&play(line));
}

#[test]
fn the_old_one_ends_before_the_new_one_begins() {
    check(
        "nodes a b; app clock worker single; deploy clock worker single; gone; obey",
        expect![[r#"
            deploy clock worker single:
                cut a release for d2
                drain clock.1: makes way for the next one
                stop clock.1: replaced
                wait d2: `clock` is single: the old one has to end first
            gone:
                forget clock.1
                start clock.2 on a
                wait d2: `clock` is not reported yet
            obey:
                shift to d2, drain []
                d2 is live []
        "#]],
    );
}

#[test]
fn on_a_lost_node_it_is_not_replaced_and_is_there_when_that_is_back() {
    check(
        "nodes a b; app clock worker single; lose a; silent a 3600; back a; obey",
        expect![[r#"
            lose a:
                give up node a
                wait shop: `clock` is single and its node a is lost since 1970-01-01T00:16:43.000Z: it is replaced once that is back or removed (`failover = "lease"` would replace it by itself)
            silent a 3600:
                wait shop: `clock` is single and its node a is lost since 1970-01-01T00:16:43.000Z: it is replaced once that is back or removed (`failover = "lease"` would replace it by itself)
            back a:
                welcome node a
            obey:
        "#]],
    );
}

#[test]
fn it_is_replaced_when_its_node_is_removed() {
    check(
        "nodes a b; app clock worker single; lose a; remove a; obey",
        expect![[r#"
            lose a:
                give up node a
                wait shop: `clock` is single and its node a is lost since 1970-01-01T00:16:43.000Z: it is replaced once that is back or removed (`failover = "lease"` would replace it by itself)
            remove a:
                forget clock.1
                start clock.2 on b
            obey:
        "#]],
    );
}

#[test]
fn with_a_lease_it_is_fenced_first_and_then_replaced() {
    check(
        "nodes a b; app clock worker single lease; lose a; silent a 41; silent a 42; back a; obey",
        expect![[r#"
            lose a:
                give up node a
                wait shop: `clock` is single and its node a is lost since 1970-01-01T00:16:43.000Z; it is replaced when that has been silent for 42s
            silent a 41:
                wait shop: `clock` is single and its node a is lost since 1970-01-01T00:16:43.000Z; it is replaced when that has been silent for 42s
            silent a 42:
                stop clock.1: its node is silent: its lease is over
                start clock.2 on b
                wait clock.1: its node is not heard: it ends once that is back
            back a:
                welcome node a
            obey:
                forget clock.1
        "#]],
    );
}

#[test]
fn with_a_lease_a_node_that_is_back_in_time_keeps_it() {
    check(
        "nodes a b; app clock worker single lease; lose a; silent a 41; back a; obey",
        expect![[r#"
            lose a:
                give up node a
                wait shop: `clock` is single and its node a is lost since 1970-01-01T00:16:43.000Z; it is replaced when that has been silent for 42s
            silent a 41:
                wait shop: `clock` is single and its node a is lost since 1970-01-01T00:16:43.000Z; it is replaced when that has been silent for 42s
            back a:
                welcome node a
            obey:
        "#]],
    );
}

#[test]
fn what_was_told_to_stop_is_waited_for_until_its_lease_is_over() {
    check(
        "nodes a b; app clock worker single lease; deploy clock worker single lease; lose a; silent a 42; obey",
        expect![[r#"
            deploy clock worker single lease:
                cut a release for d2
                drain clock.1: makes way for the next one
                stop clock.1: replaced
                wait d2: `clock` is single: the old one has to end first
            lose a:
                give up node a
                wait d2: `clock` is single and its node a is lost since 1970-01-01T00:16:43.000Z; it is replaced when that has been silent for 42s
                wait clock.1: its node is not heard: it ends once that is back
            silent a 42:
                start clock.2 on b
                wait d2: `clock` is not reported yet
                wait clock.1: its node is not heard: it ends once that is back
            obey:
                shift to d2, drain []
                d2 is live []
                wait clock.1: its node is not heard: it ends once that is back
        "#]],
    );
}

#[test]
fn a_deployment_waits_for_the_node_that_has_the_old_one() {
    check(
        "nodes a b; app clock worker single; lose a; deploy clock worker single; later 3600; back a; obey",
        expect![[r#"
            lose a:
                give up node a
                wait shop: `clock` is single and its node a is lost since 1970-01-01T00:16:43.000Z: it is replaced once that is back or removed (`failover = "lease"` would replace it by itself)
            deploy clock worker single:
                cut a release for d2
                wait d2: `clock` is single and its node a is lost since 1970-01-01T00:16:43.000Z: it is replaced once that is back or removed (`failover = "lease"` would replace it by itself)
            later 3600:
                wait d2: `clock` is single and its node a is lost since 1970-01-01T00:16:43.000Z: it is replaced once that is back or removed (`failover = "lease"` would replace it by itself)
            back a:
                welcome node a
                drain clock.1: makes way for the next one
                stop clock.1: replaced
                wait d2: `clock` is single: the old one has to end first
            obey:
                forget clock.1
                start clock.2 on a
                shift to d2, drain []
                d2 is live []
        "#]],
    );
}

#[test]
fn its_node_is_drained_it_stops_first() {
    check(
        "nodes a b; app clock worker single; drain a; gone; obey",
        expect![[r#"
            drain a:
                drain clock.1: its node is being drained
                stop clock.1: replaced
                wait node a: `clock` of shop is ending
                wait shop: `clock` is single: the old one has to end first
            gone:
                forget clock.1
                start clock.2 on b
            obey:
        "#]],
    );
}

#[test]
fn it_stays_on_a_drained_node_when_no_other_has_room() {
    check(
        "nodes a b=100MiB; app clock worker single; drain a",
        expect![[r#"
            drain a:
                wait node a: `clock` of shop stays: no node has 256MiB free: b 100MiB, a draining
        "#]],
    );
}

#[test]
fn a_drained_node_that_is_silent_keeps_it() {
    check(
        "nodes a b; app clock worker single; silent a 1; drain a; back a; obey",
        expect![[r#"
            silent a 1:
            drain a:
                wait node a: `clock` of shop waits until its node is heard again
            back a:
                drain clock.1: its node is being drained
                stop clock.1: replaced
                wait node a: `clock` of shop is ending
                wait shop: `clock` is single: the old one has to end first
            obey:
                forget clock.1
                start clock.2 on b
        "#]],
    );
}

#[test]
fn what_becomes_single_is_single_from_then_on() {
    check(
        "nodes a b; app clock worker x2; deploy clock worker single; obey",
        expect![[r#"
            deploy clock worker single:
                cut a release for d2
                drain clock.1: makes way for the next one
                drain clock.2: makes way for the next one
                stop clock.1: replaced
                stop clock.2: replaced
                wait d2: `clock` is single: the old one has to end first
                wait d2: `clock` is single: the old one has to end first
            obey:
                forget clock.1
                forget clock.2
                start clock.3 on a
                shift to d2, drain []
                d2 is live []
        "#]],
    );
}

#[test]
fn what_was_single_is_single_until_then() {
    check(
        "nodes a b; app clock worker single; deploy clock worker x2; obey",
        expect![[r#"
            deploy clock worker x2:
                cut a release for d2
                drain clock.1: makes way for the next one
                stop clock.1: replaced
                wait d2: `clock` is single: the old one has to end first
            obey:
                forget clock.1
                start clock.2 on a
                shift to d2, drain []
                d2 is live []
                start clock.3 on b
        "#]],
    );
}

#[test]
fn what_no_node_could_take_does_not_make_the_old_one_leave() {
    check(
        "nodes a b; app clock worker single; deploy clock worker single 9GiB; obey",
        expect![[r#"
            deploy clock worker single 9GiB:
                cut a release for d2
                d2 failed: no_capacity: `clock` cannot be placed: no node has 9GiB free: a 7936MiB, b 8GiB
            obey:
        "#]],
    );
}

#[test]
fn a_build_under_way_does_not_keep_a_removed_node_from_being_replaced() {
    check(
        "nodes a b c; app clock worker single; build clock worker single; remove a; obey",
        expect![[r#"
            build clock worker single:
                build d2 on node b
                wait d2: the build is running
            remove a:
                forget clock.1
                start clock.2 on c
                wait d2: the build is running
            obey:
                wait d2: the build is running
        "#]],
    );
}

#[test]
fn a_failed_one_ends_before_the_one_before_it_is_back() {
    check(
        "nodes a b; app clock worker single; deploy clock worker single; gone; crash clock.2; gone; obey",
        expect![[r#"
            deploy clock worker single:
                cut a release for d2
                drain clock.1: makes way for the next one
                stop clock.1: replaced
                wait d2: `clock` is single: the old one has to end first
            gone:
                forget clock.1
                start clock.2 on a
                wait d2: `clock` is not reported yet
            crash clock.2:
                d2 failed: exited: `clock` ended 2 times before it was ready: exit code 1
                stop clock.2: its deployment did not become live
                wait shop: `clock` is single: the old one has to end first
            gone:
                forget clock.2
                start clock.3 on a
            obey:
        "#]],
    );
}

#[test]
fn what_a_failed_deployment_left_with_a_lease_does_not_begin_again_when_its_node_is_back() {
    check(
        "nodes a b; app web; deploy web, clock worker single lease; lose b; crash web.3; silent b 41; silent b 42; back b; obey",
        expect![[r#"
            deploy web, clock worker single lease:
                cut a release for d2
                start clock.1 on b
                start web.2 on b
                wait d2: `clock` is not reported yet
                wait d2: `web` is not reported yet
            lose b:
                give up node b
                start web.3 on a
                wait d2: `clock` is single and its node b is lost since 1970-01-01T00:16:43.000Z; it is replaced when that has been silent for 42s
                wait d2: `web` is not reported yet
            crash web.3:
                d2 failed: exited: `web` ended 2 times before it was ready: exit code 1
                stop web.3: its deployment did not become live
            silent b 41:
            silent b 42:
                stop clock.1: its node is silent: its lease is over
                wait clock.1: its node is not heard: it ends once that is back
            back b:
                welcome node b
                stop web.2: its deployment did not become live
            obey:
                forget clock.1
                forget web.2
                forget web.3
        "#]],
    );
}

#[test]
fn one_with_a_lease_that_the_live_release_has_too_is_fenced_once() {
    check(
        "nodes a b; app web, clock worker single lease; deploy web x2, clock worker single lease; gone; lose b; crash web.2; silent b 42",
        expect![[r#"
            deploy web x2, clock worker single lease:
                cut a release for d2
                drain clock.1: makes way for the next one
                start web.2 on a
                start web.3 on a
                stop clock.1: replaced
                wait d2: `clock` is single: the old one has to end first
                wait d2: `web` is not reported yet
                wait d2: `web` is not reported yet
            gone:
                forget clock.1
                start clock.2 on b
                wait d2: `clock` is not reported yet
                wait d2: `web` is not reported yet
                wait d2: `web` is not reported yet
            lose b:
                give up node b
                start web.4 on a
                wait d2: `clock` is single and its node b is lost since 1970-01-01T00:16:43.000Z; it is replaced when that has been silent for 42s
                wait d2: `web` is not reported yet
                wait d2: `web` is not reported yet
            crash web.2:
                d2 failed: exited: `web` ended 2 times before it was ready: exit code 1
                stop web.2: its deployment did not become live
                stop web.3: its deployment did not become live
                wait shop: `clock` is single and its node b is lost since 1970-01-01T00:16:43.000Z; it is replaced when that has been silent for 42s
            silent b 42:
                stop clock.2: its node is silent: its lease is over
                start clock.3 on a
                wait clock.2: its node is not heard: it ends once that is back
        "#]],
    );
}
