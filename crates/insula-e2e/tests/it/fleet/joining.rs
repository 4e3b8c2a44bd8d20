//! How machines become nodes, and who does not.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use insula_e2e::app::good;
use insula_e2e::fleet::impostor::{Greeting, Identified, Impostor, identity};
use insula_e2e::fleet::process::Role;
use insula_e2e::fleet::relays::{Dialler, Goal};
use insula_e2e::fleet::{Fleet, Shape};
use insula_e2e::machine::{LOOK, wait_for};
use insula_e2e::story::{self, MOMENT};
use insula_kit::clock::SystemClock;
use insula_kit::tls::Credentials;
use insula_model::NodeId;
use insula_relay::{OpenError, Unreachable};
use serde_json::{Value, json};
use tonic::Code;

use super::{app, can_lay_ground};

/// What "at once" may take here: a word from the server to each node, on two cores that do other
/// things too. The next heartbeat, which brings nothing of the kind, would come within one second.
const AT_ONCE: Duration = Duration::from_secs(2);
/// Says at once what can never be: no patience of ours is that short, the shortest is twice as long.
const VERDICT_AT_ONCE: Duration = Duration::from_secs(5);

const ONE_OF_EACH: Shape = Shape { servers: 1, nodes: 1, gateways: 0 };

/// What the operator sees of a node.
pub fn node(fleet: &Fleet, name: &str) -> Result<Option<Value>> {
    let nodes = fleet.json(&["nodes", "list"])?;
    let nodes = nodes.as_array().context("a list of nodes")?;
    Ok(nodes.iter().find(|node| node["name"] == name).cloned())
}

fn wait_state(fleet: &Fleet, name: &str, wanted: &str) -> Result<()> {
    let mut last = None;
    wait_for(&format!("{name} is {wanted}"), MOMENT, || {
        last = node(fleet, name)?;
        Ok(last.as_ref().is_some_and(|node| node["state"] == wanted))
    })
    .with_context(|| format!("{last:?}"))
}

/// Starts somebody who must not get in, and returns what it said.
fn turned_away(mut role: Role) -> Result<String> {
    role.start()?;
    let code = role.ended_within(MOMENT)?;
    ensure!(code == Some(1), "it ended with {code:?} and said {}", role.log());
    ensure!(!role.data.join("agent/credentials.json").exists(), "it has a certificate");
    Ok(role.log())
}

#[test]
fn a_token_counts_once_for_its_role_and_until_it_ends() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let mut fleet = Fleet::start(Shape { servers: 1, nodes: 0, gateways: 0 })?;
    let token = fleet.token(&[])?;
    let mut first = fleet.node_role(0, &token)?;
    first.start()?;
    fleet.nodes.push(first);
    fleet.wait_until_ready(1)?;
    let mut number = 10;
    let mut refused = |fleet: &mut Fleet, token: &str| {
        number += 1;
        let role = fleet.node_role(number, token)?;
        turned_away(role)
    };

    let twice = refused(&mut fleet, &token)?;
    ensure!(twice.contains("the join token was used by node_"), "{twice}");
    ensure!(twice.contains("insula nodes token"), "no way out: {twice}");

    let of_gateway = fleet.token(&["--for", "gateway"])?;
    let other_role = refused(&mut fleet, &of_gateway)?;
    ensure!(other_role.contains("the join token is not for a node"), "{other_role}");

    let short = fleet.json(&["nodes", "token", "--expires", "1s"])?;
    let expires = short["join"]["expires"].as_str().context("expires")?.to_owned();
    wait_for("the token has expired", MOMENT, || Ok(story_now()? > expires))?;
    let expired = refused(&mut fleet, short["secret"].as_str().context("secret")?)?;
    ensure!(expired.contains("the join token has expired"), "{expired}");

    let revoked = fleet.json(&["nodes", "token"])?;
    let id = revoked["join"]["id"].as_str().context("id")?;
    good(&fleet.api("DELETE", &format!("/v1/joins/{id}"), None)?)?;
    let deleted = refused(&mut fleet, revoked["secret"].as_str().context("secret")?)?;
    ensure!(deleted.contains("there is no such join token"), "{deleted}");

    for nonsense in ["nonsense", "", "insj_x.y", &token[..token.len() - 4]] {
        let said = refused(&mut fleet, nonsense)?;
        ensure!(said.contains("token"), "{nonsense:?}: {said}");
        ensure!(!said.contains("panicked"), "{nonsense:?}: {said}");
    }
    ensure!(fleet.node_states()? == [("n0".to_owned(), "ready".to_owned())]);
    Ok(())
}

