//! What the core does and does not do, whatever happens around it.

use insula_control::core::mutation::Outcome;
use insula_control::core::report::Reconciler;
use insula_control::core::{SAFETY_INTERVAL, STORE_PAUSE};
use insula_link::Inbound;
use insula_model::deployment::{Deployment, DeploymentState};
use insula_model::feed::Change;
use insula_model::fleet::Member;
use insula_model::node::{Ailment, AilmentKind, NodeState};
use insula_model::*;

use crate::fixture::{Shop, hello, node_id, obedient, ready};
use crate::plant::Plant;

/// A shop with some instances, and nodes that have joined.
fn fleet(instances: u32, nodes: u64) -> Plant {
    let mut plant = Plant::new(Shop::new(1, instances).rows());
    (1..=nodes).for_each(|n| plant.joins(n));
    plant.rests();
    plant
}

fn endpoints(plant: &Plant) -> usize {
    plant.table.iter().flat_map(|table| &table.routes).map(|route| route.endpoints.len()).sum()
}

#[test]
fn a_node_joins_gets_its_share_and_serves() {
    let plant = fleet(2, 2);
    assert_eq!(plant.runs_on(), ["n1", "n2"]);
    assert_eq!(endpoints(&plant), 2);
    let status = plant.core.status(plant.now());
    assert_eq!(status.nodes, [(NodeState::Ready, 2)].into());
    assert_eq!((status.instances, status.unstored), (2, 0));
    assert_eq!(status.reports[&Reconciler::Deployments].waiting, 0);
}

#[test]
fn what_was_told_stays_until_it_is_stored() {
    let mut plant = Plant::new(Shop::new(1, 1).rows());
    plant.joins(1);
    plant.failing = 3;
    plant.rests();
    assert!(plant.store.nodes.is_empty(), "the store does not answer");
    assert_eq!(plant.core.status(plant.now()).unstored, 2, "greeting and report");
    for _ in 0..5 {
        plant.passes(STORE_PAUSE);
    }
    assert_eq!((plant.failing, plant.runs_on()), (0, vec!["n1".to_owned()]));
    assert_eq!(endpoints(&plant), 1);
}

#[test]
fn a_store_that_is_away_is_not_asked_without_end() {
    let mut plant = Plant::new(Shop::new(1, 1).rows());
    plant.joins(1);
    plant.failing = usize::MAX;
    plant.passes(Millis::secs(10));
    assert!(plant.mutations <= 21, "{} in ten seconds", plant.mutations);
}

#[test]
fn nothing_is_decided_on_a_world_older_than_what_was_written() {
    let mut plant = Plant::new(Shop::new(1, 1).rows());
    plant.joins(1);
    plant.read();
    let now = plant.now();
    let turn = plant.core.turn(now);
    assert_eq!(turn.writes.len(), 1, "the greeting");
    assert!(plant.core.turn(now).writes.is_empty(), "its answer is not here yet");
    // A read that began before the answer came does not show what was written.
    let early = plant.core.begin_read();
    plant.deliver(turn);
    plant.core.read(early, early.from, vec![], true);
    assert!(!plant.core.is_current());
    let idle = plant.core.turn(now);
    assert!(idle.writes.is_empty() && idle.targets.is_empty() && idle.routes.is_none());
    plant.read();
    assert!(plant.core.is_current());
    assert_eq!(plant.core.turn(now).targets.len(), 1, "now the node is known");
}

#[test]
fn a_read_that_overtook_another_is_not_applied_twice() {
    let mut plant = fleet(1, 1);
    let (first, second) = (plant.core.begin_read(), plant.core.begin_read());
    let shop = Shop::new(2, 1);
    let to = Generation(plant.store.generation.0 + 6);
    plant.core.read(second, to, shop.rows(), true);
    // The first one was slower, and saw less.
    plant.core.read(first, Generation(first.from.0 + 1), shop.rows()[..1].to_vec(), false);
    assert_eq!(plant.core.world().generation, to);
    assert_eq!(plant.core.world().apps.len(), 2);
}

