//! The store as its users hold it: closures go in, answers come out.
//!
//! One thread owns the connection that writes (see `group`), a few have one each that reads.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use insula_model::{Generation, Millis};
use tokio::sync::{mpsc, oneshot, watch};

use crate::database::{Access, Database};
use crate::error::{OpenError, StoreError};
use crate::events::{self, EventSeq};
use crate::feed;
use crate::group::{Counts, Heads, Mutation, Writer};
use crate::migrate::{self, MIGRATIONS};
use crate::postgres::{self, PostgresUrl};
use crate::sqlite::Sqlite;
use crate::tx::Tx;

/// Two cores and queries of microseconds: more readers would only hold more memory.
const READERS_DEFAULT: usize = 2;
/// These wait for a socket, most of their time.
const READERS_OF_A_SERVER_DEFAULT: usize = 4;
/// A curious operator may look into the file; more than a look is said to the requests.
const LOCK_WAIT_DEFAULT: Millis = Millis::secs(5);
/// A restart of PostgreSQL takes a second or two, a failover five to ten; whoever waits longer
/// wants to be told.
const AWAY_MAX: Millis = Millis::secs(10);
/// Longer silence in answer to one statement is a connection that is no more: far beyond any
/// statement of ours, and within what a caller of the API waits.
const ANSWER_MAX: Millis = Millis::secs(15);
/// Requests that wait for a thread of ours; more of them wait outside.
const WAITING_MAX: usize = 1_024;

/// Where the rows are kept.
#[derive(Debug, Clone)]
pub enum Place {
    /// A file, and this process its only user.
    Sqlite(PathBuf),
    /// A database that several servers share.
    Postgres(PostgresUrl),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => path.display().fmt(f),
            Self::Postgres(url) => url.fmt(f),
        }
    }
}

#[derive(Debug, Clone)]
pub struct StoreConfig {
    pub place: Place,
    /// Threads that read, with a connection each. At least one.
    pub readers: usize,
    /// Positions of the feed that are kept for readers who were away.
    pub feed_kept: u64,
    /// How long a statement waits for another process that holds the database.
    pub lock_wait: Millis,
    /// With a database that can be away.
    pub patience: Patience,
}

/// How long a PostgreSQL may be away or silent before somebody is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For a request that was surely not done yet.
    pub away: Millis,
    /// For the answer to one statement.
    pub answer: Millis,
}

impl Default for Patience {
    fn default() -> Self {
        Self { away: AWAY_MAX, answer: ANSWER_MAX }
    }
}

/// What the writer has done since the store was opened. Many mutations share a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteCounts {
    pub mutations: u64,
    pub commits: u64,
}

impl StoreConfig {
    /// A file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::at(Place::Sqlite(path.into()))
    }

    pub fn postgres(url: PostgresUrl) -> Self {
        Self::at(Place::Postgres(url))
    }

    pub fn at(place: Place) -> Self {
        let readers = match &place {
            Place::Sqlite(_) => READERS_DEFAULT,
            Place::Postgres(_) => READERS_OF_A_SERVER_DEFAULT,
        };
        Self {
            place,
            readers,
            feed_kept: feed::KEPT_DEFAULT,
            lock_wait: LOCK_WAIT_DEFAULT,
            patience: Patience::default(),
        }
    }
}

