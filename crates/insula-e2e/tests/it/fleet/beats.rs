//! Heartbeats are answered from memory: no database hears of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use insula_e2e::fleet::impostor::{Greeting, Identified, Impostor};
use insula_e2e::fleet::{Fleet, Shape};
use insula_e2e::machine::{LOOK, wait_for};
use insula_e2e::story::MOMENT;

use super::{can_lay_ground, can_share_a_database};

/// Five heartbeats of each node; one that is not heard for three is lost, which is written down.
const SPAN: Duration = Duration::from_secs(5);
/// For what a fleet writes when it begins.
const CALM: Duration = Duration::from_secs(2);
/// More than all nodes of this fleet send in ten minutes.
const BEATS: u64 = 2_000;
/// Above their own numbers.
const FIRST_BEAT: u64 = 1 << 32;

/// Each file of the database, with its length and when it was written.
fn written(server: &Path) -> Result<BTreeMap<PathBuf, (u64, SystemTime)>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(server)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("insula.db") {
            let metadata = entry.metadata()?;
            files.insert(entry.path(), (metadata.len(), metadata.modified()?));
        }
    }
    Ok(files)
}

#[test]
fn well_nodes_beat_and_no_file_of_the_database_is_written() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let fleet = Fleet::start(Shape { servers: 1, nodes: 2, gateways: 0 })?;
    let folder = fleet.servers[0].data.join("server");
    let mut before = written(&folder)?;
    ensure!(!before.is_empty(), "no database in {}", folder.display());
    let mut since = Instant::now();
    wait_for("the fleet has settled", MOMENT, || {
        let now = written(&folder)?;
        if now != before {
            (before, since) = (now, Instant::now());
        }
        Ok(since.elapsed() >= CALM)
    })?;
    let began = Instant::now();
    while began.elapsed() < SPAN {
        let now = written(&folder)?;
        ensure!(now == before, "written after {:?}: {before:?}, now {now:?}", began.elapsed());
        std::thread::sleep(LOOK);
    }
    // They were heard all along: nobody is lost, nor was.
    let states = fleet.node_states()?;
    ensure!(states.iter().all(|(_, state)| state == "ready"), "{states:?}");
    let events = fleet.platform_events()?;
    ensure!(!events.iter().any(|event| event == "node.lost"), "{events:?}");
    // The looking would see a write.
    fleet.ok(&["nodes", "cordon", "n0"])?;
    ensure!(written(&folder)? != before, "a cordon is not seen in {before:?}");
    fleet.finish()
}

/// What the database did for its users.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Done {
    transactions: u64,
    /// Rows written of each table; of those not in which servers say of themselves that they live.
    rows: String,
}

fn done(fleet: &Fleet) -> Result<Done> {
    let database = fleet.database.as_ref().context("a database")?;
    let transactions = database.ask(
        "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = 'postgres'",
    )?;
    let rows = database.ask(
        "SELECT relname, n_tup_ins + n_tup_upd + n_tup_del FROM pg_stat_user_tables \
         WHERE relname NOT IN ('leases', 'servers', 'writers') ORDER BY relname",
    )?;
    Ok(Done { transactions: transactions.parse().context(transactions)?, rows })
}

#[test]
fn a_storm_of_heartbeats_asks_a_shared_database_nothing() -> Result<()> {
    if !can_share_a_database() {
        return Ok(());
    }
    let mut fleet = Fleet::start(Shape { servers: 2, nodes: 1, gateways: 0 })?;
    let mut sessions = Vec::new();
    for name in ["fast", "faster"] {
        let place = fleet.ground.place(name)?;
        let token = fleet.token(&["--name", name])?;
        let folder = fleet.folder().join(format!("{name}-member"));
        let member = Identified::join(&place, &folder, &fleet.fleet_addresses(), &token)?;
        let session = Impostor::speak(&place, &member, &Greeting::default())?;
        session.report_nothing()?;
        sessions.push(session);
    }
    fleet.wait_until_ready(3)?;
    let mut before = done(&fleet)?;
    let mut since = Instant::now();
    wait_for("the fleet has settled", MOMENT, || {
        let now = done(&fleet)?;
        if now.rows != before.rows {
            (before, since) = (now, Instant::now());
        }
        Ok(since.elapsed() >= CALM)
    })
    .with_context(|| before.rows.clone())?;

    let before = done(&fleet)?;
    std::thread::sleep(SPAN);
    let calm = done(&fleet)?;
    let began = Instant::now();
    let pause = SPAN / u32::try_from(BEATS)?;
    for beat in 0..BEATS {
        sessions.iter().for_each(|session| session.beat(FIRST_BEAT + beat));
        std::thread::sleep(pause);
    }
    // Every few are acknowledged, by the newest of them.
    wait_for("the storm is acknowledged", MOMENT, || {
        Ok(sessions.iter().all(|session| session.acknowledged() > FIRST_BEAT + BEATS * 9 / 10))
    })?;
    std::thread::sleep(SPAN.saturating_sub(began.elapsed()));
    let (took, after) = (began.elapsed(), done(&fleet)?);
    // Servers keep their lease and look for news by themselves, as often as before.
    let usual = calm.transactions - before.transactions;
    let expected = usual as f64 * took.as_secs_f64() / SPAN.as_secs_f64();
    let storm = after.transactions - calm.transactions;
    println!("{usual} transactions in calm, {storm} in {took:?} of {} heartbeats", 2 * BEATS);
    ensure!(
        (storm as f64) < 2.0 * expected + BEATS as f64 / 10.0,
        "{usual} transactions before, {storm} while {} heartbeats came",
        2 * BEATS
    );
    ensure!(after.rows == before.rows, "written: {before:?} {calm:?} {after:?}");
    ensure!(sessions.iter().all(|session| session.ended().is_none()), "a session ended");
    drop(sessions);
    fleet.finish()
}