#[test]
fn a_silent_node_is_given_up_and_its_instances_are_elsewhere_and_its_own_are_left_alone() {
    let mut plant = fleet(2, 3);
    assert_eq!(plant.runs_on(), ["n1", "n2"]);
    plant.cut_off(1);
    plant.passes(Millis::secs(3));
    assert_eq!(plant.core.status(plant.now()).nodes[&NodeState::Suspect], 1);
    plant.passes(Millis::secs(1));
    assert_eq!(plant.core.status(plant.now()).nodes[&NodeState::Lost], 1);
    assert_eq!(plant.runs_on(), ["n1", "n2", "n3"], "nothing of a lost node is told to stop");
    assert_eq!(endpoints(&plant), 2);
    plant.passes(Millis::secs(3_600));
    assert_eq!(plant.runs_on(), ["n1", "n2", "n3"]);
    // It comes back, and one of the three is too many.
    plant.joins(1);
    plant.passes(Millis::secs(60));
    assert_eq!(plant.runs_on().len(), 2);
    assert_eq!(plant.store.instances.len(), 2);
    assert_eq!(plant.core.status(plant.now()).nodes, [(NodeState::Ready, 3)].into());
}

#[test]
fn a_node_counts_as_here_only_once_it_has_answered_what_it_was_told() {
    let mut plant = fleet(1, 1);
    let node = node_id(1);
    let now = plant.now();
    plant.tell(Inbound::NodeGone { node });
    assert!(!plant.core.world().is_here(node));
    plant.agents.get_mut(&node).unwrap().answers = false;
    plant.tell(hello(1, now.wall));
    // It speaks of a Target from before: what it does not name may still come.
    let mut early = obedient(plant.agents[&node].target.as_ref(), vec![]);
    early.generation = Generation(0);
    early.instances.clear();
    plant.tell(Inbound::NodeReport { node, report: early });
    plant.rests();
    assert!(!plant.core.world().is_here(node));
    assert!(plant.store.instances.values().all(|row| row.observed.present().is_some()));
    plant.reports(1);
    plant.rests();
    assert!(plant.core.world().is_here(node));
}

#[test]
fn the_time_of_day_may_jump_by_a_year_and_no_node_is_lost() {
    let mut plant = fleet(2, 2);
    let said = plant.said.len();
    for jump in [365 * 86_400_000, -2 * 365 * 86_400_000] {
        plant.set_ms += jump;
        plant.passes(Millis::secs(10));
    }
    assert_eq!(plant.said[said..], [""; 0]);
    assert_eq!(plant.core.status(plant.now()).nodes, [(NodeState::Ready, 2)].into());
}

#[test]
fn a_control_plane_that_stood_still_for_a_minute_gives_up_nobody() {
    let mut plant = fleet(2, 2);
    let said = plant.said.len();
    plant.ms += 60_000;
    // The tick that is late comes before the heartbeats that lay in the sockets.
    let now = plant.now();
    plant.core.heard(now, []);
    plant.rests();
    plant.passes(Millis::secs(5));
    assert_eq!(plant.said[said..], [""; 0]);
    assert_eq!(plant.core.status(plant.now()).nodes, [(NodeState::Ready, 2)].into());
}

#[test]
fn only_those_hear_of_a_change_whom_it_concerns() {
    let mut plant = fleet(1, 5);
    let seen = |plant: &Plant| plant.agents.values().map(|a| a.targets_seen).sum::<usize>();
    let (targets, tables) = (seen(&plant), plant.tables_seen);
    plant.passes(Millis::secs(10));
    assert_eq!((seen(&plant), plant.tables_seen), (targets, tables), "nothing happened");
    plant.commit(Shop::new(2, 1).rows());
    plant.rests();
    assert_eq!(plant.runs_on().len(), 2);
    // The node that got it, once; the table when the app appears and when it is ready.
    assert_eq!(seen(&plant), targets + 1);
    assert!(plant.tables_seen <= tables + 2);
    assert_eq!(endpoints(&plant), 2);
}

