//! What somebody with a tap on the wire reads: nothing.
//!
//! PostgreSQL's own connections are left out: how they are protected is the URL's to say, and here it
//! says that they are not.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use insula_e2e::fleet::capture::Capture;
use insula_e2e::fleet::flows::{Flow, Said, count};
use insula_e2e::fleet::process::Role;
use insula_e2e::fleet::{Fleet, Shape, database};
use insula_e2e::machine::wait_for;
use insula_e2e::story::{self, MOMENT};

use super::names::{explorer_on, fetched};
use super::{can_lay_ground, can_share_a_database};

const FLEET_PORT: u16 = 7443;
const RELAY_PORT: u16 = 7444;
/// A file that no packing makes shorter, so that parts of it are as they are wherever it goes packed.
const NOISE_LEN: usize = 256 << 10;
const PART_LEN: usize = 48;
/// Far from each other: where packing divides a file it could divide one of them.
const PARTS_AT: [usize; 3] = [20_000, 90_000, 200_000];

const MARKERS: [&str; 7] = [
    "marker-of-a-variable",
    "marker-of-a-secret",
    "marker-of-a-visitor",
    "marker-of-a-log-line",
    "INSULA_COMPONENT",
    "GET /",
    "insj",
];

/// Says something in the clear from one place to another, in two segments.
fn in_the_clear(fleet: &Fleet, words: &str) -> Result<()> {
    let (from, to) = (&fleet.nodes[0].place, &fleet.nodes[1].place);
    let listener = to.inside(|| Ok(TcpListener::bind(to.at(0))?))?;
    let at = listener.local_addr()?;
    let mut stream = from.inside(|| Ok(TcpStream::connect(at)?))?;
    stream.set_nodelay(true)?;
    let (one, two) = words.as_bytes().split_at(words.len() / 2);
    stream.write_all(one)?;
    stream.write_all(two)?;
    drop(stream);
    let mut heard = String::new();
    listener.accept()?.0.read_to_string(&mut heard)?;
    ensure!(heard == words);
    Ok(())
}

/// Waits until the tap has read what is said in the clear now, and with it all that came before.
fn ensure_hears(tap: &Capture, fleet: &Fleet, words: &str) -> Result<()> {
    in_the_clear(fleet, words)?;
    wait_for("the tap reads it", MOMENT, || Ok(!tap.said().holding(words.as_bytes()).is_empty()))
}

/// An app of two sides whose source holds noise; with parts of the noise.
fn shop() -> Result<(tempfile::TempDir, Vec<Vec<u8>>)> {
    let source = explorer_on("a", Some("b"))?;
    let mut noise = vec![0; NOISE_LEN];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut noise)?;
    std::fs::write(source.path().join("noise.bin"), &noise)?;
    let parts = PARTS_AT.iter().map(|at| noise[*at..*at + PART_LEN].to_vec()).collect();
    Ok((source, parts))
}

fn set_secret(fleet: &Fleet, server: usize, name: &str, value: &str) -> Result<()> {
    let mut child = fleet.servers[server]
        .command()
        .args(["secrets", "set", &format!("{name}=-"), "--app", "shop"])
        .env("HOME", fleet.folder())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    child.stdin.take().context("stdin")?.write_all(value.as_bytes())?;
    ensure!(child.wait()?.success(), "secrets set");
    Ok(())
}

/// Has everything that is secret go its way: source, variable, secret, a visit, a call from one
/// component to the other.
fn live(fleet: &Fleet, server: usize, source: &Path) -> Result<()> {
    let shop = story::url(&fleet.deploy(source, "shop")?)?;
    fleet.ok_at(server, &["vars", "set", "OPEN=marker-of-a-variable", "--app", "shop"])?;
    set_secret(fleet, server, "CLOSED", "marker-of-a-secret")?;
    let visited = fleet.visit(0, &shop, "/env?marker-of-a-visitor")?.text();
    for marker in ["marker-of-a-variable", "marker-of-a-secret"] {
        ensure!(visited.contains(marker), "{marker} did not come through: {visited}");
    }
    let said = fetched(fleet, &shop, "http://api:8080/log?marker-of-a-log-line")?;
    ensure!(said.contains("said"), "{said}");
    ensure!(fetched(fleet, &shop, "http://api:8080/env")?.contains("marker-of-a-secret"));
    Ok(())
}

