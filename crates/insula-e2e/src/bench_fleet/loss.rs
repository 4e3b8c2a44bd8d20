//! From the power cut of a node to the first answer of the replacement.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Options, lookout, spread};
use crate::fleet::{Fleet, Shape};
use crate::folder;
use crate::machine::{host_of, wait_for};
use crate::story::{self, Dice, MOMENT};

const ROUNDS: usize = 50;
/// Cold starts measured beside them.
const STARTS_MAX: usize = 20;
const HEARTBEAT_MS: u64 = insula_wire::node::HEARTBEAT_MS as u64;
const HEARTBEATS: Duration = Duration::from_millis(3 * HEARTBEAT_MS);
const APP: &str = "lost";

pub fn run(options: &Options) -> Result<()> {
    let rounds = options.rounds(ROUNDS);
    let mut fleet = Fleet::start(Shape { servers: 1, nodes: 3, gateways: 1 })?;
    let toml = "[components.web]\nkind = \"service\"\nrun = \"exec python3 main.py\"\nmemory = \"64MiB\"\n";
    let source = folder::with(&[("main.py", story::REMEMBERS), ("insula.toml", toml)])?;
    let url = story::url(&fleet.deploy(source.path(), APP)?)?;
    let host = host_of(&url)?;

    let mut starts = Vec::new();
    for _ in 0..rounds.min(STARTS_MAX) {
        starts.push(cold_start(&fleet, &host)?);
    }
    let mut times = Vec::new();
    let mut dice = Dice::new(1);
    for round in 0..rounds {
        // Power fails at any moment between two heartbeats, and not always after the same step of
        // ours.
        std::thread::sleep(Duration::from_millis(dice.below(HEARTBEAT_MS)));
        let took = lose(&mut fleet, &host).with_context(|| format!("round {round}"))?;
        times.push(took);
    }
    let seconds =
        |times: &[Duration]| spread::of(times.iter().map(Duration::as_secs_f64).collect(), "s");
    println!("cold start, `insula start` to 200 {} of {}", spread::millis(&starts), starts.len());
    println!("power cut → 200 elsewhere         {} of {rounds}", seconds(&times));
    let start = spread::median(starts.iter().map(Duration::as_secs_f64).collect());
    let goal = HEARTBEATS.as_secs_f64() + start;
    let within = times.iter().filter(|time| time.as_secs_f64() <= goal).count();
    println!("goal: 3 heartbeats + a cold start  {goal:.2} s; {within} of {rounds} within it");
    fleet.finish()
}

/// From the command to the first answer, of an app whose content is there already.
fn cold_start(fleet: &Fleet, host: &str) -> Result<Duration> {
    fleet.ok(&["stop", "--app", APP])?;
    wait_for("nothing runs", MOMENT, || Ok(fleet.lives().is_empty()))?;
    let began = Instant::now();
    fleet.ok(&["start", "--app", APP])?;
    let (took, _) = answer_but(fleet, host, String::new(), began)?;
    Ok(took)
}

/// Cuts the power where the only instance runs.
fn lose(fleet: &mut Fleet, host: &str) -> Result<Duration> {
    fleet.wait_settled(APP, 1, MOMENT)?;
    let instances = fleet.instances(APP)?;
    let on = &instances.first().context("an instance")?.node;
    let node = fleet.nodes.iter().position(|role| role.name() == on).context("its node")?;
    // By its own word, so that what answers afterwards is another.
    let (_, known) = answer_but(fleet, host, String::new(), Instant::now())?;
    let cut = Instant::now();
    fleet.cut_power(node)?;
    let (took, _) = answer_but(fleet, host, known, cut)?;
    fleet.ground.heal()?;
    let role = fleet.nodes.get_mut(node).context("the node")?;
    let name = role.name().to_owned();
    role.start()?;
    fleet.wait_state(&name, "ready", MOMENT)?;
    // What it held was stopped meanwhile elsewhere in nobody's name: the surplus goes.
    fleet.wait_settled(APP, 1, MOMENT)?;
    Ok(took)
}

fn answer_but(
    fleet: &Fleet,
    host: &str,
    known: String,
    since: Instant,
) -> Result<(Duration, String)> {
    let gateway = fleet.gateways.first().context("a gateway")?;
    let (edge, host) = (super::edge(), host.to_owned());
    lookout::first(&gateway.place, since, "an answer of another instance", move || {
        lookout::page(edge, &host).filter(|answer| *answer != known)
    })
}
