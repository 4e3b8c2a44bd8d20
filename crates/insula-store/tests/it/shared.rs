//! Several servers on one PostgreSQL: who follows misses nothing, and who opens agrees.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use insula_model::Generation;
use insula_model::feed::Change;
use insula_store::{OpenError, Store, WriteError, events, feed, orgs};

use crate::model::{event, org, org_id};
use crate::postgres::Server;

const WRITERS: u32 = 3;
const WRITES: u32 = 60;

#[test]
fn who_follows_two_servers_that_write_at_once_misses_nothing() {
    let Some(server) = Server::start() else { return };
    let stores = [1, 2].map(|_| Store::open(server.config("a")).unwrap());
    let follower = Store::open(server.config("a")).unwrap();
    let writers: Vec<_> = (0..WRITERS * 2)
        .map(|writer| {
            let store = stores[writer as usize % 2].clone();
            std::thread::spawn(move || {
                for n in 0..WRITES {
                    let n = writer * WRITES + n;
                    store
                        .write_blocking(move |tx| -> Result<(), WriteError> {
                            orgs::create(tx, &org(n))?;
                            Ok(events::append(tx, &event(Some(org_id(n)), None, n))?)
                        })
                        .unwrap();
                }
            })
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (seen, told) = runtime.block_on(async {
        let (mut head, mut newest) = (follower.head(), follower.events());
        let (mut at, mut seen) = (Generation(0), BTreeSet::new());
        let mut told = Vec::new();
        let all = u64::from(WRITERS * 2 * WRITES);
        while (seen.len() as u64) < all {
            tokio::time::timeout(Duration::from_secs(60), head.changed()).await.unwrap().unwrap();
            let head = *head.borrow_and_update();
            loop {
                let (next, changes) =
                    follower.read(move |tx| feed::since(tx, at, 7)).await.unwrap();
                // Each org is written once: every position up to the one reached has one change.
                assert_eq!(next.0 - at.0, changes.len() as u64, "a gap before {next}");
                for change in changes {
                    let Change::Org(org) = change else { panic!("{change:?}") };
                    assert!(seen.insert(org.id), "told twice");
                }
                if next == at {
                    break;
                }
                at = next;
            }
            assert!(at >= head, "woken for {head}, and it is not there");
        }
        while newest.borrow_and_update().0 < all {
            newest.changed().await.unwrap();
        }
        let page = events::EventSeq(0);
        let all = follower.read(move |tx| events::since(tx, events::Of::Platform, page, 10_000));
        told.extend(all.await.unwrap().into_iter().map(|(seq, _)| seq.0));
        (seen, told)
    });
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    assert_eq!(seen, (0..WRITERS * 2 * WRITES).map(org_id).collect());
    assert_eq!(told, (1..=u64::from(WRITERS * 2 * WRITES)).collect::<Vec<_>>());
}

#[test]
fn a_commit_of_one_server_wakes_the_others_before_they_would_look() {
    let Some(server) = Server::start() else { return };
    let (one, other) =
        (Store::open(server.config("a")).unwrap(), Store::open(server.config("a")).unwrap());
    // Its name is a word of SQL besides.
    let elsewhere = Store::open(server.config("user")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let (begun, mut head) = (Instant::now(), other.head());
        for n in 0..20 {
            one.write(move |tx| orgs::create(tx, &org(n))).await.unwrap();
            while head.borrow_and_update().0 < u64::from(n) + 1 {
                tokio::time::timeout(Duration::from_secs(60), head.changed())
                    .await
                    .unwrap()
                    .unwrap();
            }
        }
        // Once a second it looks by itself: that would be twenty.
        assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
        // Its connection is cut, and it hears of what it missed and of what comes.
        server.sql(
            "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE application_name = 'insula'",
        );
        one.write(move |tx| orgs::create(tx, &org(20))).await.unwrap();
        while head.borrow_and_update().0 < 21 {
            tokio::time::timeout(Duration::from_secs(60), head.changed()).await.unwrap().unwrap();
        }
    });
    assert_eq!(*elsewhere.head().borrow(), Generation(0), "another installation's schema");
    assert_eq!(elsewhere.read_blocking(orgs::count).unwrap(), 0);
}

#[test]
fn several_servers_may_open_an_empty_database_at_once() {
    let Some(server) = Server::start() else { return };
    let opening: Vec<_> = (0..4)
        .map(|n| {
            let config = server.config("a");
            std::thread::spawn(move || {
                let store = Store::open(config).unwrap();
                store.write_blocking(move |tx| orgs::create(tx, &org(n))).unwrap();
                store
            })
        })
        .collect();
    let stores: Vec<_> = opening.into_iter().map(|one| one.join().unwrap()).collect();
    assert_eq!(stores[0].read_blocking(orgs::count).unwrap(), 4);
    drop(stores);
    // Found again as it was left, also from inside of a runtime.
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let count = runtime.block_on(async {
        let store = Store::open(server.config("a")).unwrap();
        store.read(orgs::count).await.unwrap()
    });
    assert_eq!(count, 4);
}

#[test]
fn what_is_newer_or_not_ours_is_refused_with_words_and_left_alone() {
    let Some(server) = Server::start() else { return };
    drop(Store::open(server.config("a")).unwrap());
    server.sql("UPDATE a.format SET number = 999");
    let refused = Store::open(server.config("a")).unwrap_err();
    assert!(matches!(refused, OpenError::NewerSchema { found: 999, .. }), "{refused:?}");
    assert!(refused.to_string().contains("start the newer version"), "{refused}");
    assert_eq!(server.sql("SELECT number FROM a.format"), ["999"]);

    server.sql("CREATE SCHEMA b; CREATE TABLE b.recipes (name TEXT)");
    let refused = Store::open(server.config("b")).unwrap_err();
    assert!(matches!(refused, OpenError::ForeignSchema { .. }), "{refused:?}");
    assert!(refused.to_string().contains("?schema="), "{refused}");
    assert_eq!(server.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'b'"), ["recipes"]);

    let nobody = server.url().replace("user=insula", "user=nobody");
    let url = format!("{nobody}&password=s3cret").parse().unwrap();
    let refused = Store::open(insula_store::StoreConfig::postgres(url)).unwrap_err();
    assert!(matches!(refused, OpenError::Connect { .. }), "{refused:?}");
    let said = format!("{refused} {refused:?}");
    assert!(!said.contains("s3cret"), "{said}");
}

#[test]
fn a_server_of_the_version_before_does_not_write_into_newer_tables() {
    let Some(server) = Server::start() else { return };
    let mut config = server.config("a");
    config.patience.away = insula_model::Millis(100);
    let store = Store::open(config).unwrap();
    // Another one has migrated them, and this one's connections were cut.
    server.sql("UPDATE a.format SET number = 999");
    server.sql(
        "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE application_name = 'insula'",
    );
    let refused = store.write_blocking(|tx| orgs::create(tx, &org(1))).unwrap_err();
    let WriteError::Store(insula_store::StoreError::Unavailable(cause)) = refused else {
        panic!("{refused:?}")
    };
    assert!(cause.to_string().contains("format 999"), "{cause}");
    assert_eq!(server.sql("SELECT COUNT(*) FROM a.orgs"), ["0"]);
}