#[test]
fn neighbours_hear_of_each_other_and_of_a_loss_and_strangers_hear_nothing() {
    // Two environments with two instances each, on four nodes.
    let mut plant = Plant::new([Shop::new(1, 2).rows(), Shop::new(2, 2).rows()].concat());
    (1..=4).for_each(|n| plant.joins_with_relay(n));
    plant.rests();
    let reached = |plant: &Plant, n: u64| {
        let target = plant.agents[&node_id(n)].target.clone().unwrap();
        let mine: Vec<_> = target.instances.iter().map(|i| i.place.environment).collect();
        let mut reached: Vec<InstanceId> = Vec::new();
        for neighbour in target.fleet.neighbours.values() {
            assert!(neighbour.instances.values().all(|it| mine.contains(&it.environment)));
            reached.extend(neighbour.instances.keys());
        }
        reached
    };
    let before: usize = (1..=4).map(|n| reached(&plant, n).len()).sum();
    assert_eq!(before, 4, "each of the four knows the other one of its environment");
    assert!(plant.table.as_ref().is_some_and(|table| table.relays.len() == 4));
    plant.cut_off(1);
    plant.passes(Millis::secs(60));
    let lost: Vec<InstanceId> =
        plant.store.instances.of_node(node_id(1)).map(|row| row.id).collect();
    assert_eq!(lost.len(), 1);
    for n in 2..=4 {
        assert!(reached(&plant, n).iter().all(|id| !lost.contains(id)));
    }
    plant.joins_with_relay(1);
    plant.passes(Millis(3 * SAFETY_INTERVAL.0));
    let safety = &plant.core.status(plant.now()).reports[&Reconciler::Safety];
    assert_eq!((safety.passes >= 3, &safety.did), (true, &[].into()));
}

#[test]
fn the_look_at_everything_finds_nothing_that_was_missed() {
    let mut plant = fleet(3, 3);
    plant.commit(Shop::new(2, 4).rows());
    plant.rests();
    plant.cut_off(2);
    plant.passes(Millis::secs(10));
    plant.joins(2);
    plant.passes(Millis(2 * SAFETY_INTERVAL.0));
    let status = plant.core.status(plant.now());
    let safety = &status.reports[&Reconciler::Safety];
    assert!(safety.passes >= 2);
    assert_eq!(safety.did, [].into());
}

#[test]
fn a_clock_an_hour_off_is_an_ailment_and_one_that_is_right_again_is_not() {
    let mut plant = fleet(1, 1);
    let node = node_id(1);
    let wrong = plant.now().wall.plus(Millis::secs(3_600));
    plant.tell(hello(1, wrong));
    plant.reports(1);
    plant.rests();
    let row = &plant.store.nodes[&node];
    assert_eq!(row.ailments.len(), 1);
    assert_eq!(row.ailments[0].kind, AilmentKind::Clock);
    assert_eq!(plant.core.status(plant.now()).nodes, [(NodeState::Degraded, 1)].into());
    let mutations = plant.mutations;
    plant.passes(Millis::secs(5));
    assert_eq!(plant.mutations, mutations, "what is known is not written again");
    plant.joins(1);
    plant.rests();
    assert_eq!(plant.store.nodes[&node].ailments, []);
}

const HOUR_MS: i64 = 3_600_000;

fn fleet_of_clocks(ahead_ms: &[i64]) -> Plant {
    let mut plant = Plant::new(Shop::new(1, 1).rows());
    for (n, ahead_ms) in (1..).zip(ahead_ms) {
        plant.joins_with_clock(n, *ahead_ms);
    }
    plant.rests();
    plant.passes(Millis::secs(3));
    plant
}

/// Nodes that are marked for their clock.
fn marked(plant: &Plant) -> Vec<u64> {
    let clock = |n: &u64| {
        let said = &plant.store.nodes[&node_id(*n)].ailments;
        said.iter().any(|ailment| ailment.kind == AilmentKind::Clock)
    };
    (1..=plant.store.nodes.len() as u64).filter(clock).collect()
}

