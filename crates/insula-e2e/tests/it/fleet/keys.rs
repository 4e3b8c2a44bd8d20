//! Files that make somebody who he is: lost, of somebody else, or put back from an old copy.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use insula_e2e::fleet::impostor::Identified;
use insula_e2e::fleet::past::give_old_certificate;
use insula_e2e::fleet::process::Role;
use insula_e2e::fleet::watch::lives_on;
use insula_e2e::fleet::{Fleet, Shape};
use insula_e2e::machine::{program, wait_for};
use insula_e2e::story::{self, MOMENT};
use insula_kit::random::SystemRandom;
use insula_kit::seal::Key;

use super::joining::node;
use super::{app, can_lay_ground};

const RATE: u32 = 40;
/// Who ask while something is wrong, at least.
const VISITORS: u64 = 20;

/// Starts a server that must not come up; what it said this time.
fn does_not_start(server: &mut Role) -> Result<String> {
    let before = server.log().len();
    server.start()?;
    let code = server.ended_within(MOMENT)?;
    let said = server.log().split_off(before);
    ensure!(code == Some(1), "it ended with {code:?} and said {said}");
    Ok(said)
}

#[test]
fn a_server_whose_master_key_is_missing_or_of_another_fleet_says_so_and_touches_nothing()
-> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let mut fleet = Fleet::start(Shape { servers: 1, nodes: 1, gateways: 1 })?;
    let url = story::url(&fleet.deploy(app(1)?.path(), "app")?)?;
    let before = fleet.lives();
    let load = fleet.load(0, &url, RATE)?;
    fleet.servers[0].stop()?;
    let key = fleet.servers[0].data.join("master.key");
    let aside = fleet.folder().join("aside");
    fs::rename(&key, &aside)?;

    let said = does_not_start(&mut fleet.servers[0])?;
    ensure!(said.contains("master.key is missing"), "{said}");
    ensure!(said.contains("put it back"), "no way out: {said}");
    ensure!(!key.exists(), "it made another");
    load.wait_served(VISITORS)?;

    Key::load_or_create(&key, &SystemRandom::new())?;
    let said = does_not_start(&mut fleet.servers[0])?;
    ensure!(said.contains("master.key") && said.contains("is not the one of this fleet"), "{said}");

    load.wait_served(VISITORS)?;

    fs::rename(&aside, &key)?;
    fleet.servers[0].start()?;
    wait_for("the server answers", MOMENT, || Ok(fleet.cli_at(0, &["status"])?.status.success()))?;
    fleet.wait_until_ready(1)?;
    fleet.ensure_kept(&before).context("apps go on")?;
    load.finish_served(2 * VISITORS, "a server without its key")?;
    fleet.finish()
}

/// A copy as `cp -a` makes it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = Command::new("cp").arg("-aT").arg(from).arg(to).status()?;
    ensure!(copied.success(), "copy {} to {}", from.display(), to.display());
    Ok(())
}

/// What it has said since its log was so long.
fn said_since(role: &Role, before: usize) -> String {
    role.log().split_off(before)
}

