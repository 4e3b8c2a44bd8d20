//! A request that is repeated is answered again, not done again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use insula_model::limits::IDEMPOTENCY_KEPT;
use insula_model::{Millis, Timestamp};
use insula_store::idempotency::{self, Begin, Request};
use insula_store::{StoreError, Tx, WriteError, orgs, sweep};

use crate::model::{Fixture, at, digest, org};

fn request(key: &str, body: u32) -> Request {
    Request {
        caller: "tok_a".to_owned(),
        key: key.to_owned(),
        route: "POST /v1/orgs".to_owned(),
        body: digest(body),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Done,
    Again(u16, Vec<u8>),
    Conflict,
}

/// What a handler does with a request that makes an org.
fn handle(tx: &mut Tx, request: &Request, n: u32, now: Timestamp) -> Result<Answer, WriteError> {
    match idempotency::begin(tx, request, now)? {
        Begin::New => {
            orgs::create(tx, &org(n))?;
            idempotency::finish(tx, request, 201, format!("org {n}").as_bytes(), now)?;
            Ok(Answer::Done)
        }
        Begin::Replay { status, answer } => Ok(Answer::Again(status, answer)),
        Begin::Conflict => Ok(Answer::Conflict),
    }
}

#[test]
fn a_repeat_is_answered_and_another_request_of_the_key_is_refused() {
    let fixture = Fixture::new();
    let ask = |request: Request, n: u32, now| {
        fixture.write(move |tx| handle(tx, &request, n, now)).unwrap()
    };
    let again = Answer::Again(201, b"org 1".to_vec());
    assert_eq!(ask(request("k", 1), 1, at(0)), Answer::Done);
    assert_eq!(ask(request("k", 1), 2, at(1)), again);
    assert_eq!(ask(request("k", 2), 2, at(1)), Answer::Conflict);
    let elsewhere = Request { route: "POST /v1/users".to_owned(), ..request("k", 1) };
    assert_eq!(ask(elsewhere, 2, at(1)), Answer::Conflict);
    // Another caller's key of the same text is another key.
    let stranger = Request { caller: "tok_b".to_owned(), ..request("k", 1) };
    assert_eq!(ask(stranger, 2, at(1)), Answer::Done);
    // Another key of the same caller is another request.
    assert_eq!(ask(request("l", 1), 3, at(1)), Answer::Done);

    let last = at(0).plus(Millis(IDEMPOTENCY_KEPT.0 - 1));
    assert_eq!(ask(request("k", 1), 4, last), again);
    let expired = at(0).plus(IDEMPOTENCY_KEPT);
    assert_eq!(ask(request("k", 2), 4, expired), Answer::Done);
    assert_eq!(ask(request("k", 2), 5, expired), Answer::Again(201, b"org 4".to_vec()));
}

#[test]
fn what_fails_is_not_remembered() {
    let fixture = Fixture::new();
    let taken = fixture.write(|tx| {
        orgs::create(tx, &org(1))?;
        handle(tx, &request("k", 1), 1, at(0))
    });
    assert!(matches!(taken, Err(WriteError::NameTaken { .. })));
    let done = fixture.write(|tx| handle(tx, &request("k", 1), 1, at(1))).unwrap();
    assert_eq!(done, Answer::Done);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_with_one_key_at_once_one_is_done() {
    let fixture = Fixture::new();
    let done = Arc::new(AtomicU32::new(0));
    let asking: Vec<_> = (0..40)
        .map(|n| {
            let (store, done) = (fixture.store.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                let handled = move |tx: &mut Tx| handle(tx, &request("k", 1), n, at(0));
                match store.write(handled).await.unwrap() {
                    Answer::Done => {
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    Answer::Again(status, _) => assert_eq!(status, 201),
                    Answer::Conflict => panic!("the same request conflicts with itself"),
                }
            })
        })
        .collect();
    for asked in asking {
        asked.await.unwrap();
    }
    assert_eq!(done.load(Ordering::Relaxed), 1);
    assert_eq!(fixture.store.read(orgs::count).await.unwrap(), 1);
}

#[test]
fn answers_are_swept_when_they_expire() {
    let fixture = Fixture::new();
    let ask = |key: &'static str, n, now| {
        fixture.write(move |tx| handle(tx, &request(key, 1), n, now)).unwrap()
    };
    ask("early", 1, at(0));
    ask("late", 2, at(1));
    let now = at(0).plus(IDEMPOTENCY_KEPT);
    let swept = move |tx: &mut Tx| -> Result<_, StoreError> { sweep::all(tx, now) };
    assert_eq!(fixture.store.write_blocking(swept).unwrap().answers, 1);
    assert_eq!(ask("late", 3, now), Answer::Again(201, b"org 2".to_vec()));
    assert_eq!(ask("early", 3, now), Answer::Done);
}
