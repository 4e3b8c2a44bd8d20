//! The feed tells each change once, in the order of commits, as it is now.

use insula_model::Generation;
use insula_model::build::BuildState;
use insula_model::deployment::DeploymentState;
use insula_model::feed::Change;
use insula_store::feed::{self, FeedError, FeedGap};
use insula_store::{Store, apps, deployments, instances, nodes, orgs};

use crate::model::{Fixture, Tenant, at, node, org, org_id, ready};

fn since(store: &Store, after: Generation, limit: usize) -> (Generation, Vec<Change>) {
    store.read_blocking(move |tx| feed::since(tx, after, limit)).unwrap()
}

/// The kinds of the changes, in order.
fn kinds(changes: &[Change]) -> String {
    let kind = |change: &Change| {
        let text = format!("{change:?}");
        text.split(['(', ' ']).next().unwrap_or_default().to_owned()
    };
    changes.iter().map(kind).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_row_that_was_touched_often_is_told_once_as_it_is_now() {
    let fixture = Fixture::new();
    fixture
        .write(|tx| {
            orgs::create(tx, &org(1))?;
            for instances in 1..10 {
                let quota = insula_model::tenancy::Quota { instances, ..Default::default() };
                orgs::set_quota(tx, org_id(1), &quota)?;
            }
            Ok(())
        })
        .unwrap();
    let (head, changes) = since(&fixture.store, Generation(0), 100);
    assert_eq!(head, Generation(1));
    let [Change::Org(told)] = &changes[..] else { panic!("{changes:?}") };
    assert_eq!(told.quota.instances, 9);

    // Another commit moves it to the end; a reader from before it still hears of it once.
    fixture.write(|tx| orgs::create(tx, &org(2))).unwrap();
    fixture.write(|tx| orgs::set_quota(tx, org_id(1), &Default::default())).unwrap();
    let (head, changes) = since(&fixture.store, Generation(0), 100);
    assert_eq!((head, kinds(&changes)), (Generation(3), "Org Org".to_owned()));
    assert!(matches!(&changes[0], Change::Org(told) if told.id == org_id(2)));
    assert_eq!(since(&fixture.store, head, 100), (head, vec![]));
}

#[test]
fn a_long_feed_is_read_in_parts() {
    let fixture = Fixture::new();
    fixture.write(|tx| (1..=10).try_for_each(|n| orgs::create(tx, &org(n)))).unwrap();
    let mut reached = Generation(0);
    let mut told = Vec::new();
    let head = *fixture.store.head().borrow();
    while reached < head {
        let (next, changes) = since(&fixture.store, reached, 4);
        assert!(next > reached && changes.len() <= 4);
        told.extend(changes);
        reached = next;
    }
    assert_eq!(told.len(), 10);
}

#[test]
fn what_an_app_lives_by_is_told_again_when_it_lives_by_it_again() {
    let fixture = Fixture::new();
    let tenant = Tenant::of(1);
    let (app, release) = (tenant.app.clone(), tenant.release.clone());
    fixture.write(move |tx| tenant.deploy(tx)).unwrap();
    let head = *fixture.store.head().borrow();
    let live = crate::model::live(&release, at(9));
    fixture.write(move |tx| apps::set_live(tx, app.org, app.id, &live)).unwrap();
    let (_, changes) = since(&fixture.store, head, 100);
    let mut told: Vec<_> = kinds(&changes).split(' ').map(str::to_owned).collect();
    told.sort();
    assert_eq!(told, ["App", "Build", "Deployment", "Release"]);
}

#[test]
fn a_snapshot_leaves_out_what_is_over() {
    let fixture = Fixture::new();
    let tenant = Tenant::of(1);
    let ended = {
        let mut ended = tenant.deployment.clone();
        ended.id = crate::model::deployment_id(50);
        ended.build = None;
        ended.state = DeploymentState::Cancelled { by: insula_model::tenancy::Actor::Operator };
        ended
    };
    fixture
        .write(move |tx| {
            tenant.deploy(tx)?;
            deployments::create(tx, &ended)
        })
        .unwrap();
    let (head, changes) = fixture.read(|tx| Ok(feed::snapshot(tx)?));
    assert_eq!(
        kinds(&changes),
        "Node Org Project Environment App Release Deployment Build Run Instance"
    );
    assert_eq!(head, *fixture.store.head().borrow());
}

#[test]
fn a_cancelled_deployment_takes_its_build_with_it() {
    let fixture = Fixture::new();
    let tenant = Tenant::of(1);
    let (before, build) = (tenant.deployment.clone(), tenant.build.clone());
    assert!(!build.state.is_final());
    let by = insula_model::tenancy::Actor::Operator;
    let mut after = before.clone();
    after.state = DeploymentState::Cancelled { by };
    fixture
        .write(move |tx| {
            tenant.deploy(tx)?;
            deployments::update(tx, &before.state, &after)
        })
        .unwrap();
    let found = fixture.read(move |tx| Ok(insula_store::builds::get(tx, build.org, build.id)?));
    assert_eq!(found.map(|build| build.state), Some(BuildState::Cancelled));
}

#[test]
fn a_reader_who_was_away_too_long_is_sent_to_the_snapshot() {
    let fixture = Fixture::with(|config| config.feed_kept = 10);
    let store = fixture.store.clone();
    for n in 1..=30 {
        store.write_blocking(move |tx| orgs::create(tx, &org(n))).unwrap();
    }
    let gap = |after| match store.read_blocking(move |tx| feed::since(tx, Generation(after), 100)) {
        Err(FeedError::Gap(gap)) => Some(gap),
        Err(FeedError::Store(error)) => panic!("{error}"),
        Ok(_) => None,
    };
    let (oldest, head) = (Generation(20), Generation(30));
    assert_eq!(gap(0), Some(FeedGap { asked: Generation(0), oldest, head }));
    assert_eq!(gap(19), Some(FeedGap { asked: Generation(19), oldest, head }));
    assert_eq!(gap(20), None);
    assert_eq!(since(&store, oldest, 100).1.len(), 10);
    // One who has seen a future that this store does not have (it was restored, say).
    assert_eq!(gap(31), Some(FeedGap { asked: Generation(31), oldest, head }));
    assert_eq!(store.read_blocking(feed::snapshot).unwrap().1.len(), 30);
}

#[test]
fn what_did_not_change_is_not_told() {
    let fixture = Fixture::new();
    let tenant = Tenant::of(1);
    let (of, id) = (tenant.org.id, tenant.instance.id);
    fixture.write(move |tx| tenant.deploy(tx)).unwrap();
    let observe =
        move |tx: &mut insula_store::Tx| instances::set_observed(tx, of, id, &ready(id, at(5)));
    assert!(fixture.write(observe).unwrap());
    let head = *fixture.store.head().borrow();
    assert!(!fixture.write(observe).unwrap());
    assert_eq!(*fixture.store.head().borrow(), head);
    // And a mutation that is refused moves nothing.
    assert!(fixture.write(|tx| orgs::create(tx, &org(1))).is_err());
    assert_eq!(*fixture.store.head().borrow(), head);
    fixture.write(|tx| nodes::hello(tx, &node(1))).unwrap();
    assert!(*fixture.store.head().borrow() > head);
}

#[test]
fn the_end_of_an_app_and_of_what_ran_of_it_is_told() {
    let fixture = Fixture::new();
    let tenant = Tenant::of(1);
    let (of, app, instance) = (tenant.org.id, tenant.app.id, tenant.instance.id);
    let (release, run) = (tenant.release.id, tenant.run.id);
    fixture.write(move |tx| tenant.deploy(tx)).unwrap();
    let told = |after| {
        let (_, mut changes) = since(&fixture.store, after, 100);
        changes.sort_by_key(|change| kinds(std::slice::from_ref(change)));
        changes
    };
    let head = *fixture.store.head().borrow();
    fixture.write(move |tx| apps::delete(tx, of, app)).unwrap();
    assert_eq!(told(head), [Change::AppGone(app), Change::RunGone(run)]);
    // The release goes with the last that ran of it.
    let head = *fixture.store.head().borrow();
    fixture.write(move |tx| instances::delete(tx, of, instance)).unwrap();
    assert_eq!(told(head), [Change::InstanceGone(instance), Change::ReleaseGone(release)]);
}

#[test]
fn intents_only_move_forward() {
    use insula_model::instance::Intent;
    let fixture = Fixture::new();
    let tenant = Tenant::of(1);
    let (of, id) = (tenant.org.id, tenant.instance.id);
    fixture.write(move |tx| tenant.deploy(tx)).unwrap();
    let set = |intent| fixture.write(move |tx| instances::set_intent(tx, of, id, intent)).unwrap();
    let drain = Intent::Drain { since: at(1) };
    assert!(!set(Intent::Run));
    assert!(set(drain));
    assert!(!set(Intent::Drain { since: at(9) }));
    assert!(set(Intent::Stop { since: at(2) }));
    assert!(!set(drain));
    let found = fixture.read(move |tx| Ok(instances::get(tx, of, id)?)).unwrap();
    assert_eq!(found.intent, Intent::Stop { since: at(2) });
}
