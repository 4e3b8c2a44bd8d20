//! A whole zone fails, and comes back.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use insula_e2e::fleet::{Fleet, Shape};
use insula_e2e::folder;
use insula_e2e::machine::wait_for;
use insula_e2e::story::{self, MOMENT};

use super::{app, can_lay_ground};

const RATE: u32 = 40;
/// Of `spread`, on two zones of two nodes.
const SPREAD: usize = 4;

/// Where what serves of an app is, sorted.
fn serving(fleet: &Fleet, app: &str) -> Result<Vec<String>> {
    let all = fleet.instances(app)?.into_iter();
    let mut nodes: Vec<String> = all.filter(|one| one.serves()).map(|one| one.node).collect();
    nodes.sort();
    Ok(nodes)
}

/// Four nodes: `n0` and `n1` in the north, `n2` and `n3` in the south.
fn two_zones() -> Result<Fleet> {
    let mut fleet = Fleet::start(Shape { servers: 1, nodes: 0, gateways: 1 })?;
    for zone in ["north", "north", "south", "south"] {
        fleet.add_node(&["--zone", zone])?;
    }
    fleet.wait_until_ready(4)?;
    Ok(fleet)
}

#[test]
fn a_zone_that_fails_is_replaced_in_the_others_and_no_visitor_notices() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let mut fleet = two_zones()?;
    let url = story::url(&fleet.deploy(app(SPREAD)?.path(), "spread")?)?;
    let toml = "[components.web]\nkind = \"service\"\nrun = \"exec python3 main.py\"\n\
                memory = \"64MiB\"\nplacement = { zones = [\"north\"] }\n";
    let pinned = folder::with(&[("main.py", story::REMEMBERS), ("insula.toml", toml)])?;
    let pinned_url = story::url(&fleet.deploy(pinned.path(), "pinned")?)?;
    let spread = serving(&fleet, "spread")?;
    ensure!(spread == ["n0", "n1", "n2", "n3"], "spread over zones and nodes: {spread:?}");
    let load = fleet.load(0, &url, RATE)?;
    let all_answer = || Ok(load.seen().answers.len() == SPREAD);
    wait_for("every instance answers", MOMENT, all_answer)?;
    let south: BTreeSet<_> =
        fleet.lives().into_iter().filter(|life| life.node == "n2" || life.node == "n3").collect();

    // Both at the same moment: first the cables.
    fleet.ground.cut_off("n0")?;
    fleet.ground.cut_off("n1")?;
    fleet.cut_power(0)?;
    fleet.cut_power(1)?;
    fleet.wait_state("n0", "lost", MOMENT)?;
    fleet.wait_state("n1", "lost", MOMENT)?;
    wait_for("the missing ones are replaced in the south", MOMENT, || {
        let there: Vec<_> = serving(&fleet, "spread")?;
        Ok(there.iter().filter(|node| *node == "n2").count() == 2
            && there.iter().filter(|node| *node == "n3").count() == 2)
    })
    .with_context(|| format!("{:?}", fleet.instances("spread")))?;
    wait_for("the replacements answer", MOMENT, || Ok(load.seen().answers.len() == SPREAD + 2))?;
    fleet.ensure_kept(&south).context("in the zone that nothing happened to")?;
    // What may be in the north alone waits, and says what each node lacks.
    let why = fleet.ok(&["why", "pinned"])?;
    for reason in ["no node of zone `north`", "n0 lost", "n1 lost", "n2", "n3"] {
        ensure!(why.contains(reason), "no {reason:?} in {why}");
    }
    ensure!(serving(&fleet, "pinned")?.iter().all(|node| node != "n2" && node != "n3"));

    fleet.ground.heal()?;
    fleet.nodes[0].start()?;
    fleet.nodes[1].start()?;
    fleet.wait_until_ready(4)?;
    fleet.wait_settled("spread", SPREAD, MOMENT)?;
    fleet.wait_settled("pinned", 1, MOMENT)?;
    wait_for("what may be in the north alone answers again", MOMENT, || {
        Ok(fleet.visit(0, &pinned_url, "/").is_ok_and(|answer| answer.status == 200))
    })?;
    fleet.ensure_kept(&south).context("after the zone came back")?;
    wait_for("nothing is left but what runs", MOMENT, || Ok(fleet.lives().len() == SPREAD + 1))?;
    load.finish_served(u64::from(RATE), "a zone fails and comes back")?;
    fleet.finish()
}
