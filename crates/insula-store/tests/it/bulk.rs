//! Many instances at once: as whole and as durable as one, and told to all who follow.

use std::collections::{BTreeMap, BTreeSet};

use insula_model::feed::Change;
use insula_model::instance::{Instance, Intent};
use insula_model::observed::Observed;
use insula_model::{Bytes, Generation, InstanceId, MilliCpu};
use insula_store::{Kind, Page, Store, StoreConfig, WriteError, apps, feed, instances, releases};

use crate::model::{
    Fixture, Tenant, at, deployment_id, instance_id, node_id, ready, release_id, run_id,
};

/// `count` instances beside one another, as an action places them.
fn row(of: &Instance, first: u128, count: u32) -> Vec<Instance> {
    let first = InstanceId::from_u128(first << 32);
    (0..count).map(|n| Instance { id: first.nth(n), node: node_id(n % 7), ..of.clone() }).collect()
}

fn told(changes: &[Change]) -> BTreeMap<InstanceId, Instance> {
    let of = |change: &Change| match change {
        Change::Instance(row) => Some((row.id, (**row).clone())),
        _ => None,
    };
    changes.iter().filter_map(of).collect()
}

/// All that a reader is told, asking for `limit` changes at a time.
fn follow(store: &Store, after: Generation, limit: usize) -> Vec<Change> {
    let (mut reached, mut all) = (after, Vec::new());
    loop {
        let (next, more) = store.read_blocking(move |tx| feed::since(tx, reached, limit)).unwrap();
        if next == reached {
            return all;
        }
        reached = next;
        all.extend(more);
    }
}

fn expected(rows: &[Instance]) -> BTreeMap<InstanceId, Instance> {
    rows.iter().map(|row| (row.id, row.clone())).collect()
}

#[test]
fn thousands_are_told_one_by_one_and_stored_once() {
    let fixture = Fixture::new();
    let tenant = Tenant::of(1);
    let rows = row(&tenant.instance, 5, 3_000);
    let own = tenant.instance.clone();
    fixture.write(move |tx| tenant.deploy(tx)).unwrap();
    let head = *fixture.store.head().borrow();
    let made = rows.clone();
    fixture.write(move |tx| instances::create_many(tx, &made)).unwrap();
    let moved = fixture.store.head().borrow().0 - head.0;
    assert!(moved < 10, "{moved} positions of the feed for one row of ids");

    for limit in [1, 7, 1_024, 100_000] {
        assert_eq!(
            told(&follow(&fixture.store, head, limit)),
            expected(&rows),
            "{limit} at a time"
        );
    }
    let mut all = rows.clone();
    all.push(own.clone());
    let (_, snapshot) = fixture.read(|tx| Ok(feed::snapshot(tx)?));
    assert_eq!(told(&snapshot), expected(&all));
    // They are listed in the order of their ids, page by page.
    let (mut listed, mut page) = (Vec::new(), Page::first(190));
    loop {
        let asked = page.clone();
        let found =
            fixture.read(move |tx| Ok(instances::list(tx, own.org, Some(own.app), &asked)?));
        listed.extend(found.items);
        let Some(next) = found.next else { break };
        page = Page::after(190, next);
    }
    all.sort_by_key(|instance| instance.id);
    assert_eq!(listed, all);
    // Durable: another store on the same database knows them.
    let config = fixture.config();
    let again = Store::open(config).unwrap();
    let (_, snapshot) = again.read_blocking(feed::snapshot).unwrap();
    assert_eq!(told(&snapshot), expected(&all));
}

#[test]
fn who_was_away_hears_what_became_of_each() {
    let fixture = Fixture::new();
    let tenant = Tenant::of(1);
    let mut rows = row(&tenant.instance, 5, 40);
    let org = tenant.org.id;
    let made = rows.clone();
    fixture
        .write(move |tx| {
            tenant.deploy(tx)?;
            instances::create_many(tx, &made)
        })
        .unwrap();
    let (changed, gone) = (rows[3].id, rows[4].id);
    fixture
        .write(move |tx| {
            instances::set_observed(tx, org, changed, &ready(changed, at(9)))?;
            instances::set_intent(tx, org, changed, Intent::Stop { since: at(8) })?;
            instances::delete(tx, org, gone)
        })
        .unwrap();
    rows[3].observed = ready(changed, at(9));
    rows[3].intent = Intent::Stop { since: at(8) };
    rows.remove(4);
    let changes = follow(&fixture.store, Generation(0), 10);
    let mut known = told(&changes);
    assert!(known.remove(&instance_id(1)).is_some());
    assert_eq!(known, expected(&rows));
    // Also one who knew it, and one who was told of it before, hears of its end last.
    let end = changes.iter().rposition(|change| *change == Change::InstanceGone(gone));
    let before =
        changes.iter().rposition(|change| told(std::slice::from_ref(change)).contains_key(&gone));
    assert!(end.is_some() && end > before, "{end:?} {before:?}");
}

