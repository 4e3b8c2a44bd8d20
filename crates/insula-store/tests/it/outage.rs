//! PostgreSQL dies, hangs and hangs up: nothing acknowledged is lost, nothing is done twice, and
//! what is not known is said so.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use insula_model::Millis;
use insula_store::{OpenError, Patience, Store, StoreConfig, StoreError, WriteError, feed, orgs};

use crate::model::{org, org_id};
use crate::postgres::Server;

const WRITERS: u32 = 4;
/// Longer than any outage here, on a machine that is busy besides.
const PATIENT: Patience = Patience { away: Millis::secs(60), answer: Millis::secs(60) };

fn open(mut config: StoreConfig, patience: Patience) -> Store {
    config.patience = patience;
    Store::open(config).unwrap()
}

fn create(store: &Store, n: u32) -> Result<(), WriteError> {
    store.write_blocking(move |tx| orgs::create(tx, &org(n)))
}

/// Writes until it is told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<BTreeSet<u32>>>,
    writers: Vec<JoinHandle<()>>,
}

impl Load {
    fn on(store: &Store) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
        let next = Arc::new(AtomicU32::new(0));
        let start = |_| {
            let (store, stop) = (store.clone(), Arc::clone(&stop));
            let (next, acknowledged) = (Arc::clone(&next), Arc::clone(&acknowledged));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    // One that had been done twice would be refused: it exists.
                    create(&store, n).unwrap();
                    acknowledged.lock().unwrap().insert(n);
                }
            })
        };
        let writers = (0..WRITERS).map(start).collect();
        Self { stop, writers, acknowledged }
    }

    fn wait_for_more(&self, count: usize) {
        let before = self.acknowledged.lock().unwrap().len();
        while self.acknowledged.lock().unwrap().len() < before + count {
            assert!(self.writers.iter().all(|writer| !writer.is_finished()), "a writer failed");
            std::thread::yield_now();
        }
    }

    fn end(self) -> BTreeSet<u32> {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.join().unwrap();
        }
        Arc::into_inner(self.acknowledged).unwrap().into_inner().unwrap()
    }
}

fn is_all_there(store: &Store, acknowledged: BTreeSet<u32>) {
    let count = acknowledged.len() as u64;
    let (lost, kept, told) = store
        .read_blocking(move |tx| -> Result<_, WriteError> {
            let mut lost = Vec::new();
            for n in acknowledged {
                if orgs::get(tx, org_id(n))?.is_none() {
                    lost.push(n);
                }
            }
            Ok((lost, orgs::count(tx)?, feed::head(tx)?))
        })
        .unwrap();
    assert_eq!(lost, Vec::<u32>::new());
    assert_eq!((kept, told.0), (count, count));
}

#[test]
fn a_postgresql_that_is_killed_under_load_loses_nothing_and_does_nothing_twice() {
    let Some(mut server) = Server::start() else { return };
    let store = open(server.config("a"), PATIENT);
    let load = Load::on(&store);
    for round in 0..4 {
        load.wait_for_more(30 + 17 * round);
        server.kill();
        server.run();
    }
    load.wait_for_more(20);
    is_all_there(&store, load.end());
}

#[test]
fn connections_that_are_ended_under_load_lose_nothing_and_do_nothing_twice() {
    let Some(server) = Server::start() else { return };
    let store = open(server.config("a"), PATIENT);
    let load = Load::on(&store);
    for _ in 0..20 {
        load.wait_for_more(10);
        server.sql(
            "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE application_name = 'insula'",
        );
    }
    load.wait_for_more(20);
    is_all_there(&store, load.end());
}

#[test]
fn a_postgresql_that_hangs_for_a_while_is_waited_for() {
    let Some(server) = Server::start() else { return };
    let store = open(server.config("a"), PATIENT);
    let load = Load::on(&store);
    load.wait_for_more(50);
    let frozen = server.freeze();
    std::thread::sleep(Duration::from_millis(1_500));
    drop(frozen);
    load.wait_for_more(50);
    is_all_there(&store, load.end());
}

#[test]
fn who_waits_for_a_postgresql_that_is_away_is_told_in_time_and_served_when_it_is_back() {
    let Some(mut server) = Server::start() else { return };
    let store =
        open(server.config("a"), Patience { away: Millis::secs(1), answer: Millis::secs(60) });
    create(&store, 0).unwrap();
    server.kill();
    let begun = Instant::now();
    let refused = create(&store, 1).unwrap_err();
    assert!(matches!(refused, WriteError::Store(StoreError::Unavailable(_))), "{refused:?}");
    assert!(begun.elapsed() >= Duration::from_secs(1));
    let again = Instant::now();
    let refused = store.read_blocking(orgs::count).unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable(_)), "{refused:?}");
    assert_eq!(refused.to_string(), "the database cannot be reached");
    // Whoever asks a second time has waited already.
    assert!(again.elapsed() < Duration::from_secs(1), "{:?}", again.elapsed());
    server.run();
    // What was refused was not done, and is not done later.
    assert_eq!(store.read_blocking(orgs::count).unwrap(), 1);
    create(&store, 1).unwrap();
    assert_eq!(store.read_blocking(orgs::count).unwrap(), 2);
}

