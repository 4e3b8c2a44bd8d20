//! Another build in the place of what runs, and the state in another place: nobody notices.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use insula_e2e::fleet::database::Database;
use insula_e2e::fleet::{Fleet, Shape};
use insula_e2e::load::Load;
use insula_e2e::machine::{Machine, host_of, program, wait_for};
use insula_e2e::story::{self, MOMENT};

use super::servers::can_share_a_database;
use super::{app, can_lay_ground};

const RATE: u32 = 100;

fn ensure_served(load: Load, what: &str) -> Result<()> {
    let seen = load.finish();
    let (good, failed) = (seen.good, seen.failed.len());
    println!("{what}: {good} good, worst {} ms, {failed} failed", seen.worst_ms());
    ensure!(failed == 0, "{what}: {:?}", seen.failed);
    ensure!(good > u64::from(RATE), "{what}: there was hardly any load: {good}");
    Ok(())
}

/// Waits for so many visitors more.
fn wait_visited(load: &Load, more: u64) -> Result<()> {
    let wanted = load.seen().good + more;
    wait_for(&format!("{more} visitors more"), MOMENT, || Ok(load.seen().good >= wanted))
}

/// The build before this one, if the environment names it; else another file of this one.
fn before(folder: &std::path::Path) -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("INSULA_BIN_BEFORE") {
        return Ok(named.into());
    }
    let copy = folder.join("insula-before");
    std::fs::copy(program()?, &copy)?;
    Ok(copy)
}

#[test]
fn a_fleet_is_upgraded_part_by_part_while_visitors_ask() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let shape = Shape { servers: 1, nodes: 3, gateways: 1 };
    let mut fleet = Fleet::start_of(before(folder.path())?, shape)?;
    let source = app(3)?;
    let url = story::url(&fleet.deploy(source.path(), "app")?)?;
    let lives = fleet.lives();
    ensure!(lives.len() == 3, "one on each node: {lives:?}");

    let next = program()?;
    let load = fleet.load(0, &url, RATE)?;
    fleet.servers[0].upgrade(&next);
    fleet.servers[0].stop()?;
    fleet.servers[0].start()?;
    wait_for("the new server answers", MOMENT, || {
        Ok(fleet.cli_at(0, &["status"])?.status.success())
    })?;
    fleet.wait_until_ready(shape.nodes)?;
    for node in 0..shape.nodes {
        fleet.nodes[node].upgrade(&next);
        fleet.nodes[node].stop()?;
        fleet.nodes[node].start()?;
        wait_visited(&load, 40)?;
        fleet.wait_until_ready(shape.nodes)?;
        fleet.ensure_kept(&lives).with_context(|| format!("node {node} was upgraded"))?;
    }
    ensure_served(load, "server and nodes upgraded")?;
    // There is one alone: who asks while it is away is refused.
    fleet.gateways[0].upgrade(&next);
    fleet.gateways[0].stop()?;
    fleet.gateways[0].start()?;
    wait_for("the new gateway serves", MOMENT, || {
        Ok(fleet.visit(0, &url, "/").is_ok_and(|answer| answer.status == 200))
    })?;
    fleet.wait_until_ready(shape.nodes)?;
    fleet.deploy(source.path(), "after")?;
    fleet.ensure_kept(&lives)?;
    fleet.finish()
}

#[test]
fn state_moves_to_postgresql_and_back_while_visitors_ask() -> Result<()> {
    if !can_share_a_database() {
        return Ok(());
    }
    // Lent to the database's user, so not the machine's own.
    let folder = tempfile::Builder::new().prefix("insula-migrate").tempdir()?;
    let database = Database::start_here(folder.path())?;
    let machine = Machine::start()?;
    let source = app(2)?;
    let url = story::url(&machine.deploy(source.path(), "app")?)?;
    let pids = story::instance_pids(&machine, "app")?;
    ensure!(pids.len() == 2, "{pids:?}");
    let load = Load::start(machine.edge, &host_of(&url)?, "/", RATE);

    let blobs = folder.path().join("blobs").display().to_string();
    let there = ["migrate", "--to", &database.url(), "--blobs", &blobs];
    let back = ["migrate", "--to", "sqlite"];
    for (round, command) in [&there[..], &back].into_iter().enumerate() {
        println!("{}", machine.ok(&[command, &["--json"]].concat())?.trim());
        wait_for("the server answers from there", Duration::from_secs(60), || {
            Ok(machine.cli(&["status"])?.status.success())
        })?;
        story::wait_ready(&machine, "app", 2)?;
        ensure!(story::instance_pids(&machine, "app")? == pids, "the app was restarted");
        let name = format!("after-{round}");
        let moved = story::url(&machine.deploy(source.path(), &name)?)?;
        ensure!(machine.visit(&moved, "/")?.status == 200, "what is deployed there answers");
        // What was stored before can be had: its release is rolled back to.
        machine.json(&["rollback", "v1", "--app", &name])?;
    }
    let apps = machine.ok(&["apps", "list"])?;
    for name in ["app", "after-0", "after-1"] {
        ensure!(apps.contains(name), "{name} is missing: {apps}");
    }
    ensure_served(load, "moved there and back")?;
    Ok(())
}

/// What builds before fleets did not write: which node the data folder belongs to.
#[test]
fn a_data_folder_of_before_fleets_is_taken_over_with_what_runs() -> Result<()> {
    let mut machine = Machine::start()?;
    let source = app(1)?;
    let url = story::url(&machine.deploy(source.path(), "app")?)?;
    let drawn = machine.visit(&url, "/")?.text();
    machine.end(rustix::process::Signal::TERM)?;
    std::fs::remove_file(machine.data().join("node"))?;
    machine.up()?;
    wait_for("the app answers", MOMENT, || {
        Ok(machine.visit(&url, "/").is_ok_and(|answer| answer.status == 200))
    })?;
    ensure!(machine.visit(&url, "/")?.text() == drawn, "it is the same process");
    machine.deploy(source.path(), "app")?;
    Ok(())
}
