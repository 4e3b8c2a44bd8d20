//! Another build in the place of what runs, and the state in another place: nobody notices.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use insula_e2e::fleet::database::Database;
use insula_e2e::fleet::process::Role;
use insula_e2e::fleet::{EDGE_PORT, Fleet, Shape};
use insula_e2e::folder;
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

/// Says every answer in one piece: what is cut off on its way has not begun.
const IN_ONE_PIECE: &str = r#"import http.server, os

class Hello(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    def do_GET(self):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi\n")
    def log_message(self, *args):
        pass

http.server.ThreadingHTTPServer(("", int(os.environ["PORT"])), Hello).serve_forever()
"#;

/// A gateway on the machine of a node reaches what is there without its agent; one on another
/// machine holds its visitors until the agent is back.
#[test]
fn an_agent_begins_again_under_visitors_of_an_app_that_it_has_alone() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let mut fleet = Fleet::start(Shape { servers: 1, nodes: 1, gateways: 1 })?;
    add_gateway_beside(&mut fleet, 0)?;
    fleet.wait_until_ready(1)?;
    let toml = "[components.web]\nkind = \"service\"\nrun = \"exec python3 main.py\"\n";
    let source = folder::with(&[("main.py", IN_ONE_PIECE), ("insula.toml", toml)])?;
    let url = story::url(&fleet.deploy(source.path(), "app")?)?;
    let lives = fleet.lives();
    ensure!(lives.len() == 1, "{lives:?}");
    let (elsewhere, beside) = (fleet.load(0, &url, RATE)?, fleet.load(1, &url, RATE)?);
    for round in 0..6 {
        wait_visited(&elsewhere, 40)?;
        if round % 2 == 0 {
            fleet.nodes[0].stop()?;
        } else {
            fleet.nodes[0].kill()?;
        }
        fleet.nodes[0].start()?;
        wait_visited(&elsewhere, 40)?;
        fleet.wait_until_ready(1)?;
        fleet.ensure_kept(&lives).with_context(|| format!("round {round}"))?;
    }
    ensure_served(beside, "through a gateway on the machine of the agent")?;
    ensure_served(elsewhere, "through a gateway on another")?;
    fleet.finish()
}

/// One more gateway, in the place and with the data folder of a node.
fn add_gateway_beside(fleet: &mut Fleet, node: usize) -> Result<()> {
    let token = fleet.token(&["--for", "gateway"])?;
    let place = fleet.nodes[node].place.clone();
    let (servers, listen) = (fleet.fleet_addresses(), format!("127.0.0.1:{EDGE_PORT}"));
    let args = ["gateway", "--server", &servers, "--token", &token, "--listen", &listen];
    let mut role = Role::new(place, fleet.folder(), &program()?, &args);
    role.start()?;
    role.forget_argument("--token");
    fleet.gateways.push(role);
    Ok(())
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
