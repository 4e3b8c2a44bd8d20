//! Several servers on one PostgreSQL, hurt one by one.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use insula_e2e::fleet::{Fleet, Shape, database};
use insula_e2e::late::Lateness;
use insula_e2e::load::Load;
use insula_e2e::machine::wait_for;
use insula_e2e::story::{self, Dice, MOMENT};
use insula_e2e::{folder, process};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{app, can_lay_ground};

const RATE: u32 = 40;
/// What is promised of a leader that dies or freezes: nobody notices after that.
const TAKEN_OVER_TIME_MAX: Duration = Duration::from_secs(5);
/// Twice what a lease is good for.
const FREEZE_TIME: Duration = Duration::from_secs(6);
/// Stands in for a minute.
const AWAY_TIME: Duration = Duration::from_secs(8);

const SHAPE: Shape = Shape { servers: 2, nodes: 3, gateways: 1 };

pub fn can_share_a_database() -> bool {
    if !can_lay_ground() {
        return false;
    }
    if database::programs().is_some() {
        return true;
    }
    assert!(std::env::var_os("INSULA_TEST_ALL").is_none(), "the package postgresql is missing");
    eprintln!("SKIPPED: the package postgresql is missing");
    false
}

fn ensure_served(load: Load, what: &str) -> Result<()> {
    let seen = load.finish();
    let (good, failed) = (seen.good, seen.failed.len());
    println!("{what}: {good} good, worst {} ms, {failed} failed", seen.worst_ms());
    ensure!(failed == 0, "{what}: {:?}", seen.failed);
    ensure!(good > u64::from(RATE), "{what}: there was hardly any load: {good}");
    Ok(())
}

/// Does something while it looks when this server says that it leads: within what is promised.
fn ensure_taken_over(
    fleet: &mut Fleet,
    server: usize,
    since: Instant,
    meanwhile: impl FnOnce(&Fleet) -> Result<()>,
) -> Result<()> {
    fleet.front = Some(server);
    let fleet = &*fleet;
    let led = std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let late = Lateness::begin();
            wait_for("the other server leads", MOMENT, || leads(fleet, server))?;
            anyhow::Ok((since.elapsed(), late.end()))
        });
        meanwhile(fleet)?;
        looking.join().map_err(|_| anyhow::anyhow!("the looking thread"))?
    });
    let (led, late) = led?;
    println!("led by the other after {led:?}, on a machine that was late by {late:?}");
    // Of what is promised, and not of a machine on which nobody got to run.
    ensure!(led <= TAKEN_OVER_TIME_MAX + late, "led by the other after {led:?}, {late:?} late");
    fleet.wait_until_ready(SHAPE.nodes)?;
    println!("every node ready after {:?}", since.elapsed());
    Ok(())
}

/// Whether that server says that it decides. Asked without the command line, which takes its time.
fn leads(fleet: &Fleet, server: usize) -> Result<bool> {
    // While nobody leads it may say that it does not know.
    let answer = fleet.api_at(server, "GET", "/v1/status", &Value::Null)?;
    let status: Value = serde_json::from_slice(&answer.body)?;
    let addresses = fleet.fleet_addresses();
    let address = addresses.split(',').nth(server).context("its address")?;
    let listed = status["servers"].as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(listed.iter().any(|one| one["leads"] == true && one["fleet"] == address))
}

fn other(server: usize) -> usize {
    1 - server
}

/// What is asked of a node, at a server that may have to pass it on.
fn ensure_live_routes(fleet: &Fleet, server: usize) -> Result<()> {
    let shown = fleet.ok_at(server, &["ps", "--app", "app", "--json"])?;
    ensure!(shown.matches("\"ready\"").count() == 3, "{shown}");
    ensure!(fleet.ok_at(server, &["why", "app"])?.contains("is live"), "why");
    ensure!(fleet.ok_at(server, &["nodes", "show", "n0"])?.contains("ready"), "nodes show");
    ensure!(fleet.ok_at(server, &["logs", "--app", "app"])?.contains("begun"), "logs");
    fleet.ok_at(server, &["status"])?;
    let mut follow = fleet.servers[server]
        .command()
        .args(["logs", "-f", "--app", "app"])
        .env("HOME", fleet.folder())
        .stdout(std::fs::File::create(fleet.folder().join("followed"))?)
        .spawn()?;
    let shown = wait_for("a followed log", MOMENT, || {
        Ok(std::fs::read_to_string(fleet.folder().join("followed"))?.contains("begun"))
    });
    follow.kill()?;
    follow.wait()?;
    shown
}