/// As the API writes times.
fn story_now() -> Result<String> {
    let output = Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%S.%3NZ"]).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

#[test]
fn a_token_of_another_fleet_tells_that_this_is_not_its_server() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let other = Fleet::start(Shape { servers: 1, nodes: 0, gateways: 0 })?;
    let token = other.token(&[])?;
    drop(other);
    let mut fleet = Fleet::start(Shape { servers: 1, nodes: 0, gateways: 0 })?;
    let mut role = fleet.node_role(0, &token)?;
    role.start()?;
    wait_for("it says whom it met", MOMENT, || {
        Ok(role.log().contains("not of the fleet that was named"))
    })
    .with_context(|| role.log())?;
    role.stop()?;
    ensure!(!role.data.join("agent/credentials.json").exists(), "it has a certificate");
    // The token was not shown to a server that is not the one it names.
    let secret = token.split('.').next().context("secret")?;
    ensure!(
        !role.log().contains(secret) && !fleet.servers[0].log().contains(secret),
        "the token was logged"
    );
    ensure!(fleet.node_states()?.is_empty());
    Ok(())
}

/// Files that hold what nobody else may read, and who else could.
fn open_secrets(folder: &Path) -> Result<Vec<String>> {
    let mut open = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let mode = entry.metadata()?.permissions().mode() & 0o777;
        let name = entry.file_name().to_string_lossy().into_owned();
        if matches!(name.as_str(), "credentials.json" | "joining.json" | "key") && mode != 0o600 {
            open.push(format!("{name} {mode:o}"));
        }
    }
    Ok(open)
}

#[test]
fn a_member_returns_without_a_token_and_its_key_is_its_own() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let mut fleet = Fleet::start(Shape { servers: 1, nodes: 1, gateways: 1 })?;
    for folder in [fleet.nodes[0].data.join("agent"), fleet.gateways[0].data.join("gateway")] {
        ensure!(folder.join("credentials.json").exists(), "{}", folder.display());
        let open = open_secrets(&folder)?;
        ensure!(open.is_empty(), "{}: {open:?}", folder.display());
    }
    let before = node(&fleet, "n0")?.context("n0")?;
    fleet.nodes[0].stop()?;
    fleet.gateways[0].stop()?;
    fleet.nodes[0].start()?;
    fleet.gateways[0].start()?;
    fleet.wait_until_ready(1)?;
    wait_for("it has come again", MOMENT, || {
        let after = node(&fleet, "n0")?.context("n0")?;
        Ok(after["hello"] != before["hello"] && after["id"] == before["id"])
    })?;
    // The server as well, and members that were left alone meanwhile find it again.
    fleet.servers[0].kill()?;
    fleet.servers[0].start()?;
    wait_for("the server answers", MOMENT, || Ok(fleet.cli_at(0, &["status"])?.status.success()))?;
    fleet.wait_until_ready(1)
}

