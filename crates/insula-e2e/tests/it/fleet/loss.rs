//! A node dies or is cut off, and comes back.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use insula_e2e::fleet::watch::lives_on;
use insula_e2e::fleet::{Fleet, Shape};
use insula_e2e::load::Load;
use insula_e2e::machine::wait_for;
use insula_e2e::story::MOMENT;
use insula_e2e::{folder, story};

use super::{app, can_lay_ground};

/// Three heartbeats and a cold start are less than five seconds; the rest is for two cores that do
/// other things too.
const REPLACED_TIME_MAX: Duration = Duration::from_secs(20);
const RATE: u32 = 40;

/// Waits until an answer comes that none of the known instances gives.
fn wait_replaced(load: &Load, known: &BTreeSet<String>, since: Instant) -> Result<Duration> {
    let mut first = None;
    wait_for("the replacement answers", REPLACED_TIME_MAX, || {
        first = load.seen().first_but(known);
        Ok(first.is_some())
    })?;
    Ok(first.context("an answer")?.duration_since(since))
}

fn known(load: &Load, count: usize) -> Result<BTreeSet<String>> {
    wait_for(&format!("{count} instances answer"), MOMENT, || {
        Ok(load.seen().answers.len() >= count)
    })?;
    Ok(load.seen().answers.into_keys().collect())
}

#[test]
fn a_node_that_is_lost_is_replaced_and_one_that_returns_is_welcomed() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let mut fleet = Fleet::start(Shape { servers: 1, nodes: 3, gateways: 1 })?;
    let source = app(3)?;
    let url = story::url(&fleet.deploy(source.path(), "app")?)?;
    let load = fleet.load(0, &url, RATE)?;
    let originals = known(&load, 3)?;
    let before = fleet.lives();
    ensure!(before.len() == 3, "one on each node: {before:?}");

    let cut = Instant::now();
    fleet.ground.cut_off("n1")?;
    let replaced = wait_replaced(&load, &originals, cut)?;
    println!("cut off → first answer of the replacement: {replaced:?}");
    fleet.wait_state("n1", "lost", MOMENT)?;
    fleet.ensure_kept(&before).context("while n1 is cut off")?;
    fleet.ground.heal()?;
    fleet.wait_state("n1", "ready", MOMENT)?;
    fleet.wait_settled("app", 3, MOMENT)?;
    fleet.ensure_kept(&before).context("only what is surplus is stopped")?;
    wait_for("the surplus is gone", MOMENT, || Ok(fleet.lives() == before))?;

    let answers = known(&load, 4)?;
    let cut = Instant::now();
    fleet.cut_power(2)?;
    let replaced = wait_replaced(&load, &answers, cut)?;
    println!("power cut → first answer of the replacement: {replaced:?}");
    let others: BTreeSet<_> = before.into_iter().filter(|life| life.node != "n2").collect();
    ensure!(lives_on(&fleet.nodes[2]).is_empty(), "nothing lives on n2");
    fleet.ground.heal()?;
    fleet.nodes[2].start()?;
    fleet.wait_state("n2", "ready", MOMENT)?;
    fleet.wait_settled("app", 3, MOMENT)?;
    fleet.ensure_kept(&others)?;
    wait_for("three live", MOMENT, || Ok(fleet.lives().len() == 3))?;

    let events = fleet.platform_events()?;
    for wanted in ["node.lost", "node.welcomed"] {
        ensure!(events.iter().any(|event| event == wanted), "no {wanted} in {events:?}");
    }
    let seen = load.finish();
    println!("{} good, worst {} ms, {} failed", seen.good, seen.worst_ms(), seen.failed.len());
    ensure!(seen.failed.is_empty(), "{:?}", seen.failed);
    fleet.finish()
}

/// Holds a lock that all nodes of this machine share; ends if somebody else has it. A sandbox sees
/// the host's `/usr`, so that the file is one and the same.
const ALONE: &str = r#"import fcntl, os
lock = open("/usr/lib/os-release")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    print("TWO AT ONCE", flush=True)
    os._exit(9)
