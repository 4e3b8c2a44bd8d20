//! What is counted, what is kept, and what is forgotten in time.

use insula_model::deployment::{DeploymentState, Source};
use insula_model::instance::{Run, RunState};
use insula_model::release::ReleaseNumber;
use insula_model::{Bytes, MilliCpu, OrgId};
use insula_store::{
    Store, StoreError, WriteError, apps, blobs, deployments, events, quotas, releases, runs, sweep,
};

use crate::model::{
    Fixture, Tenant, app, at, default_host, deployment, deployment_id, digest, event, folder, live,
    org_id, release,
};

/// Deploys releases 1 to `count` of the app, each live for a moment, the last one still.
fn release_many(fixture: &Fixture, app: &insula_model::app::App, count: u32) {
    for n in 1..=count {
        let app = app.clone();
        fixture
            .write(move |tx| {
                let mut moving = deployment(&app, n, folder(n, Bytes::kib(4)));
                deployments::create(tx, &moving)?;
                let number = releases::next_number(tx, app.org, app.id)?;
                assert_eq!(number, ReleaseNumber(n));
                let cut = release(&moving, n, number);
                releases::create(tx, &cut)?;
                apps::set_live(tx, app.org, app.id, &live(&cut, at(n.into())))?;
                moving.state = DeploymentState::Live;
                deployments::update(tx, &DeploymentState::Queued, &moving)
            })
            .unwrap();
    }
}

fn disk(store: &Store, org: OrgId) -> Bytes {
    store.read_blocking(move |tx| blobs::disk(tx, org)).unwrap()
}

#[test]
fn artifacts_that_nobody_goes_back_to_are_let_go() {
    let fixture = Fixture::new();
    let tenant = Tenant::of(1);
    let (of, shop) = (tenant.org.id, tenant.app.clone());
    fixture.write(move |tx| tenant.settle(tx)).unwrap();
    release_many(&fixture, &shop, 6);
    // Every release holds both layers of its artifact, 10 KiB together.
    assert_eq!(disk(&fixture.store, of), Bytes::kib(60));

    let past = |keep, since| {
        let id = shop.id;
        fixture.read(move |tx| Ok(releases::past_keeping(tx, of, id, keep, at(since))?))
    };
    let id = crate::model::release_id;
    // Live until 2, 3, 4, 5, 6, and now.
    assert_eq!(past(2, 100), [id(1), id(2), id(3), id(4)]);
    assert_eq!(past(2, 4), [id(1), id(2)]);
    assert_eq!(past(0, 100), [id(1), id(2), id(3), id(4), id(5)]);
    assert_eq!(past(20, 100), []);

    // A rollback that is under way needs its release.
    let back = deployment(&shop, 50, Source::Release { release: id(1) });
    fixture.write(move |tx| deployments::create(tx, &back)).unwrap();
    assert_eq!(past(2, 4), [id(2)]);

    fixture.write(move |tx| releases::drop_artifact(tx, of, id(2))).unwrap();
    assert_eq!(past(2, 4), []);
    assert_eq!(disk(&fixture.store, of), Bytes::kib(50));
    let kept = fixture.read(move |tx| Ok(releases::get(tx, of, id(2))?)).unwrap();
    assert!(!kept.artifact_kept);
    let needed = |n| fixture.read(move |tx| Ok(blobs::is_referenced(tx, of, &digest(n))?));
    assert!(needed(1) && !needed(2));
}

#[test]
fn a_source_counts_while_it_is_deployed_and_each_digest_once() {
    let fixture = Fixture::new();
    let tenant = Tenant::of(1);
    let (of, shop) = (tenant.org.id, tenant.app.clone());
    fixture.write(move |tx| tenant.settle(tx)).unwrap();
    // The same folder twice.
    for n in [1, 2] {
        let moving = deployment(&shop, n, folder(7, Bytes::kib(4)));
        fixture.write(move |tx| deployments::create(tx, &moving)).unwrap();
    }
    assert_eq!(disk(&fixture.store, of), Bytes::kib(4));
    for n in [1, 2] {
        assert_eq!(disk(&fixture.store, of), Bytes::kib(4));
        let mut over = deployment(&shop, n, folder(7, Bytes::kib(4)));
        over.state = DeploymentState::Superseded { by: deployment_id(9) };
        let queued = DeploymentState::Queued;
        fixture.write(move |tx| deployments::update(tx, &queued, &over)).unwrap();
    }
    assert_eq!(disk(&fixture.store, of), Bytes(0));
}

