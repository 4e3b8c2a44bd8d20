//! What happens on a bad day.

use std::fs::File;
use std::io::{self, Write};

use anyhow::{Context, Result, ensure};
use insula_e2e::app::{App, refusal};
use insula_e2e::machine::{Machine, program, wait_for};
use insula_e2e::{folder, story};
use serde_json::json;

#[test]
fn kill_nine_of_anything_loses_nothing_and_restarts_nobody() -> Result<()> {
    let mut machine = Machine::start()?;
    let kills = story::kill_everything(&mut machine, 8, 42)?;
    assert!(kills.acknowledged > 0, "{kills:?}");
    Ok(())
}

#[test]
fn deploys_and_rollbacks_under_load_lose_no_request() -> Result<()> {
    let machine = Machine::start()?;
    let report = story::moves_under_load(&machine, 5, 5, 100)?;
    ensure!(report.failed_in_moves == 0, "{:?}", report.seen.failed);
    let moving: std::time::Duration = report.deploys.iter().chain(&report.rollbacks).sum();
    // Half of what was asked for: the machine may be busy, but not idle.
    let least = u64::try_from(moving.as_millis() / 20)?;
    ensure!(report.seen.good > least, "there was hardly any load: {}", report.seen.good);
    ensure!(report.deploys.len() == 5 && report.rollbacks.len() == 5);
    Ok(())
}

/// Room beside the program, of which a data folder may keep a copy.
const ROOM_MIB: u64 = 48;

#[test]
fn a_full_disk_refuses_with_words_stops_nobody_and_is_over_when_there_is_room() -> Result<()> {
    let mut machine = Machine::prepare()?;
    machine.with_small_disk(ROOM_MIB + std::fs::metadata(program()?)?.len() / (1 << 20))?;
    machine.up()?;
    let source = folder::with(&[
        ("main.py", story::REMEMBERS),
        ("Procfile", "web: exec python3 main.py\n"),
    ])?;
    let url = story::url(&machine.deploy(source.path(), "app")?)?;
    let drawn = machine.visit(&url, "/")?.text();

    let filler = machine.data().join("filler");
    let mut file = File::create(&filler)?;
    let block = vec![b'x'; 4096];
    let full = loop {
        if let Err(error) = file.write_all(&block) {
            break error;
        }
    };
    ensure!(full.kind() == io::ErrorKind::StorageFull, "{full}");

    folder::write(source.path(), "large.txt", &"a line of text\n".repeat(40_000))?;
    let report = machine.deploy_fails(source.path(), "app")?;
    ensure!(report["cause"]["code"] == "disk_full", "{report}");
    wait_for("a write is refused with words", story::MOMENT, || {
        // There may be room left in what the store has taken already.
        let name = format!("app-{}", std::process::id());
        let body = json!({"name": name, "project": "default", "environment": "production"});
        let answer = machine.api("POST", "/v1/orgs/default/apps", Some(&body))?;
        if answer.status < 300 {
            let made: serde_json::Value = serde_json::from_str(&answer.text())?;
            let id = made["id"].as_str().context("id")?;
            machine.api("DELETE", &format!("/v1/orgs/default/apps/{id}"), None)?;
            return Ok(false);
        }
        let (_, code, text) = refusal(&answer)?;
        ensure!(code == "disk_full", "{text}");
        Ok(true)
    })?;
    ensure!(machine.visit(&url, "/")?.text() == drawn, "what runs goes on");
    let app = App::find(&machine, "app")?;
    ensure!(app.list("instances")?.len() == 1, "what is there can be read");

    drop(file);
    std::fs::remove_file(&filler)?;
    ensure!(machine.visit(&url, "/")?.text() == drawn, "nobody was restarted");
    machine.deploy(source.path(), "app")?;
    app.wait_answer("/", "")?;
    ensure!(machine.visit(&url, "/")?.text() != drawn, "the deployment went through");
    Ok(())
}