/// A handle; clones share one store. Its threads end, work done, when the last one is dropped.
#[derive(Debug, Clone)]
pub struct Store(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    place: Place,
    /// Nothing once the store is being closed.
    queues: Option<Queues>,
    /// Dropped, it ends the thread that listens to other servers.
    follow: Option<oneshot::Sender<()>>,
    head: watch::Receiver<Generation>,
    events: watch::Receiver<EventSeq>,
    counts: Arc<Counts>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Queues {
    write: mpsc::Sender<Box<dyn Mutation>>,
    read: mpsc::Sender<Box<dyn Query>>,
}

impl Store {
    /// Opens the database, made or migrated if need be. Blocks for as long as that takes.
    pub fn open(config: StoreConfig) -> Result<Self, OpenError> {
        Self::open_with(config, MIGRATIONS)
    }

    /// `migrations` are SQLite's.
    pub(crate) fn open_with(config: StoreConfig, migrations: &[&str]) -> Result<Self, OpenError> {
        let StoreConfig { place, readers, feed_kept, lock_wait, patience } = config;
        let readers = readers.max(1);
        let Connections { writer, readers, head, events } = match &place {
            Place::Sqlite(path) => {
                let writer = migrate::open(path, lock_wait, migrations)?;
                let open = || Sqlite::open(path, Access::Read, lock_wait).map(Database::Sqlite);
                let failed = |source| OpenError::Open { path: path.clone(), source };
                let readers: Result<_, _> = (0..readers).map(|_| open().map_err(failed)).collect();
                Connections::new(Database::Sqlite(writer), readers?, feed_kept)?
            }
            // The driver runs on a runtime of its own, and this may be called from inside of one.
            Place::Postgres(url) => thread::scope(|scope| {
                let connect = || -> Result<_, OpenError> {
                    let (writer, readers) = postgres::open(url, readers, lock_wait, patience)?;
                    Connections::new(writer, readers, feed_kept)
                };
                let connecting = scope.spawn(connect);
                connecting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })?,
        };
        let (head, head_seen) = watch::channel(head);
        let (events, events_seen) = watch::channel(events);
        let heads = Arc::new(Heads { feed: head, events });
        let mut threads = Vec::new();
        let mut start = |name: String, work: Box<dyn FnOnce() + Send>| {
            let thread = thread::Builder::new().name(name).spawn(work);
            thread.map(|handle| threads.push(handle)).map_err(OpenError::Thread)
        };

        let (write, mutations) = mpsc::channel(WAITING_MAX);
        let counts = Arc::new(Counts::default());
        let writer = Writer::new(writer, Arc::clone(&heads), Arc::clone(&counts));
        start("store-write".into(), Box::new(move || writer.run(mutations)))?;

        let (read, queries) = mpsc::channel(WAITING_MAX);
        let queries = Arc::new(Mutex::new(queries));
        for (number, tx) in readers.into_iter().enumerate() {
            let queries = Arc::clone(&queries);
            start(format!("store-read-{number}"), Box::new(move || answer(&tx, &queries)))?;
        }
        let mut follow = None;
        if let Place::Postgres(url) = &place {
            let (stop, stopped) = oneshot::channel();
            let url = url.clone();
            follow = Some(stop);
            let work = move || postgres::follow::run(&url, &heads, stopped);
            start("store-follow".into(), Box::new(work))?;
        }
        Ok(Self(Arc::new(Shared {
            place,
            queues: Some(Queues { write, read }),
            follow,
            head: head_seen,
            events: events_seen,
            counts,
            threads,
        })))
    }

    /// Runs the closure over one unchanging view of everything that was acknowledged before.
    pub async fn read<T, E, F>(&self, query: F) -> Result<T, E>
    where
        F: FnOnce(&Tx) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (query, answer) = once(query);
        self.queues()?.read.send(query).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Runs the closure and answers once what it did is on the disk, or undone.
    ///
    /// An `Err` of the closure undoes all that it did, and nothing else. The closure may be run
    /// again (when the commit of its group failed), so it must not do anything but change `Tx`. A
    /// caller that stops waiting does not stop the mutation.
    pub async fn write<T, E, F>(&self, mutation: F) -> Result<T, E>
    where
        F: Fn(&mut Tx) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (mutation, answer) = crate::group::mutation(mutation);
        self.queues()?.write.send(mutation).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// `read` for a thread outside of a runtime.
    pub fn read_blocking<T, E, F>(&self, query: F) -> Result<T, E>
    where
        F: FnOnce(&Tx) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (query, answer) = once(query);
        self.queues()?.read.blocking_send(query).map_err(|_| StoreError::Closed)?;
        answer.blocking_recv().map_err(|_| StoreError::Closed)?
    }

    /// `write` for a thread outside of a runtime.
    pub fn write_blocking<T, E, F>(&self, mutation: F) -> Result<T, E>
    where
        F: Fn(&mut Tx) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (mutation, answer) = crate::group::mutation(mutation);
        self.queues()?.write.blocking_send(mutation).map_err(|_| StoreError::Closed)?;
        answer.blocking_recv().map_err(|_| StoreError::Closed)?
    }

    /// The position of the last commit in the feed. A change of it is a wake.
    pub fn head(&self) -> watch::Receiver<Generation> {
        self.0.head.clone()
    }

    /// The position of the newest event. A change of it wakes those who follow a history.
    pub fn events(&self) -> watch::Receiver<EventSeq> {
        self.0.events.clone()
    }

    /// For the operator's metrics.
    pub fn write_counts(&self) -> WriteCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counts = &self.0.counts;
        WriteCounts { mutations: read(&counts.mutations), commits: read(&counts.commits) }
    }

    pub(crate) fn place(&self) -> &Place {
        &self.0.place
    }

    fn queues(&self) -> Result<&Queues, StoreError> {
        self.0.queues.as_ref().ok_or(StoreError::Closed)
    }
}