#[test]
fn who_is_not_let_in_is_told_apart_from_who_finds_nobody() {
    let Some(mut server) = Server::start() else { return };
    server.sql("CREATE ROLE guarded LOGIN PASSWORD 'right'");
    let rules = server.folder().join("data/pg_hba.conf");
    let open = std::fs::read_to_string(&rules).unwrap();
    std::fs::write(&rules, format!("local all guarded scram-sha-256\n{open}")).unwrap();
    server.sql("SELECT pg_reload_conf()");
    let at = server.folder().display().to_string();
    let refused = |database: &str, user: &str| {
        let url = format!("postgres:///{database}?host={at}&user={user}&schema=a");
        match Store::open(StoreConfig::postgres(url.parse().unwrap())) {
            Err(OpenError::Connect { source, .. }) => source.is_refusal(),
            other => panic!("{:?}", other.map(drop)),
        }
    };
    assert!(refused("postgres", "guarded&password=wrong"));
    assert!(refused("postgres", "nobody"));
    assert!(refused("elsewhere", "insula"));
    server.stop();
    assert!(!refused("postgres", "guarded&password=wrong"), "nobody was there to refuse");
}

#[test]
fn a_postgresql_that_does_not_answer_is_unavailable_and_its_late_work_is_not_done() {
    let Some(server) = Server::start() else { return };
    let patience = Patience { away: Millis(200), answer: Millis(300) };
    let store = open(server.config("a"), patience);
    create(&store, 0).unwrap();
    let frozen = server.freeze();
    // It hangs before anything is committed.
    let refused = create(&store, 1).unwrap_err();
    assert!(matches!(refused, WriteError::Store(StoreError::Unavailable(_))), "{refused:?}");
    drop(frozen);
    let fresh = open(server.config("a"), PATIENT);
    create(&fresh, 2).unwrap();
    assert_eq!(fresh.read_blocking(|tx| orgs::get(tx, org_id(1))).unwrap(), None);
}

/// What becomes of the next commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It arrives and so does its answer.
    Served,
    /// It arrives, and the connection is cut before the answer.
    Unanswered,
    /// The connection is cut before it arrives.
    Unsent,
    /// As `Unanswered`, and nobody is let in afterwards.
    Shut,
}

/// Between a store and its server. Cuts the connection of a commit, once for each fate.
struct Wire {
    folder: tempfile::TempDir,
    fate: Arc<Mutex<Fate>>,
    cuts: Arc<AtomicUsize>,
}

impl Wire {
    fn to(server: PathBuf) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join(".s.PGSQL.5432")).unwrap();
        let fate = Arc::new(Mutex::new(Fate::Served));
        let cuts = Arc::new(AtomicUsize::new(0));
        let (fates, cut) = (Arc::clone(&fate), Arc::clone(&cuts));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                if cut.load(Ordering::SeqCst) > 0 && *fates.lock().unwrap() == Fate::Shut {
                    continue;
                }
                let Ok(server) = UnixStream::connect(&server) else { continue };
                let (fates, cut) = (Arc::clone(&fates), Arc::clone(&cut));
                std::thread::spawn(move || carry(client, server, &fates, &cut));
            }
        });
        Self { folder, fate, cuts }
    }

    fn config(&self, schema: &str) -> StoreConfig {
        let at = self.folder.path().display();
        let url = format!("postgres:///postgres?host={at}&user=insula&schema={schema}");
        StoreConfig::postgres(url.parse().unwrap())
    }

    fn set(&self, fate: Fate) {
        self.cuts.store(0, Ordering::SeqCst);
        *self.fate.lock().unwrap() = fate;
    }
}

