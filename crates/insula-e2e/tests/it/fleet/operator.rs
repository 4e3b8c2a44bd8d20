//! What the operator does with nodes.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use insula_e2e::fleet::process::Role;
use insula_e2e::fleet::watch::Told;
use insula_e2e::fleet::{Fleet, Shape};
use insula_e2e::machine::wait_for;
use insula_e2e::story::{self, MOMENT};
use insula_e2e::{app, folder};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{REMEMBERS, can_lay_ground};

/// Visitors a second while something moves.
const RATE: u32 = 50;

/// A service of so many instances, and more of its keys.
fn service(instances: usize, more: &str) -> Result<TempDir> {
    let toml = format!(
        "[components.web]\nkind = \"service\"\nrun = \"exec python3 main.py\"\n\
         instances = {instances}\nmemory = \"64MiB\"\n{more}\n"
    );
    folder::with(&[("main.py", REMEMBERS), ("insula.toml", &toml)])
}

fn nodes_of(fleet: &Fleet, app: &str) -> Result<Vec<String>> {
    let mut nodes: Vec<String> = fleet.instances(app)?.into_iter().map(|one| one.node).collect();
    nodes.sort();
    Ok(nodes)
}

/// What a deployment that must fail says.
fn fails(fleet: &Fleet, source: &TempDir, app: &str) -> Result<String> {
    let path = source.path().to_str().context("path")?;
    let output = fleet.cli_at(0, &["deploy", path, "--app", app, "--json"])?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(!output.status.success(), "it became live: {said}");
    Ok(said)
}

#[test]
fn instances_go_where_the_spec_and_the_sites_say() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let mut fleet = Fleet::start(Shape { servers: 1, nodes: 0, gateways: 0 })?;
    fleet.add_node(&["--zone", "north"])?;
    fleet.add_node(&["--zone", "north"])?;
    fleet.add_node(&["--zone", "south", "--label", "disk=ssd"])?;
    fleet.add_node(&["--pool", "gpu", "--zone", "south"])?;
    fleet.wait_until_ready(4)?;

    // Two go to two zones, although one of them has two nodes; the pool is kept for who asks.
    fleet.deploy(service(2, "")?.path(), "spread")?;
    let spread = nodes_of(&fleet, "spread")?;
    ensure!(spread.len() == 2 && spread[1] == "n2" && spread[0] != "n3", "{spread:?}");
    for (app, placement, wanted) in [
        ("pooled", "pool = \"gpu\"", &["n3"][..]),
        ("labelled", "labels = { disk = \"ssd\" }", &["n2"]),
        ("zoned", "zones = [\"south\", \"west\"]", &["n2"]),
    ] {
        let source = service(1, &format!("placement = {{ {placement} }}"))?;
        fleet.deploy(source.path(), app)?;
        let nodes = nodes_of(&fleet, app)?;
        ensure!(nodes == wanted, "{app}: {nodes:?}");
        let why = fleet.ok(&["why", app])?;
        ensure!(!why.trim().is_empty(), "no word about {app}");
    }
    let other = if cfg!(target_arch = "x86_64") { "aarch64" } else { "x86_64" };
    let source = service(1, &format!("placement = {{ architecture = \"{other}\" }}"))?;
    let said = fails(&fleet, &source, "foreign")?;
    ensure!(said.contains("no_capacity") && said.contains("n0"), "{said}");

    // The operator changes her mind, and says so node by node.
    let changed = fleet.json(&["nodes", "site", "n0", "--zone", "west", "--label", "disk=hdd"])?;
    ensure!(changed["zone"] == "west" && changed["labels"]["disk"] == "hdd", "{changed}");
    let shown = fleet.json(&["nodes", "show", "n0"])?;
    for field in [
        "id",
        "name",
        "state",
        "notes",
        "connected",
        "zone",
        "labels",
        "architecture",
        "isolation",
        "relay",
        "mode",
        "capacity",
        "reserved",
        "runtimes",
        "agent_version",
        "joined",
        "hello",
    ] {
        ensure!(!shown[field].is_null(), "no {field} in {shown}");
    }
    fleet.deploy(service(1, "placement = { zones = [\"west\"] }")?.path(), "moved")?;
    ensure!(nodes_of(&fleet, "moved")? == ["n0"]);
    fleet.ok(&["nodes", "cordon", "n0"])?;
    let said = fails(&fleet, &service(1, "placement = { zones = [\"west\"] }")?, "late")?;
    ensure!(said.contains("n0") && said.contains("cordoned"), "{said}");
    let why = fleet.ok(&["nodes", "why", "n0"])?;
    ensure!(why.contains("cordon"), "{why}");
    ensure!(nodes_of(&fleet, "moved")? == ["n0"], "a cordon moves nothing");
    fleet.ok(&["nodes", "uncordon", "n0"])?;
    fleet.wait_state("n0", "ready", MOMENT)?;

    let status = fleet.json(&["status"])?;
    let reconcilers = status["installation"]["reconcilers"].as_array().context("reconcilers")?;
    let names: Vec<_> = reconcilers.iter().filter_map(|one| one["name"].as_str()).collect();
    let all = "nodes deployments targets routes identities housekeeping safety clocks";
    ensure!(names.join(" ") == all, "{status}");
    ensure!(reconcilers.iter().any(|one| one["passes"].as_u64() > Some(0)), "{status}");
    ensure!(reconcilers.iter().all(|one| one["error"].is_null()), "{status}");
    Ok(())
}

