//! A running one-box installation goes to PostgreSQL and S3 and back, again and again, while
//! visitors ask all the time and somebody writes.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::s3::{self, S3};
use super::table;
use super::writers::{self, Told, Writers};
use crate::fleet::database::Database;
use crate::folder;
use crate::load::Load;
use crate::machine::{Machine, host_of, wait_for};
use crate::story::{self, MOMENT};

/// There and back, so often.
const ROUNDS: usize = 3;
/// Requests a second of each app.
const RATE: u32 = 50;
/// What is copied while everything runs: so many files of one app, each this long.
const FILES: usize = 200;
const FILE_LEN: usize = 128 << 10;
const APPS: [(&str, usize); 2] = [("steady", 2), ("alone", 1)];
/// Deployed and rolled back at each place.
const MOVING: &str = "moving";
const WRITTEN: &str = "alone";
/// Visitors come for so long at each place.
const CALM: Duration = Duration::from_secs(10);
const ANSWERS_TIME_MAX: Duration = Duration::from_secs(60);

pub fn run() -> Result<()> {
    // Lent to the database's user, so not the machine's own.
    let folder = tempfile::Builder::new().prefix("insula-soak").tempdir()?;
    let database = Database::start_here(folder.path())?;
    let s3 = S3::start(&folder.path().join("s3"))?;
    let mut machine = Machine::start()?;
    let urls = deploy_all(&machine)?;
    let before = pids(&machine)?;
    let variables = writers::variables_of(&machine.json(&["apps", "show", WRITTEN])?)?;
    // Only who migrates knows the keys: afterwards the data folder does.
    machine.environment.push(("INSULA_S3_ACCESS_KEY".into(), s3::ACCESS_KEY.into()));
    machine.environment.push(("INSULA_S3_SECRET_KEY".into(), s3::SECRET_KEY.into()));
    let loads: Vec<Load> = urls
        .iter()
        .map(|url| Ok(Load::start(machine.edge, &host_of(url)?, "/", RATE)))
        .collect::<Result<_>>()?;
    let writers = Writers::default();
    let moves = std::thread::scope(|scope| {
        let (machine, writers, variables) = (&machine, &writers, &variables);
        let ask = |path: &str, body: &Value| machine.api("PUT", path, Some(body));
        let writing = scope.spawn(move || writers.write(variables, "WRITTEN", 1, ask));
        let moves = move_about(machine, &database, &s3, &before);
        writers.stop();
        writing.join().map_err(|_| anyhow!("the writer panicked"))?;
        moves
    })?;
    let told = writers.into_told();
    let asked = s3.asked();
    // Everything is back: nobody may need what it came from.
    drop(database);
    s3.stop();
    at_home(&machine, &variables, &told)?;
    ensure!(pids(&machine)? == before, "an app was restarted: {:?}, {before:?}", pids(&machine)?);

    println!("\n-- SQLite and a folder → PostgreSQL and S3 → back, {ROUNDS} times --");
    println!("{:<28} {:>9} {:>12} {:>12}  moved", "", "migrate", "API silent", "worst page");
    for one in &moves {
        let silent = told.longest_silence(one.began, one.ended);
        let (took, silent) = (table::seconds(one.took), table::seconds(silent));
        println!("{:<28} {took:>9} {silent:>12} {:>9} ms  {}", one.whither, one.worst_ms, one.said);
    }
    let mut failures = Vec::new();
    for ((name, _), load) in APPS.iter().zip(loads) {
        let seen = load.finish();
        let (good, failed) = (seen.good, seen.failed.len());
        table::row(
            &format!("{name}: answered, failed, worst"),
            &format!("{good}, {failed}, {} ms", seen.worst_ms()),
        );
        failures.extend(seen.failed);
    }
    table::row("processes of apps that are the same", &format!("{0} of {0}", before.len()));
    table::row("deploys and rollbacks at each place", "live");
    table::row("writes acknowledged and found again", &told.at.len().to_string());
    table::row("not acknowledged", &format!("{:?}", told.refused));
    table::row("requests that the S3 answered", &asked.to_string());
    ensure!(failures.is_empty(), "{failures:?}");
    ensure!(asked > FILES as u64, "hardly anybody asked the S3: {asked}");
    let down = machine.down()?;
    ensure!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
    Ok(())
}

struct Move {
    whither: &'static str,
    /// What the command printed.
    said: String,
    took: Duration,
    began: Instant,
    ended: Instant,
    worst_ms: u64,
}

fn service(instances: usize) -> Result<TempDir> {
    let toml = format!(
        "[components.web]\nkind = \"service\"\nrun = \"exec python3 main.py\"\ninstances = {instances}\nmemory = \"64MiB\"\n"
    );
    folder::with(&[("main.py", story::REMEMBERS), ("insula.toml", &toml)])
}