"#;

fn single(failover: &str) -> Result<tempfile::TempDir> {
    let toml = format!(
        "[components.web]\nkind = \"service\"\nrun = \"exec python3 main.py\"\nsingle = true\n\
         failover = \"{failover}\"\nmemory = \"64MiB\"\nstop = {{ grace = \"1s\" }}\n"
    );
    let alone = if failover == "lease" { ALONE } else { "" };
    let program = format!("{alone}{}", story::REMEMBERS);
    folder::with(&[("main.py", &program), ("insula.toml", &toml)])
}

/// The lease is ten seconds; what comes on top is for a busy machine.
const LEASE_TIME_MAX: Duration = Duration::from_secs(60);

#[test]
fn a_single_moves_only_by_its_lease_or_when_its_node_is_removed() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let fleet = Fleet::start(Shape { servers: 1, nodes: 2, gateways: 1 })?;
    fleet.ok(&["nodes", "cordon", "n1"])?;
    let (never, lease) = (single("never")?, single("lease")?);
    let never_url = story::url(&fleet.deploy(never.path(), "never")?)?;
    let lease_url = story::url(&fleet.deploy(lease.path(), "lease")?)?;
    fleet.ok(&["nodes", "uncordon", "n1"])?;
    let drawn = fleet.visit(0, &never_url, "/")?.text();
    let leased = fleet.visit(0, &lease_url, "/")?.text();
    let before = lives_on(&fleet.nodes[0]);
    ensure!(before.len() == 2, "both on n0: {before:?}");

    let cut = Instant::now();
    fleet.ground.cut_off("n0")?;
    let mut stopped = None;
    let mut moved = None;
    wait_for("the lease is over and the single is elsewhere", LEASE_TIME_MAX, || {
        let (here, there) = (lives_on(&fleet.nodes[0]), lives_on(&fleet.nodes[1]));
        if here.len() < 2 && stopped.is_none() {
            stopped = Some(cut.elapsed());
        }
        ensure!(there.len() <= 1, "only the one with a lease may move: {there:?}");
        ensure!(there.is_empty() || stopped.is_some(), "two at once: {here:?} {there:?}");
        let answer = fleet.visit(0, &lease_url, "/");
        let answers = answer.is_ok_and(|a| a.status == 200 && a.text() != leased);
        moved = answers.then(|| cut.elapsed());
        Ok(answers)
    })?;
    println!("lease: stopped by its node after {stopped:?}, answers elsewhere after {moved:?}");
    let kept: BTreeSet<_> = lives_on(&fleet.nodes[0]);
    ensure!(kept.is_subset(&before) && kept.len() == 1, "the other one lives on: {kept:?}");
    let why = fleet.ok(&["why", "never"])?;
    ensure!(why.contains("n0"), "it says on which node it waits: {why}");

    fleet.ground.heal()?;
    fleet.wait_state("n0", "ready", MOMENT)?;
    wait_for("the single that was never moved answers", MOMENT, || {
        let Ok(answer) = fleet.visit(0, &never_url, "/") else { return Ok(false) };
        let is_back = answer.status == 200;
        ensure!(!is_back || answer.text() == drawn, "and is the same process");
        Ok(is_back)
    })?;
    fleet.wait_settled("lease", 1, MOMENT)?;
    ensure!(fleet.instances("lease")?[0].restarts == 0, "it never met another");
    let log = fleet.ok(&["logs", "--app", "lease"])?;
    ensure!(!log.contains("TWO AT ONCE"), "{log}");

    fleet.ground.cut_off("n0")?;
    fleet.wait_state("n0", "lost", MOMENT)?;
    fleet.ok(&["nodes", "remove", "n0", "--yes"])?;
    wait_for("what was on the removed node is elsewhere", MOMENT, || {
        let answer = fleet.visit(0, &never_url, "/");
        Ok(answer.is_ok_and(|a| a.status == 200 && a.text() != drawn))
    })?;
    fleet.finish()
}
