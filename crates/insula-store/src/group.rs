//! Commits mutations in groups: one wait for the disk, many answers.
//!
//! The writer takes every mutation that waits, up to a bound, and runs each in a savepoint of one
//! transaction. One that refuses or panics is undone alone. Answers go out after the commit. If the
//! group as a whole fails, its mutations are run again one by one, so that the one that does not
//! fit on the disk does not take its neighbours with it. If PostgreSQL is away, what was surely not
//! committed is run again once it is back; a commit whose answer was lost is looked up first.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use insula_model::Generation;
use tokio::sync::{mpsc, oneshot, watch};

use crate::database::{Access, Condition, Database, DbError, Moved};
use crate::error::StoreError;
use crate::events::EventSeq;
use crate::feed;
use crate::postgres::{self, Backoff, Landed};
use crate::tx::Tx;

/// Enough to hide the disk's wait; few enough that the first of them does not wait long.
const GROUP_MAX: usize = 256;

/// Where the outcome of commits is published.
#[derive(Debug)]
pub(crate) struct Heads {
    pub(crate) feed: watch::Sender<Generation>,
    pub(crate) events: watch::Sender<EventSeq>,
}

impl Heads {
    /// Never back: what is heard of another server may be older than what is known.
    pub(crate) fn publish(&self, (head, events): Moved) {
        fn forward<T: PartialOrd>(sender: &watch::Sender<T>, to: Option<T>) {
            sender.send_if_modified(|now| match to {
                Some(to) if to > *now => {
                    *now = to;
                    true
                }
                Some(_) | None => false,
            });
        }
        forward(&self.feed, head);
        forward(&self.events, events);
    }
}

/// What the writer has done since the store was opened.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) mutations: AtomicU64,
    pub(crate) commits: AtomicU64,
}

/// A mutation and where its answer goes, its types forgotten.
pub(crate) trait Mutation: Send {
    /// Runs it and keeps what it returns. True if it is to be kept.
    fn run(&mut self, tx: &mut Tx) -> bool;
    /// It was undone: forget what it returned, it will be run again.
    fn forget(&mut self);
    /// It was undone, and for this reason if it has none of its own.
    fn fail(&mut self, error: StoreError);
    fn answer(self: Box<Self>);
    /// When it was asked for.
    fn asked(&self) -> Instant;
}

struct Repeatable<T, E, F> {
    mutation: F,
    asked: Instant,
    outcome: Option<Result<T, E>>,
    answer: oneshot::Sender<Result<T, E>>,
}

pub(crate) fn mutation<T, E, F>(mutation: F) -> (Box<dyn Mutation>, oneshot::Receiver<Result<T, E>>)
where
    F: Fn(&mut Tx) -> Result<T, E> + Send + 'static,
    T: Send + 'static,
    E: From<StoreError> + Send + 'static,
{
    let (answer, receiver) = oneshot::channel();
    let asked = Instant::now();
    (Box::new(Repeatable { mutation, asked, outcome: None, answer }), receiver)
}

impl<T, E, F> Mutation for Repeatable<T, E, F>
where
    F: Fn(&mut Tx) -> Result<T, E> + Send,
    T: Send,
    E: From<StoreError> + Send,
{
    fn run(&mut self, tx: &mut Tx) -> bool {
        let outcome = caught(|| {
            let value = (self.mutation)(tx)?;
            feed::tell(tx)?;
            Ok(value)
        });
        let keep = outcome.is_ok();
        self.outcome = Some(outcome);
        keep
    }

    fn forget(&mut self) {
        self.outcome = None;
    }

    fn fail(&mut self, error: StoreError) {
        if !matches!(self.outcome, Some(Err(_))) {
            self.outcome = Some(Err(error.into()));
        }
    }

    fn answer(self: Box<Self>) {
        if let Some(outcome) = self.outcome {
            // Nobody waits for it any more: it is done all the same.
            let _ = self.answer.send(outcome);
        }
    }

    fn asked(&self) -> Instant {
        self.asked
    }
}

/// A panic of somebody's closure is that caller's error, not the end of a thread that all share.
pub(crate) fn caught<T, E: From<StoreError>>(work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(StoreError::Panicked.into()))
}

#[derive(Debug)]
pub(crate) struct Writer {
    tx: Tx,
    heads: Arc<Heads>,
    counts: Arc<Counts>,
}

type Group = Vec<Box<dyn Mutation>>;
type Waiting = mpsc::Receiver<Box<dyn Mutation>>;

impl Writer {
    pub(crate) fn new(tx: Tx, heads: Arc<Heads>, counts: Arc<Counts>) -> Self {
        Self { tx, heads, counts }
    }

    /// Until every handle of the store is gone and all they asked for is done.
    pub(crate) fn run(mut self, mut waiting: Waiting) {
        while let Some(first) = waiting.blocking_recv() {
            let mut group = vec![first];
            self.gather(&mut group, &mut waiting);
            self.settle(group, &mut waiting);
        }
    }

    /// Whoever waits now goes with the group, while it has room.
    fn gather(&self, group: &mut Group, waiting: &mut Waiting) {
        let max = match self.tx.database() {
            Database::Sqlite(_) => GROUP_MAX,
            Database::Postgres(_) => postgres::GROUP_MAX,
        };
        while group.len() < max {
            let Ok(next) = waiting.try_recv() else { break };
            group.push(next);
        }
    }