/// A line of `/proc/PID/status`.
fn status_of(pid: u32, name: &str) -> Result<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(line.with_context(|| name.to_owned())?.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn ensure_has_no_privilege(gateway: &Role) -> Result<()> {
    let pid = gateway.pid().context("pid")?;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = task?.file_name().to_string_lossy().parse()?;
        for (name, wanted) in [
            ("Uid", "61870 61870 61870 61870"),
            ("Gid", "61870 61870 61870 61870"),
            ("Groups", ""),
            ("CapPrm", "0000000000000000"),
            ("CapEff", "0000000000000000"),
            ("CapAmb", "0000000000000000"),
            ("NoNewPrivs", "1"),
        ] {
            let found = status_of(thread, name)?;
            ensure!(found == wanted, "{name} is {found}");
        }
    }
    let folder = gateway.data.join("gateway");
    for entry in fs::read_dir(&folder)? {
        let entry = entry?;
        ensure!(entry.metadata()?.uid() == 61_870, "{:?}", entry.path());
    }
    Ok(())
}

#[test]
fn a_gateway_of_root_gives_root_up_and_returns_without_being_told_anything() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let mut fleet = Fleet::start(Shape { servers: 1, nodes: 0, gateways: 1 })?;
    ensure_has_no_privilege(&fleet.gateways[0])?;
    let data = fleet.gateways[0].data.clone();
    let id = identity_of(&data.join("gateway"))?;
    // A folder of root, as a build of before left it, and one of the user, as `up` leaves it.
    for owner in [0, 61_870] {
        fleet.gateways[0].stop()?;
        for entry in fs::read_dir(data.join("gateway"))? {
            chown(entry?.path(), Some(owner), Some(owner))?;
        }
        chown(data.join("gateway"), Some(owner), Some(owner))?;
        // It knows the servers that it joined.
        fleet.gateways[0].forget_argument("--server");
        fleet.gateways[0].start()?;
        wait_for("the gateway is there", MOMENT, || {
            let listed = fleet.json(&["gateways", "list"])?;
            Ok(listed.as_array().is_some_and(|all| all.iter().any(|it| it["connected"] == true)))
        })
        .with_context(|| fleet.gateways[0].log())?;
        ensure_has_no_privilege(&fleet.gateways[0])?;
        ensure!(identity_of(&data.join("gateway"))? == id, "it is another gateway now");
    }
    fleet.finish()
}

#[test]
fn a_gateway_that_cannot_have_its_port_does_not_use_its_token_up() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let mut fleet = Fleet::start(Shape { servers: 1, nodes: 0, gateways: 0 })?;
    let mut role = fleet.gateway_role()?;
    let port = insula_e2e::fleet::EDGE_PORT;
    let taken = role.place.inside(|| Ok(std::net::TcpListener::bind(("127.0.0.1", port))?))?;
    role.start()?;
    ensure!(role.ended_within(MOMENT)? == Some(1), "{}", role.log());
    ensure!(role.log().contains("listen on 127.0.0.1"), "{}", role.log());
    drop(taken);
    // With the same token.
    role.start()?;
    fleet.gateways.push(role);
    fleet.wait_until_ready(0).with_context(|| fleet.gateways[0].log())?;
    fleet.finish()
}

