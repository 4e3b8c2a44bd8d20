//! Components that find each other across nodes, and nobody else who does.

use anyhow::{Context, Result, ensure};
use insula_e2e::explorer::{self, Tried};
use insula_e2e::fleet::{Fleet, Shape};
use insula_e2e::machine::wait_for;
use insula_e2e::story::{self, MOMENT};
use insula_e2e::{app, folder};
use serde_json::json;
use tempfile::TempDir;

use super::can_lay_ground;

/// An explorer on one side of the fleet; a second component on the other side, if asked for.
pub fn explorer_on(side: &str, other: Option<&str>) -> Result<TempDir> {
    let source = explorer::folder()?;
    let component = |name: &str, side: &str, routes: &str| {
        format!(
            "[components.{name}]\nkind = \"service\"\nrun = \"exec python3 main.py\"\n\
             memory = \"64MiB\"\nplacement = {{ labels = {{ side = \"{side}\" }} }}\n{routes}"
        )
    };
    let mut toml = component("web", side, "");
    if let Some(other) = other {
        toml += &component("api", other, "routes = []\n");
    }
    folder::write(source.path(), "insula.toml", &toml)?;
    Ok(source)
}

/// Has the explorer behind that address try something.
fn attempt(fleet: &Fleet, url: &str, what: &str, argument: &str) -> Result<Tried> {
    let answer = fleet.visit(0, url, &format!("/{what}?{argument}"))?;
    explorer::read(&answer).with_context(|| format!("{what} {argument}"))
}

pub fn fetched(fleet: &Fleet, url: &str, from: &str) -> Result<String> {
    match attempt(fleet, url, "fetch", from)? {
        Tried::Done(text) => Ok(text),
        Tried::Failed(why) => anyhow::bail!("fetch {from}: {why}"),
    }
}

/// Two sides: the first node, and two that can stand in for each other.
fn two_sides() -> Result<Fleet> {
    let mut fleet = Fleet::start(Shape { servers: 1, nodes: 0, gateways: 1 })?;
    for side in ["side=a", "side=b", "side=b"] {
        fleet.add_node(&["--label", side])?;
    }
    fleet.wait_until_ready(3)?;
    Ok(fleet)
}

#[test]
fn an_environment_finds_its_own_on_any_node_and_no_other_does() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let mut fleet = two_sides()?;
    let source = explorer_on("a", Some("b"))?;
    let path = source.path().to_str().context("path")?;
    let shop = story::url(&fleet.deploy(source.path(), "shop")?)?;
    let friend = explorer_on("a", None)?;
    let friend_url = story::url(&fleet.deploy(friend.path(), "friend")?)?;
    for (org, environment) in [("default", "staging"), ("acme", "production")] {
        if org != "default" {
            app::good(&fleet.api("POST", "/v1/orgs", Some(&json!({"name": org})))?)?;
        }
        // Each is there already if an org comes with it.
        let projects = format!("/v1/orgs/{org}/projects");
        fleet.api("POST", &projects, Some(&json!({"name": "default"})))?;
        let all = format!("{projects}/default/environments");
        fleet.api("POST", &all, Some(&json!({"name": environment})))?;
    }
    let lone = explorer_on("a", None)?;
    let path_of_lone = lone.path().to_str().context("path")?;
    let staged = fleet.json(&["deploy", path_of_lone, "--app", "stage", "--env", "staging"])?;
    let rival = fleet.json(&["deploy", path_of_lone, "--app", "rival", "--org", "acme"])?;
    let strangers = [story::url(&staged)?, story::url(&rival)?];

    // Component to component of one app, and from the app beside it.
    wait_for("web finds api", MOMENT, || {
        Ok(!attempt(&fleet, &shop, "fetch", "http://api:8080/")?.failed())
    })?;
    ensure!(
        fetched(&fleet, &shop, "http://api:8080/env")?.contains("\"INSULA_COMPONENT\": \"api\"")
    );
    let Tried::Done(shown_at) = attempt(&fleet, &shop, "name", "api")? else {
        anyhow::bail!("api has no address")
    };
    ensure!(!attempt(&fleet, &shop, "tcp", &format!("{shown_at}:8080"))?.failed(), "{shown_at}");
    let whole = fleet.instances("shop")?;
    let nodes: Vec<&str> = whole.iter().map(|one| one.node.as_str()).collect();
    ensure!(nodes.contains(&"n0") && nodes.iter().any(|node| *node != "n0"), "{whole:?}");
    ensure!(
        !attempt(&fleet, &friend_url, "fetch", "http://shop:8080/")?.failed(),
        "an app by name"
    );

    // Nobody else: not by name, not at the address where the node shows it, not by any way around.
    let relays = fleet.nodes.iter().map(|node| node.place.at(7444).to_string());
    let ways_around: Vec<String> = relays
        .chain([fleet.servers[0].place.at(7443).to_string(), format!("{shown_at}:8080")])
        .collect();
    for stranger in &strangers {
        for name in ["http://api:8080/", "http://shop:8080/", "http://api.shop:8080/"] {
            let tried = attempt(&fleet, stranger, "fetch", name)?;
            ensure!(tried.failed(), "{stranger} reached {name}: {tried:?}");
        }
        for way in &ways_around {
            let tried = attempt(&fleet, stranger, "tcp", way)?;
            ensure!(tried.failed(), "{stranger} reached {way}: {tried:?}");
        }
    }
    // An app of the environment has no more business with relays and servers than others have.
    for way in ways_around.iter().filter(|way| !way.starts_with(&shown_at)) {
        ensure!(attempt(&fleet, &shop, "tcp", way)?.failed(), "web reached {way}");
    }

    // The other side moves to another node, and the name with it.
    let before = whole.iter().find(|one| one.node != "n0").context("the other side")?.clone();
    fleet.ok(&["nodes", "drain", &before.node, "--yes"])?;
    let after = fleet.instances("shop")?;
    ensure!(after.iter().all(|one| one.id != before.id && one.node != before.node), "{after:?}");
    ensure!(!attempt(&fleet, &shop, "fetch", "http://api:8080/")?.failed(), "after the drain");
    // Or it is replaced by a release.
    folder::write(source.path(), "version.txt", "2")?;
    fleet.json(&["deploy", path, "--app", "shop"])?;
    ensure!(!attempt(&fleet, &shop, "fetch", "http://api:8080/")?.failed(), "after the deployment");
    fleet.nodes[0].stop()?;
    fleet.nodes[0].start()?;
    fleet.wait_state("n0", "ready", MOMENT)?;
    wait_for("the name is there after the agent has begun again", MOMENT, || {
        Ok(!attempt(&fleet, &shop, "fetch", "http://api:8080/")?.failed())
    })
}