/// What the operator is told of the server's own clock.
fn own_clock(plant: &Plant) -> Option<String> {
    plant.core.status(plant.now()).reports[&Reconciler::Clocks].error.clone()
}

fn away() -> Vec<Ailment> {
    let message = "its clock is away from the server's".to_owned();
    vec![Ailment { kind: AilmentKind::Clock, message }]
}

#[test]
fn one_clock_of_three_is_wrong_and_so_are_two_that_disagree() {
    let plant = fleet_of_clocks(&[0, HOUR_MS, 0]);
    assert_eq!((marked(&plant), own_clock(&plant)), (vec![2], None));
    let plant = fleet_of_clocks(&[HOUR_MS, -HOUR_MS]);
    assert_eq!((marked(&plant), own_clock(&plant)), (vec![1, 2], None));
    // One alone against one server.
    let plant = fleet_of_clocks(&[HOUR_MS]);
    assert_eq!((marked(&plant), own_clock(&plant)), (vec![1], None));
}

#[test]
fn a_server_whose_clock_is_wrong_says_so_and_goes_on_placing() {
    let mut plant = fleet_of_clocks(&[HOUR_MS, HOUR_MS + 400, HOUR_MS - 400]);
    assert_eq!(marked(&plant), [0; 0]);
    let words = own_clock(&plant).unwrap();
    assert!(words.starts_with("the clock of this server is 3600 s behind those of 3 of 3"));
    // The agents notice, too.
    (1..=3).for_each(|n| plant.says(n, away()));
    plant.passes(Millis::secs(100));
    plant.commit(Shop::new(2, 3).rows());
    plant.rests();
    assert_eq!(plant.runs_on().len(), 4, "there is room in the fleet");
    assert_eq!(marked(&plant), [0; 0]);
    // It is set right; the agents notice that one after the other, and nobody dials anew.
    plant.set_ms += HOUR_MS;
    for n in 1..=3 {
        plant.passes(Millis::secs(5));
        plant.says(n, vec![]);
        assert_eq!(marked(&plant), [0; 0]);
    }
    plant.passes(Millis::secs(100));
    assert_eq!((marked(&plant), own_clock(&plant)), (vec![], None));
}

#[test]
fn a_server_whose_clock_is_set_wrong_marks_nobody_while_agents_notice() {
    let mut plant = fleet_of_clocks(&[0, 0, 0]);
    plant.set_ms -= HOUR_MS;
    for n in 1..=3 {
        plant.passes(Millis::secs(5));
        plant.says(n, away());
        assert_eq!(marked(&plant), [0; 0]);
    }
    assert!(own_clock(&plant).unwrap().contains("3600 s behind"));
    // Two of them were set to the wrong time as well: now it is the third that is alone.
    plant.says(1, vec![]);
    plant.says(2, vec![]);
    plant.passes(Millis::secs(100));
    assert_eq!((marked(&plant), own_clock(&plant)), (vec![3], None));
}

#[test]
fn a_node_whose_clock_is_set_right_need_not_dial_anew() {
    // It had just begun, and its clock was set before its agent had made up its mind.
    let mut plant = fleet_of_clocks(&[HOUR_MS, 0, 0]);
    assert_eq!(marked(&plant), [1]);
    plant.passes(Millis::secs(60));
    assert_eq!(marked(&plant), [0; 0]);
    // Later it is wrong again, and right again.
    plant.says(1, away());
    plant.passes(Millis::secs(3));
    assert_eq!(marked(&plant), [1]);
    plant.says(1, vec![]);
    assert_eq!(marked(&plant), [0; 0]);
}

#[test]
fn a_report_that_came_with_the_greeting_does_not_wait_for_the_next_wake() {
    let mut plant = Plant::new(Shop::new(1, 1).rows());
    plant.joins(1);
    // It does not answer by itself: nothing but what it said first may carry it on.
    plant.agents.get_mut(&node_id(1)).unwrap().answers = false;
    plant.rests();
    plant.reports(1);
    plant.rests();
    let generation = plant.agents[&node_id(1)].target.as_ref().map(|target| target.generation);
    assert!(generation.is_some());
    assert!(plant.core.world().is_here(node_id(1)));
    assert_eq!(plant.core.status(plant.now()).unstored, 0);
}