#[test]
fn a_removed_node_is_out_at_once_and_for_ever() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let mut fleet = Fleet::start(Shape { servers: 1, nodes: 2, gateways: 1 })?;
    let source = app(2)?;
    let url = story::url(&fleet.deploy(source.path(), "app")?)?;
    let gone = node(&fleet, "n1")?.context("n1")?["id"].clone();
    ensure!(on(&fleet, "app", &gone)? == 1, "the two are not spread");
    let thief = Identified::steal(
        &fleet.nodes[1].data,
        &fleet.folder().join("thief"),
        &fleet.fleet_addresses(),
    )?;
    let place = fleet.ground.place("thief")?;
    let goal = instance_on_n0(&fleet)?;
    let caller = Dialler::new(&place, &fleet.nodes[1].data.join("agent/credentials.json"))?;
    let gateway = Dialler::new(&place, &fleet.gateways[0].data.join("gateway/credentials.json"))?;
    caller.open(&goal)?.context("the relay of n0 lets a neighbour in")?;
    let held = caller.hold(&goal)?;

    fleet.ok(&["nodes", "remove", "n1", "--yes"])?;
    let removed = Instant::now();
    ensure_refused_at_once(&caller, &goal, removed)?;
    let cut = held.ended_within(AT_ONCE)?.saturating_duration_since(removed);
    ensure!(cut <= AT_ONCE, "what it had open was open for {cut:?}");
    // It is the removal that is refused, and not the way.
    gateway.open(&goal)?.context("the relay of n0 lets the gateway in")?;
    ensure!(node(&fleet, "n1")?.is_none(), "it is listed still");
    wait_for("both instances are on the other node", MOMENT, || {
        let listed = fleet.json(&["ps", "--app", "app"])?;
        let listed = listed.as_array().context("a list")?;
        let ready = listed.iter().filter(|i| i["state"] == "ready" && i["node"] != gone);
        Ok(ready.count() == 2 && listed.len() == 2)
    })?;
    let answer = fleet.visit(0, &url, "/")?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    wait_for("the agent says that it was removed", MOMENT, || {
        Ok(fleet.nodes[1].log().contains("was removed from this fleet"))
    })
    .with_context(|| fleet.nodes[1].log())?;
    ensure!(fleet.nodes[1].is_running()?, "its apps are the operator's to end: {}", fleet.logs());

    // Nor does a server listen to whoever has its folder.
    let session = Impostor::speak(&place, &thief, &Greeting::default())?;
    wait_for("the stolen certificate is refused", MOMENT, || Ok(session.ended().is_some()))?;
    let ended = session.ended().context("ended")?;
    ensure!(ended.0 == Code::PermissionDenied, "{ended:?}");
    ensure!(ended.1.contains("was removed from this fleet"), "{ended:?}");

    // Not with its old folder either.
    fleet.nodes[1].stop()?;
    fleet.nodes[1].start()?;
    wait_for("it is refused again", MOMENT, || {
        Ok(fleet.nodes[1].log().matches("was removed from this fleet").count() >= 2)
    })
    .with_context(|| fleet.nodes[1].log())?;
    ensure!(fleet.node_states()?.len() == 1, "{:?}", fleet.node_states()?);
    // A token of the operator's lets it in as somebody new, and as nobody else.
    fleet.nodes[1].stop()?;
    let token = fleet.token(&[])?;
    let servers = fleet.fleet_addresses();
    let mut anew = Role::new(
        fleet.nodes[1].place.clone(),
        fleet.folder(),
        &insula_e2e::machine::program()?,
        &["agent", "--server", &servers, "--token", &token, "--name", "anew"],
    );
    anew.start()?;
    fleet.nodes.push(anew);
    fleet.wait_state("anew", "ready", MOMENT).with_context(|| fleet.logs())?;
    let anew = node(&fleet, "anew")?.context("anew")?;
    ensure!(anew["id"] != gone, "{anew}");
    let session = Impostor::speak(&place, &thief, &Greeting::default())?;
    wait_for("what was stolen is worth nothing still", MOMENT, || Ok(session.ended().is_some()))?;
    ensure!(session.ended().context("ended")?.0 == Code::PermissionDenied);
    ensure_turned_away(&caller, &goal)
}

/// The instance of `app` that runs there, behind the relay of that node.
fn instance_on_n0(fleet: &Fleet) -> Result<Goal> {
    let all = fleet.instances("app")?;
    let one = all.iter().find(|one| one.node == "n0").with_context(|| format!("{all:?}"))?;
    let id = node(fleet, "n0")?.context("n0")?["id"].as_str().context("id")?.to_owned();
    Goal::new(&id, &fleet.nodes[0].place, &one.id)
}

/// Whose connection the relay ends before it answers anything: not who may not reach this instance,
/// nor who asks for one that is gone. That the relay lives is shown by somebody else's asking it.
fn ensure_turned_away(caller: &Dialler, goal: &Goal) -> Result<()> {
    match caller.open(goal)? {
        Ok(()) => bail!("the relay lets it in"),
        // The caller's pulse asks beside us, and may be the first whose connection is ended.
        Err(OpenError::Unreachable {
            source: Unreachable::Ask { .. } | Unreachable::Dead { .. },
            ..
        }) => Ok(()),
        Err(other) => Err(other).context("another answer than that it is nobody"),
    }
}

