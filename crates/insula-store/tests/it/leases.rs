//! One holder at a time, and nothing is written by one that was too slow to notice.

use std::sync::{Arc, Barrier};

use insula_model::fleet::Lease;
use insula_model::{Millis, ServerId, Timestamp};
use insula_store::{WriteError, leases, orgs};

use crate::model::{Fixture, at, org, org_id};

const NAME: &str = "control";
const TTL: Millis = Millis(3_000);

fn server(n: u128) -> ServerId {
    ServerId::from_u128(n)
}

fn acquire(fixture: &Fixture, holder: ServerId, now: Timestamp) -> Option<Lease> {
    let take = move |tx: &mut insula_store::Tx| leases::acquire(tx, NAME, holder, now, TTL);
    fixture.store.write_blocking(take).unwrap()
}

fn renew(fixture: &Fixture, held: Lease, now: Timestamp) -> Option<Lease> {
    let keep =
        move |tx: &mut insula_store::Tx| leases::renew(tx, NAME, held.holder, held.epoch, now, TTL);
    fixture.store.write_blocking(keep).unwrap()
}

fn release(fixture: &Fixture, held: Lease) -> bool {
    let free = move |tx: &mut insula_store::Tx| leases::release(tx, NAME, held.holder, held.epoch);
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
    let held = acquire(&fixture, a, at(0)).unwrap();
    assert_eq!((held.holder, held.epoch, held.until), (a, 1, at(3_000)));
    work(&fixture, held, 1).unwrap();
    assert_eq!(acquire(&fixture, b, at(2_999)), None, "it is held");
    let held = renew(&fixture, held, at(2_000)).unwrap();
    assert_eq!((held.epoch, held.until), (1, at(5_000)));
    assert_eq!(acquire(&fixture, b, at(4_999)), None);

    // A is stopped for a while, and goes on as if nothing had happened.
    let next = acquire(&fixture, b, at(5_000)).unwrap();
    assert_eq!((next.holder, next.epoch), (b, 2));
    let refused = work(&fixture, held, 2);
    assert!(
        matches!(&refused, Err(WriteError::Superseded { by: Some(by), .. }) if *by == b),
        "{refused:?}"
    );
    assert_eq!(fixture.read(|tx| Ok(orgs::get(tx, org_id(2))?)), None);
    assert_eq!(renew(&fixture, held, at(5_001)), None);
    assert!(!release(&fixture, held), "it has nothing to give back");
    work(&fixture, next, 3).unwrap();
    assert_eq!(acquire(&fixture, a, at(5_002)), None);

    // B gives it back: A need not wait, and B's right has ended at once.
    assert!(release(&fixture, next));
    assert!(work(&fixture, next, 4).is_err());
    let again = acquire(&fixture, a, at(5_003)).unwrap();
    assert!(again.epoch > next.epoch);
    work(&fixture, again, 5).unwrap();
    // Its own former life is a stranger too.
    assert!(work(&fixture, held, 6).is_err());
}

#[test]
fn a_lease_that_ran_out_unnoticed_is_still_its_holders() {
    let fixture = Fixture::new();
    let held = acquire(&fixture, server(1), at(0)).unwrap();
    work(&fixture, held, 1).unwrap();
    let kept = renew(&fixture, held, at(60_000)).unwrap();
    assert_eq!((kept.epoch, kept.until), (1, at(63_000)));
    assert_eq!(acquire(&fixture, server(2), at(62_000)), None);
}

#[test]
fn a_server_that_begins_again_has_a_new_epoch() {
    let fixture = Fixture::new();
    let before = acquire(&fixture, server(1), at(0)).unwrap();
    let after = acquire(&fixture, server(1), at(1)).unwrap();
    assert_eq!(after.epoch, before.epoch + 1);
    assert!(work(&fixture, before, 1).is_err());
    work(&fixture, after, 2).unwrap();
    // The only server of a machine takes it from whoever had it before a restore, say.
    let seized = fixture.store.write_blocking(|tx| leases::seize(tx, NAME, server(9), at(2), TTL));
    let seized = seized.unwrap();
    assert_eq!((seized.holder, seized.epoch), (server(9), after.epoch + 1));
    assert!(work(&fixture, after, 3).is_err());
    work(&fixture, seized, 4).unwrap();
    let stands = fixture.read(|tx| Ok(leases::get(tx, NAME)?));
    assert_eq!(stands, Some(seized));
    let first = fixture.store.write_blocking(|tx| leases::seize(tx, "new", server(9), at(2), TTL));
    assert_eq!(first.unwrap().epoch, 1);
}

#[test]
fn nobody_has_what_nobody_took() {
    let fixture = Fixture::new();
    let never = Lease { holder: server(1), epoch: 0, until: at(0) };
    let refused = work(&fixture, never, 1);
    assert!(matches!(refused, Err(WriteError::Superseded { by: None, .. })), "{refused:?}");
    assert_eq!(renew(&fixture, never, at(0)), None);
    assert!(!release(&fixture, never));
    // One right is not another.
    let held = acquire(&fixture, server(1), at(0)).unwrap();
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
                store.write_blocking(move |tx| leases::acquire(tx, NAME, server(n), at(0), TTL))
            })
        })
        .collect();
    let held: Vec<_> = tries.into_iter().filter_map(|one| one.join().unwrap().unwrap()).collect();
    let [held] = held[..] else { panic!("{held:?}") };
    assert_eq!(held.epoch, 1);
    work(&fixture, held, 1).unwrap();
}