fn talkative() -> Result<tempfile::TempDir> {
    let source = app(3)?;
    let program = format!("print('begun', flush=True)\n{}", story::REMEMBERS);
    folder::write(source.path(), "main.py", &program)?;
    Ok(source)
}

#[test]
fn a_leader_that_dies_or_freezes_is_noticed_by_nobody() -> Result<()> {
    if !can_share_a_database() {
        return Ok(());
    }
    let mut fleet = Fleet::start(SHAPE)?;
    let source = talkative()?;
    let small = app(1)?;
    let url = story::url(&fleet.deploy(source.path(), "app")?)?;
    let before = fleet.lives();
    let leader = fleet.leader()?.context("a leader")?;
    for server in [leader, other(leader)] {
        ensure_live_routes(&fleet, server).with_context(|| format!("at server {server}"))?;
    }

    let load = fleet.load(0, &url, RATE)?;
    let next = other(leader);
    let died = Instant::now();
    fleet.servers[leader].kill()?;
    ensure_taken_over(&mut fleet, next, died, |fleet| {
        fleet.ok_at(next, &["apps", "list"]).context("the API goes on at the other")?;
        println!("API at the other after {:?}", died.elapsed());
        fleet.deploy(small.path(), "after-death")?;
        println!("a deployment through the other is live after {:?}", died.elapsed());
        Ok(())
    })?;
    fleet.ensure_kept(&before)?;
    fleet.servers[leader].start()?;
    wait_for("the one that died answers again", MOMENT, || {
        Ok(fleet.cli_at(leader, &["status"])?.status.success())
    })?;
    ensure!(fleet.leader()? == Some(next), "who returns follows");

    let (frozen, next) = (next, leader);
    let froze = Instant::now();
    fleet.servers[frozen].signal(Signal::STOP)?;
    ensure_taken_over(&mut fleet, next, froze, |_| Ok(()))?;
    folder::write(small.path(), "version.txt", "while it was frozen")?;
    fleet.deploy(small.path(), "after-death")?;
    std::thread::sleep(FREEZE_TIME.saturating_sub(froze.elapsed()));
    let instances = |fleet: &Fleet| -> Result<Vec<_>> {
        Ok([fleet.instances("app")?, fleet.instances("after-death")?].concat())
    };
    // What the deployment replaced is on its way out, which takes its time.
    fleet.wait_settled("after-death", 1, MOMENT)?;
    let alive = SHAPE.nodes + 1;
    wait_for("nothing is left but what runs", MOMENT, || Ok(fleet.lives().len() == alive))?;
    let agreed = (instances(&fleet)?, fleet.lives());
    fleet.servers[frozen].signal(Signal::CONT)?;
    wait_for("the one that froze answers again", MOMENT, || {
        Ok(fleet.cli_at(frozen, &["status"])?.status.success())
    })?;
    // Long enough for what it had begun.
    std::thread::sleep(Duration::from_secs(2));
    ensure!(fleet.leader()? == Some(next), "who thaws follows");
    let now = (instances(&fleet)?, fleet.lives());
    ensure!(now == agreed, "the past wrote something: {agreed:?} became {now:?}");
    fleet.ensure_kept(&before)?;
    ensure_live_routes(&fleet, frozen)?;
    ensure_served(load, "a leader dead, another frozen")?;
    fleet.finish()
}

