//! Who is looked at again, and when: what the stories, which have one app each, cannot tell.

use std::collections::BTreeSet;
use std::sync::Arc;

use insula_model::feed::Change;
use insula_model::instance::{Instance, Intent};
use insula_model::node::Duty;
use insula_model::observed::Observed;
use insula_model::spec::ComponentKind;
use insula_model::*;
use insula_plan::effect::{Cut, Fresh, effect, write};
use insula_plan::{Due, Presence, Scope, plan_for};

use crate::scene::{Scene, component, spec};

const OTHER: InstanceId = InstanceId::from_u128(7 << 80);

/// Plans what is due and carries it out, until nothing is.
fn rest(s: &mut Scene, due: &mut Due) {
    for n in 0..50 {
        let scope = due.take(s.now, usize::MAX);
        if scope.is_empty() {
            return;
        }
        let mut plan = plan_for(&s.world, &scope, s.now);
        due.planned(&mut plan);
        for action in &plan.actions {
            let id = (8 << 80) | n;
            let fresh = Fresh {
                build: BuildId::from_u128(id),
                release: ReleaseId::from_u128(id),
                instance: InstanceId::from_u128(id),
            };
            let cut = Cut { number: 1, ..Cut::default() };
            let effect = effect(&s.world, action, s.now, fresh, &cut);
            effect.writes.iter().for_each(|row| write(&mut s.world, row));
        }
    }
    panic!("it never rests");
}

/// Node a is full with somebody else's instance and b, which is large, is away; the app waits.
fn waiting() -> (Scene, Due) {
    let mut s = Scene::new();
    let a = *s.world.nodes.keys().next().unwrap();
    s.all_nodes(|node| node.offer.capacity.memory = Bytes::mib(300));
    let b = s.node("b", Bytes::gib(8));
    s.world.heard.insert(b, Presence::Silent { span: Millis(0) });
    let app = &s.world.apps[&s.app];
    let other = Instance {
        id: OTHER,
        org: app.org,
        project: app.project,
        environment: app.environment,
        app: AppId::from_u128(9 << 80),
        component: "web".parse().unwrap(),
        kind: ComponentKind::Worker,
        release: ReleaseId::from_u128(9 << 80),
        deployment: DeploymentId::from_u128(9 << 80),
        run: None,
        node: a,
        cpu: MilliCpu(10),
        memory: Bytes::mib(200),
        pids: 1,
        disk: Bytes(1),
        intent: Intent::Run,
        created: s.now,
        observed: Observed::Unknown,
    };
    s.world.apply(Change::Instance(Box::new(other)));
    s.deploy(spec(&[("web", component(ComponentKind::Service, 1))]));
    let mut due = Due::default();
    due.app(s.app);
    rest(&mut s, &mut due);
    let took = s.world.instances_of(s.app).count();
    assert_eq!(took, 0, "there is no room for it");
    assert!(due.is_empty(), "it waits, and nobody asks it again");
    (s, due)
}

fn placed(s: &mut Scene, due: &mut Due) -> bool {
    rest(s, due);
    s.world.instances_of(s.app).count() == 1
}

#[test]
fn who_found_no_room_is_asked_again_when_another_app_gives_some_back() {
    let (mut s, mut due) = waiting();
    let gone = Change::InstanceGone(OTHER);
    due.change(&s.world, &gone);
    s.world.apply(gone);
    assert!(placed(&mut s, &mut due));
}

#[test]
fn who_found_no_room_is_asked_again_when_a_node_is_back() {
    let (mut s, mut due) = waiting();
    let b = *s.world.nodes.keys().next_back().unwrap();
    s.world.heard.insert(b, Presence::Here);
    due.presence(&s.world, b);
    assert!(placed(&mut s, &mut due));
}

#[test]
fn who_found_no_room_is_asked_again_when_a_node_becomes_larger_and_not_when_it_says_hello() {
    let (mut s, mut due) = waiting();
    let a = s.world.nodes.values().next().unwrap().clone();
    let mut row = (*a).clone();
    row.agent_version = "0.2.0".into();
    let hello = Change::Node(Box::new(row.clone()));
    due.change(&s.world, &hello);
    s.world.apply(hello);
    let scope = due.take(s.now, usize::MAX);
    assert_eq!(scope, Scope { apps: BTreeSet::new(), nodes: [a.id].into() });
    row.offer.capacity.memory = Bytes::gib(4);
    let larger = Change::Node(Box::new(row));
    due.change(&s.world, &larger);
    s.world.apply(larger);
    assert!(placed(&mut s, &mut due));
}

#[test]
fn who_waits_for_room_has_a_time_at_which_it_stops_waiting() {
    let (mut s, mut due) = waiting();
    let deadline = due.next().expect("it does not wait for ever");
    assert_eq!(due.take(s.now, usize::MAX), Scope::default());
    s.now = deadline;
    let scope = due.take(s.now, usize::MAX);
    assert_eq!(scope, Scope::of_app(s.app));
    let plan = plan_for(&s.world, &scope, s.now);
    assert_eq!(plan.actions.len(), 1, "it fails now");
}

#[test]
fn a_part_of_what_is_due_is_taken_in_the_order_in_which_it_became_due() {
    let apps: Vec<AppId> = [5, 3, 9, 1].map(|n| AppId::from_u128(n << 80)).into();
    let now = Timestamp::from_millis(0);
    let mut due = Due::default();
    apps.iter().for_each(|app| due.app(*app));
    due.app(apps[0]);
    let first = due.take(now, 3);
    assert_eq!(first.apps, apps[..3].iter().copied().collect());
    due.app(apps[0]);
    assert_eq!(due.take(now, 1).apps, [apps[3]].into(), "who comes again stands at the end");
    due.put_back(first);
    assert_eq!(due.take(now, 9).apps, apps[..3].iter().copied().collect());
    assert!(due.is_empty());
}

#[test]
fn whoever_acts_stays_due_until_a_plan_finds_nothing_to_do() {
    let mut s = Scene::new();
    s.deploy(spec(&[("web", component(ComponentKind::Service, 1))]));
    let mut due = Due::default();
    due.everything(&s.world);
    let scope = due.take(s.now, usize::MAX);
    let mut plan = plan_for(&s.world, &scope, s.now);
    assert!(!plan.actions.is_empty());
    due.planned(&mut plan);
    // What was decided came to nothing: the store had moved on, say.
    assert_eq!(due.take(s.now, usize::MAX), Scope::of_app(s.app));
}

#[test]
fn a_node_that_is_drained_has_its_apps_looked_at() {
    let mut s = Scene::new();
    s.deploy(spec(&[("web", component(ComponentKind::Service, 1))]));
    s.node("b", Bytes::gib(8));
    let mut due = Due::default();
    due.everything(&s.world);
    rest(&mut s, &mut due);
    let on = s.world.instances_of(s.app).next().unwrap().node;
    let mut row = s.world.nodes[&on].clone();
    Arc::make_mut(&mut row).duty = Duty::Drain { since: s.now };
    due.change(&s.world, &Change::Node(Box::new((*row).clone())));
    let scope = due.take(s.now, usize::MAX);
    assert!(scope.apps.contains(&s.app) && scope.nodes.contains(&on));
}
