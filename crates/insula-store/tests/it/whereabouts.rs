//! Where an app is and was: who is asked for its logs, and who is not.

use insula_model::build::BuildState;
use insula_model::instance::Instance;
use insula_model::{NodeId, OrgId};
use insula_store::{WriteError, apps, builds, instances, nodes, whereabouts};

use crate::model::{Fixture, Tenant, at, build_id, instance_id, node, node_id, org_id};

/// Whose word is taken for the log of the tenant's app, if this org asks.
fn asked_as(fixture: &Fixture, org: OrgId, of: &Tenant) -> Vec<NodeId> {
    let app = of.app.id;
    let nodes = fixture.read(move |tx| Ok(whereabouts::of_app(tx, org, app)?));
    nodes.into_iter().collect()
}

fn asked(fixture: &Fixture, of: &Tenant) -> Vec<NodeId> {
    asked_as(fixture, of.org.id, of)
}

/// Two tenants on node 1, the first one on node 2 as well.
fn settled() -> (Fixture, [Tenant; 2]) {
    let fixture = Fixture::new();
    for tenant in [Tenant::of(1), Tenant::of(2)] {
        fixture.write(move |tx| tenant.deploy(tx)).unwrap();
    }
    let tenants = [Tenant::of(1), Tenant::of(2)];
    let first = tenants[0].instance.clone();
    fixture
        .write(move |tx| {
            (2..=4).try_for_each(|n| nodes::hello(tx, &node(n)).map(|_| ()))?;
            instances::create(
                tx,
                &Instance { id: instance_id(20), node: node_id(2), ..first.clone() },
            )
        })
        .unwrap();
    (fixture, tenants)
}

fn delete(fixture: &Fixture, of: &Tenant, n: u32) -> Result<(), WriteError> {
    let org = of.org.id;
    fixture.write(move |tx| instances::delete(tx, org, instance_id(n)))
}

#[test]
fn an_app_is_asked_for_where_it_is_and_where_it_was_and_nowhere_else() {
    let (fixture, [one, other]) = settled();
    assert_eq!(asked(&fixture, &one), [node_id(1), node_id(2)]);
    assert_eq!(asked(&fixture, &other), [node_id(1)]);
    delete(&fixture, &one, 20).unwrap();
    assert_eq!(asked(&fixture, &one), [node_id(1), node_id(2)], "its log is still there");
    // All of them gone, and with them what they shared.
    delete(&fixture, &one, 1).unwrap();
    assert_eq!(asked(&fixture, &one), [node_id(1), node_id(2)]);
    assert_eq!(asked_as(&fixture, org_id(2), &one), [], "it is another's");
}

#[test]
fn a_build_is_asked_for_where_it_ran() {
    let (fixture, [one, _]) = settled();
    let mut build = one.build.clone();
    build.state = BuildState::Running { node: node_id(3), attempt: 1 };
    let running = build.clone();
    fixture.write(move |tx| builds::update(tx, &BuildState::Queued, &running)).unwrap();
    let expected = build.state.clone();
    build.state = BuildState::Cancelled;
    fixture.write(move |tx| builds::update(tx, &expected, &build)).unwrap();
    assert_eq!(asked(&fixture, &one), [node_id(1), node_id(2), node_id(3)]);
}

#[test]
fn a_build_that_begins_with_its_row_is_asked_for_where_it_runs() {
    let (fixture, [one, _]) = settled();
    let mut build = one.build.clone();
    build.id = build_id(20);
    build.state = BuildState::Running { node: node_id(4), attempt: 1 };
    fixture.write(move |tx| builds::create(tx, &build)).unwrap();
    assert_eq!(asked(&fixture, &one), [node_id(1), node_id(2), node_id(4)]);
}

#[test]
fn who_is_removed_is_not_remembered() {
    let (fixture, [one, other]) = settled();
    delete(&fixture, &one, 20).unwrap();
    fixture.write(|tx| nodes::remove(tx, node_id(2), at(9))).unwrap();
    assert_eq!(asked(&fixture, &one), [node_id(1)]);
    // With what was on it: nobody can ask that node any more.
    fixture.write(|tx| nodes::remove_with_instances(tx, node_id(1), at(9)).map(drop)).unwrap();
    assert_eq!((asked(&fixture, &one), asked(&fixture, &other)), (vec![], vec![]));
}

#[test]
fn an_app_that_is_deleted_leaves_nothing_even_if_its_instances_go_later() {
    let (fixture, [one, _]) = settled();
    delete(&fixture, &one, 20).unwrap();
    let (org, app) = (one.org.id, one.app.id);
    fixture.write(move |tx| apps::delete(tx, org, app)).unwrap();
    delete(&fixture, &one, 1).unwrap();
    // An app of the same id would not be asked for anywhere.
    assert_eq!(asked(&fixture, &one), []);
    let again = one.app.clone();
    fixture
        .write(move |tx| {
            insula_store::apps::create(tx, &again, &"other.localhost".parse().unwrap())
        })
        .unwrap();
    assert_eq!(asked(&fixture, &one), []);
}