/// Whether some file of a folder holds these bytes.
fn holds(folder: &Path, marker: &[u8]) -> Result<bool> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let found = match path.is_dir() {
            true => holds(&path, marker)?,
            false => count(&std::fs::read(&path)?, marker) > 0,
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Neither between nodes, nor to a node from a gateway, nor between servers and members.
fn ensure_unread(said: &Said, blobs: &Path, parts: &[Vec<u8>]) -> Result<()> {
    for marker in MARKERS {
        let found = said.holding(marker.as_bytes());
        ensure!(found.is_empty(), "{marker} in {found:?}");
    }
    // As it is packed the source would be found: blobs are kept as they travel inside of TLS.
    let mut packed = 0;
    for part in parts {
        packed += usize::from(holds(blobs, part)?);
        let found = said.holding(part);
        ensure!(found.is_empty(), "the source in {found:?}");
    }
    ensure!(packed > 0, "no part of the noise is in a blob as it is");
    Ok(())
}

/// The bytes from this place, of its port, to one of those.
fn sent(said: &Said, from: &Role, port: u16, to: &[Role]) -> usize {
    let is_one = |address: &Ipv4Addr| to.iter().any(|role| role.place.address == *address);
    said.len_of(|flow: &Flow| {
        *flow.from.ip() == from.place.address && flow.from.port() == port && is_one(flow.to.ip())
    })
}

#[test]
fn nothing_crosses_the_ground_in_the_clear() -> Result<()> {
    if !can_lay_ground() {
        return Ok(());
    }
    let mut fleet = Fleet::start(Shape { servers: 1, nodes: 0, gateways: 1 })?;
    let tap = fleet.ground.tap()?;
    for side in ["side=a", "side=b"] {
        fleet.add_node(&["--label", side])?;
    }
    fleet.wait_until_ready(2)?;
    // The tap works: it reads what is said in the clear.
    ensure_hears(&tap, &fleet, "marker-in-the-clear")?;

    let (source, parts) = shop()?;
    live(&fleet, 0, source.path())?;
    wait_for("the log tells of it", MOMENT, || {
        Ok(fleet.ok(&["logs", "--app", "shop"])?.contains("marker-of-a-log-line"))
    })?;
    ensure_hears(&tap, &fleet, "marker-at-the-end")?;

    let said = tap.said();
    ensure_unread(&said, &fleet.folder().join("blobs"), &parts)?;
    // What is said to be hidden did cross it.
    let from_server = sent(&said, &fleet.servers[0], FLEET_PORT, &fleet.nodes);
    ensure!(from_server > NOISE_LEN, "{from_server} bytes from the server to nodes");
    let relays = &fleet.nodes;
    let from_relay = sent(&said, &relays[1], RELAY_PORT, &relays[..1]);
    ensure!(from_relay > 0, "nothing from one node to the other");
    let to_gateway = sent(&said, &relays[0], RELAY_PORT, &fleet.gateways);
    ensure!(to_gateway > 0, "nothing from a node to the gateway");
    tap.end()?;
    fleet.finish()
}

#[test]
fn nothing_that_a_server_carries_to_another_crosses_the_ground_in_the_clear() -> Result<()> {
    if !can_share_a_database() {
        return Ok(());
    }
    let mut fleet = Fleet::start(Shape { servers: 2, nodes: 0, gateways: 0 })?;
    let tap = fleet.ground.tap()?;
    let leader = fleet.leader()?.context("a leader")?;
    let follower = 1 - leader;
    fleet.front = Some(follower);
    // Members reach the follower alone, so it carries whatever they and the leader have to say.
    let decides = fleet.servers[leader].name().to_owned();
    for (number, side) in ["side=a", "side=b"].into_iter().enumerate() {
        let token = fleet.token(&["--label", side])?;
        let mut node = fleet.node_role(number, &token)?;
        fleet.ground.cut(node.name(), &decides)?;
        node.start()?;
        fleet.nodes.push(node);
    }
    let mut gateway = fleet.gateway_role()?;
    fleet.ground.cut(gateway.name(), &decides)?;
    gateway.start()?;
    fleet.gateways.push(gateway);
    fleet.wait_until_ready(2)?;
    ensure_hears(&tap, &fleet, "marker-in-the-clear")?;

    let (source, parts) = shop()?;
    live(&fleet, follower, source.path())?;
    let followed = fleet.folder().join("followed");
    let mut follow = fleet.servers[follower]
        .command()
        .args(["logs", "-f", "--app", "shop"])
        .env("HOME", fleet.folder())
        .stdout(std::fs::File::create(&followed)?)
        .spawn()?;
    let shown = wait_for("a followed log", MOMENT, || {
        Ok(std::fs::read_to_string(&followed)?.contains("marker-of-a-log-line"))
    });
    follow.kill()?;
    follow.wait()?;
    shown?;
    let why = fleet.ok_at(follower, &["why", "shop"])?;
    ensure!(why.contains("is live"), "{why}");
    ensure!(fleet.leader()? == Some(leader), "another leads: nothing was carried");
    ensure_hears(&tap, &fleet, "marker-at-the-end")?;

    let said = tap.said().without(|flow| flow.has_port(database::PORT));
    ensure_unread(&said, &fleet.folder().join("blobs"), &parts)?;
    let (decides, carries) = (&fleet.servers[leader], &fleet.servers[follower]);
    let members = [&fleet.nodes, &fleet.gateways];
    let spoken: usize = members.iter().map(|all| sent(&said, decides, FLEET_PORT, all)).sum();
    ensure!(spoken == 0, "members heard {spoken} bytes of the leader itself");
    let blobs = sent(&said, carries, FLEET_PORT, &fleet.nodes);
    ensure!(blobs > NOISE_LEN, "{blobs} bytes from the follower to nodes");
    let carried = said.len_of(|flow| {
        flow.is_between(decides.place.address, carries.place.address) && flow.has_port(FLEET_PORT)
    });
    ensure!(carried > CARRIED_LEN_MIN, "{carried} bytes between the servers");
    println!("{carried} bytes carried between the servers, {blobs} from the follower to nodes");
    tap.end()?;
    fleet.finish()
}

/// More than a handshake and the beats of an idle connection: Targets, reports, log lines.
const CARRIED_LEN_MIN: usize = 16 << 10;
