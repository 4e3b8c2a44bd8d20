//! PostgreSQL is away for a minute, killed and then frozen, while people write all the time.
//!
//! Nothing is stopped or started, visitors do not notice, and what was acknowledged is found again:
//! at the end, and once more after both servers were killed.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use super::apps::{self, App};
use super::table;
use super::visitors::{EACH_SECOND, Visitors};
use super::writers::{self, PAUSE, Told, Writers};
use crate::fleet::database::Database;
use crate::fleet::watch::Life;
use crate::fleet::{Fleet, Shape};
use crate::folder;
use crate::machine::wait_for;
use crate::story::{self, MOMENT};

const SHAPE: Shape = Shape { servers: 2, nodes: 3, gateways: 2 };
/// The promise is a minute.
const AWAY: Duration = Duration::from_secs(60);
/// Before and after it.
const CALM: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_secs(1);
/// Written to, and never started anew for it.
const WRITTEN: &str = "written";
/// Deployed all the time.
const MOVING: &str = "moving";
/// How soon after its return the platform has to be itself again.
const BACK_TIME_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
enum Harm {
    Killed,
    Frozen,
}

impl Harm {
    /// What the writers begin with, so that nobody takes an older value for a newer one.
    fn first(self) -> u64 {
        match self {
            Self::Killed => 1,
            Self::Frozen => 1_000_000,
        }
    }

    fn begin(self, database: &mut Database) -> Result<()> {
        match self {
            Self::Killed => database.crash(),
            Self::Frozen => database.freeze(),
        }
    }

    fn end(self, database: &mut Database) -> Result<()> {
        match self {
            Self::Killed => database.resume(),
            Self::Frozen => database.thaw(),
        }
    }
}

pub fn run() -> Result<()> {
    let mut fleet = Fleet::start(SHAPE)?;
    let mut apps = Vec::new();
    for (name, instances, more) in
        [("steady", 3, "instances = 3\n"), (apps::NEVER, 1, "single = true\n"), (WRITTEN, 1, "")]
    {
        let source = apps::service(more)?;
        let url = story::url(&fleet.deploy(source.path(), name)?)?;
        apps.push(App::named(name, &url, instances)?);
    }
    let written = fleet.json(&["apps", "show", WRITTEN])?;
    let variables = writers::variables_of(&written)?;
    // Before the one that is deployed all the time.
    let steady = fleet.lives();
    for harm in [Harm::Killed, Harm::Frozen] {
        let away = away(&mut fleet, &apps, &variables, &steady, harm);
        away.with_context(|| format!("PostgreSQL {harm:?}"))?;
    }
    fleet.finish()
}

fn away(
    fleet: &mut Fleet,
    apps: &[App],
    variables: &str,
    steady: &BTreeSet<Life>,
    harm: Harm,
) -> Result<()> {
    let mut database = fleet.database.take().context("a database")?;
    let writers = Writers::default();
    let visitors = Visitors::start(&fleet.gateways, apps, EACH_SECOND)?;
    let (began, back, answers) = std::thread::scope(|scope| -> Result<_> {
        let (fleet, writers): (&Fleet, _) = (fleet, &writers);
        let writing = [0, 1].map(|server| {
            let ask = move |path: &str, body: &Value| fleet.api_at(server, "PUT", path, body);
            scope.spawn(move || {
                writers.write(variables, &format!("FROM_{server}"), harm.first(), ask);
            })
        });
        let deploying = scope.spawn(move || deploy(fleet, writers));
        let hurt = hurt(fleet, &mut database, harm, steady);
        writers.stop();
        for writing in writing {
            writing.join().map_err(|_| anyhow!("a writer panicked"))?;
        }
        deploying.join().map_err(|_| anyhow!("who deploys panicked"))??;
        hurt
    })?;
    fleet.database = Some(database);
    fleet.wait_until_ready(SHAPE.nodes)?;
    settle(fleet)?;
    let met = visitors.finish();
    let told = writers.into_told();

    println!("\n-- PostgreSQL {harm:?} for {} s --", back.duration_since(began).as_secs());
    table::visits(&met, began);
    table::row("writes acknowledged", &told.at.len().to_string());
    table::row("of them deployments", &told.deployments.len().to_string());
    table::row("not acknowledged", &format!("{:?}", told.refused));
    table::row("longest wait for such an answer", &table::seconds(told.longest_refusal));
    let first = told.first_after(back).map_or("never".to_owned(), table::seconds);
    table::row("back → PostgreSQL itself answers", &table::seconds(answers));
    table::row("back → first write acknowledged", &first);
    let kept = fleet.ensure_kept(steady);
    table::row("apps stopped or started", if kept.is_ok() { "none" } else { "SOME" });
    ensure_written(fleet, variables, &told)?;
    table::row("acknowledged and found again", "all");
    kept?;
    for met in &met {
        ensure!(met.failed == 0, "{} at {}: {}", met.app, met.gateway, met.excuse(began));
    }
    for server in &mut fleet.servers {
        server.kill()?;
    }
    for server in &mut fleet.servers {
        server.start()?;
    }
    for server in 0..SHAPE.servers {
        wait_for("a server answers", MOMENT, || {
            Ok(fleet.cli_at(server, &["status"])?.status.success())
        })?;
    }
    fleet.wait_until_ready(SHAPE.nodes)?;
    ensure_written(fleet, variables, &told)?;
    fleet.ensure_kept(steady)?;
    table::row("the same after kill -9 of both servers", "all");
    Ok(())
}

