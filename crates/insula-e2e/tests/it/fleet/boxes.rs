//! Machines that are set up alike: each is a server, a node and an edge, and any one may go.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use insula_e2e::fleet::database::Database;
use insula_e2e::fleet::process::Role;
use insula_e2e::fleet::s3::S3;
use insula_e2e::fleet::watch::lives_on;
use insula_e2e::fleet::{EDGE_PORT, Fleet};
use insula_e2e::host::Traces;
use insula_e2e::load::Load;
use insula_e2e::machine::{host_of, program, wait_for};
use insula_e2e::story::{self, MOMENT};

use super::{app, can_share_a_database};

const BOXES: usize = 3;
const FLEET_PORT: u16 = 7443;
const RATE: u32 = 30;
const VISITORS: u64 = 30;

/// The next machine, as the guide says: the database and the S3 in its environment, and the master
/// key of the first as the only file in its folder.
fn add_box(fleet: &mut Fleet) -> Result<()> {
    let place = fleet.ground.place(&format!("b{}", fleet.servers.len()))?;
    let address = place.at(FLEET_PORT).to_string();
    let s3 = fleet.s3.as_ref().context("an S3")?.flags();
    let database = fleet.database.as_ref().context("a database")?.url();
    let mut role = Role::new(place, fleet.folder(), &program()?, &["up", "--fleet", &address]);
    let [_, bucket, _, endpoint] = s3.as_slice() else { anyhow::bail!("{s3:?}") };
    role.set_variable("INSULA_DATABASE", &database);
    role.set_variable("INSULA_S3_BUCKET", bucket);
    role.set_variable("INSULA_S3_ENDPOINT", endpoint);
    S3::keys().iter().for_each(|(name, value)| role.set_variable(name, value));
    if let Some(first) = fleet.servers.first() {
        std::fs::create_dir(&role.data)?;
        std::fs::copy(first.data.join("master.key"), role.data.join("master.key"))?;
    }
    role.start()?;
    fleet.servers.push(role);
    let number = fleet.servers.len() - 1;
    wait_for("the machine is up", MOMENT, || {
        ensure!(fleet.servers[number].is_running()?, "{}", fleet.servers[number].excerpt());
        Ok(fleet.cli_at(number, &["status"])?.status.success())
    })?;
    wait_stand(fleet, number + 1)
}

/// Waits until so many nodes are ready and so many gateways are connected.
fn wait_stand(fleet: &Fleet, count: usize) -> Result<()> {
    wait_for(&format!("{count} nodes and gateways"), MOMENT, || {
        let there = fleet.json(&["status"])?["installation"].clone();
        let count = u64::try_from(count)?;
        Ok(there["nodes_by_state"]["ready"] == count && there["gateways"] == count)
    })
    .with_context(|| fleet.ok(&["status"]).unwrap_or_default())
}

/// Visitors at the edge of a machine.
fn load(fleet: &Fleet, number: usize, url: &str) -> Result<Load> {
    let (host, edge) = (host_of(url)?, format!("127.0.0.1:{EDGE_PORT}").parse()?);
    fleet.servers[number].place.inside(|| Ok(Load::start(edge, &host, "/", RATE)))
}

/// Ends what outlives `up`, and looks whether anything is left.
fn down(role: &mut Role) -> Result<()> {
    let told = role.command().args(["doctor", "--tag"]).output()?;
    let tag = String::from_utf8_lossy(&told.stdout).trim().to_owned();
    role.stop()?;
    let down = role.command().arg("down").arg("--data").arg(&role.data).output()?;
    ensure!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
    let traces = Traces::of(&role.data, &tag);
    ensure!(traces.is_empty(), "{} leaves {traces:?}", role.name());
    Ok(())
}

#[test]
fn of_three_machines_that_are_set_up_alike_any_one_may_go() -> Result<()> {
    if !can_share_a_database() {
        return Ok(());
    }
    let mut fleet = Fleet::prepare()?;
    let place = fleet.ground.place("db")?;
    fleet.database = Some(Database::start(place, fleet.folder())?);
    fleet.keep_blobs_in_s3()?;
    for _ in 0..BOXES {
        add_box(&mut fleet)?;
    }
    let url = story::url(&fleet.deploy(app(BOXES)?.path(), "app")?)?;
    let lives: Vec<BTreeSet<_>> = fleet.servers.iter().map(lives_on).collect();
    ensure!(lives.iter().all(|on| on.len() == 1), "one on each: {lives:?}");

    // The one that decides dies.
    let dead = fleet.leader()?.context("a leader")?;
    let rest: Vec<usize> = (0..BOXES).filter(|number| *number != dead).collect();
    let loads: Vec<Load> =
        rest.iter().map(|number| load(&fleet, *number, &url)).collect::<Result<_>>()?;
    for load in &loads {
        load.wait_served(VISITORS)?;
    }
    fleet.cut_power_of_server(dead)?;
    fleet.front = Some(rest[0]);
    wait_for("another decides", MOMENT, || {
        Ok(fleet.leader()?.is_some_and(|leader| leader != dead))
    })?;
    let leader = fleet.leader()?;
    wait_for("three serve on two", MOMENT, || {
        let all = fleet.instances("app")?;
        let on_two: BTreeSet<_> =
            rest.iter().map(|it| lives_on(&fleet.servers[*it]).len()).collect();
        Ok(all.iter().filter(|one| one.serves()).count() >= BOXES && on_two == [1, 2].into())
    })?;
    fleet.deploy(app(1)?.path(), "meanwhile")?;
    for number in &rest {
        // Whoever has the token of one of them is the operator of all.
        let apps = fleet.ok_at(*number, &["apps", "list"])?;
        ensure!(apps.contains("meanwhile"), "at {number}: {apps}");
        let on = lives_on(&fleet.servers[*number]);
        ensure!(lives[*number].is_subset(&on), "{number} was disturbed");
    }

    // And comes back with what it had.
    fleet.ground.heal()?;
    fleet.servers[dead].start()?;
    wait_stand(&fleet, BOXES)?;
    fleet.wait_settled("app", BOXES, MOMENT)?;
    ensure!(fleet.leader()? == leader, "who returns follows");
    for load in loads {
        load.finish_served(2 * VISITORS, "one of three machines dies")?;
    }

    // One that shall be a node and an edge and nothing else keeps its folder, and its apps.
    let last = *rest.iter().find(|number| Some(**number) != leader).context("one that follows")?;
    let mut before = fleet.servers.remove(last);
    fleet.front = None;
    let running = lives_on(&before);
    before.stop()?;
    let others = fleet.fleet_addresses();
    let listen = format!("127.0.0.1:{EDGE_PORT}");
    for args in [
        &["agent", "--server", &others][..],
        &["gateway", "--server", &others, "--listen", &listen],
    ] {
        let mut role = Role::new(before.place.clone(), fleet.folder(), &program()?, args);
        role.start()?;
        let roles = if args[0] == "agent" { &mut fleet.nodes } else { &mut fleet.gateways };
        roles.push(role);
    }
    wait_stand(&fleet, BOXES)?;
    ensure!(running.is_subset(&lives_on(&before)), "its apps were disturbed");
    wait_for("its edge serves", MOMENT, || {
        Ok(fleet.visit(0, &url, "/").is_ok_and(|answer| answer.status == 200))
    })?;
    let states = fleet.node_states()?;
    ensure!(states.len() == BOXES, "it came as somebody new: {states:?}");

    for role in &mut fleet.servers {
        down(role)?;
    }
    fleet.finish()
}
