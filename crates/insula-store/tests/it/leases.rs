//! One holder at a time, and nothing is written by one that was too slow to notice.
//!
//! A lease for no time at all is one that has run out, whoever's clock it goes by.

use std::sync::{Arc, Barrier};

use insula_model::fleet::Lease;
use insula_model::{Millis, ServerId, Timestamp};
use insula_store::{Store, StoreConfig, Tx, WriteError, leases, orgs};

use crate::model::{Fixture, at, org, org_id};

const NAME: &str = "control";
/// Longer than any test.
const LONG: Millis = Millis::secs(3_600);
const OVER: Millis = Millis(0);

fn server(n: u128) -> ServerId {
    ServerId::from_u128(n)
}

fn acquire_at(store: &Store, holder: ServerId, now: Timestamp, ttl: Millis) -> Option<Lease> {
    store.write_blocking(move |tx| leases::acquire(tx, NAME, holder, now, ttl)).unwrap()
}

fn acquire(fixture: &Fixture, holder: ServerId, ttl: Millis) -> Option<Lease> {
    acquire_at(&fixture.store, holder, at(0), ttl)
}

fn renew(fixture: &Fixture, held: Lease, ttl: Millis) -> Option<Lease> {
    let Lease { holder, epoch, .. } = held;
    let keep = move |tx: &mut Tx| leases::renew(tx, NAME, holder, epoch, at(0), ttl);
    fixture.store.write_blocking(keep).unwrap()
}

fn release(fixture: &Fixture, held: Lease) -> bool {
    let free = move |tx: &mut Tx| leases::release(tx, NAME, held.holder, held.epoch);
    fixture.store.write_blocking(free).unwrap()
}

/// What a holder does all day.
fn work(fixture: &Fixture, held: Lease, n: u32) -> Result<(), WriteError> {
    fixture.write(move |tx| {
        orgs::create(tx, &org(n))?;
        // Even at the end of what it does: all of it is undone.
        leases::check(tx, NAME, held.holder, held.epoch)
    })
}

#[test]
fn a_slow_holder_writes_nothing_after_another_took_over() {
    let fixture = Fixture::new();
    let (a, b) = (server(1), server(2));
    let held = acquire(&fixture, a, LONG).unwrap();
    assert_eq!((held.holder, held.epoch), (a, 1));
    work(&fixture, held, 1).unwrap();
    assert_eq!(acquire(&fixture, b, LONG), None, "it is held");
    assert_eq!(renew(&fixture, held, LONG).map(|kept| kept.epoch), Some(1));
    assert_eq!(acquire(&fixture, b, LONG), None);

    // A is stopped for a while, and goes on as if nothing had happened.
    renew(&fixture, held, OVER).unwrap();
    let next = acquire(&fixture, b, LONG).unwrap();
    assert_eq!((next.holder, next.epoch), (b, 2));
    let refused = work(&fixture, held, 2);
    assert!(
        matches!(&refused, Err(WriteError::Superseded { by: Some(by), .. }) if *by == b),
        "{refused:?}"
    );
    assert_eq!(fixture.read(|tx| Ok(orgs::get(tx, org_id(2))?)), None);
    assert_eq!(renew(&fixture, held, LONG), None);
    assert!(!release(&fixture, held), "it has nothing to give back");
    work(&fixture, next, 3).unwrap();
    assert_eq!(acquire(&fixture, a, LONG), None);

    // B gives it back: A need not wait, and B's right has ended at once.
    assert!(release(&fixture, next));
    assert!(work(&fixture, next, 4).is_err());
    let again = acquire(&fixture, a, LONG).unwrap();
    assert!(again.epoch > next.epoch);
    work(&fixture, again, 5).unwrap();
    // Its own former life is a stranger too.
    assert!(work(&fixture, held, 6).is_err());
}

#[test]
fn a_lease_that_ran_out_unnoticed_is_still_its_holders() {
    let fixture = Fixture::new();
    let held = acquire(&fixture, server(1), OVER).unwrap();
    work(&fixture, held, 1).unwrap();
    let kept = renew(&fixture, held, LONG).unwrap();
    assert_eq!(kept.epoch, held.epoch);
    assert_eq!(acquire(&fixture, server(2), LONG), None);
}

#[test]
fn a_server_that_begins_again_has_a_new_epoch() {
    let fixture = Fixture::new();
    let before = acquire(&fixture, server(1), LONG).unwrap();
    let after = acquire(&fixture, server(1), LONG).unwrap();
    assert_eq!(after.epoch, before.epoch + 1);
    assert!(work(&fixture, before, 1).is_err());
    work(&fixture, after, 2).unwrap();
    assert_eq!(fixture.read(|tx| Ok(leases::get(tx, NAME)?)), Some(after));
}

#[test]
fn nobody_has_what_nobody_took() {
    let fixture = Fixture::new();
    let never = Lease { holder: server(1), epoch: 0, until: at(0) };
    let refused = work(&fixture, never, 1);
    assert!(matches!(refused, Err(WriteError::Superseded { by: None, .. })), "{refused:?}");
    assert_eq!(renew(&fixture, never, LONG), None);
    assert!(!release(&fixture, never));
    // One right is not another.
    let held = acquire(&fixture, server(1), LONG).unwrap();
    let other = fixture.write(move |tx| leases::check(tx, "backup", held.holder, held.epoch));
    assert!(matches!(other, Err(WriteError::Superseded { .. })));
}

#[test]
fn of_many_that_ask_at_once_one_gets_it() {
    let fixture = Fixture::new();
    let begin = Arc::new(Barrier::new(8));
    let tries: Vec<_> = (1..=8)
        .map(|n| {
            let (store, begin) = (fixture.store.clone(), Arc::clone(&begin));
            std::thread::spawn(move || {
                begin.wait();
                acquire_at(&store, server(n), at(0), LONG)
            })
        })
        .collect();
    let held: Vec<_> = tries.into_iter().filter_map(|one| one.join().unwrap()).collect();
    let [held] = held[..] else { panic!("{held:?}") };
    assert_eq!(held.epoch, 1);
    work(&fixture, held, 1).unwrap();
}

/// A file has one user, whose clock it goes by; a shared database has its own, which no server's
/// clock changes.
#[test]
fn a_lease_ends_to_the_millisecond_by_the_clock_that_counts() {
    let folder = tempfile::tempdir().unwrap();
    let file = Store::open(StoreConfig::new(folder.path().join("insula.db"))).unwrap();
    let ttl = Millis(3_000);
    let held = acquire_at(&file, server(1), at(0), ttl).unwrap();
    assert_eq!(held.until, at(3_000));
    assert_eq!(acquire_at(&file, server(2), at(2_999), ttl), None);
    assert_eq!(acquire_at(&file, server(2), at(3_000), ttl).unwrap().until, at(6_000));

    let fixture = Fixture::new();
    if fixture.store.read_blocking(|tx| tx.clock(at(0))).unwrap() != at(0) {
        acquire(&fixture, server(1), LONG).unwrap();
        let years_ahead = at(1_000_000_000_000);
        assert_eq!(acquire_at(&fixture.store, server(2), years_ahead, LONG), None);
    }
}