/// Refused soon, and from then on.
fn ensure_refused_at_once(caller: &Dialler, goal: &Goal, removed: Instant) -> Result<()> {
    let (mut asked, mut refused_after) = (0, None);
    while removed.elapsed() < AT_ONCE {
        asked += 1;
        let refused = ensure_turned_away(caller, goal);
        match refused_after {
            Some(_) => refused.context("it was refused before")?,
            None if refused.is_ok() => refused_after = Some(removed.elapsed()),
            None => {}
        }
        std::thread::sleep(LOOK);
    }
    println!("refused by the relay after {refused_after:?}, asked {asked} times");
    ensure!(refused_after.is_some(), "the relay lets it in after {:?}", removed.elapsed());
    Ok(())
}

/// How many instances of an app are on a node.
fn on(fleet: &Fleet, app: &str, node: &Value) -> Result<usize> {
    let listed = fleet.json(&["ps", "--app", app])?;
    let listed = listed.as_array().context("a list")?;
    Ok(listed.iter().filter(|instance| instance["node"] == *node).count())
}

/// Whom the certificate in a folder names.
fn identity_of(folder: &Path) -> Result<String> {
    let identity = identity(&folder.join("credentials.json"))?;
    let credentials = Credentials::new(&identity, Arc::new(SystemClock))?;
    Ok(credentials.subject().id().to_owned())
}

#[test]
fn a_removed_gateway_gets_no_route_and_reaches_no_relay() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let fleet = Fleet::start(Shape { servers: 1, nodes: 1, gateways: 2 })?;
    let source = app(1)?;
    let url = story::url(&fleet.deploy(source.path(), "app")?)?;
    for gateway in 0..2 {
        ensure!(fleet.visit(gateway, &url, "/")?.status == 200, "gateway {gateway}");
    }
    let listed = fleet.json(&["gateways", "list"])?;
    let listed = listed.as_array().context("a list")?;
    ensure!(listed.len() == 2 && listed.iter().all(|one| one["connected"] == true), "{listed:?}");
    let id = identity_of(&fleet.gateways[1].data.join("gateway"))?;
    let goal = instance_on_n0(&fleet)?;
    let caller = |gateway: usize| -> Result<Dialler> {
        let role = &fleet.gateways[gateway];
        Dialler::new(&role.place, &role.data.join("gateway/credentials.json"))
    };
    let (other, caller) = (caller(0)?, caller(1)?);
    caller.open(&goal)?.context("the relay lets a gateway in")?;
    let held = caller.hold(&goal)?;
    fleet.ok(&["gateways", "remove", &id, "--yes"])?;
    let removed = Instant::now();
    // Whatever the gateway itself believes: the relay refuses it.
    ensure_refused_at_once(&caller, &goal, removed)?;
    let cut = held.ended_within(AT_ONCE)?.saturating_duration_since(removed);
    ensure!(cut <= AT_ONCE, "what it had open was open for {cut:?}");
    other.open(&goal)?.context("the relay lets the other gateway in")?;
    // So no visitor gets through either, from then on.
    let answer = fleet.visit(1, &url, "/")?;
    ensure!(answer.status >= 500, "{} {}", answer.status, answer.text());
    let left = fleet.json(&["gateways", "list"])?;
    ensure!(!left.to_string().contains(&id), "{left}");
    ensure!(fleet.visit(0, &url, "/")?.status == 200, "the other one suffers");
    wait_for("it says so", MOMENT, || {
        Ok(fleet.gateways[1].log().contains("was removed from this fleet"))
    })
    .with_context(|| fleet.gateways[1].log())
}

