//! Commits mutations in groups: one wait for the disk, many answers.
//!
//! The writer takes every mutation that waits, up to a bound, and runs each in a savepoint of one
//! transaction. One that refuses or panics is undone alone. Answers go out after the commit. If the
//! group as a whole fails, its mutations are run again one by one, so that the one that does not
//! fit on the disk does not take its neighbours with it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use insula_model::Generation;
use tokio::sync::{mpsc, oneshot, watch};

use crate::error::StoreError;
use crate::events::EventSeq;
use crate::feed;
use crate::sqlite::Access;
use crate::tx::Tx;

/// Enough to hide the disk's wait; few enough that the first of them does not wait long.
const GROUP_MAX: usize = 256;

/// Where the outcome of commits is published.
#[derive(Debug)]
pub(crate) struct Heads {
    pub(crate) feed: watch::Sender<Generation>,
    pub(crate) events: watch::Sender<EventSeq>,
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
}

struct Repeatable<T, E, F> {
    mutation: F,
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
    (Box::new(Repeatable { mutation, outcome: None, answer }), receiver)
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
}

/// A panic of somebody's closure is that caller's error, not the end of a thread that all share.
pub(crate) fn caught<T, E: From<StoreError>>(work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(StoreError::Panicked.into()))
}

#[derive(Debug)]
pub(crate) struct Writer {
    tx: Tx,
    heads: Heads,
    counts: Arc<Counts>,
}

impl Writer {
    pub(crate) fn new(tx: Tx, heads: Heads, counts: Arc<Counts>) -> Self {
        Self { tx, heads, counts }
    }

    /// Until every handle of the store is gone and all they asked for is done.
    pub(crate) fn run(mut self, mut waiting: mpsc::Receiver<Box<dyn Mutation>>) {
        while let Some(first) = waiting.blocking_recv() {
            let mut group = vec![first];
            while group.len() < GROUP_MAX {
                let Ok(next) = waiting.try_recv() else { break };
                group.push(next);
            }
            self.settle(group);
        }
    }

    fn settle(&mut self, mut group: Vec<Box<dyn Mutation>>) {
        match self.commit(&mut group) {
            Ok(()) => {}
            // Trying again would wait as long again, for each.
            Err(StoreError::Locked(source)) => {
                for one in &mut group {
                    one.forget();
                    one.fail(StoreError::Locked(source.clone()));
                }
            }
            Err(error) if group.len() == 1 => group[0].fail(error),
            Err(error) => {
                tracing::warn!(%error, mutations = group.len(), "a group failed; trying singly");
                for one in &mut group {
                    one.forget();
                    if let Err(error) = self.commit(std::slice::from_mut(one)) {
                        one.fail(error);
                    }
                }
            }
        }
        self.counts.mutations.fetch_add(group.len() as u64, Ordering::Relaxed);
        group.into_iter().for_each(Mutation::answer);
    }

    /// All or, if the transaction as a whole failed, nothing.
    fn commit(&mut self, group: &mut [Box<dyn Mutation>]) -> Result<(), StoreError> {
        self.tx.undo_to((None, None));
        let outcome = self.run_all(group);
        if outcome.is_err() && self.tx.database().in_transaction() {
            self.tx.database().batch("ROLLBACK")?;
        }
        outcome?;
        self.counts.commits.fetch_add(1, Ordering::Relaxed);
        let (head, events) = self.tx.heads();
        if let Some(head) = head {
            self.heads.feed.send_replace(head);
        }
        if let Some(events) = events {
            self.heads.events.send_replace(events);
        }
        Ok(())
    }

    fn run_all(&mut self, group: &mut [Box<dyn Mutation>]) -> Result<(), StoreError> {
        if self.tx.database().in_transaction() {
            // An earlier rollback failed.
            self.tx.database().batch("ROLLBACK")?;
        }
        self.tx.database().begin(Access::Write)?;
        for mutation in group {
            self.tx.database().batch("SAVEPOINT mutation")?;
            let before = self.tx.heads();
            let keep = mutation.run(&mut self.tx);
            // A full disk, say, undoes the transaction whatever the closure made of the error. It
            // is found here, because the savepoint is gone with it.
            if !keep && self.tx.database().in_transaction() {
                self.tx.undo_to(before);
                self.tx.database().batch("ROLLBACK TO mutation")?;
            }
            self.tx.database().batch("RELEASE mutation")?;
        }
        self.tx.database().batch("COMMIT")
    }
}
