//! Networks that are cut, and processes that freeze: nothing is stopped, visitors are served.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use insula_e2e::fleet::{Fleet, Shape};
use insula_e2e::load::Load;
use insula_e2e::machine::{LOOK, wait_for};
use insula_e2e::story::{self, MOMENT};
use rustix::process::Signal;

use super::{app, can_lay_ground};

const RATE: u32 = 40;
/// Stands in for an hour: three times what a node may be silent. The hour itself, with certificates
/// that fall due, is `cargo xtask soak cut-off`.
const CUT_TIME: Duration = Duration::from_secs(9);
const FREEZE_TIME: Duration = Duration::from_secs(8);

/// Looks at something again and again for a while.
fn throughout(span: Duration, mut look: impl FnMut() -> Result<()>) -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < span {
        look()?;
        std::thread::sleep(LOOK);
    }
    Ok(())
}

fn ensure_served(load: Load, least: u64, what: &str) -> Result<()> {
    let seen = load.finish();
    println!(
        "{what}: {} good, worst {} ms, {} failed",
        seen.good,
        seen.worst_ms(),
        seen.failed.len()
    );
    ensure!(seen.failed.is_empty(), "{what}: {:?}", seen.failed);
    ensure!(seen.good >= least, "{what}: there was hardly any load: {}", seen.good);
    Ok(())
}

/// A quarter of what was asked for.
fn least(span: Duration) -> u64 {
    span.as_secs() * u64::from(RATE) / 4
}

#[test]
fn a_server_that_is_cut_off_stops_and_restarts_nothing() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let fleet = Fleet::start(Shape { servers: 1, nodes: 3, gateways: 1 })?;
    let source = app(3)?;
    let url = story::url(&fleet.deploy(source.path(), "app")?)?;
    let before = fleet.lives();
    ensure!(before.len() == 3, "one on each node: {before:?}");

    let load = fleet.load(0, &url, RATE)?;
    fleet.ground.cut_off("s0")?;
    throughout(CUT_TIME, || {
        ensure!(fleet.lives() == before, "something changed without a server");
        Ok(())
    })?;
    ensure_served(load, least(CUT_TIME), "server cut from everybody")?;
    fleet.ground.heal()?;
    fleet.wait_until_ready(3)?;
    fleet.wait_settled("app", 3, MOMENT)?;
    fleet.ensure_kept(&before).context("after the server was cut off")?;

    // One node alone: its instance is replaced, and is the one that stays when it is back.
    let load = fleet.load(0, &url, RATE)?;
    fleet.ground.cut("s0", "n0")?;
    throughout(CUT_TIME, || fleet.ensure_kept(&before))?;
    ensure_served(load, least(CUT_TIME), "server cut from one node")?;
    fleet.ground.heal()?;
    fleet.wait_until_ready(3)?;
    fleet.wait_settled("app", 3, MOMENT)?;
    fleet.ensure_kept(&before).context("after one node was cut from the server")?;
    fleet.finish()
}

#[test]
fn a_cut_of_one_way_or_of_one_gateway_is_gone_round() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let fleet = Fleet::start(Shape { servers: 1, nodes: 3, gateways: 1 })?;
    let source = app(3)?;
    let url = story::url(&fleet.deploy(source.path(), "app")?)?;
    let before = fleet.lives();
    // Of each kind of connection, once what the node says is lost and once what it is told.
    let rounds = [[("s0", "n0"), ("n2", "g0")], [("n1", "s0"), ("g0", "n0")]];
    for cuts in rounds {
        let load = fleet.load(0, &url, RATE)?;
        for (from, to) in cuts {
            fleet.ground.cut_one_way(from, to)?;
        }
        let span = Duration::from_secs(5);
        throughout(span, || fleet.ensure_kept(&before))?;
        ensure_served(load, least(span), &format!("nothing goes {cuts:?}"))?;
        fleet.ground.heal()?;
        fleet.wait_until_ready(3)?;
        fleet.wait_settled("app", 3, MOMENT)?;
        fleet.ensure_kept(&before)?;
    }
    let load = fleet.load(0, &url, RATE)?;
    fleet.ground.cut("g0", "n1")?;
    throughout(CUT_TIME, || {
        ensure!(fleet.lives() == before, "the server sees nothing of it");
        Ok(())
    })?;
    ensure_served(load, least(CUT_TIME), "gateway cut from one node")?;
    fleet.ground.heal()?;
    let load = fleet.load(0, &url, RATE)?;
    wait_for("all three are used again", MOMENT, || Ok(load.seen().answers.len() == 3))?;
    ensure_served(load, 3, "healed")?;
    fleet.finish()
}

#[test]
fn who_freezes_and_thaws_harms_nobody() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let fleet = Fleet::start(Shape { servers: 1, nodes: 3, gateways: 1 })?;
    let source = app(3)?;
    let url = story::url(&fleet.deploy(source.path(), "app")?)?;
    let before = fleet.lives();

    let load = fleet.load(0, &url, RATE)?;
    fleet.nodes[1].signal(Signal::STOP)?;
    throughout(FREEZE_TIME, || fleet.ensure_kept(&before))?;
    fleet.nodes[1].signal(Signal::CONT)?;
    fleet.wait_state("n1", "ready", MOMENT)?;
    fleet.wait_settled("app", 3, MOMENT)?;
    fleet.ensure_kept(&before).context("after an agent froze")?;
    ensure_served(load, least(FREEZE_TIME), "agent frozen")?;
    wait_for("the surplus is gone", MOMENT, || Ok(fleet.lives() == before))?;

    let lost = |events: Vec<String>| events.iter().filter(|e| *e == "node.lost").count();
    let given_up = lost(fleet.platform_events()?);
    let load = fleet.load(0, &url, RATE)?;
    fleet.servers[0].signal(Signal::STOP)?;
    throughout(FREEZE_TIME, || {
        ensure!(fleet.lives() == before, "something changed while the server was frozen");
        Ok(())
    })?;
    fleet.servers[0].signal(Signal::CONT)?;
    fleet.wait_until_ready(3)?;
    // Long enough for it to give somebody up, if it were to.
    throughout(Duration::from_secs(4), || {
        ensure!(fleet.lives() == before, "something changed after the server thawed");
        Ok(())
    })?;
    ensure_served(load, least(FREEZE_TIME), "server frozen")?;
    ensure!(lost(fleet.platform_events()?) == given_up, "a node was given up wrongly");
    fleet.finish()
}