#[test]
fn two_machines_with_one_identity_are_noticed() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let mut fleet = Fleet::start(ONE_OF_EACH)?;
    let copy = fleet.folder().join("copy");
    let clone = Identified::steal(&fleet.nodes[0].data, &copy, &fleet.fleet_addresses())?;
    let place = fleet.ground.place("clone")?;
    let greeting = Greeting { name: "n0".into(), ..Greeting::default() };
    let (mut session, mut ends) = (Impostor::speak(&place, &clone, &greeting)?, Vec::new());
    // Whoever is there when the quarrel is noticed stays, and the other one is told.
    wait_for("one of the two is told", MOMENT, || {
        if let Some(ended) = session.ended() {
            ends.push(ended);
            session = Impostor::speak(&place, &clone, &greeting)?;
        }
        Ok(ends.iter().any(|(code, _)| *code == Code::AlreadyExists)
            || fleet.nodes[0].log().contains("was its disk cloned?"))
    })
    .with_context(|| format!("{ends:?}"))?;
    let mut last = None;
    wait_for("the operator sees it", MOMENT, || {
        last = node(&fleet, "n0")?;
        let text = last.as_ref().map(|node| node["notes"].to_string()).unwrap_or_default();
        Ok(text.contains(&place.address.to_string()))
    })
    .with_context(|| format!("{last:?}"))?;
    drop(session);
    wait_for("the node is there again", MOMENT, || {
        last = node(&fleet, "n0")?;
        Ok(last.as_ref().is_some_and(|node| node["connected"] == true))
    })
    .with_context(|| format!("{last:?}"))
}

#[test]
fn the_second_node_of_a_name_gets_another_or_is_told() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let mut fleet = Fleet::start(ONE_OF_EACH)?;
    // Its token says so.
    let token = fleet.token(&["--name", "n0"])?;
    let mut named = fleet.node_role(1, &token)?;
    named.start()?;
    fleet.nodes.push(named);
    // It says so itself.
    let token = fleet.token(&[])?;
    let mut says = fleet.node_role(2, &token)?;
    says.forget_argument("--name");
    says.add_arguments(&["--name", "n0"]);
    says.start()?;
    fleet.nodes.push(says);
    // Its host's name, which nobody else has yet, and then somebody has.
    for number in [3, 4] {
        let token = fleet.token(&[])?;
        let mut unnamed = fleet.node_role(number, &token)?;
        unnamed.forget_argument("--name");
        unnamed.start()?;
        fleet.nodes.push(unnamed);
        fleet.wait_until_ready(number + 1)?;
    }
    let listed = fleet.json(&["nodes", "list"])?;
    let listed = listed.as_array().context("a list of nodes")?;
    let mut names: Vec<&str> = listed.iter().filter_map(|node| node["name"].as_str()).collect();
    names.sort_unstable();
    names.dedup();
    ensure!(names.len() == 5 && names.contains(&"n0"), "{names:?}");
    for (number, wanted) in [(1, "n1"), (2, "n0")] {
        ensure_told_its_name(&fleet.nodes[number], listed, wanted)?;
    }
    let host = given_name(&fleet.nodes[3])?;
    ensure!(!host.starts_with("node-"), "nobody else was called {host}");
    ensure_told_its_name(&fleet.nodes[4], listed, &host)?;
    for number in [0, 3] {
        let log = fleet.nodes[number].log();
        ensure!(!log.contains(OTHER_NAME), "n{number} got the name that it asked for: {log}");
    }
    // It keeps the name, and is not told again.
    let name = given_name(&fleet.nodes[2])?;
    let before = node(&fleet, &name)?.with_context(|| name.clone())?;
    fleet.nodes[2].stop()?;
    fleet.nodes[2].start()?;
    wait_for("it has come again", MOMENT, || {
        let after = node(&fleet, &name)?.with_context(|| name.clone())?;
        Ok(after["hello"] != before["hello"] && after["state"] == "ready")
    })?;
    ensure!(fleet.nodes[2].log().matches(OTHER_NAME).count() == 1, "{}", fleet.nodes[2].log());
    fleet.finish()
}

