//! The servers are cut off for an hour: from all nodes, and in a second fleet from one node alone.
//!
//! Cut off from all, nothing is stopped or started but the single with a lease, which its node
//! stops. Cut off from one, what is on that node lives on and is started elsewhere as well; when
//! the cut is healed the surplus goes, and what was there first stays.

use std::collections::{BTreeMap, BTreeSet};
use std::thread::{ScopedJoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::apps::{self, App, LEASE};
use super::visitors::{EACH_SECOND, Visitors};
use super::{due, span, table};
use crate::fleet::watch::Life;
use crate::fleet::{Fleet, Shape};
use crate::machine::wait_for;
use crate::process;
use crate::story::MOMENT;

const NODES: usize = 3;
const LOOK: Duration = Duration::from_secs(1);
/// Somebody who runs it by hand wants to know that it lives.
const WORD: Duration = Duration::from_secs(300);
/// A variable is set so often, to be found again at the end.
const WRITE: Duration = Duration::from_secs(60);
/// Before the cut and after the healing visitors come for so long.
const CALM: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whom {
    All,
    One,
}

impl Whom {
    fn word(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::One => "one",
        }
    }

    fn nodes(self) -> usize {
        match self {
            Self::All => NODES,
            Self::One => 1,
        }
    }
}

type Part = (&'static str, fn(Duration) -> Result<()>);

const PARTS: [Part; 3] = [
    ("all", |length| tell(Whom::All, length)),
    ("one", |length| tell(Whom::One, length)),
    ("due", due::run),
];

/// The part that is named, or all of them at once, each in a fleet of its own.
pub fn run(part: Option<&str>) -> Result<()> {
    let length = span::asked()?;
    let chosen = PARTS.iter().filter(|(name, _)| part.is_none_or(|part| part == *name));
    let told: Vec<Result<()>> = std::thread::scope(|scope| {
        let telling: Vec<_> = chosen.map(|(_, tell)| scope.spawn(move || tell(length))).collect();
        let join = |one: ScopedJoinHandle<'_, Result<()>>| {
            one.join().unwrap_or_else(|_| Err(anyhow!("the story panicked")))
        };
        telling.into_iter().map(join).collect()
    });
    if told.is_empty() {
        let known = PARTS.map(|(name, _)| name).join(", ");
        bail!("unknown part `{}`; known: {known}", part.unwrap_or_default());
    }
    let mut kept = true;
    for told in told {
        if let Err(broken) = told {
            kept = false;
            println!("NOT KEPT: {broken:#}");
        }
    }
    ensure!(kept, "see above");
    Ok(())
}

fn tell(whom: Whom, length: Duration) -> Result<()> {
    let mut fleet = Fleet::start(Shape { servers: 2, nodes: 0, gateways: 2 })?;
    for node in 0..NODES {
        fleet.add_node(&["--label", apps::side(node)])?;
    }
    fleet.wait_until_ready(NODES)?;
    let apps = apps::deploy_all(&fleet)?;
    let before = fleet.lives();
    let wanted: usize = apps.iter().map(|app| app.instances).sum();
    ensure!(before.len() == wanted, "{wanted} instances: {before:?}");
    let leased = fleet.instances(LEASE)?.first().context("an instance with a lease")?.id.clone();
    let ours = processes(&fleet);
    let logs: u64 = log_size(&fleet);

    let visitors = Visitors::start(&fleet.gateways, &apps, EACH_SECOND)?;
    sleep(CALM);
    for server in 0..2 {
        for node in 0..whom.nodes() {
            fleet.ground.cut(&format!("s{server}"), &format!("n{node}"))?;
        }
    }
    let cut = Instant::now();
    eprintln!("{}: cut", whom.word());
    let mut watched = Watched::new(before.clone(), leased, cut);
    let written = watch(&fleet, whom, length, cut, &mut watched)?;
    let lost = fleet.node_states()?.iter().filter(|(_, state)| state == "lost").count();
    let logs = log_size(&fleet).saturating_sub(logs);

    fleet.ground.heal()?;
    let healed = Instant::now();
    let welcomed = heal(&fleet, &apps, wanted, healed)?;
    sleep(CALM);
    watched.look(&fleet.lives());
    let met = visitors.finish();
    let after = fleet.lives();
    let kept = ensure_written(&fleet, &written);

    println!(
        "\n-- servers cut off from {} of {NODES} nodes for {} s --",
        whom.nodes(),
        length.as_secs()
    );
    table::visits(&met, cut);
    table::row("nodes lost at the end of it", &lost.to_string());
    table::row("instances stopped meanwhile", &watched.stopped_text());
    table::row("instances started meanwhile", &watched.started_text());
    table::row("healed → all nodes ready", &table::seconds(welcomed.ready));
    table::row("healed → as asked for, no surplus", &table::seconds(welcomed.settled));
    let same = before.intersection(&after).count();
    table::row("processes of before that live on", &format!("{same} of {}", before.len()));
    let same_ours = processes(&fleet) == ours;
    table::row("our own processes are the same", if same_ours { "yes" } else { "NO" });
    table::row(
        "writes acknowledged and found again",
        &format!("{} of {}", found(&kept), written.len()),
    );
    table::row("logs of all roles grew by", &format!("{} KiB", logs / 1024));

    kept?;
    ensure!(same_ours, "a process of ours was started again: {ours:?}, {:?}", processes(&fleet));
    ensure!(lost == whom.nodes(), "{lost} nodes were lost");
    watched.ensure_kept(whom)?;
    let missing: Vec<&Life> =
        before.difference(&after).filter(|life| !watched.is_leased(life)).collect();
    ensure!(missing.is_empty(), "stopped after the healing: {missing:?}");
    ensure!(after.len() == wanted, "{wanted} instances at the end: {after:?}");
    for met in met.iter().filter(|met| met.app != LEASE) {
        ensure!(met.failed == 0, "{} at {}: {}", met.app, met.gateway, met.excuse(cut));
        let least = length.as_secs() * 9 / 10;
        ensure!(met.good >= least, "{} at {}: {} answers", met.app, met.gateway, met.good);
    }
    fleet.finish()
}