#[test]
fn digests_are_listed_for_the_collector_in_parts() {
    let fixture = Fixture::new();
    let tenant = Tenant::of(1);
    let (of, shop) = (tenant.org.id, tenant.app.clone());
    fixture.write(move |tx| tenant.settle(tx)).unwrap();
    release_many(&fixture, &shop, 3);
    let mut seen = Vec::new();
    loop {
        let after = seen.last().copied();
        let part = fixture.read(move |tx| Ok(blobs::referenced(tx, of, after.as_ref(), 4)?));
        if part.is_empty() {
            break;
        }
        seen.extend(part);
    }
    let expected = [1, 2, 3, 1_000_001, 1_000_002, 1_000_003].map(digest);
    assert_eq!(seen, expected);
}

#[test]
fn usage_is_what_specs_ask_for_and_a_rollout_does_not_count_twice() {
    let fixture = Fixture::new();
    let tenant = Tenant::of(1);
    let (of, shop, run) = (tenant.org.id, tenant.app.clone(), tenant.run.clone());
    fixture.write(move |tx| tenant.deploy(tx)).unwrap();
    let usage = || fixture.read(move |tx| Ok(quotas::usage(tx, of)?));
    let asked = |instances: u32| {
        let usage = usage();
        assert_eq!(usage.instances, instances);
        assert_eq!(usage.memory, Bytes::mib(256 * u64::from(instances)));
        assert_eq!(usage.cpu, MilliCpu(500 * instances));
    };
    // Two of `web` by its spec; a job asks for nothing until it runs, as one does. The deployment
    // that is under way asks for two as well: the same two.
    asked(3);
    assert!(!run.state.is_final());
    let over = Run { state: RunState::Cancelled, ..run.clone() };
    fixture.write(move |tx| runs::update(tx, &run.state, &over)).unwrap();
    asked(2);
    assert_eq!((usage().builds_queued, usage().builds_running), (1, 0));

    let id = shop.id;
    let scale = |n: u32| {
        fixture
            .write(move |tx| apps::set_scale(tx, of, id, &[("web".parse().unwrap(), n)].into()))
            .unwrap();
    };
    scale(5);
    asked(5);
    // Another app that was never live counts from its first deployment on.
    let blog = app(&Tenant::of(1).environment, 9);
    fixture
        .write(move |tx| {
            apps::create(tx, &blog, &default_host(&blog))?;
            deployments::create(tx, &deployment(&blog, 9, folder(9, Bytes::kib(1))))
        })
        .unwrap();
    asked(7);
    let rest = fixture.read(move |tx| Ok(quotas::ask_without(tx, of, Some(id))?));
    assert_eq!(rest.instances, 2);
    fixture.write(move |tx| apps::set_running(tx, of, id, false)).unwrap();
    asked(2);
}

#[test]
fn one_orgs_events_do_not_crowd_out_anothers() {
    let fixture = Fixture::new();
    let kept = events::KEPT_PER_ORG as u32;
    fixture
        .write(move |tx| -> Result<(), WriteError> {
            events::append(tx, &event(Some(org_id(2)), None, 0))?;
            for n in 1..=kept + 3 {
                events::append(tx, &event(Some(org_id(1)), None, n))?;
            }
            Ok(())
        })
        .unwrap();
    let swept = fixture
        .store
        .write_blocking(|tx| -> Result<_, StoreError> { sweep::all(tx, at(0)) })
        .unwrap();
    assert_eq!(swept.events, 3);
    let oldest = |of| {
        let found = fixture
            .read(move |tx| Ok(events::since(tx, events::Of::Org(of), Default::default(), 1)?));
        found[0].1.message.clone()
    };
    assert_eq!(oldest(org_id(1)), "event 4");
    assert_eq!(oldest(org_id(2)), "event 0");
}

#[test]
fn an_app_forgets_its_oldest_ended_deployments_but_not_what_it_lives_by() {
    let fixture = Fixture::new();
    let tenant = Tenant::of(1);
    let shop = tenant.app.clone();
    let (of, id) = (shop.org, shop.id);
    fixture.write(move |tx| tenant.settle(tx)).unwrap();
    release_many(&fixture, &shop, 2);
    fixture
        .write(move |tx| {
            (10..10 + deployments::KEPT_PER_APP).try_for_each(|n| {
                let mut failed = deployment(&shop, n, folder(n, Bytes::kib(1)));
                failed.state = DeploymentState::Superseded { by: deployment_id(n + 1) };
                deployments::create(tx, &failed)
            })
        })
        .unwrap();
    let there =
        |n| fixture.read(move |tx| Ok(deployments::get(tx, of, deployment_id(n))?)).is_some();
    assert!(!there(1), "ended, and the oldest");
    assert!(there(2), "what the app lives by");
    assert!(there(10));
    let newest = fixture.read(move |tx| Ok(deployments::newest_under_way(tx, of, id)?));
    assert_eq!(newest, None);
}
