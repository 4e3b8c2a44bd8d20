//! What a node had begun when it was lost: builds begin again elsewhere, runs do not.

use std::fs::File;
use std::process::{Child, Output, Stdio};

use anyhow::{Context, Result, ensure};
use insula_e2e::fleet::watch::lives_on;
use insula_e2e::fleet::{Fleet, Shape};
use insula_e2e::folder;
use insula_e2e::machine::wait_for;
use insula_e2e::story::{self, MOMENT};
use rustix::fs::{FlockOperation, flock};
use serde_json::Value;

use super::{app, can_lay_ground};

/// A file that every sandbox sees, because it sees the host's `/usr`. Whoever in it asks for its
/// lock waits for as long as the test holds it.
const GATE: &str = "/usr/bin/env";
/// As a shell line: waits at the gate.
const PASS_THE_GATE: &str = "flock /usr/bin/env true";

/// Closed until it is dropped.
fn close_the_gate() -> Result<File> {
    let gate = File::open(GATE)?;
    flock(&gate, FlockOperation::LockExclusive).with_context(|| format!("lock {GATE}"))?;
    Ok(gate)
}

/// A command line that goes on while the fleet is hurt.
fn begin(fleet: &Fleet, args: &[&str]) -> Result<Child> {
    let mut command = fleet.servers[0].command();
    command.args(args).env("HOME", fleet.folder()).stdin(Stdio::null());
    Ok(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}

fn said(output: &Output) -> String {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    format!("{}\n{}", output.status, String::from_utf8_lossy(&text))
}

/// Two nodes and a gateway, and nothing new on the second.
fn with_one_node_to_lose() -> Result<Fleet> {
    let fleet = Fleet::start(Shape { servers: 1, nodes: 2, gateways: 1 })?;
    fleet.ok(&["nodes", "cordon", "n1"])?;
    Ok(fleet)
}

#[test]
fn a_build_on_a_node_that_is_lost_begins_again_on_another() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let mut fleet = with_one_node_to_lose()?;
    let package = format!("{{\"scripts\": {{\"build\": \"{PASS_THE_GATE}\"}}}}");
    let toml = "[components.web]\nkind = \"service\"\nbuild = { runtime = \"node\" }\n\
                run = \"exec python3 main.py\"\nmemory = \"64MiB\"\n";
    let source = folder::with(&[
        ("package.json", &package),
        ("main.py", story::REMEMBERS),
        ("insula.toml", toml),
    ])?;
    let gate = close_the_gate()?;
    let path = source.path().to_str().context("path")?;
    let deploying = begin(&fleet, &["deploy", path, "--app", "app", "--json"])?;
    wait_for("it is built on n0", MOMENT, || Ok(!lives_on(&fleet.nodes[0]).is_empty()))?;
    fleet.ok(&["nodes", "uncordon", "n1"])?;

    fleet.cut_power(0)?;
    wait_for("it is built on n1", MOMENT, || Ok(!lives_on(&fleet.nodes[1]).is_empty()))
        .with_context(|| fleet.ok(&["why", "app"]).unwrap_or_default())?;
    drop(gate);
    let deployed = deploying.wait_with_output()?;
    ensure!(deployed.status.success(), "{}", said(&deployed));
    let deployed: Value = serde_json::from_slice(&deployed.stdout)?;
    ensure!(deployed["state"] == "live", "{deployed}");
    let url = story::url(&deployed)?;
    ensure!(fleet.visit(0, &url, "/")?.status == 200);

    // Who lost it does not go on with it.
    fleet.ground.heal()?;
    fleet.nodes[0].start()?;
    fleet.wait_state("n0", "ready", MOMENT)?;
    fleet.wait_settled("app", 1, MOMENT)?;
    wait_for("nothing is left but what runs", MOMENT, || Ok(fleet.lives().len() == 1))?;
    let states = fleet.json(&["deployments", "--app", "app"])?.to_string();
    ensure!(states.matches("\"live\"").count() == 1, "{states}");
    fleet.finish()
}

