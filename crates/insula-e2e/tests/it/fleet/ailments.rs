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
/// One is an accident, three are a habit.
const SILENCES: usize = 3;
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

/// Deploys an app that could be on that node or on `n2`, and on no other.
fn ensure_gets_nothing(fleet: &Fleet, degraded: &str) -> Result<()> {
    let others = ["n0", "n1", "n3"].into_iter().filter(|name| *name != degraded);
    for other in others.clone() {
        fleet.ok(&["nodes", "cordon", other])?;
    }
    let name = format!("not-on-{degraded}");
    fleet.deploy(app(2)?.path(), &name)?;
    for other in others {
        fleet.ok(&["nodes", "uncordon", other])?;
    }
    let new = fleet.instances(&name)?;
    ensure!(new.len() == 2 && new.iter().all(|one| one.node == "n2"), "{new:?}");
    Ok(())
}

/// Its server falls silent again and again.
fn cut_off_again_and_again(fleet: &Fleet, node: usize) -> Result<()> {
    let role = &fleet.nodes[node];
    for time in 1..=SILENCES {
        fleet.ground.cut("s0", role.name())?;
        fleet.wait_state(role.name(), "lost", MOMENT)?;
        wait_for("it has noticed, too", MOMENT, || {
            Ok(role.log().matches("lost the server; nothing here changes").count() >= time)
        })?;
        fleet.ground.heal()?;
        wait_for("it is back", MOMENT, || {
            Ok(fleet.node_states()?.iter().any(|(name, state)| {
                name == role.name() && (state == "ready" || state == "degraded")
            }))
        })?;
    }
    Ok(())
}

#[test]
fn a_node_that_something_is_wrong_with_says_what_and_gets_nothing_new() -> Result<()> {
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
    for _ in 0..3 {
        fleet.add_node(&[])?;
    }
    fleet.wait_until_ready(4)?;
    let url = story::url(&fleet.deploy(app(4)?.path(), "app")?)?;
    let before = fleet.lives();
    ensure!(before.len() == 4, "one on each: {before:?}");
    let place = fleet.nodes[1].place.clone();
    let ours = tables(&place)?;
    ensure!(!ours.is_empty(), "no rules at all");

    // All at once, because each is looked at for a while before it is believed.
    disk.fill_up_to(FREE_MIB)?;
    let flushed = place.command("nft").args(["flush", "ruleset"]).status()?;
    ensure!(flushed.success() && tables(&place)?.is_empty(), "somebody changed the rules");
    cut_off_again_and_again(&fleet, 3)?;

    fleet.wait_state("n0", "degraded", TOLD_TIME_MAX)?;
    let said = notes(&fleet, "n0")?;
    ensure!(said.contains("disk: its disk is nearly full"), "{said}");
    let why = fleet.ok(&["nodes", "why", "n0"])?;
    ensure!(why.contains("something is wrong with it, so it gets nothing new"), "{why}");
    ensure_gets_nothing(&fleet, "n0")?;
    disk.make_room()?;

    fleet.wait_state("n1", "degraded", TOLD_TIME_MAX)?;
    let said = notes(&fleet, "n1")?;
    ensure!(said.contains("rules: somebody changed the host's network"), "{said}");
    for table in &ours {
        let name = table.split_whitespace().last().context("a name")?;
        ensure!(said.contains(name), "it does not say what of {table}: {said}");
    }
    // They were put back by who says that they were changed.
    ensure!(tables(&place)? == ours, "put back: {:?}", tables(&place)?);
    ensure_gets_nothing(&fleet, "n1")?;

    fleet.wait_state("n3", "degraded", TOLD_TIME_MAX)?;
    let said = notes(&fleet, "n3")?;
    ensure!(said.contains("network: servers fell silent again and again"), "{said}");
    ensure_gets_nothing(&fleet, "n3")?;

    // They keep what they have, and it serves.
    fleet.wait_settled("app", 4, MOMENT)?;
    fleet.ensure_kept(&before)?;
    let mut seen = BTreeSet::new();
    wait_for("each instance answers", MOMENT, || {
        seen.insert(fleet.visit(0, &url, "/")?.text());
        Ok(seen.len() == 4)
    })?;

    fleet.wait_state("n0", "ready", TOLD_TIME_MAX).context("there is room again")?;
    fleet.ensure_kept(&before)?;
    fleet.finish()
}
