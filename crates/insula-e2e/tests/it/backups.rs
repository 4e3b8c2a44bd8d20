//! A backup is whole wherever the state is, and never of what was left behind.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use insula_e2e::app::{App, good};
use insula_e2e::fleet::database::Database;
use insula_e2e::machine::{Machine, wait_for};
use insula_e2e::soak_fleet::s3::{self, S3};
use insula_e2e::story::MOMENT;
use insula_e2e::{explorer, folder};
use serde_json::{Value, json};

use crate::fleet::can_share_a_database;

fn deploy(machine: &Machine, app: &str) -> Result<()> {
    let site = folder::with(&[("index.html", app)])?;
    machine.deploy(site.path(), app)?;
    Ok(())
}

/// The URL is where no list of processes shows it.
fn migrate(machine: &mut Machine, to: &str, blobs: &[&str]) -> Result<()> {
    machine.environment.push(("INSULA_MIGRATE_TO".into(), to.into()));
    machine.ok(&[&["migrate"], blobs].concat())?;
    machine.environment.retain(|(name, _)| name != "INSULA_MIGRATE_TO");
    wait_for("the server answers from there", MOMENT, || {
        Ok(machine.cli(&["status"])?.status.success())
    })
}

fn backup(machine: &Machine, file: &Path) -> Result<Value> {
    machine.json(&["backup", "create", file.to_str().context("path")?])
}

/// An installation of its own, with the key of the other one.
fn restored(machine: &Machine, file: &Path) -> Result<Machine> {
    let other = Machine::prepare()?;
    let told = other.json(&["backup", "restore", file.to_str().context("path")?])?;
    ensure!(told["blobs"].as_u64() > Some(0), "{told}");
    std::fs::copy(machine.data().join("master.key"), other.data().join("master.key"))?;
    Ok(other)
}

fn ensure_serves(mut restored: Machine, sites: &[&str]) -> Result<()> {
    restored.up()?;
    for site in sites {
        App::find(&restored, site)?.wait_answer("/", site)?;
    }
    App::find(&restored, "app")?.wait_answer("/env", "of-old")
}

#[test]
fn a_backup_is_whole_wherever_the_state_is() -> Result<()> {
    if !can_share_a_database() {
        return Ok(());
    }
    // Lent to the database's user, so not the machine's own.
    let folder = tempfile::Builder::new().prefix("insula-backup").tempdir()?;
    let database = Database::start_here(folder.path())?;
    let s3 = S3::start(&folder.path().join("s3"))?;
    let mut machine = Machine::start()?;
    let source = explorer::folder()?;
    machine.deploy(source.path(), "app")?;
    let app = App::find(&machine, "app")?;
    let set = app.ask("PUT", "secrets/KEY", Some(&json!({"value": "of-old"})))?;
    for deployment in good(&set)?["deployments"].as_array().context("deployments")? {
        ensure!(app.verdict(deployment)?["state"] == "live");
    }

    let blobs = folder.path().join("blobs").display().to_string();
    migrate(&mut machine, &database.url(), &["--blobs", &blobs])?;
    deploy(&machine, "in-a-folder")?;
    let first = folder.path().join("first.tar");
    let told = backup(&machine, &first)?;
    ensure!(told["database"] == database.url() && told["blobs_of"] == blobs, "{told}");

    machine.environment.push(("INSULA_S3_ACCESS_KEY".into(), s3::ACCESS_KEY.into()));
    machine.environment.push(("INSULA_S3_SECRET_KEY".into(), s3::SECRET_KEY.into()));
    let bucket = ["--s3-bucket", s3::BUCKET, "--s3-endpoint", &s3.endpoint];
    migrate(&mut machine, &database.url(), &bucket)?;
    deploy(&machine, "in-a-bucket")?;
    // What was left behind is not what is packed.
    std::fs::remove_dir_all(&blobs)?;
    let second = folder.path().join("second.tar");
    let more = backup(&machine, &second)?;
    ensure!(more["blobs"].as_u64() > told["blobs"].as_u64(), "{more} after {told}");
    let none = folder.path().join("none.tar");
    let path = none.to_str().context("path")?;
    let without = machine.cli(&["backup", "create", path, "--no-blobs"])?;
    let said = String::from_utf8_lossy(&without.stderr).into_owned();
    ensure!(without.status.success() && said.contains(&s3.endpoint), "{said}");

    // Nobody may need where they come from.
    drop(database);
    s3.stop();
    ensure_serves(restored(&machine, &first)?, &["in-a-folder"])?;
    ensure_serves(restored(&machine, &second)?, &["in-a-folder", "in-a-bucket"])
}

/// A server that is told by its command line leaves an old file behind that looks like the state.
#[test]
fn a_chore_is_refused_where_the_server_has_its_state_elsewhere() -> Result<()> {
    if !can_share_a_database() {
        return Ok(());
    }
    let folder = tempfile::Builder::new().prefix("insula-backup").tempdir()?;
    let database = Database::start_here(folder.path())?;
    let mut machine = Machine::start()?;
    deploy(&machine, "of-before")?;
    machine.end(rustix::process::Signal::TERM)?;
    ensure!(machine.down()?.status.success());
    let key = std::fs::read(machine.data().join("master.key"))?;
    let told = ("INSULA_DATABASE".to_owned(), database.url());
    machine.environment.push(told.clone());
    machine.up()?;
    deploy(&machine, "of-today")?;
    machine.end(rustix::process::Signal::TERM)?;
    machine.environment.clear();

    let file = folder.path().join("backup.tar");
    let path = file.to_str().context("path")?;
    for chore in
        [&["backup", "create", path][..], &["master-key", "rotate"], &["migrate", "--to", "sqlite"]]
    {
        let refused = machine.cli(chore)?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(refused.status.code() == Some(1), "{chore:?}: {said}");
        ensure!(said.contains(&database.url()), "{chore:?}: {said}");
    }
    ensure!(std::fs::read(machine.data().join("master.key"))? == key, "the key was replaced");
    ensure!(!file.exists());
    machine.environment.push(told);
    let packed = backup(&machine, &file)?;
    ensure!(packed["database"] == database.url(), "{packed}");
    drop(database);
    machine.environment.clear();
    let mut other = restored(&machine, &file)?;
    other.up()?;
    App::find(&other, "of-today")?.wait_answer("/", "of-today")?;
    ensure!(App::find(&other, "of-before").is_err(), "it is the old state");
    Ok(())
}
