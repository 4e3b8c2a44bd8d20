//! Who comes back later than the others after the server was cut off from all.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use insula_e2e::fleet::{Fleet, Shape};
use insula_e2e::machine::wait_for;
use insula_e2e::story::{self, MOMENT};

use super::{app, can_lay_ground};

const RATE: u32 = 40;
/// Well within the fifteen seconds that the late are waited for.
const LATE: Duration = Duration::from_secs(5);
/// Beyond them, on a busy machine.
const GIVEN_UP_TIME_MAX: Duration = Duration::from_secs(60);

fn ids(fleet: &Fleet) -> Result<BTreeSet<String>> {
    Ok(fleet.instances("app")?.into_iter().map(|one| one.id).collect())
}

/// The server is cut off until every node is lost; then all come back but `n2`.
fn cut_off_and_return_without_n2(fleet: &Fleet) -> Result<()> {
    fleet.ground.cut_off("s0")?;
    wait_for("every node is lost", MOMENT, || {
        Ok(fleet.node_states()?.iter().all(|(_, state)| state == "lost"))
    })?;
    fleet.ground.heal_all_but("s0", "n2")?;
    fleet.wait_state("n0", "ready", MOMENT)?;
    fleet.wait_state("n1", "ready", MOMENT)?;
    Ok(())
}

#[test]
fn who_comes_back_late_after_the_server_was_cut_off_is_waited_for_a_while() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let fleet = Fleet::start(Shape { servers: 1, nodes: 3, gateways: 1 })?;
    let url = story::url(&fleet.deploy(app(3)?.path(), "app")?)?;
    let (lives, known) = (fleet.lives(), ids(&fleet)?);
    ensure!(lives.len() == 3, "one on each: {lives:?}");
    let load = fleet.load(0, &url, RATE)?;

    let cut = Instant::now();
    cut_off_and_return_without_n2(&fleet)?;
    let back = Instant::now();
    while back.elapsed() < LATE {
        ensure!(fleet.lives() == lives, "something was started or stopped");
        ensure!(ids(&fleet)? == known, "one that is late was replaced");
    }
    fleet.ground.heal()?;
    fleet.wait_state("n2", "ready", MOMENT)?;
    fleet.wait_settled("app", 3, MOMENT)?;
    ensure!(fleet.lives() == lives && ids(&fleet)? == known, "nothing was to be done");
    println!("cut off → all are back: {:?}", cut.elapsed());

    // Not for ever.
    cut_off_and_return_without_n2(&fleet)?;
    wait_for("what is not back is replaced", GIVEN_UP_TIME_MAX, || {
        let all = fleet.instances("app")?;
        Ok(all.iter().any(|one| one.serves() && !known.contains(&one.id)))
    })?;
    fleet.ensure_kept(&lives).context("nothing is stopped, also where nobody is heard")?;
    fleet.ground.heal()?;
    fleet.wait_state("n2", "ready", MOMENT)?;
    fleet.wait_settled("app", 3, MOMENT)?;
    fleet.ensure_kept(&lives).context("only what is surplus is stopped")?;
    load.finish_served(u64::from(RATE), "a server cut off, a node late")?;
    fleet.finish()
}
