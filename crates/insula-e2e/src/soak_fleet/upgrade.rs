//! What runs of a build of before becomes the present build, part by part, while visitors ask.
//!
//! A build that knows of fleets is upgraded as a fleet, in the order of `docs/fleet.md`, and one
//! agent goes a step back and forth again; one that does not is upgraded as one box.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::apps::{self, App, ROLLING, TALK};
use super::before::{self, Build};
use super::table;
use super::visitors::{Failure, Met, Visitors, Wrong};
use crate::fleet::process::Role;
use crate::fleet::watch::{Life, lives_on};
use crate::fleet::{API, EDGE_PORT, Fleet, Shape};
use crate::machine::{program, wait_for};
use crate::story::{self, MOMENT};

const NODES: usize = 3;
/// Between two visits of one app at one gateway.
const PAUSE: Duration = Duration::from_millis(50);
/// Visitors come for so long between two steps.
const CALM: Duration = Duration::from_secs(5);

pub fn run(args: impl Iterator<Item = String>) -> Result<()> {
    let build = Build::make(before::asked(args)?)?;
    let next = program()?;
    println!("from {} to {}", build.revision, next.display());
    if build.knows_fleets()? {
        fleet(&build, &next)
    } else {
        println!("that build knows of one machine only");
        one_box(&build, &next)
    }
}

/// Whoever restarts is away for less: a gateway for all, an agent for components that ask others.
const BLINK_MAX: Duration = Duration::from_secs(1);

/// One part after the other, and when.
#[derive(Debug, Default)]
struct Steps {
    done: Vec<Step>,
}

/// What visitors may notice of a restart.
#[derive(Debug, Clone)]
enum Away {
    /// Nothing.
    Server,
    /// Everything that is asked of it.
    Gateway(String),
    /// Its relay breaks off what is under way through it, and refuses nobody.
    Agent,
}

#[derive(Debug)]
struct Step {
    what: String,
    began: Instant,
    ended: Instant,
    away: Away,
    versions: String,
}

impl Step {
    fn excuses(&self, met: &Met, what: &Wrong) -> bool {
        match (&self.away, what) {
            (Away::Server, _) | (Away::Agent, Wrong::Refused(_)) => false,
            (Away::Gateway(name), _) => met.gateway == *name,
            // What one component has from another goes through relays as well, and is not held.
            (Away::Agent, Wrong::Answered(_)) => met.app == TALK,
            (Away::Agent, Wrong::CutOff(_)) => true,
        }
    }

    fn failed<'m>(&self, met: impl Iterator<Item = &'m Met>) -> usize {
        met.map(|met| met.failures_between(self.began, self.ended).count()).sum()
    }

    fn outage(&self, met: &Met) -> Duration {
        met.outage_between(self.began, self.ended)
    }
}

impl Steps {
    fn take(&mut self, what: String, began: Instant, away: Away, versions: String) {
        self.done.push(Step { what, began, ended: Instant::now(), away, versions });
    }

    fn print(&self, met: &[Met]) {
        let head = ["took", "failed", "and alone", "outage"];
        println!("{:<30} {:>8} {:>8} {:>9} {:>8}  agents", "", head[0], head[1], head[2], head[3]);
        for step in &self.done {
            let several = step.failed(met.iter().filter(|met| met.app == ROLLING));
            let alone = step.failed(met.iter().filter(|met| met.app != ROLLING));
            let outage = met.iter().map(|met| step.outage(met)).max().unwrap_or_default();
            let took = table::seconds(step.ended.duration_since(step.began));
            let (outage, what) = (table::seconds(outage), &step.what);
            println!("{what:<30} {took:>8} {several:>8} {alone:>9} {outage:>8}  {}", step.versions);
        }
    }