#[test]
fn a_folder_that_was_put_back_from_an_old_copy_is_refused_until_somebody_looked() -> Result<()> {
    const NEWER_USED: &str = "newer certificate";
    const WHY: &str = "somebody else may be speaking in its name";
    if !can_lay_ground() {
        return Ok(());
    }
    let mut fleet = Fleet::start(Shape { servers: 1, nodes: 2, gateways: 1 })?;
    let url = story::url(&fleet.deploy(app(2)?.path(), "app")?)?;
    let lives = lives_on(&fleet.nodes[1]);
    ensure!(lives.len() == 1, "one on each: {lives:?}");
    let first = node(&fleet, "n1")?.context("n1")?["id"].clone();

    // A copy is made; a day later its certificate is renewed, and used.
    fleet.nodes[1].stop()?;
    let (member, old) = (fleet.nodes[1].data.join("agent"), fleet.folder().join("old"));
    copy(&member, &old)?;
    let renewed = fleet.folder().join("renewed");
    let it = Identified::steal(&fleet.nodes[1].data, &renewed, &fleet.fleet_addresses())?;
    it.renew(&fleet.nodes[1].place)?;
    fs::copy(renewed.join("credentials.json"), member.join("credentials.json"))?;
    fleet.nodes[1].start()?;
    fleet.wait_state("n1", "ready", MOMENT)?;

    // Its disk breaks, and the copy is put back.
    fleet.nodes[1].stop()?;
    fs::remove_dir_all(&member)?;
    copy(&old, &member)?;
    let before = fleet.nodes[1].log().len();
    fleet.nodes[1].start()?;
    wait_for("it says why nobody listens", MOMENT, || {
        let said = said_since(&fleet.nodes[1], before);
        Ok(said.contains(NEWER_USED) && said.contains(WHY))
    })
    .with_context(|| said_since(&fleet.nodes[1], before))?;
    fleet.wait_state("n1", "lost", MOMENT)?;
    ensure!(lives_on(&fleet.nodes[1]) == lives, "its apps go on");
    ensure!(fleet.visit(0, &url, "/")?.status == 200);

    // A token alone is not enough: the other one would go on in its name.
    fleet.nodes[1].stop()?;
    let token = fleet.token(&[])?;
    let servers = fleet.fleet_addresses();
    let args = ["agent", "--server", &servers, "--token", &token, "--name", "anew"];
    let mut anew = Role::new(fleet.nodes[1].place.clone(), fleet.folder(), &program()?, &args);
    let before = anew.log().len();
    anew.start()?;
    let removal = format!("insula nodes remove {}", first.as_str().context("an id")?);
    wait_for("it says what to do", MOMENT, || Ok(said_since(&anew, before).contains(&removal)))
        .with_context(|| said_since(&anew, before))?;
    ensure!(lives_on(&fleet.nodes[1]) == lives, "its apps go on");

    // Somebody looked: it joins as somebody new with the token that was not used up.
    anew.stop()?;
    fleet.ok(&["nodes", "remove", "n1", "--yes"])?;
    anew.start()?;
    fleet.nodes[1] = anew;
    fleet.wait_state("anew", "ready", MOMENT).with_context(|| fleet.logs())?;
    let anew = node(&fleet, "anew")?.context("anew")?;
    ensure!(anew["id"] != first, "{anew}");
    fleet.wait_settled("app", 2, MOMENT)?;
    ensure!(fleet.visit(0, &url, "/")?.status == 200);
    fleet.finish()
}

/// A day longer than a certificate lives.
const FOUR_DAYS: Duration = Duration::from_secs(4 * 86_400);

#[test]
fn a_node_that_was_off_for_four_days_takes_a_token_and_is_the_same_node() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let mut fleet = Fleet::start(Shape { servers: 1, nodes: 2, gateways: 1 })?;
    let url = story::url(&fleet.deploy(app(2)?.path(), "app")?)?;
    let lives = lives_on(&fleet.nodes[1]);
    ensure!(lives.len() == 1, "one on each: {lives:?}");
    let id = node(&fleet, "n1")?.context("n1")?["id"].clone();
    fleet.nodes[1].stop()?;
    fleet.servers[0].stop()?;
    give_old_certificate(&fleet.servers[0], &fleet.nodes[1], FOUR_DAYS)?;
    fleet.servers[0].start()?;
    fleet.nodes[1].start()?;

    wait_for("it says that its certificate has ended", MOMENT, || {
        let said = fleet.nodes[1].log();
        Ok(said.contains("the certificate has ended") && said.contains("insula nodes token"))
    })
    .with_context(|| fleet.nodes[1].log())?;
    wait_for("the server answers", MOMENT, || Ok(fleet.cli_at(0, &["status"])?.status.success()))?;
    fleet.wait_state("n1", "lost", MOMENT)?;
    ensure!(lives_on(&fleet.nodes[1]) == lives, "what runs goes on");

    fleet.nodes[1].stop()?;
    let token = fleet.token(&[])?;
    let servers = fleet.fleet_addresses();
    let args = ["agent", "--server", &servers, "--token", &token];
    let mut again = Role::new(fleet.nodes[1].place.clone(), fleet.folder(), &program()?, &args);
    again.start()?;
    fleet.nodes[1] = again;
    fleet.wait_state("n1", "ready", MOMENT).with_context(|| fleet.nodes[1].log())?;
    let back = node(&fleet, "n1")?.context("n1")?;
    ensure!(back["id"] == id, "{back}");
    ensure!(fleet.node_states()?.len() == 2, "{:?}", fleet.node_states()?);
    fleet.wait_settled("app", 2, MOMENT)?;
    ensure!(lives_on(&fleet.nodes[1]) == lives, "its apps were disturbed");
    ensure!(fleet.visit(0, &url, "/")?.status == 200);
    fleet.finish()
}
