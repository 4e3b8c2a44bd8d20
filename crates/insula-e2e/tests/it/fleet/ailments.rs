//! Nodes that answer and say that something is wrong with them.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use insula_e2e::disk::SmallDisk;
use insula_e2e::fleet::ground::Place;
use insula_e2e::fleet::{Fleet, Shape};
use insula_e2e::machine::{program, wait_for};
use insula_e2e::story::{self, MOMENT};

use super::joining::node;
use super::{app, can_lay_ground};

/// Room beside the program, of which a data folder may keep a copy.
const ROOM_MIB: u64 = 128;
/// What is left of it: less than 5 % of a small disk.
const FREE_MIB: u64 = 2;
/// Two looks of five seconds believe it, six without a finding take it back; a node looks at its
/// rules every thirty. Twice of it, for two cores that do other things too.
const TOLD_TIME_MAX: Duration = Duration::from_secs(80);

/// The tables of the packet filter in that place.
fn tables(place: &Place) -> Result<BTreeSet<String>> {
    let output = place.command("nft").args(["list", "tables"]).stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().filter_map(|line| line.strip_prefix("table ")).map(str::to_owned).collect())
}

/// What is wrong with a node, as the operator is told.
fn notes(fleet: &Fleet, name: &str) -> Result<String> {
    Ok(node(fleet, name)?.with_context(|| name.to_owned())?["notes"].to_string())
}

/// Deploys an app that could be on that node or on `n2`, and not on the other one.
fn ensure_gets_nothing(fleet: &Fleet, degraded: &str, other: &str) -> Result<()> {
    fleet.ok(&["nodes", "cordon", other])?;
    let name = format!("not-on-{degraded}");
    fleet.deploy(app(2)?.path(), &name)?;
    fleet.ok(&["nodes", "uncordon", other])?;
    let new = fleet.instances(&name)?;
    ensure!(new.len() == 2 && new.iter().all(|one| one.node == "n2"), "{new:?}");
    Ok(())
}

#[test]
fn a_full_disk_and_rules_that_somebody_changed_degrade_a_node_and_are_mended() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    // It goes after the fleet.
    let disk = SmallDisk::mount(ROOM_MIB + std::fs::metadata(program()?)?.len() / (1 << 20))?;
    let mut fleet = Fleet::start(Shape { servers: 1, nodes: 0, gateways: 1 })?;
    let token = fleet.token(&[])?;
    let mut role = fleet.node_role(0, &token)?;
    role.data = disk.path().join("data");
    role.start()?;
    role.forget_argument("--token");
    fleet.nodes.push(role);
    fleet.add_node(&[])?;
    fleet.add_node(&[])?;
    fleet.wait_until_ready(3)?;
    let url = story::url(&fleet.deploy(app(3)?.path(), "app")?)?;
    let before = fleet.lives();
    ensure!(before.len() == 3, "one on each: {before:?}");
    let place = fleet.nodes[1].place.clone();
    let ours = tables(&place)?;
    ensure!(!ours.is_empty(), "no rules at all");

    disk.fill_up_to(FREE_MIB)?;
    let flushed = place.command("nft").args(["flush", "ruleset"]).status()?;
    ensure!(flushed.success() && tables(&place)?.is_empty(), "somebody changed the rules");
    fleet.wait_state("n0", "degraded", TOLD_TIME_MAX)?;
    let said = notes(&fleet, "n0")?;
    ensure!(said.contains("disk: its disk is nearly full"), "{said}");
    let why = fleet.ok(&["nodes", "why", "n0"])?;
    ensure!(why.contains("something is wrong with it, so it gets nothing new"), "{why}");
    ensure_gets_nothing(&fleet, "n0", "n1")?;
    // Its owner makes room; that it stays so is looked at while the rules are waited for.
    disk.make_room()?;
    fleet.wait_state("n1", "degraded", TOLD_TIME_MAX)?;
    let said = notes(&fleet, "n1")?;
    ensure!(said.contains("rules: somebody changed the host's network"), "{said}");
    for table in &ours {
        let name = table.split_whitespace().last().context("a name")?;
        ensure!(said.contains(name), "it does not say what of {table}: {said}");
    }
    ensure_gets_nothing(&fleet, "n1", "n0")?;

    // Both keep what they have.
    fleet.ensure_kept(&before)?;
    fleet.wait_settled("app", 3, MOMENT)?;
    // The rules were put back by who says that they were changed: its instance serves.
    ensure!(tables(&place)? == ours, "put back: {:?}", tables(&place)?);
    let mut seen = BTreeSet::new();
    wait_for("each instance answers", MOMENT, || {
        seen.insert(fleet.visit(0, &url, "/")?.text());
        Ok(seen.len() == 3)
    })?;

    fleet.wait_state("n0", "ready", TOLD_TIME_MAX)?;
    fleet.ensure_kept(&before)?;
    fleet.finish()
}