/// Creates apps until the API says no; the names that it said yes to.
fn create_until_refused(fleet: &Fleet, prefix: &str) -> Result<(Vec<String>, Option<Value>)> {
    let mut made = Vec::new();
    let began = Instant::now();
    while began.elapsed() < MOMENT {
        let name = format!("{prefix}-{}", made.len());
        let body = json!({"name": name, "project": "default", "environment": "production"});
        let answer = fleet.api_at(made.len() % 2, "POST", "/v1/orgs/default/apps", &body)?;
        if answer.status == 503 {
            ensure!(answer.header("retry-after").is_some(), "{:?}", answer.headers);
            return Ok((made, serde_json::from_slice(&answer.body).ok()));
        }
        ensure!(answer.status < 300, "{}: {}", answer.status, answer.text());
        made.push(name);
    }
    Ok((made, None))
}

#[test]
fn a_database_that_is_away_stops_nobody_and_forgets_nothing() -> Result<()> {
    if !can_share_a_database() {
        return Ok(());
    }
    let mut fleet = Fleet::start(SHAPE)?;
    let source = app(3)?;
    let url = story::url(&fleet.deploy(source.path(), "app")?)?;
    let before = fleet.lives();
    let load = fleet.load(0, &url, RATE)?;

    let mut database = fleet.database.take().context("a database")?;
    let (made, refusal) = std::thread::scope(|scope| {
        let asking = scope.spawn(|| create_until_refused(&fleet, "app"));
        std::thread::sleep(Duration::from_secs(1));
        let killed = database.kill();
        let asked = asking.join().map_err(|_| anyhow::anyhow!("the asking thread"))?;
        killed.and(asked)
    })?;
    let away = Instant::now();
    ensure!(!made.is_empty(), "nothing was acknowledged before");
    let refusal = refusal.context("a problem")?;
    println!("{} acknowledged, then {refusal}", made.len());
    while away.elapsed() < AWAY_TIME {
        ensure!(fleet.lives() == before, "something changed without a database");
        for server in 0..SHAPE.servers {
            let answer = fleet.api_at(server, "GET", "/v1/orgs/default/apps", &Value::Null)?;
            ensure!(answer.status == 503, "{}: {}", answer.status, answer.text());
            ensure!(answer.header("retry-after").is_some(), "{:?}", answer.headers);
        }
    }
    database.resume()?;
    fleet.database = Some(database);
    let back = Instant::now();
    fleet.wait_until_ready(SHAPE.nodes)?;
    println!("every node ready {:?} after the database was back", back.elapsed());
    let apps = fleet.ok(&["apps", "list"])?;
    for name in &made {
        let named = |line: &str| line.split_whitespace().next() == Some(name.as_str());
        ensure!(apps.lines().any(named), "{name} was acknowledged and is missing");
    }
    fleet.deploy(source.path(), "another")?;
    fleet.ensure_kept(&before)?;
    ensure_served(load, "database away")?;

    restart_everything(&mut fleet)?;
    fleet.ensure_kept(&before).context("everything of ours was killed")?;
    ensure!(fleet.visit(0, &url, "/")?.status == 200);
    fleet.deploy(source.path(), "a-third")?;
    fleet.finish()
}

/// `kill -9` of every process of ours, and a start of each in no order.
fn restart_everything(fleet: &mut Fleet) -> Result<()> {
    let mut database = fleet.database.take().context("a database")?;
    for role in fleet.servers.iter_mut().chain(&mut fleet.nodes).chain(&mut fleet.gateways) {
        role.kill()?;
    }
    database.kill()?;
    for role in fleet.gateways.iter_mut().chain(&mut fleet.nodes) {
        role.start()?;
    }
    database.resume()?;
    fleet.database = Some(database);
    for role in &mut fleet.servers {
        role.start()?;
    }
    let began = Instant::now();
    wait_for("a server answers", MOMENT, || {
        // A server ends where its database is not ready yet.
        revive(fleet)?;
        Ok(fleet.cli_at(0, &["status"])?.status.success())
    })?;
    fleet.wait_until_ready(SHAPE.nodes)?;
    println!("everything restarted: it stands after {:?}", began.elapsed());
    Ok(())
}

const ROUNDS: u32 = 6;
const SEED: u64 = 20_261_121;