    /// Who asks a gateway that restarts is refused for a blink, and nobody else ever.
    fn ensure_served(&self, met: &[Met]) -> Result<()> {
        for met in met {
            let excused = |failure: &Failure| {
                let mut of_it = self.done.iter().filter(|step| step.excuses(met, &failure.what));
                of_it.any(|step| failure.was_under_way(step.began, step.ended))
            };
            let first = met.failures.iter().find(|failure| !excused(failure));
            ensure!(first.is_none(), "{} at {}: {first:?}", met.app, met.gateway);
            for step in &self.done {
                let outage = step.outage(met);
                ensure!(
                    outage < BLINK_MAX,
                    "{} at {}: {outage:?} of {}",
                    met.app,
                    met.gateway,
                    step.what
                );
            }
            ensure!(met.good > 100, "{} at {}: {} answers", met.app, met.gateway, met.good);
        }
        Ok(())
    }
}

fn fleet(build: &Build, next: &Path) -> Result<()> {
    let mut fleet =
        Fleet::start_of(build.program.clone(), Shape { servers: 2, nodes: 0, gateways: 2 })?;
    for node in 0..NODES {
        fleet.add_node(&["--label", apps::side(node)])?;
    }
    fleet.wait_until_ready(NODES)?;
    let apps = apps::deploy_all(&fleet)?;
    let lives = fleet.lives();
    let visitors = Visitors::start(&fleet.gateways, &apps, PAUSE)?;
    std::thread::sleep(CALM);

    let mut steps = Steps::default();
    let leader = fleet.leader()?.context("a leader")?;
    for server in [1 - leader, leader] {
        let began = Instant::now();
        renew(&mut fleet.servers[server], next)?;
        wait_for("the server answers", MOMENT, || {
            Ok(fleet.cli_at(server, &["status"])?.status.success())
        })?;
        fleet.wait_until_ready(NODES)?;
        let role = if server == leader { "the server that decides" } else { "the other server" };
        settle(&fleet, &lives, &mut steps, role.to_owned(), began, Away::Server)?;
    }
    for gateway in 0..fleet.gateways.len() {
        let began = Instant::now();
        renew(&mut fleet.gateways[gateway], next)?;
        for app in &apps {
            wait_for("the gateway serves", MOMENT, || {
                let url = format!("http://{}/", app.host);
                Ok(fleet.visit(gateway, &url, &app.path).is_ok_and(|answer| answer.status == 200))
            })?;
        }
        fleet.wait_until_ready(NODES)?;
        let name = format!("g{gateway}");
        let what = format!("gateway {name}");
        settle(&fleet, &lives, &mut steps, what, began, Away::Gateway(name))?;
    }
    let agents = (0..NODES).map(|node| (node, next, ""));
    let again = [(0, build.program.as_path(), ", a step back"), (0, next, ", forth again")];
    for (node, program, how) in agents.chain(again) {
        let began = Instant::now();
        renew(&mut fleet.nodes[node], program)?;
        std::thread::sleep(CALM);
        fleet.wait_until_ready(NODES)?;
        settle(&fleet, &lives, &mut steps, format!("agent of n{node}{how}"), began, Away::Agent)?;
    }
    std::thread::sleep(CALM);
    let after = apps::service("")?;
    fleet.deploy(after.path(), "after")?;
    fleet.json(&["rollback", "v1", "--app", "after"])?;
    let met = visitors.finish();
    fleet.ensure_kept(&lives)?;
    tell(build, &steps, &met, lives.len());
    steps.ensure_served(&met)?;
    for app in &apps {
        fleet.wait_settled(&app.name, app.instances, MOMENT)?;
        let restarts: u64 = fleet.instances(&app.name)?.iter().map(|one| one.restarts).sum();
        ensure!(restarts == 0, "{}: {restarts} restarts", app.name);
    }
    fleet.finish()
}

/// Another program in the place of what runs.
fn renew(role: &mut Role, program: &Path) -> Result<()> {
    role.upgrade(program);
    role.stop()?;
    role.start()
}