#[test]
fn a_drain_says_what_moves_and_loses_no_request() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let mut fleet = Fleet::start(Shape { servers: 1, nodes: 0, gateways: 1 })?;
    fleet.add_node(&["--label", "home=yes"])?;
    fleet.wait_until_ready(1)?;
    let url = story::url(&fleet.deploy(service(2, "")?.path(), "web")?)?;
    let single = "[components.clock]\nkind = \"worker\"\nsingle = true\nmemory = \"32MiB\"\n\
                  run = \"exec sleep infinity\"\n";
    fleet.deploy(folder::with(&[("insula.toml", single), ("a.txt", "a")])?.path(), "clock")?;
    let pinned = service(1, "placement = { labels = { home = \"yes\" } }")?;
    fleet.deploy(pinned.path(), "pinned")?;
    fleet.add_node(&[])?;
    fleet.wait_until_ready(2)?;

    let preview = fleet.json(&["nodes", "drain", "n0", "--dry-run"])?;
    let named = |list: &str| -> Vec<String> {
        let all = preview[list].as_array().into_iter().flatten();
        all.filter_map(|one| one["what"].as_str().map(str::to_owned)).collect()
    };
    ensure!(named("moves").len() == 2 && named("moves")[0].contains("web"), "{preview}");
    ensure!(named("singles").len() == 1 && named("singles")[0].contains("clock"), "{preview}");
    ensure!(named("stays").len() == 1 && named("stays")[0].contains("pinned"), "{preview}");
    let why = preview["stays"][0]["why"].as_str().unwrap_or_default();
    ensure!(why.contains("n1"), "{preview}");
    ensure!(fleet.node_states()?.iter().all(|(_, state)| state == "ready"), "it changed something");

    let load = fleet.load(0, &url, RATE)?;
    let moving = AtomicBool::new(true);
    let most = std::thread::scope(|scope| -> Result<usize> {
        let singles = scope.spawn(|| -> Result<usize> {
            let mut most = 0;
            while moving.load(Ordering::Relaxed) {
                let all = fleet.instances("clock")?;
                most = most.max(all.iter().filter(|one| one.serves()).count());
            }
            Ok(most)
        });
        let moved = move_all(&fleet);
        moving.store(false, Ordering::Relaxed);
        let most = singles.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        moved.map(|()| most)
    })?;
    ensure!(most == 1, "{most} of a single at once");
    let seen = load.finish();
    ensure!(
        seen.failed.is_empty(),
        "{} of {} failed: {:?}",
        seen.failed.len(),
        seen.good,
        seen.failed
    );
    // What has no place stays, works, and says why.
    ensure!(nodes_of(&fleet, "pinned")? == ["n0"]);
    let (_, state) =
        fleet.node_states()?.into_iter().find(|(name, _)| name == "n0").context("n0")?;
    ensure!(state == "draining", "{state}");
    let why = fleet.ok(&["nodes", "why", "n0"])?;
    ensure!(why.contains("pinned"), "{why}");
    // The operator gives it a place.
    fleet.ok(&["nodes", "site", "n1", "--label", "home=yes"])?;
    fleet.wait_state("n0", "drained", MOMENT)?;
    ensure!(nodes_of(&fleet, "pinned")? == ["n1"]);
    fleet.ok(&["nodes", "uncordon", "n0"])?;
    fleet.wait_state("n0", "ready", MOMENT)?;
    Ok(())
}

fn move_all(fleet: &Fleet) -> Result<()> {
    fleet.ok(&["nodes", "drain", "n0", "--yes", "--detach"])?;
    for (app, count) in [("web", 2), ("clock", 1)] {
        fleet.wait_settled(app, count, MOMENT)?;
        wait_for(&format!("{app} has moved"), MOMENT, || {
            let all = fleet.instances(app)?;
            Ok(all.len() == count && all.iter().all(|one| one.node == "n1" && one.serves()))
        })?;
    }
    Ok(())
}