/// What an agent says that is called otherwise than it asked for.
const OTHER_NAME: &str = "the fleet calls this node by another name";

/// It was given a name that tells of its id, and its agent says that, and what it asked for.
fn ensure_told_its_name(node: &Role, listed: &[Value], wanted: &str) -> Result<()> {
    let name = given_name(node)?;
    let row = listed.iter().find(|row| row["name"] == name.as_str());
    let id = row.with_context(|| format!("{name} is not listed"))?["id"].as_str().context("id")?;
    ensure!(name == format!("node-{}", short(id)?), "{id} is called {name}");
    let log = node.log();
    let line = log.lines().find(|line| line.contains(OTHER_NAME));
    let line = line.with_context(|| format!("{name} was not told: {log}"))?;
    let line: Value = serde_json::from_str(line)?;
    ensure!(line["name"] == name.as_str() && line["wanted"] == wanted, "{line}");
    Ok(())
}

/// What a node has kept of how the fleet calls it.
fn given_name(node: &Role) -> Result<String> {
    let kept = fs::read_to_string(node.data.join("agent/node.json"))?;
    let kept: Value = serde_json::from_str(&kept)?;
    Ok(kept["name"].as_str().context("name")?.to_owned())
}

/// The part of an id that stands in names.
fn short(id: &str) -> Result<String> {
    let id: NodeId = id.parse().map_err(|error| anyhow!("{id}: {error}"))?;
    Ok(id.short())
}

#[test]
fn an_agent_that_makes_no_sense_is_told_and_hurts_nobody() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let mut fleet = Fleet::start(Shape { servers: 1, nodes: 1, gateways: 1 })?;
    let source = app(1)?;
    let url = story::url(&fleet.deploy(source.path(), "app")?)?;
    let before = fleet.visit(0, &url, "/")?.text();
    let place = fleet.ground.place("odd")?;
    let token = fleet.token(&[])?;
    let folder = fleet.folder().join("odd-member");
    let odd = Identified::join(&place, &folder, &fleet.fleet_addresses(), &token)?;
    let ended = |session: &Impostor| -> Result<(Code, String)> {
        wait_for("its session ends", MOMENT, || Ok(session.ended().is_some()))?;
        session.ended().context("ended")
    };

    // Other versions.
    let current = insula_wire::node::PROTOCOL;
    for (protocol, words) in
        [(current + 1, "upgrade the server first"), (0, "upgrade it"), (u32::MAX, "upgrade")]
    {
        let greeting = Greeting { protocol, ..Greeting::default() };
        let (code, said) = ended(&Impostor::speak(&place, &odd, &greeting)?)?;
        ensure!(code == Code::FailedPrecondition && said.contains(words), "{code:?} {said}");
    }

    // Nonsense.
    let nobody = json!({"id": "ins_01j8z3k5v7e6n9q2r4t6w8y0ab", "phase": {"phase": "ready"},
        "endpoint": null, "restarts": 0, "exits_before_ready": 0, "last_exit": null,
        "started": null, "ready_since": null, "warnings": []});
    let many = json!({"generation": 0, "instances": vec![nobody.clone(); 10_000], "builds": []});
    for (document, words) in [
        ("nonsense".to_owned(), "makes no sense"),
        ("{}".to_owned(), "makes no sense"),
        (many.to_string(), "10000 instances are more than"),
    ] {
        let session = Impostor::speak(&place, &odd, &Greeting::default())?;
        session.report_text(document);
        let (code, said) = ended(&session)?;
        ensure!(code == Code::InvalidArgument && said.contains(words), "{code:?} {said}");
    }

    // What others run is not its to speak of.
    let session = Impostor::speak(&place, &odd, &Greeting::default())?;
    let listed = fleet.json(&["ps", "--app", "app"])?;
    let mut stolen = nobody;
    stolen["id"] = listed[0]["id"].clone();
    stolen["phase"] = json!({"phase": "finished"});
    let generation = session.generation()?;
    let lies = json!({"generation": generation, "instances": vec![stolen], "builds": []});
    session.report_text(lies.to_string());
    wait_state(&fleet, "odd", "ready")?;
    let after = fleet.json(&["ps", "--app", "app"])?;
    ensure!(after[0]["id"] == listed[0]["id"] && after[0]["state"] == "ready", "{after}");
    ensure!(session.ended().is_none(), "{:?}", session.ended());
    ensure!(fleet.visit(0, &url, "/")?.text() == before, "the app was restarted");
    fleet.wait_until_ready(2)
}

