//! What the version before wrote is the same world for this one.
//!
//! The rows are written by the statements of that version, not by ours.

use std::path::Path;

use insula_model::feed::Change;
use insula_model::fleet::Member;
use insula_model::instance::{Instance, Intent};
use insula_model::node::{Architecture, Capacity, Duty, Site};
use insula_model::observed::Observed;
use insula_model::schema;
use insula_model::{Bytes, Generation, InstanceId, MilliCpu};
use insula_store::{Page, Store, StoreConfig, WriteError, feed, instances, nodes, releases};
use rusqlite::{Connection, params};

use crate::model::{Tenant, at, instance_id, live, node, node_id, ready, run_id};

/// The statements of format 1, as it was released.
const FORMAT_1: &str = include_str!("../../src/migrations/0001.sql");

/// What was stored of an instance: the whole of it, without what it says only since.
fn document(instance: &Instance) -> String {
    let text = schema::encode(instance).unwrap();
    let mut document: serde_json::Value = serde_json::from_str(&text).unwrap();
    let fields = document.as_object_mut().unwrap();
    fields.remove("pids");
    fields.remove("disk");
    document.to_string()
}

/// A store of the version before: an app of two orgs each, with what runs of it.
fn older(path: &Path, tenants: &[Tenant], instances: &[Instance]) {
    let db = Connection::open(path).unwrap();
    db.execute_batch(FORMAT_1).unwrap();
    db.execute_batch("PRAGMA application_id = 0x696e7375; PRAGMA user_version = 1;").unwrap();
    for t in tenants {
        let created = t.org.created.as_millis();
        db.execute(
            "INSERT INTO orgs VALUES (?1, ?2, ?3, 20, 1, 1, 1, 1, 1, 1)",
            params![t.org.id.to_string(), t.org.name.as_str(), created],
        )
        .unwrap();
        db.execute(
            "INSERT INTO projects VALUES (?1, ?2, ?3, ?4)",
            params![
                t.project.id.to_string(),
                t.org.id.to_string(),
                t.project.name.as_str(),
                created
            ],
        )
        .unwrap();
        db.execute(
            "INSERT INTO environments VALUES (?1, ?2, ?3, ?4, ?5)",
            params![
                t.environment.id.to_string(),
                t.org.id.to_string(),
                t.project.id.to_string(),
                t.environment.name.as_str(),
                created
            ],
        )
        .unwrap();
        db.execute(
            "INSERT INTO apps VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1, '{}', ?7, ?8, ?9, 1)",
            params![
                t.app.id.to_string(),
                t.org.id.to_string(),
                t.project.id.to_string(),
                t.environment.id.to_string(),
                t.app.name.as_str(),
                created,
                t.release.id.to_string(),
                t.deployment.id.to_string(),
                at(1).as_millis()
            ],
        )
        .unwrap();
        db.execute(
            "INSERT INTO releases VALUES (?1, ?2, ?3, 1, ?4, 1, NULL, ?5)",
            params![
                t.release.id.to_string(),
                t.org.id.to_string(),
                t.app.id.to_string(),
                t.deployment.id.to_string(),
                schema::encode(&t.release).unwrap()
            ],
        )
        .unwrap();
    }
    for n in 1..=2 {
        let node = node(n);
        db.execute(
            "INSERT INTO nodes VALUES (?1, ?2, 2000, ?3, 100, 'full', ?4, '0.1.0', ?5, ?6)",
            params![
                node.id.to_string(),
                node.name.as_str(),
                Bytes::gib(4).0,
                serde_json::to_string(&node.offer.runtimes).unwrap(),
                node.joined.as_millis(),
                node.hello.as_millis()
            ],
        )
        .unwrap();
    }
    for (seq, i) in (1..).zip(instances) {
        let run = i.run.map(|run| run.to_string());
        db.execute(
            "INSERT INTO instances (id, org, project, environment, app, release_id, node, run, doc)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                i.id.to_string(),
                i.org.to_string(),
                i.project.to_string(),
                i.environment.to_string(),
                i.app.to_string(),
                i.release.to_string(),
                i.node.to_string(),
                run,
                document(i)
            ],
        )
        .unwrap();
        db.execute("INSERT INTO feed VALUES ('instance', ?1, ?2)", params![i.id.to_string(), seq])
            .unwrap();
    }
    db.execute("UPDATE counters SET value = ?1 WHERE name = 'feed'", params![instances.len()])
        .unwrap();
}