fn settle(
    fleet: &Fleet,
    lives: &BTreeSet<Life>,
    steps: &mut Steps,
    what: String,
    began: Instant,
    away: Away,
) -> Result<()> {
    fleet.ensure_kept(lives).with_context(|| what.clone())?;
    let nodes = fleet.json(&["nodes", "list"])?;
    let nodes = nodes.as_array().context("a list of nodes")?.iter();
    let version =
        |node: &serde_json::Value| node["agent_version"].as_str().unwrap_or("?").to_owned();
    let versions: Vec<String> = nodes.map(version).collect();
    steps.take(what, began, away, versions.join(" "));
    std::thread::sleep(CALM);
    Ok(())
}

fn tell(build: &Build, steps: &Steps, met: &[Met], lives: usize) {
    println!("\n-- from {:.12} to this build --", build.revision);
    steps.print(met);
    let answered: u64 = met.iter().map(|met| met.good).sum();
    table::row("requests answered", &answered.to_string());
    let failed = |how: fn(&Wrong) -> bool| {
        let failures = met.iter().flat_map(|met| &met.failures);
        failures.filter(|failure| how(&failure.what)).count().to_string()
    };
    table::row("refused", &failed(|it| matches!(it, Wrong::Refused(_))));
    table::row("answers cut off half way", &failed(|it| matches!(it, Wrong::CutOff(_))));
    table::row("bad answers of an app itself", &failed(|it| matches!(it, Wrong::Answered(_))));
    table::row("instances stopped or started", &format!("none of {lives}"));
}

/// `insula up` of before, taken over by the present one.
fn one_box(build: &Build, next: &Path) -> Result<()> {
    let mut fleet = Fleet::prepare()?;
    let place = fleet.ground.place("box")?;
    let edge = format!("127.0.0.1:{EDGE_PORT}");
    let args = ["up", "--api", API, "--edge", &edge];
    let mut up = Role::new(place, fleet.folder(), &build.program, &args);
    up.start()?;
    fleet.servers.push(up);
    stands(&fleet)?;
    let mut apps = Vec::new();
    for (name, instances) in [("steady", 2), ("alone", 1)] {
        let source = apps::service(&format!("instances = {instances}\n"))?;
        let url = story::url(&fleet.deploy(source.path(), name)?)?;
        apps.push(App::named(name, &url, instances)?);
    }
    let lives = lives_on(&fleet.servers[0]);
    ensure!(lives.len() == 3, "{lives:?}");
    let visitors = Visitors::start(&fleet.servers, &apps, PAUSE)?;
    std::thread::sleep(CALM);
    let mut steps = Steps::default();
    let began = Instant::now();
    renew(&mut fleet.servers[0], next)?;
    stands(&fleet)?;
    for app in &apps {
        let (place, edge) = (&fleet.servers[0].place, app.edge);
        wait_for("the app answers", MOMENT, || {
            let page = || crate::http::get(edge, &app.host, "/");
            Ok(place.inside(page).is_ok_and(|answer| answer.status == 200))
        })?;
    }
    steps.take("the whole box".to_owned(), began, Away::Gateway("box".to_owned()), String::new());
    std::thread::sleep(CALM);
    let met = visitors.finish();
    tell(build, &steps, &met, lives.len());
    steps.ensure_served(&met)?;
    let now = lives_on(&fleet.servers[0]);
    ensure!(now == lives, "stopped or started: {lives:?}, now {now:?}");
    let source = apps::service("instances = 2\n")?;
    fleet.deploy(source.path(), "steady")?;
    fleet.json(&["rollback", "v1", "--app", "steady"])?;
    let role = &mut fleet.servers[0];
    role.stop()?;
    let down = role.command().arg("down").arg("--data").arg(&role.data).output()?;
    ensure!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
    fleet.finish()
}

fn stands(fleet: &Fleet) -> Result<()> {
    wait_for("the box answers", MOMENT, || Ok(fleet.cli_at(0, &["status"])?.status.success()))
}