#[test]
fn a_node_whose_clock_is_an_hour_off_is_degraded_until_it_is_right() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let mut fleet = Fleet::start(ONE_OF_EACH)?;
    let place = fleet.ground.place("late")?;
    let token = fleet.token(&[])?;
    let folder = fleet.folder().join("late-member");
    let late = Identified::join(&place, &folder, &fleet.fleet_addresses(), &token)?;
    let off = Greeting { clock_off: Duration::from_secs(3_600), ..Greeting::default() };
    let session = Impostor::speak(&place, &late, &off)?;
    session.report_nothing()?;
    wait_state(&fleet, "late", "degraded")?;
    let notes = node(&fleet, "late")?.context("late")?["notes"].to_string();
    ensure!(notes.contains("clock"), "{notes}");
    drop(session);
    let session = Impostor::speak(&place, &late, &Greeting::default())?;
    session.report_nothing()?;
    wait_state(&fleet, "late", "ready")
}

#[test]
fn a_spec_that_fits_nowhere_fails_at_once_with_every_nodes_reason() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let fleet = Fleet::start(Shape { servers: 1, nodes: 3, gateways: 0 })?;
    let source = app(1)?;
    let toml = "[components.web]\nkind = \"service\"\nrun = \"exec python3 main.py\"\nmemory = \"1000GiB\"\n";
    insula_e2e::folder::write(source.path(), "insula.toml", toml)?;
    let path = source.path().to_str().context("path")?;
    let fails = |app: &str| -> Result<String> {
        let began = Instant::now();
        let output = fleet.cli_at(0, &["deploy", path, "--app", app, "--json"])?;
        let took = began.elapsed();
        println!("{app}: told after {took:?}");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        ensure!(!output.status.success(), "{said}");
        ensure!(took < VERDICT_AT_ONCE, "{app}: told after {took:?}");
        Ok(said)
    };
    // Refused before anything is sent.
    let said = fails("huge")?;
    ensure!(said.contains("too_large_for_nodes") && said.contains("1000GiB"), "{said}");
    // A machine would be large enough, and is not of the kind.
    let toml = "[components.web]\nkind = \"service\"\nrun = \"exec python3 main.py\"\n\
                placement = { labels = { disk = \"nvme\" } }\n";
    insula_e2e::folder::write(source.path(), "insula.toml", toml)?;
    let said = fails("picky")?;
    for reason in ["no_capacity", "n0", "n1", "n2", "disk=nvme"] {
        ensure!(said.contains(reason), "no {reason:?} in {said}");
    }
    // Nothing spins afterwards.
    let passes = || -> Result<u64> {
        let status = fleet.json(&["status"])?;
        let reconcilers =
            status["installation"]["reconcilers"].as_array().context("reconcilers")?;
        Ok(reconcilers.iter().filter_map(|one| one["passes"].as_u64()).sum())
    };
    let cpu = || insula_e2e::process::cpu_ms(fleet.servers[0].pid().unwrap_or(0)).unwrap_or(0);
    let (passes_before, cpu_before) = (passes()?, cpu());
    // It is time that is measured here, not waited for.
    std::thread::sleep(Duration::from_secs(3));
    let (passes, cpu) = (passes()? - passes_before, cpu() - cpu_before);
    ensure!(passes < 60, "{passes} passes in three seconds");
    ensure!(cpu < 1_000, "{cpu} ms of processor in three seconds");
    Ok(())
}