/// Every kind of instance that there was, in two orgs.
fn placed(tenants: &[Tenant]) -> Vec<Instance> {
    let old = |tenant: &Tenant, n: u32| Instance {
        id: instance_id(n),
        pids: 0,
        disk: Bytes(0),
        ..tenant.instance.clone()
    };
    let [a, b] = tenants else { panic!("two tenants") };
    let mut all = vec![
        old(a, 1),
        Instance { intent: Intent::Drain { since: at(123_456) }, ..old(a, 2) },
        Instance { intent: Intent::Stop { since: at(999) }, node: node_id(2), ..old(a, 3) },
        Instance { observed: ready(instance_id(4), at(7)), created: at(86_400_001), ..old(a, 4) },
        Instance { observed: Observed::Absent { seen: at(8) }, ..old(a, 5) },
        Instance { component: "clean".parse().unwrap(), run: Some(run_id(6)), ..old(a, 6) },
        Instance { component: "clean".parse().unwrap(), run: Some(run_id(7)), ..old(a, 7) },
        Instance { cpu: MilliCpu(1), memory: Bytes(3), ..old(a, 8) },
        old(b, 9),
    ];
    // An id with every digit there is, at either end.
    let strange = InstanceId::from_u128(0xfedc_ba98_7654_3210_0123_4567_89ab_cdef);
    all.push(Instance { id: strange, ..old(b, 10) });
    all.push(Instance { id: InstanceId::from_u128(u128::MAX), ..old(b, 11) });
    all.push(Instance { id: InstanceId::from_u128(1), ..old(b, 12) });
    all.sort_by_key(|instance| instance.id);
    all
}

fn told(changes: Vec<Change>) -> Vec<Instance> {
    let of = |change| match change {
        Change::Instance(row) => Some(*row),
        _ => None,
    };
    let mut rows: Vec<_> = changes.into_iter().filter_map(of).collect();
    rows.sort_by_key(|instance| instance.id);
    rows
}

#[test]
fn what_the_version_before_placed_is_placed_still() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("insula.db");
    let tenants = [Tenant::of(1), Tenant::of(2)];
    let expected = placed(&tenants);
    older(&path, &tenants, &expected);
    let store = Store::open(StoreConfig::new(&path)).unwrap();

    let (head, changes) = store.read_blocking(feed::snapshot).unwrap();
    assert_eq!(told(changes), expected);
    assert_eq!(head, Generation(expected.len() as u64));
    let (_, changes) = store.read_blocking(|tx| feed::since(tx, Generation(0), 100)).unwrap();
    assert_eq!(told(changes), expected, "who read the feed before goes on reading it");
    let (org, app) = (tenants[0].org.id, tenants[0].app.id);
    let listed =
        store.read_blocking(move |tx| instances::list(tx, org, Some(app), &Page::first(50)));
    assert_eq!(listed.unwrap().items.len(), 8);

    // It lives on: new ones join those of old, and a release goes with its last instance.
    let release = tenants[0].release.id;
    let more = Instance { id: instance_id(100), ..expected[1].clone() };
    let (one, of) = (more.clone(), more.org);
    store.write_blocking(move |tx| instances::create(tx, &one)).unwrap();
    let found = store.read_blocking(move |tx| instances::get(tx, of, more.id)).unwrap();
    assert_eq!(found, Some(more));
    let all = store.read_blocking(move |tx| instances::list(tx, org, None, &Page::first(50)));
    let ids: Vec<_> = all.unwrap().items.iter().map(|instance| instance.id).collect();
    store
        .write_blocking(move |tx| {
            insula_store::apps::delete(tx, org, app)?;
            assert!(releases::get(tx, org, release)?.is_some());
            ids.iter().try_for_each(|id| instances::delete(tx, org, *id))?;
            assert!(releases::get(tx, org, release)?.is_none());
            Ok::<_, WriteError>(())
        })
        .unwrap();
}

#[test]
fn nodes_of_the_version_before_are_as_they_were_and_serve() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("insula.db");
    let tenants = [Tenant::of(1), Tenant::of(2)];
    older(&path, &tenants, &[]);
    let store = Store::open(StoreConfig::new(&path)).unwrap();
    let found = store.read_blocking(|tx| nodes::get(tx, node_id(2))).unwrap().unwrap();
    let mut expected = node(2);
    expected.offer.architecture = Architecture::Unknown;
    expected.offer.capacity = Capacity {
        cpu: MilliCpu(2_000),
        memory: Bytes::gib(4),
        instances: 100,
        ..Capacity::default()
    };
    assert_eq!(found, expected);
    assert_eq!((found.duty, found.site), (Duty::Serve, Site::default()));
    // It never had to join: it is here already.
    let member = Member::Node(node_id(2));
    let known = store.read_blocking(move |tx| insula_store::enrolments::get(tx, member));
    assert_eq!(known.unwrap(), None);
    store.write_blocking(|tx| nodes::hello(tx, &node(2))).unwrap();
    let live = live(&tenants[0].release, at(1));
    let app = tenants[0].app.id;
    let found = store.read_blocking(move |tx| insula_store::apps::get_any_org(tx, app)).unwrap();
    assert_eq!(found.unwrap().live, Some(live));
}

#[test]
fn logs_of_the_version_before_are_looked_for_on_its_node() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("insula.db");
    let tenants = [Tenant::of(1), Tenant::of(2)];
    older(&path, &tenants, &[]);
    // As every installation was, this one has one node.
    let gone = node_id(1).to_string();
    Connection::open(&path).unwrap().execute("DELETE FROM nodes WHERE id = ?1", [gone]).unwrap();
    let store = Store::open(StoreConfig::new(&path)).unwrap();
    for tenant in tenants {
        let (org, app) = (tenant.org.id, tenant.app.id);
        let asked = store.read_blocking(move |tx| insula_store::whereabouts::of_app(tx, org, app));
        assert_eq!(asked.unwrap(), [node_id(2)].into());
    }
}