/// The only run that is listed and is not over.
fn run_of(fleet: &Fleet) -> Result<Option<Value>> {
    let listed = fleet.json(&["runs", "--app", "app"])?;
    let items = listed.get("items").unwrap_or(&listed).as_array().context("a list of runs")?;
    Ok(items.iter().find(|run| run["done"] == false).cloned())
}

#[test]
fn a_run_on_a_node_that_is_lost_counts_as_running_until_it_is_back_or_removed() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let mut fleet = with_one_node_to_lose()?;
    fleet.deploy(app(1)?.path(), "app")?;
    let command = format!("{PASS_THE_GATE}; echo passed; exit 7");
    let start = |fleet: &Fleet| -> Result<(Child, Value)> {
        let running = begin(fleet, &["run", "--app", "app", "--", "sh", "-c", &command])?;
        wait_for("it runs on n0", MOMENT, || Ok(lives_on(&fleet.nodes[0]).len() == 2))?;
        let run = run_of(fleet)?.context("a run")?;
        Ok((running, run))
    };
    let gate = close_the_gate()?;
    let (running, run) = start(&fleet)?;
    fleet.ok(&["nodes", "uncordon", "n1"])?;

    fleet.ground.cut_off("n0")?;
    fleet.wait_state("n0", "lost", MOMENT)?;
    // The service is replaced; the run is not.
    wait_for("the service is on n1", MOMENT, || Ok(lives_on(&fleet.nodes[1]).len() == 1))?;
    let (id, instance) = (
        run["id"].as_str().context("id")?.to_owned(),
        run["instance"].as_str().context("instance")?.to_owned(),
    );
    let why = fleet.ok(&["why", &instance])?;
    ensure!(why.contains("a run must not happen twice"), "{why}");
    let told = fleet.ok(&["why", &id])?;
    ensure!(told.contains("n0") && told.contains("must not run twice"), "{told}");
    let still = run_of(&fleet)?.context("it counts as running")?;
    ensure!(still["id"] == run["id"] && still["instance"] == run["instance"], "{still}");

    // It ended while nobody heard it, and its node tells so when it is back.
    drop(gate);
    wait_for("it has ended", MOMENT, || Ok(lives_on(&fleet.nodes[0]).len() == 1))?;
    fleet.ground.heal()?;
    let output = running.wait_with_output()?;
    ensure!(output.status.code() == Some(7), "{}", said(&output));
    ensure!(String::from_utf8_lossy(&output.stdout).contains("passed"), "{}", said(&output));
    fleet.wait_state("n0", "ready", MOMENT)?;
    fleet.wait_settled("app", 1, MOMENT)?;

    // One whose node never comes back ends when the operator says so.
    fleet.ok(&["nodes", "cordon", "n1"])?;
    let gate = close_the_gate()?;
    let (mut running, run) = {
        let running = begin(&fleet, &["run", "--app", "app", "--", "sh", "-c", &command])?;
        wait_for("a second run", MOMENT, || Ok(run_of(&fleet)?.is_some()))?;
        let ours = |run: &Value| run["instance"].as_str().map(str::to_owned);
        wait_for("it runs on n0", MOMENT, || {
            let instance = run_of(&fleet)?.as_ref().and_then(ours);
            let lives = lives_on(&fleet.nodes[0]);
            Ok(instance.is_some_and(|id| lives.iter().any(|life| life.sandbox.contains(&id))))
        })?;
        (running, run_of(&fleet)?.context("a run")?)
    };
    fleet.cut_power(0)?;
    fleet.wait_state("n0", "lost", MOMENT)?;
    let still = run_of(&fleet)?.context("it counts as running")?;
    ensure!(still["id"] == run["id"] && running.try_wait()?.is_none(), "{still}");
    fleet.ok(&["nodes", "remove", "n0", "--yes"])?;
    let output = running.wait_with_output()?;
    ensure!(output.status.code() == Some(125), "{}", said(&output));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(error.contains("gone without a trace"), "{error}");
    drop(gate);
    let id = run["id"].as_str().context("id")?;
    let ended = fleet.json(&["runs", id])?;
    ensure!(ended["done"] == true && ended["exit"]["kind"] == "lost", "{ended}");
    fleet.finish()
}