#[test]
fn a_rolling_release_keeps_to_its_surge() -> Result<()> {
    const ASKED: usize = 3;
    const SURGE: usize = 1;
    if !can_lay_ground() {
        return Ok(());
    }
    let fleet = Fleet::start(Shape { servers: 1, nodes: 2, gateways: 1 })?;
    let rolling = "rollout = { strategy = \"rolling\", surge = 1, unavailable = 0 }";
    let source = service(ASKED, rolling)?;
    let url = story::url(&fleet.deploy(source.path(), "web")?)?;
    let before: Vec<String> = fleet.instances("web")?.into_iter().map(|one| one.id).collect();
    let load = fleet.load(0, &url, RATE)?;
    let rolls = AtomicBool::new(true);
    let seen = std::thread::scope(|scope| -> Result<Vec<Vec<Told>>> {
        let watch = scope.spawn(|| -> Result<Vec<Vec<Told>>> {
            let mut seen = Vec::new();
            while rolls.load(Ordering::Relaxed) {
                seen.push(fleet.instances("web")?);
            }
            Ok(seen)
        });
        folder::write(source.path(), "version.txt", "2")?;
        let deployed = fleet.deploy(source.path(), "web");
        rolls.store(false, Ordering::Relaxed);
        let seen = watch.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        deployed.map(|_| seen)
    })?;
    let served = load.finish();
    ensure!(served.failed.is_empty(), "{:?} beside {}", served.failed, served.good);
    for all in &seen {
        let run = all.iter().filter(|one| one.intent == "run").count();
        ensure!(run <= ASKED + SURGE, "{run} are meant to run: {all:?}");
        let serve = all.iter().filter(|one| one.state == "ready" && one.intent != "stop").count();
        ensure!(serve >= ASKED, "{serve} serve: {all:?}");
    }
    // It was watched while it went on: old and new side by side.
    let mixed = |all: &&Vec<Told>| {
        let old = all.iter().filter(|one| one.serves() && before.contains(&one.id)).count();
        let new = all.iter().filter(|one| one.serves() && !before.contains(&one.id)).count();
        old > 0 && new > 0
    };
    ensure!(seen.iter().filter(mixed).count() > 0, "they never took turns: {seen:?}");
    fleet.wait_settled("web", ASKED, MOMENT)?;
    ensure!(
        fleet.instances("web")?.iter().all(|one| !before.contains(&one.id)),
        "an old one stays"
    );
    Ok(())
}

#[test]
fn a_developer_has_no_say_over_the_fleet() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let fleet = Fleet::start(Shape { servers: 1, nodes: 1, gateways: 1 })?;
    let asked = json!({"name": "dev", "role": "owner"});
    let made = app::good(&fleet.api("POST", "/v1/orgs/default/tokens", Some(&asked))?)?;
    let token = made["secret"].as_str().context("secret")?;
    for command in [
        &["nodes", "list"][..],
        &["nodes", "token"],
        &["nodes", "show", "n0"],
        &["nodes", "site", "n0", "--zone", "x"],
        &["nodes", "cordon", "n0"],
        &["nodes", "drain", "n0", "--yes"],
        &["nodes", "remove", "n0", "--yes"],
        &["gateways", "list"],
    ] {
        let output = fleet.cli_at(0, &[command, &["--token", token]].concat())?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(5), "{command:?}: {} {said}", output.status);
        ensure!(said.contains("forbidden"), "{command:?}: {said}");
    }
    // Without the command line's own look first.
    let nodes = fleet.json(&["nodes", "list"])?;
    let id = nodes[0]["id"].as_str().context("id")?;
    let gateways = fleet.json(&["gateways", "list"])?;
    let gateway = gateways[0]["id"].as_str().context("id")?;
    for (method, path) in [
        ("GET", format!("/v1/nodes/{id}")),
        ("PATCH", format!("/v1/nodes/{id}")),
        ("DELETE", format!("/v1/nodes/{id}")),
        ("POST", format!("/v1/nodes/{id}/cordon")),
        ("POST", format!("/v1/nodes/{id}/uncordon")),
        ("POST", format!("/v1/nodes/{id}/drain")),
        ("GET", format!("/v1/nodes/{id}/drain")),
        ("GET", format!("/v1/nodes/{id}/why")),
        ("GET", "/v1/joins".to_owned()),
        ("POST", "/v1/joins".to_owned()),
        ("DELETE", format!("/v1/gateways/{gateway}")),
        ("GET", "/v1/status".to_owned()),
    ] {
        let body = (method != "GET").then(|| json!({}));
        let answer = fleet.api_as(token, method, &path, body.as_ref())?;
        ensure!(answer.status == 403, "{method} {path}: {} {}", answer.status, answer.text());
    }
    let status: Value = {
        let output = fleet.cli_at(0, &["status", "--json", "--token", token])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout)?
    };
    ensure!(status["installation"].is_null(), "{status}");
    fleet.wait_state("n0", "ready", MOMENT)?;
    Ok(())
}