/// Looks at every process each second, and writes now and then.
fn watch(
    fleet: &Fleet,
    whom: Whom,
    length: Duration,
    cut: Instant,
    watched: &mut Watched,
) -> Result<Vec<String>> {
    let mut written = Vec::new();
    let (mut word, mut write) = (WORD, Duration::ZERO);
    while cut.elapsed() < length {
        watched.look(&fleet.lives());
        if cut.elapsed() >= write {
            let name = format!("WRITTEN_{}", written.len());
            fleet.ok(&["vars", "set", &format!("{name}=1"), "--app", LEASE, "--no-deploy"])?;
            written.push(name);
            write += WRITE;
        }
        if cut.elapsed() >= word {
            let told = (watched.stopped_text(), watched.started_text());
            eprintln!(
                "{}: {} s, stopped {}, started {}",
                whom.word(),
                word.as_secs(),
                told.0,
                told.1
            );
            word += WORD;
        }
        sleep(LOOK);
    }
    Ok(written)
}

fn ensure_written(fleet: &Fleet, written: &[String]) -> Result<usize> {
    let listed = fleet.ok(&["vars", "--app", LEASE])?;
    let names: BTreeSet<&str> =
        listed.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
    for name in written {
        ensure!(names.contains(name.as_str()), "{name} was acknowledged and is missing: {listed}");
    }
    Ok(written.len())
}

fn found(kept: &Result<usize>) -> usize {
    kept.as_ref().map_or(0, |count| *count)
}

struct Welcomed {
    ready: Duration,
    settled: Duration,
}

fn heal(fleet: &Fleet, apps: &[App], wanted: usize, healed: Instant) -> Result<Welcomed> {
    fleet.wait_until_ready(NODES)?;
    let ready = healed.elapsed();
    for app in apps {
        fleet.wait_settled(&app.name, app.instances, MOMENT)?;
    }
    wait_for("the surplus is gone", MOMENT, || Ok(fleet.lives().len() == wanted))?;
    Ok(Welcomed { ready, settled: healed.elapsed() })
}

/// What became of the instances since the cut.
struct Watched {
    before: BTreeSet<Life>,
    /// The id of the one that has to stop by itself.
    leased: String,
    cut: Instant,
    stopped: BTreeMap<Life, Duration>,
    started: BTreeMap<Life, Duration>,
}

impl Watched {
    fn new(before: BTreeSet<Life>, leased: String, cut: Instant) -> Self {
        Self { before, leased, cut, stopped: BTreeMap::new(), started: BTreeMap::new() }
    }

    fn is_leased(&self, life: &Life) -> bool {
        life.sandbox.contains(&self.leased)
    }

    fn look(&mut self, now: &BTreeSet<Life>) {
        let at = self.cut.elapsed();
        for life in self.before.difference(now) {
            self.stopped.entry(life.clone()).or_insert(at);
        }
        for life in now.difference(&self.before) {
            self.started.entry(life.clone()).or_insert(at);
        }
    }

    fn stopped_text(&self) -> String {
        self.text(&self.stopped)
    }

    fn started_text(&self) -> String {
        self.text(&self.started)
    }

    fn text(&self, lives: &BTreeMap<Life, Duration>) -> String {
        let one = |(life, at): (&Life, &Duration)| {
            let lease = if self.is_leased(life) { " (its lease)" } else { "" };
            format!("on {} after {:.0} s{lease}", life.node, at.as_secs_f32())
        };
        match lives.len() {
            0 => "0".to_owned(),
            count => format!("{count}: {}", lives.iter().map(one).collect::<Vec<_>>().join(", ")),
        }
    }

    fn ensure_kept(&self, whom: Whom) -> Result<()> {
        let wrong: Vec<_> = self.stopped.keys().filter(|life| !self.is_leased(life)).collect();
        ensure!(wrong.is_empty(), "stopped or started again: {wrong:?}");
        ensure!(self.stopped.len() == 1, "the single with a lease stops by itself");
        let elsewhere = |life: &&Life| whom == Whom::All || life.node == "n0";
        let meanwhile: Vec<_> = self.started.keys().filter(elsewhere).collect();
        // Once healed, the single with a lease has to start somewhere.
        let allowed = usize::from(whom == Whom::All);
        ensure!(meanwhile.len() <= allowed, "started where nobody is heard: {meanwhile:?}");
        Ok(())
    }
}

/// Every process of ours, with when it began.
fn processes(fleet: &Fleet) -> BTreeSet<(u32, u64)> {
    let roles = fleet.servers.iter().chain(&fleet.nodes).chain(&fleet.gateways);
    let all = roles.flat_map(|role| process::with_argument(&role.data.display().to_string()));
    all.filter_map(|(pid, _)| Some((pid, process::started(pid)?))).collect()
}

fn log_size(fleet: &Fleet) -> u64 {
    let roles = fleet.servers.iter().chain(&fleet.nodes).chain(&fleet.gateways);
    roles.map(|role| role.log().len() as u64).sum()
}