#[test]
fn kill_nine_of_anything_in_a_fleet_loses_nothing_and_restarts_nobody() -> Result<()> {
    if !can_share_a_database() {
        return Ok(());
    }
    let mut fleet = Fleet::start(SHAPE)?;
    let mut dice = Dice::new(SEED);
    let steady = app(3)?;
    let url = story::url(&fleet.deploy(steady.path(), "steady")?)?;
    let before = fleet.lives();
    let moving = folder::python("moving")?;
    let mut acknowledged = Vec::new();
    for round in 0..ROUNDS {
        folder::write(moving.path(), "version.txt", &round.to_string())?;
        let path = moving.path().to_str().context("path")?.to_owned();
        let moment = Duration::from_millis(dice.below(800));
        let whom = usize::try_from(dice.below(VICTIMS))?;
        let asked = &fleet.servers[usize::from(whom == 0)];
        let args = ["deploy", &path, "--app", "moving", "--detach", "--json"];
        let mut deploying = asked.command();
        deploying.args(args).env("HOME", fleet.folder());
        deploying.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
        let deploying = deploying.spawn()?;
        std::thread::sleep(moment);
        strike(&mut fleet, whom)?;
        let output = deploying.wait_with_output()?;
        println!("round {round}: victim {whom} after {moment:?}, {}", output.status);
        if output.status.success() {
            let told: Value = serde_json::from_slice(&output.stdout)?;
            let id = told["deployment"].as_str().or(told["id"].as_str());
            acknowledged.push(id.with_context(|| format!("no id in {told}"))?.to_owned());
        }
        revive(&mut fleet)?;
        fleet.wait_until_ready(SHAPE.nodes)?;
        wait_for("every deployment has its verdict", story::VERDICT_TIME_MAX, || {
            Ok(states(&fleet)?.iter().all(|(_, state)| state == "live" || state == "superseded"))
        })
        .with_context(|| format!("round {round}, seed {SEED}: {:?}", states(&fleet)))?;
        fleet.ensure_kept(&before).with_context(|| format!("round {round}, seed {SEED}"))?;
        ensure!(fleet.visit(0, &url, "/")?.status == 200, "round {round}, seed {SEED}");
    }
    let states = states(&fleet)?;
    for id in &acknowledged {
        ensure!(states.iter().any(|(known, _)| known == id), "{id} was acknowledged: {states:?}");
    }
    ensure!(!acknowledged.is_empty(), "nothing was acknowledged");
    fleet.wait_settled("moving", 1, MOMENT)?;
    wait_for("nothing is left but what runs", MOMENT, || Ok(fleet.lives().len() == 4))?;
    fleet.finish()
}

/// Of servers, nodes, the gateway, and the keeper of a node.
const VICTIMS: u64 = 7;

fn strike(fleet: &mut Fleet, whom: usize) -> Result<()> {
    let roles = fleet.servers.iter_mut().chain(&mut fleet.nodes).chain(&mut fleet.gateways);
    if let Some(role) = roles.into_iter().nth(whom) {
        return role.kill();
    }
    let data = fleet.nodes[0].data.display().to_string();
    let all = process::with_argument(&data).into_iter();
    let mut keepers = all.filter(|(_, args)| args.iter().any(|arg| arg == "keeper"));
    let (keeper, _) = keepers.next().context("the keeper of n0")?;
    process::signal(keeper, Signal::KILL)
}

/// What a service manager does.
fn revive(fleet: &mut Fleet) -> Result<()> {
    for role in fleet.servers.iter_mut().chain(&mut fleet.nodes).chain(&mut fleet.gateways) {
        if !role.is_running()? {
            role.start()?;
        }
    }
    Ok(())
}

fn states(fleet: &Fleet) -> Result<Vec<(String, String)>> {
    // The first of the servers may be on its way back.
    let Ok(listed) = fleet.json(&["deployments", "--limit", "1000", "--app", "moving"]) else {
        return Ok(vec![("unknown".into(), "unknown".into())]);
    };
    let items = listed.get("items").unwrap_or(&listed).as_array().context("a list")?.clone();
    let pair = |d: &Value| Some((d["id"].as_str()?.to_owned(), d["state"].as_str()?.to_owned()));
    items.iter().map(|d| pair(d).with_context(|| format!("not a deployment: {d}"))).collect()
}