#[test]
fn what_ails_a_node_is_stored_when_it_changes() {
    let mut plant = fleet(1, 1);
    let disk = Ailment { kind: AilmentKind::Disk, message: "1 % free".to_owned() };
    plant.agents.get_mut(&node_id(1)).unwrap().ailments = vec![disk.clone()];
    plant.reports(1);
    plant.rests();
    assert_eq!(plant.store.nodes[&node_id(1)].ailments, [disk]);
    let mutations = plant.mutations;
    plant.reports(1);
    plant.rests();
    assert_eq!(plant.mutations, mutations);
}

#[test]
fn ten_thousand_instances_in_a_report_are_not_read_and_cost_the_node_its_good_name_only() {
    let mut plant = fleet(2, 2);
    let node = node_id(1);
    let made_up =
        |n| ready(InstanceId::from_parts(crate::fixture::BEGIN, crate::fixture::random(n)));
    let mut report = obedient(plant.agents[&node].target.as_ref(), vec![]);
    report.instances = (0..10_000).map(made_up).collect();
    let runs_on = plant.runs_on();
    plant.tell(Inbound::NodeReport { node, report });
    plant.passes(Millis::secs(10));
    assert_eq!(plant.runs_on(), runs_on);
    assert!(plant.store.nodes[&node].ailments[0].message.contains("10000"));
    assert_eq!(plant.core.status(plant.now()).nonsense, 1);
    assert_eq!(plant.store.nodes[&node].lost, None);
}

#[test]
fn a_node_that_was_removed_is_expelled_and_what_it_still_says_is_nothing() {
    let mut plant = fleet(2, 2);
    plant.commit(vec![Change::NodeGone(node_id(1))]);
    plant.rests();
    assert_eq!(plant.expelled, [Member::Node(node_id(1))]);
    assert_eq!(plant.runs_on(), ["n2", "n2"], "what it had is forgotten and replaced");
    let report = obedient(plant.agents[&node_id(1)].target.as_ref(), vec![]);
    plant.tell(Inbound::NodeReport { node: node_id(1), report });
    plant.rests();
    assert!(!plant.store.nodes.contains_key(&node_id(1)));
    assert_eq!(plant.store.instances.len(), 2);
}

#[test]
fn a_bundle_that_does_not_go_through_goes_step_by_step() {
    // Both apps are placed in one bundle; one of them is deleted behind our back.
    let mut plant = Plant::new([Shop::new(1, 2).rows(), Shop::new(2, 2).rows()].concat());
    plant.joins(1);
    let gone = Shop::new(2, 2).app.id;
    loop {
        plant.read();
        let now = plant.now();
        let turn = plant.core.turn(now);
        let places = turn.writes.iter().any(|mutation| match &mutation.what {
            insula_control::core::mutation::What::Act { steps } => steps.len() == 2,
            _ => false,
        });
        if places {
            plant.store.apply(Change::AppGone(gone));
            let mutation = &turn.writes[0];
            assert_eq!(plant.write(mutation), Outcome::Overtaken);
            plant.core.wrote(mutation.ticket, Outcome::Overtaken, now);
            break;
        }
        assert!(plant.deliver(turn), "nothing was placed");
    }
    // The deletion is not read yet: the other app's steps go through all the same.
    plant.read();
    let now = plant.now();
    let turn = plant.core.turn(now);
    assert_eq!(turn.writes.len(), 2);
    let outcomes: Vec<Outcome> = turn.writes.iter().map(|m| plant.write(m)).collect();
    assert!(outcomes.contains(&Outcome::Done) && outcomes.contains(&Outcome::Overtaken));
    assert_eq!(plant.store.instances.len(), 2);
}