#[test]
fn rows_that_differ_in_anything_keep_their_difference() {
    let fixture = Fixture::new();
    let tenant = Tenant::of(1);
    let base = Instance { node: node_id(3), ..tenant.instance.clone() };
    let own = tenant.instance.clone();
    fixture.write(move |tx| tenant.deploy(tx)).unwrap();
    let different = [
        base.clone(),
        Instance { component: "worker".parse().unwrap(), ..base.clone() },
        Instance { deployment: deployment_id(70), ..base.clone() },
        Instance { run: Some(run_id(1)), ..base.clone() },
        Instance { run: Some(run_id(2)), ..base.clone() },
        Instance { cpu: MilliCpu(1), ..base.clone() },
        Instance { memory: Bytes(0), ..base.clone() },
        Instance { pids: 1, ..base.clone() },
        Instance { disk: Bytes(1), ..base.clone() },
        Instance { kind: insula_model::spec::ComponentKind::Job, ..base.clone() },
        Instance { created: at(-5), ..base.clone() },
        Instance { intent: Intent::Drain { since: at(4) }, ..base.clone() },
        Instance { intent: Intent::Stop { since: at(5) }, ..base.clone() },
        Instance { observed: Observed::Absent { seen: at(6) }, ..base.clone() },
        Instance { observed: ready(instance_id(9), at(7)), ..base },
    ];
    // In every order of neighbours, each a few times in a row.
    let mut rows = Vec::new();
    for (n, first) in different.iter().enumerate() {
        for second in &different[n..] {
            for of in [first, second, second] {
                rows.push(of.clone());
            }
        }
    }
    for (n, one) in (1..).zip(&mut rows) {
        one.id = InstanceId::from_u128((9_u128 << 64) + n);
    }
    let made = rows.clone();
    fixture.write(move |tx| instances::create_many(tx, &made)).unwrap();
    for one in rows.iter().take(60).cloned() {
        let found = fixture.read(move |tx| Ok(instances::get(tx, one.org, one.id)?));
        assert_eq!(found, Some(one));
    }
    rows.push(own);
    let (_, snapshot) = fixture.read(|tx| Ok(feed::snapshot(tx)?));
    assert_eq!(told(&snapshot), expected(&rows));
}

#[test]
fn all_are_made_or_none() {
    let fixture = Fixture::new();
    let (ours, theirs) = (Tenant::of(1), Tenant::of(2));
    let (mine, other) = (ours.instance.clone(), theirs.instance.clone());
    fixture
        .write(move |tx| {
            ours.deploy(tx)?;
            theirs.deploy(tx)
        })
        .unwrap();
    let before = fixture.read(|tx| Ok(feed::snapshot(tx)?));
    for place in [0, 63, 64, 71, 72, 99] {
        let mut rows = row(&mine, 5, 100);
        rows[place].id = mine.id;
        let said = fixture.write(move |tx| instances::create_many(tx, &rows));
        assert!(
            matches!(said, Err(WriteError::Exists { kind: Kind::Instance })),
            "{place}: {said:?}"
        );
    }
    // Twice in one and the same call.
    let twice = [row(&mine, 5, 70), row(&mine, 5, 1)].concat();
    let said = fixture.write(move |tx| instances::create_many(tx, &twice));
    assert!(matches!(said, Err(WriteError::Exists { kind: Kind::Instance })), "{said:?}");
    // One among them of a stranger's release, of a stranger's app, of nothing that is there.
    let strange = [
        (Instance { release: other.release, ..mine.clone() }, Kind::Release),
        (Instance { app: other.app, ..mine.clone() }, Kind::App),
        (Instance { org: other.org, ..mine.clone() }, Kind::App),
        (Instance { release: release_id(99), ..mine.clone() }, Kind::Release),
    ];
    for (one, missing) in strange {
        let rows = [row(&mine, 5, 70), row(&one, 6, 1), row(&mine, 7, 9)].concat();
        let said = fixture.write(move |tx| instances::create_many(tx, &rows));
        assert!(matches!(said, Err(WriteError::NotFound { kind }) if kind == missing), "{said:?}");
    }
    assert_eq!(fixture.read(|tx| Ok(feed::snapshot(tx)?)), before);
    assert_eq!(fixture.write(|tx| instances::create_many(tx, &[])).unwrap(), ());
}

#[test]
fn what_instances_share_goes_with_the_last_of_them() {
    let fixture = Fixture::new();
    let tenant = Tenant::of(1);
    let (org, app, release) = (tenant.org.id, tenant.app.id, tenant.release.id);
    let rows = row(&tenant.instance, 5, 20);
    let mut ids: BTreeSet<_> = rows.iter().map(|row| row.id).collect();
    ids.insert(tenant.instance.id);
    let again = row(&tenant.instance, 6, 1);
    fixture
        .write(move |tx| {
            tenant.deploy(tx)?;
            instances::create_many(tx, &rows)?;
            apps::delete(tx, org, app)
        })
        .unwrap();
    let kept = || fixture.read(move |tx| Ok(releases::get_any_org(tx, release)?)).is_some();
    for id in ids {
        assert!(kept());
        fixture.write(move |tx| instances::delete(tx, org, id)).unwrap();
    }
    assert!(!kept());
    let said = fixture.write(move |tx| instances::create_many(tx, &again));
    assert!(matches!(said, Err(WriteError::NotFound { kind: Kind::App })), "{said:?}");
}

#[test]
fn a_restored_store_holds_nothing_for_what_ran_elsewhere() {
    let fixture = Fixture::new();
    let tenant = Tenant::of(1);
    let (org, app, release) = (tenant.org.id, tenant.app.id, tenant.release.id);
    let told = |changes: Vec<Change>| {
        let of = |change: &Change| matches!(change, Change::Release(row) if row.id == release);
        changes.iter().any(of)
    };
    fixture
        .write(move |tx| {
            tenant.deploy(tx)?;
            apps::delete(tx, org, app)
        })
        .unwrap();
    assert!(told(fixture.read(|tx| Ok(feed::snapshot(tx)?)).1), "its instance needs it");
    let [backup, to] = ["backup", "restored.db"].map(|name| fixture.folder.path().join(name));
    fixture.store.backup_to_blocking(&backup).unwrap();
    insula_store::restore(&backup, &to).unwrap();
    let restored = Store::open(StoreConfig::new(&to)).unwrap();
    assert!(!told(restored.read_blocking(feed::snapshot).unwrap().1), "nothing needs it");
}