/// The command that `insula nodes token` says to type, as words.
fn pasted(fleet: &Fleet, args: &[&str]) -> Result<Vec<String>> {
    let output = fleet.cli_at(0, args)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = said.lines().find(|line| line.trim_start().starts_with("insula "));
    let line = line.with_context(|| format!("no command in {said:?}"))?;
    Ok(line.split_whitespace().skip(1).map(str::to_owned).collect())
}

/// What the guide says to type, on machines of its own.
#[test]
fn the_guide_from_one_machine_to_two_holds() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let mut fleet = Fleet::prepare()?;
    let program = insula_e2e::machine::program()?;
    let place = fleet.ground.place("one")?;
    let address = place.at(7443).to_string();
    let mut up = Role::new(place, fleet.folder(), &program, &["up", "--fleet", &address]);
    up.start()?;
    fleet.servers.push(up);
    wait_for("it is up", MOMENT, || {
        let status = fleet.cli_at(0, &["nodes", "list", "--json"])?;
        Ok(String::from_utf8_lossy(&status.stdout).contains("\"ready\""))
    })
    .with_context(|| fleet.logs())?;

    // The printed line, and where its relay is.
    let mut typed = pasted(&fleet, &["nodes", "token", "--zone", "north"])?;
    ensure!(typed.contains(&address), "{typed:?}");
    let place = fleet.ground.place("two")?;
    typed.extend(["--relay".to_owned(), place.at(7444).to_string()]);
    let words: Vec<&str> = typed.iter().map(String::as_str).collect();
    let mut agent =
        Role::new(place, fleet.folder(), &program, &[&words[..], &["--name", "two"]].concat());
    agent.start()?;
    fleet.nodes.push(agent);
    fleet.wait_state("two", "ready", MOMENT)?;

    // The gateway of the first machine reaches what runs on either.
    let url = story::url(&fleet.deploy(service(2, "")?.path(), "web")?)?;
    ensure!(nodes_of(&fleet, "web")? == ["local", "two"], "{:?}", fleet.instances("web")?);
    let host = insula_e2e::machine::host_of(&url)?;
    let one = fleet.servers[0].place.clone();
    let mut answers = std::collections::BTreeSet::new();
    wait_for("both answer at the first machine", MOMENT, || {
        let answer = one.inside(|| insula_e2e::http::get("127.0.0.1:8080".parse()?, &host, "/"))?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        answers.insert(answer.text());
        Ok(answers.len() == 2)
    })?;

    // Another edge, which reaches the first machine's through its relay.
    let typed = pasted(&fleet, &["nodes", "token", "--for", "gateway"])?;
    let words: Vec<&str> = typed.iter().map(String::as_str).collect();
    let place = fleet.ground.place("edge")?;
    let listen = [&words[..], &["--listen", "0.0.0.0:80"]].concat();
    let mut edge = Role::new(place.clone(), fleet.folder(), &program, &listen);
    edge.start()?;
    fleet.gateways.push(edge);
    answers.clear();
    wait_for("both answer at the edge", MOMENT, || {
        let asked = place.inside(|| insula_e2e::http::get(place.at(80), &host, "/"));
        let Ok(answer) = asked else { return Ok(false) };
        if answer.status == 200 {
            answers.insert(answer.text());
        }
        Ok(answers.len() == 2)
    })
    .with_context(|| fleet.logs())?;

    // Verbs of the guide.
    for command in [
        &["nodes"][..],
        &["nodes", "site", "two", "--zone", "south", "--label", "disk=ssd"],
        &["nodes", "cordon", "two"],
        &["nodes", "drain", "two", "--yes"],
        &["nodes", "why", "two"],
        &["nodes", "uncordon", "two"],
        &["why", "web"],
        &["status"],
    ] {
        fleet.ok(command)?;
    }
    fleet.ok(&["nodes", "remove", "two", "--yes"])?;
    fleet.nodes[0].stop()?;
    let down =
        fleet.nodes[0].command().arg("down").arg("--data").arg(&fleet.nodes[0].data).output()?;
    ensure!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
    let down = |fleet: &mut Fleet| -> Result<()> {
        fleet.servers[0].stop()?;
        let role = &fleet.servers[0];
        let down = role.command().arg("down").arg("--data").arg(&role.data).output()?;
        ensure!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
        Ok(())
    };
    down(&mut fleet)
}