#[test]
fn a_gap_in_the_feed_is_crossed_by_reading_everything() {
    let mut plant = fleet(2, 2);
    let before = plant.core.world().clone();
    let mut rows: Vec<Change> = Shop::new(1, 2).rows();
    rows.extend(plant.store.nodes.values().map(|row| Change::Node(Box::new((**row).clone()))));
    rows.extend(plant.store.instances.values().map(|row| Change::Instance(Box::new(row.clone()))));
    rows.extend(Shop::new(2, 1).rows());
    let reading = plant.core.begin_read();
    let to = Generation(plant.store.generation.0 + 100);
    plant.core.read_everything(reading, to, rows.clone());
    assert!(plant.core.is_current());
    assert_eq!(plant.core.world().generation, to);
    assert_eq!(plant.core.world().heard, before.heard, "who is here stays here");
    assert_eq!(plant.core.world().apps.len(), 2);
}

#[test]
fn the_same_events_give_the_same_answers() {
    let tell = || {
        let mut plant = fleet(5, 3);
        plant.commit(Shop::new(2, 3).rows());
        plant.rests();
        plant.cut_off(2);
        plant.passes(Millis::secs(5));
        (plant.said.clone(), format!("{:?}", plant.store.instances), plant.mutations)
    };
    assert_eq!(tell(), tell());
}

#[test]
fn a_node_that_talks_without_end_is_slowed_down_and_its_last_word_counts() {
    let mut plant = fleet(100, 1);
    let node = node_id(1);
    let target = plant.agents[&node].target.clone().unwrap();
    let crashes = |restarts| {
        let mut report = obedient(Some(&target), vec![]);
        report.instances.iter_mut().for_each(|one| one.restarts = restarts);
        Inbound::NodeReport { node, report }
    };
    let stored = |plant: &Plant| {
        let rows = plant.store.instances.values();
        rows.filter_map(|row| row.observed.present()).map(|seen| seen.restarts).max().unwrap()
    };
    // More than twice what a node may change at once: 8,192 rows.
    let rows = u32::try_from(target.instances.len()).unwrap();
    let last = 20_000 / rows;
    for restarts in 1..=last {
        plant.tell(crashes(restarts));
        plant.rests();
    }
    assert!(stored(&plant) <= 8_192 / rows + 1, "{} of {last}", stored(&plant));
    assert!(stored(&plant) > 7_000 / rows, "an honest burst is let through");
    assert_eq!(plant.store.nodes[&node].lost, None, "it is heard all the same");
    plant.passes(Millis::secs(2));
    assert_eq!(stored(&plant), last);
}

/// A deployment that finds no node, in a fleet whose only one has gone.
fn waits_for_room() -> (Plant, DeploymentId) {
    let mut plant = fleet(1, 1);
    plant.passes(Millis::secs(2));
    plant.cut_off(1);
    plant.passes(Millis::secs(10));
    let shop = Shop::new(2, 1);
    let state = DeploymentState::Queued;
    let updated = plant.now().wall;
    let next = Deployment { state, release: None, updated, created: updated, ..shop.deployment };
    let id = next.id;
    plant.commit(vec![
        Change::Org(Box::new(shop.org)),
        Change::Project(Box::new(shop.project)),
        Change::Environment(Box::new(shop.environment)),
        Change::App(Box::new(shop.app)),
        Change::Deployment(Box::new(next)),
    ]);
    plant.rests();
    assert_eq!(plant.store.deployments[&id].state, DeploymentState::Starting);
    (plant, id)
}

#[test]
fn a_clock_that_is_set_neither_lengthens_nor_cuts_the_wait_for_room() {
    for set_ms in [-HOUR_MS, HOUR_MS] {
        let (mut plant, id) = waits_for_room();
        plant.passes(Millis::secs(5));
        plant.set_ms += set_ms;
        plant.passes(Millis::secs(9));
        let state = &plant.store.deployments[&id].state;
        assert_eq!(*state, DeploymentState::Starting, "{set_ms}");
        plant.passes(Millis::secs(2));
        let state = &plant.store.deployments[&id].state;
        assert!(matches!(state, DeploymentState::Failed { .. }), "{set_ms}: {state:?}");
    }
}