    fn settle(&mut self, mut group: Group, waiting: &mut Waiting) {
        let mut backoff = Backoff::default();
        while !group.is_empty() {
            match self.commit(&mut group) {
                // Surely not done, and not for a reason of the group's.
                Err(StoreError::Unavailable(source)) => {
                    group = self.expire(group, &source);
                    group.iter_mut().for_each(|one| one.forget());
                    self.gather(&mut group, waiting);
                    if let Some(first) = group.first() {
                        backoff.wait(self.waits_until(first.asked()));
                    }
                }
                outcome => {
                    self.conclude(&mut group, outcome);
                    self.answer(std::mem::take(&mut group));
                }
            }
        }
    }

    /// Tells those who have waited long enough; the others are left.
    fn expire(&self, group: Group, source: &DbError) -> Group {
        let now = Instant::now();
        let due = |one: &mut Box<dyn Mutation>| now >= self.waits_until(one.asked());
        let mut left = group;
        let mut expired: Group = left.extract_if(.., due).collect();
        for one in &mut expired {
            one.forget();
            one.fail(StoreError::Unavailable(source.clone()));
        }
        self.answer(expired);
        left
    }

    /// A file is never away.
    fn waits_until(&self, asked: Instant) -> Instant {
        match self.tx.database() {
            Database::Sqlite(_) => asked,
            Database::Postgres(postgres) => postgres.waits_until(asked),
        }
    }

    fn answer(&self, group: Group) {
        self.counts.mutations.fetch_add(group.len() as u64, Ordering::Relaxed);
        group.into_iter().for_each(Mutation::answer);
    }

    fn conclude(&mut self, group: &mut Group, outcome: Result<(), StoreError>) {
        let fail_all = |group: &mut Group, error: &dyn Fn() -> StoreError| {
            for one in group {
                one.forget();
                one.fail(error());
            }
        };
        match outcome {
            Ok(()) => {}
            // Trying again would wait as long again, for each.
            Err(StoreError::Locked(source)) => {
                fail_all(group, &|| StoreError::Locked(source.clone()));
            }
            Err(StoreError::Unavailable(source)) => {
                fail_all(group, &|| StoreError::Unavailable(source.clone()));
            }
            // Those that were refused were refused either way.
            Err(StoreError::Unknown(source)) => {
                group.iter_mut().for_each(|one| one.fail(StoreError::Unknown(source.clone())));
            }
            Err(error) if group.len() == 1 => group[0].fail(error),
            Err(error) => {
                let (mutations, cause) = (group.len(), &error as &dyn std::error::Error);
                tracing::warn!(error = cause, mutations, "a group failed; trying singly");
                for one in group {
                    one.forget();
                    if let Err(error) = self.commit(std::slice::from_mut(one)) {
                        one.fail(error);
                    }
                }
            }
        }
    }

    /// All or, if the transaction as a whole failed, nothing.
    fn commit(&mut self, group: &mut [Box<dyn Mutation>]) -> Result<(), StoreError> {
        self.tx.undo_to((None, None));
        match self.run_all(group) {
            Ok(()) => {}
            Err(StoreError::Unknown(source)) => match self.landed() {
                Some(Landed::Done) => {}
                // As if it had never been sent.
                Some(Landed::Undone) => return Err(StoreError::Unavailable(source)),
                None => return Err(StoreError::Unknown(source)),
            },
            Err(error) => {
                self.tx.database().roll_back()?;
                return Err(error);
            }
        }
        self.counts.commits.fetch_add(1, Ordering::Relaxed);
        self.heads.publish(self.tx.heads());
        Ok(())
    }

    /// What became of a commit whose answer was lost, if that can be found out in time.
    fn landed(&self) -> Option<Landed> {
        let Database::Postgres(postgres) = self.tx.database() else { return None };
        let until = postgres.waits_until(Instant::now());
        let mut backoff = Backoff::default();
        loop {
            match postgres.landed() {
                Ok(landed) => return Some(landed),
                Err(error) if Instant::now() >= until => {
                    let cause = &error as &dyn std::error::Error;
                    tracing::error!(error = cause, "what became of a commit is not known");
                    return None;
                }
                Err(_) => backoff.wait(until),
            }
        }
    }

    fn run_all(&mut self, group: &mut [Box<dyn Mutation>]) -> Result<(), StoreError> {
        // An earlier rollback may have failed.
        self.tx.database().roll_back()?;
        self.tx.database().begin(Access::Write)?;
        for mutation in group {
            self.tx.database().savepoint()?;
            let before = self.tx.heads();
            let keep = mutation.run(&mut self.tx);
            match self.tx.database().condition() {
                Condition::Open if keep => {}
                Condition::Open => self.undo(before)?,
                // The closure made nothing of an error after which there is nothing to keep.
                Condition::Failed => {
                    self.undo(before)?;
                    if keep {
                        mutation.forget();
                        mutation.fail(StoreError::Undone);
                    }
                }
                // A full disk, say, undoes the transaction whatever the closure made of the error.
                // It is found here, because the savepoint is gone with it.
                Condition::None => {}
            }
            self.tx.database().release_savepoint()?;
        }
        self.tx.database().commit(self.tx.heads())
    }

    fn undo(&mut self, before: Moved) -> Result<(), StoreError> {
        self.tx.undo_to(before);
        self.tx.database().undo_to_savepoint()
    }
}
