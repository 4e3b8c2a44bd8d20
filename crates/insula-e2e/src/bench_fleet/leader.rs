//! From `kill -9` of the server that decides to a write that is acknowledged, and to a deployment
//! that serves.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::asker::{self, Asker};
use super::{Options, lookout, spread};
use crate::fleet::{Fleet, Shape, database};
use crate::folder;
use crate::machine::{host_of, wait_for};
use crate::story::{self, MOMENT};

const ROUNDS: usize = 50;
/// Deployments that nothing disturbs: what a cold start is here.
const CALM_MAX: usize = 10;
const HEARTBEATS: Duration = Duration::from_millis(3 * insula_wire::node::HEARTBEAT_MS as u64);
const NODES: usize = 2;
const APP: &str = "led";

pub fn run(options: &Options) -> Result<()> {
    let rounds = options.rounds(ROUNDS);
    // What was not measured must not look as if it had been.
    ensure!(database::programs().is_some(), "two servers need the package postgresql");
    let mut fleet = Fleet::start(Shape { servers: 2, nodes: NODES, gateways: 1 })?;
    let source = folder::with(&[("index.html", "0\n")])?;
    let host = host_of(&story::url(&fleet.deploy(source.path(), APP)?)?)?;
    let mut version = 0;
    let mut calm = Vec::new();
    for _ in 0..rounds.min(CALM_MAX) {
        version += 1;
        let began = Instant::now();
        change(&fleet, 0, source.path(), version)?;
        calm.push(serves(&fleet, &host, version, began)?);
    }
    let mut seen: [Vec<Duration>; 3] = Default::default();
    for round in 0..rounds {
        version += 1;
        let times = lose(&mut fleet, source.path(), &host, version);
        let times = times.with_context(|| format!("round {round}"))?;
        seen.iter_mut().zip(times).for_each(|(all, time)| all.push(time));
    }
    let [writes, leads, deploys] = seen;
    println!("deploy → served, nothing killed   {} of {}", spread::millis(&calm), calm.len());
    println!("kill -9 → write acknowledged      {} of {rounds}", spread::millis(&writes));
    println!("kill -9 → another decides         {}", spread::millis(&leads));
    println!("kill -9 → a deploy begun then is served {}", spread::millis(&deploys));
    let start = spread::median(calm.iter().map(Duration::as_secs_f64).collect());
    let goal = HEARTBEATS.as_secs_f64() + start;
    let within = deploys.iter().filter(|time| time.as_secs_f64() <= goal).count();
    println!("goal: 3 heartbeats + a cold start       {goal:.2} s; {within} of {rounds} within it");
    fleet.finish()
}

/// Kills the leader; when a write was acknowledged, another decided, and a deployment was served.
fn lose(fleet: &mut Fleet, source: &Path, host: &str, version: u32) -> Result<[Duration; 3]> {
    let leader = leader(fleet)?;
    let other = 1 - leader;
    let survivor = Asker::of(fleet.servers.get(other).context("the other")?)?;
    let heir = asker::id(fleet.servers.get(other).context("the other")?)?;
    let killed = Instant::now();
    fleet.servers.get_mut(leader).context("the leader")?.kill()?;
    let times = std::thread::scope(|scope| -> Result<[Duration; 3]> {
        let fleet = &*fleet;
        let deploy = scope.spawn(move || change(fleet, other, source, version));
        let org = json!({ "name": format!("org-{version}") }).to_string();
        let asker = survivor.clone();
        let (wrote, ()) = lookout::first(&survivor.place, killed, "a write", move || {
            let answer = asker.ask("POST", "/v1/orgs", &org).ok()?;
            // Of several that are under way one makes it; the others hear that it is made.
            matches!(answer.status, 201 | 409).then_some(())
        })?;
        let asker = survivor.clone();
        let (led, ()) = lookout::first(&survivor.place, killed, "a new leader", move || {
            (asker.leader().ok()?.as_ref() == Some(&heir)).then_some(())
        })?;
        deploy.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok([wrote, led, serves(fleet, host, version, killed)?])
    })?;
    fleet.servers.get_mut(leader).context("the killed")?.start()?;
    wait_for("the killed server answers again", MOMENT, || {
        Ok(fleet.cli_at(leader, &["status", "--json"])?.status.success())
    })?;
    fleet.wait_until_ready(NODES)?;
    Ok(times)
}

/// Changes one line, and deploys it through a server.
fn change(fleet: &Fleet, server: usize, source: &Path, version: u32) -> Result<()> {
    folder::write(source, "index.html", &format!("{version}\n"))?;
    fleet.ok_at(server, &["deploy", source.to_str().context("path")?, "--app", APP])?;
    Ok(())
}

fn serves(fleet: &Fleet, host: &str, version: u32, since: Instant) -> Result<Duration> {
    let gateway = fleet.gateways.first().context("a gateway")?;
    let (edge, host) = (super::edge(), host.to_owned());
    let wanted = format!("{version}\n");
    let (took, ()) = lookout::first(&gateway.place, since, "the new version", move || {
        (lookout::page(edge, &host)? == wanted).then_some(())
    })?;
    Ok(took)
}

fn leader(fleet: &Fleet) -> Result<usize> {
    let mut found = None;
    wait_for("somebody leads", MOMENT, || {
        let asker = Asker::of(fleet.servers.first().context("a server")?)?;
        let id = asker.place.inside(|| asker.leader())?;
        for (number, role) in fleet.servers.iter().enumerate() {
            if Some(asker::id(role)?) == id {
                found = Some(number);
            }
        }
        Ok(found.is_some())
    })?;
    found.context("a leader")
}