/// Harms the database between two calm times; when that began, when it was let live again, and how
/// long it took to answer then.
fn hurt(
    fleet: &Fleet,
    database: &mut Database,
    harm: Harm,
    steady: &BTreeSet<Life>,
) -> Result<(Instant, Instant, Duration)> {
    sleep(CALM);
    let began = Instant::now();
    harm.begin(database)?;
    while began.elapsed() < AWAY {
        fleet.ensure_kept(steady)?;
        sleep(LOOK);
    }
    let back = Instant::now();
    harm.end(database)?;
    wait_for("PostgreSQL answers", MOMENT, || database.answers())?;
    let answers = back.elapsed();
    sleep(CALM);
    Ok((began, back, answers))
}

/// Deploys one version after the other, at each server in turn.
fn deploy(fleet: &Fleet, writers: &Writers) -> Result<()> {
    let source = folder::with(&[("index.html", "0")])?;
    let path = source.path().to_str().context("path")?;
    let began = Instant::now();
    for number in 0_usize.. {
        if !writers.goes_on() {
            break;
        }
        folder::write(source.path(), "index.html", &format!("{number} {:?}", began.elapsed()))?;
        let asked = Instant::now();
        let args = ["deploy", path, "--app", MOVING, "--detach", "--json"];
        let output = fleet.cli_at(number % SHAPE.servers, &args)?;
        let mut told = writers.told();
        if output.status.success() {
            let said: Value = serde_json::from_slice(&output.stdout)?;
            let id = said["deployment"].as_str().context("the id of a deployment")?;
            told.acknowledge();
            told.deployments.push(id.to_owned());
        } else {
            told.refuse(format!("deploy: {}", output.status), asked.elapsed());
        }
        drop(told);
        sleep(PAUSE);
    }
    Ok(())
}

/// Waits for the verdict of every deployment.
fn settle(fleet: &Fleet) -> Result<()> {
    let mut last = Vec::new();
    wait_for("every deployment has its verdict", BACK_TIME_MAX, || {
        last = deployments(fleet)?;
        Ok(last.iter().all(|(_, state)| state == "live" || state == "superseded"))
    })
    .with_context(|| format!("{last:?}"))?;
    fleet.wait_settled(MOVING, 1, MOMENT)
}

fn deployments(fleet: &Fleet) -> Result<Vec<(String, String)>> {
    let listed = fleet.json(&["deployments", "--limit", "1000", "--app", MOVING])?;
    let items = listed.get("items").unwrap_or(&listed).as_array().context("a list")?.clone();
    let pair =
        |one: &Value| Some((one["id"].as_str()?.to_owned(), one["state"].as_str()?.to_owned()));
    items.iter().map(|one| pair(one).with_context(|| format!("not a deployment: {one}"))).collect()
}

/// At each server everything that anybody acknowledged is there, or what was written later.
fn ensure_written(fleet: &Fleet, variables: &str, told: &Told) -> Result<()> {
    for server in 0..SHAPE.servers {
        told.ensure_variables(&fleet.api_at(server, "GET", variables, &Value::Null)?)?;
    }
    let known: BTreeSet<String> = deployments(fleet)?.into_iter().map(|(id, _)| id).collect();
    for id in &told.deployments {
        ensure!(known.contains(id), "{id} was acknowledged and is missing");
    }
    Ok(())
}
