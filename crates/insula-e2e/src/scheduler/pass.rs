//! Pass after pass: what is due is planned, committed, and read back from the feed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use insula_model::instance::Instance;
use insula_model::{
    BuildId, Generation, ID_RANDOM_BYTES, InstanceId, NodeId, ReleaseId, Timestamp,
};
use insula_plan::effect::{Cut, Fresh, Write, effect};
use insula_plan::{Action, Due, Presence, Scope, World};
use insula_store::feed::{self, FeedError};
use insula_store::{Store, StoreError, instances};

use super::SAMPLES;
use super::fleet::{Rows, Written};
use super::meter::{self, Cost};
use super::spread::{self, Spread};

/// Apps that one pass looks at. As many mutations share a commit.
const APPS_PER_PASS: usize = 100;
/// Changes that are read from the feed in one go, as the control plane does it.
const CHANGES_AT_ONCE: usize = 10_000;

pub struct Scheduler {
    store: Store,
    world: Arc<World>,
    due: Due,
    /// What the API would answer from: the world as the last pass saw it.
    view: Arc<World>,
    seed: u64,
    /// What plans are told: no deployment is late, however long the measurement takes.
    now: Timestamp,
    probes: Vec<Scope>,
    runtime: tokio::runtime::Runtime,
}

#[derive(Debug, Default)]
pub struct Placed {
    pub instances: u32,
    pub took: Duration,
    pub plan: Duration,
    pub commit: Duration,
    pub follow: Duration,
    /// From a pass's beginning to its last acknowledgement.
    pub passes: Vec<Duration>,
    /// Of one instance, on average in each pass.
    pub decisions: Vec<Duration>,
    pub commits: u64,
    pub cost: Cost,
}

impl Placed {
    pub fn per_second(&self) -> f64 {
        f64::from(self.instances) / self.took.as_secs_f64().max(1e-9)
    }
}

impl Scheduler {
    pub fn new(store: Store, rows: &Rows) -> Result<Self> {
        let (generation, changes) = store.read_blocking::<_, StoreError, _>(feed::snapshot)?;
        let mut world = World::new(rows.suffix.clone());
        changes.into_iter().for_each(|change| world.apply(change));
        world.generation = generation;
        world.prune();
        for node in &rows.nodes {
            world.heard.insert(node.id, Presence::Here);
        }
        let now = clock()?;
        world.since = now;
        let mut due = Due::default();
        rows.apps.iter().for_each(|one| due.app(one.app.id));
        let probes = rows.probes.iter().map(|one| Scope::of_app(one.app.id)).collect();
        let world = Arc::new(world);
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        Ok(Self { store, view: Arc::clone(&world), world, due, seed: 1, now, probes, runtime })
    }

    /// Until nobody has anything to do. At each mark, `tell` hears what single decisions took.
    pub fn place_all(
        &mut self,
        marks: &[u32],
        mut tell: impl FnMut(u32, &[Duration], String),
    ) -> Result<Placed> {
        let mut placed = Placed::default();
        let mut marks = marks.iter().peekable();
        let commits = self.store.write_counts().commits;
        loop {
            if let Some(mark) = marks.next_if(|mark| **mark <= placed.instances) {
                let rss = format!("{} MiB resident", meter::rss_mib()?);
                tell(*mark, &self.decisions()?, rss);
            }
            let (begun, cpu) = (Instant::now(), meter::cpu());
            let before = placed.instances;
            let rested = self.pass(&mut placed)?;
            if placed.instances > before {
                placed.took += begun.elapsed();
                placed.cost.cpu += meter::cpu() - cpu;
            }
            if rested {
                break;
            }
        }
        placed.commits = self.store.write_counts().commits - commits;
        placed.cost.rss_mib = meter::rss_mib()?;
        Ok(placed)
    }

    /// True if nothing was due.
    fn pass(&mut self, placed: &mut Placed) -> Result<bool> {
        let begun = Instant::now();
        let scope = self.due.take(self.now, APPS_PER_PASS);
        if scope.is_empty() {
            return Ok(true);
        }
        let mut plan = insula_plan::plan_for(&self.world, &scope, self.now);
        let decided = begun.elapsed();
        self.due.planned(&mut plan);
        let made_at = clock()?;
        let mut made = Vec::with_capacity(plan.actions.len());
        for action in &plan.actions {
            made.push(self.rows_of(action, made_at)?);
        }
        let planned = begun.elapsed();
        if made.is_empty() {
            return Ok(false);
        }
        let more: usize = made.iter().map(Vec::len).sum();
        self.runtime.block_on(commit(&self.store, made))?;
        let committed = begun.elapsed();
        self.follow()?;
        self.view = Arc::clone(&self.world);
        placed.instances += more as u32;
        placed.plan += planned;
        placed.commit += committed - planned;
        placed.follow += begun.elapsed() - committed;
        placed.passes.push(committed);
        placed.decisions.push(decided / more.max(1) as u32);
        Ok(false)
    }