/// What the threads will own, and where the feed and the events stand.
struct Connections {
    writer: Tx,
    readers: Vec<Tx>,
    head: Generation,
    events: EventSeq,
}

impl Connections {
    fn new(writer: Database, readers: Vec<Database>, feed_kept: u64) -> Result<Self, OpenError> {
        let writer = Tx::new(writer, feed_kept);
        let readers = readers.into_iter().map(|reader| Tx::new(reader, feed_kept)).collect();
        let head = feed::head(&writer).map_err(OpenError::Head)?;
        let events = events::newest(&writer).map_err(OpenError::Head)?;
        Ok(Self { writer, readers, head, events })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.queues = None;
        self.follow = None;
        let us = thread::current().id();
        for thread in self.threads.drain(..) {
            // A closure may have held the last handle; its thread cannot wait for itself.
            if thread.thread().id() != us && thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
    }
}

/// A query and where its answer goes, its types forgotten.
trait Query: Send {
    fn answer(self: Box<Self>, tx: &Tx);
}

struct Once<T, E, F> {
    query: F,
    asked: Instant,
    answer: oneshot::Sender<Result<T, E>>,
}

fn once<T, E, F>(query: F) -> (Box<dyn Query>, oneshot::Receiver<Result<T, E>>)
where
    F: FnOnce(&Tx) -> Result<T, E> + Send + 'static,
    T: Send + 'static,
    E: From<StoreError> + Send + 'static,
{
    let (answer, receiver) = oneshot::channel();
    (Box::new(Once { query, asked: Instant::now(), answer }), receiver)
}

impl<T, E, F> Query for Once<T, E, F>
where
    F: FnOnce(&Tx) -> Result<T, E> + Send,
    T: Send,
    E: From<StoreError> + Send,
{
    fn answer(self: Box<Self>, tx: &Tx) {
        let Self { query, asked, answer } = *self;
        let found = crate::group::caught(|| {
            match tx.database() {
                Database::Sqlite(sqlite) => sqlite.begin(Access::Read)?,
                Database::Postgres(postgres) => {
                    postgres.begin_by(Access::Read, asked)?;
                }
            }
            query(tx)
        });
        // A read has nothing to commit; if even this fails, the next `BEGIN` says so.
        if let Err(error) = tx.database().roll_back() {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a read transaction did not end"
            );
        }
        // Nobody waits for it any more: nothing to do.
        let _ = answer.send(found);
    }
}

/// A reader's life.
fn answer(tx: &Tx, queries: &Mutex<mpsc::Receiver<Box<dyn Query>>>) {
    loop {
        // The lock is held while waiting: whoever has it takes the next query.
        let query = queries.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        let Some(query) = query else { return };
        query.answer(tx);
    }
}
