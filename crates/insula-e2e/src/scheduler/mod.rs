//! The scheduler at full length: real plans, real effects, the real store on the real disk.
//!
//! Apps of up to 250 instances, each with a deployment that has begun to start, are placed pass by
//! pass as the control plane does it: what is due is planned, what was decided is committed, the
//! feed is read, and only then is more decided. An instance counts once its commit was answered.
//! Nodes are rows; no agent runs. Beside it, on the same disk and in the same run, etcd.

mod etcd;
mod fleet;
mod meter;
mod pass;
mod spread;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use insula_store::{Store, StoreConfig};

use fleet::Size;
use meter::{Cost, percentile};
use pass::{Placed, Scheduler};

/// Where the files of a measurement lie: not in memory, on any distribution.
const DISK: &str = "/var/tmp";
/// Another place for them.
const DISK_VARIABLE: &str = "INSULA_BENCH_DIR";
/// The fleet of the published run that we repeat: two million on 6,100 machines.
const MAIN_NODES: u32 = 6_100;
const MAIN_INSTANCES: u32 = 2_000_000;
/// Fleets of the curve. Smaller ones take fewer instances, as many for each node.
const CURVE: [u32; 3] = [100, 1_000, 15_000];
/// Decisions that are timed one by one, each time.
const SAMPLES: usize = 500;

/// Where the fleet is looked at more closely: this many are placed.
const MARKS: [u32; 3] = [0, 1_000_000, 2_000_000];

pub fn run() -> Result<()> {
    // For a quick look: fewer instances everywhere.
    let instances = match std::env::args().nth(2) {
        Some(given) => given.parse().context("the second argument is a number of instances")?,
        None => MAIN_INSTANCES,
    };
    let disk = std::env::var_os(DISK_VARIABLE).map_or_else(|| PathBuf::from(DISK), PathBuf::from);
    let folder = tempfile::tempdir_in(&disk)
        .with_context(|| format!("make a folder in {}", disk.display()))?;
    println!("files in {}; one fsync takes {}", disk.display(), meter::fsync(folder.path())?);

    let main = Size { nodes: MAIN_NODES, instances };
    let whole = fleet(main, folder.path().join("main"), true)?;
    println!();
    head();
    line(main, &whole);
    for nodes in CURVE {
        let per_node = u64::from(instances) * u64::from(nodes) / u64::from(MAIN_NODES);
        let size = Size { nodes, instances: instances.min(per_node.max(1) as u32) };
        line(size, &fleet(size, folder.path().join(format!("fleet-{nodes}")), false)?);
    }
    println!();
    etcd::beside(folder.path(), whole.per_second())
}

/// Places all of a fleet, and looks at the disk afterwards.
fn fleet(size: Size, folder: PathBuf, closely: bool) -> Result<Placed> {
    std::fs::create_dir(&folder)?;
    let path = folder.join("insula.db");
    let store = Store::open(StoreConfig::new(&path))?;
    let rows = fleet::rows(size);
    fleet::store(&store, &rows)?;
    let mut scheduler = Scheduler::new(store, &rows)?;
    let marks: &[u32] = if closely { &MARKS } else { &[] };
    let placed = scheduler.place_all(marks, |mark, decisions, world| {
        let (p50, p99) = (percentile(decisions, 500), percentile(decisions, 990));
        println!("{mark:>9} placed: one decision p50 {p50:?}, p99 {p99:?}; {world}");
    })?;
    let spread = scheduler.check(&rows)?;
    println!("{:>9} placed on {} nodes: {spread}", placed.instances, size.nodes);
    drop(scheduler);
    if closely {
        let found = fleet::count(&Store::open(StoreConfig::new(&path))?)?;
        ensure!(
            found == placed.instances,
            "{found} on the disk, {} acknowledged",
            placed.instances
        );
        println!("found on the disk after opening it again: {found}");
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(placed)
}

fn head() {
    println!(
        "µs are for each instance; a decision is its share of the pass that it was planned in"
    );
    println!(
        "{:>7} {:>9} {:>8} {:>9} | {:>6} {:>7} {:>7} {:>7} | {:>10} {:>10} | {:>8} {:>8} {:>7} {:>7}",
        "",
        "",
        "",
        "placed",
        "plan",
        "commit",
        "follow",
        "CPU",
        "a decision",
        "",
        "a pass",
        "",
        "",
        "RSS"
    );
    println!(
        "{:>7} {:>9} {:>8} {:>9} | {:>6} {:>7} {:>7} {:>7} | {:>10} {:>10} | {:>8} {:>8} {:>7} {:>7}",
        "nodes",
        "placed",
        "seconds",
        "a second",
        "µs",
        "µs",
        "µs",
        "µs",
        "p50",
        "p99",
        "p50",
        "p99",
        "commits",
        "MiB"
    );
}

fn line(size: Size, placed: &Placed) {
    let each = |span: Duration| span.as_secs_f64() * 1e6 / f64::from(placed.instances.max(1));
    let Cost { cpu, rss_mib } = placed.cost;
    println!(
        "{:>7} {:>9} {:>8.2} {:>9.0} | {:>6.2} {:>7.2} {:>7.2} {:>7.2} | {:>10} {:>10} | {:>8} {:>8} {:>7} {:>7}",
        size.nodes,
        placed.instances,
        placed.took.as_secs_f64(),
        placed.per_second(),
        each(placed.plan),
        each(placed.commit),
        each(placed.follow),
        each(cpu),
        format!("{:.2?}", percentile(&placed.decisions, 500)),
        format!("{:.2?}", percentile(&placed.decisions, 990)),
        format!("{:.0?}", percentile(&placed.passes, 500)),
        format!("{:.0?}", percentile(&placed.passes, 990)),
        placed.commits,
        rss_mib,
    );
}