    fn rows_of(&mut self, action: &Action, now: Timestamp) -> Result<Vec<Instance>> {
        let Action::Place { .. } = action else { bail!("not a placement: {action}") };
        let fresh = Fresh {
            build: BuildId::from_parts(now, self.random()),
            release: ReleaseId::from_parts(now, self.random()),
            instance: InstanceId::from_parts(now, self.random()),
        };
        let effect = effect(&self.world, action, now, fresh, &Cut::default());
        match effect.writes.into_iter().next() {
            Some(Write::Instances(rows)) => Ok(rows),
            other => bail!("not rows of instances: {other:?}"),
        }
    }

    /// SplitMix64: ids as scattered as random ones, the same in every run.
    fn random(&mut self) -> [u8; ID_RANDOM_BYTES] {
        let mut bytes = [0; ID_RANDOM_BYTES];
        for part in bytes.chunks_mut(8) {
            self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.seed;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            part.copy_from_slice(&(z ^ (z >> 31)).to_be_bytes()[..part.len()]);
        }
        bytes
    }

    /// Brings the world up to the last commit.
    fn follow(&mut self) -> Result<()> {
        loop {
            let from = self.world.generation;
            let (generation, changes): (Generation, _) =
                self.store.read_blocking::<_, FeedError, _>(move |tx| {
                    feed::since(tx, from, CHANGES_AT_ONCE)
                })?;
            if generation == from {
                break;
            }
            let world = Arc::make_mut(&mut self.world);
            for change in changes {
                self.due.change(world, &change);
                world.apply(change);
            }
            world.generation = generation;
        }
        Arc::make_mut(&mut self.world).prune();
        Ok(())
    }

    /// What it takes to decide on one instance of one app alone, from the world as it stands.
    fn decisions(&self) -> Result<Vec<Duration>> {
        let mut spans = Vec::with_capacity(SAMPLES);
        for scope in self.probes.iter().cycle().take(SAMPLES) {
            let begun = Instant::now();
            let plan = insula_plan::plan_for(&self.world, scope, self.now);
            spans.push(begun.elapsed());
            ensure!(plan.actions.len() == 1, "a probe is placed: {:?}", plan.waits.first());
        }
        Ok(spans)
    }

    /// That all were placed where they may be, none beyond what a node has, and spread.
    pub fn check(&self, rows: &Rows) -> Result<Spread> {
        let mut on: BTreeMap<NodeId, (u64, u32)> = BTreeMap::new();
        for instance in self.world.instances.values() {
            let sum = on.entry(instance.node).or_default();
            *sum = (sum.0 + instance.memory.0, sum.1 + 1);
        }
        for node in &rows.nodes {
            let (memory, count) = on.get(&node.id).copied().unwrap_or_default();
            let has = node.offer.capacity;
            ensure!(memory <= has.memory.0 && count <= has.instances, "{} is too full", node.name);
        }
        for one in &rows.apps {
            let (name, spec) =
                one.release.spec.components.iter().next().context("one component")?;
            let placed: Vec<&Instance> = self.world.instances.of_app(one.app.id).collect();
            ensure!(placed.len() == spec.instances as usize, "{name} of {}", one.app.name);
            let suits = |i: &&Instance| {
                let node = self.world.nodes.get(&i.node);
                node.is_some_and(|node| spread::suits(node, &spec.placement))
            };
            ensure!(placed.iter().all(suits), "{} is where it must not be", one.app.name);
        }
        spread::check(rows, &self.world)
    }
}

/// Asked together, so that they share commits; each is answered once it is on the disk.
async fn commit(store: &Store, made: Vec<Vec<Instance>>) -> Result<()> {
    let asked: Vec<_> = made
        .into_iter()
        .map(|rows| {
            let store = store.clone();
            tokio::spawn(async move {
                store.write(move |tx| -> Written { instances::create_many(tx, &rows) }).await
            })
        })
        .collect();
    for answer in asked {
        answer.await??;
    }
    Ok(())
}

fn clock() -> Result<Timestamp> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(Timestamp::from_millis(i64::try_from(since.as_millis())?))
}
