//! Mutations that wait together are committed together, and fail apart.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, mpsc};
use std::task::Poll;

use insula_store::{Store, StoreError, WriteError, orgs};

use crate::model::{Fixture, org, org_id};

/// Holds the writer inside a mutation until it is let go, so that others gather behind it.
pub async fn hold(store: &Store) -> (mpsc::Sender<()>, tokio::task::JoinHandle<()>) {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Arc::new(Mutex::new(gate));
    let (inside, entered) = tokio::sync::oneshot::channel();
    let inside = Mutex::new(Some(inside));
    let store = store.clone();
    let held = tokio::spawn(async move {
        let mutation = move |_: &mut insula_store::Tx| -> Result<(), StoreError> {
            if let Some(inside) = inside.lock().unwrap().take() {
                inside.send(()).unwrap();
            }
            gate.lock().unwrap().recv().unwrap();
            Ok(())
        };
        store.write(mutation).await.unwrap();
    });
    entered.await.unwrap();
    (go, held)
}

/// Polls it once: its mutation is in the queue behind the one that is held.
pub async fn queued<F: Future>(write: F) -> Pin<Box<F>> {
    let mut write = Box::pin(write);
    assert!(poll_fn(|cx| Poll::Ready(write.as_mut().poll(cx).is_pending())).await);
    write
}

#[tokio::test]
async fn writers_that_wait_share_a_commit() {
    let fixture = Fixture::new();
    let (go, held) = hold(&fixture.store).await;
    let before = fixture.store.write_counts();
    let mut writers = Vec::new();
    for n in 0..50 {
        writers.push(queued(fixture.store.write(move |tx| orgs::create(tx, &org(n)))).await);
    }
    go.send(()).unwrap();
    held.await.unwrap();
    for writer in writers {
        writer.await.unwrap();
    }
    let after = fixture.store.write_counts();
    // The one that was held, and the fifty behind it.
    assert_eq!(after.mutations - before.mutations, 51);
    assert_eq!(after.commits - before.commits, 2);
    assert_eq!(fixture.store.read(orgs::count).await.unwrap(), 50);
}

#[tokio::test]
async fn a_mutation_that_fails_or_panics_does_its_neighbours_no_harm() {
    let fixture = Fixture::new();
    let (go, held) = hold(&fixture.store).await;
    let store = &fixture.store;
    let good = queued(store.write(|tx| orgs::create(tx, &org(1)))).await;
    let refused = queued(store.write(|tx| {
        orgs::create(tx, &org(2))?;
        // The name of the neighbour, who was first.
        let mut twin = org(3);
        twin.name = org(1).name;
        orgs::create(tx, &twin)
    }))
    .await;
    let panicked = queued(store.write(|tx| -> Result<(), WriteError> {
        orgs::create(tx, &org(4))?;
        panic!("a mistake of the caller's");
    }))
    .await;
    let late = queued(store.write(|tx| orgs::create(tx, &org(5)))).await;
    go.send(()).unwrap();
    held.await.unwrap();

    good.await.unwrap();
    assert!(matches!(refused.await, Err(WriteError::NameTaken { .. })));
    assert!(matches!(panicked.await, Err(WriteError::Store(StoreError::Panicked))));
    late.await.unwrap();

    // What was undone is neither in its table nor in the feed.
    let (head, changes) = fixture.store.read(insula_store::feed::snapshot).await.unwrap();
    assert_eq!(changes.len(), 2);
    assert_eq!(head.0, 2);
    assert_eq!(*fixture.store.head().borrow(), head);
    for undone in [2, 3, 4] {
        let found = fixture.store.read(move |tx| orgs::get(tx, org_id(undone))).await.unwrap();
        assert_eq!(found, None);
    }
}

#[tokio::test]
async fn a_read_sees_every_write_that_was_acknowledged() {
    let fixture = Fixture::new();
    let mut head = fixture.store.head();
    for n in 0..50 {
        fixture.store.write(move |tx| orgs::create(tx, &org(n))).await.unwrap();
        assert!(head.has_changed().unwrap());
        let told = head.borrow_and_update().0;
        let found = fixture.store.read(move |tx| orgs::get(tx, org_id(n))).await.unwrap();
        assert_eq!(found, Some(org(n)));
        assert_eq!(told, u64::from(n) + 1);
    }
}

#[tokio::test]
async fn a_caller_that_stops_waiting_does_not_stop_the_mutation() {
    let fixture = Fixture::new();
    let (go, held) = hold(&fixture.store).await;
    drop(queued(fixture.store.write(|tx| orgs::create(tx, &org(1)))).await);
    go.send(()).unwrap();
    held.await.unwrap();
    fixture.store.write(|tx| orgs::create(tx, &org(2))).await.unwrap();
    let found = fixture.store.read(|tx| orgs::get(tx, org_id(1))).await.unwrap();
    assert_eq!(found, Some(org(1)));
}