fn carry(mut client: UnixStream, mut server: UnixStream, fate: &Mutex<Fate>, cuts: &AtomicUsize) {
    let (mut back, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    // While it is held, answers stop here.
    let gate = Arc::new(Mutex::new(()));
    let held = Arc::clone(&gate);
    let answers = std::thread::spawn(move || {
        let mut bytes = [0; 8 << 10];
        while let Ok(count @ 1..) = back.read(&mut bytes) {
            let _open = held.lock().unwrap();
            if to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Both);
    });
    let mut bytes = [0; 8 << 10];
    while let Ok(count @ 1..) = client.read(&mut bytes) {
        let commits = bytes[..count].windows(10).any(|part| part == b"INTO write");
        let fate = *fate.lock().unwrap();
        if !commits || fate == Fate::Served || cuts.fetch_add(1, Ordering::SeqCst) > 0 {
            if server.write_all(&bytes[..count]).is_err() {
                break;
            }
            continue;
        }
        let closed = gate.lock().unwrap();
        if fate != Fate::Unsent {
            server.write_all(&bytes[..count]).unwrap();
            // The end of what we say: it does what it was told and hangs up.
            server.shutdown(std::net::Shutdown::Write).unwrap();
        }
        client.shutdown(std::net::Shutdown::Both).unwrap();
        drop(closed);
        break;
    }
    let _ = server.shutdown(std::net::Shutdown::Write);
    let _ = client.shutdown(std::net::Shutdown::Both);
    answers.join().unwrap();
}

fn socket(server: &Server) -> PathBuf {
    Path::new(server.folder()).join(".s.PGSQL.5432")
}

#[test]
fn a_commit_whose_answer_is_lost_is_looked_up_and_done_once() {
    let Some(server) = Server::start() else { return };
    let wire = Wire::to(socket(&server));
    let store = open(wire.config("a"), PATIENT);
    for (n, fate) in
        [Fate::Served, Fate::Unanswered, Fate::Unsent, Fate::Unanswered].into_iter().enumerate()
    {
        wire.set(fate);
        let n = n as u32;
        // Done twice, it would exist; not at all, it would be missing.
        let runs = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&runs);
        store
            .write_blocking(move |tx| -> Result<(), WriteError> {
                counted.fetch_add(1, Ordering::SeqCst);
                orgs::create(tx, &org(n))
            })
            .unwrap();
        assert_eq!(wire.cuts.load(Ordering::SeqCst) > 0, fate != Fate::Served);
        let again = u32::from(fate == Fate::Unsent);
        assert_eq!(runs.load(Ordering::SeqCst), 1 + again, "{fate:?}");
        assert_eq!(store.read_blocking(orgs::count).unwrap(), u64::from(n) + 1);
        assert_eq!(store.head().borrow().0, u64::from(n) + 1);
    }
}

/// Two with one name would each take the other's commit for their own.
#[test]
fn each_writer_leaves_its_marks_under_a_name_of_its_own() {
    let Some(server) = Server::start() else { return };
    let stores: Vec<_> = (0..3).map(|_| open(server.config("a"), PATIENT)).collect();
    for (n, store) in stores.iter().enumerate() {
        create(store, n as u32).unwrap();
    }
    let marks = "SELECT COUNT(DISTINCT id), MIN(length(id)), MAX(attempt) FROM a.writers";
    assert_eq!(server.sql(marks), ["3|36|1"]);
}

#[test]
fn a_commit_that_cannot_be_looked_up_is_said_to_be_unknown() {
    let Some(server) = Server::start() else { return };
    let wire = Wire::to(socket(&server));
    let patience = Patience { away: Millis(300), answer: Millis::secs(60) };
    let store = open(wire.config("a"), patience);
    create(&store, 0).unwrap();
    wire.set(Fate::Shut);
    let unknown = create(&store, 1).unwrap_err();
    assert!(matches!(unknown, WriteError::Store(StoreError::Unknown(_))), "{unknown:?}");
    assert!(unknown.to_string().contains("may have done it or not"), "{unknown}");
    // The next one is sure of its own fate.
    let refused = create(&store, 2).unwrap_err();
    assert!(matches!(refused, WriteError::Store(StoreError::Unavailable(_))), "{refused:?}");
    wire.set(Fate::Served);
    create(&store, 3).unwrap();
    let direct = open(server.config("a"), PATIENT);
    let found = direct.read_blocking(|tx| -> Result<_, StoreError> {
        (0..4).map(|n| Ok(orgs::get(tx, org_id(n))?.is_some())).collect::<Result<Vec<_>, _>>()
    });
    // It was done, as it happens; the one after it never was.
    assert_eq!(found.unwrap(), [true, true, false, true]);
}

#[test]
fn a_server_that_stops_in_the_middle_of_a_write_does_not_keep_the_others_from_writing() {
    let Some(server) = Server::start() else { return };
    let (one, other) = (open(server.config("a"), PATIENT), open(server.config("a"), PATIENT));
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let (inside, entered) = std::sync::mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let runs = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&runs);
    let stopped = std::thread::spawn(move || {
        one.write_blocking(move |tx| -> Result<(), WriteError> {
            orgs::create(tx, &org(1))?;
            if counted.fetch_add(1, Ordering::SeqCst) == 0 {
                inside.send(()).unwrap();
                gate.lock().unwrap().recv().unwrap();
            }
            Ok(())
        })
        .unwrap();
    });
    entered.recv().unwrap();
    // It holds the lock and does not go on: the database takes the lock from it.
    create(&other, 2).unwrap();
    go.send(()).unwrap();
    stopped.join().unwrap();
    assert_eq!(runs.load(Ordering::SeqCst), 2, "the first was undone, and done again");
    assert_eq!(other.read_blocking(orgs::count).unwrap(), 2);
}
