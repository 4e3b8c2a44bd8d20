//! A gateway's machine dies: whoever comes through another one does not notice.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use insula_e2e::fleet::{Fleet, Shape};
use insula_e2e::folder;
use insula_e2e::machine::wait_for;
use insula_e2e::story::{self, MOMENT};

use super::{app, can_lay_ground};

const RATE: u32 = 50;
/// A connection that says nothing is asked, and given up.
const NOTICED_TIME_MAX: Duration = Duration::from_secs(15);
/// Of a page that only the second release has.
const FRESH: &str = "released while a gateway was dead\n";

/// How many gateways are listed as connected, and how many are listed.
fn listed(fleet: &Fleet) -> Result<(usize, usize)> {
    let gateways = fleet.json(&["gateways", "list"])?;
    let gateways = gateways.as_array().context("a list of gateways")?;
    Ok((gateways.iter().filter(|one| one["connected"] == true).count(), gateways.len()))
}

/// So many gateways serve, as `insula status` says.
fn in_status(fleet: &Fleet) -> Result<u64> {
    let status = fleet.json(&["status"])?;
    status["installation"]["gateways"].as_u64().context("gateways")
}

#[test]
fn a_gateway_whose_machine_dies_is_missed_by_nobody_at_the_other() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let mut fleet = Fleet::start(Shape { servers: 1, nodes: 2, gateways: 2 })?;
    let source = app(2)?;
    let url = story::url(&fleet.deploy(source.path(), "app")?)?;
    for gateway in 0..2 {
        ensure!(fleet.visit(gateway, &url, "/")?.status == 200, "gateway {gateway}");
    }
    ensure!(listed(&fleet)? == (2, 2) && in_status(&fleet)? == 2);
    let load = fleet.load(1, &url, RATE)?;

    // The cable first, so that nobody hears its end.
    fleet.ground.cut_off("g0")?;
    fleet.gateways[0].kill()?;
    // A release waits a while for its word, and then goes on without it.
    let fresh = story::REMEMBERS.replace("secrets.token_hex(8)", &format!("{:?}", FRESH.trim()));
    folder::write(source.path(), "main.py", &fresh)?;
    fleet.deploy(source.path(), "app").context("with a dead gateway")?;
    ensure!(fleet.visit(1, &url, "/")?.text() == FRESH, "the other shows the release of before");
    fleet.wait_settled("app", 2, MOMENT)?;
    wait_for("the list says that one is not there", NOTICED_TIME_MAX, || {
        Ok(listed(&fleet)? == (1, 2))
    })?;
    ensure!(in_status(&fleet)? == 1, "and so does the status");

    // It comes back, and never shows what was before.
    fleet.ground.heal()?;
    fleet.gateways[0].start()?;
    let mut first = None;
    wait_for("it serves again", MOMENT, || {
        first = fleet.visit(0, &url, "/").ok().filter(|answer| answer.status == 200);
        Ok(first.is_some())
    })?;
    let first = first.context("an answer")?.text();
    ensure!(first == FRESH, "it shows a release that is gone: {first}");
    wait_for("it is listed as before", MOMENT, || Ok(listed(&fleet)? == (2, 2)))?;
    load.finish_served(u64::from(RATE), "one of two gateways dead")?;
    fleet.finish()
}