fn deploy_all(machine: &Machine) -> Result<Vec<String>> {
    let mut urls = Vec::new();
    for (name, instances) in APPS {
        urls.push(story::url(&machine.deploy(service(instances)?.path(), name)?)?);
    }
    let large = tempfile::tempdir()?;
    let mut random = std::fs::File::open("/dev/urandom")?;
    for number in 0..FILES {
        let mut bytes = vec![0; FILE_LEN];
        std::io::Read::read_exact(&mut random, &mut bytes)?;
        std::fs::write(large.path().join(format!("{number}.bin")), bytes)?;
    }
    for version in ["one", "two"] {
        folder::write(large.path(), "index.html", version)?;
        machine.deploy(large.path(), MOVING)?;
    }
    Ok(urls)
}

fn pids(machine: &Machine) -> Result<Vec<u32>> {
    let mut all = Vec::new();
    for (name, _) in APPS {
        all.extend(story::instance_pids(machine, name)?);
    }
    all.sort_unstable();
    Ok(all)
}

fn move_about(
    machine: &Machine,
    database: &Database,
    s3: &S3,
    before: &[u32],
) -> Result<Vec<Move>> {
    let mut moves = Vec::new();
    for round in 0..ROUNDS {
        // The way back leaves what was there, and a place that is not empty is refused.
        let url = format!("{}&schema=round_{round}", database.url());
        let to_s3 = ["--s3-bucket", s3::BUCKET, "--s3-endpoint", &s3.endpoint];
        let there = [&["migrate", "--to", &url][..], &to_s3].concat();
        let back = ["migrate", "--to", "sqlite"];
        for (whither, command) in [("to PostgreSQL and S3", &there[..]), ("back", &back)] {
            let moved = migrate(machine, whither, command);
            moves.push(moved.with_context(|| format!("round {round}, {whither}"))?);
            at_work(machine, before).with_context(|| format!("round {round}, after {whither}"))?;
        }
    }
    Ok(moves)
}

fn migrate(machine: &Machine, whither: &'static str, command: &[&str]) -> Result<Move> {
    let watching = visit(machine)?;
    let began = Instant::now();
    let said = machine.ok(&[command, &["--json"]].concat())?.trim().to_owned();
    let took = began.elapsed();
    wait_for("the server answers from there", ANSWERS_TIME_MAX, || {
        Ok(machine.cli(&["status"])?.status.success())
    })?;
    // The writers have to be heard once more, so that a silence has an end.
    std::thread::sleep(Duration::from_secs(1));
    let ended = Instant::now();
    let seen = watching.finish();
    ensure!(seen.failed.is_empty(), "{:?}", seen.failed);
    Ok(Move { whither, said, took, began, ended, worst_ms: seen.worst_ms() })
}

fn visit(machine: &Machine) -> Result<Load> {
    let shown = machine.json(&["apps", "show", MOVING])?;
    let url = shown["url"].as_str().with_context(|| format!("no url in {shown}"))?;
    Ok(Load::start(machine.edge, &host_of(url)?, "/", RATE))
}

/// Everything works here: what runs, what is deployed, what was stored elsewhere before.
fn at_work(machine: &Machine, before: &[u32]) -> Result<()> {
    ensure!(pids(machine)? == before, "an app was restarted: {:?}, {before:?}", pids(machine)?);
    for (name, instances) in APPS {
        story::wait_ready(machine, name, instances)?;
    }
    for (release, page) in [("v1", "one"), ("v2", "two")] {
        let moved = story::url(&machine.json(&["rollback", release, "--app", MOVING])?)?;
        let shown = machine.visit(&moved, "/")?.text();
        ensure!(shown == page, "{release} shows {shown:?}");
    }
    let source = folder::python("made here")?;
    let made = story::url(&machine.deploy(source.path(), "made")?)?;
    ensure!(machine.visit(&made, "/")?.text().contains("made here"));
    // Its data folder is all that it remembers.
    let server = machine.role("server").context("the server")?;
    crate::process::signal(server, Signal::KILL)?;
    wait_for("the server is back", MOMENT, || {
        Ok(machine.role("server").is_some_and(|pid| pid != server)
            && machine.cli(&["status"])?.status.success())
    })?;
    std::thread::sleep(CALM);
    ensure!(pids(machine)? == before, "an app was restarted: {:?}, {before:?}", pids(machine)?);
    Ok(())
}

/// Back for good, with neither a database nor an S3.
fn at_home(machine: &Machine, variables: &str, told: &Told) -> Result<()> {
    told.ensure_variables(&machine.api("GET", variables, None)?)?;
    for name in [MOVING, "made"] {
        machine.json(&["rollback", "v1", "--app", name])?;
    }
    let blobs = files(&machine.data().join("server/blobs"))?;
    ensure!(blobs >= FILES, "{blobs} blobs in the folder");
    Ok(())
}

fn files(folder: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        count += if entry.file_type()?.is_dir() { files(&entry.path())? } else { 1 };
    }
    Ok(count)
}
